//! Whether objects decode by the Go types that KubeVirt and its image importer publish.
//!
//! A schema prunes what it does not know, silently; the types of the program that will read the
//! object tell. [`check`] runs a small program on the pinned modules, [`STRICT`].

use std::io::{self, Write};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::tool::{STRICT, ToolError};

/// Why objects are not good, or could not be checked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StrictError {
    /// The program could not be built.
    #[error("build what checks objects")]
    Tool(#[from] ToolError),
    /// The program could not be run.
    #[error("run what checks objects")]
    Run(#[from] io::Error),
    /// Some objects do not decode.
    #[error("decode {count} objects by the published types:\n{faults}")]
    Faults {
        /// How many were given.
        count: usize,
        /// A line per fault, with the object's place in the input, from 1.
        faults: String,
    },
}

/// Decodes every object strictly: no unknown field, none twice, none in another case. A partial
/// object, as of a server-side apply, is good if the fields that it has are.
///
/// # Errors
///
/// [`StrictError::Faults`] names each object and field; the others say what could not be run.
pub fn check(objects: &[Value]) -> Result<(), StrictError> {
    let mut child = Command::new(STRICT.build()?)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let missing = || io::Error::other("standard input is not piped");
    let mut input = child.stdin.take().ok_or_else(missing)?;
    let lines: String = objects.iter().map(|object| format!("{object}\n")).collect();
    // The program reads all before it ends, and answers less than a pipe holds per object; from a
    // thread, since both pipes can be full.
    let writer = std::thread::spawn(move || input.write_all(lines.as_bytes()));
    let output = child.wait_with_output()?;
    let panicked = |_| Err(io::Error::other("writing to it panicked"));
    let written = writer.join().unwrap_or_else(panicked);
    if output.status.success() {
        return Ok(written?);
    }
    let mut faults = String::from_utf8_lossy(&output.stdout).into_owned();
    if faults.is_empty() {
        faults = String::from_utf8_lossy(&output.stderr).into_owned();
    }
    let count = objects.len();
    Err(StrictError::Faults { count, faults })
}
