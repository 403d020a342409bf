//! The stories of a cluster's life, and what they share.

use std::process::ExitCode;

use capi_testkit::guest::{Image, Pace};
use e2e::audit;
use e2e::failure::Failure;
use e2e::infrastructure::Infrastructure;
use e2e::killer::{Deaths, Killer};
use e2e::provider::Provider;
use e2e::suite;
use e2e::tool::KUBECTL;
use e2e::workload::{ExternalEtcd, Machines};
use e2e::world::World;
use kube::api::PatchParams;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::hands::provisioned;
use crate::phases;

/// How many times faster than life the simulated platform is; the controllers are not.
pub(crate) const SPEED: f64 = 10.0;
/// The version that is rolled out.
pub(crate) const NEWER: &str = "v1.36.1";
/// The provider's place among the managers, after those of Cluster API.
const PLACE: u16 = 3;
/// Two ports for the etcd of clusters that have none of their own, counted from the suite's.
const EXTERNAL_ETCD: u16 = 40;

/// What differs between platforms in these stories, beside the platform.
pub(crate) struct Parts {
    /// A cluster for Cluster API v1beta1.
    pub(crate) older: &'static str,
    /// Lets the spec of a machine template name the image with the newer Kubernetes.
    pub(crate) renew: fn(&mut Value),
    /// A change of the spec of a machine template that makes machines larger.
    pub(crate) grow: fn() -> Value,
    /// Breaks the seed of control-plane machines, by their kubeadm configuration.
    pub(crate) spoil: fn(&mut Value),
    /// What the console says then.
    pub(crate) complaint: &'static str,
}

/// What all stories share.
pub(crate) struct Stage {
    pub(crate) world: World,
    pub(crate) platform: Box<dyn Infrastructure>,
    pub(crate) parts: Parts,
    pub(crate) machines: Machines,
    pub(crate) etcd: ExternalEtcd,
    pub(crate) provider: Provider,
    pub(crate) killer: Killer,
    /// Under way from the first cluster on.
    pub(crate) deaths: Option<Deaths>,
}

impl Stage {
    /// Starts what a platform with these guests needs, and its provider.
    pub(crate) async fn begin(
        world: World,
        parts: Parts,
        platform: impl AsyncFnOnce(Machines) -> Result<Box<dyn Infrastructure>, Failure>,
    ) -> Result<Self, Failure> {
        let site = &world.management.site;
        let machines = Machines::new(site.clone())?;
        let port = world.management.ports.0 + EXTERNAL_ETCD;
        let etcd = ExternalEtcd::start(site, port).await?;
        let platform = platform(machines.clone()).await?;
        let program = platform.program()?;
        let provider = program.install(&world.management, PLACE).await?;
        provider.start().await?;
        world.apply(platform.prerequisites()).await?;
        Ok(Self {
            world,
            platform,
            parts,
            machines,
            etcd,
            provider,
            killer: Killer::new(),
            deaths: None,
        })
    }

    /// One of the provider's kinds.
    pub(crate) fn kind(&self, rest: &str) -> String {
        self.platform.names().kind(rest)
    }
}

/// How fast guests boot. Real API servers take the time they need, whatever the speed of the rest.
pub(crate) fn pace() -> Pace {
    let mut pace = Pace::default();
    pace.discovery = pace.discovery.mul_f64(SPEED);
    pace
}

/// What is installed on the image with the newer Kubernetes.
pub(crate) fn newer() -> Image {
    let mut image = Image::default();
    image.kubernetes = Some(NEWER.to_owned());
    image
}

/// Plays them on the stage that is set here.
pub(crate) fn play(start: fn(&Runtime) -> Result<Stage, Failure>) -> ExitCode {
    suite::play(
        start,
        &[
            ("the_manifests_apply_with_kubectl", |_, stage| {
                manifests_apply(stage)
            }),
            (
                "core_takes_our_kinds_as_infrastructure",
                |runtime, stage| runtime.block_on(phases::comes_up(stage)),
            ),
            (
                "a_seed_that_lacks_something_makes_no_node",
                |runtime, stage| runtime.block_on(phases::wrong_seed(stage)),
            ),
            ("a_wrong_token_or_pin_stays_out", |runtime, stage| {
                runtime.block_on(phases::strangers(stage))
            }),
            (
                "wh_02_and_wh_03_the_server_asks_our_webhooks",
                |runtime, stage| runtime.block_on(webhooks(stage)),
            ),
            ("an_older_manifest_is_converted", |runtime, stage| {
                runtime.block_on(older(stage))
            }),
            ("workers_go_from_2_to_5_to_1", |runtime, stage| {
                runtime.block_on(phases::workers(stage))
            }),
            ("a_lost_worker_is_replaced", |runtime, stage| {
                runtime.block_on(phases::lost_worker(stage))
            }),
            (
                "a_resource_set_reaches_the_clusters_it_chooses",
                |runtime, stage| runtime.block_on(phases::resources(stage)),
            ),
            ("control_planes_go_from_1_to_3_to_1", |runtime, stage| {
                runtime.block_on(phases::control_planes(stage))
            }),
            ("a_newer_version_rolls_out", |runtime, stage| {
                runtime.block_on(phases::upgrade(stage))
            }),
            ("nothing_is_touched_while_paused", |runtime, stage| {
                runtime.block_on(phases::paused(stage))
            }),
            (
                "a_control_plane_with_etcd_goes_from_1_to_3_to_1_and_loses_a_machine",
                |runtime, stage| runtime.block_on(phases::whole(stage)),
            ),
            ("nothing_is_left_after_deletion", |runtime, stage| {
                runtime.block_on(phases::goes_away(stage))
            }),
            ("rb_03_the_rights_of_the_manifests_suffice", |_, stage| {
                rights_suffice(stage)
            }),
        ],
    )
}

/// What `kubectl apply -f` makes of the manifests, as a person would use them.
fn manifests_apply(stage: &Stage) -> Result<(), Failure> {
    let management = &stage.world.management;
    let text = stage.platform.program()?.manifests(&["--without-webhooks"]);
    let path = management.site.write("manifests.yaml", &text?)?;
    let output = std::process::Command::new(KUBECTL.build()?)
        .arg("--kubeconfig")
        .arg(&management.kubeconfig)
        .args(["apply", "--dry-run=server", "-f"])
        .arg(path)
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}{complaint}");
    let deployment = stage.platform.names().deployment;
    let created = format!("deployment.apps/{deployment} created");
    assert!(said.contains(&created), "{said}");
    Ok(())
}

/// The real server asks the provider's webhooks over TLS.
async fn webhooks(stage: &Stage) -> Result<(), Failure> {
    let world = &stage.world;
    let (kind, name) = (stage.kind("MachineTemplate"), "demo-workers");
    let kind = kind.as_str();
    let rehearsal = PatchParams {
        dry_run: true,
        ..PatchParams::default()
    };
    let more_memory = |of_the_topology: bool| {
        let annotations = if of_the_topology {
            json!({"topology.cluster.x-k8s.io/dry-run": ""})
        } else {
            json!({})
        };
        json!({"metadata": {"annotations": annotations},
            "spec": {"template": {"spec": (stage.parts.grow)()}}})
    };
    let refused = world.patch(kind, name, more_memory(false)).await;
    let said = refused.expect_err("a template is frozen").to_string();
    assert!(said.contains("spec.template.spec"), "{said}");
    let refused = world.patch_with(kind, name, more_memory(false), &rehearsal);
    let refused = refused.await;
    refused.expect_err("a rehearsal of somebody else is none of the topology");
    world
        .patch_with(kind, name, more_memory(true), &rehearsal)
        .await?;
    let labels = json!({"metadata": {"labels": {"team": "blue"}}});
    world.patch(kind, name, labels).await?;
    Ok(())
}

/// The servers' own logs say what the provider asked for, of the management cluster and of a platform
/// that is an API server itself.
fn rights_suffice(stage: &Stage) -> Result<(), Failure> {
    let at_platform = stage.platform.requests()?.map(|all| ("the platform", all));
    let all = [("the management cluster", stage.provider.requests()?)];
    for (whom, requests) in all.into_iter().chain(at_platform) {
        assert!(requests.len() > 50, "only {} requests", requests.len());
        let watches = requests.iter().filter(|one| one.verb == "watch").count();
        assert!(watches > 0, "the log of {whom} lacks watches");
        let wrong = audit::wrong(&requests);
        assert!(wrong.is_empty(), "{whom}: {wrong:?}");
        let count = requests.len();
        println!("{count} requests of the provider to {whom}, none refused");
    }
    Ok(())
}

/// A cluster written for Cluster API v1beta1; the real server converts it.
async fn older(stage: &Stage) -> Result<(), Failure> {
    let world = &stage.world;
    let objects = serde_saphyr::from_multiple(stage.parts.older)?;
    world.apply(objects).await?;
    world
        .until(
            "the older cluster's infrastructure is provisioned",
            async || provisioned(world, "older").await,
        )
        .await?;
    Ok(())
}
