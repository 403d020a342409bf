//! Machines that the Go provider made are taken over as they are, in whatever state.

use std::collections::BTreeMap;
use std::time::Duration;

use provider_kubevirt::api::{
    CLUSTER_FINALIZER, MACHINE_FINALIZER, MACHINE_NAME_LABEL, MACHINE_NAMESPACE_LABEL,
};
use serde_json::{Value, json};

use crate::site::{Fleet, MACHINES, NAMESPACE, Site, create, machine, persistent, ready};

const COUNT: usize = 50;

/// The states that the Go provider leaves machines in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Provisioned, a Node.
    Joined,
    /// Provisioned, not yet a Node.
    Provisioned,
    /// The VM runs, and nothing says so yet.
    Booting,
    /// The VM was created, and its volume is imported.
    Importing,
    /// Failed for good in the Go provider's eyes.
    Terminal,
}

const STATES: [State; 5] = [
    State::Joined,
    State::Provisioned,
    State::Booting,
    State::Importing,
    State::Terminal,
];

/// The VM that the Go provider makes for a machine.
fn vm(name: &str, infra: &Value, state: State) -> Value {
    let mut spec = infra["spec"]["virtualMachineTemplate"]["spec"].clone();
    let labels = json!({
        "kubevirt.io/vm": name, "name": name, "cluster.x-k8s.io/role": "worker",
        "cluster.x-k8s.io/cluster-name": "fleet",
        MACHINE_NAME_LABEL: name, MACHINE_NAMESPACE_LABEL: NAMESPACE,
    });
    if spec["dataVolumeTemplates"].is_array() {
        let root = format!("{name}-root");
        spec["dataVolumeTemplates"][0]["metadata"]["name"] = json!(root);
        spec["template"]["spec"]["volumes"][0]["dataVolume"]["name"] = json!(root);
    }
    let instance = &mut spec["template"];
    instance["metadata"]["labels"] = labels.clone();
    let volumes = instance["spec"]["volumes"].as_array_mut().unwrap();
    let secret = json!({"name": format!("{name}-bootstrap-userdata")});
    volumes.push(json!({
        "name": "cloudinitvolume", "cloudInitConfigDrive": {"secretRef": secret},
    }));
    let disks = instance["spec"]["domain"]["devices"]["disks"]
        .as_array_mut()
        .unwrap();
    disks.push(json!({"name": "cloudinitvolume", "disk": {"bus": "virtio"}}));
    let mut labels = labels;
    if state == State::Terminal {
        labels["capk.cluster.x-k8s.io/vm-is-terminal"] = json!("broken");
    }
    json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels},
        "spec": spec,
    })
}

/// What the Go provider has written on the machine.
fn stored(name: &str, mut infra: Value, state: State) -> Value {
    infra["metadata"] = json!({"finalizers": [MACHINE_FINALIZER]});
    if matches!(state, State::Joined | State::Provisioned) {
        infra["spec"]["providerID"] = json!(format!("kubevirt://{name}"));
        infra["status"] = json!({
            "ready": true, "initialization": {"provisioned": true}, "nodeupdated": true,
            "addresses": [
                {"type": "Hostname", "address": name},
                {"type": "InternalIP", "address": "10.244.0.9"},
                {"type": "ExternalIP", "address": "10.244.0.9"},
                {"type": "InternalDNS", "address": name},
            ],
        });
    }
    if state == State::Terminal {
        infra["status"] = json!({
            "failureReason": "UpdateError", "failureMessage": "the machine is in a terminal state",
        });
    }
    infra
}

/// Makes what the Go provider left behind: machines in all its states, with their VMs and Secrets.
async fn populate(site: &Site, fleet: &Fleet) -> BTreeMap<String, State> {
    let go = site.infra.client("capk");
    let mut states = BTreeMap::new();
    for n in 0..COUNT {
        let (name, state) = (format!("m-{n}"), STATES[n % STATES.len()]);
        let infra = if state == State::Importing {
            persistent()
        } else {
            machine()
        };
        create(
            &go,
            json!({
                "apiVersion": "v1", "kind": "Secret", "type": "cluster.x-k8s.io/secret",
                "metadata": {"name": format!("{name}-bootstrap-userdata"), "namespace": NAMESPACE},
                "stringData": {"userdata": "#cloud-config\n{}\n"},
            }),
        )
        .await;
        create(&go, vm(&name, &infra, state)).await;
        fleet
            .add_with(&name, stored(&name, infra, state), json!({}))
            .await;
        if state == State::Joined {
            fleet.join(&name).await;
        }
        states.insert(name, state);
    }
    states
}

#[tokio::test(start_paused = true)]
async fn fifty_machines_of_the_go_provider_are_taken_over_as_they_are() {
    let site = Site::usual().await;
    let mut cluster = crate::site::cluster();
    cluster["metadata"] = json!({"finalizers": [CLUSTER_FINALIZER]});
    let fleet = Fleet::create_like(&site, cluster).await;
    site.play();
    let states = populate(&site, &fleet).await;
    // The VMs run, the imports go on.
    tokio::time::sleep(Duration::from_secs(20)).await;
    let uids = |site: &Site| -> BTreeMap<String, Value> {
        let of = |name: &String| {
            let instance = site.instance(name).unwrap_or_default();
            let vm = site.vm(name).unwrap();
            // What is still being imported starts its instance later.
            let started = states[name] != State::Importing;
            let instance = started.then(|| instance["metadata"]["uid"].clone());
            (
                name.clone(),
                json!([
                    vm["metadata"]["uid"],
                    vm["metadata"]["generation"],
                    instance
                ]),
            )
        };
        states.keys().map(of).collect()
    };
    let before = uids(&site);
    let since = site.marks();
    let _provider = site.start_provider();
    site.until("taken over", |site| {
        states.iter().all(|(name, state)| {
            let machine = site.machine(name).unwrap();
            let provisioned = crate::site::is_provisioned(&machine);
            match state {
                State::Terminal => ready(&machine) == Some("False"),
                _ => provisioned && ready(&machine) == Some("True"),
            }
        })
    })
    .await;
    assert_eq!(uids(&site), before, "re-created, changed or restarted");
    let touched = site.requests(since, |record| {
        record.is_write()
            && record.group.contains("kubevirt.io")
            && !record.group.contains("infrastructure")
    });
    assert!(touched.is_empty(), "{touched:#?}");
    for name in states.keys() {
        let machine = site.machine(name).unwrap();
        let external = machine["status"]["addresses"]
            .to_string()
            .contains("ExternalIP");
        assert!(!external, "defect 6: {}", machine["status"]["addresses"]);
    }

    // And they go like any other, with the Go provider's Secret.
    for name in states.keys() {
        fleet.delete(name).await;
    }
    site.until("gone", |site| site.server.objects(MACHINES).is_empty())
        .await;
    assert_eq!(site.platform.vms_left(), Vec::<String>::new());
    assert_eq!(site.platform.volumes_left(), Vec::<String>::new());
    assert!(site.secrets().is_empty(), "{:#?}", site.secrets());
}

/// A published template of the Go provider has a cluster that says nothing of itself.
#[tokio::test(start_paused = true)]
async fn a_cluster_without_a_spec_is_taken() {
    let site = Site::instant().await;
    let script = site.server.client("script");
    let kind = json!({
        "apiVersion": "infrastructure.cluster.x-k8s.io/v1alpha1", "kind": "KubevirtCluster",
        "metadata": {"name": "plain", "namespace": NAMESPACE},
    });
    let made = create(&script, kind).await;
    assert_eq!(made["spec"], json!({}));
}
