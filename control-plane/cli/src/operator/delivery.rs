//! `qrelay delivery`: one event for one endpoint, with every attempt.

use clap::Subcommand;
use qrelay_proto::v1;

use crate::{
    failure::Failure,
    output::Column,
    session::{ConnectArgs, Session, TenantArgs, call},
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
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let mut out = args.connect.output();
    let session = Session::open(&args.connect).await?;
    let Action::Get { id } = args.action;
    let request = v1::GetDeliveryRequest {
        id,
        tenant_id: args.tenant.tenant,
    };
    out.one(session.endpoints().get_delivery(call(request)).await?.get_ref())?;
    Ok(())
}
