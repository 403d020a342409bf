//! The nodes of all workload clusters, indexed, and which machines a change of them touches.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::workload::{Endpoint, Node, Workload};

/// The nodes of one workload cluster.
#[derive(Debug, Default)]
pub(super) struct Roster {
    pub(super) answers: bool,
    by_provider_id: HashMap<String, Vec<Arc<Node>>>,
    by_name: HashMap<String, Arc<Node>>,
}

impl Roster {
    fn new(workload: Workload) -> Self {
        let mut roster = Self {
            answers: workload.answers,
            ..Self::default()
        };
        for node in workload.nodes {
            let node = Arc::new(node);
            if let Some(id) = &node.provider_id {
                let same = roster.by_provider_id.entry(id.clone()).or_default();
                same.push(Arc::clone(&node));
            }
            roster.by_name.insert(node.name.clone(), node);
        }
        roster
    }

    pub(super) fn by_provider_id(&self, id: &str) -> &[Arc<Node>] {
        self.by_provider_id.get(id).map_or(&[], Vec::as_slice)
    }

    pub(super) fn by_name(&self, name: &str) -> Option<&Arc<Node>> {
        self.by_name.get(name)
    }
}

/// What a look at one workload cluster found changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Touched {
    /// Its API server began or ceased to answer: that touches all its machines.
    pub(super) all: bool,
    pub(super) provider_ids: BTreeSet<String>,
    pub(super) names: BTreeSet<String>,
}

/// All rosters, as of the last look.
#[derive(Debug, Default)]
pub(super) struct Rosters {
    by_endpoint: BTreeMap<Endpoint, Arc<Roster>>,
}

impl Rosters {
    pub(super) fn get(&self, endpoint: &Endpoint) -> Option<Arc<Roster>> {
        self.by_endpoint.get(endpoint).cloned()
    }

    /// Takes in what there is now, and says what changed since.
    pub(super) fn refresh(&mut self, workloads: Vec<Workload>) -> BTreeMap<Endpoint, Touched> {
        let mut touched = BTreeMap::new();
        let mut before = std::mem::take(&mut self.by_endpoint);
        for workload in workloads {
            let endpoint = workload.endpoint.clone();
            let old = before.remove(&endpoint).unwrap_or_default();
            let new = Arc::new(Roster::new(workload));
            let change = changed(&old, &new);
            if change != Touched::default() {
                touched.insert(endpoint.clone(), change);
            }
            self.by_endpoint.insert(endpoint, new);
        }
        for (endpoint, old) in before {
            let change = changed(&old, &Roster::default());
            touched.insert(endpoint, change);
        }
        touched
    }
}

fn changed(old: &Roster, new: &Roster) -> Touched {
    let mut touched = Touched {
        all: old.answers != new.answers,
        ..Touched::default()
    };
    for (one, other) in [(old, new), (new, old)] {
        for (name, node) in &one.by_name {
            if other.by_name.get(name) != Some(node) {
                touched.names.insert(name.clone());
                touched.provider_ids.extend(node.provider_id.clone());
            }
        }
        for (id, nodes) in &one.by_provider_id {
            if other.by_provider_id.get(id).map(Vec::len) != Some(nodes.len()) {
                touched.provider_ids.insert(id.clone());
            }
        }
    }
    touched
}

#[cfg(test)]
mod tests {
    use crate::workload::{Entry, Join, Role, Workloads};

    use super::*;

    fn set(values: &[&str]) -> BTreeSet<String> {
        values.iter().map(|value| (*value).to_owned()).collect()
    }

    #[test]
    fn only_what_changed_is_touched() {
        let workloads = Workloads::new();
        let endpoint = Endpoint::new("10.0.0.9", 6443);
        workloads.declare_load_balancer(&endpoint);
        let mut node = Node::new("cp", "uuid-cp", Role::ControlPlane);
        node.provider_id = Some("p://cp".to_owned());
        let entry = Entry::Init {
            ca_hash: "sha256:aa".to_owned(),
            tokens: Vec::new(),
            serves: Vec::new(),
        };
        let join = Join {
            endpoint: endpoint.clone(),
            entry,
            node,
        };
        workloads.join(&join).expect("initialises");
        let mut rosters = Rosters::default();
        let first = rosters.refresh(workloads.all());
        assert!(first[&endpoint].all, "it answers now");
        assert_eq!(first[&endpoint].provider_ids, set(&["p://cp"]));
        assert!(rosters.refresh(workloads.all()).is_empty());

        let mut worker = Node::new("w", "uuid-w", Role::Worker);
        worker.provider_id = Some("p://w".to_owned());
        workloads.insert_node(&endpoint, worker.clone());
        let second = rosters.refresh(workloads.all());
        assert!(!second[&endpoint].all);
        assert_eq!(second[&endpoint].names, set(&["w"]));

        worker.name = "twin".to_owned();
        workloads.insert_node(&endpoint, worker);
        let third = rosters.refresh(workloads.all());
        assert_eq!(third[&endpoint].provider_ids, set(&["p://w"]));
        let roster = rosters.get(&endpoint).expect("is there");
        assert_eq!(roster.by_provider_id("p://w").len(), 2);

        workloads.machine_destroyed("uuid-cp");
        let last = rosters.refresh(workloads.all());
        assert!(last[&endpoint].all);
        assert!(rosters.get(&endpoint).is_none());
    }
}
