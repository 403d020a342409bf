//! What happens behind a client's back, and the order of things while tasks run.

use std::time::Duration;

use http::StatusCode;
use pve_sim::{Builder, Delays, Platform, StorageSpec, TemplateSpec};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::client::{call, finish};

const CLONE: &str = "/nodes/pve1/qemu/9000/clone";
const OBJECT: &str = "capi:0123456789abcdef0123456789abcdef:default/m-0";

async fn resource(platform: &Platform, vmid: u32) -> serde_json::Value {
    let list = call(platform, "GET", "/cluster/resources", &[("type", "vm")]).await;
    let list = list.data().as_array().unwrap().clone();
    list.into_iter()
        .find(|entry| entry["vmid"] == json!(vmid))
        .unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn a_clone_is_seen_before_it_is_usable() {
    let platform = Builder::new().build();
    let parameters = [
        ("newid", "100"),
        ("name", "m-0"),
        ("target", "pve2"),
        ("pool", "capi"),
    ];
    let upid = call(&platform, "POST", CLONE, &parameters).await.text();
    assert!(
        upid.starts_with("UPID:pve1:") && upid.contains(":qmclone:9000:"),
        "{upid}"
    );
    let early = resource(&platform, 100).await;
    assert_eq!(
        (&early["lock"], &early["node"]),
        (&json!("clone"), &json!("pve1"))
    );
    assert_eq!((early.get("name"), early.get("tags")), (None, None));
    let refused = call(
        &platform,
        "POST",
        "/nodes/pve1/qemu/100/config",
        &[("cores", "2")],
    )
    .await;
    assert_eq!(refused.error(), (500, "VM is locked (clone)"));
    assert_eq!(finish(&platform, &upid).await, "OK");
    let late = resource(&platform, 100).await;
    assert_eq!((late.get("lock"), &late["node"]), (None, &json!("pve2")));
    assert_eq!(
        (&late["pool"], &late["template"]),
        (&json!("capi"), &json!(0))
    );
    assert!(late["tags"].as_str().unwrap().contains("ubuntu"));
    assert_eq!(
        late["status"], "unknown",
        "its node has not yet reported it"
    );
    sleep(Duration::from_secs(10)).await;
    assert_eq!(resource(&platform, 100).await["name"], "m-0");
}

#[tokio::test(start_paused = true)]
async fn a_destroyed_vm_frees_its_id_when_the_task_ends() {
    let platform = Builder::new().build();
    let upid = call(&platform, "POST", CLONE, &[("newid", "100")])
        .await
        .text();
    finish(&platform, &upid).await;
    let upid = call(&platform, "DELETE", "/nodes/pve1/qemu/100", &[])
        .await
        .text();
    let taken = call(&platform, "GET", "/cluster/nextid", &[("vmid", "100")]).await;
    assert_eq!(taken.status, StatusCode::BAD_REQUEST);
    sleep(Duration::from_millis(200)).await;
    assert_eq!(
        platform.vm(100).unwrap().config.get("lock").unwrap(),
        "destroyed"
    );
    finish(&platform, &upid).await;
    let free = call(&platform, "GET", "/cluster/nextid", &[("vmid", "100")]).await;
    assert_eq!(free.text(), "100");
}

#[tokio::test(start_paused = true)]
async fn tasks_queue_for_a_vm_and_give_up() {
    let mut delays = Delays::realistic();
    delays.resize = Duration::from_secs(4);
    let platform = Builder::new().delays(delays.clone()).build();
    let upid = call(&platform, "POST", CLONE, &[("newid", "100")])
        .await
        .text();
    finish(&platform, &upid).await;
    let resize = "/nodes/pve1/qemu/100/resize";
    let size = [("disk", "scsi0"), ("size", "+1G")];
    let start = Instant::now();
    let mut upids = Vec::new();
    for _ in 0..4 {
        upids.push(call(&platform, "PUT", resize, &size).await.text());
    }
    let mut exits = Vec::new();
    for upid in &upids {
        exits.push(finish(&platform, upid).await);
    }
    let gave_up = "can't lock file '/var/lock/qemu-server/lock-100.conf' - got timeout";
    assert_eq!(exits, ["OK", "OK", "OK", gave_up]);
    assert!(start.elapsed() >= Duration::from_secs(12));
}

#[tokio::test(start_paused = true)]
async fn clones_of_a_template_run_together_unless_the_storage_forbids() {
    for (limit, fails) in [(None, 0), (Some(2), 1)] {
        let mut storage = StorageSpec::shared("shared");
        if let Some(most) = limit {
            storage = storage.clones_at_once(most);
        }
        let platform = Builder::new().storage(storage).build();
        let mut upids = Vec::new();
        for newid in ["100", "101", "102"] {
            upids.push(
                call(&platform, "POST", CLONE, &[("newid", newid)])
                    .await
                    .text(),
            );
        }
        let mut failed = 0;
        for upid in upids {
            failed += usize::from(finish(&platform, &upid).await.ends_with("got timeout"));
        }
        assert_eq!((failed, platform.vms_left().len()), (fails, 3 - fails));
    }
}

#[tokio::test(start_paused = true)]
async fn a_running_source_is_cloned_once_at_a_time() {
    let platform = Builder::new().build();
    let upid = call(&platform, "POST", CLONE, &[("newid", "100")])
        .await
        .text();
    finish(&platform, &upid).await;
    let upid = call(&platform, "POST", "/nodes/pve1/qemu/100/status/start", &[])
        .await
        .text();
    finish(&platform, &upid).await;
    let path = "/nodes/pve1/qemu/100/clone";
    let first = call(&platform, "POST", path, &[("newid", "101")])
        .await
        .text();
    let second = call(&platform, "POST", path, &[("newid", "102")])
        .await
        .text();
    assert_eq!(finish(&platform, &first).await, "OK");
    assert!(finish(&platform, &second).await.ends_with("got timeout"));
}

#[tokio::test(start_paused = true)]
async fn a_background_change_answers_null_or_its_task() {
    let mut delays = Delays::realistic();
    delays.config = Duration::from_secs(3);
    let platform = Builder::new().delays(delays).build();
    let upid = call(&platform, "POST", CLONE, &[("newid", "100")])
        .await
        .text();
    finish(&platform, &upid).await;
    let path = "/nodes/pve1/qemu/100/config";
    let slow = call(
        &platform,
        "POST",
        path,
        &[("cores", "2"), ("background_delay", "1")],
    )
    .await;
    assert!(slow.text().contains(":qmconfig:100:"));
    finish(&platform, &slow.text()).await;
    let quick = call(
        &platform,
        "POST",
        path,
        &[("cores", "4"), ("background_delay", "5")],
    )
    .await;
    assert!(quick.data().is_null());
    assert_eq!(platform.vm(100).unwrap().config["cores"], "4");
    platform
        .faults()
        .task("qmconfig", pve_sim::TaskFault::Fail("broken".into()));
    let failed = call(
        &platform,
        "POST",
        path,
        &[("cores", "1"), ("background_delay", "5")],
    )
    .await;
    assert_eq!(failed.error(), (500, "failed to update VM 100: broken"));
}

#[tokio::test(start_paused = true)]
async fn a_silent_node_costs_the_proxy_time_out() {
    let platform = Builder::new().speed(2.0).build();
    platform.silence_node_for("pve2", Duration::from_secs(60));
    let start = Instant::now();
    let reply = call(&platform, "GET", "/nodes/pve2/status", &[]).await;
    assert_eq!(reply.error(), (596, "Connection timed out"));
    assert_eq!(
        start.elapsed(),
        Duration::from_secs(15),
        "speed 2 halves it"
    );
    let nodes = call(&platform, "GET", "/nodes", &[]).await;
    assert_eq!(nodes.data()[1]["status"], "online");
    sleep(Duration::from_secs(16)).await;
    assert_eq!(
        call(&platform, "GET", "/nodes/pve2/status", &[])
            .await
            .status,
        StatusCode::OK
    );
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_off_takes_its_vms_and_tasks_along() {
    let platform = Builder::new().build();
    let upid = call(&platform, "POST", CLONE, &[("newid", "100")])
        .await
        .text();
    platform.at("pve2");
    platform.power_off_node("pve1");
    let nodes = call(&platform, "GET", "/nodes", &[]).await;
    assert_eq!(nodes.data()[0]["status"], "offline");
    assert_eq!(resource(&platform, 9000).await["status"], "unknown");
    let reply = call(
        &platform,
        "GET",
        &format!("/nodes/pve1/tasks/{upid}/status"),
        &[],
    )
    .await;
    assert_eq!(reply.error(), (595, "No route to host"));
    platform.restore_node("pve1");
    assert_eq!(finish(&platform, &upid).await, "unexpected status");
}

#[tokio::test(start_paused = true)]
async fn moved_destroyed_and_foreign_vms_are_seen_where_they_are() {
    let platform = Builder::new().delays(Delays::zero()).build();
    call(&platform, "POST", CLONE, &[("newid", "100")])
        .await
        .data();
    assert!(platform.migrate_behind_back(100, "pve3"));
    let old = call(&platform, "GET", "/nodes/pve1/qemu/100/config", &[]).await;
    assert!(old.error().1.ends_with("does not exist"));
    assert_eq!(resource(&platform, 100).await["node"], "pve3");
    assert!(platform.destroy_behind_back(100));
    assert!(platform.stranger(100, "pve1", "payroll"));
    assert_eq!(resource(&platform, 100).await["name"], "payroll");
    assert_eq!(platform.vms_left(), []);
    assert_eq!(platform.strangers_touched(), []);
    call(&platform, "GET", "/nodes/pve1/qemu/100/config", &[])
        .await
        .data();
    assert_eq!(platform.strangers_touched(), []);
    call(&platform, "POST", "/nodes/pve1/qemu/100/status/stop", &[])
        .await
        .data();
    let touched = platform.strangers_touched();
    assert_eq!((touched.len(), touched[0].what.as_str()), (1, "100"));
}

#[tokio::test(start_paused = true)]
async fn planted_twins_are_found() {
    let platform = Builder::new().delays(Delays::zero()).build();
    for (newid, proof) in [("100", "1"), ("101", "2")] {
        let mark = format!("made for you {OBJECT}:{}", proof.repeat(32));
        let parameters = [("newid", newid), ("description", mark.as_str())];
        call(&platform, "POST", CLONE, &parameters).await.data();
    }
    let twins = platform.twins();
    assert_eq!(
        (twins.len(), twins[0].first, twins[0].second),
        (1, 100, 101)
    );
    assert_eq!(twins[0].object.to_string(), "default/m-0");
    call(&platform, "DELETE", "/nodes/pve1/qemu/101", &[])
        .await
        .data();
    assert_eq!(platform.twins(), []);
    assert_eq!(platform.overlaps().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn tokens_are_rotated_and_revoked() {
    let platform = Builder::new().build();
    let (id, _) = platform.token();
    platform.rotate_token(&id, "another");
    let start = Instant::now();
    let reply = call(&platform, "GET", "/version", &[]).await;
    assert_eq!(reply.error(), (401, "invalid token value!"));
    assert_eq!(
        start.elapsed(),
        Duration::from_secs(3),
        "guessing is slowed down"
    );
    platform.revoke_token(&id);
    assert_eq!(
        call(&platform, "GET", "/version", &[]).await.error(),
        (401, "no such token")
    );
}

#[tokio::test(start_paused = true)]
async fn a_template_comes_and_goes() {
    let platform = Builder::new()
        .delays(Delays::zero())
        .without_templates()
        .build();
    let missing = call(&platform, "POST", CLONE, &[("newid", "100")]).await;
    assert!(
        missing
            .error()
            .1
            .ends_with("'nodes/pve1/qemu-server/9000.conf' does not exist")
    );
    platform.add_template(TemplateSpec::new(9000, "pve1", "late"));
    call(&platform, "POST", CLONE, &[("newid", "100")])
        .await
        .data();
    assert!(platform.vm(100).is_some());
}

#[tokio::test(start_paused = true)]
async fn old_tasks_are_forgotten() {
    let platform = Builder::new().delays(Delays::zero()).build();
    let upid = call(&platform, "POST", CLONE, &[("newid", "100")])
        .await
        .text();
    platform.forget_tasks();
    let reply = call(
        &platform,
        "GET",
        &format!("/nodes/pve1/tasks/{upid}/status"),
        &[],
    )
    .await;
    assert_eq!(reply.body["errors"]["upid"], "no such task");
}

#[tokio::test(start_paused = true)]
async fn a_stopped_task_undoes_its_clone() {
    let platform = Builder::new().build();
    let upid = call(&platform, "POST", CLONE, &[("newid", "100")])
        .await
        .text();
    call(
        &platform,
        "DELETE",
        &format!("/nodes/pve1/tasks/{upid}"),
        &[],
    )
    .await
    .data();
    assert_eq!(finish(&platform, &upid).await, "received interrupt");
    assert!(platform.vm(100).is_none());
}

#[tokio::test(start_paused = true)]
async fn the_cluster_shows_the_last_25_tasks_of_each_node() {
    let platform = Builder::new().delays(Delays::zero()).build();
    for newid in 100..130 {
        call(&platform, "POST", CLONE, &[("newid", &newid.to_string())])
            .await
            .data();
    }
    let recent = call(&platform, "GET", "/cluster/tasks", &[]).await;
    assert_eq!(recent.data().as_array().unwrap().len(), 25);
    let all = call(&platform, "GET", "/nodes/pve1/tasks", &[("limit", "100")]).await;
    assert_eq!(
        (all.data().as_array().unwrap().len(), &all.body["total"]),
        (30, &json!(30))
    );
}

#[tokio::test(start_paused = true)]
async fn running_tasks_crowd_out_those_that_ended() {
    let platform = Builder::new().build();
    let shown = async |platform: &Platform| {
        let recent = call(platform, "GET", "/cluster/tasks", &[]).await;
        let recent = recent.data().as_array().unwrap().clone();
        recent
            .iter()
            .filter(|task| task.get("endtime").is_some())
            .count()
    };
    let upid = call(&platform, "POST", CLONE, &[("newid", "100")])
        .await
        .text();
    finish(&platform, &upid).await;
    for newid in 101..125 {
        call(&platform, "POST", CLONE, &[("newid", &newid.to_string())])
            .await
            .data();
    }
    assert_eq!(shown(&platform).await, 1);
    call(&platform, "POST", CLONE, &[("newid", "125")])
        .await
        .data();
    assert_eq!(shown(&platform).await, 0);
}

#[tokio::test(start_paused = true)]
async fn requests_are_counted_by_machine_and_endpoint() {
    let platform = Builder::new().delays(Delays::zero()).build();
    let upid = call(&platform, "POST", CLONE, &[("newid", "100")])
        .await
        .text();
    call(
        &platform,
        "GET",
        &format!("/nodes/pve1/tasks/{upid}/status"),
        &[],
    )
    .await
    .data();
    crate::client::upload(&platform, "pve1", "user-data-100.iso", b"x")
        .await
        .data();
    call(&platform, "GET", "/nodes/pve1/qemu/100/config", &[])
        .await
        .data();
    for _ in 0..3 {
        call(&platform, "GET", "/cluster/resources", &[])
            .await
            .data();
        sleep(Duration::from_secs(2)).await;
    }
    let report = platform.audit();
    assert_eq!(report.total(), 7);
    assert_eq!(report.calls_per_vm()[&100], 3, "clone, upload, config");
    assert_eq!(report.mutations().count(), 2);
    let polls = report.shared_polls(Duration::from_secs(5));
    assert_eq!(polls["/cluster/resources"], 3);
    let polls = report.shared_polls(Duration::from_secs(4));
    assert_eq!(polls["/cluster/resources"], 2);
}
