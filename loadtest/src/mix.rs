//! Which of many codes each scan asks for.

use clap::ValueEnum;
use rand::{SeedableRng, rngs::StdRng};
use rand_distr::{Distribution, Zipf};

/// Spreads neighbours in popularity over the codes: odd, so that it is coprime to powers of two, and prime.
const STRIDE: u64 = 2_654_435_761;

/// How scans are spread over codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Spread {
    /// Some are scanned often, most seldom: the n-th most popular 1/n as often as the first.
    Zipf,
    /// One after the other.
    Turns,
}

/// Numbers of codes, without end.
#[derive(Debug)]
pub struct Mix {
    codes: u64,
    spread: Spread,
    zipf: Zipf<f64>,
    random: StdRng,
    next: u64,
}

impl Mix {
    /// Numbers below `codes`, of which there must be one. The same seed draws the same.
    ///
    /// # Panics
    /// When there is no code.
    #[must_use]
    pub fn new(codes: u64, spread: Spread, seed: u64) -> Self {
        let zipf = Zipf::new(float(codes), 1.0).expect("invariant: there is a code");
        Self {
            codes,
            spread,
            zipf,
            random: StdRng::seed_from_u64(seed),
            next: 0,
        }
    }
}

impl Iterator for Mix {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        let number = match self.spread {
            Spread::Zipf => rank(self.zipf.sample(&mut self.random)).wrapping_mul(STRIDE) % self.codes,
            Spread::Turns => self.next,
        };
        self.next = (self.next + 1) % self.codes;
        Some(number)
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of codes are far below 2^52")]
const fn float(count: u64) -> f64 {
    count as f64
}

/// From 0.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "ranks are whole numbers from 1 to the count of codes"
)]
fn rank(sample: f64) -> u64 {
    (sample as u64).saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn the_most_popular_code_is_asked_for_about_twice_as_often_as_the_second() {
        let mut counts = BTreeMap::<u64, u32>::new();
        for number in Mix::new(1000, Spread::Zipf, 1).take(100_000) {
            *counts.entry(number).or_default() += 1;
        }
        let mut counts: Vec<_> = counts.into_values().collect();
        counts.sort_unstable_by(|one, other| other.cmp(one));
        assert!(counts.len() > 900, "most are asked for: {}", counts.len());
        let ratio = f64::from(counts[0]) / f64::from(counts[1]);
        assert!((1.8..2.2).contains(&ratio), "{ratio}");
    }

    #[test]
    fn in_turns_each_comes_once_a_round() {
        let numbers: Vec<_> = Mix::new(3, Spread::Turns, 1).take(5).collect();
        assert_eq!(numbers, [0, 1, 2, 0, 1]);
    }

    #[test]
    fn a_single_code_is_always_it() {
        for spread in [Spread::Zipf, Spread::Turns] {
            assert!(Mix::new(1, spread, 7).take(100).all(|number| number == 0));
        }
    }
}
