//! A cluster, a machine and its VM, for tests of pure code.

use std::time::Duration;

use capi_contract::view::{ClusterView, MachineView};
use capi_contract::{Address, Mark, ObjectName};
use serde_json::json;
use tokio::time::Instant;

use super::Scope;
use super::claim::{BootCheck, MachineClaim, PhaseTags, SeedPlace, TemplateRef, seed_file};
use super::observe::{Phase, Seen};
use crate::api::{ProxmoxCluster, ProxmoxMachine};
use crate::pve::{Config, Power};

pub(super) const UUID: &str = "6c3fa683-bef9-4425-b413-eaa45a9d6191";
const OWNER: &str = "0123456789abcdef0123456789abcdef";
const TOKEN: &str = "fedcba9876543210fedcba9876543210";

pub(super) fn cluster() -> ProxmoxCluster {
    serde_json::from_value(json!({
        "apiVersion": "infrastructure.cluster.x-k8s.io/v1alpha2", "kind": "ProxmoxCluster",
        "metadata": {"name": "c", "namespace": "ns"},
        "spec": {
            "controlPlaneEndpoint": {"host": "10.0.0.9", "port": 6443},
            "allowedNodes": ["a", "b"],
            "ipv4Config": {"addresses": ["10.0.0.10-10.0.0.20"], "prefix": 24, "gateway": "10.0.0.1"},
            "dnsServers": ["10.0.0.2"],
        },
    }))
    .unwrap()
}

pub(super) fn machine() -> ProxmoxMachine {
    serde_json::from_value(json!({
        "apiVersion": "infrastructure.cluster.x-k8s.io/v1alpha2", "kind": "ProxmoxMachine",
        "metadata": {"name": "m-0", "namespace": "ns"},
        "spec": {
            "sourceNode": "a", "templateID": 9000, "numCores": 4, "memoryMiB": 4096,
            "disks": {"bootVolume": {"disk": "scsi0", "sizeGb": 20}},
            "network": {"networkDevices": [{"name": "net0", "bridge": "vmbr1", "vlan": 7}]},
            "tags": ["prod"],
        },
    }))
    .unwrap()
}

pub(super) fn scope() -> Scope {
    let view: MachineView = serde_json::from_value(json!({
        "metadata": {"name": "m-0"}, "spec": {"clusterName": "c", "version": "v1.35.0"},
    }))
    .unwrap();
    let owner = OWNER.parse().unwrap();
    let mut scope = Scope::new(machine(), cluster(), view, ClusterView::default(), owner);
    scope.addresses = vec![Address {
        claim: "m-0-net0-00-inet".into(),
        device: "net0".into(),
        ip: "10.0.0.10".parse().unwrap(),
        prefix: 24,
        gateway: Some("10.0.0.1".parse().unwrap()),
    }];
    scope
}

/// The same, once it is a node.
pub(super) fn joined() -> Scope {
    let mut scope = scope();
    scope.machine.status.node_ref = serde_json::from_value(json!({"name": "m-0"})).unwrap();
    scope.object.spec.provider_id = Some(format!("proxmox://{UUID}"));
    scope
}

pub(super) fn mark() -> Mark {
    format!("capi:{OWNER}:{}:{TOKEN}", ObjectName::new("ns", "m-0"))
        .parse()
        .unwrap()
}

pub(super) fn claim() -> MachineClaim {
    let mark = mark();
    MachineClaim {
        vmid: 104,
        node: "b".into(),
        template: Some(TemplateRef {
            vmid: 9000,
            node: "a".into(),
        }),
        seed: Some(SeedPlace {
            node: "b".into(),
            storage: "local".into(),
            file: seed_file(&mark, 104),
        }),
        check: BootCheck::Sentinel,
        mark,
    }
}

/// A VM that was there before us.
pub(super) fn adopted() -> MachineClaim {
    let mark = Mark::adopted(OWNER.parse().unwrap(), ObjectName::new("ns", "m-0"), UUID);
    MachineClaim {
        template: None,
        seed: None,
        mark,
        ..claim()
    }
}

/// What a clone of the template has.
pub(super) fn cloned(more: &[(&str, &str)]) -> Config {
    let mark = mark().to_string();
    let smbios = format!("uuid={UUID}");
    let base = [
        ("boot", "order=scsi0"),
        ("cores", "2"),
        ("description", mark.as_str()),
        ("digest", "d1"),
        ("memory", "2048"),
        ("name", "m-0"),
        ("net0", "virtio=BC:24:11:00:00:01,bridge=vmbr0"),
        ("scsi0", "local-lvm:vm-104-disk-0,size=8G"),
        ("smbios1", smbios.as_str()),
    ];
    base.iter().chain(more).copied().collect()
}

/// What a configured VM has: the mark as serial number.
pub(super) fn configured(claim: &MachineClaim, more: &[(&str, &str)]) -> Config {
    use base64::Engine;
    let serial = base64::engine::general_purpose::STANDARD.encode(claim.mark.to_string());
    let smbios = format!("uuid={UUID},serial={serial},base64=1");
    let more: Vec<_> = [("smbios1", smbios.as_str()), ("protection", "1")]
        .iter()
        .chain(more)
        .copied()
        .collect();
    cloned(&more)
}

/// A configured VM with its seed.
pub(super) fn seeded() -> Config {
    let claim = claim();
    let drive = format!("{},media=cdrom", claim.seed.as_ref().unwrap().volume());
    let tags = format!("prod;{}", PhaseTags::of(&claim.mark).unwrap().seeded);
    configured(
        &claim,
        &[("ide0", &drive), ("tags", &tags), ("scsi0", "x:y,size=20G")],
    )
}

pub(super) fn seen(phase: Phase, power: Power, config: Config) -> Seen {
    Seen {
        node: "b".into(),
        phase: Some(phase),
        power,
        lock: config.lock().map(str::to_owned),
        config: Some(config),
        stored: false,
        booted: None,
        at: Instant::now() - Duration::from_millis(1),
    }
}
