//! Reproducible randomness.

/// A splitmix64 generator: small, fast, and the same on every machine.
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Whether something that happens this often, in a thousand, happens now. Never draws for 0, so
    /// that switching one fault off leaves the draws of the others alone.
    pub(crate) fn happens(&mut self, per_mille: u16) -> bool {
        per_mille > 0 && self.draw() % 1000 < u64::from(per_mille)
    }

    /// A random (version 4) uuid in its textual form.
    pub(crate) fn uuid(&mut self) -> String {
        let bits = (u128::from(self.draw()) << 64) | u128::from(self.draw());
        uuid::Builder::from_random_bytes(bits.to_be_bytes())
            .into_uuid()
            .to_string()
    }

    /// The random end of a generated name: five letters, as Kubernetes appends.
    pub(crate) fn suffix(&mut self) -> String {
        const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
        let mut bits = self.draw();
        let letters = (0..5).map(|_| {
            let letter = LETTERS[usize::try_from(bits % 27).unwrap_or(0)];
            bits /= 27;
            char::from(letter)
        });
        letters.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_seeds_draw_equally_and_a_rate_of_zero_draws_nothing() {
        let (mut one, mut other) = (Rng::new(7), Rng::new(7));
        assert!(!one.happens(0));
        assert!(one.happens(1000) && other.happens(1000));
        assert_eq!(one.uuid(), other.uuid());
        assert_eq!(one.suffix().len(), 5);
        assert_ne!(Rng::new(8).uuid(), Rng::new(7).uuid());
    }
}
