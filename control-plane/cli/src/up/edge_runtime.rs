//! The threads of the edge and of the writer that it waits for.
//!
//! A scan is answered beside everything else that this process does: deliveries, the API, look-ups. On threads of their own
//! its tasks stand in no queue behind those, and the system's scheduler gives a thread that mostly waits its turn at once.

use std::{io, time::Duration};

use tokio::runtime::{Builder, Handle, Runtime};

/// What the last tasks may take to come to their next pause.
const END_MAX: Duration = Duration::from_secs(1);

/// A runtime that may be dropped anywhere: what still runs on it then ends at its next pause.
pub(crate) struct EdgeRuntime(Option<Runtime>);

impl EdgeRuntime {
    /// Starts the threads: one for each core that the process may use.
    pub(crate) fn start() -> io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .thread_name("edge")
            .enable_all()
            .build()?;
        Ok(Self(Some(runtime)))
    }

    pub(crate) fn handle(&self) -> &Handle {
        self.0
            .as_ref()
            .expect("invariant: only dropping takes the runtime")
            .handle()
    }

    /// Ends what still runs, so that nothing on these threads holds the store any more. Blocks.
    pub(crate) fn end(mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_timeout(END_MAX);
        }
    }
}

impl Drop for EdgeRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
