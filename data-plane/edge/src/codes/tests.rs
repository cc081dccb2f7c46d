//! Tests of the cache: look-ups, single flight, and races with changes.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use qrelay_store::Timestamp;
use qrelay_store::model::ResourceId;
use qrelay_store::store::ConfigChange;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::*;
use crate::tests::fake_store::{code, tenant};

/// A source whose look-ups can be held after they have read.
struct Source {
    codes: Mutex<HashMap<CodeId, Arc<Code>>>,
    owner: Arc<Tenant>,
    log: Mutex<Vec<ConfigRow>>,
    open: watch::Sender<bool>,
    begun: watch::Sender<usize>,
    lookups: AtomicUsize,
    fails: AtomicBool,
}

impl Source {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            codes: Mutex::default(),
            owner: Arc::new(tenant()),
            log: Mutex::default(),
            open: watch::Sender::new(true),
            begun: watch::Sender::new(0),
            lookups: AtomicUsize::new(0),
            fails: AtomicBool::new(false),
        })
    }

    fn put(&self, code: Code) {
        let (id, version) = (code.id, code.version);
        self.codes.lock().unwrap().insert(id, Arc::new(code));
        let mut log = self.log.lock().unwrap();
        let seq = ConfigSeq::new(log.len() as u64 + 1);
        let change = ConfigChange {
            resource: ResourceId::Code(id),
            tenant: self.owner.id,
            version,
            at: Timestamp::EPOCH,
            actor: "admin".to_owned(),
            event: None,
            health: None,
        };
        log.push(ConfigRow {
            seq,
            changes: vec![change],
        });
    }

    fn add(&self, short_id: &str, version: u64) -> CodeId {
        let code = Code {
            version,
            ..code(self.owner.id, short_id, "https://example.com/1")
        };
        let id = code.id;
        self.put(code);
        id
    }

    fn raise(&self, id: CodeId) -> u64 {
        let mut code = (*self.codes.lock().unwrap()[&id]).clone();
        code.version += 1;
        code.destination_url = format!("https://example.com/{}", code.version);
        let version = code.version;
        self.put(code);
        version
    }

    fn version(&self, id: CodeId) -> u64 {
        self.codes.lock().unwrap()[&id].version
    }
}

#[async_trait]
impl CodeSource for Arc<Source> {
    async fn code_by_link(&self, link: &ShortLink) -> StoreResult<Option<Arc<Code>>> {
        self.lookups.fetch_add(1, Ordering::SeqCst);
        let found = self
            .codes
            .lock()
            .unwrap()
            .values()
            .find(|code| code.link == *link)
            .cloned();
        self.begun.send_modify(|begun| *begun += 1);
        self.open.subscribe().wait_for(|open| *open).await.unwrap();
        if self.fails.load(Ordering::SeqCst) {
            return Err(StoreError::Unavailable("the test says so".to_owned()));
        }
        Ok(found)
    }

    async fn code(&self, id: CodeId) -> StoreResult<Option<Arc<Code>>> {
        Ok(self.codes.lock().unwrap().get(&id).cloned())
    }

    async fn tenant(&self, id: TenantId) -> StoreResult<Option<Arc<Tenant>>> {
        assert_eq!(id, self.owner.id);
        Ok(Some(self.owner.clone()))
    }

    async fn config_after(&self, after: ConfigSeq, limit: usize) -> StoreResult<Vec<ConfigRow>> {
        Ok(self
            .log
            .lock()
            .unwrap()
            .iter()
            .filter(|row| row.seq > after)
            .take(limit)
            .cloned()
            .collect())
    }
}

fn cache(source: &Arc<Source>) -> Codes {
    Codes::new(
        source.clone(),
        1 << 20,
        1 << 20,
        TaskTracker::new(),
        Arc::new(Measures::register()),
    )
}

async fn found_version(codes: &Codes, short_id: &str) -> Option<u64> {
    codes.find(short_id).await.unwrap().map(|code| code.version)
}

#[tokio::test]
async fn many_who_ask_for_one_code_at_once_are_one_look_up() {
    let source = Source::new();
    source.add("abc", 1);
    source.open.send_replace(false);
    let codes = cache(&source);
    let mut asking = JoinSet::new();
    for _ in 0..100 {
        let codes = codes.clone();
        asking.spawn(async move { found_version(&codes, "abc").await });
    }
    source
        .begun
        .subscribe()
        .wait_for(|begun| *begun == 1)
        .await
        .unwrap();
    tokio::task::yield_now().await;
    source.open.send_replace(true);
    for found in asking.join_all().await {
        assert_eq!(found, Some(1));
    }
    assert_eq!(source.lookups.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn who_stops_waiting_does_not_stop_the_look_up() {
    let source = Source::new();
    source.add("abc", 1);
    source.open.send_replace(false);
    let codes = cache(&source);
    let mut asking = JoinSet::new();
    let first = codes.clone();
    asking.spawn(async move { found_version(&first, "abc").await });
    source
        .begun
        .subscribe()
        .wait_for(|begun| *begun == 1)
        .await
        .unwrap();
    asking.shutdown().await;
    source.open.send_replace(true);
    assert_eq!(found_version(&codes, "abc").await, Some(1));
    assert_eq!(source.lookups.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn look_ups_under_way_are_bounded() {
    let source = Source::new();
    source.open.send_replace(false);
    let codes = cache(&source);
    let mut asking = JoinSet::new();
    for i in 0..LOADS_MAX {
        let codes = codes.clone();
        asking.spawn(async move { found_version(&codes, &format!("none{i}")).await });
    }
    source
        .begun
        .subscribe()
        .wait_for(|begun| *begun == LOADS_MAX)
        .await
        .unwrap();
    assert_eq!(codes.find("one-more").await.unwrap_err(), LookupError::Full);
    source.open.send_replace(true);
    asking.join_all().await;
    assert_eq!(found_version(&codes, "one-more").await, None);
}

#[tokio::test]
async fn a_failed_look_up_is_not_remembered() {
    let source = Source::new();
    source.add("abc", 1);
    source.fails.store(true, Ordering::SeqCst);
    let codes = cache(&source);
    assert_eq!(codes.find("abc").await.unwrap_err(), LookupError::Failed);
    source.fails.store(false, Ordering::SeqCst);
    assert_eq!(found_version(&codes, "abc").await, Some(1));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_costs_a_scan_its_budget_and_no_more() {
    let source = Source::new();
    source.open.send_replace(false);
    let codes = cache(&source);
    assert_eq!(codes.find("abc").await.unwrap_err(), LookupError::Failed);
    source.open.send_replace(true);
    assert_eq!(found_version(&codes, "abc").await, None);
}

/// The race that the generation is for: a load that began before a change is cached after the change was seen.
async fn check_race(source: Arc<Source>, short_id: &str, change: impl FnOnce(&Source) -> u64) {
    let codes = cache(&source);
    let seen = ConfigSeq::new(source.log.lock().unwrap().len() as u64);
    source.open.send_replace(false);
    let mut asking = JoinSet::new();
    let (asker, asked) = (codes.clone(), short_id.to_owned());
    asking.spawn(async move { found_version(&asker, &asked).await });
    source
        .begun
        .subscribe()
        .wait_for(|begun| *begun == 1)
        .await
        .unwrap();
    let version = change(&source);
    let rows = source.config_after(seen, 16).await.unwrap();
    tail::apply(&codes.shared, &rows).await.unwrap();
    source.open.send_replace(true);
    asking.join_all().await;
    assert_eq!(found_version(&codes, short_id).await, Some(version));
}

#[tokio::test]
async fn a_look_up_that_read_before_a_change_does_not_outlive_it() {
    let source = Source::new();
    let id = source.add("abc", 1);
    check_race(source, "abc", |source| source.raise(id)).await;
}

#[tokio::test]
async fn a_look_up_that_found_nothing_before_a_creation_does_not_outlive_it() {
    check_race(Source::new(), "abc", |source| {
        source.add("abc", 1);
        1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn after_any_storm_of_changes_and_look_ups_the_cache_agrees_with_the_store() {
    for _ in 0..20 {
        let source = Source::new();
        let ids: Vec<_> = (0..4).map(|i| source.add(&format!("code{i}"), 1)).collect();
        let codes = cache(&source);
        let (hint, hints) = watch::channel(ConfigSeq::ZERO);
        let stop = tokio_util::sync::CancellationToken::new();
        let mut tasks = JoinSet::new();
        let following = codes.clone();
        tasks.spawn(stop.clone().run_until_cancelled_owned(async move {
            following.follow(ConfigSeq::ZERO, hints).await;
        }));
        let mut storm = JoinSet::new();
        for reader in 0..3 {
            let codes = codes.clone();
            storm.spawn(async move {
                for i in 0..300 {
                    // Out of the cache again and again, so that look-ups never stop.
                    codes
                        .shared
                        .known
                        .invalidate(&*format!("code{}", (i + reader) % 4));
                    found_version(&codes, &format!("code{}", i % 4)).await;
                }
            });
        }
        for i in 0..200 {
            source.raise(ids[i % 4]);
            hint.send_replace(ConfigSeq::new(source.log.lock().unwrap().len() as u64));
            tokio::task::yield_now().await;
        }
        storm.join_all().await;
        for (i, id) in ids.iter().enumerate() {
            let agrees = async {
                while found_version(&codes, &format!("code{i}")).await != Some(source.version(*id)) {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(Duration::from_secs(10), agrees)
                .await
                .expect("the cache agrees");
        }
        stop.cancel();
        tasks.join_all().await;
    }
}
