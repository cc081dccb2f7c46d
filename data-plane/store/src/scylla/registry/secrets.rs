//! Secrets of endpoints. Which ones count stands in the endpoint's row, and so changes together with it; their sealed
//! bytes stand in a table of their own, which fewer roles may read.
//!
//! The bytes are written before the row that names them, under the attempt that brings them, and deleted after no row
//! names them any more. Writes carry fixed timestamps, the deletion's the higher: whichever comes late, they stay deleted.

use scylla::statement::prepared::PreparedStatement;

use super::{
    super::{OpenError, session::Cql},
    Configuration,
    claims::parse_id,
    row::{Beside, NamedSecret},
};
use crate::{
    id::{EndpointId, SecretId, TenantId},
    limits,
    model::{ResourceId, SecretRow},
    store::{Result, SecretChange, StoreError},
};

#[derive(Debug)]
pub(super) struct Statements {
    read: PreparedStatement,
    any: PreparedStatement,
    write: PreparedStatement,
    delete: PreparedStatement,
}

impl Statements {
    pub(super) async fn prepare(cql: &Cql) -> Result<Self, OpenError> {
        Ok(Self {
            read: cql
                .prepare("SELECT id, attempt, sealed FROM secret WHERE endpoint = ?")
                .await?,
            any: cql
                .prepare("SELECT tenant, endpoint, id, sealed FROM secret LIMIT 1")
                .await?,
            write: cql
                .prepare(
                    "INSERT INTO secret (endpoint, id, attempt, tenant, sealed) VALUES (?, ?, ?, ?, ?)
                     USING TIMESTAMP 1",
                )
                .await?,
            delete: cql
                .prepare("DELETE FROM secret USING TIMESTAMP 2 WHERE endpoint = ? AND id = ? AND attempt = ?")
                .await?,
        })
    }
}

/// A secret's change, as the endpoint's row knows it.
#[derive(Debug, Default)]
pub(super) struct Renamed {
    pub(super) beside: Beside,
    /// Whose bytes go.
    pub(super) forget: Vec<NamedSecret>,
}

/// What a row names after a change, brought by an attempt.
pub(super) fn rename(stored: &Beside, change: &SecretChange, attempt: &str) -> Renamed {
    let mut beside = stored.clone();
    let (new, kept) = match change {
        SecretChange::Keep => {
            return Renamed {
                beside,
                forget: Vec::new(),
            };
        }
        SecretChange::Clear => (None, None),
        SecretChange::Replace(secret) => (Some(secret), None),
        SecretChange::Rotate { secret, until } => (Some(secret), Some(*until)),
    };
    let mut forget = std::mem::take(&mut beside.secrets);
    if let Some(until) = kept
        && !forget.is_empty()
    {
        let mut newest = forget.remove(0);
        newest.expires_at = Some(newest.expires_at.map_or(until, |earlier| earlier.min(until)));
        beside.secrets.push(newest);
    }
    if let Some(secret) = new {
        let place = beside
            .secrets
            .iter()
            .position(|other| other.created_at <= secret.created_at)
            .unwrap_or(beside.secrets.len());
        let named = NamedSecret {
            id: secret.id,
            created_at: secret.created_at,
            expires_at: secret.expires_at,
            attempt: attempt.to_owned(),
        };
        beside.secrets.insert(place, named);
    }
    Renamed { beside, forget }
}

/// The secret that a change brings.
pub(super) fn brought(change: &SecretChange) -> Option<&SecretRow> {
    match change {
        SecretChange::Replace(secret) | SecretChange::Rotate { secret, .. } => Some(secret),
        SecretChange::Keep | SecretChange::Clear => None,
    }
}

impl Configuration {
    /// Writes a secret's bytes, which count once a row names them.
    pub(super) async fn put_secret(&self, tenant: TenantId, secret: &SecretRow, attempt: &str) -> Result<()> {
        let values = (
            secret.endpoint.to_string(),
            secret.id.to_string(),
            attempt,
            tenant.to_string(),
            &secret.sealed,
        );
        self.steps.write(&self.secrets.write, values).await
    }

    /// Deletes a secret's bytes, which no row names any more.
    pub(super) async fn forget_secret(
        &self,
        endpoint: EndpointId,
        id: SecretId,
        attempt: &str,
    ) -> Result<()> {
        let values = (endpoint.to_string(), id.to_string(), attempt);
        self.steps.write(&self.secrets.delete, values).await
    }

    /// See [`crate::store::Registry::secrets`].
    pub(in super::super) async fn secrets_of(&self, endpoint: EndpointId) -> Result<Vec<SecretRow>> {
        // They may be replaced between the two reads.
        for _ in 0..limits::CQL_CHANGE_ROUNDS {
            let row = self
                .tables
                .read(&self.steps, ResourceId::Endpoint(endpoint))
                .await?;
            let names = row.map(|row| row.beside.secrets).unwrap_or_default();
            if names.is_empty() {
                return Ok(Vec::new());
            }
            let stored: Vec<(String, String, Vec<u8>)> = self
                .steps
                .rows(&self.secrets.read, (endpoint.to_string(),))
                .await?;
            let bytes = |name: &NamedSecret| {
                let id = name.id.to_string();
                let found = stored
                    .iter()
                    .find(|(other, attempt, _)| *other == id && *attempt == name.attempt);
                found.map(|(.., sealed)| sealed.clone())
            };
            let all: Option<Vec<SecretRow>> = names
                .iter()
                .map(|name| {
                    Some(SecretRow {
                        id: name.id,
                        endpoint,
                        sealed: bytes(name)?,
                        created_at: name.created_at,
                        expires_at: name.expires_at,
                    })
                })
                .collect();
            if let Some(all) = all {
                return Ok(all);
            }
        }
        Err(StoreError::Corrupt(format!("a secret of {endpoint} is missing")))
    }

    /// See [`crate::store::Registry::any_secret`].
    pub(in super::super) async fn one_secret(
        &self,
    ) -> Result<Option<(TenantId, EndpointId, SecretId, Vec<u8>)>> {
        let found: Option<(String, String, String, Vec<u8>)> = self.steps.row(&self.secrets.any, ()).await?;
        let Some((tenant, endpoint, id, sealed)) = found else {
            return Ok(None);
        };
        Ok(Some((
            parse_id(&tenant)?,
            parse_id(&endpoint)?,
            parse_id(&id)?,
            sealed,
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        clock::Timestamp,
        conformance::samples::{at, secret},
    };

    fn names(beside: &Beside) -> Vec<(SecretId, Option<Timestamp>)> {
        beside
            .secrets
            .iter()
            .map(|name| (name.id, name.expires_at))
            .collect()
    }

    #[test]
    fn a_rotation_keeps_the_newest_until_its_hour_or_an_earlier_one_and_forgets_the_rest() {
        let endpoint = EndpointId::random();
        let (one, two, three) = (secret(endpoint), secret(endpoint), secret(endpoint));
        let rotate = |secret: &SecretRow, until| SecretChange::Rotate {
            secret: secret.clone(),
            until: at(until),
        };
        let first = rename(&Beside::default(), &SecretChange::Replace(one.clone()), "a");
        let second = rename(&first.beside, &rotate(&two, 10), "b");
        assert_eq!(names(&second.beside), [(two.id, None), (one.id, Some(at(10)))]);
        assert!(second.forget.is_empty());
        let third = rename(&second.beside, &rotate(&three, 5), "c");
        assert_eq!(names(&third.beside), [(three.id, None), (two.id, Some(at(5)))]);
        assert_eq!(
            third.forget.iter().map(|name| name.id).collect::<Vec<_>>(),
            [one.id]
        );
        let cleared = rename(&third.beside, &SecretChange::Clear, "d");
        assert!(cleared.beside.secrets.is_empty());
        assert_eq!(cleared.forget, third.beside.secrets);
    }
}
