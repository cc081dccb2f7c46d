//! Conversions: what may be reported, and that each is recorded once, whatever happens on the way.

use std::time::Duration;

use qrelay_store::{
    Timestamp,
    fault::Fault,
    fault::Op,
    id::{PartitionId, Seq, WriterId},
    limits,
    record::{Classification, Record, ScanRecord},
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::harness::{ADMIN, Answer, Api, Setup, code};

/// A tenant's key, and a code of it.
struct Shop {
    tenant: String,
    key: String,
    code: Value,
}

impl Shop {
    async fn of(api: &Api) -> Self {
        let (tenant, key) = api.tenant_and_key().await;
        let code = api.post(&key, "/v1/codes", code()).await.ok().body;
        Self { tenant, key, code }
    }

    fn short_id(&self) -> &str {
        self.code["short_id"].as_str().unwrap()
    }

    /// A scan of the code, durable: its event's id.
    async fn scan(&self, api: &Api) -> String {
        let id = self.code["id"].as_str().unwrap().parse().unwrap();
        let code = api.store.code(id).await.unwrap().unwrap();
        let tenant = api.store.tenant(code.tenant).await.unwrap().unwrap();
        let at = Timestamp::from_millis(1_772_548_338_492);
        let scan = ScanRecord {
            tenant: code.tenant,
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
            user_agent: Some("a browser".into()),
            host: None,
            query: None,
            accept_language: None,
            network: None,
        };
        let pending = api
            .appender
            .append(tenant.partition(code.id), at, &Record::Scan(scan));
        let address = pending.unwrap().durable().await.unwrap();
        api.store.install().ids.event_id(address).to_string()
    }

    async fn report(&self, api: &Api, body: Value) -> Answer {
        api.post(&self.key, "/v1/conversions", body).await
    }

    fn order(&self, external_id: &str) -> Value {
        json!({"external_id": external_id, "short_id": self.short_id()})
    }

    /// The conversions that are recorded.
    async fn recorded(&self, api: &Api) -> Vec<Value> {
        let listed = api
            .get(&self.key, "/v1/events?type=qr.conversion&page_size=500")
            .await;
        listed.ok().body["events"].as_array().unwrap().clone()
    }
}

/// Ends the process that the server stands for: nothing of it goes on, and the next start closes its writer.
async fn crash(api: &Api) {
    api.stop.cancel();
    api.tasks.wait().await;
    let deadline = Instant::now() + Duration::from_secs(10);
    api.appender.close(deadline).await.unwrap();
}

#[tokio::test]
async fn a_conversion_is_recorded_as_an_event_that_names_its_scan() {
    let api = Api::start().await;
    let shop = Shop::of(&api).await;
    let scan = shop.scan(&api).await;
    let body = json!({
        "event_id": scan, "external_id": "order 1042", "value": "49.90", "currency": "eur",
        "properties": {"items": 2, "coupon": null},
    });
    let made = shop.report(&api, body.clone()).await.ok();
    assert_eq!(made.body["event_id"], json!(scan));
    assert_eq!(
        (&made.body["value"], &made.body["currency"]),
        (&json!("49.90"), &json!("EUR"))
    );
    assert_eq!(made.body["code_id"], shop.code["id"]);
    assert_eq!(made.body["short_id"], shop.code["short_id"]);
    assert_eq!(made.body["tenant_id"], json!(shop.tenant));

    let event = api
        .get(&shop.key, &format!("/v1/events/{}", made.text("id")))
        .await
        .ok()
        .body;
    assert_eq!(event["type"], "qr.conversion");
    assert_eq!(event["created_at"], made.body["created_at"]);
    let data = &event["data"];
    assert_eq!(data["external_id"], "order 1042");
    assert_eq!(
        (&data["value"], &data["currency"]),
        (&json!("49.90"), &json!("EUR"))
    );
    assert_eq!(data["properties"], json!({"items": 2, "coupon": null}));
    assert_eq!(data["code_id"], shop.code["id"]);
    assert_eq!(
        (&data["scan"]["event_id"], &data["scan"]["country"]),
        (&json!(scan), &json!("CA"))
    );
    assert_eq!(data["scan"]["scanned_at"], "2026-03-03T14:32:18.492Z");
    assert_eq!(shop.recorded(&api).await, [event]);
    let filtered = api
        .get(
            &shop.key,
            &format!(
                "/v1/events?type=qr.*&code_id={}",
                shop.code["id"].as_str().unwrap()
            ),
        )
        .await
        .ok();
    assert_eq!(filtered.body["events"].as_array().unwrap().len(), 1);
    let scans = api.get(&shop.key, "/v1/events?type=scan.created").await.ok();
    assert_eq!(scans.body["events"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_repeated_report_records_nothing_and_another_under_its_id_is_refused() {
    let api = Api::start().await;
    let (shop, other) = (Shop::of(&api).await, Shop::of(&api).await);
    let made = shop.report(&api, shop.order("order 1")).await.ok();
    assert_eq!(
        shop.report(&api, shop.order("order 1")).await.ok().body,
        made.body
    );
    assert_eq!(made.body["event_id"], "", "no scan is known");
    let mut changed = shop.order("order 1");
    changed["value"] = json!("1");
    let refused = shop.report(&api, changed).await;
    assert_eq!(
        (refused.status, &refused.body["error"]["status"]),
        (409, &json!("ALREADY_EXISTS"))
    );
    other.report(&api, other.order("order 1")).await.ok();
    assert_eq!(shop.recorded(&api).await.len(), 1);
    assert_eq!(other.recorded(&api).await.len(), 1);
    assert_eq!(shop.recorded(&api).await[0]["data"]["scan"], Value::Null);
}

#[tokio::test]
async fn of_concurrent_reports_one_is_recorded_and_all_are_told_it() {
    let api = Api::start().await;
    let shop = Shop::of(&api).await;
    let (first, second) = (shop.order("order 1"), shop.order("order 2"));
    let bodies = (0..40).map(|at| {
        if at % 2 == 0 {
            first.clone()
        } else {
            second.clone()
        }
    });
    let answers = futures::future::join_all(bodies.map(|body| shop.report(&api, body))).await;
    let ids: Vec<_> = answers.into_iter().map(|answer| answer.ok().text("id")).collect();
    assert!(ids.iter().step_by(2).all(|id| *id == ids[0]));
    assert!(ids.iter().skip(1).step_by(2).all(|id| *id == ids[1]));
    assert_eq!(shop.recorded(&api).await.len(), 2);
}

#[tokio::test]
async fn what_cannot_be_reported_is_refused_with_its_field() {
    let api = Api::start().await;
    let shop = Shop::of(&api).await;
    let short_id = shop.short_id();
    for (body, field) in [
        (json!({"short_id": short_id}), "external_id"),
        (
            json!({"external_id": "x".repeat(129), "short_id": short_id}),
            "external_id",
        ),
        (json!({"external_id": "1"}), "event_id"),
        (
            json!({"external_id": "1", "short_id": short_id, "event_id": "evt_1"}),
            "short_id",
        ),
        (
            json!({"external_id": "1", "short_id": short_id, "value": "1e3"}),
            "value",
        ),
        (
            json!({"external_id": "1", "short_id": short_id, "value": "1", "currency": "EURO"}),
            "currency",
        ),
        (
            json!({"external_id": "1", "short_id": short_id, "currency": "EUR"}),
            "currency",
        ),
        (
            json!({"external_id": "1", "short_id": short_id, "properties": {"a": "x".repeat(9000)}}),
            "properties",
        ),
    ] {
        let refused = shop.report(&api, body.clone()).await;
        assert_eq!(refused.status, 400, "{body}: {refused:?}");
        assert_eq!(refused.fields(), [field], "{body}");
    }
    let as_number = json!({"external_id": "1", "short_id": short_id, "value": 49.9});
    assert_eq!(
        shop.report(&api, as_number).await.status,
        400,
        "digits would be lost"
    );
    assert_eq!(shop.recorded(&api).await, [] as [Value; 0]);
}

#[tokio::test]
async fn only_ones_own_scans_and_codes_convert() {
    let api = Api::start().await;
    let (shop, other) = (Shop::of(&api).await, Shop::of(&api).await);
    let scan = other.scan(&api).await;
    let by_event = |id: &str| json!({"external_id": "order 1", "event_id": id});
    let change =
        api.get(&shop.key, "/v1/events?type=code.created").await.ok().body["events"][0]["id"].clone();
    for body in [
        by_event(&scan),
        by_event("evt_nonsense"),
        by_event(
            &api.store
                .install()
                .ids
                .event_id(qrelay_store::id::EventAddress::config(
                    qrelay_store::id::ConfigSeq::new(9),
                    9,
                ))
                .to_string(),
        ),
        json!({"external_id": "order 1", "short_id": other.short_id()}),
        json!({"external_id": "order 1", "short_id": "unknown"}),
    ] {
        let refused = shop.report(&api, body.clone()).await;
        assert_eq!(
            (refused.status, &refused.body["error"]["status"]),
            (404, &json!("NOT_FOUND")),
            "{body}"
        );
    }
    let conversion = other.report(&api, other.order("order 1")).await.ok().text("id");
    let refused = other
        .report(&api, json!({"external_id": "order 2", "event_id": conversion}))
        .await;
    assert_eq!(refused.fields(), ["event_id"], "a conversion is no scan");
    let refused = shop.report(&api, by_event(change.as_str().unwrap())).await;
    assert_eq!(refused.fields(), ["event_id"], "a change of a code is no scan");
    let refused = other.report(&api, by_event(change.as_str().unwrap())).await;
    assert_eq!(refused.status, 404, "another tenant's event is not found");
    let upper = json!({"external_id": "order 3", "short_id": other.short_id().to_ascii_uppercase()});
    assert_eq!(
        other.report(&api, upper).await.ok().body["code_id"],
        other.code["id"]
    );
    let as_admin = format!("/v1/conversions?tenant_id={}", shop.tenant);
    api.post(ADMIN, &as_admin, shop.order("order 1")).await.ok();
    let (_, reader) = api.key(&shop.tenant, "read_only").await;
    assert_eq!(
        api.post(&reader, "/v1/conversions", shop.order("order 2"))
            .await
            .status,
        403
    );
}

#[tokio::test]
async fn a_crash_after_the_append_leaves_one_event_that_the_next_report_is_told() {
    let api = Api::start().await;
    let shop = Shop::of(&api).await;
    shop.report(&api, shop.order("before")).await.ok();
    api.faults.break_all(Op::FinishConversion, Fault::Unavailable);
    let unknown = shop.report(&api, shop.order("order 1")).await;
    assert_eq!(
        (unknown.status, &unknown.body["error"]["status"]),
        (503, &json!("UNAVAILABLE"))
    );
    let recorded = shop.recorded(&api).await;
    assert_eq!(recorded.len(), 2);
    crash(&api).await;
    api.faults.heal(Op::FinishConversion);

    let next = api.again().await;
    let told = shop.report(&next, shop.order("order 1")).await.ok();
    assert_eq!(told.body["id"], recorded[0]["id"]);
    assert_eq!(told.body["created_at"], recorded[0]["created_at"]);
    assert_eq!(shop.recorded(&next).await, recorded);
}

#[tokio::test]
async fn a_crash_before_the_append_loses_nothing_that_is_reported_again() {
    let api = Api::start().await;
    let shop = Shop::of(&api).await;
    api.faults.break_all(Op::Append, Fault::Unavailable);
    let first = shop.report(&api, shop.order("taken")).await;
    assert_eq!(first.status, 503, "the log does not acknowledge it");
    let second = shop.report(&api, shop.order("refused")).await;
    assert_eq!(second.status, 503, "the log does not even take it");
    api.faults.heal(Op::Append);
    crash(&api).await;

    let next = api.again().await;
    for external_id in ["taken", "refused"] {
        let told = shop.report(&next, shop.order(external_id)).await.ok();
        let again = shop.report(&next, shop.order(external_id)).await.ok();
        assert_eq!(told.body, again.body);
    }
    assert_eq!(shop.recorded(&next).await.len(), 2, "each once");
}

#[tokio::test]
async fn what_another_process_may_still_record_is_not_recorded_beside_it() {
    let api = Api::start().await;
    let shop = Shop::of(&api).await;
    api.faults.break_all(Op::FinishConversion, Fault::Unavailable);
    assert_eq!(shop.report(&api, shop.order("order 1")).await.status, 503);
    let beside = api.again().await;
    let waits = shop.report(&beside, shop.order("order 1")).await;
    assert_eq!(waits.status, 503);
    assert!(
        waits.body.to_string().contains("CONVERSION_UNDER_WAY"),
        "{waits:?}"
    );
    api.faults.heal(Op::FinishConversion);
    let told = loop {
        let told = shop.report(&beside, shop.order("order 1")).await;
        if told.status == 200 {
            break told;
        }
        sleep(Duration::from_millis(20)).await;
    };
    let recorded = shop.recorded(&beside).await;
    assert_eq!(recorded.len(), 1);
    assert_eq!(told.body["id"], recorded[0]["id"]);
}

#[tokio::test]
async fn a_report_that_the_log_takes_late_is_recorded_once() {
    let api = Api::start().await;
    let shop = Shop::of(&api).await;
    api.faults.break_all(Op::Append, Fault::Unavailable);
    assert_eq!(shop.report(&api, shop.order("order 1")).await.status, 503);
    api.faults.heal(Op::Append);
    let told = loop {
        let told = shop.report(&api, shop.order("order 1")).await;
        if told.status == 200 {
            break told;
        }
        sleep(Duration::from_millis(20)).await;
    };
    let recorded = shop.recorded(&api).await;
    assert_eq!(recorded.len(), 1);
    assert_eq!(told.body["id"], recorded[0]["id"]);
}

// ---- Processes on a store that they share ----

/// A control plane on a store that others use, too.
async fn on_a_cluster() -> Api {
    let setup = Setup {
        shared: true,
        ..Setup::default()
    };
    Api::start_with(setup).await
}

/// From now on nothing is heard of the process. What it is doing goes on, until that meets the store.
fn falls_silent(api: &Api) {
    for op in [Op::PublishHeads, Op::CloseWriter] {
        api.faults.break_all(op, Fault::Unavailable);
    }
}

/// Time passes: enough for who is not heard of to count as silent. No connection waits meanwhile.
async fn silence_passes() {
    tokio::time::pause();
    tokio::time::advance(limits::WRITER_SILENT_AFTER + Duration::from_secs(1)).await;
    tokio::time::resume();
}

/// Whether anything of a writer stands in the log.
async fn has_appended(api: &Api, writer: WriterId) -> bool {
    for partition in (0..api.store.install().partitions).map(PartitionId::new) {
        if api.store.tail(partition, writer, Seq::ZERO).await.unwrap() > Seq::ZERO {
            return true;
        }
    }
    false
}

/// What others see of its writer's life.
async fn beat(api: &Api) -> u64 {
    let rows = api.store.writers().await.unwrap();
    let row = rows.iter().find(|row| row.writer == api.appender.writer());
    row.unwrap().beat
}

/// Reports until it is answered.
async fn told(shop: &Shop, api: &Api, external_id: &str) -> Value {
    loop {
        let told = shop.report(api, shop.order(external_id)).await;
        if told.status == 200 {
            return told.body;
        }
        assert_eq!(told.status, 503, "{told:?}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Says that it is under way, and that for as long as it may be.
async fn is_under_way(shop: &Shop, api: &Api, external_id: &str) {
    for _ in 0..3 {
        let waits = shop.report(api, shop.order(external_id)).await;
        assert!(
            waits.body.to_string().contains("CONVERSION_UNDER_WAY"),
            "{waits:?}"
        );
    }
}

#[tokio::test]
async fn what_a_process_that_died_had_recorded_is_told_by_another() {
    let dies = on_a_cluster().await;
    let shop = Shop::of(&dies).await;
    let next = dies.elsewhere().await;
    dies.faults.break_all(Op::FinishConversion, Fault::Unavailable);
    assert_eq!(shop.report(&dies, shop.order("order 1")).await.status, 503);
    falls_silent(&dies);
    dies.stop.cancel();
    let recorded = shop.recorded(&next).await;
    assert_eq!(recorded.len(), 1);
    is_under_way(&shop, &next, "order 1").await;
    silence_passes().await;
    let first = told(&shop, &next, "order 1").await;
    assert_eq!(first["id"], recorded[0]["id"]);
    assert_eq!(shop.recorded(&next).await, recorded);
}

#[tokio::test]
async fn what_a_process_that_died_had_not_recorded_is_recorded_by_another() {
    let dies = on_a_cluster().await;
    let shop = Shop::of(&dies).await;
    let next = dies.elsewhere().await;
    dies.faults.break_all(Op::Append, Fault::Unavailable);
    assert_eq!(shop.report(&dies, shop.order("order 1")).await.status, 503);
    falls_silent(&dies);
    dies.stop.cancel();
    is_under_way(&shop, &next, "order 1").await;
    silence_passes().await;
    let first = told(&shop, &next, "order 1").await;
    assert_eq!(told(&shop, &next, "order 1").await, first);
    let recorded = shop.recorded(&next).await;
    assert_eq!(recorded.len(), 1);
    assert_eq!(first["id"], recorded[0]["id"]);
}

#[tokio::test]
async fn a_process_that_only_stood_still_records_nothing_beside_who_took_over() {
    let stalls = on_a_cluster().await;
    let shop = Shop::of(&stalls).await;
    let other = stalls.elsewhere().await;
    stalls.faults.break_all(Op::Append, Fault::Stall);
    assert_eq!(shop.report(&stalls, shop.order("order 1")).await.status, 503);
    falls_silent(&stalls);
    is_under_way(&shop, &other, "order 1").await;
    silence_passes().await;
    let first = told(&shop, &other, "order 1").await;

    // Its append arrives now.
    let late = stalls.appender.writer();
    stalls.faults.heal_all();
    while !has_appended(&other, late).await {
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(told(&shop, &stalls, "order 1").await, first);
    let second = told(&shop, &stalls, "order 2").await;
    for api in [&stalls, &other] {
        assert_eq!(told(&shop, api, "order 2").await, second);
        let recorded = shop.recorded(api).await;
        let ids: Vec<_> = recorded.iter().map(|event| &event["id"]).collect();
        assert_eq!(ids, [&second["id"], &first["id"]]);
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    stalls.appender.close(deadline).await.unwrap();
}

#[tokio::test]
async fn a_process_that_lives_is_waited_for_however_long_it_takes() {
    let works = on_a_cluster().await;
    let shop = Shop::of(&works).await;
    let other = works.elsewhere().await;
    works.faults.break_all(Op::FinishConversion, Fault::Unavailable);
    assert_eq!(shop.report(&works, shop.order("order 1")).await.status, 503);
    is_under_way(&shop, &other, "order 1").await;
    let before = beat(&works).await;
    silence_passes().await;
    while beat(&works).await == before {
        sleep(Duration::from_millis(20)).await;
    }
    is_under_way(&shop, &other, "order 1").await;
    works.faults.heal_all();
    let first = told(&shop, &other, "order 1").await;
    let recorded = shop.recorded(&other).await;
    assert_eq!(recorded.len(), 1);
    assert_eq!(first["id"], recorded[0]["id"]);
}
