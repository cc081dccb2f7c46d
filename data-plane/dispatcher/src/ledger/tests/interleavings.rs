//! Leaving and rejoining the shared run, disturbed at every moment.
//!
//! One life in which an endpoint falls behind, catches up and rejoins while another one fails; into it, at every moment
//! each disturbance, and at every pair of moments a pair of them: crashes, saves that fail or whose answer is lost, pauses, a disabled state, a
//! receiver's wish, a rate limit, a read that comes late. After each save what the store holds is judged, and in the end
//! nothing is lost ([`super::world`]).
//!
//! That these tests and the random lives can fail was tried with deliberate bugs, each of which both found: rejoining
//! while a save is under way or unresolved (`settle_one` without `under_way`), rejoining with an undone delivery at or
//! below the shared run's saved cursor (`may_rejoin` without its last condition) or before both runs have read equally
//! far, passing a batch without making its undone deliveries outstanding (`Draft::pass` without entries), an own cursor
//! beyond the shared one (`Draft::walk` without its cap), completing a delivery that a plan under way saves, and taking a
//! save of unknown outcome for one that never applies.

use proptest::{
    prelude::*,
    strategy::ValueTree as _,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

use super::world::{Answer, Applied, Op, World, op};

/// An endpoint falls behind and comes back; another one fails meanwhile.
fn life() -> Vec<Op> {
    let mut life = vec![
        Op::Append { writer: 1, count: 2 },
        Op::ReadShared,
        Op::Start,
        // A rate limit keeps the first one back for so long that it lags; the second one fails.
        Op::Pace(1),
        Op::Append { writer: 2, count: 2 },
        Op::ReadShared,
        Op::End(2, Answer::Failed),
        Op::End(0, Answer::Ok),
        Op::End(0, Answer::Ok),
        Op::Start,
        Op::Record,
        Op::Wait(1100),
        Op::Settle,
        Op::Plan,
        Op::Save(Applied::Yes),
        Op::Append { writer: 1, count: 1 },
        Op::ReadShared,
        Op::Start,
        Op::Plan,
        Op::Append { writer: 2, count: 1 },
        Op::ReadShared,
        Op::Save(Applied::Yes),
        Op::Settle,
        Op::Unpace(1),
    ];
    // It catches up, with reads and saves in between.
    for round in 0..4 {
        life.extend([
            Op::Start,
            Op::AskOwn(1),
            Op::End(0, Answer::Ok),
            Op::End(0, Answer::Ok),
        ]);
        life.extend([
            Op::TellOwn(1),
            Op::Record,
            Op::Plan,
            Op::Start,
            Op::End(0, Answer::Ok),
        ]);
        life.extend([
            Op::Save(Applied::Yes),
            Op::End(0, Answer::Ok),
            Op::Record,
            Op::Settle,
        ]);
        if round == 2 {
            life.extend([Op::Append { writer: 1, count: 1 }, Op::ReadShared]);
        }
    }
    life.extend([Op::ReadOwn, Op::Start, Op::Plan, Op::Save(Applied::Yes)]);
    life
}

/// What may come in between, each a few steps that belong together.
fn disturbances() -> Vec<Vec<Op>> {
    vec![
        vec![Op::Crash],
        vec![Op::Plan, Op::Save(Applied::YesAndCrash)],
        vec![Op::Plan, Op::Save(Applied::Lost)],
        vec![Op::Plan, Op::Save(Applied::Late)],
        vec![Op::Save(Applied::No)],
        vec![Op::Arrive, Op::Settle],
        vec![Op::Plan, Op::Settle],
        vec![Op::Settle, Op::Plan, Op::Save(Applied::Yes), Op::Settle],
        vec![Op::Pause(1), Op::Settle],
        vec![Op::Pause(2), Op::Settle],
        vec![Op::Resume(1), Op::Resume(2), Op::ReadOwn],
        vec![Op::Disable(1), Op::Settle, Op::Enable(1)],
        vec![Op::Disable(2), Op::Settle],
        vec![Op::Enable(2), Op::ReadOwn, Op::Settle],
        vec![Op::Hold(1, 2000), Op::Settle],
        vec![Op::Pace(2), Op::Wait(1200), Op::Settle, Op::Unpace(2)],
        vec![Op::AskOwn(1), Op::AskOwn(2)],
        vec![Op::TellOwn(1), Op::TellOwn(2)],
        vec![Op::Append { writer: 2, count: 1 }, Op::Miss(2), Op::ReadShared],
        vec![
            Op::Start,
            Op::End(0, Answer::Ok),
            Op::End(0, Answer::GivenUp),
            Op::Record,
        ],
    ]
}

fn live(ops: &[Op]) -> World {
    let mut world = World::new();
    ops.iter().for_each(|op| world.step(op));
    world.drain();
    world.check();
    world
}

#[test]
fn an_endpoint_that_comes_and_goes_loses_nothing_whatever_disturbs_it_when() {
    let (life, disturbances) = (life(), disturbances());
    let undisturbed = live(&life).moves;
    assert!(
        undisturbed.left >= 1 && undisturbed.rejoined >= 1,
        "the test tests nothing: {undisturbed:?}"
    );
    // Each disturbance alone at every moment. Every pair of moments with every pair of them would be a million lives: the
    // pairs of disturbances take turns.
    let mut turn = 0;
    for first in 0..=life.len() {
        for disturbance in &disturbances {
            let (before, after) = life.split_at(first);
            live(&[before, disturbance, after].concat());
        }
        for second in first..=life.len() {
            let one = &disturbances[turn % disturbances.len()];
            let two = &disturbances[turn / disturbances.len() % disturbances.len()];
            turn += 1;
            let (before, between, after) = (&life[..first], &life[first..second], &life[second..]);
            live(&[before, one, between, two, after].concat());
        }
    }
}

/// Random lives that test nothing would be worth nothing.
#[test]
fn random_lives_leave_and_rejoin_and_find_out_what_became_of_saves() {
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let lives = proptest::collection::vec(op(), 240);
    let (mut left, mut rejoined, mut undone, mut lost) = (0, 0, 0, [0, 0]);
    for _ in 0..100 {
        let ops = lives.new_tree(&mut runner).unwrap().current();
        let mut world = World::new();
        ops.iter().for_each(|op| world.step(op));
        left += world.moves.left;
        rejoined += world.moves.rejoined;
        undone += world.moves.rejoined_undone;
        lost[0] += world.moves.lost_applied;
        lost[1] += world.moves.lost_never;
    }
    let seen = (left, rejoined, undone, lost);
    assert!(
        left >= 100 && rejoined >= 40 && undone >= 10 && lost.iter().all(|lost| *lost >= 10),
        "too few of them: {seen:?}"
    );
}
