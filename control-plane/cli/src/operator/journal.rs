//! `qrelay journal`: the journal of an edge that will not come back. Unlike the other commands it is no client of the
//! API: it works on the journal's directory, and on the store itself.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use qrelay_store::{
    StoreError,
    id::WriterId,
    journal::{self, DeadWriter, Found, Journal, JournalConfig, JournalError, Trouble, succession},
    reader::end_of,
    sqlite::{self, SqliteStore},
    store::{Heads, SharedStore, WriterRow},
};
use serde_json::{Value, json};

use crate::{
    failure::{Failure, chain},
    output::{Column, Output, Wants},
    up::log_to_stderr,
};

const SEEN: [Column; 7] = [
    ("WRITER", "writer"),
    ("NODE", "node"),
    ("STARTED", "started_at"),
    ("BATCHES", "batches"),
    ("EVENTS", "events"),
    ("LAST", "last_at"),
    ("DAMAGED", "damaged"),
];
const SHIPPED: [Column; 5] = [
    ("WRITER", "writer"),
    ("NODE", "node"),
    ("BATCHES SHIPPED", "batches"),
    ("DAMAGED", "damaged"),
    ("PAST ITS END", "past_the_end"),
];
const LOST: [Column; 6] = [
    ("WRITER", "writer"),
    ("NODE", "node"),
    ("BATCHES LOST", "batches"),
    ("EVENTS LOST", "events"),
    ("FROM", "first_at"),
    ("TO", "last_at"),
];
/// A file of every data directory.
const LOG_FILE: &str = "log.db";

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
    /// Print JSON, also on a terminal
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Show what is in a journal and not in the store yet. Changes nothing, and works while the edge runs
    Inspect {
        /// The journal's directory
        #[arg(long, env = "QRELAY_JOURNAL_DIR", value_name = "DIR")]
        journal_dir: PathBuf,
    },
    /// Put what is in a dead edge's journal into its store, and close its writers
    Ship {
        /// The journal's directory
        #[arg(long, env = "QRELAY_JOURNAL_DIR", value_name = "DIR")]
        journal_dir: PathBuf,
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Give up what is in a dead edge's journal, or a journal that is lost: its writers are closed where the store's
    /// part ends, and what lies past that is delivered to nobody
    Abandon {
        /// The journal's directory; its files are kept aside in it
        #[arg(long, value_name = "DIR")]
        journal_dir: Option<PathBuf>,
        /// A writer whose journal is lost, as the log and `qrelay journal inspect` name it; may be given several times
        #[arg(long, value_name = "WRITER", value_parser = writer, conflicts_with = "journal_dir", required_unless_present = "journal_dir")]
        writer: Vec<WriterId>,
        #[command(flatten)]
        store: StoreArgs,
        /// Do it. Without this, what would be lost is told, and nothing is done
        #[arg(long)]
        yes: bool,
    },
}

/// Which store.
#[derive(clap::Args, Debug)]
struct StoreArgs {
    /// The data directory of the embedded store, which no process may be using
    #[arg(long, env = "QRELAY_DATA_DIR", value_name = "DIR")]
    data_dir: PathBuf,
}

fn writer(text: &str) -> Result<WriterId, String> {
    match u64::from_str_radix(text, 16) {
        Ok(number) if text.len() == 12 => Ok(WriterId::from_u64(number)),
        _ => Err("a writer is named by 12 hexadecimal digits".to_owned()),
    }
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let mut out = Output::stdout(if args.json { Wants::Json } else { Wants::Default });
    // What cannot be read, and why it takes long.
    log_to_stderr("warn")?;
    match args.action {
        Action::Inspect { journal_dir } => inspect(&journal_dir, &mut out),
        Action::Ship { journal_dir, store } => ship(journal_dir, &store, &mut out).await,
        Action::Abandon {
            journal_dir,
            writer,
            store,
            yes,
        } => {
            let abandoned = Abandon::new(journal_dir, writer, &store).await?;
            abandoned.run(yes, &mut out).await
        }
    }
}

fn inspect(dir: &Path, out: &mut Output) -> Result<(), Failure> {
    check_directory(dir)?;
    let seen = journal::inspect(dir).map_err(cannot_use)?;
    let mut writers = Vec::new();
    for dead in &seen.writers {
        writers.push(Contents::of(dead, dir)?.show());
    }
    if let Some(user) = &seen.in_use_by {
        out.say(&format!("in use by {user}; what it has not shipped yet:"))?;
    }
    let shown = json!({
        "in_use_by": seen.in_use_by,
        "kept_aside": seen.aside.len(),
        "writers": writers,
    });
    out.rows(&shown, &SEEN)?;
    if !seen.aside.is_empty() {
        out.say("\nkept aside, because not all that is in them is in the store:")?;
    }
    for file in &seen.aside {
        out.say(&format!("  {}", file.display()))?;
    }
    Ok(())
}

async fn ship(dir: PathBuf, store: &StoreArgs, out: &mut Output) -> Result<(), Failure> {
    let journal = open(dir.clone())?;
    let store = store.open()?;
    journal.check_install(store.install()).map_err(cannot_use)?;
    let (mut shown, mut not_shipped) = (Vec::new(), Vec::new());
    for dead in journal.left() {
        let told = qrelay_store::seldom::Seldom::new(std::time::Duration::from_secs(10));
        let done = succession::succeed(&journal, &store, &dead, |error| {
            if told.happened().is_some() {
                // The person who waits is to see why.
                tracing::warn!(%error, writer = %dead.writer, "cannot ship the journal yet; trying again");
            }
        })
        .await;
        shown.push(json!({
            "writer": dead.writer.to_string(),
            "node": dead.marker.as_ref().map(|marker| &marker.node),
            "batches": done.shipped,
            "damaged": done.damaged,
            "past_the_end": done.past_the_end,
        }));
        if done.damaged > 0 {
            not_shipped.push(format!(
                "{}: {} of its pieces cannot be read",
                dead.writer, done.damaged
            ));
        }
        if done.past_the_end > 0 {
            not_shipped.push(format!(
                "{}: it was closed before, and {} batches lie past its end",
                dead.writer, done.past_the_end
            ));
        }
    }
    out.rows(&json!({ "writers": shown }), &SHIPPED)?;
    match not_shipped.is_empty() {
        true => Ok(()),
        false => Err(
            Failure::failed("not all that was in the journal could be shipped")
                .details(not_shipped)
                .hint(format!("the files are kept in {} as *.damaged", dir.display())),
        ),
    }
}

/// Takes the journal of an edge that is dead.
fn open(dir: PathBuf) -> Result<Journal, Failure> {
    check_directory(&dir)?;
    // Opening makes what is not there.
    match journal::is_journal(&dir) {
        true => Journal::open(JournalConfig::new(dir)).map_err(cannot_use),
        false => Err(cannot_use(JournalError::Missing { dir })),
    }
}

/// Both have a lock of the same name.
fn check_directory(dir: &Path) -> Result<(), Failure> {
    match dir.join(LOG_FILE).is_file() {
        true => {
            let message = format!("{} is a data directory, not a journal", dir.display());
            Err(Failure::usage(message).hint("name the directory that the edge had as --journal-dir"))
        }
        false => Ok(()),
    }
}

#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
fn cannot_use(error: JournalError) -> Failure {
    let message = chain(&error);
    match error {
        JournalError::Missing { .. } => {
            Failure::usage(message).hint("name the directory that the edge had as --journal-dir")
        }
        JournalError::InUse { .. } => Failure::failed(message)
            .hint("an edge that runs ships its journal itself; this is for one that will not come back"),
        JournalError::OtherInstall { .. } => {
            Failure::failed(message).hint("name the store that this journal's edge had")
        }
        JournalError::Newer { .. } | JournalError::Directory { .. } => Failure::failed(message),
    }
}

impl StoreArgs {
    fn open(&self) -> Result<SharedStore, Failure> {
        // A store that is made here would be empty, and take anything.
        if !self.data_dir.join(LOG_FILE).is_file() {
            let message = format!("{} is no data directory", self.data_dir.display());
            return Err(Failure::usage(message).hint("name the one that the edge's `qrelay up` had"));
        }
        let store = SqliteStore::open(&self.data_dir, &sqlite::Options::default());
        let store = store.map_err(|error| {
            let failure = Failure::because("cannot open the store", &error);
            match error {
                sqlite::OpenError::InUse { .. } => failure.hint(
                    "stop the process that uses it; or start `qrelay up` with the journal, which ships it",
                ),
                _ => failure,
            }
        })?;
        Ok(store)
    }
}

/// What a dead writer's journal holds.
struct Contents {
    dead: DeadWriter,
    found: Vec<Found>,
    damaged: usize,
}

impl Contents {
    fn of(dead: &DeadWriter, dir: &Path) -> Result<Self, Failure> {
        let contents = dead
            .contents()
            .map_err(|error| Failure::because(&format!("cannot read {}", dir.display()), &error))?;
        let damage = contents.iter().flat_map(|file| &file.troubles);
        let damaged = damage.filter(|trouble| matches!(trouble, Trouble::Damaged { .. }));
        Ok(Self {
            dead: dead.clone(),
            damaged: damaged.count(),
            found: contents.into_iter().flat_map(|file| file.found).collect(),
        })
    }

    fn show(&self) -> Value {
        let marker = self.dead.marker.as_ref();
        let mut shown = summary(self.found.iter());
        shown["writer"] = json!(self.dead.writer.to_string());
        shown["node"] = json!(marker.map(|marker| marker.node.clone()));
        shown["started_at"] = json!(marker.map(|marker| marker.registered_at.to_string()));
        shown["damaged"] = json!(self.damaged);
        shown
    }

    /// What lies past `last`.
    fn lost(&self, last: &Heads) -> Value {
        let past = |found: &&Found| {
            let end = last.get(&found.partition).copied().unwrap_or_default();
            found.seq > end
        };
        let mut lost = summary(self.found.iter().filter(past));
        lost["damaged"] = json!(self.damaged);
        lost
    }
}

fn summary<'a>(found: impl Iterator<Item = &'a Found> + Clone) -> Value {
    let events: u64 = found.clone().map(|found| u64::from(found.count)).sum();
    let time = |at: Option<qrelay_store::Timestamp>| at.map(|at| at.to_string());
    json!({
        "batches": found.clone().count(),
        "events": events,
        "first_at": time(found.clone().map(|found| found.first_at).min()),
        "last_at": time(found.map(|found| found.last_at).max()),
    })
}

/// Writers to be closed where the store's part of them ends.
struct Abandon {
    store: SharedStore,
    journal: Option<Journal>,
    writers: Vec<GivenUp>,
}

/// One of them.
struct GivenUp {
    writer: WriterId,
    /// None for one that the store does not know.
    row: Option<WriterRow>,
    /// Where the store's part of it ends.
    last: Heads,
    /// None when the journal is lost.
    contents: Option<Contents>,
}

impl Abandon {
    async fn new(dir: Option<PathBuf>, lost: Vec<WriterId>, args: &StoreArgs) -> Result<Self, Failure> {
        let mut named: Vec<(WriterId, Option<Contents>)> =
            lost.into_iter().map(|writer| (writer, None)).collect();
        let mut journal = None;
        if let Some(dir) = dir {
            let opened = open(dir.clone())?;
            for dead in opened.left() {
                named.push((dead.writer, Some(Contents::of(&dead, &dir)?)));
            }
            journal = Some(opened);
        }
        let store = args.open()?;
        if let Some(journal) = &journal {
            journal.check_install(store.install()).map_err(cannot_use)?;
        }
        let rows = store.writers().await.map_err(|error| failed(&error))?;
        let mut writers = Vec::new();
        for (writer, contents) in named {
            let row = rows.iter().find(|row| row.writer == writer).cloned();
            if row.is_none() && contents.is_none() {
                return Err(Failure::usage(format!("the store knows no writer {writer}")));
            }
            let last = match &row {
                None => Heads::new(),
                Some(row) => match &row.closed {
                    Some(last) => last.clone(),
                    None => end_of(&store, row, &Heads::new())
                        .await
                        .map_err(|error| failed(&error))?,
                },
            };
            writers.push(GivenUp {
                writer,
                row,
                last,
                contents,
            });
        }
        Ok(Self {
            store,
            journal,
            writers,
        })
    }

    async fn run(self, confirmed: bool, out: &mut Output) -> Result<(), Failure> {
        let shown: Vec<_> = self.writers.iter().map(GivenUp::show).collect();
        out.rows(&json!({ "writers": shown }), &LOST)?;
        if !confirmed && !self.writers.is_empty() {
            return Err(Failure::usage("nothing was done").hint(
                "add --yes to give these up for good: their scans were answered, and will be delivered to nobody",
            ));
        }
        for given_up in self.writers.iter().filter(|given_up| given_up.row.is_some()) {
            let closed = self.store.close_writer(given_up.writer, &given_up.last).await;
            closed.map_err(|error| failed(&error))?;
        }
        // Now that they are closed, the files of what lies past their ends are put aside.
        let Some(journal) = &self.journal else {
            return Ok(());
        };
        for given_up in self.writers {
            if let Some(contents) = given_up.contents {
                let done = succession::abandon(journal, &contents.dead, given_up.last).await;
                done.map_err(|error| Failure::because("cannot change the journal", &error))?;
            }
        }
        Ok(())
    }
}

impl GivenUp {
    fn show(&self) -> Value {
        let contents = self.contents.as_ref();
        // Of a journal that is gone nobody knows what was in it.
        let mut shown = contents.map_or_else(|| json!({}), |contents| contents.lost(&self.last));
        let marker = contents.and_then(|contents| contents.dead.marker.as_ref());
        let node = self.row.as_ref().map(|row| &row.node);
        shown["writer"] = json!(self.writer.to_string());
        shown["node"] = json!(node.or(marker.map(|marker| &marker.node)));
        shown
    }
}

fn failed(error: &StoreError) -> Failure {
    Failure::because("the store failed", error)
}

#[cfg(test)]
#[path = "journal_tests.rs"]
pub(crate) mod tests;
