//! Device, operating system and browser by name, from uap-core's regular expressions.
//!
//! Compiling them takes a second and parsing one text up to milliseconds: callers are on a blocking thread.
//! It leaves caching to the module above. Invariant: what uap-core calls "Other" is unknown, and is `None`.

use std::sync::{Arc, OnceLock};

use ua_parser::{Extractor, Regexes};

/// uap-core's `regexes.yaml`, vendored unmodified.
const REGEXES_YAML: &str = include_str!("../../uap-core/regexes.yaml");

/// The names in one user agent, as uap-core has them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Families {
    /// For example `iPhone`.
    pub(crate) device: Option<Arc<str>>,
    /// For example `iOS`.
    pub(crate) os: Option<Arc<str>>,
    /// For example `Mobile Safari`.
    pub(crate) browser: Option<Arc<str>>,
}

/// The compiled expressions: 26 MiB, once a process.
static EXTRACTOR: OnceLock<Extractor<'static>> = OnceLock::new();

/// The extractor, compiled on the first call. Blocks while it, or another thread, compiles.
pub(super) fn extractor() -> &'static Extractor<'static> {
    EXTRACTOR.get_or_init(|| {
        let regexes: Regexes<'static> = serde_yaml_ng::from_str(REGEXES_YAML)
            .expect("invariant: the vendored regexes.yaml is well-formed");
        Extractor::try_from(regexes).expect("invariant: the vendored expressions compile")
    })
}

/// Parses one user agent. Blocks for up to milliseconds, and for the compilation on the first call.
pub(super) fn parse(user_agent: &str) -> Families {
    let (browser, os, device) = extractor().extract(user_agent);
    Families {
        device: device.and_then(|d| known(&d.device)),
        os: os.and_then(|o| known(&o.os)),
        browser: browser.and_then(|b| known(&b.family)),
    }
}

fn known(name: &str) -> Option<Arc<str>> {
    let name = name.trim();
    (!name.is_empty() && name != "Other").then(|| Arc::from(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_uap_core() {
        let cases = [
            (
                "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) \
                 Version/18.5 Mobile/15E148 Safari/604.1",
                (Some("iPhone"), Some("iOS"), Some("Mobile Safari")),
            ),
            (
                "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:143.0) Gecko/20100101 Firefox/143.0",
                (None, Some("Windows"), Some("Firefox")),
            ),
            (
                "Mozilla/5.0 (Linux; Android 14; SM-S921B) AppleWebKit/537.36 (KHTML, like Gecko) \
                 Chrome/140.0.0.0 Mobile Safari/537.36",
                (Some("Samsung SM-S921B"), Some("Android"), Some("Chrome Mobile")),
            ),
            ("", (None, None, None)),
            ("\u{1F980}", (None, None, None)),
        ];
        for (user_agent, (device, os, browser)) in cases {
            let families = parse(user_agent);
            assert_eq!(families.device.as_deref(), device, "{user_agent}");
            assert_eq!(families.os.as_deref(), os, "{user_agent}");
            assert_eq!(families.browser.as_deref(), browser, "{user_agent}");
        }
    }
}
