//! Tenants: create, list, read, change, delete.

use std::sync::Arc;

use qrelay_proto::v1;
use qrelay_store::{
    id::TenantId,
    limits,
    model::{
        Durability, IpPrivacy, Resource, ResourceId, Tenant, TenantStatus, UnrecordableScans, partition_of,
    },
    store::{ChangeError, Changed, Page, PageKey},
};
use tonic::Status;

use crate::{
    api::{Api, Draft},
    caller::Caller,
    field::{self, Settable},
    own_partitions::{self, Claimed},
    page::{self, Bound},
    rate_limit_field,
    refusal::{self, Violations},
    wire,
};

const SETTABLE: Settable = Settable {
    fields: &[
        "name",
        "status",
        "durability",
        "unrecordable_scans",
        "privacy.ip",
        "partitions",
    ],
    messages: &[&rate_limit_field::PATHS],
};
const IGNORED: [&str; 4] = ["id", "created_at", "updated_at", "etag"];

/// CreateTenant.
pub(crate) async fn create(
    api: &Api,
    caller: &Caller,
    request: v1::CreateTenantRequest,
) -> Result<v1::Tenant, Status> {
    let given = request.tenant.clone().unwrap_or_default();
    let (id, now) = (TenantId::random(), api.now());
    let mut tenant = Tenant {
        id,
        name: String::new(),
        status: TenantStatus::Active,
        durability: Durability::Durable,
        ip_privacy: IpPrivacy::Drop,
        partitions: Vec::new(),
        created_at: now,
        updated_at: now,
        version: 1,
        rate_limit: None,
        unrecordable_scans: UnrecordableScans::Refuse,
        retired: 0,
        settling: 0,
    };
    let mut violations = Violations::default();
    let request_id = field::request_id(&mut violations, &request.request_id);
    for path in SETTABLE
        .paths()
        .filter(|path| *path == "name" || is_populated(&given, path))
    {
        set(&mut tenant, path, &given, &mut violations);
    }
    let shared = api.store.install().partitions;
    let limited = given.rate_limit.is_some();
    let own = own_partitions::judge(&tenant, Some(given.partitions), shared, limited, &mut violations);
    violations.finish()?;
    let mut claimed = Claimed::new(&api.spare);
    match own {
        0 => tenant.partitions = vec![partition_of(id, shared)],
        own => claimed.give(&api.store, &mut tenant, own).await?,
    }
    // Nobody was told of fewer homes.
    tenant.settling = 0;
    let canonical = v1::CreateTenantRequest {
        request_id: String::new(),
        ..request
    };
    let key = api.request_key("CreateTenant", None, request_id, &canonical);
    let draft = Draft::create(Resource::Tenant(tenant.clone()), key, limits::TENANTS_MAX);
    claimed.begin();
    let changed = api.change(caller, draft).await;
    match &changed {
        Ok(Changed::Done(_)) => claimed.stands(Some(&tenant)),
        Ok(Changed::Replayed(_)) => claimed.stands(None),
        Err(ChangeError::Store(_)) => {}
        Err(_) => claimed.stands(api.store.tenant(id).await.map_err(refusal::store)?.as_deref()),
    }
    match changed {
        Ok(Changed::Done(_)) => Ok(show(&tenant, shared)),
        Ok(Changed::Replayed(ResourceId::Tenant(id))) => Ok(show(&*api.tenant_row(id).await?, shared)),
        Ok(Changed::Replayed(_)) => Err(Status::internal("another kind of resource was replayed")),
        Err(ChangeError::LimitReached(max)) => Err(refusal::limit_reached(
            "TENANTS_LIMIT_REACHED",
            "install",
            "tenants",
            max,
        )),
        Err(error) => Err(refusal::change(error)),
    }
}

/// ListTenants.
pub(crate) async fn list(
    api: &Api,
    _caller: &Caller,
    request: v1::ListTenantsRequest,
) -> Result<v1::ListTenantsResponse, Status> {
    let mut violations = Violations::default();
    let size = page::size(request.page_size, &mut violations);
    let bound = Bound::new("ListTenants", None, &[]);
    let after: Option<PageKey> =
        api.tokens
            .position(&bound, &request.page_token, "page_token", &mut violations);
    violations.finish()?;
    let rows = api
        .store
        .tenants(&Page {
            after,
            limit: size + 1,
        })
        .await
        .map_err(refusal::store)?;
    let shared = api.store.install().partitions;
    let token = |row: &Arc<Tenant>| {
        api.tokens.token(
            &bound,
            &PageKey {
                created_at: row.created_at,
                id: row.id.to_string(),
            },
        )
    };
    let (tenants, next_page_token) = page::cut(rows, size, |row| show(row, shared), token);
    Ok(v1::ListTenantsResponse {
        tenants,
        next_page_token,
    })
}

/// GetTenant.
pub(crate) async fn read(
    api: &Api,
    caller: &Caller,
    request: v1::GetTenantRequest,
) -> Result<v1::Tenant, Status> {
    let id = named(caller, &request.id)?;
    Ok(show(&*api.tenant_row(id).await?, api.store.install().partitions))
}

/// UpdateTenant.
pub(crate) async fn update(
    api: &Api,
    caller: &Caller,
    request: v1::UpdateTenantRequest,
) -> Result<v1::Tenant, Status> {
    let id = named(caller, &request.id)?;
    let given = request.tenant.unwrap_or_default();
    let mut violations = Violations::default();
    let mask = request.update_mask.map(|mut mask| {
        // `privacy` has one field.
        mask.paths
            .iter_mut()
            .filter(|path| *path == "privacy")
            .for_each(|path| path.push_str(".ip"));
        mask
    });
    let paths = field::masked(&mut violations, mask.as_ref(), &SETTABLE, &IGNORED, |path| {
        is_populated(&given, path)
    });
    let mut scratch = (*api.tenant_row(id).await?).clone();
    paths
        .iter()
        .for_each(|path| set(&mut scratch, path, &given, &mut violations));
    let own = Own {
        given: paths.contains(&"partitions").then_some(given.partitions),
        limit_given: paths.iter().any(|path| rate_limit_field::PATHS.contains(path)),
    };
    own.judge(api, &scratch, &mut violations);
    violations.finish()?;
    rewrite(api, caller, id, &given.etag, own, |tenant| {
        if tenant.status == TenantStatus::Deleted {
            return Err(refusal::precondition("TENANT_DELETED", "the tenant was deleted"));
        }
        let mut ignored = Violations::default();
        paths
            .iter()
            .for_each(|path| set(tenant, path, &given, &mut ignored));
        Ok(())
    })
    .await
}

/// DeleteTenant.
pub(crate) async fn delete(
    api: &Api,
    caller: &Caller,
    request: v1::DeleteTenantRequest,
) -> Result<(), Status> {
    let id = named(caller, &request.id)?;
    rewrite(api, caller, id, "", Own::default(), |tenant| {
        tenant.status = TenantStatus::Deleted;
        Ok(())
    })
    .await?;
    Ok(())
}

/// What a request says of a tenant's own partitions.
#[derive(Clone, Copy, Default)]
struct Own {
    /// How many it is to have, if that is said.
    given: Option<i32>,
    /// Whether it sets the tenant's limit, which is divided over them.
    limit_given: bool,
}

impl Own {
    fn judge(self, api: &Api, tenant: &Tenant, violations: &mut Violations) -> usize {
        if self.given.is_none() && !self.limit_given {
            return 0;
        }
        let shared = api.store.install().partitions;
        own_partitions::judge(tenant, self.given, shared, self.limit_given, violations)
    }
}

/// Changes a tenant by compare-and-set, again and again while others change it; nothing is written when `edit`
/// changes nothing.
async fn rewrite(
    api: &Api,
    caller: &Caller,
    id: TenantId,
    etag: &str,
    own: Own,
    edit: impl Fn(&mut Tenant) -> Result<(), Status>,
) -> Result<v1::Tenant, Status> {
    let shared = api.store.install().partitions;
    let mut claimed = Claimed::new(&api.spare);
    for _ in 0..limits::API_CHANGE_ATTEMPTS {
        let current = api.tenant_row(id).await?;
        claimed.stands(Some(&current));
        if !field::etag_matches(etag, current.version) {
            return Err(refusal::conflict());
        }
        let mut next = (*current).clone();
        edit(&mut next)?;
        let mut violations = Violations::default();
        let wanted = own.judge(api, &next, &mut violations);
        violations.finish()?;
        claimed.give(&api.store, &mut next, wanted).await?;
        if next != *current {
            (next.version, next.updated_at) = (current.version + 1, api.now());
            claimed.begin();
            match api
                .change(caller, Draft::update(Resource::Tenant(next.clone())))
                .await
            {
                Ok(_) => claimed.stands(Some(&next)),
                Err(ChangeError::Conflict) => continue,
                Err(error) => return Err(refusal::change(error)),
            }
        }
        if own.given.is_some() && next.settling > 0 {
            next = own_partitions::settle(api, caller, id).await?;
        }
        return Ok(show(&next, shared));
    }
    Err(refusal::conflict())
}

/// The tenant that the URL names. A malformed id names nothing.
pub(crate) fn named(caller: &Caller, id: &str) -> Result<TenantId, Status> {
    if id.is_empty() {
        return Err(Violations::one("id", "is required"));
    }
    caller.tenant(id)
}

fn is_populated(given: &v1::Tenant, path: &str) -> bool {
    match path {
        "name" => !given.name.is_empty(),
        "status" => given.status != 0,
        "durability" => given.durability != 0,
        "unrecordable_scans" => given.unrecordable_scans != 0,
        "privacy.ip" => given.privacy.is_some_and(|privacy| privacy.ip != 0),
        "rate_limit" => given.rate_limit.is_some(),
        "partitions" => given.partitions != 0,
        _ => false,
    }
}

fn set(tenant: &mut Tenant, path: &str, given: &v1::Tenant, violations: &mut Violations) {
    match path {
        "name" => {
            field::required_line(violations, "name", &given.name, limits::NAME_CHARS_MAX);
            tenant.name.clone_from(&given.name);
        }
        "status" => match given.status() {
            v1::TenantStatus::Active => tenant.status = TenantStatus::Active,
            v1::TenantStatus::Suspended => tenant.status = TenantStatus::Suspended,
            _ => violations.add("status", "must be active or suspended"),
        },
        "durability" => match given.durability() {
            v1::Durability::Durable => tenant.durability = Durability::Durable,
            v1::Durability::Relaxed => tenant.durability = Durability::Relaxed,
            v1::Durability::Unspecified => violations.add("durability", "must be durable or relaxed"),
        },
        "unrecordable_scans" => match given.unrecordable_scans() {
            v1::UnrecordableScans::Refuse => tenant.unrecordable_scans = UnrecordableScans::Refuse,
            v1::UnrecordableScans::Answer => tenant.unrecordable_scans = UnrecordableScans::Answer,
            v1::UnrecordableScans::Unspecified => {
                violations.add("unrecordable_scans", "must be refuse or answer");
            }
        },
        "privacy.ip" => match given.privacy.map(|privacy| privacy.ip()) {
            Some(v1::IpPrivacy::Drop) => tenant.ip_privacy = IpPrivacy::Drop,
            Some(v1::IpPrivacy::Truncate) => tenant.ip_privacy = IpPrivacy::Truncate,
            _ => violations.add("privacy.ip", "must be drop or truncate"),
        },
        path if rate_limit_field::PATHS.contains(&path) => {
            rate_limit_field::set(
                &mut tenant.rate_limit,
                path,
                given.rate_limit.as_ref(),
                violations,
            );
        }
        _ => {}
    }
}

fn show(tenant: &Tenant, shared: u16) -> v1::Tenant {
    let status = match tenant.status {
        TenantStatus::Active => v1::TenantStatus::Active,
        TenantStatus::Suspended => v1::TenantStatus::Suspended,
        TenantStatus::Deleted => v1::TenantStatus::Deleted,
    };
    let durability = match tenant.durability {
        Durability::Durable => v1::Durability::Durable,
        Durability::Relaxed => v1::Durability::Relaxed,
    };
    let ip = match tenant.ip_privacy {
        IpPrivacy::Drop => v1::IpPrivacy::Drop,
        IpPrivacy::Truncate => v1::IpPrivacy::Truncate,
    };
    let unrecordable_scans = match tenant.unrecordable_scans {
        UnrecordableScans::Refuse => v1::UnrecordableScans::Refuse,
        UnrecordableScans::Answer => v1::UnrecordableScans::Answer,
    };
    v1::Tenant {
        id: tenant.id.to_string(),
        name: tenant.name.clone(),
        status: status.into(),
        durability: durability.into(),
        privacy: Some(v1::Privacy { ip: ip.into() }),
        created_at: Some(wire::time(tenant.created_at)),
        updated_at: Some(wire::time(tenant.updated_at)),
        etag: field::etag(tenant.version),
        rate_limit: tenant.rate_limit.map(rate_limit_field::show),
        unrecordable_scans: unrecordable_scans.into(),
        partitions: wire::small_count(u32::try_from(tenant.own_partitions(shared)).unwrap_or(u32::MAX)),
    }
}
