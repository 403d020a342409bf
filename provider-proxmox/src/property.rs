//! Property strings: how Proxmox VE writes devices and lists into one line.
//!
//! `virtio=BC:24:11:AA:BB:CC,bridge=vmbr0,tag=100` is a network device, `order=scsi0;net0` a boot
//! order, `a;b` a list of tags. The types here read such a line, change what has to change and
//! write it back with everything else as it was, so that settings made by an administrator or in
//! a template survive. Parsing is tolerant: only a line that could be misunderstood is refused.
//!
//! Source: the schema of `POST /nodes/{node}/qemu/{vmid}/config` in the Proxmox VE API viewer.

use std::collections::BTreeSet;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::api::DeviceModel;

/// Why a property string could not be read.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PropertyError {
    /// Two parts of the string without a key, where only one is allowed.
    #[error("read property string {text:?}: more than one value has no key")]
    SecondBareValue {
        /// The whole string.
        text: String,
    },
    /// A key that occurs twice.
    #[error("read property string {text:?}: key {key} occurs twice")]
    RepeatedKey {
        /// The whole string.
        text: String,
        /// The key.
        key: String,
    },
    /// A network device without a model.
    #[error("read network device {text:?}: it names no model")]
    NoModel {
        /// The whole string.
        text: String,
    },
    /// A disk without a volume.
    #[error("read disk {text:?}: it names no volume")]
    NoVolume {
        /// The whole string.
        text: String,
    },
    /// A size that is no number with a unit.
    #[error("read size {text:?}: expected a number with one of the units K, M, G, T")]
    Size {
        /// The size.
        text: String,
    },
}

/// A property string: at most one bare value, then keys with values, in their order.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Properties {
    bare: Option<String>,
    pairs: Vec<(String, String)>,
}

impl Properties {
    /// Reads `[value,]key=value,...`.
    ///
    /// # Errors
    ///
    /// If two parts have no key, or a key occurs twice.
    pub fn parse(text: &str) -> Result<Self, PropertyError> {
        let mut properties = Self::default();
        for part in text
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
        {
            match part.split_once('=') {
                None if properties.bare.is_some() => {
                    return Err(PropertyError::SecondBareValue {
                        text: text.to_owned(),
                    });
                }
                None => properties.bare = Some(part.to_owned()),
                Some((key, _)) if properties.get(key).is_some() => {
                    let key = key.to_owned();
                    return Err(PropertyError::RepeatedKey {
                        text: text.to_owned(),
                        key,
                    });
                }
                Some((key, value)) => properties.pairs.push((key.to_owned(), value.to_owned())),
            }
        }
        Ok(properties)
    }

    /// The value without a key.
    #[must_use]
    pub fn bare(&self) -> Option<&str> {
        self.bare.as_deref()
    }

    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.pairs
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value.as_str())
    }

    /// Sets the value of a key, in its place or at the end.
    pub fn set(&mut self, key: &str, value: impl Into<String>) {
        let value = value.into();
        match self.pairs.iter_mut().find(|(name, _)| name == key) {
            Some((_, present)) => *present = value,
            None => self.pairs.push((key.to_owned(), value)),
        }
    }

    /// Takes a key away, and returns its value.
    pub fn remove(&mut self, key: &str) -> Option<String> {
        let position = self.pairs.iter().position(|(name, _)| name == key)?;
        Some(self.pairs.remove(position).1)
    }

    fn sorted(&self) -> Vec<&(String, String)> {
        let mut pairs: Vec<_> = self.pairs.iter().collect();
        pairs.sort();
        pairs
    }
}

impl fmt::Display for Properties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bare = self.bare.iter().cloned();
        let pairs = self
            .pairs
            .iter()
            .map(|(key, value)| format!("{key}={value}"));
        f.write_str(&bare.chain(pairs).collect::<Vec<_>>().join(","))
    }
}

/// A network device, the value of `net0` to `net31`.
#[derive(Clone, Debug, Eq)]
pub struct NetDevice {
    model: String,
    mac: Option<String>,
    rest: Properties,
}

/// Keys of a network device that are spelled out in older configurations.
const MODEL_KEY: &str = "model";
const MAC_KEY: &str = "macaddr";

/// Models that may stand as the key of the MAC address.
const MODELS: [&str; 12] = [
    "virtio",
    "e1000",
    "e1000e",
    "rtl8139",
    "vmxnet3",
    "ne2k_pci",
    "ne2k_isa",
    "pcnet",
    "i82551",
    "i82557b",
    "i82559er",
    "e1000-82544gc",
];

impl NetDevice {
    /// A device of a model, for which Proxmox VE chooses a MAC address.
    #[must_use]
    pub fn new(model: DeviceModel) -> Self {
        Self {
            model: model.as_str().to_owned(),
            mac: None,
            rest: Properties::default(),
        }
    }

    /// Reads `model=MAC,key=value,...` and the older forms `model,...` and
    /// `model=...,macaddr=...`.
    ///
    /// # Errors
    ///
    /// If the line is malformed or names no model.
    pub fn parse(text: &str) -> Result<Self, PropertyError> {
        let mut rest = Properties::parse(text)?;
        let spelled_mac = rest.remove(MAC_KEY);
        if let Some(model) = rest.remove(MODEL_KEY).or_else(|| rest.bare.take()) {
            return Ok(Self {
                model,
                mac: spelled_mac,
                rest,
            });
        }
        let keyed = rest
            .pairs
            .iter()
            .position(|(key, _)| MODELS.contains(&key.as_str()));
        match keyed.map(|position| rest.pairs.remove(position)) {
            Some((model, mac)) => Ok(Self {
                model,
                mac: Some(mac),
                rest,
            }),
            None => Err(PropertyError::NoModel {
                text: text.to_owned(),
            }),
        }
    }

    /// Model of the card.
    #[must_use]
    pub fn model(&self) -> &str {
        &self.model
    }

    /// MAC address, as Proxmox VE writes it (upper case).
    #[must_use]
    pub fn mac(&self) -> Option<&str> {
        self.mac.as_deref()
    }

    /// Any other key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.rest.get(key)
    }

    /// Changes the model and keeps the MAC address: a new one would cut the guest off, whose
    /// configuration is found by it.
    pub fn set_model(&mut self, model: DeviceModel) {
        model.as_str().clone_into(&mut self.model);
    }

    /// Changes any other key: `bridge`, `tag`, `mtu`, `queues` and so on.
    pub fn set(&mut self, key: &str, value: impl fmt::Display) {
        self.rest.set(key, value.to_string());
    }
}

/// Equal if Proxmox VE would make the same device of both: order does not count, nor the case of
/// the MAC address.
impl PartialEq for NetDevice {
    fn eq(&self, other: &Self) -> bool {
        let mac = |device: &Self| device.mac.as_deref().map(str::to_ascii_uppercase);
        self.model == other.model
            && mac(self) == mac(other)
            && self.rest.bare == other.rest.bare
            && self.rest.sorted() == other.rest.sorted()
    }
}

impl fmt::Display for NetDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.model)?;
        if let Some(mac) = &self.mac {
            write!(f, "={mac}")?;
        }
        if self.rest == Properties::default() {
            Ok(())
        } else {
            write!(f, ",{}", self.rest)
        }
    }
}

/// Boot order of a virtual machine, the value of `boot`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum BootOrder {
    /// `order=scsi0;net0`: device names.
    Devices(Vec<String>),
    /// The older form: letters for kinds of devices, to which no device can be added.
    Legacy(String),
}

impl BootOrder {
    /// Reads the value of `boot`.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        match text.trim().strip_prefix("order=") {
            Some(order) => {
                let devices = order
                    .split(';')
                    .map(str::trim)
                    .filter(|device| !device.is_empty());
                Self::Devices(devices.map(str::to_owned).collect())
            }
            None => Self::Legacy(text.trim().to_owned()),
        }
    }

    /// Adds a device at the end. `None` if nothing has to change: the device is listed, or the
    /// order is of the older form, which covers drives by kind.
    #[must_use]
    pub fn with(&self, device: &str) -> Option<Self> {
        match self {
            Self::Devices(devices) if devices.iter().any(|present| present == device) => None,
            Self::Devices(devices) => {
                let devices = devices.iter().cloned().chain([device.to_owned()]);
                Some(Self::Devices(devices.collect()))
            }
            Self::Legacy(_) => None,
        }
    }

    /// Takes a device away. `None` if nothing has to change.
    #[must_use]
    pub fn without(&self, device: &str) -> Option<Self> {
        match self {
            Self::Devices(devices) if devices.iter().any(|present| present == device) => {
                let devices = devices.iter().filter(|present| *present != device).cloned();
                Some(Self::Devices(devices.collect()))
            }
            Self::Devices(_) | Self::Legacy(_) => None,
        }
    }
}

impl fmt::Display for BootOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Devices(devices) => write!(f, "order={}", devices.join(";")),
            Self::Legacy(text) => f.write_str(text),
        }
    }
}

/// A size in bytes, written as a number with a unit.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Size(u64);

/// Units of a size and the power of two they stand for, the largest first.
const UNITS: [(char, u32); 4] = [('T', 40), ('G', 30), ('M', 20), ('K', 10)];

impl Size {
    /// That many GiB, which Proxmox VE calls G.
    #[must_use]
    pub fn gib(count: u64) -> Self {
        Self(count.saturating_mul(1 << 30))
    }

    /// The size in bytes.
    #[must_use]
    pub fn bytes(self) -> u64 {
        self.0
    }

    /// Reads `32G`, `2252M`, `0.5T` or a number of bytes.
    ///
    /// # Errors
    ///
    /// If it is no such size, or more than 2^64 bytes.
    pub fn parse(text: &str) -> Result<Self, PropertyError> {
        let refuse = || PropertyError::Size {
            text: text.to_owned(),
        };
        let unit = UNITS.iter().find(|(unit, _)| text.ends_with(*unit));
        let (number, shift) = match unit {
            Some((unit, shift)) => (text.trim_end_matches(*unit), *shift),
            None => (text, 0),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let whole: u64 = whole.parse().map_err(|_| refuse())?;
        let whole = whole.checked_mul(1 << shift).ok_or_else(refuse)?;
        Ok(Self(whole.saturating_add(
            fraction_of(fraction, shift).ok_or_else(refuse)?,
        )))
    }
}

/// The bytes that decimal digits after the point stand for, in units of `2^shift` bytes. More than
/// nine digits say nothing about bytes, even of a terabyte, and are refused.
fn fraction_of(digits: &str, shift: u32) -> Option<u64> {
    if digits.is_empty() {
        return Some(0);
    }
    let count = u32::try_from(digits.len())
        .ok()
        .filter(|count| *count <= 9)?;
    let value: u128 = digits.parse().ok()?;
    u64::try_from((value << shift) / 10_u128.pow(count)).ok()
}

/// The largest unit without a remainder.
impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = UNITS
            .iter()
            .find(|(_, shift)| self.0 != 0 && self.0.is_multiple_of(1 << shift));
        match unit {
            Some((unit, shift)) => write!(f, "{}{unit}", self.0 >> shift),
            None => write!(f, "{}", self.0),
        }
    }
}

/// A disk or an optical drive, the value of `scsi0`, `ide2` and so on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Drive {
    volume: String,
    rest: Properties,
}

impl Drive {
    /// An optical drive with an image in it.
    #[must_use]
    pub fn cdrom(volume: impl Into<String>) -> Self {
        let mut rest = Properties::default();
        rest.set("media", "cdrom");
        Self {
            volume: volume.into(),
            rest,
        }
    }

    /// Reads `volume,key=value,...` and the older `file=volume,...`.
    ///
    /// # Errors
    ///
    /// If the line is malformed or names no volume.
    pub fn parse(text: &str) -> Result<Self, PropertyError> {
        let mut rest = Properties::parse(text)?;
        match rest.bare.take().or_else(|| rest.remove("file")) {
            Some(volume) => Ok(Self { volume, rest }),
            None => Err(PropertyError::NoVolume {
                text: text.to_owned(),
            }),
        }
    }

    /// The volume: `storage:name`, or `none` for an empty optical drive.
    #[must_use]
    pub fn volume(&self) -> &str {
        &self.volume
    }

    /// The storage of the volume; `None` for `none` and for paths of the host.
    #[must_use]
    pub fn storage(&self) -> Option<&str> {
        self.volume.split_once(':').map(|(storage, _)| storage)
    }

    /// Whether it is an optical drive.
    #[must_use]
    pub fn is_cdrom(&self) -> bool {
        self.rest.get("media") == Some("cdrom")
    }

    /// Whether it is the cloud-init drive that Proxmox VE itself makes, which would compete with
    /// a seed of ours.
    #[must_use]
    pub fn is_cloud_init(&self) -> bool {
        let name = self.volume.split_once(':').map_or("", |(_, name)| name);
        let file = name.rsplit('/').next().unwrap_or(name);
        name == "cloudinit" || (file.starts_with("vm-") && file.contains("-cloudinit"))
    }

    /// The size, where the line has one.
    ///
    /// # Errors
    ///
    /// If the size is malformed.
    pub fn size(&self) -> Result<Option<Size>, PropertyError> {
        self.rest.get("size").map(Size::parse).transpose()
    }
}

impl fmt::Display for Drive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.volume)?;
        if self.rest == Properties::default() {
            Ok(())
        } else {
            write!(f, ",{}", self.rest)
        }
    }
}

/// System information, the value of `smbios1`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Smbios(Properties);

/// Keys of `smbios1` that are texts; with `base64=1`, all of them are encoded.
const SMBIOS_TEXTS: [&str; 6] = [
    "manufacturer",
    "product",
    "version",
    "serial",
    "sku",
    "family",
];

impl Smbios {
    /// Reads the value of `smbios1`.
    ///
    /// # Errors
    ///
    /// If the line is malformed.
    pub fn parse(text: &str) -> Result<Self, PropertyError> {
        Ok(Self(Properties::parse(text)?))
    }

    /// The UUID of the machine, in lower case as the guest sees it.
    #[must_use]
    pub fn uuid(&self) -> Option<String> {
        self.0.get("uuid").map(str::to_ascii_lowercase)
    }

    /// The serial number, decoded. `None` if there is none, or if it cannot be decoded.
    #[must_use]
    pub fn serial(&self) -> Option<String> {
        let text = self.0.get("serial")?;
        if self.is_encoded() {
            String::from_utf8(BASE64.decode(text).ok()?).ok()
        } else {
            Some(text.to_owned())
        }
    }

    /// Sets the serial number, encoded as Proxmox VE wants it; other texts are encoded with it.
    pub fn set_serial(&mut self, serial: &str) {
        if !self.is_encoded() {
            for key in SMBIOS_TEXTS {
                if let Some(plain) = self.0.get(key).map(|text| BASE64.encode(text)) {
                    self.0.set(key, plain);
                }
            }
        }
        self.0.set("serial", BASE64.encode(serial));
        self.0.set("base64", "1");
    }

    fn is_encoded(&self) -> bool {
        self.0.get("base64") == Some("1")
    }
}

impl fmt::Display for Smbios {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Tags of a virtual machine: lower case, sorted, each once, as Proxmox VE keeps them.
#[derive(Clone, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Tags(BTreeSet<String>);

impl Tags {
    /// Reads a list separated by semicolons, commas or blanks, all of which Proxmox VE accepts.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        text.split([';', ',', ' ']).collect()
    }

    /// Adds a tag.
    pub fn insert(&mut self, tag: &str) {
        let tag = tag.trim().to_ascii_lowercase();
        if !tag.is_empty() {
            self.0.insert(tag);
        }
    }

    /// Takes a tag away.
    pub fn remove(&mut self, tag: &str) {
        self.0.remove(&tag.trim().to_ascii_lowercase());
    }

    /// Whether all tags of `other` are among these.
    #[must_use]
    pub fn contains_all(&self, other: &Self) -> bool {
        self.0.is_superset(&other.0)
    }

    /// Number of tags.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The tags, sorted.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

impl<S: AsRef<str>> FromIterator<S> for Tags {
    fn from_iter<I: IntoIterator<Item = S>>(tags: I) -> Self {
        let mut set = Self::default();
        tags.into_iter().for_each(|tag| set.insert(tag.as_ref()));
        set
    }
}

impl fmt::Display for Tags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.iter().collect::<Vec<_>>().join(";"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn net_devices_are_read_in_all_their_forms() {
        for text in [
            "virtio=BC:24:11:AA:BB:CC,bridge=vmbr0,tag=100,firewall=1",
            "model=virtio,macaddr=bc:24:11:aa:bb:cc,bridge=vmbr0,firewall=1,tag=100",
            "virtio,macaddr=BC:24:11:AA:BB:CC,firewall=1,bridge=vmbr0,tag=100",
        ] {
            let device = NetDevice::parse(text).unwrap();
            assert_eq!(device.model(), "virtio", "{text}");
            assert_eq!(device.get("tag"), Some("100"), "{text}");
            let first =
                NetDevice::parse("virtio=BC:24:11:AA:BB:CC,bridge=vmbr0,tag=100,firewall=1");
            assert_eq!(Ok(device), first, "{text}");
        }
        let refused = NetDevice::parse("bridge=vmbr0");
        assert_eq!(
            refused,
            Err(PropertyError::NoModel {
                text: "bridge=vmbr0".into()
            })
        );
    }

    #[test]
    fn changing_a_device_keeps_the_mac_and_what_was_not_asked_for() {
        let mut device =
            NetDevice::parse("e1000=BC:24:11:AA:BB:CC,bridge=vmbr0,rate=5,trunks=1;2").unwrap();
        device.set_model(DeviceModel::Virtio);
        device.set("bridge", "vmbr1");
        device.set("mtu", 9000);
        assert_eq!(
            device.to_string(),
            "virtio=BC:24:11:AA:BB:CC,bridge=vmbr1,rate=5,trunks=1;2,mtu=9000"
        );
    }

    #[test]
    fn malformed_strings_are_refused() {
        let second = Properties::parse("a,b");
        assert_eq!(
            second,
            Err(PropertyError::SecondBareValue { text: "a,b".into() })
        );
        let repeated = Properties::parse("a=1,a=2");
        let text = "a=1,a=2".to_owned();
        assert_eq!(
            repeated,
            Err(PropertyError::RepeatedKey {
                text,
                key: "a".into()
            })
        );
        assert_eq!(
            Drive::parse("size=1G"),
            Err(PropertyError::NoVolume {
                text: "size=1G".into()
            })
        );
    }

    #[test]
    fn boot_order_takes_devices_unless_it_is_of_the_older_form() {
        let order = BootOrder::parse("order=scsi0;net0");
        assert_eq!(
            order.with("ide0").unwrap().to_string(),
            "order=scsi0;net0;ide0"
        );
        assert_eq!(order.with("net0"), None);
        assert_eq!(order.without("net0").unwrap().to_string(), "order=scsi0");
        assert_eq!(order.without("ide0"), None);
        let legacy = BootOrder::parse("cdn");
        assert_eq!(
            (legacy.with("ide0"), legacy.to_string()),
            (None, "cdn".to_owned())
        );
    }

    #[test]
    fn sizes_are_read_exactly() {
        for (text, bytes) in [
            ("32G", 32 << 30),
            ("2252M", 2252 << 20),
            ("0.5T", 1 << 39),
            ("1.5K", 1536),
            ("4096", 4096),
            ("0", 0),
        ] {
            assert_eq!(Size::parse(text).unwrap().bytes(), bytes, "{text}");
        }
        for text in [
            "",
            "G",
            "12X",
            "-1G",
            "99999999999T",
            "1.0000000001G",
            "1.xG",
        ] {
            assert_eq!(
                Size::parse(text),
                Err(PropertyError::Size { text: text.into() })
            );
        }
        assert_eq!(Size::gib(100).to_string(), "100G");
    }

    #[test]
    fn drives_say_what_they_are() {
        let disk = Drive::parse("local-lvm:vm-100-disk-0,discard=on,size=32G").unwrap();
        assert_eq!(
            (disk.storage(), disk.is_cdrom()),
            (Some("local-lvm"), false)
        );
        assert_eq!(disk.size().unwrap(), Some(Size::gib(32)));
        let empty = Drive::parse("none,media=cdrom").unwrap();
        assert_eq!((empty.storage(), empty.is_cdrom()), (None, true));
        for (text, expected) in [
            ("local-lvm:vm-100-cloudinit,media=cdrom", true),
            ("local:100/vm-100-cloudinit.qcow2,media=cdrom", true),
            ("local:cloudinit", true),
            ("local:iso/user-data-100.iso,media=cdrom", false),
        ] {
            assert_eq!(
                Drive::parse(text).unwrap().is_cloud_init(),
                expected,
                "{text}"
            );
        }
        let seed = Drive::cdrom("local:iso/user-data-100.iso");
        assert_eq!(seed.to_string(), "local:iso/user-data-100.iso,media=cdrom");
    }

    #[test]
    fn smbios_encodes_all_texts_once_a_serial_is_set() {
        let mut smbios = Smbios::parse("uuid=6C3FA683-BEF9-4425-B413-EAA45A9D6191,sku=a").unwrap();
        assert_eq!(
            smbios.uuid().as_deref(),
            Some("6c3fa683-bef9-4425-b413-eaa45a9d6191")
        );
        smbios.set_serial("ds=nocloud;h=x,y");
        assert_eq!(
            smbios.to_string(),
            "uuid=6C3FA683-BEF9-4425-B413-EAA45A9D6191,sku=YQ==,\
             serial=ZHM9bm9jbG91ZDtoPXgseQ==,base64=1"
        );
        assert_eq!(smbios.serial().as_deref(), Some("ds=nocloud;h=x,y"));
        smbios.set_serial("b");
        assert_eq!(smbios.0.get("sku"), Some("YQ=="), "encoded once, not twice");
    }

    #[test]
    fn tags_are_kept_as_proxmox_keeps_them() {
        let tags = Tags::parse("B; a,b  C");
        assert_eq!(tags.to_string(), "a;b;c");
        assert!(tags.contains_all(&Tags::parse("A;c")));
        assert!(!tags.contains_all(&Tags::parse("d")));
    }

    proptest! {
        #[test]
        fn net_devices_survive_a_round_trip(
            model in prop::sample::select(MODELS.to_vec()),
            mac in prop::option::of("[0-9A-F]{2}(:[0-9A-F]{2}){5}"),
            rest in prop::collection::btree_map("[a-z_]{2,9}", "[a-zA-Z0-9;:._-]{1,12}", 0..6),
        ) {
            let reserved = |key: &String| {
                key == MODEL_KEY || key == MAC_KEY || MODELS.contains(&key.as_str())
            };
            prop_assume!(!rest.keys().any(reserved));
            let pairs = rest.into_iter().collect();
            let device = NetDevice {
                model: model.to_owned(), mac, rest: Properties { bare: None, pairs },
            };
            let text = device.to_string();
            let again = NetDevice::parse(&text).unwrap();
            prop_assert_eq!(&again, &device);
            prop_assert_eq!(again.to_string(), text);
        }

        #[test]
        fn sizes_survive_a_round_trip(bytes in 0_u64..=1 << 50) {
            prop_assert_eq!(Size::parse(&Size(bytes).to_string()), Ok(Size(bytes)));
        }

        #[test]
        fn tags_survive_a_round_trip(text in "[a-zA-Z0-9_.;, -]{0,40}") {
            let tags = Tags::parse(&text);
            prop_assert_eq!(Tags::parse(&tags.to_string()), tags);
        }

        #[test]
        fn nothing_makes_a_parser_panic(text in "\\PC{0,40}") {
            let _ = (NetDevice::parse(&text), Drive::parse(&text), Smbios::parse(&text));
            let _ = (Size::parse(&text), BootOrder::parse(&text), Tags::parse(&text));
        }
    }
}
