//! Bootstrap data in Ignition's format: who the machine is and its network, put into the document.
//!
//! Ignition reads `user-data` of the same volume that cloud-init would, and nothing else, so that
//! what cloud-init finds in files of its own has to be in the document:
//!
//! | what | where |
//! |---|---|
//! | host name | `/etc/hostname` |
//! | instance id, provider id, addresses | `/etc/proxmox-env`, with the names of the Go provider |
//! | network, for systemd-networkd (Flatcar) | `networkd.units` in version 2, files in version 3 |
//! | network, for NetworkManager (Fedora CoreOS) | files, in version 3 alone |
//!
//! Either network is without effect where the other's program runs. What the document has itself
//! is left as it is: a file or unit of the same name is the user's.
//!
//! Source: Ignition specification, versions 2.0 to 2.4 and 3.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::{MetaData, keyfile, networkd};
use crate::api::PROVIDER_ID_SCHEME;
use crate::network::GuestNetwork;

/// Where systemd-networkd reads its units.
const NETWORKD: &str = "/etc/systemd/network";

/// Where NetworkManager reads its connections.
const NETWORK_MANAGER: &str = "/etc/NetworkManager/system-connections";

/// What templates of the Go provider read.
const ENVIRONMENT: &str = "/etc/proxmox-env";

/// What resolves names by the servers that systemd-networkd was given.
const RESOLVER: &str = "systemd-resolved.service";

/// Permissions of a file that anybody may read.
const PUBLIC: u32 = 0o644;

/// Permissions without which NetworkManager ignores a connection.
const PRIVATE: u32 = 0o600;

/// The longest version that is repeated in a message; a real one has five letters.
const VERSION_SHOWN_MAX: usize = 32;

/// Why a document cannot be completed. No message shows any of it but its version, since it holds
/// join tokens and keys.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum IgnitionError {
    /// It is not JSON.
    #[error(
        "read bootstrap data: it is to be an Ignition document, and is no JSON at line {line}, \
         column {column}"
    )]
    Json {
        /// Line of the first letter that does not fit.
        line: usize,
        /// Its column.
        column: usize,
    },
    /// Nobody says which specification it follows.
    #[error(
        "read bootstrap data: it is to be an Ignition document, and has no ignition.version that \
         could be read"
    )]
    NoVersion,
    /// A specification that is not known here.
    #[error(
        "read bootstrap data: it follows version {version} of Ignition's specification, and \
         versions 2.0 to 2.4 and 3 are supported"
    )]
    UnsupportedVersion {
        /// The version.
        version: String,
    },
    /// A document that gives way to another one.
    #[error(
        "read bootstrap data: ignition.config.replace would take away the machine's name and \
         network; use {instead}"
    )]
    Replaced {
        /// What adds to this document instead of replacing it.
        instead: &'static str,
    },
    /// A part is not what it should be.
    #[error("read bootstrap data: {part} of the Ignition document is no {expected}")]
    Malformed {
        /// The part.
        part: &'static str,
        /// `list` or `object`.
        expected: &'static str,
    },
}

/// The specification that a document follows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Specification {
    /// 2.x, with units of systemd-networkd of its own.
    Two,
    /// 3.x.
    Three,
}

/// The document with name and network of the machine.
pub(super) fn merge(
    document: &[u8],
    meta_data: &MetaData,
    guest: &GuestNetwork,
) -> Result<Vec<u8>, IgnitionError> {
    let value: Value = serde_json::from_slice(document).map_err(|error| IgnitionError::Json {
        line: error.line(),
        column: error.column(),
    })?;
    let Value::Object(mut document) = value else {
        return Err(IgnitionError::NoVersion);
    };
    let specification = specification(&document)?;
    let mut files = vec![
        (
            "/etc/hostname".to_owned(),
            PUBLIC,
            format!("{}\n", meta_data.hostname),
        ),
        (
            ENVIRONMENT.to_owned(),
            PUBLIC,
            environment(meta_data, guest),
        ),
    ];
    let units = networkd::units(guest);
    match specification {
        Specification::Two => {
            let all = list(&mut document, "networkd", "units", "networkd.units")?;
            for (name, contents) in units {
                if !has(all, "name", &name) {
                    all.push(json!({"name": name, "contents": contents}));
                }
            }
            let all = list(&mut document, "systemd", "units", "systemd.units")?;
            if !has(all, "name", RESOLVER) {
                all.push(json!({"name": RESOLVER, "enabled": true}));
            }
        }
        Specification::Three => {
            let units = units.into_iter();
            files.extend(units.map(|(name, text)| (format!("{NETWORKD}/{name}"), PUBLIC, text)));
            let connections = keyfile::connections(guest).into_iter();
            files.extend(
                connections
                    .map(|(name, text)| (format!("{NETWORK_MANAGER}/{name}"), PRIVATE, text)),
            );
        }
    }
    add_files(&mut document, specification, files)?;
    Ok(Value::Object(document).to_string().into_bytes())
}

/// Reads the version, and what would undo all that is added.
fn specification(document: &Map<String, Value>) -> Result<Specification, IgnitionError> {
    let about = document.get("ignition").unwrap_or(&Value::Null);
    let version = about["version"].as_str().ok_or(IgnitionError::NoVersion)?;
    let (number, _) = version.split_once('-').unwrap_or((version, ""));
    let parts: Vec<Option<u32>> = number.split('.').map(|part| part.parse().ok()).collect();
    let specification = match parts.as_slice() {
        [Some(2), Some(0..=4), Some(_)] => Specification::Two,
        [Some(3), Some(_), Some(_)] => Specification::Three,
        _ => {
            let version = version.chars().take(VERSION_SHOWN_MAX).collect();
            return Err(IgnitionError::UnsupportedVersion { version });
        }
    };
    let replaced = &about["config"]["replace"]["source"];
    if replaced.as_str().is_some_and(|source| !source.is_empty()) {
        return Err(IgnitionError::Replaced {
            instead: match specification {
                Specification::Two => "ignition.config.append",
                Specification::Three => "ignition.config.merge",
            },
        });
    }
    Ok(specification)
}

/// A list of the document, made if it is not there.
fn list<'a>(
    document: &'a mut Map<String, Value>,
    section: &str,
    key: &str,
    part: &'static str,
) -> Result<&'a mut Vec<Value>, IgnitionError> {
    let malformed = |expected| IgnitionError::Malformed { part, expected };
    let section = document.entry(section).or_insert_with(|| json!({}));
    if section.is_null() {
        *section = json!({});
    }
    let section = section.as_object_mut().ok_or(malformed("object"))?;
    let list = section.entry(key).or_insert_with(|| json!([]));
    if list.is_null() {
        *list = json!([]);
    }
    list.as_array_mut().ok_or(malformed("list"))
}

fn has(list: &[Value], key: &str, value: &str) -> bool {
    list.iter().any(|entry| entry[key] == value)
}

/// Adds files that the document does not have in any form: in version 3, one path in two entries
/// is an error.
fn add_files(
    document: &mut Map<String, Value>,
    specification: Specification,
    files: Vec<(String, u32, String)>,
) -> Result<(), IgnitionError> {
    let storage = document.get("storage").unwrap_or(&Value::Null);
    let nodes = ["files", "directories", "links"].map(|key| storage[key].as_array());
    let taken: Vec<String> = nodes
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|node| Some(node["path"].as_str()?.to_owned()))
        .collect();
    let all = list(document, "storage", "files", "storage.files")?;
    for (path, mode, contents) in files {
        if taken.contains(&path) {
            continue;
        }
        let source = format!("data:;base64,{}", STANDARD.encode(contents));
        let mut file = json!({
            "path": path, "mode": mode, "overwrite": true, "contents": {"source": source},
        });
        if specification == Specification::Two {
            file["filesystem"] = json!("root");
        }
        all.push(file);
    }
    Ok(())
}

/// Names and values as the Go provider writes them; addresses have the length of their prefix.
fn environment(meta_data: &MetaData, guest: &GuestNetwork) -> String {
    let MetaData {
        instance_id,
        hostname,
        ..
    } = meta_data;
    let mut text = format!(
        "COREOS_CUSTOM_HOSTNAME={hostname}\n\
         COREOS_CUSTOM_INSTANCE_ID={instance_id}\n\
         COREOS_CUSTOM_PROVIDER_ID={PROVIDER_ID_SCHEME}{instance_id}\n"
    );
    for (ip, prefix) in &guest.node_addresses {
        let family = if ip.is_ipv4() { 4 } else { 6 };
        text.push_str(&format!(
            "COREOS_CUSTOM_PRIVATE_IPV{family}={ip}/{prefix}\n"
        ));
    }
    text
}

#[cfg(test)]
mod tests;
