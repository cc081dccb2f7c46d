//! A connection to the API, as the operator's commands use it: where, with which key, for which tenant.
//!
//! The key comes from the environment or a file and never from the command line, where every process of the
//! machine could read it.

use std::{
    io::Read,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use qrelay_proto::v1::{
    code_service_client::CodeServiceClient, conversion_service_client::ConversionServiceClient,
    endpoint_service_client::EndpointServiceClient, event_service_client::EventServiceClient,
    replay_service_client::ReplayServiceClient, tenant_service_client::TenantServiceClient,
};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
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
    flag_first::{FlagFirst, SecretOrFile},
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
    #[command(flatten)]
    pub(crate) key: FlagFirst<KeyArgs>,
    /// A PEM file with the authorities that the API's certificate is checked against, beside the system's
    #[arg(long, env = "QRELAY_CA_BUNDLE", value_name = "FILE", global = true)]
    pub(crate) ca_bundle: Option<PathBuf>,
    /// Print JSON, also on a terminal
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

/// The key: from the variable, or from a file.
#[derive(Args, Clone, Debug)]
pub(crate) struct KeyArgs {
    /// Refused on the command line: see `command_line::secret_in_arguments`.
    #[arg(long, env = "QRELAY_KEY", hide_env_values = true, hide = true, global = true)]
    pub(crate) key: Option<SecretString>,
    /// A file with the API key; otherwise the key is read from QRELAY_KEY
    #[arg(long, env = "QRELAY_KEY_FILE", value_name = "FILE", global = true)]
    pub(crate) key_file: Option<PathBuf>,
}

impl SecretOrFile for KeyArgs {
    const FILE: &'static str = "key_file";

    fn forget_secret(&mut self) {
        self.key = None;
    }
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
        let key = key(&args.key.0)?;
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

    /// Conversions.
    pub(crate) fn conversions(&self) -> ConversionServiceClient<Authorized> {
        ConversionServiceClient::with_interceptor(self.channel.clone(), self.bearer.clone())
    }

    /// Replays.
    pub(crate) fn replays(&self) -> ReplayServiceClient<Authorized> {
        ReplayServiceClient::with_interceptor(self.channel.clone(), self.bearer.clone())
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

/// Reads a secret from a file: its only line. Why not, with the path, if it cannot.
pub(crate) fn secret_file(path: &Path) -> Result<SecretString, String> {
    let mut text = String::new();
    let read = std::fs::File::open(path)
        .and_then(|file| file.take(SECRET_FILE_BYTES_MAX + 1).read_to_string(&mut text));
    let checked = match read {
        Err(error) => Err(format!("cannot read {}: {error}", path.display())),
        Ok(_) => match text.trim() {
            "" => Err(format!("{} is empty", path.display())),
            line if line.contains(['\n', '\r']) || text.len() as u64 > SECRET_FILE_BYTES_MAX => {
                Err(format!("{} holds more than one line", path.display()))
            }
            line => Ok(SecretString::from(line.to_owned())),
        },
    };
    text.zeroize();
    checked
}

fn key(args: &KeyArgs) -> Result<SecretString, Failure> {
    // An empty variable is one that was not set: orchestrators write those.
    let from_environment = args
        .key
        .as_ref()
        .filter(|key| !key.expose_secret().trim().is_empty());
    match (from_environment, &args.key_file) {
        (None, Some(path)) => secret_file(path).map_err(|why| {
            Failure::usage(format!("--key-file (QRELAY_KEY_FILE): {why}"))
                .hint("name a file whose only line is an API key")
        }),
        (Some(key), None) => Ok(SecretString::from(key.expose_secret().trim().to_owned())),
        (Some(_), Some(_)) => Err(Failure::usage("both QRELAY_KEY and QRELAY_KEY_FILE are set")
            .hint("unset one of them, or name the file with --key-file, which comes first")),
        (None, None) => Err(Failure::usage("no API key")
            .hint("set QRELAY_KEY to the admin key that `qrelay up` gave out, or to a tenant's key, or use --key-file")),
    }
}

fn bearer(key: &SecretString) -> Result<Bearer, Failure> {
    // A header would take other characters, too, and the API would only say that it knows no such key.
    if !key.expose_secret().bytes().all(|byte| byte.is_ascii_graphic()) {
        let message = "the API key has characters other than visible ASCII, which no key has";
        return Err(Failure::usage(message).hint(
            "copy it again, without quotes or anything else around it, into QRELAY_KEY or the file of --key-file",
        ));
    }
    let mut text = format!("Bearer {}", key.expose_secret());
    let value = MetadataValue::try_from(text.as_str());
    text.zeroize();
    let mut value = value.expect("invariant: visible ASCII fits into a header");
    value.set_sensitive(true);
    Ok(Bearer(value))
}

fn endpoint(args: &ConnectArgs) -> Result<Endpoint, Failure> {
    let (uri, secure) = api_uri(&args.api)?;
    // Read for http, too: a wrong path is noticed now and not when the API gets TLS.
    let authorities = args.ca_bundle.as_deref().map(authorities).transpose()?;
    let mut endpoint = tuned(Endpoint::from(uri));
    if secure {
        let mut tls = ClientTlsConfig::new().with_native_roots();
        if let Some(authorities) = authorities {
            tls = tls.ca_certificate(authorities);
        }
        endpoint = endpoint
            .tls_config(tls)
            .map_err(|error| Failure::because("cannot set up TLS", &error))?;
    }
    Ok(endpoint)
}

/// The API's address, and whether it has TLS.
fn api_uri(api: &str) -> Result<(Uri, bool), Failure> {
    if api.contains('@') {
        // Not repeated: a password may stand in it.
        return Err(wrong_api(
            "--api (QRELAY_API) holds an @: keys are not given in it",
        ));
    }
    let uri: Uri = api.parse().map_err(|error| bad_url(api, &error))?;
    let secure = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => {
            return Err(wrong_api(&format!(
                "--api (QRELAY_API): {api} is no URL of an API"
            )));
        }
    };
    if uri.path_and_query().is_some_and(|path| path != "/") {
        let message = format!("--api (QRELAY_API): {api} must end after the host and port, without a path");
        return Err(wrong_api(&message));
    }
    Ok((uri, secure))
}

/// The certificates of `--ca-bundle`: at least one, and nothing that looks like one and is not.
fn authorities(path: &Path) -> Result<Certificate, Failure> {
    let wrong = |why: &dyn std::fmt::Display| {
        Failure::usage(format!(
            "--ca-bundle (QRELAY_CA_BUNDLE): {}: {why}",
            path.display()
        ))
        .hint("name a PEM file with certificates of authorities, or leave the option out")
    };
    let pem = std::fs::read(path).map_err(|error| wrong(&format_args!("cannot read it: {error}")))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| wrong(&error))?;
        roots.add(certificate).map_err(|error| wrong(&error))?;
    }
    match roots.is_empty() {
        true => Err(wrong(&"it holds no certificate")),
        false => Ok(Certificate::from_pem(pem)),
    }
}

fn wrong_api(message: &str) -> Failure {
    Failure::usage(message).hint("it looks like http://127.0.0.1:7070")
}

fn tuned(endpoint: Endpoint) -> Endpoint {
    endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE_PERIOD)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .tcp_nodelay(true)
}

fn bad_url(api: &str, error: &dyn std::error::Error) -> Failure {
    wrong_api(&format!("--api (QRELAY_API): {api} is no URL: {error}"))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::failure::Exit;

    fn keys(key: Option<&str>, key_file: Option<PathBuf>) -> KeyArgs {
        KeyArgs {
            key: key.map(|key| SecretString::from(key.to_owned())),
            key_file,
        }
    }

    fn args(key: Option<&str>, key_file: Option<PathBuf>) -> ConnectArgs {
        ConnectArgs {
            api: "http://127.0.0.1:1".to_owned(),
            key: FlagFirst(keys(key, key_file)),
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
    fn the_key_comes_from_a_variable_or_a_file_and_two_variables_are_refused() {
        let good = file("  qrk_1\n");
        assert_eq!(
            key(&keys(Some("qrk_2\n"), None)).unwrap().expose_secret(),
            "qrk_2"
        );
        assert_eq!(
            key(&keys(None, Some(good.path().into())))
                .unwrap()
                .expose_secret(),
            "qrk_1"
        );
        assert_eq!(
            key(&keys(Some(""), Some(good.path().into())))
                .unwrap()
                .expose_secret(),
            "qrk_1"
        );
        assert!(key(&keys(Some("qrk_2"), Some(good.path().into()))).is_err());
        assert!(
            key(&keys(None, None))
                .unwrap_err()
                .hint
                .unwrap()
                .contains("QRELAY_KEY")
        );
    }

    #[test]
    fn a_file_that_holds_no_key_is_refused() {
        for content in ["", "\n", "qrk_1\nqrk_2", &"x".repeat(5000)] {
            assert!(secret_file(file(content).path()).is_err(), "{content}");
        }
        assert!(secret_file(Path::new("/nowhere/at/all")).is_err());
    }

    #[test]
    fn a_key_that_fits_into_no_header_and_an_api_that_is_no_url_are_refused() {
        for key in ["a\nb", "qrk_é", "“qrk_1”"] {
            assert!(bearer(&SecretString::from(key.to_owned())).is_err(), "{key}");
        }
        for api in [
            "",
            "127.0.0.1:7070",
            "ftp://x",
            "http://",
            "http://a b",
            "http://127.0.0.1:7070/v1",
            "http://127.0.0.1:7070/?x",
            "http://user:hunter2@127.0.0.1:7070",
        ] {
            let args = ConnectArgs {
                api: api.to_owned(),
                ..args(None, None)
            };
            let failure = endpoint(&args).unwrap_err();
            assert_eq!(failure.exit, Exit::Usage, "{api}");
            assert!(!failure.message.contains("hunter2"), "{}", failure.message);
        }
    }

    #[test]
    fn a_bundle_without_authorities_is_refused_even_where_no_tls_is_spoken() {
        let junk = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let (empty, junk) = (file(""), file(junk));
        for path in [Path::new("/nowhere/at/all"), empty.path(), junk.path()] {
            for api in ["http://127.0.0.1:1", "https://127.0.0.1:1"] {
                let args = ConnectArgs {
                    api: api.to_owned(),
                    ca_bundle: Some(path.to_owned()),
                    ..args(None, None)
                };
                let failure = endpoint(&args).unwrap_err();
                assert_eq!(failure.exit, Exit::Usage);
                let named = failure.message.contains("--ca-bundle")
                    && failure.message.contains(&path.display().to_string());
                assert!(named, "{}", failure.message);
            }
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
