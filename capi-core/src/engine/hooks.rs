//! Asks the operator's hooks.

use std::sync::Arc;
use std::time::Duration;

use capi_contract::{Class, Hook, Occasion, Verdict};
use tokio::time::timeout;

use super::outcome::{Failure, Notice};

/// The longest that a hook may hold before it is asked again: a hook has no event to wake us.
const RECHECK_MAX: Duration = Duration::from_secs(300);

/// What all hooks together answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Proceed,
    Hold(Notice),
}

/// Asks the hooks in order; the first that holds decides, the rest are asked when it lets go.
pub(crate) async fn ask(hooks: &[Arc<dyn Hook>], occasion: &Occasion) -> Result<Answer, Failure> {
    for hook in hooks {
        let name = hook.name();
        let asked = timeout(hook.deadline(), hook.on(occasion)).await;
        let verdict = match asked {
            Ok(Ok(verdict)) => verdict,
            Ok(Err(error)) => {
                let message = format!("hook {name} failed: {error}");
                return Err(Failure::new("Hook", Class::Transient, message));
            }
            Err(_) => {
                let message = format!("hook {name} did not answer within its deadline");
                return Err(Failure::new("Hook", Class::Transient, message));
            }
        };
        match verdict {
            Verdict::Proceed => {}
            Verdict::Hold(waiting) => {
                let message = format!("hook {name} holds: {}", waiting.message);
                let recheck = waiting.recheck.min(RECHECK_MAX);
                return Ok(Answer::Hold(Notice::new(waiting.reason, message, recheck)));
            }
        }
    }
    Ok(Answer::Proceed)
}

#[cfg(test)]
mod tests {
    use capi_contract::{HookError, Moment, ObjectName, Waiting, async_trait};

    use super::*;

    struct Says(&'static str, fn() -> Result<Verdict, HookError>);

    #[async_trait]
    impl Hook for Says {
        fn name(&self) -> &str {
            self.0
        }

        async fn on(&self, _occasion: &Occasion) -> Result<Verdict, HookError> {
            (self.1)()
        }
    }

    struct Silent;

    #[async_trait]
    impl Hook for Silent {
        fn name(&self) -> &str {
            "silent"
        }

        async fn on(&self, _occasion: &Occasion) -> Result<Verdict, HookError> {
            std::future::pending().await
        }
    }

    fn occasion() -> Occasion {
        let name = ObjectName::new("ns", "m");
        Occasion::new(
            Moment::Claimed,
            "InfraMachine",
            name,
            serde_json::Value::Null,
        )
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_that_holds_decides_and_is_named() {
        let proceed = Says("first", || Ok(Verdict::Proceed));
        let hold = Says("backup", || {
            let waiting = Waiting::new("BackupRunning", "backup runs", Duration::from_secs(9));
            Ok(Verdict::Hold(waiting))
        });
        let never = Says("never", || Err("asked though another holds".into()));
        let hooks: Vec<Arc<dyn Hook>> = vec![Arc::new(proceed), Arc::new(hold), Arc::new(never)];
        let expected = Notice::new(
            "BackupRunning",
            "hook backup holds: backup runs",
            Duration::from_secs(9),
        );
        assert_eq!(ask(&hooks, &occasion()).await, Ok(Answer::Hold(expected)));
    }

    #[tokio::test(start_paused = true)]
    async fn errors_and_silence_are_transient_failures() {
        let fails: Vec<Arc<dyn Hook>> = vec![Arc::new(Says("x", || Err("no route".into())))];
        let failure = ask(&fails, &occasion()).await.unwrap_err();
        assert_eq!(failure.message, "hook x failed: no route");
        let silent: Vec<Arc<dyn Hook>> = vec![Arc::new(Silent)];
        let failure = ask(&silent, &occasion()).await.unwrap_err();
        assert_eq!(failure.class, Class::Transient);
        assert!(failure.message.contains("silent"));
    }
}
