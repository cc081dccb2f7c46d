//! Conversions by the ids that tenants gave them, so that a repeated report records nothing twice.
//!
//! The log and these rows cannot be written as one. A row is claimed first, with all that will be recorded; the
//! record is appended; then the row is finished with where it stands. A row that is not finished says which writer
//! was to append it: once that writer is closed its log is final, and tells whether it did. Where nobody's lock proves a writer
//! dead, others close it once it is silent ([`crate::reader::fence_and_close`]). So a crash at any point
//! neither doubles nor loses what was reported, if it is reported again.

use async_trait::async_trait;

use super::Result;
use crate::{
    id::{EventAddress, PartitionId, TenantId, WriterId},
    record::ConversionRecord,
};

/// A conversion that was reported.
#[derive(Clone, PartialEq, Debug)]
pub struct ConversionRow {
    /// What is recorded. Its tenant and external id name the row; its time is that of the latest try.
    pub record: ConversionRecord<'static>,
    /// SHA-256 of the report's canonical encoding.
    pub body_hash: [u8; 32],
    /// Where it is recorded.
    pub partition: PartitionId,
    /// Who appends it, or did.
    pub writer: WriterId,
    /// Where it stands in the log, once it is known to.
    pub event: Option<EventAddress>,
}

/// Conversions by tenant and external id. Rows leave with age, as events do.
#[async_trait]
pub trait Conversions: Send + Sync {
    /// Puts down a row, unless one is there: that one comes back, and nothing is changed.
    async fn claim_conversion(&self, row: &ConversionRow) -> Result<Option<ConversionRow>>;

    /// Gives an unfinished row a new writer and time. False, and nothing is changed, when the row is finished or gone,
    /// or its writer is neither `from` nor the new one.
    async fn take_conversion(&self, row: &ConversionRow, from: WriterId) -> Result<bool>;

    /// Notes where a row's record stands. The first address stays.
    async fn finish_conversion(&self, tenant: TenantId, external_id: &str, event: EventAddress)
    -> Result<()>;
}
