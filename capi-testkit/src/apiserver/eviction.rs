//! `pods/{name}/eviction`: a deletion that disruption budgets may refuse.
//!
//! As in a real server, the budgets' `status.disruptionsAllowed` decides, which a controller fills;
//! here a test does. An eviction that is allowed counts it down.

use http::StatusCode;
use serde_json::{Value, json};

use super::{
    ApiServer, decode,
    delete::DeleteOptions,
    selector::LabelSelector,
    serve::{Answer, Ask},
    status::{StatusError, Subject},
    store::{Key, Object, Refused, Write},
};

/// Where disruption budgets are stored.
const BUDGETS: &str = "poddisruptionbudgets.policy";
/// When to come back while the controller has not seen the budget yet, in seconds; kube-apiserver's.
const UNSEEN_AGAIN: u32 = 10;
/// Tries of a budget that moves below us.
const TRIES_MAX: u32 = 32;

impl ApiServer {
    pub(super) fn evict(&self, ask: &Ask) -> Result<Answer, StatusError> {
        let eviction = decode::body(ask)?.value;
        // A body that does not say what it is, is what the path asks for.
        if !eviction["kind"].is_null() && eviction["kind"] != "Eviction" {
            return Err(StatusError::bad_request("the body must be an Eviction"));
        }
        let key = ask.key();
        if eviction["metadata"]["name"].as_str() != Some(&*key.name) {
            let why = "name in URL does not match name in Eviction object";
            return Err(StatusError::bad_request(why));
        }
        let pod = self.stored(ask)?;
        let options = &eviction["deleteOptions"];
        let is_rehearsal = ask.dry_run || options["dryRun"][0] == "All";
        // What has run to its end, or not begun, disrupts nothing.
        let is_idle = matches!(
            pod.value()["status"]["phase"].as_str(),
            Some("Succeeded" | "Failed" | "Pending")
        );
        if !is_idle && !pod.is_deleting() {
            self.spend_budget(&ask.target.namespace, pod.value(), is_rehearsal)?;
        }
        let uid = options["preconditions"]["uid"].as_str();
        if let Some(uid) = uid.filter(|uid| *uid != pod.uid()) {
            let why = format!(
                "the UID in the precondition ({uid}) does not match the UID in record ({}). The \
                 object might have been deleted and then recreated",
                pod.uid()
            );
            let subject = Subject {
                group: "",
                resource: "Pod",
                name: &key.name,
            };
            return Err(StatusError::conflict(subject, &why));
        }
        if !is_rehearsal {
            let options = DeleteOptions::default().of_uid(pod.uid());
            self.end(&ask.resource, &key, &options)?;
        }
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201,
        });
        Ok(Answer {
            code: StatusCode::CREATED,
            ..Answer::json(ask.shape.encode(&status)?).of_type(ask.shape.content_type())
        })
    }

    /// Takes one disruption from the pod's budget, if it has one that guards it.
    fn spend_budget(
        &self,
        namespace: &str,
        pod: &Value,
        is_rehearsal: bool,
    ) -> Result<(), StatusError> {
        for _ in 0..TRIES_MAX {
            let (key, budget) = match self.budgets_of(namespace, pod)?.as_slice() {
                [] => return Ok(()),
                [one] => one.clone(),
                _ => {
                    let message = "This pod has more than one PodDisruptionBudget, which the \
                                   eviction subresource does not support.";
                    return Err(StatusError::unexplained(message));
                }
            };
            if !is_ready(pod) && leaves_unready(budget.value()) {
                return Ok(());
            }
            let left = left_after_one(&key.name, budget.value())?;
            if is_rehearsal {
                return Ok(());
            }
            let mut spent = budget.value().clone();
            spent["status"]["disruptionsAllowed"] = left.into();
            let resource = self
                .inner
                .registry
                .find("policy", "v1", "poddisruptionbudgets");
            let resource = resource.ok_or_else(StatusError::unknown_resource)?;
            let written = self.commit(&resource, &key, Some(budget.revision()), Write::Put(spent));
            match written {
                Ok(_) => return Ok(()),
                Err(Refused::Moved | Refused::Exists) => {}
            }
        }
        Err(StatusError::internal("the budget did not stand still"))
    }

    fn budgets_of(
        &self,
        namespace: &str,
        pod: &Value,
    ) -> Result<Vec<(Key, std::sync::Arc<Object>)>, StatusError> {
        let mut found = Vec::new();
        for (place, budget) in self.inner.store.in_namespace(namespace) {
            if *place.collection != *BUDGETS {
                continue;
            }
            let text = LabelSelector::text_of(&budget.value()["spec"]["selector"]);
            // An empty selector of this kind picks every pod of the namespace.
            if LabelSelector::parse(&text)?.matches(pod) {
                found.push((place.key, budget));
            }
        }
        Ok(found)
    }
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|one| one["type"] == "Ready" && one["status"] == "True")
}

/// Whether a budget lets pods go that are not ready: always, or as long as enough others are.
fn leaves_unready(budget: &Value) -> bool {
    let status = |field: &str| budget["status"][field].as_i64().unwrap_or_default();
    let (current, desired) = (status("currentHealthy"), status("desiredHealthy"));
    budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
        || (current >= desired && desired > 0)
}

/// How many disruptions a budget allows after this one.
fn left_after_one(name: &str, budget: &Value) -> Result<i64, StatusError> {
    let status = |field: &str| budget["status"][field].as_i64().unwrap_or_default();
    let generation = budget["metadata"]["generation"].as_i64();
    if generation.is_some_and(|generation| status("observedGeneration") < generation) {
        let why = format!("The disruption budget {name} is still being processed by the server.");
        return Err(StatusError::disruption(why, UNSEEN_AGAIN));
    }
    let allowed = status("disruptionsAllowed");
    if allowed > 0 {
        return Ok(allowed - 1);
    }
    let (current, desired) = (status("currentHealthy"), status("desiredHealthy"));
    let why = if current <= desired {
        format!(
            "The disruption budget {name} needs {desired} healthy pods and has {current} currently"
        )
    } else {
        format!("The disruption budget {name} does not allow evicting pods currently")
    };
    Err(StatusError::disruption(why, 0))
}
