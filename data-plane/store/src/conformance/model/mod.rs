//! Random operations against a model in memory, with failing calls, lost answers, restarts and power failures.
//!
//! Every call is repeated until it is answered, as real callers do; its answer must be the model's. After each
//! restart or crash everything that the model holds must be there, and nothing else. A batch that was on its way
//! when the power failed may be there or not, but whole.

mod state;

use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config, TestRunner},
};

use self::state::Model;
use super::Fixture;
use crate::{
    fault::{FaultStore, Op as Call},
    store::SharedStore,
};

const OPS: usize = 60;
/// Of a thousand calls, so many fail or lose their answer.
const FAULTS_PER_MILLE: u64 = 150;

/// What is done to the store. Names are drawn from few, so that operations meet.
#[derive(Clone, Debug)]
pub enum Op {
    Append {
        writer: u8,
        partition: u8,
        seq: u64,
        other_bytes: bool,
    },
    PublishHeads {
        writer: u8,
        partition: u8,
        seq: u64,
    },
    CloseWriter {
        writer: u8,
        seq: u64,
    },
    CreateCode {
        code: u8,
        short_id: u8,
        limit: bool,
    },
    ChangeCode {
        code: u8,
        stale: bool,
        delete: bool,
    },
    Claim {
        partition: u8,
        stale: bool,
        release: bool,
    },
    Save {
        partition: u8,
        stale: bool,
        row: u8,
        body: Option<u8>,
    },
    PutChunk {
        partition: u8,
        name: u8,
        other_bytes: bool,
    },
    DeleteChunk {
        partition: u8,
        name: u8,
    },
    RecordAttempts {
        event: u8,
        number: u32,
        count: u8,
    },
    PutCommand {
        command: u8,
    },
    FinishCommand {
        command: u8,
        result: u8,
    },
    ClaimPartitions {
        count: u16,
    },
    Restart,
    Crash {
        in_flight: u8,
    },
}

pub fn any_op() -> impl Strategy<Value = Op> {
    let (few, flag, seq) = (|| 0_u8..3, || prop::bool::weighted(0.2), || 1_u64..6);
    prop_oneof![
        6 => (few(), 0_u8..2, seq(), flag()).prop_map(|(writer, partition, seq, other_bytes)| Op::Append { writer, partition, seq, other_bytes }),
        2 => (few(), 0_u8..2, seq()).prop_map(|(writer, partition, seq)| Op::PublishHeads { writer, partition, seq }),
        1 => (few(), seq()).prop_map(|(writer, seq)| Op::CloseWriter { writer, seq }),
        3 => (few(), few(), flag()).prop_map(|(code, short_id, limit)| Op::CreateCode { code, short_id, limit }),
        3 => (few(), flag(), flag()).prop_map(|(code, stale, delete)| Op::ChangeCode { code, stale, delete }),
        2 => (0_u8..2, flag(), flag()).prop_map(|(partition, stale, release)| Op::Claim { partition, stale, release }),
        4 => (0_u8..2, flag(), few(), proptest::option::of(few())).prop_map(|(partition, stale, row, body)| Op::Save { partition, stale, row, body }),
        2 => (0_u8..2, few(), flag()).prop_map(|(partition, name, other_bytes)| Op::PutChunk { partition, name, other_bytes }),
        1 => (0_u8..2, few()).prop_map(|(partition, name)| Op::DeleteChunk { partition, name }),
        3 => (few(), 1_u32..4, 1_u8..3).prop_map(|(event, number, count)| Op::RecordAttempts { event, number, count }),
        2 => few().prop_map(|command| Op::PutCommand { command }),
        2 => (few(), few()).prop_map(|(command, result)| Op::FinishCommand { command, result }),
        1 => (1_u16..5).prop_map(|count| Op::ClaimPartitions { count }),
        1 => Just(Op::Restart),
        1 => few().prop_map(|in_flight| Op::Crash { in_flight }),
    ]
}

/// The test.
///
/// # Panics
/// When the store and the model disagree.
pub fn random_operations_agree<F: Fixture>() {
    let config = Config {
        cases: F::HISTORIES,
        failure_persistence: None,
        ..Config::default()
    };
    let outcome = TestRunner::new(config).run(&(vec(any_op(), 1..OPS), any::<u64>()), |(ops, seed)| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(check::<F>(ops, seed));
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
}

async fn check<F: Fixture>(ops: Vec<Op>, seed: u64) {
    let mut fixture = F::open().await;
    let mut model = Model::default();
    let mut store = faulty(&fixture, seed);
    model.register_writers(&store).await;
    for (turn, op) in (1..).zip(ops) {
        match op {
            Op::Restart => {
                drop(store);
                fixture = fixture.restart().await;
                model.compare(&fixture.store()).await;
                store = faulty(&fixture, seed ^ turn);
            }
            Op::Crash { in_flight } => {
                drop(store);
                fixture = model.crash(fixture, in_flight, turn).await;
                model.compare(&fixture.store()).await;
                store = faulty(&fixture, seed ^ turn);
            }
            op => model.apply(&store, op, turn).await,
        }
    }
    drop(store);
    model.compare(&fixture.store()).await;
}

fn faulty<F: Fixture>(fixture: &F, seed: u64) -> SharedStore {
    let faulty = FaultStore::new(fixture.store());
    faulty.break_by_chance(seed, FAULTS_PER_MILLE, &Call::WRITES);
    faulty
}
