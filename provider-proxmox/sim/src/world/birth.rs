//! Every VM that ever was, so that tests can tell what no VM list shows any more.

use std::collections::HashMap;
use std::time::Duration;

use capi_contract::{Mark, ObjectName, Token};

/// Who made a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Maker {
    /// A call of this token.
    Token(String),
    /// The test, by hand.
    Hand,
}

/// One VM that was made at some time.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Birth {
    /// Its VMID, which others may have had before and after it.
    pub vmid: u32,
    /// The node it was made on.
    pub node: String,
    /// When its configuration appeared, since the platform's start.
    pub made_at: Duration,
    /// Who made it.
    pub made_by: Maker,
    /// Its name, once it had one.
    pub name: Option<String>,
    /// The mark in its description, once it had one; the last one if it changed.
    pub mark: Option<Mark>,
    /// When it went, since the platform's start.
    pub gone_at: Option<Duration>,
    /// Whose call removed it, or `hand`.
    pub gone_by: Option<String>,
    /// Whether it belongs to somebody else: templates, and VMs put there by hand.
    pub stranger: bool,
}

impl Birth {
    /// Whether it is still there.
    pub fn is_alive(&self) -> bool {
        self.gone_at.is_none()
    }
}

/// Two VMs that bore a mark of the same object at the same time.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Twins {
    /// The object that both stand for.
    pub object: ObjectName,
    /// The VMID of the one that was there first.
    pub first: u32,
    /// The VMID of the other.
    pub second: u32,
    /// When both bore the mark, since the platform's start.
    pub since: Duration,
}

#[derive(Clone, Debug)]
struct Overlap {
    object: ObjectName,
    first: usize,
    second: usize,
    since: Duration,
}

/// The register.
#[derive(Clone, Debug, Default)]
pub(crate) struct Births {
    all: Vec<Birth>,
    alive: HashMap<(Token, ObjectName), Vec<usize>>,
    overlaps: Vec<Overlap>,
}

impl Births {
    pub(crate) fn add(
        &mut self,
        vmid: u32,
        node: &str,
        made_at: Duration,
        made_by: Maker,
        stranger: bool,
    ) -> usize {
        self.all.push(Birth {
            vmid,
            node: node.to_owned(),
            made_at,
            made_by,
            name: None,
            mark: None,
            gone_at: None,
            gone_by: None,
            stranger,
        });
        self.all.len() - 1
    }

    /// Notes what a VM bears now.
    pub(crate) fn bears(
        &mut self,
        birth: usize,
        name: Option<String>,
        mark: Option<Mark>,
        now: Duration,
    ) {
        let Some(known) = self.all.get_mut(birth) else {
            return;
        };
        if name.is_some() {
            known.name = name;
        }
        let Some(mark) = mark else { return };
        if known.mark.as_ref() == Some(&mark) {
            return;
        }
        if let Some(old) = known.mark.replace(mark.clone()) {
            let others = self.alive.entry((old.owner, old.object)).or_default();
            others.retain(|other| *other != birth);
        }
        let bearers = self
            .alive
            .entry((mark.owner.clone(), mark.object.clone()))
            .or_default();
        for first in bearers.iter().copied() {
            let object = mark.object.clone();
            self.overlaps.push(Overlap {
                object,
                first,
                second: birth,
                since: now,
            });
        }
        bearers.push(birth);
    }

    pub(crate) fn gone(&mut self, birth: usize, at: Duration, by: &str) {
        let Some(known) = self.all.get_mut(birth) else {
            return;
        };
        known.gone_at = Some(at);
        known.gone_by = Some(by.to_owned());
        if let Some(mark) = known.mark.clone()
            && let Some(bearers) = self.alive.get_mut(&(mark.owner, mark.object))
        {
            bearers.retain(|other| *other != birth);
        }
    }

    pub(crate) fn all(&self) -> &[Birth] {
        &self.all
    }

    pub(crate) fn is_stranger(&self, birth: usize) -> bool {
        self.all.get(birth).is_some_and(|birth| birth.stranger)
    }

    pub(crate) fn set_stranger(&mut self, birth: usize, stranger: bool) {
        if let Some(birth) = self.all.get_mut(birth) {
            birth.stranger = stranger;
        }
    }

    /// Pairs that ever were, the parted ones too.
    pub(crate) fn overlaps(&self) -> Vec<Twins> {
        self.overlaps
            .iter()
            .map(|overlap| self.twins(overlap))
            .collect()
    }

    /// Pairs of which both still are and bear the mark.
    pub(crate) fn kept_twins(&self) -> Vec<Twins> {
        let both = |overlap: &&Overlap| {
            let bears = |birth: usize| {
                let birth = &self.all[birth];
                let object = birth.mark.as_ref().map(|mark| &mark.object);
                birth.is_alive() && object == Some(&overlap.object)
            };
            bears(overlap.first) && bears(overlap.second)
        };
        self.overlaps
            .iter()
            .filter(both)
            .map(|overlap| self.twins(overlap))
            .collect()
    }

    fn twins(&self, overlap: &Overlap) -> Twins {
        Twins {
            object: overlap.object.clone(),
            first: self.all[overlap.first].vmid,
            second: self.all[overlap.second].vmid,
            since: overlap.since,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn born(births: &mut Births, vmid: u32, mark: &Mark) -> usize {
        let birth = births.add(vmid, "pve1", at(0), Maker::Token("t".into()), false);
        births.bears(birth, None, Some(mark.clone()), at(1));
        birth
    }

    #[test]
    fn twins_are_seen_until_one_goes() {
        let mut births = Births::default();
        let (owner, object) = (Token::random(), ObjectName::new("default", "m"));
        let first = born(&mut births, 100, &Mark::made(owner.clone(), object.clone()));
        born(&mut births, 101, &Mark::made(owner, object.clone()));
        let twins = births.kept_twins();
        assert_eq!((twins[0].first, twins[0].second), (100, 101));
        assert_eq!(twins[0].object, object);
        births.gone(first, at(2), "t");
        assert!(births.kept_twins().is_empty());
        assert_eq!(births.overlaps().len(), 1);
    }

    #[test]
    fn equal_names_of_two_owners_are_no_twins() {
        let mut births = Births::default();
        let object = ObjectName::new("default", "m");
        born(
            &mut births,
            100,
            &Mark::made(Token::random(), object.clone()),
        );
        born(&mut births, 101, &Mark::made(Token::random(), object));
        assert!(births.overlaps().is_empty());
    }

    #[test]
    fn a_successor_is_no_twin() {
        let mut births = Births::default();
        let mark = Mark::made(Token::random(), ObjectName::new("default", "m"));
        let first = born(&mut births, 100, &mark);
        births.gone(first, at(2), "hand");
        born(&mut births, 100, &mark);
        assert!(births.overlaps().is_empty());
    }
}
