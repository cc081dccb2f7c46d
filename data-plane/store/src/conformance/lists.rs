//! Rules of lists.

use std::collections::BTreeSet;

use super::samples::{P, Q, api_key, at, code, create, endpoint, tenant, update};
use crate::{
    id::{CodeId, EndpointId, KeyId, TenantId},
    model::{ApiKey, Code, CodeStatus, Endpoint, Resource, Tenant, TenantStatus},
    store::{CodeFilter, CodePage, Page, SharedStore},
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
        let paged = pages(store, tenant, &CodeFilter::default(), limit).await;
        assert_eq!(paged, wanted, "pages of {limit}");
    }
}

pub async fn a_page_says_where_the_next_one_begins_while_there_is_one(store: &SharedStore) {
    let tenant = TenantId::random();
    let mut wanted = Vec::new();
    for (number, mut code) in some_codes(store, tenant, 10).await.into_iter().enumerate() {
        // Some of each field's codes have the other's value too.
        let (spring, tagged) = (number % 2 == 0, number % 3 != 0);
        code.campaign_id = if spring { "spring" } else { "autumn" }.to_owned();
        code.tags = if tagged { vec!["t".to_owned()] } else { Vec::new() };
        code.version = 2;
        store.change(update(of_code(&code))).await.unwrap();
        if spring && tagged {
            wanted.push(code);
        }
    }
    let both = filter([None, Some("t"), Some("spring"), None]);
    for limit in [1, 3, 11] {
        assert_eq!(
            pages(store, tenant, &both, limit).await,
            wanted,
            "pages of {limit}"
        );
    }
}

/// All codes that pass a filter, page by page. A full page ends the list if no code follows.
async fn pages(store: &SharedStore, tenant: TenantId, filter: &CodeFilter, limit: usize) -> Vec<Code> {
    let (mut paged, mut page) = (Vec::new(), Page { after: None, limit });
    loop {
        let CodePage { codes, next } = store.codes(tenant, filter, &page).await.unwrap();
        assert!(codes.len() <= limit);
        assert!(
            !codes.is_empty() || paged.is_empty(),
            "an empty page behind another"
        );
        paged.extend(codes.iter().map(|code| (**code).clone()));
        match next {
            Some(next) => page.after = Some(next),
            None => return paged,
        }
    }
}

pub async fn deleted_rows_are_found_but_not_listed(store: &SharedStore) {
    let owner = tenant();
    let counts = async || {
        let codes = store.codes(owner.id, &CodeFilter::default(), &ALL).await;
        (
            store.tenants(&ALL).await.unwrap().len(),
            store.api_keys(owner.id, &ALL).await.unwrap().len(),
            codes.unwrap().codes.len(),
            store.endpoints(owner.id, &ALL).await.unwrap().len(),
        )
    };
    for row in one_of_each(&owner, 1) {
        store.change(create(row)).await.unwrap();
    }
    assert_eq!(counts().await, (1, 1, 1, 1));
    let gone = one_of_each(&owner, 2).map(deleted);
    for row in gone.clone() {
        store.change(update(row)).await.unwrap();
    }
    assert_eq!(counts().await, (0, 0, 0, 0));
    assert_eq!(store.endpoints_homed(P, None, 10).await.unwrap(), []);
    for row in gone {
        match row {
            Resource::Tenant(row) => assert_eq!(*store.tenant(row.id).await.unwrap().unwrap(), row),
            Resource::ApiKey(row) => assert_eq!(*store.api_key(row.id).await.unwrap().unwrap(), row),
            Resource::Code(row) => assert_eq!(*store.code(row.id).await.unwrap().unwrap(), *row),
            Resource::Endpoint(row) => assert_eq!(*store.endpoint(row.id).await.unwrap().unwrap(), *row),
        }
    }
}

/// A tenant and a row of each kind of its own, in some version.
fn one_of_each(owner: &Tenant, version: u64) -> [Resource; 4] {
    [
        Resource::Tenant(Tenant {
            version,
            ..owner.clone()
        }),
        Resource::ApiKey(ApiKey {
            id: KeyId::from_bytes([1; 10]),
            version,
            ..api_key(owner.id)
        }),
        of_code(&Code {
            id: CodeId::from_bytes([1; 10]),
            version,
            ..code(owner.id, "gone")
        }),
        of_endpoint(&Endpoint {
            id: EndpointId::from_bytes([1; 10]),
            version,
            ..endpoint(owner.id)
        }),
    ]
}

fn deleted(mut resource: Resource) -> Resource {
    match &mut resource {
        Resource::Tenant(row) => row.status = TenantStatus::Deleted,
        Resource::ApiKey(row) => row.revoked = true,
        Resource::Code(row) => row.status = CodeStatus::Deleted,
        Resource::Endpoint(row) => row.deleted = true,
    }
    resource
}

async fn found(store: &SharedStore, tenant: TenantId, filter: CodeFilter) -> BTreeSet<String> {
    let page = store.codes(tenant, &filter, &ALL).await.unwrap();
    page.codes.iter().map(|code| code.link.short_id.clone()).collect()
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// A filter: short id, tag, campaign, external id.
fn filter(fields: [Option<&str>; 4]) -> CodeFilter {
    let [short_id, tag, campaign_id, external_id] = fields.map(|field| field.map(str::to_owned));
    CodeFilter {
        short_id,
        tag,
        campaign_id,
        external_id,
    }
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
    for (fields, wanted) in [
        ([None, None, None, None], vec!["a", "b", "c", "d"]),
        ([Some("b"), None, None, None], vec!["b"]),
        ([Some("B"), None, None, None], vec![]),
        ([None, Some("x"), None, None], vec!["a", "b"]),
        ([None, Some("z"), None, None], vec![]),
        ([None, None, Some("c1"), None], vec!["a", "c"]),
        ([None, None, Some(""), None], vec!["d"]),
        ([None, None, None, Some("e1")], vec!["a", "b", "d"]),
        ([None, Some("y"), Some("c1"), None], vec!["a", "c"]),
        ([None, Some("x"), Some("c2"), Some("e1")], vec!["b"]),
        ([Some("a"), Some("y"), None, Some("e2")], vec![]),
    ] {
        assert_eq!(
            found(store, tenant, filter(fields)).await,
            names(&wanted),
            "{fields:?}"
        );
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
        let codes = store.codes(owner, &CodeFilter::default(), &ALL).await;
        let codes = codes.unwrap().codes;
        assert!(codes.len() == 3 && codes.iter().all(|code| code.tenant == owner));
        let tagged = CodeFilter {
            tag: Some("t1".to_owned()),
            ..CodeFilter::default()
        };
        let codes = store.codes(owner, &tagged, &ALL).await.unwrap().codes;
        assert!(codes.len() == 3 && codes.iter().all(|code| code.tenant == owner));
        let endpoints = store.endpoints(owner, &ALL).await.unwrap();
        assert!(endpoints.len() == 1 && endpoints[0].tenant == owner);
        let keys = store.api_keys(owner, &ALL).await.unwrap();
        assert!(keys.len() == 1 && keys[0].0.tenant == owner);
    }
}
