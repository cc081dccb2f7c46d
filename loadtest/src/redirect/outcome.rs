//! What the benchmark found: medians of per-cycle ratios, as a table and as JSON.

use std::{fmt, time::Duration};

use serde::Serialize;

use super::{Plan, Scenario, Server};
use crate::{machine::Machine, median::median, nginx, tally::Report};

/// One server's turn.
#[derive(Debug, Clone)]
pub struct Measurement {
    /// Under which load.
    pub scenario: Scenario,
    /// In which cycle.
    pub cycle: usize,
    /// Whose turn.
    pub server: Server,
    /// CPU time that the server used.
    pub cpu: Duration,
    /// What the generator saw.
    pub report: Report,
}

/// Under which circumstances the figures hold.
#[derive(Debug, Clone, Serialize)]
pub struct Conditions {
    /// The machine.
    #[serde(flatten)]
    pub machine: Machine,
    /// The version compared with.
    pub nginx: String,
    /// Turns of each server in each scenario.
    pub cycles: usize,
    /// Of one turn.
    pub turn_s: f64,
    /// Of the generator.
    pub connections: usize,
    /// How it was measured.
    pub method: &'static str,
}

/// One line of the comparison. Times are of one request.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// The load and the measure.
    pub what: String,
    /// qrelay, median over cycles.
    pub ours: f64,
    /// What it is compared with, median over cycles.
    pub theirs: f64,
    /// Who that is.
    pub against: &'static str,
    /// Median over cycles of ours / theirs (or ours − theirs, for added latency).
    pub ratio: f64,
    /// The smallest and the largest of a cycle.
    pub ratio_range: [f64; 2],
    /// Of `ours` and `theirs`.
    pub unit: &'static str,
    /// How many cycles.
    pub runs: usize,
}

/// Everything the benchmark found.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// The comparisons.
    pub rows: Vec<Row>,
    /// Under which circumstances.
    pub conditions: Conditions,
}

impl Conditions {
    /// Reads them off the machine.
    ///
    /// # Errors
    /// When nginx is not installed or the folder does not exist.
    pub fn read(plan: &Plan) -> anyhow::Result<Self> {
        Ok(Self {
            machine: Machine::read(&plan.folder)?,
            nginx: nginx::version(&plan.nginx)?,
            cycles: plan.cycles,
            turn_s: plan.turn.as_secs_f64(),
            connections: plan.connections,
            method: "servers pinned to one core, load on another, turns in rotated order; user + system time of the \
                     server's process group, until it is at rest again; median over cycles of the ratio \
                     within a cycle",
        })
    }
}

impl Outcome {
    /// Sums up the turns.
    #[must_use]
    pub fn new(conditions: Conditions, measurements: Vec<Measurement>) -> Self {
        let mut scenarios: Vec<&Scenario> = Vec::new();
        for measurement in &measurements {
            if !scenarios.contains(&&measurement.scenario) {
                scenarios.push(&measurement.scenario);
            }
        }
        let mut rows = Vec::new();
        for scenario in scenarios {
            let of = |server, value: fn(&Measurement) -> f64| -> Vec<f64> {
                let turns = measurements
                    .iter()
                    .filter(|m| m.server == server && m.scenario == *scenario);
                turns.map(value).collect()
            };
            let cpu = format!("{}: server CPU per redirect", scenario.what);
            for (server, name) in [(Server::Nginx, "nginx"), (Server::Raw, "raw hyper")] {
                rows.extend(ratio(
                    &cpu,
                    &of(Server::Durable, cpu_us),
                    &of(server, cpu_us),
                    name,
                ));
            }
            for (quantile, value) in [("p50", p50_us as fn(&Measurement) -> f64), ("p99", p99_us)] {
                if scenario.rate_per_s.is_some() {
                    let what = format!("{}: latency {quantile}", scenario.what);
                    rows.extend(ratio(
                        &what,
                        &of(Server::Durable, value),
                        &of(Server::Nginx, value),
                        "nginx",
                    ));
                    rows.extend(ratio(
                        &what,
                        &of(Server::Durable, value),
                        &of(Server::Relaxed, value),
                        "relaxed",
                    ));
                }
            }
        }
        Self { rows, conditions }
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of requests are far below 2^52")]
fn cpu_us(measurement: &Measurement) -> f64 {
    measurement.cpu.as_secs_f64() * 1e6 / measurement.report.answered as f64
}

#[expect(clippy::cast_precision_loss, reason = "at most a minute in microseconds")]
fn p50_us(measurement: &Measurement) -> f64 {
    measurement.report.latency_us.p50 as f64
}

#[expect(clippy::cast_precision_loss, reason = "at most a minute in microseconds")]
fn p99_us(measurement: &Measurement) -> f64 {
    measurement.report.latency_us.p99 as f64
}

/// Compares two servers cycle by cycle; none when one of them took no part.
fn ratio(what: &str, ours: &[f64], theirs: &[f64], against: &'static str) -> Option<Row> {
    let mut ratios: Vec<_> = ours
        .iter()
        .zip(theirs)
        .map(|(ours, theirs)| ours / theirs)
        .collect();
    ratios.sort_by(f64::total_cmp);
    Some(Row {
        what: what.to_owned(),
        ours: median(ours)?,
        theirs: median(theirs)?,
        against,
        ratio: median(&ratios)?,
        ratio_range: [*ratios.first()?, *ratios.last()?],
        unit: "µs",
        runs: ratios.len(),
    })
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self
            .rows
            .iter()
            .map(|row| row.what.chars().count())
            .max()
            .unwrap_or(0);
        let head = ["qrelay", "against", "", "ratio", "range over cycles"];
        writeln!(
            f,
            "{:width$} {:>11} {:>11}  {:9} {:>6}  {}",
            "", head[0], head[1], head[2], head[3], head[4]
        )?;
        for row in &self.rows {
            writeln!(
                f,
                "{:width$} {:>8.1} {unit} {:>8.1} {unit}  {:9} {:>5.2}×  {:.2} to {:.2}",
                row.what,
                row.ours,
                row.theirs,
                row.against,
                row.ratio,
                row.ratio_range[0],
                row.ratio_range[1],
                unit = row.unit,
            )?;
        }
        let c = &self.conditions;
        writeln!(f, "\n{}, {}", c.machine, c.nginx)?;
        write!(
            f,
            "{} cycles of {} s, {} connections; {}",
            c.cycles, c.turn_s, c.connections, c.method
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_the_median_of_the_cycles_not_of_the_sums() {
        let row = ratio("x", &[10.0, 40.0, 12.0], &[10.0, 20.0, 10.0], "nginx").unwrap();
        assert!((row.ratio - 1.2).abs() < 1e-9 && (row.ours - 12.0).abs() < 1e-9);
        assert_eq!((row.ratio_range, row.runs), ([1.0, 2.0], 3));
    }

    #[test]
    fn who_took_no_part_makes_no_row() {
        assert!(ratio("x", &[1.0], &[], "relaxed").is_none());
    }
}
