//! `qrelay conversion`: what scans led to.

use clap::Subcommand;
use qrelay_proto::v1;

use super::json_object;
use crate::{
    failure::Failure,
    session::{ConnectArgs, Session, TenantArgs, call},
};

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
    /// Record a conversion as the event qr.conversion; repeated, it records nothing more
    Create(Box<Create>),
}

#[derive(clap::Args, Debug)]
#[group(skip)]
#[command(group = clap::ArgGroup::new("subject").required(true))]
struct Create {
    /// Your own id of it, such as an order's number: recorded once
    external_id: String,
    /// The scan that led to it, evt_…: what `x-qrelay-scan` said
    #[arg(long, value_name = "EVENT", group = "subject")]
    event_id: Option<String>,
    /// The code that led to it, when the scan is not known
    #[arg(long, value_name = "SHORT_ID", group = "subject")]
    short_id: Option<String>,
    /// What it was worth, such as 49.90
    #[arg(
        long,
        default_value = "",
        hide_default_value = true,
        allow_negative_numbers = true
    )]
    value: String,
    /// What the value is in, three letters such as EUR
    #[arg(long, default_value = "", hide_default_value = true)]
    currency: String,
    /// More about it, a JSON object
    #[arg(long, value_name = "JSON", value_parser = json_object)]
    properties: Option<prost_types::Struct>,
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let mut out = args.connect.output();
    let session = Session::open(&args.connect).await?;
    let Action::Create(create) = args.action;
    let conversion = v1::Conversion {
        external_id: create.external_id,
        event_id: create.event_id.unwrap_or_default(),
        short_id: create.short_id.unwrap_or_default(),
        value: create.value,
        currency: create.currency,
        properties: create.properties,
        ..v1::Conversion::default()
    };
    let request = v1::CreateConversionRequest {
        conversion: Some(conversion),
        tenant_id: args.tenant.tenant,
    };
    let recorded = session.conversions().create_conversion(call(request)).await?;
    out.one(recorded.get_ref())?;
    Ok(())
}
