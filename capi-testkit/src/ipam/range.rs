//! Sets of addresses as pools name them: single addresses, ranges, networks, less the excluded ones.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// An entry of a pool that is no address, range or network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "cannot read {entry:?} in {field}: write an address (10.0.0.9), a range (10.0.0.10-10.0.0.20) \
     or a network (10.0.0.0/24), and one family per pool"
)]
pub struct BadAddresses {
    /// The field of the pool, such as `spec.addresses`.
    pub field: &'static str,
    /// What it says.
    pub entry: String,
}

/// Addresses of one family, as sorted, disjoint, inclusive intervals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressSet {
    is_v6: bool,
    intervals: Vec<(u128, u128)>,
}

impl AddressSet {
    /// Reads the entries of a field. An empty list is an empty IPv4 set.
    ///
    /// # Errors
    ///
    /// [`BadAddresses`] names the first entry that cannot be read, or is of another family.
    pub fn read<'a>(
        field: &'static str,
        entries: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, BadAddresses> {
        let mut family = None;
        let mut intervals = Vec::new();
        for entry in entries {
            let bad = || BadAddresses {
                field,
                entry: entry.to_owned(),
            };
            let (first, last) = interval(entry).ok_or_else(bad)?;
            let is_v6 = first.is_ipv6();
            if *family.get_or_insert(is_v6) != is_v6 {
                return Err(bad());
            }
            intervals.push((number(first), number(last)));
        }
        intervals.sort_unstable();
        let mut merged: Vec<(u128, u128)> = Vec::with_capacity(intervals.len());
        for (first, last) in intervals {
            match merged.last_mut() {
                Some(held) if first <= held.1.saturating_add(1) => held.1 = held.1.max(last),
                _ => merged.push((first, last)),
            }
        }
        Ok(Self {
            is_v6: family.unwrap_or(false),
            intervals: merged,
        })
    }

    /// What is in this set and not in `other`. Sets of two families have nothing in common.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        let mut intervals = self.intervals.clone();
        let cuts = if self.is_v6 == other.is_v6 {
            other.intervals.as_slice()
        } else {
            &[]
        };
        for &(from, to) in cuts {
            let mut left = Vec::with_capacity(intervals.len() + 1);
            for (first, last) in intervals {
                if to < first || last < from {
                    left.push((first, last));
                    continue;
                }
                if first < from {
                    left.push((first, from - 1));
                }
                if to < last {
                    left.push((to + 1, last));
                }
            }
            intervals = left;
        }
        Self {
            is_v6: self.is_v6,
            intervals,
        }
    }

    /// Whether the address is in the set.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv6() == self.is_v6 && {
            let wanted = number(address);
            let at = self.intervals.partition_point(|held| held.1 < wanted);
            self.intervals.get(at).is_some_and(|held| held.0 <= wanted)
        }
    }

    /// First and last address of every network of this prefix length that an end of an interval lies
    /// in: those that hosts do not get. An IPv6 network has no broadcast address, and networks of one
    /// or two addresses have neither.
    pub(crate) fn reserved(&self, prefix: u8) -> Vec<IpAddr> {
        let bits = if self.is_v6 { 128 } else { 32 };
        let mut reserved = Vec::new();
        if u32::from(prefix) + 1 >= bits {
            return reserved;
        }
        for &(first, last) in &self.intervals {
            for end in [first, last] {
                let Ok(network) = IpNet::new(self.address(end), prefix) else {
                    continue;
                };
                reserved.push(network.network());
                if !self.is_v6 {
                    reserved.push(network.broadcast());
                }
            }
        }
        reserved
    }

    /// How many addresses there are; saturates.
    pub fn len(&self) -> u128 {
        let sizes = self.intervals.iter().map(|(first, last)| last - first);
        sizes.fold(0, |sum: u128, size| {
            sum.saturating_add(size).saturating_add(1)
        })
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.intervals.is_empty()
    }

    /// The lowest address that `is_free` accepts. It is asked once per address, so at most one call
    /// more than there are addresses in use.
    pub fn first_free(&self, is_free: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
        let mut all = self
            .intervals
            .iter()
            .flat_map(|&(first, last)| first..=last)
            .map(|number| self.address(number));
        all.find(|address| is_free(*address))
    }

    fn address(&self, number: u128) -> IpAddr {
        match u32::try_from(number) {
            Ok(small) if !self.is_v6 => IpAddr::V4(Ipv4Addr::from(small)),
            _ => IpAddr::V6(Ipv6Addr::from(number)),
        }
    }
}

fn interval(entry: &str) -> Option<(IpAddr, IpAddr)> {
    if let Some((first, last)) = entry.split_once('-') {
        let (first, last): (IpAddr, IpAddr) = (first.parse().ok()?, last.parse().ok()?);
        return (first.is_ipv6() == last.is_ipv6() && first <= last).then_some((first, last));
    }
    if entry.contains('/') {
        let network: IpNet = entry.parse().ok()?;
        return Some((network.network(), network.broadcast()));
    }
    let one = entry.parse().ok()?;
    Some((one, one))
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u32::from(v4).into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(entries: &[&str]) -> AddressSet {
        AddressSet::read("spec.addresses", entries.iter().copied()).expect("readable")
    }

    fn all(set: &AddressSet) -> Vec<String> {
        let mut seen = Vec::new();
        while let Some(next) = set.first_free(|it| !seen.contains(&it)) {
            seen.push(next);
            assert!(seen.len() < 50, "too many");
        }
        seen.iter().map(IpAddr::to_string).collect()
    }

    #[test]
    fn addresses_ranges_and_networks_mix_and_overlap() {
        let some = set(&["10.0.0.9", "10.0.0.2-10.0.0.3", "10.0.0.8/30", "10.0.0.4"]);
        assert_eq!(
            all(&some),
            [
                "10.0.0.2",
                "10.0.0.3",
                "10.0.0.4",
                "10.0.0.8",
                "10.0.0.9",
                "10.0.0.10",
                "10.0.0.11"
            ]
        );
        assert_eq!(some.len(), 7);
        assert!(some.contains("10.0.0.10".parse().expect("an address")));
        assert!(!some.contains("10.0.0.5".parse().expect("an address")));
        assert!(!some.contains("::10.0.0.10".parse().expect("an address")));
    }

    #[test]
    fn exclusions_cut_holes_and_ends() {
        let left =
            set(&["10.0.0.0/29"]).without(&set(&["10.0.0.0", "10.0.0.3-10.0.0.4", "10.0.0.7"]));
        assert_eq!(all(&left), ["10.0.0.1", "10.0.0.2", "10.0.0.5", "10.0.0.6"]);
        assert!(
            set(&["fd00::1"])
                .without(&set(&["10.0.0.1"]))
                .contains("fd00::1".parse().expect("one"))
        );
    }

    #[test]
    fn ipv6_counts_beyond_what_can_be_listed() {
        let big = set(&["fd00::/64"]);
        assert_eq!(big.len(), 1 << 64);
        assert_eq!(
            big.first_free(|_| true),
            Some("fd00::".parse().expect("one"))
        );
        assert!(!set(&["::/0"]).is_empty());
    }

    #[test]
    fn wrong_entries_are_named() {
        for entry in [
            "10.0.0.300",
            "10.0.0.9-10.0.0.1",
            "10.0.0.1-fd00::1",
            "10.0.0.0/33",
            "",
            "a-b",
        ] {
            let fault = AddressSet::read("spec.addresses", [entry]).expect_err("must fail");
            assert_eq!(fault.entry, entry);
        }
        let mixed = AddressSet::read("spec.addresses", ["10.0.0.1", "fd00::1"]);
        assert_eq!(mixed.expect_err("must fail").entry, "fd00::1");
    }
}
