//! The provider's release binary as a process: built, started, measured, ended.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use benches::world::Failure;

/// Clock ticks of `/proc/<pid>/stat` in a second; Linux has shown 100 to programs for decades,
/// whatever the kernel's own rate.
const TICKS_PER_SECOND: f64 = 100.0;

/// Builds the binary as a release has it.
pub(crate) fn build() -> Result<PathBuf, Failure> {
    let build = [
        "build",
        "--release",
        "--package",
        "provider-proxmox",
        "--bins",
    ];
    let status = Command::new(env!("CARGO")).args(build).status()?;
    if !status.success() {
        return Err(format!("cargo {} failed", build.join(" ")).into());
    }
    // Benches lie in the same folder's `deps`.
    let own = std::env::current_exe()?;
    let folder = own.parent().and_then(Path::parent).ok_or("no folder")?;
    Ok(folder.join("provider-proxmox"))
}

/// A provider that runs.
pub(crate) struct Process {
    child: Child,
}

impl Process {
    /// Starts the program for one management cluster and one hypervisor.
    pub(crate) fn start(
        program: &Path,
        kubeconfig: &Path,
        proxmox: &[(&str, String)],
    ) -> Result<Self, Failure> {
        let child = Command::new(program)
            .arg("run")
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .args([
                "--leader-elect=false",
                "--health-addr=0",
                "--diagnostics-address=0",
            ])
            .envs(proxmox.iter().map(|(name, value)| (name, value)))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self { child })
    }

    /// Whether it still runs.
    pub(crate) fn check(&mut self) -> Result<(), Failure> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => Err(format!("the provider ended: {status}").into()),
        }
    }

    /// Memory in MiB: what is resident now, and the most that ever was.
    pub(crate) fn memory_mib(&self) -> Result<(f64, f64), Failure> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let field = |name: &str| -> Option<f64> {
            let line = text.lines().find(|line| line.starts_with(name))?;
            let kib: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
            Some(kib / 1024.0)
        };
        let both = field("VmRSS:").zip(field("VmHWM:"));
        both.ok_or_else(|| "the kernel tells no memory".into())
    }

    /// Processor time so far.
    pub(crate) fn cpu(&self) -> Result<Duration, Failure> {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // The second field is the program's name in brackets, which may hold spaces.
        let fields = text.rsplit(')').next().unwrap_or_default();
        let ticks = |at: usize| -> Option<f64> { fields.split_whitespace().nth(at)?.parse().ok() };
        let (user, system) = ticks(11).zip(ticks(12)).ok_or("no processor times")?;
        Ok(Duration::from_secs_f64((user + system) / TICKS_PER_SECOND))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Nothing can be done about a process that is gone already.
        let _killed = self.child.kill();
        let _status = self.child.wait();
    }
}
