//! The simulator of Cluster API against the real one: the same day in both.
//!
//! Per object of the infrastructure provider, what Cluster API's controllers write to it is taken from
//! both: who (field manager), how (apply, merge, delete), which fields are set or removed, and how many
//! objects live through the same. The real ones are read from the audit log of the kube-apiserver, the
//! simulator from its client. Left out are times, uids, versions, made-up parts of names, refused
//! writes, rehearsals, and a write that an actor repeats as it was, since that is a resync. Two actors
//! do not wait for each other, so the order counts per actor.
//!
//! A difference is a fault of the simulator, or it is listed in `differences.txt` with its reason; an
//! entry that is no difference any more fails, too.
//!
//! In the real world the machines make a workload cluster of real API servers and etcds, so that the
//! control plane comes up, nodes are lost and replaced, and new templates are rolled out; in the other
//! one it is played, too.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helper functions of tests are tests too"
)]

mod day;
mod difference;
mod record;
mod side;
mod write;

use std::process::ExitCode;

use e2e::failure::Failure;
use e2e::suite;

use crate::difference::Differences;
use crate::side::Side;
use crate::write::lives;

fn main() -> ExitCode {
    suite::play(
        |_| Ok(()),
        &[(
            "the_simulator_changes_infrastructure_as_the_real_core_does",
            |runtime, ()| runtime.block_on(compare()),
        )],
    )
}

async fn compare() -> Result<(), Failure> {
    let (real, played) = (Side::real().await?, Side::played().await?);
    let (day, same_day) = tokio::join!(day::play(&real), day::play(&played));
    day.map_err(|failure| Failure::new(format!("real: {failure}")))?;
    same_day.map_err(|failure| Failure::new(format!("played: {failure}")))?;
    let (theirs, ours) = (real.writes()?, played.writes()?);
    println!(
        "{} writes of the real core, {} of the simulator",
        theirs.len(),
        ours.len()
    );
    let (theirs, ours) = (lives(&theirs), lives(&ours));
    assert!(theirs.len() > 3, "only {:?}", theirs.keys());
    for (role, lines) in &theirs {
        println!("{role}: {} fields compared", lines.len());
    }
    let differences = Differences::read();
    let faults = differences.judge(&theirs, &ours);
    if faults.is_empty() {
        println!(
            "{} differences, all listed with their reasons",
            differences.len()
        );
        return Ok(());
    }
    Err(Failure::new(faults))
}
