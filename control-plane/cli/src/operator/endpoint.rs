//! `qrelay endpoint`: where events are delivered, and how that went.

use std::path::{Path, PathBuf};

use clap::{Subcommand, ValueEnum};
use qrelay_proto::v1;
use secrecy::ExposeSecret;

use super::{EtagArgs, Mask, PageArgs, RequestArgs, delivery, replay, when};
use crate::{
    failure::Failure,
    output::{Column, Output},
    session::{ConnectArgs, Session, TenantArgs, call, secret_file},
};

const COLUMNS: [Column; 6] = [
    ("ID", "id"),
    ("URL", "url"),
    ("EVENTS", "events"),
    ("STATUS", "status"),
    ("WAITING", "backlog.events"),
    ("CREATED", "created_at"),
];

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    connect: ConnectArgs,
    #[command(flatten)]
    tenant: TenantArgs,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Create an endpoint; its secret is shown only now
    Create(Box<Create>),
    /// List endpoints, newest first
    List {
        #[command(flatten)]
        page: PageArgs,
    },
    /// Show one endpoint
    Get {
        /// The endpoint's id
        id: String,
    },
    /// Change an endpoint
    Update(Box<Update>),
    /// Delete an endpoint
    Delete {
        /// The endpoint's id
        id: String,
        #[command(flatten)]
        etag: EtagArgs,
    },
    /// Send a synthetic event, and show what came of it
    Test {
        /// The endpoint's id
        id: String,
    },
    /// Give it a new signing secret, which is shown only now; the old one ends at once or after --overlap
    Rotate(Rotate),
    /// Send the events of a time range again, beside the live ones
    Replay(replay::Create),
    /// List an endpoint's replays, newest first
    Replays {
        /// The endpoint's id
        id: String,
    },
    /// List an endpoint's deliveries, newest first
    Deliveries {
        /// The endpoint's id
        id: String,
        #[command(flatten)]
        filter: delivery::DeliveryFilterArgs,
        #[command(flatten)]
        page: PageArgs,
    },
}

#[derive(clap::Args, Debug)]
struct Create {
    /// Where events are POSTed: https, port 443 or from 1024 on
    url: String,
    /// An event type (scan.created), a family (scan.*) or *; may be given several times
    #[arg(long = "event", required = true, value_name = "EVENT")]
    events: Vec<String>,
    /// The service whose webhooks the receiver was written for: qr-for-agent, qrstudio, scanforge, scribeless, slack,
    /// discord or zapier; events may have that service's names
    #[arg(long, value_name = "NAME")]
    preset: Option<String>,
    #[command(flatten)]
    fields: Fields,
    /// A file with a signing secret of your own, whsec_…; one is made if not given
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    #[command(flatten)]
    request: RequestArgs,
}

#[derive(clap::Args, Debug)]
struct Update {
    /// The endpoint's id
    id: String,
    /// Where events are POSTed: https, port 443 or from 1024 on
    #[arg(long)]
    url: Option<String>,
    /// An event type, a family or *; may be given several times, and replaces all of them
    #[arg(long = "event", value_name = "EVENT")]
    events: Vec<String>,
    #[command(flatten)]
    fields: Fields,
    /// With --status active: where it goes on
    #[arg(long, requires = "status", value_name = "WHERE")]
    resume: Option<Resume>,
    #[command(flatten)]
    etag: EtagArgs,
}

#[derive(clap::Args, Debug)]
struct Rotate {
    /// The endpoint's id
    id: String,
    /// A file with a secret of your own, one of the endpoint's scheme; one is made if not given
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// For how long the old secret goes on signing beside the new one, such as 24h; at most 7d
    #[arg(long, value_parser = when::duration, value_name = "TIME")]
    overlap: Option<prost_types::Duration>,
}

impl Rotate {
    fn into_request(self, tenant_id: String) -> Result<v1::RotateSecretRequest, Failure> {
        Ok(v1::RotateSecretRequest {
            id: self.id,
            tenant_id,
            secret: own_secret(self.secret_file.as_deref())?.unwrap_or_default(),
            overlap: self.overlap,
            immediate: false,
        })
    }
}

impl Create {
    fn into_request(self, tenant_id: String) -> Result<v1::CreateEndpointRequest, Failure> {
        let (endpoint, _) = self.fields.into_endpoint(Some(self.url), self.events);
        let endpoint = Some(v1::Endpoint {
            secret: own_secret(self.secret_file.as_deref())?,
            preset: self.preset,
            ..endpoint
        });
        Ok(v1::CreateEndpointRequest {
            endpoint,
            request_id: self.request.request_id,
            tenant_id,
        })
    }
}

impl Update {
    fn into_request(self, tenant_id: String) -> Result<v1::UpdateEndpointRequest, Failure> {
        let (endpoint, mask) = self.fields.into_endpoint(self.url, self.events);
        let resume = self.resume.map(|resume| match resume {
            Resume::WhereStopped => v1::Resume::WhereStopped,
            Resume::Now => v1::Resume::Now,
        });
        let endpoint = Some(v1::Endpoint {
            etag: self.etag.etag,
            resume: resume.map(Into::into),
            ..endpoint
        });
        Ok(v1::UpdateEndpointRequest {
            id: self.id,
            endpoint,
            update_mask: Some(mask.finish()?),
            tenant_id,
        })
    }
}

#[derive(clap::Args, Debug, Default)]
struct Fields {
    /// What people call it
    #[arg(long)]
    description: Option<String>,
    /// Whether it is sent to
    #[arg(long)]
    status: Option<Status>,
    /// The pause before each attempt, such as 0s,60s,5m,2h
    #[arg(long, value_delimiter = ',', value_parser = when::duration, value_name = "PAUSE,…")]
    retry_schedule: Vec<prost_types::Duration>,
    /// Attempts under way at once, 1 to 256
    #[arg(long, value_name = "N")]
    max_concurrency: Option<i32>,
    /// Requests begun in a second at most, such as 5 or 0.2
    #[arg(long, value_name = "PER_SECOND")]
    rate_limit: Option<f64>,
    /// Requests at once after a pause, beyond the rate limit
    #[arg(long, value_name = "N")]
    rate_burst: Option<i32>,
    /// Only events for which this CEL expression is true, such as 'data.country == "CA"'; empty for all
    #[arg(long, value_name = "EXPRESSION")]
    filter: Option<String>,
    /// Which deliveries wait for others
    #[arg(long)]
    ordering: Option<Ordering>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Ordering {
    None,
    /// One code's events go out one after the other, failures included
    PerCode,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Status {
    Active,
    /// Events wait in the log
    Paused,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Resume {
    WhereStopped,
    /// What was recorded before is given up, each retry and each event that waits
    Now,
}

impl Fields {
    fn into_endpoint(self, url: Option<String>, events: Vec<String>) -> (v1::Endpoint, Mask) {
        let mut mask = Mask::default();
        let status = self.status.map(|status| match status {
            Status::Active => v1::EndpointStatus::Active,
            Status::Paused => v1::EndpointStatus::Paused,
        });
        let ordering = self.ordering.map(|ordering| match ordering {
            Ordering::None => v1::Ordering::None,
            Ordering::PerCode => v1::Ordering::PerCode,
        });
        let filtered = self.filter.is_some();
        let filter = v1::Filter {
            expression: mask.take("filter.expression", self.filter),
            ..v1::Filter::default()
        };
        let limited = self.rate_limit.is_some() || self.rate_burst.is_some();
        let rate_limit = v1::RateLimit {
            per_second: mask.take("rate_limit.per_second", self.rate_limit),
            burst: mask.take("rate_limit.burst", self.rate_burst),
        };
        let endpoint = v1::Endpoint {
            rate_limit: limited.then_some(rate_limit),
            filter: filtered.then_some(filter),
            ordering: mask.take("ordering", ordering).into(),
            url: mask.take("url", url),
            description: mask.take("description", self.description),
            events: mask.take("events", Some(events).filter(|events| !events.is_empty())),
            status: mask.take("status", status).into(),
            retry_schedule: mask.take(
                "retry_schedule",
                Some(self.retry_schedule).filter(|schedule| !schedule.is_empty()),
            ),
            max_concurrency: mask.take("max_concurrency", self.max_concurrency),
            ..v1::Endpoint::default()
        };
        (endpoint, mask)
    }
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let mut out = args.connect.output();
    let session = Session::open(&args.connect).await?;
    act(args.action, args.tenant.tenant, &session, &mut out).await
}

async fn act(action: Action, tenant_id: String, session: &Session, out: &mut Output) -> Result<(), Failure> {
    let mut endpoints = session.endpoints();
    match action {
        Action::Create(create) => {
            let request = create.into_request(tenant_id)?;
            show_once(endpoints.create_endpoint(call(request)).await?.into_inner(), out)?;
        }
        Action::List { page } => {
            let (page_size, page_token) = (page.page_size, page.page_token);
            let request = v1::ListEndpointsRequest {
                page_size,
                page_token,
                tenant_id,
            };
            out.page(endpoints.list_endpoints(call(request)).await?.get_ref(), &COLUMNS)?;
        }
        Action::Get { id } => {
            out.one(
                endpoints
                    .get_endpoint(call(v1::GetEndpointRequest { id, tenant_id }))
                    .await?
                    .get_ref(),
            )?;
        }
        Action::Update(update) => {
            let request = update.into_request(tenant_id)?;
            out.one(endpoints.update_endpoint(call(request)).await?.get_ref())?;
        }
        Action::Delete { id, etag } => {
            let said = format!("deleted {id}");
            endpoints
                .delete_endpoint(call(v1::DeleteEndpointRequest {
                    id,
                    tenant_id,
                    etag: etag.etag,
                }))
                .await?;
            out.done(&said)?;
        }
        Action::Test { id } => test(id, tenant_id, session, out).await?,
        Action::Rotate(args) => rotate(args.into_request(tenant_id)?, session, out).await?,
        Action::Replay(create) => {
            let request = create.into_request(tenant_id);
            out.one(session.replays().create_replay(call(request)).await?.get_ref())?;
        }
        Action::Replays { id } => {
            let request = v1::ListReplaysRequest {
                endpoint_id: id,
                tenant_id,
            };
            let replays = session.replays().list_replays(call(request)).await?;
            out.page(replays.get_ref(), &replay::COLUMNS)?;
        }
        Action::Deliveries { id, filter, page } => {
            let (page_size, page_token) = (page.page_size, page.page_token);
            let request = v1::ListDeliveriesRequest {
                endpoint_id: id,
                page_size,
                page_token,
                tenant_id,
                ..filter.into_request()
            };
            out.page(
                endpoints.list_deliveries(call(request)).await?.get_ref(),
                &delivery::COLUMNS,
            )?;
        }
    }
    Ok(())
}

/// A test that the receiver did not pass is a failure of the command, so that scripts notice.
async fn rotate(
    request: v1::RotateSecretRequest,
    session: &Session,
    out: &mut Output,
) -> Result<(), Failure> {
    let endpoint = session.endpoints().rotate_secret(call(request)).await?;
    show_once(endpoint.into_inner(), out)
}

async fn test(id: String, tenant_id: String, session: &Session, out: &mut Output) -> Result<(), Failure> {
    let request = v1::TestEndpointRequest { id, tenant_id };
    let outcome = session
        .endpoints()
        .test_endpoint(call(request))
        .await?
        .into_inner();
    out.one(&outcome)?;
    if outcome.status() == v1::DeliveryStatus::Succeeded {
        return Ok(());
    }
    let why = match (outcome.error.as_str(), outcome.response_status) {
        ("", Some(status)) => format!("it answered {status}"),
        (error, _) => error.to_owned(),
    };
    Err(
        Failure::failed(format!("the endpoint did not take the test event: {why}"))
            .hint("an endpoint takes an event by answering 2xx within 5 s"),
    )
}

fn own_secret(file: Option<&Path>) -> Result<Option<String>, Failure> {
    let secret = file.map(secret_file).transpose().map_err(|why| {
        Failure::usage(format!("--secret-file: {why}"))
            .hint("name a file whose only line is a signing secret, whsec_…")
    })?;
    Ok(secret.map(|secret| secret.expose_secret().to_owned()))
}

/// For people the secret stands below the table, where it can be copied whole.
fn show_once(mut endpoint: v1::Endpoint, out: &mut Output) -> Result<(), Failure> {
    if !out.is_text() {
        return Ok(out.one(&endpoint)?);
    }
    let secret = endpoint.secret.take();
    out.one(&endpoint)?;
    Ok(out.secret("signing secret", secret.as_deref())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::{Format, capture::Captured};

    #[test]
    fn only_what_was_given_is_changed() {
        let fields = Fields {
            status: Some(Status::Paused),
            ..Fields::default()
        };
        let (endpoint, mask) = fields.into_endpoint(None, vec!["scan.*".to_owned()]);
        assert_eq!(mask.finish().unwrap().paths, ["events", "status"]);
        assert_eq!(endpoint.status(), v1::EndpointStatus::Paused);
    }

    #[test]
    fn where_it_goes_on_goes_with_the_status() {
        use clap::Parser;
        #[derive(Parser, Debug)]
        struct Line {
            #[command(flatten)]
            update: Update,
        }
        let line = |words: &[&str]| Line::try_parse_from([&["x", "ep_1"], words].concat());
        let update = line(&["--status", "active", "--resume", "now"]).unwrap().update;
        let request = update.into_request(String::new()).unwrap();
        assert_eq!(request.endpoint.unwrap().resume(), v1::Resume::Now);
        assert_eq!(request.update_mask.unwrap().paths, ["status"]);
        assert!(line(&["--resume", "now"]).is_err());
    }

    #[test]
    fn a_secret_is_printed_exactly_once() {
        let endpoint = v1::Endpoint {
            secret: Some("whsec_abc".to_owned()),
            ..v1::Endpoint::default()
        };
        for format in [Format::Text { width: 80 }, Format::Json] {
            let captured = Captured::default();
            show_once(endpoint.clone(), &mut captured.output(format)).unwrap();
            assert_eq!(captured.text().matches("whsec_abc").count(), 1, "{format:?}");
        }
    }

    #[test]
    fn a_filter_and_an_order_are_what_an_update_changes() {
        let fields = Fields {
            filter: Some("data.is_bot".to_owned()),
            ordering: Some(Ordering::PerCode),
            ..Fields::default()
        };
        let (endpoint, mask) = fields.into_endpoint(None, Vec::new());
        assert_eq!(endpoint.ordering(), v1::Ordering::PerCode);
        assert_eq!(endpoint.filter.unwrap().expression, "data.is_bot");
        assert_eq!(mask.finish().unwrap().paths, ["filter.expression", "ordering"]);
    }
}
