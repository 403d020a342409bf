//! Writes provider ids into Nodes, where no cloud controller does.
//!
//! Core finds the Node of a machine by its provider id, so until then the Node is found by name: by
//! one watch on the nodes of the workload cluster, as long as any of its machines waits for it.

use std::collections::HashMap;
use std::pin::pin;
use std::time::Duration;

use capi_contract::{InfraMachine, ObjectName};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::{sleep, timeout};

use super::reach::Unreached;
use super::{Nodes, RETRY_FIRST, RETRY_MAX};
use crate::engine::growth;

/// How long one patch may take.
const PATCH_WITHIN: Duration = Duration::from_secs(30);

/// What is read of a Node: a thousandth of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct NodeView {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: NodeSpecView,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct NodeSpecView {
    #[serde(rename = "providerID")]
    provider_id: String,
}

impl Resource for NodeView {
    type DynamicType = ();
    type Scope = kube::core::ClusterResourceScope;

    fn kind(_: &()) -> std::borrow::Cow<'_, str> {
        Node::kind(&())
    }

    fn group(_: &()) -> std::borrow::Cow<'_, str> {
        Node::group(&())
    }

    fn version(_: &()) -> std::borrow::Cow<'_, str> {
        Node::version(&())
    }

    fn plural(_: &()) -> std::borrow::Cow<'_, str> {
        Node::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// A Node as far as it matters here: its version, and the provider id that it has.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    version: Option<String>,
    provider_id: String,
}

impl<IM: InfraMachine> Nodes<IM> {
    /// Writes provider ids for as long as it is polled.
    pub(super) async fn identify(&self, cluster: &ObjectName) {
        let mut changes = self.wishes.changes.subscribe();
        let mut failures = 0;
        loop {
            changes.borrow_and_update();
            if self.wishes.unidentified(cluster).is_empty() || !self.leads() {
                // Nobody tells of leadership, so it is asked for.
                tokio::select! {
                    _ = changes.changed() => {}
                    () = sleep(RETRY_FIRST), if !self.leads() => {}
                }
                continue;
            }
            let was_initialized = self.wishes.is_initialized(cluster);
            let Err(error) = self.watch_nodes(cluster, &mut failures).await else {
                continue;
            };
            failures += 1;
            self.report(cluster, &error, failures);
            tokio::select! {
                () = sleep(growth(RETRY_FIRST, RETRY_MAX, failures)) => {}
                // The control plane answers now, whatever it did before.
                () = self.until_initialized(cluster), if !was_initialized => failures = 0,
            }
        }
    }

    async fn until_initialized(&self, cluster: &ObjectName) {
        let mut changes = self.wishes.changes.subscribe();
        while !self.wishes.is_initialized(cluster) {
            // The sender lives as long as we do.
            let _ = changes.changed().await;
        }
    }

    /// Watches the nodes until nobody waits for one any more.
    async fn watch_nodes(&self, cluster: &ObjectName, failures: &mut u32) -> Result<(), Unreached> {
        let reached = self.clients.get(cluster).await?;
        let result = self.follow_nodes(cluster, &reached.client, failures).await;
        if let Err(error) = &result {
            self.clients.failed(cluster, &reached, error).await;
        }
        result
    }

    async fn follow_nodes(
        &self,
        cluster: &ObjectName,
        client: &Client,
        failures: &mut u32,
    ) -> Result<(), Unreached> {
        let api: Api<NodeView> = Api::all(client.clone());
        let mut changes = self.wishes.changes.subscribe();
        let mut events = pin!(watcher(api, watcher::Config::default()));
        let mut nodes: HashMap<String, Known> = HashMap::new();
        loop {
            changes.borrow_and_update();
            let waiting = self.wishes.unidentified(cluster);
            if waiting.is_empty() {
                return Ok(());
            }
            for (machine, node, id) in waiting {
                if let Some(known) = nodes.get(&node) {
                    self.identify_one(client, &machine, &node, known, &id)
                        .await?;
                }
            }
            tokio::select! {
                event = events.next() => match event {
                    Some(Ok(event)) => {
                        // The beginning of a list is not yet an answer.
                        if !matches!(event, Event::Init) {
                            *failures = 0;
                        }
                        take(&mut nodes, event);
                    }
                    Some(Err(error)) => return Err(Unreached::Watch(Box::new(error))),
                    // The stream goes on for ever.
                    None => return Ok(()),
                },
                _ = changes.changed() => {}
            }
        }
    }

    async fn identify_one(
        &self,
        client: &Client,
        machine: &ObjectName,
        node: &str,
        known: &Known,
        id: &str,
    ) -> Result<(), Unreached> {
        if known.provider_id.is_empty() {
            if !self.leads() {
                return Err(Unreached::NotLeading);
            }
            match self.write_id(client, node, known, id).await {
                Ok(()) => tracing::info!(%machine, node, "provider id written into the node"),
                // Somebody else wrote: the watch shows what.
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => return Ok(()),
                Err(source) => {
                    let call = "write the provider id into the node";
                    return Err(Unreached::Request { call, source });
                }
            }
        } else if known.provider_id != id {
            let message = format!(
                "Node {node} has the provider id {}, which cannot be changed; it should be {id}: \
                 the machine is not recognised as this node",
                known.provider_id
            );
            self.announce(machine, "NodeHasOtherProviderID", &message);
        }
        self.wishes.entry(machine, |entry| {
            entry.is_identified |= entry.wish.node == node;
        });
        self.wishes.changed();
        Ok(())
    }

    async fn write_id(
        &self,
        client: &Client,
        node: &str,
        known: &Known,
        id: &str,
    ) -> Result<(), kube::Error> {
        let api: Api<NodeView> = Api::all(client.clone());
        let params = PatchParams {
            field_manager: Some(self.options.manager.clone()),
            ..PatchParams::default()
        };
        let patch = json!({
            "metadata": {"resourceVersion": known.version}, "spec": {"providerID": id},
        });
        match timeout(PATCH_WITHIN, api.patch(node, &params, &Patch::Merge(patch))).await {
            Ok(written) => written.map(|_| ()),
            Err(_) => Err(kube::Error::Service("the answer took too long".into())),
        }
    }
}

fn take(nodes: &mut HashMap<String, Known>, event: Event<NodeView>) {
    match event {
        Event::Init => nodes.clear(),
        Event::InitDone => {}
        Event::InitApply(node) | Event::Apply(node) => {
            if let Some(name) = node.metadata.name {
                let known = Known {
                    version: node.metadata.resource_version,
                    provider_id: node.spec.provider_id,
                };
                nodes.insert(name, known);
            }
        }
        Event::Delete(node) => {
            nodes.remove(node.metadata.name.as_deref().unwrap_or_default());
        }
    }
}
