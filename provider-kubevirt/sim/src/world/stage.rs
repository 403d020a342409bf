//! When things began that take time.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

/// Times in status have whole seconds, which is too coarse for a platform that runs faster; so the
/// moments are kept here. After a restart of the simulator, delays begin anew.
#[derive(Debug, Default)]
pub(crate) struct Stages {
    begun: HashMap<String, HashMap<&'static str, Instant>>,
}

impl Stages {
    /// What is left until the end of a stage; none once it is over. `draw` says how long it takes,
    /// and is asked when it begins.
    pub(crate) fn wait(
        &mut self,
        uid: &str,
        stage: &'static str,
        draw: impl FnOnce() -> Duration,
    ) -> Option<Duration> {
        let now = Instant::now();
        let ends = match self.begun.get(uid).and_then(|stages| stages.get(stage)) {
            Some(ends) => *ends,
            None => {
                let ends = now + draw();
                self.begun
                    .entry(uid.to_owned())
                    .or_default()
                    .insert(stage, ends);
                ends
            }
        };
        Some(ends.saturating_duration_since(now)).filter(|left| !left.is_zero())
    }

    /// Whether a stage has begun.
    pub(crate) fn has(&self, uid: &str, stage: &'static str) -> bool {
        let stages = self.begun.get(uid);
        stages.is_some_and(|stages| stages.contains_key(stage))
    }

    /// Forgets one stage, so that it can begin again.
    pub(crate) fn clear(&mut self, uid: &str, stage: &'static str) {
        if let Some(stages) = self.begun.get_mut(uid) {
            stages.remove(stage);
        }
    }

    pub(crate) fn forget(&mut self, uid: &str) {
        self.begun.remove(uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_stage_ends_once_and_can_begin_again() {
        let mut stages = Stages::default();
        let second = Duration::from_secs(1);
        assert_eq!(stages.wait("u", "a", || second), Some(second));
        tokio::time::advance(second / 4).await;
        assert_eq!(stages.wait("u", "a", || second * 9), Some(second * 3 / 4));
        tokio::time::advance(second).await;
        assert_eq!(stages.wait("u", "a", || second), None);
        stages.clear("u", "a");
        assert_eq!(stages.wait("u", "a", || second), Some(second));
        assert_eq!(stages.wait("u", "b", || Duration::ZERO), None);
    }
}
