//! `qrelay replay`: the events of a time range, sent to an endpoint again. One is begun with `qrelay endpoint replay`.

use clap::Subcommand;
use qrelay_proto::v1;
use qrelay_store::Timestamp;

use super::{RequestArgs, when};
use crate::{
    failure::Failure,
    output::Column,
    session::{ConnectArgs, Session, TenantArgs, call},
    shape,
};

/// Of a list of replays.
pub(crate) const COLUMNS: [Column; 7] = [
    ("ID", "id"),
    ("STATE", "state"),
    ("FOUND", "found"),
    ("SENT", "sent"),
    ("SUCCEEDED", "succeeded"),
    ("FAILED", "failed"),
    ("CREATED", "created_at"),
];

/// What to send again.
#[derive(clap::Args, Debug)]
pub(crate) struct Create {
    /// The endpoint's id
    endpoint_id: String,
    /// Events recorded at or after this: 2026-03-03T14:00:00Z, or how long ago, say 90m
    #[arg(long, value_parser = when::past, value_name = "WHEN")]
    start_time: Timestamp,
    /// Events recorded before this; now if not given
    #[arg(long, value_parser = when::past, value_name = "WHEN")]
    end_time: Option<Timestamp>,
    /// Only events whose delivery was given up
    #[arg(long)]
    only_failed: bool,
    /// Requests a second at most, beside the endpoint's limits
    #[arg(long, value_name = "N")]
    per_second: Option<f64>,
    #[command(flatten)]
    request: RequestArgs,
}

impl Create {
    pub(crate) fn into_request(self, tenant_id: String) -> v1::CreateReplayRequest {
        v1::CreateReplayRequest {
            endpoint_id: self.endpoint_id,
            start_time: Some(shape::proto_time(self.start_time)),
            end_time: self.end_time.map(shape::proto_time),
            only_failed: self.only_failed,
            per_second: self.per_second,
            request_id: self.request.request_id,
            tenant_id,
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
    /// Show a replay and how far it is
    Get {
        /// The replay's id, rpl_…
        id: String,
    },
    /// End a replay; what it began goes on
    Cancel {
        /// The replay's id, rpl_…
        id: String,
    },
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let mut out = args.connect.output();
    let session = Session::open(&args.connect).await?;
    let (mut replays, tenant_id) = (session.replays(), args.tenant.tenant);
    let replay = match args.action {
        Action::Get { id } => {
            let request = v1::GetReplayRequest { id, tenant_id };
            replays.get_replay(call(request)).await?
        }
        Action::Cancel { id } => {
            let request = v1::CancelReplayRequest { id, tenant_id };
            replays.cancel_replay(call(request)).await?
        }
    };
    out.one(replay.get_ref())?;
    Ok(())
}
