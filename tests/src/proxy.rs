//! A TCP proxy that injects faults between any two processes on this machine.
//!
//! Whoever is to be reached through it announces an address of the proxy's instead of its own. Who called is found by the
//! socket that the connection came from: the kernel says which process holds it. So nobody has to be told of the proxy,
//! and the faults between one pair leave all others alone. What an unknown process says passes unharmed.
//!
//! Faults act on connections that are open and on those that are made while they last. Bytes that a [`Fault::Hold`] keeps
//! back come late, when it ends, as they would from a network that lost packets for a while: that is how a write arrives
//! after its sender gave it up.

use std::{
    collections::HashMap,
    fs,
    net::{SocketAddr, SocketAddrV4},
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    runtime::Runtime,
    sync::{mpsc, watch},
    task::spawn_blocking,
    time::{Instant, sleep_until},
};
use tokio_util::task::TaskTracker;

/// What is done to what passes between two.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// Everything takes this much longer, each way.
    Delay(Duration),
    /// Nothing arrives: connections stay, what is sent waits.
    Hold(Way),
    /// Connections break, and new ones too.
    Cut,
}

/// A direction, as the one who made the connection sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// What the caller says.
    There,
    /// What the called one says: its answers.
    Back,
    /// Both.
    Both,
}

impl Fault {
    fn holds(self, way: Way) -> bool {
        matches!(self, Self::Hold(held) if held == way || held == Way::Both)
    }

    fn delay(self) -> Duration {
        match self {
            Self::Delay(delay) => delay,
            _ => Duration::ZERO,
        }
    }
}

/// Where a process's id is found.
#[derive(Clone, Debug)]
enum Process {
    Is(u32),
    /// It stands in a file, which whoever starts it writes.
    In(PathBuf),
}

impl Process {
    fn id(&self) -> Option<u32> {
        match self {
            Self::Is(id) => Some(*id),
            Self::In(file) => fs::read_to_string(file).ok()?.trim().parse().ok(),
        }
    }
}

/// Who calls whom.
type Pair = (String, String);

#[derive(Debug, Default)]
struct State {
    processes: Mutex<HashMap<String, Process>>,
    faults: Mutex<HashMap<Pair, watch::Sender<Fault>>>,
}

/// All proxies of a test. They run on a thread of their own, and end when this is dropped.
#[derive(Debug)]
pub struct Proxies {
    state: Arc<State>,
    runtime: Option<Runtime>,
}

impl Default for Proxies {
    /// None yet.
    fn default() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build();
        Self {
            state: Arc::default(),
            runtime: Some(runtime.unwrap()),
        }
    }
}

impl Drop for Proxies {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Proxies {
    /// Passes on what comes in at an address to whoever is called `name`, who listens at `to`.
    ///
    /// # Panics
    /// When the address is taken.
    pub fn listen(&self, name: &str, at: SocketAddr, to: SocketAddr) {
        let runtime = self
            .runtime
            .as_ref()
            .expect("invariant: it is there until the drop");
        let listener = std::net::TcpListener::bind(at).unwrap();
        listener.set_nonblocking(true).unwrap();
        let (state, name) = (Arc::clone(&self.state), name.to_owned());
        // Ends with the runtime.
        drop(runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            accept(listener, &name, to, state).await;
        }));
    }

    /// From now on this is the process of that name.
    ///
    /// # Panics
    /// Never.
    pub fn is_called(&self, process: u32, name: &str) {
        let mut processes = self.state.processes.lock().unwrap();
        processes.insert(name.to_owned(), Process::Is(process));
    }

    /// The process of that name is the one whose id stands in a file.
    ///
    /// # Panics
    /// Never.
    pub fn is_called_in(&self, file: PathBuf, name: &str) {
        let mut processes = self.state.processes.lock().unwrap();
        processes.insert(name.to_owned(), Process::In(file));
    }

    /// What is between two from now on, whoever calls.
    pub fn set(&self, one: &str, other: &str, fault: Fault) {
        for (caller, called) in [(one, other), (other, one)] {
            self.state.of(caller, called).send_replace(fault);
        }
    }

    /// Ends all faults.
    ///
    /// # Panics
    /// Never.
    pub fn heal(&self) {
        for fault in self.state.faults.lock().unwrap().values() {
            fault.send_replace(Fault::None);
        }
    }
}

impl State {
    fn of(&self, caller: &str, called: &str) -> watch::Sender<Fault> {
        let mut faults = self.faults.lock().unwrap();
        let pair = (caller.to_owned(), called.to_owned());
        faults.entry(pair).or_default().clone()
    }

    /// Which of the processes holds the other end of a connection that came in at `at`.
    fn caller(&self, from: SocketAddrV4, at: SocketAddrV4) -> Option<String> {
        let socket = format!("socket:[{}]", socket(from, at)?);
        let processes = self.processes.lock().unwrap().clone();
        processes
            .into_iter()
            .find(|(_, process)| holds(process, &socket).is_some())
            .map(|(name, _)| name)
    }
}

/// The inode of the socket that is bound to `local` and connected to `remote`.
fn socket(local: SocketAddrV4, remote: SocketAddrV4) -> Option<String> {
    // As the kernel prints them: the address as it lies in memory.
    let printed =
        |at: SocketAddrV4| format!("{:08X}:{:04X}", u32::from_ne_bytes(at.ip().octets()), at.port());
    let (local, remote) = (printed(local), printed(remote));
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    // The table is long where many connections come and go: only the one line is taken apart.
    let line = table.split_once(&format!(" {local} {remote} "))?.1;
    // State, queues, timer, retransmissions, user and time-out come before it.
    line.split_whitespace().nth(6).map(ToOwned::to_owned)
}

/// Something if the process has that socket open.
fn holds(process: &Process, socket: &str) -> Option<()> {
    let files = fs::read_dir(format!("/proc/{}/fd", process.id()?)).ok()?;
    let mut links = files.flatten().filter_map(|file| fs::read_link(file.path()).ok());
    links.any(|link| link.as_os_str() == socket).then_some(())
}

async fn accept(listener: TcpListener, name: &str, to: SocketAddr, state: Arc<State>) {
    let connections = TaskTracker::new();
    loop {
        let Ok((stream, from)) = listener.accept().await else {
            // Too many open files: some will be closed.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        connections.spawn(pass_from(stream, from, name.to_owned(), to, Arc::clone(&state)));
    }
}

/// One connection to whoever is called `name`, who listens at `to`.
async fn pass_from(stream: TcpStream, from: SocketAddr, name: String, to: SocketAddr, state: Arc<State>) {
    let at = stream.local_addr();
    let fault = spawn_blocking(move || {
        let caller = match (from, at) {
            (SocketAddr::V4(from), Ok(SocketAddr::V4(at))) => state.caller(from, at),
            _ => None,
        };
        state
            .of(caller.as_deref().unwrap_or("unknown"), &name)
            .subscribe()
    });
    if let Ok(fault) = fault.await {
        pass_on(stream, to, fault).await;
    }
}

/// One connection, until it ends or is cut.
async fn pass_on(caller: TcpStream, to: SocketAddr, fault: watch::Receiver<Fault>) {
    let mut cuts = fault.clone();
    let cut = async { cuts.wait_for(|fault| *fault == Fault::Cut).await.map(drop) };
    let both = async {
        let called = TcpStream::connect(to).await?;
        caller.set_nodelay(true)?;
        called.set_nodelay(true)?;
        let (from_caller, to_caller) = caller.into_split();
        let (from_called, to_called) = called.into_split();
        tokio::try_join!(
            carry(from_caller, to_called, Way::There, fault.clone()),
            carry(from_called, to_caller, Way::Back, fault.clone()),
        )
    };
    tokio::select! {
        biased;
        // Dropping a connection with bytes that nobody read resets it.
        _ = cut => {}
        // One end broke off: the other sees it when both halves are dropped here.
        _ = both => {}
    }
}

/// Pieces under way in one direction at most: what a delay holds in the meantime.
const UNDER_WAY_MAX: usize = 256;
/// Bytes of a piece at most.
const PIECE_BYTES_MAX: usize = 16 * 1024;

/// One direction of a connection. What was read first is written first, whatever delay it met.
async fn carry(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    way: Way,
    mut fault: watch::Receiver<Fault>,
) -> std::io::Result<()> {
    let (pieces, mut under_way) = mpsc::channel::<(Instant, Vec<u8>)>(UNDER_WAY_MAX);
    let delay = fault.clone();
    let read = async move {
        loop {
            let mut piece = vec![0; PIECE_BYTES_MAX];
            let bytes = from.read(&mut piece).await?;
            piece.truncate(bytes);
            let due = Instant::now() + delay.borrow().delay();
            if bytes == 0 || pieces.send((due, piece)).await.is_err() {
                return Ok(());
            }
        }
    };
    let write = async move {
        while let Some((due, piece)) = under_way.recv().await {
            sleep_until(due).await;
            // Fails when the proxy ends, and the connection then does, too.
            fault.wait_for(|fault| !fault.holds(way)).await.map(drop).ok();
            to.write_all(&piece).await?;
        }
        to.shutdown().await
    };
    tokio::try_join!(read, write).map(drop)
}

#[cfg(test)]
mod tests {
    use tokio::{sync::mpsc::Receiver, task::JoinSet};

    use super::*;
    use crate::wait_until;

    /// Answers with what it is told, and notes it.
    struct Echo {
        at: SocketAddr,
        heard: Receiver<Vec<u8>>,
        _tasks: JoinSet<()>,
    }

    impl Echo {
        async fn start() -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let at = listener.local_addr().unwrap();
            let (hear, heard) = mpsc::channel(64);
            let mut tasks = JoinSet::new();
            tasks.spawn(async move {
                let connections = TaskTracker::new();
                while let Ok((mut stream, _)) = listener.accept().await {
                    let hear = hear.clone();
                    connections.spawn(async move {
                        let mut said = [0; 4];
                        while stream.read_exact(&mut said).await.is_ok() {
                            hear.send(said.to_vec()).await.unwrap();
                            stream.write_all(&said).await.ok();
                        }
                    });
                }
            });
            Self {
                at,
                heard,
                _tasks: tasks,
            }
        }
    }

    async fn answer(stream: &mut TcpStream) -> std::io::Result<[u8; 4]> {
        let mut said = [0; 4];
        stream.read_exact(&mut said).await?;
        Ok(said)
    }

    /// A proxy for the echo, and where it is.
    fn proxied(proxies: &Proxies, name: &str, echo: &Echo) -> SocketAddr {
        let at = std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .unwrap();
        proxies.listen(name, at, echo.at);
        at
    }

    #[tokio::test]
    async fn what_is_held_comes_late_and_nothing_is_lost() {
        let (mut near, mut far) = (Echo::start().await, Echo::start().await);
        let proxies = Proxies::default();
        proxies.is_called(std::process::id(), "here");
        let mut to_near = TcpStream::connect(proxied(&proxies, "near", &near))
            .await
            .unwrap();
        let mut to_far = TcpStream::connect(proxied(&proxies, "far", &far)).await.unwrap();
        proxies.set("here", "far", Fault::Hold(Way::There));
        for said in [b"one.", b"two."] {
            to_far.write_all(said).await.unwrap();
            // The other pair is not concerned.
            to_near.write_all(said).await.unwrap();
            assert_eq!(answer(&mut to_near).await.unwrap(), *said);
        }
        assert!(far.heard.try_recv().is_err(), "it was not held");
        proxies.set("here", "far", Fault::Hold(Way::Back));
        assert_eq!(far.heard.recv().await.unwrap(), b"one.");
        assert_eq!(far.heard.recv().await.unwrap(), b"two.");
        assert_eq!(near.heard.recv().await.unwrap(), b"one.");
        let mut nothing = [0];
        assert!(to_far.try_read(&mut nothing).is_err(), "the answer was not held");
        proxies.set("far", "here", Fault::Delay(Duration::from_millis(20)));
        for said in [b"one.", b"two."] {
            assert_eq!(answer(&mut to_far).await.unwrap(), *said);
        }
    }

    #[tokio::test]
    async fn a_cut_breaks_what_is_open_and_what_is_opened_until_it_heals() {
        let echo = Echo::start().await;
        let proxies = Proxies::default();
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        fs::write(&file, format!("{}\n", std::process::id())).unwrap();
        proxies.is_called_in(file, "here");
        let at = proxied(&proxies, "echo", &echo);
        let mut open = TcpStream::connect(at).await.unwrap();
        open.write_all(b"one.").await.unwrap();
        assert_eq!(answer(&mut open).await.unwrap(), *b"one.");
        proxies.set("echo", "here", Fault::Cut);
        assert!(answer(&mut open).await.is_err());
        let mut another = TcpStream::connect(at).await.unwrap();
        assert!(answer(&mut another).await.is_err());
        proxies.heal();
        wait_until("it is healed", async || {
            let mut healed = TcpStream::connect(at).await.unwrap();
            healed.write_all(b"two.").await.ok()?;
            answer(&mut healed).await.ok()
        })
        .await;
    }

    #[tokio::test]
    async fn what_a_stranger_says_passes() {
        let echo = Echo::start().await;
        let proxies = Proxies::default();
        let at = proxied(&proxies, "echo", &echo);
        proxies.set("here", "echo", Fault::Cut);
        let mut stream = TcpStream::connect(at).await.unwrap();
        stream.write_all(b"one.").await.unwrap();
        assert_eq!(answer(&mut stream).await.unwrap(), *b"one.");
    }
}
