//! Promises 1 and 2 with the store away: redirects go on, and every answered scan is delivered once it is back, whatever
//! became of the process in between.
//!
//! The store is made to hang from outside: this process takes the lock of the log's file, and the server's commits wait
//! for it in vain.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use qrelay_tests::{
    http,
    receiver::{Behaviour, Receiver},
    server::{Server, Setup, code_and_endpoint},
    wait_until,
};
use rusqlite::Connection;
use serde_json::Value;
use tokio::task::{JoinSet, spawn_blocking};

/// People who scan at once.
const PEOPLE: usize = 6;
/// Scans that are answered from the journal before the process is killed.
const ANSWERED: usize = 60;

/// Nobody can commit to the log while this lives.
struct Hung(Connection);

impl Hung {
    fn log(data_dir: &Path) -> Self {
        let connection = Connection::open(data_dir.join("log.db")).unwrap();
        connection
            .busy_timeout(std::time::Duration::from_secs(60))
            .unwrap();
        connection.execute_batch("BEGIN IMMEDIATE").unwrap();
        Self(connection)
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        self.0.execute_batch("ROLLBACK").unwrap();
    }
}

/// A data directory, a journal beside it, and a receiver that takes everything.
struct Place {
    _dir: tempfile::TempDir,
    data: PathBuf,
    journal: PathBuf,
    receiver: Receiver,
    /// The events of all scans that were answered.
    answered: Vec<String>,
}

impl Place {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self {
            data: dir.path().join("data"),
            journal: dir.path().join("journal"),
            receiver: Receiver::start(Behaviour::Accept).await,
            answered: Vec::new(),
            _dir: dir,
        }
    }

    fn plain(&self) -> Setup {
        Setup::new(super::BINARY, &self.data)
    }

    async fn with_code(&self, server: &Server) {
        let (_, api) = server.admin().tenant("journal").await;
        code_and_endpoint(&api, "journal", &self.receiver.url()).await;
    }

    /// Scans until the store hangs and the journal has answered some, and kills the server in the middle of that. Gives the
    /// store free then.
    async fn kill_while_it_journals(&mut self, server: Server) {
        // The code is cached before the store hangs.
        let first = wait_until("a scan is answered", async || scan(server.edge()).await.ok()?).await;
        self.answered.push(first);
        let hung = Hung::log(&self.data);
        let (mut people, count) = (JoinSet::new(), Arc::new(AtomicUsize::new(0)));
        for _ in 0..PEOPLE {
            people.spawn(scan_until_it_is_gone(server.edge(), Arc::clone(&count)));
        }
        wait_until("scans are answered without the store", async || {
            (count.load(Ordering::SeqCst) >= ANSWERED).then_some(())
        })
        .await;
        let unshipped = server.metric("qrelay_journal_unshipped_batches").await;
        assert!(unshipped > 0.0, "{unshipped}");
        assert!(server.log().contains("they go to the journal"), "it is told");
        server.kill();
        while let Some(events) = people.join_next().await {
            self.answered.extend(events.unwrap());
        }
        drop(hung);
    }

    async fn all_is_delivered(&self) {
        wait_until("every answered scan is delivered", async || {
            let accepted = self.receiver.accepted();
            let missing = self.answered.iter().find(|id| !accepted.contains_key(*id));
            missing.is_none().then_some(())
        })
        .await;
    }

    /// `qrelay journal …`: its exit code, output and complaints.
    async fn command(&self, words: &[&str]) -> (Option<i32>, Value, String) {
        let mut command = Command::new(super::BINARY);
        command.arg("journal").args(words).stdin(Stdio::null());
        let output = output(command).await;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let shown = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        (output.status.code(), shown, said)
    }
}

/// Scans: the event, if it was redirected.
async fn scan(edge: SocketAddr) -> anyhow::Result<Option<String>> {
    let answer = http::get(edge, "/journal").await?;
    let event = answer.headers().get("x-qrelay-scan");
    assert_eq!(event.is_some(), answer.status() == 302);
    Ok(event.map(|event| event.to_str().unwrap().to_owned()))
}

/// One person after the other: the events of those who were redirected.
async fn scan_until_it_is_gone(edge: SocketAddr, count: Arc<AtomicUsize>) -> Vec<String> {
    let mut events = Vec::new();
    while let Ok(event) = scan(edge).await {
        // A machine that is too slow refuses some.
        if let Some(event) = event {
            events.push(event);
            count.fetch_add(1, Ordering::SeqCst);
        }
    }
    events
}

async fn output(mut command: Command) -> Output {
    let done = spawn_blocking(move || command.output()).await;
    done.unwrap().unwrap()
}

async fn refused_without_its_journal(plain: &Setup) {
    let mut command = plain.command();
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = output(command).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("--journal-dir"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redirects_go_on_without_the_store_and_nothing_is_lost_by_kills_in_the_middle() {
    let mut place = Place::new().await;
    let plain = place.plain();
    let journaled = plain
        .clone()
        .with(&["--journal-dir", place.journal.to_str().unwrap()]);
    let mut server = journaled.start().await;
    place.with_code(&server).await;
    for _ in 0..2 {
        place.kill_while_it_journals(server).await;
        refused_without_its_journal(&plain).await;
        server = journaled.start().await;
    }
    place.all_is_delivered().await;
    wait_until("nothing is left in the journal", async || {
        let files = std::fs::read_dir(&place.journal).unwrap();
        let mut names = files.map(|file| file.unwrap().path());
        (!names.any(|name| name.extension() == Some("journal".as_ref()))).then_some(())
    })
    .await;
    server.stop().await;
    // So it is not needed any more.
    plain.start().await.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_journal_of_an_edge_that_does_not_come_back_is_shipped_by_hand() {
    let mut place = Place::new().await;
    let plain = place.plain();
    let (journal, data) = (
        place.journal.display().to_string(),
        place.data.display().to_string(),
    );
    let server = plain.clone().with(&["--journal-dir", &journal]).start().await;
    place.with_code(&server).await;
    let (code, shown, said) = place.command(&["inspect", "--journal-dir", &journal]).await;
    assert_eq!(
        (code, shown["in_use_by"].is_string()),
        (Some(0), true),
        "{shown} {said}"
    );
    let ship = ["ship", "--journal-dir", &journal, "--data-dir", &data];
    let (code, _, said) = place.command(&ship).await;
    assert_eq!(
        (code, said.contains("in use by process")),
        (Some(1), true),
        "{said}"
    );

    place.kill_while_it_journals(server).await;
    let (code, shown, said) = place.command(&["inspect", "--journal-dir", &journal]).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(shown["in_use_by"].is_null(), "{shown}");
    let events = shown["writers"][0]["events"].as_u64().unwrap();
    assert!(usize::try_from(events).unwrap() >= ANSWERED, "{shown}");
    let (code, shown, said) = place.command(&ship).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(shown["writers"][0]["batches"].as_u64().unwrap() > 0, "{shown}");

    // The store goes on without that edge's journal.
    let server = plain.start().await;
    place.all_is_delivered().await;
    server.stop().await;
}
