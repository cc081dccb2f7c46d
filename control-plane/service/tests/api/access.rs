//! The role walk: every RPC of the descriptors, with every kind of key, over gRPC and over REST.
//!
//! Which role an RPC needs is said here once more, by a rule of its own, so that a slip in the table of roles is
//! noticed; a new RPC is walked without anybody adding it.

use std::collections::BTreeMap;

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, Kind, MethodDescriptor, Value};
use qrelay_proto::FILE_DESCRIPTOR_SET;
use qrelay_store::{
    Timestamp,
    event::EventType,
    id::{ConfigSeq, DeliveryKey, EventAddress, PartitionId},
    store::{AttemptRow, CommandResult, DeliveryStatus},
};
use serde_json::json;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::Code;

use crate::{
    harness::{ADMIN, Api, code, endpoint},
    raw_grpc,
};

/// What a caller must be, by the contract's words rather than the server's table.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Needs {
    Read,
    Write,
    Admin,
}

fn needs(rpc: &MethodDescriptor) -> Needs {
    let (service, name) = (rpc.parent_service().name().to_owned(), rpc.name().to_owned());
    let reads = ["Get", "List", "Stream", "Preview"]
        .iter()
        .any(|verb| name.starts_with(verb));
    match service.as_str() {
        "TenantService" if ["GetTenant", "GetUsage"].contains(&name.as_str()) => Needs::Read,
        "TenantService" => Needs::Admin,
        _ if reads => Needs::Read,
        _ => Needs::Write,
    }
}

/// One tenant with one of everything, by the field or resource that names it.
struct World {
    tenant: String,
    ids: BTreeMap<&'static str, String>,
    read_write: String,
    read_only: String,
    revoked: String,
}

async fn world(api: &Api) -> World {
    let (tenant, read_write) = api.tenant_and_key().await;
    let (_, read_only) = api.key(&tenant, "read_only").await;
    let (revoked_id, revoked) = api.key(&tenant, "read_write").await;
    api.delete(ADMIN, &format!("/v1/api_keys/{revoked_id}"))
        .await
        .ok();
    let (key_id, _) = api.key(&tenant, "read_write").await;
    let code = api.post(&read_write, "/v1/codes", code()).await.ok();
    let (code, short_id) = (code.text("id"), code.text("short_id"));
    let endpoint = api
        .post(&read_write, "/v1/endpoints", endpoint())
        .await
        .ok()
        .text("id");
    let event = event_of(api, &code).await;
    let delivery = delivery_of(api, &endpoint, event).await;
    let event = api.store.install().ids.event_id(event).to_string();
    let replay = crate::replays::one_that_is_over(api, &endpoint).await;
    let ids = BTreeMap::from([
        ("Tenant", tenant.clone()),
        ("ApiKey", key_id),
        ("Code", code),
        ("Endpoint", endpoint.clone()),
        ("Delivery", delivery),
        ("Event", event),
        ("Replay", replay),
        ("endpoint_id", endpoint),
        ("tenant_id", tenant.clone()),
        ("short_id", short_id),
    ]);
    World {
        tenant,
        ids,
        read_write,
        read_only,
        revoked,
    }
}

/// The address of the event that announced a code.
async fn event_of(api: &Api, code: &str) -> EventAddress {
    let rows = api.store.config_after(ConfigSeq::ZERO, 10_000).await.unwrap();
    for row in rows {
        for (at, change) in row.changes.iter().enumerate() {
            if serde_json::to_value(change.resource).unwrap()["id"] == code {
                return EventAddress::config(row.seq, u16::try_from(at).unwrap());
            }
        }
    }
    panic!("the code {code} was not announced");
}

async fn delivery_of(api: &Api, endpoint: &str, event: EventAddress) -> String {
    let (endpoint, first_at) = (
        endpoint.parse().unwrap(),
        Timestamp::from_millis(1_800_000_000_000),
    );
    let row = AttemptRow {
        endpoint,
        first_at,
        event,
        event_type: EventType::CodeCreated,
        number: 1,
        started_at: first_at,
        duration_ms: 12,
        status: DeliveryStatus::Succeeded,
        response_status: Some(204),
        error_class: String::new(),
        fault: String::new(),
        error: String::new(),
        next_attempt_at: None,
        detail: json!({}),
        response_body: bytes::Bytes::new(),
        code: None,
    };
    api.store.record_attempts(vec![row]).await.unwrap();
    let key = DeliveryKey {
        endpoint,
        first_at,
        event,
    };
    api.store.install().ids.delivery_id(&key).to_string()
}

/// A request that names what the world has.
fn request(rpc: &MethodDescriptor, world: &World) -> DynamicMessage {
    let mut message = DynamicMessage::new(rpc.input());
    for field in rpc.input().fields() {
        let name = field.name().to_owned();
        let resource = [
            "Tenant", "ApiKey", "Code", "Endpoint", "Delivery", "Event", "Replay",
        ]
        .into_iter()
        .rfind(|kind| rpc.name().contains(kind) || (rpc.name().contains("Secret") && *kind == "Endpoint"));
        let text = match name.as_str() {
            "id" => world.ids.get(resource.expect("an RPC with an id says of what")),
            "tenant_id" | "endpoint_id" => world.ids.get(name.as_str()),
            _ => None,
        };
        if let Some(text) = text {
            message.set_field(&field, Value::String(text.clone()));
        }
        if let Kind::Message(inner) = field.kind() {
            let mut body = DynamicMessage::new(inner.clone());
            let conversion = [
                ("external_id", Value::String("order 1".into())),
                ("short_id", Value::String(world.ids["short_id"].clone())),
            ];
            let filled: &[(&str, Value)] = match inner.name() {
                "Tenant" => &[("name", Value::String("Acme".into()))],
                "ApiKey" => &[("name", Value::String("k".into()))],
                "Conversion" => &conversion,
                "Code" => &[("destination_url", Value::String("https://example.com/".into()))],
                "Endpoint" => &[
                    ("url", Value::String("https://hooks.example.com/".into())),
                    ("events", Value::List(vec![Value::String("*".into())])),
                ],
                "Timestamp" if rpc.name() == "CreateReplay" && name == "start_time" => {
                    &[("seconds", Value::I64(1))]
                }
                _ => continue,
            };
            filled
                .iter()
                .for_each(|(field, value)| body.set_field_by_name(field, value.clone()));
            message.set_field(&field, Value::Message(body));
        }
    }
    message
}

/// Calls over both protocols; the codes must agree, and be what is expected.
async fn expect(api: &Api, rpc: &MethodDescriptor, key: &str, who: &str, world: &World, expected: Code) {
    let message = request(rpc, world);
    let path = format!("/{}/{}", rpc.parent_service().full_name(), rpc.name());
    let status = raw_grpc::call(api.channel().await, &path, key, message.encode_to_vec()).await;
    assert_eq!(status.code(), expected, "gRPC {path} as {who}: {status:?}");
    // A second delete, or a change of what is deleted by now, is answered otherwise: REST is asked where the first
    // call changed nothing.
    if expected == Code::Ok && needs(rpc) != Needs::Read {
        return;
    }
    let rest = rest_status(api, rpc, &message, key).await;
    assert_eq!(
        rest,
        qrelay_rest::http_status(expected).as_u16(),
        "REST {path} as {who}"
    );
}

/// The same request by the method's `google.api.http` option.
async fn rest_status(api: &Api, rpc: &MethodDescriptor, message: &DynamicMessage, key: &str) -> u16 {
    let pool = rpc.parent_pool();
    let extension = pool.get_extension_by_name("google.api.http").unwrap();
    let options = rpc.options();
    let rule = options.get_extension(&extension);
    let rule = rule.as_message().unwrap();
    let part = |name: &str| {
        rule.get_field_by_name(name)
            .unwrap()
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    let (verb, mut path) = ["get", "post", "patch", "delete"]
        .into_iter()
        .map(|verb| (verb, part(verb)))
        .find(|(_, path)| !path.is_empty())
        .expect("each RPC has an HTTP rule");
    let body_field = part("body");
    let (mut query, mut body) = (Vec::new(), None);
    let transcoder =
        qrelay_rest::Transcoder::new(FILE_DESCRIPTOR_SET, qrelay_rest::Config::default()).unwrap();
    for (field, value) in message.fields() {
        let variable = format!("{{{}}}", field.name());
        match value {
            Value::String(text) if path.contains(&variable) => path = path.replace(&variable, text),
            Value::Message(inner) if field.name() == body_field => {
                let mut json = transcoder.message_to_json(inner).unwrap();
                // A body of defaults would set what nobody gave.
                json.as_object_mut()
                    .unwrap()
                    .retain(|name, _| ["name", "destination_url", "url", "events"].contains(&name.as_str()));
                body = Some(json);
            }
            Value::String(text) if body_field != "*" => query.push(format!("{}={text}", field.name())),
            Value::String(text) => body = Some(json!({ field.name(): text })),
            _ => {}
        }
    }
    let path = if query.is_empty() {
        path
    } else {
        format!("{path}?{}", query.join("&"))
    };
    if verb == "get" && rpc.is_server_streaming() {
        return api.status_of_stream(&path, key).await;
    }
    api.rest(key, &verb.to_uppercase(), &path, body).await.status
}

fn rpcs() -> Vec<MethodDescriptor> {
    let pool = DescriptorPool::decode(FILE_DESCRIPTOR_SET).unwrap();
    let rpcs: Vec<_> = pool
        .services()
        .flat_map(|service| service.methods().collect::<Vec<_>>())
        .collect();
    assert!(
        rpcs.len() >= 26,
        "only {} RPCs: this test would prove nothing",
        rpcs.len()
    );
    rpcs
}

/// Plays the partitions' owners: refuses every test.
fn owner(api: &Api) -> CancellationToken {
    let (store, stop) = (api.store.clone(), CancellationToken::new());
    let stopped = stop.clone();
    TaskTracker::new().spawn(async move {
        while !stopped.is_cancelled() {
            for partition in (0..4).map(PartitionId::new) {
                for command in store.pending_commands(partition, 10).await.unwrap() {
                    let refused = CommandResult::Refused {
                        reason: "played".into(),
                    };
                    store
                        .finish_command(partition, command.id, &refused)
                        .await
                        .unwrap();
                    store.hints().partition(partition).publish_command();
                }
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    });
    stop
}

#[tokio::test]
async fn without_a_good_key_every_rpc_is_unauthenticated() {
    let api = Api::start().await;
    let world = world(&api).await;
    let last = world.read_write.chars().last().unwrap();
    let other = if last == '0' { '1' } else { '0' };
    let wrong = format!("{}{other}", &world.read_write[..world.read_write.len() - 1]);
    // From one address only so many wrong keys are looked at: each kind gets a server of its own share.
    for rpc in &rpcs() {
        expect(&api, rpc, "", "nobody", &world, Code::Unauthenticated).await;
    }
    for (who, key) in [("a wrong key", wrong), ("a revoked key", world.revoked.clone())] {
        for rpcs in rpcs().chunks(6) {
            let api = api.again().await;
            for rpc in rpcs {
                expect(&api, rpc, &key, who, &world, Code::Unauthenticated).await;
            }
        }
    }
}

#[tokio::test]
async fn each_role_may_do_what_the_contract_says_and_no_more() {
    let api = Api::start().await;
    let _owner = owner(&api).drop_guard();
    for rpc in &rpcs() {
        let allowed = if ["TestEndpoint", "CreateReplay"].contains(&rpc.name()) {
            Code::FailedPrecondition
        } else {
            Code::Ok
        };
        for who in ["read-only", "read-write", "admin"] {
            let world = world(&api).await;
            let (key, may) = match who {
                "read-only" => (&world.read_only, needs(rpc) == Needs::Read),
                "read-write" => (&world.read_write, needs(rpc) != Needs::Admin),
                _ => (&ADMIN.to_owned(), true),
            };
            let expected = if may { allowed } else { Code::PermissionDenied };
            expect(&api, rpc, key, who, &world, expected).await;
        }
    }
}

#[tokio::test]
async fn what_is_another_tenants_is_not_found_whatever_the_rpc() {
    let api = Api::start().await;
    let (ours, theirs) = (world(&api).await, world(&api).await);
    let mut unnamed = world(&api).await;
    // The same resources, named without their tenant: then the key's own tenant is meant.
    unnamed.ids.remove("tenant_id");
    for rpc in rpcs().iter().filter(|rpc| needs(rpc) != Needs::Admin) {
        expect(
            &api,
            rpc,
            &ours.read_write,
            "another tenant",
            &theirs,
            Code::NotFound,
        )
        .await;
        let names_a_resource = ["id", "endpoint_id"]
            .iter()
            .any(|name| rpc.input().get_field_by_name(name).is_some());
        if names_a_resource {
            expect(
                &api,
                rpc,
                &ours.read_write,
                "another tenant, unsaid",
                &unnamed,
                Code::NotFound,
            )
            .await;
        }
        // Nor with the admin key, when the tenant said is not the resource's.
        if names_a_resource && rpc.parent_service().name() != "TenantService" {
            let mut mixed = world(&api).await;
            mixed.ids.insert("tenant_id", ours.tenant.clone());
            expect(
                &api,
                rpc,
                ADMIN,
                "admin for the wrong tenant",
                &mixed,
                Code::NotFound,
            )
            .await;
        }
    }
}

#[tokio::test]
async fn a_bad_key_is_answered_before_anything_is_decoded() {
    let api = Api::start().await;
    for (method, path) in [
        ("POST", "/v1/codes"),
        ("GET", "/v1/nowhere"),
        ("PUT", "/v1/codes"),
        ("GET", "/%zz"),
    ] {
        let answer = api.raw(method, path, &[], b"{\"not\": json".to_vec()).await;
        assert_eq!(answer.status, 401, "{method} {path}");
        assert_eq!(answer.headers["www-authenticate"], "Bearer");
        assert_eq!(answer.body["error"]["status"], "UNAUTHENTICATED");
    }
    let status = raw_grpc::call(
        api.channel().await,
        "/qrelay.v1.CodeService/CreateCode",
        "",
        b"\xff".to_vec(),
    )
    .await;
    assert_eq!(status.code(), Code::Unauthenticated);
    let status = raw_grpc::call(
        api.channel().await,
        "/qrelay.v1.CodeService/Nothing",
        ADMIN,
        vec![],
    )
    .await;
    assert_eq!(status.code(), Code::Unimplemented);
}
