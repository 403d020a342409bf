//! Time, on a clock that counts suspend, and one that tests can turn.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};

/// Two readings of time: a monotonic one that goes on while the computer sleeps, and the wall clock.
///
/// R2 bounds the time between a write and the mutation that it announces. A process that was
/// suspended in between must notice, so the bound is measured on `CLOCK_BOOTTIME`, which no tokio
/// timer follows. The wall clock is used for what is written down only.
#[derive(Clone)]
pub struct Clock(Source);

#[derive(Clone)]
enum Source {
    System,
    Tokio(Arc<Virtual>),
}

struct Virtual {
    start: tokio::time::Instant,
    epoch: Timestamp,
}

impl Clock {
    /// The computer's clocks.
    #[must_use]
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// Time as tokio's timers see it, so that a test with a paused runtime turns both; the wall clock
    /// starts at `epoch`.
    ///
    /// A world that restarts engines gives each of them a clone of one clock, since wall time must
    /// not go back between two lives.
    #[must_use]
    pub fn tokio(epoch: Timestamp) -> Self {
        Self(Source::Tokio(Arc::new(Virtual {
            start: tokio::time::Instant::now(),
            epoch,
        })))
    }

    /// Time since some fixed moment; never goes back.
    pub(crate) fn monotonic(&self) -> Duration {
        match &self.0 {
            Source::System => {
                let now = clock_gettime(ClockId::Boottime);
                let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
                Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap_or(0))
            }
            Source::Tokio(virtual_time) => virtual_time.start.elapsed(),
        }
    }

    /// Wall-clock time.
    pub(crate) fn wall(&self) -> Timestamp {
        match &self.0 {
            Source::System => Timestamp::now(),
            Source::Tokio(virtual_time) => virtual_time
                .epoch
                .checked_add(virtual_time.start.elapsed())
                .unwrap_or(Timestamp::MAX),
        }
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::system()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Source::System => "Clock(system)",
            Source::Tokio(_) => "Clock(tokio)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_tokio_clock_turns_with_paused_time() {
        let epoch: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let clock = Clock::tokio(epoch);
        tokio::time::sleep(Duration::from_secs(90)).await;
        assert_eq!(clock.monotonic(), Duration::from_secs(90));
        assert_eq!(clock.wall().to_string(), "2026-01-01T00:01:30Z");
    }

    #[test]
    fn the_system_clock_does_not_go_back() {
        let clock = Clock::system();
        let before = clock.monotonic();
        assert!(before > Duration::ZERO);
        assert!(clock.monotonic() >= before);
    }
}
