//! The tree that `clusterctl describe` shows: a pure function over the store.

use std::fmt::{Display, Formatter};

use super::object::{Kind, Name, Object};
use super::store::Store;
use super::word;

/// One condition, as a tree shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Line {
    /// The type, such as `Ready`.
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// CamelCase reason.
    pub reason: String,
    /// Message for people.
    pub message: String,
}

/// An object with what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Branch {
    /// The kind, such as `Machine`.
    pub kind: String,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// `status.phase`, where the kind has one.
    pub phase: Option<String>,
    /// The Kubernetes version that runs: of a Machine its kubelet's, of a control plane the lowest of
    /// its machines.
    pub version: Option<String>,
    /// Whether it is being deleted.
    pub is_deleting: bool,
    /// All well-formed conditions, in the object's order.
    pub conditions: Vec<Line>,
    /// Infra cluster, control plane, workers of a Cluster; machines of a control plane or set; infra
    /// machine and bootstrap config of a Machine.
    pub children: Vec<Branch>,
}

impl Branch {
    /// The condition of this type.
    pub fn condition(&self, kind: &str) -> Option<&Line> {
        self.conditions.iter().find(|line| line.kind == kind)
    }

    /// What sums the object up: `Deleting` while it is deleted, else `Ready` or `Available`.
    pub fn summary(&self) -> Option<&Line> {
        let deleting = self
            .condition("Deleting")
            .filter(|line| self.is_deleting && line.status == "True");
        deleting
            .or_else(|| self.condition("Ready"))
            .or_else(|| self.condition("Available"))
    }

    /// Every branch below and including this one, parents first.
    pub fn walk(&self) -> Vec<&Branch> {
        let mut all = vec![self];
        for child in &self.children {
            all.extend(child.walk());
        }
        all
    }

    fn write(&self, out: &mut Formatter<'_>, indent: &str, lead: &str) -> std::fmt::Result {
        write!(out, "{lead}{}/{}", self.kind, self.name)?;
        if let Some(phase) = &self.phase {
            write!(out, "  {phase}")?;
        }
        if let Some(line) = self.summary() {
            write!(out, "  {}={} {}", line.kind, line.status, line.reason)?;
            if line.status != "True" || line.kind == "Deleting" {
                write!(out, "  {}", line.message)?;
            }
        }
        writeln!(out)?;
        let count = self.children.len();
        for (index, child) in self.children.iter().enumerate() {
            let (lead, rest) = if index + 1 == count {
                ("└─", "  ")
            } else {
                ("├─", "│ ")
            };
            child.write(out, &format!("{indent}{rest}"), &format!("{indent}{lead}"))?;
        }
        Ok(())
    }
}

impl Display for Branch {
    fn fmt(&self, out: &mut Formatter<'_>) -> std::fmt::Result {
        self.write(out, "", "")
    }
}

/// All clusters, by namespace and name.
pub(super) fn tree(store: &Store) -> Vec<Branch> {
    let clusters = store.all(&word::CLUSTER);
    clusters
        .iter()
        .map(|cluster| cluster_branch(store, cluster))
        .collect()
}

fn cluster_branch(store: &Store, cluster: &Object) -> Branch {
    let mut branch = leaf(&word::CLUSTER, cluster);
    let name = cluster.key();
    branch
        .children
        .extend(referenced(store, cluster, "/spec/infrastructureRef"));
    if let Some(reference) = cluster.reference("/spec/controlPlaneRef") {
        let found = Name::new(cluster.namespace(), &reference.name);
        if let Some(control_plane) = store.get(&reference.kind, &found) {
            let mut child = leaf(&reference.kind, &control_plane);
            child.children = machines(store, &control_plane);
            branch.children.push(child);
        }
    }
    for deployment in store.clustered(&word::MACHINE_DEPLOYMENT, &name) {
        let mut child = leaf(&word::MACHINE_DEPLOYMENT, &deployment);
        for set in store.owned(&word::MACHINE_SET, deployment.uid()) {
            child.children.extend(machines(store, &set));
        }
        branch.children.push(child);
    }
    let has_owner = |object: &Object| object.controller().is_some();
    for set in store.clustered(&word::MACHINE_SET, &name) {
        if !has_owner(&set) {
            let mut child = leaf(&word::MACHINE_SET, &set);
            child.children = machines(store, &set);
            branch.children.push(child);
        }
    }
    for machine in store.clustered(&word::MACHINE, &name) {
        if !has_owner(&machine) {
            branch.children.push(machine_branch(store, &machine));
        }
    }
    branch
}

fn machines(store: &Store, owner: &Object) -> Vec<Branch> {
    let machines = store.owned(&word::MACHINE, owner.uid());
    machines
        .iter()
        .map(|machine| machine_branch(store, machine))
        .collect()
}

fn machine_branch(store: &Store, machine: &Object) -> Branch {
    let mut branch = leaf(&word::MACHINE, machine);
    for pointer in ["/spec/bootstrap/configRef", "/spec/infrastructureRef"] {
        branch.children.extend(referenced(store, machine, pointer));
    }
    branch
}

fn referenced(store: &Store, object: &Object, pointer: &str) -> Option<Branch> {
    let reference = object.reference(pointer)?;
    let name = Name::new(object.namespace(), &reference.name);
    let found = store.get(&reference.kind, &name)?;
    Some(leaf(&reference.kind, &found))
}

fn leaf(kind: &Kind, object: &Object) -> Branch {
    let kinds = object.conditions().iter();
    let conditions = kinds.filter_map(|condition| {
        let kind = condition["type"].as_str()?;
        let found = object.condition(kind)?;
        Some(Line {
            kind: kind.to_owned(),
            status: found.status.to_owned(),
            reason: found.reason.to_owned(),
            message: found.message.to_owned(),
        })
    });
    Branch {
        kind: kind.kind.to_string(),
        namespace: object.namespace().to_owned(),
        name: object.name().to_owned(),
        phase: object.word("/status/phase").map(str::to_owned),
        version: ["/status/nodeInfo/kubeletVersion", "/status/version"]
            .into_iter()
            .find_map(|pointer| object.word(pointer))
            .map(str::to_owned),
        is_deleting: object.is_deleting(),
        conditions: conditions.collect(),
        children: Vec::new(),
    }
}
