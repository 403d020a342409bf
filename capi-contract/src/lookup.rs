//! What a look at the backend can answer.

use crate::plan::Waiting;

/// How closely to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// A shared listing suffices: one call for all objects of a session, some seconds old at most.
    /// Where it cannot tell that the thing is as it was, answer [`Lookup::Unsettled`] without asking
    /// further: the engine then looks at the thing itself.
    Listing,
    /// The thing itself: required right before a mutation and for every [`Lookup::Absent`].
    Thing,
}

/// The answer of [`External::observe`](crate::External::observe).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup<S> {
    /// The backend affirms that neither the thing nor any side object exists.
    Absent,
    /// It exists and bears our mark.
    Ours(S),
    /// The id is taken by something that bears another mark or none; the text says by what.
    Foreign(String),
    /// It cannot be told now: a mark that is not yet readable, a silent node, a missing right.
    Unsettled(Waiting),
}

impl<S> Lookup<S> {
    /// The observation, where the thing is ours.
    pub fn ours(&self) -> Option<&S> {
        match self {
            Lookup::Ours(seen) => Some(seen),
            Lookup::Absent | Lookup::Foreign(_) | Lookup::Unsettled(_) => None,
        }
    }
}
