//! Proxmox VE, played over HTTPS, and the program of its provider.

use std::net::{Ipv4Addr, SocketAddr};

use pve_sim::{Builder, Delays, Guests, Platform, Server, TemplateSpec};

use crate::failure::Failure;
use crate::provider::{Program, ProviderError};

/// The program, also the process's name.
pub const PROGRAM: &str = "provider-proxmox";
/// Where its manifests put it, and under whose account it runs there.
pub const NAMESPACE: &str = "capmox-system";
/// The service account.
pub const ACCOUNT: &str = "capmox-manager";
/// The template that examples clone.
pub const TEMPLATE: u32 = 9000;

/// A simulated Proxmox VE that is served.
#[derive(Debug)]
pub struct Proxmox {
    /// What is in it, and what was done to it.
    pub platform: Platform,
    server: Server,
}

impl Proxmox {
    /// A cluster with the template of the examples, whose VMs boot these guests. It and they go
    /// `speed` times as fast as in life.
    ///
    /// # Errors
    ///
    /// No port, no certificate.
    pub async fn start(guests: Guests, speed: f64) -> Result<Self, Failure> {
        Self::with(guests, speed, Delays::default()).await
    }

    /// As [`Proxmox::start`], with other delays.
    ///
    /// # Errors
    ///
    /// No port, no certificate.
    pub async fn with(guests: Guests, speed: f64, delays: Delays) -> Result<Self, Failure> {
        let template = TemplateSpec::new(TEMPLATE, "pve1", "ubuntu-2404-kube-v1.36.0");
        let platform = Builder::new()
            .template(template.storage("shared"))
            .delays(delays)
            .speed(speed)
            .guests(guests)
            .build();
        let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let server = platform.serve(any_port).await?;
        Ok(Self { platform, server })
    }

    /// The provider's program, told where this Proxmox VE is and how to come in.
    ///
    /// # Errors
    ///
    /// As [`Program::built`].
    pub fn program(&self) -> Result<Program, ProviderError> {
        let (token, secret) = self.platform.token();
        let program = Program::built(PROGRAM, NAMESPACE, ACCOUNT)?;
        Ok(program
            .variable("PROXMOX_URL", self.server.url())
            .variable("PROXMOX_TOKEN", token)
            .variable("PROXMOX_SECRET", secret)
            .variable("PROXMOX_ROOT_CA", self.server.ca_pem()))
    }

    /// Fails unless everything that was made is gone, and nothing was made twice or taken from
    /// somebody else.
    ///
    /// # Errors
    ///
    /// What is left, doubled or touched.
    pub fn check_clean(&self) -> Result<(), Failure> {
        let platform = &self.platform;
        let mut wrong = String::new();
        let mut check = |what: &str, count: usize, shown: String| {
            if count > 0 {
                wrong += &format!("{count} {what}: {shown}\n");
            }
        };
        let vms = platform.vms_left();
        check("VMs left", vms.len(), format!("{vms:?}"));
        let isos = platform.isos_left();
        check("seeds left", isos.len(), format!("{isos:?}"));
        let disks = platform.disks_left();
        check("disks left", disks.len(), format!("{disks:?}"));
        let twins = platform.twins();
        check("twins", twins.len(), format!("{twins:?}"));
        let touched = platform.strangers_touched();
        check("strangers touched", touched.len(), format!("{touched:?}"));
        if wrong.is_empty() {
            return Ok(());
        }
        Err(Failure::new(wrong))
    }
}
