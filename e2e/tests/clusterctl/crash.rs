//! The provider's deaths: at moments that a seed chooses.

use std::time::{Duration, SystemTime};

use e2e::failure::Failure;
use e2e::provider::Provider;
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// Repeats the moments of an earlier run.
const SEED_VARIABLE: &str = "CAPI_RS_E2E_SEED";

/// Moments, chosen by a seed that is printed.
pub(crate) struct Crashes {
    state: u64,
    /// How many there were.
    pub(crate) count: usize,
}

impl Crashes {
    pub(crate) fn new() -> Self {
        let given = std::env::var(SEED_VARIABLE).ok();
        let seed = given.and_then(|text| text.parse().ok()).unwrap_or_else(|| {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            now.map_or(0, |now| u64::from(now.subsec_nanos()))
        });
        println!("the provider is killed at moments of {SEED_VARIABLE}={seed}");
        Self {
            state: seed,
            count: 0,
        }
    }

    /// Kills one of these, whichever, so many times within so long, and starts it again each time.
    /// What it returns ends after the last of them.
    pub(crate) fn during(
        &mut self,
        count: usize,
        window: Duration,
        victims: &[&Provider],
    ) -> Deaths {
        self.count += count;
        let mut moments: Vec<_> = (0..count)
            .map(|_| {
                let part = u32::try_from(self.next() % 1000).expect("below a thousand");
                let victim = usize::try_from(self.next() % 997).expect("below a thousand");
                (
                    window * part / 1000,
                    victims[victim % victims.len()].clone(),
                )
            })
            .collect();
        moments.sort_by_key(|(moment, _)| *moment);
        Deaths(tokio::spawn(async move {
            let mut passed = Duration::ZERO;
            for (moment, victim) in moments {
                // Moments that lie close together find the provider while it starts.
                sleep(moment.saturating_sub(passed)).await;
                passed = moment;
                println!("killed after {:.2} s", moment.as_secs_f64());
                victim.kill_and_start().await?;
            }
            Ok(())
        }))
    }

    /// SplitMix64.
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// Deaths under way.
#[must_use]
pub(crate) struct Deaths(JoinHandle<Result<(), Failure>>);

impl Deaths {
    /// Waits until the last of them is over and the provider is ready again.
    pub(crate) async fn over(mut self) -> Result<(), Failure> {
        (&mut self.0).await?
    }
}

/// A story that failed ends them: nothing is started after the world has gone.
impl Drop for Deaths {
    fn drop(&mut self) {
        self.0.abort();
    }
}
