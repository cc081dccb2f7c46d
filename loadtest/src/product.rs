//! `qrelay up` as a benchmark needs it: on a fresh data directory, with a tenant and a code made over REST.

use std::{
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
/// How long counting may lag behind the last scan.
const COUNT_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a call that comes too often is repeated.
const CALL_PATIENCE: Duration = Duration::from_secs(10);
/// A count that has not changed for so long is over: counts are saved within a second.
const COUNT_REST: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(50);

/// A running `qrelay up`.
#[derive(Debug)]
pub struct Product {
    child: Child,
    edge: SocketAddr,
    api: SocketAddr,
    ops: SocketAddr,
    admin_key: String,
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
        let key_file = folder.join("admin-key");
        // Long enough to be taken for a key. It guards nothing but this run.
        let admin_key = format!("qra_{}", "a".repeat(52));
        // Only its owner may read a key file.
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&key_file)?;
        file.write_all(admin_key.as_bytes())?;
        let program = program
            .canonicalize()
            .with_context(|| format!("no binary at {}", program.display()))?;
        let mut arguments = vec!["up".into()];
        for (flag, value) in [
            ("--data-dir", data.as_os_str().to_owned()),
            ("--edge-listen", edge.to_string().into()),
            ("--api-listen", api.to_string().into()),
            ("--ops-listen", ops.to_string().into()),
            ("--admin-key-file", key_file.into_os_string()),
            // Receivers of a benchmark are on this machine.
            ("--dangerous-allow-target", "127.0.0.0/8".into()),
        ] {
            arguments.extend([flag.into(), value]);
        }
        let environment = Vec::new();
        let child = Start {
            name: "qrelay",
            core,
            program: program.as_os_str(),
            arguments,
            environment,
            folder,
        }
        .start()?;
        Ok(Self {
            child,
            edge,
            api,
            ops,
            admin_key,
        })
    }

    /// Waits until it is ready.
    ///
    /// # Errors
    /// When it ends, or is not within a minute.
    pub async fn ready(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            self.child.ensure_running()?;
            match Call::fetch(self.ops, "/readyz").send().await {
                Ok((status, _)) if status.is_success() => return Ok(()),
                _ if Instant::now() < deadline => sleep(POLL).await,
                last => bail!("qrelay is not ready: {last:?}\n{}", self.child.last_lines()),
            }
        }
    }

    /// Makes a tenant of this durability (`durable` or `relaxed`) and a code that leads to `location`.
    ///
    /// # Errors
    /// When the API refuses.
    pub async fn campaign(&self, durability: &str, location: &str) -> anyhow::Result<Campaign> {
        let tenant = self.tenant(durability).await?;
        let code = json!({ "name": "benchmark", "destination_url": location });
        let code = self.post(&format!("/v1/codes?tenant_id={tenant}"), &code).await?;
        let short_id = text(&code, "short_id")?;
        let target = format!("http://{}/{short_id}", self.edge).parse()?;
        Ok(Campaign { tenant, target })
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
        let call =
            Call::patch(self.api, &path).header("authorization", &format!("Bearer {}", self.admin_key));
        call.body(to.to_string()).json().await?;
        Ok(())
    }

    /// Asks again while the key has asked too often.
    async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let deadline = Instant::now() + CALL_PATIENCE;
        loop {
            let call =
                Call::post(self.api, path).header("authorization", &format!("Bearer {}", self.admin_key));
            let (status, answer) = call.body(body.to_string()).send().await?;
            if status == StatusCode::TOO_MANY_REQUESTS && Instant::now() < deadline {
                sleep(POLL).await;
                continue;
            }
            anyhow::ensure!(
                status.is_success(),
                "POST {path} answered {status}: {}",
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

    /// The process.
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
        let status = self.child.stop().await?;
        anyhow::ensure!(status.success(), "qrelay ended with {status} when asked to stop");
        Ok(())
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
