//! The program as its users have it: a process, with real TLS to Kubernetes and to Proxmox VE.

mod doctor;
mod manifests;
mod replicas;
mod rights;
mod webhooks;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use capi_testkit::apiserver::{ApiServer, Authorization, TlsFace, User};
use capi_testkit::crds;
use capi_testkit::ipam::Ipam;
use kube::api::{Api, ApiResource, DynamicObject, PostParams};
use kube::core::GroupVersionKind;
use pve_sim::{Platform, Server};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use crate::site::Site;

/// The program under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_provider-proxmox");

/// Where and as whom the manifests let it run.
const HOME: &str = "capmox-system";
const ACCOUNT: &str = "capmox-manager";
const LEASE: &str = "controller-leader-elect-capmox";
const LEASES: &str = "leases.coordination.k8s.io";

/// Longer than anything here takes, also on a machine that does much else: an unanswered request is
/// waited out for 90 s.
const LIMIT: Duration = Duration::from_secs(180);

/// Groups whose kinds other programs install.
const OTHERS: [&str; 1] = ["cert-manager.io"];

/// What `manifests` prints.
fn manifests(flags: &[&str]) -> Vec<Value> {
    documents(&output("manifests", flags))
}

/// The standard output of a command that has to succeed.
pub(crate) fn output(command: &str, flags: &[&str]) -> String {
    let run = std::process::Command::new(PROGRAM)
        .arg(command)
        .args(flags)
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{command} {flags:?}: {told}");
    String::from_utf8(run.stdout).unwrap()
}

fn documents(yaml: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(yaml).unwrap()
}

/// A management cluster with rights enforced, the manifests applied, IPAM, and a platform, both behind
/// TLS.
struct Stage {
    site: Site,
    kubernetes: TlsFace,
    proxmox: Server,
    files: TempDir,
}

impl Stage {
    async fn new(platform: Platform) -> Self {
        let server = ApiServer::builder()
            .authorization(Authorization::Rbac)
            .build();
        let published = [
            "clusters.cluster.x-k8s.io",
            "machines.cluster.x-k8s.io",
            "ipaddressclaims.ipam.cluster.x-k8s.io",
            "ipaddresses.ipam.cluster.x-k8s.io",
            "inclusterippools.ipam.cluster.x-k8s.io",
            "globalinclusterippools.ipam.cluster.x-k8s.io",
        ];
        let published = published.map(|name| crds::named(name).unwrap());
        server.install_crds(published).unwrap();
        let anywhere = ([127, 0, 0, 1], 0).into();
        let stage = Self {
            kubernetes: server.serve_tls(anywhere).await.unwrap(),
            proxmox: platform.serve(anywhere).await.unwrap(),
            site: Site::of(server, platform),
            files: TempDir::new().unwrap(),
        };
        // Without webhooks: the API server calls them at the Service's name, which nobody serves here.
        for object in manifests(&["--without-webhooks"]) {
            stage.create(&object).await;
        }
        let ipam = stage.site.server.client("ipam");
        tokio::spawn(async move { match Ipam::builder(ipam).build().run().await {} });
        stage
    }

    async fn create(&self, object: &Value) {
        let version = object["apiVersion"].as_str().unwrap();
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        let kind = GroupVersionKind::gvk(group, version, object["kind"].as_str().unwrap());
        let client = self.site.server.client("installer");
        let resource = ApiResource::from_gvk(&kind);
        let api: Api<DynamicObject> = match object["metadata"]["namespace"].as_str() {
            Some(namespace) => Api::namespaced_with(client, namespace, &resource),
            None => Api::all_with(client, &resource),
        };
        let object = serde_json::from_value(object.clone()).unwrap();
        api.create(&PostParams::default(), &object).await.unwrap();
    }

    /// A kubeconfig with a token of the manifests' service account.
    fn kubeconfig(&self) -> PathBuf {
        let user = User::service_account(HOME, ACCOUNT);
        let path = self.files.path().join("kubeconfig");
        std::fs::write(&path, self.kubernetes.token_kubeconfig(&user)).unwrap();
        path
    }

    /// Starts a replica with a short lease.
    fn start(&self, name: &str, more: &[&str]) -> Replica {
        let (token, secret) = self.site.platform.token();
        let log = self.files.path().join(format!("{name}.log"));
        let child = Command::new(PROGRAM)
            .arg("run")
            .arg("--kubeconfig")
            .arg(self.kubeconfig())
            .args(["--leader-elect", "--leader-elect-namespace", HOME])
            .args(["--leader-elect-lease-duration=3s"])
            .args(["--leader-elect-renew-deadline=2s"])
            .args(["--leader-elect-retry-period=300ms"])
            .args(["--health-addr=0", "--logging-format=json", "-v4"])
            .args(more)
            .env_remove("RUST_LOG")
            .env("PROXMOX_URL", self.proxmox.url())
            .env("PROXMOX_TOKEN", token)
            .env("PROXMOX_SECRET", secret)
            .env("PROXMOX_FINGERPRINT", self.proxmox.fingerprint())
            .stderr(std::fs::File::create(&log).unwrap())
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Replica { child, log }
    }

    /// Waits for this to become true, and says how long it took.
    async fn until(&self, what: &str, is_so: impl Fn() -> bool) -> Duration {
        let begun = Instant::now();
        while !is_so() {
            assert!(begun.elapsed() < LIMIT, "never {what}: {}", self.logs());
            sleep(Duration::from_millis(20)).await;
        }
        begun.elapsed()
    }

    /// The last lines of all logs.
    fn logs(&self) -> String {
        let mut all = String::new();
        for file in std::fs::read_dir(self.files.path()).unwrap() {
            let path = file.unwrap().path();
            if path.extension().is_some_and(|it| it == "log") {
                let text = std::fs::read_to_string(&path).unwrap();
                let lines: Vec<_> = text.lines().collect();
                let last = lines[lines.len().saturating_sub(40)..].join("\n");
                all.push_str(&format!("\n{}\n{last}", path.display()));
            }
        }
        all
    }

    /// Who holds the lease; empty if nobody does.
    fn holder(&self) -> String {
        let lease = self.site.server.object(LEASES, HOME, LEASE);
        let holder = lease.map(|lease| lease["spec"]["holderIdentity"].clone());
        let holder = holder.as_ref().and_then(Value::as_str).unwrap_or_default();
        holder.to_owned()
    }
}

/// A process of the program.
struct Replica {
    child: Child,
    log: PathBuf,
}

impl Replica {
    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    fn signal(&self, signal: &str) {
        let id = self.child.id().unwrap();
        let sent = std::process::Command::new("sh")
            .args(["-c", &format!("kill -{signal} {id}")])
            .status();
        assert!(sent.unwrap().success());
    }

    /// Waits for its end, and says with which code.
    async fn ended(&mut self) -> Option<i32> {
        let ended = tokio::time::timeout(LIMIT, self.child.wait()).await;
        ended.unwrap().unwrap().code()
    }
}

/// Compares a text with the stored one; `UPDATE_GOLDEN=1` stores it.
fn golden(name: &str, text: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/program/golden");
    let path = folder.join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(&path, text).unwrap();
    }
    let stored = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        stored == text,
        "{} is out of date: run with UPDATE_GOLDEN=1 and review the difference",
        path.display()
    );
}
