//! Chaos is the same for the same seed, and leaves the world whole.

use std::time::Duration;

use pve_sim::{Builder, Delays, Platform, Rates};

use crate::client::call;

/// A clumsy client: tries each step some times, and writes down what it saw.
async fn play(platform: &Platform) -> Vec<String> {
    let mut seen = Vec::new();
    for newid in 100..130_u32 {
        let id = newid.to_string();
        let steps = [
            (
                "POST",
                "/nodes/pve1/qemu/9000/clone".to_owned(),
                vec![("newid", id.as_str())],
            ),
            (
                "POST",
                format!("/nodes/pve1/qemu/{id}/status/start"),
                vec![],
            ),
            ("POST", format!("/nodes/pve1/qemu/{id}/status/stop"), vec![]),
            ("DELETE", format!("/nodes/pve1/qemu/{id}"), vec![]),
        ];
        for (method, path, parameters) in steps {
            for _ in 0..5 {
                let reply = call(platform, method, &path, &parameters).await;
                seen.push(format!("{} {}", reply.status.as_u16(), reply.body));
                tokio::time::sleep(Duration::from_secs(20)).await;
                let exists = platform.vm(newid).is_some();
                let running = platform.vm(newid).is_some_and(|vm| vm.running);
                let done = match path.rsplit('/').next() {
                    Some("clone") => exists,
                    Some("start") => running,
                    Some("stop") => !running,
                    _ => !exists,
                };
                if done {
                    break;
                }
            }
        }
    }
    seen
}

async fn run(seed: u64) -> (Vec<String>, Platform) {
    let platform = Builder::new()
        .delays(Delays::realistic())
        .chaos(Rates::rough())
        .seed(seed)
        .build();
    let seen = play(&platform).await;
    (seen, platform)
}

#[tokio::test(start_paused = true)]
async fn a_seed_decides_everything() {
    let (first, _) = run(1).await;
    let (again, _) = run(1).await;
    let (other, _) = run(2).await;
    assert_eq!(first, again);
    assert_ne!(first, other);
    let wrong = first.iter().filter(|line| !line.starts_with("200")).count();
    assert!(wrong > 0, "nothing went wrong in {} calls", first.len());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_left_behind() {
    for seed in 0..20 {
        let (_, platform) = run(seed).await;
        platform.faults().clear();
        tokio::time::sleep(Duration::from_secs(120)).await;
        assert_eq!(platform.tasks_running(), 0, "seed {seed}");
        let vms = platform.vms_left();
        assert_eq!(
            platform.disks_left(),
            [],
            "seed {seed}: disks of none of {vms:?}"
        );
        let alive = platform
            .births()
            .iter()
            .filter(|birth| birth.is_alive())
            .count();
        assert_eq!(alive, vms.len() + 1, "seed {seed}: births and VMs differ");
    }
}
