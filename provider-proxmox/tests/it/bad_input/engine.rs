//! The same mistakes as a user meets them: through the engine, on objects. Each is told in a
//! condition and an Event, costs little while it lasts, and is over when its cause is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use capi_testkit::faults::Faults;
use capi_testkit::sweep::PROVIDER;
use http::{Request, Response};
use provider_proxmox::pve::{Transport, TransportError};
use pve_sim::{Builder, Platform, TemplateSpec, TokenSpec};
use serde_json::{Value, json};

use crate::site::{
    CLUSTERS, FLEET, Fleet, Line, NAMESPACE, Site, cluster, is_provisioned, machine, ready,
};

/// Until delays between tries have grown to their limit.
const SETTLES: Duration = Duration::from_secs(300);
/// How long the cost of a mistake is counted.
const COUNTED: Duration = Duration::from_secs(600);
/// Calls of the hypervisor in a minute: 12 listings for all objects together, and what one object
/// that is tried again may cost.
const CALLS_PER_MINUTE_MAX: u64 = 16;
/// Writes in ten minutes: an intent before each try of a create (R2), one try a minute at most. What
/// does not change is not told again.
const WRITES_MAX: usize = 12;

fn platform() -> Platform {
    Builder::new().build()
}

/// The message of condition Ready.
fn message(object: &Value) -> &str {
    let conditions = object["status"]["conditions"].as_array();
    let mut all = conditions.into_iter().flatten();
    let ready = all.find(|condition| condition["type"] == "Ready");
    ready
        .and_then(|ready| ready["message"].as_str())
        .unwrap_or_default()
}

/// Waits until the condition and an Event of the machine, or of the cluster of that name, say all of
/// this.
async fn told(site: &Site, name: &str, says: &[&str]) {
    told_by_condition(site, name, says).await;
    let is_recorded = |site: &Site| {
        let mut events = site.events(name).into_iter();
        events.any(|(_, text)| says.iter().all(|part| text.contains(part)))
    };
    site.until(&format!("recorded {says:?}"), is_recorded).await;
}

async fn told_by_condition(site: &Site, name: &str, says: &[&str]) {
    let is_told = |site: &Site| {
        let cluster = || site.server.object(CLUSTERS, NAMESPACE, name);
        let object = site.machine(name).or_else(cluster).unwrap();
        let message = message(&object);
        ready(&object) != Some("True") && says.iter().all(|part| message.contains(part))
    };
    site.until(&format!("told {says:?}"), is_told).await;
}

/// The mistake lasts: nothing spins, nothing flaps, and there are so many VMs.
async fn costs_little(site: &Site, vms: usize) {
    tokio::time::sleep(SETTLES).await;
    let (mark, calls) = (site.server.audit().mark(), site.platform.audit().total());
    tokio::time::sleep(COUNTED).await;
    let calls = site.platform.audit().total() - calls;
    let most = CALLS_PER_MINUTE_MAX * COUNTED.as_secs() / 60;
    assert!(calls <= most, "{calls} calls in {COUNTED:?}");
    let requests = site.server.audit().since(mark);
    let writes: Vec<_> = requests
        .iter()
        .filter(|record| record.actor == PROVIDER && record.is_write() && !record.is_lease())
        .collect();
    assert!(writes.len() <= WRITES_MAX, "{writes:#?}");
    assert_eq!(site.platform.vms_left().len(), vms);
}

async fn healed(site: &Site, name: &str) {
    let is_well = |site: &Site| {
        let machine = site.machine(name).unwrap();
        is_provisioned(&machine) && ready(&machine) == Some("True")
    };
    site.until("well", is_well).await;
    assert_eq!(site.platform.vms_left().len(), 1);
    assert_eq!(site.platform.twins(), []);
    assert_eq!(site.platform.strangers_touched(), []);
}

/// A site whose machine `m-0` has this spec, merged over the usual one.
async fn with_machine(platform: Platform, spec: Value) -> Site {
    let site = Site::new(platform);
    let fleet = Fleet::create(&site).await;
    add(&fleet, spec).await;
    site.start();
    site
}

async fn add(fleet: &Fleet, spec: Value) {
    let mut infra = machine();
    for (key, value) in spec.as_object().unwrap() {
        if value.is_null() {
            infra["spec"].as_object_mut().unwrap().remove(key);
        } else {
            infra["spec"][key] = value.clone();
        }
    }
    fleet.add_like("m-0", infra).await;
}

#[tokio::test(start_paused = true)]
async fn unknown_template() {
    let site = with_machine(platform(), json!({"templateID": 9100})).await;
    let says = ["find template 9100", "correct templateID", "9000"];
    told(&site, "m-0", &says).await;
    costs_little(&site, 0).await;
    let template = TemplateSpec::new(9100, "pve1", "ubuntu");
    site.platform.add_template(template);
    healed(&site, "m-0").await;
}

/// Defect 9, issues #71 and #37: what is promised counts, and it may be freed.
#[tokio::test(start_paused = true)]
async fn no_node_with_memory() {
    let platform = platform();
    for (vmid, node) in [(500, "pve1"), (501, "pve2"), (502, "pve3")] {
        platform.stranger(vmid, node, "database");
        platform.edit_behind_back(vmid, "memory", Some("1048576"));
    }
    let site = with_machine(platform, json!({})).await;
    let says = ["4096 MiB", "pve3 has 0 MiB", "memoryAdjustment"];
    told(&site, "m-0", &says).await;
    costs_little(&site, 0).await;
    site.platform.destroy_behind_back(501);
    healed(&site, "m-0").await;
    let status = &site.machine("m-0").unwrap()["status"];
    assert_eq!(status["proxmoxNode"], "pve2");
}

/// Defect 16: numbers that other clusters and strangers have are seen, too.
#[tokio::test(start_paused = true)]
async fn vmid_range_used_up() {
    let platform = platform();
    platform.stranger(200, "pve1", "a");
    platform.stranger(201, "pve2", "b");
    let range = json!({"vmIDRange": {"start": 200, "end": 201}});
    let site = with_machine(platform, range).await;
    told(&site, "m-0", &["from 200 to 201", "widen vmIDRange"]).await;
    costs_little(&site, 0).await;
    site.platform.destroy_behind_back(201);
    healed(&site, "m-0").await;
    assert_eq!(site.platform.vms_left()[0].vmid, 201);
}

#[tokio::test(start_paused = true)]
async fn wrong_token() {
    let platform = platform();
    let (token, secret) = platform.token();
    platform.rotate_token(&token, "another");
    let site = Site::new(platform.clone());
    let fleet = Fleet::create(&site).await;
    fleet.add("m-0").await;
    // The provider has the secret of before.
    let line = Line::new(&platform, Faults::none());
    let connector = crate::site::connector("capi@pve!provider", &secret, line);
    site.start_through(connector);
    told(&site, FLEET, &["token", "credentials"]).await;
    // The machine says where to look.
    told_by_condition(&site, "m-0", &["ProxmoxCluster fleet"]).await;
    let objects = format!(
        "{:?} {:?}",
        site.server.objects(CLUSTERS),
        site.events(FLEET)
    );
    assert!(!objects.contains(&secret));
    costs_little(&site, 0).await;
    platform.rotate_token(&token, &secret);
    healed(&site, "m-0").await;
}

#[tokio::test(start_paused = true)]
async fn missing_privilege() {
    let platform = platform();
    let (token, secret) = platform.token();
    platform.withdraw(&token, "VM.Clone");
    let site = with_machine(platform, json!({})).await;
    told(&site, "m-0", &["grant VM.Clone", "/vms/9000"]).await;
    costs_little(&site, 0).await;
    let whole = TokenSpec::provider(token, secret);
    site.platform.add_token(whole);
    healed(&site, "m-0").await;
}

/// A server whose certificate is not the one that is trusted, until it is.
#[derive(Debug)]
struct Untrusted {
    line: Line,
    is_trusted: Arc<AtomicBool>,
}

#[async_trait]
impl Transport for Untrusted {
    async fn exchange(&self, request: Request<Bytes>) -> Result<Response<Bytes>, TransportError> {
        if self.is_trusted.load(Ordering::Relaxed) {
            return self.line.exchange(request).await;
        }
        Err(TransportError::Certificate {
            host: "pve.example.com:8006".into(),
            reason: "UnknownIssuer".into(),
        })
    }
}

#[tokio::test(start_paused = true)]
async fn tls_mismatch() {
    let site = Site::new(platform());
    let fleet = Fleet::create(&site).await;
    fleet.add("m-0").await;
    let is_trusted = Arc::new(AtomicBool::new(false));
    let line = Untrusted {
        line: Line::new(&site.platform, Faults::none()),
        is_trusted: Arc::clone(&is_trusted),
    };
    let (token, secret) = site.platform.token();
    site.start_through(crate::site::connector(&token, &secret, line));
    let says = ["certificate of pve.example.com:8006", "root_ca"];
    told(&site, FLEET, &says).await;
    costs_little(&site, 0).await;
    is_trusted.store(true, Ordering::Relaxed);
    healed(&site, "m-0").await;
}

#[tokio::test(start_paused = true)]
async fn silent_node() {
    let site = with_machine(platform(), json!({})).await;
    healed(&site, "m-0").await;
    let node = site.machine("m-0").unwrap()["status"]["proxmoxNode"].clone();
    let node = node.as_str().unwrap();
    site.platform.silence_node(node);
    told(&site, "m-0", &["VM 100", node, "bring the node back"]).await;
    costs_little(&site, 1).await;
    assert!(is_provisioned(&site.machine("m-0").unwrap()));
    site.platform.restore_node(node);
    healed(&site, "m-0").await;
}

/// IPC-04: the second machine waits for an address, without a VM, and goes on by itself when the
/// first one gives its address back.
#[tokio::test(start_paused = true)]
async fn address_pool_exhausted() {
    let site = Site::new(platform());
    let mut infra = cluster();
    infra["spec"]["ipv4Config"]["addresses"] = json!(["10.0.0.10"]);
    let fleet = Fleet::create_like(&site, infra).await;
    fleet.add("m-first").await;
    site.start();
    let has_first = |site: &Site| is_provisioned(&site.machine("m-first").unwrap());
    site.until("the first", has_first).await;
    fleet.add("m-0").await;
    let says = ["no free address", "add addresses to the pool"];
    told(&site, "m-0", &says).await;
    assert_eq!(site.events("m-0")[0].0, "WaitingForIPAddress");
    costs_little(&site, 1).await;
    fleet.delete("m-first").await;
    healed(&site, "m-0").await;
}

#[tokio::test(start_paused = true)]
async fn malformed_bootstrap_data() {
    let site = Site::new(platform());
    let fleet = Fleet::create(&site).await;
    fleet.add("m-0").await;
    let data = |text: &str| json!({"stringData": {"value": text}});
    let wrong = data("runcmd: [s3cret]");
    fleet.patch("Secret", "m-0-bootstrap", wrong).await;
    site.start();
    told(&site, "m-0", &["bootstrap data", "first line"]).await;
    let events = format!("{:?}", site.events("m-0"));
    let machine = site.machine("m-0").unwrap().to_string();
    assert!(!machine.contains("s3cret") && !events.contains("s3cret"));
    assert_eq!(site.platform.isos_left(), []);
    // It has been cloned, and waits.
    costs_little(&site, 1).await;
    fleet
        .patch("Secret", "m-0-bootstrap", data("#cloud-config\n"))
        .await;
    healed(&site, "m-0").await;
}
