//! Endpoints: create, list, read, change, delete, and new secrets.
//!
//! A secret is in the answer to the call that made it and nowhere else: rows hold it sealed, a replayed create
//! answers without it.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt, TryStreamExt, stream};
use qrelay_proto::v1;
use qrelay_store::{
    checkpoint::{EndpointHealth, RowKey},
    id::{EndpointId, SecretId},
    limits,
    model::{
        Endpoint, EndpointIntent, FailureRules, Filter, Ordering, Resource, ResourceId, SecretRow, Signature,
        SignatureScheme, Tenant,
    },
    seal::Purpose,
    store::{ChangeError, Changed, Page, PageKey, SecretChange},
    target::{ResolveError, TargetError},
};
use secrecy::ExposeSecret;
use subtle::ConstantTimeEq;
use tonic::Status;

use crate::{
    api::{Api, Draft},
    caller::Caller,
    endpoint_fields::{IGNORED, SETTABLE, default_schedule_ms, is_changed, is_populated, set, show},
    endpoint_filter, endpoint_home, endpoint_signature, field,
    page::{self, Bound},
    payload_fields, presets,
    refusal::{self, Violations},
    signing_secret::{self, SigningSecret},
    tls_client, wire,
};

/// Checkpoints read at once for a list.
const HEALTH_READS: usize = 8;

/// CreateEndpoint.
pub(crate) async fn create(
    api: &Api,
    caller: &Caller,
    request: v1::CreateEndpointRequest,
) -> Result<v1::Endpoint, Status> {
    let tenant = api.tenant_to_change(caller, &request.tenant_id).await?;
    let given = request.endpoint.clone().unwrap_or_default();
    let mut violations = Violations::default();
    let request_id = field::request_id(&mut violations, &request.request_id);
    let (mut endpoint, secret) = described(api, &tenant, &given, &mut violations).await?;
    check_url(api, &endpoint.url, &mut violations).await?;
    violations.finish()?;
    endpoint.home = endpoint_home::choose(api, &tenant, endpoint.id).await?;
    let canonical = v1::CreateEndpointRequest {
        request_id: String::new(),
        tenant_id: String::new(),
        ..request
    };
    let key = api.request_key("CreateEndpoint", Some(tenant.id), request_id, &canonical);
    let secrets = replacing(api, &endpoint, secret.as_ref());
    let resource = Resource::Endpoint(Box::new(endpoint.clone()));
    let draft = Draft::create(resource, key, limits::ENDPOINTS_PER_TENANT_MAX).with_secrets(secrets);
    match api.change(caller, draft).await {
        Ok(Changed::Done(_)) => {
            let shown = show(&endpoint, &EndpointHealth::default(), api.now());
            Ok(with_secret(shown, secret.as_ref()))
        }
        Ok(Changed::Replayed(ResourceId::Endpoint(id))) => {
            let row = any_of(api, &tenant, &id.to_string()).await?;
            Ok(show(&row, &health(api, &row).await?, api.now()))
        }
        Ok(Changed::Replayed(_)) => Err(Status::internal("another kind of resource was replayed")),
        Err(ChangeError::LimitReached(max)) => {
            let subject = tenant.id.to_string();
            Err(refusal::limit_reached(
                "ENDPOINTS_LIMIT_REACHED",
                &subject,
                "endpoints",
                max,
            ))
        }
        Err(error) => Err(refusal::change(error)),
    }
}

/// The endpoint that a create describes, judged in all but its URL, and its secret.
pub(crate) async fn described(
    api: &Api,
    tenant: &Tenant,
    given: &v1::Endpoint,
    violations: &mut Violations,
) -> Result<(Endpoint, Option<SigningSecret>), Status> {
    let mut endpoint = blank(api, tenant);
    let preset = presets::chosen(given, violations);
    let mut paths: Vec<_> = SETTABLE
        .paths()
        .filter(|path| *path == "events" || is_populated(given, path))
        .collect();
    if let Some(preset) = preset {
        preset.apply(&mut endpoint);
        // Of these a request may give parts, and the others stay the preset's.
        paths.retain(|path| !["signature", "failure", "payload"].contains(path));
        paths.extend(presets::overrides(given, preset));
    }
    for path in &paths {
        set(&mut endpoint, path, given, violations);
    }
    endpoint.url.clone_from(&given.url);
    if given.resume.is_some() {
        violations.add("resume", "must be unset: for a new endpoint nothing waits");
    }
    endpoint_signature::check(&endpoint.signature, violations);
    let secret = take_secret(endpoint.signature.scheme, given.secret.as_deref(), violations);
    endpoint.public_key = secret.as_ref().and_then(SigningSecret::public_key);
    if let Some(preset) = preset {
        if paths.contains(&"payload.by_event") {
            preset.complete(&mut endpoint.payload);
        }
        if paths.contains(&"payload.template") {
            let own = given
                .payload
                .as_ref()
                .map_or(&[][..], |payload| &payload.by_event);
            preset.make_way(&mut endpoint.payload, own);
        }
    }
    tls_client::change(api, &mut endpoint, &["tls_client"], given, violations);
    payload_fields::judge(api, &mut endpoint, &["payload", "events"], given, violations).await?;
    endpoint_filter::check_expression(&endpoint.filter, violations).await?;
    Ok((endpoint, secret))
}

/// ListEndpoints.
pub(crate) async fn list(
    api: &Api,
    caller: &Caller,
    request: v1::ListEndpointsRequest,
) -> Result<v1::ListEndpointsResponse, Status> {
    let tenant = api.tenant(caller, &request.tenant_id).await?;
    let mut violations = Violations::default();
    let size = page::size(request.page_size, &mut violations);
    let bound = Bound::new("ListEndpoints", Some(tenant.id), &[]);
    let after: Option<PageKey> =
        api.tokens
            .position(&bound, &request.page_token, "page_token", &mut violations);
    violations.finish()?;
    let page = Page {
        after,
        limit: size + 1,
    };
    let rows = api
        .store
        .endpoints(tenant.id, &page)
        .await
        .map_err(refusal::store)?;
    let with_health = |row: Arc<Endpoint>| async move {
        let health = health(api, &row).await?;
        Ok::<_, Status>((row, health))
    };
    let rows: Vec<_> = stream::iter(rows)
        .map(with_health)
        .buffered(HEALTH_READS)
        .try_collect()
        .await?;
    let token = |(row, _): &(Arc<Endpoint>, EndpointHealth)| {
        api.tokens.token(
            &bound,
            &PageKey {
                created_at: row.created_at,
                id: row.id.to_string(),
            },
        )
    };
    let now = api.now();
    let (endpoints, next_page_token) = page::cut(rows, size, |(row, health)| show(row, health, now), token);
    Ok(v1::ListEndpointsResponse {
        endpoints,
        next_page_token,
    })
}

/// GetEndpoint.
pub(crate) async fn read(
    api: &Api,
    caller: &Caller,
    request: v1::GetEndpointRequest,
) -> Result<v1::Endpoint, Status> {
    let tenant = api.tenant(caller, &request.tenant_id).await?;
    let row = own(api, &tenant, &request.id).await?;
    Ok(show(&row, &health(api, &row).await?, api.now()))
}

/// UpdateEndpoint.
pub(crate) async fn update(
    api: &Api,
    caller: &Caller,
    request: v1::UpdateEndpointRequest,
) -> Result<v1::Endpoint, Status> {
    let tenant = api.tenant_to_change(caller, &request.tenant_id).await?;
    let given = request.endpoint.unwrap_or_default();
    let current = own(api, &tenant, &request.id).await?;
    let mut violations = Violations::default();
    let paths = field::masked(
        &mut violations,
        request.update_mask.as_ref(),
        &SETTABLE,
        &IGNORED,
        |path| is_changed(&given, path),
    );
    let mut scratch = (*current).clone();
    paths
        .iter()
        .for_each(|path| set(&mut scratch, path, &given, &mut violations));
    payload_fields::judge(api, &mut scratch, &paths, &given, &mut violations).await?;
    let preset = given.preset.as_ref();
    if preset.is_some_and(|preset| *preset != current.preset) {
        violations.add("preset", "cannot be changed: make another endpoint");
    }
    endpoint_signature::check(&scratch.signature, &mut violations);
    let own = given.secret.as_deref().filter(|secret| !secret.is_empty());
    if own.is_some() && scratch.signature.scheme == current.signature.scheme {
        violations.add("secret", "cannot be changed here: use the rotate call");
    }
    // A change of the scheme needs a new secret: a key is never used for two schemes.
    let sets_scheme = |path: &&str| endpoint_signature::sets_scheme(path, given.signature.as_ref());
    let secret = if paths.iter().any(sets_scheme) {
        take_secret(scratch.signature.scheme, own, &mut violations)
    } else {
        None
    };
    tls_client::change(api, &mut scratch, &paths, &given, &mut violations);
    let wants_active = paths.contains(&"status") && given.status() == v1::EndpointStatus::Active;
    let skips = skips_what_waits(&given, wants_active, &mut violations);
    let mut replaced = false;
    if scratch.filter.expression != current.filter.expression {
        endpoint_filter::check_expression(&scratch.filter, &mut violations).await?;
    }
    if paths.contains(&"url") && given.url != current.url {
        check_url(api, &given.url, &mut violations).await?;
    }
    violations.finish()?;
    // A healthy endpoint that is active already has nothing to be enabled from: an unchanged row keeps its etag.
    let enabling = wants_active && health(api, &current).await?.consecutive_failures > 0;
    let row = rewrite(api, caller, (&tenant, current.id), &given.etag, |endpoint| {
        let scheme = endpoint.signature.scheme;
        let mut ignored = Violations::default();
        paths
            .iter()
            .for_each(|path| set(endpoint, path, &given, &mut ignored));
        payload_fields::settle(endpoint, &paths, given.payload.as_ref(), &mut ignored);
        tls_client::settle(endpoint, &paths, &scratch);
        if enabling {
            endpoint.enabled_epoch += 1;
        }
        if skips {
            endpoint.skip_before = Some(api.now());
        }
        replaced = endpoint.signature.scheme != scheme;
        if !replaced {
            return Ok(SecretChange::Keep);
        }
        endpoint.public_key = secret.as_ref().and_then(SigningSecret::public_key);
        Ok(replacing(api, endpoint, secret.as_ref()))
    })
    .await?;
    let shown = show(&row, &health(api, &row).await?, api.now());
    Ok(with_secret(shown, secret.as_ref().filter(|_| replaced)))
}

/// Whether an update wants that what waits is not sent.
fn skips_what_waits(given: &v1::Endpoint, wants_active: bool, violations: &mut Violations) -> bool {
    if given.resume.is_some() && !wants_active {
        violations.add("resume", "can only be given when the status is set to active");
    }
    match given.resume() {
        v1::Resume::Now => true,
        v1::Resume::WhereStopped => false,
        v1::Resume::Unspecified => {
            if given.resume.is_some() {
                violations.add("resume", "must be where_stopped or now");
            }
            false
        }
    }
}

/// DeleteEndpoint. Deleting a deleted endpoint changes nothing.
pub(crate) async fn delete(
    api: &Api,
    caller: &Caller,
    request: v1::DeleteEndpointRequest,
) -> Result<(), Status> {
    let tenant = api.tenant_to_change(caller, &request.tenant_id).await?;
    let current = any_of(api, &tenant, &request.id).await?;
    if current.deleted {
        return Ok(());
    }
    rewrite(api, caller, (&tenant, current.id), &request.etag, |endpoint| {
        endpoint.deleted = true;
        endpoint.tls_client = None;
        Ok(SecretChange::Clear)
    })
    .await?;
    Ok(())
}

/// RotateSecret.
pub(crate) async fn rotate(
    api: &Api,
    caller: &Caller,
    request: v1::RotateSecretRequest,
) -> Result<v1::Endpoint, Status> {
    let tenant = api.tenant_to_change(caller, &request.tenant_id).await?;
    let current = own(api, &tenant, &request.id).await?;
    let mut violations = Violations::default();
    let scheme = current.signature.scheme;
    if scheme == SignatureScheme::None {
        let message = "the endpoint's deliveries are not signed: it has no secret";
        return Err(refusal::precondition("NOT_SIGNED", message));
    }
    let given = Some(request.secret.as_str()).filter(|secret| !secret.is_empty());
    let secret = take_secret(scheme, given, &mut violations);
    let overlap = overlap(&request, &current, &mut violations);
    violations.finish()?;
    // Sent again after its answer was lost: were the secret put there once more, it would take the old one's place.
    let repeats = given.is_some() && !overlap.is_zero() && is_newest(api, &current, secret.as_ref()).await?;
    let row = rewrite(api, caller, (&tenant, current.id), "", |endpoint| {
        if endpoint.signature.scheme != scheme {
            // The new secret is one of the scheme before.
            return Err(refusal::conflict());
        }
        if repeats {
            return Ok(SecretChange::Keep);
        }
        endpoint.public_key = secret.as_ref().and_then(SigningSecret::public_key);
        Ok(match replacing(api, endpoint, secret.as_ref()) {
            SecretChange::Replace(row) if !overlap.is_zero() => SecretChange::Rotate {
                until: row.created_at.after(overlap),
                secret: row,
            },
            at_once => at_once,
        })
    })
    .await?;
    let shown = show(&row, &health(api, &row).await?, api.now());
    Ok(with_secret(shown, secret.as_ref()))
}

/// Whether an endpoint's newest secret is this one.
async fn is_newest(api: &Api, endpoint: &Endpoint, secret: Option<&SigningSecret>) -> Result<bool, Status> {
    let newest = api.store.secrets(endpoint.id).await.map_err(refusal::store)?;
    let (Some(newest), Some(secret)) = (newest.first(), secret) else {
        return Ok(false);
    };
    let opened = api.sealer.open(
        Purpose::SigningSecret,
        endpoint.tenant,
        endpoint.id,
        newest.id,
        &newest.sealed,
    );
    Ok(opened.is_ok_and(|bytes| bytes.expose_secret().ct_eq(secret.bytes()).into()))
}

/// For how long the old secret goes on signing.
fn overlap(request: &v1::RotateSecretRequest, endpoint: &Endpoint, violations: &mut Violations) -> Duration {
    let at_once = presets::named(&endpoint.preset).is_some_and(|preset| preset.rotates_at_once(endpoint));
    let given = request.overlap.unwrap_or_default();
    let overlap = wire::to_duration(&given).filter(|overlap| *overlap <= limits::ROTATION_OVERLAP_MAX);
    let Some(overlap) = overlap else {
        violations.add("overlap", "must be 0s to 604800s");
        return Duration::ZERO;
    };
    if !overlap.is_zero() && request.immediate {
        violations.add("overlap", "must be 0s when the old secret is to end immediately");
    } else if !overlap.is_zero() && at_once {
        violations.add(
            "overlap",
            "must be 0s: receivers of the endpoint's preset know one secret",
        );
    } else if !overlap.is_zero() && !endpoint.signature.scheme.carries_several() {
        violations.add(
            "overlap",
            "must be 0s: the signature scheme carries one signature",
        );
    }
    overlap
}

/// Changes an endpoint by compare-and-set, again and again while others change it. Nothing is written when `edit`
/// changes nothing, secrets included.
async fn rewrite(
    api: &Api,
    caller: &Caller,
    (tenant, id): (&Tenant, EndpointId),
    etag: &str,
    mut edit: impl FnMut(&mut Endpoint) -> Result<SecretChange, Status>,
) -> Result<Endpoint, Status> {
    for _ in 0..limits::API_CHANGE_ATTEMPTS {
        let current = own(api, tenant, &id.to_string()).await?;
        if !field::etag_matches(etag, current.version) {
            return Err(refusal::conflict());
        }
        let mut next = (*current).clone();
        let secrets = edit(&mut next)?;
        if next == *current && secrets == SecretChange::Keep {
            return Ok(next);
        }
        (next.version, next.updated_at) = (current.version + 1, api.now());
        let draft = Draft::update(Resource::Endpoint(Box::new(next.clone()))).with_secrets(secrets);
        match api.change(caller, draft).await {
            Ok(_) => return Ok(next),
            Err(ChangeError::Conflict) => {}
            Err(error) => return Err(refusal::change(error)),
        }
    }
    Err(refusal::conflict())
}

/// A tenant's live endpoint; another's, or a deleted one, is not found.
pub(crate) async fn own(api: &Api, tenant: &Tenant, id: &str) -> Result<Arc<Endpoint>, Status> {
    let row = any_of(api, tenant, id).await?;
    if row.deleted {
        Err(refusal::not_found("Endpoint", id))
    } else {
        Ok(row)
    }
}

/// A tenant's endpoint, live or deleted; another's is not found.
pub(crate) async fn any_of(api: &Api, tenant: &Tenant, id: &str) -> Result<Arc<Endpoint>, Status> {
    if id.is_empty() {
        return Err(Violations::one("id", "is required"));
    }
    let missing = || refusal::not_found("Endpoint", id);
    let found = api
        .store
        .endpoint(id.parse().map_err(|_| missing())?)
        .await
        .map_err(refusal::store)?;
    found.filter(|row| row.tenant == tenant.id).ok_or_else(missing)
}

/// What the owner of its home found out; nothing yet for a new one.
pub(crate) async fn health(api: &Api, endpoint: &Endpoint) -> Result<EndpointHealth, Status> {
    let key = RowKey::health(endpoint.id);
    let row = api
        .store
        .checkpoint_row(endpoint.home, &key)
        .await
        .map_err(refusal::store)?;
    let read = row.map(|json| serde_json::from_str(&json)).transpose();
    Ok(read.map(Option::unwrap_or_default).unwrap_or_else(|error| {
        tracing::error!(%error, endpoint = %endpoint.id, "an endpoint's health cannot be read");
        EndpointHealth::default()
    }))
}

fn blank(api: &Api, tenant: &Tenant) -> Endpoint {
    let (id, now) = (EndpointId::random(), api.now());
    Endpoint {
        id,
        tenant: tenant.id,
        // A new one's is chosen when it is created.
        home: tenant.partitions[0],
        url: String::new(),
        description: String::new(),
        events: Vec::new(),
        intent: EndpointIntent::Active,
        retry_schedule_ms: default_schedule_ms(),
        max_concurrency: limits::CONCURRENCY_DEFAULT,
        enabled_epoch: 0,
        deleted: false,
        created_at: now,
        updated_at: now,
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

/// A caller's own secret, or a new one; none for the scheme that has none.
fn take_secret(
    scheme: SignatureScheme,
    given: Option<&str>,
    violations: &mut Violations,
) -> Option<SigningSecret> {
    let Some(text) = given else {
        return SigningSecret::generate(scheme);
    };
    let own = SigningSecret::parse(scheme, text);
    if own.is_none() {
        violations.add("secret", signing_secret::rule(scheme));
    }
    own
}

/// An endpoint's answer with the secret that the call made.
fn with_secret(shown: v1::Endpoint, secret: Option<&SigningSecret>) -> v1::Endpoint {
    v1::Endpoint {
        secret: secret.map(|secret| secret.text().expose_secret().to_owned()),
        ..shown
    }
}

/// The end of all secrets but this one.
fn replacing(api: &Api, endpoint: &Endpoint, secret: Option<&SigningSecret>) -> SecretChange {
    secret.map_or(SecretChange::Clear, |secret| {
        SecretChange::Replace(sealed(api, endpoint, secret))
    })
}

fn sealed(api: &Api, endpoint: &Endpoint, secret: &SigningSecret) -> SecretRow {
    let id = SecretId::random();
    let sealed = api.sealer.seal(
        Purpose::SigningSecret,
        endpoint.tenant,
        endpoint.id,
        id,
        secret.bytes(),
    );
    SecretRow {
        id,
        endpoint: endpoint.id,
        sealed,
        created_at: api.now(),
        expires_at: None,
    }
}

/// Judges where a URL leads, as every send will again. Names are looked up only when nothing else is wrong.
///
/// # Errors
/// UNAVAILABLE when no name server answers: then nobody knows whether the URL is good.
async fn check_url(api: &Api, url: &str, violations: &mut Violations) -> Result<(), Status> {
    if url.is_empty() {
        violations.add("url", "is required");
        return Ok(());
    }
    let checked = match api.targets.check_url(url) {
        Ok(target) if violations.is_empty() => api.targets.vet(&target).await.map(drop),
        other => other.map(drop),
    };
    match checked {
        Ok(()) => {}
        Err(error @ TargetError::Resolve(ResolveError::Timeout | ResolveError::Failed)) => {
            let wait = limits::DNS_TRY_TIMEOUT;
            return Err(refusal::unavailable(
                "NAME_SERVICE_UNAVAILABLE",
                &error.to_string(),
                wait,
            ));
        }
        Err(error) => violations.add("url", format!("is refused: {error}")),
    }
    Ok(())
}
