//! Sets the demo's stage: all roles in a temporary directory, and a tenant, a code and an endpoint made over the
//! API, as an operator and a tenant would.

use std::path::Path;

use qrelay_control::AdminKey;
use qrelay_proto::v1;
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::{receiver::Receiver, verify::Secret};
use crate::{
    failure::{Failure, chain},
    session::{Session, call},
    up::{self, Addresses, AdminKeyTo, Config, Metrics, Running},
};

/// Where a scan leads: a page that exists, is small, and is meant for examples.
const DESTINATION: &str = "https://example.com/";
/// As many as are allowed: the receiver is quick, and the demo is to show the product's speed, not its caution.
const MAX_CONCURRENCY: i32 = 256;

/// Everything that is up, and what was made on it.
pub(crate) struct Stage {
    /// With the tenant's key.
    pub(crate) session: Session,
    pub(crate) tenant: String,
    pub(crate) key: SecretString,
    pub(crate) code: v1::Code,
    pub(crate) addresses: Addresses,
    /// The short link's path.
    pub(crate) path: String,
    running: Running,
}

impl Stage {
    /// Starts and makes everything.
    pub(crate) async fn set(
        directory: &Path,
        metrics: Metrics,
        receiver: &Receiver,
    ) -> Result<Self, Failure> {
        let admin_key = AdminKey::generate();
        let mut config = Config::on_loopback(directory.to_owned());
        config.api.admin_key = Some(admin_key.clone());
        let loopback = "127.0.0.0/8".parse().expect("invariant: a valid network");
        config.targets.dangerous_allow = vec![loopback];
        let running = up::start(config, metrics, AdminKeyTo::File)
            .await
            .map_err(|error| Failure::because("cannot start", &error))?;
        let addresses = running.addresses().clone();
        match made(&addresses, &admin_key, receiver).await {
            Ok(Made {
                session,
                tenant,
                key,
                code,
                path,
            }) => Ok(Self {
                session,
                tenant,
                key,
                code,
                path,
                addresses,
                running,
            }),
            Err(failure) => {
                strike(running).await;
                Err(failure)
            }
        }
    }

    /// Stops everything in order.
    pub(crate) async fn strike(self) {
        strike(self.running).await;
    }
}

async fn strike(running: Running) {
    if let Err(error) = running.stop().await {
        tracing::warn!(error = chain(&error), "the demo did not stop cleanly");
    }
}

/// What was made over the API.
pub(crate) struct Made {
    pub(crate) session: Session,
    pub(crate) tenant: String,
    pub(crate) key: SecretString,
    pub(crate) code: v1::Code,
    pub(crate) path: String,
}

/// Makes a tenant with a key, a code and an endpoint.
pub(crate) async fn made(
    addresses: &Addresses,
    admin_key: &SecretString,
    receiver: &Receiver,
) -> Result<Made, Failure> {
    let api = format!("http://{}", addresses.api);
    let admin = Session::open_local(&api, admin_key).await?;
    let (tenant, key) = make_tenant(&admin).await?;
    let session = Session::open_local(&api, &key).await?;
    let code = make_code(&session).await?;
    receiver.expect(make_endpoint(&session, &receiver.url).await?);
    let url = Url::parse(&code.url).map_err(|error| Failure::because("the short link is no URL", &error))?;
    Ok(Made {
        session,
        tenant,
        key,
        code,
        path: url.path().to_owned(),
    })
}

async fn make_tenant(admin: &Session) -> Result<(String, SecretString), Failure> {
    let tenant = v1::Tenant {
        name: "Demo".to_owned(),
        ..v1::Tenant::default()
    };
    let request = v1::CreateTenantRequest {
        tenant: Some(tenant),
        request_id: String::new(),
    };
    let tenant = admin
        .tenants()
        .create_tenant(call(request))
        .await?
        .into_inner()
        .id;
    let request = v1::CreateApiKeyRequest {
        tenant_id: tenant.clone(),
        api_key: Some(v1::ApiKey {
            name: "demo".to_owned(),
            ..v1::ApiKey::default()
        }),
        request_id: String::new(),
    };
    let created = admin.tenants().create_api_key(call(request)).await?.into_inner();
    let key = created
        .key
        .ok_or_else(|| Failure::failed("the API created a key and did not show it"))?;
    Ok((tenant, SecretString::from(key)))
}

async fn make_code(session: &Session) -> Result<v1::Code, Failure> {
    let code = v1::Code {
        name: "Demo".to_owned(),
        destination_url: DESTINATION.to_owned(),
        tags: vec!["demo".to_owned()],
        ..v1::Code::default()
    };
    let request = v1::CreateCodeRequest {
        code: Some(code),
        ..v1::CreateCodeRequest::default()
    };
    Ok(session.codes().create_code(call(request)).await?.into_inner())
}

async fn make_endpoint(session: &Session, url: &str) -> Result<Secret, Failure> {
    let endpoint = v1::Endpoint {
        url: url.to_owned(),
        description: "The demo's own receiver".to_owned(),
        events: vec!["scan.created".to_owned()],
        max_concurrency: MAX_CONCURRENCY,
        ..v1::Endpoint::default()
    };
    let request = v1::CreateEndpointRequest {
        endpoint: Some(endpoint),
        ..v1::CreateEndpointRequest::default()
    };
    let created = session
        .endpoints()
        .create_endpoint(call(request))
        .await?
        .into_inner();
    let secret = SecretString::from(created.secret.unwrap_or_default());
    Secret::parse(secret.expose_secret())
        .map_err(|error| Failure::because("cannot use the endpoint's secret", &error))
}
