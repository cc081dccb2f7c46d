//! Fills a data directory with codes, for benchmarks of how many there may be: faster than over the API, and the same rows.
//!
//! `seed_codes DIRECTORY TENANT COUNT` makes the codes `c0`, `c1` … of the tenant, which must exist there. Nothing else may have
//! the directory open. Codes that are there already are left alone, so that a run that was cut off can be repeated.

use std::{path::Path, process::ExitCode};

use futures::{StreamExt as _, stream};
use qrelay_store::{
    Clock as _, Timestamp,
    clock::SystemClock,
    id::{CodeId, TenantId},
    model::{Code, CodeStatus, Host, Resource, ShortLink},
    sqlite::{Options, SqliteStore},
    store::{Change, ChangeError, Expected, Registry as _, SecretChange},
};

/// Changes under way at once: they share commits.
const UNDER_WAY: usize = 1024;

#[tokio::main]
async fn main() -> ExitCode {
    match seed().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn seed() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [directory, tenant, count] = arguments.as_slice() else {
        return Err("DIRECTORY, TENANT and COUNT are needed".into());
    };
    let (tenant, count): (TenantId, u64) = (tenant.parse()?, count.parse()?);
    let store = SqliteStore::open(Path::new(directory), &Options::default())?;
    if store.tenant(tenant).await?.is_none() {
        return Err(format!("there is no tenant {tenant}").into());
    }
    let at = SystemClock.now();
    let mut changes = stream::iter(0..count)
        .map(|number| store.change(creation(tenant, number, at)))
        .buffer_unordered(UNDER_WAY);
    while let Some(changed) = changes.next().await {
        match changed {
            Ok(_) | Err(ChangeError::Exists) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// As the control plane makes one.
fn creation(tenant: TenantId, number: u64, at: Timestamp) -> Change {
    let mut id = [0; 10];
    id[2..].copy_from_slice(&number.to_be_bytes());
    let code = Code {
        id: CodeId::from_bytes(id),
        tenant,
        link: ShortLink {
            host: Host::default(),
            short_id: format!("c{number}"),
        },
        name: format!("Poster {number}"),
        destination_url: format!(
            "https://shop.example.com/products/{number}?utm_source=poster&utm_medium=qr"
        ),
        status: CodeStatus::Active,
        tags: vec!["spring".to_owned()],
        campaign_id: "spring".to_owned(),
        owner_id: String::new(),
        external_id: format!("sku-{number}"),
        metadata: serde_json::Map::default(),
        recipient: serde_json::Map::default(),
        created_at: at,
        updated_at: at,
        version: 1,
        conversion_param: String::new(),
    };
    Change {
        resource: Resource::Code(Box::new(code)),
        expected: Expected::Absent,
        at,
        actor: "admin".to_owned(),
        event: None,
        secrets: SecretChange::Keep,
        request: None,
        count_max: None,
    }
}
