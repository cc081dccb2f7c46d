//! An endpoint's signature settings: what a caller may write, and how they look on the wire.

use qrelay_proto::v1;
use qrelay_store::model::{Signature, SignatureScheme, refused_name};

use crate::refusal::Violations;

/// The paths of the field, for update masks.
pub(crate) const PATHS: [&str; 6] = [
    "signature",
    "signature.scheme",
    "signature.header",
    "signature.timestamp_header",
    "signature.event_header",
    "signature.delivery_header",
];

type NameOf = fn(&mut Signature) -> &mut Option<String>;

/// The settable header names: path, and where the name stands.
const HEADERS: [(&str, NameOf); 4] = [
    ("signature.header", |signature| &mut signature.header),
    ("signature.timestamp_header", |signature| {
        &mut signature.timestamp_header
    }),
    ("signature.event_header", |signature| &mut signature.event_header),
    ("signature.delivery_header", |signature| {
        &mut signature.delivery_header
    }),
];

/// Whether a change of this path sets the scheme.
pub(crate) fn sets_scheme(path: &str, given: Option<&v1::Signature>) -> bool {
    matches!(path, "signature" | "signature.scheme")
        && given.is_some_and(|given| given.scheme() != v1::SignatureScheme::Unspecified)
}

/// Sets what one of [`PATHS`] names; the rest stays. A scheme that is not given stays: a change of it costs the secret.
pub(crate) fn set(
    signature: &mut Signature,
    path: &str,
    given: Option<&v1::Signature>,
    violations: &mut Violations,
) {
    let none = v1::Signature::default();
    let given = given.unwrap_or(&none);
    if matches!(path, "signature" | "signature.scheme") {
        match scheme(given.scheme) {
            Ok(Some(scheme)) => {
                if signature.scheme != scheme {
                    signature.scheme = scheme;
                    drop_untaken(signature, given);
                }
            }
            Ok(None) => {}
            Err(()) => violations.add("signature.scheme", "is not known"),
        }
    }
    let names = [
        &given.header,
        &given.timestamp_header,
        &given.event_header,
        &given.delivery_header,
    ];
    for ((header, slot), name) in HEADERS.iter().zip(names) {
        if path == *header || path == "signature" {
            *slot(signature) = Some(name.clone()).filter(|name| !name.is_empty());
        }
    }
}

/// Names that go with the scheme before, and that the new one does not take, are not kept, unless they are given with it.
fn drop_untaken(signature: &mut Signature, given: &v1::Signature) {
    let takes_none = signature.scheme.is_standard();
    let drop = |slot: &mut Option<String>, given: &str| {
        if slot.as_deref() != Some(given) {
            *slot = None;
        }
    };
    if takes_none || signature.scheme == SignatureScheme::None {
        drop(&mut signature.header, &given.header);
    }
    if takes_none {
        drop(&mut signature.timestamp_header, &given.timestamp_header);
    }
}

/// Judges the settings as a whole: each name, and that no two headers of a delivery share one.
pub(crate) fn check(signature: &Signature, violations: &mut Violations) {
    let mut own = signature.clone();
    for (path, slot) in HEADERS {
        let Some(name) = slot(&mut own).clone() else {
            continue;
        };
        if let Some(why) = refused_name(&name) {
            violations.add(path, why);
        }
        let signing = matches!(path, "signature.header" | "signature.timestamp_header");
        if signing && signature.scheme.is_standard() {
            violations.add(path, "must be empty: the standard schemes fix it");
        } else if path == "signature.header" && signature.scheme == SignatureScheme::None {
            violations.add(path, "must be empty: the scheme none has no signature");
        }
        let same = |other: &&str| other.eq_ignore_ascii_case(&name);
        if signature.header_names().filter(same).count() > 1 {
            violations.add(path, "must not be another header's name");
        }
    }
}

fn scheme(given: i32) -> Result<Option<SignatureScheme>, ()> {
    Ok(match v1::SignatureScheme::try_from(given).map_err(|_| ())? {
        v1::SignatureScheme::Unspecified => None,
        v1::SignatureScheme::Standard => Some(SignatureScheme::Standard),
        v1::SignatureScheme::StandardEd25519 => Some(SignatureScheme::StandardEd25519),
        v1::SignatureScheme::Timestamped => Some(SignatureScheme::Timestamped),
        v1::SignatureScheme::Sha256Timestamp => Some(SignatureScheme::Sha256Timestamp),
        v1::SignatureScheme::HexBody => Some(SignatureScheme::HexBody),
        v1::SignatureScheme::None => Some(SignatureScheme::None),
    })
}

/// The settings on the wire: names that are the scheme's own are not repeated.
pub(crate) fn show(signature: &Signature) -> v1::Signature {
    let scheme = match signature.scheme {
        SignatureScheme::Standard => v1::SignatureScheme::Standard,
        SignatureScheme::StandardEd25519 => v1::SignatureScheme::StandardEd25519,
        SignatureScheme::Timestamped => v1::SignatureScheme::Timestamped,
        SignatureScheme::Sha256Timestamp => v1::SignatureScheme::Sha256Timestamp,
        SignatureScheme::HexBody => v1::SignatureScheme::HexBody,
        SignatureScheme::None => v1::SignatureScheme::None,
    };
    let name = |name: &Option<String>| name.clone().unwrap_or_default();
    v1::Signature {
        scheme: scheme.into(),
        header: name(&signature.header),
        timestamp_header: name(&signature.timestamp_header),
        event_header: name(&signature.event_header),
        delivery_header: name(&signature.delivery_header),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(signature: &Signature) -> String {
        let mut violations = Violations::default();
        check(signature, &mut violations);
        let found = violations.finish().err();
        found.map_or_else(String::new, |status| status.message().to_owned())
    }

    #[test]
    fn names_are_unique_allowed_and_fixed_for_the_standard_schemes() {
        let named = |scheme, header: &str, event: &str| Signature {
            scheme,
            header: Some(header.to_owned()).filter(|name| !name.is_empty()),
            event_header: Some(event.to_owned()).filter(|name| !name.is_empty()),
            ..Signature::default()
        };
        for (scheme, header, event, refused) in [
            (SignatureScheme::HexBody, "X-Sig", "X-Event", ""),
            (SignatureScheme::Standard, "", "X-Event", ""),
            (SignatureScheme::None, "", "X-Event", ""),
            (
                SignatureScheme::None,
                "X-Sig",
                "",
                "signature.header must be empty",
            ),
            (
                SignatureScheme::Standard,
                "X-Sig",
                "",
                "signature.header must be empty",
            ),
            (
                SignatureScheme::Standard,
                "",
                "Webhook-ID",
                "signature.event_header must not be another",
            ),
            (
                SignatureScheme::HexBody,
                "X-Sig",
                "x-sig",
                "signature.header must not be another",
            ),
            (
                SignatureScheme::HexBody,
                "",
                "x-webhook-signature",
                "signature.event_header must not be another",
            ),
            (
                SignatureScheme::HexBody,
                "Host",
                "",
                "signature.header must not be a header",
            ),
        ] {
            let found = judged(&named(scheme, header, event));
            assert!(
                found.starts_with(refused) && found.is_empty() == refused.is_empty(),
                "{header} {event}: {found}"
            );
        }
    }

    #[test]
    fn what_is_set_shows_the_same_and_a_part_leaves_the_rest() {
        let given = v1::Signature {
            scheme: v1::SignatureScheme::Timestamped.into(),
            header: "X-Sig".into(),
            event_header: "X-Event".into(),
            ..v1::Signature::default()
        };
        let mut signature = Signature::default();
        let mut violations = Violations::default();
        set(&mut signature, "signature", Some(&given), &mut violations);
        assert_eq!(show(&signature), given);
        let part = v1::Signature {
            header: "X-Other".into(),
            ..v1::Signature::default()
        };
        set(&mut signature, "signature.header", Some(&part), &mut violations);
        let expected = v1::Signature {
            header: "X-Other".into(),
            ..given
        };
        assert_eq!(show(&signature), expected);
        set(&mut signature, "signature", None, &mut violations);
        assert_eq!(
            signature.scheme,
            SignatureScheme::Timestamped,
            "a scheme is never cleared"
        );
        assert_eq!(signature.header, None);
        assert!(violations.is_empty());
    }
}
