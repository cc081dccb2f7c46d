-- Conversions by the ids that tenants gave them: put down before the record is appended, finished (event) after it is.
CREATE TABLE conversion (
    tenant      TEXT NOT NULL,
    external_id TEXT NOT NULL,
    at          INTEGER NOT NULL,
    partition   INTEGER NOT NULL,
    writer      INTEGER NOT NULL,
    body_hash   BLOB NOT NULL,
    doc         TEXT NOT NULL,
    event       BLOB,                         -- partition (2), writer (6), seq (6), index (2), big endian
    PRIMARY KEY (tenant, external_id)
) STRICT;
CREATE INDEX conversion_by_age ON conversion (at);
