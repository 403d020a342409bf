//! Which node a pod goes to. Pure.
//!
//! Played are readiness, cordons, taints, node selectors, required node affinity, required pod affinity
//! and anti-affinity within the namespace, CPU and memory. Preferences and topology spread constraints
//! are not.

use std::collections::BTreeMap;
use std::sync::Arc;

use capi_testkit::actor::Object;
use serde_json::Value;

use crate::hardware;
use crate::quantity;
use crate::word::SCHEDULABLE_LABEL;

/// An instance that is on a node.
#[derive(Clone, Debug)]
pub(crate) struct Tenant {
    pub(crate) node: String,
    pub(crate) instance: Arc<Object>,
}

/// Finds a node for an instance. `but_not` excludes the node that it is on, for a migration;
/// `selector` adds to its own.
///
/// # Errors
///
/// Why there is none, in the scheduler's words.
pub(crate) fn place(
    instance: &Object,
    nodes: &[Arc<Object>],
    tenants: &[Tenant],
    but_not: Option<&str>,
    selector: &Value,
) -> Result<String, String> {
    let mut reasons: BTreeMap<&'static str, usize> = BTreeMap::new();
    let mut fitting: Vec<(u64, &str)> = Vec::new();
    for node in nodes {
        let judged = if but_not == Some(node.name()) {
            Err("node(s) didn't match Pod's node affinity/selector")
        } else {
            judge(instance, node, nodes, tenants, selector)
        };
        match judged {
            Ok(used) => fitting.push((used, node.name())),
            Err(reason) => *reasons.entry(reason).or_default() += 1,
        }
    }
    // The emptiest node, and among equals the first.
    if let Some((_, name)) = fitting.iter().min() {
        return Ok((*name).to_owned());
    }
    let list: Vec<String> = reasons
        .iter()
        .map(|(reason, count)| format!("{count} {reason}"))
        .collect();
    let list = list.join(", ");
    Err(format!("0/{} nodes are available: {list}.", nodes.len()))
}

/// How much memory is used on a node that the instance fits on.
fn judge(
    instance: &Object,
    node: &Object,
    nodes: &[Arc<Object>],
    tenants: &[Tenant],
    selector: &Value,
) -> Result<u64, &'static str> {
    let spec = instance.at("/spec").unwrap_or(&Value::Null);
    if !node.is_true("Ready") {
        return Err("node(s) were not ready");
    }
    if node.flag("/spec/unschedulable") {
        return Err("node(s) were unschedulable");
    }
    if !tolerates(spec, node) {
        return Err("node(s) had untolerated taint(s)");
    }
    let is_selected = node.label(SCHEDULABLE_LABEL) == Some("true")
        && has_labels(node, &spec["nodeSelector"])
        && has_labels(node, selector)
        && has_affinity(node, &spec["affinity"]["nodeAffinity"]);
    if !is_selected {
        return Err("node(s) didn't match Pod's node affinity/selector");
    }
    neighbours(instance, node, nodes, tenants)?;
    let (mut cpu, mut memory) = (0, 0);
    let on_node =
        |tenant: &&Tenant| tenant.node == node.name() && tenant.instance.uid() != instance.uid();
    for tenant in tenants.iter().filter(on_node) {
        let (its_cpu, its_memory) =
            hardware::requests(tenant.instance.at("/spec").unwrap_or(&Value::Null));
        cpu += its_cpu;
        memory += its_memory;
    }
    let (own_cpu, own_memory) = hardware::requests(spec);
    let room = |resource: &str, read: fn(&Value) -> Option<u64>| {
        let value = node.at(&format!("/status/allocatable/{resource}"));
        value.and_then(read).unwrap_or(0)
    };
    if cpu + own_cpu > room("cpu", quantity::thousandths) {
        return Err("Insufficient cpu");
    }
    if memory + own_memory > room("memory", quantity::bytes) {
        return Err("Insufficient memory");
    }
    Ok(memory)
}

fn tolerates(spec: &Value, node: &Object) -> bool {
    let taints = node.at("/spec/taints").and_then(Value::as_array);
    let tolerations = spec["tolerations"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    let mut hard = taints
        .into_iter()
        .flatten()
        .filter(|taint| taint["effect"] != "PreferNoSchedule");
    hard.all(|taint| {
        tolerations.iter().any(|toleration| {
            let is_any = toleration["operator"] == "Exists";
            let key = toleration["key"].as_str().unwrap_or_default();
            let has_key = taint["key"] == key || (key.is_empty() && is_any);
            let has_effect = toleration["effect"].as_str().is_none_or(str::is_empty)
                || toleration["effect"] == taint["effect"];
            let text = |value: &Value| value["value"].as_str().unwrap_or_default().to_owned();
            has_key && has_effect && (is_any || text(toleration) == text(taint))
        })
    })
}

fn has_labels(node: &Object, wanted: &Value) -> bool {
    let mut pairs = wanted.as_object().into_iter().flatten();
    pairs.all(|(key, value)| node.label(key) == value.as_str())
}

/// The terms are alternatives; the expressions of one belong together.
fn has_affinity(node: &Object, affinity: &Value) -> bool {
    let required = &affinity["requiredDuringSchedulingIgnoredDuringExecution"];
    let Some(terms) = required["nodeSelectorTerms"].as_array() else {
        return true;
    };
    terms.iter().any(|term| {
        let list = |key: &str| term[key].as_array().map_or(&[][..], Vec::as_slice);
        let expressions = list("matchExpressions").iter();
        let fields = list("matchFields").iter();
        let is_empty = list("matchExpressions").is_empty() && list("matchFields").is_empty();
        !is_empty
            && expressions
                .clone()
                .all(|one| matches(one, |key| node.label(key)))
            && fields
                .clone()
                .all(|one| matches(one, |_| Some(node.name())))
    })
}

fn matches<'a>(expression: &Value, held: impl Fn(&str) -> Option<&'a str>) -> bool {
    let held = held(expression["key"].as_str().unwrap_or_default());
    let values = expression["values"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    let is_in = held.is_some_and(|held| values.iter().any(|value| value == held));
    let number = |text: Option<&str>| text.and_then(|text| text.parse::<i64>().ok());
    let bound = number(values.first().and_then(Value::as_str));
    match expression["operator"].as_str() {
        Some("In") => is_in,
        Some("NotIn") => !is_in,
        Some("Exists") => held.is_some(),
        Some("DoesNotExist") => held.is_none(),
        Some("Gt") => number(held)
            .zip(bound)
            .is_some_and(|(held, bound)| held > bound),
        Some("Lt") => number(held)
            .zip(bound)
            .is_some_and(|(held, bound)| held < bound),
        _ => false,
    }
}

/// Required pod affinity and anti-affinity, the latter of the neighbours as well.
fn neighbours(
    instance: &Object,
    node: &Object,
    nodes: &[Arc<Object>],
    tenants: &[Tenant],
) -> Result<(), &'static str> {
    let domain_of = |name: &str, key: &str| {
        let node = nodes.iter().find(|node| node.name() == name)?;
        node.label(key).map(str::to_owned)
    };
    let others = || {
        tenants
            .iter()
            .filter(|tenant| tenant.instance.uid() != instance.uid())
    };
    let shares = |tenant: &Tenant, term: &Value| {
        let key = term["topologyKey"].as_str().unwrap_or_default();
        let here = node.label(key);
        here.is_some() && domain_of(&tenant.node, key).as_deref() == here
    };
    let is_met = |of: &Object, term: &Value, other: &Object| {
        of.namespace() == other.namespace() && selects(&term["labelSelector"], other)
    };
    for term in terms(instance, "podAntiAffinity") {
        if others().any(|one| shares(one, term) && is_met(instance, term, &one.instance)) {
            return Err("node(s) didn't match pod anti-affinity rules");
        }
    }
    // Most have no affinity at all, and this is asked for every node.
    let wary = others().filter(|one| one.instance.at("/spec/affinity").is_some());
    for other in wary {
        for term in terms(&other.instance, "podAntiAffinity") {
            if shares(other, term) && is_met(&other.instance, term, instance) {
                return Err("node(s) didn't satisfy existing pods anti-affinity rules");
            }
        }
    }
    for term in terms(instance, "podAffinity") {
        let alone = !others().any(|one| is_met(instance, term, &one.instance));
        // The first of a group may go anywhere.
        let is_first = alone && selects(&term["labelSelector"], instance);
        let is_near =
            others().any(|one| shares(one, term) && is_met(instance, term, &one.instance));
        if !is_first && !is_near {
            return Err("node(s) didn't match pod affinity rules");
        }
    }
    Ok(())
}

fn terms<'a>(instance: &'a Object, kind: &str) -> impl Iterator<Item = &'a Value> {
    let pointer = format!("/spec/affinity/{kind}/requiredDuringSchedulingIgnoredDuringExecution");
    let terms = instance.at(&pointer).and_then(Value::as_array);
    terms.into_iter().flatten()
}

/// Whether a label selector picks an object; none picks nothing.
pub(crate) fn selects(selector: &Value, object: &Object) -> bool {
    let Some(selector) = selector.as_object() else {
        return false;
    };
    let labels = selector.get("matchLabels").and_then(Value::as_object);
    let expressions = selector.get("matchExpressions").and_then(Value::as_array);
    labels
        .into_iter()
        .flatten()
        .all(|(key, value)| object.label(key) == value.as_str())
        && expressions
            .into_iter()
            .flatten()
            .all(|one| matches(one, |key| object.label(key)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> Arc<Object> {
        Arc::new(Object::new(
            serde_json::from_value(value).expect("an object"),
        ))
    }

    fn node(name: &str, zone: &str, memory: &str) -> Arc<Object> {
        object(json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": name, "labels": {"zone": zone, SCHEDULABLE_LABEL: "true"}},
            "status": {"allocatable": {"cpu": "4", "memory": memory},
                "conditions": [{"type": "Ready", "status": "True"}]},
        }))
    }

    fn instance(name: &str, spec: Value) -> Arc<Object> {
        let mut spec = spec;
        spec["domain"]["memory"]["guest"] = json!("2Gi");
        object(json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
            "metadata": {"name": name, "namespace": "n", "uid": name, "labels": {"app": "cp"}},
            "spec": spec,
        }))
    }

    fn on(node: &str, instance: &Arc<Object>) -> Tenant {
        Tenant {
            node: node.to_owned(),
            instance: Arc::clone(instance),
        }
    }

    #[test]
    fn the_emptiest_fitting_node_is_taken() {
        let nodes = [
            node("a", "z1", "8Gi"),
            node("b", "z2", "8Gi"),
            node("c", "z3", "1Gi"),
        ];
        let plain = instance("new", json!({}));
        let there = instance("old", json!({}));
        let place = |spec: Value, tenants: &[Tenant]| {
            place(&instance("new", spec), &nodes, tenants, None, &Value::Null)
        };
        assert_eq!(place(json!({}), &[]).as_deref(), Ok("a"));
        assert_eq!(place(json!({}), &[on("a", &there)]).as_deref(), Ok("b"));
        assert_eq!(
            place(json!({"nodeSelector": {"zone": "z1"}}), &[on("a", &there)]).as_deref(),
            Ok("a")
        );
        let affinity = json!({"affinity": {"nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["z2"]}]}]}}}});
        assert_eq!(place(affinity, &[]).as_deref(), Ok("b"));
        let refused = place(json!({"nodeSelector": {"zone": "z3"}}), &[]).expect_err("too small");
        assert_eq!(
            refused,
            "0/3 nodes are available: 1 Insufficient memory, 2 node(s) didn't match Pod's node \
             affinity/selector."
        );
        let moved = super::place(&plain, &nodes, &[], Some("a"), &Value::Null);
        assert_eq!(moved.as_deref(), Ok("b"));
    }

    #[test]
    fn required_anti_affinity_keeps_apart() {
        let nodes = [
            node("a", "z1", "8Gi"),
            node("b", "z1", "8Gi"),
            node("c", "z2", "8Gi"),
        ];
        let term =
            json!([{"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "cp"}}}]);
        let spec = json!({"affinity": {"podAntiAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": term}}});
        let (new, old) = (instance("new", spec), instance("old", json!({})));
        let placed = place(&new, &nodes, &[on("a", &old)], None, &Value::Null);
        assert_eq!(placed.as_deref(), Ok("c"));
        let full = [on("a", &old), on("c", &instance("other", json!({})))];
        let refused = place(&new, &nodes, &full, None, &Value::Null).expect_err("no zone left");
        assert!(refused.contains("anti-affinity"), "{refused}");
    }

    #[test]
    fn taints_need_their_tolerations() {
        let mut tainted = serde_json::to_value(&**node("a", "z", "8Gi")).expect("a value");
        tainted["spec"] = json!({"taints": [{"key": "gpu", "value": "x", "effect": "NoSchedule"}]});
        let nodes = [object(tainted)];
        let place = |spec| place(&instance("new", spec), &nodes, &[], None, &Value::Null);
        assert!(place(json!({})).is_err());
        assert!(place(json!({"tolerations": [{"key": "gpu", "operator": "Exists"}]})).is_ok());
        assert!(place(json!({"tolerations": [{"key": "gpu", "value": "y"}]})).is_err());
    }
}
