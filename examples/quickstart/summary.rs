//! What it cost, and whether anything is left.

use std::time::Duration;

use capi_testkit::apiserver::AuditRecord;
use capi_testkit::budget::{Budget, Milestones};

use crate::options::Options;
use crate::platform::{Profile, Remains};
use crate::story::Chronicle;
use crate::world::World;

/// The figures of one story.
#[derive(Debug)]
pub(crate) struct Summary {
    machines: usize,
    times: Vec<Duration>,
    speed: f64,
    budgets: Vec<Budget>,
    costs: Vec<String>,
    remains: Remains,
    profile: &'static Profile,
    chapters: Vec<(&'static str, Duration)>,
    kills: (u32, u32),
}

impl Summary {
    /// Counts what happened.
    pub(crate) fn of(world: &World, options: &Options, chronicle: Chronicle) -> Self {
        let times = chronicle.times;
        Self {
            machines: times.len(),
            times: sorted(times.values().copied()),
            speed: options.speed,
            budgets: budgets(world),
            costs: world.platform().costs(),
            remains: world.platform().remains(),
            profile: world.profile(),
            chapters: chronicle.chapters,
            kills: (world.kills().done(), world.kills().planned()),
        }
    }

    /// Whether nothing is left and nothing was harmed.
    pub(crate) fn is_clean(&self) -> bool {
        let remains = &self.remains;
        remains.vms.is_empty()
            && remains.others.is_empty()
            && remains.twins == 0
            && remains.strangers == 0
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
                "  Kubernetes writes, gates to provisioned {} (goal {})",
                of(|b| b.provisioning),
                self.profile.writes
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
        ]);
        lines.extend(self.costs.iter().map(|line| format!("  {line}")));
        let remains = &self.remains;
        lines.push(format!("VMs left: {}", remains.vms.len()));
        lines.push(format!("twins: {}", remains.twins));
        if !self.is_clean() {
            let vms = remains.vms.iter().map(|vm| format!("VM {vm}"));
            let left: Vec<String> = vms.chain(remains.others.iter().cloned()).collect();
            lines.push(format!(
                "left behind: {}; strangers touched: {}",
                left.join(", "),
                remains.strangers
            ));
        }
        lines.extend(self.profile.next.lines().map(str::to_owned));
        lines
    }
}

fn budgets(world: &World) -> Vec<Budget> {
    let profile = world.profile();
    let machines = profile.machine().plural;
    let audit = world.audit();
    let records = audit.select(|record| record.actor == profile.provider);
    let of = |name: &str| {
        let is_of_machine = |record: &&AuditRecord| match record.resource.as_str() {
            kind if kind == machines => record.name == name,
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

pub(crate) fn sorted<T: PartialOrd>(values: impl Iterator<Item = T>) -> Vec<T> {
    let mut values: Vec<T> = values.collect();
    values.sort_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
    values
}

/// The middle and the end of sorted values.
pub(crate) fn spread<T: std::fmt::Display>(sorted: &[T]) -> String {
    match (sorted.get(sorted.len() / 2), sorted.last()) {
        (Some(middle), Some(most)) => format!("median {middle}, most {most}"),
        _ => "none".to_owned(),
    }
}
