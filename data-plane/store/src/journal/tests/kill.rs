//! `kill -9`: a process that journals as fast as it can is killed at any moment; what it said was journaled is there.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Command, Stdio},
};

use super::*;

const CHILD: &str = "QRELAY_TEST_JOURNAL_CHILD";

#[allow(clippy::disallowed_methods, reason = "how the child is told what to do")]
fn child_dir() -> Option<PathBuf> {
    std::env::var(CHILD).ok().map(PathBuf::from)
}

/// Not a test by itself: the process that is killed. It tells each batch once that is journaled.
#[tokio::test]
#[ignore = "run by the test below, in a process of its own"]
async fn child() {
    let Some(dir) = child_dir() else { return };
    let writer = WriterId::random();
    let journal = Journal::open(JournalConfig::new(dir)).unwrap();
    journal.begin(&row(writer), &install()).await.unwrap();
    for seq in 1.. {
        let pair = [batch(P, writer, seq), batch(Q, writer, seq)];
        for written in join_all(pair.map(|batch| journal.write(batch))).await {
            written.unwrap();
        }
        // The harness has the standard output.
        writeln!(std::io::stderr(), "journaled {writer} {seq}").unwrap();
    }
}

/// Runs the child until it has told so many batches, kills it, and returns the last that it told.
fn run_and_kill(dir: &Path, told: usize) -> (WriterId, u64) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "journal::tests::kill::child",
            "--ignored",
            "--nocapture",
        ])
        .env(CHILD, dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut said = lines
        .map(Result::unwrap)
        .filter(|line| line.starts_with("journaled "));
    let mut last = said.nth(told).expect("the child journals");
    child.kill().unwrap();
    child.wait().unwrap();
    // What stood in the pipe was said before the end.
    if let Some(line) = said.filter(|line| line.split(' ').count() == 3).last() {
        last = line;
    }
    let mut words = last.split(' ').skip(1);
    let writer = u64::from_str_radix(words.next().unwrap(), 16).unwrap();
    (WriterId::from_u64(writer), words.next().unwrap().parse().unwrap())
}

#[tokio::test]
async fn nothing_that_was_acknowledged_is_lost_by_kills() {
    let dir = in_memory_dir();
    let mut acknowledged = BTreeMap::new();
    // One after the other on one directory, none of it shipped.
    for told in [0, 3, 50, 17, 1] {
        let (writer, seq) = run_and_kill(dir.path(), told);
        acknowledged.insert(writer, seq);
    }
    let found = recovered(&dir).await;
    for (writer, last) in acknowledged {
        for partition in [P, Q] {
            let own = found
                .iter()
                .filter(|batch| (batch.writer, batch.partition) == (writer, partition));
            let seqs: Vec<_> = own.map(|batch| batch.seq.as_u64()).collect();
            let expected: Vec<_> = (1..=u64::try_from(seqs.len()).unwrap()).collect();
            assert_eq!(seqs, expected, "in order, without gaps");
            assert!(seqs.len() >= usize::try_from(last).unwrap());
        }
    }
}
