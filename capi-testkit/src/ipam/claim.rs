//! Claims: from a wish to an address and back.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::pool::Stock;
use super::{Office, PoolId};
use crate::core::condition::{Conditions, READY, Report};
use crate::core::driver::Again;
use crate::core::gate;
use crate::core::hub::{Error, Result};
use crate::core::object::{Name, Object, is_paused};
use crate::core::word::{
    CLUSTER, CLUSTER_NAME_LABEL, IP_ADDRESS, IP_ADDRESS_CLAIM, IPAM_API, manager, resource,
};

/// Keeps a claim until its address is released.
const CLAIM_FINALIZER: &str = "ipam.cluster.x-k8s.io/ReleaseAddress";
/// Keeps an address until its claim is released.
const ADDRESS_FINALIZER: &str = "ipam.cluster.x-k8s.io/ProtectAddress";

/// Whether a claim may be worked on (IPP-02).
#[derive(Clone, Debug, PartialEq, Eq)]
enum Gate {
    Open,
    Paused,
    NoCluster(String),
}

fn gate(claim: &Object, find: impl Fn(&Name) -> Option<Arc<Object>>) -> Gate {
    let Some(name) = claim.cluster_name().filter(|name| !name.is_empty()) else {
        return if claim.is_annotated_paused() {
            Gate::Paused
        } else {
            Gate::Open
        };
    };
    match find(&Name::new(claim.namespace(), name)) {
        Some(cluster) if is_paused(claim, Some(&cluster)) => Gate::Paused,
        Some(_) => Gate::Open,
        // Deletion needs nothing of the Cluster.
        None if claim.is_deleting() => Gate::Open,
        None => Gate::NoCluster(name.to_owned()),
    }
}

pub(super) async fn reconcile(office: &Office, name: &Name) -> Result<Again> {
    let hub = &office.hub;
    let Some(claim) = hub.get(&IP_ADDRESS_CLAIM, name) else {
        return Ok(None);
    };
    let Some(id) = Office::pool_of(&claim) else {
        return Ok(None);
    };
    match gate(&claim, |name| hub.get(&CLUSTER, name)) {
        Gate::Open => {}
        Gate::Paused => return Ok(None),
        Gate::NoCluster(cluster) => {
            return Err(Error::Inconsistent(format!(
                "IPAddressClaim {name} belongs to Cluster {cluster}, which does not exist"
            )));
        }
    }
    if claim.is_deleting() {
        return release(office, &claim).await;
    }
    let left = wait_left(office, &claim);
    if !left.is_zero() {
        return Ok(Some(hub.scaled(left)));
    }
    let claim = gate::hold(
        hub,
        &IP_ADDRESS_CLAIM,
        claim,
        CLAIM_FINALIZER,
        manager::IPAM,
    )
    .await?;
    let report = match allocate(office, &claim, &id).await {
        Ok(Allocation::Made) => {
            let status = json!({"addressRef": {"name": claim.name()}});
            return publish(office, &claim, status, &Report::yes("Ready")).await;
        }
        Ok(Allocation::Refused(report)) => report,
        Err(fault) => {
            let report = Report::no("AllocationFailed", fault.in_full());
            publish(office, &claim, json!({}), &report).await?;
            return Err(fault);
        }
    };
    publish(office, &claim, json!({}), &report).await
}

fn wait_left(office: &Office, claim: &Object) -> Duration {
    if claim.at("/status/addressRef").is_some() {
        return Duration::ZERO;
    }
    let spent = claim.created().map(|at| office.hub.since(at));
    office
        .delay
        .lock()
        .saturating_sub(spent.unwrap_or_default())
}

async fn publish(
    office: &Office,
    claim: &Object,
    mut status: Value,
    report: &Report,
) -> Result<Again> {
    let mut conditions = Conditions::of(claim, office.hub.now());
    conditions.set(READY, report);
    status["conditions"] = conditions.into_value();
    let manager = manager::IPAM;
    office
        .hub
        .merge_status(&IP_ADDRESS_CLAIM, claim, &status, manager)
        .await?;
    Ok(None)
}

enum Allocation {
    Made,
    Refused(Report),
}

async fn allocate(office: &Office, claim: &Object, id: &PoolId) -> Result<Allocation> {
    let hub = &office.hub;
    let Some(pool) = office.pool(id) else {
        let text = format!("{} {} does not exist", id.0.kind, id.1);
        return Ok(Allocation::Refused(Report::no("PoolNotReady", text)));
    };
    // The address of an earlier pass, or one that was moved here, stays (IPP-05, IPP-07).
    if let Some(held) = hub.get(&IP_ADDRESS, &claim.key()) {
        if held.word("/spec/claimRef/name") != Some(claim.name()) {
            let text = format!("IPAddress {} belongs to another claim", held.key());
            return Ok(Allocation::Refused(Report::no("AllocationFailed", text)));
        }
        let owners = owners(claim, &pool, id);
        let is_whole = owners.iter().all(|owner| {
            let uid = owner["uid"].as_str().unwrap_or_default();
            held.is_owned_by(uid)
        });
        if !is_whole {
            let patch = json!({"metadata": {"ownerReferences": owners}});
            hub.merge(&IP_ADDRESS, &held.key(), patch, manager::IPAM)
                .await?;
        }
        return Ok(Allocation::Made);
    }
    if pool.is_deleting() {
        let text = format!("{} {} is being deleted", id.0.kind, id.1);
        return Ok(Allocation::Refused(Report::no("PoolNotReady", text)));
    }
    let stock = match Stock::of(&pool) {
        Ok(stock) => stock,
        Err(fault) => {
            let text = format!("{} {}: {fault}", id.0.kind, id.1);
            return Ok(Allocation::Refused(Report::no("PoolNotReady", text)));
        }
    };
    let Some(address) = choose(office, claim, id, &pool, &stock) else {
        let text = format!("{} {} has no free address", id.0.kind, id.1);
        return Ok(Allocation::Refused(Report::no("PoolExhausted", text)));
    };
    let made = create(office, claim, id, &pool, &stock, address).await;
    office.chosen.lock().remove(claim.uid());
    made.map(|()| Allocation::Made)
}

/// Chooses and notes in one step, so that no pass that runs meanwhile can choose the same.
fn choose(
    office: &Office,
    claim: &Object,
    id: &PoolId,
    pool: &Object,
    stock: &Stock,
) -> Option<IpAddr> {
    if *office.is_exhausted.lock() {
        return None;
    }
    let address = stock.pick(&office.taken(id, pool))?;
    let uid = claim.uid().to_owned();
    office.chosen.lock().insert(uid, (id.clone(), address));
    Some(address)
}

fn owners(claim: &Object, pool: &Object, id: &PoolId) -> [Value; 2] {
    let pool_api = pool.types.as_ref().map_or("", |types| &types.api_version);
    let mut by_pool = pool.owner_reference(pool_api, &id.0, false);
    by_pool["controller"] = json!(false);
    by_pool["blockOwnerDeletion"] = json!(true);
    [
        claim.owner_reference(IPAM_API, &IP_ADDRESS_CLAIM, true),
        by_pool,
    ]
}

async fn create(
    office: &Office,
    claim: &Object,
    id: &PoolId,
    pool: &Object,
    stock: &Stock,
    address: IpAddr,
) -> Result<()> {
    let mut metadata = json!({
        "name": claim.name(), "namespace": claim.namespace(),
        "finalizers": [ADDRESS_FINALIZER], "ownerReferences": owners(claim, pool, id),
    });
    if let Some(cluster) = claim.cluster_name() {
        metadata["labels"] = json!({CLUSTER_NAME_LABEL: cluster});
    }
    let mut spec = json!({
        "claimRef": {"name": claim.name()},
        "poolRef": claim.at("/spec/poolRef"),
        "address": address.to_string(),
        "prefix": stock.prefix,
    });
    if let Some(gateway) = &stock.gateway {
        spec["gateway"] = json!(gateway);
    }
    let value = json!({
        "apiVersion": IPAM_API, "kind": "IPAddress", "metadata": metadata, "spec": spec,
    });
    let resource = resource(&IP_ADDRESS, "v1beta2", "ipaddresses");
    match office.hub.create(&resource, value, manager::IPAM).await? {
        Some(_) => Ok(()),
        None => Err(Error::Inconsistent(format!(
            "IPAddress {} is there already",
            claim.key()
        ))),
    }
}

/// IPAddress, then claim (IPP-06).
async fn release(office: &Office, claim: &Object) -> Result<Again> {
    let hub = &office.hub;
    if let Some(held) = hub.get(&IP_ADDRESS, &claim.key())
        && held.is_owned_by(claim.uid())
    {
        hub.delete(&IP_ADDRESS, &held).await?;
        // The answer to the delete is in the store by now.
        if let Some(held) = hub.get(&IP_ADDRESS, &claim.key()) {
            gate::release(hub, &IP_ADDRESS, &held, ADDRESS_FINALIZER, manager::IPAM).await?;
        }
        if hub.get(&IP_ADDRESS, &claim.key()).is_some() {
            return Ok(None);
        }
    }
    office.chosen.lock().remove(claim.uid());
    gate::release(
        hub,
        &IP_ADDRESS_CLAIM,
        claim,
        CLAIM_FINALIZER,
        manager::IPAM,
    )
    .await?;
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipp_02_the_cluster_decides_whether_a_claim_is_served() {
        let claim = |spec: Value, labels: Value, deleting: bool| {
            let mut value = json!({
                "apiVersion": IPAM_API, "kind": "IPAddressClaim",
                "metadata": {"name": "x", "namespace": "d", "labels": labels}, "spec": spec,
            });
            if deleting {
                value["metadata"]["deletionTimestamp"] = json!("2026-11-21T10:00:00Z");
            }
            Object::from_value(value)
        };
        let clusters = |name: &Name| {
            let paused = match name.name.as_str() {
                "on" => false,
                "off" => true,
                _ => return None,
            };
            Some(Arc::new(Object::from_value(json!({
                "apiVersion": "cluster.x-k8s.io/v1beta2", "kind": "Cluster",
                "metadata": {"name": name.name, "namespace": "d"}, "spec": {"paused": paused},
            }))))
        };
        let named = |name: &str| json!({"clusterName": name});
        let labelled = |name: &str| json!({CLUSTER_NAME_LABEL: name});
        let none = || json!({});
        for (spec, labels, deleting, wanted) in [
            (none(), none(), false, Gate::Open),
            (named("on"), none(), false, Gate::Open),
            (named("off"), none(), false, Gate::Paused),
            (none(), labelled("off"), false, Gate::Paused),
            (named("on"), labelled("off"), false, Gate::Open),
            (
                named("gone"),
                none(),
                false,
                Gate::NoCluster("gone".to_owned()),
            ),
            (named("gone"), none(), true, Gate::Open),
            (named("off"), none(), true, Gate::Paused),
        ] {
            let claim = claim(spec, labels, deleting);
            assert_eq!(gate(&claim, clusters), wanted, "{claim:?}");
        }
    }
}
