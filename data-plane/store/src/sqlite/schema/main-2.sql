-- Which code an attempt's event is about, so that a delivery log can be searched by it. Unknown for older rows.
ALTER TABLE attempt ADD COLUMN code TEXT;
