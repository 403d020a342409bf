//! A thousand VMs cost microseconds per call.

use std::time::Duration;

use pve_sim::{Builder, Delays};
use rustix::time::{ClockId, clock_gettime};

use crate::client::call;

/// Processor time of this thread, which other programs on the machine don't stretch.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        time.tv_sec.try_into().unwrap(),
        time.tv_nsec.try_into().unwrap(),
    )
}

/// Far above what an optimised build needs (some microseconds), and far below what an algorithm
/// would take that looks at every VM for every call.
const CALL_MAX: Duration = Duration::from_millis(1);

#[tokio::test(start_paused = true)]
async fn a_thousand_vms_are_made_and_unmade_quickly() {
    let platform = Builder::new().delays(Delays::zero()).build();
    let start = processor_time();
    let mut calls = 0;
    for newid in 100..1100 {
        let id = newid.to_string();
        let clone = [("newid", id.as_str())];
        call(&platform, "POST", "/nodes/pve1/qemu/9000/clone", &clone)
            .await
            .data();
        let path = format!("/nodes/pve1/qemu/{id}/config");
        call(&platform, "POST", &path, &[("cores", "4")])
            .await
            .data();
        call(&platform, "GET", &path, &[]).await.data();
        calls += 3;
    }
    for newid in 100..1100 {
        call(
            &platform,
            "DELETE",
            &format!("/nodes/pve1/qemu/{newid}"),
            &[],
        )
        .await
        .data();
        calls += 1;
    }
    let per_call = (processor_time() - start) / calls;
    println!("{calls} calls, {per_call:?} each");
    assert!(per_call < CALL_MAX, "{per_call:?}");
    assert_eq!(platform.vms_left(), []);
}
