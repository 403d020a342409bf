//! The engine beside a controller of one's own, in one process: one client, one shutdown signal, one
//! metrics registry, no global state.
//!
//! ```console
//! cargo run --example embedding
//! ```
//!
//! The controller is a plain `kube::runtime::Controller`. It keeps an inventory for people: a ConfigMap
//! per machine, which goes with it, since the machine owns it. The example plays on an API server in memory and ends by
//! itself.

#![expect(clippy::print_stdout, reason = "what it prints is what it shows")]

use std::sync::Arc;
use std::time::Duration;

use capi_contract::{ByInstance, Connected, GivenEndpoint};
use capi_core::{Options, Provider, Telemetry};
use examples::{Error, Stage};
use futures::StreamExt;
use hello_provider::{Directory, HelloCluster, HelloMachine};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::watcher;
use kube::{Client, Resource, ResourceExt};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use serde_json::json;
use tokio_util::sync::CancellationToken;

/// Field manager of the inventory, and the beginning of its names.
const INVENTORY: &str = "inventory";

/// What our own controller works with.
struct Inventory {
    client: Client,
    written: Counter,
}

/// Writes what people want to know of a machine that is made.
async fn list(machine: Arc<HelloMachine>, on: Arc<Inventory>) -> Result<Action, kube::Error> {
    let Some(id) = &machine.spec.provider_id else {
        return Ok(Action::await_change());
    };
    let name = format!("{INVENTORY}-{}", machine.name_any());
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name, "ownerReferences": [machine.owner_ref(&())]},
        "data": {"providerID": id},
    });
    let namespace = machine.namespace().unwrap_or_default();
    let api: Api<ConfigMap> = Api::namespaced(on.client.clone(), &namespace);
    let params = PatchParams::apply(INVENTORY).force();
    api.patch(&name, &params, &Patch::Apply(map)).await?;
    on.written.inc();
    Ok(Action::await_change())
}

fn again(_: Arc<HelloMachine>, error: &kube::Error, _: Arc<Inventory>) -> Action {
    tracing::warn!(%error, "writing the inventory");
    Action::requeue(Duration::from_secs(5))
}

/// Runs both until a machine has come and gone; the metrics that are left are returned.
async fn run() -> Result<String, Error> {
    let stage = Stage::new().await?;

    // What is shared. In a real program: `capi_core::client(Config::infer().await?)?`.
    let client = stage.client("embedding");
    let stop = CancellationToken::new();
    let mut registry = Registry::default();

    let options = Options {
        telemetry: Telemetry::register(&mut registry),
        ..Options::default()
    };
    let provider = Provider::new(Connected)
        .cluster(GivenEndpoint::<HelloCluster>::new())
        .machine(ByInstance(Directory::new(stage.directory())))
        .options(options)
        .run(client.clone(), stop.clone().cancelled_owned());

    let written = Counter::default();
    registry.register("inventory_written", "Entries written", written.clone());
    let machines: Api<HelloMachine> = Api::all(client.clone());
    let inventory = Inventory { client, written };
    let controller = Controller::new(machines, watcher::Config::default())
        .graceful_shutdown_on(stop.clone().cancelled_owned())
        .run(list, again, Arc::new(inventory))
        .for_each(|_| async {});

    let (provided, (), played) = tokio::join!(provider, controller, async {
        let played = play(&stage).await;
        stop.cancel();
        played
    });
    provided?;
    played?;
    let mut metrics = String::new();
    encode(&mut metrics, &registry)?;
    Ok(metrics)
}

/// A machine comes, is listed, and goes.
async fn play(stage: &Stage) -> Result<(), Error> {
    let entry = format!("{INVENTORY}-first");
    let listed = || stage.object("configmaps", &entry)["data"]["providerID"].clone();
    stage.ask_for_machine("first").await?;
    stage
        .until("the machine is listed", || listed().is_string())
        .await?;
    let machine = stage.hello_machine("first");
    assert_eq!(
        listed(),
        machine["spec"]["providerID"],
        "both saw the same machine"
    );
    assert_eq!(stage.files()?, 1);
    println!(
        "the engine made a machine, the controller listed it: {}",
        listed()
    );
    stage.delete_machine("first").await?;
    let is_gone = || stage.hello_machine("first").is_null() && listed().is_null();
    stage
        .until("the machine and its entry are gone", is_gone)
        .await?;
    assert_eq!(stage.files()?, 0);
    println!("it is deleted, and so is its entry");
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let metrics = run().await?;
    println!("both count in one registry:");
    let of_both = |line: &&str| {
        line.starts_with("capi_steps_total") || line.starts_with("inventory_written_total")
    };
    metrics
        .lines()
        .filter(of_both)
        .for_each(|line| println!("  {line}"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn both_work_count_and_stop_together() {
        let metrics = run().await.unwrap();
        let count = |name: &str| {
            let line = metrics.lines().find(|line| line.starts_with(name))?;
            line.rsplit(' ').next()?.parse::<u32>().ok()
        };
        assert!(count("inventory_written_total") >= Some(1), "{metrics}");
        assert!(count("capi_steps_total") >= Some(1), "{metrics}");
    }
}
