//! Drains Nodes, and uncordons what was drained for a machine that stays.
//!
//! # Guarantees
//!
//! A drain asks for evictions, so disruption budgets are honoured, and ends at its time whatever is
//! left. A Node that somebody else has cordoned is not uncordoned. After a crash at any line the
//! annotation of the machine tells that there may be something to undo, and the one of the Node
//! whether there is.

use std::collections::HashSet;
use std::time::Duration;

use capi_contract::{Drained, InfraMachine, ObjectName};
use futures::future::{BoxFuture, FutureExt};
use futures::stream::{FuturesUnordered, StreamExt, iter};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::reach::Unreached;
use super::{DRAIN_ANNOTATION, Drain, Nodes, RETRY_FIRST, RETRY_MAX, Wish};
use crate::engine::growth;

/// Annotation of a Node that we cordoned: namespace and name of the machine that it was done for.
const CORDONED_ANNOTATION: &str = "capi-rs.dev/cordoned-for";
/// How many nodes of one workload cluster are drained at once; Cluster API's own limit per control
/// plane is lower still.
const DRAINS_MAX: usize = 10;
/// How many evictions of one node are under way at once.
const EVICTIONS_MAX: usize = 16;
/// Pods per page of a list; a kubelet has 110 by default.
const PAGE: u32 = 250;
/// How many pages are read: more pods than any kubelet runs.
const PAGES_MAX: usize = 8;
/// Pause between looks at what is left: pods take some seconds to end, and budgets to recover.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// How long one look, with its evictions, may take.
const ROUND_WITHIN: Duration = Duration::from_secs(60);
/// After this time a pod that is being deleted on a node that does not answer is not waited for: no
/// kubelet will end it.
const UNREACHABLE_AFTER: Duration = Duration::from_secs(300);

/// What a drain does with a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It belongs to the node, or nobody can end it.
    Stays,
    /// It is on its way.
    Leaves,
    Evict,
}

/// Decides about one pod.
fn fate(pod: &ObjectMeta, node_answers: bool, now: Timestamp) -> Fate {
    let annotations = pod.annotations.as_ref();
    let is_mirror = annotations.is_some_and(|all| all.contains_key("kubernetes.io/config.mirror"));
    let mut owners = pod.owner_references.iter().flatten();
    let of_daemon_set = owners.any(|o| o.controller == Some(true) && o.kind == "DaemonSet");
    if is_mirror || of_daemon_set {
        return Fate::Stays;
    }
    let Some(ends) = &pod.deletion_timestamp else {
        return Fate::Evict;
    };
    let waited = now.duration_since(ends.0).unsigned_abs();
    let is_over = now > ends.0 && waited > UNREACHABLE_AFTER;
    if is_over && !node_answers {
        Fate::Stays
    } else {
        Fate::Leaves
    }
}

/// Whether the node's kubelet reports; a node without the condition has only just joined.
fn answers(node: &Node) -> bool {
    let conditions = node
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    let mut ready = conditions.filter(|one| one.type_ == "Ready");
    ready.all(|one| one.status != "Unknown")
}

impl<IM: InfraMachine> Nodes<IM> {
    /// Drains and uncordons for as long as it is polled.
    pub(super) async fn do_chores(&self, cluster: &ObjectName) {
        let mut changes = self.wishes.changes.subscribe();
        let mut running: FuturesUnordered<BoxFuture<'_, ObjectName>> = FuturesUnordered::new();
        let mut busy: HashSet<ObjectName> = HashSet::new();
        loop {
            changes.borrow_and_update();
            for machine in self.wishes.chores(cluster) {
                if running.len() < DRAINS_MAX && busy.insert(machine.clone()) {
                    running.push(self.do_chore(cluster, machine).boxed());
                }
            }
            tokio::select! {
                _ = changes.changed() => {}
                Some(machine) = running.next(), if !running.is_empty() => {
                    busy.remove(&machine);
                }
            }
        }
    }

    /// Does what is wished of one Node, unless something else is wished meanwhile.
    async fn do_chore(&self, cluster: &ObjectName, machine: ObjectName) -> ObjectName {
        let Some(wish) = self.wishes.wish(&machine) else {
            return machine;
        };
        let is_other = |now: Option<Wish>| {
            now.is_none_or(|now| {
                let same_drain = now.drain.is_some() == wish.drain.is_some();
                now.uid != wish.uid || now.node != wish.node || !same_drain
            })
        };
        tokio::select! {
            () = self.until_wish(&machine, is_other) => {}
            () = self.chore(cluster, &machine, &wish) => {}
        }
        machine
    }

    async fn until_wish(&self, machine: &ObjectName, holds: impl Fn(Option<Wish>) -> bool) {
        let mut changes = self.wishes.changes.subscribe();
        while !holds(self.wishes.wish(machine)) {
            let _ = changes.changed().await;
        }
    }

    async fn chore(&self, cluster: &ObjectName, machine: &ObjectName, wish: &Wish) {
        match wish.drain {
            Some(drain) => {
                let drained = self.drain(cluster, machine, wish, drain).await;
                tracing::info!(%machine, node = wish.node, ?drained, "drain ended");
                self.wishes
                    .entry(machine, |entry| entry.drained = Some(drained));
                self.wake(machine);
            }
            None => {
                self.retried(cluster, || self.undo(cluster, machine, wish))
                    .await;
                self.wishes
                    .entry(machine, |entry| entry.is_uncordoned = true);
            }
        }
        self.wishes.changed();
    }

    /// Tries until it succeeds, with growing pauses.
    async fn retried<'a, F, R>(&'a self, cluster: &ObjectName, attempt: F)
    where
        F: Fn() -> R,
        R: Future<Output = Result<(), Unreached>> + 'a,
    {
        let mut failures = 0;
        while let Err(error) = attempt().await {
            failures += 1;
            self.report(cluster, &error, failures);
            sleep(growth(RETRY_FIRST, RETRY_MAX, failures)).await;
        }
    }

    async fn drain(
        &self,
        cluster: &ObjectName,
        machine: &ObjectName,
        wish: &Wish,
        drain: Drain,
    ) -> Drained {
        let since = match drain.since {
            Some(since) => since,
            None => {
                // Before the Node is touched, so that it is found again whatever happens (R2).
                let now = self.options.clock.wall();
                let note = || self.annotate(machine, wish, Some(now));
                self.retried(cluster, note).await;
                now
            }
        };
        let mut failures = 0;
        loop {
            let spent = self.options.clock.wall().duration_since(since);
            let spent = Duration::try_from(spent).unwrap_or_default();
            let Some(left) = drain
                .within
                .checked_sub(spent)
                .filter(|left| !left.is_zero())
            else {
                return Drained::TimedOut;
            };
            let looking = self.look_and_evict(cluster, machine, &wish.node);
            let pause = match timeout(left.min(ROUND_WITHIN), looking).await {
                Ok(Ok(0)) => return Drained::Empty,
                Ok(Ok(count)) => {
                    tracing::debug!(%machine, node = wish.node, count, "pods are left");
                    failures = 0;
                    LOOK_AGAIN
                }
                Ok(Err(error)) => {
                    failures += 1;
                    self.report(cluster, &error, failures);
                    growth(RETRY_FIRST, RETRY_MAX, failures)
                }
                Err(_) => LOOK_AGAIN,
            };
            sleep(pause.min(left)).await;
        }
    }

    /// Cordons the Node, asks for evictions, and counts what is left.
    async fn look_and_evict(
        &self,
        cluster: &ObjectName,
        machine: &ObjectName,
        node: &str,
    ) -> Result<usize, Unreached> {
        let reached = self.clients.get(cluster).await?;
        let result = self.evict_from(&reached.client, machine, node).await;
        if let Err(error) = &result {
            self.clients.failed(cluster, &reached, error).await;
        }
        result
    }

    async fn evict_from(
        &self,
        client: &Client,
        machine: &ObjectName,
        name: &str,
    ) -> Result<usize, Unreached> {
        let nodes: Api<Node> = Api::all(client.clone());
        let node = nodes
            .get_opt(name)
            .await
            .map_err(Unreached::request("read the node"))?;
        let Some(node) = node else {
            return Ok(0);
        };
        if !self.leads() {
            return Err(Unreached::NotLeading);
        }
        let is_cordoned = node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true);
        if !is_cordoned {
            let mark = json!(machine.to_string());
            self.cordon(&nodes, &node, &json!(true), &mark).await?;
        }
        let (now, answers) = (self.options.clock.wall(), answers(&node));
        let mut left = 0;
        let mut evict = Vec::new();
        for pod in self.pods_on(client, name).await? {
            match fate(&pod, answers, now) {
                Fate::Stays => {}
                Fate::Leaves => left += 1,
                Fate::Evict => {
                    left += 1;
                    evict.push(pod);
                }
            }
        }
        let asking = iter(evict).map(|pod| self.evict(client, pod));
        let mut asked = asking.buffer_unordered(EVICTIONS_MAX);
        while let Some(answer) = asked.next().await {
            answer?;
        }
        Ok(left)
    }

    /// Cordons (`true`) or uncordons (null) a Node that was just read.
    async fn cordon(
        &self,
        nodes: &Api<Node>,
        node: &Node,
        unschedulable: &Value,
        mark: &Value,
    ) -> Result<(), Unreached> {
        let patch = json!({
            "metadata": {
                "resourceVersion": node.resource_version(),
                "annotations": {CORDONED_ANNOTATION: mark},
            },
            "spec": {"unschedulable": unschedulable},
        });
        let params = self.params();
        let written = nodes
            .patch(&node.name_any(), &params, &Patch::Merge(patch))
            .await;
        written
            .map(|_| ())
            .map_err(Unreached::request("cordon the node"))
    }

    async fn pods_on(&self, client: &Client, node: &str) -> Result<Vec<ObjectMeta>, Unreached> {
        let api: Api<Pod> = Api::all(client.clone());
        let mut params = ListParams::default()
            .fields(&format!("spec.nodeName={node}"))
            .limit(PAGE);
        let mut all = Vec::new();
        for _ in 0..PAGES_MAX {
            let page = api.list_metadata(&params).await;
            let page = page.map_err(Unreached::request("list the pods of the node"))?;
            all.extend(page.items.into_iter().map(|pod| pod.metadata));
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params.continue_token = Some(token),
                None => break,
            }
        }
        Ok(all)
    }

    async fn evict(&self, client: &Client, pod: ObjectMeta) -> Result<(), Unreached> {
        let (name, namespace) = (
            pod.name.unwrap_or_default(),
            pod.namespace.unwrap_or_default(),
        );
        // Its grace period is the pod's own. kube's own eviction names its options as no server does.
        let body = json!({
            "apiVersion": "policy/v1", "kind": "Eviction",
            "metadata": {"name": name, "namespace": namespace},
            "deleteOptions": {"preconditions": {"uid": pod.uid}},
        });
        let url = format!("/api/v1/namespaces/{namespace}/pods/{name}/eviction");
        let request = http::Request::post(url)
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(body.to_string().into_bytes())
            .map_err(|error| Unreached::request("evict a pod")(kube::Error::HttpError(error)))?;
        match client.request::<Value>(request).await {
            Ok(_) => Ok(()),
            // Gone, made anew, or held by a budget: the next look shows.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409 | 429) => Ok(()),
            // A pod that cannot be evicted must not keep the others: two budgets, a namespace that
            // is going, an admission webhook.
            Err(kube::Error::Api(status)) if !matches!(status.code, 401) => {
                tracing::warn!(namespace, name, message = %status.message, "pod not evicted");
                Ok(())
            }
            Err(source) => Err(Unreached::request("evict a pod")(source)),
        }
    }

    /// Uncordons the Node if it was cordoned for this machine, then forgets about it.
    async fn undo(
        &self,
        cluster: &ObjectName,
        machine: &ObjectName,
        wish: &Wish,
    ) -> Result<(), Unreached> {
        let reached = self.clients.get(cluster).await?;
        let result = self.uncordon(&reached.client, machine, &wish.node).await;
        if let Err(error) = &result {
            self.clients.failed(cluster, &reached, error).await;
        }
        result?;
        self.annotate(machine, wish, None).await
    }

    async fn uncordon(
        &self,
        client: &Client,
        machine: &ObjectName,
        name: &str,
    ) -> Result<(), Unreached> {
        let nodes: Api<Node> = Api::all(client.clone());
        let node = nodes
            .get_opt(name)
            .await
            .map_err(Unreached::request("read the node"))?;
        let ours = node.filter(|node| {
            node.annotations().get(CORDONED_ANNOTATION) == Some(&machine.to_string())
        });
        let Some(node) = ours else {
            return Ok(());
        };
        if !self.leads() {
            return Err(Unreached::NotLeading);
        }
        self.cordon(&nodes, &node, &Value::Null, &Value::Null)
            .await?;
        tracing::info!(%machine, node = name, "node uncordoned");
        Ok(())
    }

    /// Writes on the machine since when its Node is drained, or that nothing is left to undo.
    async fn annotate(
        &self,
        machine: &ObjectName,
        wish: &Wish,
        since: Option<Timestamp>,
    ) -> Result<(), Unreached> {
        if !self.leads() {
            return Err(Unreached::NotLeading);
        }
        let api: Api<IM::Kind> = Api::namespaced(self.client.clone(), &machine.namespace);
        let patch = json!({"metadata": {
            "uid": wish.uid,
            "annotations": {DRAIN_ANNOTATION: since.map(|since| since.to_string())},
        }});
        let written = api
            .patch(&machine.name, &self.params(), &Patch::Merge(patch))
            .await;
        match written {
            Ok(_) => Ok(()),
            // Gone, or another one of that name.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            Err(error) => Err(Unreached::request("note the drain on the machine")(error)),
        }
    }

    fn params(&self) -> PatchParams {
        PatchParams {
            field_manager: Some(self.options.manager.clone()),
            ..PatchParams::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-01-01T01:00:00Z";

    fn fate_of(pod: Value, node_answers: bool) -> Fate {
        let pod = serde_json::from_value(pod).unwrap();
        fate(&pod, node_answers, NOW.parse().unwrap())
    }

    fn owned_by(kind: &str) -> Value {
        json!({"ownerReferences": [
            {"apiVersion": "apps/v1", "kind": kind, "name": "o", "uid": "1", "controller": true}]})
    }

    #[test]
    fn pods_that_belong_to_the_node_stay() {
        assert_eq!(fate_of(owned_by("DaemonSet"), true), Fate::Stays);
        let mirror = json!({"annotations": {"kubernetes.io/config.mirror": "x"}});
        assert_eq!(fate_of(mirror, true), Fate::Stays);
        assert_eq!(fate_of(owned_by("ReplicaSet"), true), Fate::Evict);
        // Pods of nobody go, too.
        assert_eq!(fate_of(json!({}), true), Fate::Evict);
    }

    #[test]
    fn a_pod_that_no_kubelet_can_end_is_not_waited_for() {
        let since = |time: &str| json!({"deletionTimestamp": time});
        let (long, short) = ("2026-01-01T00:54:00Z", "2026-01-01T00:56:00Z");
        assert_eq!(fate_of(since(long), false), Fate::Stays);
        assert_eq!(fate_of(since(short), false), Fate::Leaves);
        assert_eq!(fate_of(since(long), true), Fate::Leaves);
        // Its grace period is not over yet.
        assert_eq!(fate_of(since("2026-01-01T02:00:00Z"), false), Fate::Leaves);
    }

    #[test]
    fn a_node_answers_unless_its_state_is_unknown() {
        let node = |status: &str| -> Node {
            serde_json::from_value(json!({"metadata": {}, "status": {"conditions": [
                {"type": "Ready", "status": status}]}}))
            .unwrap()
        };
        assert!(answers(&node("True")) && answers(&node("False")) && answers(&Node::default()));
        assert!(!answers(&node("Unknown")));
    }
}
