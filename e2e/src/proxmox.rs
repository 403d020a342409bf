//! Proxmox VE, played over HTTPS, and the program of its provider.

use std::net::{Ipv4Addr, SocketAddr};

use pve_sim::{Builder, Guests, Platform, Server, TemplateSpec};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::provider::{Program, ProviderError};
use crate::workload::ExternalEtcd;

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
        let program = Program::built(PROGRAM, NAMESPACE, ACCOUNT)?;
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

    /// The last lines on the consoles of all VMs, for whoever wonders why a node is missing.
    #[must_use]
    pub fn consoles(&self) -> String {
        /// Enough for what kubeadm said last.
        const LINES: usize = 4;
        let mut text = String::new();
        for vm in self.platform.vms_left() {
            let console = self.platform.console(vm.vmid);
            text += &format!("VM {} {}\n", vm.vmid, vm.name().unwrap_or_default());
            for line in &console[console.len().saturating_sub(LINES)..] {
                text += &format!("  {line}\n");
            }
        }
        text
    }
}

/// The cluster of the quick start under another name, with its addresses in this network of 24 bits
/// inside 127.0.0.0/8, such as `127.20.0`, where real programs can listen on them.
///
/// # Errors
///
/// An example that is broken.
pub fn cluster(name: &str, network: &str) -> Result<Vec<Value>, Failure> {
    let text = include_str!("../../examples/quickstart/cluster.yaml");
    let text = text.replace("10.20.0.", &format!("{network}."));
    Ok(serde_saphyr::from_multiple(&text.replace("demo", name))?)
}

/// Lets a cluster keep its state in an etcd of somebody else; the Secrets for it come first.
///
/// # Panics
///
/// Without a control plane among the objects.
#[must_use]
pub fn with_external_etcd(name: &str, mut objects: Vec<Value>, etcd: &ExternalEtcd) -> Vec<Value> {
    let control_plane = objects
        .iter_mut()
        .find(|object| object["kind"] == "KubeadmControlPlane")
        .expect("the cluster has a control plane");
    let pki = "/etc/kubernetes/pki";
    control_plane["spec"]["kubeadmConfigSpec"]["clusterConfiguration"]["etcd"]["external"] = json!({
        "endpoints": [etcd.url()],
        "caFile": format!("{pki}/etcd/ca.crt"),
        "certFile": format!("{pki}/apiserver-etcd-client.crt"),
        "keyFile": format!("{pki}/apiserver-etcd-client.key"),
    });
    let mut all = etcd.secrets(name);
    all.append(&mut objects);
    all
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
