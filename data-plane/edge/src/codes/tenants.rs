//! The settings of the tenants whose codes are cached: one cell per tenant, shared by its codes.
//!
//! Invariants: a cell never goes back to an older version; a cell lives as long as a cached code holds it, so the
//! table is bounded by the cache.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use arc_swap::{ArcSwap, Guard};
use qrelay_store::id::TenantId;
use qrelay_store::model::Tenant;

/// A tenant as it is now.
#[derive(Debug)]
pub(crate) struct TenantCell(ArcSwap<Tenant>);

impl TenantCell {
    /// The tenant's newest known version.
    pub(crate) fn load(&self) -> Guard<Arc<Tenant>> {
        self.0.load()
    }

    fn raise(&self, tenant: Arc<Tenant>) {
        if tenant.version > self.0.load().version {
            self.0.store(tenant);
        }
    }
}

#[derive(Default)]
pub(super) struct Tenants {
    cells: Mutex<Cells>,
}

#[derive(Default)]
struct Cells {
    by_id: HashMap<TenantId, Weak<TenantCell>>,
    /// When the table has grown to this, cells that nobody holds are dropped from it.
    prune_at: usize,
}

impl Tenants {
    fn lock(&self) -> MutexGuard<'_, Cells> {
        // A cell is raised under the lock, so that two cannot raise it at once; nothing there can panic.
        self.cells.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The tenant's cell, at this version or a newer one.
    pub(super) fn intern(&self, tenant: Arc<Tenant>) -> Arc<TenantCell> {
        let mut cells = self.lock();
        if let Some(cell) = cells.by_id.get(&tenant.id).and_then(Weak::upgrade) {
            cell.raise(tenant);
            return cell;
        }
        if cells.by_id.len() >= cells.prune_at {
            cells.by_id.retain(|_, cell| cell.strong_count() > 0);
            cells.prune_at = (cells.by_id.len() * 2).max(64);
        }
        let id = tenant.id;
        let cell = Arc::new(TenantCell(ArcSwap::new(tenant)));
        cells.by_id.insert(id, Arc::downgrade(&cell));
        cell
    }

    /// Raises the tenant's cell to this version, if a cached code holds one.
    pub(super) fn update(&self, tenant: Arc<Tenant>) {
        if let Some(cell) = self.lock().by_id.get(&tenant.id).and_then(Weak::upgrade) {
            cell.raise(tenant);
        }
    }
}
