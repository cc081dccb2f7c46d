//! Tenants whose scans lie in several partitions: which streams are whose.
//!
//! The shared run reads all that is followed. A run of an endpoint's own has to do with its tenant's streams only: what
//! other partitions bring for other tenants neither keeps it from being level, nor stands in its cursor.

use std::{collections::BTreeMap, sync::Arc};

use qrelay_store::{
    id::{PartitionId, Seq, TenantId, WriterId},
    model::Tenant,
};

use super::Ledger;
use crate::cursor::{Cursor, Stream};

impl Ledger {
    /// Takes in a tenant as it is now, or was: partitions are only ever added. One that lives in one changes nothing.
    pub fn learn_tenant(&mut self, tenant: &Arc<Tenant>) {
        if tenant.partitions.len() < 2 || !tenant.partitions.contains(&self.partition) {
            return;
        }
        let known = self.spread.get(&tenant.id).map_or(0, Vec::len);
        if known < tenant.partitions.len() {
            self.spread.insert(tenant.id, tenant.partitions.clone());
        }
    }

    /// A partition is followed. Nothing here waits for what stands at or before `passed`. `level`: whether an endpoint that is
    /// created from now on is sent nothing of the past.
    pub fn follow(&mut self, partition: PartitionId, passed: &BTreeMap<WriterId, Seq>, level: bool) {
        self.follows.insert(partition, level);
        for (writer, seq) in passed {
            let stream = Stream {
                partition,
                writer: *writer,
            };
            self.shared.read.advance(stream, *seq);
        }
    }

    /// Forgets partitions that are not followed any more.
    pub fn follow_only(&mut self, is_followed: impl Fn(PartitionId) -> bool) {
        self.follows.retain(|partition, _| is_followed(*partition));
    }

    /// The partitions that are followed, each with whether it is level ([`Self::follow`]).
    pub fn follows(&self) -> &BTreeMap<PartitionId, bool> {
        &self.follows
    }

    /// The partitions that a tenant's scans lie in, the one here first.
    pub fn partitions_of(&self, tenant: TenantId) -> Vec<PartitionId> {
        let all = self.spread.get(&tenant).map_or(&[][..], Vec::as_slice);
        let others = all.iter().copied().filter(|it| *it != self.partition);
        std::iter::once(self.partition).chain(others).collect()
    }

    /// Whether a stream may hold something for a tenant's endpoints.
    pub(super) fn concerns(&self, tenant: TenantId, stream: Stream) -> bool {
        stream.partition == self.partition
            || stream == Stream::CONFIG
            || self
                .spread
                .get(&tenant)
                .is_some_and(|partitions| partitions.contains(&stream.partition))
    }

    /// Of a cursor of the shared run, what has to do with a tenant.
    pub(super) fn part_of(&self, tenant: TenantId, cursor: &Cursor) -> Cursor {
        if self.follows.is_empty() {
            return cursor.clone();
        }
        self.streams_of(tenant, cursor).collect()
    }

    /// The same, one stream after the other.
    fn streams_of<'a>(
        &'a self,
        tenant: TenantId,
        cursor: &'a Cursor,
    ) -> impl Iterator<Item = (Stream, Seq)> + 'a {
        // They come in order of their partitions, which may have very many each.
        let mut last = None;
        cursor.iter().filter(move |(stream, _)| match last {
            Some((partition, concerned)) if partition == stream.partition => concerned,
            _ => {
                let concerned = self.concerns(tenant, *stream);
                last = Some((stream.partition, concerned));
                concerned
            }
        })
    }

    /// Whether a cursor of a run of its own is where the shared run has read, as far as its tenant is concerned.
    pub(super) fn is_level(&self, tenant: TenantId, own: &Cursor) -> bool {
        if self.follows.is_empty() {
            return *own == self.shared.read;
        }
        own.iter().eq(self.streams_of(tenant, &self.shared.read))
    }
}
