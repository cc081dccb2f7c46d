//! Event types, and how an event's body is made.
//!
//! A body is rendered from the record and the immutable `(code_id, version)` row alone, so that every attempt,
//! replay and look-up has the same bytes. Payloads change by addition only.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{
    clock::Timestamp,
    id::{EventAddress, EventId, IdCipher},
    model::{Code, CodeStatus},
    record::{Classification, ScanRecord},
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

    /// A synthetic scan of nobody's code: what an endpoint test sends.
    pub fn sample(ids: &IdCipher, address: EventAddress, at: Timestamp, tenant: crate::id::TenantId) -> Self {
        let scan = ScanRecord {
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
        };
        let code = Code {
            id: scan.code,
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
            owner_id: String::new(),
            external_id: String::new(),
            metadata: Map::new(),
            recipient: Map::new(),
            created_at: at,
            updated_at: at,
            version: 1,
        };
        Self::scan(ids, address, &scan, &code)
    }
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
