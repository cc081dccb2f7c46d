//! Every limit of the product, with its reason. Nothing grows without bound.

use std::{num::NonZeroU8, time::Duration};

// ---- The log ----

/// Shared partitions of an embedded install: enough that one slow owner task does not hold up all tenants, few
/// enough that a commit gathers records of few rows.
pub const PARTITIONS_EMBEDDED: u16 = 8;
/// Shared partitions of an install on a CQL cluster: a few for each dispatcher that one would run.
pub const PARTITIONS_CLUSTER: u16 = 64;
/// Partitions of its own that a tenant may have: an owner of one of them that sends for the tenant reads all of them.
pub const PARTITIONS_PER_TENANT_MAX: u16 = 64;
/// Partitions of tenants' own in an install, those that were lost by a crash included: each is a lease that somebody
/// renews and a log that somebody looks at every second, whether anything happens in it or not.
pub const OWN_PARTITIONS_MAX: u16 = 1024;
/// How long a request that gives a limited tenant more partitions waits until all owners have heard of it: each saves within
/// a second or two that it has, unless it is just being replaced. After that the caller asks again.
pub const HOMES_SETTLE_WAIT: Duration = Duration::from_secs(15);
/// An open batch is sealed at this size: larger rows cost ScyllaDB latency, smaller ones cost statements.
pub const BATCH_BYTES_MAX: usize = 64 * 1024;
/// Records per batch: the index in an event's address has 16 bits.
pub const BATCH_RECORDS_MAX: usize = u16::MAX as usize;
/// A batch's records lie within this time, so that a reader of a time range knows where to begin.
pub const BATCH_SPAN_MAX: Duration = Duration::from_secs(10);
/// What may wait behind a partition's batch in flight before appends are refused: at 300 bytes a scan this is
/// some 27,000 scans, more than a second of the highest rate measured.
pub const APPEND_BACKLOG_BYTES_MAX: usize = 8 * 1024 * 1024;
/// How long a batch gathers records while they keep coming in: what a commit takes on a fast disk, so that at most it doubles
/// the wait of a scan on a busy edge.
pub const GATHER_MAX: Duration = Duration::from_millis(1);
/// A batch waits for a crowd of so many: below, commits are cheap enough, and nobody is to wait for somebody else.
pub const GATHER_CROWD_MIN: u16 = 16;
/// How long a scan waits for its commit before it is answered 503. A healthy disk takes 0.2 ms; a person
/// gives up after some seconds.
pub const APPEND_BUDGET: Duration = Duration::from_secs(2);
/// Pause between attempts to append a sealed batch that failed.
pub const APPEND_RETRY_PAUSE: Duration = Duration::from_millis(100);
/// A writer's beat moves at least this often.
pub const BEAT_PERIOD: Duration = Duration::from_secs(3);
/// A writer whose beat has not moved for so long is silent: its tail is read past its head.
pub const WRITER_SILENT_AFTER: Duration = Duration::from_secs(15);
/// How often a reader looks at the writers' rows; hints tell of its own process at once.
pub const WRITERS_READ_PERIOD: Duration = Duration::from_secs(1);
/// Writers of a partition that hints of other processes may name: more live at once in no install.
pub const HINTED_WRITERS_MAX: usize = 4096;
/// The longest pause between looks at a silent writer's tail: it is most likely dead.
pub const SILENT_PROBE_PAUSE_MAX: Duration = Duration::from_secs(300);
/// A missing batch below a head is recorded as a gap after so long.
pub const GAP_AFTER: Duration = Duration::from_secs(600);
/// Batches that one look over a gap passes: 256 CQL partitions. A longer gap is passed in parts.
pub const GAP_LOOK_MAX: u64 = 128 * 1024;
/// Batch bytes that one read returns at most.
pub const READ_BYTES_MAX: usize = 1024 * 1024;
/// A process whose cluster cannot be used when it starts tries again after this, and then after ever longer pauses.
pub const STORE_WAIT_FIRST: Duration = Duration::from_secs(1);
/// The longest of these pauses: nobody waits much longer than the cluster takes to start.
pub const STORE_WAIT_MAX: Duration = Duration::from_secs(15);
/// Changes in one row of the configuration log.
pub const CONFIG_CHANGES_PER_ROW: usize = 256;

// ---- The journal ----

/// How long the store may take to acknowledge a batch before an edge with a journal syncs it there: ten times what a
/// healthy database takes, and nobody notices it in a redirect.
pub const APPEND_BUDGET_JOURNALED: Duration = Duration::from_millis(30);
/// What a journal's files may take, by default: at 300 bytes a scan some 3.5 million scans, an hour at a thousand a
/// second.
pub const JOURNAL_BYTES_MAX_DEFAULT: u64 = 1024 * 1024 * 1024;
/// The least that it may be told to take: some segments.
pub const JOURNAL_BYTES_MIN: u64 = 64 * 1024 * 1024;
/// A segment's size: small enough to be read whole, and for space to come back soon.
pub const JOURNAL_SEGMENT_BYTES: u64 = 16 * 1024 * 1024;
/// What a batch counts for at least, so that the positions kept in memory are bounded by the journal's size: 12 bytes
/// for each of these.
pub const JOURNAL_CHARGE_MIN: usize = 512;
/// Pieces of work that may wait for the journal's thread: more than all partitions can have under way.
pub const JOURNAL_QUEUE_MAX: usize = 256;
/// Batches in one write: at 64 KiB a few MiB, which is what a disk syncs in the time that a scan waits.
pub const JOURNAL_GROUP_MAX: usize = 64;
/// Journaled batches of one partition that are shipped at once.
pub const JOURNAL_SHIPPED_AT_ONCE: usize = 32;
/// The same in bytes.
pub const JOURNAL_SHIPPED_BYTES_AT_ONCE: usize = 256 * 1024;
/// An append of a journaled batch is made again when it was not answered for so long: drivers give up sooner.
pub const JOURNAL_SHIP_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest pause between tries to ship: a store that is back is noticed within it.
pub const JOURNAL_RETRY_PAUSE_MAX: Duration = Duration::from_secs(1);

/// What the disk has not given back of the journal for so long is damage: a switch to another path to the disk takes less,
/// and meanwhile later scans of the partition stay in the journal.
pub const JOURNAL_UNREADABLE_AFTER: Duration = Duration::from_secs(60);

// ---- A scan ----

/// User agents are cut here: real ones are below 400 bytes.
pub const USER_AGENT_BYTES_MAX: usize = 512;
/// Referers (without query), hosts and accept-language are cut here.
pub const REFERER_BYTES_MAX: usize = 1024;
/// The query a scan came with is cut here.
pub const QUERY_BYTES_MAX: usize = 1024;
/// Accept-Language is cut here.
pub const ACCEPT_LANGUAGE_BYTES_MAX: usize = 128;

// ---- The registry ----

/// Destinations: what browsers and proxies take without trouble.
pub const DESTINATION_BYTES_MAX: usize = 8 * 1024;
/// Endpoint URLs.
pub const ENDPOINT_URL_BYTES_MAX: usize = 2 * 1024;
/// Names of tenants, keys and codes, in characters.
pub const NAME_CHARS_MAX: usize = 200;
/// Endpoint descriptions, in characters.
pub const DESCRIPTION_CHARS_MAX: usize = 500;
/// campaign_id, owner_id and external_id, in characters.
pub const REFERENCE_CHARS_MAX: usize = 128;
/// The name of the query parameter that carries an event's id: names of such parameters are short.
pub const CONVERSION_PARAM_BYTES_MAX: usize = 32;
/// Tags per code.
pub const TAGS_MAX: usize = 32;
/// A tag, in characters.
pub const TAG_CHARS_MAX: usize = 64;
/// A code's metadata or recipient, as JSON: it travels with every event.
pub const METADATA_BYTES_MAX: usize = 8 * 1024;
/// Nesting of metadata: deeper is hostile.
pub const METADATA_DEPTH_MAX: usize = 16;
/// Characters of a short id.
pub const SHORT_ID_CHARS_MAX: usize = 64;
/// Codes per tenant: a product on every shelf, and a bound.
pub const CODES_PER_TENANT_MAX: u64 = 10_000_000;
/// Endpoints per tenant: each event is matched against all of them.
pub const ENDPOINTS_PER_TENANT_MAX: u64 = 100;
/// Live API keys per tenant.
pub const API_KEYS_PER_TENANT_MAX: u64 = 100;
/// Tenants of an install.
pub const TENANTS_MAX: u64 = 1_000_000;
/// Event patterns of an endpoint.
pub const EVENT_PATTERNS_MAX: usize = 64;
/// Entries of a retry schedule.
pub const RETRY_SCHEDULE_MAX: usize = 20;
/// The longest pause in a retry schedule.
pub const RETRY_PAUSE_MAX: Duration = Duration::from_secs(24 * 3600);
/// The shortest pause after the first attempt.
pub const RETRY_PAUSE_MIN: Duration = Duration::from_secs(1);
/// Attempts of one endpoint under way at once.
pub const CONCURRENCY_MAX: u32 = 256;
/// The same by default.
pub const CONCURRENCY_DEFAULT: u32 = 16;
/// Characters of a request_id.
pub const REQUEST_ID_CHARS_MAX: usize = 128;
/// How long a request_id is remembered.
pub const REQUEST_ID_KEPT: Duration = Duration::from_secs(24 * 3600);
/// Page sizes of lists.
pub const PAGE_SIZE_DEFAULT: u32 = 50;
/// The largest page.
pub const PAGE_SIZE_MAX: u32 = 500;
/// Live secrets of an endpoint: the current one and one that is being rotated out.
pub const SECRETS_PER_ENDPOINT_MAX: usize = 2;
/// How long a secret that is rotated out may go on signing.
pub const ROTATION_OVERLAP_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// Codes in an endpoint's filter: each is looked up for every event, and all stand in every answer.
pub const FILTER_CODES_MAX: usize = 500;
/// Tags in an endpoint's filter, and campaigns: three times as many tags as a code has.
pub const FILTER_TAGS_MAX: usize = 100;
/// A client certificate's chain, and its key, as PEM: a long chain of large RSA certificates takes half of it.
pub const TLS_CLIENT_PEM_BYTES_MAX: usize = 16 * 1024;
/// A header's name that a caller chooses: longer ones are refused by some servers.
pub const HEADER_NAME_BYTES_MAX: usize = 64;

// ---- Delivery ----

/// Deliveries waiting for an outcome, per endpoint; beyond it the endpoint lags.
pub const OUTSTANDING_PER_ENDPOINT_MAX: usize = 100_000;
/// The same per partition.
pub const OUTSTANDING_PER_PARTITION_MAX: usize = 200_000;
/// Deliveries in one chunk.
pub const CHUNK_DELIVERIES_MAX: usize = 512;
/// A checkpoint's conditional batch.
pub const CHECKPOINT_BYTES_MAX: usize = 200 * 1024;
/// Pause between checkpoints on the embedded store: a crash repeats no more than this.
pub const CHECKPOINT_PERIOD_EMBEDDED: Duration = Duration::from_millis(250);
/// The same on a cluster, where a checkpoint is a condition that a quorum decides, for each of many partitions.
pub const CHECKPOINT_PERIOD_CLUSTER: Duration = Duration::from_secs(1);
/// Exchanges of one shard open at once: with the idle connections, within the usual 1024 file descriptors. A quarter
/// is for fresh events alone, so that retries to failing receivers never take all; an eighth for endpoints that have
/// nothing under way, so that receivers that answer slowly do not either.
pub const EXCHANGES_MAX: usize = 384;
/// Fresh deliveries in one endpoint's line before it moves to a run of its own: at 120 bytes each, and less than a
/// second of what a fast receiver takes.
pub const FRESH_MAX: usize = 1000;
/// The same once the partition holds half of [`OUTSTANDING_PER_PARTITION_MAX`].
pub const FRESH_WHEN_FULL_MAX: usize = 64;
/// Fresh deliveries that an endpoint's own run reads ahead: enough to keep its connections busy between reads.
pub const OWN_RUN_WINDOW: usize = 512;
/// Reads for lagging endpoints under way at once, per partition: they must not crowd out the shared run's.
pub const OWN_READS_MAX: usize = 8;
/// Deliveries of a partition that are in no saved chunk: reached only while saves fail, and then reading stops.
pub const UNSAVED_DELIVERIES_MAX: usize = 50_000;
/// Batches read and not passed by the saved cursor, for the same reason.
pub const UNSAVED_BATCHES_MAX: usize = 8192;
/// New entries of chunks in one save: sixteen chunks of some 40 KiB, a few milliseconds of SQLite.
pub const ENTRIES_PER_SAVE_MAX: usize = 16 * CHUNK_DELIVERIES_MAX;
/// Rows of the attempt log that wait to be written: with more, no attempt is started.
pub const ATTEMPT_ROWS_WAITING_MAX: usize = 4096;
/// Rows for what an endpoint that resumes with `now` is not sent, of those: the rest is for attempts.
pub const SKIP_ROWS_WAITING_MAX: usize = ATTEMPT_ROWS_WAITING_MAX / 4;
/// How far an endpoint's wish to skip what was recorded before may be ahead of the sender's clock, which is at most some
/// seconds behind another machine's. Further ahead, the clock was set back, and the wish counts no more.
pub const SKIP_AHEAD_MAX: Duration = Duration::from_secs(60);
/// Rows of the attempt log in one block.
pub const ATTEMPT_ROWS_PER_BLOCK: usize = 512;
/// Batches kept for rendering bodies: those just read, and those of due retries.
pub const BATCH_CACHE_BYTES: u64 = 32 * 1024 * 1024;
/// Code versions kept for rendering bodies.
pub const CODE_CACHE_BYTES: u64 = 16 * 1024 * 1024;
/// Ready signers kept, one for each endpoint in use, at some hundred bytes.
pub const SIGNERS_MAX: u64 = 10_000;
/// Client certificates kept ready, at some ten kilobytes with the sessions made under them.
pub const IDENTITIES_MAX: u64 = 1_000;
/// Deliveries that one look at a delivery log with a filter reads at most: some tens of milliseconds of SQLite.
pub const DELIVERIES_SCANNED_MAX: usize = 2_000;
/// The longest pause that a receiver's Retry-After can ask for: as long as the longest pause of a schedule. What
/// asks for more is taken for a mistake, and tried again after a day.
pub const RETRY_AFTER_MAX: Duration = RETRY_PAUSE_MAX;
/// Until an endpoint's limits are known, it is looked at again after this; they come with the configuration log's tail.
pub const PACE_UNKNOWN_PAUSE: Duration = Duration::from_millis(50);
/// Requests a second of a rate limit: more than one machine can send.
pub const RATE_PER_SECOND_MAX: f64 = 100_000.0;
/// The burst of a rate limit, for the same reason.
pub const RATE_BURST_MAX: u32 = 100_000;
/// The first pause of an endpoint whose receiver says that it is overloaded; doubled each time until a success: a
/// receiver that only restarts is hardly noticed.
pub const OVERLOAD_PAUSE_MIN: Duration = Duration::from_millis(100);
/// The longest of them: soon after a long outage, somebody looks.
pub const OVERLOAD_PAUSE_MAX: Duration = Duration::from_secs(30);
/// Changes of an endpoint's health that are announced at once, after a quiet time: an outage and its end, twice.
pub const HEALTH_EVENTS_BURST: u32 = 4;
/// After those, one for each such time: an endpoint that comes and goes makes some 12 events an hour, however fast, and a
/// tenant's hundred endpoints that all fail with each other's announcements make 1,200.
pub const HEALTH_EVENT_PERIOD: Duration = Duration::from_secs(300);
/// Announcements that one partition's owner has on their way to the store: a step of a mass outage.
pub const HEALTH_EVENTS_AT_ONCE: usize = 16;
/// Failures in a row that an endpoint must have had at least before it is disabled, however long ago the first was.
pub const FAILURES_TO_DISABLE_MIN: u64 = 5;
/// The longest time that failures are endured: nobody remembers an endpoint that failed for a month.
pub const DISABLE_AFTER_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// The shortest.
pub const DISABLE_AFTER_MIN: Duration = Duration::from_secs(60);
/// Failures in a row that degrade: more is never.
pub const DEGRADE_AFTER_MAX: u32 = 1000;
/// Replays of one endpoint under way at once: they share what its live events leave.
pub const REPLAYS_UNDER_WAY_MAX: usize = 4;
/// Replays of one endpoint that are over and remembered, 0.5 KiB each: enough to see what was done lately.
pub const REPLAYS_KEPT: usize = 20;
/// Deliveries of a replay that wait for their first attempt, a batch's more at most: enough to keep its connections busy
/// between saves, which are what admits them.
pub const REPLAY_WINDOW: usize = 2048;
/// Reads for replays under way at once, per partition: the live ones come first.
pub const REPLAY_READS_MAX: usize = 2;
/// Batches that one read for a replay brings, of at most [`BATCH_BYTES_MAX`] each.
pub const REPLAY_BATCHES_PER_READ: usize = 16;
/// Of these, how many batches' deliveries are looked up at once: on a cluster each is a read of its own, of a few
/// milliseconds, and a quiet code's scans are a batch each.
pub const REPLAY_LOOKS_AT_ONCE: usize = 8;
/// Requests a second of a replay at least: below that nobody waits for its end.
pub const REPLAY_PER_SECOND_MIN: f64 = 0.01;
/// Connecting to a receiver.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// One exchange, connect included.
pub const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(5);
/// Response bytes that are read at all.
pub const RESPONSE_BYTES_MAX: usize = 64 * 1024;
/// Response bytes that are kept in the attempt log.
pub const RESPONSE_SNIPPET_BYTES: usize = 16 * 1024;
/// Addresses of one name that a connection is tried to.
pub const CONNECT_ADDRESSES_MAX: usize = 6;
/// The next address is tried when the one before has not answered for so long (RFC 8305 §5 recommends it).
pub const CONNECT_STAGGER: Duration = Duration::from_millis(250);
/// An idle connection to a receiver is kept for so long: common servers close theirs after 5 to 75 s, and a
/// connection that is closed as it is used costs an attempt.
pub const IDLE_CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);
/// Idle connections kept by one shard: half of the usual limit of 1024 file descriptors.
pub const IDLE_CONNECTIONS_MAX: usize = 512;
/// How often idle connections past their time are closed.
pub const IDLE_SWEEP_PERIOD: Duration = Duration::from_secs(1);
/// After a response, a connection is given so long to become ready for the next request; it takes microseconds
/// unless the receiver answered before it read the request.
pub const CONNECTION_READY_WAIT: Duration = Duration::from_millis(50);
/// A connected request waits for its permit at most this long; callers ask when the permit is nearly due, and a
/// receiver closes a silent connection anyway.
pub const GATE_WAIT_MAX: Duration = Duration::from_secs(10);
/// A response's status line and headers: twice what common servers send at most.
pub const RESPONSE_HEAD_BYTES_MAX: usize = 32 * 1024;
/// Headers of a response.
pub const RESPONSE_HEADERS_MAX: usize = 100;
/// Headers of a request, and of a response, that the attempt log keeps, names and values.
pub const HEADERS_KEPT_BYTES: usize = 8 * 1024;
/// How long a caller waits for the outcome of a test.
pub const TEST_WAIT: Duration = Duration::from_secs(10);
/// Commands of one partition not yet finished: callers wait for them, so more is a flood.
pub const COMMANDS_PENDING_MAX: u64 = 1000;

/// An egress proxy's answer to CONNECT: a status line and a few headers.
pub const PROXY_ANSWER_BYTES_MAX: usize = 8 * 1024;

// ---- Names of receivers (DNS) ----

/// Longest answer to "which addresses has this name": no webhook host needs more, and every one is judged.
pub const DNS_ANSWERS_MAX: usize = 64;
/// Names whose answers are kept until their TTL passes, about 1 KiB each.
pub const DNS_CACHE_ENTRIES_MAX: u64 = 8 * 1024;
/// Look-ups in flight to a name server.
pub const DNS_REQUESTS_MAX: usize = 256;
/// An answer is asked for again after this, whatever its TTL says: a moved receiver is found.
pub const DNS_POSITIVE_TTL_MAX: Duration = Duration::from_secs(5 * 60);
/// A name that did not exist is asked for again after this: the tenant may just be creating it.
pub const DNS_NEGATIVE_TTL_MAX: Duration = Duration::from_secs(30);
/// One question to one name server; two tries fit into [`DNS_TIMEOUT`].
pub const DNS_TRY_TIMEOUT: Duration = Duration::from_secs(1);
/// A whole look-up: leaves more than half of an exchange's 5 s for the exchange.
pub const DNS_TIMEOUT: Duration = Duration::from_secs(2);

// ---- Filter and template expressions ----

/// Longest filter or template expression, in bytes (parsing takes time that grows with it).
pub const EXPRESSION_BYTES_MAX: usize = 2 * 1024;
/// Most nodes of an expression's syntax tree: with no macros, the work per event is linear in it.
pub const EXPRESSION_NODES_MAX: usize = 200;
/// Deepest nesting of an expression: evaluation recurses on the caller's stack.
pub const EXPRESSION_DEPTH_MAX: usize = 32;
/// Most regular expressions in one expression; each keeps its automaton in memory.
pub const EXPRESSION_PATTERNS_MAX: usize = 4;
/// Most elements of list and map literals that are not literals themselves: each is copied at every evaluation.
pub const EXPRESSION_COMPUTED_ELEMENTS_MAX: usize = 16;
/// Memory of one compiled regular expression, in bytes. Together with [`EXPRESSION_MATCHED_BYTES_MAX`] it bounds a
/// match: the worst pattern found takes about 10 ms in a debug build.
pub const EXPRESSION_PATTERN_COMPILED_BYTES_MAX: usize = 32 * 1024;
/// Longest text that a regular expression is matched against, in bytes: four times the longest user agent.
pub const EXPRESSION_MATCHED_BYTES_MAX: usize = 2 * 1024;
/// Largest value made while an expression is evaluated, in bytes (16 for an element of a list), and largest result.
pub const EXPRESSION_OUTPUT_BYTES_MAX: usize = 64 * 1024;

// ---- Payload templates ----

/// Longest text of an endpoint's templates together, in bytes: every preset fits five times.
pub const TEMPLATES_BYTES_MAX: usize = 16 * 1024;
/// Expressions of one template: more than any preset's has fields.
pub const TEMPLATE_EXPRESSIONS_MAX: usize = 64;
/// Nodes of one template's expressions together: five of the largest. It bounds what one rendering can copy.
pub const TEMPLATE_NODES_MAX: usize = 5 * EXPRESSION_NODES_MAX;
/// Deepest nesting of a template's document: rendering recurses.
pub const TEMPLATE_DEPTH_MAX: usize = 16;
/// Largest body that a template makes: as large as a batch, and more than receivers take.
pub const TEMPLATE_OUTPUT_BYTES_MAX: usize = 64 * 1024;
/// Text of the templates whose compiled form is kept, which takes some thirty times as much memory.
pub const TEMPLATE_CACHE_BYTES: u64 = 1024 * 1024;
/// Characters of one text that `slack()` and `discord()` show: a chat's message has room for a few of them.
pub const SHOWN_TEXT_CHARS_MAX: usize = 200;
/// Characters of a payload's own name of an event type.
pub const EVENT_NAME_CHARS_MAX: usize = 64;
/// Characters of a payload's content type.
pub const CONTENT_TYPE_CHARS_MAX: usize = 100;

// ---- Filters ----

/// Text of expressions whose compiled form is kept, times thirty-two, which is about what it takes: a thousand large ones.
pub const FILTER_CACHE_BYTES: u64 = 64 * 1024 * 1024;
/// Events whose codes are read at once for a batch's filters.
pub const FILTER_CODE_READS: usize = 16;
/// Work of expressions in one read of a partition (a unit is a byte of an expression's text, or a thousandth of a pattern,
/// evaluated once: half a microsecond for the worst). Endpoints beyond it read on by themselves, so that they hold nobody
/// up for longer than a quarter of a second.
pub const FILTER_WORK_PER_READ_MAX: usize = 500_000;
/// What one tenant's expressions may take of it, and what an own run's read may before others have their turn.
pub const FILTER_WORK_PER_TENANT_MAX: usize = 250_000;

// ---- The API ----

/// A request's body over gRPC or REST: a code with destination, metadata and recipient at their largest takes
/// 25 KiB, six times that in the worst JSON escaping.
pub const API_REQUEST_BYTES_MAX: usize = 256 * 1024;
/// A page ends early (with a token) at so many bytes: gRPC clients refuse answers above 4 MiB by default.
pub const API_PAGE_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Requests per second of one key, sustained: a script that works through a list, not a flood.
pub const API_REQUESTS_PER_SECOND: u32 = 200;
/// Requests of one key at once, after a pause.
pub const API_REQUESTS_BURST: u32 = 1000;
/// Failed authentications of one client address (IPv6: of its /64) at once, after a pause. Keys have 256 random
/// bits: this spares the store and the log, it is not what keeps guesses out.
pub const API_AUTH_FAILURES_BURST: u32 = 20;
/// The pause after which such an address gets one more try.
pub const API_AUTH_FAILURE_PERIOD: Duration = Duration::from_secs(3);
/// Keys (or addresses) whose requests (or failures) are counted; the idle ones are forgotten.
pub const API_LIMITED_CALLERS_MAX: usize = 100_000;
/// Requests carried out at once; beyond it they are refused, so that memory stays bounded (with
/// [`API_REQUEST_BYTES_MAX`] and [`API_PAGE_BYTES_MAX`]).
pub const API_IN_FLIGHT_MAX: usize = 512;
/// Event streams open at once.
pub const API_STREAMS_MAX: usize = 512;
/// Event streams of one key open at once.
pub const API_STREAMS_PER_KEY_MAX: usize = 16;
/// Connections open at once; further ones wait in the listener's backlog.
pub const API_CONNECTIONS_MAX: usize = 4096;
/// A connection's TLS handshake, and the wait for its first request.
pub const API_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// The head of an HTTP/1 request, and the pause between two on one connection.
pub const API_HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// The head of a request.
pub const API_HEADER_BYTES_MAX: u32 = 32 * 1024;
/// A unary call, its body included: more than an endpoint test's 10 s, less than a load balancer's usual 60 s.
pub const API_REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a key that was looked up is believed: the bound on how late a revocation works.
pub const API_KEY_CACHED: Duration = Duration::from_secs(1);
/// Keys believed at once.
pub const API_KEYS_CACHED_MAX: u64 = 100_000;
/// A key's last use is noted at most so often.
pub const API_KEY_TOUCH_PERIOD: Duration = Duration::from_secs(30);
/// Conversions being recorded at once: as many as requests. Those that the log has taken and not acknowledged count on
/// when their callers have gone.
pub const CONVERSIONS_UNDER_WAY_MAX: usize = API_IN_FLIGHT_MAX;
/// Tries to make a change while others change the same row.
pub const API_CHANGE_ATTEMPTS: u32 = 8;

// ---- Retention ----

/// Rows deleted in one step, so that retention never holds the writer thread for long.
pub const RETENTION_ROWS_PER_STEP: u32 = 500;
/// The same in bytes: freeing a large row costs a page each 4 KiB.
pub const RETENTION_BYTES_PER_STEP: u64 = 2 * 1024 * 1024;
/// Pause between two steps: at most a tenth of the writer thread's time goes to retention.
pub const RETENTION_STEP_PAUSE: Duration = Duration::from_millis(20);
/// Pause between two passes over everything that ages.
pub const RETENTION_PERIOD: Duration = Duration::from_secs(60);
/// A chunk that no checkpoint names for so long was left by a crash between the two.
pub const CHUNK_UNNAMED_KEPT: Duration = Duration::from_secs(24 * 3600);
/// Where nobody looks through all chunks, one that was left leaves by its time to live. Long: what is outstanding for an
/// endpoint that its tenant paused waits for as long as that lasts.
pub const CHUNK_TTL: Duration = Duration::from_secs(366 * 24 * 3600);
/// The row of a member that died is of no use as soon as the others have seen that its beat stands still.
pub const MEMBER_KEPT: Duration = Duration::from_secs(3600);
/// Commands are of use while somebody waits for them; later they only explain.
pub const COMMANDS_KEPT: Duration = Duration::from_secs(24 * 3600);

// ---- The embedded store ----

/// Pieces of work that may wait for a writer thread: more than all partitions and planes together can have under
/// way; whoever comes later waits.
pub const WRITER_QUEUE_MAX: usize = 1024;
/// Pieces of work in one transaction: bounds how long the first waits for the last.
pub const WRITER_GROUP_MAX: usize = 256;
/// The WAL is written back once it has so many pages: measured, 200 keeps p99 at 3 ms where 1,000 gave 4 to 10 and
/// 10,000 gave 20 to 41.
pub const WAL_CHECKPOINT_PAGES: i32 = 200;
/// Batches that the embedded store keeps in memory behind their commit: at 5,000 scans a second some ten seconds of them, so
/// that readers which keep up never ask the file.
pub const RECENT_BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Read connections per file for look-ups, and as many for lists: reads are short, and each holds a page cache.
pub const READERS_PER_FILE: usize = 4;
/// Files larger than this are not searched for damage at the start: a start takes well below a second.
pub const OPEN_CHECK_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Free pages in a file before it is made smaller: below this they are soon used again.
pub const VACUUM_FREE_PAGES_MIN: u32 = 1024;
/// Pages given back in one step.
pub const VACUUM_PAGES_PER_STEP: u32 = 256;

// ---- The CQL cluster ----

/// Nodes that keep each row: one may be away, and a quorum of two is left.
pub const CQL_REPLICATION: NonZeroU8 = NonZeroU8::new(3).expect("invariant: three is not zero");
/// How much longer than events are kept their rows live: a reader that is behind, or a clock that is, finds them.
pub const CQL_TTL_SPARE: Duration = Duration::from_secs(2 * 24 * 3600);
/// How long a connection may take.
pub const CQL_CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a statement may take, the driver's own repetitions on other nodes included: a node that does not answer
/// is noticed before an append's budget ([`APPEND_BUDGET`]) is used up.
pub const CQL_REQUEST_TIMEOUT: Duration = Duration::from_millis(1500);
/// Tries of a statement before its caller is told.
pub const CQL_TRIES: u32 = 3;
/// The pause after the first failed try; after the second it is twice as long.
pub const CQL_RETRY_PAUSE: Duration = Duration::from_millis(50);
/// Rows in one page of an answer.
pub const CQL_PAGE_ROWS: i32 = 1000;
/// How long making or changing a table may take: all nodes have to learn of it.
pub const CQL_SCHEMA_TIMEOUT: Duration = Duration::from_secs(60);
/// How often a process looks whether another one has finished changing the tables.
pub const CQL_SCHEMA_POLL: Duration = Duration::from_millis(200);
/// How long a table that is known to exist may be refused as missing (nodes make it known before they use it), and a change
/// of the schema may fail in a node that learns of another one.
pub const CQL_SCHEMA_SEEN_WITHIN: Duration = Duration::from_secs(20);
/// A process that changes tables and has not moved its beat for so long is dead: somewhat longer than one change takes.
pub const CQL_SCHEMA_RUNNER_SILENT_AFTER: Duration = Duration::from_secs(75);

// ---- Between processes ----

/// Connections of other processes open at once: each process has one to each other one.
pub const PEER_CONNECTIONS_MAX: usize = 512;
/// Processes that are told of what happens here, at most.
pub const PEERS_MAX: usize = 256;
/// A message of hints: [`PEER_HEADS_MAX`] heads and as many commands, twice over.
pub const PEER_MESSAGE_BYTES_MAX: usize = 128 * 1024;
/// Heads in one message.
pub const PEER_HEADS_MAX: usize = 1024;
/// How long a stranger may take to prove that it knows the peer key, and a peer to answer a message.
pub const PEER_ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How often is looked where a partition's owner is: a hint to another process is lost, and costs a second at most.
pub const PEER_LOOK_PERIOD: Duration = Duration::from_secs(2);
/// The longest pause before another attempt to reach a peer.
pub const PEER_RETRY_PAUSE_MAX: Duration = Duration::from_secs(5);

// ---- Changes of the registry on a CQL cluster ----

/// How often a change looks anew when others were faster, with pauses that grow to a quarter of a second.
pub const CQL_CHANGE_ROUNDS: u32 = 24;
/// How long a change waits for another one that has claimed the same short link or request id: far longer than a change
/// takes. Then the other is made never to come.
pub const CQL_CLAIM_PATIENCE: Duration = Duration::from_secs(1);
/// How often it looks meanwhile.
pub const CQL_CLAIM_POLL: Duration = Duration::from_millis(25);
/// Rows of a list that are looked at side by side, and entries of lists written so.
pub const CQL_LIST_READS: usize = 16;
/// Codes that one page of a filtered list looks at, where only one of the filter's fields has a list: a quarter of a second
/// of reads. The page says where to go on.
pub const CODES_SCANNED_MAX: usize = 2_000;
/// Rows of the configuration log in a CQL partition: at most 40 MiB, were all full.
pub const CONFIG_ROWS_PER_BUCKET: i64 = 512;
/// Rows of the configuration log that whoever appends remembers, so that it need not read them again.
pub const CONFIG_ROWS_REMEMBERED: usize = 256;
/// Rows that one read of a search through the configuration log brings: 5 MiB, were all full.
pub const CONFIG_ROWS_SEARCHED: usize = 64;
/// How long one who appends trusts what it knows of the log's end: far shorter than rows are kept.
pub const CONFIG_TAIL_SEEN: Duration = Duration::from_secs(600);
/// CQL partitions of names of changes under way: deletions of one are few enough to read past.
pub const PENDING_BUCKETS: i32 = 16;
/// Names that a sweeper reads at once; it goes on behind them.
pub const SWEEP_NAMES: i32 = 100;
/// Names that a sweeper remembers from one look to the next, some 100 bytes each: far more than control planes have under
/// way ([`API_IN_FLIGHT_MAX`] each). Of more, some are finished one look later.
pub const SWEEP_NAMES_SEEN: usize = 10_000;
/// How often a sweeper looks.
pub const SWEEP_PERIOD: Duration = Duration::from_secs(5);
/// A change that has been under way for so long was left: twice as long as a call may take ([`API_REQUEST_TIMEOUT`]), after
/// which whoever was making it is stopped. One that is swept while it goes on is made all the same, but tried anew.
pub const SWEEP_AFTER: Duration = Duration::from_secs(60);
