//! A machine's files and processes.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use capi_testkit::guest::Disk;
use capi_testkit::workload::Refused;

use crate::failure::Failure;
use crate::process::{self, Launch};
use crate::site::Site;
use crate::workload::cluster::Admin;
use crate::workload::failed;

/// What the seed writes for Kubernetes: certificates, keys, static pods.
const KUBERNETES: &str = "/etc/kubernetes/";
/// So much of a UUID tells machines apart in a list.
const SHORT: usize = 8;

/// The machine as the host of programs sees it: a directory, and what runs.
#[derive(Debug)]
pub(super) struct Machine {
    site: Site,
    /// SMBIOS UUID.
    pub(super) uuid: String,
    node: String,
    running: Mutex<Running>,
    /// An administrator of its own API server, once it has one.
    own: Mutex<Option<Admin>>,
}

#[derive(Debug, Default)]
struct Running {
    /// No program is started any more.
    ended: bool,
    /// What runs, or ran until the machine was switched off.
    launches: Vec<Launch>,
}

impl Machine {
    pub(super) fn new(site: &Site, uuid: &str, node: &str) -> Self {
        Self {
            site: site.clone(),
            uuid: uuid.to_owned(),
            node: node.to_owned(),
            running: Mutex::default(),
            own: Mutex::default(),
        }
    }

    /// Remembers the administrator of the machine's API server.
    pub(super) fn keep(&self, own: Admin) {
        *self.own.lock().unwrap_or_else(PoisonError::into_inner) = Some(own);
    }

    /// The administrator of its API server, if it has one.
    pub(super) fn own(&self) -> Option<Admin> {
        self.own
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn below(&self, path: &str) -> String {
        format!("machines/{}/{}", self.uuid, path.trim_start_matches('/'))
    }

    /// Where a file of the machine lies here.
    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.site.path(self.below(path))
    }

    /// Under which name a program of the machine is listed.
    pub(super) fn name(&self, program: &str) -> String {
        let short = self.uuid.get(..SHORT).unwrap_or(&self.uuid);
        format!("{}.{short}.{program}", self.node)
    }

    /// Writes what the seed brought for Kubernetes.
    pub(super) fn unpack(&self, disk: &Disk) -> Result<(), Refused> {
        let paths = disk.paths().filter(|path| path.starts_with(KUBERNETES));
        for path in paths {
            let text = disk.file(path).map(|bytes| String::from_utf8_lossy(bytes));
            self.write(path, &text.unwrap_or_default())?;
        }
        Ok(())
    }

    pub(super) fn write(&self, path: &str, text: &str) -> Result<PathBuf, Refused> {
        let written = self.site.write(&self.below(path), text);
        written.map_err(|error| failed("write a file")(error.into()))
    }

    pub(super) fn read(&self, path: &str) -> Result<String, Refused> {
        let read = self.site.read(&self.below(path));
        read.map_err(|_| {
            Refused::Failed(format!(
                "failure loading {path}: open {path}: no such file or directory"
            ))
        })
    }

    /// Starts a program, unless the machine was switched off meanwhile.
    pub(super) fn start(
        &self,
        program: &str,
        path: PathBuf,
        arguments: Vec<String>,
    ) -> Result<(), Refused> {
        let launch = Launch {
            name: self.name(program),
            program: path,
            arguments,
            environment: Vec::new(),
        };
        // Held while it starts: what ends the machine then finds the process.
        let mut running = self.lock();
        if running.ended {
            return Err(Refused::Failed("the machine was switched off".to_owned()));
        }
        process::start(&self.site, &launch)
            .map_err(|error| failed("start a program")(error.into()))?;
        running.launches.push(launch);
        Ok(())
    }

    /// Fails if a program has ended.
    pub(super) fn check(&self, program: &str) -> Result<(), Failure> {
        Ok(process::check(&self.site, &self.name(program))?)
    }

    /// The machine runs (again).
    pub(super) fn revive(&self) {
        self.lock().ended = false;
    }

    /// What ran when the machine was switched off.
    pub(super) fn restart(&self) -> Result<(), Refused> {
        let running = self.lock();
        if running.ended {
            return Err(Refused::Failed("the machine was switched off".to_owned()));
        }
        for launch in &running.launches {
            process::start(&self.site, launch)
                .map_err(|error| failed("start a program")(error.into()))?;
        }
        Ok(())
    }

    /// Ends all programs, hard, and lets no other start.
    pub(super) fn end(&self) {
        let mut running = self.lock();
        running.ended = true;
        let names: Vec<_> = running.launches.iter().map(|one| &*one.name).collect();
        if let Err(error) = process::kill_all(&self.site, &names) {
            eprintln!("error: {error}");
        }
    }

    /// Removes all files.
    pub(super) fn wipe(&self) {
        let path = self.path("");
        match std::fs::remove_dir_all(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                eprintln!("error: remove {}: {error}", path.display());
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_is_off_starts_nothing_and_leaves_nothing() {
        let site = Site::named(&format!("test-machine-{}", std::process::id()));
        let machine = Machine::new(&site, "0123456789", "cp-0");
        let sleep = || vec!["600".to_owned()];
        machine
            .start("etcd", "/bin/sleep".into(), sleep())
            .expect("started");
        machine
            .write("/etc/kubernetes/pki/ca.key", "k")
            .expect("written");
        assert_eq!(machine.name("etcd"), "cp-0.01234567.etcd");
        machine.check("etcd").expect("it runs");
        machine.end();
        machine.check("etcd").expect_err("it was killed");
        machine
            .start("etcd", "/bin/sleep".into(), sleep())
            .expect_err("it is off");
        machine.restart().expect_err("it is off");
        machine.revive();
        machine.restart().expect("it is on again");
        machine.check("etcd").expect("it runs again");
        machine.end();
        machine.wipe();
        assert!(!machine.path("").exists());
        site.clear().expect("removed");
    }
}
