//! Pools: what they hold, and their own life.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::{Value, json};

use super::Office;
use super::range::{AddressSet, BadAddresses};
use crate::core::driver::Again;
use crate::core::gate;
use crate::core::hub::Result;
use crate::core::object::{Kind, Name, Object};
use crate::core::word::manager;

/// Keeps a pool while addresses of it are in use.
pub(super) const POOL_FINALIZER: &str = "ipam.cluster.x-k8s.io/ProtectPool";

/// What a pool can give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stock {
    pub(super) prefix: u8,
    pub(super) gateway: Option<String>,
    all: AddressSet,
}

impl Stock {
    /// Reads a pool. Network and broadcast address of the prefix, and the gateway, are not given out
    /// unless `allocateReservedIPAddresses` says so; the gateway never is.
    pub(super) fn of(pool: &Object) -> std::result::Result<Self, BadAddresses> {
        let list = |pointer: &str| -> Vec<String> {
            let list = pool.at(pointer).and_then(Value::as_array);
            let list = list.into_iter().flatten();
            list.filter_map(|it| it.as_str().map(str::to_owned))
                .collect()
        };
        let read = |field: &'static str, pointer: &str| {
            let entries = list(pointer);
            AddressSet::read(field, entries.iter().map(String::as_str))
        };
        let addresses = read("spec.addresses", "/spec/addresses")?;
        let excluded = read("spec.excludedAddresses", "/spec/excludedAddresses")?;
        let prefix = pool.number("/spec/prefix").unwrap_or(0);
        let prefix = u8::try_from(prefix).map_err(|_| BadAddresses {
            field: "spec.prefix",
            entry: prefix.to_string(),
        })?;
        let gateway = pool.word("/spec/gateway").map(str::to_owned);
        let mut all = addresses.without(&excluded);
        if !pool.flag("/spec/allocateReservedIPAddresses") {
            let reserved = all.reserved(prefix);
            let texts: Vec<_> = reserved.iter().map(IpAddr::to_string).collect();
            let reserved = AddressSet::read("spec.addresses", texts.iter().map(String::as_str))?;
            all = all.without(&reserved);
        }
        if let Some(gateway) = &gateway {
            let gateway = AddressSet::read("spec.gateway", [gateway.as_str()])?;
            all = all.without(&gateway);
        }
        Ok(Self {
            prefix,
            gateway,
            all,
        })
    }

    /// The lowest address that is not taken.
    pub(super) fn pick(&self, taken: &BTreeSet<IpAddr>) -> Option<IpAddr> {
        self.all.first_free(|address| !taken.contains(&address))
    }

    /// `status.ipAddresses`.
    fn figures(&self, taken: &BTreeSet<IpAddr>) -> Value {
        // The field is an int32 in the published definition.
        let cap = |count: u128| i32::try_from(count).unwrap_or(i32::MAX);
        let inside = taken.iter().filter(|it| self.all.contains(**it)).count();
        let outside = taken.len() - inside;
        let total = self.all.len();
        json!({
            "total": cap(total), "used": taken.len(),
            "free": cap(total.saturating_sub(inside as u128)), "outOfRange": outside,
        })
    }
}

pub(super) async fn reconcile(office: &Office, kind: &Kind, name: &Name) -> Result<Again> {
    let hub = &office.hub;
    let Some(pool) = hub.get(kind, name) else {
        return Ok(None);
    };
    let is_used = !office.addresses(&pool).is_empty();
    if pool.is_deleting() && !is_used {
        gate::release(hub, kind, &pool, POOL_FINALIZER, manager::IPAM).await?;
        return Ok(None);
    }
    let pool = gate::hold(hub, kind, pool, POOL_FINALIZER, manager::IPAM).await?;
    // A malformed pool has no figures; its claims say what is wrong.
    if let Ok(stock) = Stock::of(&pool) {
        let objects = office.addresses(&pool);
        let taken = objects
            .iter()
            .filter_map(|address| address.text("/spec/address")?.parse().ok())
            .collect();
        let status = json!({"ipAddresses": stock.figures(&taken)});
        hub.merge_status(kind, &pool, &status, manager::IPAM)
            .await?;
    }
    Ok(None)
}

#[cfg(test)]
#[expect(
    clippy::needless_pass_by_value,
    reason = "literals read better without borrows"
)]
mod tests {
    use super::*;

    fn stock(spec: Value) -> std::result::Result<Stock, BadAddresses> {
        Stock::of(&Object::from_value(json!({
            "apiVersion": "ipam.cluster.x-k8s.io/v1alpha2", "kind": "InClusterIPPool",
            "metadata": {"name": "p", "namespace": "d"}, "spec": spec,
        })))
    }

    fn given(spec: Value) -> Vec<String> {
        let stock = stock(spec).expect("readable");
        let mut taken = BTreeSet::new();
        while let Some(next) = stock.pick(&taken) {
            taken.insert(next);
        }
        taken.iter().map(IpAddr::to_string).collect()
    }

    #[test]
    fn s_16_what_a_pool_gives() {
        for (spec, wanted) in [
            (
                json!({"addresses": ["10.0.0.0/29"], "prefix": 29, "gateway": "10.0.0.1"}),
                vec!["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"],
            ),
            (
                json!({"addresses": ["10.0.0.0/30"], "prefix": 30, "gateway": "10.0.0.1",
                    "allocateReservedIPAddresses": true}),
                vec!["10.0.0.0", "10.0.0.2", "10.0.0.3"],
            ),
            (
                json!({"addresses": ["10.0.0.10-10.0.0.13", "10.0.0.20"], "prefix": 24,
                    "excludedAddresses": ["10.0.0.11-10.0.0.12"]}),
                vec!["10.0.0.10", "10.0.0.13", "10.0.0.20"],
            ),
            (
                json!({"addresses": ["10.0.0.255", "10.0.1.0", "10.0.1.1"], "prefix": 24}),
                vec!["10.0.1.1"],
            ),
            (
                json!({"addresses": ["fd00::-fd00::2"], "prefix": 64}),
                vec!["fd00::1", "fd00::2"],
            ),
        ] {
            assert_eq!(given(spec.clone()), wanted, "{spec}");
        }
    }

    #[test]
    fn s_16_figures_count_what_is_outside() {
        let stock = stock(json!({"addresses": ["10.0.0.1-10.0.0.4"], "prefix": 24}));
        let taken = ["10.0.0.2", "10.9.9.9"];
        let taken = taken.iter().map(|it| it.parse().expect("one")).collect();
        assert_eq!(
            stock.expect("readable").figures(&taken),
            json!({"total": 4, "used": 2, "free": 3, "outOfRange": 1})
        );
    }

    #[test]
    fn s_16_a_wrong_pool_names_its_field() {
        for (spec, field) in [
            (json!({"addresses": ["x"], "prefix": 24}), "spec.addresses"),
            (
                json!({"addresses": ["10.0.0.1"], "prefix": 24, "gateway": "x"}),
                "spec.gateway",
            ),
            (
                json!({"addresses": ["10.0.0.1"], "prefix": 24, "excludedAddresses": ["y"]}),
                "spec.excludedAddresses",
            ),
        ] {
            assert_eq!(stock(spec).expect_err("must fail").field, field);
        }
    }
}
