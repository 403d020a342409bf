//! Each refusal in the server's own words, and the order in which a call is checked.

use bytes::Bytes;
use http::{Request, StatusCode};
use pve_sim::{
    Builder, CallFault, Delays, NodeSpec, Platform, StorageSpec, TaskFault, TemplateSpec, TokenSpec,
};
use rstest::rstest;
use serde_json::{Value, json};

use crate::client::{call, finish, send, upload};

fn instant() -> Platform {
    Builder::new().delays(Delays::zero()).build()
}

async fn clone(platform: &Platform, newid: &str) {
    let parameters = [("newid", newid), ("name", "m"), ("full", "1")];
    let upid = call(platform, "POST", "/nodes/pve1/qemu/9000/clone", &parameters)
        .await
        .text();
    assert_eq!(finish(platform, &upid).await, "OK");
}

/// Raw requests: authorization, method, path, content type, body.
#[rstest]
#[case::no_token("", "GET", "/api2/json/version", "", "", 401, "No ticket")]
#[case::unknown_token(
    "PVEAPIToken=a@pve!b=c",
    "GET",
    "/api2/json/version",
    "",
    "",
    401,
    "no such token"
)]
#[case::authentication_precedes_the_route(
    "",
    "GET",
    "/api2/json/nothing",
    "",
    "",
    401,
    "No ticket"
)]
#[case::unknown_path(
    "+",
    "GET",
    "/api2/json/nothing",
    "",
    "",
    501,
    "Method 'GET /nothing' not implemented"
)]
#[case::unknown_method(
    "+",
    "PUT",
    "/api2/json/version",
    "",
    "",
    501,
    "Method 'PUT /version' not implemented"
)]
#[case::outside_the_api("+", "GET", "/elsewhere", "", "", 404, "no such file '/elsewhere'")]
#[case::get_with_body(
    "+",
    "GET",
    "/api2/json/version",
    "",
    "a=1",
    501,
    "Unexpected content for method 'GET'"
)]
#[case::delete_with_body(
    "+",
    "DELETE",
    "/api2/json/nodes/pve1/qemu/9000",
    "",
    "purge=1",
    501,
    "Unexpected content for method 'DELETE'"
)]
#[case::content_type(
    "+",
    "POST",
    "/api2/json/nodes/pve1/qemu/9000/clone",
    "text/plain",
    "newid=100",
    506,
    "upload 'Content-Type 'text/plain' not implemented"
)]
#[case::upload_without_form(
    "+",
    "POST",
    "/api2/json/nodes/pve1/storage/local/upload",
    "application/json",
    "{}",
    506,
    "upload 'Content-Type 'application/json' not implemented"
)]
#[tokio::test(start_paused = true)]
async fn the_http_layer_refuses(
    #[case] authorization: &str,
    #[case] method: &str,
    #[case] path: &str,
    #[case] content_type: &str,
    #[case] body: &'static str,
    #[case] status: u16,
    #[case] reason: &str,
) {
    let platform = instant();
    let mut request = Request::builder().method(method).uri(path);
    match authorization {
        "" => {}
        "+" => request = request.header("authorization", platform.authorization()),
        other => request = request.header("authorization", other),
    }
    if !content_type.is_empty() {
        request = request.header("content-type", content_type);
    }
    let reply = send(&platform, request.body(Bytes::from(body)).unwrap()).await;
    assert_eq!(
        (reply.status.as_u16(), reply.reason.as_deref()),
        (status, Some(reason))
    );
}

const CLONE: &str = "/nodes/pve1/qemu/9000/clone";
const CONFIG: &str = "/nodes/pve1/qemu/100/config";

/// Calls against a world with a stopped clone 100 on pve1.
#[rstest]
#[case("GET", "/nodes/pve1/qemu/777/config", &[], 500, "Configuration file 'nodes/pve1/qemu-server/777.conf' does not exist")]
#[case("GET", "/nodes/pve2/qemu/100/config", &[], 500, "Configuration file 'nodes/pve2/qemu-server/100.conf' does not exist")]
#[case("POST", CLONE, &[("newid", "100")], 500, "unable to create VM 100: config file already exists")]
#[case("POST", CLONE, &[("newid", "101"), ("target", "pve9")], 500, "no such cluster node 'pve9'")]
#[case("POST", CLONE, &[("newid", "101"), ("storage", "nowhere")], 500, "storage 'nowhere' does not exist")]
#[case("POST", CLONE, &[("newid", "101"), ("storage", "local-lvm"), ("target", "pve2")], 500, "can't clone to non-shared storage 'local-lvm'")]
#[case("POST", CLONE, &[("newid", "101"), ("storage", "local")], 500, "storage 'local' does not support vm images")]
#[case("POST", CLONE, &[("newid", "101"), ("pool", "none")], 500, "pool 'none' does not exist")]
#[case("POST", CLONE, &[("newid", "101"), ("snapname", "s")], 500, "snapshot 's' does not exist")]
#[case("POST", "/nodes/pve1/qemu/9001/clone", &[("newid", "101"), ("target", "pve2")], 500, "can't clone VM to node 'pve2' (VM uses local storage)")]
#[case("POST", "/nodes/pve1/qemu/100/clone", &[("newid", "101"), ("full", "0")], 500, "Linked clone feature is not supported for drive 'shared:100/vm-100-disk-0.qcow2'")]
#[case("GET", "/nodes/pve9/status", &[], 500, "hostname lookup 'pve9' failed - failed to get address info for: pve9: Name or service not known")]
#[case("POST", CONFIG, &[("cores", "2"), ("digest", "0")], 500, "checksum mismatch (file change by other user?)")]
#[case("PUT", CONFIG, &[("boot", "order=scsi5")], 500, "invalid bootorder: device 'scsi5' does not exist'")]
#[case("PUT", CONFIG, &[("lock", "backup")], 500, "only root can set 'lock' config")]
#[case("PUT", CONFIG, &[("ide0", "local:iso/none.iso,media=cdrom")], 500, "volume 'local:iso/none.iso' does not exist")]
#[case("PUT", "/nodes/pve1/qemu/100/resize", &[("disk", "scsi0"), ("size", "1G")], 500, "shrinking disks is not supported")]
#[case("PUT", "/nodes/pve1/qemu/100/resize", &[("disk", "scsi3"), ("size", "10G")], 500, "disk 'scsi3' does not exist")]
#[case("POST", "/nodes/pve1/qemu/100/agent/ping", &[], 500, "VM 100 is not running")]
#[case("POST", "/nodes/pve1/qemu/100/status/resume", &[], 500, "VM 100 not running")]
#[case("POST", "/nodes/pve1/qemu/100/migrate", &[("target", "pve9")], 500, "no such cluster node 'pve9'")]
#[case("GET", "/nodes/pve1/storage/none/content", &[], 403, "Permission check failed (/storage/none, Datastore.Audit|Datastore.AllocateSpace)")]
#[case("DELETE", "/nodes/pve1/qemu/9000", &[], 500, "can't remove VM 9000 - protection mode enabled")]
#[case("POST", "/cluster/ha/resources", &[("sid", "vm:100")], 403, "Permission check failed (/, Sys.Console)")]
#[tokio::test(start_paused = true)]
async fn a_call_is_refused(
    #[case] method: &str,
    #[case] path: &str,
    #[case] parameters: &[(&str, &str)],
    #[case] status: u16,
    #[case] message: &str,
) {
    let token = TokenSpec::new("t@pve!t", "secret")
        .grant("/", &["Sys.Audit"])
        .grant("/vms", &["PVEVMAdmin"])
        .grant("/pool", &["PVEVMAdmin"])
        .grant("/sdn", &["PVESDNUser"])
        .grant("/storage/local", &["PVEDatastoreAdmin"])
        .grant("/storage/local-lvm", &["PVEDatastoreAdmin"])
        .grant("/storage/nowhere", &["PVEDatastoreAdmin"])
        .grant("/storage/shared", &["PVEDatastoreAdmin"]);
    let platform = Builder::new()
        .delays(Delays::zero())
        .without_tokens()
        .token(token)
        .template(TemplateSpec::new(9000, "pve1", "one").set("protection", "1"))
        .template(TemplateSpec::new(9001, "pve1", "two").storage("local-lvm"))
        .build();
    clone(&platform, "100").await;
    let reply = call(&platform, method, path, parameters).await;
    assert_eq!(reply.error(), (status, message), "{reply:?}");
    assert_eq!(reply.body["data"], Value::Null);
    assert!(
        reply
            .reason
            .as_deref()
            .unwrap()
            .starts_with(&message[..message.len().min(40)])
    );
}

/// Wrong parameters: the field and the start of what is said of it.
#[rstest]
#[case("POST", CLONE, &[], "newid", "property is missing and it is not optional")]
#[case("POST", CLONE, &[("newid", "99")], "newid", "value must have a minimum value of 100")]
#[case("POST", CLONE, &[("newid", "101"), ("vm-name", "x")], "vm-name", "property is not defined in schema")]
#[case("POST", CLONE, &[("newid", "101"), ("name", "a_b")], "name", "invalid format - value does not look like a valid DNS name")]
#[case("POST", CLONE, &[("newid", "101"), ("full", "0"), ("storage", "shared")], "storage", "parameter 'storage' not allowed for linked clones")]
#[case("PUT", CONFIG, &[("net0", "virtio,vlan=5")], "net0", "invalid format - format error\nvlan: property is not defined")]
#[case("PUT", CONFIG, &[("ide0", "local:iso/a.iso")], "ide0", "explicit 'media=cdrom' is required for iso images")]
#[case("PUT", CONFIG, &[("delete", "warp")], "delete", "unknown option 'warp'")]
#[case("PUT", CONFIG, &[("delete", "name"), ("name", "x")], "delete", "you can't use '-name' and -delete name' at the same time")]
#[case("PUT", CONFIG, &[("skiplock", "1"), ("name", "x")], "skiplock", "Only root may use this option.")]
#[case("POST", CONFIG, &[("background_delay", "31")], "background_delay", "value must have a maximum value of 30")]
#[case("PUT", CONFIG, &[("background_delay", "3")], "background_delay", "property is not defined in schema")]
#[case("GET", "/cluster/nextid", &[("vmid", "9000")], "vmid", "VM 9000 already exists")]
#[case("GET", "/nodes/pve1/qemu/x/config", &[], "vmid", "type check ('integer') failed - got 'x'")]
#[case("GET", "/nodes/pve1/tasks/UPID:pve1:1:1:1:qmstart:1:a@b:/status", &[], "upid", "no such task")]
#[tokio::test(start_paused = true)]
async fn parameters_are_refused_by_name(
    #[case] method: &str,
    #[case] path: &str,
    #[case] parameters: &[(&str, &str)],
    #[case] field: &str,
    #[case] text: &str,
) {
    let platform = instant();
    clone(&platform, "100").await;
    let reply = call(&platform, method, path, parameters).await;
    assert_eq!(
        reply.error(),
        (400, "Parameter verification failed."),
        "{reply:?}"
    );
    let said = reply.body["errors"][field].as_str().unwrap_or_default();
    assert!(said.starts_with(text), "{reply:?}");
}

/// What a token may do without which privilege.
#[rstest]
#[case("VM.Clone", "POST", CLONE, &[("newid", "101")], "/vms/9000, VM.Clone")]
#[case("VM.Allocate", "POST", CLONE, &[("newid", "101")], "/vms/101, VM.Allocate")]
#[case("VM.Allocate", "POST", CLONE, &[("newid", "101"), ("pool", "capi")], "/pool/capi, VM.Allocate")]
#[case("Datastore.AllocateSpace", "POST", CLONE, &[("newid", "101")], "/storage/shared, Datastore.AllocateSpace")]
#[case("SDN.Use", "POST", CLONE, &[("newid", "101")], "/sdn/zones/localnetwork/vmbr0, SDN.Use")]
#[case("VM.Audit", "GET", CONFIG, &[], "/vms/100, VM.Audit")]
#[case("VM.PowerMgmt", "POST", "/nodes/pve1/qemu/100/status/start", &[], "/vms/100, VM.PowerMgmt")]
#[case("VM.Config.CPU", "PUT", CONFIG, &[("cores", "2")], "/vms/100, VM.Config.CPU")]
#[case("VM.Config.Memory", "PUT", CONFIG, &[("memory", "512")], "/vms/100, VM.Config.Memory")]
#[case("VM.Config.Options", "PUT", CONFIG, &[("tags", "a")], "/vms/100, VM.Config.Options")]
#[case("VM.Config.CDROM", "PUT", CONFIG, &[("ide0", "local:iso/a.iso,media=cdrom")], "/vms/100, VM.Config.CDROM")]
#[case("VM.Config.Disk", "PUT", CONFIG, &[("boot", "order=scsi0")], "/vms/100, VM.Config.Disk")]
#[case("VM.Config.Network", "PUT", CONFIG, &[("net0", "virtio,bridge=vmbr0")], "/vms/100, VM.Config.Network")]
#[case("SDN.Use", "PUT", CONFIG, &[("net0", "virtio,bridge=vmbr0,tag=7")], "/sdn/zones/localnetwork/vmbr0/7, SDN.Use")]
#[case("Sys.Audit", "GET", "/cluster/status", &[], "/, Sys.Audit")]
#[case("Sys.Audit", "GET", "/nodes/pve1/status", &[], "/nodes/pve1, Sys.Audit")]
#[case("VM.Allocate", "DELETE", "/nodes/pve1/qemu/100", &[], "/vms/100, VM.Allocate")]
#[case("Datastore.Allocate", "DELETE", "/nodes/pve1/storage/local/content/local:iso/a.iso", &[], "/storage/local, Datastore.Allocate")]
#[tokio::test(start_paused = true)]
async fn a_missing_privilege_is_named(
    #[case] privilege: &str,
    #[case] method: &str,
    #[case] path: &str,
    #[case] parameters: &[(&str, &str)],
    #[case] missing: &str,
) {
    let platform = instant();
    clone(&platform, "100").await;
    let uploaded = upload(&platform, "pve1", "a.iso", b"x").await.text();
    assert_eq!(finish(&platform, &uploaded).await, "OK");
    platform.withdraw(&platform.token().0, privilege);
    let before = (platform.vms(), platform.volumes());
    let reply = call(&platform, method, path, parameters).await;
    assert_eq!(
        reply.error(),
        (403, format!("Permission check failed ({missing})").as_str())
    );
    assert_eq!(
        before,
        (platform.vms(), platform.volumes()),
        "a refused call changed something"
    );
}

#[tokio::test(start_paused = true)]
async fn privileges_precede_parameters_and_the_node() {
    let platform = instant();
    platform.withdraw(&platform.token().0, "VM.Clone");
    platform.power_off_node("pve1");
    let reply = call(&platform, "POST", CLONE, &[("nonsense", "1")]).await;
    assert_eq!(reply.status, StatusCode::FORBIDDEN);
    platform.grant(&platform.token().0, "/vms", &["VM.Clone"]);
    let reply = call(&platform, "POST", CLONE, &[("nonsense", "1")]).await;
    assert_eq!(reply.error(), (595, "No route to host"));
    platform.restore_node("pve1");
    let reply = call(&platform, "POST", CLONE, &[("nonsense", "1")]).await;
    assert_eq!(reply.status, StatusCode::BAD_REQUEST);
}

#[tokio::test(start_paused = true)]
async fn numbers_are_strings_where_the_server_has_them_so() {
    let platform = instant();
    let id = call(&platform, "GET", "/cluster/nextid", &[]).await;
    assert_eq!(id.data(), &json!("100"));
    clone(&platform, "100").await;
    let config = call(&platform, "GET", CONFIG, &[]).await;
    assert_eq!(config.data()["memory"], json!("2048"));
    assert_eq!(config.data()["cores"], json!(2));
}

#[tokio::test(start_paused = true)]
async fn an_id_is_not_reserved_by_asking_for_it() {
    let platform = instant();
    for _ in 0..2 {
        assert_eq!(
            call(&platform, "GET", "/cluster/nextid", &[]).await.text(),
            "100"
        );
    }
    let free = call(&platform, "GET", "/cluster/nextid", &[("vmid", "100")]).await;
    assert_eq!(free.text(), "100");
}

#[tokio::test(start_paused = true)]
async fn an_id_taken_on_another_node_fails_in_the_task() {
    let platform = instant();
    assert!(platform.stranger(100, "pve2", "db"));
    let upid = call(&platform, "POST", CLONE, &[("newid", "100")])
        .await
        .text();
    let exit = finish(&platform, &upid).await;
    assert!(
        exit.contains("unable to create VM 100") && exit.ends_with("File exists"),
        "{exit}"
    );
    assert_eq!(platform.vm(100).unwrap().name(), Some("db"));
}

#[tokio::test(start_paused = true)]
async fn identity_is_new_with_every_clone() {
    let platform = instant();
    clone(&platform, "100").await;
    clone(&platform, "101").await;
    let vms: Vec<_> = [9000, 100, 101]
        .map(|vmid| platform.vm(vmid).unwrap())
        .to_vec();
    for key in ["smbios1", "net0", "vmgenid"] {
        let mut values: Vec<_> = vms.iter().map(|vm| vm.config[key].clone()).collect();
        values.sort();
        values.dedup();
        assert_eq!(values.len(), 3, "{key}: {values:?}");
    }
    assert_eq!(vms[1].config["tags"], vms[0].config["tags"]);
    assert!(!vms[1].config.contains_key("template"));
}

#[tokio::test(start_paused = true)]
async fn a_nic_written_without_its_mac_gets_a_new_one() {
    let platform = instant();
    clone(&platform, "100").await;
    let mac = |platform: &Platform| platform.vm(100).unwrap().config["net0"].clone();
    let before = mac(&platform);
    call(&platform, "PUT", CONFIG, &[("net0", before.as_str())])
        .await
        .data();
    assert_eq!(mac(&platform), before);
    call(&platform, "PUT", CONFIG, &[("net0", "virtio,bridge=vmbr0")])
        .await
        .data();
    assert_ne!(mac(&platform), before);
}

#[tokio::test(start_paused = true)]
async fn asking_for_a_new_disk_twice_leaves_one_unused() {
    let platform = instant();
    clone(&platform, "100").await;
    for _ in 0..2 {
        call(&platform, "PUT", CONFIG, &[("scsi1", "local-lvm:4")])
            .await
            .data();
    }
    let vm = platform.vm(100).unwrap();
    assert_eq!(vm.config["unused0"], "local-lvm:vm-100-disk-0");
    assert_eq!(vm.config["scsi1"], "local-lvm:vm-100-disk-1,size=4G");
    call(&platform, "DELETE", "/nodes/pve1/qemu/100", &[])
        .await
        .data();
    assert_eq!(platform.disks_left(), []);
}

#[tokio::test(start_paused = true)]
async fn a_running_vm_takes_cold_changes_at_its_next_start() {
    let platform = instant();
    clone(&platform, "100").await;
    call(&platform, "POST", "/nodes/pve1/qemu/100/status/start", &[])
        .await
        .data();
    call(
        &platform,
        "PUT",
        CONFIG,
        &[("cores", "8"), ("description", "hot")],
    )
    .await
    .data();
    let shown = call(&platform, "GET", CONFIG, &[]).await;
    assert_eq!(
        (&shown.data()["cores"], &shown.data()["description"]),
        (&json!(8), &json!("hot"))
    );
    let current = call(&platform, "GET", CONFIG, &[("current", "1")]).await;
    assert_eq!(current.data()["cores"], json!(2));
    call(&platform, "POST", "/nodes/pve1/qemu/100/status/stop", &[])
        .await
        .data();
    let current = call(&platform, "GET", CONFIG, &[("current", "1")]).await;
    assert_eq!(current.data()["cores"], json!(8));
}

#[tokio::test(start_paused = true)]
async fn the_agent_says_why_it_does_not_answer() {
    let platform = instant();
    clone(&platform, "100").await;
    let ping = "/nodes/pve1/qemu/100/agent/ping";
    call(&platform, "POST", "/nodes/pve1/qemu/100/status/start", &[])
        .await
        .data();
    let reply = call(&platform, "POST", ping, &[]).await;
    assert_eq!(reply.error(), (500, "QEMU guest agent is not running"));
    platform.edit_behind_back(100, "agent", Some("enabled=0"));
    let reply = call(&platform, "POST", ping, &[]).await;
    assert_eq!(reply.error(), (500, "No QEMU guest agent configured"));
}

#[tokio::test(start_paused = true)]
async fn without_quorum_nothing_changes() {
    let platform = instant();
    platform.set_quorate(false);
    let reply = call(&platform, "POST", CLONE, &[("newid", "100")]).await;
    assert_eq!(reply.error(), (500, "cluster not ready - no quorum?"));
    assert_eq!(
        call(&platform, "GET", "/nodes", &[]).await.status,
        StatusCode::OK
    );
}

#[tokio::test(start_paused = true)]
async fn uploads_are_checked() {
    let platform = instant();
    let reply = upload(&platform, "pve1", "seed.txt", b"x").await;
    assert_eq!(reply.body["errors"]["filename"], "wrong file extension");
    platform.set_storage_full("local", true);
    let upid = upload(&platform, "pve1", "seed.iso", b"x").await.text();
    assert_eq!(finish(&platform, &upid).await, "No space left on device");
    platform.set_storage_full("local", false);
    for bytes in [b"one", b"two"] {
        let upid = upload(&platform, "pve1", "seed.iso", bytes).await.text();
        assert_eq!(finish(&platform, &upid).await, "OK");
    }
    let left = platform.isos_left();
    assert_eq!(
        (left.len(), left[0].bytes.as_deref()),
        (1, Some(b"two".as_slice()))
    );
    let listed = call(
        &platform,
        "GET",
        "/nodes/pve1/storage/local/content",
        &[("content", "iso")],
    )
    .await;
    assert_eq!(listed.data()[0]["volid"], "local:iso/seed.iso");
    let elsewhere = call(&platform, "GET", "/nodes/pve2/storage/local/content", &[]).await;
    assert_eq!(
        elsewhere.data(),
        &json!([]),
        "local is another directory on each node"
    );
}

#[tokio::test(start_paused = true)]
async fn deleting_an_image_that_is_gone_succeeds() {
    let platform = instant();
    let path = "/nodes/pve1/storage/local/content/local:iso/none.iso";
    let upid = call(&platform, "DELETE", path, &[]).await.text();
    assert_eq!(finish(&platform, &upid).await, "OK");
    let waited = call(&platform, "DELETE", path, &[("delay", "5")]).await;
    assert!(waited.data().is_null());
}

#[tokio::test(start_paused = true)]
async fn ha_wants_a_purge() {
    let platform = instant();
    clone(&platform, "100").await;
    platform.manage_by_ha(100);
    let upid = call(&platform, "POST", "/nodes/pve1/qemu/100/status/start", &[])
        .await
        .text();
    assert!(upid.contains(":hastart:"), "{upid}");
    assert!(platform.vm(100).unwrap().running);
    let upid = call(&platform, "POST", "/nodes/pve1/qemu/100/status/stop", &[])
        .await
        .text();
    assert!(upid.contains(":hastop:"), "{upid}");
    let path = "/nodes/pve1/qemu/100";
    let reply = call(&platform, "DELETE", path, &[]).await;
    let text = "unable to remove VM 100 - used in HA resources and purge parameter not set.";
    assert_eq!(reply.error(), (500, text));
    call(&platform, "DELETE", path, &[("purge", "1")])
        .await
        .data();
    assert!(platform.vm(100).is_none());
}

#[tokio::test(start_paused = true)]
async fn permissions_are_told() {
    let platform = instant();
    let reply = call(
        &platform,
        "GET",
        "/access/permissions",
        &[("path", "/vms/100")],
    )
    .await;
    assert_eq!(reply.data()["/vms/100"]["VM.Clone"], json!(1));
    let all = call(&platform, "GET", "/access/permissions", &[]).await;
    assert_eq!(
        all.data()["/storage"]["Datastore.AllocateTemplate"],
        json!(1)
    );
}

#[tokio::test(start_paused = true)]
async fn memory_runs_out_at_the_start() {
    let platform = Builder::new()
        .delays(Delays::zero())
        .node(NodeSpec::new("pve1").memory_gib(8))
        .storage(StorageSpec::shared("shared"))
        .build();
    clone(&platform, "100").await;
    platform.press_memory("pve1", 5);
    let status = call(&platform, "GET", "/nodes/pve1/status", &[]).await;
    assert_eq!(status.data()["memory"]["free"], json!(1_u64 << 30));
    let upid = call(&platform, "POST", "/nodes/pve1/qemu/100/status/start", &[])
        .await
        .text();
    assert!(
        finish(&platform, &upid)
            .await
            .contains("Cannot allocate memory")
    );
    assert!(!platform.vm(100).unwrap().running);
}

#[tokio::test(start_paused = true)]
async fn scripted_faults_strike_once() {
    let platform = instant();
    let faults = platform.faults();
    let route = "/nodes/{node}/qemu/{vmid}/clone";
    let refusal = CallFault::Refuse {
        status: 599,
        message: "Too many redirections".into(),
    };
    faults.call("POST", route, refusal);
    faults.nth_call("POST", route, 1, CallFault::LostAfter);
    let reply = call(&platform, "POST", CLONE, &[("newid", "100")]).await;
    assert_eq!(reply.error(), (599, "Too many redirections"));
    assert!(platform.vm(100).is_none());
    clone(&platform, "100").await;
    let reply = call(&platform, "POST", CLONE, &[("newid", "101")]).await;
    assert_eq!(reply.error(), (596, "Connection timed out"));
    assert!(
        platform.vm(101).is_some(),
        "the answer was lost, the work was not"
    );
    faults.call("POST", route, CallFault::LostBefore);
    let reply = call(&platform, "POST", CLONE, &[("newid", "102")]).await;
    assert_eq!(reply.error(), (596, "Connection timed out"));
    assert!(platform.vm(102).is_none());
}

#[rstest]
#[case(TaskFault::Fail("clone failed: broken".into()), "clone failed: broken", false)]
#[case(TaskFault::FailAfter("clone failed: late".into()), "clone failed: late", true)]
#[case(TaskFault::Warn(2), "WARNINGS: 2", true)]
#[case(TaskFault::Killed, "unexpected status", false)]
#[case(TaskFault::KilledAfter, "unexpected status", true)]
#[tokio::test(start_paused = true)]
async fn task_faults_end_as_they_say(
    #[case] fault: TaskFault,
    #[case] exit: &str,
    #[case] done: bool,
) {
    for delays in [Delays::zero(), Delays::realistic()] {
        let platform = Builder::new().delays(delays).build();
        platform.faults().task("qmclone", fault.clone());
        let upid = call(&platform, "POST", CLONE, &[("newid", "100")])
            .await
            .text();
        assert_eq!(finish(&platform, &upid).await, exit);
        assert_eq!(platform.vm(100).is_some(), done);
        let disks = platform
            .volumes()
            .iter()
            .filter(|v| v.volid.contains("vm-100-"))
            .count();
        assert_eq!(disks, usize::from(done), "a failed clone leaves nothing");
        let births = platform.births();
        assert_eq!(births[1].is_alive(), done);
    }
}

#[tokio::test(start_paused = true)]
async fn a_clone_that_fails_halfway_leaves_no_disk() {
    let template = TemplateSpec::new(9000, "pve1", "two-disks")
        .set("scsi1", "shared:9000/base-9000-disk-1.qcow2,size=8G");
    let platform = Builder::new()
        .delays(Delays::zero())
        .template(template)
        .build();
    let upid = call(&platform, "POST", CLONE, &[("newid", "100")])
        .await
        .text();
    let text = "clone failed: no such volume 'shared:9000/base-9000-disk-1.qcow2'";
    assert_eq!(finish(&platform, &upid).await, text);
    assert_eq!(
        (platform.vms_left(), platform.disks_left()),
        (vec![], vec![])
    );
}
