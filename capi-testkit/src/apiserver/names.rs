//! Uids and name suffixes: random by default, a repeatable sequence when the server has a seed.

use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};
use uuid::{Builder, Uuid};

/// Alphabet of `generateName`: no vowels and no look-alikes, so that no word comes out.
const SUFFIX_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// Characters that `generateName` appends.
const SUFFIX_LENGTH: usize = 5;
/// Longest base that `generateName` keeps: names are at most 63 characters.
const BASE_LENGTH_MAX: usize = 63 - SUFFIX_LENGTH;

/// Source of uids and suffixes.
#[derive(Debug)]
pub(crate) struct Names {
    seed: [u8; 16],
    drawn: AtomicU64,
}

impl Names {
    /// Without a seed every server draws different names.
    pub(crate) fn new(seed: Option<u64>) -> Self {
        let seed = seed.map_or_else(
            || *Uuid::new_v4().as_bytes(),
            |seed| u128::from(seed).to_be_bytes(),
        );
        Self {
            seed,
            drawn: AtomicU64::new(0),
        }
    }

    fn draw(&self) -> [u8; 32] {
        let count = self.drawn.fetch_add(1, Ordering::Relaxed);
        Sha256::new()
            .chain_update(self.seed)
            .chain_update(count.to_be_bytes())
            .finalize()
            .into()
    }

    pub(crate) fn uid(&self) -> String {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&self.draw()[..16]);
        Builder::from_random_bytes(bytes).into_uuid().to_string()
    }

    /// `base` and five characters.
    pub(crate) fn generate(&self, base: &str) -> String {
        let kept: String = base.chars().take(BASE_LENGTH_MAX).collect();
        let suffix = self
            .draw()
            .into_iter()
            .take(SUFFIX_LENGTH)
            .map(|byte| char::from(SUFFIX_ALPHABET[usize::from(byte) % SUFFIX_ALPHABET.len()]));
        kept.chars().chain(suffix).collect()
    }
}
