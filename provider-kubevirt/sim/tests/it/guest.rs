//! Guests boot from the Secret in the API, and join through the Service that leads to them.

use capi_testkit::guest::{Image, SENTINEL};
use capi_testkit::workload::{Endpoint, Role};
use serde_json::{Value, json};

use crate::world::{World, builder, condition, machine, secret};

const TOKEN: &str = "abcdef.0123456789abcdef";

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("    {line}\n")).collect()
}

/// Files and a command, as the kubeadm bootstrap provider renders them. `authority` is the cluster's
/// certificate, which control plane machines bring along.
fn cloud_config(config: &str, authority: Option<&str>, verb: &str) -> String {
    let authority = authority.map_or_else(String::new, |pem| {
        let pem = indented(pem);
        format!("- path: /etc/kubernetes/pki/ca.crt\n  content: |\n{pem}")
    });
    let config = indented(config);
    format!(
        "#cloud-config\nwrite_files:\n{authority}- path: /run/kubeadm/kubeadm.yaml\n  content: |\n{config}\
         runcmd:\n- 'kubeadm {verb} --config /run/kubeadm/kubeadm.yaml  && echo success > {SENTINEL}'\n"
    )
}

fn authority() -> String {
    let key = rcgen::KeyPair::generate().expect("a key");
    let parameters = rcgen::CertificateParams::new(Vec::new()).expect("no names");
    parameters.self_signed(&key).expect("signs itself").pem()
}

fn init(endpoint: &str, authority: &str) -> String {
    let config = format!(
        "apiVersion: kubeadm.k8s.io/v1beta4\nkind: ClusterConfiguration\n\
         controlPlaneEndpoint: {endpoint}\nkubernetesVersion: v1.34.2\n---\n\
         apiVersion: kubeadm.k8s.io/v1beta4\nkind: InitConfiguration\n\
         bootstrapTokens: [{{token: {TOKEN}}}]\n"
    );
    cloud_config(&config, Some(authority), "init")
}

/// A worker's data, or with an authority that of a control plane machine.
fn join(endpoint: &str, authority: Option<&str>) -> String {
    let role = authority.map_or("", |_| "controlPlane: {}\n");
    let config = format!(
        "apiVersion: kubeadm.k8s.io/v1beta4\nkind: JoinConfiguration\n{role}discovery:\n  \
         bootstrapToken: {{apiServerEndpoint: '{endpoint}', token: {TOKEN}, \
         unsafeSkipCAVerification: true}}\n"
    );
    cloud_config(&config, authority, "join")
}

fn service(kind: &str, publish: bool) -> Value {
    json!({
        "metadata": {"name": "c-lb", "namespace": "default",
            "labels": {"cluster.x-k8s.io/cluster-name": "c"}},
        "spec": {
            "type": kind, "publishNotReadyAddresses": publish,
            "selector": {"cluster.x-k8s.io/role": "control-plane"},
            "ports": [{"name": "api", "port": 6443, "targetPort": 6443}],
        },
    })
}

fn control_plane(name: &str) -> Value {
    let mut machine = machine(name);
    machine["spec"]["template"]["metadata"]["labels"]["cluster.x-k8s.io/role"] =
        json!("control-plane");
    machine
}

/// The control plane's address once the Service has one.
async fn endpoint(world: &World, service: Value) -> String {
    world.create("Service", service).await.expect("is created");
    let look = |world: &World| {
        let service = world.get("services", "c-lb")?;
        let ingress = &service["status"]["loadBalancer"]["ingress"][0];
        let host = ingress["ip"].as_str().or(ingress["hostname"].as_str())?;
        Some(format!("{host}:6443"))
    };
    world.until("an address", look).await
}

async fn boot(world: &World, machine: Value, user_data: &str) {
    let name = machine["metadata"]["name"]
        .as_str()
        .expect("a name")
        .to_owned();
    world
        .create("Secret", secret(&name, user_data))
        .await
        .expect("is created");
    world
        .create("VirtualMachine", machine)
        .await
        .expect("is let in");
    world.status(&name, "Running").await;
}

fn nodes(world: &World, endpoint: &str) -> Vec<(String, Role, Vec<String>)> {
    let endpoint: Endpoint = endpoint.parse().expect("an endpoint");
    let cluster = world.workloads.get(&endpoint);
    let nodes = cluster.map(|cluster| cluster.nodes).unwrap_or_default();
    nodes
        .into_iter()
        .map(|node| {
            let addresses = node.addresses.iter().map(ToString::to_string).collect();
            (node.name, node.role, addresses)
        })
        .collect()
}

async fn joined(world: &World, endpoint: &str, count: usize) -> Vec<(String, Role, Vec<String>)> {
    let look = |world: &World| {
        let nodes = nodes(world, endpoint);
        (nodes.len() == count).then_some(nodes)
    };
    world.until("nodes", look).await
}

#[tokio::test(start_paused = true)]
async fn machines_make_a_cluster_through_a_load_balancer() {
    let world = World::start(builder()).await;
    let endpoint = endpoint(&world, service("LoadBalancer", true)).await;
    assert_eq!(endpoint, "192.168.100.1:6443");
    let authority = authority();
    boot(&world, control_plane("cp"), &init(&endpoint, &authority)).await;
    joined(&world, &endpoint, 1).await;
    boot(
        &world,
        control_plane("cp2"),
        &join(&endpoint, Some(&authority)),
    )
    .await;
    let mut worker = machine("w");
    // Behind masquerade all guests have one address; others see that of the pod.
    worker["spec"]["template"]["spec"]["domain"]["devices"]["interfaces"] =
        json!([{"name": "default", "masquerade": {}}]);
    boot(&world, worker, &join(&endpoint, None)).await;
    let nodes = joined(&world, &endpoint, 3).await;
    assert_eq!(
        nodes[0],
        (
            "cp".to_owned(),
            Role::ControlPlane,
            vec!["10.244.0.10".to_owned()]
        )
    );
    assert_eq!(
        nodes[2],
        ("w".to_owned(), Role::Worker, vec!["10.244.0.12".to_owned()])
    );

    world.settle().await;
    let vmi = world.vmi("w").expect("an instance");
    let interfaces = vmi["status"]["interfaces"].as_array().expect("interfaces");
    assert_eq!(interfaces[0]["ipAddress"], "10.244.0.12");
    assert_eq!(interfaces.len(), 2, "and the bridge of its network plug-in");
    assert!(
        interfaces[1].get("name").is_none(),
        "which is not in the spec"
    );

    // A machine that goes leaves its node behind, not ready.
    world.delete("VirtualMachine", "w").await;
    world
        .until("gone", |world| world.vm("w").is_none().then_some(()))
        .await;
    let cluster = world
        .workloads
        .get(&endpoint.parse().expect("an endpoint"))
        .expect("a cluster");
    assert!(!cluster.by_name("w")[0].ready);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_does_not_lead_to_the_machine_is_no_endpoint() {
    let world = World::start(builder()).await;
    let endpoint = endpoint(&world, service("LoadBalancer", true)).await;
    // Without the role's label the selector does not pick it.
    boot(&world, machine("cp"), &init(&endpoint, &authority())).await;
    tokio::time::sleep(std::time::Duration::from_secs(400)).await;
    let console = world.platform.console("default", "cp").join("\n");
    assert!(console.contains("no route to host"), "{console}");
    assert_eq!(nodes(&world, &endpoint), []);
}

#[tokio::test(start_paused = true)]
async fn the_first_machine_needs_an_endpoint_before_it_is_ready() {
    for publish in [false, true] {
        let world = World::start(builder()).await;
        let endpoint = endpoint(&world, service("LoadBalancer", publish)).await;
        let mut machine = control_plane("cp");
        machine["spec"]["template"]["spec"]["readinessProbe"] =
            json!({"exec": {"command": ["cat", SENTINEL]}, "periodSeconds": 5});
        boot(&world, machine, &init(&endpoint, &authority())).await;
        tokio::time::sleep(std::time::Duration::from_secs(600)).await;
        let vmi = world.vmi("cp").expect("an instance");
        let wanted = if publish {
            ("True", "")
        } else {
            ("False", "ContainersNotReady")
        };
        assert_eq!(condition(&vmi, "Ready"), Some(wanted));
        assert_eq!(nodes(&world, &endpoint).len(), usize::from(publish));
        assert_eq!(
            world.vm("cp").expect("a VM")["status"]["ready"] == true,
            publish
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_name_and_a_cluster_address_are_endpoints_too() {
    let world = World::start(builder().load_balancer_hostnames("lb.example.org")).await;
    let named = endpoint(&world, service("LoadBalancer", true)).await;
    assert_eq!(named, "c-lb.default.lb.example.org:6443");
    boot(&world, control_plane("cp"), &init(&named, &authority())).await;
    joined(&world, &named, 1).await;

    let world = World::start(builder()).await;
    let made = world
        .create("Service", service("ClusterIP", true))
        .await
        .expect("is created");
    let address = made.data["spec"]["clusterIP"]
        .as_str()
        .expect("an address")
        .to_owned();
    let inner = format!("{address}:6443");
    boot(&world, control_plane("cp"), &init(&inner, &authority())).await;
    joined(&world, &inner, 1).await;
}

#[tokio::test(start_paused = true)]
async fn flatcar_reads_ignition_from_a_config_drive() {
    let image = "example.org/flatcar:v1";
    let world = World::start_with(builder(), |guests| guests.image(image, Image::flatcar())).await;
    let unit = "[Unit]\n[Service]\nType=oneshot\nEnvironmentFile=/run/metadata/flatcar\n\
                ExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n";
    let document = json!({
        "ignition": {"version": "3.3.0"},
        "systemd": {"units": [{"name": "kubeadm.service", "enabled": true, "contents": unit}]},
    });
    let mut machine = machine("f");
    let volumes = &mut machine["spec"]["template"]["spec"]["volumes"];
    volumes[0]["containerDisk"]["image"] = json!(image);
    volumes[1] = json!({"name": "seed", "cloudInitConfigDrive": {"secretRef": {"name": "f-seed"}}});
    boot(&world, machine, &document.to_string()).await;
    world.settle().await;
    let console = world.platform.console("default", "f").join("\n");
    assert!(console.contains("Ignition: finished"), "{console}");
    assert!(
        console.contains("Hostname set to <f>"),
        "the lease says its name: {console}"
    );
    let vmi = world.vmi("f").expect("an instance");
    assert_eq!(vmi["status"]["guestOSInfo"]["id"], "flatcar");
}
