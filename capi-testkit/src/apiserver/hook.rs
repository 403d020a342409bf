//! Webhook configurations: what is valid in them, which requests they pick, what answers mean.
//!
//! Pure functions over the stored configurations.

use std::sync::{Arc, LazyLock};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use json_patch::Patch;
use regex::Regex;
use serde_json::{Value, json};

use super::{
    kinds::Resource,
    metadata::{invalid, required},
    selector::LabelSelector,
    status::StatusError,
};
use crate::schema::{FieldError, FieldErrorKind};

/// The group of the configurations, which no webhook is called for.
pub(crate) const GROUP: &str = "admissionregistration.k8s.io";
/// The version of reviews that is spoken.
const REVIEW_VERSION: &str = "v1";
/// Time a webhook has, in seconds.
const TIMEOUT_MAX: i64 = 30;

static QUALIFIED_NAME: LazyLock<Regex> = LazyLock::new(|| {
    let label = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
    Regex::new(&format!(r"^{label}(\.{label}){{2,}}$")).expect("the pattern is valid")
});

/// What a request does to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Create,
    Update,
    Delete,
}

impl Operation {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
        }
    }
}

/// What is wrong with a configuration.
pub(crate) fn validate(configuration: &Value) -> Vec<FieldError> {
    let webhooks = configuration["webhooks"].as_array().into_iter().flatten();
    let mut errors = Vec::new();
    for (index, webhook) in webhooks.into_iter().enumerate() {
        validate_webhook(&format!("webhooks[{index}]"), webhook, &mut errors);
    }
    errors
}

fn validate_webhook(path: &str, webhook: &Value, errors: &mut Vec<FieldError>) {
    let at = |field: &str| format!("{path}.{field}");
    match webhook["name"].as_str().unwrap_or_default() {
        "" => errors.push(required(&at("name"), "")),
        name if QUALIFIED_NAME.is_match(name) => {}
        _ => errors.push(invalid(
            &at("name"),
            &webhook["name"],
            "should be a domain with at least three segments separated by dots",
        )),
    }
    let classes = ["None", "NoneOnDryRun"];
    match webhook["sideEffects"].as_str() {
        None => {
            let detail = format!("must specify one of {}", classes.join(", "));
            errors.push(required(&at("sideEffects"), &detail));
        }
        Some(class) if classes.contains(&class) => {}
        Some(_) => errors.push(unsupported(
            &at("sideEffects"),
            &webhook["sideEffects"],
            &classes,
        )),
    }
    let policies = ["Fail", "Ignore"];
    if !policies.contains(&webhook["failurePolicy"].as_str().unwrap_or_default()) {
        errors.push(unsupported(
            &at("failurePolicy"),
            &webhook["failurePolicy"],
            &policies,
        ));
    }
    let seconds = webhook["timeoutSeconds"].as_i64().unwrap_or(0);
    if !(1..=TIMEOUT_MAX).contains(&seconds) {
        let detail = "the timeout value must be between 1 and 30 seconds";
        errors.push(invalid(
            &at("timeoutSeconds"),
            &webhook["timeoutSeconds"],
            detail,
        ));
    }
    if !texts(webhook, "admissionReviewVersions").any(|version| version == REVIEW_VERSION) {
        let detail = "must include at least one of v1, v1beta1";
        errors.push(required(&at("admissionReviewVersions"), detail));
    }
    let conditions = webhook["matchConditions"].as_array();
    if conditions.is_some_and(|conditions| !conditions.is_empty()) {
        let detail = "the test API server does not evaluate match conditions";
        let kind = FieldErrorKind::Forbidden;
        errors.push(FieldError::new(
            kind,
            at("matchConditions"),
            Value::Null,
            detail,
        ));
    }
    for (index, rule) in webhook["rules"]
        .as_array()
        .into_iter()
        .flatten()
        .enumerate()
    {
        for field in ["operations", "apiGroups", "apiVersions", "resources"] {
            if texts(rule, field).next().is_none() {
                errors.push(required(&format!("{path}.rules[{index}].{field}"), ""));
            }
        }
    }
    validate_client(&at("clientConfig"), &webhook["clientConfig"], errors);
}

fn validate_client(path: &str, client: &Value, errors: &mut Vec<FieldError>) {
    let (address, service) = (&client["url"], &client["service"]);
    if address.is_null() == service.is_null() {
        errors.push(required(path, "exactly one of url or service is required"));
        return;
    }
    if let Some(text) = address.as_str() {
        let form = "desired format: https://host[/path]";
        let field = format!("{path}.url");
        match url::Url::parse(text) {
            Err(error) => {
                let detail = format!("url must be a valid URL: {error}; {form}");
                errors.push(required(&field, &detail));
            }
            Ok(url) if url.scheme() != "https" => {
                let detail = format!("'https' is the only allowed URL scheme; {form}");
                errors.push(invalid(&field, &url.scheme().into(), detail));
            }
            Ok(url) if url.query().is_some() => {
                let detail = "query parameters are not permitted in the URL";
                errors.push(invalid(&field, &url.query().into(), detail));
            }
            Ok(_) => {}
        }
    }
    for field in ["name", "namespace"] {
        if service.is_object() && service[field].as_str().unwrap_or_default().is_empty() {
            errors.push(required(&format!("{path}.service.{field}"), ""));
        }
    }
}

fn unsupported(path: &str, value: &Value, known: &[&str]) -> FieldError {
    let known: Vec<_> = known.iter().map(|one| format!("{one:?}")).collect();
    let detail = format!("supported values: {}", known.join(", "));
    FieldError::new(FieldErrorKind::NotSupported, path, value.clone(), detail)
}

fn texts<'a>(object: &'a Value, field: &str) -> impl Iterator<Item = &'a str> {
    let list = object[field].as_array().into_iter().flatten();
    list.filter_map(Value::as_str)
}

/// Of the `versions` of a request's resource, its own first, the one that the webhook wants to be
/// called with; `None` if its rules do not pick the request.
pub(crate) fn wanted_version<'a>(
    webhook: &Value,
    operation: Operation,
    subresource: &str,
    versions: &'a [Arc<Resource>],
) -> Option<&'a Arc<Resource>> {
    let rules = || webhook["rules"].as_array().into_iter().flatten();
    let (own, others) = versions.split_first()?;
    if rules().any(|rule| rule_picks(rule, operation, subresource, own)) {
        return Some(own);
    }
    if webhook["matchPolicy"] == "Exact" {
        return None;
    }
    rules().find_map(|rule| {
        let mut others = others.iter();
        others.find(|other| rule_picks(rule, operation, subresource, other))
    })
}

fn rule_picks(rule: &Value, operation: Operation, subresource: &str, resource: &Resource) -> bool {
    let any = |field: &str, wanted: &str| {
        texts(rule, field).any(|pattern| pattern == "*" || pattern == wanted)
    };
    let in_scope = match rule["scope"].as_str() {
        Some("Namespaced") => resource.namespaced,
        Some("Cluster") => !resource.namespaced,
        _ => true,
    };
    let is_meant = |pattern: &str| {
        let (plural, inner) = pattern.split_once('/').unwrap_or((pattern, ""));
        (plural == "*" || plural == resource.plural) && (inner == "*" || inner == subresource)
    };
    in_scope
        && any("operations", operation.as_str())
        && any("apiGroups", &resource.group)
        && any("apiVersions", &resource.version)
        && texts(rule, "resources").any(is_meant)
}

/// Whether a `metav1.LabelSelector` of a webhook picks an object.
pub(crate) fn selects(selector: &Value, object: &Value) -> bool {
    let text = LabelSelector::text_of(selector);
    // A selector that cannot be read picks everything, so that nothing escapes the webhook.
    LabelSelector::parse(&text).is_ok_and(|selector| selector.matches(object))
        || LabelSelector::parse(&text).is_err()
}

/// What a webhook answered.
#[derive(Debug)]
pub(crate) struct Verdict {
    /// The refusal, if it is one.
    pub(crate) denied: Option<StatusError>,
    pub(crate) warnings: Vec<String>,
    /// What the object is to become; empty for validating webhooks.
    pub(crate) patch: Patch,
}

/// Reads the answer of the webhook `name` to the review `uid`; what is wrong with it otherwise.
pub(crate) fn verdict(
    name: &str,
    uid: &str,
    is_mutating: bool,
    review: &Value,
) -> Result<Verdict, String> {
    let response = &review["response"];
    if !response.is_object() {
        return Err("webhook response was absent".to_owned());
    }
    let given = response["uid"].as_str().unwrap_or_default();
    if given != uid {
        return Err(format!("expected response.uid={uid:?}, got {given:?}"));
    }
    if review["apiVersion"] != "admission.k8s.io/v1" || review["kind"] != "AdmissionReview" {
        let text = |field: &str| {
            review[field]
                .as_str()
                .unwrap_or_default()
                .replace('/', ", ")
        };
        return Err(format!(
            "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got {}, Kind={}",
            text("apiVersion"),
            text("kind")
        ));
    }
    let denied =
        (response["allowed"] != true).then(|| StatusError::denied_by(name, &response["status"]));
    Ok(Verdict {
        denied,
        warnings: texts(response, "warnings").map(str::to_owned).collect(),
        patch: patch(response, is_mutating)?,
    })
}

fn patch(response: &Value, is_mutating: bool) -> Result<Patch, String> {
    let (patch, kind) = (&response["patch"], &response["patchType"]);
    if !is_mutating && !patch.is_null() {
        return Err("validating webhook may not return response.patch".to_owned());
    }
    if !is_mutating && !kind.is_null() {
        return Err("validating webhook may not return response.patchType".to_owned());
    }
    match (patch.as_str(), kind.as_str()) {
        (None, None) => Ok(Patch::default()),
        (Some(_), None) => {
            Err("webhook returned response.patch but not response.patchType".to_owned())
        }
        (None, Some(_)) => {
            Err("webhook returned response.patchType but not response.patch".to_owned())
        }
        (Some(encoded), Some("JSONPatch")) => {
            let bytes = STANDARD
                .decode(encoded)
                .map_err(|error| undecodable(&error))?;
            serde_json::from_slice(&bytes).map_err(|error| undecodable(&error))
        }
        (Some(_), Some(other)) => Err(format!("unsupported patch type {other:?}")),
    }
}

fn undecodable(error: &dyn std::error::Error) -> String {
    format!("received undecodable patch in webhook response: {error}")
}

/// A `GroupVersionKind` as reviews name it.
pub(crate) fn kind_of(group: &str, version: &str, kind: &str) -> Value {
    json!({"group": group, "version": version, "kind": kind})
}

/// A `GroupVersionResource` as reviews name it.
pub(crate) fn resource_of(resource: &Resource) -> Value {
    json!({
        "group": resource.group, "version": resource.version, "resource": resource.plural,
    })
}

#[cfg(test)]
mod tests {
    use super::super::builtin;
    use super::*;

    fn widget(version: &str) -> Arc<Resource> {
        let mut resource = builtin::resources()
            .next()
            .expect("there are built-in resources");
        resource.group = "test.io".to_owned();
        resource.version = version.to_owned();
        resource.plural = "widgets".to_owned();
        resource.namespaced = true;
        Arc::new(resource)
    }

    #[test]
    fn rules_pick_by_operation_resource_and_version() {
        let versions = [widget("v2"), widget("v1")];
        let picked = |rule: Value, policy: &str, operation, subresource: &str| {
            let webhook = json!({"matchPolicy": policy, "rules": [rule]});
            let found = wanted_version(&webhook, operation, subresource, &versions);
            found.map(|version| version.version.clone())
        };
        let rule = |operations: &[&str], versions: &[&str], resources: &[&str]| {
            json!({
                "operations": operations, "apiGroups": ["test.io"], "apiVersions": versions,
                "resources": resources, "scope": "*",
            })
        };
        let (create, delete) = (Operation::Create, Operation::Delete);
        let v2 = Some("v2".to_owned());
        let plain = rule(&["CREATE"], &["v2"], &["widgets"]);
        assert_eq!(picked(plain.clone(), "Exact", create, ""), v2);
        assert_eq!(picked(plain.clone(), "Exact", delete, ""), None);
        assert_eq!(picked(plain, "Exact", create, "status"), None);
        let inner = rule(&["*"], &["*"], &["widgets/*"]);
        assert_eq!(picked(inner.clone(), "Exact", delete, "status"), v2);
        assert_eq!(
            picked(inner, "Exact", delete, ""),
            v2,
            "`widgets/*` has widgets too"
        );
        let star = rule(&["*"], &["*"], &["*"]);
        assert_eq!(
            picked(star, "Exact", create, "status"),
            None,
            "`*` has no subresources"
        );
        let old = rule(&["CREATE"], &["v1"], &["widgets"]);
        assert_eq!(picked(old.clone(), "Exact", create, ""), None);
        assert_eq!(picked(old, "Equivalent", create, "").as_deref(), Some("v1"));
        let mut cluster = rule(&["*"], &["*"], &["*/*"]);
        cluster["scope"] = "Cluster".into();
        assert_eq!(picked(cluster, "Exact", create, ""), None);
    }

    #[test]
    fn answers_that_make_no_sense_are_refused() {
        let review = |response: Value| {
            json!({
                "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response,
            })
        };
        let table = [
            (json!({}), "webhook response was absent"),
            (
                review(json!({"uid": "b"})),
                "expected response.uid=\"a\", got \"b\"",
            ),
            (
                json!({"kind": "AdmissionReview", "response": {"uid": "a"}}),
                "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got , \
                 Kind=AdmissionReview",
            ),
            (
                review(json!({"uid": "a", "patch": "W10="})),
                "webhook returned response.patch but not response.patchType",
            ),
            (
                review(json!({"uid": "a", "patch": "W10=", "patchType": "Merge"})),
                "unsupported patch type \"Merge\"",
            ),
        ];
        for (answer, expected) in table {
            assert_eq!(verdict("w", "a", true, &answer).unwrap_err(), expected);
        }
        let patching = review(json!({"uid": "a", "patch": "W10=", "patchType": "JSONPatch"}));
        assert!(verdict("w", "a", true, &patching).is_ok());
        assert_eq!(
            verdict("w", "a", false, &patching).unwrap_err(),
            "validating webhook may not return response.patch"
        );
    }

    #[test]
    fn refusals_name_the_webhook_and_keep_what_it_said() {
        let denied = |status: Value| {
            let review = json!({
                "apiVersion": "admission.k8s.io/v1",
                "kind": "AdmissionReview",
                "response": {"uid": "a", "allowed": false, "status": status},
            });
            verdict("w.x.io", "a", false, &review)
                .unwrap()
                .denied
                .expect("it is refused")
        };
        let plain = denied(Value::Null);
        assert_eq!(
            (plain.code, plain.message.as_str()),
            (
                400,
                "admission webhook \"w.x.io\" denied the request without explanation"
            )
        );
        let spoken = denied(json!({"code": 403, "reason": "Forbidden", "message": "no"}));
        assert_eq!((spoken.code, &*spoken.reason), (403, "Forbidden"));
        assert_eq!(
            spoken.message,
            "admission webhook \"w.x.io\" denied the request: no"
        );
    }
}
