//! A data directory with many codes, made once and kept for later runs: ten million take minutes.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, ensure};

use crate::{child::Start, cpu, product::Product};

/// What a short id of these codes begins with; their numbers follow.
pub const PREFIX: &str = "c";
/// How long making them may take.
const SEED_MAX: Duration = Duration::from_secs(3600);

/// The directory and the tenant whose codes they are.
#[derive(Debug, Clone)]
pub struct Seeded {
    /// For `--data-dir`.
    pub data: PathBuf,
    /// The tenant's id.
    pub tenant: String,
    /// How many codes it has.
    pub codes: u64,
}

/// Makes it in `folder` with the program `seeder`, or finds it there.
///
/// # Errors
/// When the product does not start, or the codes cannot be made.
pub async fn seeded(qrelay: &Path, seeder: &Path, folder: &Path, codes: u64) -> anyhow::Result<Seeded> {
    let kept = folder.join(format!("codes-{codes}"));
    let (data, complete) = (kept.join("data"), kept.join("tenant"));
    if let Ok(tenant) = fs::read_to_string(&complete) {
        return Ok(Seeded { data, tenant, codes });
    }
    if kept.exists() {
        // Somebody was cut off.
        fs::remove_dir_all(&kept).with_context(|| format!("cannot remove {}", kept.display()))?;
    }
    fs::create_dir(&kept).with_context(|| format!("cannot make {}", kept.display()))?;
    let mut product = Product::spawn(qrelay, &kept, &data, None)?;
    product.ready().await?;
    let tenant = product.tenant("durable").await?;
    product.stop().await?;
    let seeder = seeder
        .canonicalize()
        .with_context(|| format!("no binary at {}", seeder.display()))?;
    let start = Start {
        name: "seeder",
        core: None,
        program: seeder.as_os_str(),
        arguments: vec![
            data.clone().into_os_string(),
            tenant.clone().into(),
            codes.to_string().into(),
        ],
        environment: Vec::new(),
        folder: &kept,
    };
    let mut child = start.start()?;
    let status = child.ended(SEED_MAX).await?;
    ensure!(
        status.success(),
        "codes could not be made:\n{}",
        child.last_lines()
    );
    // Its dispatcher takes note of all these changes once, which a benchmark is not to pay for.
    let folder = tempfile::Builder::new().prefix("rest-").tempdir_in(&kept)?;
    let mut product = Product::spawn(qrelay, folder.path(), &data, None)?;
    product.ready().await?;
    cpu::settle(product.child().group(), SEED_MAX).await?;
    product.stop().await?;
    fs::write(&complete, &tenant).with_context(|| format!("cannot write {}", complete.display()))?;
    Ok(Seeded { data, tenant, codes })
}
