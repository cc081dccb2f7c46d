//! The pages a person sees when a scan leads nowhere: small, readable on a phone, without anything to load.
//!
//! It leaves to others which page it is. Invariant: nothing a stranger sent is printed on them, so there is
//! nothing to escape; the test that says so must fail if that changes.

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use http_body_util::Full;
use hyper::Response;

/// What the edge's answers are made of.
pub(crate) type Body = Full<Bytes>;

/// Nothing may be loaded, framed, sent or run; the style stands in the page itself.
const CONTENT_SECURITY_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

macro_rules! page {
    ($title:literal, $text:literal) => {
        concat!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n",
            "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n",
            "<meta name=\"robots\" content=\"noindex\">\n<title>",
            $title,
            "</title>\n<style>\n",
            ":root{color-scheme:light dark}\n",
            "body{font:18px/1.5 system-ui,sans-serif;margin:0;min-height:100vh;display:grid;place-items:center}\n",
            "main{padding:1.5rem;max-width:28rem}\nh1{font-size:1.5rem;line-height:1.25;margin:0 0 .5rem}\np{margin:0}\n",
            "</style>\n</head>\n<body>\n<main>\n<h1>",
            $title,
            "</h1>\n<p>",
            $text,
            "</p>\n</main>\n</body>\n</html>\n"
        )
    };
}

const NOT_FOUND: &str = page!(
    "This code leads nowhere",
    "The link does not exist, or it is switched off for now. Please check that it was typed or scanned completely."
);
const GONE: &str = page!(
    "This code is no longer in use",
    "The link that it held has been taken down for good."
);
const UNAVAILABLE: &str = page!(
    "Just a moment",
    "The link could not be opened right now. Please try again in a few seconds."
);
const METHOD_NOT_ALLOWED: &str = page!("This is a link", "It can only be opened, by GET or HEAD.");
const BAD_REQUEST: &str = page!(
    "That did not work",
    "The request was not understood. Please scan the code again."
);
const ROOT: &str = page!(
    "Nothing to see here",
    "This address opens links that are printed as QR codes."
);

/// An answer other than a redirect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Page {
    /// 404: unknown, paused, or the tenant is suspended.
    NotFound,
    /// 404 on `/`, which is no code.
    Root,
    /// 410: deleted or blocked.
    Gone,
    /// 503: the scan could not be made durable, or the code not be looked up.
    Unavailable,
    /// 405: neither GET nor HEAD.
    MethodNotAllowed,
    /// 400: not HTTP as the specification has it.
    BadRequest,
    /// 414: no code's path is so long.
    UriTooLong,
    /// 200: `robots.txt`, which keeps crawlers from scanning.
    Robots,
    /// 404 without a page: `favicon.ico`.
    NoIcon,
}

impl Page {
    /// The status code.
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Page::NotFound | Page::Root | Page::NoIcon => StatusCode::NOT_FOUND,
            Page::Gone => StatusCode::GONE,
            Page::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Page::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Page::BadRequest => StatusCode::BAD_REQUEST,
            Page::UriTooLong => StatusCode::URI_TOO_LONG,
            Page::Robots => StatusCode::OK,
        }
    }

    fn content(self) -> (&'static str, HeaderValue) {
        let html = HeaderValue::from_static("text/html; charset=utf-8");
        let text = HeaderValue::from_static("text/plain; charset=utf-8");
        match self {
            Page::NotFound => (NOT_FOUND, html),
            Page::Root => (ROOT, html),
            Page::Gone => (GONE, html),
            Page::Unavailable => (UNAVAILABLE, html),
            Page::MethodNotAllowed => (METHOD_NOT_ALLOWED, html),
            Page::BadRequest | Page::UriTooLong => (BAD_REQUEST, html),
            Page::Robots => ("User-agent: *\nDisallow: /\n", text),
            Page::NoIcon => ("", text),
        }
    }

    /// How long others may keep it. A code that is paused or missing may be there a second later, so only what
    /// is no code's may be kept.
    fn cache_control(self) -> HeaderValue {
        match self {
            Page::Robots | Page::NoIcon => HeaderValue::from_static("public, max-age=86400"),
            _ => HeaderValue::from_static("no-store"),
        }
    }

    /// The answer. hyper leaves the body out of the answer to a HEAD, and keeps its length.
    pub(crate) fn response(self) -> Response<Body> {
        let (text, content_type) = self.content();
        let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, content_type);
        headers.insert(header::CACHE_CONTROL, self.cache_control());
        headers.insert(header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY);
        headers.insert(
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        );
        headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        match self {
            Page::Unavailable => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            Page::MethodNotAllowed => {
                headers.insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            }
            Page::BadRequest | Page::UriTooLong => {
                headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Page::NotFound | Page::Root | Page::Gone | Page::Robots | Page::NoIcon => {}
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGES: [Page; 7] = [
        Page::NotFound,
        Page::Root,
        Page::Gone,
        Page::Unavailable,
        Page::MethodNotAllowed,
        Page::BadRequest,
        Page::UriTooLong,
    ];

    #[test]
    fn pages_are_small_readable_on_a_phone_and_load_nothing() {
        for page in PAGES {
            let (text, _) = page.content();
            assert!(text.len() < 2_048, "{page:?}");
            assert!(text.contains("name=\"viewport\""));
            for loader in ["src=", "href=", "url(", "@import", "<script"] {
                assert!(!text.contains(loader), "{page:?} has {loader}");
            }
            let response = page.response();
            assert!(
                response.headers()[header::CONTENT_SECURITY_POLICY]
                    .to_str()
                    .unwrap()
                    .contains("default-src 'none'")
            );
            assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
        }
    }

    #[test]
    fn answers_say_what_the_client_may_do_next() {
        assert_eq!(Page::Unavailable.response().headers()[header::RETRY_AFTER], "1");
        assert_eq!(
            Page::MethodNotAllowed.response().headers()[header::ALLOW],
            "GET, HEAD"
        );
        assert_eq!(Page::BadRequest.response().headers()[header::CONNECTION], "close");
    }
}
