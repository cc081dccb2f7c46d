//! Random life of an endpoint's health: failures, recoveries, saves and announcements that are lost, late or repeated, crashes
//! at every step, old owners that still speak. Whatever happens, each event tells something new, none repeats, their number
//! is bounded, and in the end subscribers know how the endpoint stands.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use proptest::prelude::*;
use qrelay_store::{
    Timestamp,
    checkpoint::{EndpointHealth, HealthChange, HealthState, RowKey},
    event::EventType,
    id::{EndpointId, PartitionId, Seq},
    limits::{HEALTH_EVENT_PERIOD, HEALTH_EVENTS_BURST},
    model::{Endpoint, EventPattern},
};
use tokio::time::Instant;

use super::{
    Ledger,
    feed::{Moment, Seen, SeenBatch},
    load::Loaded,
    plan::Plan,
};
use crate::{cursor::Stream, fixture, health::Sign, usage::UsageDelta};

#[derive(Clone, Debug)]
enum Op {
    Observe(Sign),
    SetActive,
    /// Plans and sends a save.
    Save,
    /// The store applies the save under way, or never does; the answer comes.
    SaveEnds {
        applied: bool,
    },
    /// Sends what is due.
    Announce,
    /// An announcement under way reaches the store; its answer comes or is lost.
    AnnouncementEnds {
        which: usize,
        answered: bool,
    },
    /// A new owner takes over. What was under way may still reach the store.
    Crash {
        save_applied: bool,
    },
    Wait(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let sign = prop_oneof![
        6 => Just(Sign::Failure),
        3 => Just(Sign::Success),
        1 => Just(Sign::Gone),
        1 => Just(Sign::Unwanted),
    ];
    prop_oneof![
        6 => sign.prop_map(Op::Observe),
        1 => Just(Op::SetActive),
        4 => Just(Op::Save),
        4 => (0..4_u8).prop_map(|lost| Op::SaveEnds { applied: lost > 0 }),
        4 => Just(Op::Announce),
        4 => (0..8_usize, 0..3_u8)
            .prop_map(|(which, lost)| Op::AnnouncementEnds { which, answered: lost > 0 }),
        1 => any::<bool>().prop_map(|save_applied| Op::Crash { save_applied }),
        2 => (0..400_u64).prop_map(Op::Wait),
    ]
}

/// The store as its rules say, an owner, and what is under way between them.
struct World {
    start: Instant,
    elapsed: Duration,
    endpoint: Endpoint,
    epoch: u64,
    ledger: Ledger,
    saving: Option<Plan>,
    rows: BTreeMap<RowKey, String>,
    /// Announcements under way, with the epoch of who sent them.
    announcing: Vec<(u64, HealthChange)>,
    /// What was announced last.
    told: (u64, HealthState),
    events: Vec<(Duration, HealthChange)>,
}

impl World {
    fn new() -> Self {
        let mut endpoint = fixture::endpoint(1);
        endpoint.failure.degrade_after = 2;
        let mut world = Self {
            start: Instant::now(),
            elapsed: Duration::ZERO,
            endpoint,
            epoch: 0,
            ledger: Ledger::new(PartitionId::new(0), 0),
            saving: None,
            rows: BTreeMap::new(),
            announcing: Vec::new(),
            told: (0, HealthState::Healthy),
            events: Vec::new(),
        };
        world.load();
        world
    }

    fn at(&self) -> Moment {
        Moment {
            now: self.start + self.elapsed,
            wall: Timestamp::from_millis(1_800_000_000_000).after(self.elapsed),
        }
    }

    fn load(&mut self) {
        self.epoch += 1;
        let loaded = Loaded {
            rows: self.rows.clone(),
            chunks: Vec::new(),
            endpoints: vec![Arc::new(self.endpoint.clone())],
        };
        (self.ledger, _) = Ledger::load(PartitionId::new(0), self.epoch, loaded, self.at());
    }

    fn apply(&mut self, plan: &Plan) {
        for (key, row) in &plan.delta.rows {
            match row {
                Some(row) => self.rows.insert(key.clone(), row.clone()),
                None => self.rows.remove(key),
            };
        }
    }

    fn saved(&self) -> EndpointHealth {
        let row = self.rows.get(&RowKey::health(self.endpoint.id));
        row.map(|row| serde_json::from_str(row).unwrap())
            .unwrap_or_default()
    }

    /// The rule of [`qrelay_store::store::ConfigLog::announce_health`].
    fn store_announces(&mut self, change: &HealthChange) -> bool {
        assert!(
            change.version <= self.saved().version,
            "announced before it was saved"
        );
        if change.version <= self.told.0 {
            return false;
        }
        let new = self.told.1 != change.state;
        self.told = (change.version, change.state);
        if new {
            self.events.push((self.elapsed, change.clone()));
        }
        new
    }

    fn step(&mut self, op: &Op) {
        let at = self.at();
        let id = self.endpoint.id;
        match op {
            Op::Observe(sign) => {
                self.ledger.observe(id, *sign, fixture::answer(500), at.wall);
            }
            Op::SetActive => {
                self.endpoint.version += 1;
                self.endpoint.enabled_epoch += 1;
                self.endpoint.updated_at = at.wall;
                self.ledger.subscribe(Arc::new(self.endpoint.clone()));
            }
            Op::Save if self.saving.is_none() => {
                self.saving = self.ledger.plan(at.now, Duration::ZERO);
            }
            Op::SaveEnds { applied } => {
                if let Some(plan) = self.saving.take() {
                    if *applied {
                        self.apply(&plan);
                        self.ledger.commit(plan);
                    } else {
                        self.ledger.abort(&plan);
                    }
                }
            }
            Op::Announce => {
                let due = self.ledger.announcements(at.wall);
                let due: Vec<_> = due.map(|(_, change)| change.clone()).collect();
                // One at a time, as the owner does.
                if !self.announcing.iter().any(|(epoch, _)| *epoch == self.epoch) {
                    self.announcing
                        .extend(due.into_iter().map(|change| (self.epoch, change)));
                }
            }
            Op::AnnouncementEnds { which, answered } if !self.announcing.is_empty() => {
                let (epoch, change) = self.announcing.remove(which % self.announcing.len());
                let told = self.store_announces(&change);
                if *answered && epoch == self.epoch {
                    self.ledger.announced(id, change.version, told, at.wall);
                }
            }
            Op::Crash { save_applied } => {
                if let Some(plan) = self.saving.take()
                    && *save_applied
                {
                    self.apply(&plan);
                }
                self.load();
            }
            Op::Wait(seconds) => self.elapsed += Duration::from_secs(*seconds),
            Op::Save | Op::AnnouncementEnds { .. } => {}
        }
    }

    /// Nothing fails any more, and time passes.
    fn quieten(&mut self) {
        for _ in 0..6 {
            self.step(&Op::SaveEnds { applied: true });
            self.step(&Op::Save);
            self.step(&Op::SaveEnds { applied: true });
            while !self.announcing.is_empty() {
                self.step(&Op::AnnouncementEnds {
                    which: 0,
                    answered: true,
                });
            }
            self.step(&Op::Announce);
            self.step(&Op::Wait(HEALTH_EVENT_PERIOD.as_secs()));
        }
    }

    fn check_events(&self, crashes: usize, lost: usize) {
        let mut before = (0, HealthState::Healthy);
        for (_, change) in &self.events {
            assert!(
                change.version > before.0 && change.state != before.1,
                "{:?}",
                self.events
            );
            before = (change.version, change.state);
        }
        // A crash, or a lost answer, may forget that the last one was told.
        let burst = usize::try_from(HEALTH_EVENTS_BURST).unwrap() + crashes + lost;
        for (at, (first, _)) in self.events.iter().enumerate() {
            let within = self.events[at..]
                .iter()
                .take_while(|(when, _)| *when < *first + HEALTH_EVENT_PERIOD)
                .count();
            assert!(within <= burst + 1, "{within} at once: {:?}", self.events);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn events_tell_each_change_once_and_in_the_end_how_the_endpoint_stands(ops in prop::collection::vec(op(), 0..120)) {
        let mut world = World::new();
        ops.iter().for_each(|op| world.step(op));
        world.quieten();
        let crashes = ops.iter().filter(|op| matches!(op, Op::Crash { .. })).count();
        let lost = ops.iter().filter(|op| matches!(op, Op::AnnouncementEnds { answered: false, .. })).count();
        world.check_events(crashes, lost);
        let state = world.ledger.subscriber(world.endpoint.id).unwrap().health.state;
        prop_assert_eq!(world.told.1, state);
        prop_assert!(!world.ledger.has_unannounced());
        prop_assert_eq!(world.saved().unannounced, None);
    }
}

#[test]
fn an_event_about_an_endpoint_is_for_the_others_also_when_they_are_behind() {
    let mut ledger = Ledger::new(PartitionId::new(0), 1);
    let ids = [1, 2, 3].map(|number| EndpointId::from_bytes([number; 10]));
    for number in [1, 2, 3] {
        let mut endpoint = fixture::endpoint(number);
        endpoint.events = vec![EventPattern::Any];
        ledger.subscribe(Arc::new(endpoint));
    }
    let at = Moment {
        now: Instant::now(),
        wall: Timestamp::from_millis(1_800_000_000_000),
    };
    // Two have runs of their own: the subject, and another one.
    ledger.leave(ids[0]);
    ledger.leave(ids[1]);
    let batch = SeenBatch {
        stream: Stream::CONFIG,
        seq: Seq::new(1),
        events: vec![Seen {
            index: 0,
            tenant: fixture::tenant(),
            event_type: EventType::EndpointDegraded,
            recorded_at: at.wall,
            code: None,
            classification: None,
            subject: Some(ids[0]),
        }],
        usage: UsageDelta::default(),
        verdicts: super::feed::Verdicts::default(),
    };
    assert_eq!(ledger.feed_shared(batch.clone(), at), 2);
    for id in [ids[0], ids[1]] {
        ledger.feed_own(id, &batch, at);
    }
    assert_eq!(ids.map(|id| ledger.subscriber(id).unwrap().undone()), [0, 1, 1]);
}
