//! The two servers that are compared.

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};

use capi_testkit::apiserver::{ApiServer, TlsFace};
use e2e::apply::Applier;
use e2e::management::{Management, Ports};
use e2e::site::Site;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::Value;

use crate::cases;
use crate::webhook::Webhook;

/// Ports of the real server, away from those of `up`.
const PORTS: Ports = Ports(26_540);

/// A server, whichever.
pub(crate) struct Server {
    client: Client,
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
        let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
        let webhook = Webhook::serve().await?;
        let servers = Self {
            embedded: Server {
                client: Client::try_from(config)?,
                webhook: webhook.clone(),
            },
            real: Server {
                client: management.client.clone(),
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
