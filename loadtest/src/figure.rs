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
    /// What it is compared with, measured in the same runs.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub beside: Option<Beside>,
}

/// What a value is compared with.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Beside {
    /// The median over the runs.
    pub theirs: f64,
    /// The median over the runs of ours / theirs.
    pub ratio: f64,
    /// The smallest and the largest of a run.
    pub ratio_range: [f64; 2],
}

/// The smallest and the largest.
fn range(values: &[f64]) -> [f64; 2] {
    [
        values.iter().copied().fold(f64::INFINITY, f64::min),
        values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
    ]
}

impl Figure {
    /// Of the values of its runs; none of none.
    #[must_use]
    pub fn of(what: &'static str, unit: &'static str, values: &[f64]) -> Option<Self> {
        Some(Self {
            what,
            ours: median(values)?,
            range: range(values),
            unit,
            runs: values.len(),
            beside: None,
        })
    }

    /// Of the values of its runs, and of what each run had beside them; none of none.
    #[must_use]
    pub fn beside(what: &'static str, unit: &'static str, values: &[f64], theirs: &[f64]) -> Option<Self> {
        let pairs = values.iter().zip(theirs);
        let ratios: Vec<_> = pairs.map(|(ours, theirs)| ours / theirs).collect();
        Some(Self {
            beside: Some(Beside {
                theirs: median(theirs)?,
                ratio: median(&ratios)?,
                ratio_range: range(&ratios),
            }),
            ..Self::of(what, unit, values)?
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
            write!(
                f,
                "{:width$} {:>10.digits$} {} ({low:.digits$} to {high:.digits$}, runs: {})",
                row.what, row.ours, row.unit, row.runs
            )?;
            if let Some(beside) = &row.beside {
                let [low, high] = beside.ratio_range;
                write!(
                    f,
                    ", {:.2}× of {:.digits$} ({low:.2} to {high:.2})",
                    beside.ratio, beside.theirs
                )?;
            }
            writeln!(f)?;
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
        let beside = Figure::beside("x", "ms", &[10.0, 40.0, 12.0], &[10.0, 20.0, 10.0]).unwrap();
        let ratio = beside.beside.unwrap();
        assert!(
            (ratio.ratio - 1.2).abs() < 1e-9,
            "of the runs, not of the medians"
        );
        assert_eq!((ratio.theirs, ratio.ratio_range), (10.0, [1.0, 2.0]));
        let all = Figures::new([Some(figure), None], Path::new("/"), "thrice".into()).unwrap();
        assert_eq!(all.rows.len(), 1);
        let text = all.to_string();
        assert!(
            text.starts_with("redirect p50       2.00 ms (1.00 to 3.00, runs: 3)"),
            "{text}"
        );
    }
}
