//! The ranges that addresses and ports come from.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::builder::{Balancer, Builder};

/// The node ports of Kubernetes, unless its API server is told others.
const NODE_PORTS: std::ops::RangeInclusive<u16> = 30_000..=32_767;

/// A range, and who holds what of it.
#[derive(Debug)]
struct Range {
    net: IpNet,
    /// The offset that is tried next: addresses are not given again at once.
    next: u128,
    held: BTreeMap<String, IpAddr>,
    taken: BTreeSet<IpAddr>,
}

impl Range {
    fn new(net: IpNet, first: u128) -> Self {
        Self {
            net: net.trunc(),
            next: first,
            held: BTreeMap::new(),
            taken: BTreeSet::new(),
        }
    }

    /// How many offsets there are, as far as anybody needs them.
    fn size(&self) -> u128 {
        let bits = self.net.max_prefix_len() - self.net.prefix_len();
        1 << u32::from(bits.min(32))
    }

    fn at(&self, offset: u128) -> IpAddr {
        match self.net.network() {
            IpAddr::V4(base) => {
                let offset = u32::try_from(offset).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from(u32::from(base).wrapping_add(offset)))
            }
            IpAddr::V6(base) => IpAddr::V6(Ipv6Addr::from(u128::from(base).wrapping_add(offset))),
        }
    }

    /// The holder's address, a new one if it has none; none if all are taken. `wanted` is given if it
    /// is free.
    fn take(&mut self, holder: &str, wanted: Option<IpAddr>) -> Option<IpAddr> {
        if let Some(held) = self.held.get(holder) {
            return Some(*held);
        }
        let free = |address: &IpAddr| !self.taken.contains(address) && self.net.contains(address);
        let address = match wanted {
            Some(wanted) => Some(wanted).filter(free),
            None => {
                let size = self.size();
                // The first is the network's own, the last its broadcast address.
                let offsets = (0..size).map(|step| (self.next + step) % size);
                let mut usable = offsets.filter(|offset| (1..size - 1).contains(offset));
                usable.find(|offset| free(&self.at(*offset))).map(|offset| {
                    self.next = (offset + 1) % size;
                    self.at(offset)
                })
            }
        }?;
        self.taken.insert(address);
        self.held.insert(holder.to_owned(), address);
        Some(address)
    }

    fn release(&mut self, holder: &str) {
        if let Some(address) = self.held.remove(holder) {
            self.taken.remove(&address);
        }
    }
}

/// Everything that is given out.
#[derive(Debug)]
pub(crate) struct Addresses {
    pods: Range,
    /// Addresses that names keep.
    sticky: Option<BTreeMap<String, IpAddr>>,
    services: Range,
    balancers: Option<Range>,
    networks: BTreeMap<String, Range>,
    ports: BTreeSet<u16>,
}

impl Addresses {
    pub(crate) fn new(settings: &Builder) -> Self {
        let networks = settings.networks.iter();
        let networks = networks
            .filter_map(|(name, dhcp)| Some((name.clone(), Range::new((*dhcp)?, 10))))
            .collect();
        Self {
            // The low ones belong to nodes and gateways.
            pods: Range::new(settings.pods, 10),
            sticky: settings.sticky.then(BTreeMap::new),
            services: Range::new(settings.services, 10),
            balancers: match &settings.balancer {
                Balancer::Address(range) => Some(Range::new(*range, 1)),
                Balancer::Absent | Balancer::Hostname(_) => None,
            },
            networks,
            ports: BTreeSet::new(),
        }
    }

    /// The address of a pod.
    pub(crate) fn pod(&mut self, pod: &str, name: &str) -> Option<IpNet> {
        let kept = self
            .sticky
            .as_ref()
            .and_then(|sticky| sticky.get(name).copied());
        let kept = kept.and_then(|address| self.pods.take(pod, Some(address)));
        let address = kept.or_else(|| self.pods.take(pod, None))?;
        if let Some(sticky) = &mut self.sticky {
            sticky.insert(name.to_owned(), address);
        }
        IpNet::new(address, self.pods.net.prefix_len()).ok()
    }

    pub(crate) fn release_pod(&mut self, pod: &str) {
        self.pods.release(pod);
        for range in self.networks.values_mut() {
            range.release(pod);
        }
    }

    /// What a DHCP server on a network gives; none if there is no server.
    pub(crate) fn lease(&mut self, network: &str, holder: &str) -> Option<IpNet> {
        let range = self.networks.get_mut(network)?;
        let address = range.take(holder, None)?;
        IpNet::new(address, range.net.prefix_len()).ok()
    }

    /// The cluster address of a Service (`namespace/name`) that asks for none, or for this one.
    pub(crate) fn service(&mut self, name: &str, wanted: Option<IpAddr>) -> Option<IpAddr> {
        self.services.take(name, wanted)
    }

    /// The external address of a Service.
    pub(crate) fn balancer(&mut self, name: &str, wanted: Option<IpAddr>) -> Option<IpAddr> {
        self.balancers.as_mut()?.take(name, wanted)
    }

    /// A port of all nodes: this one if it is free, else any.
    pub(crate) fn port(&mut self, wanted: Option<u16>) -> Option<u16> {
        let port = match wanted {
            Some(wanted) => Some(wanted).filter(|port| !self.ports.contains(port)),
            None => NODE_PORTS.clone().find(|port| !self.ports.contains(port)),
        }?;
        self.ports.insert(port);
        Some(port)
    }

    pub(crate) fn release_service(&mut self, name: &str) {
        self.services.release(name);
        self.release_balancer(name);
    }

    pub(crate) fn release_balancer(&mut self, name: &str) {
        if let Some(balancers) = &mut self.balancers {
            balancers.release(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_gives_each_address_once_and_keeps_it_for_its_holder() {
        let mut range = Range::new("10.0.0.0/30".parse().expect("a range"), 1);
        let first = range.take("a", None);
        assert_eq!(first, "10.0.0.1".parse().ok());
        assert_eq!(range.take("a", None), first);
        assert_eq!(range.take("b", None), "10.0.0.2".parse().ok());
        assert_eq!(
            range.take("c", None),
            None,
            "network and broadcast are no hosts"
        );
        range.release("a");
        assert_eq!(
            range.take("c", "10.0.0.2".parse().ok()),
            None,
            "it is taken"
        );
        assert_eq!(range.take("c", "10.0.0.1".parse().ok()), first);
    }

    #[test]
    fn sticky_names_get_their_address_back() {
        let mut addresses = Addresses::new(&Builder::new().sticky_addresses());
        let first = addresses.pod("pod-1", "n/a");
        addresses.release_pod("pod-1");
        assert_eq!(addresses.pod("pod-2", "n/a"), first);
        let mut others = Addresses::new(&Builder::new());
        let first = others.pod("pod-1", "n/a");
        others.release_pod("pod-1");
        assert_ne!(others.pod("pod-2", "n/a"), first);
    }
}
