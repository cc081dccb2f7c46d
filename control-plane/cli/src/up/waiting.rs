//! Opens the store, however long that takes: the nodes of a cluster may be started after us.
//!
//! Only what may pass by itself is waited for ([`scylla::OpenError::may_pass`]); all else ends the start at once. Meanwhile the
//! operations listener answers: the process lives, and is not ready, and why. Whoever drops this gives up.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use qrelay_store::limits;
use tokio::{net::TcpListener, time::sleep};
use tokio_util::sync::CancellationToken;

use super::{
    config::StoreConfig,
    error::StartError,
    opened::Opened,
    ops::{self, Metrics, Readiness},
    roles::Ground,
};
use crate::failure::chain;

/// Why the store is not open yet.
#[derive(Default)]
struct Obstacle(Mutex<Option<String>>);

impl Obstacle {
    fn is(&self, reason: String) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason);
    }
}

impl Readiness for Obstacle {
    fn obstacles(&self) -> Vec<String> {
        let reason = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        vec![reason.unwrap_or_else(|| "the store is being opened".to_owned())]
    }
}

/// Opens a cluster's keyspace, and serves the operations listener until it is.
///
/// # Errors
/// When the keyspace cannot be used and that does not pass by itself.
pub(super) async fn open(
    config: &StoreConfig,
    metrics: Metrics,
    listener: &Arc<TcpListener>,
    bound: SocketAddr,
) -> Result<(Opened, Ground), StartError> {
    let (obstacle, stop) = (Arc::<Obstacle>::default(), CancellationToken::new());
    // However this ends.
    let _stopped = stop.clone().drop_guard();
    let readiness: Arc<dyn Readiness> = Arc::clone(&obstacle) as _;
    tokio::select! {
        biased;
        opened = until_open(config, bound, &obstacle) => opened,
        () = ops::serve(Arc::clone(listener), metrics, readiness, stop) => {
            unreachable!("invariant: nobody has stopped it")
        }
    }
}

async fn until_open(
    config: &StoreConfig,
    ops: SocketAddr,
    obstacle: &Obstacle,
) -> Result<(Opened, Ground), StartError> {
    let (mut pause, mut tries) = (limits::STORE_WAIT_FIRST, 0_u32);
    loop {
        let error = match Opened::open(config).await {
            Err(error) if error.may_pass() => error,
            opened => {
                if tries > 0 && opened.is_ok() {
                    tracing::info!(tries, "the store is there");
                }
                return opened;
            }
        };
        tries += 1;
        let reason = chain(&error);
        if tries.is_power_of_two() {
            // Ever more rarely, as the pauses grow.
            tracing::warn!(error = reason, hint = error.hint(), ops_listen = %ops, tries, "the store cannot be used yet; trying again until it can");
        }
        obstacle.is(format!("the store cannot be used yet: {reason}"));
        sleep(pause).await;
        pause = next_pause(pause);
    }
}

fn next_pause(pause: Duration) -> Duration {
    (pause * 2).min(limits::STORE_WAIT_MAX)
}
