//! The provider as a program: the library on the engine. What it says here is all that is its own.

use std::path::PathBuf;
use std::process::ExitCode;

use capi_contract::checkup::Checkup;
use capi_core::command::{self, BoxError, Program};
use capi_core::manifests::{Environment, Package, Series, Template};
use capi_core::serve::Webhooks;
use clap::Args;
use provider_proxmox::admission::{
    ClusterRules, ClusterTemplateRules, MachineRules, MachineTemplateRules,
};
use provider_proxmox::api;
use provider_proxmox::cluster::Clusters;
use provider_proxmox::connect::{Connector, Settings};
use provider_proxmox::doctor::{self, Wanted};
use provider_proxmox::machine::Machines;

/// The release series of CAPMOX, whose place this provider can take (CTL-02).
const SERIES: &[Series] = &[
    series(1, "v1beta1"),
    series(2, "v1beta1"),
    series(3, "v1beta1"),
    series(4, "v1beta1"),
    series(5, "v1beta1"),
    series(6, "v1beta1"),
    series(7, "v1beta1"),
    series(8, "v1beta2"),
    series(9, "v1beta2"),
];

const fn series(minor: u32, contract: &'static str) -> Series {
    Series {
        major: 0,
        minor,
        contract,
    }
}

/// Where CAPMOX takes its own credentials from.
const ENVIRONMENT: Environment = Environment {
    secret: "capmox-manager-credentials",
    variables: &[
        ("PROXMOX_URL", "url"),
        ("PROXMOX_TOKEN", "token"),
        ("PROXMOX_SECRET", "secret"),
        ("PROXMOX_ROOT_CA", "root_ca"),
        ("PROXMOX_FINGERPRINT", "fingerprint"),
        ("PROXMOX_INSECURE", "insecure"),
    ],
};

/// For `clusterctl generate cluster`.
const TEMPLATES: &[Template] = &[
    Template {
        file: "cluster-template.yaml",
        text: include_str!("../templates/cluster-template.yaml"),
    },
    Template {
        file: "cluster-template-topology.yaml",
        text: include_str!("../templates/cluster-template-topology.yaml"),
    },
    Template {
        file: "clusterclass-proxmox-v1.yaml",
        text: include_str!("../templates/clusterclass-proxmox-v1.yaml"),
    },
];

struct Proxmox;

/// Nothing beside the flags of every provider: credentials come from Secrets and the environment.
#[derive(Debug, Args)]
struct RunFlags {}

/// Whose credentials are looked at, and what for.
#[derive(Debug, Args)]
struct DoctorFlags {
    /// Credentials Secret of a cluster, NAMESPACE/NAME; PROXMOX_URL and so on if left out.
    #[arg(long, value_name = "SECRET")]
    secret: Option<String>,
    /// Kubeconfig for reading the Secret.
    #[arg(long, value_name = "FILE", requires = "secret")]
    kubeconfig: Option<PathBuf>,
    /// Proxmox VE node on which machines are to be placed; may be repeated. All if left out.
    #[arg(long, value_name = "NAME")]
    node: Vec<String>,
    /// VMID of a template that is to be cloned; may be repeated. All if left out.
    #[arg(long, value_name = "VMID")]
    template: Vec<u32>,
    /// Storage for disks; may be repeated. Any that takes images if left out.
    #[arg(long, value_name = "NAME")]
    storage: Vec<String>,
    /// Bridge or virtual network of the machines; may be repeated.
    #[arg(long, value_name = "NAME")]
    bridge: Vec<String>,
    /// Resource pool of the machines.
    #[arg(long, value_name = "NAME")]
    pool: Option<String>,
}

impl Program for Proxmox {
    type RunFlags = RunFlags;
    type DoctorFlags = DoctorFlags;
    type Connector = Connector;
    type Clusters = Clusters;
    type Machines = Machines;

    fn package() -> Package {
        Package {
            name: "proxmox",
            about: env!("CARGO_PKG_DESCRIPTION"),
            version: env!("CARGO_PKG_VERSION"),
            binary: "/provider-proxmox",
            image: "ghcr.io/capi-rs/provider-proxmox",
            namespace: "capmox-system",
            prefix: "capmox",
            lease: "controller-leader-elect-capmox",
            series: SERIES,
            definitions: api::crds(),
            takes_addresses: true,
            environment: Some(ENVIRONMENT),
            templates: TEMPLATES,
        }
    }

    fn clusters() -> Clusters {
        Clusters
    }

    fn machines() -> Machines {
        Machines
    }

    fn connector(_: &RunFlags) -> Result<Connector, BoxError> {
        let own = Settings::of_environment(std::env::vars())?;
        Ok(own.map_or_else(Connector::new, |own| Connector::new().with_own(own)))
    }

    fn webhooks() -> Webhooks {
        Webhooks::new()
            .validate(ClusterRules)
            .validate(ClusterTemplateRules)
            .validate(MachineRules)
            .validate(MachineTemplateRules)
    }

    async fn doctor(flags: DoctorFlags) -> Checkup {
        let wanted = Wanted {
            nodes: flags.node,
            templates: flags.template,
            storages: flags.storage,
            bridges: flags.bridge,
            pool: flags.pool,
        };
        let settings = match &flags.secret {
            None => Settings::of_environment(std::env::vars()).map_err(BoxError::from),
            Some(secret) => command::credentials(flags.kubeconfig.as_deref(), secret)
                .await
                .map_err(BoxError::from)
                .and_then(|data| {
                    Ok(Some(Settings::of_secret(
                        &format!("Secret {secret}"),
                        &data,
                    )?))
                }),
        };
        match settings {
            Ok(settings) => doctor::examine(settings, &wanted).await,
            Err(error) => doctor::without_credentials(error.as_ref()),
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    command::main::<Proxmox>().await
}
