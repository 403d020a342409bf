//! Credentials of a cluster's own: several Proxmox VE clusters in one process, tokens that are
//! rotated while it runs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use capi_contract::{Connect, Credentials, Identity};
use capi_testkit::apiserver::AuditRecord;
use capi_testkit::faults::Faults;
use capi_testkit::sweep::PROVIDER;
use provider_proxmox::connect::{ConnectError, Connector};
use provider_proxmox::session::Session;
use pve_sim::{Builder, Platform};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::site::{
    CLUSTERS, Fleet, Line, MACHINES, NAMESPACE, Site, cluster, is_provisioned, ready,
};

/// The longest pause between two reads of credentials that were refused.
const REREAD_MAX: Duration = Duration::from_secs(60);
const SECRET: &str = "pve-login";

/// Reaches the platform whose address the credentials name.
pub(crate) struct Platforms(pub(crate) BTreeMap<&'static str, Platform>);

impl Connect for Platforms {
    type Session = Session;
    type Error = ConnectError;

    async fn connect(
        &self,
        identity: Option<&Identity>,
        credentials: Option<&Credentials>,
    ) -> Result<Session, ConnectError> {
        let url = credentials.and_then(|credentials| credentials.text("url"));
        let platform = url.and_then(|url| self.0.get(url)).unwrap();
        let line = Line::new(platform, Faults::none());
        let connector = Connector::new().through(Arc::new(line));
        connector.connect(identity, credentials).await
    }
}

pub(crate) const EAST: &str = "https://east.example.com:8006";
const WEST: &str = "https://west.example.com:8006";

const TOKEN: &str = "capi@pve!provider";

pub(crate) fn login(url: &str, secret: &str) -> Value {
    json!({"url": url, "token": TOKEN, "secret": secret, "insecure": "true"})
}

/// The usual cluster, with credentials of its own.
fn with_credentials() -> Value {
    let mut infra = cluster();
    infra["spec"]["credentialsRef"] = json!({"name": SECRET});
    infra
}

/// A cluster with a machine on one platform.
async fn one_tenant() -> (Site, Fleet) {
    let site = Site::new(Builder::new().build());
    let fleet = Fleet::create_like(&site, with_credentials()).await;
    let (_, secret) = site.platform.token();
    fleet.secret(SECRET, login(EAST, &secret)).await;
    fleet.add("m-0").await;
    let platforms = BTreeMap::from([(EAST, site.platform.clone())]);
    site.start_through(Platforms(platforms));
    site.until("well", |site| is_well(site, "m-0")).await;
    (site, fleet)
}

fn is_well(site: &Site, name: &str) -> bool {
    let machine = site.machine(name).unwrap();
    is_provisioned(&machine) && ready(&machine) == Some("True")
}

/// How often the provider read the credentials since a mark.
fn reads(site: &Site, mark: u64) -> usize {
    let of_secret = |record: &&AuditRecord| {
        record.actor == PROVIDER && record.verb == "get" && record.name == SECRET
    };
    site.server
        .audit()
        .since(mark)
        .iter()
        .filter(of_secret)
        .count()
}

fn message(object: &Value) -> String {
    let conditions = object["status"]["conditions"].as_array();
    let mut all = conditions.into_iter().flatten();
    let ready = all.find(|condition| condition["type"] == "Ready");
    ready
        .map(|ready| ready["message"].to_string())
        .unwrap_or_default()
}

/// ID-01: equal names, equal VMIDs, and nobody touches what is another's.
#[tokio::test(start_paused = true)]
async fn id_01_two_clusters_on_two_hypervisors_in_one_process() {
    let (east, west) = (Builder::new().build(), Builder::new().build());
    let (_, east_secret) = east.token();
    let west_secret = "ffffffff-0000-4000-8000-00000000000f";
    west.rotate_token(TOKEN, west_secret);
    let site = Site::new(east.clone());
    let mut fleets = Vec::new();
    let logins = [
        ("team-a", EAST, east_secret.as_str()),
        ("team-b", WEST, west_secret),
    ];
    for (namespace, url, secret) in logins {
        site.create_namespace(namespace).await;
        let fleet = Fleet::create_in(&site, namespace, with_credentials()).await;
        fleet.secret(SECRET, login(url, secret)).await;
        for name in ["m-0", "m-1"] {
            fleet.add(name).await;
        }
        fleets.push((namespace, fleet));
    }
    let platforms = BTreeMap::from([(EAST, east.clone()), (WEST, west.clone())]);
    site.start_through(Platforms(platforms));
    let machines = |namespace: &str| {
        ["m-0", "m-1"].map(|name| site.server.object(MACHINES, namespace, name).unwrap())
    };
    site.until("provisioned", |_| {
        let all = machines("team-a").into_iter().chain(machines("team-b"));
        all.into_iter().all(|machine| is_provisioned(&machine))
    })
    .await;
    let numbers = |platform: &Platform| {
        let vms = platform.vms_left().into_iter();
        vms.map(|vm| vm.vmid).collect::<Vec<_>>()
    };
    assert_eq!(numbers(&east), [100, 101]);
    assert_eq!(numbers(&west), [100, 101]);
    // Each object has the uuid of the VM on its own hypervisor.
    for (namespace, platform) in [("team-a", &east), ("team-b", &west)] {
        for machine in machines(namespace) {
            let vmid = machine["spec"]["virtualMachineID"].as_u64().unwrap();
            let vm = platform.vm(u32::try_from(vmid).unwrap()).unwrap();
            let uuid = vm.uuid().unwrap().to_lowercase();
            let id = format!("proxmox://{uuid}");
            assert_eq!(machine["spec"]["providerID"], id, "{namespace}");
        }
    }
    // One goes, the other stays; a token of one is of no use at the other.
    for name in ["m-0", "m-1"] {
        fleets[0].1.delete(name).await;
    }
    site.until("gone", |_| {
        let machines = site.server.objects(MACHINES);
        machines
            .iter()
            .all(|machine| machine["metadata"]["namespace"] == "team-b")
    })
    .await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(numbers(&east), [0; 0]);
    assert_eq!(numbers(&west), [100, 101]);
    assert!(
        machines("team-b")
            .iter()
            .all(|machine| ready(machine) == Some("True"))
    );
    for platform in [&east, &west] {
        assert_eq!(platform.strangers_touched(), []);
        assert_eq!(platform.twins(), []);
    }
    assert_ne!(east_secret, west_secret);
}

/// ID-04: a new secret is found by the refusal of the old one, without a restart and without anybody
/// noticing.
#[tokio::test(start_paused = true)]
async fn id_04_a_rotated_token_is_read_again_after_the_first_refusal() {
    let (site, fleet) = one_tenant().await;
    let mark = site.server.audit().mark();
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    assert_eq!(reads(&site, mark), 0, "nothing is on a timer");

    let new = "22222222-0000-4000-8000-000000000002";
    fleet
        .patch("Secret", SECRET, json!({"stringData": {"secret": new}}))
        .await;
    site.platform.rotate_token(TOKEN, new);
    let rotated = Instant::now();
    let mark = site.server.audit().mark();
    fleet.add("m-1").await;
    site.until("made with the new token", |site| is_well(site, "m-1"))
        .await;
    println!(
        "a new token: the next machine is up after {:?}",
        rotated.elapsed()
    );
    assert!(rotated.elapsed() < Duration::from_secs(60));
    assert_eq!(reads(&site, mark), 1);
    assert!(is_well(&site, "m-0"));
}

/// A wrong new secret is told in condition and Event, asked for again ever more slowly, and heals
/// by itself.
#[tokio::test(start_paused = true)]
async fn id_04_a_wrong_new_token_is_told_and_heals() {
    let (site, fleet) = one_tenant().await;
    let new = "33333333-0000-4000-8000-000000000003";
    site.platform.rotate_token(TOKEN, new);
    let mark = site.server.audit().mark();
    let wrong = "44444444-0000-4000-8000-000000000004";
    fleet
        .patch("Secret", SECRET, json!({"stringData": {"secret": wrong}}))
        .await;
    let is_refused = |object: &Value| ready(object) == Some("Unknown");
    let the_cluster = |site: &Site| site.server.object(CLUSTERS, NAMESPACE, "fleet").unwrap();
    site.until("refused", |site| {
        is_refused(&site.machine("m-0").unwrap()) && is_refused(&the_cluster(site))
    })
    .await;
    for object in [site.machine("m-0").unwrap(), the_cluster(&site)] {
        let message = message(&object);
        assert!(message.contains("credentials Secret"), "{message}");
        assert!(!message.contains(wrong), "{message}");
    }
    for name in ["m-0", "fleet"] {
        let events = site.events(name);
        let is_told = events
            .iter()
            .any(|(reason, _)| reason == "CredentialsRefused");
        assert!(is_told, "{name}: {events:?}");
    }
    tokio::time::sleep(Duration::from_secs(600)).await;
    let count = reads(&site, mark);
    println!("a wrong token for ten minutes: {count} reads of the Secret");
    assert!((8..=18).contains(&count), "{count}");
    // What was provisioned stays so.
    assert!(is_provisioned(&site.machine("m-0").unwrap()));
    fleet
        .patch("Secret", SECRET, json!({"stringData": {"secret": new}}))
        .await;
    let corrected = Instant::now();
    site.until("well again", |site| {
        is_well(site, "m-0") && ready(&the_cluster(site)) == Some("True")
    })
    .await;
    let took = corrected.elapsed();
    println!("a corrected token is in use after {took:?}");
    assert!(took <= REREAD_MAX * 3 / 2, "{took:?}");
    assert_eq!(site.platform.vms_left().len(), 1);
}

fn the_secret(site: &Site) -> Option<Value> {
    site.server.object("secrets", NAMESPACE, SECRET)
}

/// The Secret has the finalizer, and so many owners.
fn is_kept(site: &Site, owners: usize) -> bool {
    the_secret(site).is_some_and(|secret| {
        let meta = &secret["metadata"];
        let list = |field: &str| meta[field].as_array().cloned().unwrap_or_default();
        let finalizer = json!(provider_proxmox::api::CREDENTIALS_FINALIZER);
        list("finalizers").contains(&finalizer) && list("ownerReferences").len() == owners
    })
}

/// ID-02: everything is deleted at once, and the credentials are still there for the teardown. The
/// Secret goes with its cluster.
#[tokio::test(start_paused = true)]
async fn id_02_credentials_stay_until_their_cluster_is_gone() {
    let (site, fleet) = one_tenant().await;
    site.until("kept", |site| is_kept(site, 1)).await;
    let mark = site.server.audit().mark();
    fleet.remove("Secret", SECRET).await;
    fleet.remove("ProxmoxCluster", "fleet").await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(is_kept(&site, 1), "the cluster has a machine");
    fleet.delete("m-0").await;
    site.until("gone", |site| the_secret(site).is_none()).await;
    assert_eq!(site.platform.vms_left(), []);
    assert_eq!(site.server.objects(CLUSTERS), [Value::Null; 0]);
    let listed = site.server.audit().since(mark);
    let listed = listed.iter().any(|record| {
        record.actor == PROVIDER && record.resource == "secrets" && record.verb == "list"
    });
    assert!(!listed);
}

/// ID-02: a cluster that names another Secret lets the first one go.
#[tokio::test(start_paused = true)]
async fn id_02_a_secret_that_is_not_named_any_more_is_let_go() {
    let (site, fleet) = one_tenant().await;
    site.until("kept", |site| is_kept(site, 1)).await;
    let (_, secret) = site.platform.token();
    fleet.secret("other", login(EAST, &secret)).await;
    let other = json!({"spec": {"credentialsRef": {"name": "other"}}});
    fleet.patch("ProxmoxCluster", "fleet", other).await;
    site.until("let go", |site| !is_kept(site, 1)).await;
    fleet.remove("Secret", SECRET).await;
    site.until("gone", |site| the_secret(site).is_none()).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(is_well(&site, "m-0"));
}

/// Machines that lack a right do not stop the others of the same token.
#[tokio::test(start_paused = true)]
async fn machines_without_rights_do_not_disturb_their_neighbours() {
    let site = Site::new(Builder::new().build());
    let fleet = Fleet::create(&site).await;
    let well: Vec<String> = (0..6).map(|n| format!("m-{n}")).collect();
    for name in &well {
        fleet.add(name).await;
    }
    site.start();
    let all_well = |site: &Site| well.iter().all(|name| is_well(site, name));
    site.until("well", all_well).await;
    site.platform.withdraw(TOKEN, "VM.Clone");
    let refused: Vec<String> = (0..4).map(|n| format!("x-{n}")).collect();
    for name in &refused {
        fleet.add(name).await;
    }
    site.until("refused", |site| {
        let mut machines = refused.iter().map(|name| site.machine(name).unwrap());
        machines.all(|machine| message(&machine).contains("grant VM.Clone"))
    })
    .await;
    let mark = site.server.audit().mark();
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(all_well(&site));
    // They were not even written to.
    let writes = site.server.audit().since(mark);
    let writes: Vec<_> = writes
        .iter()
        .filter(|record| record.is_write() && well.contains(&record.name))
        .collect();
    assert!(writes.is_empty(), "{writes:#?}");
}
