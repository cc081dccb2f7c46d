-- log.db, version 2: writers that others may close.
ALTER TABLE writer ADD COLUMN fenced INTEGER NOT NULL DEFAULT 0;
