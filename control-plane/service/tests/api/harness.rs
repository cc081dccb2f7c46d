//! A control plane to test against: its own store in a temporary directory, its own port, and clients for it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use qrelay_control::{AdminKey, Config, Deps, Rates, Server};
use qrelay_proto::v1::{
    code_service_client::CodeServiceClient, endpoint_service_client::EndpointServiceClient,
    event_service_client::EventServiceClient,
};
use qrelay_store::{
    appender::Appender,
    clock::{SharedClock, SystemClock},
    fault::FaultStore,
    seal::{MasterKeys, Sealer},
    sqlite::{Options, SqliteStore},
    store::SharedStore,
    target::{ResolveError, ScriptedResolver, TargetPolicy, Targets},
};
use rustls::ServerConfig;
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::Handle,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{
    Request, Status,
    metadata::MetadataValue,
    service::{Interceptor, interceptor::InterceptedService},
    transport::Channel,
};

pub(crate) const ADMIN: &str = "admin-key-of-the-tests-0123456789";

/// Adds a key to every call.
#[derive(Clone)]
pub(crate) struct WithKey(Option<String>);

impl Interceptor for WithKey {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(key) = &self.0 {
            let value = MetadataValue::try_from(format!("Bearer {key}")).expect("keys are visible ASCII");
            request.metadata_mut().insert("authorization", value);
        }
        Ok(request)
    }
}

pub(crate) type Client = InterceptedService<Channel, WithKey>;

/// A running control plane. Stops when dropped.
pub(crate) struct Api {
    pub(crate) address: SocketAddr,
    pub(crate) store: SharedStore,
    /// Its writer.
    pub(crate) appender: Appender,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
    /// Makes the store fail.
    pub(crate) faults: Arc<FaultStore>,
    /// What it fails in front of.
    inner: SharedStore,
    pub(crate) dir: Arc<tempfile::TempDir>,
}

impl Drop for Api {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// What a test may set.
pub(crate) struct Setup {
    pub(crate) clock: SharedClock,
    pub(crate) rates: Rates,
    pub(crate) tls: Option<Arc<ServerConfig>>,
    /// Whether other processes may use the store.
    pub(crate) shared: bool,
}

impl Default for Setup {
    fn default() -> Self {
        let rates = Rates {
            requests_per_second: 100_000,
            requests_burst: 100_000,
        };
        Self {
            clock: Arc::new(SystemClock),
            rates,
            tls: None,
            shared: false,
        }
    }
}

/// A REST answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: Value,
}

impl Answer {
    /// The names of the fields that a 400 complains about.
    pub(crate) fn fields(&self) -> Vec<String> {
        let details = self.body["error"]["details"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let violations = details
            .iter()
            .filter_map(|detail| detail["field_violations"].as_array());
        violations
            .flatten()
            .map(|found| found["field"].as_str().unwrap_or_default().to_owned())
            .collect()
    }

    pub(crate) fn text(&self, field: &str) -> String {
        self.body[field]
            .as_str()
            .unwrap_or_else(|| panic!("no text {field} in {self:?}"))
            .to_owned()
    }

    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.status, 200, "{self:?}");
        self
    }
}

impl Api {
    pub(crate) async fn start() -> Self {
        Self::start_with(Setup::default()).await
    }

    pub(crate) async fn start_with(setup: Setup) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = Options {
            partitions: 4,
            clock: Arc::clone(&setup.clock),
        };
        let inner: SharedStore = SqliteStore::open(dir.path(), &options).unwrap();
        let faults = FaultStore::new(Arc::clone(&inner));
        faults.set_exclusive(!setup.shared);
        Self::serve(setup, (inner, faults), Arc::new(dir)).await
    }

    async fn serve(
        setup: Setup,
        (inner, faults): (SharedStore, Arc<FaultStore>),
        dir: Arc<tempfile::TempDir>,
    ) -> Self {
        let store: SharedStore = faults.clone();
        let (keys, _) = MasterKeys::load_or_create(&dir.path().join("master.key")).unwrap();
        let resolver = ScriptedResolver::default()
            .with("hooks.example.com", Ok(vec!["93.184.216.34".parse().unwrap()]))
            .with("other.example.com", Ok(vec!["93.184.216.34".parse().unwrap()]))
            .with("inside.example.com", Ok(vec!["10.0.0.7".parse().unwrap()]))
            .with("down.example.com", Err(ResolveError::Timeout));
        let system: SharedClock = Arc::new(SystemClock);
        let (here, period) = (Handle::current(), Duration::from_millis(20));
        let appender = match store.exclusive() {
            true => Appender::start(store.clone(), &system, "test", period).await,
            false => Appender::start_fenced(&here, store.clone(), &system, "test", period).await,
        };
        let appender = appender.unwrap();
        let deps = Deps {
            store: Arc::clone(&store),
            clock: setup.clock,
            sealer: Sealer::new(Arc::new(keys)),
            targets: Targets::new(TargetPolicy::default(), Arc::new(resolver)),
            appender: appender.clone(),
        };
        let config = Config {
            public_url: "https://qr.example".parse().unwrap(),
            admin_key: AdminKey::new(&SecretString::from(ADMIN)).unwrap(),
            rates: setup.rates,
            tls: setup.tls,
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let server = Server::build(config, deps).unwrap();
        tasks.spawn(server.serve(listener, stop.clone(), Duration::from_secs(5)));
        tasks.close();
        Self {
            address,
            store,
            appender,
            stop,
            tasks,
            faults,
            inner,
            dir,
        }
    }

    /// A second control plane on the same store.
    pub(crate) async fn again(&self) -> Self {
        let store = (Arc::clone(&self.inner), Arc::clone(&self.faults));
        Self::serve(Setup::default(), store, Arc::clone(&self.dir)).await
    }

    /// A control plane of another process, which shares nothing with this one but the store.
    pub(crate) async fn elsewhere(&self) -> Self {
        let faults = FaultStore::without_hints(Arc::clone(&self.inner));
        faults.set_exclusive(false);
        let store = (Arc::clone(&self.inner), faults);
        Self::serve(Setup::default(), store, Arc::clone(&self.dir)).await
    }

    pub(crate) async fn channel(&self) -> Channel {
        Channel::from_shared(format!("http://{}", self.address))
            .unwrap()
            .connect()
            .await
            .unwrap()
    }

    pub(crate) async fn codes(&self, key: &str) -> CodeServiceClient<Client> {
        CodeServiceClient::with_interceptor(self.channel().await, with(key))
    }

    pub(crate) async fn endpoints(&self, key: &str) -> EndpointServiceClient<Client> {
        EndpointServiceClient::with_interceptor(self.channel().await, with(key))
    }

    pub(crate) async fn events(&self, key: &str) -> EventServiceClient<Client> {
        EventServiceClient::with_interceptor(self.channel().await, with(key))
    }

    /// One REST call on a connection of its own.
    pub(crate) async fn rest(&self, key: &str, method: &str, path: &str, body: Option<Value>) -> Answer {
        let headers = [("authorization", format!("Bearer {key}"))];
        let headers = if key.is_empty() { &[][..] } else { &headers };
        let body = body.map_or_else(Vec::new, |body| body.to_string().into_bytes());
        self.raw(method, path, headers, body).await
    }

    pub(crate) async fn raw(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, String)],
        body: Vec<u8>,
    ) -> Answer {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        let driver = TaskTracker::new();
        driver.spawn(connection);
        let mut request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("host", "api.example");
        if !body.is_empty() {
            request = request.header("content-type", "application/json");
        }
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let request = request.body(Full::new(bytes::Bytes::from(body))).unwrap();
        let response = sender.send_request(request).await.unwrap();
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
        Answer {
            status: head.status.as_u16(),
            headers: head.headers,
            body,
        }
    }

    /// The status of a stream of server-sent events, which is then left.
    pub(crate) async fn status_of_stream(&self, path: &str, key: &str) -> u16 {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        TaskTracker::new().spawn(connection);
        let request = http::Request::get(path).header("host", "api.example");
        let request = if key.is_empty() {
            request
        } else {
            request.header("authorization", format!("Bearer {key}"))
        };
        let request = request.body(Full::new(bytes::Bytes::new())).unwrap();
        sender.send_request(request).await.unwrap().status().as_u16()
    }

    pub(crate) async fn get(&self, key: &str, path: &str) -> Answer {
        self.rest(key, "GET", path, None).await
    }

    pub(crate) async fn post(&self, key: &str, path: &str, body: Value) -> Answer {
        self.rest(key, "POST", path, Some(body)).await
    }

    pub(crate) async fn patch(&self, key: &str, path: &str, body: Value) -> Answer {
        self.rest(key, "PATCH", path, Some(body)).await
    }

    pub(crate) async fn delete(&self, key: &str, path: &str) -> Answer {
        self.rest(key, "DELETE", path, None).await
    }

    /// A new tenant's id.
    pub(crate) async fn tenant(&self) -> String {
        self.post(ADMIN, "/v1/tenants", json!({"name": "Acme"}))
            .await
            .ok()
            .text("id")
    }

    /// A new key of a tenant: its id and its text.
    pub(crate) async fn key(&self, tenant: &str, role: &str) -> (String, String) {
        let path = format!("/v1/tenants/{tenant}/api_keys");
        let made = self
            .post(ADMIN, &path, json!({"role": role, "name": "test"}))
            .await
            .ok();
        (made.text("id"), made.text("key"))
    }

    /// A new tenant and a read-write key of it.
    pub(crate) async fn tenant_and_key(&self) -> (String, String) {
        let tenant = self.tenant().await;
        let (_, key) = self.key(&tenant, "read_write").await;
        (tenant, key)
    }
}

fn with(key: &str) -> WithKey {
    WithKey((!key.is_empty()).then(|| key.to_owned()))
}

/// A code that passes.
pub(crate) fn code() -> Value {
    json!({"destination_url": "https://example.com/menu"})
}

/// An endpoint that passes.
pub(crate) fn endpoint() -> Value {
    json!({"url": "https://hooks.example.com/in", "events": ["scan.created"]})
}
