//! What a crash leaves of a change: a process is stopped after each of the statements that a change is made of, before or
//! after the statement was done. Others then finish it. Nothing is lost, nothing stands there twice, counts stay exact.

use std::{sync::Arc, time::Duration};

use futures::{FutureExt as _, future::join_all};
use qrelay_store::{
    checkpoint::HealthState,
    conformance::{
        Fixture as _,
        samples::{api_key, at, code, create, endpoint, health_change, secret, tenant, update},
    },
    event::EventType,
    id::{ConfigSeq, TenantId},
    model::{Code, CodeStatus, Endpoint, Resource, ResourceId},
    scylla::{ScyllaStore, Seen, Then},
    store::{
        Change, ChangeError, Changed, CodeFilter, ConfigLog as _, Page, Registry as _, RequestKey,
        SecretChange, StoreError,
    },
};
use scylla::client::session::Session;

use super::{
    Cluster,
    cluster::{Keyspace, session},
    config,
};

/// Far more statements than any change has.
pub(super) const STATEMENTS_MAX: u64 = 60;
const ALL: Page = Page {
    after: None,
    limit: 100,
};

/// Processes that share a keyspace: one that is stopped, and two that are not.
pub(super) struct Processes {
    pub(super) dying: Arc<ScyllaStore>,
    pub(super) others: [Arc<ScyllaStore>; 2],
    pub(super) session: Session,
    pub(super) keyspace: Keyspace,
}

impl Processes {
    pub(super) async fn start() -> Self {
        let cluster = Cluster::open().await;
        let keyspace = cluster.keyspace;
        let config = config(&keyspace);
        let open = async || ScyllaStore::open(&config).await.unwrap();
        Self {
            dying: open().await,
            others: [open().await, open().await],
            session: session().await,
            keyspace,
        }
    }

    /// Both that live finish what was left, at once.
    pub(super) async fn sweep(&self) {
        let sweeps = self.others.iter().map(async |store| {
            store.sweep(&mut Seen::default(), Duration::ZERO).await.unwrap();
        });
        join_all(sweeps).await;
        assert_eq!(self.count("pending", "").await, 0, "a name was left");
    }

    /// Rows of a table.
    pub(super) async fn count(&self, table: &str, condition: &str) -> usize {
        let statement = format!("SELECT * FROM {}.{table} {condition}", self.keyspace.name);
        let rows = self.session.query_unpaged(statement, ()).await.unwrap();
        rows.into_rows_result().unwrap().rows_num()
    }

    /// How many live rows a tenant has of a kind, after nothing is held any more.
    pub(super) async fn live(&self, kind: &str, tenant: TenantId) -> i64 {
        let statement = format!(
            "SELECT n, held FROM {}.live_count WHERE kind = '{kind}' AND scope = '{tenant}'",
            self.keyspace.name
        );
        let rows = self.session.query_unpaged(statement, ()).await.unwrap();
        let rows = rows.into_rows_result().unwrap();
        let found: Option<(i64, String)> = rows.maybe_first_row().unwrap();
        let (n, held) = found.unwrap_or((0, "{}".to_owned()));
        assert_eq!(held, "{}", "a change is held for ever");
        n
    }

    /// How often a version of a row stands in the configuration log, and among its tenant's events.
    pub(super) async fn announced(
        &self,
        tenant: TenantId,
        of: (ResourceId, u64),
        health: bool,
    ) -> (usize, usize) {
        let mut stands = 0;
        let mut after = ConfigSeq::ZERO;
        loop {
            let rows = self.others[0].config_after(after, 500).await.unwrap();
            for row in &rows {
                assert_eq!(row.seq, after.next(), "a gap");
                after = row.seq;
                let same = row.changes.iter().filter(|change| {
                    (change.resource, change.version) == of && change.health.is_some() == health
                });
                stands += same.count();
            }
            if rows.is_empty() {
                break;
            }
        }
        let events = self.others[1]
            .config_events_before(tenant, None, 1000)
            .await
            .unwrap();
        let same = events.iter().filter(|(_, _, change)| {
            (change.resource, change.version) == of && change.health.is_some() == health
        });
        (stands, same.count())
    }

    /// Stops a change after each statement, in both ways, and lets others go on: `again` says what must be then.
    async fn stop_everywhere(&self, name: &str, scene: impl AsyncFn() -> Scene) {
        for then in [Then::Stop, Then::StopUnheard] {
            let mut stopped = 0;
            for statements in 0..STATEMENTS_MAX {
                let scene = scene().await;
                let trace = format!("{name}: {then:?} after {statements} statements");
                self.dying.after_writes(statements, then);
                let outcome = self.dying.change(scene.change.clone()).await;
                let was_stopped = self.dying.has_stopped();
                self.dying.work_again();
                if !was_stopped {
                    outcome.unwrap();
                    scene.check(self, &trace, true).await;
                    break;
                }
                stopped += 1;
                let error = outcome.expect_err(&trace);
                assert!(
                    matches!(error, ChangeError::Store(StoreError::Unavailable(_))),
                    "{trace}: {error}"
                );
                self.go_on_after(&scene, statements, &trace).await;
            }
            assert!(
                (6..STATEMENTS_MAX - 1).contains(&stopped),
                "{name}: {stopped} stops"
            );
        }
    }

    /// Some crashes are found by the sweeper, some by the caller who repeats, some by both at once.
    async fn go_on_after(&self, scene: &Scene, statements: u64, trace: &str) {
        let again = async || self.others[1].change(scene.change.clone()).await;
        match statements % 3 {
            0 => {
                self.sweep().await;
                scene.check_whole_or_not_at_all(self, trace).await;
                scene.is_answered(again().await, trace);
            }
            1 => scene.is_answered(again().await, trace),
            _ => {
                let (answer, ()) = tokio::join!(again(), async {
                    let swept = self.others[0].sweep(&mut Seen::default(), Duration::ZERO).await;
                    swept.unwrap();
                });
                scene.is_answered(answer, trace);
            }
        }
        scene.check(self, trace, false).await;
        self.sweep().await;
        scene.check(self, trace, true).await;
    }
}

/// A change to be stopped, and what it makes.
struct Scene {
    change: Change,
    before: Option<Resource>,
    live: i64,
    secrets: Vec<qrelay_store::model::SecretRow>,
}

impl Scene {
    fn of(change: Change, before: Option<Resource>, live: i64) -> Self {
        Self {
            change: Change {
                event: Some(EventType::CodeUpdated),
                ..change
            },
            before,
            live,
            secrets: Vec::new(),
        }
    }

    fn is_answered(&self, answer: Result<Changed, ChangeError>, trace: &str) {
        match answer {
            Ok(Changed::Done(_)) => {}
            Ok(Changed::Replayed(id)) => {
                assert!(
                    self.change.request.is_some() && id == self.change.resource.id(),
                    "{trace}"
                );
            }
            Err(error) => panic!("{trace}: {error}"),
        }
    }

    async fn stored(&self, of: &ScyllaStore) -> Option<Resource> {
        match self.change.resource.id() {
            ResourceId::Tenant(id) => of
                .tenant(id)
                .await
                .unwrap()
                .map(|row| Resource::Tenant((*row).clone())),
            ResourceId::ApiKey(id) => of
                .api_key(id)
                .await
                .unwrap()
                .map(|row| Resource::ApiKey((*row).clone())),
            ResourceId::Code(id) => {
                let row = of.code(id).await.unwrap();
                row.map(|row| Resource::Code(Box::new((*row).clone())))
            }
            ResourceId::Endpoint(id) => {
                let row = of.endpoint(id).await.unwrap();
                row.map(|row| Resource::Endpoint(Box::new((*row).clone())))
            }
        }
    }

    /// The change was made as a whole, or nothing of it can be seen.
    async fn check_whole_or_not_at_all(&self, all: &Processes, trace: &str) {
        let stored = self.stored(&all.others[0]).await;
        if stored.as_ref() == Some(&self.change.resource) {
            self.check(all, trace, true).await;
            return;
        }
        assert_eq!(stored, self.before, "{trace}");
        let of = (self.change.resource.id(), self.change.resource.version());
        let tenant = self.change.resource.tenant();
        assert_eq!(all.announced(tenant, of, false).await, (0, 0), "{trace}");
        let was = i64::from(self.before.is_some());
        assert_eq!(all.live(of.0.kind().as_str(), tenant).await, was, "{trace}");
        if let Resource::Code(code) = &self.change.resource {
            let found = all.others[0].code_version(code.id, code.version).await.unwrap();
            assert_eq!(found, None, "{trace}");
        }
        if let (Resource::Endpoint(endpoint), None) = (&self.change.resource, &self.before) {
            let condition = format!("WHERE endpoint = '{}'", endpoint.id);
            assert_eq!(
                all.count("secret", &condition).await,
                0,
                "{trace}: a secret was left"
            );
        }
    }

    /// The change was made, once. `swept`: and nothing of it is left to be done.
    async fn check(&self, all: &Processes, trace: &str, swept: bool) {
        for store in &all.others {
            let stored = self.stored(store).await;
            assert_eq!(stored.as_ref(), Some(&self.change.resource), "{trace}");
        }
        let of = (self.change.resource.id(), self.change.resource.version());
        let tenant = self.change.resource.tenant();
        assert_eq!(all.announced(tenant, of, false).await, (1, 1), "{trace}");
        if swept {
            assert_eq!(all.live(of.0.kind().as_str(), tenant).await, self.live, "{trace}");
        }
        match &self.change.resource {
            Resource::Code(code) => check_code(&all.others[0], code, trace).await,
            Resource::Endpoint(endpoint) => {
                self.check_endpoint(all, endpoint, swept, trace).await;
            }
            _ => {}
        }
    }

    async fn check_endpoint(&self, all: &Processes, endpoint: &Endpoint, swept: bool, trace: &str) {
        let store = &all.others[0];
        assert_eq!(store.secrets(endpoint.id).await.unwrap(), self.secrets, "{trace}");
        if swept {
            let condition = format!("WHERE endpoint = '{}'", endpoint.id);
            let stored = all.count("secret", &condition).await;
            assert_eq!(stored, self.secrets.len(), "{trace}: a secret was left");
        }
        let listed = store.endpoints(endpoint.tenant, &ALL).await.unwrap();
        assert_eq!(listed.len(), usize::from(!endpoint.deleted), "{trace}");
    }
}

async fn check_code(store: &ScyllaStore, code: &Code, trace: &str) {
    let version = store.code_version(code.id, code.version).await.unwrap();
    assert_eq!(version.as_deref(), Some(code), "{trace}");
    let linked = store.code_by_link(&code.link).await.unwrap();
    assert_eq!(linked.as_deref(), Some(code), "{trace}");
    let wanted = usize::from(code.status != CodeStatus::Deleted);
    for tag in &code.tags {
        let filter = CodeFilter {
            tag: Some(tag.clone()),
            ..CodeFilter::default()
        };
        let listed = store.codes(code.tenant, &filter, &ALL).await.unwrap();
        assert_eq!(listed.codes.len(), wanted, "{trace}: tag {tag}");
    }
    let old = CodeFilter {
        tag: Some("t0".to_owned()),
        ..CodeFilter::default()
    };
    let listed = store.codes(code.tenant, &old, &ALL).await.unwrap();
    assert_eq!(listed.codes, [], "{trace}");
    let all = store
        .codes(code.tenant, &CodeFilter::default(), &ALL)
        .await
        .unwrap();
    assert_eq!(all.codes.len(), wanted, "{trace}");
}

pub(super) fn of_code(code: &Code) -> Resource {
    Resource::Code(Box::new(code.clone()))
}

pub(super) fn of_endpoint(endpoint: &Endpoint) -> Resource {
    Resource::Endpoint(Box::new(endpoint.clone()))
}

pub(super) fn new_code() -> Code {
    let tenant = TenantId::random();
    code(tenant, &tenant.to_string())
}

pub(super) fn request(of: &Code) -> RequestKey {
    RequestKey {
        scope: of.tenant.to_string(),
        rpc: "CreateCode",
        request_id: "r".to_owned(),
        body_hash: [7; 32],
        expires_at: at(3_600_000),
    }
}

#[tokio::test]
#[ignore = "needs Cassandra: run by make test"]
async fn a_creation_that_is_stopped_anywhere_is_made_once_or_not_at_all() {
    let all = Processes::start().await;
    all.stop_everywhere("create a code", async || {
        let code = new_code();
        let change = Change {
            request: Some(request(&code)),
            count_max: Some(1),
            ..create(of_code(&code))
        };
        Scene::of(change, None, 1)
    })
    .await;
    all.stop_everywhere("create a key", async || {
        Scene::of(create(Resource::ApiKey(api_key(TenantId::random()))), None, 1)
    })
    .await;
}

#[tokio::test]
#[ignore = "needs Cassandra: run by make test"]
async fn an_update_and_a_deletion_that_are_stopped_anywhere_are_made_once_or_not_at_all() {
    let all = Processes::start().await;
    let created = async || {
        let mut code = new_code();
        code.tags = vec!["t0".to_owned(), "t1".to_owned()];
        all.others[0].change(create(of_code(&code))).await.unwrap();
        code
    };
    all.stop_everywhere("update a code", async || {
        let before = created().await;
        let mut code = before.clone();
        (code.version, code.tags) = (2, vec!["t1".to_owned(), "t2".to_owned()]);
        Scene::of(update(of_code(&code)), Some(of_code(&before)), 1)
    })
    .await;
    all.stop_everywhere("delete a code", async || {
        let before = created().await;
        let mut code = before.clone();
        (code.version, code.status) = (2, CodeStatus::Deleted);
        Scene::of(update(of_code(&code)), Some(of_code(&before)), 0)
    })
    .await;
}

#[tokio::test]
#[ignore = "needs Cassandra: run by make test"]
async fn secrets_change_with_their_endpoint_wherever_it_is_stopped() {
    let all = Processes::start().await;
    let created = async || {
        let endpoint = endpoint(TenantId::random());
        let secret = secret(endpoint.id);
        let change = Change {
            secrets: SecretChange::Replace(secret.clone()),
            ..create(of_endpoint(&endpoint))
        };
        (endpoint, secret, change)
    };
    all.stop_everywhere("create an endpoint", async || {
        let (_, secret, change) = created().await;
        Scene {
            secrets: vec![secret],
            ..Scene::of(change, None, 1)
        }
    })
    .await;
    all.stop_everywhere("replace a secret", async || {
        let (before, _, change) = created().await;
        all.others[0].change(change).await.unwrap();
        let new = secret(before.id);
        let change = Change {
            secrets: SecretChange::Replace(new.clone()),
            ..update(of_endpoint(&Endpoint {
                version: 2,
                ..before.clone()
            }))
        };
        Scene {
            secrets: vec![new],
            ..Scene::of(change, Some(of_endpoint(&before)), 1)
        }
    })
    .await;
    all.stop_everywhere("delete an endpoint", async || {
        let (before, _, change) = created().await;
        all.others[0].change(change).await.unwrap();
        let change = Change {
            secrets: SecretChange::Clear,
            ..update(of_endpoint(&Endpoint {
                version: 2,
                deleted: true,
                ..before.clone()
            }))
        };
        Scene::of(change, Some(of_endpoint(&before)), 0)
    })
    .await;
}

pub(super) async fn created_endpoint(all: &Processes) -> Endpoint {
    let endpoint = endpoint(TenantId::random());
    all.others[0]
        .change(create(of_endpoint(&endpoint)))
        .await
        .unwrap();
    endpoint
}

#[tokio::test]
#[ignore = "needs Cassandra: run by make test"]
async fn a_health_whose_announcement_is_stopped_anywhere_is_announced_once_or_can_be_again() {
    let all = Processes::start().await;
    for then in [Then::Stop, Then::StopUnheard] {
        for statements in 0..STATEMENTS_MAX {
            let trace = format!("{then:?} after {statements} statements");
            let endpoint = created_endpoint(&all).await;
            let change = health_change(&endpoint, 3, HealthState::Degraded);
            all.dying.after_writes(statements, then);
            let outcome = all.dying.announce_health(&change).await;
            let stopped = all.dying.has_stopped();
            all.dying.work_again();
            assert_eq!(outcome.is_err(), stopped, "{trace}: {outcome:?}");
            if statements % 2 == 0 {
                all.sweep().await;
            }
            all.others[1].announce_health(&change).await.unwrap();
            all.sweep().await;
            let of = (ResourceId::Endpoint(endpoint.id), 3);
            assert_eq!(all.announced(endpoint.tenant, of, true).await, (1, 1), "{trace}");
            if !stopped {
                assert!(statements > 4);
                break;
            }
        }
    }
}

#[tokio::test]
#[ignore = "needs Cassandra: run by make test"]
async fn a_change_that_is_swept_while_it_is_under_way_is_made_once() {
    let all = Processes::start().await;
    let mut held = 0;
    for statements in 0..STATEMENTS_MAX {
        let trace = format!("held after {statements} statements");
        let code = new_code();
        let change = Change {
            request: Some(request(&code)),
            count_max: Some(1),
            ..create(of_code(&code))
        };
        let scene = Scene::of(change, None, 1);
        all.dying.after_writes(statements, Then::Hold);
        let mut changing = all.dying.change(scene.change.clone());
        let outcome = tokio::select! {
            outcome = &mut changing => Some(outcome),
            () = all.dying.held() => None,
        };
        all.dying.work_again();
        if let Some(outcome) = outcome {
            outcome.unwrap();
            break;
        }
        held += 1;
        all.sweep().await;
        all.dying.go_on();
        scene.is_answered(changing.await, &trace);
        all.sweep().await;
        scene.check(&all, &trace, true).await;
    }
    assert!((8..STATEMENTS_MAX - 1).contains(&held), "{held}");
}

#[tokio::test]
#[ignore = "needs Cassandra: run by make test"]
async fn a_sweeper_leaves_young_changes_alone_and_comes_back_to_them() {
    let all = Processes::start().await;
    let code = new_code();
    // Stopped right after its name was written.
    all.dying.after_writes(0, Then::StopUnheard);
    all.dying.change(create(of_code(&code))).await.unwrap_err();
    all.dying.work_again();
    let mut seen = Seen::default();
    let sweeper = &all.others[0];
    for _ in 0..2 {
        let swept = sweeper.sweep(&mut seen, Duration::from_secs(3600)).await;
        assert_eq!(swept.unwrap(), 0);
        assert_eq!(all.count("pending", "").await, 1);
    }
    assert_eq!(sweeper.sweep(&mut seen, Duration::ZERO).await.unwrap(), 1);
    assert_eq!(all.count("pending", "").await, 0);
    assert_eq!(sweeper.sweep(&mut seen, Duration::ZERO).await.unwrap(), 0);
}

#[tokio::test]
#[ignore = "needs Cassandra: run by make test"]
async fn names_that_cannot_be_read_keep_a_sweeper_from_nothing() {
    let all = Processes::start().await;
    let code = new_code();
    all.dying.after_writes(0, Then::StopUnheard);
    all.dying.change(create(of_code(&code))).await.unwrap_err();
    all.dying.work_again();
    let keyspace = &all.keyspace.name;
    let names = format!("SELECT bucket FROM {keyspace}.pending");
    let names = all.session.query_unpaged(names, ()).await.unwrap();
    let (bucket,): (i32,) = names.into_rows_result().unwrap().first_row().unwrap();
    // More of them than a sweeper reads at once, all before that one.
    for number in 100..250 {
        let insert = format!(
            "INSERT INTO {keyspace}.pending (bucket, attempt, name) VALUES ({bucket}, '!{number}', '{{}}')"
        );
        all.session.query_unpaged(insert, ()).await.unwrap();
    }
    let mut seen = Seen::default();
    for swept in [1, 0] {
        let found = all.others[0].sweep(&mut seen, Duration::ZERO).await;
        assert_eq!(found.unwrap(), swept);
        assert_eq!(all.count("pending", "").await, 150, "they are somebody else's");
    }
}

#[tokio::test]
#[ignore = "needs Cassandra: run by make test"]
async fn a_short_link_whose_claimant_never_came_is_free_again() {
    let all = Processes::start().await;
    for statements in 0..STATEMENTS_MAX {
        let (first, mut second) = (new_code(), new_code());
        second.link = first.link.clone();
        all.dying.after_writes(statements, Then::StopUnheard);
        let outcome = all.dying.change(create(of_code(&first))).await;
        all.dying.work_again();
        let taken = all.others[0].change(create(of_code(&second))).await;
        let there = all.others[0].code(first.id).await.unwrap().is_some();
        let trace = format!("after {statements} statements: {taken:?}");
        if there {
            assert!(matches!(taken, Err(ChangeError::Exists)), "{trace}");
            // Past the row's own statement, every further stop is the same to others.
            break;
        }
        assert!(outcome.is_err() && taken.is_ok(), "{trace}");
        // The first one's caller repeats: its link is another's now.
        let again = all.others[1].change(create(of_code(&first))).await;
        assert!(matches!(again, Err(ChangeError::Exists)), "{trace}: {again:?}");
        all.sweep().await;
        check_code(&all.others[0], &second, &trace).await;
        assert_eq!(all.live("code", first.tenant).await, 0, "{trace}");
    }
}

#[tokio::test]
#[ignore = "needs Cassandra: run by make test"]
async fn a_row_that_was_left_unannounced_is_announced_before_it_changes_again() {
    let all = Processes::start().await;
    let mut code = new_code();
    all.others[0].change(create(of_code(&code))).await.unwrap();
    // Stopped right after its row was written: the name is the first statement, the row the second.
    code.version = 2;
    all.dying.after_writes(1, Then::StopUnheard);
    all.dying.change(update(of_code(&code))).await.unwrap_err();
    all.dying.work_again();
    let standing = all.others[0].code(code.id).await.unwrap();
    assert_eq!(standing.as_deref(), Some(&code));
    let version = all.others[0].code_version(code.id, 2).await.unwrap();
    assert_eq!(
        version.as_deref(),
        Some(&code),
        "a version can be read as soon as it stands"
    );
    let mut next = code.clone();
    (next.version, next.name) = (3, "third".to_owned());
    all.others[1].change(update(of_code(&next))).await.unwrap();
    let rows = all.others[0].config_after(ConfigSeq::ZERO, 100).await.unwrap();
    let versions: Vec<u64> = rows
        .iter()
        .flat_map(|row| &row.changes)
        .map(|change| change.version)
        .collect();
    assert_eq!(versions, [1, 2, 3]);
    for (version, wanted) in [(2, &code), (3, &next)] {
        let found = all.others[0].code_version(code.id, version).await.unwrap();
        assert_eq!(found.as_deref(), Some(wanted));
    }
}

#[tokio::test]
#[ignore = "needs Cassandra: run by make test"]
async fn processes_that_create_at_once_agree_on_numbers_limits_and_links() {
    let all = Processes::start().await;
    let owner = TenantId::random();
    let stores = [&all.dying, &all.others[0], &all.others[1]];
    // Twice each short id, from different processes; at most five codes.
    let creates = (0..18).map(|number| {
        let code = code(owner, &format!("{owner}-{}", number / 2));
        let change = Change {
            count_max: Some(5),
            ..create(of_code(&code))
        };
        stores[number % 3]
            .change(change)
            .map(move |answer| (number, code, answer))
    });
    let outcomes = join_all(creates).await;
    let made: Vec<&Code> = outcomes
        .iter()
        .filter(|(.., answer)| answer.is_ok())
        .map(|(_, code, _)| code)
        .collect();
    assert_eq!(made.len(), 5, "{outcomes:?}");
    for (_, _, answer) in &outcomes {
        assert!(
            matches!(
                answer,
                Ok(Changed::Done(_)) | Err(ChangeError::Exists | ChangeError::LimitReached(5))
            ),
            "{answer:?}"
        );
    }
    for code in made {
        let linked = all.others[0].code_by_link(&code.link).await.unwrap();
        assert_eq!(linked.as_deref(), Some(code));
    }
    assert_eq!(all.live("code", owner).await, 5);
    let rows = all.others[0].config_after(ConfigSeq::ZERO, 100).await.unwrap();
    let changes: Vec<_> = rows.iter().flat_map(|row| &row.changes).collect();
    assert_eq!(changes.len(), 5, "{changes:?}");
    assert_eq!(all.count("pending", "").await, 0);
}

#[tokio::test]
#[ignore = "needs Cassandra: run by make test"]
async fn a_change_costs_as_many_statements_as_are_stated() {
    let all = Processes::start().await;
    let store = &all.dying;
    let cost = async |change: Change| {
        let before = store.statements();
        store.change(change).await.unwrap();
        store.statements() - before
    };
    let mut bare = new_code();
    (bare.tags, bare.campaign_id, bare.external_id) = (Vec::new(), String::new(), String::new());
    let first = cost(create(of_code(&bare))).await;
    let mut updated = bare.clone();
    updated.version = 2;
    let update_of_code = cost(update(of_code(&updated))).await;
    let key = new_code();
    let mut with_request = Change {
        request: Some(request(&key)),
        ..create(of_code(&key))
    };
    let Resource::Code(code) = &mut with_request.resource else {
        unreachable!()
    };
    (code.tags, code.campaign_id, code.external_id) = (Vec::new(), String::new(), String::new());
    let second = cost(with_request).await;
    let hook = endpoint(TenantId::random());
    let with_secret = Change {
        secrets: SecretChange::Replace(secret(hook.id)),
        ..create(of_endpoint(&hook))
    };
    let created_endpoint = cost(with_secret).await;
    let mut row = tenant();
    let created_tenant = cost(create(Resource::Tenant(row.clone()))).await;
    row.version = 2;
    let updated_tenant = cost(update(Resource::Tenant(row))).await;
    assert_eq!(
        [
            update_of_code,
            updated_tenant,
            first,
            second,
            created_endpoint,
            created_tenant
        ],
        [9, 8, 17, 20, 15, 13]
    );
}
