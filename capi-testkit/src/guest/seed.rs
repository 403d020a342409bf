//! Finds the seed among the media: NoCloud or config drive, and reads its meta-data.

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::guest::hardware::Medium;
use crate::guest::iso::{File, read_iso};
use crate::guest::network::openstack;

/// A datasource of cloud-init that reads a local volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// A volume `cidata` with `user-data`, `meta-data` and `network-config`.
    NoCloud,
    /// A volume `config-2` with a folder `openstack/latest`.
    ConfigDrive,
}

impl Source {
    /// In cloud-init's order: the first that finds its volume is used.
    const ALL: [Self; 2] = [Self::NoCloud, Self::ConfigDrive];

    /// The volume label; upper case is accepted as well.
    fn label(self) -> &'static str {
        match self {
            Self::NoCloud => "cidata",
            Self::ConfigDrive => "config-2",
        }
    }

    /// As cloud-init calls it.
    pub(super) fn class(self) -> &'static str {
        match self {
            Self::NoCloud => "DataSourceNoCloud",
            Self::ConfigDrive => "DataSourceConfigDrive",
        }
    }

    fn user_data(self) -> &'static str {
        match self {
            Self::NoCloud => "user-data",
            Self::ConfigDrive => "openstack/latest/user_data",
        }
    }

    fn meta_data(self) -> &'static str {
        match self {
            Self::NoCloud => "meta-data",
            Self::ConfigDrive => "openstack/latest/meta_data.json",
        }
    }

    /// `cloud_name`, `platform` and the begin of `subplatform` among the instance data.
    fn names(self) -> [&'static str; 3] {
        match self {
            Self::NoCloud => ["nocloud", "nocloud", "seed"],
            Self::ConfigDrive => ["openstack", "openstack", "config-disk"],
        }
    }
}

/// What the provider wants this instance to be.
#[derive(Clone, PartialEq)]
pub(super) struct Seed {
    pub(super) source: Source,
    /// Where it was found, as in `cloud-init query subplatform`.
    pub(super) device: String,
    pub(super) instance_id: String,
    pub(super) meta_data: Map<String, Value>,
    pub(super) user_data: Bytes,
    pub(super) network_config: Option<Value>,
}

/// Why there is no seed to work with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoSeed {
    #[error("No local datasource found: {0}")]
    Missing(String),
    #[error("{0}")]
    Broken(String),
}

/// A medium with a file system that could be read.
struct Volume {
    device: String,
    label: String,
    files: Vec<File>,
}

impl Volume {
    fn is(&self, source: Source) -> bool {
        self.label.eq_ignore_ascii_case(source.label())
    }

    fn read(&self, name: &str) -> Option<Bytes> {
        let file = self.files.iter().find(|file| file.path == name)?;
        Some(file.bytes.clone())
    }

    fn missing(&self, name: &str) -> NoSeed {
        let Self { device, label, .. } = self;
        NoSeed::Broken(format!(
            "{device} is labelled {label:?} but has no file {name:?}"
        ))
    }
}

/// All volumes, and what is wrong with the media that have none.
fn volumes(media: &[Medium]) -> (Vec<Volume>, Vec<String>) {
    let (mut volumes, mut faults) = (Vec::new(), Vec::new());
    let (mut cdroms, mut drives) = (0, 0_u8);
    for medium in media {
        match medium {
            Medium::Cdrom(image) => {
                let device = format!("/dev/sr{cdroms}");
                cdroms += 1;
                match read_iso(image) {
                    Ok((label, files)) => volumes.push(Volume {
                        device,
                        label,
                        files,
                    }),
                    Err(error) => faults.push(format!("{device}: {error}")),
                }
            }
            Medium::Drive { label, files } => {
                // The first drive is the disk that the system is on.
                let letter = char::from(b'b'.saturating_add(drives).min(b'z'));
                drives = drives.saturating_add(1);
                volumes.push(Volume {
                    device: format!("/dev/vd{letter}"),
                    label: label.clone(),
                    files: files.clone(),
                });
            }
        }
    }
    (volumes, faults)
}

/// Looks at every medium; the first one with the label of a datasource counts.
pub(super) fn find_seed(media: &[Medium]) -> Result<Seed, NoSeed> {
    let (volumes, mut seen) = volumes(media);
    for source in Source::ALL {
        if let Some(volume) = volumes.iter().find(|volume| volume.is(source)) {
            return read_seed(source, volume);
        }
    }
    let others = volumes.iter();
    seen.extend(others.map(|volume| format!("{} has label {:?}", volume.device, volume.label)));
    Err(NoSeed::Missing(if seen.is_empty() {
        "no medium is attached".to_owned()
    } else {
        format!(
            "no volume is labelled {:?} or {:?} ({})",
            Source::NoCloud.label(),
            Source::ConfigDrive.label(),
            seen.join(", ")
        )
    }))
}

/// What Ignition reads: the user data of the first volume with a label of a datasource.
pub(super) fn find_document(media: &[Medium]) -> Result<(String, Bytes), NoSeed> {
    let (volumes, _) = volumes(media);
    for source in Source::ALL {
        if let Some(volume) = volumes.iter().find(|volume| volume.is(source)) {
            let name = source.user_data();
            let document = volume.read(name).ok_or_else(|| volume.missing(name))?;
            return Ok((volume.device.clone(), document));
        }
    }
    Err(NoSeed::Missing(format!(
        "no volume is labelled {:?} or {:?}",
        Source::NoCloud.label(),
        Source::ConfigDrive.label()
    )))
}

/// Instance id and host name of a config drive, as Afterburn reads them.
pub(super) fn find_instance(media: &[Medium]) -> Option<(String, String)> {
    let (volumes, _) = volumes(media);
    let volume = volumes
        .iter()
        .find(|volume| volume.is(Source::ConfigDrive))?;
    let meta_data: Value =
        serde_json::from_slice(&volume.read(Source::ConfigDrive.meta_data())?).ok()?;
    let text = |key: &str| meta_data[key].as_str().map(str::to_owned);
    Some((text("instance_id")?, text("hostname")?))
}

fn read_seed(source: Source, volume: &Volume) -> Result<Seed, NoSeed> {
    let name = source.meta_data();
    let meta_data = volume.read(name).ok_or_else(|| volume.missing(name))?;
    let mut meta_data = match yaml(name, &meta_data)? {
        Value::Object(map) => map,
        Value::Null => Map::new(),
        _ => return Err(NoSeed::Broken(format!("{name} is not a mapping"))),
    };
    if source == Source::ConfigDrive {
        // cloud-init offers these under the names that every other source has.
        for (key, copy) in [("hostname", "local-hostname"), ("uuid", "instance-id")] {
            if let Some(value) = meta_data.get(key).cloned() {
                meta_data.insert(copy.to_owned(), value);
            }
        }
    }
    let (user_data, network_config) = match source {
        Source::NoCloud => {
            let name = source.user_data();
            let user_data = volume.read(name).ok_or_else(|| volume.missing(name))?;
            let network = volume.read("network-config");
            let network = network.map(|bytes| yaml("network-config", &bytes));
            (user_data, network.transpose()?)
        }
        Source::ConfigDrive => {
            let network = volume.read("openstack/latest/network_data.json");
            let network = network.map(|bytes| network_data(&bytes)).transpose()?;
            let user_data = volume.read(source.user_data());
            (user_data.unwrap_or_default(), network)
        }
    };
    Ok(Seed {
        source,
        device: volume.device.clone(),
        instance_id: instance_id(source, &meta_data)?,
        meta_data,
        user_data,
        network_config: network_config.filter(|value| !value.is_null()),
    })
}

/// What tells this instance from another. On a config drive that is the `uuid`.
fn instance_id(source: Source, meta_data: &Map<String, Value>) -> Result<String, NoSeed> {
    let key = match source {
        Source::NoCloud => "instance-id",
        Source::ConfigDrive => "uuid",
    };
    match meta_data.get(key) {
        Some(Value::String(id)) if !id.trim().is_empty() => Ok(id.trim().to_owned()),
        Some(Value::Number(id)) => Ok(id.to_string()),
        _ => {
            let name = source.meta_data();
            Err(NoSeed::Broken(format!(
                "{name} has no {key}, so this instance cannot be told from another"
            )))
        }
    }
}

/// OpenStack's description of the network, in the form that netplan has.
fn network_data(bytes: &Bytes) -> Result<Value, NoSeed> {
    let broken = |why: String| NoSeed::Broken(format!("network_data.json: {why}"));
    let data = serde_json::from_slice(bytes).map_err(|error| broken(brief(&error)))?;
    openstack::convert(&data).map_err(broken)
}

fn yaml(name: &str, bytes: &Bytes) -> Result<Value, NoSeed> {
    let text = std::str::from_utf8(bytes)
        .map_err(|_| NoSeed::Broken(format!("{name} is not UTF-8 text")))?;
    if text.trim().is_empty() {
        return Ok(Value::Null);
    }
    serde_saphyr::from_str(text).map_err(|error| {
        NoSeed::Broken(format!("failed loading yaml of {name}: {}", brief(&error)))
    })
}

/// The first line of a YAML error. What follows may quote the document, which holds secrets.
pub(super) fn brief(error: &impl std::fmt::Display) -> String {
    let text = error.to_string();
    text.lines().next().unwrap_or_default().to_owned()
}

impl Seed {
    /// What templates can name, as `cloud-init query --all` shows it.
    pub(super) fn instance_data(&self) -> Value {
        let meta_data = jinja_names(&self.meta_data);
        let hostname = self.hostname().unwrap_or_default();
        let (short, _) = hostname.split_once('.').unwrap_or((hostname, ""));
        let [cloud, platform, kind] = self.source.names();
        let v1 = serde_json::json!({
            "instance_id": self.instance_id,
            "local_hostname": short,
            "cloud_name": cloud,
            "platform": platform,
            "subplatform": format!("{kind} ({})", self.device),
            "distro": "ubuntu",
        });
        let mut all = match &v1 {
            Value::Object(map) => map.clone(),
            _ => Map::new(),
        };
        all.insert("v1".to_owned(), v1);
        all.insert(
            "ds".to_owned(),
            serde_json::json!({ "meta_data": meta_data }),
        );
        Value::Object(all)
    }

    /// The host name in meta-data.
    pub(super) fn hostname(&self) -> Option<&str> {
        ["local-hostname", "hostname"]
            .iter()
            .find_map(|key| self.meta_data.get(*key)?.as_str())
            .filter(|name| !name.is_empty())
    }
}

/// A hyphen is no part of a jinja name, so cloud-init offers each key with underscores too.
fn jinja_names(map: &Map<String, Value>) -> Value {
    let mut named = map.clone();
    for (key, value) in map {
        if key.contains('-') {
            let value = match value {
                Value::Object(inner) => jinja_names(inner),
                other => other.clone(),
            };
            named.insert(key.replace('-', "_"), value);
        }
    }
    Value::Object(named)
}
