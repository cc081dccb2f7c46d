//! Rules of commands.

use futures::future::join_all;

use super::samples::{P, Q, at, attempt, command, event};
use crate::{
    checkpoint::ReplayRange,
    id::{CommandId, EndpointId, ReplayId},
    limits,
    store::{Command, CommandKind, CommandResult, SharedStore},
};

fn refused(reason: &str) -> CommandResult {
    CommandResult::Refused {
        reason: reason.to_owned(),
    }
}

pub async fn pending_commands_come_oldest_first_until_they_are_finished(store: &SharedStore) {
    let (newer, older) = (command(at(2)), command(at(1)));
    let elsewhere = Command {
        partition: Q,
        ..command(at(0))
    };
    for put in [&newer, &older, &elsewhere] {
        assert!(store.put_command(put).await.unwrap());
    }
    assert_eq!(
        store.pending_commands(P, 10).await.unwrap(),
        [older.clone(), newer.clone()]
    );
    assert_eq!(
        store.pending_commands(P, 1).await.unwrap(),
        std::slice::from_ref(&older)
    );
    store.finish_command(P, older.id, &refused("no")).await.unwrap();
    assert_eq!(store.pending_commands(P, 10).await.unwrap(), [newer]);
    let finished = store.command(P, older.id).await.unwrap().unwrap();
    assert_eq!(finished.result, Some(refused("no")));
    assert_eq!(store.command(Q, older.id).await.unwrap(), None);
    assert_eq!(store.pending_commands(Q, 10).await.unwrap(), [elsewhere]);
}

pub async fn every_kind_of_command_and_result_is_kept_as_it_was(store: &SharedStore) {
    let retry = Command {
        kind: CommandKind::Retry {
            endpoint: EndpointId::random(),
            event: event(3),
            first_at: at(2),
            after: 4,
        },
        ..command(at(1))
    };
    let replay = ReplayId::random(EndpointId::random());
    let range = ReplayRange {
        start: at(1),
        end: at(9),
        end_given: Some(at(10)),
        only_failed: true,
        per_second: Some(0.1),
    };
    for kind in [
        CommandKind::Replay { replay, range },
        CommandKind::CancelReplay { replay },
    ] {
        let command = Command {
            kind,
            ..command(at(1))
        };
        store.put_command(&command).await.unwrap();
        assert_eq!(store.command(P, command.id).await.unwrap(), Some(command));
    }
    store.put_command(&retry).await.unwrap();
    assert_eq!(store.command(P, retry.id).await.unwrap().as_ref(), Some(&retry));
    store
        .finish_command(P, retry.id, &CommandResult::Taken)
        .await
        .unwrap();
    let finished = store.command(P, retry.id).await.unwrap().unwrap();
    assert_eq!(finished.result, Some(CommandResult::Taken));
}

pub async fn the_first_result_of_a_command_wins(store: &SharedStore) {
    let command = command(at(1));
    store.put_command(&command).await.unwrap();
    let attempt = CommandResult::Attempt(Box::new(attempt(EndpointId::random(), at(1), event(1), 1)));
    store.finish_command(P, command.id, &attempt).await.unwrap();
    store
        .finish_command(P, command.id, &refused("late"))
        .await
        .unwrap();
    assert_eq!(
        store.command(P, command.id).await.unwrap().unwrap().result,
        Some(attempt)
    );
    // A command that is not there, or not any more, cannot be finished, and nobody minds.
    store
        .finish_command(P, CommandId::random(), &refused("unknown"))
        .await
        .unwrap();
}

pub async fn a_repeated_command_is_put_down_once(store: &SharedStore) {
    let command = command(at(1));
    assert!(store.put_command(&command).await.unwrap());
    assert!(store.put_command(&command).await.unwrap());
    assert_eq!(
        store.pending_commands(P, 10).await.unwrap(),
        std::slice::from_ref(&command)
    );
    store.finish_command(P, command.id, &refused("no")).await.unwrap();
    assert!(store.put_command(&command).await.unwrap());
    assert_eq!(store.pending_commands(P, 10).await.unwrap(), []);
}

pub async fn too_many_pending_commands_are_refused(store: &SharedStore) {
    let many: Vec<_> = (0..limits::COMMANDS_PENDING_MAX + 5)
        .map(|_| command(at(1)))
        .collect();
    let put = join_all(many.iter().map(|command| store.put_command(command))).await;
    let taken: Vec<_> = many
        .iter()
        .zip(put)
        .filter(|(_, put)| *put.as_ref().unwrap())
        .map(|(one, _)| one)
        .collect();
    assert_eq!(u64::try_from(taken.len()).unwrap(), limits::COMMANDS_PENDING_MAX);
    assert!(
        store.put_command(taken[0]).await.unwrap(),
        "one that waits already is not one more"
    );
    store
        .finish_command(P, taken[0].id, &refused("no"))
        .await
        .unwrap();
    assert!(store.put_command(&command(at(2))).await.unwrap());
    assert!(!store.put_command(&command(at(2))).await.unwrap());
    assert!(
        store
            .put_command(&Command {
                partition: Q,
                ..command(at(2))
            })
            .await
            .unwrap()
    );
}

pub async fn commands_and_results_are_hinted_at(store: &SharedStore) {
    let mut hinted = store.hints().partition(P).commands();
    let command = command(at(1));
    store.put_command(&command).await.unwrap();
    assert!(hinted.has_changed().unwrap());
    hinted.mark_unchanged();
    store.finish_command(P, command.id, &refused("no")).await.unwrap();
    assert!(hinted.has_changed().unwrap());
}
