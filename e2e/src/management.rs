//! A management cluster of real programs: etcd, kube-apiserver, kube-controller-manager.
//!
//! Plain processes on loopback: no container, kubelet, scheduler, DNS or service network.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::time::{Instant, sleep};

use crate::certificate::{Authority, Pair};
use crate::process::{self, Launch, ProcessError};
use crate::site::{Site, SiteError};
use crate::tool::{ETCD, KUBE_APISERVER, KUBE_CONTROLLER_MANAGER, ToolError};

/// Addresses of Services; nothing routes them, but the API server wants a range.
const SERVICES: &str = "10.96.0.0/16";
/// The first of them, under which the API server would be reached from inside.
const FIRST_SERVICE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1));
/// Controllers that Cluster API needs. Aggregation of roles is one: the managers' rights are
/// aggregated, and empty without it. None may look after nodes and volumes: in an infra cluster these are
/// played.
const CONTROLLERS: &str = "garbage-collector-controller,namespace-controller,\
                           serviceaccount-controller,root-ca-certificate-publisher-controller,\
                           clusterrole-aggregation-controller";
/// Every request with who made it. A watch is noted when it is answered, and only if a service account
/// opens it: none may be forbidden, and none may be of Secrets. What the managers of Cluster API write to infrastructure is there with its content, to be
/// compared with what their simulator writes; no other content is, since it holds Secrets.
const AUDIT_POLICY: &str = "\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - level: Metadata
    verbs: [watch]
    userGroups: [system:serviceaccounts]
    omitStages: [RequestReceived, ResponseComplete]
  - level: None
    verbs: [watch]
  - level: Request
    users:
      - system:serviceaccount:capi-system:capi-manager
      - system:serviceaccount:capi-kubeadm-control-plane-system:capi-kubeadm-control-plane-manager
    verbs: [create, update, patch, delete]
    resources: [{group: infrastructure.cluster.x-k8s.io}]
  - level: Metadata
";
/// How long a program may take to be ready. Idle it takes three seconds; a busy machine twice that.
const READY_WITHIN: Duration = Duration::from_secs(90);
/// How long the ports of killed processes may stay taken.
const FREE_WITHIN: Duration = Duration::from_secs(5);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);

/// Why the management cluster is not there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManagementError {
    /// A program could not be built.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// A file could not be written.
    #[error(transparent)]
    Site(#[from] SiteError),
    /// A process could not be started, or ended.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// A certificate could not be made.
    #[error("make a certificate")]
    Certificate(#[from] rcgen::Error),
    /// A port is taken.
    #[error(
        "listen on 127.0.0.1:{0}: the port is taken; end what holds it or choose another --port"
    )]
    Port(u16, #[source] std::io::Error),
    /// The API server cannot be spoken to.
    #[error("connect to the API server")]
    Connect(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A program is not ready in time.
    #[error("{name} is not ready after {} s; its log is {}", READY_WITHIN.as_secs(), log.display())]
    NotReady {
        /// The program.
        name: &'static str,
        /// Where its log lies.
        log: PathBuf,
    },
}

/// Ports of one run, from a base on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports(pub u16);

impl Ports {
    /// etcd, for its clients.
    #[must_use]
    pub fn etcd(self) -> u16 {
        self.0
    }

    /// etcd, for its peers.
    #[must_use]
    pub fn etcd_peer(self) -> u16 {
        self.0 + 1
    }

    /// The API server.
    #[must_use]
    pub fn api(self) -> u16 {
        self.0 + 2
    }

    /// The controller manager.
    #[must_use]
    pub fn controllers(self) -> u16 {
        self.0 + 3
    }

    /// Webhooks, health and metrics of the manager with this number.
    #[must_use]
    pub fn manager(self, number: u16) -> [u16; 3] {
        let first = self.0 + 10 + number * 3;
        [first, first + 1, first + 2]
    }

    /// Waits until those that a management cluster needs are free: what was just killed may hold them
    /// a moment longer.
    ///
    /// # Errors
    ///
    /// [`ManagementError::Port`].
    pub async fn free(self) -> Result<(), ManagementError> {
        let begun = Instant::now();
        while let Err(error) = self.check() {
            if begun.elapsed() > FREE_WITHIN {
                return Err(error);
            }
            sleep(LOOK).await;
        }
        Ok(())
    }

    fn check(self) -> Result<(), ManagementError> {
        for port in [
            self.etcd(),
            self.etcd_peer(),
            self.api(),
            self.controllers(),
        ] {
            std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port))
                .map_err(|error| ManagementError::Port(port, error))?;
        }
        Ok(())
    }
}

/// A management cluster that runs.
#[derive(Clone)]
pub struct Management {
    /// Its files.
    pub site: Site,
    /// Its ports.
    pub ports: Ports,
    /// An administrator's kubeconfig.
    pub kubeconfig: PathBuf,
    /// The certificate of its authority, as PEM.
    pub authority: String,
    /// An administrator's client.
    pub client: Client,
}

impl std::fmt::Debug for Management {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let at = self.site.directory();
        f.debug_struct("Management")
            .field("at", &at)
            .finish_non_exhaustive()
    }
}

impl Management {
    /// Starts a management cluster in an empty directory and waits until it answers.
    ///
    /// # Errors
    ///
    /// Everything that can be missing: programs, ports, time.
    pub async fn start(site: Site, ports: Ports) -> Result<Self, ManagementError> {
        let (etcd, apiserver) = (ETCD.build()?, KUBE_APISERVER.build()?);
        let controllers = KUBE_CONTROLLER_MANAGER.build()?;
        process::stop(&site, None)?;
        ports.free().await?;
        site.clear()?;
        let files = Files::write(&site, ports)?;
        let programs = [etcd, apiserver, controllers];
        let started = Self::launch(&site, ports, &files, programs).await;
        if started.is_err() {
            process::stop(&site, None)?;
        }
        Ok(Self {
            client: started?,
            site,
            ports,
            kubeconfig: files.admin,
            authority: files.authority,
        })
    }

    async fn launch(
        site: &Site,
        ports: Ports,
        files: &Files,
        [etcd, apiserver, controllers]: [PathBuf; 3],
    ) -> Result<Client, ManagementError> {
        process::start(site, &etcd_launch(site, ports, etcd))?;
        listening(site, ETCD.name, ports.etcd()).await?;
        process::start(site, &apiserver_launch(site, ports, apiserver, files))?;
        listening(site, KUBE_APISERVER.name, ports.api()).await?;
        let client = client(&files.admin).await?;
        answering(site, &client).await?;
        let launch = controllers_launch(site, ports, controllers, files);
        process::start(site, &launch)?;
        Ok(client)
    }

    /// Where the API server answers.
    #[must_use]
    pub fn url(&self) -> String {
        url(self.ports)
    }

    /// Ends all processes of the run.
    ///
    /// # Errors
    ///
    /// A process that cannot be ended.
    pub fn stop(&self) -> Result<usize, ProcessError> {
        process::stop(&self.site, None)
    }
}

fn url(ports: Ports) -> String {
    format!("https://127.0.0.1:{}", ports.api())
}

/// A client with a kubeconfig.
///
/// # Errors
///
/// A file that is no kubeconfig.
pub async fn client(kubeconfig: &Path) -> Result<Client, ManagementError> {
    let read = async {
        let file = Kubeconfig::read_from(kubeconfig)?;
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(file, &options).await?;
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(Client::try_from(config)?)
    };
    read.await.map_err(ManagementError::Connect)
}

/// What the programs read.
struct Files {
    authority: String,
    authority_path: PathBuf,
    serving: (PathBuf, PathBuf),
    /// What signs the tokens of service accounts, and what they are checked with.
    accounts: (PathBuf, PathBuf),
    audit: PathBuf,
    admin: PathBuf,
    controllers: PathBuf,
}

impl Files {
    fn write(site: &Site, ports: Ports) -> Result<Self, ManagementError> {
        let authority = Authority::new("capi-rs-e2e")?;
        let names = [
            "localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
        ];
        let addresses = [IpAddr::V4(Ipv4Addr::LOCALHOST), FIRST_SERVICE];
        let serving = authority.serving("kube-apiserver", &names, &addresses)?;
        // One certificate serves the webhooks of all managers.
        let webhooks = authority.serving("webhooks", &["localhost"], &addresses[..1])?;
        site.write("webhooks/tls.crt", &webhooks.certificate)?;
        site.write("webhooks/tls.key", &webhooks.key)?;
        let admin = authority.client("admin", Some("system:masters"))?;
        let controllers = authority.client("system:kube-controller-manager", None)?;
        let accounts = rcgen::KeyPair::generate()?;
        let kubeconfig = |user: &Pair| kubeconfig(&url(ports), authority.certificate(), user);
        Ok(Self {
            authority_path: site.write("certificates/ca.crt", authority.certificate())?,
            serving: (
                site.write("certificates/apiserver.crt", &serving.certificate)?,
                site.write("certificates/apiserver.key", &serving.key)?,
            ),
            accounts: (
                site.write(
                    "certificates/service-accounts.key",
                    &accounts.serialize_pem(),
                )?,
                site.write(
                    "certificates/service-accounts.pub",
                    &accounts.public_key_pem(),
                )?,
            ),
            audit: site.write("audit-policy.yaml", AUDIT_POLICY)?,
            admin: site.write("admin.kubeconfig", &kubeconfig(&admin))?,
            controllers: site.write("controllers.kubeconfig", &kubeconfig(&controllers))?,
            authority: authority.certificate().to_owned(),
        })
    }
}

/// A kubeconfig of a user with a certificate.
pub(crate) fn kubeconfig(url: &str, authority: &str, user: &Pair) -> String {
    let encode = |text: &str| {
        let bytes = k8s_openapi::ByteString(text.as_bytes().to_vec());
        serde_json::to_value(bytes)
            .ok()
            .and_then(|value| value.as_str().map(str::to_owned))
            .unwrap_or_default()
    };
    format!(
        "apiVersion: v1
kind: Config
current-context: e2e
clusters:
  - name: e2e
    cluster:
      server: {url}
      certificate-authority-data: {}
users:
  - name: e2e
    user:
      client-certificate-data: {}
      client-key-data: {}
contexts:
  - name: e2e
    context: {{cluster: e2e, user: e2e, namespace: default}}
",
        encode(authority),
        encode(&user.certificate),
        encode(&user.key),
    )
}

fn etcd_launch(site: &Site, ports: Ports, program: PathBuf) -> Launch {
    let clients = format!("http://127.0.0.1:{}", ports.etcd());
    let peers = format!("http://127.0.0.1:{}", ports.etcd_peer());
    let arguments = [
        format!("--data-dir={}", site.path("etcd").display()),
        format!("--listen-client-urls={clients}"),
        format!("--advertise-client-urls={clients}"),
        format!("--listen-peer-urls={peers}"),
        format!("--initial-advertise-peer-urls={peers}"),
        format!("--initial-cluster=default={peers}"),
        // What is lost in a power cut was made by a test.
        "--unsafe-no-fsync".to_owned(),
        "--log-level=warn".to_owned(),
    ];
    launch(ETCD.name, program, arguments)
}

fn apiserver_launch(site: &Site, ports: Ports, program: PathBuf, files: &Files) -> Launch {
    let path = |path: &Path| path.display().to_string();
    let arguments = [
        format!("--etcd-servers=http://127.0.0.1:{}", ports.etcd()),
        "--bind-address=127.0.0.1".to_owned(),
        "--advertise-address=127.0.0.1".to_owned(),
        format!("--secure-port={}", ports.api()),
        // A loopback address is no legal endpoint of a Service.
        "--endpoint-reconciler-type=none".to_owned(),
        "--authorization-mode=RBAC".to_owned(),
        "--anonymous-auth=false".to_owned(),
        format!("--client-ca-file={}", path(&files.authority_path)),
        format!("--tls-cert-file={}", path(&files.serving.0)),
        format!("--tls-private-key-file={}", path(&files.serving.1)),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        format!("--service-account-key-file={}", path(&files.accounts.1)),
        format!(
            "--service-account-signing-key-file={}",
            path(&files.accounts.0)
        ),
        format!("--service-cluster-ip-range={SERVICES}"),
        // As kubeadm has it: cloud controller managers of published templates run privileged.
        "--allow-privileged=true".to_owned(),
        // Finds rights on `/finalizers` that are missing (RB-02).
        "--enable-admission-plugins=OwnerReferencesPermissionEnforcement".to_owned(),
        format!("--cert-dir={}", path(&site.path("apiserver"))),
        format!("--audit-policy-file={}", path(&files.audit)),
        format!("--audit-log-path={}", path(&site.log("audit"))),
    ];
    launch(KUBE_APISERVER.name, program, arguments)
}

fn controllers_launch(site: &Site, ports: Ports, program: PathBuf, files: &Files) -> Launch {
    let path = |path: &Path| path.display().to_string();
    let arguments = [
        format!("--kubeconfig={}", path(&files.controllers)),
        format!("--controllers={CONTROLLERS}"),
        "--use-service-account-credentials".to_owned(),
        format!(
            "--service-account-private-key-file={}",
            path(&files.accounts.0)
        ),
        format!("--root-ca-file={}", path(&files.authority_path)),
        "--leader-elect=false".to_owned(),
        "--bind-address=127.0.0.1".to_owned(),
        format!("--secure-port={}", ports.controllers()),
        format!("--cert-dir={}", path(&site.path("controllers"))),
    ];
    launch(KUBE_CONTROLLER_MANAGER.name, program, arguments)
}

fn launch<const N: usize>(name: &str, program: PathBuf, arguments: [String; N]) -> Launch {
    Launch {
        name: name.to_owned(),
        program,
        arguments: arguments.into(),
        environment: Vec::new(),
    }
}

/// Waits until a program listens.
async fn listening(site: &Site, name: &'static str, port: u16) -> Result<(), ManagementError> {
    let begun = Instant::now();
    while tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port))
        .await
        .is_err()
    {
        wait(site, name, begun).await?;
    }
    Ok(())
}

/// Waits until the API server says that it is ready, and serves the account that the controller of
/// service accounts makes last.
async fn answering(site: &Site, client: &Client) -> Result<(), ManagementError> {
    let begun = Instant::now();
    loop {
        let request = http::Request::get("/readyz").body(Vec::new());
        if let Ok(request) = request
            && client.request_text(request).await.is_ok()
        {
            return Ok(());
        }
        wait(site, KUBE_APISERVER.name, begun).await?;
    }
}

async fn wait(site: &Site, name: &'static str, begun: Instant) -> Result<(), ManagementError> {
    process::check(site, name)?;
    if begun.elapsed() > READY_WITHIN {
        let log = site.log(name);
        return Err(ManagementError::NotReady { name, log });
    }
    sleep(LOOK).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_of_two_managers_do_not_meet() {
        let ports = Ports(26_000);
        let own = [
            ports.etcd(),
            ports.etcd_peer(),
            ports.api(),
            ports.controllers(),
        ];
        let mut all: Vec<_> = own.into();
        (0..4).for_each(|number| all.extend(ports.manager(number)));
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }

    #[test]
    fn a_taken_port_is_named() {
        let taken = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = taken.local_addr().expect("an address").port();
        let error = Ports(port).check().expect_err("it is taken").to_string();
        assert!(
            error.contains(&port.to_string()) && error.contains("--port"),
            "{error}"
        );
    }
}
