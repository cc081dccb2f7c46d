//! Tests against databases written here, byte by byte after the format's specification
//! (<https://maxmind.github.io/MaxMind-DB/>).

use std::net::Ipv6Addr;

use super::*;

/// A value of the data section.
enum Value {
    Text(&'static str),
    Short(u16),
    Number(u32),
    Long(u64),
    Map(Vec<(&'static str, Value)>),
    List(Vec<Value>),
}
use Value::{List, Long, Map, Number, Short, Text};

fn control(kind: u8, size: usize, out: &mut Vec<u8>) {
    let (size_bits, extra) = if size < 29 {
        (size, None)
    } else {
        (29, Some(u8::try_from(size - 29).unwrap()))
    };
    let size_bits = u8::try_from(size_bits).unwrap();
    if kind < 8 {
        out.push(kind << 5 | size_bits);
    } else {
        out.extend([size_bits, kind - 7]);
    }
    out.extend(extra);
}

fn encode(value: &Value, out: &mut Vec<u8>) {
    match value {
        Text(text) => {
            control(2, text.len(), out);
            out.extend(text.as_bytes());
        }
        Short(number) => {
            control(5, 2, out);
            out.extend(number.to_be_bytes());
        }
        Number(number) => {
            control(6, 4, out);
            out.extend(number.to_be_bytes());
        }
        Long(number) => {
            control(9, 8, out);
            out.extend(number.to_be_bytes());
        }
        Map(pairs) => {
            control(7, pairs.len(), out);
            for (key, value) in pairs {
                encode(&Text(key), out);
                encode(value, out);
            }
        }
        List(values) => {
            control(11, values.len(), out);
            values.iter().for_each(|value| encode(value, out));
        }
    }
}

/// Networks of a tree of 128 bits; IPv4 stands at `::/96`.
fn bits_of(network: &str) -> Vec<usize> {
    let (address, length) = network.split_once('/').unwrap();
    let length: usize = length.parse().unwrap();
    let (value, length) = match address.parse::<IpAddr>().unwrap() {
        IpAddr::V4(v4) => (u128::from(u32::from(v4)), length + 96),
        IpAddr::V6(v6) => (u128::from(v6), length),
    };
    (0..length)
        .map(|i| usize::from(value >> (127 - i) & 1 == 1))
        .collect()
}

#[derive(Clone, Copy)]
enum Slot {
    Empty,
    Node(usize),
    Data(usize),
}

fn database(entries: Vec<(&str, Value)>) -> Vec<u8> {
    let mut nodes = vec![[Slot::Empty; 2]];
    let mut data = Vec::new();
    for (network, value) in &entries {
        let offset = data.len();
        encode(value, &mut data);
        let bits = bits_of(network);
        let mut node = 0;
        for bit in &bits[..bits.len() - 1] {
            node = match nodes[node][*bit] {
                Slot::Node(next) => next,
                _ => {
                    nodes.push([Slot::Empty; 2]);
                    let next = nodes.len() - 1;
                    nodes[node][*bit] = Slot::Node(next);
                    next
                }
            };
        }
        nodes[node][bits[bits.len() - 1]] = Slot::Data(offset);
    }
    let mut out = Vec::new();
    for slot in nodes.iter().flatten() {
        let record = match slot {
            Slot::Empty => nodes.len(),
            Slot::Node(index) => *index,
            Slot::Data(offset) => nodes.len() + 16 + offset,
        };
        out.extend(&u32::try_from(record).unwrap().to_be_bytes()[1..]);
    }
    out.extend([0; 16]);
    out.extend(data);
    out.extend(b"\xab\xcd\xefMaxMind.com");
    let count = u32::try_from(nodes.len()).unwrap();
    encode(
        &Map(vec![
            ("binary_format_major_version", Short(2)),
            ("binary_format_minor_version", Short(0)),
            ("build_epoch", Long(1_700_000_000)),
            ("database_type", Text("Test")),
            ("description", Map(vec![("en", Text("test"))])),
            ("ip_version", Short(6)),
            ("languages", List(vec![Text("en")])),
            ("node_count", Number(count)),
            ("record_size", Short(24)),
        ]),
        &mut out,
    );
    out
}

fn names(name: &'static str) -> Value {
    Map(vec![(
        "names",
        Map(vec![("de", Text("anders")), ("en", Text(name))]),
    )])
}

/// A small database, as a file's bytes.
pub(crate) fn sample_bytes() -> Vec<u8> {
    database(vec![
        (
            "203.0.113.0/24",
            Map(vec![
                ("city", names("Montreal")),
                (
                    "country",
                    Map(vec![
                        ("iso_code", Text("CA")),
                        ("names", Map(vec![("en", Text("Canada"))])),
                    ]),
                ),
                ("location", Map(vec![("accuracy_radius", Number(20))])),
                (
                    "subdivisions",
                    List(vec![Map(vec![
                        ("iso_code", Text("QC")),
                        ("names", Map(vec![("en", Text("Quebec"))])),
                    ])]),
                ),
            ]),
        ),
        (
            "198.51.100.0/24",
            Map(vec![
                ("city", Text("Paris")),
                ("country_code", Text("fr")),
                ("state1", Text("Ile-de-France")),
            ]),
        ),
        (
            "192.0.2.0/25",
            Map(vec![("country", Text("US")), ("region", Text("California"))]),
        ),
        (
            "192.0.2.128/25",
            Map(vec![
                ("country", Text("Germany")),
                ("country_code", Text("DE")),
                ("city", Number(7)),
            ]),
        ),
        (
            "2001:db8::/32",
            Map(vec![("country", Map(vec![("iso_code", Text("JP"))]))]),
        ),
        (
            "2001:db9::/32",
            Map(vec![("country_code", Text("not a code")), ("city", Text("  "))]),
        ),
        ("2001:dba::/32", Text("no map at all")),
    ])
}

fn sample() -> GeoDatabase {
    GeoDatabase::of(Reader::from_source(sample_bytes()).unwrap())
}

fn check(database: &GeoDatabase, address: &str, expected: (Option<&str>, Option<&str>, Option<&str>)) {
    let place = database.place(address.parse().unwrap()).unwrap_or_default();
    let found = (
        place.country.as_deref(),
        place.region.as_deref(),
        place.city.as_deref(),
    );
    assert_eq!(found, expected, "{address}");
}

#[test]
fn nested_and_flat_records_give_country_region_and_city() {
    let database = sample();
    check(
        &database,
        "203.0.113.9",
        (Some("CA"), Some("Quebec"), Some("Montreal")),
    );
    check(
        &database,
        "::ffff:203.0.113.9",
        (Some("CA"), Some("Quebec"), Some("Montreal")),
    );
    check(
        &database,
        "198.51.100.200",
        (Some("FR"), Some("Ile-de-France"), Some("Paris")),
    );
    check(&database, "192.0.2.1", (Some("US"), Some("California"), None));
    check(&database, "192.0.2.200", (Some("DE"), None, None));
    check(&database, "2001:db8::7", (Some("JP"), None, None));
}

#[test]
fn what_the_database_does_not_know_is_unknown() {
    let database = sample();
    check(&database, "127.0.0.1", (None, None, None));
    check(&database, "2001:db9::1", (None, None, None));
    check(&database, "2001:dba::1", (None, None, None));
    assert!(database.place(IpAddr::V6(Ipv6Addr::LOCALHOST)).is_none());
}

#[test]
fn addresses_with_one_record_share_one_place() {
    let database = sample();
    let first = database.place("203.0.113.9".parse().unwrap()).unwrap();
    let second = database.place("203.0.113.77".parse().unwrap()).unwrap();
    assert!(Arc::ptr_eq(&first, &second));
}

#[test]
fn a_file_that_is_no_database_is_refused_with_its_name() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), b"not a database").unwrap();
    let error = GeoDatabase::open(file.path()).unwrap_err();
    assert!(error.to_string().contains(&file.path().display().to_string()));
    assert!(GeoDatabase::open(Path::new("/nonexistent.mmdb")).is_err());
}
