//! What the schema cannot say about the network of a machine.
//!
//! Everything that a guest would refuse, or drop without a word, is found here, before anything is
//! made: a guest whose network is wrong can be asked nothing any more.

use std::collections::BTreeMap;

use super::{MTU_INHERIT, NetworkError, mtu, name_servers, number, route, vrf, zone};
use crate::api::{
    DeviceModel, NetworkDevice, NetworkSpec, ProxmoxClusterSpec, VrfDevice, ZoneNetwork,
};
use crate::pool::Family;

/// Most packet queues of a device. Source: Proxmox VE API, `netN`, `queues`.
const QUEUES_MAX: i64 = 64;

/// Longest name of an interface in Linux, in bytes: `IFNAMSIZ` without the final zero.
const NAME_BYTES_MAX: usize = 15;

/// Checks a machine's network, alone and against its cluster.
///
/// # Errors
///
/// The first thing that cannot work, with the field and what to change.
pub fn check(network: &NetworkSpec, cluster: &ProxmoxClusterSpec) -> Result<(), NetworkError> {
    let zone = zone(network, cluster)?;
    without_gaps(network)?;
    for family in Family::ALL {
        default_pool(network, &zone, family)?;
    }
    for device in &network.network_devices {
        check_device(device, &zone)?;
    }
    check_vrfs(network)
}

fn without_gaps(network: &NetworkSpec) -> Result<(), NetworkError> {
    let devices = &network.network_devices;
    let expected = (0..devices.len()).map(|number| format!("net{number}"));
    let mut missing = expected.filter(|name| devices.iter().all(|device| device.name != *name));
    match missing.next() {
        Some(expected) => Err(NetworkError::Gap { expected }),
        None => Ok(()),
    }
}

/// A default pool is for one device, and it has to be there.
fn default_pool(
    network: &NetworkSpec,
    zone: &ZoneNetwork<'_>,
    family: Family,
) -> Result<(), NetworkError> {
    let (field, config) = match family {
        Family::V4 => ("defaultIPv4", "ipv4Config"),
        Family::V6 => ("defaultIPv6", "ipv6Config"),
    };
    let asks = |device: &&NetworkDevice| match family {
        Family::V4 => device.default_ipv4 == Some(true),
        Family::V6 => device.default_ipv6 == Some(true),
    };
    let mut asking = network.network_devices.iter().filter(asks);
    match (asking.next(), asking.next()) {
        (Some(first), Some(second)) => Err(NetworkError::TwoDefaults {
            field,
            first: first.name.clone(),
            second: second.name.clone(),
        }),
        (Some(device), None) if family.config(zone).is_none() => Err(NetworkError::NoPool {
            device: device.name.clone(),
            field,
            config,
            zone: network.zone().to_owned(),
        }),
        (Some(_) | None, _) => Ok(()),
    }
}

fn check_device(device: &NetworkDevice, zone: &ZoneNetwork<'_>) -> Result<(), NetworkError> {
    let field = |name: &str| format!("networkDevices[name={}].{name}", device.name);
    if let Some(queues) = device.queues.filter(|queues| *queues > QUEUES_MAX) {
        return Err(NetworkError::OutOfRange {
            field: field("queues"),
            value: queues,
            first: 1,
            last: 64,
        });
    }
    // The hypervisor would ignore them.
    let of_virtio = [("mtu", device.mtu), ("queues", device.queues)];
    let set = of_virtio.iter().find(|(_, value)| value.is_some());
    if let (Some((name, _)), false) = (set, device.model == DeviceModel::Virtio) {
        return Err(NetworkError::VirtioOnly {
            field: field(name),
            model: device.model.as_str(),
        });
    }
    if let (Some(link), Some(mtu)) = (device.link_mtu, device.mtu)
        && mtu != MTU_INHERIT
        && link > mtu
    {
        return Err(NetworkError::LinkAboveDevice {
            field: field("linkMtu"),
            link,
            device: mtu,
        });
    }
    mtu(device, &[])?;
    name_servers(device, zone)?;
    route::of_device(device, None)?;
    route::rules_of_device(device)?;
    number(device.mtu, &field("mtu"), 1)?;
    Ok(())
}

fn check_vrfs(network: &NetworkSpec) -> Result<(), NetworkError> {
    let mut tables: BTreeMap<i64, &str> = BTreeMap::new();
    let mut members: BTreeMap<&str, &str> = BTreeMap::new();
    for wanted in &network.vrfs {
        check_name(wanted, network)?;
        vrf::vrf(wanted)?;
        if let Some(first) = tables.insert(wanted.table, &wanted.name) {
            return Err(NetworkError::SharedTable {
                first: first.to_owned(),
                second: wanted.name.clone(),
            });
        }
        if wanted.interfaces.is_empty() && !wanted.routes.is_empty() {
            return Err(NetworkError::EmptyVrf {
                vrf: wanted.name.clone(),
            });
        }
        for device in &wanted.interfaces {
            if network
                .network_devices
                .iter()
                .all(|known| known.name != *device)
            {
                return Err(NetworkError::NoSuchDevice {
                    vrf: wanted.name.clone(),
                    device: device.clone(),
                });
            }
            if let Some(first) = members.insert(device, &wanted.name) {
                return Err(NetworkError::InTwoVrfs {
                    device: device.clone(),
                    first: first.to_owned(),
                    second: wanted.name.clone(),
                });
            }
        }
    }
    Ok(())
}

/// A VRF is an interface of the guest, and is named like one.
fn check_name(wanted: &VrfDevice, network: &NetworkSpec) -> Result<(), NetworkError> {
    let name = &wanted.name;
    let fits = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
    let is_interface = |device: &NetworkDevice| super::guest_name(&device.name) == *name;
    let problem = if name.len() > NAME_BYTES_MAX {
        "is longer than the 15 letters that Linux allows for an interface; choose a shorter one"
    } else if !name.chars().all(fits) {
        "has letters that an interface cannot have; use letters, digits, '-', '_' and '.'"
    } else if name.chars().all(|letter| letter.is_ascii_digit()) {
        "is a number, and an interface cannot be called like that; put a letter in front"
    } else if network.network_devices.iter().any(is_interface) {
        "is what a network device is called in the guest; choose another"
    } else {
        return Ok(());
    };
    Err(NetworkError::VrfName {
        name: name.clone(),
        problem,
    })
}
