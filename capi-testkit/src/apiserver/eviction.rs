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
    status::StatusError,
    store::{Key, Object, Refused, Write},
};

/// Where disruption budgets are stored.
const BUDGETS: &str = "poddisruptionbudgets.policy";
/// Tries of a budget that moves below us.
const TRIES_MAX: u32 = 32;

impl ApiServer {
    pub(super) fn evict(&self, ask: &Ask) -> Result<Answer, StatusError> {
        let eviction = decode::body(ask)?.value;
        // A body that does not say what it is, is what the path asks for.
        if !eviction["kind"].is_null() && eviction["kind"] != "Eviction" {
            return Err(StatusError::bad_request("the body must be an Eviction"));
        }
        let pod = self.stored(ask)?;
        let uid = eviction["deleteOptions"]["preconditions"]["uid"].as_str();
        if uid.is_some_and(|uid| uid != pod.uid()) {
            let why = "the UID in the precondition does not match the UID in record";
            return Err(StatusError::conflict(ask.subject(), why));
        }
        // What has run to its end disrupts nothing.
        let is_over = matches!(
            pod.value()["status"]["phase"].as_str(),
            Some("Succeeded" | "Failed" | "Pending")
        );
        if !is_over && !pod.is_deleting() && !ask.dry_run {
            self.spend_budget(&ask.target.namespace, pod.value())?;
        }
        if !ask.dry_run {
            let options = DeleteOptions::default().of_uid(pod.uid());
            self.end(&ask.resource, &ask.key(), &options)?;
        }
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201,
        });
        Ok(Answer {
            code: StatusCode::CREATED,
            ..Answer::json(ask.shape.encode(&status)?).of_type(ask.shape.content_type())
        })
    }

    /// Takes one disruption from the pod's budget, if it has one.
    fn spend_budget(&self, namespace: &str, pod: &Value) -> Result<(), StatusError> {
        for _ in 0..TRIES_MAX {
            let (key, budget) = match self.budgets_of(namespace, pod)?.as_slice() {
                [] => return Ok(()),
                [one] => one.clone(),
                _ => {
                    let message = "This pod has more than one PodDisruptionBudget, which the \
                                   eviction subresource does not support.";
                    return Err(StatusError::internal(message));
                }
            };
            let allowed = budget.value()["status"]["disruptionsAllowed"].as_i64();
            let Some(left) = allowed.filter(|allowed| *allowed > 0) else {
                let name = key.name.as_str();
                return Err(StatusError::disruption(name));
            };
            let mut spent = budget.value().clone();
            spent["status"]["disruptionsAllowed"] = (left - 1).into();
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
