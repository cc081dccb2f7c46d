//! Where a command's result goes: a table for a person at a terminal, JSON for everything else.
//!
//! The JSON is one object per result, exactly as REST answers it ([`crate::shape`]); tables are made from that
//! same JSON, so that both always tell the same. What strangers wrote is escaped in tables; in JSON it is data.

use std::io::{self, IsTerminal, Write};

use comfy_table::{ContentArrangement, Table, presets};
use serde_json::Value;

use crate::{escape::printable, shape};

/// Columns used when the terminal does not say how many it has.
const WIDTH_DEFAULT: u16 = 100;

/// How results are shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Format {
    /// Tables of this many columns.
    Text {
        /// Of the terminal.
        width: u16,
    },
    /// JSON on several lines, for a person who asked for it.
    PrettyJson,
    /// JSON, one object a line.
    Json,
}

/// A column of a list: its title, and the field it shows (`privacy.ip` for nested ones).
pub(crate) type Column = (&'static str, &'static str);

/// A command's standard output.
pub(crate) struct Output {
    to: Box<dyn Write + Send>,
    format: Format,
}

impl Output {
    /// The process's standard output: tables if it is a terminal and JSON was not asked for.
    pub(crate) fn stdout(wants: Wants) -> Self {
        let format = match (io::stdout().is_terminal(), wants) {
            (false, _) => Format::Json,
            (true, Wants::Json) => Format::PrettyJson,
            (true, Wants::Default) => Format::Text {
                width: terminal_width(),
            },
        };
        Self::new(Box::new(io::stdout()), format)
    }

    /// Any writer.
    pub(crate) fn new(to: Box<dyn Write + Send>, format: Format) -> Self {
        Self { to, format }
    }

    /// Whether a person reads it.
    pub(crate) fn is_text(&self) -> bool {
        matches!(self.format, Format::Text { .. })
    }

    /// One line for a person; nothing when the output is JSON.
    pub(crate) fn say(&mut self, line: &str) -> io::Result<()> {
        if self.is_text() {
            writeln!(self.to, "{line}")?;
            self.to.flush()?;
        }
        Ok(())
    }

    /// A single resource or result: all of its fields.
    pub(crate) fn one<M: shape::Shown>(&mut self, message: &M) -> io::Result<()> {
        self.details(&shape::json(message))
    }

    /// A page of a list.
    pub(crate) fn page<M: shape::Shown>(&mut self, message: &M, columns: &[Column]) -> io::Result<()> {
        self.rows(&shape::json(message), columns)
    }

    /// An object whose first list is shown as a table.
    pub(crate) fn rows(&mut self, page: &Value, columns: &[Column]) -> io::Result<()> {
        let Format::Text { width } = self.format else {
            return self.object(page);
        };
        let rows = page
            .as_object()
            .into_iter()
            .flatten()
            .find_map(|(_, field)| field.as_array());
        match rows {
            Some(rows) if !rows.is_empty() => writeln!(self.to, "{}", list(rows, columns, width))?,
            _ => writeln!(self.to, "none")?,
        }
        if let Some(token) = page["next_page_token"].as_str().filter(|token| !token.is_empty()) {
            writeln!(self.to, "\nmore: add --page-token {}", printable(token))?;
        }
        self.to.flush()
    }

    /// One row of a stream: a line for a person, or an object on a line of its own.
    pub(crate) fn row(&mut self, object: &Value, line: &str) -> io::Result<()> {
        match self.format {
            Format::Text { .. } => self.say(line),
            Format::Json | Format::PrettyJson => self.object(object),
        }
    }

    /// Something was done that has no result: `{}` in JSON.
    pub(crate) fn done(&mut self, said: &str) -> io::Result<()> {
        match self.format {
            Format::Text { .. } => self.say(said),
            Format::Json | Format::PrettyJson => self.object(&Value::Object(serde_json::Map::new())),
        }
    }

    /// A secret that is shown this once, said so that nobody overlooks it. In JSON it stands in its resource.
    pub(crate) fn secret(&mut self, what: &str, secret: Option<&str>) -> io::Result<()> {
        let Some(secret) = secret.filter(|secret| !secret.is_empty()) else {
            return Ok(());
        };
        self.say(&format!(
            "\nThis {what} is shown only now. Keep it:\n\n  {}\n",
            printable(secret)
        ))
    }

    /// Any JSON object.
    pub(crate) fn object(&mut self, object: &Value) -> io::Result<()> {
        match self.format {
            Format::PrettyJson => writeln!(self.to, "{object:#}")?,
            Format::Json | Format::Text { .. } => writeln!(self.to, "{object}")?,
        }
        self.to.flush()
    }

    fn details(&mut self, object: &Value) -> io::Result<()> {
        if !self.is_text() {
            return self.object(object);
        }
        writeln!(self.to, "{}", details(object))?;
        self.to.flush()
    }
}

/// What the caller said about the format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wants {
    /// Nothing.
    Default,
    /// `--json`.
    Json,
}

fn terminal_width() -> u16 {
    rustix::termios::tcgetwinsize(io::stdout()).map_or(WIDTH_DEFAULT, |size| match size.ws_col {
        0 => WIDTH_DEFAULT,
        columns => columns,
    })
}

/// Without wrapping: the terminal does that, and what it wraps is still copied, clicked and searched as one.
fn table() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.force_no_tty();
    table
}

/// The columns it takes: a blank on both sides of each cell, of which the last one is not printed.
fn natural_width(table: &Table) -> usize {
    let widths = table.column_max_content_widths();
    widths
        .iter()
        .map(|width| usize::from(*width) + 2)
        .sum::<usize>()
        .saturating_sub(1)
}

fn list(rows: &[Value], columns: &[Column], width: u16) -> String {
    let mut wide = table();
    wide.set_header(columns.iter().map(|(title, _)| *title));
    for row in rows {
        wide.add_row(columns.iter().map(|(_, path)| cell(field(row, path))));
    }
    if natural_width(&wide) <= usize::from(width) {
        return wide.trim_fmt();
    }
    // A broken id or link is of no use: a block for each row instead.
    let blocks: Vec<_> = rows.iter().map(|row| block(row, columns)).collect();
    blocks.join("\n\n")
}

fn block(row: &Value, columns: &[Column]) -> String {
    let mut table = table();
    for (title, path) in columns {
        let text = cell(field(row, path));
        if !text.is_empty() {
            table.add_row([(*title).to_owned(), text]);
        }
    }
    table.trim_fmt()
}

fn details(object: &Value) -> String {
    let mut table = table();
    let mut rows = Vec::new();
    collect("", object, &mut rows);
    for (name, text) in rows {
        table.add_row([name, text]);
    }
    table.trim_fmt()
}

/// Fields that say something, those of nested messages under dotted names. Free-form objects stay one cell.
fn collect(prefix: &str, object: &Value, rows: &mut Vec<(String, String)>) {
    const FREE_FORM: [&str; 2] = ["metadata", "recipient"];
    for (name, value) in object.as_object().into_iter().flatten() {
        let path = if prefix.is_empty() {
            name.clone()
        } else {
            format!("{prefix}.{name}")
        };
        match value {
            Value::Object(_) if !FREE_FORM.contains(&name.as_str()) => collect(&path, value, rows),
            Value::Array(items) if items.iter().any(Value::is_object) => {
                for (index, item) in items.iter().enumerate() {
                    collect(&format!("{path}[{index}]"), item, rows);
                }
            }
            _ => {
                let text = cell(value);
                if !text.is_empty() && text != "{}" {
                    rows.push((path, text));
                }
            }
        }
    }
}

fn field<'a>(row: &'a Value, path: &str) -> &'a Value {
    path.split('.')
        .fold(row, |value, name| value.get(name).unwrap_or(&Value::Null))
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => printable(text).into_owned(),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(", "),
        other => printable(&other.to_string()).into_owned(),
    }
}

#[cfg(test)]
pub(crate) mod capture {
    //! An output that a test reads.

    use std::sync::{Arc, Mutex};

    use super::*;

    /// What was written.
    #[derive(Clone, Default)]
    pub(crate) struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Captured {
        pub(crate) fn output(&self, format: Format) -> Output {
            Output::new(Box::new(self.clone()), format)
        }

        pub(crate) fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use qrelay_proto::v1;

    use super::{capture::Captured, *};

    fn codes() -> v1::ListCodesResponse {
        let code = |id: &str, name: &str| v1::Code {
            id: id.to_owned(),
            short_id: "k7m2p9qx".to_owned(),
            name: name.to_owned(),
            destination_url: "https://example.com/spring".to_owned(),
            status: v1::CodeStatus::Active.into(),
            tags: vec!["a".to_owned(), "b".to_owned()],
            version: 3,
            created_at: Some(prost_types::Timestamp {
                seconds: 1_772_548_338,
                nanos: 492_000_000,
            }),
            ..v1::Code::default()
        };
        v1::ListCodesResponse {
            codes: vec![code("code_1", "Spring"), code("code_2", "\u{1b}[2Jgone")],
            next_page_token: "tok".to_owned(),
        }
    }

    const COLUMNS: [Column; 4] = [
        ("ID", "id"),
        ("STATUS", "status"),
        ("NAME", "name"),
        ("TAGS", "tags"),
    ];

    #[test]
    fn a_list_is_a_table_without_anybodys_control_characters() {
        let captured = Captured::default();
        captured
            .output(Format::Text { width: 100 })
            .page(&codes(), &COLUMNS)
            .unwrap();
        insta::assert_snapshot!(captured.text(), @r"
         ID      STATUS  NAME           TAGS
         code_1  active  Spring         a, b
         code_2  active  \u{1b}[2Jgone  a, b

        more: add --page-token tok
        ");
    }

    #[test]
    fn a_list_that_is_too_wide_is_a_block_for_each_row_with_its_links_whole() {
        const WIDE: [Column; 4] = [
            ("ID", "id"),
            ("STATUS", "status"),
            ("CAMPAIGN", "campaign_id"),
            ("DESTINATION", "destination_url"),
        ];
        let captured = Captured::default();
        captured
            .output(Format::Text { width: 30 })
            .page(&codes(), &WIDE)
            .unwrap();
        insta::assert_snapshot!(captured.text(), @r"
         ID           code_1
         STATUS       active
         DESTINATION  https://example.com/spring

         ID           code_2
         STATUS       active
         DESTINATION  https://example.com/spring

        more: add --page-token tok
        ");
    }

    #[test]
    fn a_list_is_a_table_as_long_as_every_row_fits_into_a_line() {
        let shown = |width| {
            let captured = Captured::default();
            captured
                .output(Format::Text { width })
                .page(&codes(), &COLUMNS)
                .unwrap();
            captured.text()
        };
        let table = shown(100);
        let widest = table.lines().map(|line| line.chars().count()).max().unwrap();
        assert_eq!(shown(u16::try_from(widest).unwrap()), table);
        assert!(shown(u16::try_from(widest).unwrap() - 1).contains("\n\n ID"));
    }

    #[test]
    fn a_long_link_of_a_single_resource_is_not_broken() {
        let captured = Captured::default();
        let code = v1::Code {
            destination_url: format!("https://example.com/{}", "a b-".repeat(50)),
            ..v1::Code::default()
        };
        captured.output(Format::Text { width: 40 }).one(&code).unwrap();
        assert!(captured.text().contains(&code.destination_url));
    }

    #[test]
    fn a_page_is_one_json_object_a_line() {
        let captured = Captured::default();
        captured.output(Format::Json).page(&codes(), &COLUMNS).unwrap();
        assert_eq!(captured.text().lines().count(), 1);
        let page: Value = serde_json::from_str(&captured.text()).unwrap();
        assert_eq!(page["codes"][1]["name"], "\u{1b}[2Jgone");
        assert_eq!(page["next_page_token"], "tok");
    }

    #[test]
    fn a_resource_shows_the_fields_that_say_something() {
        let captured = Captured::default();
        let mut code = codes().codes.remove(0);
        code.metadata = Some(shape::object(r#"{"shelf": 4, "deep": {"x": [1.5]}}"#).unwrap());
        captured.output(Format::Text { width: 60 }).one(&code).unwrap();
        insta::assert_snapshot!(captured.text(), @r#"
        id               code_1
        short_id         k7m2p9qx
        name             Spring
        destination_url  https://example.com/spring
        status           active
        tags             a, b
        metadata         {"deep":{"x":[1.5]},"shelf":4}
        version          3
        created_at       2026-03-03T14:32:18.492Z
        "#);
    }

    #[test]
    fn an_empty_page_says_so() {
        let captured = Captured::default();
        let page = v1::ListCodesResponse::default();
        captured
            .output(Format::Text { width: 60 })
            .page(&page, &COLUMNS)
            .unwrap();
        assert_eq!(captured.text(), "none\n");
    }

    #[test]
    fn a_secret_is_said_once_and_in_json_only_by_its_resource() {
        let (text, json) = (Captured::default(), Captured::default());
        text.output(Format::Text { width: 60 })
            .secret("key", Some("qrk_1"))
            .unwrap();
        json.output(Format::Json).secret("key", Some("qrk_1")).unwrap();
        assert!(text.text().contains("  qrk_1\n"));
        assert_eq!(json.text(), "");
    }
}
