//! What is kept of a scan: the record, with everything left out that privacy forbids.
//!
//! It neither answers nor appends. Invariants: the client's address is never in a record, at most its
//! network, and only if the tenant says so; a referer has neither query nor fragment; a request with `Sec-GPC: 1`
//! keeps country and device type only; every text is cut at its limit.

use std::borrow::Cow;
use std::net::IpAddr;

use http::request::Parts;
use http::{HeaderName, header};
use qrelay_store::Timestamp;
use qrelay_store::id::TenantId;
use qrelay_store::limits::{ACCEPT_LANGUAGE_BYTES_MAX, QUERY_BYTES_MAX, REFERER_BYTES_MAX};
use qrelay_store::model::IpPrivacy;
use qrelay_store::record::ScanRecord;

use crate::classify::{self, UserAgentFacts, Verdict, cut};
use crate::client_address::truncate;
use crate::codes::CachedCode;
use crate::geo::Place;

/// Global Privacy Control (<https://w3c.github.io/gpc/>).
const SEC_GPC: HeaderName = HeaderName::from_static("sec-gpc");

/// All that a record is made from.
pub(crate) struct Scan<'a> {
    pub(crate) tenant: TenantId,
    pub(crate) code: &'a CachedCode,
    pub(crate) at: Timestamp,
    pub(crate) head: &'a Parts,
    pub(crate) host: Option<&'a str>,
    /// Used for the network, if that is kept; never kept itself.
    pub(crate) client: IpAddr,
    pub(crate) ip_privacy: IpPrivacy,
    pub(crate) facts: &'a UserAgentFacts,
    pub(crate) verdict: Verdict,
    pub(crate) place: Option<&'a Place>,
}

impl<'a> Scan<'a> {
    /// The record.
    pub(crate) fn record(&self) -> ScanRecord<'a> {
        let bare = self.bare_record();
        if asks_for_privacy(self.head) {
            return bare;
        }
        let borrowed = |text: Option<&'a std::sync::Arc<str>>| text.map(|text| Cow::Borrowed(&**text));
        let families = &self.facts.families;
        ScanRecord {
            device_family: borrowed(families.device.as_ref()),
            os_family: borrowed(families.os.as_ref()),
            browser_family: borrowed(families.browser.as_ref()),
            region: borrowed(self.place.and_then(|place| place.region.as_ref())),
            city: borrowed(self.place.and_then(|place| place.city.as_ref())),
            referer: text_of(self.head, header::REFERER).map(|text| without_details(text, REFERER_BYTES_MAX)),
            user_agent: borrowed(self.facts.text.as_ref()),
            host: self.host.map(Cow::Borrowed),
            query: self
                .head
                .uri
                .query()
                .map(|query| cut(query, QUERY_BYTES_MAX))
                .filter(|q| !q.is_empty())
                .map(Cow::Borrowed),
            accept_language: text_of(self.head, header::ACCEPT_LANGUAGE)
                .map(|text| cut_text(text, ACCEPT_LANGUAGE_BYTES_MAX)),
            network: self.network().map(Cow::Owned),
            ..bare
        }
    }

    /// What is kept of everybody.
    fn bare_record(&self) -> ScanRecord<'a> {
        ScanRecord {
            tenant: self.tenant,
            code: self.code.id,
            code_version: self.code.version,
            at: self.at,
            classification: self.verdict.classification,
            classification_reason: Cow::Borrowed(self.verdict.reason),
            device_type: self
                .facts
                .device_type
                .map(|device| Cow::Borrowed(device.as_str())),
            country: self
                .place
                .and_then(|place| place.country.as_ref())
                .map(|country| Cow::Borrowed(&**country)),
            device_family: None,
            os_family: None,
            browser_family: None,
            region: None,
            city: None,
            referer: None,
            user_agent: None,
            host: None,
            query: None,
            accept_language: None,
            network: None,
        }
    }

    fn network(&self) -> Option<String> {
        match (self.ip_privacy, truncate(self.client)) {
            (IpPrivacy::Drop, _) => None,
            (IpPrivacy::Truncate, network @ IpAddr::V4(_)) => Some(format!("{network}/24")),
            (IpPrivacy::Truncate, network @ IpAddr::V6(_)) => Some(format!("{network}/48")),
        }
    }
}

fn asks_for_privacy(head: &Parts) -> bool {
    head.headers
        .get_all(SEC_GPC)
        .iter()
        .any(|value| value.as_bytes().trim_ascii() == b"1")
}

fn text_of(head: &Parts, name: HeaderName) -> Option<Cow<'_, str>> {
    let text = match classify::text_of(head.headers.get(name)?) {
        Cow::Borrowed(text) => Cow::Borrowed(text.trim_ascii()),
        Cow::Owned(text) => Cow::Owned(text.trim_ascii().to_owned()),
    };
    (!text.is_empty()).then_some(text)
}

fn cut_text(text: Cow<'_, str>, bytes_max: usize) -> Cow<'_, str> {
    match text {
        Cow::Borrowed(text) => Cow::Borrowed(cut(text, bytes_max)),
        Cow::Owned(text) => Cow::Owned(cut(&text, bytes_max).to_owned()),
    }
}

/// A referer without query, fragment and credentials.
fn without_details(text: Cow<'_, str>, bytes_max: usize) -> Cow<'_, str> {
    let end = text.find(['?', '#']).unwrap_or(text.len());
    let text = match text {
        Cow::Borrowed(text) => Cow::Borrowed(&text[..end]),
        Cow::Owned(text) => Cow::Owned(text[..end].to_owned()),
    };
    let Some((scheme, rest)) = text.split_once("://") else {
        return cut_text(text, bytes_max);
    };
    let authority = rest.split('/').next().unwrap_or_default();
    match authority.rfind('@') {
        Some(at) => Cow::Owned(cut(&format!("{scheme}://{}", &rest[at + 1..]), bytes_max).to_owned()),
        None => cut_text(text, bytes_max),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_referer_keeps_neither_query_nor_fragment_nor_credentials() {
        for (given, kept) in [
            ("https://example.com/a?token=secret#x", "https://example.com/a"),
            ("https://example.com/#token", "https://example.com/"),
            ("https://user:secret@example.com/a", "https://example.com/a"),
            ("https://a@b@example.com", "https://example.com"),
            ("https://example.com/@handle", "https://example.com/@handle"),
            ("android-app://com.example/", "android-app://com.example/"),
            ("?only=query", ""),
        ] {
            assert_eq!(without_details(Cow::Borrowed(given), 1024), kept);
            assert_eq!(without_details(Cow::Owned(given.to_owned()), 1024), kept);
        }
    }

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!(
            without_details(Cow::Borrowed("https://e.example/\u{e9}\u{e9}"), 20),
            "https://e.example/\u{e9}"
        );
        assert_eq!(
            cut_text(Cow::Owned("\u{1F980}\u{1F980}".to_owned()), 7),
            "\u{1F980}"
        );
    }
}
