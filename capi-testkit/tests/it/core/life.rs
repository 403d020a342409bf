//! A cluster's whole life.

use capi_testkit::workload::Node;
use serde_json::{Value, json};

use super::World;
use super::world::condition;

fn name(object: &Value) -> String {
    object["metadata"]["name"]
        .as_str()
        .expect("a name")
        .to_owned()
}

#[expect(clippy::too_many_lines, reason = "one life, told in order")]
#[tokio::test(start_paused = true)]
async fn s_04_s_06_s_09_a_cluster_comes_up_scales_rolls_and_goes() {
    let world = World::up(2).await;
    let cluster = world.one("clusters", "c");
    assert_eq!(cluster["status"]["phase"], "Provisioned");
    assert_eq!(
        cluster["spec"]["controlPlaneEndpoint"],
        json!({"host": "10.0.0.9", "port": 6443})
    );
    world
        .until(60, "available", |it| {
            condition(&it.one("clusters", "c"), "Available") == "True/Available"
        })
        .await;
    let nodes = world.workloads.all()[0].nodes.clone();
    assert_eq!(nodes.len(), 3);
    let is_known = |node: &Node| {
        node.taints
            .iter()
            .all(|it| !it.key.ends_with("/uninitialized"))
    };
    assert!(nodes.iter().all(|it| it.ready && is_known(it)), "{nodes:?}");
    let workers = world.workers();
    for worker in &workers {
        let node = nodes
            .iter()
            .find(|it| it.name == name(worker))
            .expect("its node");
        assert!(node.labels.contains_key("node-role.kubernetes.io/worker"));
        assert!(!node.labels.contains_key("pool"));
        assert_eq!(node.annotations["cluster.x-k8s.io/machine"], name(worker));
        assert_eq!(
            worker["spec"]["providerID"],
            node.provider_id.clone().expect("one")
        );
    }

    world
        .patch("MachineDeployment", "md", json!({"spec": {"replicas": 3}}))
        .await;
    world
        .until(300, "4 run", |it| it.in_phase("Running") == 4)
        .await;
    world
        .patch(
            "KubeadmControlPlane",
            "cp",
            json!({"spec": {"replicas": 3}}),
        )
        .await;
    world
        .until(600, "6 run", |it| it.in_phase("Running") == 6)
        .await;

    // Control plane first, then workers, one at a time.
    let version = "v1.35.0";
    let before: Vec<_> = world.machines().iter().map(name).collect();
    world
        .patch(
            "KubeadmControlPlane",
            "cp",
            json!({"spec": {"version": version}}),
        )
        .await;
    let is_rolled = |it: &World, resource: &str, own: &str| {
        let object = it.one(resource, own);
        let status = &object["status"];
        status["upToDateReplicas"] == 3
            && status["replicas"] == 3
            && status["availableReplicas"] == 3
    };
    world
        .until(3600, "control plane rolled", |it| {
            is_rolled(it, "kubeadmcontrolplanes", "cp")
                && it
                    .machines()
                    .iter()
                    .filter(|it| it["spec"]["version"] == version)
                    .count()
                    == 3
        })
        .await;
    let patch = json!({"spec": {"template": {"spec": {"version": version}}}});
    world.patch("MachineDeployment", "md", patch).await;
    world
        .until(3600, "workers rolled", |it| {
            is_rolled(it, "machinedeployments", "md")
                && it
                    .machines()
                    .iter()
                    .filter(|it| it["spec"]["version"] == version)
                    .count()
                    == 6
        })
        .await;
    world
        .until(60, "6 machines", |it| {
            it.in_phase("Running") == 6 && it.machines().len() == 6
        })
        .await;
    assert!(
        world
            .machines()
            .iter()
            .all(|it| !before.contains(&name(it))),
        "all are new"
    );
    assert_eq!(
        world.workloads.all()[0].nodes.len(),
        6,
        "old nodes are gone"
    );

    world
        .patch("MachineDeployment", "md", json!({"spec": {"replicas": 1}}))
        .await;
    world
        .until(300, "4 are left", |it| it.machines().len() == 4)
        .await;
    world.delete("Cluster", "c").await;
    world
        .until(600, "all gone", |it| it.all("clusters").is_empty())
        .await;
    for resource in [
        "machines",
        "machinesets",
        "machinedeployments",
        "fakemachines",
        "fakeclusters",
        "kubeadmconfigs",
        "kubeadmcontrolplanes",
    ] {
        assert_eq!(world.all(resource), Vec::<Value>::new(), "{resource}");
    }
}

#[tokio::test(start_paused = true)]
async fn s_03_the_infra_cluster_is_deleted_after_the_last_machine_is_gone() {
    let world = World::up(2).await;
    world.script.lock().holds_deletion = true;
    world.delete("Cluster", "c").await;
    world.pass(60).await;
    let cluster = world.one("clusters", "c");
    assert_eq!(
        condition(&cluster, "Deleting"),
        "True/WaitingForWorkersDeletion"
    );
    let deletions = |world: &World, resource: &str| {
        world.server.audit().select(|it| {
            it.actor == "core" && it.verb == "delete" && it.resource == resource && it.is_success()
        })
    };
    assert_eq!(
        deletions(&world, "fakemachines").len(),
        2,
        "workers go first"
    );
    assert!(deletions(&world, "kubeadmcontrolplanes").is_empty());
    world.script.lock().holds_deletion = false;
    world
        .until(600, "all gone", |it| it.all("clusters").is_empty())
        .await;
    let last_machine = deletions(&world, "fakemachines").last().expect("one").at;
    let control_plane = deletions(&world, "kubeadmcontrolplanes")[0].at;
    let infra = deletions(&world, "fakeclusters");
    assert_eq!(infra.len(), 1);
    assert!(infra[0].at > last_machine && infra[0].at > control_plane);
}

#[tokio::test(start_paused = true)]
async fn a_settled_cluster_costs_nothing() {
    let world = World::up(2).await;
    world.pass(120).await;
    let mark = world.server.audit().mark();
    world.pass(600).await;
    let busy: Vec<_> = world
        .server
        .audit()
        .since(mark)
        .into_iter()
        .filter(|it| it.actor == "core" && !it.is_watch())
        .collect();
    assert!(busy.is_empty(), "{busy:?}");
}

#[tokio::test(start_paused = true)]
async fn the_tree_shows_all_that_belongs_to_a_cluster() {
    let world = World::up(1).await;
    let tree = world.core.snapshot();
    assert_eq!(tree.len(), 1);
    let kinds: Vec<_> = tree[0].walk().iter().map(|it| it.kind.clone()).collect();
    assert_eq!(
        kinds,
        [
            "Cluster",
            "FakeCluster",
            "KubeadmControlPlane",
            "Machine",
            "KubeadmConfig",
            "FakeMachine",
            "MachineDeployment",
            "Machine",
            "KubeadmConfig",
            "FakeMachine"
        ]
    );
    let text = tree[0].to_string();
    assert!(
        text.contains("├─FakeCluster/c") && text.contains("Running"),
        "{text}"
    );
}
