//! A REST client of the control plane, as thin as the contract allows.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};

use crate::{PATIENCE, http::once, wait_within};

/// The API with a key.
#[derive(Clone, Debug)]
pub struct Api {
    /// Where it listens.
    pub address: SocketAddr,
    /// The bearer key.
    pub key: String,
}

impl Api {
    /// The same API with another key.
    #[must_use]
    pub fn with_key(&self, key: &str) -> Self {
        Self {
            address: self.address,
            key: key.to_owned(),
        }
    }

    /// One call: the status and the JSON (null when the body is none).
    ///
    /// # Errors
    /// When the connection cannot be made or breaks.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<(StatusCode, Value)> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", self.address.to_string())
            .header("authorization", format!("Bearer {}", self.key));
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        let bytes = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        let answer = once(self.address, request.body(Full::new(bytes))?).await?;
        let json = serde_json::from_slice(answer.body()).unwrap_or(Value::Null);
        Ok((answer.status(), json))
    }

    async fn must(&self, method: Method, path: &str, body: Option<&Value>) -> Value {
        let (status, json) = self
            .call(method.clone(), path, body)
            .await
            .unwrap_or_else(|e| panic!("{method} {path}: {e}"));
        assert_eq!(status, StatusCode::OK, "{method} {path}: {json}");
        json
    }

    /// GET that succeeds.
    ///
    /// # Panics
    /// When it does not.
    pub async fn get(&self, path: &str) -> Value {
        self.must(Method::GET, path, None).await
    }

    /// POST that succeeds.
    ///
    /// # Panics
    /// When it does not.
    pub async fn post(&self, path: &str, body: Value) -> Value {
        self.must(Method::POST, path, Some(&body)).await
    }

    /// POST until it succeeds: for a store that may be slow, or away for a while. Each try makes something new.
    ///
    /// # Panics
    /// When it is refused, or has not succeeded after three times [`PATIENCE`].
    pub async fn persist(&self, path: &str, body: &Value) -> Value {
        let what = format!("POST {path} is answered");
        wait_within(PATIENCE * 3, &what, async || {
            let answered = self.call(Method::POST, path, Some(body)).await;
            match answered {
                Ok((StatusCode::OK, json)) => return Some(json),
                Ok((status, json)) => assert!(status.is_server_error(), "POST {path}: {status} {json}"),
                Err(_) => {}
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
            None
        })
        .await
    }

    /// PATCH that succeeds.
    ///
    /// # Panics
    /// When it does not.
    pub async fn patch(&self, path: &str, body: Value) -> Value {
        self.must(Method::PATCH, path, Some(&body)).await
    }

    /// DELETE that succeeds.
    ///
    /// # Panics
    /// When it does not.
    pub async fn delete(&self, path: &str) -> Value {
        self.must(Method::DELETE, path, None).await
    }

    /// A new tenant with a read-write key: the tenant's id and the API under that key.
    ///
    /// # Panics
    /// When it cannot be made. `self` holds the admin key.
    pub async fn tenant(&self, name: &str) -> (String, Api) {
        let tenant = self.post("/v1/tenants", json!({"name": name})).await;
        let id = tenant["id"].as_str().expect("a tenant has an id").to_owned();
        let key = self
            .post(&format!("/v1/tenants/{id}/api_keys"), json!({"name": "test"}))
            .await;
        let key = key["key"].as_str().expect("a new key is shown").to_owned();
        (id, self.with_key(&key))
    }
}
