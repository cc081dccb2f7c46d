//! When the next attempt is made: the endpoint's schedule, lengthened by jitter and by what the receiver asks.
//!
//! A pause counts from the end of the attempt before. Jitter only lengthens, by at most a tenth, and is the same for
//! all deliveries of one (endpoint, batch, attempt), so that retries of neighbours in the log fall together and
//! share a read.

use std::time::Duration;

use qrelay_store::{
    id::EventAddress,
    limits::{OVERLOAD_PAUSE_MAX, OVERLOAD_PAUSE_MIN, RETRY_AFTER_MAX, RETRY_PAUSE_MAX},
    model::Endpoint,
};
use sha2::{Digest, Sha256};

/// How long a delivery whose bytes or keys could not be had (our own trouble) waits; no attempt is used up.
pub const OWN_TROUBLE_PAUSE: Duration = Duration::from_secs(2);

/// The longest that a saved due time may lie ahead: the longest pause and its jitter. More means that the clock
/// was set back, and would let a delivery wait for ever.
pub const DUE_AHEAD_MAX: Duration = Duration::from_secs(RETRY_PAUSE_MAX.as_secs() / 10 * 11);

/// The pause before the first attempt of a fresh event.
pub fn first_pause(endpoint: &Endpoint) -> Duration {
    endpoint.pause_before(1).unwrap_or_default()
}

/// The pause after attempt `number` of an event failed, or none when the schedule is used up.
pub fn pause_after(
    endpoint: &Endpoint,
    event: EventAddress,
    number: u32,
    retry_after: Option<Duration>,
) -> Option<Duration> {
    let next = number.saturating_add(1);
    let pause = endpoint.pause_before(next)?;
    let pause = pause + pause.mul_f64(jitter(endpoint, event, next) / 10.0);
    Some(pause.max(capped(retry_after.unwrap_or_default())))
}

/// The pause of an endpoint whose receiver is overloaded, after so many such pauses.
pub fn overload_pause(before: u32) -> Duration {
    let doubled = OVERLOAD_PAUSE_MIN.saturating_mul(2_u32.saturating_pow(before));
    doubled.min(OVERLOAD_PAUSE_MAX)
}

/// A `Retry-After` as far as it is honoured.
pub fn capped(retry_after: Duration) -> Duration {
    retry_after.min(RETRY_AFTER_MAX)
}

/// In `0.0..1.0`, drawn from (endpoint, batch, attempt).
fn jitter(endpoint: &Endpoint, event: EventAddress, number: u32) -> f64 {
    let mut hash = Sha256::new();
    hash.update(endpoint.id.as_bytes());
    hash.update(event.partition.as_u16().to_be_bytes());
    hash.update(event.writer.as_u64().to_be_bytes());
    hash.update(event.seq.as_u64().to_be_bytes());
    hash.update(number.to_be_bytes());
    let hash = hash.finalize();
    let drawn = u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]);
    f64::from(drawn) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use qrelay_store::id::Seq;

    use super::*;
    use crate::{cursor::Stream, fixture};

    #[test]
    fn pauses_follow_the_schedule_and_jitter_only_lengthens_them_by_a_tenth() {
        let mut endpoint = fixture::endpoint(1);
        endpoint.retry_schedule_ms = vec![0, 1000, 60_000];
        assert_eq!(first_pause(&endpoint), Duration::ZERO);
        for seq in 1..200 {
            let event = Stream::CONFIG.address(Seq::new(seq), 0);
            let pause = pause_after(&endpoint, event, 2, None).unwrap();
            assert!((60_000..66_000).contains(&pause.as_millis()), "{pause:?}");
            let neighbour = Stream::CONFIG.address(Seq::new(seq), 9);
            assert_eq!(pause_after(&endpoint, neighbour, 2, None), Some(pause));
            assert_eq!(pause_after(&endpoint, event, 3, None), None);
        }
    }

    #[test]
    fn what_the_receiver_asks_lengthens_the_pause_up_to_a_day() {
        let mut endpoint = fixture::endpoint(1);
        endpoint.retry_schedule_ms = vec![0, 1000];
        let event = Stream::CONFIG.address(Seq::new(1), 0);
        let asked = |secs| pause_after(&endpoint, event, 1, Some(Duration::from_secs(secs)));
        assert_eq!(asked(3600), Some(Duration::from_secs(3600)));
        assert_eq!(asked(u64::MAX), Some(RETRY_AFTER_MAX));
        assert!(asked(0).unwrap() >= Duration::from_secs(1));
        endpoint.retry_schedule_ms.clear();
        assert_eq!(pause_after(&endpoint, event, u32::MAX, None), None);
    }
}
