//! API keys: create, list, revoke. The key itself is in the answer to its creation and nowhere else.

use std::sync::Arc;

use qrelay_proto::v1;
use qrelay_store::{
    Timestamp,
    id::KeyId,
    limits,
    model::{ApiKey, KeyRole, Resource, ResourceId},
    store::{ChangeError, Changed, Page, PageKey},
};
use secrecy::ExposeSecret;
use tonic::Status;

use crate::{
    api::{Api, Draft},
    api_key,
    caller::Caller,
    field,
    page::{self, Bound},
    refusal::{self, Violations},
    wire,
};

/// CreateApiKey.
pub(crate) async fn create(
    api: &Api,
    caller: &Caller,
    request: v1::CreateApiKeyRequest,
) -> Result<v1::ApiKey, Status> {
    let tenant = api.tenant_to_change(caller, &request.tenant_id).await?;
    let given = request.api_key.clone().unwrap_or_default();
    let mut violations = Violations::default();
    let request_id = field::request_id(&mut violations, &request.request_id);
    field::line(&mut violations, "name", &given.name, limits::NAME_CHARS_MAX);
    let role = match given.role() {
        v1::KeyRole::ReadWrite => KeyRole::ReadWrite,
        v1::KeyRole::ReadOnly => KeyRole::ReadOnly,
        v1::KeyRole::Unspecified => {
            if given.role != 0 {
                violations.add("role", "must be read_write or read_only");
            }
            KeyRole::ReadWrite
        }
    };
    let expires_at = expiry(&given, api.now(), &mut violations);
    violations.finish()?;
    let (id, text, fingerprint) = api_key::generate();
    let row = ApiKey {
        id,
        tenant: tenant.id,
        role,
        name: given.name,
        hash: fingerprint.to_stored(),
        expires_at,
        revoked: false,
        created_at: api.now(),
        version: 1,
    };
    let canonical = v1::CreateApiKeyRequest {
        request_id: String::new(),
        tenant_id: String::new(),
        ..request
    };
    let key = api.request_key("CreateApiKey", Some(tenant.id), request_id, &canonical);
    let draft = Draft::create(
        Resource::ApiKey(row.clone()),
        key,
        limits::API_KEYS_PER_TENANT_MAX,
    );
    match api.change(caller, draft).await {
        Ok(Changed::Done(_)) => Ok(v1::ApiKey {
            key: Some(text.expose_secret().to_owned()),
            ..show(&row, None)
        }),
        Ok(Changed::Replayed(ResourceId::ApiKey(id))) => Ok(show(&*row_of(api, id).await?, None)),
        Ok(Changed::Replayed(_)) => Err(Status::internal("another kind of resource was replayed")),
        Err(ChangeError::LimitReached(max)) => {
            let subject = tenant.id.to_string();
            Err(refusal::limit_reached(
                "API_KEYS_LIMIT_REACHED",
                &subject,
                "API keys",
                max,
            ))
        }
        Err(error) => Err(refusal::change(error)),
    }
}

/// ListApiKeys.
pub(crate) async fn list(
    api: &Api,
    caller: &Caller,
    request: v1::ListApiKeysRequest,
) -> Result<v1::ListApiKeysResponse, Status> {
    let tenant = api.tenant(caller, &request.tenant_id).await?;
    let mut violations = Violations::default();
    let size = page::size(request.page_size, &mut violations);
    let bound = Bound::new("ListApiKeys", Some(tenant.id), &[]);
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
        .api_keys(tenant.id, &page)
        .await
        .map_err(refusal::store)?;
    let token = |(row, _): &(Arc<ApiKey>, Option<Timestamp>)| {
        api.tokens.token(
            &bound,
            &PageKey {
                created_at: row.created_at,
                id: row.id.to_string(),
            },
        )
    };
    let (api_keys, next_page_token) = page::cut(rows, size, |(row, used)| show(row, *used), token);
    Ok(v1::ListApiKeysResponse {
        api_keys,
        next_page_token,
    })
}

/// DeleteApiKey. Revoking a revoked key changes nothing.
pub(crate) async fn delete(
    api: &Api,
    caller: &Caller,
    request: v1::DeleteApiKeyRequest,
) -> Result<(), Status> {
    if request.id.is_empty() {
        return Err(Violations::one("id", "is required"));
    }
    let id = request
        .id
        .parse()
        .map_err(|_| refusal::not_found("ApiKey", &request.id))?;
    for _ in 0..limits::API_CHANGE_ATTEMPTS {
        let current = row_of(api, id).await?;
        if current.revoked {
            return Ok(());
        }
        let next = ApiKey {
            revoked: true,
            version: current.version + 1,
            ..(*current).clone()
        };
        match api.change(caller, Draft::update(Resource::ApiKey(next))).await {
            Ok(_) => return Ok(()),
            Err(ChangeError::Conflict) => {}
            Err(error) => return Err(refusal::change(error)),
        }
    }
    Err(refusal::conflict())
}

async fn row_of(api: &Api, id: KeyId) -> Result<Arc<ApiKey>, Status> {
    let found = api.store.api_key(id).await.map_err(refusal::store)?;
    found.ok_or_else(|| refusal::not_found("ApiKey", &id.to_string()))
}

fn expiry(given: &v1::ApiKey, now: Timestamp, violations: &mut Violations) -> Option<Timestamp> {
    let at = wire::to_time(given.expires_at.as_ref()?);
    match at {
        Some(at) if at > now => Some(at),
        _ => {
            violations.add("expires_at", "must lie in the future, before the year 10000");
            None
        }
    }
}

fn show(row: &ApiKey, last_used_at: Option<Timestamp>) -> v1::ApiKey {
    let role = match row.role {
        KeyRole::ReadWrite => v1::KeyRole::ReadWrite,
        KeyRole::ReadOnly => v1::KeyRole::ReadOnly,
    };
    v1::ApiKey {
        id: row.id.to_string(),
        tenant_id: row.tenant.to_string(),
        role: role.into(),
        name: row.name.clone(),
        expires_at: row.expires_at.map(wire::time),
        last_used_at: last_used_at.map(wire::time),
        created_at: Some(wire::time(row.created_at)),
        key: None,
    }
}
