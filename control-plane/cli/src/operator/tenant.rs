//! `qrelay tenant`: customers and what they used.

use clap::{Subcommand, ValueEnum};
use qrelay_proto::v1;

use super::{EtagArgs, Mask, PageArgs, RequestArgs};
use crate::{
    failure::Failure,
    output::{Column, Output},
    session::{ConnectArgs, Session, call},
};

const COLUMNS: [Column; 6] = [
    ("ID", "id"),
    ("NAME", "name"),
    ("STATUS", "status"),
    ("DURABILITY", "durability"),
    ("ADDRESSES", "privacy.ip"),
    ("CREATED", "created_at"),
];

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    connect: ConnectArgs,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Create a tenant
    Create {
        /// What people call it
        name: String,
        #[command(flatten)]
        fields: Fields,
        #[command(flatten)]
        request: RequestArgs,
    },
    /// List tenants, newest first
    List {
        #[command(flatten)]
        page: PageArgs,
    },
    /// Show one tenant
    Get {
        /// The tenant's id
        id: String,
    },
    /// Change a tenant
    Update {
        /// The tenant's id
        id: String,
        /// What people call it
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        fields: Fields,
        #[command(flatten)]
        etag: EtagArgs,
    },
    /// Delete a tenant: its keys end and its codes answer 410
    Delete {
        /// The tenant's id
        id: String,
    },
    /// Show what a tenant used in a month
    Usage {
        /// The tenant's id
        id: String,
        /// The month (UTC), such as 2026-05; the current one if not given
        #[arg(long, default_value = "", value_name = "YYYY-MM", hide_default_value = true)]
        month: String,
    },
}

#[derive(clap::Args, Debug)]
struct Fields {
    /// Whether its codes redirect
    #[arg(long)]
    status: Option<Status>,
    /// What must have happened before a scan is answered
    #[arg(long)]
    durability: Option<Durability>,
    /// What is kept of client addresses
    #[arg(long)]
    ip: Option<Ip>,
    /// What happens to scans that cannot be recorded
    #[arg(long)]
    unrecordable_scans: Option<Unrecordable>,
    /// Partitions of the log of its own, for a very large tenant; it can only be raised
    #[arg(long, value_name = "COUNT")]
    partitions: Option<i32>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Status {
    Active,
    Suspended,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Durability {
    /// The scan is on disk
    Durable,
    /// Nothing: a crash may lose the last moments
    Relaxed,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Unrecordable {
    /// They are answered 503
    Refuse,
    /// They are redirected, make no event, and are counted by the edge
    Answer,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Ip {
    /// Nothing
    Drop,
    /// The network
    Truncate,
}

impl Fields {
    fn into_tenant(self, name: Option<String>, etag: String) -> (v1::Tenant, Mask) {
        let mut mask = Mask::default();
        let status = self.status.map(|status| match status {
            Status::Active => v1::TenantStatus::Active,
            Status::Suspended => v1::TenantStatus::Suspended,
        });
        let durability = self.durability.map(|durability| match durability {
            Durability::Durable => v1::Durability::Durable,
            Durability::Relaxed => v1::Durability::Relaxed,
        });
        let ip = self.ip.map(|ip| match ip {
            Ip::Drop => v1::IpPrivacy::Drop,
            Ip::Truncate => v1::IpPrivacy::Truncate,
        });
        let unrecordable = self.unrecordable_scans.map(|scans| match scans {
            Unrecordable::Refuse => v1::UnrecordableScans::Refuse,
            Unrecordable::Answer => v1::UnrecordableScans::Answer,
        });
        let privacy = ip.map(|ip| v1::Privacy { ip: ip.into() });
        let tenant = v1::Tenant {
            name: mask.take("name", name),
            status: mask.take("status", status).into(),
            durability: mask.take("durability", durability).into(),
            privacy: privacy.map(|privacy| mask.take("privacy", Some(privacy))),
            unrecordable_scans: mask.take("unrecordable_scans", unrecordable).into(),
            partitions: mask.take("partitions", self.partitions),
            etag,
            ..v1::Tenant::default()
        };
        (tenant, mask)
    }
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let mut out = args.connect.output();
    let session = Session::open(&args.connect).await?;
    act(args.action, &session, &mut out).await
}

async fn act(action: Action, session: &Session, out: &mut Output) -> Result<(), Failure> {
    let mut tenants = session.tenants();
    match action {
        Action::Create {
            name,
            fields,
            request,
        } => {
            let (tenant, _) = fields.into_tenant(Some(name), String::new());
            let request = v1::CreateTenantRequest {
                tenant: Some(tenant),
                request_id: request.request_id,
            };
            out.one(tenants.create_tenant(call(request)).await?.get_ref())?;
        }
        Action::List { page } => {
            let request = v1::ListTenantsRequest {
                page_size: page.page_size,
                page_token: page.page_token,
            };
            out.page(tenants.list_tenants(call(request)).await?.get_ref(), &COLUMNS)?;
        }
        Action::Get { id } => {
            out.one(
                tenants
                    .get_tenant(call(v1::GetTenantRequest { id }))
                    .await?
                    .get_ref(),
            )?;
        }
        Action::Update {
            id,
            name,
            fields,
            etag,
        } => {
            let (tenant, mask) = fields.into_tenant(name, etag.etag);
            let update_mask = Some(mask.finish()?);
            let request = v1::UpdateTenantRequest {
                id,
                tenant: Some(tenant),
                update_mask,
            };
            out.one(tenants.update_tenant(call(request)).await?.get_ref())?;
        }
        Action::Delete { id } => {
            let said = format!("deleted {id}");
            tenants
                .delete_tenant(call(v1::DeleteTenantRequest { id }))
                .await?;
            out.done(&said)?;
        }
        Action::Usage { id, month } => {
            let request = v1::GetUsageRequest { tenant_id: id, month };
            out.one(tenants.get_usage(call(request)).await?.get_ref())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_given_is_changed() {
        let fields = Fields {
            status: Some(Status::Suspended),
            durability: None,
            ip: Some(Ip::Truncate),
            unrecordable_scans: Some(Unrecordable::Answer),
            partitions: Some(8),
        };
        let (tenant, mask) = fields.into_tenant(None, "e1".to_owned());
        assert_eq!(
            mask.finish().unwrap().paths,
            ["status", "privacy", "unrecordable_scans", "partitions"]
        );
        assert_eq!(tenant.partitions, 8);
        assert_eq!(tenant.unrecordable_scans(), v1::UnrecordableScans::Answer);
        assert_eq!(tenant.status(), v1::TenantStatus::Suspended);
        assert_eq!(tenant.durability(), v1::Durability::Unspecified);
        assert_eq!(tenant.etag, "e1");
        let nothing = Fields {
            status: None,
            durability: None,
            ip: None,
            unrecordable_scans: None,
            partitions: None,
        };
        assert!(nothing.into_tenant(None, String::new()).1.finish().is_err());
    }
}
