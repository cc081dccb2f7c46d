//! One change of one row: claimed, written with what is to be announced, and finished.
//!
//! An attempt looks at the row, claims what the change needs, and writes the row if it is as it was. Only that write makes
//! the change: all before it can be taken back or over, all after it is done by whoever comes first ([`super::finish`]).
//! An attempt that did not win says so in all that it claimed, and another one looks anew.

use super::{
    Configuration,
    claims::{Prior, RequestName, Standing},
    counts::{Count, HeldChange, Outcome},
    listing::{self, Entry},
    pause,
    row::{Beside, NewRow, Open, Row, document, id_text, nonce},
    secrets::{brought, rename},
    sweep::Name,
};
use crate::{
    clock::Timestamp,
    id::ConfigSeq,
    limits,
    model::{Resource, ResourceId},
    store::{Change, ChangeError, Changed, ConfigChange, Expected, Result, StoreError},
};

/// A change, and what follows from it alone.
struct Wanted<'a> {
    change: &'a Change,
    id: ResourceId,
    tenant: String,
    created_at: Timestamp,
    version: u64,
    live: bool,
    document: String,
    request: Option<RequestName>,
}

impl<'a> Wanted<'a> {
    fn of(change: &'a Change) -> Result<Self> {
        let (document, created_at) = match &change.resource {
            Resource::Tenant(row) => (document(row)?, row.created_at),
            Resource::ApiKey(row) => (document(row)?, row.created_at),
            Resource::Code(row) => (document(row)?, row.created_at),
            Resource::Endpoint(row) => (document(row)?, row.created_at),
        };
        Ok(Self {
            change,
            id: change.resource.id(),
            tenant: change.resource.tenant().to_string(),
            created_at,
            version: change.resource.version(),
            live: listing::is_live(&change.resource),
            document,
            request: change
                .request
                .as_ref()
                .map(|request| RequestName::new(request, change.at)),
        })
    }

    /// Why the change cannot be made of what stands there, if so.
    fn refusal(&self, stored: Option<&Row>) -> Result<Option<ChangeError>> {
        let next = match (self.change.expected, stored) {
            (Expected::Absent, Some(_)) => return Ok(Some(ChangeError::Exists)),
            (Expected::Version(version), Some(stored)) if stored.version == version => version + 1,
            (Expected::Version(_), _) => return Ok(Some(ChangeError::Conflict)),
            (Expected::Absent, None) => 1,
        };
        if self.version == next {
            return Ok(None);
        }
        let reason = format!("a change to version {} where {next} is the next", self.version);
        Err(StoreError::Corrupt(reason))
    }

    /// Whether the row stands there as this change would have made it: its caller never heard.
    fn is_made(&self, stored: Option<&Row>) -> bool {
        let Some(stored) = stored else { return false };
        stored.version == self.version
            && stored.document == self.document
            && brought(&self.change.secrets)
                .is_none_or(|secret| stored.beside.secrets.iter().any(|name| name.id == secret.id))
    }
}

/// What an attempt found, and made of it.
struct Attempt<'a> {
    wanted: &'a Wanted<'a>,
    name: Name,
    found: Option<Row>,
    new: NewRow,
    link: Option<Prior>,
    request: Option<Prior>,
}

impl Configuration {
    /// See [`crate::store::Registry::change`].
    pub(in super::super) async fn change(&self, change: &Change) -> Result<Changed, ChangeError> {
        let wanted = Wanted::of(change)?;
        let _turn = self.rows_turn.take(&id_text(wanted.id)).await;
        for round in 0..limits::CQL_CHANGE_ROUNDS {
            pause(round).await;
            match self.try_change(&wanted).await {
                Ok(Some(changed)) => return Ok(changed),
                Ok(None) => {}
                Err(error @ ChangeError::Store(_)) => return Err(error),
                Err(refusal) => return self.unless_replayed(&wanted, refusal).await,
            }
        }
        let reason = format!("others change {} all the time", id_text(wanted.id));
        Err(StoreError::Unavailable(reason).into())
    }

    /// A refusal, unless the same request was carried out after this attempt had looked for it: what refused this attempt
    /// may be what that one made.
    async fn unless_replayed(
        &self,
        wanted: &Wanted<'_>,
        refusal: ChangeError,
    ) -> Result<Changed, ChangeError> {
        let Some(name) = &wanted.request else {
            return Err(refusal);
        };
        match self.request_standing(name, wanted.change.at).await? {
            Standing::Done(id) => Ok(Changed::Replayed(id)),
            Standing::Free(_) => Err(refusal),
        }
    }

    /// One attempt. None: somebody was faster somewhere, look again.
    async fn try_change(&self, wanted: &Wanted<'_>) -> Result<Option<Changed>, ChangeError> {
        let request = match &wanted.request {
            None => None,
            Some(name) => match self.request_standing(name, wanted.change.at).await? {
                Standing::Done(id) => return Ok(Some(Changed::Replayed(id))),
                Standing::Free(prior) => Some(prior),
            },
        };
        let (found, noted) = tokio::try_join!(self.settled(wanted.id), self.rows.noted(&self.steps))?;
        self.announcer.raise(noted);
        let stored = found.as_ref().filter(|row| row.version > 0);
        if let Some(refusal) = wanted.refusal(stored)? {
            if wanted.is_made(stored) {
                return Ok(Some(Changed::Done(self.config_head().await?)));
            }
            return Err(refusal);
        }
        let link = self.link_wanted(wanted, stored).await?;
        let (new, counted) = self.new_row(wanted, stored)?;
        let name = Name::of_change(wanted.change, &new.attempt, counted);
        let attempt = Attempt {
            wanted,
            name,
            found,
            new,
            link,
            request,
        };
        self.put_name(&attempt.name).await?;
        match self.make(&attempt).await {
            Ok(Some(seq)) => {
                self.drop_name(&attempt.name).await?;
                Ok(Some(Changed::Done(seq)))
            }
            Ok(None) => {
                self.abandon(&attempt).await?;
                Ok(None)
            }
            Err(ChangeError::Store(error)) => Err(error.into()),
            Err(refusal) => {
                self.abandon(&attempt).await?;
                Err(refusal)
            }
        }
    }

    /// What stands in the place of the short link that a change brings, if it brings one.
    async fn link_wanted(
        &self,
        wanted: &Wanted<'_>,
        stored: Option<&Row>,
    ) -> Result<Option<Prior>, ChangeError> {
        let Resource::Code(code) = &wanted.change.resource else {
            return Ok(None);
        };
        if let Some(stored) = stored
            && let Resource::Code(before) = listing::parse_resource(wanted.id.kind(), &stored.document)?
            && before.link == code.link
        {
            return Ok(None);
        }
        self.link_standing(code, stored.is_none()).await.map(Some)
    }

    /// The row to write, and whether the number of live rows changes with it.
    fn new_row(&self, wanted: &Wanted<'_>, stored: Option<&Row>) -> Result<(NewRow, bool)> {
        let attempt = nonce();
        let change = wanted.change;
        let before = stored
            .map(|row| listing::parse_resource(wanted.id.kind(), &row.document))
            .transpose()?;
        let was = before.as_ref().map(listing::entries).unwrap_or_default();
        let is = listing::entries(&change.resource);
        let beside = stored.map(|row| row.beside.clone()).unwrap_or_default();
        let renamed = match wanted.id {
            ResourceId::Endpoint(_) => rename(&beside, &change.secrets, &attempt),
            _ => rename(&Beside::default(), &crate::store::SecretChange::Keep, &attempt),
        };
        let counted = wanted.live != stored.is_some_and(|row| row.live);
        let only = |of: &std::collections::BTreeSet<Entry>, not: &std::collections::BTreeSet<Entry>| {
            of.difference(not).cloned().collect()
        };
        let open = Open {
            change: ConfigChange {
                resource: wanted.id,
                tenant: change.resource.tenant(),
                version: wanted.version,
                at: change.at,
                actor: change.actor.clone(),
                event: change.event,
                health: None,
            },
            after: self.announcer.head(),
            put: only(&is, &was),
            drop: only(&was, &is),
            counted,
            request: wanted.request.clone(),
            forget: renamed.forget,
        };
        let new = NewRow {
            tenant: wanted.tenant.clone(),
            created_at: wanted.created_at,
            live: wanted.live,
            version: wanted.version,
            document: wanted.document.clone(),
            beside: renamed.beside,
            attempt,
            open: Some(open),
        };
        Ok((new, counted))
    }

    /// Claims what a change needs, writes its row, and finishes it. None: somebody was faster.
    async fn make(&self, attempt: &Attempt<'_>) -> Result<Option<ConfigSeq>, ChangeError> {
        let (wanted, new) = (attempt.wanted, &attempt.new);
        let change = wanted.change;
        if let Some(count) = attempt.name.count() {
            let held = HeldChange {
                makes: wanted.live,
                resource: wanted.id,
                version: wanted.version,
            };
            if !self.hold(&count, &new.attempt, held, change.count_max).await? {
                return Ok(None);
            }
        }
        if let (Some(prior), Resource::Code(code)) = (&attempt.link, &change.resource)
            && !self.claim_link(code, &new.attempt, prior).await?
        {
            return Ok(None);
        }
        if let (Some(prior), Some(name)) = (&attempt.request, &wanted.request) {
            let of = (wanted.id, wanted.version);
            if !self.claim_request(name, of, &new.attempt, prior).await? {
                return Ok(None);
            }
        }
        if let (Some(secret), ResourceId::Endpoint(_)) = (brought(&change.secrets), wanted.id) {
            self.put_secret(change.resource.tenant(), secret, &new.attempt)
                .await?;
        }
        let made = self.write_row(wanted.id, attempt.found.as_ref(), new).await?;
        Ok(made)
    }

    /// Writes a row in place of what was found, and finishes that. None when something else was written there instead.
    pub(super) async fn write_row(
        &self,
        id: ResourceId,
        found: Option<&Row>,
        new: &NewRow,
    ) -> Result<Option<ConfigSeq>> {
        let row = if self.tables.write(&self.steps, id, found, new).await? {
            Row {
                rev: found.map_or(0, |row| row.rev) + 1,
                version: new.version,
                live: new.live,
                document: new.document.clone(),
                beside: new.beside.clone(),
                attempt: new.attempt.clone(),
                open: new.open.clone(),
            }
        } else {
            match self.tables.read(&self.steps, id).await? {
                Some(row) if row.attempt == new.attempt => row,
                Some(row) => return self.overtaken(found, &row, new).await,
                None => return Ok(None),
            }
        };
        match (&row.open, &new.open) {
            (Some(open), _) => self.finish(id, &row, open).await.map(Some),
            // It was applied before its answer was lost, and somebody else finished it.
            (None, Some(open)) => {
                let by = &new.attempt;
                let place = self.announcer.announce(&self.steps, &self.rows, open, by).await?;
                Ok(Some(place.0))
            }
            (None, None) => Ok(Some(ConfigSeq::ZERO)),
        }
    }

    /// Where the change of an attempt stands in the configuration log, when its row is another attempt's by now: its
    /// answer may have been lost, and others have finished it and gone on. None: it was never made, and never can be.
    async fn overtaken(&self, found: Option<&Row>, now: &Row, new: &NewRow) -> Result<Option<ConfigSeq>> {
        let Some(open) = &new.open else {
            return Ok(None);
        };
        // Its own write, what closed it, and another's: after fewer writes it was none of them.
        if now.rev < found.map_or(0, |row| row.rev) + 3 {
            return Ok(None);
        }
        // A change is noted before its row can move on.
        let through = self.rows.noted(&self.steps).await?;
        let place = self
            .rows
            .find(&self.steps, open.after, through, |which| which.by == new.attempt)
            .await?;
        Ok(place.map(|(seq, _)| seq))
    }

    /// Takes back what an attempt holds that will not be made any more.
    async fn abandon(&self, attempt: &Attempt<'_>) -> Result<()> {
        let (id, by) = (attempt.wanted.id, &attempt.new.attempt);
        // It may have been written after all, and somebody else finished it: then nothing of it is held any more.
        let row = self.settled(id).await?;
        if let Some(count) = attempt.name.count() {
            self.settle(&count, by, Outcome::Lost, false).await?;
        }
        self.forget_unnamed(&attempt.name, row.as_ref()).await?;
        self.drop_name(&attempt.name).await
    }
}

impl Name {
    /// The count that the change is held in.
    pub(super) fn count(&self) -> Option<Count> {
        self.counted
            .then(|| Count::of(self.resource.kind(), &self.tenant.to_string()))
    }
}
