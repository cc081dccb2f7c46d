//! Rules of changes to the registry.

use std::time::Duration;

use futures::future::join_all;

use super::samples::{api_key, at, code, create, endpoint, secret, tenant, update};
use crate::{
    id::{ConfigSeq, PartitionId, TenantId},
    limits,
    model::{Code, CodeStatus, Host, Resource, ResourceId, SecretRow, TenantStatus},
    store::{Change, ChangeError, Changed, Page, RequestKey, SecretChange, SharedStore},
};

fn of_code(code: &Code) -> Resource {
    Resource::Code(Box::new(code.clone()))
}

async fn created_code(store: &SharedStore, tenant: TenantId, short_id: &str) -> Code {
    let code = code(tenant, short_id);
    store.change(create(of_code(&code))).await.unwrap();
    code
}

pub async fn what_was_created_is_found(store: &SharedStore) {
    let tenant = tenant();
    let (key, code, endpoint) = (api_key(tenant.id), code(tenant.id, "abc"), endpoint(tenant.id));
    let rows = [
        Resource::Tenant(tenant.clone()),
        Resource::ApiKey(key.clone()),
        of_code(&code),
        Resource::Endpoint(Box::new(endpoint.clone())),
    ];
    for row in rows {
        store.change(create(row)).await.unwrap();
    }
    assert_eq!(store.tenant(tenant.id).await.unwrap().as_deref(), Some(&tenant));
    assert_eq!(store.api_key(key.id).await.unwrap().as_deref(), Some(&key));
    assert_eq!(store.code(code.id).await.unwrap().as_deref(), Some(&code));
    assert_eq!(
        store.code_version(code.id, 1).await.unwrap().as_deref(),
        Some(&code)
    );
    assert_eq!(
        store.code_by_link(&code.link).await.unwrap().as_deref(),
        Some(&code)
    );
    assert_eq!(
        store.endpoint(endpoint.id).await.unwrap().as_deref(),
        Some(&endpoint)
    );
    assert_eq!(store.code(self::code(tenant.id, "no").id).await.unwrap(), None);
    assert_eq!(store.tenant(TenantId::random()).await.unwrap(), None);
}

pub async fn every_version_of_a_code_stays(store: &SharedStore) {
    let mut code = created_code(store, TenantId::random(), "abc").await;
    let mut versions = vec![code.clone()];
    for (version, destination) in [(2, "https://two.example/"), (3, "https://three.example/")] {
        (code.version, code.destination_url) = (version, destination.to_owned());
        store.change(update(of_code(&code))).await.unwrap();
        versions.push(code.clone());
    }
    for wanted in &versions {
        let found = store.code_version(code.id, wanted.version).await.unwrap();
        assert_eq!(found.as_deref(), Some(wanted));
    }
    assert_eq!(store.code_version(code.id, 4).await.unwrap(), None);
    assert_eq!(
        store.code_by_link(&code.link).await.unwrap().as_deref(),
        Some(&code)
    );
}

pub async fn a_change_of_another_version_is_a_conflict(store: &SharedStore) {
    let mut code = created_code(store, TenantId::random(), "abc").await;
    let first = code.clone();
    (code.version, code.name) = (3, "new".to_owned());
    let refused = store.change(update(of_code(&code))).await;
    assert!(matches!(refused, Err(ChangeError::Conflict)), "{refused:?}");
    let unknown = update(of_code(&Code {
        version: 2,
        ..self::code(code.tenant, "no")
    }));
    assert!(matches!(store.change(unknown).await, Err(ChangeError::Conflict)));
    assert_eq!(store.code(code.id).await.unwrap().as_deref(), Some(&first));
    assert_eq!(store.config_head().await.unwrap(), ConfigSeq::new(1));
}

pub async fn of_concurrent_changes_one_wins(store: &SharedStore) {
    let code = created_code(store, TenantId::random(), "abc").await;
    let rivals: Vec<_> = (0..8)
        .map(|rival| Code {
            version: 2,
            name: format!("rival {rival}"),
            ..code.clone()
        })
        .collect();
    let outcomes = join_all(rivals.iter().map(|rival| store.change(update(of_code(rival))))).await;
    let winners: Vec<_> = rivals
        .iter()
        .zip(&outcomes)
        .filter(|(_, outcome)| outcome.is_ok())
        .collect();
    assert_eq!(winners.len(), 1, "{outcomes:?}");
    assert_eq!(store.code(code.id).await.unwrap().as_deref(), Some(winners[0].0));
    assert_eq!(store.config_head().await.unwrap(), ConfigSeq::new(2));
}

pub async fn a_repeated_change_is_made_once(store: &SharedStore) {
    let mut code = code(TenantId::random(), "abc");
    let mut changes = vec![create(of_code(&code))];
    code.version = 2;
    changes.push(update(of_code(&code)));
    for (made, change) in (1..).zip(changes) {
        for _ in 0..2 {
            let changed = store.change(change.clone()).await.unwrap();
            assert_eq!(changed, Changed::Done(ConfigSeq::new(made)));
        }
    }
    assert_eq!(store.config_head().await.unwrap(), ConfigSeq::new(2));
    let mut endpoint = endpoint(code.tenant);
    store
        .change(create(Resource::Endpoint(Box::new(endpoint.clone()))))
        .await
        .unwrap();
    endpoint.version = 2;
    let rotate = |secret| Change {
        secrets: SecretChange::Replace(secret),
        ..update(Resource::Endpoint(Box::new(endpoint.clone())))
    };
    // Two rotations in the same millisecond make the same row, but not the same secret.
    store.change(rotate(secret(endpoint.id))).await.unwrap();
    let rival = store.change(rotate(secret(endpoint.id))).await;
    assert!(matches!(rival, Err(ChangeError::Conflict)), "{rival:?}");
}

pub async fn an_id_is_used_once(store: &SharedStore) {
    let code = created_code(store, TenantId::random(), "abc").await;
    let again = Code {
        name: "other".to_owned(),
        ..code.clone()
    };
    let refused = store.change(create(of_code(&again))).await;
    assert!(matches!(refused, Err(ChangeError::Exists)), "{refused:?}");
    assert_eq!(store.code(code.id).await.unwrap().as_deref(), Some(&code));
}

pub async fn a_short_link_belongs_to_its_code_for_ever(store: &SharedStore) {
    let mut code = created_code(store, TenantId::random(), "abc").await;
    for tenant in [code.tenant, TenantId::random()] {
        let refused = store.change(create(of_code(&self::code(tenant, "abc")))).await;
        assert!(matches!(refused, Err(ChangeError::Exists)), "{refused:?}");
    }
    (code.version, code.status) = (2, CodeStatus::Deleted);
    store.change(update(of_code(&code))).await.unwrap();
    for tenant in [code.tenant, TenantId::random()] {
        let refused = store.change(create(of_code(&self::code(tenant, "abc")))).await;
        assert!(matches!(refused, Err(ChangeError::Exists)), "{refused:?}");
    }
    assert_eq!(
        store.code_by_link(&code.link).await.unwrap().as_deref(),
        Some(&code)
    );
    // Another link is as free as before.
    created_code(store, code.tenant, "abd").await;
}

pub async fn no_spelling_of_a_lower_case_link_passes_to_another_tenant(store: &SharedStore) {
    let mut lower = created_code(store, TenantId::random(), "menu").await;
    let stranger = TenantId::random();
    for _ in 0..2 {
        for spelling in ["MENU", "Menu"] {
            let refused = store.change(create(of_code(&code(stranger, spelling)))).await;
            assert!(matches!(refused, Err(ChangeError::Exists)), "{refused:?}");
        }
        // Not even after deletion: it is printed.
        (lower.version, lower.status) = (2, CodeStatus::Deleted);
        if store.code(lower.id).await.unwrap().unwrap().version == 1 {
            store.change(update(of_code(&lower))).await.unwrap();
        }
    }
    // Its own tenant may, and whoever printed capitals first keeps them.
    created_code(store, lower.tenant, "MENU").await;
    let capitals = created_code(store, stranger, "BAR").await;
    created_code(store, lower.tenant, "bar").await;
    let mut changed = capitals.clone();
    (changed.version, changed.name) = (2, "other".to_owned());
    store.change(update(of_code(&changed))).await.unwrap();
    assert_eq!(
        store.code_by_link(&capitals.link).await.unwrap().as_deref(),
        Some(&changed)
    );
}

pub async fn short_links_are_case_sensitive_and_by_host(store: &SharedStore) {
    let tenant = TenantId::random();
    let (lower, upper) = (
        created_code(store, tenant, "abc").await,
        created_code(store, tenant, "ABC").await,
    );
    let mut elsewhere = code(tenant, "abc");
    elsewhere.link.host = Host("go.example.com".to_owned());
    store.change(create(of_code(&elsewhere))).await.unwrap();
    for code in [lower, upper, elsewhere] {
        assert_eq!(
            store.code_by_link(&code.link).await.unwrap().as_deref(),
            Some(&code)
        );
    }
    let mut unknown = code(tenant, "aBc").link;
    assert_eq!(store.code_by_link(&unknown).await.unwrap(), None);
    unknown.short_id = String::new();
    assert_eq!(store.code_by_link(&unknown).await.unwrap(), None);
}

fn request(id: &str, body: u8) -> RequestKey {
    RequestKey {
        scope: "ten_x".to_owned(),
        rpc: "CreateCode",
        request_id: id.to_owned(),
        body_hash: [body; 32],
        expires_at: at(1000),
    }
}

fn create_with(request: RequestKey, short_id: &str) -> Change {
    Change {
        request: Some(request),
        ..create(of_code(&code(TenantId::from_bytes([1; 10]), short_id)))
    }
}

pub async fn a_repeated_request_creates_once(store: &SharedStore) {
    let first = create_with(request("r", 1), "one");
    let made = first.resource.id();
    assert!(matches!(store.change(first).await.unwrap(), Changed::Done(_)));
    // The caller made another id and short id for the same request.
    let second = create_with(request("r", 1), "two");
    let ResourceId::Code(never) = second.resource.id() else {
        unreachable!()
    };
    assert_eq!(store.change(second).await.unwrap(), Changed::Replayed(made));
    assert_eq!(store.code(never).await.unwrap(), None);
    // The same id elsewhere is another request.
    for other in [
        RequestKey {
            scope: "ten_y".to_owned(),
            ..request("r", 1)
        },
        RequestKey {
            rpc: "CreateEndpoint",
            ..request("r", 1)
        },
        request("s", 1),
    ] {
        let short_id = format!("{}{}{}", other.scope, other.rpc, other.request_id);
        let changed = store.change(create_with(other, &short_id)).await.unwrap();
        assert!(matches!(changed, Changed::Done(_)), "{changed:?}");
    }
}

pub async fn of_concurrent_requests_with_one_id_one_is_carried_out(store: &SharedStore) {
    // Each has made an id of its own. All want one short id, and there is room for one.
    let creates = [(); 4].map(|()| Change {
        count_max: Some(1),
        ..create_with(request("r", 1), "one")
    });
    let answers = join_all(creates.clone().map(|change| store.change(change))).await;
    let mut made = creates
        .iter()
        .zip(&answers)
        .filter(|(_, answer)| matches!(answer, Ok(Changed::Done(_))));
    let (of, _) = made.next().unwrap();
    assert!(made.next().is_none(), "{answers:?}");
    for answer in &answers {
        match answer {
            Ok(Changed::Done(_)) => {}
            Ok(Changed::Replayed(id)) => assert_eq!(*id, of.resource.id()),
            Err(error) => panic!("{error}: {answers:?}"),
        }
    }
}

pub async fn a_request_id_with_another_body_is_refused(store: &SharedStore) {
    store.change(create_with(request("r", 1), "one")).await.unwrap();
    let refused = store.change(create_with(request("r", 2), "two")).await;
    assert!(matches!(refused, Err(ChangeError::RequestReused)), "{refused:?}");
    assert_eq!(store.config_head().await.unwrap(), ConfigSeq::new(1));
}

pub async fn an_expired_request_id_is_forgotten(store: &SharedStore) {
    store.change(create_with(request("r", 1), "one")).await.unwrap();
    let mut later = create_with(request("r", 2), "two");
    later.at = at(0).after(Duration::from_secs(1));
    later.request.as_mut().unwrap().expires_at = at(2000);
    let made = later.resource.id();
    assert!(matches!(
        store.change(later.clone()).await.unwrap(),
        Changed::Done(_)
    ));
    assert_eq!(store.change(later).await.unwrap(), Changed::Replayed(made));
}

pub async fn a_limit_is_kept_by_concurrent_creates(store: &SharedStore) {
    let tenant = TenantId::random();
    let limited = |row| Change {
        count_max: Some(3),
        ..create(row)
    };
    let creates = (0..10).map(|at| store.change(limited(of_code(&code(tenant, &format!("c{at}"))))));
    let outcomes = join_all(creates).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 3);
    for refused in outcomes.iter().filter(|outcome| outcome.is_err()) {
        assert!(
            matches!(refused, Err(ChangeError::LimitReached(3))),
            "{refused:?}"
        );
    }
    // Another tenant, and another kind, have their own counts.
    store
        .change(limited(of_code(&code(TenantId::random(), "other"))))
        .await
        .unwrap();
    store
        .change(limited(Resource::Endpoint(Box::new(endpoint(tenant)))))
        .await
        .unwrap();
    let creates = (0..5).map(|_| store.change(limited(Resource::Tenant(self::tenant()))));
    let made = join_all(creates)
        .await
        .iter()
        .filter(|outcome| outcome.is_ok())
        .count();
    assert_eq!(made, 3, "tenants are counted over the install");
}

pub async fn a_deleted_row_makes_room(store: &SharedStore) {
    let tenant = TenantId::random();
    let limited = |short_id: &str| Change {
        count_max: Some(1),
        ..create(of_code(&code(tenant, short_id)))
    };
    let mut first = created_code(store, tenant, "one").await;
    assert!(matches!(
        store.change(limited("two")).await,
        Err(ChangeError::LimitReached(1))
    ));
    (first.version, first.status) = (2, CodeStatus::Blocked);
    store.change(update(of_code(&first))).await.unwrap();
    assert!(matches!(
        store.change(limited("two")).await,
        Err(ChangeError::LimitReached(1))
    ));
    (first.version, first.status) = (3, CodeStatus::Deleted);
    store.change(update(of_code(&first))).await.unwrap();
    store.change(limited("two")).await.unwrap();
    // Changing what is deleted makes no more room.
    first.version = 4;
    store.change(update(of_code(&first))).await.unwrap();
    assert!(matches!(
        store.change(limited("three")).await,
        Err(ChangeError::LimitReached(1))
    ));
}

pub async fn secrets_are_kept_replaced_and_cleared_with_their_endpoint(store: &SharedStore) {
    let (mut endpoint, other) = (endpoint(TenantId::random()), endpoint(TenantId::random()));
    let (first, second, of_other) = (secret(endpoint.id), secret(endpoint.id), secret(other.id));
    let with = |change, secrets| Change { secrets, ..change };
    let row = |endpoint: &crate::model::Endpoint| Resource::Endpoint(Box::new(endpoint.clone()));
    assert_eq!(store.any_secret().await.unwrap(), None);
    let created = with(create(row(&endpoint)), SecretChange::Replace(first.clone()));
    store.change(created).await.unwrap();
    let any = store.any_secret().await.unwrap();
    assert_eq!(
        any,
        Some((endpoint.tenant, endpoint.id, first.id, first.sealed.clone()))
    );
    store
        .change(with(create(row(&other)), SecretChange::Replace(of_other.clone())))
        .await
        .unwrap();
    endpoint.version = 2;
    store.change(update(row(&endpoint))).await.unwrap();
    assert_eq!(store.secrets(endpoint.id).await.unwrap(), [first]);
    endpoint.version = 3;
    store
        .change(with(
            update(row(&endpoint)),
            SecretChange::Replace(second.clone()),
        ))
        .await
        .unwrap();
    assert_eq!(store.secrets(endpoint.id).await.unwrap(), [second]);
    (endpoint.version, endpoint.deleted) = (4, true);
    store
        .change(with(update(row(&endpoint)), SecretChange::Clear))
        .await
        .unwrap();
    assert_eq!(store.secrets(endpoint.id).await.unwrap(), []);
    assert_eq!(store.secrets(other.id).await.unwrap(), [of_other]);
}

pub async fn a_rotation_keeps_the_newest_secret_until_its_hour_and_no_older_one(store: &SharedStore) {
    let endpoint = endpoint(TenantId::random());
    let made = |second| SecretRow {
        created_at: at(second),
        ..secret(endpoint.id)
    };
    let (first, second, third) = (made(0), made(1), made(2));
    let change = |version, secrets| {
        let row = crate::model::Endpoint {
            version,
            ..endpoint.clone()
        };
        let row = Resource::Endpoint(Box::new(row));
        let change = if version == 1 { create(row) } else { update(row) };
        Change { secrets, ..change }
    };
    let rotate = |secret: &SecretRow, until| SecretChange::Rotate {
        secret: secret.clone(),
        until,
    };
    let expiring = |row: &SecretRow, until| SecretRow {
        expires_at: Some(until),
        ..row.clone()
    };
    let created = change(1, SecretChange::Replace(first.clone()));
    store.change(created).await.unwrap();
    let rotated = change(2, rotate(&second, at(100)));
    // The second time, the caller never heard of the first.
    for _ in 0..2 {
        store.change(rotated.clone()).await.unwrap();
        let secrets = store.secrets(endpoint.id).await.unwrap();
        assert_eq!(secrets, [second.clone(), expiring(&first, at(100))]);
    }
    store.change(change(3, rotate(&third, at(50)))).await.unwrap();
    let secrets = store.secrets(endpoint.id).await.unwrap();
    assert_eq!(secrets, [third, expiring(&second, at(50))]);
}

pub async fn a_refused_change_touches_nothing(store: &SharedStore) {
    let endpoint = endpoint(TenantId::random());
    let (first, second) = (secret(endpoint.id), secret(endpoint.id));
    let row = |version| {
        Resource::Endpoint(Box::new(crate::model::Endpoint {
            version,
            ..endpoint.clone()
        }))
    };
    let created = Change {
        secrets: SecretChange::Replace(first.clone()),
        ..create(row(1))
    };
    store.change(created).await.unwrap();
    let stale = Change {
        secrets: SecretChange::Replace(second),
        request: Some(request("r", 1)),
        ..update(row(5))
    };
    assert!(matches!(store.change(stale).await, Err(ChangeError::Conflict)));
    assert_eq!(store.secrets(endpoint.id).await.unwrap(), [first]);
    // Its request id was not used up.
    assert!(matches!(
        store.change(create_with(request("r", 1), "one")).await,
        Ok(Changed::Done(_))
    ));
    let mut tenant = tenant();
    store
        .change(create(Resource::Tenant(tenant.clone())))
        .await
        .unwrap();
    tenant.status = TenantStatus::Suspended;
    assert!(matches!(
        store.change(create(Resource::Tenant(tenant.clone()))).await,
        Err(ChangeError::Exists)
    ));
    assert_eq!(
        store.tenant(tenant.id).await.unwrap().unwrap().status,
        TenantStatus::Active
    );
}

pub async fn the_last_use_of_a_key_moves_forward_only(store: &SharedStore) {
    let key = api_key(TenantId::random());
    store.change(create(Resource::ApiKey(key.clone()))).await.unwrap();
    let page = Page {
        after: None,
        limit: 10,
    };
    let used = async || store.api_keys(key.tenant, &page).await.unwrap()[0].1;
    assert_eq!(used().await, None);
    for (touch, wanted) in [(5, 5), (9, 9), (7, 9)] {
        store.touch_api_key(key.id, at(touch)).await.unwrap();
        assert_eq!(used().await, Some(at(wanted)));
    }
    let head = store.config_head().await.unwrap();
    assert_eq!(head, ConfigSeq::new(1), "a use is not announced");
    // A change of the key keeps it.
    let renamed = crate::model::ApiKey {
        version: 2,
        name: "new".to_owned(),
        ..key.clone()
    };
    store.change(update(Resource::ApiKey(renamed))).await.unwrap();
    assert_eq!(used().await, Some(at(9)));
}

pub async fn claimed_partitions_follow_one_another_and_know_what_came_before_them(store: &SharedStore) {
    let shared = store.install().partitions;
    assert_eq!(store.own_partitions().await.unwrap(), shared);
    let first = store.claim_partitions(3).await.unwrap().unwrap();
    assert_eq!(first, shared..shared + 3);
    store.change(create(Resource::Tenant(tenant()))).await.unwrap();
    store.change(create(Resource::Tenant(tenant()))).await.unwrap();
    let second = store.claim_partitions(1).await.unwrap().unwrap();
    assert_eq!(second, shared + 3..shared + 4);
    assert_eq!(store.own_partitions().await.unwrap(), shared + 4);
    // The third of the first claim, the fourth, and what nobody claimed.
    for (number, before) in [
        (shared + 2, 0),
        (shared + 3, 2),
        (shared + 4, 0),
        (0, 0),
        (shared - 1, 0),
    ] {
        let at = store.claimed_at(PartitionId::new(number)).await.unwrap();
        assert_eq!(at, ConfigSeq::new(before), "{number}");
    }
}

pub async fn of_concurrent_claims_of_partitions_each_gets_its_own(store: &SharedStore) {
    let claims = join_all((1..=6).map(|count| store.claim_partitions(count))).await;
    let mut claims: Vec<_> = claims.into_iter().map(|claim| claim.unwrap().unwrap()).collect();
    claims.sort_by_key(|claim| claim.start);
    let mut lengths: Vec<_> = claims.iter().map(ExactSizeIterator::len).collect();
    let mut end = store.install().partitions;
    for claim in claims {
        assert_eq!(claim.start, end);
        end = claim.end;
    }
    assert_eq!(store.own_partitions().await.unwrap(), end);
    lengths.sort_unstable();
    assert_eq!(lengths, [1, 2, 3, 4, 5, 6]);
}

pub async fn no_more_partitions_are_claimed_than_an_install_may_have(store: &SharedStore) {
    let most = limits::OWN_PARTITIONS_MAX;
    let nearly = store.claim_partitions(most - 2).await.unwrap().unwrap();
    assert_eq!(store.claim_partitions(3).await.unwrap(), None);
    assert_eq!(
        store.own_partitions().await.unwrap(),
        nearly.end,
        "it took nothing"
    );
    let last = store.claim_partitions(2).await.unwrap().unwrap();
    assert_eq!(last.start, nearly.end);
    for count in [1, most, u16::MAX] {
        assert_eq!(store.claim_partitions(count).await.unwrap(), None);
    }
}
