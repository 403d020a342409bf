//! The stories of clusterctl, and what they share.

use std::process::ExitCode;

use e2e::failure::Failure;
use e2e::infrastructure::Infrastructure;
use e2e::killer::Killer;
use e2e::management::Ports;
use e2e::suite;
use tokio::runtime::Runtime;

use crate::flavor::{self, ByClass};
use crate::side::Side;
use crate::{moving, removal, setup};

/// What differs between platforms in these stories, beside the platform.
pub(crate) struct Parts {
    /// Releases of ours, the first under a number of the Go provider's last series.
    pub(crate) releases: [&'static str; 3],
    /// What a user gives beside the arguments.
    pub(crate) given: &'static [(&'static str, &'static str)],
    /// What a user gives otherwise for the cluster of the class.
    pub(crate) given_for_the_class: &'static [(&'static str, &'static str)],
    /// The flavor of the first cluster; the default one if there is none.
    pub(crate) flavor: Option<&'static str>,
    /// Its text, as it is shipped.
    pub(crate) text: &'static str,
    /// Variables that have no default, in the order of the alphabet.
    pub(crate) needed: &'static [&'static str],
    /// Credentials that are given to clusterctl, if they are.
    pub(crate) credentials: Option<Credentials>,
    /// Under whose account the target's provider comes to the platform, if it is another than the
    /// source's.
    pub(crate) target_account: Option<&'static str>,
    /// Conditions that follow from a Node. Nodes are pretended here, and core takes them back while it
    /// finds no workload cluster, so these come and go.
    pub(crate) of_nodes: &'static [&'static str],
    /// Compares what the class made with the first cluster.
    pub(crate) compare: fn(&mut ByClass) -> Result<(), Failure>,
}

/// Credentials that clusterctl fills into a Secret of the components.
#[derive(Clone, Copy)]
pub(crate) struct Credentials {
    /// The Secret.
    pub(crate) secret: &'static str,
    /// What the program's variables have before its keys.
    pub(crate) prefix: &'static str,
    /// A variable that clusterctl tells people of.
    pub(crate) shown: &'static str,
}

/// What all stories share.
pub(crate) struct Stage {
    pub(crate) source: Side,
    pub(crate) target: Side,
    pub(crate) platform: Box<dyn Infrastructure>,
    pub(crate) parts: Parts,
    pub(crate) killer: Killer,
}

impl Stage {
    /// Two management clusters without anything in them; `variables` are what clusterctl is told for
    /// each.
    pub(crate) async fn begin(
        name: &str,
        [source, target]: [Ports; 2],
        parts: Parts,
        platform: Box<dyn Infrastructure>,
        [for_source, for_target]: [Vec<(&'static str, String)>; 2],
    ) -> Result<Self, Failure> {
        let names = platform.names();
        let side = async |which: &str, ports, variables| {
            let name = format!("{name}-{which}");
            Side::bare(&name, ports, names, &parts, variables).await
        };
        let source = side("source", source, for_source).await?;
        let target = side("target", target, for_target).await?;
        Ok(Self {
            source,
            target,
            platform,
            parts,
            killer: Killer::new(),
        })
    }
}

/// Plays them on the stage that is set here.
pub(crate) fn play(start: fn(&Runtime) -> Result<Stage, Failure>) -> ExitCode {
    suite::play(
        start,
        &[
            (
                "ctl_01_init_installs_from_a_local_repository",
                |on, stage| on.block_on(setup::init(stage)),
            ),
            (
                "ctl_02_our_release_takes_the_place_of_capmox",
                |on, stage| on.block_on(setup::take_over(stage)),
            ),
            ("ctl_06_generate_fills_in_every_flavor", |_, stage| {
                flavor::generate(stage)
            }),
            ("ctl_06_generate_names_what_is_missing", |_, stage| {
                flavor::missing(stage)
            }),
            ("ctl_08_clusters_of_every_flavor_come_up", |on, stage| {
                on.block_on(flavor::come_up(stage))
            }),
            (
                "describe_and_get_kubeconfig_show_the_cluster",
                |on, stage| on.block_on(flavor::shown(stage)),
            ),
            ("mv_02_a_move_in_the_middle_of_provisioning", |on, stage| {
                on.block_on(moving::midway(stage))
            }),
            ("mv_03_a_move_back_creates_nothing", |on, stage| {
                on.block_on(moving::back(stage))
            }),
            ("ctl_02_upgrade_between_our_releases", |on, stage| {
                on.block_on(setup::upgrade(stage))
            }),
            ("deleting_clusters_leaves_nothing", |on, stage| {
                on.block_on(removal::clusters(stage))
            }),
            (
                "ctl_09_deleting_the_provider_leaves_nothing",
                |on, stage| on.block_on(removal::provider(stage)),
            ),
            ("rb_03_the_rights_of_the_components_suffice", |_, stage| {
                removal::rights_sufficed(stage)
            }),
        ],
    )
}
