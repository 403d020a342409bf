//! The provider as a program: the library on the engine. What it says here is all that is its own.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[cfg(feature = "ssh")]
use capi_contract::ObjectName;
use capi_contract::checkup::Checkup;
use capi_contract::{Connect as _, Identity};
use capi_core::command::{self, BoxError, Program, Tool};
use capi_core::manifests::{Package, Series, Template};
use capi_core::serve::Webhooks;
use clap::{Args, FromArgMatches as _};
use k8s_openapi::api::rbac::v1::PolicyRule;
use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig};
use provider_kubevirt::admission::{
    ClusterRules, ClusterTemplateRules, MachineRules, MachineTemplateRules,
};
use provider_kubevirt::cluster::Clusters;
use provider_kubevirt::connect::Connector;
use provider_kubevirt::doctor::Wishes;
#[cfg(feature = "ssh")]
use provider_kubevirt::login;
use provider_kubevirt::machine::Machines;
#[cfg(feature = "ssh")]
use provider_kubevirt::ssh;
use provider_kubevirt::tenant::{self, Tenant};
use provider_kubevirt::{api, doctor, rights};

/// The release series of CAPK, whose place this provider can take (CTL-02).
const SERIES: &[Series] = &[
    Series {
        major: 0,
        minor: 1,
        contract: "v1beta1",
    },
    Series {
        major: 0,
        minor: 10,
        contract: "v1beta1",
    },
    Series {
        major: 0,
        minor: 11,
        contract: "v1beta2",
    },
];

/// What `clusterctl generate cluster` finds (CTL-01).
const TEMPLATES: &[Template] = &[
    Template {
        file: "cluster-template-ext-infra.yaml",
        text: include_str!("../templates/cluster-template-ext-infra.yaml"),
    },
    Template {
        file: "cluster-template-hosted-control-plane.yaml",
        text: include_str!("../templates/cluster-template-hosted-control-plane.yaml"),
    },
    Template {
        file: "cluster-template-ignition.yaml",
        text: include_str!("../templates/cluster-template-ignition.yaml"),
    },
    Template {
        file: "cluster-template-kccm.yaml",
        text: include_str!("../templates/cluster-template-kccm.yaml"),
    },
    Template {
        file: "cluster-template-lb-flatcar.yaml",
        text: include_str!("../templates/cluster-template-lb-flatcar.yaml"),
    },
    Template {
        file: "cluster-template-lb.yaml",
        text: include_str!("../templates/cluster-template-lb.yaml"),
    },
    Template {
        file: "cluster-template-persistent-storage.yaml",
        text: include_str!("../templates/cluster-template-persistent-storage.yaml"),
    },
    Template {
        file: "cluster-template-topology.yaml",
        text: include_str!("../templates/cluster-template-topology.yaml"),
    },
    Template {
        file: "cluster-template.yaml",
        text: include_str!("../templates/cluster-template.yaml"),
    },
    Template {
        file: "clusterclass-kubevirt-v1.yaml",
        text: include_str!("../templates/clusterclass-kubevirt-v1.yaml"),
    },
];

struct Kubevirt;

/// Credentials come from Secrets, or are the provider's own.
#[derive(Debug, Args)]
struct RunFlags {
    /// Ask guests over SSH whether their bootstrap is over, instead of their guest agents. Machines with
    /// checkStrategy ssh get a user capk who may read one file; the clusters need key pairs, which
    /// `ssh-keys` makes.
    #[cfg(feature = "ssh")]
    #[arg(long)]
    ssh_bootstrap_check: bool,
}

/// Makes the key pair for --ssh-bootstrap-check, printed as a Secret for the management cluster.
#[cfg(feature = "ssh")]
#[derive(Debug, Args)]
struct SshKeysFlags {
    /// KubevirtCluster, NAMESPACE/NAME.
    cluster: String,
    /// Kubeconfig of the management cluster; KUBECONFIG and so on if left out.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
}

/// Which infra cluster is looked at.
#[derive(Debug, Args)]
struct DoctorFlags {
    /// Credentials Secret of a cluster, NAMESPACE/NAME; the cluster of --kubeconfig itself if left out.
    #[arg(long, value_name = "SECRET")]
    secret: Option<String>,
    /// Kubeconfig for reading the Secret, or else of the infra cluster.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Namespace for the VMs; the kubeconfig's if left out.
    #[arg(long, value_name = "NAME")]
    namespace: Option<String>,
    /// Storage class that a template names; may be repeated.
    #[arg(long, value_name = "NAME")]
    storage_class: Vec<String>,
    /// Failure domain of a cluster that is told apart by the zone of nodes; may be repeated. Needs the
    /// right to list nodes, which the provider itself does not.
    #[arg(long, value_name = "ZONE")]
    failure_domain: Vec<String>,
}

/// Makes a tenant of an infra cluster: a namespace, an account with the rights that the provider uses,
/// and its kubeconfig, printed as the Secret that infraClusterSecretRef names.
#[derive(Debug, Args)]
struct TenantFlags {
    /// Namespace in the infra cluster.
    namespace: String,
    /// Kubeconfig of an administrator of the infra cluster; KUBECONFIG and so on if left out.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Name of the Secret.
    #[arg(long, value_name = "NAME", default_value = "infra-kubeconfig")]
    secret: String,
    /// How many days the token is good; the infra cluster may give less.
    #[arg(long, value_name = "DAYS", default_value_t = 365)]
    days: u32,
}

async fn configuration(kubeconfig: Option<&Path>) -> Result<Config, BoxError> {
    let Some(path) = kubeconfig else {
        return Ok(Config::infer().await?);
    };
    let kubeconfig = Kubeconfig::read_from(path)?;
    Ok(Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?)
}

async fn make_tenant(flags: TenantFlags) -> Result<String, BoxError> {
    let config = configuration(flags.kubeconfig.as_deref()).await?;
    let client = capi_core::client(config.clone())?;
    let tenant = Tenant {
        namespace: flags.namespace,
        secret: flags.secret,
        days: flags.days,
    };
    let secret = tenant::make(&client, &config, &tenant).await?;
    Ok(serde_saphyr::to_string(&secret)?)
}

#[cfg(feature = "ssh")]
async fn make_ssh_keys(flags: SshKeysFlags) -> Result<String, BoxError> {
    use k8s_openapi::api::core::v1::Secret;
    use kube::{Api, Resource as _};

    let Some((namespace, name)) = flags.cluster.split_once('/') else {
        return Err("name the KubevirtCluster as NAMESPACE/NAME".into());
    };
    let client = capi_core::client(configuration(flags.kubeconfig.as_deref()).await?)?;
    let clusters = Api::<api::KubevirtCluster>::namespaced(client.clone(), namespace);
    let cluster = clusters.get(name).await?;
    let named = cluster.spec.ssh_keys.as_ref();
    let named = named.and_then(|keys| keys.data_secret_name.clone());
    let secret = named.unwrap_or_else(|| login::keys_name(name));
    let secrets = Api::<Secret>::namespaced(client, namespace);
    if secrets.get_opt(&secret).await?.is_some() {
        // Machines that are being made know the one that is there.
        let there = format!("Secret {namespace}/{secret} is there already; it is used as it is");
        return Err(there.into());
    }
    let owner = cluster
        .owner_ref(&())
        .ok_or("the KubevirtCluster has no uid")?;
    let secret = ssh::new_keys(&ObjectName::new(namespace, secret), &owner)?;
    Ok(serde_saphyr::to_string(&secret)?)
}

async fn look(flags: DoctorFlags) -> Result<Checkup, BoxError> {
    let wishes = Wishes {
        storage_classes: flags.storage_class,
        failure_domains: flags.failure_domain,
    };
    let Some(secret) = &flags.secret else {
        let config = configuration(flags.kubeconfig.as_deref()).await?;
        let namespace = flags
            .namespace
            .unwrap_or_else(|| config.default_namespace.clone());
        let client = capi_core::client(config)?;
        return Ok(doctor::examine(&client, &namespace, &wishes).await);
    };
    let credentials = command::credentials(flags.kubeconfig.as_deref(), secret).await?;
    let (namespace, name) = secret.split_once('/').unwrap_or(("", secret));
    let identity = Identity::secret(namespace, name);
    let session = Connector::new()
        .connect(Some(&identity), Some(&credentials))
        .await?;
    let namespace = session.namespace(flags.namespace.as_deref(), "default");
    Ok(doctor::examine(session.infra().client(), namespace, &wishes).await)
}

impl Program for Kubevirt {
    type RunFlags = RunFlags;
    type DoctorFlags = DoctorFlags;
    type Connector = Connector;
    type Clusters = Clusters;
    type Machines = Machines;

    fn package() -> Package {
        Package {
            name: "kubevirt",
            about: env!("CARGO_PKG_DESCRIPTION"),
            version: env!("CARGO_PKG_VERSION"),
            binary: "/provider-kubevirt",
            image: "ghcr.io/capi-rs/provider-kubevirt",
            namespace: "capk-system",
            prefix: "capk",
            lease: "controller-leader-elect-capk",
            series: SERIES,
            definitions: api::crds(),
            takes_addresses: true,
            environment: None,
            templates: TEMPLATES,
        }
    }

    fn clusters() -> Clusters {
        Clusters
    }

    fn machines() -> Machines {
        Machines
    }

    fn connector(flags: &RunFlags) -> Result<Connector, BoxError> {
        #[cfg(feature = "ssh")]
        if flags.ssh_bootstrap_check {
            return Ok(Connector::new().wishing_ssh());
        }
        #[cfg(not(feature = "ssh"))]
        let RunFlags {} = flags;
        Ok(Connector::new())
    }

    fn at_home(connector: Connector, management: &kube::Client) -> Connector {
        #[cfg(feature = "ssh")]
        if connector.wishes_ssh() {
            let ssh = ssh::Ssh::new(management.clone());
            let connector = connector.asking(std::sync::Arc::new(ssh));
            return connector.with_own(management.clone());
        }
        connector.with_own(management.clone())
    }

    fn webhooks() -> Webhooks {
        Webhooks::new()
            .validate(ClusterRules)
            .validate(ClusterTemplateRules)
            .validate(MachineRules)
            .validate(MachineTemplateRules)
    }

    fn platform_rights() -> Vec<PolicyRule> {
        rights::rules()
    }

    fn tools() -> Vec<Tool> {
        let command = TenantFlags::augment_args(clap::Command::new("tenant"));
        let tenant = Tool {
            command,
            run: |matches| {
                Box::pin(async move { make_tenant(TenantFlags::from_arg_matches(&matches)?).await })
            },
        };
        #[cfg(feature = "ssh")]
        let ssh_keys = Tool {
            command: SshKeysFlags::augment_args(clap::Command::new("ssh-keys")),
            run: |matches| {
                Box::pin(
                    async move { make_ssh_keys(SshKeysFlags::from_arg_matches(&matches)?).await },
                )
            },
        };
        vec![
            tenant,
            #[cfg(feature = "ssh")]
            ssh_keys,
        ]
    }

    async fn doctor(flags: DoctorFlags) -> Checkup {
        match look(flags).await {
            Ok(checkup) => checkup,
            Err(error) => doctor::without_credentials(error.as_ref()),
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    command::main::<Kubevirt>().await
}
