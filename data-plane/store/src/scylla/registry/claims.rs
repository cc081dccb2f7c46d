//! What a change claims before it is made: a short link, and the caller's request id.
//!
//! A claim names the change it is for, and the attempt that made it. It counts once that change was made; a claim whose
//! change never came is taken over, after the row it is for was fenced, so that the change never can come. An attempt
//! renews its claim after it looked at its row, so what was taken from it is noticed before its change is written.

use scylla::statement::prepared::PreparedStatement;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use super::{
    super::{OpenError, session::Cql},
    Configuration,
    row::{document, id_text, parse},
};
use crate::{
    clock::Timestamp,
    id::CodeId,
    limits,
    model::{Code, ResourceId, ShortLink},
    store::{ChangeError, RequestKey, Result},
};

/// A request, as a change under way carries it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct RequestName {
    scope: String,
    rpc: String,
    request_id: String,
    body_hash: [u8; 32],
    expires_at: Timestamp,
    /// How long its row is kept, in seconds.
    ttl: i32,
}

impl RequestName {
    pub(super) fn new(key: &RequestKey, at: Timestamp) -> Self {
        // Somewhat longer than it counts, so that clocks may differ.
        let kept = key.expires_at.since(at).saturating_add(limits::CQL_TTL_SPARE);
        Self {
            scope: key.scope.clone(),
            rpc: key.rpc.to_owned(),
            request_id: key.request_id.clone(),
            body_hash: key.body_hash,
            expires_at: key.expires_at,
            ttl: i32::try_from(kept.as_secs().min(20 * 365 * 24 * 3600)).unwrap_or(i32::MAX),
        }
    }
}

/// The attempt whose claim stands there and may be replaced; none where there is no claim.
#[derive(Clone, Debug)]
pub(super) struct Prior(Option<String>);

/// What a request came to before.
pub(super) enum Standing {
    /// It was carried out, with this.
    Done(ResourceId),
    /// It was not.
    Free(Prior),
}

#[derive(Debug)]
pub(super) struct Statements {
    link: PreparedStatement,
    insert_link: PreparedStatement,
    take_link: PreparedStatement,
    request: PreparedStatement,
    insert_request: PreparedStatement,
    update_request: PreparedStatement,
}

impl Statements {
    pub(super) async fn prepare(cql: &Cql) -> Result<Self, OpenError> {
        Ok(Self {
            link: cql
                .prepare("SELECT code, tenant, claim FROM short_link WHERE host = ? AND short_id = ?")
                .await?,
            insert_link: cql
                .prepare_conditional(
                    "INSERT INTO short_link (host, short_id, code, tenant, claim) VALUES (?, ?, ?, ?, ?)
                     IF NOT EXISTS",
                )
                .await?,
            take_link: cql
                .prepare_conditional(
                    "UPDATE short_link SET code = ?, tenant = ?, claim = ? WHERE host = ? AND short_id = ?
                     IF claim = ?",
                )
                .await?,
            request: cql
                .prepare(
                    "SELECT body_hash, resource, version, expires_at, done, claim FROM request
                     WHERE scope = ? AND rpc = ? AND request_id = ?",
                )
                .await?,
            insert_request: cql
                .prepare_conditional(
                    "INSERT INTO request (scope, rpc, request_id, body_hash, resource, version, expires_at, done, claim)
                     VALUES (?, ?, ?, ?, ?, ?, ?, false, ?) IF NOT EXISTS USING TTL ?",
                )
                .await?,
            update_request: cql
                .prepare_conditional(
                    "UPDATE request USING TTL ? SET body_hash = ?, resource = ?, version = ?, expires_at = ?,
                     done = ?, claim = ? WHERE scope = ? AND rpc = ? AND request_id = ? IF claim = ?",
                )
                .await?,
        })
    }
}

/// A stored short link: its code, tenant and claim.
type Link = (String, String, String);

/// A stored request.
struct Request {
    body_hash: Vec<u8>,
    resource: ResourceId,
    version: u64,
    expires_at: i64,
    done: bool,
    claim: String,
}

impl Configuration {
    async fn link(&self, link: &ShortLink) -> Result<Option<Link>> {
        let key = (&link.host.0, &link.short_id);
        self.steps.row(&self.claims.link, key).await
    }

    /// The code that a link belongs to.
    pub(super) async fn code_of_link(&self, link: &ShortLink) -> Result<Option<CodeId>> {
        match self.link(link).await? {
            Some((code, ..)) => Ok(Some(parse_id(&code)?)),
            None => Ok(None),
        }
    }

    /// Whether a code may have its short link. `new`: the code is not there yet.
    ///
    /// # Errors
    /// [`ChangeError::Exists`] when it belongs to another code, for ever; or, for a new code, when it is a spelling of
    /// another tenant's lower-case one: that is found in any case, so a new code of this spelling would take its scans.
    pub(super) async fn link_standing(&self, code: &Code, new: bool) -> Result<Prior, ChangeError> {
        let lower = ShortLink {
            short_id: code.link.short_id.to_ascii_lowercase(),
            host: code.link.host.clone(),
        };
        if new
            && lower != code.link
            && let Some((other, tenant, _)) = self.link(&lower).await?
            && tenant != code.tenant.to_string()
            && self.look(ResourceId::Code(parse_id(&other)?)).await?.is_some()
        {
            return Err(ChangeError::Exists);
        }
        let Some((owner, _, claim)) = self.link(&code.link).await? else {
            return Ok(Prior(None));
        };
        if owner != code.id.to_string() {
            let owner: CodeId = parse_id(&owner)?;
            if self.come_or_never(ResourceId::Code(owner), 1).await? {
                return Err(ChangeError::Exists);
            }
        }
        Ok(Prior(Some(claim)))
    }

    /// Claims a short link. False when somebody else was first.
    pub(super) async fn claim_link(&self, code: &Code, attempt: &str, prior: &Prior) -> Result<bool> {
        let (id, tenant) = (code.id.to_string(), code.tenant.to_string());
        let (host, short_id) = (&code.link.host.0, &code.link.short_id);
        let applied = match &prior.0 {
            None => {
                let values = (host, short_id, id, tenant, attempt);
                self.steps.decide(&self.claims.insert_link, values).await?
            }
            Some(prior) => {
                let values = (id, tenant, attempt, host, short_id, prior);
                self.steps.decide(&self.claims.take_link, values).await?
            }
        };
        if applied {
            return Ok(true);
        }
        Ok(self
            .link(&code.link)
            .await?
            .is_some_and(|(.., claim)| claim == attempt))
    }

    async fn request(&self, name: &RequestName) -> Result<Option<Request>> {
        let key = (&name.scope, &name.rpc, &name.request_id);
        let found: Option<(Vec<u8>, String, i64, i64, bool, String)> =
            self.steps.row(&self.claims.request, key).await?;
        let Some((body_hash, resource, version, expires_at, done, claim)) = found else {
            return Ok(None);
        };
        Ok(Some(Request {
            body_hash,
            resource: parse(&resource)?,
            version: version.cast_unsigned(),
            expires_at,
            done,
            claim,
        }))
    }

    /// What came of the same request before, unless it is forgotten by `at`.
    ///
    /// # Errors
    /// [`ChangeError::RequestReused`] when it was another one.
    pub(super) async fn request_standing(
        &self,
        name: &RequestName,
        at: Timestamp,
    ) -> Result<Standing, ChangeError> {
        let Some(mut found) = self.request(name).await? else {
            return Ok(Standing::Free(Prior(None)));
        };
        if found.expires_at <= at.as_millis() {
            return Ok(Standing::Free(Prior(Some(found.claim))));
        }
        if !found.done {
            self.come_or_never(found.resource, found.version).await?;
            // Whether it came, and was this request's, its claim says now: that is noted before a row can move on.
            match self.request(name).await? {
                Some(again) => found = again,
                None => return Ok(Standing::Free(Prior(None))),
            }
        }
        if !found.done {
            return Ok(Standing::Free(Prior(Some(found.claim))));
        }
        if found.body_hash != name.body_hash {
            return Err(ChangeError::RequestReused);
        }
        Ok(Standing::Done(found.resource))
    }

    /// Claims a request id for a change. False when somebody else was first.
    pub(super) async fn claim_request(
        &self,
        name: &RequestName,
        change: (ResourceId, u64),
        attempt: &str,
        prior: &Prior,
    ) -> Result<bool> {
        let applied = match &prior.0 {
            None => {
                let values = (
                    &name.scope,
                    &name.rpc,
                    &name.request_id,
                    &name.body_hash[..],
                    document(&change.0)?,
                    change.1.cast_signed(),
                    name.expires_at.as_millis(),
                    attempt,
                    name.ttl,
                );
                self.steps.decide(&self.claims.insert_request, values).await?
            }
            Some(prior) => self.update_request(name, change, (false, attempt), prior).await?,
        };
        if applied {
            return Ok(true);
        }
        let found = self.request(name).await?;
        Ok(found.is_some_and(|found| found.claim == attempt && !found.done))
    }

    /// Notes that a request's change was made.
    pub(super) async fn finish_request(
        &self,
        name: &RequestName,
        change: (ResourceId, u64),
        attempt: &str,
    ) -> Result<()> {
        self.update_request(name, change, (true, attempt), attempt)
            .await?;
        Ok(())
    }

    /// Writes all columns, so that they leave together.
    async fn update_request(
        &self,
        name: &RequestName,
        change: (ResourceId, u64),
        claim: (bool, &str),
        prior: &str,
    ) -> Result<bool> {
        let values = (
            name.ttl,
            &name.body_hash[..],
            document(&change.0)?,
            change.1.cast_signed(),
            name.expires_at.as_millis(),
            claim.0,
            claim.1,
            &name.scope,
            &name.rpc,
            &name.request_id,
            prior,
        );
        self.steps.decide(&self.claims.update_request, values).await
    }

    /// Whether a row is at a version or past it. When it is not, and does not get there while one waits as long as a
    /// change takes, it is fenced: what was on its way there never comes.
    pub(super) async fn come_or_never(&self, id: ResourceId, version: u64) -> Result<bool> {
        let patience = Instant::now() + limits::CQL_CLAIM_PATIENCE;
        loop {
            let row = self.settled(id).await?;
            if row.as_ref().is_some_and(|row| row.version >= version) {
                return Ok(true);
            }
            if Instant::now() >= patience && self.tables.fence(&self.steps, id, row.as_ref()).await? {
                tracing::debug!(id = id_text(id), version, "a change that never came was fenced");
                return Ok(false);
            }
            sleep(limits::CQL_CLAIM_POLL).await;
        }
    }
}

/// An id as it is stored.
pub(super) fn parse_id<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T> {
    text.parse()
        .map_err(|error| crate::store::StoreError::Corrupt(format!("a stored id cannot be read: {error}")))
}
