//! One endpoint far behind while another one is live: what waits for it is a cursor, and the log.
//!
//! `QRELAY_TEST_BEHIND` says how many events (50,000; a million in `make test-long`).

use qrelay_store::model::RateLimit;

use super::{
    world::{Counter, until, until_within},
    *,
};

/// For each event that one of the two has to be sent: a debug build on a busy machine.
const PATIENCE_PER_EVENT: Duration = Duration::from_millis(20);
/// Scans that are recorded at once; then the live endpoint gets them.
const SCANS_AT_ONCE: usize = 1000;

#[expect(clippy::disallowed_methods, reason = "tests are steered by the environment")]
fn events() -> usize {
    std::env::var("QRELAY_TEST_BEHIND").map_or(50_000, |text| {
        text.parse().expect("QRELAY_TEST_BEHIND is not a number")
    })
}

/// What the endpoint that lags costs: rows of every table but those of the live one's attempts and of what is recorded,
/// and the checkpoint's bytes.
async fn cost(world: &World, live: &Endpoint) -> (i64, usize) {
    let mut rows = world.table_rows();
    *rows.get_mut("attempt").expect("invariant: it has an attempt log") -= world.attempt_rows(live.id);
    (rows.values().sum(), world.checkpoint_bytes().await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_far_behind_costs_a_cursor_and_catches_up_from_the_log_when_it_recovers() {
    let count = events().next_multiple_of(SCANS_AT_ONCE);
    let mut world = World::new().await;
    let (fast, slow) = (Counter::new().await, Counter::new().await);
    let live = world.endpoint_of(&fast, |_| {}).await;
    let mut lagging = world
        .endpoint_of(&slow, |endpoint| {
            endpoint.rate_limit = Some(RateLimit {
                per_second: 0.001,
                burst: 1,
            });
        })
        .await;
    world.start();
    let mut recorded = 0;
    let mut early = None;
    while recorded < count {
        world.scan(SCANS_AT_ONCE).await;
        recorded += SCANS_AT_ONCE;
        let patience = PATIENCE_PER_EVENT * u32::try_from(SCANS_AT_ONCE).unwrap();
        until_within(patience, "the live one got it", async || {
            fast.distinct() == recorded
        })
        .await;
        if recorded == SCANS_AT_ONCE.max(count / 10).next_multiple_of(SCANS_AT_ONCE) || recorded == count {
            until("its backlog is told", async || {
                let backlog = world.health(lagging.id).await.backlog;
                backlog.is_some_and(|backlog| backlog.reason == BacklogReason::Throttled)
                    && backlog_events(&world, &lagging).await == recorded
            })
            .await;
            if early.is_none() {
                early = Some(cost(&world, &live).await);
            }
        }
    }
    let (rows, bytes) = early.unwrap();
    assert_eq!(slow.distinct(), 0, "it is behind with all of them");
    // What was under way to the live one may still stand in a chunk or two; it goes with the next saves.
    until("it costs no more rows and bytes than early on", async || {
        let (rows_now, bytes_now) = cost(&world, &live).await;
        rows_now <= rows + 4 && bytes_now <= bytes + 256 && bytes_now < 4096
    })
    .await;
    // It recovers, over a restart: it goes on where it stopped, beside the live one.
    world.kill().await;
    world.start();
    world
        .edit(&mut lagging, |endpoint| endpoint.rate_limit = None)
        .await;
    until("it says that it catches up", async || {
        let backlog = world.health(lagging.id).await.backlog;
        backlog.is_some_and(|backlog| backlog.reason == BacklogReason::CatchingUp)
    })
    .await;
    world.scan(1).await;
    until("the live one is live", async || fast.distinct() == count + 1).await;
    assert!(
        slow.distinct() <= count,
        "the test tests nothing: it caught up already"
    );
    let patience = PATIENCE_PER_EVENT * u32::try_from(count).unwrap();
    until_within(patience, "it caught up", async || slow.distinct() == count + 1).await;
    until("it is back on the shared run", async || {
        world.rows().await["run"] == 1 && world.health(lagging.id).await.backlog.is_none()
    })
    .await;
    world.stop().await;
    assert_eq!(slow.repeated(), 0, "each came once");
}

async fn backlog_events(world: &World, endpoint: &Endpoint) -> usize {
    let backlog = world.health(endpoint.id).await.backlog;
    backlog.map_or(0, |backlog| usize::try_from(backlog.events).unwrap())
}
