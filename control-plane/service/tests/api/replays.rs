//! Replays: what they are asked for with, and what their owner's rows say of them.

use std::time::Duration;

use qrelay_store::{
    Timestamp,
    checkpoint::{ReplayPosition, ReplayRange, ReplayRow, ReplayState, RowKey},
    id::{OwnerId, ReplayId, Seq, WriterId},
    store::{CheckpointDelta, CommandKind, CommandResult, Fence, Lease},
};
use serde_json::{Value, json};

use crate::harness::{Answer, Api, endpoint};

/// A tenant's key, its endpoint, and where its replays are asked for.
async fn bench() -> (Api, String, String, String) {
    let api = Api::start().await;
    let (_, key) = api.tenant_and_key().await;
    let id = api.post(&key, "/v1/endpoints", endpoint()).await.ok().text("id");
    let path = format!("/v1/endpoints/{id}/replay");
    (api, key, id, path)
}

/// A replay that is over, of an endpoint; its id.
pub(crate) async fn one_that_is_over(api: &Api, endpoint: &str) -> String {
    let endpoint = api
        .store
        .endpoint(endpoint.parse().unwrap())
        .await
        .unwrap()
        .unwrap();
    let replay = ReplayId::random(endpoint.id);
    let row = ReplayRow {
        range: ReplayRange {
            start: Timestamp::EPOCH,
            end: endpoint.created_at,
            end_given: None,
            only_failed: false,
            per_second: None,
        },
        created_at: endpoint.created_at,
        state: ReplayState::Done,
        ended_at: Some(endpoint.created_at),
        position: ReplayPosition::default(),
        sent: 0,
        succeeded: 0,
        failed: 0,
    };
    save(api, endpoint.home, replay, &row).await;
    replay.to_string()
}

/// Plays the owner for one command: it takes the replay up, and its checkpoint has this row.
async fn take_one(api: &Api, result: CommandResult, edit: impl FnOnce(&mut ReplayRow)) -> CommandKind {
    for _ in 0..1000 {
        for partition in (0..4).map(qrelay_store::id::PartitionId::new) {
            let pending = api.store.pending_commands(partition, 1).await.unwrap();
            let Some(command) = pending.first() else { continue };
            if let (CommandKind::Replay { replay, range }, CommandResult::Taken) = (&command.kind, &result) {
                let mut row = ReplayRow {
                    range: *range,
                    created_at: command.created_at,
                    state: ReplayState::Running,
                    ended_at: None,
                    position: ReplayPosition::default(),
                    sent: 0,
                    succeeded: 0,
                    failed: 0,
                };
                edit(&mut row);
                save(api, partition, *replay, &row).await;
            }
            api.store
                .finish_command(partition, command.id, &result)
                .await
                .unwrap();
            api.store.hints().partition(partition).publish_command();
            return command.kind.clone();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("no command came");
}

async fn save(api: &Api, partition: qrelay_store::id::PartitionId, replay: ReplayId, row: &ReplayRow) {
    let lease = api.store.lease(partition).await.unwrap();
    let epoch = lease.as_ref().map_or(1, |lease| lease.fence.epoch + 1);
    let fence = Fence { epoch, beat: 0 };
    let new = Lease {
        fence,
        owner: Some(OwnerId::random()),
        addr: String::new(),
    };
    api.store
        .claim(partition, lease.map(|lease| lease.fence), &new)
        .await
        .unwrap();
    let mut delta = CheckpointDelta::default();
    delta
        .rows
        .insert(RowKey::replay(replay), Some(serde_json::to_string(row).unwrap()));
    api.store.save(partition, fence, 1, &delta).await.unwrap();
}

async fn asked(api: &Api, key: &str, path: &str, body: Value, edit: impl FnOnce(&mut ReplayRow)) -> Answer {
    let owner = take_one(api, CommandResult::Taken, edit);
    let (answer, _) = tokio::join!(api.post(key, path, body), owner);
    answer.ok()
}

#[tokio::test]
async fn a_replay_is_taken_up_by_the_owner_and_shown_as_its_row_says() {
    let (api, key, id, path) = bench().await;
    let body = json!({"start_time": "2026-03-03T14:00:00Z", "only_failed": true, "per_second": 2.5});
    let begun = asked(&api, &key, &path, body, |_| {}).await.body;
    assert_eq!(begun["endpoint_id"], json!(id));
    assert_eq!(
        (&begun["state"], &begun["only_failed"], &begun["per_second"]),
        (&json!("running"), &json!(true), &json!(2.5))
    );
    assert_eq!(
        (&begun["found"], begun.get("total"), &begun["start_time"]),
        (&json!(0), None, &json!("2026-03-03T14:00:00.000Z"))
    );
    let replay = begun["id"].as_str().unwrap();
    assert!(replay.starts_with("rpl_"));
    assert!(begun["end_time"].is_string());
    let other = done(&api, &key, &path).await;
    let listed = api
        .get(&key, &format!("/v1/endpoints/{id}/replays"))
        .await
        .ok()
        .body;
    let ids: Vec<_> = listed["replays"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["id"])
        .collect();
    assert_eq!(ids, [&json!(other), &json!(replay)], "newest first");
}

/// A replay that is over; its id.
async fn done(api: &Api, key: &str, path: &str) -> String {
    let late = Timestamp::from_millis(1_772_550_000_000);
    let other = asked(
        api,
        key,
        path,
        json!({"start_time": "2026-03-03T14:00:00Z"}),
        |row| {
            row.state = ReplayState::Done;
            row.created_at = row.created_at.after(Duration::from_secs(1));
            row.ended_at = Some(late);
            row.position = ReplayPosition {
                config_read: true,
                log_read: true,
                log: Some((late, WriterId::from_u64(1), Seq::new(1))),
                found: 12,
                skipped: 1,
                expired_before: Some(late),
                ..ReplayPosition::default()
            };
            (row.sent, row.succeeded, row.failed) = (12, 10, 2);
        },
    )
    .await;
    let other = other.text("id");
    let shown = api.get(key, &format!("/v1/replays/{other}")).await.ok().body;
    assert_eq!(
        [
            &shown["state"],
            &shown["found"],
            &shown["skipped"],
            &shown["total"],
            &shown["sent"]
        ],
        [&json!("done"), &json!(12), &json!(1), &json!(12), &json!(12)]
    );
    assert_eq!(shown["position_time"], shown["end_time"], "{shown}");
    assert_eq!(shown["expired_before"], "2026-03-03T15:00:00.000Z");
    other
}

#[tokio::test]
async fn what_is_wrong_with_a_replay_is_named() {
    let (api, key, _, path) = bench().await;
    let start = "2026-03-03T14:00:00Z";
    for (body, field) in [
        (json!({}), "start_time"),
        (json!({"start_time": "2099-01-01T00:00:00Z"}), "start_time"),
        (json!({"start_time": start, "end_time": start}), "start_time"),
        (json!({"start_time": start, "per_second": 0}), "per_second"),
        (json!({"start_time": start, "per_second": 0.001}), "per_second"),
        (json!({"start_time": start, "per_second": 100_001}), "per_second"),
    ] {
        let refused = api.post(&key, &path, body.clone()).await;
        assert_eq!(
            (refused.status, refused.fields()),
            (400, vec![field.to_owned()]),
            "{body}"
        );
    }
    let (_, stranger) = api.tenant_and_key().await;
    let body = json!({"start_time": start});
    assert_eq!(api.post(&stranger, &path, body).await.status, 404);
}

#[tokio::test]
async fn a_repeated_request_finds_the_replay_that_it_began() {
    let (api, key, _, path) = bench().await;
    let body = json!({"start_time": "2026-03-03T14:00:00Z", "request_id": "monday"});
    let first = asked(&api, &key, &path, body.clone(), |_| {}).await.text("id");
    let again = api.post(&key, &path, body).await.ok().text("id");
    assert_eq!(again, first);
    let other = json!({"start_time": "2026-03-03T14:00:01Z", "request_id": "monday"});
    let refused = api.post(&key, &path, other).await;
    assert_eq!(refused.status, 409, "{refused:?}");
    let new = json!({"start_time": "2026-03-03T14:00:01Z", "request_id": "tuesday"});
    assert_ne!(asked(&api, &key, &path, new, |_| {}).await.text("id"), first);
}

#[tokio::test]
async fn four_replays_of_an_endpoint_are_enough() {
    let (api, key, _, path) = bench().await;
    let body = json!({"start_time": "2026-03-03T14:00:00Z"});
    for _ in 0..4 {
        asked(&api, &key, &path, body.clone(), |_| {}).await;
    }
    let refused = api.post(&key, &path, body.clone()).await;
    assert_eq!(refused.status, 400);
    assert_eq!(refused.body["error"]["details"][0]["reason"], "REPLAYS_UNDER_WAY");
}

#[tokio::test]
async fn what_the_owner_refuses_is_failed_with_its_reason() {
    let (api, key, _, path) = bench().await;
    let reason = "as many as may be".to_owned();
    let owner = take_one(&api, CommandResult::Refused { reason }, |_| {});
    let body = json!({"start_time": "2026-03-03T14:00:00Z", "request_id": "monday"});
    let (refused, kind) = tokio::join!(api.post(&key, &path, body), owner);
    assert_eq!(refused.status, 400);
    assert_eq!(refused.body["error"]["details"][0]["reason"], "REPLAY_REFUSED");
    let CommandKind::Replay { replay, .. } = kind else {
        panic!("{kind:?}");
    };
    let shown = api.get(&key, &format!("/v1/replays/{replay}")).await.ok().body;
    assert_eq!(
        (&shown["state"], &shown["reason"]),
        (&json!("failed"), &json!("as many as may be"))
    );
}

#[tokio::test]
async fn a_replay_is_cancelled_by_its_owner_and_one_that_is_over_stays_as_it_is() {
    let (api, key, _, path) = bench().await;
    let body = json!({"start_time": "2026-03-03T14:00:00Z"});
    let running = asked(&api, &key, &path, body.clone(), |_| {}).await.text("id");
    let owner = take_one(&api, CommandResult::Taken, |_| {});
    let cancel = format!("/v1/replays/{running}/cancel");
    let (cancelled, kind) = tokio::join!(api.post(&key, &cancel, json!({})), owner);
    cancelled.ok();
    assert_eq!(
        kind,
        CommandKind::CancelReplay {
            replay: running.parse().unwrap()
        }
    );
    let done = asked(&api, &key, &path, body, |row| row.state = ReplayState::Done).await;
    let cancel = format!("/v1/replays/{}/cancel", done.text("id"));
    assert_eq!(
        api.post(&key, &cancel, json!({})).await.ok().body["state"],
        "done"
    );
}

#[tokio::test]
async fn replays_are_their_tenants_and_end_with_their_endpoint() {
    let (api, key, id, path) = bench().await;
    let body = json!({"start_time": "2026-03-03T14:00:00Z"});
    let replay = asked(&api, &key, &path, body, |_| {}).await.text("id");
    let (_, stranger) = api.tenant_and_key().await;
    let read = format!("/v1/replays/{replay}");
    assert_eq!(api.get(&stranger, &read).await.status, 404);
    assert_eq!(
        api.post(&stranger, &format!("{read}/cancel"), json!({}))
            .await
            .status,
        404
    );
    assert_eq!(
        api.get(&stranger, &format!("/v1/endpoints/{id}/replays"))
            .await
            .status,
        404
    );
    for unknown in [
        "rpl_1".to_owned(),
        ReplayId::random(id.parse().unwrap()).to_string(),
    ] {
        assert_eq!(api.get(&key, &format!("/v1/replays/{unknown}")).await.status, 404);
    }
    api.delete(&key, &format!("/v1/endpoints/{id}")).await.ok();
    let shown = api.get(&key, &read).await.ok().body;
    assert_eq!(
        (&shown["state"], &shown["reason"]),
        (&json!("failed"), &json!("the endpoint was deleted"))
    );
}
