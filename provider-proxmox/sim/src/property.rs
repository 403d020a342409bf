//! Property strings: `virtio=BC:24:11:..,bridge=vmbr0,tag=5`, and disks, `storage:volume,size=8G`.

/// A property string taken apart: the part without a key, and the others in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Property {
    pub(crate) bare: Option<String>,
    pub(crate) pairs: Vec<(String, String)>,
}

impl Property {
    /// Takes a property string apart, or says what is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut property = Self::default();
        for part in text.split(',').filter(|part| !part.trim().is_empty()) {
            match part.split_once('=') {
                Some((key, value)) => {
                    let key = key.trim().to_owned();
                    if property.get(&key).is_some() {
                        return Err(format!(
                            "duplicate key in comma-separated list property: {key}"
                        ));
                    }
                    property.pairs.push((key, value.trim().to_owned()));
                }
                None if property.bare.is_none() => property.bare = Some(part.trim().to_owned()),
                None => {
                    return Err(
                        "value without key, but schema does not define a default key".into(),
                    );
                }
            }
        }
        Ok(property)
    }

    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.pairs
            .iter()
            .find(|(known, _)| known == key)
            .map(|(_, value)| value.as_str())
    }

    pub(crate) fn set(&mut self, key: &str, value: impl Into<String>) {
        let value = value.into();
        match self.pairs.iter_mut().find(|(known, _)| known == key) {
            Some((_, known)) => *known = value,
            None => self.pairs.push((key.to_owned(), value)),
        }
    }

    pub(crate) fn remove(&mut self, key: &str) {
        self.pairs.retain(|(known, _)| known != key);
    }

    pub(crate) fn print(&self) -> String {
        let pairs = self
            .pairs
            .iter()
            .map(|(key, value)| format!("{key}={value}"));
        self.bare
            .iter()
            .cloned()
            .chain(pairs)
            .collect::<Vec<_>>()
            .join(",")
    }
}

/// NIC models that Proxmox VE knows.
const MODELS: [&str; 17] = [
    "e1000",
    "e1000-82540em",
    "e1000-82544gc",
    "e1000-82545em",
    "e1000e",
    "i82551",
    "i82557b",
    "i82559er",
    "ne2k_isa",
    "ne2k_pci",
    "pcnet",
    "rtl8139",
    "virtio",
    "vmxnet3",
    "igb",
    "smc91c111",
    "xen",
];

/// A NIC: its model and MAC address apart from its other options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Nic {
    pub(crate) model: String,
    pub(crate) mac: Option<String>,
    pub(crate) rest: Property,
}

impl Nic {
    /// Reads a `netN` value as Proxmox VE does, or says what is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut rest = Property::parse(text)?;
        let mut mac = None;
        let model = if let Some(model) = rest.get("model").map(str::to_owned) {
            rest.remove("model");
            mac = rest.get("macaddr").map(str::to_owned);
            rest.remove("macaddr");
            model
        } else if let Some(model) = rest.bare.take() {
            model
        } else if let Some((model, address)) = rest.pairs.first().cloned() {
            if !MODELS.contains(&model.as_str()) {
                return Err("model: property is missing and it is not optional".into());
            }
            rest.pairs.remove(0);
            mac = Some(address);
            model
        } else {
            return Err("model: property is missing and it is not optional".into());
        };
        if !MODELS.contains(&model.as_str()) {
            return Err(format!(
                "model: value '{model}' does not have a value in the enumeration '{}'",
                MODELS.join(", ")
            ));
        }
        if let Some(mac) = &mac {
            check_mac(mac)?;
        }
        for (key, value) in &rest.pairs {
            check_nic_option(key, value)?;
        }
        Ok(Self {
            model,
            mac: mac.map(|mac| mac.to_uppercase()),
            rest,
        })
    }

    pub(crate) fn bridge(&self) -> Option<&str> {
        self.rest.get("bridge")
    }

    pub(crate) fn print(&self) -> String {
        let head = match &self.mac {
            Some(mac) => format!("{}={mac}", self.model),
            None => self.model.clone(),
        };
        match self.rest.print() {
            rest if rest.is_empty() => head,
            rest => format!("{head},{rest}"),
        }
    }
}

fn check_mac(mac: &str) -> Result<(), String> {
    let bytes: Vec<_> = mac.split(':').collect();
    let hex = |byte: &&str| byte.len() == 2 && byte.chars().all(|c| c.is_ascii_hexdigit());
    let unicast = bytes
        .first()
        .and_then(|byte| u8::from_str_radix(byte, 16).ok());
    if bytes.len() == 6 && bytes.iter().all(hex) && unicast.is_some_and(|byte| byte & 1 == 0) {
        Ok(())
    } else {
        Err("macaddr: value does not look like a valid unicast MAC address".into())
    }
}

fn check_nic_option(key: &str, value: &str) -> Result<(), String> {
    let number = |least: u64, most: u64| match value.parse::<u64>() {
        Err(_) => Err(format!(
            "{key}: type check ('integer') failed - got '{value}'"
        )),
        Ok(n) if n < least => Err(format!("{key}: value must have a minimum value of {least}")),
        Ok(n) if n > most => Err(format!("{key}: value must have a maximum value of {most}")),
        Ok(_) => Ok(()),
    };
    match key {
        "bridge" => {
            let fits = !value.is_empty()
                && value.len() <= 15
                && value
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
            if fits {
                Ok(())
            } else {
                Err("bridge: invalid format - value does not look like a valid bridge name".into())
            }
        }
        "tag" => number(1, 4094),
        "mtu" => number(1, 65_520),
        "queues" => number(0, 64),
        "firewall" | "link_down" => match value {
            "0" | "1" | "on" | "off" | "yes" | "no" | "true" | "false" => Ok(()),
            _ => Err(format!(
                "{key}: type check ('boolean') failed - got '{value}'"
            )),
        },
        "rate" => match value.parse::<f64>() {
            Ok(rate) if rate >= 0.0 => Ok(()),
            _ => Err(format!(
                "{key}: type check ('number') failed - got '{value}'"
            )),
        },
        "trunks" => {
            let vlan = |text: &str| {
                text.parse::<u16>()
                    .is_ok_and(|vlan| (1..=4094).contains(&vlan))
            };
            let fits = value.split(';').all(|part| match part.split_once('-') {
                Some((from, to)) => vlan(from) && vlan(to),
                None => vlan(part),
            });
            if fits {
                Ok(())
            } else {
                Err("trunks: value does not match the regex pattern".into())
            }
        }
        _ => Err(format!(
            "{key}: property is not defined in schema and the schema does not allow additional properties"
        )),
    }
}

/// Whether a key names a drive: `ide0-3`, `scsi0-30`, `sata0-5`, `virtio0-15`, `efidisk0`,
/// `tpmstate0`.
pub(crate) fn is_drive(key: &str) -> bool {
    let bus = |bus: &str, last: u32| {
        key.strip_prefix(bus)
            .is_some_and(|rest| is_index(rest, last))
    };
    bus("ide", 3)
        || bus("scsi", 30)
        || bus("sata", 5)
        || bus("virtio", 15)
        || bus("efidisk", 0)
        || bus("tpmstate", 0)
}

/// Whether a text is a number without leading zeros from 0 to `last`.
pub(crate) fn is_index(text: &str, last: u32) -> bool {
    text.parse::<u32>()
        .is_ok_and(|n| n <= last && n.to_string() == text)
}

/// A drive's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Drive {
    /// `storage:volume`, or `none`, or `cdrom`.
    pub(crate) file: String,
    pub(crate) rest: Property,
}

const DRIVE_OPTIONS: [&str; 29] = [
    "aio",
    "backup",
    "cache",
    "cyls",
    "detect_zeroes",
    "discard",
    "efitype",
    "format",
    "heads",
    "import-from",
    "iops",
    "iops_rd",
    "iops_wr",
    "iothread",
    "mbps",
    "mbps_rd",
    "mbps_wr",
    "media",
    "model",
    "pre-enrolled-keys",
    "queues",
    "replicate",
    "ro",
    "serial",
    "shared",
    "size",
    "ssd",
    "version",
    "wwn",
];

impl Drive {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut rest = Property::parse(text)?;
        let file = match rest.bare.take() {
            Some(file) => file,
            None => match rest.get("file").map(str::to_owned) {
                Some(file) => {
                    rest.remove("file");
                    file
                }
                None => return Err("file: property is missing and it is not optional".into()),
            },
        };
        for (key, _) in &rest.pairs {
            if !DRIVE_OPTIONS.contains(&key.as_str()) {
                return Err(format!(
                    "{key}: property is not defined in schema and the schema does not allow additional properties"
                ));
            }
        }
        if !file.contains(':') && file != "none" && file != "cdrom" && !file.starts_with('/') {
            return Err("file: invalid format - unable to parse volume ID".into());
        }
        Ok(Self { file, rest })
    }

    pub(crate) fn is_cdrom(&self) -> bool {
        self.rest.get("media") == Some("cdrom")
    }

    pub(crate) fn is_cloudinit(&self) -> bool {
        self.file.contains("cloudinit")
    }

    pub(crate) fn storage(&self) -> Option<&str> {
        self.file.split_once(':').map(|(storage, _)| storage)
    }

    /// The size in GiB, where this asks for a new disk: `storage:8`.
    pub(crate) fn new_disk_gib(&self) -> Option<f64> {
        let (_, volume) = self.file.split_once(':')?;
        volume.parse::<f64>().ok().filter(|size| *size >= 0.0)
    }

    pub(crate) fn size(&self) -> Option<u64> {
        self.rest.get("size").and_then(parse_size)
    }

    pub(crate) fn print(&self) -> String {
        match self.rest.print() {
            rest if rest.is_empty() => self.file.clone(),
            rest => format!("{},{rest}", self.file),
        }
    }
}

/// A size with a unit, `8G`, `2252M`, `4096`, in bytes.
pub(crate) fn parse_size(text: &str) -> Option<u64> {
    let (digits, unit) = match text.char_indices().last()? {
        (at, 'K') => (&text[..at], 1_u64 << 10),
        (at, 'M') => (&text[..at], 1 << 20),
        (at, 'G') => (&text[..at], 1 << 30),
        (at, 'T') => (&text[..at], 1 << 40),
        _ => (text, 1),
    };
    let plain = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_digit());
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    if !plain(whole) || !plain(fraction) || fraction.len() > 6 {
        return None;
    }
    let tenths = 10_u64.pow(u32::try_from(fraction.len()).ok()?);
    let scaled = whole.parse::<u64>().ok()?.checked_mul(tenths)? + fraction.parse::<u64>().ok()?;
    let bytes = u128::from(scaled) * u128::from(unit) / u128::from(tenths);
    u64::try_from(bytes).ok()
}

/// A size as Proxmox VE prints it in a drive: the largest unit that divides it.
pub(crate) fn print_size(bytes: u64) -> String {
    for (unit, shift) in [('T', 40), ('G', 30), ('M', 20), ('K', 10)] {
        if bytes >= 1 << shift && bytes.is_multiple_of(1 << shift) {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    bytes.to_string()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("virtio,bridge=vmbr0", "virtio", None, "virtio,bridge=vmbr0")]
    #[case(
        "virtio=bc:24:11:aa:bb:cc,bridge=vmbr0,tag=7",
        "virtio",
        Some("BC:24:11:AA:BB:CC"),
        "virtio=BC:24:11:AA:BB:CC,bridge=vmbr0,tag=7"
    )]
    #[case(
        "model=e1000,macaddr=BC:24:11:00:00:01,mtu=1500",
        "e1000",
        Some("BC:24:11:00:00:01"),
        "e1000=BC:24:11:00:00:01,mtu=1500"
    )]
    fn nics_are_read(
        #[case] text: &str,
        #[case] model: &str,
        #[case] mac: Option<&str>,
        #[case] printed: &str,
    ) {
        let nic = Nic::parse(text).unwrap();
        assert_eq!((nic.model.as_str(), nic.mac.as_deref()), (model, mac));
        assert_eq!(nic.print(), printed);
    }

    #[rstest]
    #[case("bridge=vmbr0", "model: property is missing")]
    #[case("warp,bridge=vmbr0", "model: value 'warp'")]
    #[case("virtio=01:00:00:00:00:01", "macaddr:")]
    #[case("virtio,tag=5000", "tag: value must have a maximum value of 4094")]
    #[case("virtio,queues=65", "queues: value must have a maximum value of 64")]
    #[case("virtio,vlan=5", "vlan: property is not defined in schema")]
    #[case("virtio,tag=1,tag=2", "duplicate key")]
    fn wrong_nics_are_refused(#[case] text: &str, #[case] reason: &str) {
        let error = Nic::parse(text).unwrap_err();
        assert!(error.starts_with(reason), "{error}");
    }

    #[rstest]
    #[case("8G", Some(8 << 30))]
    #[case("1.5K", Some(1536))]
    #[case("4096", Some(4096))]
    #[case("8X", None)]
    #[case("G", None)]
    fn sizes_are_read(#[case] text: &str, #[case] bytes: Option<u64>) {
        assert_eq!(parse_size(text), bytes);
    }

    #[rstest]
    #[case(8 << 30, "8G")]
    #[case(2252 << 20, "2252M")]
    #[case(1000, "1000")]
    fn sizes_are_printed(#[case] bytes: u64, #[case] text: &str) {
        assert_eq!(print_size(bytes), text);
    }

    #[rstest]
    #[case("ide3", true)]
    #[case("ide4", false)]
    #[case("scsi30", true)]
    #[case("scsi031", false)]
    #[case("scsihw", false)]
    fn drives_are_told_by_their_key(#[case] key: &str, #[case] drive: bool) {
        assert_eq!(is_drive(key), drive);
    }
}
