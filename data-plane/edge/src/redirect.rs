//! From a request's head to its answer: look up, record, redirect.
//!
//! It knows neither sockets nor limits of connections. Invariants: a redirect is sent only after its record is
//! durable, unless the tenant's durability is relaxed or it wants scans answered that cannot be recorded; an id in a destination is a durable record's; only a redirect makes a scan; whatever a stranger sends, the
//! answer is one of the pages or a redirect to the stored destination.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Response, StatusCode, header};
use http_body_util::Full;
use qrelay_store::appender::{AppendError, Appender, Pending};
use qrelay_store::clock::SharedClock;
use qrelay_store::id::{EventAddress, EventId, IdCipher};
use qrelay_store::model::{CodeStatus, Durability, Tenant, TenantStatus, UnrecordableScans};
use qrelay_store::record::Record;
use qrelay_store::seldom::Seldom;
use tokio::time::Instant;

use crate::classify::{Classifier, classify};
use crate::client_address::TrustedProxies;
use crate::codes::{CachedCode, Codes, LookupError};
use crate::geo::GeoDatabase;
use crate::measures::{Measures, Refusal};
use crate::pages::{Body, Page};
use crate::scan::Scan;
use crate::target::{self, PathTarget};

/// Carries the event's id in the answer, so that a client can tell its scan from others.
const X_QRELAY_SCAN: HeaderName = HeaderName::from_static("x-qrelay-scan");

/// The longest path with query, bytes: a short id has 64, and what apps append is short.
const URI_BYTES_MAX: usize = 8 * 1024;

/// Everything that an answer needs. Shared by all connections.
pub(crate) struct Redirector {
    pub(crate) codes: Codes,
    pub(crate) appender: Appender,
    pub(crate) ids: IdCipher,
    pub(crate) clock: SharedClock,
    pub(crate) classifier: Classifier,
    pub(crate) geo: Option<Arc<GeoDatabase>>,
    pub(crate) trusted_proxies: TrustedProxies,
    pub(crate) measures: Arc<Measures>,
    /// Scans without a record are an alert, but not one each.
    pub(crate) unrecorded_told: Seldom,
}

/// How often it is told that scans are redirected without a record.
pub(crate) const UNRECORDED_TOLD: Duration = Duration::from_secs(60);

/// Where a request leads, before anything is looked up.
pub(crate) struct Asked<'a> {
    host: Option<std::borrow::Cow<'a, str>>,
    short_id: std::borrow::Cow<'a, str>,
}

/// Reads a request's head: what it asks for, or the page that answers it.
pub(crate) fn read_head(head: &Parts) -> Result<Asked<'_>, Page> {
    let host = target::host(head.version, &head.uri, &head.headers).map_err(|error| {
        tracing::debug!(%error, "a request was refused");
        Page::BadRequest
    })?;
    if head.method != Method::GET && head.method != Method::HEAD {
        return Err(Page::MethodNotAllowed);
    }
    if head
        .uri
        .path_and_query()
        .is_some_and(|target| target.as_str().len() > URI_BYTES_MAX)
    {
        return Err(Page::UriTooLong);
    }
    match target::path_target(head.uri.path()) {
        PathTarget::ShortId(short_id) => Ok(Asked { host, short_id }),
        PathTarget::Root => Err(Page::Root),
        PathTarget::Favicon => Err(Page::NoIcon),
        PathTarget::Robots => Err(Page::Robots),
        PathTarget::Other => Err(Page::NotFound),
    }
}

impl Redirector {
    /// Answers one request of the client at the other end of the connection from `peer`.
    pub(crate) async fn answer(&self, head: &Parts, peer: IpAddr) -> Response<Body> {
        let page = match read_head(head) {
            Ok(asked) => match self.scan(head, &asked, peer).await {
                Ok(response) => return response,
                Err(page) => page,
            },
            Err(page) => page,
        };
        self.refuse(page)
    }

    /// Answers with a page.
    pub(crate) fn refuse(&self, page: Page) -> Response<Body> {
        self.measures.page(page);
        page.response()
    }

    async fn scan(&self, head: &Parts, asked: &Asked<'_>, peer: IpAddr) -> Result<Response<Body>, Page> {
        let at = self.clock.now();
        let code = self
            .codes
            .find(&asked.short_id)
            .await
            .map_err(|error| self.lookup_failed(error))?;
        let code = code.ok_or(Page::NotFound)?;
        // A snapshot: the guard must not be held while waiting.
        let tenant = Arc::clone(&code.tenant.load());
        if let Some(page) = page_instead(&code, &tenant) {
            return Err(page);
        }
        let facts = self.classifier.facts(&head.headers).await;
        let verdict = classify(&head.method, &head.headers, &facts);
        let client = self.trusted_proxies.client_address(peer, &head.headers);
        let place = self.geo.as_ref().and_then(|geo| geo.place(client));
        let scan = Scan {
            tenant: tenant.id,
            code: &code,
            at,
            head,
            host: asked.host.as_deref(),
            client,
            ip_privacy: tenant.ip_privacy,
            facts: &facts,
            verdict,
            place: place.as_deref(),
        };
        let appended = self
            .appender
            .append(tenant.partition(code.id), at, &Record::Scan(scan.record()));
        if appended.is_ok() {
            self.measures.recorded(verdict.classification);
        }
        let waits = code.carrier.is_some();
        let settled = match tenant.durability {
            Durability::Durable => self.durable(appended, tenant.unrecordable_scans).await?,
            Durability::Relaxed => self.relaxed(appended, waits).await,
        };
        Ok(self.redirect(&code, settled))
    }

    /// Waits until the record is durable; what is not is refused, or answered, as the tenant wants it.
    async fn durable(
        &self,
        appended: Result<Pending, AppendError>,
        otherwise: UnrecordableScans,
    ) -> Result<Settled, Page> {
        let (why, error) = match appended {
            Ok(pending) => match self.wait(pending).await {
                Ok(address) => return Ok(Settled::Durable(address)),
                Err(error) => (Refusal::NotDurable, error),
            },
            Err(error) => (Refusal::LogRefused, error),
        };
        match otherwise {
            UnrecordableScans::Answer => Ok(self.unrecorded(&error)),
            UnrecordableScans::Refuse => {
                tracing::debug!(%error, "a scan was refused");
                Err(self.refused(why))
            }
        }
    }

    fn unrecorded(&self, error: &AppendError) -> Settled {
        self.measures.unrecorded.increment(1);
        if let Some(scans) = self.unrecorded_told.happened() {
            tracing::error!(%error, scans, "scans are redirected without a record, because nothing takes it and their tenants want them answered");
        }
        Settled::Unrecorded
    }

    /// Waits only if the destination is to carry the id, and refuses nothing.
    async fn relaxed(&self, appended: Result<Pending, AppendError>, waits: bool) -> Settled {
        match appended {
            Ok(pending) if waits => {
                let address = pending.address();
                let durable = self.wait(pending).await;
                durable.map_or(Settled::Taken(address), Settled::Durable)
            }
            Ok(pending) => Settled::Taken(pending.address()),
            Err(error) => self.unrecorded(&error),
        }
    }

    async fn wait(&self, pending: Pending) -> Result<EventAddress, AppendError> {
        let started = Instant::now();
        let durable = pending.durable().await;
        self.measures.append_seconds.record(started.elapsed());
        durable
    }

    fn lookup_failed(&self, error: LookupError) -> Page {
        self.refused(match error {
            LookupError::Failed => Refusal::LookupFailed,
            LookupError::Full => Refusal::LookupsFull,
        })
    }

    fn refused(&self, why: Refusal) -> Page {
        self.measures.refused(why);
        Page::Unavailable
    }

    fn redirect(&self, code: &CachedCode, settled: Settled) -> Response<Body> {
        let event = match settled {
            Settled::Durable(address) | Settled::Taken(address) => Some(self.ids.event_id(address)),
            Settled::Unrecorded => None,
        };
        let carried = match (&code.carrier, settled, event) {
            (Some(carrier), Settled::Durable(_), Some(event)) => carrier.with(event),
            _ => None,
        };
        let mut response = Response::new(Full::new(Bytes::new()));
        *response.status_mut() = StatusCode::FOUND;
        let headers = response.headers_mut();
        headers.insert(header::LOCATION, carried.unwrap_or_else(|| code.location.clone()));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(event) = event {
            tracing::debug!(%event, code = %code.id, version = code.version, "scan answered");
            headers.insert(X_QRELAY_SCAN, header_value(event));
        }
        self.measures.served.increment(1);
        response
    }
}

/// What became of a scan's record before its redirect.
#[derive(Clone, Copy)]
enum Settled {
    /// It stands in the log.
    Durable(EventAddress),
    /// It will stand there soon, unless the process or the store fails.
    Taken(EventAddress),
    /// It was not taken.
    Unrecorded,
}

fn header_value(event: EventId) -> HeaderValue {
    HeaderValue::try_from(event.to_string()).expect("invariant: an event's id is ASCII")
}

/// What a known code answers when it does not redirect. What is gone for good comes first.
fn page_instead(code: &CachedCode, tenant: &Tenant) -> Option<Page> {
    match (code.status, tenant.status) {
        (CodeStatus::Deleted | CodeStatus::Blocked, _) | (_, TenantStatus::Deleted) => Some(Page::Gone),
        (CodeStatus::Paused, _) | (_, TenantStatus::Suspended) => Some(Page::NotFound),
        (CodeStatus::Active, TenantStatus::Active) => None,
    }
}
