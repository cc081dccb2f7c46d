//! Where a code may lead: the rules for `destination_url`. Pure; it is stored as given, never rewritten.

use qrelay_store::limits;
use url::Url;

/// Judges a destination.
///
/// # Errors
/// What is wrong, to go on from the field's name.
pub(crate) fn check(text: &str) -> Result<Url, &'static str> {
    if text.is_empty() {
        return Err("is required");
    }
    if text.len() > limits::DESTINATION_BYTES_MAX {
        return Err("must have at most 8192 bytes");
    }
    // Browsers drop or turn around some of these while parsing, so that what is shown is not where it leads.
    if text
        .chars()
        .any(|c| c.is_control() || c.is_whitespace() || c == '\\' || is_invisible(c))
    {
        return Err("must not hold spaces, control or invisible characters, or backslashes");
    }
    let scheme = text
        .split_once("://")
        .map(|(scheme, rest)| (scheme.to_ascii_lowercase(), rest));
    match scheme {
        Some((scheme, rest)) if ["http", "https"].contains(&scheme.as_str()) && !rest.starts_with('/') => {}
        _ => return Err("must be an absolute http or https URL"),
    }
    match Url::parse(text) {
        Ok(url) if url.has_host() => Ok(url),
        _ => Err("must be an absolute http or https URL"),
    }
}

/// Marks that change the direction of text or have no width.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// Whether a destination is the short link itself, which would lead in a circle.
pub(crate) fn leads_to(destination: &Url, short_url: &str) -> bool {
    let Ok(short) = Url::parse(short_url) else {
        return false;
    };
    destination.host() == short.host()
        && destination.port_or_known_default() == short.port_or_known_default()
        && destination.path().eq_ignore_ascii_case(short.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_absolute_http_and_https_urls_are_taken() {
        for text in [
            "https://example.com/",
            "http://example.com",
            "HTTPS://EXAMPLE.com/a?b=c#d",
            "https://example.com:8443/%20x",
            "https://münchen.example/straße",
            "https://[2001:db8::1]/x",
        ] {
            assert!(check(text).is_ok(), "{text}: {:?}", check(text));
        }
        for text in [
            "",
            "example.com",
            "//example.com",
            "/path",
            "ftp://example.com/",
            "javascript:alert(1)",
            "javascript://example.com/%0aalert(1)",
            "data:text/html,x",
            "https:example.com",
            "https:///example.com",
            "https://",
            "https://exa mple.com",
            "https://example.com/\u{0}",
            "https://example.com/\r\nset-cookie: a=b",
            "https://example.com\\@evil.example",
            "https://example.com/\u{202e}gpj",
            " https://example.com",
            "https://example.com:99999/",
        ] {
            assert!(check(text).is_err(), "{text:?}");
        }
        let longest = format!("https://example.com/{}", "x".repeat(8192 - 20));
        assert!(check(&longest).is_ok());
        assert!(check(&format!("{longest}x")).is_err());
    }

    #[test]
    fn a_circle_is_noticed_whatever_its_spelling() {
        let leads = |text: &str| leads_to(&check(text).unwrap(), "https://qr.example/abc");
        assert!(leads("https://qr.example/abc"));
        assert!(leads("http://QR.example:443/ABC?x=1#y"));
        assert!(!leads("https://qr.example/other"));
        assert!(!leads("https://example.com/abc"));
    }
}
