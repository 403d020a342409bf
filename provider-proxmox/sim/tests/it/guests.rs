//! VMs boot what was attached to them, and their agent answers from what came of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use capi_testkit::guest::{Disk, Membership, Pace};
use capi_testkit::workload::{Endpoint, Entry, Join, Node, Refused, Role, Workloads};
use pve_sim::{Builder, Delays, Guests, Platform};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::client::{call, finish, upload};

const SECTOR: usize = 2048;
const TOKEN: &str = "abcdef.0123456789abcdef";
const CA_HASH: &str = "sha256:aa";

/// The plainest ISO 9660 image: one folder, one descriptor, files of at most one sector.
fn image(files: &[(&str, &str)]) -> Vec<u8> {
    const ROOT: usize = 18;
    let record = |name: &[u8], sector: usize, length: usize, folder: bool| {
        let both = |number: usize| {
            let number = u32::try_from(number).unwrap();
            [number.to_le_bytes(), number.to_be_bytes()].concat()
        };
        let mut record = vec![0; 33 + name.len() + usize::from(name.len().is_multiple_of(2))];
        record[0] = u8::try_from(record.len()).unwrap();
        record[2..10].copy_from_slice(&both(sector));
        record[10..18].copy_from_slice(&both(length));
        record[25] = if folder { 2 } else { 0 };
        record[32] = u8::try_from(name.len()).unwrap();
        record[33..33 + name.len()].copy_from_slice(name);
        record
    };
    let mut image = vec![0; (ROOT + 1 + files.len()) * SECTOR];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(16 * SECTOR, b"\x01CD001\x01");
    put(16 * SECTOR + 40, format!("{:32}", "CIDATA").as_bytes());
    put(16 * SECTOR + 156, &record(&[0], ROOT, SECTOR, true));
    put(17 * SECTOR, b"\xffCD001\x01");
    let mut folder = [
        record(&[0], ROOT, SECTOR, true),
        record(&[1], ROOT, SECTOR, true),
    ]
    .concat();
    for (at, (name, content)) in (ROOT + 1..).zip(files) {
        let name = format!("{};1", name.to_uppercase());
        folder.extend(record(name.as_bytes(), at, content.len(), false));
        put(at * SECTOR, content.as_bytes());
    }
    put(ROOT * SECTOR, &folder);
    image
}

fn seed(mac: &str, user_data: &str) -> Vec<u8> {
    let network = format!(
        "version: 2\nethernets:\n  eth0:\n    match: {{macaddress: '{mac}'}}\n    set-name: eth0\n    \
         addresses: [10.0.0.20/24]\n    routes: [{{to: default, via: 10.0.0.1}}]\n"
    );
    let meta = "instance-id: one\nlocal-hostname: m-0\n";
    image(&[
        ("meta-data", meta),
        ("network-config", &network),
        ("user-data", user_data),
    ])
}

fn join_data() -> String {
    format!(
        "#cloud-config
write_files:
- path: /run/kubeadm/join.yaml
  content: |
    apiVersion: kubeadm.k8s.io/v1beta4
    kind: JoinConfiguration
    discovery:
      bootstrapToken: {{apiServerEndpoint: '10.0.0.9:6443', token: {TOKEN}, caCertHashes: ['{CA_HASH}']}}
    nodeRegistration:
      name: m-0
      kubeletExtraArgs:
      - {{name: provider-id, value: proxmox://one}}
runcmd:
- kubeadm join --config /run/kubeadm/join.yaml && echo success > /run/cluster-api/bootstrap-success.complete
"
    )
}

/// A cluster at 10.0.0.9 that a worker can join.
fn workloads() -> Workloads {
    let workloads = Workloads::new();
    let endpoint = Endpoint::new("10.0.0.9", 6443);
    workloads.declare_load_balancer(&endpoint);
    let mut node = Node::new("cp", "control-plane", Role::ControlPlane);
    node.kubernetes_version = "v1.36.0".into();
    let tokens = vec![TOKEN.to_owned()];
    let entry = Entry::Init {
        ca_hash: CA_HASH.into(),
        tokens,
        serves: Vec::new(),
    };
    workloads
        .join(&Join {
            endpoint,
            entry,
            node,
        })
        .unwrap();
    workloads
}

/// Clones 100, attaches a seed with this user-data, if any, and starts it.
async fn start(platform: &Platform, user_data: Option<&str>) {
    let upid = call(
        platform,
        "POST",
        "/nodes/pve1/qemu/9000/clone",
        &[("newid", "100")],
    )
    .await
    .text();
    finish(platform, &upid).await;
    if let Some(user_data) = user_data {
        let net0 = platform.vm(100).unwrap().config["net0"].clone();
        let mac = net0.split(['=', ',']).nth(1).unwrap().to_lowercase();
        let upid = upload(
            platform,
            "pve1",
            "user-data-100.iso",
            &seed(&mac, user_data),
        )
        .await
        .text();
        assert_eq!(finish(platform, &upid).await, "OK");
        let attach = [
            ("ide0", "local:iso/user-data-100.iso,media=cdrom"),
            ("background_delay", "30"),
        ];
        call(platform, "POST", "/nodes/pve1/qemu/100/config", &attach)
            .await
            .data();
    }
    let upid = call(platform, "POST", "/nodes/pve1/qemu/100/status/start", &[])
        .await
        .text();
    assert_eq!(finish(platform, &upid).await, "OK");
}

async fn agent(
    platform: &Platform,
    method: &str,
    what: &str,
    parameters: &[(&str, &str)],
) -> Value {
    let path = format!("/nodes/pve1/qemu/100/agent/{what}");
    call(platform, method, &path, parameters)
        .await
        .data()
        .clone()
}

#[tokio::test(start_paused = true)]
async fn a_seeded_vm_joins_while_nobody_asks() {
    let workloads = workloads();
    let platform = Builder::new()
        .guests(Guests::new(workloads.clone()))
        .build();
    start(&platform, Some(&join_data())).await;
    sleep(Duration::from_secs(120)).await;
    let uuid = platform.vm(100).unwrap().uuid().unwrap().to_owned();
    let cluster = workloads.get(&Endpoint::new("10.0.0.9", 6443)).unwrap();
    let node = cluster.by_provider_id("proxmox://one")[0];
    assert_eq!(
        (node.name.as_str(), node.machine.as_str(), node.ready),
        ("m-0", uuid.as_str(), true)
    );

    platform.stop_behind_back(100);
    let ready = |workloads: &Workloads| {
        workloads
            .get(&Endpoint::new("10.0.0.9", 6443))
            .unwrap()
            .by_name("m-0")[0]
            .ready
    };
    assert!(!ready(&workloads));
    let upid = call(&platform, "POST", "/nodes/pve1/qemu/100/status/start", &[])
        .await
        .text();
    finish(&platform, &upid).await;
    sleep(Duration::from_secs(120)).await;
    assert!(ready(&workloads), "{:?}", platform.console(100));
    platform.destroy_behind_back(100);
    assert!(!ready(&workloads));
}

#[tokio::test(start_paused = true)]
async fn without_delays_a_vm_has_booted_when_it_was_started() {
    let workloads = workloads();
    let guests = Guests::new(workloads.clone()).pace(Pace::instant());
    let platform = Builder::new().delays(Delays::zero()).guests(guests).build();
    let before = tokio::time::Instant::now();
    start(&platform, Some(&join_data())).await;
    let sentinel = "/run/cluster-api/bootstrap-success.complete";
    let read = agent(&platform, "GET", "file-read", &[("file", sentinel)]).await;
    assert_eq!(read["content"], json!("success\n"));
    assert!(before.elapsed().is_zero());
}

#[tokio::test(start_paused = true)]
async fn the_agent_answers_once_the_kernel_is_up() {
    let platform = Builder::new().guests(Guests::new(Workloads::new())).build();
    start(
        &platform,
        Some("#cloud-config\nwrite_files:\n- {path: /etc/x, content: \"caf\\u00e9\"}\n"),
    )
    .await;
    let early = call(&platform, "POST", "/nodes/pve1/qemu/100/agent/ping", &[]).await;
    assert_eq!(early.error(), (500, "QEMU guest agent is not running"));
    sleep(Duration::from_secs(60)).await;
    assert_eq!(
        agent(&platform, "POST", "ping", &[]).await,
        json!({ "result": {} })
    );
    let info = agent(&platform, "GET", "get-osinfo", &[]).await;
    assert_eq!(info["result"]["id"], "ubuntu");
    let interfaces = agent(&platform, "GET", "network-get-interfaces", &[]).await;
    let card = &interfaces["result"][1];
    assert_eq!(card["ip-addresses"][0]["ip-address"], "10.0.0.20");
    assert_eq!(card["ip-addresses"][0]["prefix"], 24);
    let read = agent(&platform, "GET", "file-read", &[("file", "/etc/x")]).await;
    assert_eq!(
        read["content"], "caf\u{c3}\u{a9}",
        "each byte is one code point"
    );
    let missing = call(
        &platform,
        "GET",
        "/nodes/pve1/qemu/100/agent/file-read",
        &[("file", "/no")],
    )
    .await;
    assert!(missing.error().1.ends_with("No such file or directory"));

    let command = [("command", "cloud-init"), ("command", "status")];
    let pid = agent(&platform, "POST", "exec", &command).await["pid"].to_string();
    let status = agent(&platform, "GET", "exec-status", &[("pid", &pid)]).await;
    assert_eq!(
        (&status["exited"], &status["exitcode"]),
        (&json!(1), &json!(0))
    );
    assert!(
        status["out-data"]
            .as_str()
            .unwrap()
            .contains("status: done")
    );
    let again = call(
        &platform,
        "GET",
        "/nodes/pve1/qemu/100/agent/exec-status",
        &[("pid", &pid)],
    )
    .await;
    assert_eq!(again.error().0, 500, "the agent forgets what it has told");
}

#[tokio::test(start_paused = true)]
async fn a_vm_without_a_seed_says_so_on_its_console() {
    let workloads = workloads();
    let platform = Builder::new()
        .guests(Guests::new(workloads.clone()))
        .build();
    start(&platform, None).await;
    sleep(Duration::from_secs(120)).await;
    let console = platform.console(100).join("\n");
    assert!(console.contains("no medium is attached"), "{console}");
    let cluster = workloads.get(&Endpoint::new("10.0.0.9", 6443)).unwrap();
    assert_eq!(cluster.nodes.len(), 1);
}

/// Clusters whose control plane needs time to start.
#[derive(Debug)]
struct Slow {
    workloads: Workloads,
    asked: Arc<AtomicUsize>,
}

impl Membership for Slow {
    fn join(&self, join: &Join, disk: &Disk) -> Result<(), Refused> {
        let config = disk.kubeadm_config().expect("kubeadm has run");
        assert!(disk.file(config).is_some(), "with a file: {config}");
        if self.asked.fetch_add(1, Ordering::Relaxed) < 2 {
            return Err(Refused::Pending);
        }
        self.workloads.join(join)
    }

    fn machine_stopped(&self, _: &str) {}

    fn machine_destroyed(&self, _: &str) {}
}

#[tokio::test(start_paused = true)]
async fn a_guest_asks_again_while_the_control_plane_starts() {
    let asked = Arc::new(AtomicUsize::new(0));
    let slow = Slow {
        workloads: workloads(),
        asked: Arc::clone(&asked),
    };
    let workloads = slow.workloads.clone();
    let platform = Builder::new().guests(Guests::new(slow)).build();
    start(&platform, Some(&join_data())).await;
    sleep(Duration::from_secs(120)).await;
    let console = platform.console(100).join("\n");
    assert_eq!(asked.load(Ordering::Relaxed), 3, "{console}");
    assert!(console.contains("Waiting for the kubelet"), "{console}");
    let cluster = workloads.get(&Endpoint::new("10.0.0.9", 6443)).unwrap();
    assert_eq!(cluster.nodes.len(), 2, "{console}");
}
