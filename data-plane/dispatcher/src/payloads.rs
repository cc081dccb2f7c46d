//! Endpoints' payloads, ready to render.
//!
//! Templates are compiled once per (endpoint, version): every change of an endpoint raises its version, so what is
//! cached is never older than the endpoint that the caller holds.

use std::sync::Arc;

use moka::future::Cache;
use qrelay_store::{
    event::Event,
    id::EndpointId,
    limits::TEMPLATE_CACHE_BYTES,
    model::{Code, Endpoint, PayloadFormat},
    payload::{PayloadError, Rendered, Renderer},
};

use crate::attempt::Made;

/// Renders bodies.
#[derive(Clone, Debug)]
pub struct Payloads {
    renderers: Cache<(EndpointId, u64), (usize, Arc<Renderer>)>,
}

impl Default for Payloads {
    fn default() -> Self {
        // An entry counts at least so much, however short its templates.
        const ENTRY_BYTES: usize = 256;
        let renderers = Cache::builder()
            .max_capacity(TEMPLATE_CACHE_BYTES)
            .weigher(|_, (bytes, _): &(usize, Arc<Renderer>)| {
                u32::try_from(bytes.saturating_add(ENTRY_BYTES)).unwrap_or(u32::MAX)
            })
            .build();
        Self { renderers }
    }
}

impl Payloads {
    /// The body of an event for an endpoint.
    ///
    /// # Errors
    /// [`Made::Never`] when its templates make none, [`Made::NotMade`] when they could not be compiled now.
    pub async fn render(
        &self,
        endpoint: &Endpoint,
        event: &Event,
        code: Option<&Code>,
    ) -> Result<Rendered, Made> {
        let renderer = self.renderer(endpoint).await?;
        renderer
            .render(event, code)
            .map_err(|error| Made::Never(error.as_str()))
    }

    async fn renderer(&self, endpoint: &Endpoint) -> Result<Arc<Renderer>, Made> {
        if endpoint.payload.format != PayloadFormat::Template {
            return Renderer::new(&endpoint.payload).map(Arc::new).map_err(unusable);
        }
        let key = (endpoint.id, endpoint.version);
        if let Some((_, renderer)) = self.renderers.get(&key).await {
            return Ok(renderer);
        }
        let payload = endpoint.payload.clone();
        let bytes = payload.template_bytes();
        let compiled = tokio::task::spawn_blocking(move || Renderer::new(&payload)).await;
        let renderer = compiled
            .map_err(|error| Made::NotMade(error.to_string()))?
            .map_err(unusable)?;
        let renderer = Arc::new(renderer);
        self.renderers.insert(key, (bytes, Arc::clone(&renderer))).await;
        Ok(renderer)
    }
}

/// Payloads were judged when they were written; what an older release took and this one does not is given up.
fn unusable(error: PayloadError) -> Made {
    if error.is_busy {
        Made::NotMade(error.to_string())
    } else {
        Made::Never("the endpoint's payload template cannot be used")
    }
}
