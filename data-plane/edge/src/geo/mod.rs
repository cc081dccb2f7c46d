//! Where an address is: country, region and city from a database in MaxMind's format.
//!
//! It reads nested records (MaxMind, DB-IP) and flat ones (ip-location-db, IPinfo). It keeps no address: decoded
//! records are cached by their place in the file, of which there are far fewer. Invariants: an address that the
//! database does not know, or a record that cannot be read, gives unknown fields, never an error to the person
//! who scans; texts are of bounded length.

mod record;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use maxminddb::{MaxMindDbError, Reader};
use moka::sync::Cache;

use self::record::Record;
use crate::classify::cut;

/// Decoded records kept. A city database has some 100,000 places; people scan from few of them.
const RECORDS_CACHED_MAX: u64 = 10_000;

/// A name of a place, bytes. The longest real ones have under 100.
const NAME_BYTES_MAX: usize = 128;

/// A place, as far as it is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Place {
    /// ISO 3166-1 alpha-2, upper case.
    pub(crate) country: Option<Arc<str>>,
    /// The first subdivision, by its English name (or its code, where the database has no more).
    pub(crate) region: Option<Arc<str>>,
    /// The city, by its English name.
    pub(crate) city: Option<Arc<str>>,
}

/// Why a database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum GeoError {
    /// The file cannot be read, or is no database.
    #[error("the GeoIP database {path} cannot be opened", path = path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: MaxMindDbError,
    },
}

/// A database, whole in memory.
pub(crate) struct GeoDatabase {
    reader: Reader<Vec<u8>>,
    places: Cache<usize, Arc<Place>>,
}

impl std::fmt::Debug for GeoDatabase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GeoDatabase")
            .field("type", &self.reader.metadata().database_type)
            .finish_non_exhaustive()
    }
}

impl GeoDatabase {
    /// Reads a database file. Blocks for as long as reading it takes.
    ///
    /// # Errors
    /// When the file cannot be read or is not in MaxMind's format.
    pub(crate) fn open(path: &Path) -> Result<Self, GeoError> {
        match Reader::open_readfile(path) {
            Ok(reader) => Ok(Self::of(reader)),
            Err(source) => Err(GeoError::Open {
                path: path.to_owned(),
                source,
            }),
        }
    }

    fn of(reader: Reader<Vec<u8>>) -> Self {
        Self {
            reader,
            places: Cache::builder()
                .name("places")
                .max_capacity(RECORDS_CACHED_MAX)
                .build(),
        }
    }

    /// Where an address is. The same `Arc` for addresses that share a record.
    pub(crate) fn place(&self, address: IpAddr) -> Option<Arc<Place>> {
        let found = self
            .reader
            .lookup(address.to_canonical())
            .inspect_err(note_unreadable)
            .ok()?;
        let offset = found.offset()?;
        if let Some(place) = self.places.get(&offset) {
            return Some(place);
        }
        let record = found.decode::<Record>().inspect_err(note_unreadable).ok()??;
        let place = Arc::new(Place::from(record));
        self.places.insert(offset, place.clone());
        Some(place)
    }
}

fn note_unreadable(error: &MaxMindDbError) {
    // The address stays out of the log: it is personal data.
    tracing::debug!(%error, "a record of the GeoIP database cannot be read");
}

impl From<Record> for Place {
    fn from(record: Record) -> Self {
        let name = |text: Option<String>| {
            text.map(|text| Arc::from(cut(text.trim(), NAME_BYTES_MAX)))
                .filter(|text: &Arc<str>| !text.is_empty())
        };
        let country = record
            .country_code()
            .filter(|code| is_country_code(code))
            .map(|code| code.to_ascii_uppercase());
        Place {
            country: name(country),
            region: name(record.region_name()),
            city: name(record.city_name()),
        }
    }
}

fn is_country_code(text: &str) -> bool {
    text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_alphabetic())
}

#[cfg(test)]
pub(crate) mod tests;
