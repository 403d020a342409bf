//! Kills a provider at random moments, as often as a suite demands.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::failure::Failure;
use crate::provider::{Provider, ProviderError};

/// Names the seed of the moments; one is printed that repeats a run.
pub const SEED_VARIABLE: &str = "CAPI_RS_E2E_SEED";
/// Names how often a suite kills, for a longer run than the usual one.
pub const TIMES_VARIABLE: &str = "CAPI_RS_E2E_KILLS";
/// How often a suite kills unless it says otherwise.
pub const TIMES: usize = 10;
/// The shortest time between a start and the next kill. Zero would only test the start.
const PAUSE_MIN: Duration = Duration::from_secs(5);
/// The longest: ten kills then are spread over some four minutes.
const PAUSE_MAX: Duration = Duration::from_secs(45);

/// A provider that is killed with `kill -9` and started again, over and over.
#[derive(Debug)]
pub struct Killer {
    task: JoinHandle<Result<usize, ProviderError>>,
}

impl Killer {
    /// Begins, so many times unless [`TIMES_VARIABLE`] says otherwise. The seed is that of
    /// [`SEED_VARIABLE`] or of the clock, and is printed.
    #[expect(clippy::print_stdout, reason = "a suite prints what repeats its run")]
    #[must_use]
    pub fn start(provider: Provider, times: usize) -> Self {
        let seed = number(SEED_VARIABLE).unwrap_or_else(now);
        let asked = number(TIMES_VARIABLE).and_then(|asked| usize::try_from(asked).ok());
        let times = asked.unwrap_or(times);
        println!(
            "{SEED_VARIABLE}={seed} kills {} at the same moments",
            provider.name()
        );
        let pauses = pauses(seed, times);
        let task = tokio::spawn(async move {
            for pause in pauses {
                sleep(pause).await;
                provider.kill_and_start().await?;
                println!(
                    "  {} was killed {:.1} s after its start",
                    provider.name(),
                    pause.as_secs_f64()
                );
            }
            Ok(times)
        });
        Self { task }
    }

    /// Waits until the last kill is survived; how many there were.
    ///
    /// # Errors
    ///
    /// A provider that did not start again.
    pub async fn finish(self) -> Result<usize, Failure> {
        Ok(self.task.await??)
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn now() -> u64 {
    jiff::Timestamp::now().as_millisecond().unsigned_abs()
}

/// The times between a start and the next kill.
fn pauses(seed: u64, times: usize) -> Vec<Duration> {
    let span = u64::try_from((PAUSE_MAX - PAUSE_MIN).as_millis()).unwrap_or(u64::MAX);
    let mut state = seed;
    let mut draw = || {
        // splitmix64: the same on every machine.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        PAUSE_MIN + Duration::from_millis((bits ^ (bits >> 31)) % span)
    };
    (0..times).map(|_| draw()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_its_moments() {
        assert_eq!(pauses(7, TIMES), pauses(7, TIMES));
        assert_ne!(pauses(7, TIMES), pauses(8, TIMES));
        let all = pauses(7, 1_000);
        assert!(
            all.iter()
                .all(|pause| (PAUSE_MIN..PAUSE_MAX).contains(pause))
        );
        let sum: Duration = all.iter().sum();
        let mean = sum / 1_000;
        assert!((23..=27).contains(&mean.as_secs()), "{mean:?}");
    }
}
