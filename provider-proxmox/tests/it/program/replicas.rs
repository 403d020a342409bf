//! Two replicas, of which the one that leads is killed or stopped while machines are made.

use std::time::Duration;

use capi_testkit::apiserver::AuditRecord;
use pve_sim::{Birth, Builder, Delays, Platform};
use rstest::rstest;

use super::Stage;
use crate::site::{Fleet, is_provisioned};

/// The lease of these replicas, and one retry period.
const TAKEOVER: Duration = Duration::from_millis(3_000 + 300);

/// What a busy machine may add to that: processes wait for a processor, requests for a handshake.
const SLACK: Duration = Duration::from_secs(4);

const MACHINES: [&str; 4] = ["m-0", "m-1", "m-2", "m-3"];

enum Fall {
    /// SIGKILL.
    Killed,
    /// SIGSTOP, and SIGCONT when another has long taken over.
    Stopped,
}

/// The machines that were ever made; the template was there before.
fn made(platform: &Platform) -> Vec<Birth> {
    let all = platform.births().into_iter();
    all.filter(|birth| !birth.stranger).collect()
}

/// No double action, takeover within the lease time.
#[rstest]
#[case::killed(Fall::Killed)]
#[case::stopped(Fall::Stopped)]
#[tokio::test(flavor = "multi_thread")]
async fn the_leader_falls_in_the_middle_of_provisioning(#[case] fall: Fall) {
    // Clones take about 2 s, so that the fall comes between calls.
    let platform = Builder::new()
        .delays(Delays::realistic())
        .speed(5.0)
        .build();
    let stage = Stage::new(platform).await;
    let platform = &stage.site.platform;
    let more = ["--diagnostics-address=0"];
    let leader = stage.start("a", &more);
    stage.until("a leader", || !stage.holder().is_empty()).await;
    let first = stage.holder();
    let heir = stage.start("b", &more);
    stage
        .until("a second candidate", || {
            heir.log().contains("the provider starts")
        })
        .await;
    let fleet = Fleet::create(&stage.site).await;
    for name in MACHINES {
        fleet.add(name).await;
    }
    // All clones run: none is asked for and unanswered, which the heir would have to wait out for the
    // 90 s that a request may lie somewhere. The crash sweep cuts there, in virtual time.
    stage
        .until("four clones", || made(platform).len() == MACHINES.len())
        .await;
    match fall {
        Fall::Killed => leader.signal("KILL"),
        Fall::Stopped => leader.signal("STOP"),
    }
    let took = stage.until("taken over", || stage.holder() != first).await;
    assert!(took <= TAKEOVER + SLACK, "after {took:?}: {}", heir.log());
    let is_made = |name: &str| {
        stage
            .site
            .machine(name)
            .is_some_and(|it| is_provisioned(&it))
    };
    if let Fall::Stopped = fall {
        // In the middle of the heir's work.
        stage
            .until("one made by the heir", || MACHINES.into_iter().any(is_made))
            .await;
        let mark = stage.site.server.audit().mark();
        leader.signal("CONT");
        // The heir renews without looking; whoever looks is the old leader, as a candidate.
        let looks = |r: &AuditRecord| r.is_lease() && r.verb == "get";
        stage
            .until("the old leader looks again", || {
                stage.site.server.audit().since(mark).iter().any(looks)
            })
            .await;
    }
    stage
        .until("all made", || MACHINES.into_iter().all(is_made))
        .await;
    assert_ne!(stage.holder(), first, "the old leader is a candidate again");
    // As many as machines: what the old leader began was taken up, not done again.
    let made = made(platform);
    assert_eq!(made.len(), MACHINES.len(), "{made:#?}");
    assert!(platform.twins().is_empty() && platform.overlaps().is_empty());
    assert!(platform.strangers_touched().is_empty());
    for name in MACHINES {
        fleet.delete(name).await;
    }
    let is_gone = |name| stage.site.machine(name).is_none();
    stage
        .until("all gone", || MACHINES.into_iter().all(is_gone))
        .await;
    assert!(platform.vms_left().is_empty());
    assert!(platform.isos_left().is_empty() && platform.disks_left().is_empty());
    assert!(platform.twins().is_empty());
}
