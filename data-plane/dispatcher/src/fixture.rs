//! Values for this crate's tests.

use qrelay_store::{
    Timestamp,
    checkpoint::LastFailure,
    event::EventType,
    id::{EndpointId, PartitionId, TenantId},
    model::{
        Durability, Endpoint, EndpointIntent, EventPattern, FailureRules, Filter, IpPrivacy, Ordering,
        Signature, Tenant, TenantStatus, UnrecordableScans,
    },
};

/// The tenant of all fixtures.
pub(crate) fn tenant() -> TenantId {
    TenantId::from_bytes([7; 10])
}

/// Its row.
pub(crate) fn tenant_row() -> Tenant {
    Tenant {
        id: tenant(),
        name: "t".into(),
        status: TenantStatus::Active,
        durability: Durability::Durable,
        ip_privacy: IpPrivacy::Drop,
        partitions: vec![PartitionId::new(0)],
        created_at: Timestamp::EPOCH,
        updated_at: Timestamp::EPOCH,
        version: 1,
        rate_limit: None,
        unrecordable_scans: UnrecordableScans::Refuse,
        retired: 0,
        settling: 0,
    }
}

/// An endpoint of partition 0 that wants scans, with retries a second apart.
pub(crate) fn endpoint(number: u8) -> Endpoint {
    Endpoint {
        id: EndpointId::from_bytes([number; 10]),
        tenant: tenant(),
        home: PartitionId::new(0),
        url: "http://127.0.0.1:9/".into(),
        description: String::new(),
        events: vec![EventPattern::Exact(EventType::ScanCreated)],
        intent: EndpointIntent::Active,
        retry_schedule_ms: vec![0, 1000, 1000],
        max_concurrency: 16,
        enabled_epoch: 0,
        deleted: false,
        created_at: Timestamp::EPOCH,
        updated_at: Timestamp::EPOCH,
        version: 1,
        signature: Signature::default(),
        public_key: None,
        rate_limit: None,
        failure: FailureRules::default(),
        filter: Filter::default(),
        ordering: Ordering::None,
        payload: qrelay_store::model::Payload::default(),
        tls_client: None,
        preset: String::new(),
        skip_before: None,
    }
}

/// An answer with this status.
pub(crate) fn answer(response_status: u16) -> LastFailure {
    LastFailure {
        error_class: "http".into(),
        response_status: Some(response_status),
    }
}
