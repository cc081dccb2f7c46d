//! The figures that a user compares, in one table: each with what it is measured against and the bound that it must keep.
//!
//! A benchmark makes lines; `qrelay-loadtest bench` runs them all, and gives the table as text, JSON and a picture.

use std::fmt::{self, Write as _};

use serde::Serialize;

use crate::{deliveries, figure::Figures, isolation, machine::Machine, redirect};

/// The bound that a figure must keep.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// It, or the ratio if there is one, may not be above this.
    AtMost(f64),
    /// It, or the ratio if there is one, may not be below this.
    AtLeast(f64),
    /// It is stated, without a bound.
    Stated,
}

/// One figure.
#[derive(Debug, Clone, Serialize)]
pub struct Line {
    /// What it is.
    pub what: String,
    /// The product's value: a median over the runs.
    pub ours: f64,
    /// The value that it is compared with, of the same runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub theirs: Option<f64>,
    /// Whose that is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub against: Option<&'static str>,
    /// The median over the runs of ours / theirs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
    /// Of both values.
    pub unit: &'static str,
    /// How many runs.
    pub runs: usize,
    /// The bound.
    pub bound: Bound,
    /// How it was measured.
    pub conditions: String,
}

impl Line {
    /// What the bound is of.
    #[must_use]
    pub fn judged(&self) -> f64 {
        self.ratio.unwrap_or(self.ours)
    }

    /// Whether the bound is kept; none where there is none.
    #[must_use]
    pub fn holds(&self) -> Option<bool> {
        match self.bound {
            Bound::AtMost(bound) => Some(self.judged() <= bound),
            Bound::AtLeast(bound) => Some(self.judged() >= bound),
            Bound::Stated => None,
        }
    }

    /// How much of what the bound allows it takes: up to 1 is well.
    #[must_use]
    pub fn share(&self) -> Option<f64> {
        match self.bound {
            Bound::AtMost(bound) => Some(self.judged() / bound),
            Bound::AtLeast(bound) => Some(bound / self.judged()),
            Bound::Stated => None,
        }
    }

    fn bound_text(&self) -> String {
        self.bound.text(if self.ratio.is_some() { "×" } else { "" })
    }
}

impl Bound {
    fn text(self, unit: &str) -> String {
        match self {
            Self::AtMost(bound) => format!("≤ {}{unit}", number(bound)),
            Self::AtLeast(bound) => format!("≥ {}{unit}", number(bound)),
            Self::Stated => "–".to_owned(),
        }
    }
}

/// One that could not be measured here.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Missing {
    /// What it is.
    pub what: String,
    /// The bound.
    pub bound: Bound,
    /// In what the bound is.
    pub unit: &'static str,
    /// Why it was not measured.
    pub why: String,
}

/// All of them.
#[derive(Debug, Clone, Serialize)]
pub struct Table {
    /// The figures.
    pub lines: Vec<Line>,
    /// Those that could not be measured here.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Missing>,
    /// The machine.
    pub machine: Machine,
}

/// Of the redirect: CPU beside nginx and hyper, and what durability adds to the delay.
#[must_use]
pub fn of_redirect(outcome: &redirect::Outcome) -> Vec<Line> {
    let c = &outcome.conditions;
    let conditions = format!(
        "{} connections, {} cycles of {} s; {}",
        c.connections, c.cycles, c.turn_s, c.method
    );
    let mut lines = Vec::new();
    for row in &outcome.rows {
        let saturated = row.what.contains("saturated");
        let added = match (row.what.contains("p50"), row.what.contains("p99")) {
            (true, _) => Some(500.0),
            (_, true) => Some(3000.0),
            _ => None,
        };
        let line = Line {
            what: row.what.clone(),
            ours: row.ours,
            theirs: Some(row.theirs),
            against: Some(row.against),
            ratio: Some(row.ratio),
            unit: row.unit,
            runs: row.runs,
            bound: Bound::Stated,
            conditions: conditions.clone(),
        };
        match (saturated, row.against, added) {
            (true, "nginx", _) => lines.push(Line {
                bound: Bound::AtMost(1.5),
                ..line
            }),
            (true, ..) => lines.push(line),
            (false, "relaxed", Some(most)) => lines.push(Line {
                what: format!("{}, added by durability", row.what),
                ours: row.ours - row.theirs,
                theirs: None,
                against: None,
                ratio: None,
                bound: Bound::AtMost(most),
                ..line
            }),
            _ => {}
        }
    }
    lines
}

/// Of deliveries: CPU beside a loop of signed POSTs, and deliveries a second on two cores.
#[must_use]
pub fn of_deliveries(outcome: &deliveries::Outcome) -> Vec<Line> {
    let c = &outcome.conditions;
    let conditions = format!("{} cycles; {}", c.cycles, c.method);
    let mut lines = Vec::new();
    for (row, first) in outcome.rows.iter().zip([true, false, false, false]) {
        let cpu = Line {
            what: format!("deliveries per CPU-second, {}", row.what),
            ours: row.per_cpu_second,
            theirs: Some(row.raw_per_cpu_second),
            against: Some("signed POSTs and nothing else"),
            ratio: Some(1.0 / row.cpu_ratio),
            unit: "/CPU-s",
            runs: row.runs,
            bound: if first {
                Bound::AtLeast(0.25)
            } else {
                Bound::Stated
            },
            conditions: conditions.clone(),
        };
        let rate = Line {
            what: format!(
                "deliveries per second on two cores, receiver included, {}",
                row.what
            ),
            ours: row.per_second,
            theirs: None,
            against: None,
            ratio: None,
            unit: "/s",
            bound: if first {
                Bound::AtLeast(15_000.0)
            } else {
                Bound::Stated
            },
            ..cpu.clone()
        };
        lines.extend([cpu, rate]);
    }
    lines
}

/// Of isolation: a healthy endpoint's webhooks beside others, of which some are bad.
#[must_use]
pub fn of_isolation(outcome: &isolation::Outcome) -> Vec<Line> {
    let conditions = format!(
        "beside {}; {} scans/s, {} cycles of {} s",
        outcome.company(),
        outcome.rate_per_s,
        outcome.cycles,
        outcome.turn_s
    );
    let webhooks = outcome.rows.iter().filter(|row| row.what.starts_with("webhook"));
    let lines = webhooks.map(|row| Line {
        what: match outcome.healthy {
            0 => format!("scan to {} beside bad endpoints", row.what),
            _ => format!(
                "scan to {} among {} endpoints, a third black holes or failing",
                row.what,
                outcome.healthy + outcome.bad + 1
            ),
        },
        ours: row.beside_ms,
        theirs: Some(row.alone_ms),
        against: Some("alone"),
        ratio: Some(row.ratio),
        unit: "ms",
        runs: outcome.cycles,
        // A scan's webhooks go out one after the other: among many, half of them is what another one of them waits for.
        bound: if outcome.healthy > 0 && row.what.contains("p50") {
            Bound::Stated
        } else {
            Bound::AtMost(2.0)
        },
        conditions: conditions.clone(),
    });
    lines.collect()
}

/// Of figures that have one method: those that `bounds` name, each under the name that it gives.
#[must_use]
pub fn of_figures(figures: &Figures, bounds: &[(&'static str, &'static str, Bound)]) -> Vec<Line> {
    let mut lines = Vec::new();
    for (what, name, bound) in bounds {
        for row in figures.rows.iter().filter(|row| row.what == *what) {
            // A comparison is bounded as such where the bound is one.
            let beside = row.beside.as_ref();
            lines.push(Line {
                what: (*name).to_owned(),
                ours: row.ours,
                theirs: beside.map(|beside| beside.theirs),
                against: beside.map(|_| "few codes"),
                ratio: beside.map(|beside| beside.ratio),
                unit: row.unit,
                runs: row.runs,
                bound: *bound,
                conditions: figures.method.clone(),
            });
        }
    }
    lines
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let missing = self.missing.iter().map(|missing| &missing.what);
        let all = self.lines.iter().map(|line| &line.what).chain(missing);
        let width = all.map(|what| what.chars().count()).max().unwrap_or(0);
        for line in &self.lines {
            let kept = match line.holds() {
                Some(true) => "kept",
                Some(false) => "MISSED",
                None => "",
            };
            write!(
                f,
                "{:width$} {:>10} {:8}",
                line.what,
                number(line.ours),
                line.unit
            )?;
            let beside = match (line.ratio, line.theirs, line.against) {
                (Some(ratio), Some(theirs), Some(against)) => {
                    format!("{ratio:.2}× of {} ({against})", number(theirs))
                }
                _ => String::new(),
            };
            writeln!(f, " {beside:48} {:>10} {kept}", line.bound_text())?;
        }
        for missing in &self.missing {
            let bound = missing.bound.text(&format!(" {}", missing.unit));
            writeln!(
                f,
                "{:width$} NOT MEASURED ({bound}): {}",
                missing.what, missing.why
            )?;
        }
        write!(f, "\n{}", self.machine)
    }
}

/// Three digits or so.
fn number(value: f64) -> String {
    let digits = match value.abs() {
        large if large >= 100.0 => 0,
        middle if middle >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.digits$}")
}

const ROW: f64 = 26.0;
const TEXT: f64 = 470.0;
const UNIT_WIDTH: f64 = 240.0;
const SHARE_MAX: f64 = 2.0;

impl Table {
    /// A picture: of each bound the share that is taken, as a bar; the bar of one that is missed crosses the line.
    #[must_use]
    pub fn picture(&self) -> String {
        let lines: Vec<_> = self
            .lines
            .iter()
            .filter_map(|line| Some((line, line.share()?)))
            .collect();
        let rows = u32::try_from(lines.len()).unwrap_or(u32::MAX);
        let (width, height) = (
            TEXT + UNIT_WIDTH * SHARE_MAX + 150.0,
            ROW * f64::from(rows) + 50.0,
        );
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
             font-family=\"sans-serif\" font-size=\"13\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
        );
        for (at, (line, share)) in (0_u32..).zip(&lines) {
            let top = ROW * f64::from(at) + 30.0;
            let bar = share.clamp(0.0, SHARE_MAX) * UNIT_WIDTH;
            let color = if line.holds() == Some(true) {
                "#2f7d5b"
            } else {
                "#c2572b"
            };
            let value = match line.ratio {
                Some(ratio) => format!("{}× ({})", number(ratio), line.bound_text()),
                None => format!("{} {} ({})", number(line.ours), line.unit, line.bound_text()),
            };
            let text_y = top + ROW * 0.6;
            let (bar_y, bar_height) = (top + 5.0, ROW - 10.0);
            // Writing to a string does not fail.
            writeln!(
                svg,
                "<text x=\"{:.0}\" y=\"{text_y:.0}\" text-anchor=\"end\">{}</text>\
                 <rect x=\"{TEXT:.0}\" y=\"{bar_y:.0}\" width=\"{bar:.0}\" height=\"{bar_height:.0}\" fill=\"{color}\"/>\
                 <text x=\"{:.0}\" y=\"{text_y:.0}\">{}</text>",
                TEXT - 8.0,
                escaped(&line.what),
                TEXT + bar + 6.0,
                escaped(&value)
            )
            .ok();
        }
        let line = TEXT + UNIT_WIDTH;
        writeln!(
            svg,
            "<line x1=\"{line:.0}\" y1=\"24\" x2=\"{line:.0}\" y2=\"{:.0}\" stroke=\"#333\" stroke-dasharray=\"4 3\"/>\
             <text x=\"{line:.0}\" y=\"18\" text-anchor=\"middle\">what the bound allows</text>",
            height - 16.0
        )
        .ok();
        svg.push_str("</svg>\n");
        svg
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::figure::Figure;

    fn line(ratio: Option<f64>, bound: Bound) -> Line {
        Line {
            what: "a < b".into(),
            ours: 20.0,
            theirs: ratio.map(|ratio| 20.0 / ratio),
            against: ratio.map(|_| "nginx"),
            ratio,
            unit: "µs",
            runs: 3,
            bound,
            conditions: String::new(),
        }
    }

    #[test]
    fn a_bound_is_of_the_ratio_where_there_is_one_and_of_the_value_else() {
        for (line, holds, share) in [
            (line(Some(2.0), Bound::AtMost(1.0)), false, 2.0),
            (line(Some(2.0), Bound::AtLeast(1.0)), true, 0.5),
            (line(None, Bound::AtMost(40.0)), true, 0.5),
            (line(None, Bound::AtLeast(40.0)), false, 2.0),
        ] {
            assert_eq!(line.holds(), Some(holds), "{line:?}");
            assert!((line.share().unwrap() - share).abs() < 1e-9, "{line:?}");
        }
        assert_eq!(line(None, Bound::Stated).holds(), None);
    }

    #[test]
    fn a_figure_is_named_and_bounded() {
        let rows = [
            Figure::beside("cost", "µs", &[3.0], &[2.0]),
            Figure::of("other", "µs", &[1.0]),
        ];
        let figures = Figures::new(rows, Path::new("/"), "once".into()).unwrap();
        let lines = of_figures(&figures, &[("cost", "a scan's cost", Bound::AtMost(1.3))]);
        let [line] = lines.as_slice() else {
            panic!("{lines:?}")
        };
        assert_eq!((line.what.as_str(), line.holds()), ("a scan's cost", Some(false)));
        assert_eq!((line.ratio, line.conditions.as_str()), (Some(1.5), "once"));
    }

    #[test]
    fn table_and_picture_tell_what_is_missed() {
        let table = Table {
            lines: vec![
                line(Some(2.0), Bound::AtMost(1.5)),
                line(None, Bound::AtMost(40.0)),
                line(None, Bound::Stated),
            ],
            missing: vec![Missing {
                what: "a webhook".into(),
                bound: Bound::AtMost(25.0),
                unit: "ms",
                why: "there is no node".into(),
            }],
            machine: Machine::read(Path::new("/")).unwrap(),
        };
        let text = table.to_string();
        assert!(
            text.contains("a webhook NOT MEASURED (≤ 25.0 ms): there is no node"),
            "{text}"
        );
        let json = serde_json::to_value(&table).unwrap();
        assert_eq!(json["missing"][0]["why"], "there is no node", "{json}");
        assert!(
            text.contains("2.00× of 10.0 (nginx)") && text.contains("≤ 1.50× MISSED"),
            "{text}"
        );
        assert!(text.lines().nth(1).unwrap().ends_with("≤ 40.0 kept"), "{text}");
        let picture = table.picture();
        assert_eq!(picture.matches("<rect x=").count(), 2, "{picture}");
        assert!(
            picture.contains("a &lt; b") && picture.contains("#c2572b"),
            "{picture}"
        );
    }
}
