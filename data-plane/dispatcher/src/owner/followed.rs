//! The partitions beside its own that an owner follows: those of very large tenants that have one of theirs here.
//!
//! An endpoint's owner sends it what stands in any of its tenant's partitions. So it follows them all, from when it
//! learns of the tenant, whether the tenant has endpoints here or not:
//! - A partition that is new here stands at 0: whoever has endpoints here already loses nothing of it.
//! - While none of its tenants has endpoints here it is not read. Its position goes along with the heads that were learned
//!   before the configuration log's tail was read without finding an endpoint: so an endpoint that is created later gets
//!   everything recorded since, and nothing of what was before.
//! - Once one has, it is read from there, in the same rounds as the owner's own partition.
//!
//! The checkpoint names what is followed, and whether its position was brought along ([`Told::level`]): until then an
//! endpoint that is homed here would be sent all that the tenant's other partitions ever held, and has its home elsewhere.
//!
//! A partition that cannot be read costs its own events a delay, and nobody else's.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures::future::select_all;
use qrelay_store::{
    id::{EndpointId, PartitionId, Seq, TenantId, WriterId},
    model::{Endpoint, Tenant, TenantStatus},
    reader::{Item, PartitionReader, told_by},
    store::{SharedStore, WriterRow},
};
use tokio::time::Instant;

use crate::cursor::Cursor;

/// How often the ledger is told how far partitions are passed that nobody reads. After a crash an endpoint that was created
/// meanwhile may be sent what was recorded since.
const TELL_PERIOD: Duration = Duration::from_secs(if cfg!(test) { 0 } else { 10 });

/// What the ledger is to know of a partition that is followed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Told {
    /// Which.
    pub(super) partition: PartitionId,
    /// Nothing here waits for what stands at or before these.
    pub(super) passed: BTreeMap<WriterId, Seq>,
    /// Whether an endpoint that is created from now on is sent nothing of the past.
    pub(super) level: bool,
}

/// A tenant that has several partitions, one of them ours.
struct Large {
    partitions: Vec<PartitionId>,
    deleted: bool,
}

/// A partition that is followed and not read.
struct Passed {
    positions: BTreeMap<WriterId, Seq>,
    level: bool,
    /// Whether the ledger knows all of this.
    told: bool,
}

/// All of them.
pub(super) struct Followed {
    store: SharedStore,
    home: PartitionId,
    /// Who has endpoints here.
    endpoints: BTreeSet<(TenantId, EndpointId)>,
    tenants: BTreeMap<TenantId, Large>,
    readers: BTreeMap<PartitionId, PartitionReader>,
    passed: BTreeMap<PartitionId, Passed>,
    tell_due: Instant,
}

impl Followed {
    /// What a saved checkpoint follows, and how far. `follows`: each with whether it is level.
    pub(super) fn new(
        store: SharedStore,
        home: PartitionId,
        follows: &BTreeMap<PartitionId, bool>,
        from: &Cursor,
    ) -> Self {
        let passed = follows.iter().map(|(partition, level)| {
            let streams = from.iter().filter(|(stream, _)| stream.partition == *partition);
            let passed = Passed {
                positions: streams.map(|(stream, seq)| (stream.writer, seq)).collect(),
                level: *level,
                told: true,
            };
            (*partition, passed)
        });
        Self {
            store,
            home,
            endpoints: BTreeSet::new(),
            tenants: BTreeMap::new(),
            readers: BTreeMap::new(),
            passed: passed.collect(),
            tell_due: Instant::now() + TELL_PERIOD,
        }
    }

    /// Takes in endpoints and tenants as they are now; of tenants, those that are not large are none of its business. What the
    /// ledger is to know before it hears of them.
    pub(super) fn learn<'a>(
        &mut self,
        tenants: impl IntoIterator<Item = &'a Arc<Tenant>>,
        endpoints: impl IntoIterator<Item = &'a Arc<Endpoint>>,
    ) -> Vec<Told> {
        for endpoint in endpoints {
            let key = (endpoint.tenant, endpoint.id);
            if endpoint.deleted {
                self.endpoints.remove(&key);
            } else {
                self.endpoints.insert(key);
            }
        }
        for tenant in tenants {
            if tenant.partitions.len() > 1 && tenant.partitions.contains(&self.home) {
                let large = Large {
                    partitions: tenant.partitions.clone(),
                    deleted: tenant.status == TenantStatus::Deleted,
                };
                self.tenants.insert(tenant.id, large);
            }
        }
        if self.tenants.is_empty() {
            return Vec::new();
        }
        self.arrange()
    }

    /// Whether a tenant has endpoints here.
    fn is_served(&self, tenant: TenantId) -> bool {
        let first = EndpointId::from_bytes([0; 10]);
        let next = self.endpoints.range((tenant, first)..).next();
        next.is_some_and(|(of, _)| *of == tenant)
    }

    /// Reads what somebody here wants, and passes the rest.
    fn arrange(&mut self) -> Vec<Told> {
        let wanted: BTreeSet<_> = self
            .tenants
            .iter()
            .filter(|(id, _)| self.is_served(**id))
            .flat_map(|(_, large)| &large.partitions)
            .copied()
            .filter(|partition| *partition != self.home)
            .collect();
        let mut told = Vec::new();
        for large in self.tenants.values().filter(|large| !large.deleted) {
            for partition in large.partitions.iter().filter(|it| **it != self.home) {
                if !self.readers.contains_key(partition) && !self.passed.contains_key(partition) {
                    let passed = Passed {
                        positions: BTreeMap::new(),
                        level: false,
                        told: true,
                    };
                    told.push(passed.told(*partition));
                    self.passed.insert(*partition, passed);
                }
            }
        }
        for partition in &wanted {
            if self.readers.contains_key(partition) {
                continue;
            }
            let positions = match self.passed.remove(partition) {
                Some(passed) => passed.positions,
                None => BTreeMap::new(),
            };
            told.push(Told {
                partition: *partition,
                passed: positions.clone(),
                level: true,
            });
            let reader = PartitionReader::new(Arc::clone(&self.store), *partition, positions);
            self.readers.insert(*partition, reader);
        }
        let unwanted: Vec<_> = self.readers.keys().filter(|it| !wanted.contains(it)).collect();
        for partition in unwanted.into_iter().copied().collect::<Vec<_>>() {
            if let Some(reader) = self.readers.remove(&partition) {
                let passed = Passed {
                    positions: reader.positions(),
                    level: true,
                    told: true,
                };
                self.passed.insert(partition, passed);
            }
        }
        self.leave_the_deleted();
        told
    }

    /// What only tenants had that are deleted, and have no endpoints here, is not followed any more.
    fn leave_the_deleted(&mut self) {
        let gone = |(id, large): &(&TenantId, &Large)| large.deleted && !self.is_served(**id);
        let gone: Vec<_> = self.tenants.iter().filter(gone).map(|(id, _)| *id).collect();
        for id in gone {
            let partitions = self.tenants.remove(&id).map(|large| large.partitions);
            for partition in partitions.unwrap_or_default() {
                let others = self
                    .tenants
                    .values()
                    .any(|large| large.partitions.contains(&partition));
                if !others {
                    self.passed.remove(&partition);
                }
            }
        }
    }

    /// Learns heads of those that are read. `rows`: the writers' rows, if they were just read.
    pub(super) async fn refresh(&mut self, rows: Option<&[WriterRow]>) {
        for (partition, reader) in &mut self.readers {
            if let Err(error) = reader.refresh_beside(rows).await {
                tracing::warn!(home = %self.home, %partition, %error, "cannot look how far another partition of a tenant goes; trying again");
            }
        }
    }

    /// Those that are read.
    pub(super) fn read_ones(&self) -> Vec<PartitionId> {
        self.readers.keys().copied().collect()
    }

    /// Reads one of them on. Empty when there is nothing that can be read now.
    pub(super) async fn read(&mut self, partition: PartitionId, bytes_max: usize) -> Vec<Item> {
        let Some(reader) = self.readers.get_mut(&partition) else {
            return Vec::new();
        };
        match reader.read(bytes_max).await {
            Ok(items) => items,
            Err(error) => {
                // It is left alone for a while.
                tracing::warn!(home = %self.home, %partition, %error, "cannot read another partition of a tenant; trying again");
                Vec::new()
            }
        }
    }

    /// Passes what nobody here wants. `rows` were read before a tail of the configuration log that was read to its end,
    /// and is learned. What the ledger is to know.
    pub(super) fn pass(&mut self, rows: &[WriterRow]) -> Vec<Told> {
        let now = Instant::now();
        let due = now >= self.tell_due;
        if due {
            self.tell_due = now + TELL_PERIOD;
        }
        let mut told = Vec::new();
        for (partition, passed) in &mut self.passed {
            passed.pass(*partition, rows);
            if !passed.level || (due && !passed.told) {
                (passed.told, passed.level) = (true, true);
                told.push(passed.told(*partition));
            }
        }
        told
    }

    /// Which writers are still known, of each partition that is followed.
    pub(super) fn writers(&self) -> BTreeMap<PartitionId, BTreeSet<WriterId>> {
        let read = self.readers.iter();
        let read = read.map(|(partition, reader)| (*partition, reader.positions().into_keys().collect()));
        let passed = self.passed.iter();
        let passed =
            passed.map(|(partition, passed)| (*partition, passed.positions.keys().copied().collect()));
        read.chain(passed).collect()
    }

    /// Whether something is read beside the owner's own partition.
    pub(super) fn reads(&self) -> bool {
        !self.readers.is_empty()
    }

    /// Waits until there may be something to read in one of them.
    pub(super) async fn changed(&mut self) {
        if self.readers.is_empty() {
            return std::future::pending().await;
        }
        let changes = self.readers.values_mut();
        select_all(changes.map(|reader| Box::pin(reader.changed_beside()))).await;
    }
}

impl Passed {
    fn pass(&mut self, partition: PartitionId, rows: &[WriterRow]) {
        for row in rows {
            let through = told_by(row, partition);
            let known = self.positions.get(&row.writer).copied().unwrap_or_default();
            if through > known {
                self.positions.insert(row.writer, through);
                self.told = false;
            }
        }
        // A writer is expired only when it is closed and its batches are gone.
        let known: BTreeSet<_> = rows.iter().map(|row| row.writer).collect();
        self.positions.retain(|writer, _| known.contains(writer));
    }

    fn told(&self, partition: PartitionId) -> Told {
        Told {
            partition,
            passed: self.positions.clone(),
            level: self.level,
        }
    }
}
