//! The boot of a system with Ignition: Flatcar and Fedora CoreOS.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use super::{Event, Guest, Stage};
use crate::guest::disk::Full;
use crate::guest::hardware::Ignition;
use crate::guest::ignition::{self, Provision};
use crate::guest::network::{self, Network};
use crate::guest::seed::{find_document, find_instance};
use crate::guest::service::{ENABLED, UNITS};
use crate::guest::shell::Action;

const NETWORKD: &str = "/etc/systemd/network/";
/// Where Afterburn writes what a config drive says of the instance.
const METADATA: &str = "/run/metadata/";
const NETWORK_MANAGER: &str = "/etc/NetworkManager/system-connections/";

impl Guest {
    /// The kernel is up: Ignition at the first boot, then the system.
    pub(super) fn start_with_ignition(
        &mut self,
        reads: Ignition,
        now: Duration,
        events: &mut Vec<Event>,
    ) {
        if self.disk.instance_id.is_none()
            && let Err(why) = self.ignite(reads, now)
        {
            self.emergency = true;
            let why = format!("Ignition: {why}; entering emergency mode");
            self.give_up(now, why, events);
            return;
        }
        let who = if reads.network_manager {
            "NetworkManager"
        } else {
            "systemd-networkd"
        };
        match self.configured_network(reads) {
            Ok(network) => self.network = network,
            Err(why) => {
                self.give_up(now, format!("{who}: {why}"), events);
                return;
            }
        }
        self.print_network(who, now);
        self.note_instance(now);
        let name = self
            .disk
            .file("/etc/hostname")
            .map(|bytes| String::from_utf8_lossy(bytes));
        let name = name.map(|name| name.trim().to_owned());
        let name = name.filter(|name| !name.is_empty());
        if let Some(name) = name.or_else(|| self.leased_hostname()) {
            self.print(now, &format!("systemd: Hostname set to <{name}>"));
            self.disk.hostname = Some(name);
        }
        if self.disk.membership.is_some() {
            self.return_to_cluster(now);
        } else {
            let until = now + self.pace.cloud_init;
            self.stage = Stage::Services { until };
        }
    }

    /// Afterburn: the environment file that units read, with the names that each system has.
    fn note_instance(&mut self, now: Duration) {
        let Some((id, hostname)) = find_instance(&self.media) else {
            return;
        };
        let (file, prefix) = if self.image.os_id == "flatcar" {
            ("flatcar", "COREOS")
        } else {
            ("afterburn", "AFTERBURN")
        };
        let text =
            format!("{prefix}_KUBEVIRT_INSTANCE_ID={id}\n{prefix}_KUBEVIRT_HOSTNAME={hostname}\n");
        if let Err(full) = self.disk.write(format!("{METADATA}{file}"), text, 0o644) {
            self.print(now, &format!("afterburn: {full}"));
        }
    }

    /// The name that comes with a lease.
    fn leased_hostname(&self) -> Option<String> {
        let mut nics = self.hardware.nics.iter();
        let leased = nics.any(|nic| nic.link && nic.dhcp.is_some());
        self.hardware.dhcp_hostname.clone().filter(|_| leased)
    }

    /// Fetches the document and writes what it asks for.
    fn ignite(&mut self, reads: Ignition, now: Duration) -> Result<(), String> {
        let (device, document) = find_document(&self.media).map_err(|why| why.to_string())?;
        self.print(now, &format!("Ignition: reading config from {device}"));
        let provision = ignition::read(&document, reads)?;
        for warning in &provision.warnings {
            self.print(now, &format!("Ignition: {warning}"));
        }
        let users = provision.users.join(", ");
        self.write(provision)
            .map_err(|full| format!("files: {full}"))?;
        self.disk.instance_id = Some(self.hardware.uuid.clone());
        let users = if users.is_empty() { "none" } else { &users };
        self.print(now, &format!("Ignition: finished, users: {users}"));
        Ok(())
    }

    fn write(&mut self, provision: Provision) -> Result<(), Full> {
        for file in provision.files {
            if file.append {
                self.disk
                    .append(&file.path, &file.content, file.permissions)?;
            } else {
                self.disk.write(file.path, file.content, file.permissions)?;
            }
        }
        for unit in provision.units {
            let path = format!("{UNITS}{}", unit.name);
            for (name, contents) in unit.dropins {
                self.disk
                    .write(format!("{path}.d/{name}"), contents, 0o644)?;
            }
            if let Some(contents) = unit.contents {
                self.disk.write(path, contents, 0o644)?;
            }
            if unit.enabled {
                let link = format!("{ENABLED}{}", unit.name);
                self.disk.write(link, Bytes::new(), 0o644)?;
            }
        }
        Ok(())
    }

    /// The network as the service that runs here finds it on the disk.
    fn configured_network(&self, reads: Ignition) -> Result<Network, String> {
        let nics = &self.hardware.nics;
        let folder = if reads.network_manager {
            NETWORK_MANAGER
        } else {
            NETWORKD
        };
        let files = self.disk.below(folder).filter_map(|(path, bytes)| {
            let permissions = self.disk.permissions(path)?;
            let name = path.strip_prefix(folder)?;
            Some((name, (std::str::from_utf8(bytes).ok()?, permissions)))
        });
        let files: BTreeMap<&str, (&str, u32)> = files.collect();
        if reads.network_manager {
            return network::connections(&files, nics);
        }
        let units = files.into_iter().map(|(name, (text, _))| (name, text));
        network::units(&units.collect(), nics)
    }

    /// What commands of units do with files and the environment.
    pub(super) fn handle_file(&mut self, now: Duration, action: Action) {
        self.exit_code = 0;
        let written = match action {
            Action::Environment(files) => {
                let files = files.iter().filter_map(|path| self.disk.file(path));
                self.environment = files.flat_map(assignments).collect();
                Ok(())
            }
            Action::DumpEnvironment(path) => {
                let lines = self.environment.iter();
                let lines: String = lines
                    .map(|(key, value)| format!("{key}={value}\n"))
                    .collect();
                self.disk.write(path, lines, 0o644)
            }
            Action::Substitute { from, to } => {
                let text = self
                    .disk
                    .file(&from)
                    .map(|bytes| substituted(bytes, &self.environment));
                self.disk.write(to, text.unwrap_or_default(), 0o644)
            }
            Action::Copy { from, to, keep } => {
                let permissions = self.disk.permissions(&from);
                let written = match (self.disk.file(&from).cloned(), permissions) {
                    (Some(bytes), Some(permissions)) => self.disk.write(to, bytes, permissions),
                    _ => Ok(()),
                };
                if !keep {
                    self.disk.remove(&from);
                }
                written
            }
            Action::Remove(path) => {
                self.disk.remove(&path);
                Ok(())
            }
            Action::Kubeadm { .. } | Action::Write { .. } | Action::Exit(_) | Action::Other(_) => {
                Ok(())
            }
        };
        if let Err(full) = written {
            self.exit_code = 1;
            self.print(now, &format!("sh: {full}"));
        }
    }

    /// The last unit ended.
    pub(super) fn finish_services(&mut self, now: Duration, events: &mut Vec<Event>) {
        if self.exit_code == 0 {
            self.disk.outcome = Some(Ok(()));
            self.print(now, "systemd: Reached target multi-user.target");
            events.push(Event::Booted);
        } else {
            let why = format!(
                "systemd: main process exited, code=exited, status={}/FAILURE",
                self.exit_code
            );
            self.give_up(now, why, events);
        }
    }

    fn give_up(&mut self, now: Duration, why: String, events: &mut Vec<Event>) {
        self.disk.outcome = Some(Err(why.clone()));
        self.print(now, &why);
        events.push(Event::Failed(why));
    }
}

/// The assignments of an environment file.
fn assignments(bytes: &Bytes) -> Vec<(String, String)> {
    let text = String::from_utf8_lossy(bytes);
    let lines = text.lines().filter_map(|line| line.trim().split_once('='));
    lines
        .filter(|(key, _)| !key.starts_with('#'))
        .map(|(key, value)| (key.to_owned(), value.trim_matches('"').to_owned()))
        .collect()
}

/// What `envsubst` makes of a text: `${NAME}` and `$NAME` become their values, or nothing.
fn substituted(bytes: &Bytes, environment: &BTreeMap<String, String>) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut parts = text.split('$');
    let mut out = parts.next().unwrap_or_default().to_owned();
    let is_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    for part in parts {
        let braced = part.strip_prefix('{').and_then(|rest| rest.split_once('}'));
        let end = part.find(|letter| !is_name(letter)).unwrap_or(part.len());
        let (name, rest) = braced.unwrap_or(part.split_at(end));
        if name.is_empty() || !name.chars().all(is_name) {
            out.push('$');
            out.push_str(part);
            continue;
        }
        out.push_str(
            environment
                .get(name)
                .map(String::as_str)
                .unwrap_or_default(),
        );
        out.push_str(rest);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_their_values() {
        let bytes = Bytes::from_static(b"A=1\n# B=2\nC=\"x y\"\n");
        let environment = assignments(&bytes).into_iter().collect();
        let text = Bytes::from_static(b"${A} $C, ${D}. $ 5$ ${ $$A");
        assert_eq!(substituted(&text, &environment), "1 x y, . $ 5$ ${ $1");
    }
}
