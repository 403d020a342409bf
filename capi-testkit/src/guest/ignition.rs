//! Ignition: the document that sets a system up before it starts for the first time.
//!
//! Source: Ignition specification, versions 2.x and 3.x; what it checks, and how it says so.

use std::collections::BTreeSet;

use base64::Engine as _;
use bytes::Bytes;
use serde_json::{Map, Value};

use crate::guest::cloud_config::WriteFile;
use crate::guest::hardware::Ignition;

/// What an entry without `mode` gets.
const MODE: u32 = 0o644;

/// What a document asks for.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Provision {
    pub(super) files: Vec<WriteFile>,
    pub(super) units: Vec<Unit>,
    pub(super) users: Vec<String>,
    /// What Ignition warns about and leaves out.
    pub(super) warnings: Vec<String>,
}

/// A unit of systemd.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Unit {
    pub(super) name: String,
    pub(super) enabled: bool,
    pub(super) contents: Option<String>,
    /// Names and contents.
    pub(super) dropins: Vec<(String, String)>,
}

/// Keys that are read or that change nothing a controller could see, by place and version.
const TOP_2: &[&str] = &["ignition", "networkd", "passwd", "storage", "systemd"];
const TOP_3: &[&str] = &[
    "ignition",
    "kernelArguments",
    "passwd",
    "storage",
    "systemd",
];
const FILE_2: &[&str] = &[
    "append",
    "contents",
    "filesystem",
    "group",
    "mode",
    "overwrite",
    "path",
    "user",
];
const FILE_3: &[&str] = &[
    "append",
    "contents",
    "group",
    "mode",
    "overwrite",
    "path",
    "user",
];

/// Reads a document as this Ignition does. The error stops the boot, and quotes nothing.
pub(super) fn read(bytes: &[u8], reads: Ignition) -> Result<Provision, String> {
    if bytes.starts_with(b"#cloud-config\n") {
        return Err("no config provided by user: it is a cloud-config, ignoring".to_owned());
    }
    let value: Value = serde_json::from_slice(bytes).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        format!("failed to parse config: invalid JSON at line {line} col {column}")
    })?;
    let is_2 = is_version_2(&value, reads)?;
    let replace = &value["ignition"]["config"]["replace"]["source"];
    if replace.is_string() {
        return Err("failed to fetch config: the simulated guest has no remote configs".to_owned());
    }
    let mut provision = Provision::default();
    let top = if is_2 { TOP_2 } else { TOP_3 };
    provision.unused(&value, "$", top);
    provision.read_files(&value["storage"], is_2)?;
    provision.read_units(&value["systemd"])?;
    if is_2 {
        provision.read_networkd(&value["networkd"])?;
    }
    for user in list(&value["passwd"]["users"], "passwd.users")? {
        let name = user["name"].as_str().filter(|name| !name.is_empty());
        let name = name.ok_or("error at $.passwd.users: missing required field \"name\"")?;
        provision.users.push(name.to_owned());
    }
    Ok(provision)
}

fn is_version_2(value: &Value, reads: Ignition) -> Result<bool, String> {
    let version = value["ignition"]["version"].as_str().unwrap_or_default();
    let parts: Vec<u32> = version
        .split('.')
        .filter_map(|part| part.parse().ok())
        .collect();
    match parts.as_slice() {
        [2, 0..=4, 0] if reads.reads_2 => Ok(true),
        [3, minor, 0] if *minor <= reads.newest_3 => Ok(false),
        [] => {
            Err("error at $.ignition.version: invalid config version (couldn't parse)".to_owned())
        }
        _ => Err("error at $.ignition.version: unsupported config version".to_owned()),
    }
}

fn list<'a>(value: &'a Value, part: &str) -> Result<&'a [Value], String> {
    match value {
        Value::Null => Ok(&[]),
        Value::Array(items) => Ok(items),
        _ => Err(format!("error at $.{part}: expected an array")),
    }
}

impl Provision {
    fn unused(&mut self, value: &Value, place: &str, keys: &[&str]) {
        let own = value.as_object().into_iter().flat_map(Map::keys);
        let unused = own.filter(|key| !keys.contains(&key.as_str()));
        self.warnings
            .extend(unused.map(|key| format!("warning at {place}.{key}: unused key {key}")));
    }

    fn read_files(&mut self, storage: &Value, is_2: bool) -> Result<(), String> {
        let mut paths = BTreeSet::new();
        for key in ["directories", "links"] {
            for node in list(&storage[key], &format!("storage.{key}"))? {
                paths.insert(node["path"].as_str().unwrap_or_default());
            }
        }
        for (position, file) in list(&storage["files"], "storage.files")?.iter().enumerate() {
            let place = format!("$.storage.files.{position}");
            self.unused(file, &place, if is_2 { FILE_2 } else { FILE_3 });
            let path = file["path"].as_str().unwrap_or_default();
            if !path.starts_with('/') {
                return Err(format!("error at {place}.path: path not absolute"));
            }
            if is_2 && file["filesystem"] != "root" {
                return Err(format!(
                    "error at {place}.filesystem: no filesystem specified"
                ));
            }
            if !is_2 && !paths.insert(path) {
                return Err(format!("error at {place}.path: duplicate entry defined"));
            }
            let permissions = mode(&file["mode"], &place)?;
            let append = is_2 && file["append"] == true;
            let mut parts = vec![(&file["contents"], append)];
            if !is_2 {
                let more = list(&file["append"], "storage.files.append")?;
                parts.extend(more.iter().map(|part| (part, true)));
            }
            for (contents, append) in parts {
                let content =
                    fetched(contents).map_err(|why| format!("error at {place}: {why}"))?;
                self.files.push(WriteFile {
                    path: path.to_owned(),
                    content,
                    permissions,
                    append,
                });
            }
        }
        Ok(())
    }

    fn read_units(&mut self, systemd: &Value) -> Result<(), String> {
        let kinds = [
            "service",
            "socket",
            "device",
            "mount",
            "automount",
            "swap",
            "target",
            "path",
            "timer",
            "snapshot",
            "slice",
            "scope",
        ];
        for (position, unit) in list(&systemd["units"], "systemd.units")?.iter().enumerate() {
            let place = format!("$.systemd.units.{position}");
            let name = named(unit, &place, &kinds, "invalid systemd unit extension")?;
            let mut dropins = Vec::new();
            for dropin in list(&unit["dropins"], "systemd.units.dropins")? {
                let file = named(
                    dropin,
                    &place,
                    &["conf"],
                    "invalid systemd drop-in extension",
                )?;
                let contents = dropin["contents"].as_str().unwrap_or_default();
                dropins.push((file.to_owned(), contents.to_owned()));
            }
            self.units.push(Unit {
                name: name.to_owned(),
                // `enable` is what the first version 2 said.
                enabled: unit["enabled"] == true || unit["enable"] == true,
                contents: unit["contents"].as_str().map(str::to_owned),
                dropins,
            });
        }
        Ok(())
    }

    fn read_networkd(&mut self, networkd: &Value) -> Result<(), String> {
        for (position, unit) in list(&networkd["units"], "networkd.units")?
            .iter()
            .enumerate()
        {
            let place = format!("$.networkd.units.{position}");
            let kinds = ["link", "netdev", "network"];
            let name = named(unit, &place, &kinds, "invalid networkd unit extension")?;
            let contents = unit["contents"].as_str().unwrap_or_default();
            self.files.push(WriteFile {
                path: format!("/etc/systemd/network/{name}"),
                content: Bytes::copy_from_slice(contents.as_bytes()),
                permissions: MODE,
                append: false,
            });
        }
        Ok(())
    }
}

fn named<'a>(unit: &'a Value, place: &str, kinds: &[&str], wrong: &str) -> Result<&'a str, String> {
    let name = unit["name"].as_str().unwrap_or_default();
    let kind = name.rsplit_once('.').map(|(_, kind)| kind);
    if kind.is_some_and(|kind| kinds.contains(&kind)) && !name.contains('/') {
        Ok(name)
    } else {
        Err(format!("error at {place}.name: {wrong}"))
    }
}

fn mode(mode: &Value, place: &str) -> Result<u32, String> {
    match mode {
        Value::Null => Ok(MODE),
        mode => mode
            .as_u64()
            .and_then(|mode| u32::try_from(mode).ok())
            .filter(|mode| *mode <= 0o7777)
            .ok_or_else(|| format!("error at {place}.mode: illegal file mode")),
    }
}

/// The content that a source stands for.
fn fetched(contents: &Value) -> Result<Bytes, String> {
    let compression = contents["compression"].as_str().unwrap_or_default();
    if !compression.is_empty() {
        return Err(format!("the simulated guest does not unpack {compression}"));
    }
    let source = contents["source"].as_str().unwrap_or_default();
    if source.is_empty() {
        return Ok(Bytes::new());
    }
    let Some(data) = source.strip_prefix("data:") else {
        return Err("the simulated guest fetches no source but data URLs".to_owned());
    };
    let (head, data) = data
        .split_once(',')
        .ok_or("unable to parse url: invalid data URL")?;
    let bytes = unescaped(data).ok_or("unable to parse url: invalid escape")?;
    if !head.ends_with(";base64") {
        return Ok(bytes.into());
    }
    let engine = base64::engine::general_purpose::STANDARD;
    let bytes = engine.decode(bytes).map_err(|_| "illegal base64 data")?;
    Ok(bytes.into())
}

/// A text without its percent signs.
fn unescaped(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut letters = text.bytes();
    while let Some(letter) = letters.next() {
        if letter == b'%' {
            let digits = [letters.next()?, letters.next()?];
            let digits = std::str::from_utf8(&digits).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
        } else {
            bytes.push(letter);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;
    use crate::guest::hardware::Image;

    fn flatcar() -> Ignition {
        Image::flatcar().ignition.expect("Flatcar has it")
    }

    fn fedora() -> Ignition {
        Image::fedora_coreos()
            .ignition
            .expect("Fedora CoreOS has it")
    }

    fn document(version: &str) -> Value {
        json!({
            "ignition": {"version": version},
            "passwd": {"users": [{"name": "core"}]},
            "storage": {"files": [{
                "filesystem": "root", "path": "/etc/a", "mode": 384,
                "contents": {"source": "data:,a%20b%0A"},
            }]},
            "systemd": {"units": [{
                "name": "kubeadm.service", "enabled": true, "contents": "[Service]",
                "dropins": [{"name": "10-a.conf", "contents": "[Unit]"}],
            }]},
            "networkd": {"units": [{"name": "00-eth0.network", "contents": "[Match]"}]},
        })
    }

    #[test]
    fn both_versions_are_read_and_networkd_belongs_to_one_of_them() {
        let provision = read(document("2.3.0").to_string().as_bytes(), flatcar()).expect("is good");
        assert_eq!(provision.files[0].content, "a b\n");
        assert_eq!(provision.files[0].permissions, 0o600);
        assert_eq!(
            provision.files[1].path,
            "/etc/systemd/network/00-eth0.network"
        );
        assert_eq!(provision.users, ["core"]);
        assert!(provision.units[0].enabled && provision.units[0].dropins.len() == 1);
        assert_eq!(provision.warnings, [""; 0]);
        let provision = read(document("3.4.0").to_string().as_bytes(), fedora()).expect("is good");
        assert_eq!(provision.files.len(), 1);
        assert_eq!(
            provision.warnings,
            [
                "warning at $.networkd: unused key networkd",
                "warning at $.storage.files.0.filesystem: unused key filesystem"
            ]
        );
    }

    #[rstest]
    #[case("2.3.0", "/ignition/version", json!("3.9.0"), "unsupported config version")]
    #[case("2.3.0", "/ignition/version", json!("1"), "unsupported config version")]
    #[case("2.3.0", "/ignition/version", json!(null), "couldn't parse")]
    #[case("2.3.0", "/storage/files/0/path", json!("etc/a"), "path not absolute")]
    #[case("2.3.0", "/storage/files/0/filesystem", json!(null), "no filesystem specified")]
    #[case("2.3.0", "/storage/files/0/mode", json!(65536), "illegal file mode")]
    #[case("2.3.0", "/storage/files/0/contents/source", json!("data:a"), "invalid data URL")]
    #[case("2.3.0", "/storage/files/0/contents/source", json!("data:,%zz"), "invalid escape")]
    #[case("2.3.0", "/storage/files/0/contents/source", json!("data:;base64,!"), "illegal base64")]
    #[case("2.3.0", "/storage/files/0/contents/source", json!("https://secret"), "no source but")]
    #[case("2.3.0", "/systemd/units/0/name", json!("kubeadm"), "invalid systemd unit extension")]
    #[case("2.3.0", "/systemd/units/0/dropins/0/name", json!("a"), "invalid systemd drop-in")]
    #[case("2.3.0", "/networkd/units/0/name", json!("eth0"), "invalid networkd unit extension")]
    #[case("3.0.0", "/storage/links", json!([{"path": "/etc/a"}]), "duplicate entry defined")]
    #[case("3.0.0", "/storage/files", json!("secret"), "expected an array")]
    #[case("3.0.0", "/passwd/users/0/name", json!(""), "missing required field")]
    fn says_what_is_wrong(
        #[case] version: &str,
        #[case] path: &str,
        #[case] value: Value,
        #[case] wanted: &str,
    ) {
        let mut document = document(version);
        let (parent, key) = path.rsplit_once('/').expect("a pointer");
        document.pointer_mut(parent).expect("is there")[key] = value;
        let Err(error) = read(document.to_string().as_bytes(), flatcar()) else {
            panic!("{document} was read");
        };
        assert!(
            error.contains(wanted) && !error.contains("secret"),
            "{error}"
        );
    }

    #[test]
    fn version_2_is_nothing_for_fedora() {
        let refused = read(document("2.3.0").to_string().as_bytes(), fedora());
        assert!(refused.is_err_and(|error| error.contains("unsupported config version")));
        let refused = read(b"#cloud-config\n{}", fedora());
        assert!(refused.is_err_and(|error| error.contains("cloud-config")));
        let refused = read(b"{\"a\": ", fedora());
        assert!(refused.is_err_and(|error| error.contains("line 1")));
    }
}
