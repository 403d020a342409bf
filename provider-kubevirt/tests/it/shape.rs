//! Machines of the shapes that the Go provider's published templates have, beside the usual one of
//! [`machine`]: each is built, and its guest can find its data.

use capi_testkit::guest::Image;
use capi_testkit::sweep::PROVIDER;
use capi_testkit::workload::Workloads;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kubevirt_sim::{Builder, Delays, GoldenSpec, Guests, StorageSpec};
use provider_kubevirt::machine::Machines;
use rstest::rstest;
use serde_json::{Value, json};

use crate::site::{
    Fleet, NAMESPACE, Site, VLAN, VMS, admit, cluster, condition, is_provisioned, machine,
    tenant_of,
};

/// The image of [`machine`].
const IMAGE: &str = "quay.io/capk/ubuntu-container-disk:v1.34.0";

async fn provisioned(site: &Site) {
    site.until("provisioned", |site| {
        site.machine("m-0").is_some_and(|one| is_provisioned(&one))
    })
    .await;
}

fn addresses(site: &Site) -> Vec<Value> {
    let machine = site.machine("m-0").unwrap();
    let all = machine["status"]["addresses"].as_array().cloned();
    let all = all.unwrap_or_default().into_iter();
    let inner = all.filter(|one| one["type"] == "InternalIP");
    inner.map(|one| one["address"].clone()).collect()
}

/// The volumes of the VM's instance.
fn volumes(site: &Site) -> Vec<Value> {
    let vm = site.vm("m-0").unwrap();
    let volumes = vm["spec"]["template"]["spec"]["volumes"].as_array();
    volumes.cloned().unwrap_or_default()
}

/// The usual machine with these interfaces and networks.
fn with_networks(interfaces: Value, networks: Value) -> Value {
    let mut machine = machine();
    let instance = &mut machine["spec"]["virtualMachineTemplate"]["spec"]["template"]["spec"];
    instance["domain"]["devices"]["interfaces"] = interfaces;
    instance["networks"] = networks;
    machine
}

/// What a cluster's administrator has made: size and preference.
async fn make_instance_type(site: &Site) {
    let api = "instancetype.kubevirt.io";
    let size = json!({"cpu": {"guest": 2}, "memory": {"guest": "2Gi"}});
    let disks = json!({"devices": {"preferredDiskBus": "virtio"}});
    for (kind, name, spec) in [
        ("VirtualMachineClusterInstancetype", "u1.large", size),
        ("VirtualMachineClusterPreference", "ubuntu", disks),
    ] {
        let object = json!({"apiVersion": format!("{api}/v1beta1"), "kind": kind,
            "metadata": {"name": name}, "spec": spec});
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(api, "v1beta1", kind));
        let all: Api<DynamicObject> = Api::all_with(site.infra.client("administrator"), &resource);
        let object = serde_json::from_value(object).unwrap();
        all.create(&PostParams::default(), &object).await.unwrap();
    }
}

/// Sized by an instance type, its block volume cloned from a golden claim beside it, away from its like
/// where possible: as the flavors for Flatcar and Talos have it.
fn cloned() -> Value {
    let like = json!({"labelSelector": {"matchLabels": {"app": "workers"}},
        "topologyKey": "kubernetes.io/hostname"});
    let claim = json!({
        "volumeMode": "Block", "accessModes": ["ReadWriteOnce"], "storageClassName": "block",
        "resources": {"requests": {"storage": "20Gi"}},
    });
    let mut machine = machine();
    machine["spec"]["virtualMachineBootstrapCheck"]["checkStrategy"] = json!("none");
    machine["spec"]["virtualMachineTemplate"]["metadata"]["labels"] = json!({"app": "workers"});
    machine["spec"]["virtualMachineTemplate"]["spec"] = json!({
        "runStrategy": "Always",
        "instancetype": {"kind": "VirtualMachineClusterInstancetype", "name": "u1.large"},
        "preference": {"kind": "VirtualMachineClusterPreference", "name": "ubuntu"},
        "dataVolumeTemplates": [{
            "metadata": {"name": "boot-volume"},
            "spec": {"pvc": claim, "source": {"pvc": {"name": "golden"}}},
        }],
        "template": {
            "metadata": {"labels": {"app": "workers"}},
            "spec": {
                "affinity": {"podAntiAffinity": {
                    "preferredDuringSchedulingIgnoredDuringExecution":
                        [{"weight": 100, "podAffinityTerm": like}],
                }},
                "domain": {"devices": {
                    "networkInterfaceMultiqueue": true,
                    "disks": [{"name": "dv", "disk": {"bus": "virtio"}}],
                }},
                "evictionStrategy": "External",
                "volumes": [{"name": "dv", "dataVolume": {"name": "boot-volume"}}],
            },
        },
    });
    machine
}

/// The words of Talos have neither a format nor the first line of cloud-init, and are read at every boot:
/// they arrive as they are on the config drive, and stay there.
#[rstest]
#[case::talos(None, "version: v1alpha1\nmachine: {type: worker}\n", None)]
#[case::flatcar(
    Some("ignition"),
    r#"{"ignition": {"version": "2.3.0"}}"#,
    Some("once")
)]
#[tokio::test(start_paused = true)]
async fn a_machine_of_an_instance_type_boots_from_a_clone(
    #[case] format: Option<&str>,
    #[case] data: &str,
    #[case] read: Option<&str>,
) {
    let builder = Builder::new()
        .delays(Delays::realistic())
        .storage(StorageSpec::local("block"))
        .golden(GoldenSpec::new(NAMESPACE, "golden"));
    let site = Site::with(builder).await;
    let fleet = Fleet::create(&site).await;
    make_instance_type(&site).await;
    site.start();
    let owner = fleet.add_owner("m-0", json!({})).await;
    let secrets: Api<Secret> = Api::namespaced(site.server.client("script"), NAMESPACE);
    let mut patch = json!({"stringData": {"value": data}, "data": {"format": null}});
    if let Some(format) = format {
        patch = json!({"stringData": {"value": data, "format": format}});
    }
    let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
    let patched = secrets.patch("m-0-bootstrap", &params, &patch).await;
    let given = serde_json::to_value(patched.unwrap()).unwrap();
    assert_eq!(given["data"].get("format").is_some(), format.is_some());
    fleet.add_infra("m-0", &owner, cloned()).await;
    provisioned(&site).await;

    let vm = site.vm("m-0").unwrap();
    let asked = cloned()["spec"]["virtualMachineTemplate"]["spec"].take();
    for kept in ["instancetype", "preference", "runStrategy"] {
        assert_eq!(vm["spec"][kept], asked[kept], "{kept}");
    }
    let (made, asked) = (&vm["spec"]["template"]["spec"], &asked["template"]["spec"]);
    assert_eq!(made["affinity"], asked["affinity"]);
    assert_eq!(vm["metadata"]["labels"]["app"], "workers");
    let disks = volumes(&site);
    assert_eq!(disks[0]["dataVolume"]["name"], "m-0-boot-volume");
    let secret = &site.secrets()[0];
    let drive = &disks[1]["cloudInitConfigDrive"]["secretRef"]["name"];
    assert_eq!(*drive, secret["metadata"]["name"]);
    assert_eq!(secret["data"]["userdata"], given["data"]["value"]);
    let noted = &secret["metadata"]["annotations"]["capi-rs.dev/bootstrap"];
    assert_eq!(noted.as_str(), read);
    let machine = site.machine("m-0").unwrap();
    let check = condition(&machine, "BootstrapExecSucceeded").unwrap();
    assert_eq!(check["reason"], "BootstrapNotChecked");
}

/// A boot volume that is imported into a storage class, as the flavor for persistent storage has it: told
/// as a claim.
#[tokio::test(start_paused = true)]
async fn a_machine_boots_from_an_image_that_is_imported_into_a_claim() {
    let builder = Builder::new()
        .delays(Delays::realistic())
        .storage(StorageSpec::local("slow"));
    let site = Site::with(builder).await;
    let fleet = Fleet::create(&site).await;
    site.start();
    let mut imported = machine();
    let spec = &mut imported["spec"]["virtualMachineTemplate"]["spec"];
    let claim = json!({"accessModes": ["ReadWriteOnce"], "storageClassName": "slow",
        "resources": {"requests": {"storage": "20Gi"}}});
    spec["dataVolumeTemplates"] = json!([{
        "metadata": {"name": "fleet-boot-volume"},
        "spec": {"pvc": claim, "source": {"registry": {"url": format!("docker://{IMAGE}")}}},
    }]);
    spec["template"]["spec"]["volumes"] =
        json!([{"name": "containervolume", "dataVolume": {"name": "fleet-boot-volume"}}]);
    fleet.add_like("m-0", imported).await;
    provisioned(&site).await;
    let name = "m-0-fleet-boot-volume";
    assert_eq!(volumes(&site)[0]["dataVolume"]["name"], name);
    let claim = site.infra.object("persistentvolumeclaims", NAMESPACE, name);
    assert_eq!(claim.unwrap()["spec"]["storageClassName"], "slow");
}

/// passt, the binding that KubeVirt has given up for a plug-in, still passes through; and so does a network
/// of Multus before the pod's, whose address is then the machine's.
#[rstest]
#[case::passt(
    json!([{"name": "pod", "passt": {}}]),
    json!([{"name": "pod", "pod": {}}])
)]
#[case::multus_first(
    json!([{"name": "primary", "bridge": {}}, {"name": "secondary", "masquerade": {}}]),
    json!([{"name": "primary", "multus": {"networkName": VLAN}}, {"name": "secondary", "pod": {}}])
)]
#[tokio::test(start_paused = true)]
async fn networks_pass_through_as_they_are(#[case] interfaces: Value, #[case] networks: Value) {
    let site = Site::usual().await;
    let fleet = Fleet::create(&site).await;
    site.start();
    let asked = with_networks(interfaces.clone(), networks.clone());
    fleet.add_like("m-0", asked).await;
    provisioned(&site).await;
    let vm = site.vm("m-0").unwrap();
    let made = &vm["spec"]["template"]["spec"];
    assert_eq!(made["domain"]["devices"]["interfaces"], interfaces);
    assert_eq!(made["networks"], networks);
    let instance = site.instance("m-0").unwrap();
    let reported = instance["status"]["interfaces"].as_array().unwrap();
    let own = reported.iter().find_map(|one| one.get("ipAddress"));
    assert_eq!(addresses(&site), [own.unwrap().clone()]);
}

/// Away from the pod network altogether, as on a localnet of OVN: KubeVirt learns the address from the
/// guest agent, so that is waited for.
#[tokio::test(start_paused = true)]
async fn a_machine_without_the_pod_network_has_the_address_that_its_agent_tells() {
    let guests = Guests::new(Workloads::new()).image(IMAGE, Image::default());
    let builder = Builder::new()
        .delays(Delays::realistic())
        .network(VLAN, Some("10.100.0.0/24".parse().unwrap()))
        .guests(guests);
    let site = Site::with(builder).await;
    let fleet = Fleet::create(&site).await;
    site.start();
    let interfaces = json!([{"name": "localnet", "bridge": {}}]);
    let networks = json!([{"name": "localnet", "multus": {"networkName": VLAN}}]);
    fleet
        .add_like("m-0", with_networks(interfaces, networks))
        .await;
    site.until("waiting for an address", |site| {
        let runs = site
            .instance("m-0")
            .is_some_and(|one| one["status"]["phase"] == "Running");
        let machine = site.machine("m-0").unwrap();
        runs && condition(&machine, "VMProvisioned")
            .is_some_and(|one| one["reason"] == "VMNotReady")
    })
    .await;
    assert!(addresses(&site).is_empty());
    provisioned(&site).await;
    let all = addresses(&site);
    assert!(all[0].as_str().unwrap().starts_with("10.100.0."), "{all:?}");
}

/// Another infra cluster, which a Secret in the provider's own namespace names, as the flavor for external
/// infrastructure has it; the template does not say where the VM is to be, so the Secret does.
#[tokio::test(start_paused = true)]
async fn a_secret_of_another_namespace_names_the_infra_cluster_and_the_place() {
    const OWN: &str = "capk-system";
    const THERE: &str = "vms";
    let site = Site::usual().await;
    let script = site.server.client("script");
    let params = PostParams::default();
    let home = serde_json::from_value(json!({"metadata": {"name": OWN}})).unwrap();
    let homes: Api<Namespace> = Api::all(script.clone());
    homes.create(&params, &home).await.unwrap();
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u", "namespace": THERE}}],
        "clusters": [{"name": "c", "cluster": {"server": "https://infra:6443"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
    });
    let secret = json!({"metadata": {"name": "external-infra-kubeconfig"},
        "stringData": {"kubeconfig": kubeconfig.to_string()}});
    let secrets: Api<Secret> = Api::namespaced(script, OWN);
    let secret = serde_json::from_value(secret).unwrap();
    secrets.create(&params, &secret).await.unwrap();
    let mut cluster = cluster();
    cluster["spec"]["infraClusterSecretRef"] = json!({"apiVersion": "v1", "kind": "Secret",
        "name": "external-infra-kubeconfig", "namespace": OWN});
    let fleet = Fleet::create_like(&site, cluster).await;
    admit(&site.infra, THERE).await;
    let clients = (site.server.client(PROVIDER), tenant_of(&site.infra, THERE));
    site.play();
    let provided = site.clone();
    tokio::spawn(async move { provided.provide(clients.0, clients.1, Machines).await });
    let mut anywhere = machine();
    let template = &mut anywhere["spec"]["virtualMachineTemplate"];
    template.as_object_mut().unwrap().remove("metadata");
    fleet.add_like("m-0", anywhere).await;
    provisioned(&site).await;
    assert!(site.vm("m-0").is_none());
    assert!(site.infra.object(VMS, THERE, "m-0").is_some());
}
