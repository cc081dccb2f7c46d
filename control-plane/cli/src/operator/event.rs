//! `qrelay event`: what was recorded, as webhooks carry it.

use clap::Subcommand;
use qrelay_proto::v1;
use qrelay_store::Timestamp;

use super::{PageArgs, when};
use crate::{
    failure::Failure,
    output::Column,
    session::{ConnectArgs, Session, TenantArgs, call},
    shape,
};

const COLUMNS: [Column; 6] = [
    ("ID", "id"),
    ("TYPE", "type"),
    ("RECORDED", "created_at"),
    ("SHORT ID", "data.short_id"),
    ("CLASS", "data.classification"),
    ("COUNTRY", "data.country"),
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

/// Which events.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct EventFilterArgs {
    /// Only this type: scan.created, a family such as scan.*, or *
    #[arg(
        long = "type",
        default_value = "",
        value_name = "TYPE",
        hide_default_value = true
    )]
    pub(crate) event_type: String,
    /// Only events of this code
    #[arg(long, default_value = "", value_name = "CODE", hide_default_value = true)]
    pub(crate) code_id: String,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// List events, newest first
    List {
        #[command(flatten)]
        filter: EventFilterArgs,
        /// Only events recorded at or after this: 2026-03-03T14:00:00Z, or how long ago, say 90m
        #[arg(long, value_parser = when::past, value_name = "WHEN")]
        start_time: Option<Timestamp>,
        /// Only events recorded before this
        #[arg(long, value_parser = when::past, value_name = "WHEN")]
        end_time: Option<Timestamp>,
        #[command(flatten)]
        page: PageArgs,
    },
    /// Show one event
    Get {
        /// The event's id, evt_…: what `x-qrelay-scan` and `webhook-id` say
        id: String,
    },
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let mut out = args.connect.output();
    let session = Session::open(&args.connect).await?;
    let (mut events, tenant_id) = (session.events(), args.tenant.tenant);
    match args.action {
        Action::List {
            filter,
            start_time,
            end_time,
            page,
        } => {
            let request = v1::ListEventsRequest {
                page_size: page.page_size,
                page_token: page.page_token,
                tenant_id,
                r#type: filter.event_type,
                code_id: filter.code_id,
                start_time: start_time.map(shape::proto_time),
                end_time: end_time.map(shape::proto_time),
            };
            out.page(events.list_events(call(request)).await?.get_ref(), &COLUMNS)?;
        }
        Action::Get { id } => {
            out.one(
                events
                    .get_event(call(v1::GetEventRequest { id, tenant_id }))
                    .await?
                    .get_ref(),
            )?;
        }
    }
    Ok(())
}
