//! Random moments, the same for the same seed: pure.

use std::time::Duration;

/// In how long all kills but the last should have happened. The whole story takes about twice that.
const SPAN: Duration = Duration::from_secs(45);
/// The longest mean gap: a story that only comes up and goes away is not much longer.
const GAP_MAX: Duration = Duration::from_secs(9);

/// Gaps between kills, each between half and one and a half of their mean.
#[derive(Debug, Clone)]
pub(crate) struct Moments {
    state: u64,
    mean: Duration,
}

impl Moments {
    /// Gaps for this many kills.
    pub(crate) fn new(seed: u64, kills: u32) -> Self {
        Self {
            state: seed,
            mean: (SPAN / kills.max(1)).min(GAP_MAX),
        }
    }

    /// The next gap.
    pub(crate) fn next(&mut self) -> Duration {
        self.mean.mul_f64(0.5 + self.fraction())
    }

    /// A number from 0 to 1, by SplitMix64.
    fn fraction(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^= mixed >> 31;
        // The upper 32 bits are exact in a float.
        f64::from(u32::try_from(mixed >> 32).unwrap_or(u32::MAX)) / f64::from(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gaps(seed: u64, kills: u32) -> Vec<Duration> {
        let mut moments = Moments::new(seed, kills);
        (0..kills).map(|_| moments.next()).collect()
    }

    #[test]
    fn gaps_differ_by_seed_and_lie_around_their_mean() {
        assert_eq!(gaps(1, 5), gaps(1, 5));
        assert_ne!(gaps(1, 5), gaps(2, 5));
        for seed in 0..50 {
            for gap in gaps(seed, 5) {
                assert!(gap >= GAP_MAX / 2 && gap <= GAP_MAX * 3 / 2, "{gap:?}");
            }
            let total: Duration = gaps(seed, 20).iter().sum();
            assert!(total < SPAN * 3 / 2, "{total:?}");
        }
    }
}
