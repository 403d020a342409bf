//! The two servers that are compared.

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use capi_testkit::apiserver::{ApiServer, TlsFace};
use e2e::apply::Applier;
use e2e::management::{Management, Ports};
use e2e::site::Site;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};

use crate::cases;
use crate::webhook::Webhook;

/// Ports of the real server, away from those of `up`.
const PORTS: Ports = Ports(26_540);

/// Where a kube-apiserver writes down up to which revision the history was forgotten; all that share an
/// etcd watch it.
const COMPACTED: &str = "compact_rev_key";

/// Where a server keeps its objects.
enum Store {
    Embedded(ApiServer),
    /// The URL of etcd.
    Etcd(String),
}

/// A server, whichever.
pub(crate) struct Server {
    client: Client,
    store: Store,
    pub(crate) webhook: Webhook,
}

/// Both servers, with the same kinds.
pub(crate) struct Servers {
    pub(crate) embedded: Server,
    pub(crate) real: Server,
    management: Management,
    _face: TlsFace,
}

impl Servers {
    pub(crate) async fn start() -> Result<Self, Box<dyn Error>> {
        let management = Management::start(Site::named("conformance"), PORTS).await?;
        let started = Self::beside(management.clone()).await;
        if started.is_err() {
            management.stop()?;
        }
        started
    }

    /// Starts the embedded server beside the real one, and installs the same kinds in both.
    async fn beside(management: Management) -> Result<Self, Box<dyn Error>> {
        let api = ApiServer::new();
        let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let face = api.serve_tls(any_port).await?;
        let text = face.kubeconfig("admin", &["system:masters"])?;
        let config = Kubeconfig::from_yaml(&text)?;
        let embedded = client(config).await?;
        let config = Kubeconfig::read_from(&management.kubeconfig)?;
        let real = client(config).await?;
        let webhook = Webhook::serve().await?;
        let servers = Self {
            embedded: Server {
                client: embedded,
                store: Store::Embedded(api),
                webhook: webhook.clone(),
            },
            real: Server {
                client: real,
                store: Store::Etcd(format!("http://127.0.0.1:{}", management.ports.etcd())),
                webhook,
            },
            management,
            _face: face,
        };
        for server in [&servers.embedded, &servers.real] {
            let mut applier = Applier::new(server.client.clone());
            for definition in cases::definitions() {
                applier.apply(definition).await?;
            }
        }
        Ok(servers)
    }

    pub(crate) fn stop(&self) {
        if let Err(error) = self.management.stop() {
            eprintln!("error: {error}");
        }
    }
}

impl Server {
    /// Applies an object that a case begins with.
    pub(crate) async fn apply(&self, object: Value) -> Result<(), Box<dyn Error>> {
        Applier::new(self.client.clone()).apply(object).await?;
        Ok(())
    }

    /// Forgets the history, as a kube-apiserver has its etcd do every few minutes.
    pub(crate) async fn compact(&self) -> Result<(), Box<dyn Error>> {
        let etcd = match &self.store {
            Store::Embedded(api) => {
                api.compact();
                return Ok(());
            }
            Store::Etcd(url) => url,
        };
        let key = STANDARD.encode(COMPACTED);
        let held = ask(etcd, "range", &json!({"key": key})).await?;
        let revision = held["header"]["revision"].as_str().unwrap_or_default();
        let value = STANDARD.encode(revision);
        ask(etcd, "put", &json!({"key": key, "value": value})).await?;
        let compaction = json!({"revision": revision, "physical": true});
        ask(etcd, "compaction", &compaction).await?;
        Ok(())
    }

    /// Sends a request and reads the whole answer.
    pub(crate) async fn send(
        &self,
        request: Request<Vec<u8>>,
    ) -> Result<Response<String>, Box<dyn Error>> {
        let answer = self.client.send(request.map(Body::from)).await?;
        let (parts, body) = answer.into_parts();
        let bytes = body.collect().await?.to_bytes();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Ok(Response::from_parts(parts, text))
    }
}

/// A client that shows every answer: a refusal for now, too.
async fn client(config: Kubeconfig) -> Result<Client, Box<dyn Error>> {
    let options = KubeConfigOptions::default();
    let mut config = Config::from_custom_kubeconfig(config, &options).await?;
    config.default_retry = false;
    Ok(Client::try_from(config)?)
}

/// A call of etcd, by its JSON gateway.
async fn ask(etcd: &str, method: &str, body: &Value) -> Result<Value, Box<dyn Error>> {
    let url = format!("{etcd}/v3/kv/{method}");
    let answer = reqwest::Client::new().post(url).json(body).send().await?;
    Ok(answer.error_for_status()?.json().await?)
}
