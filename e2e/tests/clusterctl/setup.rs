//! Installing and upgrading.

use e2e::failure::Failure;

use crate::side::Side;
use crate::stage::Stage;

/// Both management clusters; the source with the release that stands for the Go provider.
pub(crate) async fn init(stage: &mut Stage) -> Result<(), Failure> {
    let [older, first, _] = stage.parts.releases;
    for (side, release) in [(&stage.source, older), (&stage.target, first)] {
        side.init(release)?;
        assert_eq!(installed(side).await?, release);
    }
    stage.source.begin().await?;
    stage.target.begin().await
}

/// The version that clusterctl noted down.
async fn installed(side: &Side) -> Result<String, Failure> {
    let kind = "Provider.v1alpha3.clusterctl.cluster.x-k8s.io";
    let api = side.world.api_in(side.names.namespace, kind);
    let noted = api.get(&side.label()).await?;
    Ok(noted.data["version"]
        .as_str()
        .unwrap_or_default()
        .to_owned())
}

/// The series of the Go provider are in our metadata, so clusterctl offers ours as its upgrade.
pub(crate) async fn take_over(stage: &mut Stage) -> Result<(), Failure> {
    let side = &mut stage.source;
    let plan = side.clusterctl.run(&["upgrade", "plan"])?;
    let line = plan.lines().find(|line| line.starts_with(&side.label()));
    let words: Vec<_> = line.unwrap_or_default().split_whitespace().collect();
    let [from, next, latest] = stage.parts.releases;
    assert!(words.contains(&from) && words.contains(&latest), "{plan}");
    upgrade_to(side, next).await
}

async fn upgrade_to(side: &mut Side, release: &str) -> Result<(), Failure> {
    // As it ends with its Deployment.
    side.provider().kill()?;
    let wanted = format!("{}:{release}", side.names.provider);
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
    let changes = stage.platform.changes()?.len();
    let plan = side.clusterctl.run(&["upgrade", "plan"])?;
    let [.., latest] = stage.parts.releases;
    assert!(plan.contains(latest), "{plan}");
    upgrade_to(side, latest).await?;
    assert_eq!(side.uids().await?, uids);
    side.as_before("everything is as before the upgrade", &before)
        .await?;
    let done = stage.platform.changes()?.split_off(changes);
    assert!(done.is_empty(), "{done:#?}");
    Ok(())
}
