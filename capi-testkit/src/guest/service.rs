//! Units of systemd that are enabled, and what they run.

use std::collections::BTreeSet;

use crate::guest::disk::Disk;
use crate::guest::ini::sections;
use crate::guest::shell::{self, Action, After, Command};

/// Where units are.
pub(super) const UNITS: &str = "/etc/systemd/system/";
/// Where enabled units are linked.
pub(super) const ENABLED: &str = "/etc/systemd/system/multi-user.target.wants/";

/// The commands of all enabled units, in the order in which they start: after what they are to come
/// after, else by name. A unit whose condition does not hold is left out.
pub(super) fn commands(disk: &Disk) -> Vec<Command> {
    let enabled: Vec<&str> = disk
        .below(ENABLED)
        .filter_map(|(path, _)| path.strip_prefix(ENABLED))
        .collect();
    let mut order = Order {
        disk,
        enabled: &enabled,
        seen: BTreeSet::new(),
        commands: Vec::new(),
    };
    for unit in &enabled {
        order.start(unit);
    }
    order.commands
}

struct Order<'a> {
    disk: &'a Disk,
    enabled: &'a [&'a str],
    seen: BTreeSet<String>,
    commands: Vec<Command>,
}

impl Order<'_> {
    fn start(&mut self, unit: &str) {
        let text = text(self.disk, unit);
        if text.is_empty() || !self.seen.insert(unit.to_owned()) {
            return;
        }
        let all = sections(&text);
        let values = |section: &str, key: &str| -> Vec<String> {
            let sections = all.iter().filter(|one| one.name == section);
            let lines = sections.flat_map(|one| &one.lines);
            lines
                .filter(|(name, _)| *name == key)
                .map(|(_, value)| (*value).to_owned())
                .collect()
        };
        let words = |key: &str| -> Vec<String> {
            let values = values("Unit", key);
            values
                .iter()
                .flat_map(|value| value.split_whitespace())
                .map(str::to_owned)
                .collect()
        };
        for needed in words("Requires").into_iter().chain(words("Wants")) {
            self.start(&needed);
        }
        for earlier in words("After") {
            if self.enabled.contains(&earlier.as_str()) {
                self.start(&earlier);
            }
        }
        let conditions = values("Unit", "ConditionPathExists");
        if conditions.iter().any(|path| self.disk.file(path).is_none()) {
            return;
        }
        let files = values("Service", "EnvironmentFile");
        let files = files
            .iter()
            .map(|file| file.trim_start_matches('-').to_owned());
        self.commands
            .push(always(Action::Environment(files.collect())));
        for line in values("Service", "ExecStart") {
            self.commands.extend(run(self.disk, &line));
        }
    }
}

/// A unit with its drop-ins.
fn text(disk: &Disk, unit: &str) -> String {
    let path = format!("{UNITS}{unit}");
    let dropins = format!("{path}.d/");
    let parts = disk
        .file(&path)
        .into_iter()
        .chain(disk.below(&dropins).map(|(_, bytes)| bytes));
    let parts: Vec<_> = parts.map(|bytes| String::from_utf8_lossy(bytes)).collect();
    parts.join("\n")
}

/// What a line of `ExecStart=` does: a script of the disk is run line by line.
fn run(disk: &Disk, line: &str) -> Vec<Command> {
    let line = line.trim_start_matches(['-', '@', '+', '!', ':']);
    let script = disk
        .file(line)
        .and_then(|bytes| std::str::from_utf8(bytes).ok());
    if let Some(script) = script.filter(|script| script.starts_with("#!")) {
        return shell::script(script);
    }
    match shell::words(line).as_slice() {
        [program, option, script] if program.ends_with("sh") && option == "-c" => {
            shell::script(script)
        }
        _ => shell::script(line),
    }
}

fn always(action: Action) -> Command {
    Command {
        after: After::Anything,
        action,
    }
}
