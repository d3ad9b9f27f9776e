//! Chance: generated names, uids, jitter, ties. Everything that needs some takes it from here.
//!
//! In production it is the machine's. A simulation that runs on one thread seeds that thread ([`seed_thread`]), and then
//! the same seed draws the same names, uids and jitter in the same order. Not for secrets: keys and nonces come from the
//! cryptography library and never from here.

use rand::rngs::{SmallRng, ThreadRng};
use rand::{Rng, RngExt as _, SeedableRng as _, TryRng};
use std::cell::RefCell;
use std::convert::Infallible;
use std::marker::PhantomData;

thread_local! {
    static SEEDED: RefCell<Option<SmallRng>> = const { RefCell::new(None) };
}

/// The source of chance of this thread.
pub fn rng() -> Chance {
    Chance(PhantomData)
}

/// A fresh (version 4) UUID, in its usual form.
pub fn uuid() -> String {
    let mut bytes = [0; 16];
    rng().fill_bytes(&mut bytes);
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut text = String::with_capacity(36);
    for (at, byte) in bytes.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        for digit in [byte >> 4, byte & 0x0f] {
            text.push(char::from(b"0123456789abcdef"[usize::from(digit)]));
        }
    }
    text
}

/// Five characters of the alphabet that generated names end in: no vowels, nothing that reads as another.
pub fn suffix() -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut rng = rng();
    (0..5)
        .map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())]))
        .collect()
}

/// Draws from the thread's seed if it has one, and from the machine otherwise.
#[derive(Debug, Clone, Copy)]
pub struct Chance(PhantomData<*const ()>);

fn draw<T>(seeded: impl FnOnce(&mut SmallRng) -> T, real: impl FnOnce(&mut ThreadRng) -> T) -> T {
    SEEDED.with_borrow_mut(|source| match source {
        Some(source) => seeded(source),
        None => real(&mut rand::rng()),
    })
}

impl TryRng for Chance {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(draw(Rng::next_u32, Rng::next_u32))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(draw(Rng::next_u64, Rng::next_u64))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        SEEDED.with_borrow_mut(|source| match source {
            Some(source) => source.fill_bytes(bytes),
            None => rand::rng().fill_bytes(bytes),
        });
        Ok(())
    }
}

/// This thread's chance comes from `seed` until the guard is dropped.
#[must_use = "chance is the machine's again when this is dropped"]
pub fn seed_thread(seed: u64) -> Seeded {
    SEEDED.set(Some(SmallRng::seed_from_u64(seed)));
    Seeded(PhantomData)
}

/// Ends the seeding of its thread when dropped.
#[derive(Debug)]
pub struct Seeded(PhantomData<*const ()>);

impl Drop for Seeded {
    fn drop(&mut self) {
        SEEDED.set(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seeded_thread_repeats_itself() {
        let drawn = |seed| {
            let _seeded = seed_thread(seed);
            (uuid(), rng().next_u64(), rng().next_u32())
        };
        assert_eq!(drawn(1), drawn(1));
        assert_ne!(drawn(1), drawn(2));
        let _seeded = seed_thread(1);
        let elsewhere = std::thread::spawn(uuid).join().expect("a uuid");
        assert_ne!(elsewhere, drawn(1).0, "other threads have their own");
    }

    #[test]
    fn uuids_say_what_they_are() {
        let uuid = uuid();
        assert_eq!((uuid.len(), &uuid[14..15]), (36, "4"));
        assert!("89ab".contains(&uuid[19..20]), "{uuid}");
    }
}
