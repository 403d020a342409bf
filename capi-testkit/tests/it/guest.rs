//! Guests boot from what they were given, and say why if they cannot.

use std::time::Duration;

use bytes::Bytes;
use capi_testkit::guest::{
    AgentError, BadIso, Disk, Event, File, Guest, Hardware, Image, Medium, Nic, Pace, SENTINEL,
    read_iso,
};
use capi_testkit::workload::{Endpoint, Role, Workloads};
use proptest::prelude::*;
use rstest::rstest;
use serde_json::json;
use sha2::{Digest, Sha256};

const SECTOR: usize = 2048;
const VIP: &str = "10.0.0.9";
const TOKEN: &str = "abcdef.0123456789abcdef";
const MAC: &str = "bc:24:11:00:00:01";

/// Writes the simplest image with one folder: plain names, or short plain names and Joliet.
pub(crate) fn iso(label: &str, files: &[(&str, &str)], joliet: bool) -> Bytes {
    let descriptors = if joliet { 3 } else { 2 };
    let first_root = 16 + descriptors;
    let mut at = first_root + descriptors - 1;
    let mut extents = Vec::new();
    for (_, content) in files {
        extents.push((at, content.len()));
        at += content.len().div_ceil(SECTOR).max(1);
    }
    let mut image = vec![0; at * SECTOR];
    let mut put =
        |from: usize, bytes: &[u8]| image[from..from + bytes.len()].copy_from_slice(bytes);
    for volume in 0..descriptors - 1 {
        let root = first_root + volume;
        let mut descriptor = vec![0; SECTOR];
        descriptor[0] = if volume == 0 { 1 } else { 2 };
        descriptor[1..6].copy_from_slice(b"CD001");
        let padded = format!("{label:32}");
        descriptor[40..72].copy_from_slice(padded.as_bytes());
        if volume == 1 {
            descriptor[88..91].copy_from_slice(b"%/E");
        }
        descriptor[156..190].copy_from_slice(&record(&[0], root, SECTOR, true));
        put((16 + volume) * SECTOR, &descriptor);
        let mut folder = [
            record(&[0], root, SECTOR, true),
            record(&[1], root, SECTOR, true),
        ]
        .concat();
        for ((name, _), (sector, length)) in files.iter().zip(&extents) {
            let name = if volume == 1 {
                name.encode_utf16().flat_map(u16::to_be_bytes).collect()
            } else if joliet {
                // As a real writer shortens it where Joliet holds the truth.
                name.to_uppercase()
                    .replace('-', "_")
                    .chars()
                    .take(8)
                    .collect::<String>()
                    .into_bytes()
            } else {
                format!("{};1", name.to_uppercase()).into_bytes()
            };
            folder.extend(record(&name, *sector, *length, false));
        }
        put(root * SECTOR, &folder);
    }
    let mut end = vec![255];
    end.extend(b"CD001");
    put((16 + descriptors - 1) * SECTOR, &end);
    for ((_, content), (sector, _)) in files.iter().zip(&extents) {
        put(sector * SECTOR, content.as_bytes());
    }
    image.into()
}

fn record(name: &[u8], sector: usize, length: usize, folder: bool) -> Vec<u8> {
    let padding = usize::from(name.len().is_multiple_of(2));
    let mut record = vec![0; 33 + name.len() + padding];
    record[0] = u8::try_from(record.len()).expect("a short name");
    let both = |number: usize| {
        let number = u32::try_from(number).expect("a small image");
        [number.to_le_bytes(), number.to_be_bytes()].concat()
    };
    record[2..10].copy_from_slice(&both(sector));
    record[10..18].copy_from_slice(&both(length));
    record[25] = if folder { 2 } else { 0 };
    record[32] = u8::try_from(name.len()).expect("a short name");
    record[33..33 + name.len()].copy_from_slice(name);
    record
}

fn network_config(address: &str) -> String {
    format!(
        "version: 2
ethernets:
  eth0:
    match: {{macaddress: '{MAC}'}}
    set-name: eth0
    addresses: ['{address}']
    routes: [{{to: default, via: 10.0.0.1}}]
"
    )
}

fn meta_data(name: &str) -> String {
    format!("instance-id: uuid-{name}\nlocal-hostname: {name}\n")
}

struct Ca {
    pem: String,
    hash: String,
}

fn ca() -> Ca {
    let key = rcgen::KeyPair::generate().expect("a key");
    let certificate = rcgen::CertificateParams::new(Vec::new())
        .expect("no names")
        .self_signed(&key)
        .expect("signs itself");
    let info = rcgen::PublicKeyData::subject_public_key_info(&key);
    let digest: String = Sha256::digest(info)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Ca {
        pem: certificate.pem(),
        hash: format!("sha256:{digest}"),
    }
}

fn indented(text: &str, by: usize) -> String {
    text.lines()
        .map(|line| format!("{}{line}\n", " ".repeat(by)))
        .collect()
}

fn user_data(files: &[(&str, &str)], verb: &str, config: &str) -> String {
    let mut text = "## template: jinja\n#cloud-config\nwrite_files:\n".to_owned();
    for (path, content) in files {
        text += &format!(
            "- path: {path}\n  permissions: '0640'\n  content: |\n{}",
            indented(content, 4)
        );
    }
    text + &format!("runcmd:\n- 'kubeadm {verb} --config {config}  && echo success > {SENTINEL}'\n")
}

const KUBE_VIP: &str = "apiVersion: v1
kind: Pod
metadata: {name: kube-vip, namespace: kube-system}
spec:
  containers:
  - name: kube-vip
    image: ghcr.io/kube-vip/kube-vip:v1.0.1
    env:
    - {name: vip_interface, value: ''}
    - {name: address, value: 10.0.0.9}
";

fn init_data(ca: &Ca, with_kube_vip: bool) -> String {
    let kubeadm = format!(
        "apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
controlPlaneEndpoint: {VIP}:6443
kubernetesVersion: v1.34.2
---
apiVersion: kubeadm.k8s.io/v1beta4
kind: InitConfiguration
bootstrapTokens: [{{token: {TOKEN}}}]
nodeRegistration:
  name: '{{{{ ds.meta_data.local_hostname }}}}'
  kubeletExtraArgs:
  - {{name: provider-id, value: \"proxmox://'{{{{ ds.meta_data.instance_id }}}}'\"}}
"
    );
    let mut files = vec![
        ("/etc/kubernetes/pki/ca.crt", ca.pem.as_str()),
        ("/run/kubeadm/kubeadm.yaml", kubeadm.as_str()),
    ];
    if with_kube_vip {
        files.push(("/etc/kubernetes/manifests/kube-vip.yaml", KUBE_VIP));
    }
    user_data(&files, "init", "/run/kubeadm/kubeadm.yaml")
}

fn join_data(ca_hash: &str, token: &str) -> String {
    let config = format!(
        "apiVersion: kubeadm.k8s.io/v1beta3
kind: JoinConfiguration
discovery:
  bootstrapToken: {{apiServerEndpoint: '{VIP}:6443', token: {token}, caCertHashes: ['{ca_hash}']}}
nodeRegistration:
  name: '{{{{ ds.meta_data.local_hostname }}}}'
  kubeletExtraArgs: {{provider-id: 'proxmox://{{{{ ds.meta_data.instance_id }}}}'}}
"
    );
    let path = "/run/kubeadm/kubeadm-join-config.yaml";
    user_data(&[(path, &config)], "join", path)
}

fn seed(name: &str, address: &str, user_data: &str) -> Vec<Medium> {
    let files = [
        ("meta-data", meta_data(name)),
        ("network-config", network_config(address)),
        ("user-data", user_data.to_owned()),
    ];
    let files: Vec<(&str, &str)> = files
        .iter()
        .map(|(name, text)| (*name, text.as_str()))
        .collect();
    vec![Medium::Cdrom(iso("cidata", &files, true))]
}

fn hardware(name: &str) -> Hardware {
    Hardware::new(
        format!("uuid-{name}"),
        vec![Nic::new(MAC.parse().expect("a MAC"))],
    )
}

/// Boots until nothing happens any more, for at most `limit`; joins go to `workloads`.
fn run(guest: &mut Guest, workloads: &Workloads, from: Duration, limit: Duration) -> Vec<Event> {
    let mut seen = Vec::new();
    while let Some(at) = guest.wakes_at().filter(|at| *at <= from + limit) {
        let mut events = guest.advance(at);
        while !events.is_empty() {
            let mut next = Vec::new();
            for event in events {
                match event {
                    Event::Join(join) => {
                        let answer = workloads.join(&join);
                        next.extend(guest.joined(at, answer));
                    }
                    event => seen.push(event),
                }
            }
            events = next;
        }
    }
    seen
}

fn power_on(name: &str, disk: Disk, media: Vec<Medium>) -> Guest {
    Guest::power_on(
        disk,
        Image::default(),
        hardware(name),
        media,
        Pace::default(),
        Duration::ZERO,
    )
}

fn boot(name: &str, media: Vec<Medium>, workloads: &Workloads) -> (Guest, Vec<Event>) {
    let mut guest = power_on(name, Disk::default(), media);
    let events = run(
        &mut guest,
        workloads,
        Duration::ZERO,
        Duration::from_secs(3600),
    );
    (guest, events)
}

fn console(guest: &Guest) -> String {
    guest.console().collect::<Vec<_>>().join("\n")
}

#[test]
fn a_control_plane_and_a_worker_make_a_cluster() {
    let (workloads, ca) = (Workloads::new(), ca());
    let (first, events) = boot(
        "cp",
        seed("cp", "10.0.0.10/24", &init_data(&ca, true)),
        &workloads,
    );
    assert_eq!(events, [Event::Booted], "{}", console(&first));
    let (second, events) = boot(
        "w",
        seed("w", "10.0.0.20/24", &join_data(&ca.hash, TOKEN)),
        &workloads,
    );
    assert_eq!(events, [Event::Booted], "{}", console(&second));

    let cluster = workloads.get(&Endpoint::new(VIP, 6443)).expect("a cluster");
    assert_eq!(cluster.ca_hash, ca.hash);
    let shown: Vec<_> = cluster
        .nodes
        .iter()
        .map(|node| {
            (
                node.name.as_str(),
                node.provider_id.as_deref(),
                node.role,
                node.ready,
            )
        })
        .collect();
    assert_eq!(
        shown,
        [
            ("cp", Some("proxmox://uuid-cp"), Role::ControlPlane, true),
            ("w", Some("proxmox://uuid-w"), Role::Worker, true),
        ]
    );
    assert_eq!(cluster.nodes[1].kubernetes_version, "v1.34.2");
    let agent = second.agent().expect("runs");
    assert_eq!(agent.read_file(SENTINEL).expect("is written"), "success\n");
    assert_eq!(
        agent.execute(&["cloud-init", "status"]).out,
        "status: done\n"
    );
    assert_eq!(agent.host_name(), "w");
    let addresses = |guest: &Guest| -> Vec<String> {
        guest.agent().expect("runs").interfaces()[1]
            .addresses
            .iter()
            .map(|one| format!("{}/{}", one.address, one.prefix))
            .collect()
    };
    assert_eq!(
        addresses(&first),
        ["10.0.0.10/24", "fe80::be24:11ff:fe00:1/64", "10.0.0.9/32"]
    );
    assert_eq!(
        addresses(&second),
        ["10.0.0.20/24", "fe80::be24:11ff:fe00:1/64"]
    );
    assert!(
        !console(&second).contains(TOKEN),
        "a token is no console text"
    );
}

#[test]
fn the_agent_answers_by_boot_progress() {
    let (workloads, ca) = (Workloads::new(), ca());
    let pace = Pace::default();
    let mut guest = power_on(
        "cp",
        Disk::default(),
        seed("cp", "10.0.0.10/24", &init_data(&ca, true)),
    );
    assert_eq!(guest.agent().err(), Some(AgentError::NotRunning));
    run(&mut guest, &workloads, Duration::ZERO, pace.kernel);
    let status = |guest: &Guest| {
        guest
            .agent()
            .expect("runs")
            .execute(&["cloud-init", "status"])
    };
    assert_eq!(status(&guest).out, "status: running\n");
    let missing = guest.agent().expect("runs").read_file(SENTINEL);
    assert_eq!(missing, Err(AgentError::NoSuchFile(SENTINEL.to_owned())));
    run(
        &mut guest,
        &workloads,
        Duration::ZERO,
        Duration::from_secs(3600),
    );
    assert_eq!((status(&guest).code, guest.is_bootstrapped()), (0, true));
}

#[test]
fn a_worker_waits_for_its_cluster_and_gives_up_after_kubeadms_time() {
    let (workloads, ca) = (Workloads::new(), ca());
    let media = seed("w", "10.0.0.20/24", &join_data(&ca.hash, TOKEN));
    let mut early = power_on("w", Disk::default(), media.clone());
    run(
        &mut early,
        &workloads,
        Duration::ZERO,
        Duration::from_secs(60),
    );
    assert!(!early.is_bootstrapped());
    boot(
        "cp",
        seed("cp", "10.0.0.10/24", &init_data(&ca, true)),
        &workloads,
    );
    let events = run(
        &mut early,
        &workloads,
        Duration::ZERO,
        Duration::from_secs(3600),
    );
    assert_eq!(events, [Event::Booted], "{}", console(&early));

    let (late, events) = boot("w", media, &Workloads::new());
    assert!(
        matches!(events.as_slice(), [Event::Failed(_)]),
        "{events:?}"
    );
    assert_eq!(
        late.agent()
            .expect("runs")
            .execute(&["cloud-init", "status"])
            .code,
        1
    );
    assert!(
        console(&late).contains("no route to host"),
        "{}",
        console(&late)
    );
}

#[test]
fn a_member_comes_back_without_its_seed_and_without_kubeadm() {
    let (workloads, ca) = (Workloads::new(), ca());
    let endpoint = Endpoint::new(VIP, 6443);
    let media = seed("cp", "10.0.0.10/24", &init_data(&ca, true));
    for media in [Vec::new(), media.clone()] {
        let (guest, _) = boot(
            "cp",
            seed("cp", "10.0.0.10/24", &init_data(&ca, true)),
            &workloads,
        );
        workloads.machine_stopped("uuid-cp");
        assert!(!workloads.answers(&endpoint));
        let mut again = power_on("cp", guest.power_off(), media);
        run(
            &mut again,
            &workloads,
            Duration::ZERO,
            Duration::from_secs(60),
        );
        assert!(workloads.answers(&endpoint), "{}", console(&again));
        assert!(!console(&again).contains("kubeadm"), "{}", console(&again));
        // The sentinel lives in memory.
        assert!(!again.is_bootstrapped());
        workloads.machine_destroyed("uuid-cp");
    }
    // Another instance-id runs cloud-init again, and kubeadm refuses the used disk.
    let (guest, _) = boot("cp", media, &workloads);
    let other = seed("other", "10.0.0.10/24", &init_data(&ca, true));
    let mut again = power_on("cp", guest.power_off(), other);
    run(
        &mut again,
        &workloads,
        Duration::ZERO,
        Duration::from_secs(60),
    );
    assert!(
        console(&again).contains("kubelet.conf already exists"),
        "{}",
        console(&again)
    );
}

fn with(name: &str, text: &str) -> Vec<Medium> {
    let good = [
        ("meta-data", meta_data("w")),
        ("network-config", network_config("10.0.0.20/24")),
        ("user-data", "#cloud-config\n".to_owned()),
    ];
    let files: Vec<(&str, &str)> = good
        .iter()
        .map(|(one, content)| (*one, if *one == name { text } else { content.as_str() }))
        .collect();
    vec![Medium::Cdrom(iso("CIDATA", &files, false))]
}

/// A config drive whose network data is only right if there is user data.
fn drive(meta_data: &str, user_data: &str) -> Vec<Medium> {
    let network = if user_data.is_empty() {
        json!({"links": [{}]})
    } else {
        json!({
            "links": [{"id": "nic", "type": "phy", "ethernet_mac_address": MAC}],
            "networks": [{"id": "net", "link": "nic", "type": "ipv4", "ip_address": "10.0.0.20/24",
                "gateway": "10.0.0.1"}],
        })
    };
    let files = vec![
        File::new("openstack/latest/meta_data.json", meta_data.to_owned()),
        File::new("openstack/latest/network_data.json", network.to_string()),
        File::new("openstack/latest/user_data", user_data.to_owned()),
    ];
    let label = "config-2".to_owned();
    vec![Medium::Drive { label, files }]
}

#[test]
fn a_config_drive_is_read_as_a_nocloud_seed_is() {
    let (workloads, ca) = (Workloads::new(), ca());
    boot(
        "cp",
        seed("cp", "10.0.0.10/24", &init_data(&ca, true)),
        &workloads,
    );
    let meta_data = r#"{"uuid": "uuid-w", "instance_id": "w.default", "hostname": "w"}"#;
    let media = drive(meta_data, &join_data(&ca.hash, TOKEN));
    let (guest, events) = boot("w", media, &workloads);
    assert_eq!(events, [Event::Booted], "{}", console(&guest));
    assert!(console(&guest).contains("DataSourceConfigDrive [seed=/dev/vdb], instance-id uuid-w"));
    assert_eq!(guest.disk().hostname(), Some("w"));
    let cluster = workloads.get(&Endpoint::new(VIP, 6443)).expect("a cluster");
    let node = cluster.by_name("w");
    assert_eq!(
        node[0].addresses,
        ["10.0.0.20".parse::<std::net::IpAddr>().expect("an address")]
    );
}

#[rstest]
#[case::no_medium(Vec::new(), "No local datasource found: no medium")]
#[case::not_an_image(vec![Medium::Cdrom(Bytes::from_static(b"nothing"))], "no ISO 9660 volume descriptor")]
#[case::other_label(vec![Medium::Cdrom(iso("seed", &[("user-data", "")], true))], "no volume is labelled")]
#[case::no_instance_id_on_a_config_drive(
    drive("{}", "#cloud-config\n"),
    "meta_data.json has no uuid"
)]
#[case::bad_network_data(
    drive("{\"uuid\": \"u\"}", ""),
    "network_data.json: an entry has no id"
)]
#[case::no_user_data(vec![Medium::Cdrom(iso("cidata", &[("meta-data", "")], true))], "no file \"user-data\"")]
#[case::no_instance_id(with("meta-data", "local-hostname: a\n"), "no instance-id")]
#[case::bad_meta_data(with("meta-data", "a: [\n"), "failed loading yaml of meta-data")]
#[case::bad_user_data(with("user-data", "#cloud-config\na: [\n"), "Failed loading yaml blob")]
#[case::no_header(with("user-data", "runcmd: []\n"), "not '#cloud-config'")]
#[case::other_mac(
    with(
        "network-config",
        "version: 2\nethernets: {eth0: {match: {macaddress: 'bc:24:11:00:00:99'}}}\n"
    ),
    "Not all expected physical devices"
)]
#[case::twice(with("network-config", &network_config("10.0.0.20/24', '10.0.0.20/16")), "duplicate address")]
#[case::failing_command(
    with("user-data", "#cloud-config\nruncmd: ['false']\n"),
    "exited with 1"
)]
#[case::no_config(
    with("user-data", "#cloud-config\nruncmd: [kubeadm init --config /none]\n"),
    "no such file"
)]
#[case::other_ca(seed("w", "10.0.0.20/24", &join_data("sha256:00", TOKEN)), "none of the public keys")]
#[case::other_token(seed("w", "10.0.0.20/24", &join_data("sha256:00", "aaaaaa.0123456789abcdef")), "JWS signature")]
#[case::bad_token(seed("w", "10.0.0.20/24", &join_data("sha256:00", "secret")), "the bootstrap token is invalid")]
fn a_wrong_seed_makes_no_node_and_says_why(#[case] media: Vec<Medium>, #[case] why: &str) {
    let workloads = Workloads::new();
    boot(
        "cp",
        seed("cp", "10.0.0.10/24", &init_data(&ca(), true)),
        &workloads,
    );
    let (guest, _) = boot("w", media, &workloads);
    assert!(console(&guest).contains(why), "{}", console(&guest));
    let nodes = workloads
        .get(&Endpoint::new(VIP, 6443))
        .expect("a cluster")
        .nodes;
    assert_eq!(nodes.len(), 1, "{nodes:?}");
}

#[test]
fn an_address_in_use_and_a_missing_route_are_named() {
    let (workloads, ca) = (Workloads::new(), ca());
    let control_plane = seed("cp", "10.0.0.10/24", &init_data(&ca, true));
    boot("cp", control_plane, &workloads);
    let join = join_data(&ca.hash, TOKEN);
    let (guest, _) = boot("w", seed("w", "10.0.0.10/24", &join), &workloads);
    let why = "address 10.0.0.10 is already in use by machine uuid-cp";
    assert!(console(&guest).contains(why), "{}", console(&guest));

    let config = network_config("10.9.0.20/24");
    let (islander, _) = config.split_once("    routes").expect("has routes");
    let files = [
        ("meta-data", &*meta_data("w")),
        ("network-config", islander),
        ("user-data", &join),
    ];
    let media = vec![Medium::Cdrom(iso("cidata", &files, true))];
    let (guest, _) = boot("w", media, &workloads);
    assert!(
        console(&guest).contains("network is unreachable"),
        "{}",
        console(&guest)
    );
}

#[test]
fn nobody_serves_the_endpoint_without_kube_vip() {
    let (workloads, ca) = (Workloads::new(), ca());
    let (guest, _) = boot(
        "cp",
        seed("cp", "10.0.0.10/24", &init_data(&ca, false)),
        &workloads,
    );
    assert!(console(&guest).contains("kube-vip"), "{}", console(&guest));
    assert_eq!(workloads.all(), []);
    workloads.declare_load_balancer(&Endpoint::new(VIP, 6443));
    let (guest, events) = boot(
        "cp",
        seed("cp", "10.0.0.10/24", &init_data(&ca, false)),
        &workloads,
    );
    assert_eq!(events, [Event::Booted], "{}", console(&guest));
}

#[test]
fn a_small_or_unplugged_control_plane_is_refused_by_preflight() {
    let ca = ca();
    let media = || seed("cp", "10.0.0.10/24", &init_data(&ca, true));
    let mut small = hardware("cp");
    small.cores = 1;
    small.memory_mib = 1024;
    let mut unplugged = hardware("cp");
    unplugged.nics[0].link = false;
    for (hardware, why) in [
        (
            small,
            "[ERROR NumCPU]: the number of available CPUs 1 is less than the required 2 [ERROR Mem]",
        ),
        (unplugged, "no interface with a link has an address"),
    ] {
        let mut guest = Guest::power_on(
            Disk::default(),
            Image::default(),
            hardware,
            media(),
            Pace::instant(),
            Duration::ZERO,
        );
        run(
            &mut guest,
            &Workloads::new(),
            Duration::ZERO,
            Duration::from_secs(60),
        );
        assert!(console(&guest).contains(why), "{}", console(&guest));
    }
}

#[test]
fn both_kinds_of_names_are_read() {
    let files = [
        ("meta-data", "a"),
        ("user-data", "bc"),
        ("network-config", ""),
    ];
    for joliet in [true, false] {
        let (label, read) = read_iso(&iso("cidata", &files, joliet)).expect("an image");
        let read: Vec<_> = read
            .iter()
            .map(|file| {
                (
                    file.path.as_str(),
                    std::str::from_utf8(&file.bytes).expect("text"),
                )
            })
            .collect();
        assert_eq!(
            (label.as_str(), read.as_slice()),
            ("cidata", files.as_slice())
        );
    }
    assert_eq!(read_iso(&Bytes::new()).err(), Some(BadIso::NoDescriptor));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_make_the_reader_panic(
        hits in proptest::collection::vec((16 * SECTOR..22 * SECTOR, any::<u8>()), 0..40),
        cut in 0..25 * SECTOR,
        joliet: bool,
    ) {
        let mut image = iso("cidata", &[("user-data", "#cloud-config"), ("meta-data", "a")], joliet).to_vec();
        for (at, byte) in hits {
            if let Some(old) = image.get_mut(at) {
                *old = byte;
            }
        }
        image.truncate(cut);
        let media = vec![Medium::Cdrom(image.into())];
        boot("w", media, &Workloads::new());
    }

    #[test]
    fn no_text_makes_a_guest_panic(user_data in "[#:{}%\\[\\]\\-a-z \n'\"|>]{0,200}", network: String) {
        boot("w", with("user-data", &format!("## template: jinja\n#cloud-config\n{user_data}")), &Workloads::new());
        boot("w", with("network-config", &format!("version: 2\nethernets: {network}")), &Workloads::new());
    }
}
