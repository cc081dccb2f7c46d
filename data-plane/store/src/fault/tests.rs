//! That faults are what they say.

use tokio::time::{Instant, timeout};

use super::*;
use crate::{
    conformance::{
        Fixture,
        samples::{P, batch, registered},
    },
    sqlite::conformance::Embedded,
};

async fn faulty() -> (Embedded, Arc<FaultStore>, WriterId) {
    let fixture = Embedded::open().await;
    let store = FaultStore::new(fixture.store());
    let writer = registered(&(Arc::clone(&store) as SharedStore)).await;
    (fixture, store, writer)
}

#[tokio::test(start_paused = true)]
async fn a_fault_tells_or_hides_what_was_done() {
    let (_fixture, store, writer) = faulty().await;
    for (seq, fault, done) in [
        (1, Fault::Unavailable, false),
        (2, Fault::Corrupt, false),
        (3, Fault::LoseAnswer, true),
    ] {
        store.break_next(Op::Append, 1, fault);
        assert!(store.append(batch(P, writer, seq)).await.is_err());
        assert_eq!(
            store.batch(P, writer, Seq::new(seq)).await.unwrap().is_some(),
            done,
            "{fault:?}"
        );
        store.append(batch(P, writer, seq)).await.unwrap();
    }
    assert_eq!(store.calls(Op::Append), 6);
}

#[tokio::test(start_paused = true)]
async fn a_stalled_call_goes_on_when_healed_and_time_runs_meanwhile() {
    let (_fixture, store, writer) = faulty().await;
    for (seq, fault, done) in [(1, Fault::Stall, false), (2, Fault::StallAnswer, true)] {
        store.break_all(Op::Append, fault);
        let begun = Instant::now();
        let mut call = store.append(batch(P, writer, seq));
        assert!(timeout(Duration::from_secs(9), &mut call).await.is_err());
        assert_eq!(begun.elapsed(), Duration::from_secs(9));
        assert_eq!(
            store.batch(P, writer, Seq::new(seq)).await.unwrap().is_some(),
            done,
            "{fault:?}"
        );
        store.heal(Op::Append);
        call.await.unwrap();
    }
    assert_eq!(store.tail(P, writer, Seq::ZERO).await.unwrap(), Seq::new(2));
}

#[tokio::test(start_paused = true)]
async fn a_late_answer_comes_after_its_time() {
    let (_fixture, store, writer) = faulty().await;
    let by = Duration::from_millis(50);
    store.break_next(Op::Append, 1, Fault::Late(by));
    for (seq, late) in [(1, by), (2, Duration::ZERO)] {
        let begun = Instant::now();
        store.append(batch(P, writer, seq)).await.unwrap();
        assert_eq!(begun.elapsed(), late);
    }
}

#[tokio::test(start_paused = true)]
async fn a_paused_clock_stands_still_while_the_store_works() {
    let (_fixture, store, writer) = faulty().await;
    let begun = Instant::now();
    for seq in 1..=50 {
        timeout(Duration::from_millis(1), store.append(batch(P, writer, seq)))
            .await
            .unwrap()
            .unwrap();
    }
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn chance_repeats_with_its_seed() {
    let mut patterns = Vec::new();
    for seed in [1, 1, 2] {
        let (_fixture, store, writer) = faulty().await;
        store.break_by_chance(seed, 300, &[Op::Append]);
        let mut pattern = Vec::new();
        for seq in 1..=40 {
            pattern.push(store.append(batch(P, writer, seq)).await.is_ok());
        }
        patterns.push(pattern);
    }
    assert_eq!(patterns[0], patterns[1]);
    assert_ne!(patterns[0], patterns[2]);
    assert!(patterns[0].contains(&true) && patterns[0].contains(&false));
}
