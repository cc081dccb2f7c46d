//! Event types, and how an event's body is made.
//!
//! A body is rendered from the record and the immutable `(code_id, version)` row alone, or from the announcement that
//! the configuration log keeps, so that every attempt, replay and look-up has the same bytes. Payloads change by addition only.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{
    checkpoint::{HealthChange, HealthReason, HealthState, LastFailure},
    clock::Timestamp,
    id::{EventAddress, EventId, IdCipher},
    model::{Code, CodeStatus, ResourceId},
    record::{Classification, ConversionRecord, ConvertedScan, Record, ScanRecord},
    store::{ConfigChange, HealthReport},
};

macro_rules! event_types {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// What endpoints subscribe to.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum EventType {
            $($(#[$doc])* $name,)*
        }

        impl EventType {
            /// All of them.
            pub const ALL: &'static [EventType] = &[$(Self::$name),*];

            /// Its name in the contract.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

event_types! {
    /// A code was scanned and the scan answered with a redirect.
    ScanCreated = "scan.created",
    /// A code was created.
    CodeCreated = "code.created",
    /// A code was changed.
    CodeUpdated = "code.updated",
    /// A code was deleted.
    CodeDeleted = "code.deleted",
    /// What a scan led to was reported.
    Conversion = "qr.conversion",
    /// An endpoint failed again and again, and is tried sparingly.
    EndpointDegraded = "endpoint.degraded",
    /// An endpoint failed for too long, or wants no more: events wait until it is set active.
    EndpointDisabled = "endpoint.disabled",
    /// An endpoint that was degraded or disabled is sent to again.
    EndpointRecovered = "endpoint.recovered",
    /// A tenant used three quarters of its monthly quota. Nothing produces it yet.
    Quota75 = "quota.threshold_75",
    /// A tenant used its monthly quota up. Nothing produces it yet.
    Quota100 = "quota.threshold_100",
}

impl EventType {
    /// Whether its events are records of the log; the others' are changes of the configuration.
    pub const fn is_recorded(self) -> bool {
        matches!(self, Self::ScanCreated | Self::Conversion)
    }
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A name that is no event type.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not an event type")]
pub struct UnknownEventType;

impl FromStr for EventType {
    type Err = UnknownEventType;

    fn from_str(text: &str) -> Result<Self, UnknownEventType> {
        Self::ALL
            .iter()
            .find(|event| event.as_str() == text)
            .copied()
            .ok_or(UnknownEventType)
    }
}

impl Serialize for EventType {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for EventType {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// An event as webhooks and `GET /v1/events/{id}` show it. The order of fields is part of the bytes.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Event {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: EventType,
    /// Its id.
    pub id: EventId,
    /// When it was recorded.
    #[serde(serialize_with = "as_text")]
    pub created_at: Timestamp,
    /// What happened.
    pub data: Map<String, Value>,
}

fn as_text<S: serde::Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(at)
}

impl Event {
    /// The webhook's body.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("invariant: an event has only texts, numbers and maps with text keys")
    }

    /// A record's event; none of an erased one. `code` MUST be the version that the record names.
    pub fn recorded(ids: &IdCipher, address: EventAddress, record: &Record<'_>, code: &Code) -> Option<Self> {
        match record {
            Record::Scan(scan) => Some(Self::scan(ids, address, scan, code)),
            Record::Conversion(conversion) => Some(Self::conversion(ids, address, conversion, code)),
            Record::Redacted => None,
        }
    }

    /// A scan's event. `code` MUST be the version that the record names.
    pub fn scan(ids: &IdCipher, address: EventAddress, scan: &ScanRecord<'_>, code: &Code) -> Self {
        let data = json!({
            "short_id": code.link.short_id,
            "code_id": code.id,
            "name": known(&code.name),
            "tenant_id": code.tenant,
            "destination_url": code.destination_url,
            "scanned_at": scan.at.to_string(),
            "country": scan.country,
            "region": scan.region,
            "city": scan.city,
            "device_type": scan.device_type,
            "device_family": scan.device_family,
            "os_family": scan.os_family,
            "browser_family": scan.browser_family,
            "referer": scan.referer,
            "user_agent": scan.user_agent,
            "is_bot": scan.classification.is_bot(),
            "classification": scan.classification,
            "variant_label": "(default)",
            "tags": code.tags,
            "campaign_id": known(&code.campaign_id),
            "external_id": known(&code.external_id),
            "metadata": code.metadata,
        });
        Self {
            kind: EventType::ScanCreated,
            id: ids.event_id(address),
            created_at: scan.at,
            data: object(data),
        }
    }

    /// A conversion's event. `code` MUST be the version that the record names.
    pub fn conversion(
        ids: &IdCipher,
        address: EventAddress,
        conversion: &ConversionRecord<'_>,
        code: &Code,
    ) -> Self {
        let properties = serde_json::from_str::<Map<String, Value>>(&conversion.properties);
        let data = json!({
            "external_id": conversion.external_id,
            "value": conversion.value,
            "currency": conversion.currency,
            "properties": properties.unwrap_or_default(),
            "short_id": code.link.short_id,
            "code_id": code.id,
            "name": known(&code.name),
            "tenant_id": code.tenant,
            "destination_url": code.destination_url,
            "tags": code.tags,
            "campaign_id": known(&code.campaign_id),
            "code_external_id": known(&code.external_id),
            "metadata": code.metadata,
            "scan": conversion.scan.as_ref().map(|scan| converted(ids, scan)),
        });
        Self {
            kind: EventType::Conversion,
            id: ids.event_id(address),
            created_at: conversion.at,
            data: object(data),
        }
    }

    /// A change of a code, as it stood after the change: `code` MUST be the announced version.
    pub fn code_changed(
        ids: &IdCipher,
        address: EventAddress,
        kind: EventType,
        at: Timestamp,
        code: &Code,
    ) -> Self {
        let data = json!({
            "code_id": code.id,
            "short_id": code.link.short_id,
            "name": known(&code.name),
            "tenant_id": code.tenant,
            "destination_url": code.destination_url,
            "status": code.status,
            "tags": code.tags,
            "campaign_id": known(&code.campaign_id),
            "owner_id": known(&code.owner_id),
            "external_id": known(&code.external_id),
            "metadata": code.metadata,
            "version": code.version,
            "created_at": code.created_at.to_string(),
            "updated_at": code.updated_at.to_string(),
        });
        Self {
            kind,
            id: ids.event_id(address),
            created_at: at,
            data: object(data),
        }
    }

    /// A change of an endpoint's health, as it was announced; none for any other change.
    pub fn health_changed(ids: &IdCipher, address: EventAddress, change: &ConfigChange) -> Option<Self> {
        let (ResourceId::Endpoint(endpoint), Some(report)) = (change.resource, &change.health) else {
            return None;
        };
        let health = &report.change;
        let failure = health.last_failure.as_ref();
        let data = json!({
            "endpoint_id": endpoint,
            "tenant_id": change.tenant,
            "url_origin": known(&report.url_origin),
            "status": health.state.as_str(),
            "reason": health.reason,
            "since": health.at.to_string(),
            "consecutive_failures": health.consecutive_failures,
            "failing_since": health.failing_since.map(|at| at.to_string()),
            "error_class": failure.and_then(|failure| known(&failure.error_class)),
            "response_status": failure.and_then(|failure| failure.response_status),
        });
        Some(Self {
            kind: change.event?,
            id: ids.event_id(address),
            created_at: change.at,
            data: object(data),
        })
    }

    /// A monthly quota of which a tenant has used a share.
    pub fn quota(
        ids: &IdCipher,
        address: EventAddress,
        kind: EventType,
        at: Timestamp,
        tenant: crate::id::TenantId,
        usage: QuotaUsage,
    ) -> Self {
        let data = json!({
            "tenant_id": tenant,
            "threshold": usage.threshold,
            "used": usage.used,
            "limit": usage.limit,
        });
        Self {
            kind,
            id: ids.event_id(address),
            created_at: at,
            data: object(data),
        }
    }

    /// A synthetic scan of nobody's code: what an endpoint test sends.
    pub fn sample(ids: &IdCipher, address: EventAddress, at: Timestamp, tenant: crate::id::TenantId) -> Self {
        Self::sample_of(EventType::ScanCreated, ids, address, at, tenant).0
    }

    /// A synthetic event of a type, and nobody's code that it is about, if it is about one.
    pub fn sample_of(
        kind: EventType,
        ids: &IdCipher,
        address: EventAddress,
        at: Timestamp,
        tenant: crate::id::TenantId,
    ) -> (Self, Option<Code>) {
        let code = sample_code(tenant, at);
        let event = match kind {
            EventType::ScanCreated => Self::scan(ids, address, &sample_scan(tenant, at), &code),
            EventType::CodeCreated | EventType::CodeUpdated | EventType::CodeDeleted => {
                Self::code_changed(ids, address, kind, at, &code)
            }
            EventType::Conversion => {
                Self::conversion(ids, address, &sample_conversion(tenant, at, address), &code)
            }
            EventType::EndpointDegraded | EventType::EndpointDisabled | EventType::EndpointRecovered => {
                return (sample_health(kind, ids, address, at, tenant), None);
            }
            EventType::Quota75 | EventType::Quota100 => {
                let threshold = if kind == EventType::Quota75 { 75 } else { 100 };
                let usage = QuotaUsage {
                    threshold,
                    used: u64::from(threshold) * 100,
                    limit: 10_000,
                };
                return (Self::quota(ids, address, kind, at, tenant, usage), None);
            }
        };
        (event, Some(code))
    }
}

/// How much of a monthly quota is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QuotaUsage {
    /// The share that was reached, in per cent.
    pub threshold: u8,
    /// What was used.
    pub used: u64,
    /// What may be used.
    pub limit: u64,
}

fn sample_scan(tenant: crate::id::TenantId, at: Timestamp) -> ScanRecord<'static> {
    ScanRecord {
        tenant,
        code: crate::id::CodeId::from_bytes([0; 10]),
        code_version: 1,
        at,
        classification: Classification::Human,
        classification_reason: "test".into(),
        device_type: Some("mobile".into()),
        device_family: Some("iPhone".into()),
        os_family: Some("iOS".into()),
        browser_family: Some("Mobile Safari".into()),
        country: Some("CA".into()),
        region: Some("Quebec".into()),
        city: Some("Montreal".into()),
        referer: None,
        user_agent: Some("Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X)".into()),
        host: None,
        query: None,
        accept_language: None,
        network: None,
    }
}

fn sample_health(
    kind: EventType,
    ids: &IdCipher,
    address: EventAddress,
    at: Timestamp,
    tenant: crate::id::TenantId,
) -> Event {
    let (state, reason) = match kind {
        EventType::EndpointDisabled => (HealthState::Disabled, HealthReason::Gone),
        EventType::EndpointRecovered => (HealthState::Healthy, HealthReason::Succeeded),
        _ => (HealthState::Degraded, HealthReason::Failures),
    };
    let change = ConfigChange {
        resource: ResourceId::Endpoint(crate::id::EndpointId::from_bytes([0; 10])),
        tenant,
        version: 1,
        at,
        actor: String::new(),
        event: Some(kind),
        health: Some(Box::new(HealthReport {
            url_origin: "https://example.com".to_owned(),
            change: HealthChange {
                version: 1,
                state,
                reason,
                at,
                consecutive_failures: 5,
                failing_since: Some(at),
                last_failure: Some(LastFailure {
                    error_class: "http".to_owned(),
                    response_status: Some(500),
                }),
            },
        })),
    };
    Event::health_changed(ids, address, &change).expect("invariant: the change above is one of a health")
}

fn sample_conversion(
    tenant: crate::id::TenantId,
    at: Timestamp,
    scan: EventAddress,
) -> ConversionRecord<'static> {
    let record = sample_scan(tenant, at);
    ConversionRecord {
        tenant,
        code: record.code,
        code_version: record.code_version,
        at,
        external_id: "order_1042".into(),
        value: Some("49.90".into()),
        currency: Some("EUR".into()),
        properties: r#"{"items":2}"#.into(),
        scan: Some(ConvertedScan::of(scan, record)),
    }
}

fn sample_code(tenant: crate::id::TenantId, at: Timestamp) -> Code {
    Code {
        id: crate::id::CodeId::from_bytes([0; 10]),
        tenant,
        link: crate::model::ShortLink {
            host: crate::model::Host::default(),
            short_id: "test".into(),
        },
        name: "Test event".into(),
        destination_url: "https://example.com/".into(),
        status: CodeStatus::Active,
        tags: vec!["test".into()],
        campaign_id: String::new(),
        owner_id: "1".into(),
        external_id: String::new(),
        metadata: Map::new(),
        recipient: object(json!({
            "id": "test", "first_name": "Ada", "last_name": "Lovelace", "campaign_id": "test", "status": "pending",
            "variables": {},
        })),
        conversion_param: String::new(),
        created_at: at,
        updated_at: at,
        version: 1,
    }
}

/// The scan that a conversion names.
fn converted(ids: &IdCipher, scan: &ConvertedScan<'_>) -> Value {
    json!({
        "event_id": ids.event_id(scan.address),
        "scanned_at": scan.at.to_string(),
        "country": scan.country,
        "region": scan.region,
        "city": scan.city,
        "device_type": scan.device_type,
        "os_family": scan.os_family,
        "browser_family": scan.browser_family,
        "is_bot": scan.classification.is_bot(),
        "classification": scan.classification,
    })
}

/// An unknown value in a payload is null, and an empty text is an unknown value.
fn known(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::TenantId;

    #[test]
    fn a_health_event_tells_what_was_announced_and_no_more_of_the_url_than_its_origin() {
        let ids = IdCipher::new(&[7; 16]);
        let address = EventAddress::config(crate::id::ConfigSeq::new(3), 0);
        let mut change = crate::conformance::samples::health_change(
            &crate::conformance::samples::endpoint(TenantId::from_bytes([1; 10])),
            1,
            HealthState::Degraded,
        );
        let event = Event::health_changed(&ids, address, &change).unwrap();
        let body: Value = serde_json::from_slice(&event.to_bytes()).unwrap();
        assert_eq!(body["type"], "endpoint.degraded");
        assert_eq!(
            body["data"],
            json!({
                "endpoint_id": match change.resource {
                    ResourceId::Endpoint(id) => id.to_string(),
                    _ => String::new(),
                },
                "tenant_id": change.tenant.to_string(),
                "url_origin": "https://hooks.example.com",
                "status": "degraded",
                "reason": "failures",
                "since": "2023-11-14T22:13:20.001Z",
                "consecutive_failures": 5,
                "failing_since": "2023-11-14T22:13:20.000Z",
                "error_class": "http",
                "response_status": 500,
            })
        );
        change.health = None;
        assert_eq!(Event::health_changed(&ids, address, &change), None);
    }

    #[test]
    fn a_conversions_body_names_its_code_and_scan() {
        let ids = IdCipher::new(&[7; 16]);
        let (at, tenant) = (
            Timestamp::from_millis(1_772_548_338_492),
            TenantId::from_bytes([1; 10]),
        );
        let address = EventAddress::config(crate::id::ConfigSeq::new(1), 0);
        let scan = EventAddress { index: 3, ..address };
        let mut conversion = sample_conversion(tenant, at, scan);
        let sample = sample_code(tenant, at);
        let body = |conversion: &ConversionRecord<'_>| {
            let event = Event::conversion(&ids, address, conversion, &sample);
            String::from_utf8(event.to_bytes()).unwrap()
        };
        let text = body(&conversion);
        let data = r#""created_at":"2026-03-03T14:32:18.492Z","data":{"external_id":"order_1042","value":"49.90","currency":"EUR","properties":{"items":2},"short_id":"test","code_id":"code_"#;
        assert!(
            text.starts_with(r#"{"type":"qr.conversion","id":"evt_"#) && text.contains(data),
            "{text}"
        );
        let named = format!(
            r#""scan":{{"event_id":"{}","scanned_at":"2026-03-03T14:32:18.492Z","country":"CA""#,
            ids.event_id(scan)
        );
        assert!(
            text.contains(&named) && text.contains(r#""is_bot":false,"classification":"human"}}}"#),
            "{text}"
        );

        (conversion.scan, conversion.value, conversion.currency) = (None, None, None);
        let text = body(&conversion);
        assert!(
            text.contains(r#""value":null,"currency":null"#) && text.ends_with(r#""scan":null}}"#),
            "{text}"
        );
    }

    #[test]
    fn a_body_has_the_contracts_fields_in_order_and_the_same_bytes_each_time() {
        let ids = IdCipher::new(&[7; 16]);
        let address = EventAddress::config(crate::id::ConfigSeq::new(1), 0);
        let at = Timestamp::from_millis(1_772_548_338_492);
        let event = Event::sample(&ids, address, at, TenantId::from_bytes([1; 10]));
        let text = String::from_utf8(event.to_bytes()).unwrap();
        assert!(text.starts_with(r#"{"type":"scan.created","id":"evt_"#), "{text}");
        assert!(
            text.contains(
                r#""created_at":"2026-03-03T14:32:18.492Z","data":{"short_id":"test","code_id":"code_"#
            ),
            "{text}"
        );
        assert!(
            text.contains(r#""referer":null"#) && text.contains(r#""variant_label":"(default)""#),
            "{text}"
        );
        assert_eq!(
            event.to_bytes(),
            Event::sample(&ids, address, at, TenantId::from_bytes([1; 10])).to_bytes()
        );
    }
}
