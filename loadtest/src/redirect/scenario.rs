//! Which loads are compared, and whose turn it is when.

use serde::Serialize;

/// Who answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Server {
    /// qrelay, the answer sent once the scan is durable: the default.
    Durable,
    /// qrelay, a tenant that chose to be answered first.
    Relaxed,
    /// nginx with a buffered access log.
    Nginx,
    /// hyper, doing nothing else.
    Raw,
}

impl Server {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Durable, Self::Nginx, Self::Raw, Self::Relaxed];
}

/// A load that servers are compared under.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Scenario {
    /// What the tables call it.
    pub what: String,
    /// A new connection for each scan.
    pub fresh: bool,
    /// An open loop at this rate, or as much as the connections allow.
    pub rate_per_s: Option<u32>,
    /// Who takes part.
    pub servers: Vec<Server>,
}

impl Scenario {
    /// A short load that fills caches.
    #[must_use]
    pub fn warm_up() -> Self {
        Self {
            what: "warm-up".into(),
            fresh: false,
            rate_per_s: None,
            servers: Server::ALL.to_vec(),
        }
    }

    /// The order of a cycle: everybody is first once in as many cycles as there are servers.
    #[must_use]
    pub fn order(&self, cycle: usize) -> Vec<Server> {
        let mut servers = self.servers.clone();
        servers.rotate_left(cycle % self.servers.len());
        servers
    }
}

/// The scenarios: keep-alive and fresh connections, each saturated and as an open loop.
#[must_use]
pub fn scenarios(rate_per_s: u32) -> Vec<Scenario> {
    let three = [Server::Durable, Server::Nginx, Server::Raw];
    let scenario = |connections: &str, fresh, rate_per_s: Option<u32>, servers: &[Server]| {
        let load = rate_per_s.map_or_else(|| "saturated".to_owned(), |rate| format!("open loop at {rate}/s"));
        Scenario {
            what: format!("{connections}, {load}"),
            fresh,
            rate_per_s,
            servers: servers.to_vec(),
        }
    };
    vec![
        scenario("keep-alive", false, None, &three),
        scenario("fresh connections", true, None, &three),
        // The relaxed side shows what waiting for the disk adds to a person's wait.
        scenario("keep-alive", false, Some(rate_per_s), &Server::ALL),
        scenario("fresh connections", true, Some(rate_per_s), &three),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn everybody_has_every_place_in_the_order_once() {
        for scenario in scenarios(1000) {
            for place in 0..scenario.servers.len() {
                let there: BTreeSet<_> = (0..scenario.servers.len())
                    .map(|cycle| format!("{:?}", scenario.order(cycle)[place]))
                    .collect();
                assert_eq!(
                    there.len(),
                    scenario.servers.len(),
                    "{}, place {place}",
                    scenario.what
                );
            }
        }
    }
}
