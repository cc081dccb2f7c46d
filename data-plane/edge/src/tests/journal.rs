//! The edge with a journal while the log takes nothing: redirects go on, and what is answered is in the log once it is
//! back; when the journal is full too, what its tenant wants happens.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use qrelay_store::id::{EventAddress, EventId};
use qrelay_store::journal::JournalConfig;
use qrelay_store::model::{Tenant, UnrecordableScans};
use qrelay_store::record::decode_batch;
use qrelay_store::store::Store as _;
use tempfile::TempDir;

use super::fixture::{Fixture, PATIENCE};
use crate::Config;

async fn journaled(edit: impl FnOnce(&mut Tenant)) -> (Fixture, TempDir) {
    with_bytes_max(u64::MAX, edit).await
}

async fn with_bytes_max(bytes_max: u64, edit: impl FnOnce(&mut Tenant)) -> (Fixture, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let config = JournalConfig {
        bytes_max,
        ..JournalConfig::new(dir.path().to_owned())
    };
    let edge = Fixture::start_journaled(config, edit).await;
    edge.add_code("abc", "https://example.com/");
    (edge, dir)
}

fn recorded(edge: &Fixture) -> BTreeSet<EventId> {
    let ids = &edge.store.install().ids;
    let mut recorded = BTreeSet::new();
    for batch in edge.store.batches() {
        for index in 0..decode_batch(&batch.body).unwrap().len() {
            recorded.insert(ids.event_id(EventAddress {
                partition: batch.partition,
                writer: batch.writer,
                seq: batch.seq,
                index: u16::try_from(index).unwrap(),
            }));
        }
    }
    recorded
}

async fn is_recorded(edge: &Fixture, answered: &BTreeSet<EventId>) {
    let waiting = async {
        while recorded(edge) != *answered {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting)
        .await
        .expect("what was answered comes into the log, and nothing else");
}

async fn scan(edge: &Fixture) -> EventId {
    let answer = edge.get("/abc").await;
    assert_eq!(answer.status, 302);
    answer.header("x-qrelay-scan").unwrap().parse().unwrap()
}

#[tokio::test]
async fn redirects_go_on_while_the_log_fails_and_are_recorded_once_it_is_back() {
    let (edge, _dir) = journaled(|_| {}).await;
    let mut answered = BTreeSet::from([scan(&edge).await]);
    edge.store.append_fails.store(true, Ordering::SeqCst);
    for _ in 0..20 {
        answered.insert(scan(&edge).await);
    }
    assert_eq!(recorded(&edge).len(), 1);
    edge.store.append_fails.store(false, Ordering::SeqCst);
    is_recorded(&edge, &answered).await;
}

#[tokio::test]
async fn redirects_go_on_while_the_log_hangs() {
    let (edge, _dir) = journaled(|_| {}).await;
    let mut answered = BTreeSet::from([scan(&edge).await]);
    edge.store.append_gate.send_replace(false);
    for _ in 0..20 {
        answered.insert(scan(&edge).await);
    }
    edge.store.append_gate.send_replace(true);
    is_recorded(&edge, &answered).await;
}

#[tokio::test]
async fn with_a_full_journal_scans_are_refused_or_answered_as_their_tenant_wants() {
    let (edge, _dir) = with_bytes_max(0, |_| {}).await;
    let recorded = BTreeSet::from([scan(&edge).await]);
    edge.store.append_fails.store(true, Ordering::SeqCst);
    edge.answer_when("/abc", |answer| answer.status == 503).await;
    edge.store.edit_tenant(edge.tenant, |tenant| {
        tenant.unrecordable_scans = UnrecordableScans::Answer
    });
    let answer = edge.answer_when("/abc", |answer| answer.status == 302).await;
    assert!(answer.header("x-qrelay-scan").is_none(), "it makes no event");
    assert_eq!(answer.header("location").as_deref(), Some("https://example.com/"));
    assert_eq!(super::journal::recorded(&edge), recorded);
}

#[tokio::test]
async fn without_a_journal_a_tenants_scans_are_answered_too_if_it_wants_that() {
    let edge = Fixture::start_with(Config::default(), |tenant| {
        tenant.unrecordable_scans = UnrecordableScans::Answer;
    })
    .await;
    edge.add_code("abc", "https://example.com/");
    edge.store.append_fails.store(true, Ordering::SeqCst);
    for _ in 0..3 {
        let answer = edge.get("/abc").await;
        assert_eq!(answer.status, 302);
        assert!(answer.header("x-qrelay-scan").is_none());
    }
    edge.store.append_fails.store(false, Ordering::SeqCst);
    edge.answer_when("/abc", |answer| answer.header("x-qrelay-scan").is_some())
        .await;
}
