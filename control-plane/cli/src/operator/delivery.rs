//! `qrelay delivery`: one event for one endpoint, with every attempt.

use clap::Subcommand;
use qrelay_proto::v1;
use qrelay_store::Timestamp;

use super::{event, when};
use crate::{
    failure::Failure,
    output::Column,
    session::{ConnectArgs, Session, TenantArgs, call},
    shape,
};

/// Of a list of deliveries.
pub(crate) const COLUMNS: [Column; 8] = [
    ("ID", "id"),
    ("EVENT", "event"),
    ("STATUS", "status"),
    ("HTTP", "response_status"),
    ("MS", "duration_ms"),
    ("ATTEMPTS", "attempts"),
    ("ERROR", "error"),
    ("CREATED", "created_at"),
];

/// Which deliveries to list.
#[derive(clap::Args, Debug)]
pub(crate) struct DeliveryFilterArgs {
    /// Only those that stand so
    #[arg(long)]
    status: Option<Status>,
    #[command(flatten)]
    events: event::EventFilterArgs,
    /// Only those whose first attempt began at or after this: 2026-03-03T14:00:00Z, or how long ago, say 90m
    #[arg(long, value_parser = when::past, value_name = "WHEN")]
    start_time: Option<Timestamp>,
    /// Only those whose first attempt began before this
    #[arg(long, value_parser = when::past, value_name = "WHEN")]
    end_time: Option<Timestamp>,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug)]
enum Status {
    Retrying,
    Succeeded,
    #[value(name = "given_up")]
    GivenUp,
}

impl DeliveryFilterArgs {
    pub(crate) fn into_request(self) -> v1::ListDeliveriesRequest {
        let status = self
            .status
            .map_or(v1::DeliveryStatus::Unspecified, |status| match status {
                Status::Retrying => v1::DeliveryStatus::Retrying,
                Status::Succeeded => v1::DeliveryStatus::Succeeded,
                Status::GivenUp => v1::DeliveryStatus::GivenUp,
            });
        v1::ListDeliveriesRequest {
            status: status.into(),
            r#type: self.events.event_type,
            code_id: self.events.code_id,
            start_time: self.start_time.map(shape::proto_time),
            end_time: self.end_time.map(shape::proto_time),
            ..v1::ListDeliveriesRequest::default()
        }
    }
}

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
    /// Show a delivery and its attempts
    Get {
        /// The delivery's id, dlv_…
        id: String,
    },
    /// Send a delivery again, now
    Retry {
        /// The delivery's id, dlv_…
        id: String,
    },
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let mut out = args.connect.output();
    let session = Session::open(&args.connect).await?;
    let (mut endpoints, tenant_id) = (session.endpoints(), args.tenant.tenant);
    let delivery = match args.action {
        Action::Get { id } => {
            let request = v1::GetDeliveryRequest { id, tenant_id };
            endpoints.get_delivery(call(request)).await?
        }
        Action::Retry { id } => {
            let request = v1::RetryDeliveryRequest { id, tenant_id };
            endpoints.retry_delivery(call(request)).await?
        }
    };
    out.one(delivery.get_ref())?;
    Ok(())
}
