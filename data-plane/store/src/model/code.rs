//! Codes and their short links.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    clock::Timestamp,
    id::{CodeId, TenantId},
};

/// A dynamic QR code. Each change makes an immutable version under `(id, version)`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Code {
    /// Its id.
    pub id: CodeId,
    /// Whose it is.
    pub tenant: TenantId,
    /// Where it is found.
    pub link: ShortLink,
    /// What people call it.
    pub name: String,
    /// Where a scan leads, as given.
    pub destination_url: String,
    /// Whether it redirects.
    pub status: CodeStatus,
    /// Tags.
    pub tags: Vec<String>,
    /// The caller's campaign, or empty.
    pub campaign_id: String,
    /// The caller's owner, or empty.
    pub owner_id: String,
    /// The caller's own id, or empty.
    pub external_id: String,
    /// Travels with every event.
    pub metadata: Map<String, Value>,
    /// Whom it was printed for.
    pub recipient: Map<String, Value>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
    /// Counts the changes, from 1.
    pub version: u64,
    /// The query parameter in which a redirect carries its event's id; empty for none.
    #[serde(default)]
    pub conversion_param: String,
}

/// Host and short id of a link: what is printed. Never passes to another tenant, not even after deletion.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct ShortLink {
    /// The host.
    pub host: Host,
    /// The short id, in its own case.
    pub short_id: String,
}

/// A short link's host: empty means the install's own (`--public-url`), whatever name the client used.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Host(pub String);

/// Whether a code redirects.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CodeStatus {
    /// It does.
    Active,
    /// It answers 404 for now.
    Paused,
    /// It answers 410 for good.
    Deleted,
    /// It answers 410 until an admin says otherwise.
    Blocked,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_from_before_the_parameter_reads_without_it() {
        let row = serde_json::json!({
            "id": CodeId::from_bytes([1; 10]), "tenant": TenantId::from_bytes([1; 10]),
            "link": {"host": "", "short_id": "a"}, "name": "", "destination_url": "https://a.example/",
            "status": "active", "tags": [], "campaign_id": "", "owner_id": "", "external_id": "", "metadata": {},
            "recipient": {}, "created_at": 0, "updated_at": 0, "version": 1,
        });
        let row: Code = serde_json::from_value(row).unwrap();
        assert_eq!(row.conversion_param, "");
    }
}
