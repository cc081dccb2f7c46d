//! A destination that carries its scan's event in a query parameter, for codes that ask for it.
//!
//! It is cut once, when the code is cached, before the fragment: per redirect only the id is put between. Nothing of the
//! owner's is replaced, reordered or escaped again.

use http::HeaderValue;
use qrelay_store::id::EventId;

/// A destination, cut where the id goes.
#[derive(Debug, Clone)]
pub(crate) struct Carrier {
    /// Up to the parameter's equals sign.
    head: Box<str>,
    /// The fragment, with its hash sign.
    tail: Box<str>,
}

impl Carrier {
    /// For this destination and this parameter; none when the code asks for none.
    pub(crate) fn new(destination: &str, param: &str) -> Option<Self> {
        if param.is_empty() {
            return None;
        }
        let (url, fragment) = destination.split_at(destination.find('#').unwrap_or(destination.len()));
        let separator = match url.split_once('?') {
            None => "?",
            Some((_, query)) if query.is_empty() || query.ends_with('&') => "",
            Some(_) => "&",
        };
        Some(Self {
            head: format!("{url}{separator}{param}=").into(),
            tail: fragment.into(),
        })
    }

    /// The destination with the id; none when that fits into no header, which no stored destination is.
    pub(crate) fn with(&self, event: EventId) -> Option<HeaderValue> {
        HeaderValue::from_bytes(format!("{}{event}{}", self.head, self.tail).as_bytes()).ok()
    }

    /// What it takes in the cache.
    pub(crate) fn bytes(&self) -> usize {
        self.head.len() + self.tail.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_goes_behind_the_query_and_before_the_fragment() {
        let event = EventId::from_bytes([7; 16]);
        for (destination, carried) in [
            ("https://a.example", "https://a.example?qr_eid=ID"),
            ("https://a.example/x", "https://a.example/x?qr_eid=ID"),
            ("https://a.example/x#top", "https://a.example/x?qr_eid=ID#top"),
            ("https://a.example/x?", "https://a.example/x?qr_eid=ID"),
            (
                "https://a.example/x?a=%20&b",
                "https://a.example/x?a=%20&b&qr_eid=ID",
            ),
            (
                "https://a.example/x?a=b&#f",
                "https://a.example/x?a=b&qr_eid=ID#f",
            ),
            (
                "https://a.example/?a=1#/app?b=2#c",
                "https://a.example/?a=1&qr_eid=ID#/app?b=2#c",
            ),
            ("https://a.example/#?", "https://a.example/?qr_eid=ID#?"),
            (
                "https://a.example/caf\u{e9}?x=\u{1F980}",
                "https://a.example/caf\u{e9}?x=\u{1F980}&qr_eid=ID",
            ),
        ] {
            let carrier = Carrier::new(destination, "qr_eid").unwrap();
            let carried = carried.replace("ID", &event.to_string());
            assert_eq!(carrier.with(event).unwrap().as_bytes(), carried.as_bytes());
        }
        assert!(Carrier::new("https://a.example/", "").is_none());
    }
}
