//! DataVolumes: what fills them, what they wait for, what stays on them.

use serde_json::{Value, json};

use crate::world::{IDLE, World, builder, condition, machine, secret};
use kubevirt_sim::GoldenSpec;

/// A machine whose root disk comes from a template of this spec.
fn with_volume(name: &str, spec: &Value) -> Value {
    let mut machine = machine(name);
    let volume = format!("{name}-root");
    machine["spec"]["dataVolumeTemplates"] = json!([{"metadata": {"name": volume}, "spec": spec}]);
    machine["spec"]["template"]["spec"]["volumes"][0] =
        json!({"name": "root", "dataVolume": {"name": volume}});
    machine
}

fn volume(world: &World, name: &str) -> Option<Value> {
    world.get("datavolumes.cdi.kubevirt.io", name)
}

fn clone_of(source: &str) -> Value {
    json!({
        "sourceRef": {"kind": "DataSource", "name": source, "namespace": "golden"},
        "storage": {"resources": {"requests": {"storage": "20Gi"}}},
    })
}

#[tokio::test(start_paused = true)]
async fn a_clone_of_a_golden_image_boots_and_goes_with_its_machine() {
    let world = World::start(builder().golden(GoldenSpec::new("golden", "ubuntu"))).await;
    world
        .create("Secret", secret("a", IDLE))
        .await
        .expect("is created");
    let machine = with_volume("a", &clone_of("ubuntu"));
    world
        .create("VirtualMachine", machine)
        .await
        .expect("is let in");
    world.status("a", "Running").await;
    world.settle().await;
    let held = volume(&world, "a-root").expect("a DataVolume");
    assert_eq!(held["status"]["phase"], "Succeeded");
    assert_eq!(
        held["metadata"]["ownerReferences"][0]["kind"],
        "VirtualMachine"
    );
    assert_eq!(
        condition(&world.vmi("a").expect("an instance"), "AgentConnected"),
        Some(("True", ""))
    );
    assert_eq!(world.platform.volumes_left().len(), 2, "volume and claim");

    world.delete("VirtualMachine", "a").await;
    let gone = |world: &World| world.platform.volumes_left().is_empty().then_some(());
    world.until("volumes gone", gone).await;
    assert_eq!(world.get("persistentvolumeclaims", "a-root"), None);
    assert!(
        world
            .server
            .object("persistentvolumeclaims", "golden", "ubuntu")
            .is_some(),
        "the golden image stays"
    );
    assert_eq!(world.platform.strangers_touched(), []);
}

#[tokio::test(start_paused = true)]
async fn storage_that_waits_for_a_consumer_gets_one() {
    let world = World::start(builder()).await;
    let spec = json!({
        "source": {"http": {"url": "http://example.org/ubuntu.qcow2"}},
        "storage": {"storageClassName": "local", "resources": {"requests": {"storage": "20Gi"}}},
    });
    let alone = json!({"metadata": {"name": "alone", "namespace": "default"}, "spec": spec});
    world.create("DataVolume", alone).await.expect("is created");
    let waits = |world: &World| {
        let phase = volume(world, "alone")?["status"]["phase"].clone();
        (phase == "WaitForFirstConsumer").then_some(())
    };
    world.until("waits", waits).await;
    world
        .create("Secret", secret("a", IDLE))
        .await
        .expect("is created");
    world
        .create("VirtualMachine", with_volume("a", &spec))
        .await
        .expect("is let in");
    world.status("a", "Running").await;
    let vmi = world.vmi("a").expect("an instance");
    let (status, reason) = condition(&vmi, "LiveMigratable").expect("is known");
    assert_eq!((status, reason), ("False", "InterfaceNotLiveMigratable"));
    world.settle().await;
    assert!(waits(&world).is_some(), "nobody uses it");
}

#[tokio::test(start_paused = true)]
async fn an_import_that_fails_shows_and_heals() {
    let world = World::start(builder()).await;
    world.platform.faults().fail_import("a-root");
    let spec = json!({
        "source": {"registry": {"url": "docker://example.org/ubuntu"}},
        "storage": {"resources": {"requests": {"storage": "20Gi"}}},
    });
    world
        .create("Secret", secret("a", IDLE))
        .await
        .expect("is created");
    world
        .create("VirtualMachine", with_volume("a", &spec))
        .await
        .expect("is let in");
    world.status("a", "DataVolumeError").await;
    let held = volume(&world, "a-root").expect("a DataVolume");
    assert_eq!(condition(&held, "Running"), Some(("False", "Error")));
    assert_eq!(world.vmi("a"), None, "there is nothing to run");
    world.platform.faults().restore_import("a-root");
    world.status("a", "Running").await;
}

#[tokio::test(start_paused = true)]
async fn a_source_that_is_missing_is_waited_for() {
    let world = World::start(builder().golden(GoldenSpec::new("golden", "ubuntu"))).await;
    world
        .create("Secret", secret("a", IDLE))
        .await
        .expect("is created");
    world
        .create("VirtualMachine", with_volume("a", &clone_of("fedora")))
        .await
        .expect("is let in");
    world.status("a", "Provisioning").await;
    let held = volume(&world, "a-root").expect("a DataVolume");
    assert_eq!(held["status"]["phase"], "Pending");
    assert_eq!(
        held["status"]["conditions"][2]["message"],
        "DataSource golden/fedora not found"
    );
}

#[tokio::test(start_paused = true)]
async fn a_volume_keeps_what_a_container_disk_forgets() {
    let world = World::start(builder().golden(GoldenSpec::new("golden", "ubuntu"))).await;
    let machines = [
        ("kept", with_volume("kept", &clone_of("ubuntu"))),
        ("lost", machine("lost")),
    ];
    for (name, machine) in machines {
        world
            .create("Secret", secret(name, IDLE))
            .await
            .expect("is created");
        world
            .create("VirtualMachine", machine)
            .await
            .expect("is let in");
        world.status(name, "Running").await;
        world.settle().await;
        let first = world.platform.vm("default", name).expect("a VM").instance;
        world
            .platform
            .hand()
            .delete_vmi("default", name)
            .await
            .expect("is deleted");
        let again = |world: &World| {
            let vm = world.platform.vm("default", name)?;
            (vm.instance != first && vm.status == "Running").then_some(())
        };
        world.until("again", again).await;
        world.settle().await;
        let console = world.platform.console("default", name).join("\n");
        let is_known = console.contains("this instance was set up before");
        assert_eq!(is_known, name == "kept", "{console}");
    }
}
