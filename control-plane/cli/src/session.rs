//! A connection to the API, as the operator's commands use it: where, with which key, for which tenant.
//!
//! The key comes from the environment or a file and never from the command line, where every process of the
//! machine could read it.

use std::{io::Read, path::PathBuf, time::Duration};

use clap::Args;
use qrelay_proto::v1::{
    code_service_client::CodeServiceClient, endpoint_service_client::EndpointServiceClient,
    event_service_client::EventServiceClient, tenant_service_client::TenantServiceClient,
};
use secrecy::{ExposeSecret, SecretString};
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Uri},
};
use zeroize::Zeroize;

use crate::{
    api_error,
    failure::Failure,
    output::{Output, Wants},
};

/// Long enough for any network that a person would work over.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longer than the slowest call, which is an endpoint's test (10 s).
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// A dead connection is noticed by a following command after this and [`KEEP_ALIVE_TIMEOUT`].
const KEEP_ALIVE_PERIOD: Duration = Duration::from_secs(20);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// A key or secret file is one line; more is the wrong file.
const SECRET_FILE_BYTES_MAX: u64 = 4096;

/// Where the API is, and who calls.
#[derive(Args, Clone, Debug)]
pub(crate) struct ConnectArgs {
    /// The API's address
    #[arg(
        long,
        env = "QRELAY_API",
        default_value = "http://127.0.0.1:7070",
        value_name = "URL",
        global = true
    )]
    pub(crate) api: String,
    /// Refused on the command line: see `command_line::secret_in_arguments`.
    #[arg(long, env = "QRELAY_KEY", hide_env_values = true, hide = true, global = true)]
    pub(crate) key: Option<SecretString>,
    /// A file with the API key; otherwise the key is read from QRELAY_KEY
    #[arg(long, env = "QRELAY_KEY_FILE", value_name = "FILE", global = true)]
    pub(crate) key_file: Option<PathBuf>,
    /// A PEM file with the authorities that the API's certificate is checked against, beside the system's
    #[arg(long, env = "QRELAY_CA_BUNDLE", value_name = "FILE", global = true)]
    pub(crate) ca_bundle: Option<PathBuf>,
    /// Print JSON, also on a terminal
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

impl ConnectArgs {
    /// Where results go.
    pub(crate) fn output(&self) -> Output {
        Output::stdout(if self.json { Wants::Json } else { Wants::Default })
    }
}

/// Whose data.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct TenantArgs {
    /// With the admin key: the tenant
    #[arg(
        long,
        env = "QRELAY_TENANT",
        default_value = "",
        value_name = "TENANT",
        global = true,
        hide_default_value = true
    )]
    pub(crate) tenant: String,
}

/// An open connection.
#[derive(Clone)]
pub(crate) struct Session {
    channel: Channel,
    bearer: Bearer,
}

/// What the clients speak through.
pub(crate) type Authorized = InterceptedService<Channel, Bearer>;

/// Adds the key to each call.
#[derive(Clone)]
pub(crate) struct Bearer(MetadataValue<Ascii>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

impl Session {
    /// Connects.
    pub(crate) async fn open(args: &ConnectArgs) -> Result<Self, Failure> {
        let key = key(args)?;
        let endpoint = endpoint(args)?;
        Self::connect(&endpoint, &args.api, &key).await
    }

    /// Connects to an API of this process.
    pub(crate) async fn open_local(api: &str, key: &SecretString) -> Result<Self, Failure> {
        let endpoint = tuned(Endpoint::from_shared(api.to_owned()).map_err(|error| bad_url(api, &error))?);
        Self::connect(&endpoint, api, key).await
    }

    async fn connect(endpoint: &Endpoint, api: &str, key: &SecretString) -> Result<Self, Failure> {
        let bearer = bearer(key)?;
        let channel = endpoint
            .connect()
            .await
            .map_err(|error| api_error::cannot_connect(api, &error))?;
        Ok(Self { channel, bearer })
    }

    /// Tenants, keys and usage.
    pub(crate) fn tenants(&self) -> TenantServiceClient<Authorized> {
        TenantServiceClient::with_interceptor(self.channel.clone(), self.bearer.clone())
    }

    /// Codes.
    pub(crate) fn codes(&self) -> CodeServiceClient<Authorized> {
        CodeServiceClient::with_interceptor(self.channel.clone(), self.bearer.clone())
    }

    /// Endpoints and deliveries.
    pub(crate) fn endpoints(&self) -> EndpointServiceClient<Authorized> {
        EndpointServiceClient::with_interceptor(self.channel.clone(), self.bearer.clone())
    }

    /// Events.
    pub(crate) fn events(&self) -> EventServiceClient<Authorized> {
        EventServiceClient::with_interceptor(self.channel.clone(), self.bearer.clone())
    }
}

/// A call with a deadline, which the server learns of.
pub(crate) fn call<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL_TIMEOUT);
    request
}

/// Reads a secret from a file: its only line.
pub(crate) fn secret_file(path: &std::path::Path) -> Result<SecretString, Failure> {
    let mut text = String::new();
    let read = std::fs::File::open(path)
        .and_then(|file| file.take(SECRET_FILE_BYTES_MAX + 1).read_to_string(&mut text));
    let checked = match read {
        Err(error) => Err(Failure::usage(format!("cannot read {}: {error}", path.display()))),
        Ok(_) => match text.trim() {
            "" => Err(Failure::usage(format!("{} is empty", path.display()))),
            line if line.contains(['\n', '\r']) || text.len() as u64 > SECRET_FILE_BYTES_MAX => Err(
                Failure::usage(format!("{} holds more than one line with a key", path.display())),
            ),
            line => Ok(SecretString::from(line.to_owned())),
        },
    };
    text.zeroize();
    checked
}

fn key(args: &ConnectArgs) -> Result<SecretString, Failure> {
    // An empty variable is one that was not set: orchestrators write those.
    let from_environment = args
        .key
        .as_ref()
        .filter(|key| !key.expose_secret().trim().is_empty());
    match (from_environment, &args.key_file) {
        (None, Some(path)) => secret_file(path),
        (Some(key), None) => Ok(SecretString::from(key.expose_secret().trim().to_owned())),
        (Some(_), Some(_)) => Err(Failure::usage("both QRELAY_KEY and --key-file are given")
            .hint("unset one of them")),
        (None, None) => Err(Failure::usage("no API key")
            .hint("set QRELAY_KEY to the admin key that `qrelay up` gave out, or to a tenant's key, or use --key-file")),
    }
}

fn bearer(key: &SecretString) -> Result<Bearer, Failure> {
    let mut text = format!("Bearer {}", key.expose_secret());
    let value = MetadataValue::try_from(text.as_str());
    text.zeroize();
    let mut value = value.map_err(|_| {
        Failure::usage("the API key has characters that no key has").hint("a key looks like qrk_…")
    })?;
    value.set_sensitive(true);
    Ok(Bearer(value))
}

fn endpoint(args: &ConnectArgs) -> Result<Endpoint, Failure> {
    let uri: Uri = args.api.parse().map_err(|error| bad_url(&args.api, &error))?;
    let secure = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => {
            return Err(Failure::usage(format!("{} is no URL of an API", args.api))
                .hint("QRELAY_API looks like http://127.0.0.1:7070"));
        }
    };
    let mut endpoint = tuned(Endpoint::from(uri));
    if secure {
        let mut tls = ClientTlsConfig::new().with_native_roots();
        if let Some(path) = &args.ca_bundle {
            let pem = std::fs::read(path)
                .map_err(|error| Failure::usage(format!("cannot read {}: {error}", path.display())))?;
            tls = tls.ca_certificate(Certificate::from_pem(pem));
        }
        endpoint = endpoint
            .tls_config(tls)
            .map_err(|error| Failure::because("cannot set up TLS", &error))?;
    }
    Ok(endpoint)
}

fn tuned(endpoint: Endpoint) -> Endpoint {
    endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE_PERIOD)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .tcp_nodelay(true)
}

fn bad_url(api: &str, error: &dyn std::error::Error) -> Failure {
    Failure::usage(format!("{api} is no URL: {error}")).hint("QRELAY_API looks like http://127.0.0.1:7070")
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::failure::Exit;

    fn args(key: Option<&str>, key_file: Option<PathBuf>) -> ConnectArgs {
        ConnectArgs {
            api: "http://127.0.0.1:1".to_owned(),
            key: key.map(|key| SecretString::from(key.to_owned())),
            key_file,
            ca_bundle: None,
            json: false,
        }
    }

    fn file(content: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content.as_bytes()).unwrap();
        file
    }

    #[test]
    fn the_key_comes_from_the_environment_or_a_file_and_not_from_both() {
        let good = file("  qrk_1\n");
        assert_eq!(
            key(&args(Some("qrk_2\n"), None)).unwrap().expose_secret(),
            "qrk_2"
        );
        assert_eq!(
            key(&args(None, Some(good.path().into())))
                .unwrap()
                .expose_secret(),
            "qrk_1"
        );
        assert_eq!(
            key(&args(Some(""), Some(good.path().into())))
                .unwrap()
                .expose_secret(),
            "qrk_1"
        );
        assert!(key(&args(Some("qrk_2"), Some(good.path().into()))).is_err());
        assert!(
            key(&args(None, None))
                .unwrap_err()
                .hint
                .unwrap()
                .contains("QRELAY_KEY")
        );
    }

    #[test]
    fn a_file_that_holds_no_key_is_refused() {
        for content in ["", "\n", "qrk_1\nqrk_2", &"x".repeat(5000)] {
            assert_eq!(secret_file(file(content).path()).unwrap_err().exit, Exit::Usage);
        }
        assert!(secret_file(std::path::Path::new("/nowhere/at/all")).is_err());
    }

    #[test]
    fn a_key_that_fits_into_no_header_and_an_api_that_is_no_url_are_refused() {
        assert!(bearer(&SecretString::from("a\nb".to_owned())).is_err());
        for api in ["", "127.0.0.1:7070", "ftp://x", "http://", "http://a b"] {
            let args = ConnectArgs {
                api: api.to_owned(),
                ..args(None, None)
            };
            assert_eq!(endpoint(&args).unwrap_err().exit, Exit::Usage, "{api}");
        }
    }

    #[test]
    fn a_refused_connection_asks_whether_the_server_runs() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let api = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let opened = runtime.block_on(Session::open(&ConnectArgs {
            api,
            ..args(Some("qrk_1"), None)
        }));
        let failure = opened.err().unwrap();
        assert_eq!(failure.exit, Exit::Failed);
        assert!(
            failure.hint.as_ref().unwrap().contains("qrelay up"),
            "{failure:?}"
        );
    }
}
