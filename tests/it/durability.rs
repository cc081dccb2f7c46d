//! Promise 1 beneath the page cache: no 302 leaves before the fdatasync that covers its scan.
//!
//! `kill -9` keeps what was written, so only the order of system calls can show this. Each scan carries a marker in
//! its query, which the record keeps as plain text: the marker is seen in the request that is read, in the
//! page that is written to the log's WAL, and the redirect goes out on the same descriptor.

use std::{collections::HashMap, path::Path};

use qrelay_tests::{http, server::Setup};
use serde_json::json;
use tokio::task::JoinSet;

const SCANS: usize = 200;
const AT_ONCE: usize = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs strace: run by make test"]
async fn no_redirect_leaves_before_the_fdatasync_that_covers_its_scan() {
    let dir = tempfile::tempdir().unwrap();
    let trace = dir.path().join("trace");
    let mut setup = Setup::new(super::BINARY, &dir.path().join("data"));
    let calls = "trace=read,recvfrom,readv,write,writev,sendto,sendmsg,pwrite64,pwritev,fsync,fdatasync";
    let wrapper = [
        "strace",
        "-f",
        "-y",
        "-s",
        "200000",
        "-e",
        calls,
        "-o",
        &trace.display().to_string(),
    ];
    setup.wrapper = wrapper.map(String::from).to_vec();

    let mut server = setup.start().await;
    let (_, api) = server.admin().tenant("durability").await;
    api.post(
        "/v1/codes",
        json!({"short_id": "sync", "destination_url": "https://example.com/"}),
    )
    .await;
    let mut people = JoinSet::new();
    for person in 0..AT_ONCE {
        let edge = server.edge();
        people.spawn(async move {
            for scan in 0..SCANS / AT_ONCE {
                let answer = http::get(edge, &format!("/sync?m=marker-{person}-{scan}-end"))
                    .await
                    .unwrap();
                assert_eq!(answer.status(), 302);
            }
        });
    }
    while let Some(done) = people.join_next().await {
        done.unwrap();
    }
    // The wrapper passes SIGTERM on to nobody: the server itself is its only child.
    terminate_traced(&setup.data_dir);
    // A tracer that is killed first can take the signal with it, and the server would live on.
    server.ended().await;

    let redirects = check_trace(&trace);
    println!("{redirects} redirects, each after the fdatasync that covers its scan");
    assert_eq!(redirects, SCANS);
}

/// strace ends when the traced process does; the process is found by its data directory.
fn terminate_traced(data_dir: &Path) {
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<i32>().ok())
        else {
            continue;
        };
        let words = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words: Vec<_> = words.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect();
        let traced = words
            .first()
            .is_some_and(|first| first.ends_with(b"qrelay-under-test"));
        if traced
            && words
                .iter()
                .any(|word| word == data_dir.as_os_str().as_encoded_bytes())
        {
            let pid = rustix::process::Pid::from_raw(pid).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        }
    }
}

#[derive(Default)]
struct Order {
    /// By marker: when the page with it had been written (line number).
    written: HashMap<String, usize>,
    /// Syncs of the log's WAL: (began, ended).
    syncs: Vec<(usize, usize)>,
    /// By descriptor: the marker of the request that was read last.
    asked: HashMap<String, String>,
    /// By thread: a call that was interrupted in the trace.
    unfinished: HashMap<String, (usize, String)>,
    redirects: usize,
}

fn check_trace(trace: &Path) -> usize {
    let text = String::from_utf8_lossy(&std::fs::read(trace).unwrap()).into_owned();
    let mut order = Order::default();
    for (number, line) in text.lines().enumerate() {
        let (thread, call) = line
            .split_once(' ')
            .expect("strace -f begins each line with the thread");
        let call = call.trim_start();
        if let Some(begin) = call.strip_suffix(" <unfinished ...>") {
            // What a call sends out has left when it begins.
            order.sent(number, begin);
            order
                .unfinished
                .insert(thread.to_owned(), (number, begin.to_owned()));
        } else if let Some((_, rest)) = call.split_once(" resumed>") {
            let (began, begin) = order.unfinished.remove(thread).expect("a resumed call was begun");
            order.ended(began, number, &(begin + rest));
        } else {
            order.sent(number, call);
            order.ended(number, number, call);
        }
    }
    order.redirects
}

impl Order {
    /// A call began: what it sends must be covered.
    fn sent(&mut self, began: usize, call: &str) {
        let sends = ["write(", "writev(", "sendto(", "sendmsg("]
            .iter()
            .any(|name| call.starts_with(name));
        if !sends || !call.contains("HTTP/1.1 302") {
            return;
        }
        let marker = self
            .asked
            .remove(descriptor(call))
            .expect("a redirect answers a request that was read");
        let written = *self
            .written
            .get(&marker)
            .unwrap_or_else(|| panic!("{marker}: answered before it was written"));
        let covered = self
            .syncs
            .iter()
            .any(|(sync_began, ended)| *sync_began > written && *ended < began);
        assert!(
            covered,
            "{marker}: answered at line {began}, written at {written}, and no fdatasync between"
        );
        self.redirects += 1;
    }

    /// A call ended.
    fn ended(&mut self, began: usize, ended: usize, call: &str) {
        let name = call.split('(').next().unwrap_or("");
        let log = descriptor(call).contains("log.db-wal");
        match name {
            "read" | "recvfrom" | "readv" if call.contains("GET /sync?m=") => {
                let marker = markers(call).next().expect("each scan carries a marker");
                self.asked.insert(descriptor(call).to_owned(), marker);
            }
            "pwrite64" | "pwritev" | "write" if log => {
                for marker in markers(call) {
                    self.written.entry(marker).or_insert(ended);
                }
            }
            "fdatasync" | "fsync" if log && call.trim_end().ends_with("= 0") => {
                self.syncs.push((began, ended))
            }
            _ => {}
        }
    }
}

/// `12</path>` or `12<TCP:[…]>` of `call(12</path>, …`.
fn descriptor(call: &str) -> &str {
    let rest = call.split_once('(').map_or("", |(_, rest)| rest);
    let end = rest.find('>').map_or(rest.len(), |at| at + 1);
    // `TCP:[127.0.0.1:1->127.0.0.1:2]` holds a `>` of its own; the number before it is enough.
    rest[..end].split("->").next().unwrap_or(rest)
}

fn markers(call: &str) -> impl Iterator<Item = String> {
    call.match_indices("marker-").filter_map(|(at, _)| {
        let rest = &call[at..];
        rest.find("-end").map(|end| rest[..end].to_owned())
    })
}
