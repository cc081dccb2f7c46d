//! Rules of lists.

use std::collections::BTreeSet;

use super::samples::{Q, api_key, at, code, create, endpoint, tenant, update};
use crate::{
    id::{EndpointId, TenantId},
    model::{ApiKey, Code, CodeStatus, Endpoint, Resource, Tenant, TenantStatus},
    store::{CodeFilter, Page, PageKey, SharedStore},
};

const ALL: Page = Page {
    after: None,
    limit: 1000,
};

fn of_code(code: &Code) -> Resource {
    Resource::Code(Box::new(code.clone()))
}

fn of_endpoint(endpoint: &Endpoint) -> Resource {
    Resource::Endpoint(Box::new(endpoint.clone()))
}

/// Creates some codes whose creation times clash.
async fn some_codes(store: &SharedStore, tenant: TenantId, count: i64) -> Vec<Code> {
    let mut codes = Vec::new();
    for number in 0..count {
        let mut code = code(tenant, &format!("{tenant}-{number}"));
        code.created_at = at(number / 3);
        store.change(create(of_code(&code))).await.unwrap();
        codes.push(code);
    }
    codes.sort_by_key(|code| std::cmp::Reverse((code.created_at, code.id.to_string())));
    codes
}

pub async fn lists_are_newest_first_and_pages_neither_repeat_nor_skip(store: &SharedStore) {
    let tenant = TenantId::random();
    let wanted = some_codes(store, tenant, 10).await;
    for limit in [1, 3, 9, 10, 11] {
        let (mut paged, mut page) = (Vec::new(), Page { after: None, limit });
        while let codes = store.codes(tenant, &CodeFilter::default(), &page).await.unwrap()
            && let Some(last) = codes.last()
        {
            assert!(codes.len() <= limit);
            page.after = Some(PageKey {
                created_at: last.created_at,
                id: last.id.to_string(),
            });
            paged.extend(codes.iter().map(|code| (**code).clone()));
        }
        assert_eq!(paged, wanted, "pages of {limit}");
    }
}

pub async fn deleted_rows_are_found_but_not_listed(store: &SharedStore) {
    let owner = tenant();
    let rows = |version, gone: bool| {
        let status = if gone {
            TenantStatus::Deleted
        } else {
            TenantStatus::Active
        };
        (
            Tenant {
                version,
                status,
                ..owner.clone()
            },
            ApiKey {
                version,
                revoked: gone,
                ..key(&owner)
            },
            Code {
                version,
                status: if gone {
                    CodeStatus::Deleted
                } else {
                    CodeStatus::Paused
                },
                ..fixed(&owner)
            },
            Endpoint {
                version,
                deleted: gone,
                ..hook(&owner)
            },
        )
    };
    let counts = async || {
        (
            store.tenants(&ALL).await.unwrap().len(),
            store.api_keys(owner.id, &ALL).await.unwrap().len(),
            store
                .codes(owner.id, &CodeFilter::default(), &ALL)
                .await
                .unwrap()
                .len(),
            store.endpoints(owner.id, &ALL).await.unwrap().len(),
        )
    };
    let (tenant, key, code, endpoint) = rows(1, false);
    for row in [
        Resource::Tenant(tenant),
        Resource::ApiKey(key),
        of_code(&code),
        of_endpoint(&endpoint),
    ] {
        store.change(create(row)).await.unwrap();
    }
    assert_eq!(counts().await, (1, 1, 1, 1));
    let (tenant, key, code, endpoint) = rows(2, true);
    for row in [
        Resource::Tenant(tenant.clone()),
        Resource::ApiKey(key.clone()),
        of_code(&code),
        of_endpoint(&endpoint),
    ] {
        store.change(update(row)).await.unwrap();
    }
    assert_eq!(counts().await, (0, 0, 0, 0));
    assert_eq!(store.endpoints_homed(endpoint.home, None, 10).await.unwrap(), []);
    assert_eq!(store.tenant(tenant.id).await.unwrap().as_deref(), Some(&tenant));
    assert_eq!(store.api_key(key.id).await.unwrap().as_deref(), Some(&key));
    assert_eq!(store.code(code.id).await.unwrap().as_deref(), Some(&code));
    assert_eq!(
        store.endpoint(endpoint.id).await.unwrap().as_deref(),
        Some(&endpoint)
    );
}

fn key(owner: &Tenant) -> ApiKey {
    ApiKey {
        id: crate::id::KeyId::from_bytes([1; 10]),
        ..api_key(owner.id)
    }
}

fn fixed(owner: &Tenant) -> Code {
    Code {
        id: crate::id::CodeId::from_bytes([1; 10]),
        ..code(owner.id, "gone")
    }
}

fn hook(owner: &Tenant) -> Endpoint {
    Endpoint {
        id: EndpointId::from_bytes([1; 10]),
        ..endpoint(owner.id)
    }
}

async fn found(store: &SharedStore, tenant: TenantId, filter: CodeFilter) -> BTreeSet<String> {
    let codes = store.codes(tenant, &filter, &ALL).await.unwrap();
    codes.iter().map(|code| code.link.short_id.clone()).collect()
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

pub async fn codes_are_filtered_by_every_field_given(store: &SharedStore) {
    let tenant = TenantId::random();
    for (short_id, tags, campaign, external) in [
        ("a", vec!["x", "y", "x"], "c1", "e1"),
        ("b", vec!["x"], "c2", "e1"),
        ("c", vec!["y"], "c1", ""),
        ("d", vec![], "", "e1"),
    ] {
        let mut code = code(tenant, short_id);
        code.tags = tags.into_iter().map(str::to_owned).collect();
        (code.campaign_id, code.external_id) = (campaign.to_owned(), external.to_owned());
        store.change(create(of_code(&code))).await.unwrap();
    }
    let some = |text: &str| Some(text.to_owned());
    let none = CodeFilter::default;
    for (filter, wanted) in [
        (none(), names(&["a", "b", "c", "d"])),
        (
            CodeFilter {
                short_id: some("b"),
                ..none()
            },
            names(&["b"]),
        ),
        (
            CodeFilter {
                short_id: some("B"),
                ..none()
            },
            names(&[]),
        ),
        (
            CodeFilter {
                tag: some("x"),
                ..none()
            },
            names(&["a", "b"]),
        ),
        (
            CodeFilter {
                tag: some("z"),
                ..none()
            },
            names(&[]),
        ),
        (
            CodeFilter {
                campaign_id: some("c1"),
                ..none()
            },
            names(&["a", "c"]),
        ),
        (
            CodeFilter {
                campaign_id: some(""),
                ..none()
            },
            names(&["d"]),
        ),
        (
            CodeFilter {
                external_id: some("e1"),
                ..none()
            },
            names(&["a", "b", "d"]),
        ),
        (
            CodeFilter {
                tag: some("y"),
                campaign_id: some("c1"),
                ..none()
            },
            names(&["a", "c"]),
        ),
        (
            CodeFilter {
                tag: some("x"),
                external_id: some("e1"),
                campaign_id: some("c2"),
                ..none()
            },
            names(&["b"]),
        ),
        (
            CodeFilter {
                short_id: some("a"),
                tag: some("y"),
                external_id: some("e2"),
                ..none()
            },
            names(&[]),
        ),
    ] {
        assert_eq!(found(store, tenant, filter.clone()).await, wanted, "{filter:?}");
    }
}

pub async fn a_changed_code_moves_between_filters(store: &SharedStore) {
    let tenant = TenantId::random();
    let mut code = code(tenant, "a");
    store.change(create(of_code(&code))).await.unwrap();
    let by_tag = |tag: &str| CodeFilter {
        tag: Some(tag.to_owned()),
        ..CodeFilter::default()
    };
    let by_campaign = |id: &str| CodeFilter {
        campaign_id: Some(id.to_owned()),
        ..CodeFilter::default()
    };
    (code.version, code.tags, code.campaign_id) = (2, vec!["new".to_owned()], "autumn".to_owned());
    store.change(update(of_code(&code))).await.unwrap();
    for (filter, wanted) in [
        (by_tag("t1"), names(&[])),
        (by_tag("new"), names(&["a"])),
        (by_campaign("spring"), names(&[])),
        (by_campaign("autumn"), names(&["a"])),
    ] {
        assert_eq!(found(store, tenant, filter.clone()).await, wanted, "{filter:?}");
    }
    (code.version, code.status) = (3, CodeStatus::Deleted);
    store.change(update(of_code(&code))).await.unwrap();
    assert_eq!(found(store, tenant, by_tag("new")).await, names(&[]));
}

pub async fn endpoints_are_listed_by_home(store: &SharedStore) {
    let mut at_home = BTreeSet::new();
    for number in 0..7 {
        let mut endpoint = endpoint(TenantId::random());
        if number % 2 == 0 {
            endpoint.home = Q;
            at_home.insert(endpoint.id);
        }
        store.change(create(of_endpoint(&endpoint))).await.unwrap();
    }
    let (mut listed, mut after) = (Vec::new(), None);
    while let page = store.endpoints_homed(Q, after, 3).await.unwrap()
        && !page.is_empty()
    {
        after = page.last().map(|endpoint| endpoint.id);
        listed.extend(page.iter().map(|endpoint| endpoint.id));
    }
    assert_eq!(listed, at_home.into_iter().collect::<Vec<_>>());
}

pub async fn a_tenants_rows_are_its_own(store: &SharedStore) {
    let (one, two) = (TenantId::random(), TenantId::random());
    for owner in [one, two] {
        some_codes(store, owner, 3).await;
        store.change(create(of_endpoint(&endpoint(owner)))).await.unwrap();
        store
            .change(create(Resource::ApiKey(api_key(owner))))
            .await
            .unwrap();
    }
    for owner in [one, two] {
        let codes = store.codes(owner, &CodeFilter::default(), &ALL).await.unwrap();
        assert!(codes.len() == 3 && codes.iter().all(|code| code.tenant == owner));
        let tagged = CodeFilter {
            tag: Some("t1".to_owned()),
            ..CodeFilter::default()
        };
        let codes = store.codes(owner, &tagged, &ALL).await.unwrap();
        assert!(codes.len() == 3 && codes.iter().all(|code| code.tenant == owner));
        let endpoints = store.endpoints(owner, &ALL).await.unwrap();
        assert!(endpoints.len() == 1 && endpoints[0].tenant == owner);
        let keys = store.api_keys(owner, &ALL).await.unwrap();
        assert!(keys.len() == 1 && keys[0].0.tenant == owner);
    }
}
