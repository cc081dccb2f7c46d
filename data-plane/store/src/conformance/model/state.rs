//! What must be stored after each operation, and that it is.

use std::{collections::BTreeMap, ops::Range};

use bytes::Bytes;
use futures::poll;

use super::Op;
use crate::{
    checkpoint::{RowKey, RowKind},
    conformance::{
        Fixture,
        samples::{P, Q, at, attempt, batch, code, command, create, event, lease, update, writer_row},
    },
    id::{CodeId, CommandId, ConfigSeq, EndpointId, OwnerId, PartitionId, Seq, TenantId, WriterId},
    model::{Code, CodeStatus, Resource, ResourceId},
    store::{
        AttemptRow, Batch, Cas, Change, ChangeError, Changed, CheckpointDelta, Command, CommandResult, Fence,
        Heads, Lease, SharedStore, StoreError, WriterRow,
    },
};

/// Errors after which a caller repeats.
trait Transient {
    fn is_transient(&self) -> bool;
}

impl Transient for StoreError {
    fn is_transient(&self) -> bool {
        matches!(self, StoreError::Unavailable(_))
    }
}

impl Transient for ChangeError {
    fn is_transient(&self) -> bool {
        matches!(self, ChangeError::Store(StoreError::Unavailable(_)))
    }
}

/// Repeats a call until it is answered; says whether that was needed.
macro_rules! repeat {
    ($call:expr) => {{
        let mut repeated = false;
        loop {
            match $call.await {
                Err(error) if Transient::is_transient(&error) => repeated = true,
                answer => break (answer, repeated),
            }
        }
    }};
}
fn writer_id(number: u8) -> WriterId {
    WriterId::from_u64(u64::from(number) + 1)
}

fn partition(number: u8) -> PartitionId {
    [P, Q][usize::from(number)]
}

fn code_id(number: u8) -> CodeId {
    CodeId::from_bytes([number; 10])
}

const TENANT: TenantId = TenantId::from_bytes([9; 10]);
const ENDPOINT: EndpointId = EndpointId::from_bytes([9; 10]);
/// How many live codes a limited creation allows.
const CODES_MAX: usize = 2;

/// What must be stored.
#[derive(Default)]
pub(super) struct Model {
    batches: BTreeMap<(PartitionId, WriterId, Seq), Batch>,
    writers: BTreeMap<WriterId, WriterRow>,
    codes: BTreeMap<CodeId, Vec<Code>>,
    links: BTreeMap<String, CodeId>,
    config: Vec<(ResourceId, u64)>,
    leases: BTreeMap<PartitionId, Lease>,
    rows: BTreeMap<PartitionId, BTreeMap<RowKey, String>>,
    chunks: BTreeMap<(PartitionId, String), Bytes>,
    attempts: BTreeMap<(crate::id::EventAddress, u32), AttemptRow>,
    commands: BTreeMap<CommandId, Command>,
    /// Partitions that were claimed, and how many rows the configuration log had.
    claims: Vec<(Range<u16>, usize)>,
}

impl Model {
    pub(super) async fn register_writers(&mut self, store: &SharedStore) {
        for writer in (0..3).map(writer_id) {
            repeat!(store.register_writer(&writer_row(writer))).0.unwrap();
            self.writers.insert(writer, writer_row(writer));
        }
    }

    pub(super) async fn apply(&mut self, store: &SharedStore, op: Op, turn: u64) {
        match op {
            Op::Append {
                writer,
                partition: at,
                seq,
                other_bytes,
            } => {
                let batch = batch(partition(at), writer_id(writer), seq);
                self.append(store, batch, other_bytes).await;
            }
            Op::PublishHeads {
                writer,
                partition: at,
                seq,
            } => {
                let heads = Heads::from([(partition(at), Seq::new(seq))]);
                self.publish(store, writer_id(writer), turn, heads).await;
            }
            Op::CloseWriter { writer, seq } => self.close(store, writer_id(writer), Seq::new(seq)).await,
            Op::CreateCode {
                code,
                short_id,
                limit,
            } => self.create_code(store, code, short_id, limit).await,
            Op::ChangeCode { code, stale, delete } => {
                self.change_code(store, code, stale, delete, turn).await
            }
            Op::Claim {
                partition: at,
                stale,
                release,
            } => {
                self.claim(store, partition(at), stale, release, turn).await;
            }
            Op::Save {
                partition: at,
                stale,
                row,
                body,
            } => {
                self.save(store, partition(at), stale, row, body, turn).await;
            }
            Op::PutChunk {
                partition: at,
                name,
                other_bytes,
            } => {
                let key = (partition(at), name.to_string());
                self.put_chunk(store, key, other_bytes).await;
            }
            Op::DeleteChunk { partition: at, name } => {
                self.delete_chunk(store, (partition(at), name.to_string())).await;
            }
            Op::RecordAttempts { event, number, count } => {
                self.record(store, u64::from(event), number, u32::from(count), turn)
                    .await;
            }
            Op::PutCommand { command } => self.put_command(store, command).await,
            Op::FinishCommand { command, result } => self.finish_command(store, command, result).await,
            Op::ClaimPartitions { count } => self.claim_partitions(store, count).await,
            Op::Restart | Op::Crash { .. } => unreachable!("the caller does these"),
        }
    }

    async fn claim_partitions(&mut self, store: &SharedStore, count: u16) {
        let before = store.own_partitions().await.unwrap();
        let (answer, repeated) = repeat!(store.claim_partitions(count));
        let claimed = answer.unwrap().unwrap();
        assert_eq!(claimed.len(), usize::from(count));
        // What was claimed for nobody, because its answer was lost, stays so.
        assert!(claimed.start == before || (repeated && claimed.start > before));
        self.claims.push((claimed, self.config.len()));
    }

    async fn append(&mut self, store: &SharedStore, mut new: Batch, other_bytes: bool) {
        if other_bytes {
            new.body = Bytes::from_static(b"other");
        }
        let key = (new.partition, new.writer, new.seq);
        let answer = repeat!(store.append(new.clone())).0;
        let stored = self.batches.entry(key).or_insert_with(|| new.clone());
        let same = *stored == new;
        assert!(
            matches!(answer, Ok(())) == same,
            "{answer:?} where {stored:?} stands, for {new:?}"
        );
    }

    async fn publish(&mut self, store: &SharedStore, writer: WriterId, beat: u64, heads: Heads) {
        repeat!(store.publish_heads(writer, beat, &heads)).0.unwrap();
        let row = self.writers.get_mut(&writer).unwrap();
        row.beat = beat;
        for (partition, seq) in heads {
            let head = row.heads.entry(partition).or_default();
            *head = seq.max(*head);
        }
    }

    async fn close(&mut self, store: &SharedStore, writer: WriterId, last: Seq) {
        let last = Heads::from([(P, last)]);
        repeat!(store.close_writer(writer, &last)).0.unwrap();
        self.writers.get_mut(&writer).unwrap().closed.get_or_insert(last);
    }

    fn live_codes(&self) -> usize {
        let live = |versions: &&Vec<Code>| {
            versions
                .last()
                .is_some_and(|code| code.status != CodeStatus::Deleted)
        };
        self.codes.values().filter(live).count()
    }

    async fn create_code(&mut self, store: &SharedStore, number: u8, short_id: u8, limit: bool) {
        let new = Code {
            id: code_id(number),
            ..code(TENANT, &short_id.to_string())
        };
        let change = Change {
            count_max: limit.then_some(u64::try_from(CODES_MAX).unwrap()),
            ..create(Resource::Code(Box::new(new.clone())))
        };
        let answer = repeat!(store.change(change.clone())).0;
        let same = self
            .codes
            .get(&new.id)
            .is_some_and(|versions| *versions == [new.clone()]);
        let taken = self.codes.contains_key(&new.id) || self.links.contains_key(&new.link.short_id);
        if same {
            assert!(matches!(answer, Ok(Changed::Done(_))), "{answer:?}");
        } else if taken {
            assert!(matches!(answer, Err(ChangeError::Exists)), "{answer:?}");
        } else if limit && self.live_codes() >= CODES_MAX {
            assert!(matches!(answer, Err(ChangeError::LimitReached(_))), "{answer:?}");
        } else {
            assert!(matches!(answer, Ok(Changed::Done(_))), "{answer:?}");
            self.config.push((ResourceId::Code(new.id), 1));
            self.links.insert(new.link.short_id.clone(), new.id);
            self.codes.insert(new.id, vec![new]);
        }
    }

    async fn change_code(&mut self, store: &SharedStore, number: u8, stale: bool, delete: bool, turn: u64) {
        let Some(versions) = self.codes.get_mut(&code_id(number)) else {
            return;
        };
        let mut new = versions.last().unwrap().clone();
        new.version += if stale { 2 } else { 1 };
        new.name = format!("turn {turn}");
        if delete {
            new.status = CodeStatus::Deleted;
        }
        let answer = repeat!(store.change(update(Resource::Code(Box::new(new.clone()))))).0;
        if stale {
            assert!(matches!(answer, Err(ChangeError::Conflict)), "{answer:?}");
        } else {
            assert!(matches!(answer, Ok(Changed::Done(_))), "{answer:?}");
            self.config.push((ResourceId::Code(new.id), new.version));
            versions.push(new);
        }
    }

    fn fence(&self, partition: PartitionId, stale: bool) -> Option<Fence> {
        let standing = self.leases.get(&partition).map(|lease| lease.fence);
        match standing {
            Some(fence) if stale => Some(Fence {
                beat: fence.beat + 1,
                ..fence
            }),
            None if stale => Some(Fence { epoch: 1, beat: 0 }),
            standing => standing,
        }
    }

    async fn claim(&mut self, store: &SharedStore, at: PartitionId, stale: bool, release: bool, turn: u64) {
        let standing = self.leases.get(&at).cloned();
        let epoch = standing.as_ref().map_or(0, |lease| lease.fence.epoch) + u64::from(!release);
        let owner = (!release).then(|| OwnerId::from_bytes([1; 10]));
        let new = lease(epoch, 1000 + turn, owner);
        let (answer, repeated) = repeat!(store.claim(at, self.fence(at, stale), &new));
        match answer.unwrap() {
            Cas::Applied => assert!(!stale),
            // The lost answer was that it was applied.
            Cas::Lost(Some(found)) if repeated && found == new => assert!(!stale),
            Cas::Lost(found) => {
                assert!(stale);
                assert_eq!(found, standing);
                return;
            }
        }
        self.leases.insert(at, new);
    }

    async fn save(
        &mut self,
        store: &SharedStore,
        at: PartitionId,
        stale: bool,
        row: u8,
        body: Option<u8>,
        turn: u64,
    ) {
        let Some(expected) = self.fence(at, stale) else {
            return;
        };
        let key = RowKey {
            kind: RowKind::Run,
            id: row.to_string(),
        };
        let body = body.map(|body| body.to_string());
        let rows = BTreeMap::from([(key.clone(), body.clone())]);
        let (answer, repeated) =
            repeat!(store.save(at, expected, 1000 + turn, &CheckpointDelta { rows: rows.clone() }));
        let standing = self.leases.get(&at).cloned();
        let saved = standing.clone().map(|lease| Lease {
            fence: Fence {
                beat: 1000 + turn,
                ..lease.fence
            },
            ..lease
        });
        match answer.unwrap() {
            Cas::Applied => assert!(!stale),
            Cas::Lost(found) if repeated && !stale => assert_eq!(found, saved),
            Cas::Lost(found) => {
                assert!(stale);
                assert_eq!(found, standing);
                return;
            }
        }
        self.leases.insert(at, saved.unwrap());
        let stored = self.rows.entry(at).or_default();
        match body {
            Some(body) => drop(stored.insert(key, body)),
            None => drop(stored.remove(&key)),
        }
    }

    async fn put_chunk(&mut self, store: &SharedStore, key: (PartitionId, String), other_bytes: bool) {
        let body = Bytes::from_static(if other_bytes { b"other" } else { b"chunk" });
        let answer = repeat!(store.put_chunk(key.0, &key.1, body.clone())).0;
        let stored = self.chunks.entry(key).or_insert_with(|| body.clone());
        assert_eq!(answer.is_ok(), *stored == body, "{answer:?}");
    }

    async fn delete_chunk(&mut self, store: &SharedStore, key: (PartitionId, String)) {
        let deleted = repeat!(store.delete_chunks(key.0, std::slice::from_ref(&key.1))).0;
        deleted.unwrap();
        self.chunks.remove(&key);
    }

    async fn record(&mut self, store: &SharedStore, of: u64, number: u32, count: u32, turn: u64) {
        let rows: Vec<_> = (number..number + count)
            .map(|number| AttemptRow {
                error: format!("turn {turn}"),
                ..attempt(ENDPOINT, at(0), event(of), number)
            })
            .collect();
        repeat!(store.record_attempts(rows.clone())).0.unwrap();
        self.attempts
            .extend(rows.into_iter().map(|row| ((row.event, row.number), row)));
    }

    async fn put_command(&mut self, store: &SharedStore, number: u8) {
        let id = CommandId::from_bytes([number; 10]);
        let new = self.commands.get(&id).cloned().unwrap_or_else(|| Command {
            id,
            ..command(at(number.into()))
        });
        let put = Command {
            result: None,
            ..new.clone()
        };
        assert!(repeat!(store.put_command(&put)).0.unwrap());
        self.commands.insert(id, new);
    }

    async fn finish_command(&mut self, store: &SharedStore, number: u8, result: u8) {
        let id = CommandId::from_bytes([number; 10]);
        let result = CommandResult::Refused {
            reason: result.to_string(),
        };
        repeat!(store.finish_command(P, id, &result)).0.unwrap();
        if let Some(command) = self.commands.get_mut(&id) {
            command.result.get_or_insert(result);
        }
    }

    /// The power fails while a batch is on its way: afterwards it is there whole, or not at all.
    pub(super) async fn crash<F: Fixture>(&mut self, fixture: F, in_flight: u8, turn: u64) -> F {
        let store = fixture.store();
        let flying = batch(Q, writer_id(in_flight), 1000 + turn);
        let mut append = store.append(flying.clone());
        let acknowledged = poll!(&mut append).is_ready();
        let after = fixture.crash().await;
        drop(append);
        let key = (flying.partition, flying.writer, flying.seq);
        let found = after.store().batch(key.0, key.1, key.2).await.unwrap();
        assert!(found.is_some() || !acknowledged, "an acknowledged batch was lost");
        if let Some(found) = found {
            assert_eq!(found, flying, "a torn batch");
            self.batches.insert(key, found);
        }
        after
    }

    /// Everything that should be there is, and nothing else.
    pub(super) async fn compare(&self, store: &SharedStore) {
        self.compare_log(store).await;
        self.compare_registry(store).await;
        self.compare_claims(store).await;
        for at in [P, Q] {
            let (lease, rows) = store.checkpoint(at).await.unwrap();
            assert_eq!(lease.as_ref(), self.leases.get(&at));
            assert_eq!(rows, self.rows.get(&at).cloned().unwrap_or_default());
            for name in (0_u8..3).map(|name| name.to_string()) {
                let chunk = store.chunk(at, &name).await.unwrap();
                assert_eq!(chunk.as_ref(), self.chunks.get(&(at, name)));
            }
        }
        for of in (0..3).map(event) {
            let stored = store.attempts(ENDPOINT, at(0), of).await.unwrap();
            let wanted: Vec<_> = self
                .attempts
                .values()
                .filter(|row| row.event == of)
                .cloned()
                .collect();
            assert_eq!(stored, wanted);
        }
        for id in (0..3).map(|number| CommandId::from_bytes([number; 10])) {
            assert_eq!(
                store.command(P, id).await.unwrap().as_ref(),
                self.commands.get(&id)
            );
        }
        let waiting = self
            .commands
            .values()
            .filter(|command| command.result.is_none())
            .count();
        assert_eq!(store.pending_commands(P, 100).await.unwrap().len(), waiting);
    }

    async fn compare_log(&self, store: &SharedStore) {
        let rows = store.writers().await.unwrap();
        assert_eq!(rows, self.writers.values().cloned().collect::<Vec<_>>());
        for at in [P, Q] {
            let mut stored = store.batches_before(at, None, 10_000).await.unwrap();
            stored.sort_by_key(|batch| (batch.writer, batch.seq));
            let wanted: Vec<_> = self
                .batches
                .values()
                .filter(|batch| batch.partition == at)
                .cloned()
                .collect();
            assert_eq!(stored, wanted);
        }
    }

    async fn compare_claims(&self, store: &SharedStore) {
        let mut end = store.install().partitions;
        for (claimed, log_end) in &self.claims {
            assert!(claimed.start >= end, "{claimed:?} was claimed twice");
            end = claimed.end;
            for number in claimed.clone() {
                let at = store.claimed_at(PartitionId::new(number)).await.unwrap();
                assert_eq!(usize::try_from(at.as_u64()), Ok(*log_end), "{number}");
            }
        }
        assert!(store.own_partitions().await.unwrap() >= end);
    }

    async fn compare_registry(&self, store: &SharedStore) {
        for number in 0..3 {
            let (id, versions) = (code_id(number), self.codes.get(&code_id(number)));
            let now = store.code(id).await.unwrap();
            assert_eq!(now.as_deref(), versions.and_then(|versions| versions.last()));
            for version in versions.into_iter().flatten() {
                let stored = store.code_version(id, version.version).await.unwrap();
                assert_eq!(stored.as_deref(), Some(version));
            }
            let link = code(TENANT, &number.to_string()).link;
            let owner = store.code_by_link(&link).await.unwrap().map(|code| code.id);
            assert_eq!(owner.as_ref(), self.links.get(&link.short_id));
        }
        let rows = store.config_after(ConfigSeq::ZERO, 10_000).await.unwrap();
        assert!(
            rows.iter()
                .zip(1..)
                .all(|(row, seq)| row.seq == ConfigSeq::new(seq))
        );
        let changes = rows.iter().flat_map(|row| &row.changes);
        let announced: Vec<_> = changes.map(|change| (change.resource, change.version)).collect();
        assert_eq!(announced, self.config);
    }
}
