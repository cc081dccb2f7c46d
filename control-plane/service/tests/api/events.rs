//! Events: listed backwards in time, read by id, followed as they come; what is shown equals what webhooks carry.

use std::{collections::BTreeSet, time::Duration};

use qrelay_proto::v1;
use qrelay_store::{
    Timestamp,
    appender::Appender,
    checkpoint::{HealthChange, HealthReason, HealthState},
    clock::{Clock, SharedClock, SystemClock},
    conformance::samples,
    event::Event,
    id::{EventAddress, PartitionId, TenantId},
    model::Resource,
    record::{Classification, Record, ScanRecord},
    store::ConfigChange,
};
use serde_json::{Value, json};
use tonic::Code;

use crate::harness::{ADMIN, Api, code, endpoint};

/// A tenant with a code, and a writer that records its scans.
pub(crate) struct Scans<'a> {
    api: &'a Api,
    pub(crate) tenant: TenantId,
    key: String,
    key_id: String,
    code: String,
    writer: Appender,
}

impl<'a> Scans<'a> {
    pub(crate) async fn of(api: &'a Api) -> Self {
        let tenant = api.tenant().await;
        let (key_id, key) = api.key(&tenant, "read_write").await;
        let code = api.post(&key, "/v1/codes", code()).await.ok().text("id");
        let writer = writer(api).await;
        Self {
            api,
            tenant: tenant.parse().unwrap(),
            key,
            key_id,
            code,
            writer,
        }
    }

    /// A scan at this time, durable; its address and its record.
    async fn scan_by(&self, writer: &Appender, at_ms: i64) -> (EventAddress, ScanRecord<'static>) {
        let code = self
            .api
            .store
            .code(self.code.parse().unwrap())
            .await
            .unwrap()
            .unwrap();
        let tenant = self.api.store.tenant(self.tenant).await.unwrap().unwrap();
        let at = Timestamp::from_millis(at_ms);
        let scan = ScanRecord {
            tenant: self.tenant,
            code: code.id,
            code_version: code.version,
            at,
            classification: Classification::Human,
            classification_reason: "test".into(),
            device_type: Some("mobile".into()),
            device_family: None,
            os_family: None,
            browser_family: None,
            country: Some("CA".into()),
            region: None,
            city: None,
            referer: None,
            user_agent: Some("curl/8 \"quoted\" \u{1b}[2J".into()),
            host: None,
            query: None,
            accept_language: None,
            network: None,
        };
        let pending = writer
            .append(tenant.partition(code.id), at, &Record::Scan(scan.clone()))
            .unwrap();
        (pending.durable().await.unwrap(), scan)
    }

    pub(crate) async fn scan(&self, at_ms: i64) -> String {
        let (address, _) = self.scan_by(&self.writer, at_ms).await;
        self.api.store.install().ids.event_id(address).to_string()
    }

    async fn list(&self, query: &str) -> Vec<Value> {
        let listed = self.api.get(&self.key, &format!("/v1/events?{query}")).await.ok();
        listed.body["events"].as_array().unwrap().clone()
    }

    async fn ids(&self, query: &str) -> Vec<String> {
        self.list(query).await.iter().map(id).collect()
    }
}

fn id(event: &Value) -> String {
    event["id"].as_str().unwrap().to_owned()
}

async fn writer(api: &Api) -> Appender {
    let clock: SharedClock = std::sync::Arc::new(SystemClock);
    Appender::start(api.store.clone(), &clock, "test", Duration::from_millis(20))
        .await
        .unwrap()
}

#[tokio::test]
async fn an_event_looks_the_same_listed_read_followed_and_in_a_webhook() {
    let api = Api::start().await;
    let scans = Scans::of(&api).await;
    let mut client = api.events(&scans.key).await;
    let mut stream = client
        .stream_events(v1::StreamEventsRequest::default())
        .await
        .unwrap()
        .into_inner();
    let opening = stream.message().await.unwrap().unwrap();
    assert!(opening.event.is_none() && !opening.resume_token.is_empty());
    let (address, scan) = scans.scan_by(&scans.writer, 1_772_548_338_492).await;
    let code = api.store.code(scan.code).await.unwrap().unwrap();
    let webhook = Event::scan(&api.store.install().ids, address, &scan, &code);
    let webhook: Value = serde_json::from_slice(&webhook.to_bytes()).unwrap();
    let id = webhook["id"].as_str().unwrap();
    assert_eq!(
        api.get(&scans.key, &format!("/v1/events/{id}")).await.ok().body,
        webhook
    );
    assert_eq!(webhook["data"]["referer"], Value::Null);
    let listed = scans.list("type=scan.created").await;
    assert_eq!(listed, std::slice::from_ref(&webhook));
    let followed = stream.message().await.unwrap().unwrap().event.unwrap();
    let read = client
        .get_event(v1::GetEventRequest {
            id: id.to_owned(),
            ..Default::default()
        })
        .await
        .unwrap();
    assert_eq!(followed, read.into_inner());
}

#[tokio::test]
async fn a_change_of_an_endpoints_health_is_an_event_like_any_other() {
    let api = Api::start().await;
    let (ours, theirs) = (Scans::of(&api).await, Scans::of(&api).await);
    let made = api.post(&ours.key, "/v1/endpoints", endpoint()).await.ok();
    let row = api
        .store
        .endpoint(made.text("id").parse().unwrap())
        .await
        .unwrap();
    let request = v1::StreamEventsRequest {
        r#type: "endpoint.*".to_owned(),
        ..Default::default()
    };
    let mut client = api.events(&ours.key).await;
    let mut stream = client.stream_events(request).await.unwrap().into_inner();
    stream.message().await.unwrap();
    let at = Timestamp::from_millis(1_772_548_338_492);
    let change = HealthChange {
        version: 1,
        state: HealthState::Degraded,
        reason: HealthReason::Failures,
        at,
        consecutive_failures: 5,
        failing_since: Some(at),
        last_failure: None,
    };
    let change = ConfigChange::of_health(&row.unwrap(), change, at, "dispatcher");
    let seq = api.store.announce_health(&change).await.unwrap().unwrap();
    let ids = &api.store.install().ids;
    let address = EventAddress::config(seq, 0);
    let webhook = Event::health_changed(ids, address, &change).unwrap();
    let webhook: Value = serde_json::from_slice(&webhook.to_bytes()).unwrap();
    assert_eq!(ours.list("type=endpoint.*").await, std::slice::from_ref(&webhook));
    assert_eq!(ours.list("type=endpoint.disabled").await, [] as [Value; 0]);
    assert_eq!(theirs.list("type=endpoint.*").await, [] as [Value; 0]);
    let of_code = format!("code_id={}&type=endpoint.*", ours.code);
    assert_eq!(ours.list(&of_code).await, [] as [Value; 0]);
    let path = format!("/v1/events/{}", id(&webhook));
    assert_eq!(api.get(&ours.key, &path).await.ok().body, webhook);
    assert_eq!(api.get(&theirs.key, &path).await.status, 404);
    let followed = stream.message().await.unwrap().unwrap().event.unwrap();
    assert_eq!(
        (&followed.id, &followed.r#type),
        (&id(&webhook), &"endpoint.degraded".to_owned())
    );
}

#[tokio::test]
async fn what_is_no_event_of_the_tenant_is_not_found() {
    let api = Api::start().await;
    let (ours, theirs) = (Scans::of(&api).await, Scans::of(&api).await);
    let foreign = theirs.scan(1_772_548_338_492).await;
    let own = ours.scan(1_772_548_338_492).await;
    api.get(&ours.key, &format!("/v1/events/{own}")).await.ok();
    let ids = &api.store.install().ids;
    let test = ids.event_id(EventAddress::test()).to_string();
    let address = ids.event_address(own.parse().unwrap());
    let beyond = ids.event_id(EventAddress { index: 7, ..address }).to_string();
    let made_up = "evt_00000000000000000000000000";
    for id in [
        foreign.as_str(),
        &test,
        &beyond,
        made_up,
        "evt_",
        "nonsense",
        &own.to_uppercase(),
    ] {
        assert_eq!(
            api.get(&ours.key, &format!("/v1/events/{id}")).await.status,
            404,
            "{id}"
        );
    }
    let foreign_code = api.get(&theirs.key, "/v1/events?type=code.*").await.ok().body["events"][0].clone();
    let path = format!("/v1/events/{}", id(&foreign_code));
    assert_eq!(api.get(&ours.key, &path).await.status, 404);
    assert_eq!(
        api.get(ADMIN, &format!("{path}?tenant_id={}", ours.tenant))
            .await
            .status,
        404
    );
    api.get(ADMIN, &format!("{path}?tenant_id={}", theirs.tenant))
        .await
        .ok();
    assert!(ours.ids("type=scan.*").await.iter().all(|id| *id == own));
}

#[tokio::test]
async fn pages_are_newest_first_and_complete_though_writers_overlap_in_time() {
    let api = Api::start().await;
    let scans = Scans::of(&api).await;
    let noise = Scans::of(&api).await;
    let second = writer(&api).await;
    let base = 1_772_548_000_000;
    let mut expected: Vec<(i64, String)> = Vec::new();
    for at in 0..60_i64 {
        // Two writers, each out of order within seconds and both in the same seconds; foreign scans in between.
        let jumbled = base + (at * 37 % 60) * 250;
        let writer = if at % 3 == 0 { &second } else { &scans.writer };
        let (address, _) = scans.scan_by(writer, jumbled).await;
        expected.push((jumbled, api.store.install().ids.event_id(address).to_string()));
        noise.scan(jumbled).await;
    }
    expected.sort();
    expected.reverse();
    for size in [1, 7, 500] {
        let (mut seen, mut token, mut pages) = (Vec::new(), String::new(), 0);
        loop {
            let path = format!("/v1/events?type=scan.*&page_size={size}&page_token={token}");
            let page = api.get(&scans.key, &path).await.ok();
            let events = page.body["events"].as_array().unwrap();
            assert!(events.len() <= size);
            seen.extend(events.iter().map(id));
            (token, pages) = (page.text("next_page_token"), pages + 1);
            if token.is_empty() {
                break;
            }
            assert!(pages < 200, "the pages do not end");
            // What is recorded meanwhile is not on the pages that follow.
            scans.scan(base + 1_000_000).await;
        }
        let fresh: BTreeSet<_> = scans
            .ids("start_time=2026-03-03T14:40:00Z&page_size=500")
            .await
            .into_iter()
            .collect();
        seen.retain(|id| !fresh.contains(id));
        assert_eq!(
            seen,
            expected.iter().map(|(_, id)| id.clone()).collect::<Vec<_>>(),
            "pages of {size}"
        );
    }
}

#[tokio::test]
async fn scans_and_changes_are_one_list_and_filters_choose_from_it() {
    let api = Api::start().await;
    let scans = Scans::of(&api).await;
    let now = SystemClock.now().as_millis();
    let scan = scans.scan(now).await;
    let path = format!("/v1/codes/{}", scans.code);
    api.patch(&scans.key, &path, json!({"name": "Renamed"}))
        .await
        .ok();
    let other = api.post(&scans.key, "/v1/codes", code()).await.ok().text("id");
    let kinds = |events: &[Value]| {
        events
            .iter()
            .map(|event| event["type"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let all = scans.list("").await;
    assert_eq!(all.len(), 4);
    let times: Vec<_> = all
        .iter()
        .map(|event| event["created_at"].as_str().unwrap())
        .collect();
    assert!(times.is_sorted_by(|a, b| a >= b), "{times:?}");
    assert_eq!(
        kinds(&scans.list("type=code.*").await),
        ["code.created", "code.updated", "code.created"]
    );
    assert_eq!(kinds(&scans.list("type=code.updated").await), ["code.updated"]);
    assert_eq!(scans.ids("type=scan.created").await, std::slice::from_ref(&scan));
    assert_eq!(scans.list(&format!("code_id={}", scans.code)).await.len(), 3);
    assert_eq!(scans.list(&format!("code_id={other}&type=*")).await.len(), 1);
    let at = Timestamp::from_millis(now);
    let after = Timestamp::from_millis(now + 1);
    assert_eq!(
        scans
            .ids(&format!("type=scan.*&start_time={at}&end_time={after}"))
            .await,
        [scan]
    );
    assert_eq!(
        scans.ids(&format!("type=scan.*&start_time={after}")).await,
        Vec::<String>::new()
    );
    assert_eq!(
        scans.ids(&format!("type=scan.*&end_time={at}")).await,
        Vec::<String>::new()
    );
    let updated = &scans.list("type=code.updated").await[0];
    assert_eq!(updated["data"]["name"], "Renamed");
    assert_eq!(
        api.get(&scans.key, &format!("/v1/events/{}", id(updated)))
            .await
            .ok()
            .body,
        *updated
    );
    let token = api
        .get(&scans.key, "/v1/events?page_size=1")
        .await
        .ok()
        .text("next_page_token");
    let answer = api
        .get(&scans.key, &format!("/v1/events?type=scan.*&page_token={token}"))
        .await;
    assert_eq!(answer.fields(), ["page_token"]);
    let wrong = api
        .get(&scans.key, "/v1/events?type=nope.*&code_id=x&page_size=900")
        .await;
    assert_eq!(wrong.fields(), ["page_size", "type", "code_id"]);
}

#[tokio::test]
async fn a_resumed_stream_brings_what_followed_and_nothing_before() {
    let api = Api::start().await;
    let scans = Scans::of(&api).await;
    let mut client = api.events(&scans.key).await;
    let mut open = async |resume_token: String| {
        let request = v1::StreamEventsRequest {
            resume_token,
            ..Default::default()
        };
        client.stream_events(request).await.unwrap().into_inner()
    };
    scans.scan(1_772_548_000_000).await;
    let mut stream = open(String::new()).await;
    let from_the_start = stream.message().await.unwrap().unwrap().resume_token;
    let mut made = Vec::new();
    for at in 0..5 {
        made.push(scans.scan(1_772_548_100_000 + at).await);
    }
    let path = format!("/v1/codes/{}", scans.code);
    api.patch(&scans.key, &path, json!({"name": "Renamed"}))
        .await
        .ok();
    let mut seen = Vec::new();
    while seen.len() < 6 {
        let message = stream.message().await.unwrap().unwrap();
        let Some(event) = message.event else { continue };
        seen.push((event.id, event.r#type, message.resume_token));
    }
    let scanned: Vec<_> = seen
        .iter()
        .filter(|(_, kind, _)| kind == "scan.created")
        .map(|(id, ..)| id.clone())
        .collect();
    assert_eq!(scanned, made, "in the order of the writer, from now on");
    // From each token on, exactly what followed it.
    for at in 0..seen.len() {
        let mut resumed = open(seen[at].2.clone()).await;
        let mut rest: BTreeSet<_> = seen[at + 1..].iter().map(|(id, ..)| id.clone()).collect();
        let last = scans.scan(1_772_548_200_000).await;
        rest.insert(last);
        while !rest.is_empty() {
            let Some(event) = resumed.message().await.unwrap().unwrap().event else {
                continue;
            };
            let later: BTreeSet<_> = seen[..=at].iter().map(|(id, ..)| id.clone()).collect();
            assert!(
                !later.contains(&event.id),
                "{} again from token {at}",
                event.r#type
            );
            rest.remove(&event.id);
        }
    }
    let mut resumed = open(from_the_start).await;
    let mut first = None;
    while first.is_none() {
        first = resumed.message().await.unwrap().unwrap().event;
    }
    assert!(seen.iter().any(|(id, ..)| *id == first.as_ref().unwrap().id));
}

/// The tenant gets partitions of its own.
async fn extend(scans: &Scans<'_>, count: u16) {
    let store = &scans.api.store;
    let shared = store.install().partitions;
    let claimed = store.claim_partitions(count).await.unwrap().unwrap();
    let own: Vec<_> = claimed.map(PartitionId::new).collect();
    let mut tenant = (*store.tenant(scans.tenant).await.unwrap().unwrap()).clone();
    tenant.extend(&own, shared);
    tenant.version += 1;
    let change = samples::update(Resource::Tenant(tenant));
    store.change(change).await.unwrap();
}

#[tokio::test]
async fn events_are_followed_and_listed_in_partitions_that_the_tenant_is_given_meanwhile() {
    let api = Api::start().await;
    let scans = Scans::of(&api).await;
    let mut client = api.events(&scans.key).await;
    let mut open = async |resume_token: String| {
        let request = v1::StreamEventsRequest {
            resume_token,
            ..Default::default()
        };
        client.stream_events(request).await.unwrap().into_inner()
    };
    let next = async |stream: &mut tonic::Streaming<v1::StreamEventsResponse>| loop {
        let message = stream.message().await.unwrap().unwrap();
        if let Some(event) = message.event {
            return (event.id, message.resume_token);
        }
    };
    let mut stream = open(String::new()).await;
    let begun = stream.message().await.unwrap().unwrap().resume_token;
    let mut made = vec![scans.scan(1_772_548_100_000).await];
    let mut seen = vec![next(&mut stream).await];
    for count in [2, 3] {
        extend(&scans, count).await;
        made.push(scans.scan(1_772_548_100_000 + i64::from(count)).await);
        // One that is opened at once, by whom the tenant's row may still be known as it was, and one that is open.
        let mut fresh = open(seen.last().unwrap().1.clone()).await;
        assert_eq!(next(&mut fresh).await.0, *made.last().unwrap());
        seen.push(next(&mut stream).await);
    }
    let ids: Vec<_> = seen.iter().map(|(id, _)| id.clone()).collect();
    assert_eq!(ids, made);
    let mut again = open(begun).await;
    let mut resumed = BTreeSet::new();
    for _ in &made {
        resumed.insert(next(&mut again).await.0);
    }
    assert_eq!(resumed, made.iter().cloned().collect());
    made.reverse();
    assert_eq!(scans.ids("type=scan.*").await, made);
}

#[tokio::test]
async fn a_resume_token_works_for_its_own_filter_and_tenant_only() {
    let api = Api::start().await;
    let (scans, theirs) = (Scans::of(&api).await, Scans::of(&api).await);
    let open = async |key: &str, kind: &str, token: &str| {
        let request = v1::StreamEventsRequest {
            resume_token: token.to_owned(),
            r#type: kind.to_owned(),
            ..Default::default()
        };
        api.events(key).await.stream_events(request).await
    };
    let mut stream = open(&scans.key, "scan.*", "").await.unwrap().into_inner();
    let token = stream.message().await.unwrap().unwrap().resume_token;
    assert!(open(&scans.key, "scan.*", &token).await.is_ok());
    for (key, kind, token) in [
        (&scans.key, "", token.as_str()),
        (&scans.key, "code.*", &token),
        (&theirs.key, "scan.*", &token),
        (&scans.key, "scan.*", "x"),
    ] {
        let refused = open(key, kind, token).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{kind}");
    }
}

#[tokio::test]
async fn a_stream_ends_when_its_key_is_revoked_even_while_events_keep_coming() {
    let api = Api::start().await;
    let scans = Scans::of(&api).await;
    let (silent_id, silent_key) = api.key(&scans.tenant.to_string(), "read_only").await;
    let mut busy = api
        .events(&scans.key)
        .await
        .stream_events(v1::StreamEventsRequest::default())
        .await
        .unwrap()
        .into_inner();
    let request = v1::StreamEventsRequest {
        code_id: "code_0000000000000000".into(),
        ..Default::default()
    };
    let mut silent = api
        .events(&silent_key)
        .await
        .stream_events(request)
        .await
        .unwrap()
        .into_inner();
    for id in [&scans.key_id, &silent_id] {
        api.delete(ADMIN, &format!("/v1/api_keys/{id}")).await.ok();
    }
    let deadline = tokio::time::Instant::now() + Duration::from_secs(15);
    let busy = async {
        loop {
            scans.scan(1_772_548_000_000).await;
            match busy.message().await {
                Ok(Some(_)) => assert!(tokio::time::Instant::now() < deadline, "the stream goes on"),
                ended => return ended.unwrap_err(),
            }
        }
    };
    let silent = async {
        loop {
            match silent.message().await {
                Ok(Some(_)) => {}
                ended => return ended.unwrap_err(),
            }
        }
    };
    let (busy, silent) = tokio::time::timeout_at(deadline, async { tokio::join!(busy, silent) })
        .await
        .unwrap();
    assert_eq!(
        (busy.code(), silent.code()),
        (Code::Unauthenticated, Code::Unauthenticated)
    );
}

#[tokio::test]
async fn streams_are_bounded_per_key_and_end_when_the_server_stops() {
    let api = Api::start().await;
    let scans = Scans::of(&api).await;
    let mut client = api.events(&scans.key).await;
    let mut streams = Vec::new();
    for _ in 0..16 {
        streams.push(
            client
                .stream_events(v1::StreamEventsRequest::default())
                .await
                .unwrap()
                .into_inner(),
        );
    }
    let refused = client
        .stream_events(v1::StreamEventsRequest::default())
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let (_, other) = api.key(&scans.tenant.to_string(), "read_only").await;
    let more = api
        .events(&other)
        .await
        .stream_events(v1::StreamEventsRequest::default())
        .await;
    assert!(more.is_ok(), "another key has its own");
    api.stop.cancel();
    for mut stream in streams {
        let ended = loop {
            match stream.message().await {
                Ok(Some(message)) => assert!(message.event.is_none()),
                ended => break ended.unwrap_err(),
            }
        };
        assert_eq!(ended.code(), Code::Unavailable, "{ended:?}");
    }
    tokio::time::timeout(Duration::from_secs(10), api.tasks.wait())
        .await
        .expect("the server returns");
}

/// The ids of a stream's scans, until it ends.
async fn to_the_end(mut stream: tonic::Streaming<v1::StreamEventsResponse>) -> Vec<String> {
    let mut seen = Vec::new();
    let read = async {
        while let Some(message) = stream.message().await.unwrap() {
            seen.extend(message.event.map(|event| event.id));
        }
    };
    tokio::time::timeout(Duration::from_secs(60), read)
        .await
        .expect("the stream ends");
    seen.sort();
    seen
}

#[tokio::test]
async fn a_stream_of_the_past_brings_exactly_what_was_recorded_in_its_time_and_ends() {
    let api = Api::start().await;
    let scans = Scans::of(&api).await;
    let second = writer(&api).await;
    let base = 1_772_548_000_000;
    let mut made = Vec::new();
    for at in 0..60_i64 {
        let jumbled = base + (at * 37 % 60) * 250;
        let writer = if at % 3 == 0 { &second } else { &scans.writer };
        let (address, _) = scans.scan_by(writer, jumbled).await;
        made.push((jumbled, api.store.install().ids.event_id(address).to_string()));
    }
    let time = |ms: i64| {
        Some(prost_types::Timestamp {
            seconds: ms.div_euclid(1000),
            nanos: i32::try_from(ms.rem_euclid(1000) * 1_000_000).unwrap(),
        })
    };
    let mut client = api.events(&scans.key).await;
    for (start, end) in [(0, 15_000), (4_000, 9_000), (4_001, 4_251), (20_000, 30_000)] {
        let request = v1::StreamEventsRequest {
            start_time: time(base + start),
            end_time: time(base + end),
            ..Default::default()
        };
        let mut expected: Vec<_> = made
            .iter()
            .filter(|(at, _)| (base + start..base + end).contains(at))
            .map(|(_, id)| id.clone())
            .collect();
        expected.sort();
        let stream = client.stream_events(request).await.unwrap().into_inner();
        assert_eq!(to_the_end(stream).await, expected, "{start} to {end}");
    }
}

#[tokio::test]
async fn a_stream_with_a_start_goes_on_with_what_comes_and_a_token_decides_where_it_resumes() {
    let api = Api::start().await;
    let scans = Scans::of(&api).await;
    let now = SystemClock.now().as_millis();
    let before = scans.scan(now - 60_000).await;
    let first = scans.scan(now).await;
    let mut client = api.events(&scans.key).await;
    let mut open = async |resume_token: String| {
        let request = v1::StreamEventsRequest {
            r#type: "scan.*".to_owned(),
            start_time: Some(prost_types::Timestamp {
                seconds: now.div_euclid(1000),
                nanos: 0,
            }),
            resume_token,
            ..Default::default()
        };
        client.stream_events(request).await.unwrap().into_inner()
    };
    let mut stream = open(String::new()).await;
    let mut next = async || {
        loop {
            let message = stream.message().await.unwrap().unwrap();
            if let Some(event) = message.event {
                return (event.id, message.resume_token);
            }
        }
    };
    let (id, token) = next().await;
    assert_eq!(id, first, "and not {before}");
    let second = scans.scan(now + 1).await;
    assert_eq!(next().await.0, second);
    let mut resumed = open(token).await;
    let event = loop {
        if let Some(event) = resumed.message().await.unwrap().unwrap().event {
            break event;
        }
    };
    assert_eq!(event.id, second);
}

#[tokio::test]
async fn over_rest_a_stream_with_an_end_in_the_past_ends_and_holds_changes_too() {
    let api = Api::start().await;
    let scans = Scans::of(&api).await;
    let start = Timestamp::from_millis(SystemClock.now().as_millis() - 60_000);
    let end = Timestamp::from_millis(SystemClock.now().as_millis() - 30_000);
    let empty = format!("/v1/events:stream?start_time={start}&end_time={end}");
    assert_eq!(api.get(&scans.key, &empty).await.ok().body, Value::Null);
    let wrong = api
        .get(&scans.key, "/v1/events:stream?start_time=yesterday&end_time=1")
        .await;
    assert_eq!(wrong.fields(), ["start_time", "end_time"]);
    let mut client = api.events(&scans.key).await;
    let request = v1::StreamEventsRequest {
        r#type: "code.*".to_owned(),
        start_time: Some(prost_types::Timestamp {
            seconds: start.as_secs(),
            nanos: 0,
        }),
        ..Default::default()
    };
    let mut stream = client.stream_events(request).await.unwrap().into_inner();
    let event = loop {
        if let Some(event) = stream.message().await.unwrap().unwrap().event {
            break event;
        }
    };
    assert_eq!(event.r#type, "code.created", "from before the stream was opened");
}
