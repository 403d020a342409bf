//! The control plane over time: one machine at a time, never without quorum.

use std::cell::Cell;

use serde_json::{Value, json};

use super::World;
use super::world::{INFRA, condition};

const CONTROL_PLANE: &str = "cluster.x-k8s.io/control-plane";

fn planes(world: &World) -> Vec<Value> {
    let is_plane = |it: &Value| !it["metadata"]["labels"][CONTROL_PLANE].is_null();
    world.machines().into_iter().filter(is_plane).collect()
}

fn name(machine: &Value) -> String {
    machine["metadata"]["name"]
        .as_str()
        .expect("a name")
        .to_owned()
}

fn is_deleting(machine: &Value) -> bool {
    machine["metadata"]["deletionTimestamp"].is_string()
}

fn runs(machine: &Value) -> bool {
    machine["status"]["phase"] == "Running" && !is_deleting(machine)
}

fn count(machines: &[Value], is: fn(&Value) -> bool) -> usize {
    machines.iter().filter(|it| is(it)).count()
}

/// A cluster with three control plane machines and some workers.
async fn of_three(workers: u32) -> World {
    let world = World::up(workers).await;
    world
        .patch(
            "KubeadmControlPlane",
            "cp",
            json!({"spec": {"replicas": 3}}),
        )
        .await;
    let all = workers as usize + 3;
    world
        .until(600, "all run", |it| it.in_phase("Running") == all)
        .await;
    world
}

/// Extremes of what was seen while something was waited for.
#[derive(Default)]
struct Seen {
    machines_max: Cell<usize>,
    deleting_max: Cell<usize>,
    runs_min: Cell<Option<usize>>,
}

impl Seen {
    fn note(&self, machines: &[Value]) {
        let raise = |cell: &Cell<usize>, to: usize| cell.set(cell.get().max(to));
        raise(&self.machines_max, machines.len());
        raise(&self.deleting_max, count(machines, is_deleting));
        let now = count(machines, runs);
        let least = self.runs_min.get().map_or(now, |held| held.min(now));
        self.runs_min.set(Some(least));
    }
}

/// An object without owners leads to no Cluster, so whoever refers to it has to look again: objects are
/// applied in any order, and a watch may be late.
#[tokio::test(start_paused = true)]
async fn s_02_a_control_plane_that_comes_late_is_adopted() {
    let world = World::new();
    let is_plane = |object: &Value| object["kind"] == "KubeadmControlPlane";
    let (late, early): (Vec<_>, Vec<_>) = World::cluster(0).into_iter().partition(is_plane);
    for object in early {
        world.create(object).await;
    }
    world
        .until(60, "the infrastructure is provisioned", |it| {
            it.one("clusters", "c")["status"]["phase"] == "Provisioned"
        })
        .await;
    // Nothing else wakes the Cluster from here on.
    world.pass(60).await;
    for object in late {
        world.create(object).await;
    }
    world
        .until(600, "the control plane runs", |it| {
            count(&planes(it), runs) == 1
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn s_06_three_become_one_and_one_becomes_three_one_at_a_time() {
    let world = of_three(0).await;
    let seen = Seen::default();
    world
        .patch(
            "KubeadmControlPlane",
            "cp",
            json!({"spec": {"replicas": 1}}),
        )
        .await;
    world
        .until(600, "one is left", |it| {
            seen.note(&planes(it));
            planes(it).len() == 1
        })
        .await;
    assert_eq!(seen.deleting_max.get(), 1, "one at a time");
    assert_eq!(world.workloads.all()[0].nodes.len(), 1, "nodes go, too");
    assert!(world.workloads.all()[0].answers);

    world
        .patch(
            "KubeadmControlPlane",
            "cp",
            json!({"spec": {"replicas": 3}}),
        )
        .await;
    world
        .until(600, "three run", |it| {
            let all = planes(it);
            // A machine is made once the one before it is a node.
            assert!(all.len() <= count(&all, runs) + 1, "two at once");
            count(&all, runs) == 3
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn s_06_a_new_template_alone_rolls_machines_with_a_surge_of_one() {
    let world = of_three(2).await;
    world
        .create(
            json!({"apiVersion": format!("{INFRA}/v1alpha1"), "kind": "FakeMachineTemplate",
            "metadata": {"name": "tmpl2"}, "spec": {"template": {"spec": {"cores": 4}}}}),
        )
        .await;
    let machine = json!({"spec": {"infrastructureRef": {"name": "tmpl2"}}});
    world
        .patch(
            "KubeadmControlPlane",
            "cp",
            json!({"spec": {"machineTemplate": machine}}),
        )
        .await;
    let newer = |it: &World, machines: &[Value]| {
        let clone = |machine: &Value| it.one("fakemachines", &name(machine));
        machines
            .iter()
            .filter(|machine| clone(machine)["spec"]["cores"] == 4)
            .count()
    };
    let seen = Seen::default();
    world
        .until(3600, "the control plane is rolled", |it| {
            let all = planes(it);
            seen.note(&all);
            all.len() == 3 && newer(it, &all) == 3 && count(&all, runs) == 3
        })
        .await;
    assert_eq!((seen.machines_max.get(), seen.runs_min.get()), (4, Some(3)));
    assert_eq!(newer(&world, &world.workers()), 0, "workers are another's");

    // The same field of a deployment, which was S-04 all along.
    world
        .patch(
            "MachineDeployment",
            "md",
            json!({"spec": {"template": machine}}),
        )
        .await;
    let seen = Seen::default();
    world
        .until(3600, "the workers are rolled", |it| {
            let all = it.workers();
            seen.note(&all);
            all.len() == 2 && newer(it, &all) == 2 && count(&all, runs) == 2
        })
        .await;
    assert_eq!((seen.machines_max.get(), seen.runs_min.get()), (3, Some(2)));
}

#[tokio::test(start_paused = true)]
async fn s_06_a_lost_member_is_replaced_and_the_quorum_is_kept() {
    let world = of_three(0).await;
    world
        .create(
            json!({"apiVersion": "cluster.x-k8s.io/v1beta2", "kind": "MachineHealthCheck",
            "metadata": {"name": "planes"}, "spec": {
                "clusterName": "c", "selector": {"matchLabels": {CONTROL_PLANE: ""}},
                "checks": {"unhealthyNodeConditions": [
                    {"type": "Ready", "status": "Unknown", "timeoutSeconds": 300}]},
            }}),
        )
        .await;
    let lost = name(&planes(&world)[0]);
    world.destroy(&lost);
    world
        .until(1200, "it is replaced", |it| {
            it.one("machines", &lost).is_null() && count(&planes(it), runs) == 3
        })
        .await;

    let lost: Vec<_> = planes(&world).iter().take(2).map(name).collect();
    lost.iter().for_each(|machine| world.destroy(machine));
    world
        .until(600, "both are to be replaced", |it| {
            let marked = |machine| condition(&it.one("machines", machine), "OwnerRemediated");
            lost.iter()
                .all(|it| marked(it) == "False/WaitingForRemediation")
        })
        .await;
    world.pass(1200).await;
    assert_eq!(
        planes(&world).len(),
        3,
        "etcd would lose its quorum for good"
    );
    assert_eq!(count(&planes(&world), is_deleting), 0);
    let plane = world.one("kubeadmcontrolplanes", "cp");
    assert_eq!(condition(&plane, "Scaling"), "True/Waiting");
}
