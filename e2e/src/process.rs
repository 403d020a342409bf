//! Processes of a run: started, listed, ended, each with a log of its own.
//!
//! # Guarantees
//!
//! A process is found by a mark in its environment that names the run's directory, not by a list on
//! disk. So [`stop`] ends exactly what [`start`] began, also when the program that began it crashed
//! before it could write anything down, and never another's process whose number was used again.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::site::{Site, SiteError, failed};

/// The variable that marks the processes of a run: the run's directory.
const SITE: &str = "CAPI_RS_E2E_SITE";
/// The variable that names a process.
const NAME: &str = "CAPI_RS_E2E_PROCESS";
/// How long processes get to end by themselves. An API server whose etcd is gone needs up to a
/// minute; nothing of it is worth that.
const GRACE: Duration = Duration::from_secs(2);
/// How long the kernel may take to end a killed process.
const KILLED_WITHIN: Duration = Duration::from_secs(10);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(20);

/// Why a process could not be started or ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessError {
    /// The program could not be run.
    #[error("start {name} from {}", program.display())]
    Start {
        /// Its name.
        name: String,
        /// The program.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Its log could not be made.
    #[error(transparent)]
    Site(#[from] SiteError),
    /// It ended too early.
    #[error("{name} has ended; the end of its log:\n{tail}")]
    Ended {
        /// Its name.
        name: String,
        /// Its last lines.
        tail: String,
    },
    /// Killed processes still run.
    #[error("processes {0:?} are still there after they were killed")]
    Unkillable(Vec<u32>),
}

/// A program to be started.
#[derive(Clone, Debug)]
pub struct Launch {
    /// Under which name it is listed, and its log.
    pub name: String,
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Variables beside those of the caller.
    pub environment: Vec<(String, String)>,
}

/// A process of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its name.
    pub name: String,
    /// Its number.
    pub id: u32,
    /// Resident memory in KiB.
    pub memory_kib: u64,
}

/// Starts a program in a process group of its own, so that Ctrl-C in a terminal does not reach it.
///
/// # Errors
///
/// A program that cannot be run, a log that cannot be written.
pub fn start(site: &Site, launch: &Launch) -> Result<u32, ProcessError> {
    site.make("logs")?;
    let log = site.log(&launch.name);
    let mut options = fs::OpenOptions::new();
    let file = options.create(true).append(true).open(&log);
    let file = file.map_err(|source| failed("open", &log, source))?;
    let errors = file
        .try_clone()
        .map_err(|source| failed("open", &log, source))?;
    let spawned = Command::new(&launch.program)
        .args(&launch.arguments)
        .envs(launch.environment.iter().cloned())
        .env(SITE, site.directory())
        .env(NAME, &launch.name)
        .current_dir(site.directory())
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(errors)
        .process_group(0)
        .spawn();
    let mut child = spawned.map_err(|source| ProcessError::Start {
        name: launch.name.clone(),
        program: launch.program.clone(),
        source,
    })?;
    let id = child.id();
    // The kernel shows a new program's environment only a moment after it runs.
    let begun = Instant::now();
    while marked(site, id).is_none() && begun.elapsed() < GRACE {
        if matches!(child.try_wait(), Ok(Some(_))) {
            break;
        }
        std::thread::sleep(LOOK);
    }
    // Without a parent that waits, an ended process would stay in the kernel's list.
    std::thread::spawn(move || child.wait());
    Ok(id)
}

/// The processes of a run, by name.
#[must_use]
pub fn list(site: &Site) -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let mut found: Vec<_> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|id: u32| marked(site, id))
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name).then(a.id.cmp(&b.id)));
    found
}

/// A process, if it bears the run's mark and has not ended.
fn marked(site: &Site, id: u32) -> Option<Process> {
    let environment = fs::read(format!("/proc/{id}/environ")).ok()?;
    let (directory, name) = mark(&environment)?;
    if Path::new(&directory) != site.directory() {
        return None;
    }
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    if field("State:")?.trim().starts_with('Z') {
        return None;
    }
    let memory = field("VmRSS:").and_then(|text| text.split_whitespace().next());
    Some(Process {
        name,
        id,
        memory_kib: memory.and_then(|text| text.parse().ok()).unwrap_or(0),
    })
}

/// Directory and name in an environment block.
fn mark(environment: &[u8]) -> Option<(String, String)> {
    let value = |variable: &str| {
        let mut all = environment.split(|byte| *byte == 0);
        all.find_map(|entry| {
            let entry = std::str::from_utf8(entry).ok()?;
            let (name, value) = entry.split_once('=')?;
            (name == variable).then(|| value.to_owned())
        })
    };
    Some((value(SITE)?, value(NAME)?))
}

/// Fails if a process has ended.
///
/// # Errors
///
/// [`ProcessError::Ended`], with the end of its log.
pub fn check(site: &Site, name: &str) -> Result<(), ProcessError> {
    if list(site).iter().any(|process| process.name == name) {
        return Ok(());
    }
    Err(ProcessError::Ended {
        name: name.to_owned(),
        tail: tail(&site.log(name)),
    })
}

/// The last lines of a log.
fn tail(log: &Path) -> String {
    /// Enough to hold the fatal message of every program of the tier.
    const LINES: usize = 8;
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

/// Ends the processes of a run that are named, or all of them; how many there were.
///
/// # Errors
///
/// A process that stays after it was killed.
pub fn stop(site: &Site, names: Option<&[&str]>) -> Result<usize, ProcessError> {
    let wanted =
        |process: &Process| names.is_none_or(|names| names.contains(&process.name.as_str()));
    let ids = || -> BTreeSet<u32> {
        let all = list(site).into_iter().filter(wanted);
        all.map(|process| process.id).collect()
    };
    let before = ids();
    signal(&before, Signal::TERM);
    if !gone_within(GRACE, &ids) {
        signal(&ids(), Signal::KILL);
        if !gone_within(KILLED_WITHIN, &ids) {
            return Err(ProcessError::Unkillable(ids().into_iter().collect()));
        }
    }
    Ok(before.len())
}

/// Kills a process of a run as a crash does, without warning, and waits until it is gone.
///
/// # Errors
///
/// A process that stays after it was killed.
pub fn kill(site: &Site, name: &str) -> Result<(), ProcessError> {
    kill_all(site, &[name])
}

/// As [`kill`], of several at once.
///
/// # Errors
///
/// A process that stays after it was killed.
pub fn kill_all(site: &Site, names: &[&str]) -> Result<(), ProcessError> {
    if names.is_empty() {
        return Ok(());
    }
    let ids = || -> BTreeSet<u32> {
        let all = list(site)
            .into_iter()
            .filter(|process| names.contains(&&*process.name));
        all.map(|process| process.id).collect()
    };
    signal(&ids(), Signal::KILL);
    if gone_within(KILLED_WITHIN, &ids) {
        return Ok(());
    }
    Err(ProcessError::Unkillable(ids().into_iter().collect()))
}

fn gone_within(limit: Duration, ids: &impl Fn() -> BTreeSet<u32>) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < limit {
        if ids().is_empty() {
            return true;
        }
        std::thread::sleep(LOOK);
    }
    ids().is_empty()
}

fn signal(ids: &BTreeSet<u32>, signal: Signal) {
    for id in ids {
        let pid = i32::try_from(*id).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // One that has ended meanwhile needs no signal.
            let _sent = kill_process(pid, signal);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(name: &str) -> Site {
        let site = Site::named(&format!("test-{name}-{}", std::process::id()));
        site.clear().expect("a fresh directory");
        site.make("").expect("a directory");
        site
    }

    fn sleeper(name: &str) -> Launch {
        Launch {
            name: name.to_owned(),
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), "echo begun; sleep 600".into()],
            environment: Vec::new(),
        }
    }

    #[test]
    fn a_run_ends_its_own_processes_and_no_others() {
        let (ours, theirs) = (site("ours"), site("theirs"));
        start(&ours, &sleeper("a")).expect("started");
        start(&ours, &sleeper("b")).expect("started");
        start(&theirs, &sleeper("a")).expect("started");
        let names = |site: &Site| -> Vec<_> { list(site).into_iter().map(|p| p.name).collect() };
        // The shell's child carries the mark too.
        assert!(names(&ours).contains(&"a".to_owned()) && names(&ours).contains(&"b".to_owned()));

        stop(&ours, Some(&["a"])).expect("stopped");
        assert!(!names(&ours).contains(&"a".to_owned()));
        assert!(names(&ours).contains(&"b".to_owned()));
        stop(&ours, None).expect("stopped");
        assert_eq!(list(&ours), []);
        assert!(names(&theirs).contains(&"a".to_owned()));

        let ended = check(&ours, "a").expect_err("it was stopped").to_string();
        assert!(ended.contains("begun"), "{ended}");
        stop(&theirs, None).expect("stopped");
        for site in [ours, theirs] {
            site.clear().expect("removed");
        }
    }

    #[test]
    fn the_mark_is_read_from_an_environment_block() {
        let block = b"PATH=/bin\0CAPI_RS_E2E_SITE=/x/y\0CAPI_RS_E2E_PROCESS=etcd\0";
        let expected = ("/x/y".to_owned(), "etcd".to_owned());
        assert_eq!(mark(block), Some(expected));
        assert_eq!(mark(b"PATH=/bin\0"), None);
    }
}
