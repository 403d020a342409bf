//! What administrators, other tools and bad luck do behind a provider's back.

use capi_testkit::actor::{Kind, Name, Object};
use kube::Error;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::platform::Platform;
use crate::word::{INSTANCE, MACHINE, NODE, watched};
use crate::world::{Order, World};

/// The field manager of what is done by hand.
const MANAGER: &str = "kubectl";

/// Does things by hand, from [`Platform::hand`].
///
/// What is done is a request to the API where it is one in life, recorded under `hand` in an embedded
/// server. Each answers whether there was something to do it to.
///
/// # Errors
///
/// All of them give the server's refusal.
#[derive(Debug)]
pub struct Hand<'a> {
    world: &'a World,
}

impl<'a> Hand<'a> {
    pub(crate) fn new(platform: &'a Platform) -> Self {
        Self {
            world: &platform.world,
        }
    }

    /// Deletes a VM, as `kubectl delete vm`.
    ///
    /// # Errors
    ///
    /// The server's refusal.
    pub async fn delete_vm(&self, namespace: &str, name: &str) -> Result<bool, Error> {
        self.delete(&MACHINE, namespace, name).await
    }

    /// Deletes an instance and leaves its VM, which may make another.
    ///
    /// # Errors
    ///
    /// The server's refusal.
    pub async fn delete_vmi(&self, namespace: &str, name: &str) -> Result<bool, Error> {
        self.delete(&INSTANCE, namespace, name).await
    }

    /// Stops a VM for good: its run strategy becomes `Halted`.
    ///
    /// # Errors
    ///
    /// The server's refusal.
    pub async fn halt(&self, namespace: &str, name: &str) -> Result<bool, Error> {
        let patch = json!({"spec": {"runStrategy": "Halted", "running": null}});
        self.patch(&MACHINE, namespace, name, &patch).await
    }

    /// Sets a VM's run strategy.
    ///
    /// # Errors
    ///
    /// The server's refusal.
    pub async fn set_run_strategy(
        &self,
        namespace: &str,
        name: &str,
        strategy: &str,
    ) -> Result<bool, Error> {
        let patch = json!({"spec": {"runStrategy": strategy, "running": null}});
        self.patch(&MACHINE, namespace, name, &patch).await
    }

    /// Restarts a VM, as `virtctl restart` does.
    ///
    /// # Errors
    ///
    /// The server's refusal.
    pub async fn restart(&self, namespace: &str, name: &str) -> Result<bool, Error> {
        let Some(instance) = self.instance(namespace, name) else {
            return Ok(false);
        };
        let requests = json!([{"action": "Stop", "uid": instance.uid()}, {"action": "Start"}]);
        self.request(namespace, name, &requests).await
    }

    /// Starts a VM, as `virtctl start` does.
    ///
    /// # Errors
    ///
    /// The server's refusal.
    pub async fn start(&self, namespace: &str, name: &str) -> Result<bool, Error> {
        self.request(namespace, name, &json!([{"action": "Start"}]))
            .await
    }

    /// Changes a VM's fields by a merge patch.
    ///
    /// # Errors
    ///
    /// The server's refusal.
    pub async fn edit_vm(&self, namespace: &str, name: &str, patch: &Value) -> Result<bool, Error> {
        self.patch(&MACHINE, namespace, name, patch).await
    }

    /// Creates somebody else's VM, which runs an empty container disk.
    ///
    /// # Errors
    ///
    /// The server's refusal.
    pub async fn stranger(&self, namespace: &str, name: &str) -> Result<(), Error> {
        let machine = json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
            "metadata": {"name": name, "namespace": namespace, "labels": {"app": "database"}},
            "spec": {"runStrategy": "Always", "template": {"spec": {
                "domain": {"devices": {}, "memory": {"guest": "1Gi"}},
                "volumes": [{"name": "root", "containerDisk": {"image": "example.org/database"}}],
            }}},
        });
        self.create(&MACHINE, namespace, machine).await
    }

    /// Lets a guest shut down from inside: its instance ends as `Succeeded`.
    pub fn shut_down(&self, namespace: &str, name: &str) -> bool {
        self.order(namespace, name, Order::ShutDown)
    }

    /// Lets a domain crash: its instance ends as `Failed`.
    pub fn crash(&self, namespace: &str, name: &str) -> bool {
        self.order(namespace, name, Order::Crash)
    }

    /// Evicts an instance's pod, as a drain does, and does what its eviction strategy says: it is marked
    /// with `evacuationNodeName` (`External`, `LiveMigrate`, `LiveMigrateIfPossible` where that is
    /// possible), or its guest shuts down.
    ///
    /// False if there is none, or if the eviction is refused: `LiveMigrate` of an instance that cannot
    /// migrate.
    ///
    /// # Errors
    ///
    /// The server's refusal.
    pub async fn evict(&self, namespace: &str, name: &str) -> Result<bool, Error> {
        let Some(instance) = self.instance(namespace, name) else {
            return Ok(false);
        };
        let migrates = instance.is_true("LiveMigratable");
        let marks = match instance.text("/spec/evictionStrategy").unwrap_or("None") {
            "LiveMigrate" if !migrates => return Ok(false),
            "External" | "LiveMigrate" => true,
            "LiveMigrateIfPossible" => migrates,
            _ => false,
        };
        let Some(node) = instance.word("/status/nodeName").filter(|_| marks) else {
            self.world.order(&instance, Order::ShutDown);
            return Ok(true);
        };
        let patch = json!({"status": {"evacuationNodeName": node}});
        self.patch(&INSTANCE, namespace, name, &patch).await
    }

    /// Drains a node: cordons it, and evicts every instance on it. Those whose eviction is refused stay,
    /// as they would until the drain is repeated.
    ///
    /// # Errors
    ///
    /// The server's refusal.
    pub async fn drain(&self, node: &str) -> Result<bool, Error> {
        if !self.cordon(node, true).await? {
            return Ok(false);
        }
        for instance in self.world.hub.all(&INSTANCE) {
            if instance.text("/status/nodeName") == Some(node) {
                self.evict(instance.namespace(), instance.name()).await?;
            }
        }
        Ok(true)
    }

    /// Makes a node unschedulable, or schedulable again.
    ///
    /// # Errors
    ///
    /// The server's refusal.
    pub async fn cordon(&self, node: &str, cordoned: bool) -> Result<bool, Error> {
        let patch = json!({"spec": {"unschedulable": cordoned.then_some(true)}});
        self.patch(&NODE, "", node, &patch).await
    }

    /// Sets or removes a node's label.
    ///
    /// # Errors
    ///
    /// The server's refusal.
    pub async fn label_node(
        &self,
        node: &str,
        key: &str,
        value: Option<&str>,
    ) -> Result<bool, Error> {
        let patch = json!({"metadata": {"labels": {key: value}}});
        self.patch(&NODE, "", node, &patch).await
    }

    /// Takes a node's power away: its guests are gone at once, but its instances stay `Running`, not
    /// ready, and cannot be deleted until it is back.
    ///
    /// # Errors
    ///
    /// The server's refusal.
    pub async fn power_off_node(&self, node: &str) -> Result<bool, Error> {
        self.world.down.lock().insert(node.to_owned());
        for instance in self.world.hub.all(&INSTANCE) {
            if instance.text("/status/nodeName") == Some(node) {
                self.world.lost.lock().insert(instance.uid().to_owned());
                self.world.guests.lock().cut(instance.uid());
            }
        }
        self.ready_node(node, false).await
    }

    /// Gives a node its power back. Its instances have ended then: `Failed`.
    ///
    /// # Errors
    ///
    /// The server's refusal.
    pub async fn power_on_node(&self, node: &str) -> Result<bool, Error> {
        self.world.down.lock().remove(node);
        self.ready_node(node, true).await
    }

    async fn ready_node(&self, node: &str, ready: bool) -> Result<bool, Error> {
        let patch = json!({"status": {"conditions": [self.world.node_condition(ready)]}});
        let Some(api) = self.api(&NODE, "") else {
            return Ok(false);
        };
        let params = PatchParams::apply(MANAGER);
        let patched = api.patch_status(node, &params, &Patch::Merge(patch)).await;
        for key in self.world.instances_on(node) {
            self.world.wish(key);
        }
        found(patched)
    }

    fn order(&self, namespace: &str, name: &str, order: Order) -> bool {
        let instance = self.instance(namespace, name);
        let running = instance.filter(|one| one.text("/status/phase") == Some("Running"));
        if let Some(instance) = &running {
            self.world.order(instance, order);
        }
        running.is_some()
    }

    fn instance(&self, namespace: &str, name: &str) -> Option<std::sync::Arc<Object>> {
        self.world.hub.get(&INSTANCE, &Name::new(namespace, name))
    }

    async fn request(&self, namespace: &str, name: &str, requests: &Value) -> Result<bool, Error> {
        let Some(api) = self.api(&MACHINE, namespace) else {
            return Ok(false);
        };
        let patch = json!({"status": {"stateChangeRequests": requests}});
        let params = PatchParams::apply(MANAGER);
        found(api.patch_status(name, &params, &Patch::Merge(patch)).await)
    }

    async fn create(&self, kind: &Kind, namespace: &str, value: Value) -> Result<(), Error> {
        let Some(api) = self.api(kind, namespace) else {
            return Ok(());
        };
        let object: DynamicObject = serde_json::from_value(value).map_err(Error::SerdeError)?;
        api.create(&PostParams::default(), &object).await?;
        Ok(())
    }

    async fn delete(&self, kind: &Kind, namespace: &str, name: &str) -> Result<bool, Error> {
        self.excuse(kind, namespace, name);
        let Some(api) = self.api(kind, namespace) else {
            return Ok(false);
        };
        found(api.delete(name, &DeleteParams::background()).await)
    }

    async fn patch(
        &self,
        kind: &Kind,
        namespace: &str,
        name: &str,
        patch: &Value,
    ) -> Result<bool, Error> {
        self.excuse(kind, namespace, name);
        let Some(api) = self.api(kind, namespace) else {
            return Ok(false);
        };
        let params = PatchParams::apply(MANAGER);
        found(api.patch(name, &params, &Patch::Merge(patch)).await)
    }

    /// What is done by hand is nobody's fault.
    fn excuse(&self, kind: &Kind, namespace: &str, name: &str) {
        if let Some(object) = self.world.hub.get(kind, &Name::new(namespace, name)) {
            self.world.book.lock().excuse(object.uid());
        }
    }

    fn api(&self, kind: &Kind, namespace: &str) -> Option<Api<DynamicObject>> {
        let resource = watched(kind)?;
        let client = self.world.hand.clone();
        Some(if namespace.is_empty() {
            Api::all_with(client, &resource)
        } else {
            Api::namespaced_with(client, namespace, &resource)
        })
    }
}

/// Whether the object was there.
fn found<T>(answer: Result<T, Error>) -> Result<bool, Error> {
    match answer {
        Ok(_) => Ok(true),
        Err(Error::Api(status)) if status.code == 404 => Ok(false),
        Err(error) => Err(error),
    }
}
