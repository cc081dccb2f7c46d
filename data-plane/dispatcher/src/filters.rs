//! The parts of filters that ask for more than the record holds: tags, campaigns and expressions.
//!
//! The ledger matches events by what stands in their records. What needs the code's version or the whole event is judged
//! here, by whoever reads a batch (the reader for the shared run, an own run's read for its endpoint) and before the
//! owner sees it, which only looks at the [`Verdicts`]. So that nothing is lost and nobody is held up:
//! - what the store cannot tell now stops the reading there, until it can;
//! - what it will never tell (a version that is gone) passes: such a delivery is given up with that reason;
//! - an event of no code is not asked for tags and campaigns;
//! - an expression that has no value for an event does not hold, and is counted;
//! - expressions are compiled once per version of their endpoint, evaluated on threads that may block, and their work per
//!   read is bounded ([`Budget`]): endpoints beyond it are left undecided, and go on in runs of their own.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use futures::{StreamExt, TryStreamExt, stream};
use moka::future::Cache;
use qrelay_store::{
    event::Event,
    expression::{self, CompileError, Expression, Subject},
    id::{EndpointId, TenantId},
    limits::{FILTER_CACHE_BYTES, FILTER_CODE_READS, FILTER_WORK_PER_READ_MAX, FILTER_WORK_PER_TENANT_MAX},
    model::{Code, Endpoint},
    payload,
    store::StoreError,
};

use crate::{
    bodies::{Bodies, NoBody},
    ledger::feed::{SeenBatch, Verdicts},
    metrics,
};

/// What reading and rendering an event costs, in the unit of [`Budget`].
const EVENT_WORK: usize = 50;
/// What a regular expression costs.
const PATTERN_WORK: usize = 1000;
/// A compiled expression takes about so many times its text.
const COMPILED_FACTOR: usize = 32;
/// What an entry takes, however short.
const ENTRY_BYTES: usize = 512;

/// Why a batch could not be judged now: try again.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum Unjudged {
    /// A code's version cannot be read.
    #[error("a code's version cannot be read from the store")]
    Store(#[source] Arc<StoreError>),
    /// No thread was to be had.
    #[error("no thread to judge filters on")]
    Busy,
}

/// How much work the expressions of one read may be. A unit is about a byte of an expression's text, evaluated once:
/// 0.5 µs for the worst found. Counted and not timed, so that the same read always does the same.
#[derive(Debug)]
pub(crate) struct Budget {
    left: usize,
    per_tenant: usize,
    spent: HashMap<TenantId, usize>,
}

impl Budget {
    /// For one read of the shared run.
    pub(crate) fn of_read() -> Self {
        Self::new(FILTER_WORK_PER_READ_MAX, FILTER_WORK_PER_TENANT_MAX)
    }

    /// Without a bound: whoever reads for one endpoint stops after the batch that used up its turn.
    pub(crate) fn of_own_run() -> Self {
        Self::new(usize::MAX, usize::MAX)
    }

    fn new(all: usize, per_tenant: usize) -> Self {
        Self {
            left: all,
            per_tenant,
            spent: HashMap::new(),
        }
    }

    /// Whether an own run's read has had its turn.
    pub(crate) fn is_turn_over(&self) -> bool {
        self.spent.values().sum::<usize>() >= FILTER_WORK_PER_TENANT_MAX
    }

    fn spend(&mut self, tenant: TenantId, work: usize) -> bool {
        let spent = self.spent.entry(tenant).or_default();
        if work > self.left || spent.saturating_add(work) > self.per_tenant {
            return false;
        }
        self.left -= work;
        *spent += work;
        true
    }
}

/// Endpoints whose filters are judged here, as a reader knows them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asking {
    by_tenant: HashMap<TenantId, Vec<Arc<Endpoint>>>,
}

impl Asking {
    /// Takes an endpoint in as it is now; an older version changes nothing.
    pub(crate) fn learn(&mut self, endpoint: &Arc<Endpoint>) {
        let known = self.by_tenant.entry(endpoint.tenant).or_default();
        if known
            .iter()
            .any(|known| known.id == endpoint.id && known.version > endpoint.version)
        {
            return;
        }
        known.retain(|known| known.id != endpoint.id);
        if endpoint.filter.needs_code() && !endpoint.deleted {
            known.push(Arc::clone(endpoint));
        }
        if known.is_empty() {
            self.by_tenant.remove(&endpoint.tenant);
        }
    }

    fn of(&self, tenant: TenantId) -> &[Arc<Endpoint>] {
        self.by_tenant.get(&tenant).map_or(&[], Vec::as_slice)
    }
}

/// One endpoint's filter, ready to judge.
#[derive(Debug)]
struct Matcher {
    endpoint: Arc<Endpoint>,
    expression: Option<Result<Expression, CompileError>>,
}

impl Matcher {
    fn work(&self) -> usize {
        let text = &self.endpoint.filter.expression;
        EVENT_WORK + text.len() + PATTERN_WORK * text.matches("matches").count()
    }

    /// Whether the expression holds. None does not when it has no value.
    fn holds(&self, subject: &Subject) -> bool {
        let Some(expression) = &self.expression else {
            return true;
        };
        let held = match expression {
            Ok(expression) => expression.matches(subject).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        held.unwrap_or_else(|reason| {
            metrics::filter_failed();
            tracing::debug!(endpoint = %self.endpoint.id, %reason, "a filter's expression has no value for an event");
            false
        })
    }
}

/// An event that some filters ask about.
struct Asked {
    index: u16,
    by: Vec<Arc<Matcher>>,
}

/// What is asked about: an event, and the code that it is about as it stood then, if it is about one.
type Known = (Event, Option<Arc<Code>>);

/// An event, and those whose expressions are asked about it.
type Evaluation = (u16, Known, Vec<Arc<Matcher>>);

/// Judges.
#[derive(Clone)]
pub(crate) struct Filters {
    bodies: Bodies,
    matchers: Cache<(EndpointId, u64), Arc<Matcher>>,
}

impl Filters {
    pub(crate) fn new(bodies: Bodies) -> Self {
        let matchers = Cache::builder()
            .max_capacity(FILTER_CACHE_BYTES)
            .weigher(|_, matcher: &Arc<Matcher>| {
                let text = matcher.endpoint.filter.expression.len();
                u32::try_from(ENTRY_BYTES + COMPILED_FACTOR * text).unwrap_or(u32::MAX)
            })
            .build();
        Self { bodies, matchers }
    }

    /// Judges a batch, which stands in the log, for all that ask. Its verdicts replace what was there.
    pub(crate) async fn judge(
        &self,
        batch: &mut SeenBatch,
        asking: &Asking,
        budget: &mut Budget,
    ) -> Result<(), Unjudged> {
        batch.verdicts = Verdicts::default();
        let asked = self.asked(batch, asking).await?;
        if asked.is_empty() {
            return Ok(());
        }
        let (mut refused, mut undecided) = (Vec::new(), BTreeSet::new());
        let mut evaluations: Vec<Evaluation> = Vec::new();
        for (Asked { index, by }, known) in self.load(batch, asked).await? {
            let Some((event, code)) = known else {
                continue;
            };
            let mut to_evaluate = Vec::new();
            for matcher in by {
                let endpoint = &matcher.endpoint;
                if code
                    .as_ref()
                    .is_some_and(|code| !endpoint.filter.passes_code(code))
                {
                    refused.push((index, endpoint.id));
                } else if matcher.expression.is_some() && !undecided.contains(&endpoint.id) {
                    if budget.spend(endpoint.tenant, matcher.work()) {
                        to_evaluate.push(matcher);
                    } else {
                        undecided.insert(endpoint.id);
                    }
                }
            }
            if !to_evaluate.is_empty() {
                evaluations.push((index, (event, code), to_evaluate));
            }
        }
        if !evaluations.is_empty() {
            let evaluated = tokio::task::spawn_blocking(move || evaluate(&evaluations)).await;
            refused.extend(evaluated.map_err(|_| Unjudged::Busy)?);
        }
        batch.verdicts.refused = refused.into_iter().collect();
        batch.verdicts.undecided = undecided;
        Ok(())
    }

    /// The events that somebody asks about who would get them otherwise.
    async fn asked(&self, batch: &SeenBatch, asking: &Asking) -> Result<Vec<Asked>, Unjudged> {
        let mut matchers: HashMap<EndpointId, Arc<Matcher>> = HashMap::new();
        let mut asked = Vec::new();
        for event in &batch.events {
            let mut by = Vec::new();
            for endpoint in asking
                .of(event.tenant)
                .iter()
                .filter(|endpoint| event.is_for(endpoint))
            {
                let matcher = match matchers.get(&endpoint.id) {
                    Some(known) => Arc::clone(known),
                    None => self.matcher(endpoint).await?,
                };
                matchers.insert(endpoint.id, Arc::clone(&matcher));
                by.push(matcher);
            }
            if !by.is_empty() {
                asked.push(Asked {
                    index: event.index,
                    by,
                });
            }
        }
        Ok(asked)
    }

    async fn matcher(&self, endpoint: &Arc<Endpoint>) -> Result<Arc<Matcher>, Unjudged> {
        let key = (endpoint.id, endpoint.version);
        if let Some(known) = self.matchers.get(&key).await {
            return Ok(known);
        }
        let text = endpoint.filter.expression.clone();
        let expression = if text.is_empty() {
            None
        } else {
            let compiled = tokio::task::spawn_blocking(move || expression::compile_for_template(&text)).await;
            match compiled.map_err(|_| Unjudged::Busy)? {
                Err(CompileError::Busy) => return Err(Unjudged::Busy),
                Err(error) => {
                    // It was judged when it was written: an older release took it.
                    tracing::error!(endpoint = %endpoint.id, %error, "a filter's expression cannot be used any more; nothing passes it");
                    Some(Err(error))
                }
                compiled => Some(compiled),
            }
        };
        let matcher = Arc::new(Matcher {
            endpoint: Arc::clone(endpoint),
            expression,
        });
        self.matchers.insert(key, Arc::clone(&matcher)).await;
        Ok(matcher)
    }

    /// Reads what is asked about: the code as the event has it, and the event itself where an expression asks.
    async fn load(
        &self,
        batch: &SeenBatch,
        asked: Vec<Asked>,
    ) -> Result<Vec<(Asked, Option<Known>)>, Unjudged> {
        let (stream_of, seq) = (batch.stream, batch.seq);
        let reads = asked.into_iter().map(|asked| async move {
            let address = stream_of.address(seq, asked.index);
            match self.bodies.event(address).await {
                Ok(known) => Ok((asked, Some(known))),
                Err(NoBody::Store(error)) if !matches!(*error, StoreError::Corrupt(_)) => {
                    Err(Unjudged::Store(error))
                }
                // It passes: there is no body, and its delivery says why.
                Err(NoBody::Never(_) | NoBody::Store(_)) => Ok((asked, None)),
            }
        });
        stream::iter(reads)
            .buffered(FILTER_CODE_READS)
            .try_collect()
            .await
    }
}

fn evaluate(evaluations: &[Evaluation]) -> Vec<(u16, EndpointId)> {
    let mut refused = Vec::new();
    for (index, (event, code), by) in evaluations {
        let subject = payload::subject(event, code.as_deref());
        let without = by.iter().filter(|matcher| !matcher.holds(&subject));
        refused.extend(without.map(|matcher| (*index, matcher.endpoint.id)));
    }
    refused
}
