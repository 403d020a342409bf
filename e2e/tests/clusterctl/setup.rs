//! Installing and upgrading.

use e2e::failure::Failure;
use e2e::proxmox::NAMESPACE;

use crate::Stage;
use crate::side::{RELEASES, Side};

/// Both management clusters; the source with the release that stands for CAPMOX.
pub(crate) async fn init(stage: &mut Stage) -> Result<(), Failure> {
    stage.source.init(RELEASES[0])?;
    stage.target.init(RELEASES[1])?;
    for (side, release) in [(&stage.source, RELEASES[0]), (&stage.target, RELEASES[1])] {
        assert_eq!(installed(side).await?, release);
    }
    stage.source.begin().await?;
    stage.target.begin().await
}

/// The version that clusterctl noted down.
async fn installed(side: &Side) -> Result<String, Failure> {
    let kind = "Provider.v1alpha3.clusterctl.cluster.x-k8s.io";
    let api = side.world.api_in(NAMESPACE, kind);
    let noted = api.get("infrastructure-proxmox").await?;
    Ok(noted.data["version"]
        .as_str()
        .unwrap_or_default()
        .to_owned())
}

/// The series of the Go provider are in our metadata, so clusterctl offers ours as its upgrade.
pub(crate) async fn take_over(stage: &mut Stage) -> Result<(), Failure> {
    let side = &mut stage.source;
    let plan = side.clusterctl.run(&["upgrade", "plan"])?;
    let line = plan
        .lines()
        .find(|line| line.starts_with("infrastructure-proxmox"));
    let words: Vec<_> = line.unwrap_or_default().split_whitespace().collect();
    let [from, _, latest] = RELEASES;
    assert!(words.contains(&from) && words.contains(&latest), "{plan}");
    upgrade_to(side, RELEASES[1]).await
}

async fn upgrade_to(side: &mut Side, release: &str) -> Result<(), Failure> {
    // As it ends with its Deployment.
    side.provider().kill()?;
    let wanted = format!("proxmox:{release}");
    let apply = ["upgrade", "apply", "--infrastructure", &wanted];
    side.clusterctl.run(&apply)?;
    assert_eq!(installed(side).await?, release);
    side.restart_provider().await
}

/// Under clusters that run: the objects stay the same ones, and nothing is done to the machines.
pub(crate) async fn upgrade(stage: &mut Stage) -> Result<(), Failure> {
    let side = &mut stage.source;
    let (uids, before) = (side.uids().await?, side.belongings().await?);
    assert!(!uids.is_empty());
    stage.proxmox.platform.clear_audit();
    let plan = side.clusterctl.run(&["upgrade", "plan"])?;
    assert!(plan.contains(RELEASES[2]), "{plan}");
    upgrade_to(side, RELEASES[2]).await?;
    assert_eq!(side.uids().await?, uids);
    side.as_before("everything is as before the upgrade", &before)
        .await?;
    let audit = stage.proxmox.platform.audit();
    let done: Vec<_> = audit.mutations().collect();
    assert!(done.is_empty(), "{done:#?}");
    Ok(())
}
