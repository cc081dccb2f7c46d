-- log.db, version 1: the log of scans and its writers. Times are milliseconds since 1970, UTC.

-- Which install this file belongs to: equal to install.id of main.db.
CREATE TABLE belongs (install BLOB NOT NULL) STRICT;

CREATE TABLE writer (
    writer        INTEGER PRIMARY KEY,
    node          TEXT NOT NULL,
    beat          INTEGER NOT NULL,
    heads         TEXT NOT NULL,              -- JSON: partition → seq
    closed        TEXT,                       -- JSON: partition → last seq, once closed
    registered_at INTEGER NOT NULL
) STRICT;

-- In order of arrival, so that bodies are appended at the file's end and retention frees whole pages.
CREATE TABLE log (
    id        INTEGER PRIMARY KEY,
    partition INTEGER NOT NULL,
    writer    INTEGER NOT NULL,
    seq       INTEGER NOT NULL,
    first_at  INTEGER NOT NULL,
    last_at   INTEGER NOT NULL,
    count     INTEGER NOT NULL,
    body      BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX log_by_seq ON log (partition, writer, seq);
CREATE INDEX log_by_time ON log (partition, last_at, writer, seq);

-- For people.
CREATE VIEW log_readable AS
SELECT partition, printf('%012x', writer) AS writer, seq, count, length(body) AS bytes,
       strftime('%Y-%m-%dT%H:%M:%fZ', first_at / 1000.0, 'unixepoch') AS first_at,
       strftime('%Y-%m-%dT%H:%M:%fZ', last_at / 1000.0, 'unixepoch') AS last_at
FROM log;
