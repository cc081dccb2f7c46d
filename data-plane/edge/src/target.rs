//! What a request asks for: the host it came to and the short id in its path.
//!
//! Our own reading of remote bytes, after hyper has parsed the head; whether such a code exists is for others.
//! Invariants: a host and a short id that come out of here are of bounded length and of the alphabets that
//! codes have; two spellings of one short id differ in case only.

use std::borrow::Cow;

use http::{HeaderMap, Uri, Version, header};

/// The longest host with port, bytes: 253 of a DNS name (RFC 1035), a colon and five digits.
const HOST_BYTES_MAX: usize = 259;

/// The longest short id, bytes.
pub(crate) const SHORT_ID_BYTES_MAX: usize = 64;

/// What a path stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PathTarget<'a> {
    /// `/`.
    Root,
    /// `/favicon.ico`, asked for by browsers on their own.
    Favicon,
    /// `/robots.txt`, asked for by crawlers first.
    Robots,
    /// A short id that a code could have, as it was sent.
    ShortId(Cow<'a, str>),
    /// Nothing that a code could have.
    Other,
}

/// Reads the path of a request: one segment, a trailing slash allowed. A percent-encoded byte counts as the
/// byte itself if a short id may hold it (some apps encode what need not be), and makes the path nobody's if not.
pub(crate) fn path_target(path: &str) -> PathTarget<'_> {
    let Some(segment) = path.strip_prefix('/') else {
        return PathTarget::Other;
    };
    match segment {
        "" => return PathTarget::Root,
        "favicon.ico" => return PathTarget::Favicon,
        "robots.txt" => return PathTarget::Robots,
        _ => {}
    }
    let segment = segment.strip_suffix('/').unwrap_or(segment);
    if segment.is_empty() || segment.len() > SHORT_ID_BYTES_MAX * 3 {
        return PathTarget::Other;
    }
    let short_id = if segment.contains('%') {
        match decoded(segment) {
            Some(text) => Cow::Owned(text),
            None => return PathTarget::Other,
        }
    } else {
        Cow::Borrowed(segment)
    };
    if short_id.len() <= SHORT_ID_BYTES_MAX && short_id.bytes().all(is_short_id_byte) {
        PathTarget::ShortId(short_id)
    } else {
        PathTarget::Other
    }
}

fn is_short_id_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}

/// Decodes a segment whose every escape stands for a byte of the short ids' alphabet.
fn decoded(segment: &str) -> Option<String> {
    let mut text = String::with_capacity(segment.len());
    let mut bytes = segment.bytes();
    while let Some(byte) = bytes.next() {
        let byte = match byte {
            b'%' => hex_digit(bytes.next()?)? << 4 | hex_digit(bytes.next()?)?,
            plain => plain,
        };
        if !is_short_id_byte(byte) {
            return None;
        }
        text.push(char::from(byte));
    }
    Some(text)
}

fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

/// Why a request names no host. Each is answered with 400 and a closed connection (RFC 9112 §3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HostError {
    /// HTTP/1.1 without a Host header.
    #[error("no Host header")]
    Missing,
    /// More than one Host header.
    #[error("more than one Host header")]
    Duplicate,
    /// A Host header that cannot be a host.
    #[error("malformed Host header")]
    Malformed,
}

/// The host that a request was sent to, in lower case, with its port if one was given: from the request line in
/// its absolute form, else from the Host header. `None` for HTTP/1.0 without one.
///
/// # Errors
/// When the headers break RFC 9112's rules for Host.
pub(crate) fn host<'a>(
    version: Version,
    uri: &'a Uri,
    headers: &'a HeaderMap,
) -> Result<Option<Cow<'a, str>>, HostError> {
    let mut values = headers.get_all(header::HOST).iter();
    let from_header = match (values.next(), values.next()) {
        (Some(_), Some(_)) => return Err(HostError::Duplicate),
        (Some(value), None) => Some(value.to_str().map_err(|_| HostError::Malformed)?),
        (None, _) if version >= Version::HTTP_11 => return Err(HostError::Missing),
        (None, _) => None,
    };
    let from_line = uri.authority().map(http::uri::Authority::as_str);
    // The Host header is checked even where the request line has the last word.
    let from_header = from_header.map(checked_host).transpose()?;
    match from_line {
        Some(authority) => checked_host(authority).map(Some),
        None => Ok(from_header),
    }
}

fn checked_host(text: &str) -> Result<Cow<'_, str>, HostError> {
    let allowed =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':' | b'[' | b']');
    if text.is_empty() || text.len() > HOST_BYTES_MAX || !text.bytes().all(allowed) {
        return Err(HostError::Malformed);
    }
    if !is_plain(text) {
        let authority = text.parse::<http::uri::Authority>();
        if !authority.is_ok_and(|authority| !authority.host().is_empty()) {
            return Err(HostError::Malformed);
        }
    }
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Ok(Cow::Owned(text.to_ascii_lowercase()));
    }
    Ok(Cow::Borrowed(text))
}

/// A name and perhaps a port, as nearly all are: what is well formed at a glance needs no parser.
fn is_plain(text: &str) -> bool {
    let (name, port) = text.split_once(':').unwrap_or((text, "80"));
    let in_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
    let is_port = (1..=5).contains(&port.len()) && port.bytes().all(|byte| byte.is_ascii_digit());
    !name.is_empty() && name.bytes().all(in_name) && is_port
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn paths_lead_to_short_ids_or_nowhere() {
        let id = |text: &str| PathTarget::ShortId(Cow::Owned(text.to_owned()));
        let longest = "a".repeat(64);
        let cases = [
            ("/", PathTarget::Root),
            ("/favicon.ico", PathTarget::Favicon),
            ("/robots.txt", PathTarget::Robots),
            ("/aBc12dEf", id("aBc12dEf")),
            ("/aBc12dEf/", id("aBc12dEf")),
            ("/a-b_C", id("a-b_C")),
            ("/%61bc", id("abc")),
            ("/%2Dx%5f", id("-x_")),
            (&format!("/{longest}"), id(&longest)),
            (&format!("/{longest}a"), PathTarget::Other),
            ("/abc//", PathTarget::Other),
            ("//abc", PathTarget::Other),
            ("//", PathTarget::Other),
            ("/a/b", PathTarget::Other),
            ("/a%2Fb", PathTarget::Other),
            ("/a%00", PathTarget::Other),
            ("/a%2", PathTarget::Other),
            ("/a%zz", PathTarget::Other),
            ("/%", PathTarget::Other),
            ("/a.b", PathTarget::Other),
            ("/../etc/passwd", PathTarget::Other),
            ("/caf\u{e9}", PathTarget::Other),
            ("/caf%C3%A9", PathTarget::Other),
            ("*", PathTarget::Other),
            ("", PathTarget::Other),
        ];
        for (path, expected) in cases {
            assert_eq!(path_target(path), expected, "{path}");
        }
    }

    fn host_of(version: Version, uri: &str, hosts: &[&[u8]]) -> Result<Option<String>, HostError> {
        let mut headers = HeaderMap::new();
        for value in hosts {
            headers.append(header::HOST, HeaderValue::from_bytes(value).unwrap());
        }
        let uri: Uri = uri.parse().unwrap();
        host(version, &uri, &headers).map(|host| host.map(Cow::into_owned))
    }

    #[test]
    fn hosts_follow_the_specification() {
        let some = |text: &str| Ok(Some(text.to_owned()));
        assert_eq!(
            host_of(Version::HTTP_11, "/x", &[b"Example.COM:8080"]),
            some("example.com:8080")
        );
        assert_eq!(host_of(Version::HTTP_11, "/x", &[b"[::1]:80"]), some("[::1]:80"));
        assert_eq!(
            host_of(Version::HTTP_11, "http://b.example/x", &[b"a.example"]),
            some("b.example")
        );
        assert_eq!(host_of(Version::HTTP_10, "/x", &[]), Ok(None));
        assert_eq!(host_of(Version::HTTP_11, "/x", &[]), Err(HostError::Missing));
        assert_eq!(
            host_of(Version::HTTP_11, "/x", &[b"a", b"a"]),
            Err(HostError::Duplicate)
        );
        assert_eq!(
            host_of(Version::HTTP_10, "/x", &[b"a", b"b"]),
            Err(HostError::Duplicate)
        );
        for bad in [
            &b""[..],
            b"a b",
            b"a/b",
            b"user@a",
            b"a\xff",
            b"a,b",
            b"[::1",
            b":80",
            b"a:b:c",
        ] {
            assert_eq!(
                host_of(Version::HTTP_11, "/x", &[bad]),
                Err(HostError::Malformed),
                "{bad:?}"
            );
        }
        assert_eq!(
            host_of(Version::HTTP_11, "http://ok.example/", &[b"a b"]),
            Err(HostError::Malformed)
        );
    }

    proptest::proptest! {
        #[test]
        fn what_looks_plain_is_well_formed(text in "[a-zA-Z0-9.:\\[\\]_-]{1,12}") {
            let parsed = text.parse::<http::uri::Authority>();
            let well_formed = parsed.is_ok_and(|authority| !authority.host().is_empty());
            proptest::prop_assert!(well_formed || !is_plain(&text));
        }

        #[test]
        fn whatever_comes_out_is_in_the_alphabet(path in "/[ -~]{0,80}") {
            if let PathTarget::ShortId(id) = path_target(&path) {
                proptest::prop_assert!(!id.is_empty() && id.len() <= SHORT_ID_BYTES_MAX);
                proptest::prop_assert!(id.bytes().all(is_short_id_byte));
            }
        }
    }
}
