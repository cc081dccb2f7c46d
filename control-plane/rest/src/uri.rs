//! Percent-decoding of a path's segments and of a query (RFC 3986, and `+` for a space in queries as in forms).
//!
//! A path is split before it is decoded, so that `%2F` stays inside its segment. Anything that is not
//! well-formed percent-encoding of UTF-8 is refused rather than passed on as it looks.

use crate::error::RequestError;

/// The decoded segments of an absolute path, without the leading slash; `None` for `*` and the like.
pub(crate) fn segments(path: &str) -> Result<Option<Vec<String>>, RequestError> {
    let Some(path) = path.strip_prefix('/') else {
        return Ok(None);
    };
    let decoded: Result<Vec<_>, _> = path
        .split('/')
        .map(|raw| decode(raw, Plus::Literal).ok_or(RequestError::MalformedUri("path")))
        .collect();
    decoded.map(Some)
}

/// The decoded names and values of a query, in order. Empty pieces (`a=1&&b=2`) are skipped.
pub(crate) fn query_pairs(query: &str) -> Result<Vec<(String, String)>, RequestError> {
    query
        .split('&')
        .filter(|piece| !piece.is_empty())
        .map(|piece| {
            let (name, value) = piece.split_once('=').unwrap_or((piece, ""));
            match (decode(name, Plus::Space), decode(value, Plus::Space)) {
                (Some(name), Some(value)) => Ok((name, value)),
                _ => Err(RequestError::MalformedUri("query")),
            }
        })
        .collect()
}

#[derive(Clone, Copy, PartialEq)]
enum Plus {
    Literal,
    Space,
}

fn decode(raw: &str, plus: Plus) -> Option<String> {
    let mut bytes = Vec::with_capacity(raw.len());
    let mut rest = raw.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => hex(rest.next()?)? << 4 | hex(rest.next()?)?,
            b'+' if plus == Plus::Space => b' ',
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(raw: &str) -> Vec<String> {
        segments(raw).expect("well-formed").expect("absolute")
    }

    #[test]
    fn an_encoded_slash_stays_inside_its_segment() {
        assert_eq!(path("/v1/codes/a%2Fb"), ["v1", "codes", "a/b"]);
        assert_eq!(path("/v1/%E2%82%AC+x"), ["v1", "€+x"]);
        assert_eq!(path("/"), [""]);
    }

    #[test]
    fn malformed_percent_encoding_and_broken_utf8_are_refused() {
        for raw in ["/%", "/%4", "/%zz", "/%ff", "/a%c3%28", "/%+1"] {
            assert_eq!(segments(raw), Err(RequestError::MalformedUri("path")), "{raw}");
        }
        for raw in ["a=%", "%zz=1", "a=%c3"] {
            assert_eq!(
                query_pairs(raw),
                Err(RequestError::MalformedUri("query")),
                "{raw}"
            );
        }
    }

    #[test]
    fn query_pairs_keep_order_repeats_and_empty_values() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            query_pairs("a=1&&b=x+y%2B&a=2&c").expect("well-formed"),
            [pair("a", "1"), pair("b", "x y+"), pair("a", "2"), pair("c", "")]
        );
        assert_eq!(segments("*"), Ok(None));
    }
}
