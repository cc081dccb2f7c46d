//! What the benchmark found: medians over cycles, as a table and as JSON.

use std::{fmt, time::Duration};

use serde::Serialize;

use super::{Plan, SCENARIOS, Scenario};
use crate::{machine::Machine, median::median, posts};

/// One scenario's turn, and the loop's after it.
#[derive(Debug, Clone)]
pub struct Measurement {
    /// Which.
    pub scenario: Scenario,
    /// Deliveries that healthy endpoints accepted.
    pub deliveries: u64,
    /// Requests that came in all, failed ones and those to bad endpoints included.
    pub requests: u64,
    /// Of one webhook.
    pub body_bytes: usize,
    /// From the first scan to the last of these deliveries.
    pub elapsed: Duration,
    /// CPU time of the product, without what the scans cost.
    pub cpu: Duration,
    /// The most memory that the product held, in bytes.
    pub memory: u64,
    /// The loop, with as many requests.
    pub raw: posts::Report,
}

/// Under which circumstances the figures hold.
#[derive(Debug, Clone, Serialize)]
pub struct Conditions {
    /// The machine.
    #[serde(flatten)]
    pub machine: Machine,
    /// Turns of each scenario.
    pub cycles: usize,
    /// How it was measured.
    pub method: &'static str,
}

/// One scenario.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// Which.
    pub what: &'static str,
    /// Deliveries in one turn.
    pub deliveries: u64,
    /// Requests in one turn, failed ones and those to bad endpoints included: median.
    pub requests: f64,
    /// Bytes of one webhook's body.
    pub body_bytes: usize,
    /// Deliveries a second, median.
    pub per_second: f64,
    /// Deliveries a CPU-second, median.
    pub per_cpu_second: f64,
    /// The loop's requests a second, median.
    pub raw_per_second: f64,
    /// The loop's requests a CPU-second, median.
    pub raw_per_cpu_second: f64,
    /// CPU time of a delivery by that of one request of the loop: median over cycles.
    pub cpu_ratio: f64,
    /// The smallest and the largest of a cycle.
    pub cpu_ratio_range: [f64; 2],
    /// The most memory that the product held, in MiB: median.
    pub memory_mib: f64,
    /// How many cycles.
    pub runs: usize,
}

/// Everything the benchmark found.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// The scenarios.
    pub rows: Vec<Row>,
    /// Under which circumstances.
    pub conditions: Conditions,
}

impl Conditions {
    /// Reads them off the machine.
    ///
    /// # Errors
    /// When the folder does not exist.
    pub fn read(plan: &Plan) -> anyhow::Result<Self> {
        Ok(Self {
            machine: Machine::read(&plan.folder)?,
            cycles: plan.cycles,
            method: "the sender pinned to one core, scans and receiver on another; user + system time of all of qrelay, \
                     less that of as many scans without endpoints; after each turn a loop of signed POSTs \
                     with the same body; medians over cycles",
        })
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
const fn float(count: u64) -> f64 {
    count as f64
}

impl Measurement {
    fn cpu_ratio(&self) -> f64 {
        self.cpu.as_secs_f64() / self.raw.cpu_s
    }
}

impl Outcome {
    /// Sums up the turns.
    #[must_use]
    pub fn new(conditions: Conditions, measurements: &[Measurement]) -> Self {
        let rows = SCENARIOS.iter().filter_map(|scenario| {
            let of: Vec<_> = measurements
                .iter()
                .filter(|measurement| measurement.scenario == *scenario)
                .collect();
            row(&of)
        });
        Self {
            rows: rows.collect(),
            conditions,
        }
    }
}

fn row(of: &[&Measurement]) -> Option<Row> {
    let first = of.first()?;
    let middle = |value: &dyn Fn(&Measurement) -> f64| -> Option<f64> {
        let values: Vec<_> = of.iter().map(|measurement| value(measurement)).collect();
        median(&values)
    };
    let mut ratios: Vec<_> = of.iter().map(|measurement| measurement.cpu_ratio()).collect();
    ratios.sort_by(f64::total_cmp);
    Some(Row {
        what: first.scenario.what,
        deliveries: first.deliveries,
        requests: middle(&|m| float(m.requests))?,
        body_bytes: first.body_bytes,
        per_second: middle(&|m| float(m.deliveries) / m.elapsed.as_secs_f64())?,
        per_cpu_second: middle(&|m| float(m.deliveries) / m.cpu.as_secs_f64())?,
        raw_per_second: middle(&|m| float(m.raw.requests) / m.raw.elapsed_s)?,
        raw_per_cpu_second: middle(&|m| float(m.raw.requests) / m.raw.cpu_s)?,
        cpu_ratio: median(&ratios)?,
        cpu_ratio_range: [*ratios.first()?, *ratios.last()?],
        memory_mib: middle(&|m| float(m.memory) / f64::from(1 << 20))?,
        runs: ratios.len(),
    })
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.rows.iter().map(|row| row.what.len()).max().unwrap_or(0);
        writeln!(
            f,
            "{:width$} {:>9} {:>9} {:>11} {:>11}  {:>6}  {:13} {:>8}",
            "deliveries", "/s", "/CPU-s", "POSTs /s", "POSTs/CPU-s", "CPU", "range", "memory"
        )?;
        for row in &self.rows {
            let [low, high] = row.cpu_ratio_range;
            writeln!(
                f,
                "{:width$} {:>9.0} {:>9.0} {:>11.0} {:>11.0}  {:>5.2}×  {:13} {:>4.0} MiB",
                row.what,
                row.per_second,
                row.per_cpu_second,
                row.raw_per_second,
                row.raw_per_cpu_second,
                row.cpu_ratio,
                format!("{low:.2} to {high:.2}"),
                row.memory_mib,
            )?;
        }
        let c = &self.conditions;
        let bytes = self.rows.first().map_or(0, |row| row.body_bytes);
        writeln!(f, "\n{}, bodies of {bytes} bytes", c.machine)?;
        write!(f, "{} cycles; {}", c.cycles, c.method)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measurement(scenario: Scenario, cpu_s: f64, raw_cpu_s: f64) -> Measurement {
        Measurement {
            scenario,
            deliveries: 1000,
            requests: 1500,
            body_bytes: 500,
            elapsed: Duration::from_secs(2),
            cpu: Duration::from_secs_f64(cpu_s),
            memory: 64 << 20,
            raw: posts::Report {
                requests: 1000,
                elapsed_s: 0.5,
                cpu_s: raw_cpu_s,
            },
        }
    }

    #[test]
    fn a_row_is_the_median_of_its_scenarios_turns() {
        let plan = Plan {
            qrelay: "/".into(),
            folder: "/".into(),
            cycles: 3,
            deliveries: 1000,
            server_core: 0,
            load_core: 1,
        };
        let turns =
            [(0.5, 0.1), (0.2, 0.1), (1.0, 0.25)].map(|(cpu, raw)| measurement(SCENARIOS[0], cpu, raw));
        let all = [turns.to_vec(), vec![measurement(SCENARIOS[2], 9.0, 1.0)]].concat();
        let outcome = Outcome::new(Conditions::read(&plan).unwrap(), &all);
        assert_eq!(outcome.rows.len(), 2, "what took no turn makes no row");
        let row = &outcome.rows[0];
        assert!((row.per_second - 500.0).abs() < 1e-6 && (row.per_cpu_second - 2000.0).abs() < 1e-6);
        assert!((row.cpu_ratio - 4.0).abs() < 1e-6 && (row.raw_per_second - 2000.0).abs() < 1e-6);
        assert!((row.memory_mib - 64.0).abs() < 1e-6);
        assert_eq!(row.runs, 3);
        assert!(outcome.to_string().contains(SCENARIOS[2].what));
    }
}
