//! `qrelay key`: a tenant's API keys. A new key is shown once.

use clap::{Subcommand, ValueEnum};
use qrelay_proto::v1;
use qrelay_store::Timestamp;

use super::{PageArgs, RequestArgs, when};
use crate::{
    failure::Failure,
    output::{Column, Output},
    session::{ConnectArgs, Session, TenantArgs, call},
    shape,
};

const COLUMNS: [Column; 6] = [
    ("ID", "id"),
    ("NAME", "name"),
    ("ROLE", "role"),
    ("EXPIRES", "expires_at"),
    ("LAST USED", "last_used_at"),
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
    /// Create a key of a tenant; it is shown only now
    Create {
        /// What people call it
        #[arg(long, default_value = "", hide_default_value = true)]
        name: String,
        /// What it may do
        #[arg(long, default_value = "read_write")]
        role: Role,
        /// When it stops working: 2026-12-31T00:00:00Z, or 90d from now; never, if not given
        #[arg(long, value_parser = when::future, value_name = "WHEN")]
        expires: Option<Timestamp>,
        #[command(flatten)]
        request: RequestArgs,
    },
    /// List a tenant's keys, newest first
    List {
        #[command(flatten)]
        page: PageArgs,
    },
    /// Revoke a key
    Delete {
        /// The key's id, key_…
        id: String,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Role {
    /// Everything within its tenant
    ReadWrite,
    /// Gets, lists and streams only
    ReadOnly,
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let mut out = args.connect.output();
    if args.tenant.tenant.is_empty() && !matches!(args.action, Action::Delete { .. }) {
        return Err(Failure::usage("whose keys?").hint("name the tenant: --tenant ten_… or QRELAY_TENANT"));
    }
    let session = Session::open(&args.connect).await?;
    act(args.action, args.tenant.tenant, &session, &mut out).await
}

async fn act(action: Action, tenant_id: String, session: &Session, out: &mut Output) -> Result<(), Failure> {
    let mut tenants = session.tenants();
    match action {
        Action::Create {
            name,
            role,
            expires,
            request,
        } => {
            let role = match role {
                Role::ReadWrite => v1::KeyRole::ReadWrite,
                Role::ReadOnly => v1::KeyRole::ReadOnly,
            };
            let expires_at = expires.map(shape::proto_time);
            let api_key = v1::ApiKey {
                role: role.into(),
                name,
                expires_at,
                ..v1::ApiKey::default()
            };
            let request = v1::CreateApiKeyRequest {
                tenant_id,
                api_key: Some(api_key),
                request_id: request.request_id,
            };
            let mut created = tenants.create_api_key(call(request)).await?.into_inner();
            show_once(&mut created, out)?;
        }
        Action::List { page } => {
            let (page_size, page_token) = (page.page_size, page.page_token);
            let request = v1::ListApiKeysRequest {
                tenant_id,
                page_size,
                page_token,
            };
            out.page(tenants.list_api_keys(call(request)).await?.get_ref(), &COLUMNS)?;
        }
        Action::Delete { id } => {
            let said = format!("revoked {id}");
            tenants
                .delete_api_key(call(v1::DeleteApiKeyRequest { id }))
                .await?;
            out.done(&said)?;
        }
    }
    Ok(())
}

/// For people the key stands below the table, where it can be copied whole.
fn show_once(created: &mut v1::ApiKey, out: &mut Output) -> Result<(), Failure> {
    if !out.is_text() {
        return Ok(out.one(created)?);
    }
    let key = created.key.take();
    out.one(created)?;
    Ok(out.secret("key", key.as_deref())?)
}
