//! API keys as they are stored: never the key itself.

use serde::{Deserialize, Serialize};

use crate::{
    clock::Timestamp,
    id::{KeyId, TenantId},
};

/// A credential of a tenant.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ApiKey {
    /// Its id, also part of the key's text.
    pub id: KeyId,
    /// Whose data it opens.
    pub tenant: TenantId,
    /// What it may do.
    pub role: KeyRole,
    /// What people call it.
    pub name: String,
    /// SHA-256 of the key's text, lower-case hex.
    pub hash: String,
    /// When it stops working.
    pub expires_at: Option<Timestamp>,
    /// Whether it was revoked.
    pub revoked: bool,
    /// When it was created.
    pub created_at: Timestamp,
    /// Counts the changes, from 1.
    pub version: u64,
}

/// What a key may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyRole {
    /// Everything within its tenant.
    ReadWrite,
    /// Get, list and stream.
    ReadOnly,
}
