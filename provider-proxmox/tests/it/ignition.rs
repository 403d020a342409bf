//! Machines whose system is set up by Ignition: from the document that the kubeadm bootstrap
//! provider writes to a Node. The guest reads what was attached as Ignition, systemd-networkd and
//! NetworkManager do.

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::Arc;

use capi_contract::{Bootstrap, Format};
use capi_testkit::guest::Image;
use parking_lot::Mutex;
use rstest::rstest;
use serde_json::{Value, json};
use tracing_subscriber::fmt::MakeWriter;

use crate::fields::outcome::{Setting, join_configuration};

const SECRET: &str = "dG9wLXNlY3JldA";

/// What the kubeadm bootstrap provider writes for a worker of the Go provider's Flatcar template:
/// the environment of the machine is handed to a script that completes kubeadm's configuration.
fn document(version: &str) -> Value {
    let is_2 = version.starts_with('2');
    let file = |path: &str, mode: u32, text: &str| {
        let source: String = text.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let mut file = json!({
            "path": path, "mode": mode, "contents": {"source": format!("data:,{source}")},
        });
        if is_2 {
            file["filesystem"] = json!("root");
        }
        file
    };
    let script = "#!/bin/bash\nset -e\nrm /etc/proxmox-env\n\
        envsubst < /etc/kubeadm.yml > /etc/kubeadm.yml.tmp\n\
        cp /etc/kubeadm.yml.tmp /etc/kubeadm.yml\n\
        kubeadm join --config /etc/kubeadm.yml\n\
        mkdir -p /run/cluster-api && echo success > /run/cluster-api/bootstrap-success.complete\n\
        mv /etc/kubeadm.yml /tmp/\n";
    let metadata = "[Unit]\nDescription=Metadata agent\nAfter=network-online.target\n[Service]\n\
        Type=oneshot\nEnvironmentFile=/etc/proxmox-env\n\
        ExecStart=/usr/bin/mkdir --parent /run/metadata\n\
        ExecStart=/bin/bash -c 'env > /run/metadata/flatcar'\n\
        [Install]\nWantedBy=multi-user.target\n";
    let kubeadm = "[Unit]\nDescription=kubeadm\nConditionPathExists=/etc/kubeadm.yml\n\
        After=network.target\n[Service]\nType=oneshot\nExecStart=/etc/kubeadm.sh\n\
        [Install]\nWantedBy=multi-user.target\n";
    let dropin = "[Unit]\nRequires=coreos-metadata.service\nAfter=coreos-metadata.service\n\
        [Service]\nEnvironmentFile=/run/metadata/flatcar\n";
    json!({
        "ignition": {"version": version},
        "passwd": {"users": [{"name": "core"}]},
        "storage": {"files": [
            file("/etc/kubeadm.yml", 0o600, &join_configuration("${COREOS_CUSTOM_INSTANCE_ID}")),
            file("/etc/kubeadm.sh", 0o700, script),
            file("/etc/secret", 0o600, SECRET),
        ]},
        "systemd": {"units": [
            {"name": "coreos-metadata.service", "contents": metadata},
            {
                "name": "kubeadm.service", "enabled": true, "contents": kubeadm,
                "dropins": [{"name": "10-flatcar.conf", "contents": dropin}],
            },
        ]},
    })
}

/// A machine with that image and document.
fn setting(image: Image, document: &Value) -> Setting {
    Setting {
        image,
        bootstrap: Bootstrap::new(Format::Ignition, document.to_string()),
        ..Setting::new()
    }
}

/// Dual stack, a second card in a VRF, and routes, rules and MTUs.
fn networked(mut setting: Setting) -> Setting {
    setting.cluster["spec"]["ipv6Config"] =
        json!({"addresses": ["fd00::10-fd00::20"], "prefix": 64, "gateway": "fd00::1"});
    let pool =
        json!([{"apiGroup": "ipam.cluster.x-k8s.io", "kind": "InClusterIPPool", "name": "red"}]);
    setting.spec()["network"] = json!({
        "networkDevices": [
            {
                "name": "net0", "bridge": "vmbr0", "defaultIPv4": true, "defaultIPv6": true,
                "linkMtu": 1400, "dnsServers": ["10.0.0.3", "fd00::3"],
                "routes": [
                    {"to": "10.9.0.0/16", "via": "10.0.0.4", "metric": 7, "table": 1000},
                    {"to": "fd09::/64", "is6": true},
                ],
                "routingPolicy": [
                    {"from": "10.0.0.0/24", "table": 1000, "priority": 99},
                    {"to": "fd09::/64", "table": 1000, "priority": 98},
                ],
            },
            {"name": "net1", "bridge": "vmbr0", "ipPoolRef": pool},
        ],
        "vrfs": [{
            "name": "vrf-red", "table": 500, "interfaces": ["net1"],
            "routes": [{"to": "10.8.0.0/16", "via": "10.5.0.3"}],
            "routingPolicy": [{"from": "10.5.0.0/16", "priority": 1}],
        }],
    });
    setting
}

/// The lines about the network, whoever says them, with the names of the cards that cloud-init
/// gives them.
fn network(outcome: &BTreeSet<String>) -> BTreeSet<String> {
    let speakers = ["guest: ", "systemd-networkd: ", "NetworkManager: "];
    let shown = ["eth", "vrf ", "route ", "rule ", "WARNING"];
    let mut lines = BTreeSet::new();
    for line in outcome {
        let line = line.replace("ens18", "eth0").replace("ens19", "eth1");
        let text = speakers.iter().fold(line.as_str(), |text, who| {
            text.strip_prefix(who).unwrap_or(text)
        });
        if shown.iter().any(|start| text.starts_with(start)) {
            lines.insert(text.to_owned());
        }
    }
    lines
}

/// Defect 14 of the Go provider: it reads version 2.3 alone.
#[rstest]
#[case::flatcar_2_3(Image::flatcar(), "2.3.0")]
#[case::flatcar_3(Image::flatcar(), "3.3.0")]
#[case::fedora_coreos(Image::fedora_coreos(), "3.5.0")]
#[tokio::test(start_paused = true)]
async fn defect_14_an_ignition_machine_becomes_a_node(#[case] image: Image, #[case] version: &str) {
    let outcome = setting(image, &document(version)).outcome().await;
    let node = "node m-0 with 10.0.0.10, provider id proxmox://UUID";
    assert!(outcome.contains(node), "{outcome:#?}");
    assert!(
        outcome.contains("guest: systemd: Hostname set to <m-0>"),
        "{outcome:#?}"
    );
    let troubles = outcome
        .iter()
        .filter(|line| line.to_lowercase().contains("warning"));
    assert_eq!(troubles.collect::<Vec<_>>(), [""; 0]);
}

/// Three readers of three formats make the same network of it.
#[rstest]
#[case::networkd_units(Image::flatcar(), "2.3.0")]
#[case::networkd_files(Image::flatcar(), "3.0.0")]
#[case::network_manager(Image::fedora_coreos(), "3.0.0")]
#[tokio::test(start_paused = true)]
async fn the_network_is_that_of_a_machine_with_cloud_init(
    #[case] image: Image,
    #[case] version: &str,
) {
    let with_cloud_init = networked(Setting::new()).outcome().await;
    let wanted = network(&with_cloud_init);
    assert_eq!(wanted.len(), 12, "{wanted:#?}");
    let outcome = networked(setting(image, &document(version)))
        .outcome()
        .await;
    let node = "node m-0 with 10.0.0.10 fd00::10 10.5.0.10, provider id proxmox://UUID";
    assert!(outcome.contains(node), "{outcome:#?}");
    // NetworkManager has the routes of a VRF with a card in it.
    let made = network(&outcome);
    let made: BTreeSet<String> = made
        .iter()
        .map(|line| line.replace("via 10.5.0.3 dev eth1", "via 10.5.0.3 dev vrf-red"))
        .collect();
    assert_eq!(made, wanted);
}

/// A template that does not read the document says so, and the VM is no Node.
#[tokio::test(start_paused = true)]
async fn a_document_for_another_system_is_noticed_by_the_guest() {
    let outcome = setting(Image::fedora_coreos(), &document("2.3.0"))
        .outcome()
        .await;
    let refusal = "guest: Ignition: error at $.ignition.version: unsupported config version; \
                   entering emergency mode";
    assert!(outcome.contains(refusal), "{outcome:#?}");
    assert!(
        !outcome.iter().any(|line| line.starts_with("node ")),
        "{outcome:#?}"
    );
    let outcome = setting(Image::default(), &document("3.0.0"))
        .outcome()
        .await;
    assert!(
        !outcome.iter().any(|line| line.starts_with("node ")),
        "{outcome:#?}"
    );
}

/// All that is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// Defect 13 of the Go provider: it logs whole documents.
#[rstest]
#[case::good(document("3.0.0"))]
#[case::unsupported(document("1.0.0"))]
#[case::malformed(json!({"ignition": {"version": "3.0.0"}, "storage": {"files": SECRET}}))]
#[tokio::test(start_paused = true)]
async fn defect_13_r15_bootstrap_data_is_not_logged(#[case] document: Value) {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_writer(log.clone())
        .finish();
    // While there is but one subscriber, an event that first happens in another test's thread,
    // which has none, is taken for one that nobody wants.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    let guard = tracing::subscriber::set_default(subscriber);
    tracing::trace!("the log works");
    let outcome = setting(Image::flatcar(), &document).outcome().await;
    drop(guard);
    let logged = String::from_utf8(log.0.lock().clone()).unwrap();
    assert!(logged.contains("the log works"));
    let shown = outcome.into_iter().collect::<Vec<_>>().join("\n");
    for secret in [SECRET, "abcdef.0123456789abcdef", "kubeadm.yml"] {
        assert!(!logged.contains(secret), "{logged}");
        assert!(!shown.contains(secret), "{shown}");
    }
}
