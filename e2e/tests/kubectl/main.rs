//! An unmodified `kubectl` against the API server of `capi-testkit`, over TLS.
//!
//! Each file in `transcripts/` is a test: the commands in it run in order against a server of their
//! own, and output and exit code of each are compared with what the file says, after normalising
//! (`normal.rs`). `UPDATE_TRANSCRIPTS=1` rewrites the files instead; the difference is then read as
//! critically as code, the question being whether a real kube-apiserver would have said that.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helper functions of tests are tests too"
)]

mod normal;
mod quickstart;
mod script;
mod session;
mod world;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use e2e::tool::{KUBECTL, ToolError};
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use similar::TextDiff;

use crate::{script::Script, session::Session};

/// Why the tests do not run unless they are asked for.
const ON_REQUEST: &str = "builds kubectl from Go modules, which takes minutes the first time; run \
                          with --include-ignored";

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let asked_for = arguments.include_ignored || arguments.ignored;
    let trials = transcripts().into_iter().map(|path| {
        let name = path.file_stem().expect("transcripts have names");
        let name = name.to_string_lossy().into_owned();
        let runner = move || {
            if asked_for {
                play(&path)
            } else {
                Ok(Completion::ignored_with(ON_REQUEST))
            }
        };
        // Without the flag `--ignored` would filter them out.
        Trial::ignorable_test(name, runner).with_ignored_flag(asked_for)
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

/// The transcripts, by name.
fn transcripts() -> Vec<PathBuf> {
    let entries = fs::read_dir(directory().join("transcripts")).expect("the directory is there");
    let paths = entries.map(|entry| entry.expect("an entry can be read").path());
    let mut paths: Vec<_> = paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    paths.sort();
    paths
}

/// Where this suite lies.
fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kubectl")
}

fn play(path: &Path) -> Result<Completion, Failed> {
    let kubectl = match KUBECTL.build() {
        Ok(kubectl) => kubectl,
        Err(error) if error.is_go_missing() => {
            return Ok(Completion::ignored_with(explain(&error)));
        }
        Err(error) => return Err(explain(&error).into()),
    };
    let stored = fs::read_to_string(path)?;
    let script = Script::parse(&stored)?;
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    let mut session = Session::start(&kubectl, &name);
    let played = script.play(|command| session.run(command))?;
    if played == stored {
        return Ok(Completion::Completed);
    }
    if env::var_os("UPDATE_TRANSCRIPTS").is_some() {
        fs::write(path, played)?;
        return Ok(Completion::Completed);
    }
    let difference = TextDiff::from_lines(&stored, &played);
    let difference = difference
        .unified_diff()
        .header("stored", "played")
        .to_string();
    Err(difference.into())
}

/// An error with its causes.
fn explain(error: &ToolError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text += &format!(": {inner}");
        cause = inner.source();
    }
    text
}
