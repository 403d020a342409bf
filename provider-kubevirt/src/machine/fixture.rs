//! Machines, VMs and instances for tests of pure code.

use std::sync::Arc;

use capi_contract::view::{ClusterView, MachineView};
use capi_contract::{Mark, ObjectName, Token};
use serde_json::{Value, json};

use super::Scope;
use super::claim::MachineClaim;
use super::observe::{SecretState, Seen};
use crate::api::{KubevirtCluster, KubevirtMachine};

/// A machine of the smallest template.
pub(super) fn scope() -> Scope {
    let mut object = KubevirtMachine::default();
    object.metadata.name = Some("m".into());
    object.metadata.namespace = Some("ns".into());
    object.spec.virtual_machine_template = serde_json::from_value(json!({
        "spec": {"runStrategy": "Always", "template": {"spec": {}}},
    }))
    .unwrap();
    let machine: MachineView =
        serde_json::from_value(json!({"spec": {"clusterName": "c"}})).unwrap();
    let cluster = KubevirtCluster::default();
    let owner = Token::random();
    Scope::new(object, cluster, machine, ClusterView::default(), owner)
}

/// The same once its Node is there.
pub(super) fn joined() -> Scope {
    let mut scope = scope();
    scope.machine.status.node_ref = serde_json::from_value(json!({"name": "m"})).unwrap();
    scope
}

pub(super) fn claim() -> MachineClaim {
    MachineClaim {
        namespace: "tenant".into(),
        name: "m".into(),
        secret: Some("m-bootstrap-userdata-1".into()),
        volumes: Vec::new(),
        keys: None,
        mark: Mark::made(Token::random(), ObjectName::new("ns", "m")),
    }
}

/// A look at a VM with this spec, status and metadata, and at its instance, if there is one.
pub(super) fn seen(vm: Value, instance: Option<Value>) -> Seen {
    let mut machine = json!({
        "metadata": {"name": "m", "namespace": "tenant", "uid": "vm-1"},
        "spec": {"runStrategy": "Always"},
    });
    merge(&mut machine, vm);
    let instance = instance.map(|more| {
        let mut instance = json!({
            "metadata": {"name": "m", "namespace": "tenant", "uid": "vmi-1"},
            "spec": {"networks": [{"name": "default"}]},
            "status": {"phase": "Running", "interfaces": [
                {"name": "default", "ipAddress": "10.0.0.7", "ipAddresses": ["10.0.0.7"]},
            ]},
        });
        merge(&mut instance, more);
        Arc::new(serde_json::from_value(instance).unwrap())
    });
    Seen {
        vm: Some(Arc::new(serde_json::from_value(machine).unwrap())),
        instance,
        secret: SecretState::Kept,
        login: None,
        volumes: Vec::new(),
        migration: None,
        remains: Vec::new(),
    }
}

fn merge(into: &mut Value, more: Value) {
    match (into, more) {
        (Value::Object(into), Value::Object(more)) => {
            for (key, value) in more {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, more) => *into = more,
    }
}
