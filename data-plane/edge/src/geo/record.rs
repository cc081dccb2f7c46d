//! The shapes of a GeoIP record: nested as MaxMind has it, flat as ip-location-db and IPinfo have it.
//!
//! Only what the edge records is read. Invariant: a field of an unexpected type is as good as absent.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;

/// A country, region or city: an object with names, or just a text.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Named {
    Nested {
        #[serde(default)]
        iso_code: Option<String>,
        #[serde(default)]
        names: BTreeMap<String, String>,
    },
    Flat(String),
    Unexpected(IgnoredAny),
}

impl Named {
    fn name(&self) -> Option<String> {
        match self {
            Named::Nested { iso_code, names } => names.get("en").or(iso_code.as_ref()).cloned(),
            Named::Flat(text) => Some(text.clone()),
            Named::Unexpected(_) => None,
        }
    }

    fn code(&self) -> Option<String> {
        match self {
            Named::Nested { iso_code, .. } => iso_code.clone(),
            Named::Flat(text) => Some(text.clone()),
            Named::Unexpected(_) => None,
        }
    }
}

/// One record.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Record {
    country: Option<Named>,
    /// Flat: the two letters, where `country` may be a name.
    country_code: Option<Named>,
    /// Nested: from the largest to the smallest.
    subdivisions: Vec<Named>,
    /// Flat, IPinfo.
    region: Option<Named>,
    /// Flat, ip-location-db.
    state1: Option<Named>,
    city: Option<Named>,
}

impl Record {
    pub(super) fn country_code(&self) -> Option<String> {
        [&self.country_code, &self.country]
            .into_iter()
            .flatten()
            .find_map(Named::code)
    }

    pub(super) fn region_name(&self) -> Option<String> {
        let flat = [&self.region, &self.state1].into_iter().flatten();
        self.subdivisions
            .first()
            .into_iter()
            .chain(flat)
            .find_map(Named::name)
    }

    pub(super) fn city_name(&self) -> Option<String> {
        self.city.as_ref().and_then(Named::name)
    }
}
