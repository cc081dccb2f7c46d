//! Who scanned: a person, or which kind of machine, and why we think so; and the device, as far as its user
//! agent tells.
//!
//! It decides nothing about the redirect: every scan is recorded, whatever it is called here. Invariants: the
//! part that depends on the user agent alone is worked out once per text and cached, in bounded memory; a text
//! is parsed on a blocking thread, a few at a time; when more than [`PARSE_QUEUE_MAX`] new texts wait, further
//! ones go without names rather than make people wait.

mod device;
mod families;
mod rules;

use std::borrow::Cow;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, Method};
use moka::future::Cache;
use tokio::sync::Semaphore;
use tokio::task;

use qrelay_store::limits::USER_AGENT_BYTES_MAX;
use qrelay_store::record::Classification;

pub(crate) use self::device::DeviceType;
pub(crate) use self::families::Families;
use crate::measures::Measures;

/// New user agents parsed at the same time: parsing is pure computation.
const PARSERS_MAX: usize = 2;

/// New user agents that may wait for a parser. At about 0.2 ms each the last one waits under 0.1 s.
const PARSE_QUEUE_MAX: usize = 512;

/// Bytes counted for an entry besides its texts: keys, counters, pointers.
const ENTRY_OVERHEAD_BYTES: usize = 256;

/// What the user agent's text alone tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UserAgentFacts {
    /// The text, cut; `None` when there was none.
    pub(crate) text: Option<Arc<str>>,
    /// What kind of machine it is, and why; `None` when nothing speaks against a person.
    pub(crate) machine: Option<(Classification, &'static str)>,
    /// The kind of device; `bot` for machines.
    pub(crate) device_type: Option<DeviceType>,
    /// Names of device, operating system and browser.
    pub(crate) families: Families,
}

/// The kind of a scan and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// The kind.
    pub(crate) classification: Classification,
    /// Why, in a few words.
    pub(crate) reason: &'static str,
}

/// Classifies user agents, with a cache. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Classifier {
    cache: Cache<Arc<str>, Arc<UserAgentFacts>>,
    parsers: Arc<Semaphore>,
    queue: Arc<Semaphore>,
    nobody: Arc<UserAgentFacts>,
    measures: Arc<Measures>,
}

/// A new user agent could not be parsed now; the scan goes without names.
#[derive(Debug, Clone, Copy)]
struct Unparsed;

impl Classifier {
    /// A classifier whose cache holds at most `cache_bytes_max` bytes.
    pub(crate) fn new(cache_bytes_max: u64, measures: Arc<Measures>) -> Self {
        let cache = Cache::builder()
            .name("user_agents")
            .max_capacity(cache_bytes_max)
            .weigher(|text: &Arc<str>, facts: &Arc<UserAgentFacts>| weight(text, facts))
            .build();
        Self {
            cache,
            parsers: Arc::new(Semaphore::new(PARSERS_MAX)),
            queue: Arc::new(Semaphore::new(PARSE_QUEUE_MAX)),
            nobody: Arc::new(UserAgentFacts {
                text: None,
                machine: Some((Classification::Tool, "tool: no user agent")),
                device_type: Some(DeviceType::Bot),
                families: Families::default(),
            }),
            measures,
        }
    }

    /// Compiles the expressions, so that the first scan need not wait. Blocks for about a second.
    pub(crate) fn warm_up() {
        families::extractor();
    }

    /// What the user agent among the headers tells.
    pub(crate) async fn facts(&self, headers: &HeaderMap) -> Arc<UserAgentFacts> {
        let Some(value) = headers.get(http::header::USER_AGENT) else {
            return self.nobody.clone();
        };
        let text = text_of(value);
        let text = cut(text.trim(), USER_AGENT_BYTES_MAX);
        if text.is_empty() {
            return self.nobody.clone();
        }
        if let Some(facts) = self.cache.get(text).await {
            self.measures.user_agent_hits.increment(1);
            return facts;
        }
        self.measures.user_agent_misses.increment(1);
        self.facts_of_new(text).await
    }

    async fn facts_of_new(&self, text: &str) -> Arc<UserAgentFacts> {
        let key: Arc<str> = Arc::from(text);
        match self
            .cache
            .try_get_with(key.clone(), self.parse(key.clone()))
            .await
        {
            Ok(facts) => facts,
            Err(_unparsed) => {
                self.measures.user_agents_unparsed.increment(1);
                Arc::new(facts_of(key, Families::default()))
            }
        }
    }

    async fn parse(&self, text: Arc<str>) -> Result<Arc<UserAgentFacts>, Unparsed> {
        let _place = self.queue.try_acquire().map_err(|_full| Unparsed)?;
        let _parser = self.parsers.acquire().await.map_err(|_closed| Unparsed)?;
        task::spawn_blocking(move || {
            let families = families::parse(&text);
            Arc::new(facts_of(text, families))
        })
        .await
        .map_err(|error| {
            tracing::warn!(%error, "a user agent could not be parsed");
            Unparsed
        })
    }
}

fn facts_of(text: Arc<str>, families: Families) -> UserAgentFacts {
    let lower = text.to_ascii_lowercase();
    let mut machine = rules::verdict(&lower);
    // uap-core's "Spider" is also said of some people's browsers, but none of those starts otherwise.
    if machine.is_none() && families.device.as_deref() == Some("Spider") && !lower.starts_with("mozilla/") {
        machine = Some((Classification::Crawler, "crawler: known to uap-core"));
    }
    let device_type = match machine {
        Some(_) => Some(DeviceType::Bot),
        None => device::device_type(&lower),
    };
    UserAgentFacts {
        text: Some(text),
        machine,
        device_type,
        families,
    }
}

/// Joins what the request says with what its user agent says. The request comes first: a HEAD and a prefetch
/// are no visit, whoever sends them.
pub(crate) fn classify(method: &Method, headers: &HeaderMap, facts: &UserAgentFacts) -> Verdict {
    if *method == Method::HEAD {
        return Verdict {
            classification: Classification::Head,
            reason: "head: the request's method",
        };
    }
    if let Some(reason) = prefetch_reason(headers) {
        return Verdict {
            classification: Classification::Prefetch,
            reason,
        };
    }
    match facts.machine {
        Some((classification, reason)) => Verdict {
            classification,
            reason,
        },
        None => Verdict {
            classification: Classification::Human,
            reason: "human: no sign of a machine",
        },
    }
}

/// The headers by which browsers mark what they load before anybody asked for it.
fn prefetch_reason(headers: &HeaderMap) -> Option<&'static str> {
    // Names that were read once: a text would be read at each look.
    static MARKS: [(HeaderName, &str); 4] = [
        (HeaderName::from_static("sec-purpose"), "prefetch: Sec-Purpose"),
        (HeaderName::from_static("purpose"), "prefetch: Purpose"),
        (HeaderName::from_static("x-purpose"), "prefetch: X-Purpose"),
        (HeaderName::from_static("x-moz"), "prefetch: X-Moz"),
    ];
    MARKS
        .iter()
        .find(|(name, _)| headers.get_all(name).iter().any(is_speculative))
        .map(|(_, reason)| *reason)
}

fn is_speculative(value: &http::HeaderValue) -> bool {
    value
        .as_bytes()
        .split(|byte| matches!(byte, b';' | b','))
        .any(|token| {
            let token = token.trim_ascii();
            ["prefetch", "prerender", "preview"]
                .iter()
                .any(|word| token.eq_ignore_ascii_case(word.as_bytes()))
        })
}

/// A header's value, with what is no text replaced.
pub(crate) fn text_of(value: &http::HeaderValue) -> Cow<'_, str> {
    // Nearly all are text, and finding out so is cheaper than looking for what is not.
    match std::str::from_utf8(value.as_bytes()) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => String::from_utf8_lossy(value.as_bytes()),
    }
}

/// At most `bytes_max` bytes of a text, cut between characters.
pub(crate) fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

fn weight(text: &Arc<str>, facts: &Arc<UserAgentFacts>) -> u32 {
    let Families { device, os, browser } = &facts.families;
    let names: usize = [device, os, browser]
        .into_iter()
        .flatten()
        .map(|name| name.len() + 16)
        .sum();
    u32::try_from(text.len() + names + ENTRY_OVERHEAD_BYTES).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
