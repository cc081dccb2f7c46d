-- main.db, version 1: everything but the log. Times are milliseconds since 1970, UTC; `doc` is a row as JSON,
-- the columns beside it are what look-ups need.

-- One row: what was fixed when the data directory was created.
CREATE TABLE install (
    one        INTEGER PRIMARY KEY CHECK (one = 1),
    id         BLOB NOT NULL,
    partitions INTEGER NOT NULL,
    id_key     BLOB NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

-- ---- The configuration log ----

-- AUTOINCREMENT: a number is never given twice, even when retention took the rows.
CREATE TABLE config_log (
    seq     INTEGER PRIMARY KEY AUTOINCREMENT,
    at      INTEGER NOT NULL,
    changes TEXT NOT NULL
) STRICT;

-- Changes that make events, by tenant.
CREATE TABLE config_event (
    tenant TEXT NOT NULL,
    seq    INTEGER NOT NULL,
    idx    INTEGER NOT NULL,
    PRIMARY KEY (tenant, seq, idx)
) STRICT, WITHOUT ROWID;
CREATE INDEX config_event_by_seq ON config_event (seq);

-- ---- The registry ----

CREATE TABLE tenant (
    id         TEXT PRIMARY KEY,
    live       INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    version    INTEGER NOT NULL,
    doc        TEXT NOT NULL
) STRICT;
CREATE INDEX tenant_live ON tenant (created_at, id) WHERE live = 1;

CREATE TABLE api_key (
    id           TEXT PRIMARY KEY,
    tenant       TEXT NOT NULL,
    live         INTEGER NOT NULL,
    created_at   INTEGER NOT NULL,
    version      INTEGER NOT NULL,
    doc          TEXT NOT NULL,
    last_used_at INTEGER
) STRICT;
CREATE INDEX api_key_live ON api_key (tenant, created_at, id) WHERE live = 1;

CREATE TABLE code (
    id          TEXT PRIMARY KEY,
    tenant      TEXT NOT NULL,
    live        INTEGER NOT NULL,
    created_at  INTEGER NOT NULL,
    version     INTEGER NOT NULL,
    short_id    TEXT NOT NULL,
    campaign_id TEXT NOT NULL,
    external_id TEXT NOT NULL,
    doc         TEXT NOT NULL
) STRICT;
CREATE INDEX code_live ON code (tenant, created_at, id) WHERE live = 1;
CREATE INDEX code_by_short_id ON code (tenant, short_id, created_at, id) WHERE live = 1;
CREATE INDEX code_by_campaign ON code (tenant, campaign_id, created_at, id) WHERE live = 1 AND campaign_id <> '';
CREATE INDEX code_by_external_id ON code (tenant, external_id, created_at, id) WHERE live = 1 AND external_id <> '';

-- Tags of live codes.
CREATE TABLE code_tag (
    tenant     TEXT NOT NULL,
    tag        TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    code       TEXT NOT NULL,
    PRIMARY KEY (tenant, tag, created_at, code)
) STRICT, WITHOUT ROWID;
CREATE INDEX code_tag_by_code ON code_tag (code);

-- Every version of every code, for ever: events are rendered from them.
CREATE TABLE code_version (
    code    TEXT NOT NULL,
    version INTEGER NOT NULL,
    doc     TEXT NOT NULL,
    PRIMARY KEY (code, version)
) STRICT;

-- Claimed for ever, whatever becomes of the code.
CREATE TABLE short_link (
    host     TEXT NOT NULL,
    short_id TEXT NOT NULL,
    code     TEXT NOT NULL,
    PRIMARY KEY (host, short_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE endpoint (
    id         TEXT PRIMARY KEY,
    tenant     TEXT NOT NULL,
    home       INTEGER NOT NULL,
    live       INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    version    INTEGER NOT NULL,
    doc        TEXT NOT NULL
) STRICT;
CREATE INDEX endpoint_live ON endpoint (tenant, created_at, id) WHERE live = 1;
CREATE INDEX endpoint_by_home ON endpoint (home, id) WHERE live = 1;

CREATE TABLE secret (
    id         TEXT PRIMARY KEY,
    endpoint   TEXT NOT NULL,
    sealed     BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER
) STRICT;
CREATE INDEX secret_by_endpoint ON secret (endpoint);

-- How many live rows there are, so that a limit costs no counting. Tenants are counted under the scope ''.
CREATE TABLE live_count (
    kind  TEXT NOT NULL,
    scope TEXT NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (kind, scope)
) STRICT, WITHOUT ROWID;

-- Request ids, so that a retried create creates once.
CREATE TABLE request (
    scope      TEXT NOT NULL,
    rpc        TEXT NOT NULL,
    request_id TEXT NOT NULL,
    body_hash  BLOB NOT NULL,
    resource   TEXT NOT NULL,
    expires_at INTEGER NOT NULL,
    PRIMARY KEY (scope, rpc, request_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX request_by_expiry ON request (expires_at);

-- ---- Leases and checkpoints ----

CREATE TABLE lease (
    partition INTEGER PRIMARY KEY,
    epoch     INTEGER NOT NULL,
    beat      INTEGER NOT NULL,
    owner     TEXT,
    addr      TEXT NOT NULL
) STRICT;

CREATE TABLE checkpoint (
    partition INTEGER NOT NULL,
    kind      TEXT NOT NULL,
    id        TEXT NOT NULL,
    body      TEXT NOT NULL,
    PRIMARY KEY (partition, kind, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX checkpoint_usage ON checkpoint (id) WHERE kind = 'usage';

CREATE TABLE chunk (
    partition  INTEGER NOT NULL,
    name       TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    body       BLOB NOT NULL,
    PRIMARY KEY (partition, name)
) STRICT;
CREATE INDEX chunk_by_age ON chunk (created_at);

-- ---- The attempt log ----

CREATE TABLE attempt (
    endpoint        TEXT NOT NULL,
    first_at        INTEGER NOT NULL,
    event           BLOB NOT NULL,            -- partition (2), writer (6), seq (6), index (2), big endian
    number          INTEGER NOT NULL,
    event_type      TEXT NOT NULL,
    started_at      INTEGER NOT NULL,
    duration_ms     INTEGER NOT NULL,
    status          TEXT NOT NULL,
    response_status INTEGER,
    error_class     TEXT NOT NULL,
    fault           TEXT NOT NULL,
    error           TEXT NOT NULL,
    next_attempt_at INTEGER,
    detail          TEXT NOT NULL,
    response_body   BLOB NOT NULL,
    PRIMARY KEY (endpoint, first_at, event, number)
) STRICT;
CREATE INDEX attempt_by_age ON attempt (first_at);

-- ---- Commands ----

CREATE TABLE command (
    partition  INTEGER NOT NULL,
    id         TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    kind       TEXT NOT NULL,
    result     TEXT,
    PRIMARY KEY (partition, id)
) STRICT;
CREATE INDEX command_pending ON command (partition, created_at, id) WHERE result IS NULL;
CREATE INDEX command_by_age ON command (created_at);
