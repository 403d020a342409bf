//! Kills providers at random moments, as often as a suite demands.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::failure::Failure;
use crate::provider::{Provider, ProviderError};

/// Names the seed of the moments; one is printed that repeats a run.
pub const SEED_VARIABLE: &str = "CAPI_RS_E2E_SEED";
/// Names how often [`Killer::over_and_over`] kills, for a longer run than the usual one.
pub const TIMES_VARIABLE: &str = "CAPI_RS_E2E_KILLS";
/// How often a suite kills unless it says otherwise.
pub const TIMES: usize = 10;
/// The shortest time between a start and the next kill. Zero would only test the start.
const PAUSE_MIN: Duration = Duration::from_secs(5);
/// The longest: ten kills then are spread over some four minutes.
const PAUSE_MAX: Duration = Duration::from_secs(45);

/// Kills providers with `kill -9` and starts them again, at moments that a seed chooses.
#[derive(Debug)]
pub struct Killer {
    state: u64,
    count: usize,
}

impl Killer {
    /// Nobody was killed yet. The seed is that of [`SEED_VARIABLE`] or of the clock, and is printed.
    #[expect(clippy::print_stdout, reason = "a suite prints what repeats its run")]
    #[must_use]
    pub fn new() -> Self {
        let seed = number(SEED_VARIABLE).unwrap_or_else(now);
        println!("{SEED_VARIABLE}={seed} kills at the same moments");
        Self::seeded(seed)
    }

    fn seeded(seed: u64) -> Self {
        Self {
            state: seed,
            count: 0,
        }
    }

    /// How many deaths there were, those that are still to come included.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Kills it so many times, unless [`TIMES_VARIABLE`] says otherwise, with seconds between a start
    /// and the next death.
    pub fn over_and_over(&mut self, victim: &Provider, times: usize) -> Deaths {
        let asked = number(TIMES_VARIABLE).and_then(|asked| usize::try_from(asked).ok());
        let pauses = self.pauses(asked.unwrap_or(times));
        let victims = std::iter::repeat_n(victim.clone(), pauses.len());
        Deaths::run(pauses.into_iter().zip(victims).collect())
    }

    /// Kills one of these, whichever, so many times within so long.
    ///
    /// # Panics
    ///
    /// Without victims.
    pub fn within(&mut self, window: Duration, times: usize, victims: &[&Provider]) -> Deaths {
        let pauses = self.moments(window, times);
        let mut choose = |pause| (pause, victims[self.below(victims.len())].clone());
        Deaths::run(pauses.into_iter().map(&mut choose).collect())
    }

    /// The times between a start and the next kill.
    fn pauses(&mut self, times: usize) -> Vec<Duration> {
        self.count += times;
        let span = PAUSE_MAX - PAUSE_MIN;
        (0..times).map(|_| PAUSE_MIN + self.part(span)).collect()
    }

    /// The times between moments that are spread over a window. Those that lie close together find a
    /// provider while it starts.
    fn moments(&mut self, window: Duration, times: usize) -> Vec<Duration> {
        self.count += times;
        let mut moments: Vec<_> = (0..times).map(|_| self.part(window)).collect();
        moments.sort_unstable();
        let mut passed = Duration::ZERO;
        let pauses = moments.iter().map(|moment| {
            let pause = *moment - passed;
            passed = *moment;
            pause
        });
        pauses.collect()
    }

    /// A part of a span.
    fn part(&mut self, span: Duration) -> Duration {
        let millis = usize::try_from(span.as_millis()).unwrap_or(usize::MAX);
        Duration::from_millis(u64::try_from(self.below(millis)).unwrap_or(u64::MAX))
    }

    /// SplitMix64: the same on every machine.
    fn below(&mut self, bound: usize) -> usize {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.state;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let bound = u64::try_from(bound).unwrap_or(u64::MAX).max(1);
        usize::try_from((bits ^ (bits >> 31)) % bound).unwrap_or(0)
    }
}

impl Default for Killer {
    fn default() -> Self {
        Self::new()
    }
}

/// Deaths under way. They end when this is dropped: nothing is started after its world has gone.
#[derive(Debug)]
#[must_use]
pub struct Deaths(JoinHandle<Result<(), ProviderError>>);

impl Deaths {
    #[expect(clippy::print_stdout, reason = "a suite prints when it killed")]
    fn run(plan: Vec<(Duration, Provider)>) -> Self {
        Self(tokio::spawn(async move {
            for (pause, victim) in plan {
                sleep(pause).await;
                victim.kill_and_start().await?;
                let (name, seconds) = (victim.name(), pause.as_secs_f64());
                println!("  {name} was killed after {seconds:.1} s");
            }
            Ok(())
        }))
    }

    /// Waits until the last of them is over and the provider is ready again.
    ///
    /// # Errors
    ///
    /// A provider that did not start again.
    pub async fn over(mut self) -> Result<(), Failure> {
        Ok((&mut self.0).await??)
    }
}

impl Drop for Deaths {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn now() -> u64 {
    jiff::Timestamp::now().as_millisecond().unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_its_moments() {
        let pauses = |seed, times| Killer::seeded(seed).pauses(times);
        assert_eq!(pauses(7, TIMES), pauses(7, TIMES));
        assert_ne!(pauses(7, TIMES), pauses(8, TIMES));
        let all = pauses(7, 1_000);
        let fits = |pause: &Duration| (PAUSE_MIN..PAUSE_MAX).contains(pause);
        assert!(all.iter().all(fits));
        let sum: Duration = all.iter().sum();
        let mean = sum / 1_000;
        assert!((23..=27).contains(&mean.as_secs()), "{mean:?}");
    }

    #[test]
    fn a_window_holds_all_its_moments() {
        let mut killer = Killer::seeded(7);
        let window = Duration::from_secs(12);
        let pauses = killer.moments(window, 1_000);
        let last: Duration = pauses.iter().sum();
        assert!(last < window && last > window * 9 / 10, "{last:?}");
        assert_eq!((pauses.len(), killer.count()), (1_000, 1_000));
        let mut victims: Vec<_> = (0..100).map(|_| killer.below(3)).collect();
        victims.sort_unstable();
        victims.dedup();
        assert_eq!(victims, [0, 1, 2]);
    }
}
