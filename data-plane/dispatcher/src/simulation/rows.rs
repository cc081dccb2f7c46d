//! The rows of a simulation's registry.

use qrelay_store::{
    Timestamp,
    id::{CodeId, EndpointId, PartitionId, TenantId},
    model::{
        Code, CodeStatus, Durability, Endpoint, Host, IpPrivacy, ShortLink, Tenant, TenantStatus,
        UnrecordableScans,
    },
};

use super::roles::Account;

pub(super) fn a_tenant(id: TenantId, partition: PartitionId) -> Tenant {
    Tenant {
        id,
        name: "t".into(),
        status: TenantStatus::Active,
        durability: Durability::Durable,
        ip_privacy: IpPrivacy::Drop,
        partitions: vec![partition],
        created_at: Timestamp::EPOCH,
        updated_at: Timestamp::EPOCH,
        version: 1,
        rate_limit: None,
        unrecordable_scans: UnrecordableScans::Refuse,
        retired: 0,
        settling: 0,
    }
}

pub(super) fn a_code(id: CodeId, tenant: TenantId) -> Code {
    Code {
        id,
        tenant,
        link: ShortLink {
            host: Host::default(),
            short_id: "abc".into(),
        },
        name: "Poster".into(),
        destination_url: "https://example.com/".into(),
        status: CodeStatus::Active,
        tags: Vec::new(),
        campaign_id: String::new(),
        owner_id: String::new(),
        external_id: String::new(),
        metadata: serde_json::Map::new(),
        recipient: serde_json::Map::new(),
        conversion_param: String::new(),
        created_at: Timestamp::EPOCH,
        updated_at: Timestamp::EPOCH,
        version: 1,
    }
}

pub(super) fn an_endpoint(account: Account) -> Endpoint {
    Endpoint {
        id: EndpointId::random(),
        tenant: account.tenant,
        home: account.partition,
        // Never given up, however long it fails.
        retry_schedule_ms: vec![300; 10_000],
        ..crate::fixture::endpoint(1)
    }
}
