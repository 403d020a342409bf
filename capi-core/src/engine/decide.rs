//! The decision table. Pure, and on values without payload, so that it is one function for all
//! providers.

use std::time::Duration;

use capi_contract::{Depth, Lookup};

/// A [`Lookup`] without its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sight {
    Absent,
    Ours,
    Foreign,
    Unsettled,
}

impl<S> From<&Lookup<S>> for Sight {
    fn from(lookup: &Lookup<S>) -> Self {
        match lookup {
            Lookup::Absent => Sight::Absent,
            Lookup::Ours(_) => Sight::Ours,
            Lookup::Foreign(_) => Sight::Foreign,
            Lookup::Unsettled(_) => Sight::Unsettled,
        }
    }
}

/// What the pass is after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Aim {
    /// Make the thing and keep it.
    Keep,
    /// This claim cannot be had: leave nothing of it behind and choose another.
    GiveUp,
    /// Unmake it.
    Delete,
}

/// What the table looks at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Situation {
    pub(crate) sight: Sight,
    pub(crate) depth: Depth,
    pub(crate) aim: Aim,
    /// Whether the thing was ever seen as ours (R9, IM-16).
    pub(crate) proven: bool,
    /// Whether a thing that vanished is made again: shared things are, machines never (R9).
    pub(crate) remade: bool,
    /// How long an unanswered create may still take effect.
    pub(crate) outstanding: Option<Duration>,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Only the thing itself can tell: look again with [`Depth::Thing`].
    LookCloser,
    /// Ask for a plan with the observation.
    Plan,
    /// Ask for a plan for a thing that does not exist.
    PlanAbsent,
    /// A create may still land: wait.
    AwaitCreate(Duration),
    /// The lookup says what is waited for.
    Wait,
    /// Drop the claim and choose another.
    ChooseAnew,
    /// What was made is gone.
    Lost,
    /// Ask for a plan of the teardown.
    Teardown,
    /// Nothing of ours is left.
    Release,
}

/// Decides what an observation means (R4, R5, R9).
pub(crate) fn decide(on: Situation) -> Decision {
    // A shared listing may prove presence, never absence, and is too old to trust with anything else.
    if on.depth == Depth::Listing && on.sight != Sight::Ours {
        return Decision::LookCloser;
    }
    match (on.sight, on.outstanding) {
        (Sight::Unsettled, _) => return Decision::Wait,
        (Sight::Absent, Some(rest)) => return Decision::AwaitCreate(rest),
        // The claim is about to be dropped, and with it the only way to find what may still come.
        (Sight::Foreign, Some(rest)) if on.aim == Aim::Delete || !on.proven => {
            return Decision::AwaitCreate(rest);
        }
        (Sight::Absent | Sight::Ours | Sight::Foreign, _) => {}
    }
    match (on.aim, on.sight) {
        (_, Sight::Unsettled) => Decision::Wait,
        (Aim::Keep, Sight::Ours) => Decision::Plan,
        (Aim::GiveUp | Aim::Delete, Sight::Ours) => Decision::Teardown,
        (Aim::Delete, Sight::Absent | Sight::Foreign) => Decision::Release,
        (Aim::Keep, Sight::Absent | Sight::Foreign) if on.proven && !on.remade => Decision::Lost,
        (Aim::Keep, Sight::Absent) => Decision::PlanAbsent,
        (Aim::GiveUp, Sight::Absent | Sight::Foreign) | (Aim::Keep, Sight::Foreign) => {
            Decision::ChooseAnew
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const REST: Duration = Duration::from_secs(7);

    fn at(sight: Sight, aim: Aim, proven: bool) -> Situation {
        Situation {
            sight,
            depth: Depth::Thing,
            aim,
            proven,
            remade: false,
            outstanding: None,
        }
    }

    #[rstest]
    #[case(Sight::Ours, Decision::Plan, Decision::Plan, Decision::Teardown)]
    #[case(Sight::Absent, Decision::PlanAbsent, Decision::Lost, Decision::Release)]
    #[case(
        Sight::Foreign,
        Decision::ChooseAnew,
        Decision::Lost,
        Decision::Release
    )]
    #[case(Sight::Unsettled, Decision::Wait, Decision::Wait, Decision::Wait)]
    fn the_table_of_the_seam(
        #[case] sight: Sight,
        #[case] unproven: Decision,
        #[case] proven: Decision,
        #[case] deleting: Decision,
    ) {
        assert_eq!(decide(at(sight, Aim::Keep, false)), unproven);
        assert_eq!(decide(at(sight, Aim::Keep, true)), proven);
        for was_proven in [false, true] {
            assert_eq!(decide(at(sight, Aim::Delete, was_proven)), deleting);
        }
    }

    #[test]
    fn r5_an_unanswered_create_is_waited_for_in_every_absent_cell() {
        for aim in [Aim::Keep, Aim::GiveUp, Aim::Delete] {
            for proven in [false, true] {
                let situation = Situation {
                    outstanding: Some(REST),
                    ..at(Sight::Absent, aim, proven)
                };
                assert_eq!(decide(situation), Decision::AwaitCreate(REST));
            }
        }
    }

    #[test]
    fn r5_a_claim_is_not_dropped_as_foreign_while_a_create_may_land() {
        for (aim, proven) in [
            (Aim::Keep, false),
            (Aim::GiveUp, false),
            (Aim::Delete, false),
            (Aim::Delete, true),
        ] {
            let situation = Situation {
                outstanding: Some(REST),
                ..at(Sight::Foreign, aim, proven)
            };
            assert_eq!(decide(situation), Decision::AwaitCreate(REST));
        }
    }

    #[test]
    fn a_listing_proves_presence_only() {
        for sight in [Sight::Absent, Sight::Foreign, Sight::Unsettled] {
            for aim in [Aim::Keep, Aim::Delete] {
                let situation = Situation {
                    depth: Depth::Listing,
                    ..at(sight, aim, true)
                };
                assert_eq!(decide(situation), Decision::LookCloser);
            }
        }
        let ours = Situation {
            depth: Depth::Listing,
            ..at(Sight::Ours, Aim::Keep, true)
        };
        assert_eq!(decide(ours), Decision::Plan);
    }

    #[test]
    fn r9_shared_things_are_made_again_and_machines_are_not() {
        let vanished = at(Sight::Absent, Aim::Keep, true);
        assert_eq!(decide(vanished), Decision::Lost);
        let shared = Situation {
            remade: true,
            ..vanished
        };
        assert_eq!(decide(shared), Decision::PlanAbsent);
    }

    #[test]
    fn a_given_up_claim_leaves_nothing_behind() {
        assert_eq!(
            decide(at(Sight::Ours, Aim::GiveUp, false)),
            Decision::Teardown
        );
        assert_eq!(
            decide(at(Sight::Absent, Aim::GiveUp, false)),
            Decision::ChooseAnew
        );
    }
}
