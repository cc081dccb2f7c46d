//! Codes: create, list, read, change, delete. What a caller may write is judged in [`crate::code_fields`].

use std::sync::Arc;

use qrelay_proto::v1;
use qrelay_store::{
    event::EventType,
    id::{CodeId, TenantId},
    limits,
    model::{Code, CodeStatus, Host, Resource, ResourceId, ShortLink, Tenant},
    store::{ChangeError, Changed, CodeFilter, Page, PageKey},
};
use serde_json::Map;
use tonic::Status;

use crate::{
    api::{Api, Draft},
    caller::Caller,
    code_fields::{IGNORED, SETTABLE, is_populated, set, show},
    destination, field,
    page::{self, Bound},
    refusal::{self, Violations},
    short_id,
};

/// CreateCode.
pub(crate) async fn create(
    api: &Api,
    caller: &Caller,
    request: v1::CreateCodeRequest,
) -> Result<v1::Code, Status> {
    let tenant = api.tenant_to_change(caller, &request.tenant_id).await?;
    let given = request.code.clone().unwrap_or_default();
    let mut violations = Violations::default();
    let request_id = field::request_id(&mut violations, &request.request_id);
    let mut code = blank(api, &tenant, &given.short_id);
    short_id::check(&mut violations, &given.short_id);
    for path in SETTABLE
        .paths()
        .filter(|path| *path == "destination_url" || is_populated(&given, path))
    {
        set(&mut code, path, &given, &mut violations);
    }
    check_destination(api, &code, &mut violations);
    violations.finish()?;
    check_blocking(caller, CodeStatus::Active, code.status)?;
    let canonical = v1::CreateCodeRequest {
        request_id: String::new(),
        tenant_id: String::new(),
        ..request
    };
    let key = api.request_key("CreateCode", Some(tenant.id), request_id, &canonical);
    for attempt in 0..limits::API_CHANGE_ATTEMPTS {
        if given.short_id.is_empty() {
            code.link.short_id = short_id::generate(attempt);
        }
        let resource = Resource::Code(Box::new(code.clone()));
        let draft = Draft::create(resource, key.clone(), limits::CODES_PER_TENANT_MAX);
        match api.change(caller, draft.announced(EventType::CodeCreated)).await {
            Ok(Changed::Done(_)) => return Ok(show(api, &code)),
            Ok(Changed::Replayed(ResourceId::Code(id))) => {
                return Ok(show(api, &*own(api, &tenant, &id.to_string()).await?));
            }
            Ok(Changed::Replayed(_)) => {
                return Err(Status::internal("another kind of resource was replayed"));
            }
            Err(ChangeError::Exists) if given.short_id.is_empty() => {}
            Err(ChangeError::Exists) => {
                let message = "this short_id is taken: short ids are never given out twice";
                return Err(refusal::exists("Code", &given.short_id, message));
            }
            Err(ChangeError::LimitReached(max)) => {
                let subject = tenant.id.to_string();
                return Err(refusal::limit_reached(
                    "CODES_LIMIT_REACHED",
                    &subject,
                    "codes",
                    max,
                ));
            }
            Err(error) => return Err(refusal::change(error)),
        }
    }
    Err(Status::internal("no free short id was found"))
}

/// ListCodes.
pub(crate) async fn list(
    api: &Api,
    caller: &Caller,
    request: v1::ListCodesRequest,
) -> Result<v1::ListCodesResponse, Status> {
    let tenant = api.tenant(caller, &request.tenant_id).await?;
    let mut violations = Violations::default();
    let size = page::size(request.page_size, &mut violations);
    let filter = v1::ListCodesRequest {
        page_size: 0,
        page_token: String::new(),
        tenant_id: String::new(),
        ..request.clone()
    };
    let bound = Bound::to_request("ListCodes", Some(tenant.id), &filter);
    let after: Option<PageKey> =
        api.tokens
            .position(&bound, &request.page_token, "page_token", &mut violations);
    violations.finish()?;
    let given = |text: String| (!text.is_empty()).then_some(text);
    let filter = CodeFilter {
        short_id: given(filter.short_id),
        tag: given(filter.tag),
        campaign_id: given(filter.campaign_id),
        external_id: given(filter.external_id),
    };
    let page = Page { after, limit: size };
    let page = api
        .store
        .codes(tenant.id, &filter, &page)
        .await
        .map_err(refusal::store)?;
    let token = |position: &PageKey| api.tokens.token(&bound, position);
    let of_row = |row: &Arc<Code>| {
        token(&PageKey {
            created_at: row.created_at,
            id: row.id.to_string(),
        })
    };
    let count = page.codes.len();
    let (codes, cut_at) = page::cut(page.codes, size, |row| show(api, row), of_row);
    let next_page_token = if codes.len() < count {
        cut_at
    } else {
        page.next.as_ref().map_or_else(String::new, token)
    };
    Ok(v1::ListCodesResponse {
        codes,
        next_page_token,
    })
}

/// GetCode.
pub(crate) async fn read(
    api: &Api,
    caller: &Caller,
    request: v1::GetCodeRequest,
) -> Result<v1::Code, Status> {
    let tenant = api.tenant(caller, &request.tenant_id).await?;
    Ok(show(api, &*own(api, &tenant, &request.id).await?))
}

/// UpdateCode.
pub(crate) async fn update(
    api: &Api,
    caller: &Caller,
    request: v1::UpdateCodeRequest,
) -> Result<v1::Code, Status> {
    let tenant = api.tenant_to_change(caller, &request.tenant_id).await?;
    let given = request.code.unwrap_or_default();
    let current = own(api, &tenant, &request.id).await?;
    let mut violations = Violations::default();
    if !given.short_id.is_empty() && given.short_id != current.link.short_id {
        violations.add("short_id", "cannot be changed: it is printed");
    }
    let paths = field::masked(
        &mut violations,
        request.update_mask.as_ref(),
        &SETTABLE,
        &IGNORED,
        |path| is_populated(&given, path),
    );
    let mut scratch = (*current).clone();
    paths
        .iter()
        .for_each(|path| set(&mut scratch, path, &given, &mut violations));
    check_destination(api, &scratch, &mut violations);
    violations.finish()?;
    rewrite(
        api,
        caller,
        (&tenant, current.id),
        (&given.etag, EventType::CodeUpdated),
        |code| {
            if code.status == CodeStatus::Deleted {
                return Err(refusal::precondition("CODE_DELETED", "the code was deleted"));
            }
            let (before, mut ignored) = (code.status, Violations::default());
            paths
                .iter()
                .for_each(|path| set(code, path, &given, &mut ignored));
            check_blocking(caller, before, code.status)
        },
    )
    .await
}

/// DeleteCode. Deleting a deleted code changes nothing.
pub(crate) async fn delete(api: &Api, caller: &Caller, request: v1::DeleteCodeRequest) -> Result<(), Status> {
    let tenant = api.tenant_to_change(caller, &request.tenant_id).await?;
    let current = own(api, &tenant, &request.id).await?;
    if current.status == CodeStatus::Deleted {
        return Ok(());
    }
    rewrite(
        api,
        caller,
        (&tenant, current.id),
        (&request.etag, EventType::CodeDeleted),
        |code| {
            let before = std::mem::replace(&mut code.status, CodeStatus::Deleted);
            check_blocking(caller, before, CodeStatus::Deleted)
        },
    )
    .await?;
    Ok(())
}

/// Changes a code by compare-and-set, again and again while others change it; nothing is written, and nothing
/// announced, when `edit` changes nothing.
async fn rewrite(
    api: &Api,
    caller: &Caller,
    (tenant, id): (&Tenant, CodeId),
    (etag, event): (&str, EventType),
    edit: impl Fn(&mut Code) -> Result<(), Status>,
) -> Result<v1::Code, Status> {
    for _ in 0..limits::API_CHANGE_ATTEMPTS {
        let current = own(api, tenant, &id.to_string()).await?;
        if !field::etag_matches(etag, current.version) {
            return Err(refusal::conflict());
        }
        let mut next = (*current).clone();
        edit(&mut next)?;
        if next == *current {
            return Ok(show(api, &next));
        }
        (next.version, next.updated_at) = (current.version + 1, api.now());
        let draft = Draft::update(Resource::Code(Box::new(next.clone()))).announced(event);
        match api.change(caller, draft).await {
            Ok(_) => return Ok(show(api, &next)),
            Err(ChangeError::Conflict) => {}
            Err(error) => return Err(refusal::change(error)),
        }
    }
    Err(refusal::conflict())
}

/// A tenant's code; another's is not found.
async fn own(api: &Api, tenant: &Tenant, id: &str) -> Result<Arc<Code>, Status> {
    if id.is_empty() {
        return Err(Violations::one("id", "is required"));
    }
    let missing = || refusal::not_found("Code", id);
    let found = api
        .store
        .code(id.parse().map_err(|_| missing())?)
        .await
        .map_err(refusal::store)?;
    found.filter(|code| code.tenant == tenant.id).ok_or_else(missing)
}

fn blank(api: &Api, tenant: &Tenant, short_id: &str) -> Code {
    let now = api.now();
    let tenant: TenantId = tenant.id;
    Code {
        id: CodeId::random(),
        tenant,
        link: ShortLink {
            host: Host::default(),
            short_id: short_id.to_owned(),
        },
        name: String::new(),
        destination_url: String::new(),
        status: CodeStatus::Active,
        tags: Vec::new(),
        campaign_id: String::new(),
        owner_id: String::new(),
        external_id: String::new(),
        metadata: Map::new(),
        recipient: Map::new(),
        conversion_param: String::new(),
        created_at: now,
        updated_at: now,
        version: 1,
    }
}

/// A code must not lead to itself, nor carry a parameter twice.
fn check_destination(api: &Api, code: &Code, violations: &mut Violations) {
    let Ok(url) = destination::check(&code.destination_url) else {
        return;
    };
    let param = &code.conversion_param;
    if !param.is_empty() && url.query_pairs().any(|(name, _)| name == *param) {
        violations.add("conversion_param", "must not be a parameter of destination_url");
    }
    if !code.link.short_id.is_empty() && destination::leads_to(&url, &show(api, code).url) {
        violations.add("destination_url", "must not be the code's own short link");
    }
}

/// Only the admin key blocks a code, and only it ends the block.
fn check_blocking(caller: &Caller, before: CodeStatus, after: CodeStatus) -> Result<(), Status> {
    let touched = before != after && (before == CodeStatus::Blocked || after == CodeStatus::Blocked);
    if touched && !caller.is_admin() {
        return Err(refusal::denied(
            "CODE_BLOCKED",
            "only the admin key may block a code or end its block",
        ));
    }
    Ok(())
}
