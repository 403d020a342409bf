//! What `kubeadm init` and `kubeadm join` do, for real as far as the control plane goes.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use capi_testkit::guest::{Disk, ca_hash};
use capi_testkit::workload::{Endpoint, Entry, Join, Refused};
use k8s_openapi::ByteString;
use reqwest::{Certificate, Client, StatusCode};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::certificate::Pair;
use crate::failure::Failure;
use crate::workload::balancer::Balancer;
use crate::workload::certificates::{self, PKI};
use crate::workload::cluster::{Admin, Cluster};
use crate::workload::document::{self, Documents, Store};
use crate::workload::machine::Machine;
use crate::workload::{Member, Shared, address, etcd, failed, is_control_plane, node};

/// Under which name the API server of a machine is listed.
const APISERVER: &str = "kube-apiserver";
/// The stand-in of the kubelet.
const KUBELET: &str = "kubelet";
/// How long an API server may take to be ready; alone it takes three seconds.
const READY_WITHIN: Duration = Duration::from_secs(180);
/// How long a question over the network may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(200);
/// So many digits of an authority's hash tell clusters apart in a shared etcd.
const PREFIX: usize = 12;
/// Static pods of every control-plane machine.
const PODS: [&str; 3] = [
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
];

/// Lets a machine in, or says why not, in kubeadm's words.
pub(super) async fn admit(
    shared: &Arc<Shared>,
    machine: &Arc<Machine>,
    join: &Join,
    disk: &Disk,
) -> Result<(), Refused> {
    match &join.entry {
        Entry::Init { serves, .. } => init(shared, machine, join, disk, serves).await,
        Entry::Join {
            token,
            ca_hashes,
            serves,
        } => {
            let found = discover(&join.endpoint, token, ca_hashes).await?;
            if is_control_plane(join) {
                join_control_plane(shared, machine, join, disk, serves, &found).await
            } else {
                join_worker(shared, machine, join, &found).await
            }
        }
        Entry::Return => come_back(shared, machine, join).await,
        other => Err(Refused::Failed(format!("kubeadm does not know {other:?}"))),
    }
}

async fn init(
    shared: &Shared,
    machine: &Machine,
    join: &Join,
    disk: &Disk,
    serves: &[IpAddr],
) -> Result<(), Refused> {
    let endpoint = served(&join.endpoint, serves)?;
    if let Some(cluster) = shared.cluster(&join.endpoint) {
        return Err(Refused::AlreadyInitialised {
            endpoint: join.endpoint.clone(),
            by: cluster.made_by.clone(),
        });
    }
    let mut configuration = Documents::read(disk)?.get("ClusterConfiguration").clone();
    if configuration.is_null() {
        configuration = json!({});
    }
    configuration["kubernetesVersion"] = json!(join.node.kubernetes_version);
    let up = ControlPlane::prepare(machine, join, disk, &configuration).await?;
    if up.store == Store::Members {
        let program = shared.programs.etcd.clone();
        etcd::begin(machine, program, &join.node.name, up.address).await?;
    }
    up.start(shared, machine).await?;
    let bound = Balancer::bind(endpoint).await;
    let balancer = bound.map_err(|error| failed("announce the endpoint")(error.into()))?;
    let cluster = Cluster {
        ca_hash: up.ca_hash.clone(),
        made_by: machine.uuid.clone(),
        admin: Admin::new(&join.endpoint, &up.authority, &up.pair).await?,
        balancer,
    };
    shared.enter(&machine.uuid, up.member(join, serves), Some(cluster))?;
    let info = cluster_info(&join.endpoint, &up.authority);
    node::upload(&up.own, &configuration, &info).await?;
    up.register(join, &configuration).await
}

async fn join_control_plane(
    shared: &Shared,
    machine: &Machine,
    join: &Join,
    disk: &Disk,
    serves: &[IpAddr],
    found: &Found,
) -> Result<(), Refused> {
    let up = ControlPlane::prepare(machine, join, disk, &found.configuration).await?;
    if up.ca_hash != found.ca_hash {
        return Err(Refused::OtherCa {
            found: found.ca_hash.clone(),
        });
    }
    if up.store == Store::Members {
        let admin = Admin::new(&join.endpoint, &up.authority, &up.pair).await?;
        let listed = node::members(&admin).await;
        let urls = listed.map_err(failed("find the members of etcd"))?;
        let program = shared.programs.etcd.clone();
        etcd::join(machine, program, &join.node.name, up.address, &urls).await?;
    }
    up.start(shared, machine).await?;
    up.register(join, &found.configuration).await?;
    shared.enter(&machine.uuid, up.member(join, serves), None)
}

async fn join_worker(
    shared: &Shared,
    machine: &Machine,
    join: &Join,
    found: &Found,
) -> Result<(), Refused> {
    let cluster = shared.cluster(&join.endpoint);
    let cluster = cluster.filter(|cluster| cluster.ca_hash == found.ca_hash);
    let cluster = cluster.ok_or_else(|| unanswered(&join.endpoint))?;
    let member = Member {
        endpoint: join.endpoint.clone(),
        node: join.node.name.clone(),
        is_control_plane: false,
        serves: None,
    };
    shared.enter(&machine.uuid, member, None)?;
    let version = version(join, &found.configuration);
    node::register(&cluster.admin, &join.node, version, &[]).await
}

/// The machine was switched on again.
async fn come_back(shared: &Shared, machine: &Machine, join: &Join) -> Result<(), Refused> {
    let gone = || Refused::NodeGone {
        name: join.node.name.clone(),
    };
    let cluster = shared.cluster(&join.endpoint).ok_or_else(gone)?;
    machine.restart()?;
    if let Some(own) = machine.own() {
        ready(machine, &own).await?;
    }
    shared.came_back(&machine.uuid);
    node::came_back(&cluster.admin, &join.node).await
}

/// A control-plane machine on its way up.
struct ControlPlane {
    address: IpAddr,
    port: u16,
    store: Store,
    services: String,
    ca_hash: String,
    /// The cluster's authority, as PEM.
    authority: String,
    /// An administrator's.
    pair: Pair,
    /// An administrator of this machine's own API server.
    own: Admin,
}

impl ControlPlane {
    /// Takes the authorities from the disk and signs with them.
    async fn prepare(
        machine: &Machine,
        join: &Join,
        disk: &Disk,
        configuration: &Value,
    ) -> Result<Self, Refused> {
        let address = address(join)?;
        let port = Documents::read(disk)?.port();
        machine.unpack(disk)?;
        let authority = machine.read(&format!("{PKI}/ca.crt"))?;
        let services = document::services(configuration).to_owned();
        let mut reached = vec![address];
        reached.extend(document::first_service(&services));
        let pair = certificates::sign(machine, &join.node.name, &reached, &join.endpoint.host)?;
        let store = document::store(configuration);
        if store == Store::Members {
            certificates::sign_etcd(machine, &join.node.name, address)?;
        }
        let itself = Endpoint::new(address.to_string(), port);
        Ok(Self {
            own: Admin::new(&itself, &authority, &pair).await?,
            ca_hash: hash(&authority)?,
            address,
            port,
            store,
            services,
            authority,
            pair,
        })
    }

    /// Starts API server and kubelet, and waits until the former is ready.
    async fn start(&self, shared: &Shared, machine: &Machine) -> Result<(), Refused> {
        let arguments = self.apiserver(machine);
        machine.start(APISERVER, shared.programs.apiserver.clone(), arguments)?;
        let path = |name: &str| machine.path(&format!("{PKI}/{name}")).display().to_string();
        let arguments = vec![
            format!("-address={}", self.address),
            format!("-port={}", node::KUBELET_PORT),
            format!("-tls-cert-file={}", path("kubelet.crt")),
            format!("-tls-private-key-file={}", path("kubelet.key")),
            format!("-client-ca-file={}", path("ca.crt")),
        ];
        machine.start(KUBELET, shared.programs.kubelet.clone(), arguments)?;
        machine.keep(self.own.clone());
        ready(machine, &self.own).await
    }

    /// The arguments that kubeadm gives an API server, and those that loopback needs.
    fn apiserver(&self, machine: &Machine) -> Vec<String> {
        let path = |name: &str| machine.path(&format!("{PKI}/{name}")).display().to_string();
        let mut all = vec![
            format!("--advertise-address={}", self.address),
            format!("--bind-address={}", self.address),
            format!("--secure-port={}", self.port),
            // A loopback address is no legal endpoint of a Service.
            "--endpoint-reconciler-type=none".to_owned(),
            "--allow-privileged=true".to_owned(),
            "--authorization-mode=Node,RBAC".to_owned(),
            "--enable-admission-plugins=NodeRestriction".to_owned(),
            "--enable-bootstrap-token-auth=true".to_owned(),
            format!("--client-ca-file={}", path("ca.crt")),
            format!("--tls-cert-file={}", path("apiserver.crt")),
            format!("--tls-private-key-file={}", path("apiserver.key")),
            format!(
                "--kubelet-client-certificate={}",
                path("apiserver-kubelet-client.crt")
            ),
            format!(
                "--kubelet-client-key={}",
                path("apiserver-kubelet-client.key")
            ),
            "--kubelet-preferred-address-types=InternalIP".to_owned(),
            format!("--kubelet-certificate-authority={}", path("ca.crt")),
            format!(
                "--proxy-client-cert-file={}",
                path("front-proxy-client.crt")
            ),
            format!("--proxy-client-key-file={}", path("front-proxy-client.key")),
            format!(
                "--requestheader-client-ca-file={}",
                path("front-proxy-ca.crt")
            ),
            "--requestheader-allowed-names=front-proxy-client".to_owned(),
            "--requestheader-extra-headers-prefix=X-Remote-Extra-".to_owned(),
            "--requestheader-group-headers=X-Remote-Group".to_owned(),
            "--requestheader-username-headers=X-Remote-User".to_owned(),
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
            format!("--service-account-key-file={}", path("sa.pub")),
            format!("--service-account-signing-key-file={}", path("sa.key")),
            format!("--service-cluster-ip-range={}", self.services),
            format!(
                "--cert-dir={}",
                machine.path("/var/run/kubernetes").display()
            ),
        ];
        all.extend(self.etcd(machine));
        all
    }

    fn etcd(&self, machine: &Machine) -> Vec<String> {
        let path = |path: &str| machine.path(path).display().to_string();
        match &self.store {
            Store::Members => vec![
                format!("--etcd-servers={}", etcd::url(self.address)),
                format!("--etcd-cafile={}", path(&format!("{PKI}/etcd/ca.crt"))),
                format!(
                    "--etcd-certfile={}",
                    path(&format!("{PKI}/apiserver-etcd-client.crt"))
                ),
                format!(
                    "--etcd-keyfile={}",
                    path(&format!("{PKI}/apiserver-etcd-client.key"))
                ),
            ],
            Store::External {
                endpoints,
                authority,
                certificate,
                key,
            } => {
                let hex = self.ca_hash.trim_start_matches("sha256:");
                let cluster = hex.get(..PREFIX).unwrap_or(hex);
                vec![
                    format!("--etcd-servers={}", endpoints.join(",")),
                    format!("--etcd-cafile={}", path(authority)),
                    format!("--etcd-certfile={}", path(certificate)),
                    format!("--etcd-keyfile={}", path(key)),
                    // Clusters share it here, and one may have had the same name before.
                    format!("--etcd-prefix=/registry/{cluster}"),
                ]
            }
        }
    }

    async fn register(&self, join: &Join, configuration: &Value) -> Result<(), Refused> {
        let mut pods = PODS.to_vec();
        if self.store == Store::Members {
            pods.push("etcd");
        }
        let version = version(join, configuration);
        node::register(&self.own, &join.node, version, &pods).await
    }

    /// Behind the endpoint are the machines that kube-vip runs on.
    fn member(&self, join: &Join, serves: &[IpAddr]) -> Member {
        let is_behind = served(&join.endpoint, serves).is_ok();
        Member {
            endpoint: join.endpoint.clone(),
            node: join.node.name.clone(),
            is_control_plane: true,
            serves: is_behind.then(|| SocketAddr::from((self.address, self.port))),
        }
    }
}

/// The version of a machine's kubelet: that of its image, or what the cluster has.
fn version<'a>(join: &'a Join, configuration: &'a Value) -> &'a str {
    let own = join.node.kubernetes_version.as_str();
    if own.is_empty() {
        return configuration["kubernetesVersion"]
            .as_str()
            .unwrap_or_default();
    }
    own
}

async fn ready(machine: &Machine, own: &Admin) -> Result<(), Refused> {
    let begun = Instant::now();
    while !own.is_ready().await {
        machine
            .check(APISERVER)
            .map_err(failed("wait for the API server"))?;
        if begun.elapsed() > READY_WITHIN {
            return Err(Refused::Failed(
                "couldn't initialize a Kubernetes cluster: the API server is not ready".to_owned(),
            ));
        }
        sleep(LOOK).await;
    }
    Ok(())
}

/// The endpoint's address, if kube-vip, which the seed has to bring, holds it.
fn served(endpoint: &Endpoint, serves: &[IpAddr]) -> Result<SocketAddr, Refused> {
    let held = endpoint
        .address()
        .filter(|address| serves.contains(address));
    held.map(|address| SocketAddr::from((address, endpoint.port)))
        .ok_or_else(|| unanswered(endpoint))
}

fn unanswered(endpoint: &Endpoint) -> Refused {
    Refused::Unanswered {
        endpoint: endpoint.clone(),
        why: "no running control plane machine serves this address; it needs a kube-vip static pod",
    }
}

fn hash(authority: &str) -> Result<String, Refused> {
    let hash = ca_hash(&authority.as_bytes().to_vec().into());
    hash.ok_or_else(|| Refused::Failed("the cluster's authority is no certificate".to_owned()))
}

/// The kubeconfig without a user that anybody may read.
fn cluster_info(endpoint: &Endpoint, authority: &str) -> String {
    let authority = ByteString(authority.as_bytes().to_vec());
    let config = json!({"apiVersion": "v1", "kind": "Config", "clusters": [{"name": "",
        "cluster": {"server": format!("https://{endpoint}"),
            "certificate-authority-data": authority}}]});
    config.to_string()
}

/// What a newcomer finds behind the endpoint.
struct Found {
    ca_hash: String,
    configuration: Value,
}

/// kubeadm's discovery: reads the cluster's authority without trust, compares it with the pins, and then
/// reads the configuration with the bootstrap token.
async fn discover(endpoint: &Endpoint, token: &str, pins: &[String]) -> Result<Found, Refused> {
    let url = |namespace: &str, name: &str| {
        format!("https://{endpoint}/api/v1/namespaces/{namespace}/configmaps/{name}")
    };
    let build = |builder: reqwest::ClientBuilder| {
        let client = builder.timeout(ANSWER_WITHIN).build();
        client.map_err(|error| failed("make a client")(error.into()))
    };
    let trusting = build(Client::builder().tls_danger_accept_invalid_certs(true))?;
    let info = ask(
        &trusting,
        endpoint,
        &url("kube-public", "cluster-info"),
        None,
    )
    .await?;
    let authority = authority(&info).map_err(failed("read cluster-info"))?;
    let found = hash(&authority)?;
    // No pins mean that the seed says to go without.
    if !pins.is_empty() && !pins.contains(&found) {
        return Err(Refused::OtherCa { found });
    }
    let root = Certificate::from_pem(authority.as_bytes());
    let root = root.map_err(|error| failed("read cluster-info")(error.into()))?;
    let client = build(Client::builder().tls_certs_only([root]))?;
    let path = url("kube-system", "kubeadm-config");
    let config = ask(&client, endpoint, &path, Some(token)).await?;
    let text = config["data"]["ClusterConfiguration"].as_str();
    let configuration = serde_saphyr::from_str(text.unwrap_or_default())
        .map_err(|_| Refused::Failed("error unmarshaling kubeadm-config".to_owned()))?;
    Ok(Found {
        ca_hash: found,
        configuration,
    })
}

/// The authority that cluster-info names, as PEM.
fn authority(info: &Value) -> Result<String, Failure> {
    let text = info["data"]["kubeconfig"].as_str().unwrap_or_default();
    let config: Value = serde_saphyr::from_str(text)?;
    let data = &config["clusters"][0]["cluster"]["certificate-authority-data"];
    let bytes: ByteString = serde_json::from_value(data.clone())?;
    Ok(String::from_utf8(bytes.0)?)
}

async fn ask(
    client: &Client,
    endpoint: &Endpoint,
    url: &str,
    token: Option<&str>,
) -> Result<Value, Refused> {
    let mut request = client.get(url);
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    // Nobody listens, or not the one who will.
    let answer = request.send().await.map_err(|_| unanswered(endpoint))?;
    match answer.status() {
        StatusCode::UNAUTHORIZED => Err(Refused::UnknownToken),
        status if status.is_success() => answer.json().await.map_err(|_| unanswered(endpoint)),
        // What the first machine uploads is not there yet.
        _ => Err(unanswered(endpoint)),
    }
}
