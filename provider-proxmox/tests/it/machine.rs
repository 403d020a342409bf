//! A machine against the simulated Proxmox VE.

use std::time::Duration;

use capi_contract::{AddressType, Class, Classify, Depth, External, Health, Lookup, Proof};
use provider_proxmox::machine::{Machines, Phase};
use pve_sim::{Builder, CallFault, Delays, Platform, TaskFault};
use tokio::time::Instant;

use crate::world::{Halt, Life, session};

const WAY: [&str; 5] = [
    "Cloning",
    "WaitingForDiskReconciliation",
    "WaitingForBootstrapDataReconciliation",
    "Configuring",
    "PoweringOn",
];

fn quick() -> Platform {
    Builder::new().delays(Delays::zero()).build()
}

async fn settled(platform: &Platform) -> Life {
    let mut life = Life::new(platform, "m-0");
    let halt = life.run().await;
    assert!(matches!(halt, Halt::Settled), "{halt:?}");
    life
}

async fn joined(platform: &Platform) -> Life {
    let mut life = settled(platform).await;
    life.joined();
    let halt = life.run().await;
    assert!(matches!(halt, Halt::Settled), "{halt:?}");
    life
}

async fn deleted(life: &mut Life) {
    life.deleting = true;
    let halt = life.run().await;
    assert!(matches!(halt, Halt::Gone), "{halt:?}");
}

fn clean(platform: &Platform) {
    assert_eq!(platform.vms_left(), []);
    assert_eq!(platform.isos_left(), []);
    assert_eq!(platform.disks_left(), []);
    assert_eq!(platform.twins(), []);
    assert_eq!(platform.strangers_touched(), []);
}

#[tokio::test(start_paused = true)]
async fn im_27_a_machine_comes_up_joins_and_goes_without_a_trace() {
    for platform in [quick(), Builder::new().build()] {
        let mut life = settled(&platform).await;
        assert_eq!(life.steps, WAY);
        let vm = platform.vm(life.vmid()).unwrap();
        assert!(vm.running);
        assert_eq!(vm.config["cores"], "4");
        assert_eq!(vm.config["memory"], "4096");
        assert!(vm.config["scsi0"].contains("size=20G"), "{:?}", vm.config);
        assert_eq!(platform.isos_left().len(), 1);

        life.joined();
        life.steps.clear();
        assert!(matches!(life.run().await, Halt::Settled));
        assert_eq!(life.steps, ["DetachingSeed", "RemovingSeed", "Sealing"]);
        assert_eq!(platform.isos_left(), []);

        life.steps.clear();
        deleted(&mut life).await;
        assert_eq!(life.steps, ["Unprotecting", "PoweringOff", "Destroying"]);
        clean(&platform);
    }
}

#[tokio::test(start_paused = true)]
async fn facts_say_what_kubernetes_needs() {
    let platform = quick();
    let life = settled(&platform).await;
    let facts = life.facts();
    let uuid = platform
        .vm(life.vmid())
        .unwrap()
        .uuid()
        .unwrap()
        .to_lowercase();
    assert_eq!(facts.provider_id.unwrap(), format!("proxmox://{uuid}"));
    assert!(facts.running);
    let addresses: Vec<_> = facts
        .addresses
        .iter()
        .map(|address| (address.kind, address.address.as_str()))
        .collect();
    assert_eq!(
        addresses,
        [
            (AddressType::Hostname, "m-0"),
            (AddressType::InternalIP, "10.0.0.10")
        ]
    );
    assert_eq!(facts.spec["virtualMachineID"], life.vmid());
    let own = serde_json::to_value(&facts.own).unwrap();
    assert_eq!(own["vmStatus"], "ready");
    assert_eq!(own["bootstrapDataProvided"], true);
    assert_eq!(own["proxmoxNode"], life.claim.as_ref().unwrap().node);
    assert_eq!(own["ipAddresses"][0]["net"], "default");
    assert_eq!(own["ipAddresses"][1]["ipv4"][0], "10.0.0.10");
    assert_eq!(facts.health, Health::Good);
}

/// What counts: calls that name the machine. The limit for a whole life is 30; the last look of
/// each stretch is not needed when the listing is asked instead.
#[tokio::test(start_paused = true)]
async fn a_life_needs_few_calls() {
    for platform in [quick(), Builder::new().build()] {
        let calls = |platform: &Platform, vmid: u32| {
            platform
                .audit()
                .calls_per_vm()
                .get(&vmid)
                .copied()
                .unwrap_or_default()
        };
        let mut life = settled(&platform).await;
        let up = calls(&platform, life.vmid());
        life.joined();
        assert!(matches!(life.run().await, Halt::Settled));
        let join = calls(&platform, life.vmid()) - up;
        deleted(&mut life).await;
        let all = calls(&platform, life.vmid());
        println!("calls: up {up}, join {join}, delete {}", all - up - join);
        assert!(up <= 16 && all <= 30, "up {up}, join {join}, all {all}");
        let polls = platform.audit();
        for (path, most) in polls.shared_polls(Duration::from_secs(5)) {
            assert!(most <= 1 || !path.starts_with("/cluster"), "{path}: {most}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_settled_machine_costs_one_shared_call() {
    let platform = quick();
    let mut life = joined(&platform).await;
    life.restart(&platform);
    tokio::time::sleep(Duration::from_secs(30)).await;
    platform.clear_audit();
    let claim = life.claim.clone().unwrap();
    for _ in 0..100 {
        let seen = Machines
            .observe(&life.on, &claim, Depth::Listing)
            .await
            .unwrap();
        assert!(matches!(seen, Lookup::Ours(seen) if seen.config.is_none()));
    }
    assert_eq!(platform.audit().total(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_vm_destroyed_by_hand_is_absent_only_by_the_backends_word() {
    let platform = quick();
    let life = joined(&platform).await;
    let claim = life.claim.clone().unwrap();
    platform.destroy_behind_back(claim.vmid);
    tokio::time::sleep(Duration::from_secs(6)).await;
    platform.clear_audit();
    let look = async |depth| Machines.observe(&life.on, &claim, depth).await.unwrap();
    let glance = look(Depth::Listing).await;
    assert!(matches!(glance, Lookup::Unsettled(_)), "{glance:?}");
    assert_eq!(platform.audit().total(), 1, "the listing, and nothing else");
    assert_eq!(look(Depth::Thing).await, Lookup::Absent);
}

/// The listing is up to 5 s old: right after a change, what was read of the VM itself is younger.
#[tokio::test(start_paused = true)]
async fn a_look_at_the_thing_stands_until_the_listing_is_younger() {
    let platform = quick();
    let mut life = joined(&platform).await;
    let claim = life.claim.clone().unwrap();
    let vmid = claim.vmid;
    let calls = || platform.audit().calls_per_vm().get(&vmid).copied();
    let before = calls();
    let glance = async |life: &Life| {
        let seen = Machines.observe(&life.on, &claim, Depth::Listing).await;
        match seen.unwrap() {
            Lookup::Ours(seen) => seen.phase,
            other => panic!("not ours: {other:?}"),
        }
    };
    assert_eq!(glance(&life).await, Some(Phase::Sealed));
    assert_eq!(
        calls(),
        before,
        "the listing shows the old tags, and nobody asked"
    );
    // Another process knows only what the listing says, which then shows all.
    life.restart(&platform);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(glance(&life).await, Some(Phase::Sealed));
    assert_eq!(calls(), before);
    // An old look says nothing.
    tokio::time::sleep(Duration::from_secs(30)).await;
    platform.edit_behind_back(vmid, "tags", None);
    let seen = Machines.observe(&life.on, &claim, Depth::Listing).await;
    assert!(matches!(seen.unwrap(), Lookup::Unsettled(_)));
}

/// Defect 17: a clone that fails leaves nothing to wait for; the next one succeeds.
#[tokio::test(start_paused = true)]
async fn defect_389_a_failed_clone_is_made_again() {
    let platform = quick();
    let fault = TaskFault::Fail("can't lock file '/run/pve-storage-shared' - got timeout".into());
    platform.faults().task("qmclone", fault);
    let life = settled(&platform).await;
    assert_eq!(life.steps[..3], ["Cloning", "Cloning", WAY[1]]);
    assert_eq!(platform.vms_left().len(), 1);
}

/// Defect 6: a task that ends with warnings has ended well.
#[tokio::test(start_paused = true)]
async fn defect_warnings_are_no_failure() {
    let platform = Builder::new().build();
    for kind in ["qmclone", "qmstart", "imgcopy", "resize"] {
        platform.faults().task(kind, TaskFault::Warn(1));
    }
    assert_eq!(settled(&platform).await.steps, WAY);
}

/// Defect 8: slow storage is waited for.
#[tokio::test(start_paused = true)]
async fn defect_slow_uploads_and_changes_are_waited_for() {
    let mut delays = Delays::realistic();
    delays.upload = Duration::from_secs(40);
    delays.config = Duration::from_secs(20);
    let platform = Builder::new().delays(delays).build();
    let mut life = settled(&platform).await;
    assert_eq!(life.steps, WAY);
    deleted(&mut life).await;
    clean(&platform);
}

/// Defect #842: two processes choose the same VMID; the loser chooses another.
#[tokio::test(start_paused = true)]
async fn defect_842_a_vmid_that_was_taken_meanwhile_is_given_up() {
    let platform = quick();
    let mut life = Life::new(&platform, "m-0");
    let chosen = Machines.claim(&life.on, &life.scope, None).await.unwrap();
    life.claim = Some(chosen.clone());
    assert!(platform.stranger(chosen.vmid, "pve1", "database"));
    let halt = life.run().await;
    assert!(matches!(halt, Halt::Settled), "{halt:?}");
    assert_ne!(life.vmid(), chosen.vmid);
    assert_eq!(life.steps[..2], ["Cloning", "Cloning"]);
    deleted(&mut life).await;
    assert_eq!(platform.strangers_touched(), []);
    assert!(platform.vm(chosen.vmid).unwrap().running);
}

#[tokio::test(start_paused = true)]
async fn r5_a_stranger_at_our_vmid_is_foreign_and_is_not_touched() {
    let platform = quick();
    let mut life = joined(&platform).await;
    let vmid = life.vmid();
    platform.destroy_behind_back(vmid);
    assert!(platform.stranger(vmid, "pve2", "m-0"));
    tokio::time::sleep(Duration::from_secs(30)).await;
    life.deleting = true;
    let halt = life.run().await;
    assert!(
        matches!(&halt, Halt::Foreign(text) if text.contains("m-0")),
        "{halt:?}"
    );
    assert_eq!(platform.strangers_touched(), []);
}

#[tokio::test(start_paused = true)]
async fn r11_a_seed_whose_vm_is_gone_is_removed() {
    let platform = quick();
    let mut life = Life::new(&platform, "m-0");
    life.pass().await.unwrap();
    life.until("Configuring").await;
    assert_eq!(platform.isos_left().len(), 1);
    platform.destroy_behind_back(life.vmid());
    platform.stranger(life.vmid(), "pve1", "database");
    tokio::time::sleep(Duration::from_secs(10)).await;
    life.deleting = true;
    assert!(matches!(life.run().await, Halt::Foreign(_)));
    assert_eq!(platform.isos_left(), []);
    assert_eq!(platform.strangers_touched(), []);
}

/// Defects 3 and 4: a VM is found on the node where it is, not where it was made.
#[tokio::test(start_paused = true)]
async fn defect_a_vm_that_moved_is_found_and_removed() {
    let platform = quick();
    let mut life = joined(&platform).await;
    let target = ["pve1", "pve2", "pve3"]
        .into_iter()
        .find(|node| *node != life.claim.as_ref().unwrap().node)
        .unwrap();
    platform.migrate_behind_back(life.vmid(), target);
    deleted(&mut life).await;
    clean(&platform);
}

#[tokio::test(start_paused = true)]
async fn a_machine_on_a_silent_node_is_neither_gone_nor_lost() {
    let platform = quick();
    let life = joined(&platform).await;
    let claim = life.claim.clone().unwrap();
    platform.power_off_node(&claim.node);
    tokio::time::sleep(Duration::from_secs(30)).await;
    let seen = Machines
        .observe(&life.on, &claim, Depth::Thing)
        .await
        .unwrap();
    assert!(
        matches!(&seen, Lookup::Unsettled(waiting) if waiting.message.contains(&claim.node)),
        "{seen:?}"
    );
    platform.restore_node(&claim.node);
    tokio::time::sleep(Duration::from_secs(30)).await;
    let seen = Machines
        .observe(&life.on, &claim, Depth::Thing)
        .await
        .unwrap();
    assert!(matches!(seen, Lookup::Ours(_)));
}

/// Defects #216, #212, #563: a VM under high availability can be removed.
#[tokio::test(start_paused = true)]
async fn defect_216_a_vm_under_high_availability_goes() {
    let platform = quick();
    let mut life = joined(&platform).await;
    platform.manage_by_ha(life.vmid());
    deleted(&mut life).await;
    clean(&platform);
}

/// Defect #742: a destroy that fails is not taken for done.
#[tokio::test(start_paused = true)]
async fn defect_742_a_failed_destroy_is_repeated() {
    let platform = Builder::new().build();
    let mut life = joined(&platform).await;
    let fault = TaskFault::Fail("lvremove failed".into());
    platform.faults().task("qmdestroy", fault);
    life.steps.clear();
    deleted(&mut life).await;
    assert_eq!(
        life.steps
            .iter()
            .filter(|step| **step == "Destroying")
            .count(),
        2
    );
    clean(&platform);
}

/// A start that reports failure although the VM runs is not repeated.
#[tokio::test(start_paused = true)]
async fn a_start_whose_answer_is_lost_is_not_repeated() {
    let platform = quick();
    platform.faults().call(
        "POST",
        "/nodes/{node}/qemu/{vmid}/status/start",
        CallFault::LostAfter,
    );
    let life = settled(&platform).await;
    assert!(platform.vm(life.vmid()).unwrap().running);
    let starts = life
        .steps
        .iter()
        .filter(|step| **step == "PoweringOn")
        .count();
    assert_eq!(starts, 1, "{:?}", life.steps);
}

#[tokio::test(start_paused = true)]
async fn a_digest_conflict_leads_to_a_new_look() {
    let platform = quick();
    let mut life = Life::new(&platform, "m-0");
    life.pass().await.unwrap();
    life.until("Configuring").await;
    let claim = life.claim.clone().unwrap();
    let Lookup::Ours(seen) = Machines
        .observe(&life.on, &claim, Depth::Thing)
        .await
        .unwrap()
    else {
        panic!("not ours");
    };
    let capi_contract::Plan::Apply(step) = Machines.plan(&life.scope, &claim, Some(&seen)) else {
        panic!("no step");
    };
    platform.edit_behind_back(claim.vmid, "onboot", Some("1"));
    let error = Machines
        .apply(&life.on, &claim, &step, capi_contract::Supply::default())
        .await
        .unwrap_err();
    assert_eq!(error.class(), Class::Conflict);
    assert!(matches!(life.run().await, Halt::Settled));
    assert_eq!(platform.vm(claim.vmid).unwrap().config["onboot"], "1");
}

#[tokio::test(start_paused = true)]
async fn an_old_look_starts_and_destroys_nothing() {
    let platform = quick();
    let mut life = Life::new(&platform, "m-0");
    life.pass().await.unwrap();
    life.until("PoweringOn").await;
    let claim = life.claim.clone().unwrap();
    let Lookup::Ours(seen) = Machines
        .observe(&life.on, &claim, Depth::Thing)
        .await
        .unwrap()
    else {
        panic!("not ours");
    };
    let capi_contract::Plan::Apply(step) = Machines.plan(&life.scope, &claim, Some(&seen)) else {
        panic!("no step");
    };
    tokio::time::sleep(Duration::from_secs(6)).await;
    let supply = capi_contract::Supply::default();
    let error = Machines
        .apply(&life.on, &claim, &step, supply)
        .await
        .unwrap_err();
    assert_eq!(error.class(), Class::Conflict);
    assert!(!platform.vm(claim.vmid).unwrap().running);
}

#[tokio::test(start_paused = true)]
async fn every_restart_on_the_way_ends_well() {
    let mut lives = 0;
    for cut in 0..40 {
        let platform = Builder::new().build();
        let mut life = Life::new(&platform, "m-0");
        for _ in 0..cut {
            if let Ok(Some(Halt::Settled)) = life.pass().await {
                break;
            }
        }
        life.restart(&platform);
        // Nobody remembers the task, either.
        if cut % 2 == 0 {
            life.operation = None;
            platform.forget_tasks();
        }
        tokio::time::sleep(Duration::from_secs(90)).await;
        assert!(matches!(life.run().await, Halt::Settled), "cut {cut}");
        life.joined();
        assert!(matches!(life.run().await, Halt::Settled), "cut {cut}");
        life.restart(&platform);
        deleted(&mut life).await;
        clean(&platform);
        lives += 1;
    }
    assert_eq!(lives, 40);
}

#[tokio::test(start_paused = true)]
async fn a_lost_ledger_is_found_again_by_mark() {
    let platform = quick();
    let mut life = joined(&platform).await;
    let claim = life.claim.take().unwrap();
    life.on = session(&platform);
    let found = life.recover().await.unwrap().unwrap();
    assert_eq!((found.vmid, &found.mark), (claim.vmid, &claim.mark));
    life.claim = Some(found);
    deleted(&mut life).await;
    clean(&platform);
}

/// Named alike is not ours: neither another cluster's machine nor a stranger.
#[tokio::test(start_paused = true)]
async fn r5_a_name_alone_proves_nothing() {
    let platform = quick();
    let _other = joined(&platform).await;
    platform.stranger(500, "pve1", "m-0");
    let same_name = Life::new(&platform, "m-0");
    assert_eq!(same_name.recover().await.unwrap(), None);
}

/// A VM of the Go provider bears no mark; its uuid is in the provider id.
#[tokio::test(start_paused = true)]
async fn a_machine_of_the_go_provider_is_taken_over_untouched() {
    let platform = quick();
    platform.stranger(500, "pve2", "m-0");
    platform.set_stranger(500, false);
    let before = platform.vm(500).unwrap();
    let mut life = Life::new(&platform, "m-0");
    let uuid = before.uuid().unwrap().to_lowercase();
    life.scope.object.spec.provider_id = Some(format!("proxmox://{uuid}"));
    life.scope.object.spec.virtual_machine_id = Some(500);
    assert!(matches!(life.run().await, Halt::Settled));
    let claim = life.claim.clone().unwrap();
    assert_eq!(claim.mark.proof, Proof::Adopted { id: uuid.clone() });
    assert_eq!(platform.vm(500).unwrap().config, before.config);
    assert_eq!(platform.audit().mutations().count(), 0);
    assert_eq!(life.facts().provider_id, life.scope.object.spec.provider_id);
    deleted(&mut life).await;
    clean(&platform);
}

#[tokio::test(start_paused = true)]
async fn machines_of_one_set_are_spread_and_get_numbers_of_their_own() {
    let platform = quick();
    let on = session(&platform);
    let mut nodes = Vec::new();
    let mut numbers = std::collections::BTreeSet::new();
    for at in 0..6 {
        let life = Life::with(
            session(&platform),
            crate::world::machine(&format!("md-x-{at}")),
        );
        let claim = Machines.claim(&on, &life.scope, None).await.unwrap();
        nodes.push(claim.node);
        numbers.insert(claim.vmid);
    }
    nodes.sort();
    assert_eq!(nodes, ["pve1", "pve1", "pve2", "pve2", "pve3", "pve3"]);
    assert_eq!(numbers.len(), 6);
}

/// With tasks that end at once, nothing waits for a poll.
#[tokio::test(start_paused = true)]
async fn time_is_not_governed_by_polling() {
    let platform = quick();
    let start = Instant::now();
    let mut life = settled(&platform).await;
    life.joined();
    life.run().await;
    deleted(&mut life).await;
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "{:?}",
        start.elapsed()
    );
}
