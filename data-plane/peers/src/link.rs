//! Tells one other process, over one stream: a message, its answer, the next message.
//!
//! Nothing waits in a queue: a message is made of what was said since the last one that was answered. After a failure it is
//! made again, on a new stream, after a growing pause.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use qrelay_proto::internal::{TellRequest, TellResponse, hint_service_client::HintServiceClient};
use qrelay_store::{hints::Tidings, id::PartitionId, limits, store::SharedStore};
use tokio::{
    sync::{mpsc, watch},
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Status, Streaming,
    transport::{Channel, Endpoint},
};

use crate::{
    key::{Challenge, InstallKey},
    roster::Roster,
    wire,
};

/// The first pause after a failure.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// How often a connection without messages is looked at.
const PING_PERIOD: Duration = Duration::from_secs(10);

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("cannot connect")]
    Connect(#[from] tonic::transport::Error),
    #[error("{0}")]
    Refused(Status),
    #[error("no answer in time")]
    Late,
    #[error("the stream ended")]
    Ended,
    #[error("the other process answers what we do not understand")]
    Malformed,
}

impl From<Status> for LinkError {
    fn from(status: Status) -> Self {
        Self::Refused(status)
    }
}

/// The way to one other process.
pub(crate) struct Link {
    pub(crate) store: SharedStore,
    pub(crate) key: InstallKey,
    pub(crate) address: Arc<str>,
    pub(crate) roster: watch::Receiver<Arc<Roster>>,
    /// Where partitions go that the other process does not read.
    pub(crate) unheard: mpsc::Sender<BTreeSet<PartitionId>>,
}

/// A stream that is open.
struct Open {
    requests: mpsc::Sender<TellRequest>,
    answers: Streaming<TellResponse>,
    challenge: Challenge,
    number: u64,
}

impl Link {
    /// Tells for as long as it is polled.
    pub(crate) async fn run(mut self) {
        // All that this process ever said comes first: it is little, and the other one may know none of it.
        let (mut told, mut pause, mut failing) = (0, RETRY_PAUSE, false);
        loop {
            let error = match self.open().await {
                Ok(stream) => {
                    metrics::gauge!("qrelay_peers_connected").increment(1.0);
                    let _connected = Connected;
                    if failing {
                        tracing::info!(peer = &*self.address, "reached the other process again");
                    }
                    (pause, failing) = (RETRY_PAUSE, false);
                    self.tell(stream, &mut told).await
                }
                Err(error) => error,
            };
            if failing {
                tracing::debug!(peer = &*self.address, %error, "cannot tell another process what happens here");
            } else {
                tracing::warn!(peer = &*self.address, %error, "cannot tell another process what happens here; it finds out by looking");
            }
            failing = true;
            // Drawn, so that not all come back at once to a process that was restarted.
            let drawn = pause.mul_f64(rand::random_range(0.5..1.0));
            sleep(drawn).await;
            pause = (pause * 2).min(limits::PEER_RETRY_PAUSE_MAX);
        }
    }

    /// Opens a stream and proves the key.
    async fn open(&self) -> Result<Open, LinkError> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address))?
            .connect_timeout(limits::PEER_ANSWER_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(PING_PERIOD)
            .keep_alive_timeout(limits::PEER_ANSWER_TIMEOUT)
            .keep_alive_while_idle(true);
        let channel: Channel = endpoint.connect().await?;
        let mut client = HintServiceClient::new(channel)
            .max_decoding_message_size(limits::PEER_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(limits::PEER_MESSAGE_BYTES_MAX);
        let (requests, outgoing) = mpsc::channel(1);
        let opening = timeout(
            limits::PEER_ANSWER_TIMEOUT,
            client.tell(ReceiverStream::new(outgoing)),
        );
        let mut answers = opening.await.map_err(|_| LinkError::Late)??.into_inner();
        let first = answer(&mut answers).await?;
        let challenge = first.challenge.try_into().map_err(|_| LinkError::Malformed)?;
        let mut open = Open {
            requests,
            answers,
            challenge,
            number: 0,
        };
        open.exchange(&self.key, Vec::new()).await?;
        Ok(open)
    }

    /// Tells on an open stream, until it fails.
    async fn tell(&mut self, mut stream: Open, told: &mut u64) -> LinkError {
        let mut said = self.store.hints().said();
        loop {
            let latest = *said.borrow_and_update();
            let (reached, tidings) = self.store.hints().said_since(*told, limits::PEER_HEADS_MAX);
            let tidings = self.for_this_one(tidings);
            if !tidings.is_empty() {
                match stream.exchange(&self.key, wire::encode(&tidings)).await {
                    Ok(answer) => self.notice(&answer),
                    Err(error) => return error,
                }
                metrics::counter!("qrelay_peer_messages_total").increment(1);
            }
            *told = reached;
            if reached < latest {
                continue;
            }
            tokio::select! {
                changed = said.changed() => changed.expect("invariant: the hints live in the store, which this holds"),
                // Nothing is to come unasked: the stream has ended.
                ended = stream.answers.message() => return match ended {
                    Ok(Some(_)) => LinkError::Malformed,
                    Ok(None) => LinkError::Ended,
                    Err(status) => status.into(),
                },
            }
        }
    }

    /// Heads are for the owner alone; everything else may wake somebody anywhere.
    fn for_this_one(&self, mut tidings: Tidings) -> Tidings {
        let roster = Arc::clone(&self.roster.borrow());
        tidings
            .heads
            .retain(|(partition, _), _| roster.owner(*partition) == Some(&*self.address));
        tidings
    }

    fn notice(&self, answer: &TellResponse) {
        let unheard: Result<BTreeSet<_>, _> = answer
            .unheard_partitions
            .iter()
            .map(|number| wire::partition(*number))
            .collect();
        if let Ok(unheard) = unheard
            && !unheard.is_empty()
            // Full: owners are being looked up already.
            && self.unheard.try_send(unheard).is_err()
        {
            tracing::trace!(peer = &*self.address, "owners are being looked up already");
        }
    }
}

impl Open {
    async fn exchange(&mut self, key: &InstallKey, hints: Vec<u8>) -> Result<TellResponse, LinkError> {
        let tag = key.tag(&self.challenge, self.number, &hints);
        self.number += 1;
        let request = TellRequest { hints, tag };
        self.requests.send(request).await.map_err(|_| LinkError::Ended)?;
        answer(&mut self.answers).await
    }
}

async fn answer(answers: &mut Streaming<TellResponse>) -> Result<TellResponse, LinkError> {
    match timeout(limits::PEER_ANSWER_TIMEOUT, answers.message()).await {
        Ok(Ok(Some(answer))) => Ok(answer),
        Ok(Ok(None)) => Err(LinkError::Ended),
        Ok(Err(status)) => Err(status.into()),
        Err(_) => Err(LinkError::Late),
    }
}

/// Counted in the gauge while it lives, even when its link is dropped in the middle of a message.
struct Connected;

impl Drop for Connected {
    fn drop(&mut self) {
        metrics::gauge!("qrelay_peers_connected").decrement(1.0);
    }
}
