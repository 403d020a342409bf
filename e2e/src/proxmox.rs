//! Proxmox VE, played over HTTPS, and the program of its provider.

use std::net::{Ipv4Addr, SocketAddr};

use futures::future::BoxFuture;
use pve_sim::{Builder, Guests, Platform, Server, TemplateSpec};
use serde_json::Value;

use crate::failure::Failure;
use crate::infrastructure::{Change, Infrastructure, Names, example, nothing, shown};
use crate::provider::{Program, ProviderError};

/// How the provider is called.
pub const NAMES: Names = Names {
    provider: "proxmox",
    kinds: "Proxmox",
    program: "provider-proxmox",
    namespace: "capmox-system",
    account: "capmox-manager",
    deployment: "capmox-controller-manager",
};
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
        Self::serve(Self::builder().speed(speed).guests(guests)).await
    }

    /// A cluster with the template of the examples, to be filled further.
    #[must_use]
    pub fn builder() -> Builder {
        let template = TemplateSpec::new(TEMPLATE, "pve1", "ubuntu-2404-kube-v1.36.0");
        Builder::new().template(template.storage("shared"))
    }

    /// Serves a cluster.
    ///
    /// # Errors
    ///
    /// No port, no certificate.
    pub async fn serve(builder: Builder) -> Result<Self, Failure> {
        let platform = builder.build();
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
        let program = NAMES.built()?;
        let variables = self.variables(&token, &secret).into_iter();
        Ok(variables.fold(program, |program, (name, value)| {
            program.variable(name, value)
        }))
    }

    /// The variables that tell a provider where this Proxmox VE is, and how to come in with a token.
    #[must_use]
    pub fn variables(&self, token: &str, secret: &str) -> [(&'static str, String); 4] {
        [
            ("PROXMOX_URL", self.server.url()),
            ("PROXMOX_TOKEN", token.to_owned()),
            ("PROXMOX_SECRET", secret.to_owned()),
            ("PROXMOX_ROOT_CA", self.server.ca_pem().to_owned()),
        ]
    }

    /// Fails unless everything that was made is gone, and nothing was made twice or taken from
    /// somebody else.
    ///
    /// # Errors
    ///
    /// What is left, doubled or touched.
    pub fn check_clean(&self) -> Result<(), Failure> {
        let platform = &self.platform;
        nothing(&[
            ("VMs left", shown(&platform.vms_left())),
            ("seeds left", self.seeds()),
            ("disks left", shown(&platform.disks_left())),
            ("twins", self.twins()),
            ("strangers touched", shown(&platform.strangers_touched())),
        ])
    }
}

impl Infrastructure for Proxmox {
    fn names(&self) -> Names {
        NAMES
    }

    fn program(&self) -> Result<Program, ProviderError> {
        Proxmox::program(self)
    }

    /// Credentials are variables of the program.
    fn prerequisites(&self) -> Vec<Value> {
        Vec::new()
    }

    fn cluster(&self, name: &str, network: u8) -> Result<Vec<Value>, Failure> {
        cluster(name, &format!("127.{network}.0"))
    }

    fn vms(&self) -> Vec<String> {
        let all = self.platform.vms_left().into_iter();
        all.map(|vm| vm.vmid.to_string()).collect()
    }

    fn vm_of(&self, machine: &Value) -> Option<String> {
        let id = machine["spec"]["providerID"].as_str()?;
        let uuid = id.strip_prefix("proxmox://")?;
        let vms = self.platform.vms_left();
        let vm = vms.iter().find(|vm| vm.uuid() == Some(uuid))?;
        Some(vm.vmid.to_string())
    }

    fn births(&self) -> usize {
        self.platform.births().len()
    }

    fn twins(&self) -> Vec<String> {
        shown(&self.platform.twins())
    }

    fn seeds(&self) -> Vec<String> {
        shown(&self.platform.isos_left())
    }

    fn is_idle(&self) -> bool {
        self.platform.tasks_running() == 0
    }

    fn destroy<'a>(&'a self, vm: &'a str) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            if self.platform.destroy_behind_back(vm.parse()?) {
                return Ok(());
            }
            Err(Failure::new(format!("VM {vm} is not there")))
        })
    }

    fn console(&self, vm: &str) -> Vec<String> {
        vm.parse()
            .map(|vmid| self.platform.console(vmid))
            .unwrap_or_default()
    }

    fn changes(&self) -> Result<Vec<Change>, Failure> {
        let audit = self.platform.audit();
        let changes = audit.mutations().map(|one| Change {
            by: one.token.clone(),
            what: format!("{} {}: {}", one.method, one.path, one.status),
        });
        Ok(changes.collect())
    }

    fn check_clean(&self) -> Result<(), Failure> {
        Proxmox::check_clean(self)
    }
}

/// The cluster of the quick start under another name, with its addresses in this network of 24 bits
/// inside 127.0.0.0/8, such as `127.20.0`, where real programs can listen on them.
fn cluster(name: &str, network: &str) -> Result<Vec<Value>, Failure> {
    let text = include_str!("../../examples/quickstart/cluster.yaml");
    example(text, |text| {
        let text = text.replace("10.20.0.", &format!("{network}."));
        text.replace("demo", name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_example_moves_into_another_network() {
        let objects = cluster("blue", "127.20.3").expect("the example is sound");
        let text = serde_json::to_string(&objects).expect("values");
        assert!(
            !text.contains("10.20.0.") && !text.contains("demo"),
            "{text}"
        );
        assert!(text.contains("127.20.3.10-127.20.3.99"), "{text}");
        assert_eq!(objects[0]["metadata"]["name"], "blue");
    }
}
