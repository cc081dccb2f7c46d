//! Rows for tests to store: whole and valid, a function for each kind.

use bytes::Bytes;
use serde_json::{Map, json};

use crate::{
    checkpoint::{HealthChange, HealthReason, HealthState, LastFailure},
    clock::Timestamp,
    event::EventType,
    id::{
        CodeId, CommandId, ConfigSeq, EndpointId, EventAddress, KeyId, OwnerId, PartitionId, SecretId, Seq,
        TenantId, WriterId,
    },
    model::{
        ApiKey, Code, CodeStatus, Durability, Endpoint, EndpointIntent, EventPattern, FailureRules, Filter,
        Host, IpPrivacy, KeyRole, Ordering, Resource, SecretRow, ShortLink, Signature, Tenant, TenantStatus,
        UnrecordableScans,
    },
    record::ConversionRecord,
    store::{
        AttemptRow, Batch, Change, Command, CommandKind, ConfigChange, ConversionRow, DeliveryStatus,
        Expected, Fence, Heads, Lease, SecretChange, SharedStore, WriterRow,
    },
};

/// The partition that most tests use.
pub const P: PartitionId = PartitionId::new(0);
/// Another one.
pub const Q: PartitionId = PartitionId::new(1);

/// So many milliseconds after some moment.
pub fn at(ms: i64) -> Timestamp {
    Timestamp::from_millis(1_700_000_000_000 + ms)
}

/// A batch whose body says who and which it is.
pub fn batch(partition: PartitionId, writer: WriterId, seq: u64) -> Batch {
    let ms = i64::try_from(seq).expect("invariant: tests use small numbers");
    Batch {
        partition,
        writer,
        seq: Seq::new(seq),
        first_at: at(ms),
        last_at: at(ms + 1),
        count: 3,
        body: Bytes::from(format!("{partition}/{writer}/{seq}")),
    }
}

/// An open writer's first row.
pub fn writer_row(writer: WriterId) -> WriterRow {
    WriterRow {
        writer,
        node: "node".to_owned(),
        beat: 0,
        heads: Heads::new(),
        closed: None,
        registered_at: at(0),
    }
}

/// A new writer, registered.
///
/// # Panics
/// When the store fails.
pub async fn registered(store: &SharedStore) -> WriterId {
    let writer = WriterId::random();
    store
        .register_writer(&writer_row(writer))
        .await
        .expect("registering a writer");
    writer
}

/// An active tenant, new.
pub fn tenant() -> Tenant {
    Tenant {
        id: TenantId::random(),
        name: "Åcme".to_owned(),
        status: TenantStatus::Active,
        durability: Durability::Durable,
        ip_privacy: IpPrivacy::Drop,
        partitions: vec![P],
        created_at: at(0),
        updated_at: at(0),
        version: 1,
        rate_limit: None,
        unrecordable_scans: UnrecordableScans::Refuse,
        retired: 0,
        settling: 0,
    }
}

/// A tenant's key, new.
pub fn api_key(tenant: TenantId) -> ApiKey {
    ApiKey {
        id: KeyId::random(),
        tenant,
        role: KeyRole::ReadOnly,
        name: "key".to_owned(),
        hash: "00".repeat(32),
        expires_at: Some(at(1_000_000)),
        revoked: false,
        created_at: at(0),
        version: 1,
    }
}

/// A tenant's code, new, on the install's own host.
pub fn code(tenant: TenantId, short_id: &str) -> Code {
    let mut metadata = Map::new();
    metadata.insert("z".to_owned(), json!({"deep": [1, null, "\u{1F600}"]}));
    metadata.insert("a".to_owned(), json!(0.5));
    Code {
        id: CodeId::random(),
        tenant,
        link: ShortLink {
            host: Host::default(),
            short_id: short_id.to_owned(),
        },
        name: "code".to_owned(),
        destination_url: "https://example.com/?q='\"".to_owned(),
        status: CodeStatus::Active,
        tags: vec!["t1".to_owned(), "t2".to_owned()],
        campaign_id: "spring".to_owned(),
        owner_id: String::new(),
        external_id: "x-1".to_owned(),
        metadata,
        recipient: Map::new(),
        conversion_param: String::new(),
        created_at: at(0),
        updated_at: at(0),
        version: 1,
    }
}

/// A tenant's endpoint, new.
pub fn endpoint(tenant: TenantId) -> Endpoint {
    Endpoint {
        id: EndpointId::random(),
        tenant,
        home: P,
        url: "https://hooks.example.com/".to_owned(),
        description: String::new(),
        events: vec![
            EventPattern::Family("scan.".to_owned()),
            EventPattern::Exact(EventType::CodeCreated),
        ],
        intent: EndpointIntent::Active,
        retry_schedule_ms: vec![0, 60_000],
        max_concurrency: 4,
        enabled_epoch: 0,
        deleted: false,
        created_at: at(0),
        updated_at: at(0),
        version: 1,
        signature: Signature::default(),
        public_key: None,
        rate_limit: None,
        failure: FailureRules::default(),
        filter: Filter::default(),
        ordering: Ordering::None,
        payload: crate::model::Payload::default(),
        tls_client: None,
        preset: String::new(),
        skip_before: None,
    }
}

/// A secret of an endpoint.
pub fn secret(endpoint: EndpointId) -> SecretRow {
    SecretRow {
        id: SecretId::random(),
        endpoint,
        sealed: vec![0, 1, 2, 255],
        created_at: at(0),
        expires_at: None,
    }
}

/// The creation of a row.
pub fn create(resource: Resource) -> Change {
    Change {
        resource,
        expected: Expected::Absent,
        at: at(0),
        actor: "admin".to_owned(),
        event: None,
        secrets: SecretChange::Keep,
        request: None,
        count_max: None,
    }
}

/// The change of a row to its next version: `resource` carries that version.
pub fn update(resource: Resource) -> Change {
    let expected = Expected::Version(resource.version() - 1);
    Change {
        expected,
        ..create(resource)
    }
}

/// A lease under a fence.
pub fn lease(epoch: u64, beat: u64, owner: Option<OwnerId>) -> Lease {
    Lease {
        fence: Fence { epoch, beat },
        owner,
        addr: "127.0.0.1:1".to_owned(),
    }
}

/// An event's address.
pub fn event(seq: u64) -> EventAddress {
    EventAddress {
        partition: P,
        writer: WriterId::from_u64(7),
        seq: Seq::new(seq),
        index: 0,
    }
}

/// A configuration event's address.
pub fn config_event(seq: u64) -> EventAddress {
    EventAddress::config(ConfigSeq::new(seq), 0)
}

/// The `number`th attempt of a delivery, failed.
pub fn attempt(endpoint: EndpointId, first_at: Timestamp, event: EventAddress, number: u32) -> AttemptRow {
    AttemptRow {
        endpoint,
        first_at,
        event,
        event_type: EventType::ScanCreated,
        number,
        started_at: first_at.after(std::time::Duration::from_secs(number.into())),
        duration_ms: 12,
        status: DeliveryStatus::Retrying,
        response_status: Some(500),
        error_class: "http".to_owned(),
        fault: "receiver".to_owned(),
        error: "answered 500".to_owned(),
        next_attempt_at: Some(at(99)),
        detail: json!({"phases": {"connect_ms": 1}}),
        response_body: Bytes::from_static(b"\x00oops\xFF"),
        code: Some(CodeId::from_bytes([3; 10])),
    }
}

/// A command to test an endpoint.
pub fn command(created_at: Timestamp) -> Command {
    Command {
        id: CommandId::random(),
        partition: P,
        kind: CommandKind::Test {
            endpoint: EndpointId::random(),
        },
        created_at,
        result: None,
    }
}

/// A reported conversion that is not recorded yet.
pub fn conversion(external_id: &'static str) -> ConversionRow {
    ConversionRow {
        record: ConversionRecord {
            tenant: TenantId::random(),
            code: CodeId::random(),
            code_version: 1,
            at: at(3),
            external_id: external_id.into(),
            value: Some("49.90".into()),
            currency: None,
            properties: "{}".into(),
            scan: None,
        },
        body_hash: [1; 32],
        partition: P,
        writer: WriterId::random(),
        event: None,
    }
}

/// The announcement of change `version` of an endpoint's health.
pub fn health_change(endpoint: &Endpoint, version: u64, state: HealthState) -> ConfigChange {
    let change = HealthChange {
        version,
        state,
        reason: HealthReason::Failures,
        at: at(1),
        consecutive_failures: 5,
        failing_since: Some(at(0)),
        last_failure: Some(LastFailure {
            error_class: "http".to_owned(),
            response_status: Some(500),
        }),
    };
    ConfigChange::of_health(endpoint, change, at(2), "dispatcher")
}
