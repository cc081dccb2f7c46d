//! What the benchmark of isolation found: medians over cycles, as a table and as JSON.

use std::fmt;

use serde::Serialize;

use super::{Company, Delays, Plan, Turn};
use crate::median::median;

/// One quantile of the delay.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// Of what, and which one.
    pub what: &'static str,
    /// Alone, in milliseconds: the median over cycles.
    pub alone_ms: f64,
    /// Beside the bad ones.
    pub beside_ms: f64,
    /// The median over cycles of beside / alone.
    pub ratio: f64,
    /// The smallest and the largest of a cycle.
    pub ratio_range: [f64; 2],
}

/// Everything it found.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// The comparisons.
    pub rows: Vec<Row>,
    /// Bad endpoints.
    pub bad: usize,
    /// Other healthy ones.
    pub healthy: usize,
    /// How often both took their turn.
    pub cycles: usize,
    /// Of one turn.
    pub turn_s: f64,
    /// Scans a second.
    pub rate_per_s: u32,
}

impl Outcome {
    /// Sums up the turns.
    #[must_use]
    pub fn new(plan: &Plan, turns: &[Turn]) -> Self {
        let of = |company, quantile: fn(&Delays) -> u64| -> Vec<f64> {
            // By cycle, whichever came first in it.
            let turns = turns.iter().filter(|turn| turn.company == company);
            turns.map(|turn| millis(quantile(&turn.delays))).collect()
        };
        let row = |what, quantile| {
            let (alone, beside) = (of(Company::Alone, quantile), of(Company::Beside, quantile));
            let ratios: Vec<_> = beside
                .iter()
                .zip(&alone)
                .map(|(beside, alone)| beside / alone)
                .collect();
            Row {
                what,
                alone_ms: middle(&alone),
                beside_ms: middle(&beside),
                ratio: middle(&ratios),
                ratio_range: [
                    ratios.iter().copied().fold(f64::INFINITY, f64::min),
                    ratios.iter().copied().fold(0.0, f64::max),
                ],
            }
        };
        Self {
            rows: vec![
                row("webhook p50", |delays| delays.webhook_us.p50),
                row("webhook p99", |delays| delays.webhook_us.p99),
                row("redirect p50", |delays| delays.redirect_us.p50),
                row("redirect p99", |delays| delays.redirect_us.p99),
            ],
            bad: plan.neighbours.bad,
            healthy: plan.neighbours.healthy,
            cycles: plan.cycles,
            turn_s: plan.turn.as_secs_f64(),
            rate_per_s: plan.rate_per_s,
        }
    }
}

impl Outcome {
    /// Who else there was, in words.
    #[must_use]
    pub fn company(&self) -> String {
        match self.healthy {
            0 => format!("{} bad ones", self.bad),
            healthy => format!("{} bad and {healthy} other healthy ones", self.bad),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "From a scan to its redirect, and to its webhook at a healthy endpoint, alone and beside {} ({} scans/s, {} cycles of {} s each)",
            self.company(),
            self.rate_per_s,
            self.cycles,
            self.turn_s
        )?;
        for row in &self.rows {
            writeln!(
                f,
                "{}: alone {:.1} ms, beside {:.1} ms, ratio {:.2} ({:.2} to {:.2})",
                row.what, row.alone_ms, row.beside_ms, row.ratio, row.ratio_range[0], row.ratio_range[1]
            )?;
        }
        Ok(())
    }
}

/// At least a microsecond, so that a ratio is one.
fn millis(micros: u64) -> f64 {
    #[expect(
        clippy::cast_precision_loss,
        reason = "a delay is far below 2^52 microseconds"
    )]
    let micros = micros.max(1) as f64;
    micros / 1000.0
}

/// There is a cycle or more.
fn middle(values: &[f64]) -> f64 {
    median(values).unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{super::Neighbours, *};
    use crate::tally::Quantiles;

    #[test]
    fn ratios_are_of_the_same_cycle_and_their_median_is_told() {
        let plan = Plan {
            qrelay: "q".into(),
            folder: "f".into(),
            neighbours: Neighbours::A_THIRD_BAD,
            cycles: 3,
            turn: Duration::from_secs(1),
            rate_per_s: 10,
            server_core: 0,
        };
        let turn = |cycle, company, p99| Turn {
            cycle,
            company,
            delays: Delays {
                webhook_us: Quantiles {
                    p50: p99 / 2,
                    p99,
                    ..Quantiles::default()
                },
                ..Delays::default()
            },
        };
        let turns = [
            turn(0, Company::Alone, 2000),
            turn(0, Company::Beside, 3000),
            turn(1, Company::Beside, 40_000),
            turn(1, Company::Alone, 20_000),
            turn(2, Company::Alone, 4000),
            turn(2, Company::Beside, 4000),
        ];
        let outcome = Outcome::new(&plan, &turns);
        assert_eq!(outcome.company(), "33 bad and 66 other healthy ones");
        let p99 = &outcome.rows[1];
        assert_eq!((p99.alone_ms, p99.beside_ms, p99.ratio), (4.0, 4.0, 1.5));
        assert_eq!(p99.ratio_range, [1.0, 2.0]);
        assert!(
            outcome
                .to_string()
                .contains("webhook p99: alone 4.0 ms, beside 4.0 ms, ratio 1.50"),
            "{outcome}"
        );
    }
}
