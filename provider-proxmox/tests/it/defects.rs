//! What users of the Go provider met, each under the number of its issue: cloning, seeds, deletion.
//! Others stand beside the code that they are about.

use std::time::Duration;

use capi_contract::{Class, Classify, External, Health};
use provider_proxmox::machine::Machines;
use pve_sim::{Builder, CallFault, Delays, Platform, StorageSpec, TemplateSpec};

use crate::world::{Halt, Life, machine, session};

fn quick() -> Builder {
    Builder::new().delays(Delays::zero())
}

async fn settled(platform: &Platform) -> Life {
    let mut life = Life::new(platform, "m-0");
    let halt = life.run().await;
    assert!(matches!(halt, Halt::Settled), "{halt:?}");
    life
}

/// Proxmox VE refuses to clone disks of one node to another. The message says what to change, and
/// nothing is left behind.
#[tokio::test(start_paused = true)]
async fn defect_107_a_clone_that_local_disks_forbid_says_what_to_change() {
    let template = TemplateSpec::new(9001, "pve1", "local").storage("local-lvm");
    let platform = quick().template(template).build();
    let mut life = Life::new(&platform, "m-0");
    life.strict = true;
    life.scope.object.spec.template_id = Some(9001);
    life.scope.object.spec.target = Some("pve2".into());
    let Halt::Error(error) = life.run().await else {
        panic!("no error");
    };
    assert_eq!(error.class(), Class::Misconfigured);
    let message = error.to_string();
    for part in ["VM uses local storage", "allowedNodes"] {
        assert!(message.contains(part), "{part} is missing: {message}");
    }
    assert_eq!(platform.vms_left(), []);
    life.scope.object.spec.target = Some("pve1".into());
    life.claim = None;
    assert!(matches!(life.run().await, Halt::Settled));
}

/// Templates on local disks, a copy on each node: machines are spread over the nodes, each cloned
/// from the copy beside it.
#[tokio::test(start_paused = true)]
async fn defect_451_machines_are_cloned_from_the_copy_on_their_node() {
    let copy = |vmid, node: &str| {
        let template = TemplateSpec::new(vmid, node, "golden").tags("golden");
        template.storage("local-lvm")
    };
    let platform = quick()
        .template(copy(9001, "pve1"))
        .template(copy(9002, "pve2"))
        .build();
    let on = session(&platform);
    let mut pairs = Vec::new();
    for name in ["md-x-0", "md-x-1", "md-x-2"] {
        let mut object = machine(name);
        let spec = &mut object.spec;
        (spec.source_node, spec.template_id) = (None, None);
        let selector = serde_json::json!({"matchTags": ["golden"]});
        spec.template_selector = serde_json::from_value(selector).unwrap();
        let mut life = Life::with(session(&platform), object);
        let claim = Machines.claim(&on, &life.scope, None).await.unwrap();
        pairs.push((claim.node.clone(), claim.template.as_ref().unwrap().vmid));
        life.claim = Some(claim);
        assert!(matches!(life.run().await, Halt::Settled));
    }
    pairs.sort();
    let (first, second) = (("pve1".to_owned(), 9001), ("pve2".to_owned(), 9002));
    assert!(
        pairs == [first.clone(), first.clone(), second.clone()]
            || pairs == [first, second.clone(), second]
    );
}

/// The seed is stored where the VM is, also if the template is elsewhere; and of several storages
/// always the same is taken (#782).
#[tokio::test(start_paused = true)]
async fn defect_569_and_782_the_seed_is_stored_on_the_node_of_the_vm() {
    let platform = quick()
        .storage(StorageSpec::shared("shared").content(&["images"]))
        .storage(StorageSpec::directory("zz-isos"))
        .build();
    for _ in 0..4 {
        let mut life = Life::new(&platform, "m-0");
        life.scope.object.spec.target = Some("pve3".into());
        assert!(matches!(life.run().await, Halt::Settled));
        let isos = platform.isos_left();
        assert_eq!(isos.len(), 1);
        assert!(isos[0].volid.starts_with("local:iso/"), "{}", isos[0].volid);
        assert_eq!(isos[0].node, "pve3");
        life.deleting = true;
        assert!(matches!(life.run().await, Halt::Gone));
        tokio::time::sleep(Duration::from_secs(30)).await;
    }
}

/// A boot order of the old form is left as it is.
#[tokio::test(start_paused = true)]
async fn defect_225_a_boot_order_of_the_old_form_does_no_harm() {
    let template = TemplateSpec::new(9001, "pve1", "old").set("boot", "c");
    let platform = quick().template(template.set("bootdisk", "scsi0")).build();
    let mut life = Life::new(&platform, "m-0");
    life.scope.object.spec.template_id = Some(9001);
    assert!(matches!(life.run().await, Halt::Settled));
    let vm = platform.vm(life.vmid()).unwrap();
    assert!(vm.running);
    assert_eq!(vm.config["boot"], "c");
}

/// An answer that cannot be read is no proof of anything: the VM is still there, and goes at last.
#[tokio::test(start_paused = true)]
async fn defect_265_an_error_without_words_is_not_taken_for_gone() {
    let platform = quick().build();
    let mut life = settled(&platform).await;
    for (method, route) in [
        ("DELETE", "/nodes/{node}/qemu/{vmid}"),
        ("GET", "/cluster/nextid"),
    ] {
        let (status, message) = (500, String::new());
        let fault = CallFault::Refuse { status, message };
        platform.faults().call(method, route, fault);
    }
    life.deleting = true;
    assert!(matches!(life.run().await, Halt::Gone));
    assert_eq!(platform.vms_left(), []);
    assert_eq!(platform.isos_left(), []);
}

/// An agent that is slow, or not installed at all, holds back `Ready` and nothing else; it is asked
/// again for as long as it takes.
#[tokio::test(start_paused = true)]
async fn defect_506_a_silent_agent_holds_back_nothing_but_ready() {
    let template = TemplateSpec::new(9001, "pve1", "bare").unset("agent");
    let platform = quick().template(template).build();
    let mut life = Life::new(&platform, "m-0");
    life.scope.object.spec.template_id = Some(9001);
    life.scope.object.spec.checks = None;
    assert!(matches!(life.run().await, Halt::Settled));
    let facts = life.facts();
    assert!(facts.running && facts.provider_id.is_some() && !facts.addresses.is_empty());
    assert!(matches!(
        facts.health,
        Health::Held {
            reason: "WaitingForCloudInit",
            ..
        }
    ));
    // A machine that has become a node has booted.
    life.joined();
    assert!(matches!(life.run().await, Halt::Settled));
    assert_eq!(life.facts().health, Health::Good);
}

/// One client for all, and nobody asks for the version.
#[tokio::test(start_paused = true)]
async fn defect_a_client_is_not_made_anew_for_every_look() {
    let platform = quick().build();
    settled(&platform).await;
    let audit = platform.audit();
    let asked = audit
        .records()
        .iter()
        .any(|record| record.path.ends_with("/version"));
    assert!(!asked);
}
