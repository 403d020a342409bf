//! One mutation of the outside.

use std::time::Duration;

/// What a step does to the world, which decides what the engine writes down before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Makes something. While the answer is outstanding, an absent thing is not believed absent for
    /// `settle`, which must exceed the longest time that a request may be in flight or queued.
    Creates {
        /// How long an unanswered create may still take effect.
        settle: Duration,
    },
    /// Changes something; doing it twice, or late, could harm.
    Changes,
    /// Harmless if done twice or late, and changing only what bears our mark. Needs no write before
    /// it (R2). Never a create, an upload or a destroy.
    Repeats,
    /// Removes something.
    Destroys,
}

/// One mutation, chosen by [`External::plan`](crate::External::plan) and carried out by
/// [`External::apply`](crate::External::apply).
///
/// A step is a value that may hold anything it needs; only its name is ever written down, because
/// contents may be secret.
pub trait Step: Send + Sync {
    /// CamelCase name, stable over releases: it stands in the ledger, in metrics, and as the
    /// condition's reason while the step is under way. With `Failed` behind it, it is the reason of
    /// a failure.
    fn name(&self) -> &'static str;

    /// What the step does to the world.
    fn effect(&self) -> Effect;

    /// Whether [`External::apply`](crate::External::apply) needs the bootstrap data. The engine
    /// fetches the Secret by name only then.
    fn wants_bootstrap(&self) -> bool {
        false
    }
}
