//! The kubeadm bootstrap provider: KubeadmConfig in, Secret with cloud-config out (S-10).

mod cloud_config;
mod kubeadm;

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use self::cloud_config::{Command, INIT_FILE, JOIN_FILE, render};
use self::kubeadm::{
    Discovery, Setting, cluster_configuration, init_configuration, join_configuration,
};
use super::clone::{digest, hex};
use super::condition::{Conditions, READY, Report};
use super::driver::Again;
use super::gate;
use super::hub::{Error, Result};
use super::object::{Name, Object};
use super::word::{BOOTSTRAP_API, CLUSTER, CONTROL_PLANE_LABEL, KUBEADM_CONFIG, MACHINE, manager};
use super::{BootstrapData, World, cluster, credentials};

pub(super) use self::cloud_config::{File, yaml};

const DATA_SECRET_AVAILABLE: &str = "DataSecretAvailable";

/// What a pass comes to.
enum Answer {
    /// The data is in the Secret of this name.
    Made(String),
    /// It waits, for this reason; perhaps for this long.
    Waits(&'static str, &'static str, Again),
}

pub(super) async fn reconcile(world: &World, name: &Name) -> Result<Again> {
    let hub = &world.hub;
    let Some(config) = hub.get(&KUBEADM_CONFIG, name) else {
        return Ok(None);
    };
    // Nothing happens before the Machine adopts it; that wakes this pass.
    let owner = config.owners().iter().find(|owner| MACHINE.is_of(owner));
    let machine = owner.and_then(|it| hub.get(&MACHINE, &Name::new(&name.namespace, &it.name)));
    let Some(machine) = machine.filter(|_| !config.is_deleting()) else {
        return Ok(None);
    };
    let cluster_name = machine.cluster_name().unwrap_or_default();
    let Some(cluster) = hub.get(&CLUSTER, &Name::new(&name.namespace, cluster_name)) else {
        return Ok(None);
    };
    let manager = manager::BOOTSTRAP;
    if gate::stops(hub, &KUBEADM_CONFIG, &config, Some(&cluster), manager).await? {
        return Ok(None);
    }
    if config.flag("/status/initialization/dataSecretCreated") {
        return Ok(None);
    }
    let answer = work(world, &config, &machine, &cluster).await;
    publish(world, &config, &answer).await?;
    match answer? {
        Answer::Made(_) => Ok(None),
        Answer::Waits(_, _, again) => Ok(again),
    }
}

async fn publish(world: &World, config: &Object, answer: &Result<Answer>) -> Result<()> {
    let mut status = json!({"observedGeneration": config.generation()});
    let report = match answer {
        Ok(Answer::Made(secret)) => {
            status["dataSecretName"] = json!(secret);
            status["initialization"] = json!({"dataSecretCreated": true});
            Report::yes("Available")
        }
        Ok(Answer::Waits(reason, message, _)) => Report::no(*reason, *message),
        Err(fault) => Report::no("NotAvailable", fault.in_full()),
    };
    let mut conditions = Conditions::of(config, world.hub.now());
    conditions.set(DATA_SECRET_AVAILABLE, &report);
    let summary = conditions.summary(
        "Ready",
        "NotReady",
        "ReadyUnknown",
        &[DATA_SECRET_AVAILABLE],
    );
    conditions.set(READY, &summary);
    status["conditions"] = conditions.into_value();
    let manager = manager::BOOTSTRAP;
    world
        .hub
        .merge_status(&KUBEADM_CONFIG, config, &status, manager)
        .await?;
    Ok(())
}

async fn work(
    world: &World,
    config: &Object,
    machine: &Object,
    cluster: &Object,
) -> Result<Answer> {
    if !cluster::is_infrastructure_ready(cluster) {
        return Ok(Answer::Waits(
            "WaitingForClusterInfrastructureReady",
            "Waiting for the Cluster's infrastructure and control plane endpoint",
            None,
        ));
    }
    if let Some(again) = held_back(world, config) {
        return Ok(Answer::Waits(
            "Delayed",
            "The simulation holds the bootstrap data back",
            again,
        ));
    }
    if config
        .text("/spec/format")
        .is_some_and(|format| format != "cloud-config")
    {
        return Err(Error::Inconsistent(
            "spec.format must be cloud-config; other formats are behind a gate that is off"
                .to_owned(),
        ));
    }
    let is_control_plane = machine.label(CONTROL_PLANE_LABEL).is_some();
    let is_initialized = cluster.flag("/status/initialization/controlPlaneInitialized");
    if is_initialized {
        return join(world, config, machine, cluster, is_control_plane).await;
    }
    let can_init = is_control_plane && config.at("/spec/joinConfiguration").is_none();
    // Only one machine may ever initialise.
    if can_init && world.initialises(cluster, machine) {
        return init(world, config, machine, cluster).await;
    }
    Ok(Answer::Waits(
        "WaitingForControlPlaneInitialized",
        "Waiting for the first control plane machine",
        None,
    ))
}

/// Whether the mode of the simulation says to wait, and for how long.
fn held_back(world: &World, config: &Object) -> Option<Again> {
    let mode = *world.bootstrap.lock();
    match mode {
        BootstrapData::Prompt => None,
        BootstrapData::Never => Some(None),
        BootstrapData::After(delay) => {
            let spent = config
                .created()
                .map_or(Duration::ZERO, |at| world.hub.since(at));
            let left = delay.checked_sub(spent).filter(|left| !left.is_zero())?;
            Some(Some(world.hub.scaled(left)))
        }
    }
}

fn setting(cluster: &Object, machine: &Object) -> Result<Setting> {
    let endpoint = cluster::endpoint(cluster)
        .ok_or_else(|| Error::Inconsistent(format!("Cluster {} has no endpoint", cluster.key())))?;
    let version = machine.word("/spec/version").unwrap_or("v1.35.0");
    Ok(Setting::new(cluster, &endpoint.to_string(), version))
}

fn owner(config: &Object) -> Value {
    config.owner_reference(BOOTSTRAP_API, &KUBEADM_CONFIG, true)
}

async fn init(
    world: &World,
    config: &Object,
    machine: &Object,
    cluster: &Object,
) -> Result<Answer> {
    let setting = setting(cluster, machine)?;
    let certificates =
        credentials::certificates(world, cluster, &owner(config), manager::BOOTSTRAP).await?;
    let spec = resolved(world, config).await?;
    let documents = format!(
        "---\n{}---\n{}",
        yaml(&cluster_configuration(&spec, &setting)),
        yaml(&init_configuration(&spec, &setting))
    );
    let mut files = certificates.files();
    files.extend(user_files(&spec));
    files.push(File::of_root(INIT_FILE, "0640", documents));
    store(
        world,
        config,
        cluster,
        render(&spec, &with_placeholder(files), Command::Init),
    )
    .await
}

async fn join(
    world: &World,
    config: &Object,
    machine: &Object,
    cluster: &Object,
    is_control_plane: bool,
) -> Result<Answer> {
    let setting = setting(cluster, machine)?;
    let certificates =
        credentials::certificates(world, cluster, &owner(config), manager::BOOTSTRAP).await?;
    let token = token(cluster, config);
    if let Some(endpoint) = cluster::endpoint(cluster) {
        world.workloads.allow_token(&endpoint, &token);
    }
    let discovery = Discovery {
        token,
        ca_hash: certificates.ca_hash()?,
    };
    let spec = resolved(world, config).await?;
    let document = join_configuration(&spec, &setting, &discovery, is_control_plane);
    let mut files = if is_control_plane {
        certificates.files()
    } else {
        Vec::new()
    };
    files.extend(user_files(&spec));
    files.push(File::of_root(JOIN_FILE, "0640", yaml(&document)));
    store(
        world,
        config,
        cluster,
        render(&spec, &with_placeholder(files), Command::Join),
    )
    .await
}

/// A bootstrap token, of its own for every machine.
fn token(cluster: &Object, config: &Object) -> String {
    let text = hex(&digest(&[cluster.uid(), config.uid(), "token"]));
    format!("{}.{}", &text[..6], &text[6..22])
}

/// The sentinel's folder comes into being with a file in it.
fn with_placeholder(mut files: Vec<File>) -> Vec<File> {
    let text = "makes the folder for the success file\n".to_owned();
    files.push(File::of_root("/run/cluster-api/placeholder", "0640", text));
    files
}

/// The spec with the content of the Secrets that files and users refer to.
async fn resolved(world: &World, config: &Object) -> Result<Value> {
    let mut spec = config.at("/spec").cloned().unwrap_or_else(|| json!({}));
    for (list, field, source) in [
        ("files", "content", "contentFrom"),
        ("users", "passwd", "passwdFrom"),
    ] {
        let Some(items) = spec.get_mut(list).and_then(Value::as_array_mut) else {
            continue;
        };
        for item in items {
            if item["contentFormat"] == "Template" {
                return Err(Error::Inconsistent(format!(
                    "spec.files: contentFormat Template of {} is not simulated; use Raw",
                    item["path"]
                )));
            }
            if let Some(content) = secret_content(world, config, &item[source]).await? {
                item[field] = json!(content);
            }
            if let Some(fields) = item.as_object_mut() {
                fields.remove(source);
            }
        }
    }
    Ok(spec)
}

async fn secret_content(world: &World, config: &Object, source: &Value) -> Result<Option<String>> {
    let Some(name) = source["secret"]["name"].as_str() else {
        return Ok(None);
    };
    let key = source["secret"]["key"].as_str().unwrap_or_default();
    let name = Name::new(config.namespace(), name);
    let held = world.hub.fetch(&credentials::secrets(), &name).await?;
    let content = held.and_then(|secret| credentials::entry(&secret, key));
    content.map(Some).ok_or_else(|| {
        Error::Inconsistent(format!(
            "Secret {name} with the text key {key} does not exist"
        ))
    })
}

fn user_files(spec: &Value) -> Vec<File> {
    let list = spec["files"].as_array().into_iter().flatten();
    list.map(|file| {
        let text = |field: &str| file[field].as_str().map(str::to_owned);
        File {
            path: text("path").unwrap_or_default(),
            owner: text("owner"),
            permissions: text("permissions"),
            encoding: text("encoding"),
            is_appended: file["append"] == true,
            content: text("content").unwrap_or_default(),
        }
    })
    .collect()
}

/// Writes the Secret, named as the config. One that an earlier pass made is kept.
async fn store(world: &World, config: &Object, cluster: &Object, data: String) -> Result<Answer> {
    let hub = &world.hub;
    let name = config.key();
    let owner = owner(config);
    let data = [("value", data.as_str()), ("format", "cloud-config")];
    let value = credentials::secret(&name, cluster.name(), &owner, &data);
    let secrets = credentials::secrets();
    if hub
        .create(&secrets, value, manager::BOOTSTRAP)
        .await?
        .is_none()
    {
        let held: Option<Arc<Object>> = hub.fetch(&secrets, &name).await?.map(Arc::new);
        if !held.is_some_and(|held| held.is_owned_by(config.uid())) {
            return Err(Error::Inconsistent(format!(
                "Secret {name} exists and is not owned by this KubeadmConfig"
            )));
        }
    }
    Ok(Answer::Made(name.name))
}
