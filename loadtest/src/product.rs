//! The product as a benchmark needs it, with a tenant and a code made over REST: `qrelay up` on a fresh data directory, or
//! its roles as processes of their own on a fresh keyspace of a CQL cluster.

use std::{
    ffi::OsString,
    fs::{self, OpenOptions},
    io::Write,
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail};
use http::StatusCode;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::{
    child::{Child, Start},
    listeners,
    rest::Call,
    target::Target,
};

/// From start to a ready API; a debug build under load takes seconds.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// The same of a process that makes a keyspace's tables: a busy cluster takes its time for each.
const SCHEMA_TIMEOUT: Duration = Duration::from_secs(300);
/// How long counting may lag behind the last scan.
const COUNT_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a call that comes too often is repeated.
const CALL_PATIENCE: Duration = Duration::from_secs(10);
/// A count that has not changed for so long is over: counts are saved within a second.
const COUNT_REST: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(50);

/// What roles of one install share. It guards nothing but a run.
const MASTER_KEY: &str = "benchmark:YSBtYXN0ZXIga2V5IG9mIGJlbmNobWFya3MsIDMyIEI=";
const PEER_KEY: &str = "a peer key of benchmarks, and of nothing else";

/// A running `qrelay up`, or an edge with the other roles beside it.
#[derive(Debug)]
pub struct Product {
    /// What answers scans.
    child: Child,
    edge: SocketAddr,
    api: SocketAddr,
    ops: SocketAddr,
    admin_key: String,
    /// The other roles, where they are processes of their own.
    others: Vec<Role>,
}

/// A process that answers no scans.
#[derive(Debug)]
struct Role {
    child: Child,
    ops: SocketAddr,
}

/// A keyspace of a CQL cluster.
#[derive(Debug, Clone)]
pub struct Keyspace {
    /// A node, `host:port`.
    pub node: String,
    /// Its name.
    pub name: String,
}

/// A tenant with one code.
#[derive(Debug, Clone)]
pub struct Campaign {
    /// The tenant's id.
    pub tenant: String,
    /// What a scan asks for.
    pub target: Target,
}

impl Product {
    /// Starts it on a core or on all of them, with its data directory and log in `folder`, and waits until it is ready.
    ///
    /// # Errors
    /// When it ends, or is not ready within a minute.
    pub async fn start(program: &Path, folder: &Path, core: Option<usize>) -> anyhow::Result<Self> {
        let mut product = Self::spawn(program, folder, &folder.join("data"), core)?;
        product.ready().await?;
        Ok(product)
    }

    /// Starts it on a data directory, with its log in `folder`, and waits for nothing.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(program: &Path, folder: &Path, data: &Path, core: Option<usize>) -> anyhow::Result<Self> {
        let [edge, api, ops] = [
            listeners::free_address()?,
            listeners::free_address()?,
            listeners::free_address()?,
        ];
        let admin_key = admin_key();
        let key_file = key_file(folder, "admin-key", &admin_key)?;
        let arguments = [
            ("--data-dir", data.as_os_str().to_owned()),
            ("--edge-listen", edge.to_string().into()),
            ("--api-listen", api.to_string().into()),
            ("--ops-listen", ops.to_string().into()),
            ("--admin-key-file", key_file.into_os_string()),
            receivers(),
        ];
        let processes = Processes {
            program,
            folder,
            core,
        };
        Ok(Self {
            child: processes.start("qrelay", "up", &arguments)?,
            edge,
            api,
            ops,
            admin_key,
            others: Vec::new(),
        })
    }

    /// Starts an edge, a dispatcher and a control plane on a keyspace that is not there yet, each a process on that core or
    /// on all of them, with logs in `folder`, and waits until all are ready.
    ///
    /// # Errors
    /// When one ends, or is not ready within some minutes.
    pub async fn start_roles(
        program: &Path,
        folder: &Path,
        keyspace: &Keyspace,
        core: Option<usize>,
    ) -> anyhow::Result<Self> {
        let [edge, api] = [listeners::free_address()?, listeners::free_address()?];
        let admin_key = admin_key();
        let admin_file = key_file(folder, "admin-key", &admin_key)?.into_os_string();
        let master_file = key_file(folder, "master-key", MASTER_KEY)?.into_os_string();
        let peer_file = key_file(folder, "peer-key", PEER_KEY)?.into_os_string();
        let processes = Processes {
            program,
            folder,
            core,
        };
        let start = |role: &str, own: Vec<(&str, OsString)>| -> anyhow::Result<Role> {
            let ops = listeners::free_address()?;
            let mut arguments = own;
            arguments.extend([
                ("--ops-listen", ops.to_string().into()),
                ("--scylla-nodes", keyspace.node.clone().into()),
                ("--scylla-keyspace", keyspace.name.clone().into()),
                // Of as many as there are.
                ("--scylla-replication", "1".into()),
                ("--peer-key-file", peer_file.clone()),
            ]);
            let child = processes.start(role, role, &arguments)?;
            Ok(Role { child, ops })
        };
        let public_url = || ("--public-url", format!("http://{edge}").into());
        let master = || ("--master-key-file", master_file.clone());
        let mut plane = start(
            "control-plane",
            vec![
                ("--api-listen", api.to_string().into()),
                ("--admin-key-file", admin_file),
                master(),
                public_url(),
                receivers(),
            ],
        )?;
        // It makes the tables.
        ready(&mut plane.child, plane.ops, SCHEMA_TIMEOUT).await?;
        let told = ("--peer-listen", "127.0.0.1:0".into());
        let mut dispatcher = start("dispatcher", vec![master(), public_url(), receivers(), told])?;
        let mut scans = start("data-plane", vec![("--edge-listen", edge.to_string().into())])?;
        for role in [&mut dispatcher, &mut scans] {
            ready(&mut role.child, role.ops, START_TIMEOUT).await?;
        }
        Ok(Self {
            child: scans.child,
            edge,
            api,
            ops: scans.ops,
            admin_key,
            others: vec![dispatcher, plane],
        })
    }

    /// Waits until it is ready.
    ///
    /// # Errors
    /// When it ends, or is not within a minute.
    pub async fn ready(&mut self) -> anyhow::Result<()> {
        ready(&mut self.child, self.ops, START_TIMEOUT).await
    }

    /// Makes a tenant of this durability (`durable` or `relaxed`) and a code that leads to `location`.
    ///
    /// # Errors
    /// When the API refuses.
    pub async fn campaign(&self, durability: &str, location: &str) -> anyhow::Result<Campaign> {
        let tenant = self.tenant(durability).await?;
        Ok(self.code(tenant, location).await?.0)
    }

    /// Makes a tenant's code that leads to `location`. Returns its id, too.
    ///
    /// # Errors
    /// When the API refuses.
    pub async fn code(&self, tenant: String, location: &str) -> anyhow::Result<(Campaign, String)> {
        let code = json!({ "name": "benchmark", "destination_url": location });
        let code = self.post(&format!("/v1/codes?tenant_id={tenant}"), &code).await?;
        let short_id = text(&code, "short_id")?;
        let target = format!("http://{}/{short_id}", self.edge).parse()?;
        Ok((Campaign { tenant, target }, text(&code, "id")?))
    }

    /// Makes a tenant of this durability. Returns its id.
    ///
    /// # Errors
    /// When the API refuses.
    pub async fn tenant(&self, durability: &str) -> anyhow::Result<String> {
        let tenant = json!({ "name": format!("benchmark, {durability}"), "durability": durability });
        text(&self.post("/v1/tenants", &tenant).await?, "id")
    }

    /// A tenant's codes, whose short ids begin so.
    ///
    /// # Errors
    /// When the prefix makes no URL.
    pub fn codes(&self, tenant: &str, prefix: &str) -> anyhow::Result<Campaign> {
        Ok(Campaign {
            tenant: tenant.to_owned(),
            target: format!("http://{}/{prefix}", self.edge).parse()?,
        })
    }

    /// Makes an endpoint of the campaign's tenant that wants every scan, with further fields of the API. Returns its id.
    ///
    /// # Errors
    /// When the API refuses.
    pub async fn endpoint(&self, campaign: &Campaign, url: &str, fields: &Value) -> anyhow::Result<String> {
        let mut endpoint = json!({ "url": url, "events": ["scan.created"] });
        if let (Some(endpoint), Some(fields)) = (endpoint.as_object_mut(), fields.as_object()) {
            endpoint.extend(fields.clone());
        }
        let path = format!("/v1/endpoints?tenant_id={}", campaign.tenant);
        text(&self.post(&path, &endpoint).await?, "id")
    }

    /// Changes one.
    ///
    /// # Errors
    /// When the API refuses.
    pub async fn change_endpoint(&self, campaign: &Campaign, id: &str, to: &Value) -> anyhow::Result<()> {
        let path = format!("/v1/endpoints/{id}?tenant_id={}", campaign.tenant);
        self.ask(&path, to, Call::patch).await.map(drop)
    }

    async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        self.ask(path, body, Call::post).await
    }

    /// Asks again while the key has asked too often.
    async fn ask(
        &self,
        path: &str,
        body: &Value,
        call: fn(SocketAddr, &str) -> Call,
    ) -> anyhow::Result<Value> {
        let deadline = Instant::now() + CALL_PATIENCE;
        loop {
            let call = call(self.api, path).header("authorization", &format!("Bearer {}", self.admin_key));
            let (status, answer) = call.body(body.to_string()).send().await?;
            if status == StatusCode::TOO_MANY_REQUESTS && Instant::now() < deadline {
                sleep(POLL).await;
                continue;
            }
            anyhow::ensure!(
                status.is_success(),
                "{path} answered {status}: {}",
                String::from_utf8_lossy(&answer)
            );
            return Ok(serde_json::from_slice(&answer)?);
        }
    }

    /// Waits until the product's own count of a tenant's scans is at least `scans`, and returns it.
    ///
    /// # Errors
    /// When it is still below after a minute.
    pub async fn counted(&self, campaign: &Campaign, scans: u64) -> anyhow::Result<u64> {
        let deadline = Instant::now() + COUNT_TIMEOUT;
        let path = format!("/v1/tenants/{}/usage", campaign.tenant);
        loop {
            let call =
                Call::fetch(self.api, &path).header("authorization", &format!("Bearer {}", self.admin_key));
            let usage = call.json().await?;
            let counted = usage
                .get("scans")
                .and_then(Value::as_u64)
                .context("usage without `scans`")?;
            if counted >= scans || Instant::now() >= deadline {
                return Ok(counted);
            }
            sleep(POLL).await;
        }
    }

    /// The product's own count of a tenant's scans, once it has not changed for two seconds: after a start, it counts on.
    ///
    /// # Errors
    /// When it still changes after a minute.
    pub async fn counted_at_rest(&self, campaign: &Campaign) -> anyhow::Result<u64> {
        let deadline = Instant::now() + COUNT_TIMEOUT;
        let mut counted = self.counted(campaign, 0).await?;
        let mut since = Instant::now();
        while since.elapsed() < COUNT_REST {
            sleep(POLL).await;
            let now = self.counted(campaign, 0).await?;
            if now != counted {
                (counted, since) = (now, Instant::now());
            }
            anyhow::ensure!(Instant::now() < deadline, "scans are still being counted");
        }
        Ok(counted)
    }

    /// The process; of several, the one that answers scans.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Where scans come to.
    #[must_use]
    pub fn edge(&self) -> SocketAddr {
        self.edge
    }

    /// The port that scans come to.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.edge.port()
    }

    /// Drains and ends it.
    ///
    /// # Errors
    /// When it does not end by itself with 0.
    pub async fn stop(self) -> anyhow::Result<()> {
        let others = self.others.into_iter().map(|role| role.child);
        for child in std::iter::once(self.child).chain(others) {
            let status = child.stop().await?;
            anyhow::ensure!(status.success(), "qrelay ended with {status} when asked to stop");
        }
        Ok(())
    }
}

/// Receivers of a benchmark are on this machine.
fn receivers() -> (&'static str, OsString) {
    ("--dangerous-allow-target", "127.0.0.0/8".into())
}

/// Long enough to be taken for a key. It guards nothing but a run.
fn admin_key() -> String {
    format!("qra_{}", "a".repeat(52))
}

/// Only its owner may read a key file.
fn key_file(folder: &Path, name: &str, key: &str) -> anyhow::Result<PathBuf> {
    let path = folder.join(name);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)?;
    file.write_all(key.as_bytes())?;
    Ok(path)
}

/// Waits until a process says that it is ready.
async fn ready(child: &mut Child, ops: SocketAddr, limit: Duration) -> anyhow::Result<()> {
    let deadline = Instant::now() + limit;
    loop {
        child.ensure_running()?;
        match Call::fetch(ops, "/readyz").send().await {
            Ok((status, _)) if status.is_success() => return Ok(()),
            _ if Instant::now() < deadline => sleep(POLL).await,
            last => bail!("qrelay is not ready: {last:?}\n{}", child.last_lines()),
        }
    }
}

/// How processes of the product are started.
struct Processes<'a> {
    program: &'a Path,
    folder: &'a Path,
    core: Option<usize>,
}

impl Processes<'_> {
    fn start(&self, name: &str, command: &str, flags: &[(&str, OsString)]) -> anyhow::Result<Child> {
        let program = self
            .program
            .canonicalize()
            .with_context(|| format!("no binary at {}", self.program.display()))?;
        let mut arguments = vec![command.into()];
        for (flag, value) in flags {
            arguments.extend([flag.into(), value.clone()]);
        }
        let start = Start {
            name,
            core: self.core,
            program: program.as_os_str(),
            arguments,
            environment: Vec::new(),
            folder: self.folder,
        };
        start.start()
    }
}

fn text(resource: &Value, field: &str) -> anyhow::Result<String> {
    let value = resource.get(field).and_then(Value::as_str);
    value
        .map(str::to_owned)
        .with_context(|| format!("no `{field}` in {resource}"))
}

/// Where a relative path of the command line points, as an absolute one: children start elsewhere.
///
/// # Errors
/// When the folder cannot be made.
pub fn folder(path: &Path) -> anyhow::Result<PathBuf> {
    fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))?;
    Ok(path.canonicalize()?)
}
