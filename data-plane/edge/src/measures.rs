//! What the edge counts: one name per thing, each with a help text.
//!
//! Handles are registered once, so that counting costs one atomic addition. The recorder must be installed
//! before [`Measures::register`]; without one, counting does nothing.

use ::metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge,
    histogram,
};
use qrelay_store::record::Classification;

use crate::pages::Page;

/// Why a scan of a known (or perhaps known) code was not answered with a redirect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The store could not be asked for the code, which was not cached.
    LookupFailed,
    /// Too many look-ups were under way.
    LookupsFull,
    /// The log took no record: it is failing, full or closing.
    LogRefused,
    /// The record was taken, but was not durable in time.
    NotDurable,
}

impl Refusal {
    const ALL: [Self; 4] = [
        Self::LookupFailed,
        Self::LookupsFull,
        Self::LogRefused,
        Self::NotDurable,
    ];

    const fn as_str(self) -> &'static str {
        match self {
            Self::LookupFailed => "lookup_failed",
            Self::LookupsFull => "lookups_full",
            Self::LogRefused => "log_refused",
            Self::NotDurable => "not_durable",
        }
    }
}

/// The handles.
#[derive(Clone)]
pub(crate) struct Measures {
    pub(crate) served: Counter,
    pages: [Counter; 6],
    recorded: [Counter; Classification::ALL.len()],
    refused: [Counter; Refusal::ALL.len()],
    pub(crate) unrecorded: Counter,
    pub(crate) append_seconds: Histogram,
    pub(crate) code_hits: Counter,
    pub(crate) code_negative_hits: Counter,
    pub(crate) code_misses: Counter,
    pub(crate) config_changes: Counter,
    pub(crate) user_agent_hits: Counter,
    pub(crate) user_agent_misses: Counter,
    pub(crate) user_agents_unparsed: Counter,
    pub(crate) connections: Gauge,
    pub(crate) connections_refused: Counter,
    pub(crate) connections_evicted: Counter,
    pub(crate) connections_timed_out: Counter,
}

impl std::fmt::Debug for Measures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Measures")
    }
}

impl Measures {
    /// Registers every metric of the edge with the process's recorder.
    pub(crate) fn register() -> Self {
        describe();
        Self {
            served: counter!("qrelay_edge_redirects_total"),
            pages: [
                "not_found",
                "gone",
                "unavailable",
                "method_not_allowed",
                "bad_request",
                "other",
            ]
            .map(|page| counter!("qrelay_edge_pages_total", "page" => page)),
            recorded: Classification::ALL.map(
                |class| counter!("qrelay_edge_scans_recorded_total", "classification" => class.as_str()),
            ),
            refused: Refusal::ALL
                .map(|why| counter!("qrelay_edge_scans_refused_total", "reason" => why.as_str())),
            unrecorded: counter!("qrelay_edge_scans_unrecorded_total"),
            append_seconds: histogram!("qrelay_edge_append_seconds"),
            code_hits: counter!("qrelay_edge_code_cache_hits_total", "entry" => "code"),
            code_negative_hits: counter!("qrelay_edge_code_cache_hits_total", "entry" => "no_code"),
            code_misses: counter!("qrelay_edge_code_cache_misses_total"),
            config_changes: counter!("qrelay_edge_config_changes_total"),
            user_agent_hits: counter!("qrelay_edge_user_agent_cache_hits_total"),
            user_agent_misses: counter!("qrelay_edge_user_agent_cache_misses_total"),
            user_agents_unparsed: counter!("qrelay_edge_user_agents_unparsed_total"),
            connections: gauge!("qrelay_edge_connections"),
            connections_refused: counter!("qrelay_edge_connections_closed_total", "reason" => "no_place"),
            connections_evicted: counter!("qrelay_edge_connections_closed_total", "reason" => "evicted"),
            connections_timed_out: counter!("qrelay_edge_connections_closed_total", "reason" => "timeout"),
        }
    }

    pub(crate) fn page(&self, page: Page) {
        let index = match page {
            Page::NotFound => 0,
            Page::Gone => 1,
            Page::Unavailable => 2,
            Page::MethodNotAllowed => 3,
            Page::BadRequest | Page::UriTooLong => 4,
            Page::Root | Page::Robots | Page::NoIcon => 5,
        };
        self.pages[index].increment(1);
    }

    pub(crate) fn recorded(&self, classification: Classification) {
        let index = Classification::ALL
            .iter()
            .position(|class| *class == classification);
        self.recorded[index.expect("invariant: ALL holds all")].increment(1);
    }

    pub(crate) fn refused(&self, why: Refusal) {
        let index = Refusal::ALL.iter().position(|refusal| *refusal == why);
        self.refused[index.expect("invariant: ALL holds all")].increment(1);
    }
}

fn describe() {
    describe_counter!("qrelay_edge_redirects_total", "Scans answered with a redirect.");
    describe_counter!(
        "qrelay_edge_pages_total",
        "Requests answered with a page instead of a redirect, by page."
    );
    describe_counter!(
        "qrelay_edge_scans_recorded_total",
        "Scans taken into the log, by classification."
    );
    describe_counter!(
        "qrelay_edge_scans_refused_total",
        "Scans answered 503, by reason."
    );
    describe_counter!(
        "qrelay_edge_scans_unrecorded_total",
        "Scans redirected without a record, because nothing took it, and their tenants want them answered all the same. Alert on any."
    );
    describe_histogram!(
        "qrelay_edge_append_seconds",
        Unit::Seconds,
        "From a record's append to its being durable."
    );
    describe_counter!(
        "qrelay_edge_code_cache_hits_total",
        "Codes found in the cache, or known there not to exist."
    );
    describe_counter!(
        "qrelay_edge_code_cache_misses_total",
        "Codes that had to be asked of the store."
    );
    describe_counter!(
        "qrelay_edge_config_changes_total",
        "Changes of codes and tenants applied to the cache."
    );
    describe_counter!(
        "qrelay_edge_user_agent_cache_hits_total",
        "User agents found in the cache."
    );
    describe_counter!(
        "qrelay_edge_user_agent_cache_misses_total",
        "User agents that had to be parsed."
    );
    describe_counter!(
        "qrelay_edge_user_agents_unparsed_total",
        "Scans recorded without names of device, system and browser, because too many new user agents came at once."
    );
    describe_gauge!("qrelay_edge_connections", "Open client connections.");
    describe_counter!(
        "qrelay_edge_connections_closed_total",
        "Client connections closed by the edge, by reason."
    );
}
