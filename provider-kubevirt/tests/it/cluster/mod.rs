//! The life of a cluster, and the defects of the Go provider that are about clusters, each by the
//! number under which it was reported.

mod sweep;
mod world;

use std::time::Duration;

use serde_json::{Value, json};

use self::world::{NS, World, is_provisioned, seconds};
use crate::program::output;

const MARK: &str = "/metadata/annotations/capi-rs.dev~1mark";
const LOAD_BALANCER: &str =
    r#"{"controlPlaneServiceTemplate": {"spec": {"type": "LoadBalancer"}}}"#;

fn load_balancer() -> Value {
    serde_json::from_str(LOAD_BALANCER).unwrap()
}

/// The Service as the Go provider leaves it.
fn of_the_go_provider() -> Value {
    json!({
        "metadata": {"name": "c-lb", "labels": {"cluster.x-k8s.io/cluster-name": "c"}},
        "spec": {
            "type": "ClusterIP", "clusterIP": "10.96.0.77",
            "ports": [{"port": 6443, "targetPort": 6443, "protocol": "TCP"}],
            "selector": {"cluster.x-k8s.io/role": "control-plane",
                "cluster.x-k8s.io/cluster-name": "c"},
        },
    })
}

#[tokio::test(start_paused = true)]
async fn ic_03_a_cluster_gets_its_service_and_its_endpoint_and_goes_with_it() {
    let world = World::new().await;
    world.create_cluster(json!({})).await;
    let took = world.until_provisioned().await;
    assert!(took < Duration::from_millis(100), "{took:?}");
    let service = world.service("c-lb").unwrap();
    assert_eq!(
        world.endpoint(),
        format!("{}:6443", service["spec"]["clusterIP"].as_str().unwrap())
    );
    assert!(service.pointer(MARK).is_some());
    assert_eq!(world.condition("LoadBalancerAvailable")["status"], "True");
    assert_eq!(world.cluster().unwrap()["status"]["ready"], true);
    let requests = world.requests();
    let writes = requests.iter().filter(|r| !r.contains(" get ")).count();
    let reads = requests.len() - writes;
    println!("{writes} writes, {reads} reads: {requests:#?}");
    assert!(writes <= 6 && reads == 0, "{requests:#?}");
    world.delete_cluster().await;
    world
        .until("gone", |w| w.cluster().is_none() && w.services().is_empty())
        .await;
}

#[tokio::test(start_paused = true)]
async fn r13_a_settled_cluster_costs_no_request() {
    let world = World::new().await;
    world.create_cluster(load_balancer()).await;
    world.until_provisioned().await;
    seconds(30).await;
    let before = world.requests();
    seconds(570).await;
    assert_eq!(world.requests(), before);
}

/// CAPK 64: the type of the Service is the user's to choose. Defect 2: a host name counts as well.
#[tokio::test(start_paused = true)]
async fn capk_64_a_load_balancer_is_waited_for_and_its_address_used_at_once() {
    let world = World::new().await;
    world.loses_balancer();
    world.create_cluster(load_balancer()).await;
    seconds(60).await;
    assert!(!is_provisioned(&world.cluster().unwrap()));
    let condition = world.condition("LoadBalancerAvailable");
    assert_eq!(condition["reason"], "WaitingForLoadBalancer", "{condition}");
    let hostname = json!({"loadBalancer": {"ingress": [{"hostname": "lb.example"}]}});
    let service = world.infra.client("script");
    let api: kube::Api<k8s_openapi::api::core::v1::Service> = kube::Api::namespaced(service, NS);
    let patch = kube::api::Patch::Merge(json!({"status": hostname}));
    api.patch_status("c-lb", &kube::api::PatchParams::default(), &patch)
        .await
        .unwrap();
    let took = world.until_provisioned().await;
    assert!(took < Duration::from_millis(100), "{took:?}");
    assert_eq!(world.endpoint(), "lb.example:6443");
}

/// CAPK 338: a NodePort Service is reached at the nodes, at the node port.
#[tokio::test(start_paused = true)]
async fn capk_338_the_endpoint_of_a_node_port_is_the_node_port_at_the_given_host() {
    let world = World::new().await;
    let template = json!({"spec": {"type": "NodePort"}});
    world
        .create_cluster(json!({"controlPlaneServiceTemplate": template}))
        .await;
    seconds(5).await;
    let condition = world.condition("LoadBalancerAvailable");
    assert_eq!(
        condition["reason"], "ControlPlaneHostMissing",
        "{condition}"
    );
    let host = json!({"spec": {"controlPlaneEndpoint": {"host": "nodes.example", "port": 0}}});
    world.patch(host).await;
    world.until_provisioned().await;
    assert_eq!(world.endpoint(), "nodes.example:30123");
    seconds(60).await;
    assert_eq!(
        world.service("c-lb").unwrap()["spec"]["ports"][0]["port"],
        6443
    );
}

/// CAPK 365: only the port of the endpoint is given.
#[tokio::test(start_paused = true)]
async fn capk_365_a_port_without_a_host_is_the_services_port() {
    let world = World::new().await;
    let endpoint = json!({"host": "", "port": 443});
    world
        .create_cluster(json!({"controlPlaneEndpoint": endpoint}))
        .await;
    world.until_provisioned().await;
    let service = world.service("c-lb").unwrap();
    assert_eq!(service["spec"]["ports"][0]["port"], 443);
    assert_eq!(service["spec"]["ports"][0]["targetPort"], 6443);
    assert!(world.endpoint().ends_with(":443"), "{}", world.endpoint());
}

/// Defect 1: the cause of a Service that cannot be created is said.
#[tokio::test(start_paused = true)]
async fn capk_defect_1_a_refused_service_says_why() {
    let world = World::new().await;
    let template = json!({"metadata": {"labels": {"team": "no label"}}});
    world
        .create_cluster(json!({"controlPlaneServiceTemplate": template}))
        .await;
    seconds(30).await;
    let condition = world.condition("LoadBalancerAvailable");
    assert_eq!(condition["reason"], "Misconfigured", "{condition}");
    assert!(
        condition["message"].as_str().unwrap().contains("no label"),
        "{condition}"
    );
}

/// Defect 1: so is the right that is missing, with the namespace where it is.
#[tokio::test(start_paused = true)]
async fn capk_defect_1_a_service_without_the_right_says_which() {
    let world = World::new().await;
    let template = json!({"metadata": {"namespace": "nowhere"}});
    world
        .create_cluster(json!({"controlPlaneServiceTemplate": template}))
        .await;
    seconds(30).await;
    let condition = world.condition("LoadBalancerAvailable");
    assert_eq!(condition["reason"], "CredentialsRefused", "{condition}");
    let message = condition["message"].as_str().unwrap();
    assert!(
        message.contains("services") && message.contains("nowhere"),
        "{condition}"
    );
}

/// Defect 2: what changes in the template changes the Service.
#[tokio::test(start_paused = true)]
async fn capk_defect_2_a_changed_template_changes_the_service() {
    let world = World::new().await;
    let template = json!({
        "metadata": {"labels": {"team": "a"}, "annotations": {"pool": "one"}},
        "spec": {"type": "ClusterIP", "sessionAffinity": "ClientIP"},
    });
    world
        .create_cluster(json!({"controlPlaneServiceTemplate": template}))
        .await;
    world.until_provisioned().await;
    let (endpoint, uid) = (
        world.endpoint(),
        world.service("c-lb").unwrap()["metadata"]["uid"].clone(),
    );
    world
        .patch(json!({"spec": {"controlPlaneServiceTemplate": {
            "metadata": {"labels": {"team": "b"}, "annotations": {"pool": null}},
            "spec": {"type": "LoadBalancer", "sessionAffinity": null},
        }}}))
        .await;
    world
        .until("changed", |w| {
            let service = w.service("c-lb").unwrap();
            service["spec"]["type"] == "LoadBalancer"
                && service["metadata"]["labels"]["team"] == "b"
                && service["metadata"]["annotations"]["pool"].is_null()
                && service["spec"]["sessionAffinity"] != "ClientIP"
        })
        .await;
    seconds(30).await;
    // The endpoint cannot change, and the cluster IP is still where it was.
    assert_eq!(world.endpoint(), endpoint);
    assert_eq!(world.service("c-lb").unwrap()["metadata"]["uid"], uid);
    assert_eq!(world.condition("Ready")["status"], "True");
}

/// IC-04: a change that would take the endpoint away is held back, and said.
#[tokio::test(start_paused = true)]
async fn ic_04_the_type_is_not_changed_where_the_endpoint_would_be_lost() {
    let world = World::new().await;
    world.create_cluster(load_balancer()).await;
    world.until_provisioned().await;
    assert_eq!(world.endpoint(), "192.0.2.7:6443");
    let template = json!({"spec": {"type": "ClusterIP"}});
    world
        .patch(json!({"spec": {"controlPlaneServiceTemplate": template}}))
        .await;
    world
        .until("said", |w| {
            w.condition("Ready")["reason"] == "EndpointElsewhere"
        })
        .await;
    assert_eq!(
        world.service("c-lb").unwrap()["spec"]["type"],
        "LoadBalancer"
    );
}

/// R9: what is shared is made again, and the endpoint stays.
#[tokio::test(start_paused = true)]
async fn r9_a_service_that_was_deleted_is_made_again_where_it_was() {
    let world = World::new().await;
    world.create_cluster(json!({})).await;
    world.until_provisioned().await;
    seconds(30).await;
    let (endpoint, before) = (world.endpoint(), world.service("c-lb").unwrap());
    world.delete_service("c-lb").await;
    let took = world
        .until("made again", |w| w.service("c-lb").is_some())
        .await;
    assert!(took < Duration::from_millis(200), "{took:?}");
    seconds(30).await;
    let after = world.service("c-lb").unwrap();
    assert_ne!(after["metadata"]["uid"], before["metadata"]["uid"]);
    assert_eq!(after["spec"]["clusterIP"], before["spec"]["clusterIP"]);
    assert_eq!(world.endpoint(), endpoint);
    assert_eq!(world.services().len(), 1);
}

/// Defect 3, for the Service: the finalizer goes when it is gone, not when it was asked to go.
#[tokio::test(start_paused = true)]
async fn capk_defect_3_deletion_waits_until_the_service_is_gone() {
    let world = World::new().await;
    world.create_cluster(load_balancer()).await;
    world.until_provisioned().await;
    let cleanup =
        json!({"metadata": {"finalizers": ["service.kubernetes.io/load-balancer-cleanup"]}});
    world.patch_service("c-lb", cleanup).await;
    world.delete_cluster().await;
    seconds(120).await;
    let condition = world.condition("Deleting");
    assert_eq!(condition["reason"], "LoadBalancerDeleting", "{condition}");
    assert!(
        condition["message"]
            .as_str()
            .unwrap()
            .contains("load-balancer-cleanup")
    );
    world
        .patch_service("c-lb", json!({"metadata": {"finalizers": null}}))
        .await;
    world.until("gone", |w| w.cluster().is_none()).await;
}

/// CAPK 246: a cluster that somebody else manages is left alone.
#[tokio::test(start_paused = true)]
async fn capk_246_an_externally_managed_cluster_gets_no_service() {
    let world = World::new().await;
    let metadata = json!({"annotations": {"cluster.x-k8s.io/managed-by": "hypershift"}});
    world.create_annotated(json!({}), metadata).await;
    seconds(120).await;
    assert!(world.services().is_empty());
    assert_eq!(world.requests(), Vec::<String>::new());
}

/// R5: a Service that somebody else has put under the name is left alone, and another name is taken.
#[tokio::test(start_paused = true)]
async fn r5_a_strangers_service_is_left_alone() {
    let world = World::new().await;
    let stranger = world
        .create_service(json!({"metadata": {"name": "c-lb"},
            "spec": {"ports": [{"port": 80}], "selector": {"app": "web"}}}))
        .await;
    world.create_cluster(json!({})).await;
    world.until_provisioned().await;
    assert_eq!(world.services().len(), 2);
    let uid = &stranger["metadata"]["uid"];
    let there = world.service("c-lb").unwrap();
    assert_eq!(&there["metadata"]["uid"], uid);
    assert_eq!(there["spec"]["selector"], json!({"app": "web"}));
    world.delete_cluster().await;
    world.until("gone", |w| w.cluster().is_none()).await;
    assert_eq!(world.services().len(), 1);
    assert_eq!(&world.service("c-lb").unwrap()["metadata"]["uid"], uid);
}

/// Two management clusters with equal names before one namespace keep to their own.
#[tokio::test(start_paused = true)]
async fn r5_two_management_clusters_do_not_share_a_service() {
    let one = World::new().await;
    let mut two = World::beside(one.infra.clone(), 3).await;
    two.start();
    one.create_cluster(json!({})).await;
    one.until_provisioned().await;
    two.create_cluster(json!({})).await;
    two.until_provisioned().await;
    assert_ne!(one.endpoint(), two.endpoint());
    let mine = one.service("c-lb").unwrap();
    two.delete_cluster().await;
    two.until("gone", |w| w.cluster().is_none()).await;
    seconds(30).await;
    assert_eq!(one.services().len(), 1);
    assert_eq!(
        one.service("c-lb").unwrap()["metadata"]["uid"],
        mine["metadata"]["uid"]
    );
}

/// Take-over: the Service that the Go provider made goes on serving.
#[tokio::test(start_paused = true)]
async fn the_go_providers_service_is_taken_over_without_a_gap() {
    let mut world = World::beside(world::infra(), 2).await;
    let before = world.create_service(of_the_go_provider()).await;
    let finalizer = "kubevirtcluster.infrastructure.cluster.x-k8s.io";
    let endpoint = json!({"host": "10.96.0.77", "port": 6443});
    let spec = json!({"controlPlaneEndpoint": endpoint});
    world
        .create_annotated(spec, json!({"finalizers": [finalizer]}))
        .await;
    world.start();
    world.until_provisioned().await;
    world
        .until("marked", |w| {
            w.service("c-lb").unwrap().pointer(MARK).is_some()
        })
        .await;
    let after = world.service("c-lb").unwrap();
    assert_eq!(after["metadata"]["uid"], before["metadata"]["uid"]);
    assert_eq!(after["spec"]["clusterIP"], "10.96.0.77");
    assert_eq!(world.endpoint(), "10.96.0.77:6443");
    assert_eq!(world.services().len(), 1);
    // Ours by its mark, also for a life that has lost its ledger.
    world.stop();
    world
        .patch(json!({"metadata": {"annotations": {"capi-rs.dev/ledger": null}}}))
        .await;
    world.start();
    seconds(60).await;
    assert_eq!(world.services().len(), 1);
    world.delete_cluster().await;
    world
        .until("gone", |w| w.cluster().is_none() && w.services().is_empty())
        .await;
}

/// CAPK 385 and defect 12: failure domains are listed, with the labels that place machines.
#[tokio::test(start_paused = true)]
async fn capk_385_failure_domains_are_published() {
    let world = World::new().await;
    let other = json!({"name": "other-kubeconfig"});
    world
        .create_cluster(json!({"failureDomains": [
            {"name": "zone-a"},
            {"name": "rack", "controlPlane": false, "nodeLabels": {"rack": "7"}},
            {"name": "elsewhere", "infraClusterSecretRef": other},
        ]}))
        .await;
    world.until_provisioned().await;
    let status = world.cluster().unwrap()["status"]["failureDomains"].clone();
    assert_eq!(
        status,
        json!([
            {"name": "zone-a", "controlPlane": true,
                "attributes": {"topology.kubernetes.io/zone": "zone-a"}},
            {"name": "rack", "controlPlane": false, "attributes": {"rack": "7"}},
            {"name": "elsewhere", "controlPlane": true},
        ])
    );
}

/// An endpoint that a person gave leads elsewhere; the Service is made all the same, and not judged.
#[tokio::test(start_paused = true)]
async fn ic_04_a_given_endpoint_is_kept() {
    let world = World::new().await;
    let endpoint = json!({"host": "203.0.113.5", "port": 6443});
    world
        .create_cluster(json!({"controlPlaneEndpoint": endpoint}))
        .await;
    world.until_provisioned().await;
    seconds(30).await;
    assert_eq!(world.endpoint(), "203.0.113.5:6443");
    assert!(world.service("c-lb").is_some());
    assert_eq!(world.condition("Ready")["status"], "True");
}

/// A mistake in the template is named before anything is made.
#[tokio::test(start_paused = true)]
async fn a_template_that_cannot_be_a_service_is_named() {
    let world = World::new().await;
    let template = json!({"spec": {"type": "ExternalName"}});
    world
        .create_cluster(json!({"controlPlaneServiceTemplate": template}))
        .await;
    seconds(10).await;
    let message = world.condition("LoadBalancerAvailable")["message"].clone();
    let message = message.as_str().unwrap();
    assert!(
        message.contains("controlPlaneServiceTemplate.spec.type"),
        "{message}"
    );
    assert!(world.services().is_empty());
}

/// The parts of a cloud controller manager that were applied for a cluster go with it, and no others.
#[tokio::test(start_paused = true)]
async fn extra_resources_go_with_their_cluster() {
    let world = World::new().await;
    for (name, cluster, kind) in [
        ("ours", "c", "extra-resource"),
        ("anothers", "d", "extra-resource"),
        ("plain", "c", "other"),
    ] {
        let labels = json!({"cluster.x-k8s.io/cluster-name": cluster,
            "capk.cluster.x-k8s.io/template-kind": kind});
        world
            .create_beside(json!({"apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": name, "labels": labels}}))
            .await;
    }
    world.create_cluster(json!({})).await;
    world.until_provisioned().await;
    world.delete_cluster().await;
    world.until("gone", |w| w.cluster().is_none()).await;
    let left = world.management.objects("configmaps");
    let mut left: Vec<_> = left
        .iter()
        .map(|one| one["metadata"]["name"].as_str().unwrap())
        .collect();
    left.retain(|name| *name != "kube-root-ca.crt");
    left.sort_unstable();
    assert_eq!(left, ["anothers", "plain"]);
}

/// As it is usually installed, the provider may not delete them: it says so, and does not try.
#[tokio::test(start_paused = true)]
async fn extra_resources_that_may_not_be_deleted_are_told_and_left() {
    let world = World::installed(&output(&["manifests"])).await;
    let labels = json!({"cluster.x-k8s.io/cluster-name": "c",
        "capk.cluster.x-k8s.io/template-kind": "extra-resource"});
    world
        .create_beside(json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "ours", "labels": labels}}))
        .await;
    world.create_cluster(json!({})).await;
    world.until_provisioned().await;
    world.delete_cluster().await;
    world.until("gone", |w| w.cluster().is_none()).await;
    assert!(world.management.object("configmaps", NS, "ours").is_some());
    let told = |w: &World| {
        let events = w.management.objects("events");
        let told = events
            .iter()
            .find(|one| one["reason"] == "ExtraResourcesLeft");
        told.map(ToString::to_string)
    };
    world.until("told", |w| told(w).is_some()).await;
    let note = told(&world).unwrap();
    assert!(
        note.contains("configmaps") && note.contains("--extra-resources"),
        "{note}"
    );
    let refused = world.management.audit().select(|record| record.code == 403);
    assert_eq!(refused.len(), 0, "{refused:#?}");
}

/// Defect 4: an infra cluster that is gone for good is given up by an annotation, and by nothing else.
#[tokio::test(start_paused = true)]
async fn capk_defect_4_what_is_gone_for_good_is_given_up_by_annotation() {
    let world = World::new().await;
    let secret = json!({"name": "infra-kubeconfig"});
    world
        .create_cluster(json!({"infraClusterSecretRef": secret}))
        .await;
    seconds(5).await;
    let finalizer = "kubevirtcluster.infrastructure.cluster.x-k8s.io";
    world
        .patch(json!({"metadata": {"finalizers": [finalizer]}}))
        .await;
    world.delete_cluster().await;
    seconds(600).await;
    assert!(world.cluster().is_some());
    let annotations = json!({"capi-rs.dev/abandon": "c: the rack burned"});
    world
        .patch(json!({"metadata": {"annotations": annotations}}))
        .await;
    world.until("gone", |w| w.cluster().is_none()).await;
}
