//! What all handlers work with: the store and the steps that every change takes.

use std::sync::Arc;

use prost::Message;
use qrelay_store::{
    Timestamp,
    clock::SharedClock,
    event::EventType,
    id::TenantId,
    limits,
    model::{Resource, Tenant, TenantStatus},
    seal::Sealer,
    store::{Change, ChangeError, Changed, Expected, RequestKey, SecretChange, SharedStore},
    target::Targets,
};
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use url::Url;

use crate::{
    auth::Authenticator,
    caller::{Caller, Role},
    conversions::Recorder,
    own_partitions::Spare,
    page::Tokens,
    refusal,
    streams::StreamSlots,
};

/// Shared by all handlers.
pub(crate) struct Api {
    pub(crate) store: SharedStore,
    pub(crate) clock: SharedClock,
    pub(crate) sealer: Sealer,
    pub(crate) targets: Targets,
    pub(crate) public_url: Url,
    pub(crate) tokens: Tokens,
    pub(crate) auth: Arc<Authenticator>,
    pub(crate) streams: StreamSlots,
    pub(crate) conversions: Recorder,
    pub(crate) spare: Spare,
    /// Cancelled when the server stops: open streams end.
    pub(crate) stop: CancellationToken,
}

/// A change on its way: [`Api::change`] fills in who and when.
pub(crate) struct Draft {
    pub(crate) resource: Resource,
    pub(crate) expected: Expected,
    pub(crate) event: Option<EventType>,
    pub(crate) secrets: SecretChange,
    pub(crate) request: Option<RequestKey>,
    pub(crate) count_max: Option<u64>,
}

impl Draft {
    /// A new row.
    pub(crate) fn create(resource: Resource, request: Option<RequestKey>, count_max: u64) -> Self {
        let expected = Expected::Absent;
        Self {
            resource,
            expected,
            event: None,
            secrets: SecretChange::Keep,
            request,
            count_max: Some(count_max),
        }
    }

    /// The next version of a row; `resource` has the version that follows.
    pub(crate) fn update(resource: Resource) -> Self {
        let expected = Expected::Version(resource.version() - 1);
        Self {
            resource,
            expected,
            event: None,
            secrets: SecretChange::Keep,
            request: None,
            count_max: None,
        }
    }

    /// With an event for subscribers.
    pub(crate) fn announced(mut self, event: EventType) -> Self {
        self.event = Some(event);
        self
    }

    /// With what happens to secrets.
    pub(crate) fn with_secrets(mut self, secrets: SecretChange) -> Self {
        self.secrets = secrets;
        self
    }
}

impl Api {
    /// Now, by the wall clock.
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The tenant that a request is about, to read what it has: also a suspended or deleted one.
    pub(crate) async fn tenant(&self, caller: &Caller, given: &str) -> Result<Arc<Tenant>, Status> {
        let id = caller.tenant(given)?;
        match &caller.role {
            Role::Tenant { tenant, .. } => Ok(Arc::clone(tenant)),
            Role::Admin => self.tenant_row(id).await,
        }
    }

    /// The tenant that a request is about, to change what it has.
    pub(crate) async fn tenant_to_change(&self, caller: &Caller, given: &str) -> Result<Arc<Tenant>, Status> {
        let tenant = self.tenant(caller, given).await?;
        match tenant.status {
            TenantStatus::Deleted => Err(refusal::precondition("TENANT_DELETED", "the tenant was deleted")),
            TenantStatus::Active | TenantStatus::Suspended => Ok(tenant),
        }
    }

    pub(crate) async fn tenant_row(&self, id: TenantId) -> Result<Arc<Tenant>, Status> {
        let found = self.store.tenant(id).await.map_err(refusal::store)?;
        found.ok_or_else(|| refusal::not_found("Tenant", &id.to_string()))
    }

    /// Makes a change in the caller's name.
    pub(crate) async fn change(&self, caller: &Caller, draft: Draft) -> Result<Changed, ChangeError> {
        let change = Change {
            resource: draft.resource,
            expected: draft.expected,
            at: self.now(),
            actor: caller.actor(),
            event: draft.event,
            secrets: draft.secrets,
            request: draft.request,
            count_max: draft.count_max,
        };
        self.store.change(change).await
    }

    /// Names a create for its repetitions, if the caller gave it a `request_id`. `canonical` is the request without
    /// `request_id` and `tenant_id`: what must be the same for the call to be the same.
    pub(crate) fn request_key(
        &self,
        rpc: &'static str,
        tenant: Option<TenantId>,
        request_id: Option<String>,
        canonical: &impl Message,
    ) -> Option<RequestKey> {
        request_id.map(|request_id| RequestKey {
            scope: tenant.map_or_else(|| "admin".to_owned(), |tenant| tenant.to_string()),
            rpc,
            request_id,
            body_hash: Sha256::digest(canonical.encode_to_vec()).into(),
            expires_at: self.now().after(limits::REQUEST_ID_KEPT),
        })
    }
}
