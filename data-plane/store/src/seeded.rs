//! Numbers from a seed, for tests that must be able to run again as they ran.
//!
//! [`Dice`] are what a test draws from itself; [`Ids`] makes [`crate::id::random`] draw from a seed, too, on the thread
//! that asked for it and for as long as it lives.

use std::{cell::RefCell, marker::PhantomData};

/// Numbers that follow from a seed (SplitMix64).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Those of a seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub const fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^ (word >> 31)
    }

    /// One of `0..count`; 0 when there is none.
    pub const fn below(&mut self, count: u64) -> u64 {
        let drawn = self.draw();
        if count == 0 { 0 } else { drawn % count }
    }

    /// One of `low..=high`.
    pub const fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// True `per_mille` times in a thousand.
    pub const fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }
}

thread_local! {
    static IDS: RefCell<Option<Dice>> = const { RefCell::new(None) };
}

/// While this lives, ids made on its thread follow from a seed.
#[derive(Debug)]
pub struct Ids(PhantomData<*const ()>);

impl Ids {
    /// Begins.
    pub fn of(seed: u64) -> Self {
        IDS.set(Some(Dice::new(seed)));
        Self(PhantomData)
    }
}

impl Drop for Ids {
    fn drop(&mut self) {
        IDS.set(None);
    }
}

/// The bytes that a seed says, if one was asked for.
pub(crate) fn bytes<const N: usize>() -> Option<[u8; N]> {
    IDS.with_borrow_mut(|ids| {
        let dice = ids.as_mut()?;
        let mut bytes = [0; N];
        for part in bytes.chunks_mut(8) {
            part.copy_from_slice(&dice.draw().to_le_bytes()[..part.len()]);
        }
        Some(bytes)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::TenantId;

    #[test]
    fn ids_follow_from_the_seed_until_the_end_and_only_there() {
        let two = |seed| {
            let _ids = Ids::of(seed);
            let elsewhere = std::thread::spawn(TenantId::random).join().unwrap();
            let (one, other) = (TenantId::random(), TenantId::random());
            assert!(one != other && elsewhere != one);
            (one, other)
        };
        assert_eq!(two(1), two(1));
        assert_ne!(two(1), two(2));
        drop(Ids::of(1));
        assert_ne!(TenantId::random(), two(1).0);
    }
}
