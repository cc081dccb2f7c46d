-- Partitions of tenants' own: each row is a claim of the numbers from `first` to before `past`, which is the next one's
-- `first`. config_seq: where the configuration log ended then.
CREATE TABLE own_partitions (
    first      INTEGER NOT NULL PRIMARY KEY,
    past       INTEGER NOT NULL,
    config_seq INTEGER NOT NULL
) STRICT;
