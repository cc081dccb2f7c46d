//! A resolver whose answers a test writes down.

use std::collections::BTreeMap;
use std::net::IpAddr;

use async_trait::async_trait;

use super::resolve::{Resolve, ResolveError};

/// Per name, the answers still to come.
type Script = BTreeMap<String, Vec<Result<Vec<IpAddr>, ResolveError>>>;

/// Answers that a test writes down: per name, what each look-up in turn is answered; the last answer stays.
#[derive(Debug, Default)]
pub struct ScriptedResolver {
    answers: std::sync::Mutex<Script>,
}

impl ScriptedResolver {
    /// Adds the next answer for a name.
    #[must_use]
    pub fn with(self, name: &str, answer: Result<Vec<IpAddr>, ResolveError>) -> Self {
        self.lock().entry(name.to_owned()).or_default().push(answer);
        self
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Script> {
        self.answers
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[async_trait]
impl Resolve for ScriptedResolver {
    async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
        let mut answers = self.lock();
        match answers.get_mut(name) {
            Some(script) if script.len() > 1 => script.remove(0),
            Some(script) => script[0].clone(),
            None => Err(ResolveError::NotFound),
        }
    }
}
