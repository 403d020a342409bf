//! A VM's life from clone to destruction.

use pve_sim::{Builder, Delays, Platform};
use serde_json::json;

use crate::client::{call, finish, upload};

const MARK: &str =
    "capi:0123456789abcdef0123456789abcdef:default/m-0:fedcba9876543210fedcba9876543210";

/// A call that starts a task, to the task's good end.
async fn work(platform: &Platform, method: &str, path: &str, parameters: &[(&str, &str)]) {
    let upid = call(platform, method, path, parameters).await.text();
    assert_eq!(finish(platform, &upid).await, "OK", "{method} {path}");
}

async fn make(platform: &Platform) {
    let nextid = call(platform, "GET", "/cluster/nextid", &[]).await.text();
    assert_eq!(nextid, "100");
    let clone = [
        ("newid", "100"),
        ("name", "m-0"),
        ("description", MARK),
        ("target", "pve2"),
        ("full", "1"),
    ];
    work(platform, "POST", "/nodes/pve1/qemu/9000/clone", &clone).await;
    let changes = [("cores", "4"), ("memory", "4096"), ("tags", "b;a")];
    work(platform, "POST", "/nodes/pve2/qemu/100/config", &changes).await;
    let size = [("disk", "scsi0"), ("size", "20G")];
    work(platform, "PUT", "/nodes/pve2/qemu/100/resize", &size).await;

    let upid = upload(platform, "pve2", "user-data-100.iso", b"seed")
        .await
        .text();
    assert!(
        upid.starts_with("UPID:pve1:"),
        "it runs where it arrived: {upid}"
    );
    assert_eq!(finish(platform, &upid).await, "OK");
    let attach = [
        ("ide0", "local:iso/user-data-100.iso,media=cdrom"),
        ("boot", "order=scsi0;ide0"),
        ("background_delay", "5"),
    ];
    let attached = call(platform, "POST", "/nodes/pve2/qemu/100/config", &attach).await;
    assert!(attached.data().is_null());
}

async fn unmake(platform: &Platform) {
    let refused = call(
        platform,
        "DELETE",
        "/nodes/pve2/qemu/100",
        &[("purge", "1")],
    )
    .await;
    assert_eq!(refused.error(), (500, "VM 100 is running - destroy failed"));
    work(platform, "POST", "/nodes/pve2/qemu/100/status/stop", &[]).await;
    let purge = [("purge", "1"), ("destroy-unreferenced-disks", "1")];
    work(platform, "DELETE", "/nodes/pve2/qemu/100", &purge).await;
    let image = "/nodes/pve2/storage/local/content/local:iso/user-data-100.iso";
    work(platform, "DELETE", image, &[]).await;
}

async fn whole_life(platform: &Platform) {
    make(platform).await;
    let config = call(platform, "GET", "/nodes/pve2/qemu/100/config", &[]).await;
    let config = config.data();
    assert_eq!(config["cores"], json!(4));
    assert_eq!(config["memory"], json!("4096"));
    assert_eq!(config["tags"], json!("a;b"));
    assert_eq!(config["description"], json!(MARK));
    assert!(
        config["scsi0"].as_str().unwrap().ends_with("size=20G"),
        "{config}"
    );
    assert_eq!(config["digest"].as_str().unwrap().len(), 40);
    work(platform, "POST", "/nodes/pve2/qemu/100/status/start", &[]).await;
    let status = call(platform, "GET", "/nodes/pve2/qemu/100/status/current", &[]).await;
    assert_eq!(status.data()["status"], "running");
    unmake(platform).await;

    assert_eq!(platform.vms_left(), []);
    assert_eq!(platform.isos_left(), []);
    assert_eq!(platform.disks_left(), []);
    assert_eq!(platform.strangers_touched(), []);
    let births = platform.births();
    assert_eq!(births[1].mark.as_ref().unwrap().to_string(), MARK);
    assert_eq!(births[1].gone_by.as_deref(), Some("capi@pve!provider"));
}

#[tokio::test(start_paused = true)]
async fn a_vm_lives_with_delays() {
    let start = tokio::time::Instant::now();
    whole_life(&Builder::new().build()).await;
    assert!(
        start.elapsed() > std::time::Duration::from_secs(6),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_vm_lives_without_delays() {
    let start = tokio::time::Instant::now();
    whole_life(&Builder::new().delays(Delays::zero()).build()).await;
    assert!(start.elapsed().is_zero());
}
