//! A measured value: the median of its runs, with their range, under stated conditions.

use std::{fmt, path::Path};

use serde::Serialize;

use crate::{machine::Machine, median::median};

/// One value.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figure {
    /// Of what.
    pub what: &'static str,
    /// The median over the runs.
    pub ours: f64,
    /// The smallest and the largest of a run.
    pub range: [f64; 2],
    /// In what.
    pub unit: &'static str,
    /// How many runs.
    pub runs: usize,
}

impl Figure {
    /// Of the values of its runs; none of none.
    #[must_use]
    pub fn of(what: &'static str, unit: &'static str, values: &[f64]) -> Option<Self> {
        Some(Self {
            what,
            ours: median(values)?,
            range: [
                values.iter().copied().fold(f64::INFINITY, f64::min),
                values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            ],
            unit,
            runs: values.len(),
        })
    }
}

/// What a benchmark found.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    /// The values.
    pub rows: Vec<Figure>,
    /// The machine.
    #[serde(flatten)]
    pub machine: Machine,
    /// How it was measured.
    pub method: String,
}

impl Figures {
    /// These, of this machine with data in `folder`.
    ///
    /// # Errors
    /// When the folder does not exist.
    pub fn new(
        rows: impl IntoIterator<Item = Option<Figure>>,
        folder: &Path,
        method: String,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            rows: rows.into_iter().flatten().collect(),
            machine: Machine::read(folder)?,
            method,
        })
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.rows.iter().map(|row| row.what.len()).max().unwrap_or(0);
        for row in &self.rows {
            let [low, high] = row.range;
            let digits = if row.ours < 100.0 { 2 } else { 0 };
            writeln!(
                f,
                "{:width$} {:>10.digits$} {} ({low:.digits$} to {high:.digits$}, runs: {})",
                row.what, row.ours, row.unit, row.runs
            )?;
        }
        write!(f, "\n{}\n{}", self.machine, self.method)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_median_with_its_range_and_none_of_none() {
        let figure = Figure::of("redirect p50", "ms", &[3.0, 1.0, 2.0]).unwrap();
        assert_eq!((figure.ours, figure.range, figure.runs), (2.0, [1.0, 3.0], 3));
        assert_eq!(Figure::of("redirect p50", "ms", &[]), None);
        let all = Figures::new([Some(figure), None], Path::new("/"), "thrice".into()).unwrap();
        assert_eq!(all.rows.len(), 1);
        let text = all.to_string();
        assert!(
            text.starts_with("redirect p50       2.00 ms (1.00 to 3.00, runs: 3)"),
            "{text}"
        );
    }
}
