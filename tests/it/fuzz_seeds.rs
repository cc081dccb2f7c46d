//! The fuzz targets' bodies on a stable toolchain, over their seeds and some thousand mutations of each: so that a seed
//! that once broke something stays fixed, and the targets cannot rot between runs of `make fuzz`.

use std::{fs, path::Path};

use rand::{RngExt, SeedableRng, rngs::StdRng};

#[path = "../fuzz/entry.rs"]
#[allow(unreachable_pub, reason = "the fuzz targets are crates of their own")]
mod entry;

/// Mutations of each seed. All four targets together take seconds in a debug build.
const MUTATIONS: usize = 500;

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/seeds")
        .join(target);
    let entries = fs::read_dir(&folder).expect("each target has a folder of seeds");
    let mut paths: Vec<_> = entries
        .map(|entry| entry.expect("the folder is readable").path())
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "no seeds in {}", folder.display());
    paths
        .into_iter()
        .map(|path| fs::read(path).expect("a seed is readable"))
        .collect()
}

/// Runs a body over its seeds, each whole, cut off everywhere, and mutated; the same mutations in every run.
fn run(target: &str, body: fn(&[u8])) {
    let seeds = seeds(target);
    let mut random = StdRng::seed_from_u64(7);
    for seed in &seeds {
        body(seed);
        for end in (0..seed.len()).step_by(1 + seed.len() / 100) {
            body(&seed[..end]);
        }
        for _ in 0..MUTATIONS {
            let other = &seeds[random.random_range(0..seeds.len())];
            body(&mutated(seed, other, &mut random));
        }
    }
}

/// One to four changes: a bit, a byte, a piece removed, repeated or taken from another seed.
fn mutated(seed: &[u8], other: &[u8], random: &mut StdRng) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..random.random_range(1..=4) {
        let at = random.random_range(0..=bytes.len());
        let end = bytes.len().min(at + random.random_range(0..32));
        match random.random_range(0..5) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.random_range(0..8),
            1 => bytes.insert(at, random.random()),
            2 => drop(bytes.drain(at..end)),
            3 => {
                let piece = bytes[at..end].repeat(random.random_range(1..64));
                bytes.splice(at..at, piece);
            }
            _ => {
                let from = random.random_range(0..=other.len());
                bytes.splice(at..end, other[from..].iter().copied());
            }
        }
    }
    bytes
}

#[test]
fn the_edge_reads_any_request_head() {
    run("request_head", entry::request_head);
}

#[test]
fn rest_reads_any_request() {
    run("rest_request", entry::rest_request);
}

#[test]
fn the_log_codec_reads_any_batch() {
    run("log_codec", entry::log_codec);
}

#[test]
fn any_text_is_judged_as_a_filter_expression() {
    run("expression", entry::expression);
}
