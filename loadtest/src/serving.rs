//! The accept loop of the small servers here: hyper on the calling thread, bounded in connections.

use std::{convert::Infallible, rc::Rc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::Service};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::TcpListener,
    sync::Semaphore,
    task::{JoinSet, LocalSet},
};
use tokio_util::sync::CancellationToken;

/// Open connections at most; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 8192;
/// A client that does not finish its request head is cut after this.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves until `stop`; what is open then is dropped.
///
/// # Errors
/// When the listener fails for good.
pub async fn serve<S>(listener: TcpListener, service: S, stop: CancellationToken) -> anyhow::Result<()>
where
    S: Service<Request<Incoming>, Response = Response<Full<Bytes>>, Error = Infallible> + Clone + 'static,
{
    let free = Rc::new(Semaphore::new(CONNECTIONS_MAX));
    let accept = async {
        let mut connections = JoinSet::new();
        loop {
            let permit = Rc::clone(&free);
            permit.acquire().await.expect("invariant: never closed").forget();
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let service = service.clone();
            connections.spawn_local(async move {
                let mut http = http1::Builder::new();
                http.timer(TokioTimer::new())
                    .header_read_timeout(HEAD_TIMEOUT)
                    .pipeline_flush(true);
                // A client that goes away in the middle is its own affair.
                let ended = http.serve_connection(TokioIo::new(stream), service).await;
                permit.add_permits(1);
                drop(ended);
            });
            while connections.try_join_next().is_some() {}
        }
    };
    let local = LocalSet::new();
    local
        .run_until(async {
            tokio::select! { () = stop.cancelled() => Ok(()), failed = accept => failed }
        })
        .await
}
