//! What it cost, and whether anything is left.

use std::time::Duration;

use capi_testkit::apiserver::AuditRecord;
use capi_testkit::budget::{Budget, Milestones};

use crate::options::Options;
use crate::provider;
use crate::story::Chronicle;
use crate::world::World;

/// The window in which shared polls are counted.
const POLL_WINDOW: Duration = Duration::from_secs(5);

/// The figures of one story.
#[derive(Debug)]
pub(crate) struct Summary {
    machines: usize,
    times: Vec<Duration>,
    speed: f64,
    budgets: Vec<Budget>,
    calls: Vec<u64>,
    polls_max: usize,
    left: Vec<String>,
    twins: usize,
    strangers: usize,
    chapters: Vec<(&'static str, Duration)>,
    kills: (u32, u32),
}

impl Summary {
    /// Counts what happened.
    pub(crate) fn of(world: &World, options: &Options, chronicle: Chronicle) -> Self {
        let times = chronicle.times;
        let platform = world.platform();
        let report = platform.audit();
        for record in report
            .records()
            .iter()
            .filter(|record| record.vmid.is_some())
        {
            tracing::debug!(vmid = record.vmid, at = ?record.at, "{} {}", record.method, record.path);
        }
        let is_machine = |vmid: &u32| *vmid < TEMPLATES_FROM;
        let by_vm = report.calls_per_vm().iter();
        let mut left: Vec<String> = platform
            .vms_left()
            .iter()
            .map(|vm| format!("VM {}", vm.vmid))
            .collect();
        left.extend(platform.isos_left().iter().map(|iso| iso.volid.clone()));
        left.extend(platform.disks_left().iter().map(|disk| disk.volid.clone()));
        Self {
            machines: times.len(),
            times: sorted(times.values().copied()),
            speed: options.speed,
            budgets: budgets(world),
            calls: sorted(
                by_vm
                    .filter(|(vmid, _)| is_machine(vmid))
                    .map(|(_, calls)| *calls),
            ),
            polls_max: report
                .shared_polls(POLL_WINDOW)
                .into_values()
                .max()
                .unwrap_or_default(),
            left,
            twins: platform.twins().len(),
            strangers: platform.strangers_touched().len(),
            chapters: chronicle.chapters,
            kills: (world.kills().done(), world.kills().planned()),
        }
    }

    /// Whether nothing is left and nothing was harmed.
    pub(crate) fn is_clean(&self) -> bool {
        self.left.is_empty()
            && self.twins == 0
            && self.strangers == 0
            && self.kills.0 == self.kills.1
    }

    /// The summary, a line each.
    pub(crate) fn lines(&self) -> Vec<String> {
        let of = |pick: fn(&Budget) -> usize| spread(&sorted(self.budgets.iter().map(pick)));
        let times: Vec<_> = self
            .times
            .iter()
            .map(|time| format!("{:.1} s", time.as_secs_f64()))
            .collect();
        let mut lines = vec![
            String::new(),
            format!(
                "Summary of {} machines, the platform at {} times its real speed",
                self.machines, self.speed
            ),
        ];
        for (title, took) in &self.chapters {
            lines.push(format!("  {title:<46}{:5.1} s", took.as_secs_f64()));
        }
        if self.kills.1 > 0 {
            let (done, planned) = self.kills;
            lines.push(format!(
                "  kills of the provider's process  {done} of {planned}"
            ));
        }
        lines.extend([
            format!("  time to a running node                {}", spread(&times)),
            format!(
                "  Kubernetes writes, gates to provisioned {} (goal 8)",
                of(|b| b.provisioning)
            ),
            format!(
                "    waiting before the gates opened     {}",
                of(|b| b.waiting)
            ),
            format!(
                "    after that, until deleted           {}",
                of(|b| b.settling)
            ),
            format!(
                "    deletion                            {}",
                of(|b| b.deletion)
            ),
            format!(
                "    events, whole life                  {}",
                of(|b| b.events)
            ),
            format!(
                "  hypervisor calls that name a machine  {} (goal 30)",
                spread(&self.calls)
            ),
            format!(
                "  shared polls of one list in 5 s       at most {}",
                self.polls_max
            ),
            format!(
                "VMs left: {}",
                self.left
                    .iter()
                    .filter(|what| what.starts_with("VM "))
                    .count()
            ),
            format!("twins: {}", self.twins),
        ]);
        if !self.is_clean() {
            lines.push(format!(
                "left behind: {}; strangers touched: {}",
                self.left.join(", "),
                self.strangers
            ));
        }
        lines.extend(NEXT.lines().map(str::to_owned));
        lines
    }
}

/// What to try next.
const NEXT: &str = "
Try next:
  cargo run --example quickstart -- --chaos --seed 7    the same under random faults
  cargo run --example quickstart -- --kill 5            the provider killed (kill -9) on the way
  cargo run --example quickstart -- --serve             stay up, for kubectl in another terminal
  cargo run --example quickstart -- -f FILE             your own manifest; begin with a copy of
                                                        examples/quickstart/cluster.yaml
  cargo run -p pve-sim                                  the simulated Proxmox VE alone, for curl
  cargo test --workspace                                everything that judges the provider";

/// VMIDs of templates in the simulated cluster begin here.
const TEMPLATES_FROM: u32 = 9000;

fn budgets(world: &World) -> Vec<Budget> {
    let records = world
        .audit()
        .select(|record| record.actor == provider::NAME);
    let of = |name: &str| {
        let is_of_machine = |record: &&AuditRecord| match record.resource.as_str() {
            "proxmoxmachines" => record.name == name,
            "ipaddressclaims" => {
                let rest = record.name.strip_prefix(name);
                rest.is_some_and(|rest| rest.starts_with("-net"))
            }
            "events" => record.name.starts_with(&format!("{name}.")),
            _ => false,
        };
        records
            .iter()
            .filter(is_of_machine)
            .cloned()
            .collect::<Vec<_>>()
    };
    let all = world.turns().into_iter();
    all.map(|(name, turns)| {
        let records = of(&name);
        // The last request that was under way before the object had that version.
        let moment = |turn: Option<u64>| {
            let before = records
                .iter()
                .filter(|it| turn.is_some_and(|turn| it.revision < turn));
            before.map(|record| record.at).max()
        };
        let milestones = Milestones {
            provisioned: moment(turns.provisioned),
            deleting: moment(turns.deleting),
        };
        Budget::of(&records, milestones)
    })
    .collect()
}

fn sorted<T: PartialOrd>(values: impl Iterator<Item = T>) -> Vec<T> {
    let mut values: Vec<T> = values.collect();
    values.sort_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
    values
}

/// The middle and the end of sorted values.
fn spread<T: std::fmt::Display>(sorted: &[T]) -> String {
    match (sorted.get(sorted.len() / 2), sorted.last()) {
        (Some(middle), Some(most)) => format!("median {middle}, most {most}"),
        _ => "none".to_owned(),
    }
}
