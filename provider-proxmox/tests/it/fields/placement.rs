//! What a machine is cloned from, where it is put, and how large it is.

use pve_sim::TemplateSpec;
use serde_json::json;

use super::fields;
use super::outcome::{Setting, effect, effect_on};

fields! {
    /// The VM is a clone of this template.
    "ProxmoxMachine.spec.sourceNode", "ProxmoxMachine.spec.templateID" => template_id;
    /// The VM is a clone of the template with these tags.
    "ProxmoxMachine.spec.templateSelector.matchTags[]" => match_tags;
    /// A template with more tags than these is taken, too.
    "ProxmoxMachine.spec.templateSelector.matchPolicy" => match_policy;
    /// The notes of the VM hold this text.
    "ProxmoxMachine.spec.description" => description;
    /// The disks of the VM have this format.
    "ProxmoxMachine.spec.format" => format;
    /// The disks of the VM are linked to those of the template.
    "ProxmoxMachine.spec.full" => full;
    /// The VM is in this resource pool.
    "ProxmoxMachine.spec.pool" => pool;
    /// The VM is a clone of this snapshot.
    "ProxmoxMachine.spec.snapName" => snap_name;
    /// The disks of the VM are on this storage.
    "ProxmoxMachine.spec.storage" => storage;
    /// The VM is on this node.
    "ProxmoxMachine.spec.target" => target;
    /// The VM is on one of these nodes, whatever the cluster allows.
    "ProxmoxMachine.spec.allowedNodes[]" => allowed_nodes_of_the_machine;
    /// The VM has so many CPU sockets.
    "ProxmoxMachine.spec.numSockets" => num_sockets;
    /// The VM has so many cores per socket.
    "ProxmoxMachine.spec.numCores" => num_cores;
    /// The VM has so much memory.
    "ProxmoxMachine.spec.memoryMiB" => memory_mib;
    /// This disk is grown; one that the template lacks is told in the condition.
    "ProxmoxMachine.spec.disks.bootVolume.disk" => boot_volume_disk;
    /// The disk is grown to this size.
    "ProxmoxMachine.spec.disks.bootVolume.sizeGb" => boot_volume_size;
    /// The VMID is this one or the next that is free.
    "ProxmoxMachine.spec.vmIDRange.start" => vmid_range_start;
    /// Where no VMID up to this one is free, the condition says so.
    "ProxmoxMachine.spec.vmIDRange.end" => vmid_range_end;
    /// The VM has these tags, beside those of its template.
    "ProxmoxMachine.spec.tags[]" => tags;
    /// Machines that do not say more are placed on one of these nodes.
    "ProxmoxCluster.spec.allowedNodes[]" => allowed_nodes_of_the_cluster;
    /// Nodes are passed over of whose memory more than this percentage would be promised.
    "ProxmoxCluster.spec.schedulerHints.memoryAdjustment" => memory_adjustment;
    /// Nodes are passed over of whose CPU threads more than this percentage would be promised.
    "ProxmoxCluster.spec.schedulerHints.cpuAdjustment" => cpu_adjustment;
}

/// Another template, on the second node.
fn second_template(setting: &mut Setting, template: TemplateSpec) {
    setting.platform = setting.platform.clone().template(template);
}

fn tagged(tags: &str) -> impl Fn(&mut Setting) {
    let tags = tags.to_owned();
    move |setting| {
        let template = TemplateSpec::new(9001, "pve2", "second").tags(&tags);
        second_template(setting, template);
    }
}

fn select(setting: &mut Setting, selector: serde_json::Value) {
    let spec = setting.spec().as_object_mut().unwrap();
    spec.remove("sourceNode");
    spec.remove("templateID");
    spec.insert("templateSelector".into(), selector);
}

/// The lines that matter of an effect that changes everything.
fn says(effect: &[String], lines: &[&str]) {
    for line in lines {
        let is_there = effect.iter().any(|found| found.starts_with(line));
        assert!(is_there, "{line} is not among {effect:#?}");
    }
}

async fn template_id() {
    let effect = effect_on(tagged("special"), |setting| {
        setting.spec()["sourceNode"] = json!("pve2");
        setting.spec()["templateID"] = json!(9001);
    })
    .await;
    assert_eq!(
        effect,
        [
            "- tags: capi-seeded-TOKEN;kube-v1.36.0;template;ubuntu-2404",
            "+ tags: capi-seeded-TOKEN;special"
        ]
    );
}

async fn match_tags() {
    let effect = effect_on(tagged("special"), |setting| {
        select(setting, json!({"matchTags": ["special"]}));
    })
    .await;
    assert_eq!(
        effect,
        [
            "- tags: capi-seeded-TOKEN;kube-v1.36.0;template;ubuntu-2404",
            "+ tags: capi-seeded-TOKEN;special"
        ]
    );
}

async fn match_policy() {
    for policy in ["uniqueSubset", "bestSubset"] {
        let base = |setting: &mut Setting| {
            tagged("special;more")(setting);
            select(setting, json!({"matchTags": ["special"]}));
        };
        let effect = effect_on(base, |setting| {
            setting.spec()["templateSelector"]["matchPolicy"] = json!(policy);
        })
        .await;
        says(
            &effect,
            &[
                "- error: cannot find a template with tags special (policy exact): none matches",
                "+ tags: capi-seeded-TOKEN;more;special",
            ],
        );
    }
}

async fn description() {
    let effect = effect(|setting| setting.spec()["description"] = json!("call Ada")).await;
    assert_eq!(effect, ["+ description: ", "+ description: call Ada"]);
}

async fn format() {
    let effect = effect(|setting| setting.spec()["format"] = json!("raw")).await;
    assert_eq!(
        effect,
        [
            "- scsi0: shared:100/vm-100-disk-0.qcow2,size=20G",
            "+ scsi0: shared:100/vm-100-disk-0.raw,size=20G"
        ]
    );
}

async fn full() {
    let effect = effect(|setting| setting.spec()["full"] = json!(false)).await;
    assert_eq!(
        effect,
        [
            "- scsi0: shared:100/vm-100-disk-0.qcow2,size=20G",
            "+ scsi0: shared:9000/base-9000-disk-0.qcow2/100/vm-100-disk-0.qcow2,size=20G"
        ]
    );
}

async fn pool() {
    let effect = effect(|setting| setting.spec()["pool"] = json!("capi")).await;
    assert_eq!(effect, ["+ vm in pool capi"]);
}

async fn snap_name() {
    let base = |setting: &mut Setting| {
        let vm = TemplateSpec::new(9001, "pve1", "golden").machine();
        second_template(setting, vm.snapshot("tested", &[("onboot", "1")]));
        setting.spec()["templateID"] = json!(9001);
    };
    let effect = effect_on(base, |setting| {
        setting.spec()["snapName"] = json!("tested");
    })
    .await;
    assert_eq!(effect, ["+ onboot: 1"]);
}

async fn storage() {
    let base = |setting: &mut Setting| setting.spec()["target"] = json!("pve1");
    let effect = effect_on(base, |setting| {
        setting.spec()["storage"] = json!("local-lvm");
    })
    .await;
    assert_eq!(
        effect,
        [
            "- scsi0: shared:100/vm-100-disk-0.qcow2,size=20G",
            "+ scsi0: local-lvm:vm-100-disk-0,size=20G"
        ]
    );
}

async fn target() {
    let effect = effect(|setting| setting.spec()["target"] = json!("pve3")).await;
    assert_eq!(
        effect,
        [
            "- status.proxmoxNode: \"pve1\"",
            "- vm 100 on pve1",
            "+ status.proxmoxNode: \"pve3\"",
            "+ vm 100 on pve3"
        ]
    );
}

async fn allowed_nodes_of_the_machine() {
    let effect = effect(|setting| setting.spec()["allowedNodes"] = json!(["pve3"])).await;
    assert_eq!(
        effect,
        [
            "- status.proxmoxNode: \"pve1\"",
            "- vm 100 on pve1",
            "+ status.proxmoxNode: \"pve3\"",
            "+ vm 100 on pve3"
        ]
    );
}

async fn num_sockets() {
    let effect = effect(|setting| setting.spec()["numSockets"] = json!(2)).await;
    assert_eq!(effect, ["- sockets: 1", "+ sockets: 2"]);
}

async fn num_cores() {
    let effect = effect(|setting| setting.spec()["numCores"] = json!(6)).await;
    assert_eq!(effect, ["- cores: 4", "+ cores: 6"]);
}

async fn memory_mib() {
    let effect = effect(|setting| setting.spec()["memoryMiB"] = json!(8192)).await;
    assert_eq!(effect, ["- memory: 4096", "+ memory: 8192"]);
}

async fn boot_volume_disk() {
    let effect = effect(|setting| {
        setting.spec()["disks"]["bootVolume"]["disk"] = json!("virtio0");
    })
    .await;
    says(
        &effect,
        &[
            "+ waits: Misconfigured: the template has no disk virtio0; correct spec.disks.bootVolume.disk",
        ],
    );
}

async fn boot_volume_size() {
    let effect = effect(|setting| {
        setting.spec()["disks"]["bootVolume"]["sizeGb"] = json!(30);
    })
    .await;
    assert_eq!(
        effect,
        [
            "- scsi0: shared:100/vm-100-disk-0.qcow2,size=20G",
            "+ scsi0: shared:100/vm-100-disk-0.qcow2,size=30G"
        ]
    );
}

async fn vmid_range_start() {
    let range = |start| {
        move |setting: &mut Setting| {
            setting.spec()["vmIDRange"] = json!({"start": start, "end": 300});
        }
    };
    let effect = effect_on(range(100), range(200)).await;
    says(&effect, &["- vm 100 on pve1", "+ vm 200 on pve1"]);
}

async fn vmid_range_end() {
    let range = |end| {
        move |setting: &mut Setting| {
            setting.spec()["vmIDRange"] = json!({"start": 9000, "end": end});
        }
    };
    let effect = effect_on(range(9001), range(9000)).await;
    says(
        &effect,
        &[
            "- vm 9001 on pve1",
            "+ error: cannot choose a VMID from 9000 to 9000: all are taken",
        ],
    );
}

async fn tags() {
    let effect = effect(|setting| setting.spec()["tags"] = json!(["prod", "Blue"])).await;
    assert_eq!(
        effect,
        [
            "- tags: capi-seeded-TOKEN;kube-v1.36.0;template;ubuntu-2404",
            "+ tags: blue;capi-seeded-TOKEN;kube-v1.36.0;prod;template;ubuntu-2404"
        ]
    );
}

async fn allowed_nodes_of_the_cluster() {
    let effect = effect(|setting| {
        setting.cluster["spec"]["allowedNodes"] = json!(["pve2"]);
    })
    .await;
    assert_eq!(
        effect,
        [
            "- status.proxmoxNode: \"pve1\"",
            "- vm 100 on pve1",
            "+ status.proxmoxNode: \"pve2\"",
            "+ vm 100 on pve2"
        ]
    );
}

async fn memory_adjustment() {
    let effect = effect(|setting| {
        setting.cluster["spec"]["schedulerHints"] = json!({"memoryAdjustment": 1});
    })
    .await;
    says(
        &effect,
        &[
            "+ error: cannot place a machine with 4096 MiB and 4 CPUs: no allowed node can take it (pve1 has 655 MiB to promise",
        ],
    );
}

async fn cpu_adjustment() {
    let effect = effect(|setting| {
        setting.cluster["spec"]["schedulerHints"] = json!({"cpuAdjustment": 1});
    })
    .await;
    says(
        &effect,
        &[
            "+ error: cannot place a machine with 4096 MiB and 4 CPUs: no allowed node can take it (pve1 has 0 CPUs to promise",
        ],
    );
}
