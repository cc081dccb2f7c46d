//! Who calls: what authentication found out, and which tenant a request is about.

use std::{fmt, sync::Arc};

use qrelay_store::{
    id::{KeyId, TenantId},
    model::{KeyRole, Tenant},
};
use tonic::Status;

use crate::refusal::{self, Violations};

/// An authenticated caller. Inserted into the request's extensions by the gate.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// What the key may do, and where.
    pub(crate) role: Role,
}

/// What a key may do, and where.
#[derive(Clone)]
pub(crate) enum Role {
    /// Everything, everywhere.
    Admin,
    /// Within one tenant.
    Tenant {
        /// Which one, as it stood at most a second ago.
        tenant: Arc<Tenant>,
        /// What.
        access: KeyRole,
        /// With which key.
        key: KeyId,
    },
}

impl fmt::Debug for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Admin => f.write_str("Admin"),
            Self::Tenant { tenant, access, key } => write!(f, "{access:?} {key} of {}", tenant.id),
        }
    }
}

impl Caller {
    /// Whether it is the admin key.
    pub(crate) fn is_admin(&self) -> bool {
        matches!(self.role, Role::Admin)
    }

    /// As changes name it: `admin` or the key's id.
    pub(crate) fn actor(&self) -> String {
        match &self.role {
            Role::Admin => "admin".to_owned(),
            Role::Tenant { key, .. } => key.to_string(),
        }
    }

    /// Which tenant a request is about that carries this `tenant_id`.
    ///
    /// # Errors
    /// With the admin key when it is missing; with a tenant's key when it is another's.
    pub(crate) fn tenant(&self, given: &str) -> Result<TenantId, Status> {
        match &self.role {
            Role::Tenant { tenant, .. } if given.is_empty() => Ok(tenant.id),
            Role::Tenant { tenant, .. } => match given.parse() {
                Ok(id) if tenant.id == id => Ok(id),
                _ => Err(refusal::not_found("Tenant", given)),
            },
            Role::Admin if given.is_empty() => {
                Err(Violations::one("tenant_id", "is required with the admin key"))
            }
            Role::Admin => given.parse().map_err(|_| refusal::not_found("Tenant", given)),
        }
    }
}
