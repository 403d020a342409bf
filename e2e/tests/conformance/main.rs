//! One table of requests, sent to the embedded API server and to a real kube-apiserver.
//!
//! The answers are compared after normalising. A difference is a fault of the embedded server, or is
//! listed with its reason in `differences.txt`; an entry that is no difference any more fails too.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helper functions of tests are tests too"
)]

mod answer;
mod case;
mod cases;
mod difference;
mod server;
mod webhook;

use std::process::ExitCode;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use similar::TextDiff;
use tokio::runtime::Runtime;

use crate::case::Case;
use crate::difference::Differences;
use crate::server::Servers;

/// Why the tests do not run unless they are asked for.
const ON_REQUEST: &str = "builds and runs etcd and kube-apiserver, which takes minutes the first \
                          time; run with --include-ignored";

/// Both servers, started by the first case that needs them.
struct Stage {
    runtime: Runtime,
    servers: OnceLock<Result<Servers, String>>,
    differences: Differences,
    /// Held for writing by a case that is alone.
    turn: RwLock<()>,
}

impl Stage {
    fn servers(&self) -> Result<&Servers, Failed> {
        let started = self.servers.get_or_init(|| {
            self.runtime
                .block_on(Servers::start())
                .map_err(|error| explain(&*error))
        });
        started.as_ref().map_err(|error| error.as_str().into())
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let asked_for = arguments.include_ignored || arguments.ignored;
    let stage = Arc::new(Stage {
        runtime: Runtime::new().expect("a runtime"),
        servers: OnceLock::new(),
        differences: Differences::read(),
        turn: RwLock::default(),
    });
    let cases = cases::all();
    let names: Vec<_> = cases.iter().map(|case| case.name).collect();
    let unknown = stage.differences.unknown(&names);
    assert!(
        unknown.is_empty(),
        "differences.txt names no case: {unknown:?}"
    );
    println!("{} cases", cases.len());
    let trials = cases.into_iter().map(|case| {
        let stage = Arc::clone(&stage);
        let name = case.name.to_owned();
        let runner = move || {
            if asked_for {
                judge(&stage, &case)
            } else {
                Ok(Completion::ignored_with(ON_REQUEST))
            }
        };
        // Without the flag `--ignored` would filter them out.
        Trial::ignorable_test(name, runner).with_ignored_flag(asked_for)
    });
    let trials: Vec<_> = trials.collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    if let Some(Ok(servers)) = stage.servers.get() {
        servers.stop();
    }
    conclusion.exit_code()
}

/// Plays a case on both servers and compares.
fn judge(stage: &Stage, case: &Case) -> Result<Completion, Failed> {
    let servers = stage.servers()?;
    let turn = &stage.turn;
    let _alone = case
        .is_alone
        .then(|| turn.write().unwrap_or_else(PoisonError::into_inner));
    let _beside = (!case.is_alone).then(|| turn.read().unwrap_or_else(PoisonError::into_inner));
    let (embedded, real) = stage
        .runtime
        .block_on(async { tokio::join!(case.play(&servers.embedded), case.play(&servers.real)) });
    let (embedded, real) = (embedded?, real?);
    let mut faults = String::new();
    for (number, (ours, theirs)) in embedded.iter().zip(&real).enumerate() {
        let place = format!("{}#{}", case.name, number + 1);
        let listed = stage.differences.reason(&place);
        match (ours == theirs, listed) {
            (true, None) | (false, Some(_)) => {}
            (true, Some(_)) => {
                faults += &format!("{place} is listed as a difference and is none any more\n");
            }
            (false, None) => {
                let diff = TextDiff::from_lines(theirs.as_str(), ours.as_str());
                let diff = diff.unified_diff().header("real", "embedded").to_string();
                faults += &format!("{place}: {}\n{diff}\n", case.steps[number].title());
            }
        }
    }
    if faults.is_empty() {
        Ok(Completion::Completed)
    } else {
        Err(faults.into())
    }
}

fn explain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text += &format!(": {inner}");
        cause = inner.source();
    }
    text
}
