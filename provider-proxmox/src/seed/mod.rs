//! The seed of a machine: what its first boot reads, as a NoCloud image.
//!
//! cloud-init looks for a volume labelled `cidata` with three files. `user-data` is the bootstrap
//! data, byte for byte (rule IM-13). `meta-data` says who the machine is; its `instance-id` is
//! the SMBIOS UUID, so that a clone or a restore elsewhere is another instance. `network-config`
//! describes the interfaces, matched by MAC address.
//!
//! Ignition reads `user-data` of the same volume and nothing else: bootstrap data in its format is
//! completed with name and network of the machine. The other files are for Afterburn, the metadata
//! agent beside Ignition.
//!
//! Everything is pure and deterministic: equal input gives equal bytes, whenever and wherever it
//! is rendered, so that an upload can be repeated and compared.
//!
//! Source: cloud-init documentation, "NoCloud" and "Networking config version 2".

mod ignition;
mod image;
mod keyfile;
mod metadata;
mod network;
mod networkd;
mod userdata;

use std::fmt;

use capi_contract::{Bootstrap, Format};
pub use ignition::IgnitionError;
pub use image::{ImageError, LABEL, image};
pub use metadata::MetaData;
pub use userdata::{UserDataError, check};

use crate::network::GuestNetwork;

/// What the first boot of a machine reads. `Debug` does not show the user data, which holds join
/// tokens and keys.
#[derive(Clone, Eq, PartialEq)]
pub struct Seed {
    user_data: Vec<u8>,
    meta_data: String,
    network_config: String,
    vendor_data: Option<&'static str>,
}

/// A network configuration that says nothing: the document says it all, and Afterburn gives up
/// without one.
const NO_NETWORK: &str = "version: 1\nconfig: []\n";

/// Without this file Afterburn gives up, too.
const NO_VENDOR_DATA: &str = "{}\n";

/// Why a seed could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SeedError {
    /// The bootstrap data cannot be used.
    #[error(transparent)]
    UserData(#[from] UserDataError),
    /// An Ignition document cannot be completed.
    #[error(transparent)]
    Ignition(#[from] IgnitionError),
    /// A file could not be written as YAML.
    #[error("render {file}")]
    Yaml {
        /// Name of the file.
        file: &'static str,
        /// What the writer said.
        source: serde_saphyr::ser::Error,
    },
}

impl Seed {
    /// Renders the files.
    ///
    /// # Errors
    ///
    /// If the bootstrap data is nothing that cloud-init would run or Ignition read, or is of
    /// another format.
    pub fn new(
        bootstrap: &Bootstrap,
        meta_data: &MetaData,
        guest: &GuestNetwork,
    ) -> Result<Self, SeedError> {
        check(bootstrap)?;
        let rendered = yaml("meta-data", meta_data)?;
        if bootstrap.format == Format::Ignition {
            return Ok(Self {
                user_data: ignition::merge(bootstrap.bytes(), meta_data, guest)?,
                meta_data: rendered,
                network_config: NO_NETWORK.to_owned(),
                vendor_data: Some(NO_VENDOR_DATA),
            });
        }
        Ok(Self {
            user_data: bootstrap.bytes().to_vec(),
            meta_data: rendered,
            network_config: yaml("network-config", &network::Config::new(guest))?,
            vendor_data: None,
        })
    }

    /// The `meta-data` file.
    #[must_use]
    pub fn meta_data(&self) -> &str {
        &self.meta_data
    }

    /// The `network-config` file.
    #[must_use]
    pub fn network_config(&self) -> &str {
        &self.network_config
    }

    /// The image with all files.
    ///
    /// # Errors
    ///
    /// If a file is larger than an image may hold.
    pub fn image(&self) -> Result<Vec<u8>, ImageError> {
        let mut files = vec![
            ("meta-data", self.meta_data.as_bytes()),
            ("network-config", self.network_config.as_bytes()),
            ("user-data", self.user_data.as_slice()),
        ];
        files.extend(
            self.vendor_data
                .map(|text| ("vendor-data", text.as_bytes())),
        );
        image(&files)
    }
}

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seed")
            .field("meta_data", &self.meta_data)
            .field("network_config", &self.network_config)
            .finish_non_exhaustive()
    }
}

fn yaml(file: &'static str, value: &impl serde::Serialize) -> Result<String, SeedError> {
    serde_saphyr::to_string(value).map_err(|source| SeedError::Yaml { file, source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::{GuestRoute, GuestRule, Interface, Vrf};

    const USER_DATA: &[u8] = b"## template: jinja\n#cloud-config\nruncmd: [secret-token]\n";

    fn meta_data() -> MetaData {
        MetaData {
            instance_id: "6c3fa683-bef9-4425-b413-eaa45a9d6191".into(),
            hostname: "demo-cp-x7k2p".into(),
            provider_id: Some("proxmox://6c3fa683-bef9-4425-b413-eaa45a9d6191".into()),
            kubernetes_version: Some("v1.35.0".into()),
        }
    }

    fn route(to: &str, via: &str, metric: Option<u32>, table: Option<u32>) -> GuestRoute {
        GuestRoute {
            to: to.into(),
            via: Some(via.into()),
            metric,
            table,
        }
    }

    fn guest() -> GuestNetwork {
        let interfaces = vec![
            Interface {
                name: "eth0".into(),
                mac: "bc:24:11:00:00:00".into(),
                addresses: vec![
                    ("10.0.0.10".parse().unwrap(), 24),
                    ("fd00::10".parse().unwrap(), 64),
                ],
                mtu: Some(1400),
                name_servers: vec!["10.0.0.2".into(), "fd00::2".into()],
                vrf: None,
                routes: vec![
                    route("0.0.0.0/0", "10.0.0.1", Some(100), None),
                    route("::/0", "fd00::1", Some(100), None),
                    route("10.2.0.0/16", "10.0.0.3", None, Some(1000)),
                ],
                rules: vec![GuestRule {
                    to: None,
                    from: Some("10.0.0.0/24".into()),
                    table: Some(1000),
                    priority: Some(99),
                }],
            },
            Interface {
                name: "eth1".into(),
                mac: "52:54:00:12:34:56".into(),
                addresses: Vec::new(),
                mtu: None,
                name_servers: Vec::new(),
                vrf: Some("vrf-red".into()),
                routes: Vec::new(),
                rules: Vec::new(),
            },
        ];
        let red = Vrf {
            name: "vrf-red".into(),
            table: 500,
            interfaces: vec!["eth1".into()],
            routes: vec![route("0.0.0.0/0", "10.5.0.1", None, Some(500))],
            rules: vec![GuestRule {
                to: Some("10.5.0.0/16".into()),
                from: None,
                table: Some(500),
                priority: Some(1),
            }],
        };
        GuestNetwork {
            node_addresses: interfaces[0].addresses.clone(),
            interfaces,
            vrfs: vec![red],
        }
    }

    fn seed() -> Seed {
        let bootstrap = Bootstrap::new(Format::CloudConfig, USER_DATA);
        Seed::new(&bootstrap, &meta_data(), &guest()).unwrap()
    }

    #[test]
    fn meta_data_is_what_cloud_init_reads() {
        assert_eq!(
            seed().meta_data(),
            "instance-id: 6c3fa683-bef9-4425-b413-eaa45a9d6191\n\
             local-hostname: demo-cp-x7k2p\n\
             hostname: demo-cp-x7k2p\n\
             provider-id: proxmox://6c3fa683-bef9-4425-b413-eaa45a9d6191\n\
             kubernetes-version: v1.35.0\n"
        );
    }

    /// A machine may be named like a number, a date or a word that YAML 1.1 takes for a truth
    /// value; cloud-init must read a string all the same.
    #[test]
    fn names_that_look_like_something_else_are_quoted() {
        for name in [
            "123",
            "1e3",
            "0x1f",
            "yes",
            "no",
            "on",
            "null",
            "2026-11-21",
            "12:30:45",
            "1_0",
        ] {
            let meta_data = MetaData {
                hostname: name.into(),
                ..meta_data()
            };
            let text = yaml("meta-data", &meta_data).unwrap();
            let quoted = [
                format!("hostname: \"{name}\"\n"),
                format!("hostname: '{name}'\n"),
            ];
            assert!(
                quoted.iter().any(|line| text.contains(line)),
                "{name}: {text}"
            );
        }
    }

    /// The second MAC address is a number of base 60 to YAML 1.1, unless it is quoted.
    #[test]
    fn network_config_matches_interfaces_by_mac() {
        let expected = r#"version: 2
ethernets:
  eth0:
    match:
      macaddress: bc:24:11:00:00:00
    set-name: eth0
    dhcp4: false
    dhcp6: false
    addresses:
    - 10.0.0.10/24
    - fd00::10/64
    mtu: 1400
    nameservers:
      addresses:
      - "10.0.0.2"
      - fd00::2
    routes:
    - to: 0.0.0.0/0
      via: "10.0.0.1"
      metric: 100
    - to: "::/0"
      via: fd00::1
      metric: 100
    - to: 10.2.0.0/16
      via: "10.0.0.3"
      table: 1000
    routing-policy:
    - from: 10.0.0.0/24
      table: 1000
      priority: 99
  eth1:
    match:
      macaddress: "52:54:00:12:34:56"
    set-name: eth1
    dhcp4: false
    dhcp6: false
vrfs:
  vrf-red:
    table: 500
    interfaces:
    - eth1
    routes:
    - to: 0.0.0.0/0
      via: "10.5.0.1"
      table: 500
    routing-policy:
    - to: 10.5.0.0/16
      table: 500
      priority: 1
"#;
        let seed = seed();
        assert_eq!(seed.network_config(), expected);
        let read: serde_json::Value = serde_saphyr::from_str(seed.network_config()).unwrap();
        assert_eq!(
            read["ethernets"]["eth1"]["match"]["macaddress"],
            "52:54:00:12:34:56"
        );
        assert_eq!(read["ethernets"]["eth0"]["routes"][1]["to"], "::/0");
    }

    #[test]
    fn equal_input_gives_equal_bytes_and_other_input_does_not() {
        let image = seed().image().unwrap();
        assert_eq!(image, seed().image().unwrap());
        let other = MetaData {
            hostname: "demo-cp-x7k2q".into(),
            ..meta_data()
        };
        let bootstrap = Bootstrap::new(Format::CloudConfig, USER_DATA);
        let other = Seed::new(&bootstrap, &other, &guest()).unwrap();
        assert_ne!(image, other.image().unwrap());
    }

    #[test]
    fn user_data_is_passed_on_unchanged_and_never_shown() {
        let image = seed().image().unwrap();
        assert!(
            image
                .windows(USER_DATA.len())
                .any(|window| window == USER_DATA)
        );
        let shown = format!("{:?}", seed());
        assert!(!shown.contains("secret"), "{shown}");
        assert!(shown.contains("demo-cp-x7k2p"), "{shown}");
    }
}
