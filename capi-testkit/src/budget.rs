//! How many requests one machine costs: the writes and reads of its controller, by stage of its life.
//!
//! Counted are writes that the server accepted or refused (a refused one costs as much), to the
//! machine's object, its status, and the objects that were made for it. Events are counted apart,
//! watches and Leases not at all.

use std::time::Duration;

use crate::apiserver::AuditRecord;

/// When the stages of a life change, on the clock of [`AuditRecord::at`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Milestones {
    /// When `provisioned` was first seen.
    pub provisioned: Option<Duration>,
    /// When the deletion timestamp was first seen.
    pub deleting: Option<Duration>,
}

/// The requests of one life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Budget {
    /// Status writes before the gates opened: first visit, waits.
    pub waiting: usize,
    /// Writes from the first one after the gates opened to the one that set `provisioned`.
    pub provisioning: usize,
    /// Writes after that: the node joined, the seed was removed.
    pub settling: usize,
    /// Writes from the deletion timestamp to the removal of the finalizer.
    pub deletion: usize,
    /// Reads of single objects.
    pub reads: usize,
    /// Events, of the whole life.
    pub events: usize,
}

impl Budget {
    /// Counts the records of one controller that are about one machine, in their order.
    pub fn of<'a>(
        records: impl IntoIterator<Item = &'a AuditRecord>,
        milestones: Milestones,
    ) -> Self {
        let mut budget = Self::default();
        let mut is_open = false;
        for record in records {
            if record.is_lease() || record.is_watch() || record.dry_run {
                continue;
            }
            if record.is_event() {
                budget.events += 1;
            } else if record.is_read() {
                budget.reads += 1;
            } else if record.is_write() {
                // The first write that is not of status adds the finalizer or asks for an address.
                is_open |= record.subresource.is_empty();
                *budget.stage(is_open, record.at, milestones) += 1;
            }
        }
        budget
    }

    fn stage(&mut self, is_open: bool, at: Duration, milestones: Milestones) -> &mut usize {
        let is_past = |milestone: Option<Duration>| milestone.is_some_and(|moment| at > moment);
        if is_past(milestones.deleting) {
            &mut self.deletion
        } else if is_past(milestones.provisioned) {
            &mut self.settling
        } else if is_open {
            &mut self.provisioning
        } else {
            &mut self.waiting
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(verb: &'static str, subresource: &str, second: u64) -> AuditRecord {
        AuditRecord {
            actor: "provider".to_owned(),
            user_agent: String::new(),
            verb,
            group: "infrastructure.cluster.x-k8s.io".to_owned(),
            resource: "machines".to_owned(),
            subresource: subresource.to_owned(),
            namespace: "default".to_owned(),
            name: "m".to_owned(),
            field_manager: String::new(),
            dry_run: false,
            code: 200,
            at: Duration::from_secs(second),
            revision: second,
        }
    }

    #[test]
    fn each_write_counts_in_the_stage_that_it_falls_into() {
        let event = AuditRecord {
            resource: "events".to_owned(),
            ..record("create", "", 4)
        };
        let lease = AuditRecord {
            group: "coordination.k8s.io".to_owned(),
            resource: "leases".to_owned(),
            ..record("patch", "", 4)
        };
        let dry = AuditRecord {
            dry_run: true,
            ..record("patch", "", 4)
        };
        let refused = AuditRecord {
            code: 409,
            ..record("patch", "", 4)
        };
        let records = [
            record("patch", "status", 1),
            record("patch", "", 2),
            record("get", "", 3),
            record("watch", "", 3),
            event,
            lease,
            dry,
            refused,
            record("patch", "status", 5),
            record("patch", "", 6),
            record("patch", "status", 9),
            record("patch", "", 9),
        ];
        let milestones = Milestones {
            provisioned: Some(Duration::from_secs(5)),
            deleting: Some(Duration::from_secs(8)),
        };
        let expected = Budget {
            waiting: 1,
            provisioning: 3,
            settling: 1,
            deletion: 2,
            reads: 1,
            events: 1,
        };
        assert_eq!(Budget::of(&records, milestones), expected);
    }
}
