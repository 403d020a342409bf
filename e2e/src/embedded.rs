//! The embedded API server in the place of the real one, for programs that do not know the difference.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use capi_testkit::apiserver::{ApiServer, Authorization, TlsFace};

use crate::certificate::Authority;
use crate::failure::Failure;
use crate::management::{Management, Ports, client};
use crate::process;
use crate::site::Site;

/// An embedded API server that is served over TLS, with roles and bindings that decide.
#[derive(Debug)]
pub struct Embedded {
    /// The server.
    pub server: ApiServer,
    /// What the programs and a person's hands need of it.
    pub management: Management,
    _face: TlsFace,
}

impl Embedded {
    /// Serves an empty one at the place that the real API server would have.
    ///
    /// # Errors
    ///
    /// A port that is taken, files that cannot be written.
    pub async fn start(site: Site, ports: Ports) -> Result<Self, Failure> {
        process::stop(&site, None)?;
        ports.free().await?;
        site.clear()?;
        let server = ApiServer::builder()
            .authorization(Authorization::Rbac)
            .build();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, ports.api()));
        let face = server.serve_tls(address).await?;
        // The face keeps its authority's key to itself; who trusts both trusts the webhooks, too.
        let webhooks = Authority::new("capi-rs-e2e-webhooks")?;
        let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST)];
        let serving = webhooks.serving("webhooks", &["localhost"], &loopback)?;
        site.write("webhooks/tls.crt", &serving.certificate)?;
        site.write("webhooks/tls.key", &serving.key)?;
        let admin = face.kubeconfig("admin", &["system:masters"])?;
        let kubeconfig = site.write("admin.kubeconfig", &admin)?;
        let management = Management {
            client: client(&kubeconfig).await?,
            authority: format!("{}{}", face.certificate_authority(), webhooks.certificate()),
            site,
            ports,
            kubeconfig,
        };
        Ok(Self {
            server,
            management,
            _face: face,
        })
    }
}
