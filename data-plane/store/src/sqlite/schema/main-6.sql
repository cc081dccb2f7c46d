-- Deliverers that share this file's partitions out. Only tests have several: a directory is one process's.
CREATE TABLE member (
    owner TEXT NOT NULL PRIMARY KEY,
    addr  TEXT NOT NULL,
    beat  INTEGER NOT NULL,
    wants TEXT NOT NULL,                      -- numbers of partitions, as JSON
    at    INTEGER NOT NULL
) STRICT;
