//! An infra cluster with a simulated KubeVirt in it, and a hand on its API.

use std::time::Duration;

use capi_testkit::apiserver::ApiServer;
use capi_testkit::guest::Pace;
use capi_testkit::workload::Workloads;
use kube::Client;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kubevirt_sim::{Builder, Delays, Guests, Platform, VmView};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

/// How long anything may take, on the virtual clock.
const LIMIT: Duration = Duration::from_secs(3600);

pub(crate) struct World {
    pub(crate) server: ApiServer,
    pub(crate) platform: Platform,
    pub(crate) workloads: Workloads,
    pub(crate) client: Client,
    play: JoinHandle<()>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.play.abort();
    }
}

pub(crate) fn builder() -> Builder {
    Builder::new().seed(7).delays(Delays::zero())
}

impl World {
    pub(crate) async fn start(builder: Builder) -> Self {
        Self::start_with(builder, |guests| guests).await
    }

    pub(crate) async fn start_with(
        builder: Builder,
        change: impl FnOnce(Guests) -> Guests,
    ) -> Self {
        let workloads = Workloads::new();
        let epoch = "2026-01-01T00:00:00Z".parse().expect("a time");
        let server = ApiServer::builder().seed(1).epoch(epoch).build();
        let guests = Guests::new(workloads.clone()).pace(Pace::instant());
        let platform = builder
            .epoch(epoch)
            .guests(change(guests))
            .build_in(&server)
            .await
            .expect("the definitions are valid");
        let client = server.client("provider");
        let play = {
            let platform = platform.clone();
            tokio::spawn(async move { match platform.run().await {} })
        };
        let world = Self {
            server,
            platform,
            workloads,
            client,
            play,
        };
        world.settle().await;
        world
    }

    /// Lets a second pass.
    pub(crate) async fn settle(&self) {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }

    pub(crate) fn api(&self, kind: &str) -> Api<DynamicObject> {
        let (group, version) = match kind {
            "VirtualMachine" | "VirtualMachineInstance" | "VirtualMachineInstanceMigration" => {
                ("kubevirt.io", "v1")
            }
            "DataVolume" => ("cdi.kubevirt.io", "v1beta1"),
            "VirtualMachineInstancetype" => ("instancetype.kubevirt.io", "v1beta1"),
            _ => ("", "v1"),
        };
        let kind = GroupVersionKind::gvk(group, version, kind);
        Api::namespaced_with(
            self.client.clone(),
            "default",
            &ApiResource::from_gvk(&kind),
        )
    }

    pub(crate) async fn create(&self, kind: &str, value: Value) -> Result<DynamicObject, String> {
        let mut value = value;
        value["kind"] = kind.into();
        let api = self.api(kind);
        value["apiVersion"] = match kind {
            "DataVolume" => "cdi.kubevirt.io/v1beta1",
            "VirtualMachineInstancetype" => "instancetype.kubevirt.io/v1beta1",
            "Secret" | "Service" | "PersistentVolumeClaim" => "v1",
            _ => "kubevirt.io/v1",
        }
        .into();
        let object = serde_json::from_value(value).expect("an object");
        let made = api.create(&PostParams::default(), &object).await;
        made.map_err(|error| error.to_string())
    }

    pub(crate) async fn patch(&self, kind: &str, name: &str, patch: Value) {
        let patched = self
            .api(kind)
            .patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await;
        patched.expect("is patched");
    }

    pub(crate) async fn delete(&self, kind: &str, name: &str) {
        let deleted = self
            .api(kind)
            .delete(name, &DeleteParams::background())
            .await;
        deleted.expect("is deleted");
    }

    pub(crate) fn get(&self, resource: &str, name: &str) -> Option<Value> {
        self.server.object(resource, "default", name)
    }

    pub(crate) fn vmi(&self, name: &str) -> Option<Value> {
        self.get("virtualmachineinstances.kubevirt.io", name)
    }

    pub(crate) fn vm(&self, name: &str) -> Option<Value> {
        self.get("virtualmachines.kubevirt.io", name)
    }

    /// Waits until something is there.
    pub(crate) async fn until<T>(&self, what: &str, look: impl Fn(&Self) -> Option<T>) -> T {
        let deadline = tokio::time::Instant::now() + LIMIT;
        loop {
            if let Some(found) = look(self) {
                return found;
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "{what}: {:#?}",
                self.told()
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// All machines with their consoles, for a failure's message.
    fn told(&self) -> Vec<(VmView, Vec<String>)> {
        let vms = self.platform.vms().into_iter();
        vms.map(|vm| {
            let console = self.platform.console(&vm.namespace, &vm.name);
            (vm, console)
        })
        .collect()
    }

    /// Waits for a printable status.
    pub(crate) async fn status(&self, name: &str, wanted: &str) {
        let look = |world: &Self| {
            let vm = world.platform.vm("default", name)?;
            (vm.status == wanted).then_some(())
        };
        self.until(&format!("{name} is {wanted}"), look).await;
    }
}

/// A condition of an object: its status and reason.
pub(crate) fn condition<'a>(object: &'a Value, kind: &str) -> Option<(&'a str, &'a str)> {
    let mut list = object["status"]["conditions"].as_array()?.iter();
    let held = list.find(|held| held["type"] == kind)?;
    Some((
        held["status"].as_str()?,
        held["reason"].as_str().unwrap_or_default(),
    ))
}

/// A VM with a container disk and a seed in the Secret `{name}-seed`, which bears our label.
pub(crate) fn machine(name: &str) -> Value {
    let labels = json!({"cluster.x-k8s.io/cluster-name": "c", "kubevirt.io/vm": name});
    json!({
        "metadata": {"name": name, "namespace": "default", "labels": labels},
        "spec": {
            "runStrategy": "Always",
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "domain": {
                        "cpu": {"cores": 2}, "memory": {"guest": "4Gi"},
                        "devices": {
                            "disks": [{"name": "root", "disk": {"bus": "virtio"}},
                                {"name": "seed", "disk": {"bus": "virtio"}}],
                            "interfaces": [{"name": "default", "bridge": {}}],
                        },
                    },
                    "networks": [{"name": "default", "pod": {}}],
                    "volumes": [
                        {"name": "root", "containerDisk": {"image": "example.org/ubuntu:v1"}},
                        {"name": "seed", "cloudInitNoCloud": {"secretRef": {"name": format!("{name}-seed")}}},
                    ],
                },
            },
        },
    })
}

/// The Secret of a machine, with this user data.
pub(crate) fn secret(name: &str, user_data: &str) -> Value {
    json!({
        "metadata": {"name": format!("{name}-seed"), "namespace": "default",
            "labels": {"cluster.x-k8s.io/cluster-name": "c"}},
        "stringData": {"userdata": user_data},
    })
}

/// User data that does nothing.
pub(crate) const IDLE: &str = "#cloud-config\n{}\n";
