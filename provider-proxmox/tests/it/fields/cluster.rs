//! What the machines of a cluster share: endpoint, credentials, zones.

use std::collections::BTreeMap;
use std::time::Duration;

use pve_sim::Builder;
use serde_json::{Value, json};

use super::fields;
use crate::site::{CLUSTERS, FLEET, Fleet, NAMESPACE, Site, cluster, is_provisioned, machine};
use crate::tenancy::{EAST, Platforms, login};

fields! {
    /// The cluster is provisioned once the API server has a host and a port.
    "ProxmoxCluster.spec.controlPlaneEndpoint.host",
    "ProxmoxCluster.spec.controlPlaneEndpoint.port" => control_plane_endpoint;
    /// The endpoint may be missing: it is waited for, and never asked of the user.
    "ProxmoxCluster.spec.externalManagedControlPlane" => external_managed_control_plane;
    /// The credentials are read from this Secret.
    "ProxmoxCluster.spec.credentialsRef.name",
    "ProxmoxCluster.spec.credentialsRef.namespace" => credentials_ref;
    /// Kept as it is, for the patches of a ClusterClass, which read it.
    "ProxmoxCluster.spec.cloneSpec.machineSpec[].machineType",
    "ProxmoxCluster.spec.cloneSpec.sshAuthorizedKeys[]",
    "ProxmoxCluster.spec.cloneSpec.virtualIPNetworkInterface" => clone_spec;
    /// The zone is a failure domain: listed in the status, and machines that name it are placed
    /// on its nodes.
    "ProxmoxCluster.spec.zoneConfig[].allowedNodes[]",
    "ProxmoxCluster.status.failureDomains[].name",
    "ProxmoxCluster.status.failureDomains[].attributes{}",
    "ProxmoxMachine.status.failureDomain" => failure_domain;
    /// Whether control planes may be in the zone.
    "ProxmoxCluster.spec.zoneConfig[].controlPlane",
    "ProxmoxCluster.status.failureDomains[].controlPlane" => control_plane_of_a_zone;
    /// The guest is not asked whether cloud-init is done, only whether the agent answers.
    "ProxmoxMachine.spec.checks.skipCloudInitStatus" => skip_cloud_init_status;
    /// The guest is asked nothing.
    "ProxmoxMachine.spec.checks.skipQemuGuestAgent" => skip_qemu_guest_agent;
    /// Labels and annotations of a template are kept for what is made of it.
    "ProxmoxClusterTemplate.spec.template.metadata.labels{}",
    "ProxmoxClusterTemplate.spec.template.metadata.annotations{}",
    "ProxmoxMachineTemplate.spec.template.metadata.labels{}",
    "ProxmoxMachineTemplate.spec.template.metadata.annotations{}" => metadata_of_templates;
}

fn site() -> Site {
    Site::new(Builder::new().build())
}

fn the_cluster(site: &Site) -> Value {
    site.server.object(CLUSTERS, NAMESPACE, FLEET).unwrap()
}

fn reason(object: &Value) -> &str {
    let conditions = object["status"]["conditions"].as_array();
    let mut all = conditions.into_iter().flatten();
    let ready = all.find(|condition| condition["type"] == "Ready");
    ready
        .and_then(|ready| ready["reason"].as_str())
        .unwrap_or_default()
}

/// A cluster with this spec, merged over the usual one, some time after the start.
async fn with_spec(spec: Value) -> (Site, Fleet) {
    let site = site();
    let mut infra = cluster();
    for (key, value) in spec.as_object().unwrap() {
        infra["spec"][key] = value.clone();
    }
    if infra["spec"]["controlPlaneEndpoint"].is_null() {
        let spec = infra["spec"].as_object_mut().unwrap();
        spec.remove("controlPlaneEndpoint");
    }
    let fleet = Fleet::create_like(&site, infra).await;
    site.start();
    tokio::time::sleep(Duration::from_secs(60)).await;
    (site, fleet)
}

async fn control_plane_endpoint() {
    for endpoint in [
        json!(null),
        json!({"host": "10.0.0.9"}),
        json!({"port": 6443}),
    ] {
        let (site, fleet) = with_spec(json!({"controlPlaneEndpoint": endpoint})).await;
        let cluster = the_cluster(&site);
        assert!(!is_provisioned(&cluster), "{cluster}");
        assert_eq!(reason(&cluster), "MissingControlPlaneEndpoint");
        let whole = json!({"spec": {"controlPlaneEndpoint": {"host": "10.0.0.9", "port": 6443}}});
        fleet.patch("ProxmoxCluster", FLEET, whole).await;
        site.until("provisioned", |site| is_provisioned(&the_cluster(site)))
            .await;
    }
}

/// Defect 12: it is waited for without asking anybody.
async fn external_managed_control_plane() {
    let spec = json!({"controlPlaneEndpoint": null, "externalManagedControlPlane": true});
    let (site, fleet) = with_spec(spec).await;
    let cluster = the_cluster(&site);
    assert!(!is_provisioned(&cluster), "{cluster}");
    assert_ne!(reason(&cluster), "MissingControlPlaneEndpoint");
    let (mark, calls) = (site.server.audit().mark(), site.platform.audit().total());
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(site.platform.audit().total() - calls <= 13);
    let provider = capi_testkit::sweep::PROVIDER;
    let requests = site.server.audit().since(mark);
    let mut requests = requests.iter().filter(|request| request.actor == provider);
    assert!(requests.all(|request| request.is_watch() || request.is_lease()));
    let whole = json!({"spec": {"controlPlaneEndpoint": {"host": "10.0.0.9", "port": 6443}}});
    fleet.patch("ProxmoxCluster", FLEET, whole).await;
    site.until("provisioned", |site| is_provisioned(&the_cluster(site)))
        .await;
}

async fn credentials_ref() {
    for (namespace, expected) in [(None, NAMESPACE), (Some("vault"), "vault")] {
        let site = site();
        site.create_namespace("vault").await;
        let mut infra = cluster();
        infra["spec"]["credentialsRef"] = match namespace {
            Some(namespace) => json!({"name": "login", "namespace": namespace}),
            None => json!({"name": "login"}),
        };
        Fleet::create_like(&site, infra).await;
        let (_, secret) = site.platform.token();
        let login = login(EAST, &secret);
        crate::site::secret(&site, expected, "login", login).await;
        let platforms = BTreeMap::from([(EAST, site.platform.clone())]);
        site.start_through(Platforms(platforms));
        site.until("provisioned", |site| is_provisioned(&the_cluster(site)))
            .await;
        let reads = site.server.audit().select(|record| {
            record.resource == "secrets" && record.verb == "get" && record.name == "login"
        });
        assert_eq!(reads.len(), 1);
        assert_eq!(reads[0].namespace.as_str(), expected);
    }
}

async fn clone_spec() {
    let class = json!({
        "machineSpec": [{
            "machineType": "controlPlane", "sourceNode": "pve1", "templateID": 9000,
            "network": {"networkDevices": [{"name": "net0", "bridge": "vmbr0"}]},
        }],
        "sshAuthorizedKeys": ["ssh-ed25519 AAAA ada"],
        "virtualIPNetworkInterface": "eth1",
    });
    let (site, _fleet) = with_spec(json!({"cloneSpec": class})).await;
    let cluster = the_cluster(&site);
    assert!(is_provisioned(&cluster), "{cluster}");
    let kept = &cluster["spec"]["cloneSpec"];
    for pointer in [
        "/machineSpec/0/machineType",
        "/machineSpec/0/templateID",
        "/sshAuthorizedKeys/0",
        "/virtualIPNetworkInterface",
    ] {
        assert!(class.pointer(pointer).is_some());
        assert_eq!(kept.pointer(pointer), class.pointer(pointer), "{pointer}");
    }
}

fn zones() -> Value {
    let addresses = |prefix: &str| {
        json!({
            "addresses": [format!("{prefix}.10-{prefix}.20")], "prefix": 24,
            "gateway": format!("{prefix}.1"),
        })
    };
    json!([
        {
            "zone": "west", "ipv4Config": addresses("10.1.0"), "dnsServers": ["10.1.0.2"],
            "allowedNodes": ["pve3"], "controlPlane": false,
        },
        {
            "zone": "east", "ipv4Config": addresses("10.2.0"), "dnsServers": ["10.2.0.2"],
            "allowedNodes": ["pve1", "pve2"],
        },
        {"zone": "net", "ipv4Config": addresses("10.3.0"), "dnsServers": ["10.3.0.2"]},
    ])
}

/// IC-06, IM-06, IM-07.
async fn failure_domain() {
    let (site, fleet) = with_spec(json!({"zoneConfig": zones()})).await;
    let domains = the_cluster(&site)["status"]["failureDomains"].clone();
    let names: Vec<_> = domains
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["name"])
        .collect();
    assert_eq!(names, ["east", "west"]);
    assert_eq!(domains[1]["attributes"]["nodes"], "pve3");
    fleet.add_to("west", "m-0", machine()).await;
    site.until("provisioned", |site| {
        is_provisioned(&site.machine("m-0").unwrap())
    })
    .await;
    let status = site.machine("m-0").unwrap()["status"].clone();
    assert_eq!(status["proxmoxNode"], "pve3");
    assert_eq!(status["failureDomain"], "west");
    assert_eq!(status["addresses"][1]["address"], "10.1.0.10");
    // A failure domain that is none is told, and nothing is made.
    fleet.add_to("north", "m-1", machine()).await;
    let is_told = |site: &Site| reason(&site.machine("m-1").unwrap()) == "Misconfigured";
    site.until("told", is_told).await;
    assert_eq!(site.platform.vms_left().len(), 1);
}

async fn control_plane_of_a_zone() {
    let (site, _fleet) = with_spec(json!({"zoneConfig": zones()})).await;
    let domains = &the_cluster(&site)["status"]["failureDomains"];
    assert_eq!(domains[0]["controlPlane"], true);
    assert_eq!(domains[1]["controlPlane"], false);
}

/// The calls of the guest agent that a machine with these checks leads to.
async fn agent_calls(checks: Value) -> Vec<String> {
    let site = site();
    let fleet = Fleet::create(&site).await;
    let mut infra = machine();
    infra["spec"]["checks"] = checks;
    fleet.add_like("m-0", infra).await;
    site.start();
    site.until("provisioned", |site| {
        is_provisioned(&site.machine("m-0").unwrap())
    })
    .await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let audit = site.platform.audit();
    let records = audit.records().iter();
    let mut paths: Vec<String> = records
        .filter_map(|record| Some(record.path.split_once("/agent/")?.1.to_owned()))
        .map(|path| path.split('?').next().unwrap().to_owned())
        .collect();
    paths.dedup();
    paths
}

async fn skip_cloud_init_status() {
    assert_eq!(agent_calls(json!({})).await, ["file-read"]);
    let skipped = agent_calls(json!({"skipCloudInitStatus": true})).await;
    assert_eq!(skipped, ["ping"]);
}

async fn skip_qemu_guest_agent() {
    let skipped = agent_calls(json!({"skipQemuGuestAgent": true})).await;
    assert_eq!(skipped, [""; 0]);
}

/// CRD-09.
async fn metadata_of_templates() {
    let site = site();
    let meta = json!({"labels": {"tier": "gold"}, "annotations": {"note": "spare"}});
    for (kind, plural, object) in [
        (
            "ProxmoxClusterTemplate",
            "proxmoxclustertemplates",
            cluster(),
        ),
        (
            "ProxmoxMachineTemplate",
            "proxmoxmachinetemplates",
            machine(),
        ),
    ] {
        let template = json!({
            "apiVersion": object["apiVersion"], "kind": kind,
            "metadata": {"name": "t", "namespace": NAMESPACE},
            "spec": {"template": {"metadata": meta, "spec": object["spec"]}},
        });
        crate::site::create(&site.server.client("script"), template).await;
        let resource = format!("{plural}.infrastructure.cluster.x-k8s.io");
        let stored = site.server.object(&resource, NAMESPACE, "t").unwrap();
        assert_eq!(stored["spec"]["template"]["metadata"], meta, "{kind}");
    }
}
