//! Whether an infra cluster can be used with given credentials, and what to change if not.
//!
//! [`examine`] asks, [`judge`] decides from the answers. What is missing is named with the command that
//! mends it.

use std::collections::BTreeSet;

use capi_contract::checkup::Checkup;
use kube::Client;
use kube::core::Request;
use serde_json::{Value, json};

use crate::rights::{NEEDLESS, RULES, Rule};

/// The kinds without which no machine can be made, and those without which some cannot.
const KINDS: &[(&str, &str, bool)] = &[
    ("kubevirt.io", "virtualmachines", true),
    ("cdi.kubevirt.io", "datavolumes", false),
];

/// What the infra cluster answered.
#[derive(Clone, Debug, Default)]
pub struct Answers {
    /// Version of Kubernetes.
    pub version: String,
    /// Version of KubeVirt, where it says it.
    pub kubevirt: Option<String>,
    /// Resources that are served, as `resource.group`.
    pub served: BTreeSet<String>,
    /// Rights that are missing, as `verb resource.group`; `None` if nobody could be asked.
    pub missing: Option<Vec<String>>,
    /// Rights that are there and not used.
    pub needless: Vec<String>,
    /// Names of storage classes, and whether one is the default; `None` if they may not be listed,
    /// which is not needed.
    pub classes: Option<(Vec<String>, bool)>,
}

/// Asks an infra cluster, in the namespace where machines are to be made.
pub async fn examine(client: &Client, namespace: &str) -> Checkup {
    match ask(client, namespace).await {
        Ok(answers) => judge(&answers, namespace),
        Err(error) => {
            let mut checkup = Checkup::new();
            let fix = "check the server, the certificate authority and the token or certificate of \
                       the kubeconfig";
            checkup.bad("reachable", text(&error), fix);
            checkup
        }
    }
}

/// What is to be said where there are no credentials at all.
#[must_use]
pub fn without_credentials(error: &(dyn std::error::Error + 'static)) -> Checkup {
    let mut checkup = Checkup::new();
    let fix = "name a Secret with --secret NAMESPACE/NAME, or a kubeconfig of the infra cluster with \
               --kubeconfig";
    checkup.bad("credentials", error.to_string(), fix);
    checkup
}

fn text(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        _ => "the infra cluster does not answer".to_owned(),
    }
}

async fn get(client: &Client, path: &str) -> Result<Option<Value>, kube::Error> {
    let request = http::Request::get(path).body(Vec::new());
    let request = request.map_err(kube::Error::HttpError)?;
    match client.request::<Value>(request).await {
        Ok(value) => Ok(Some(value)),
        Err(kube::Error::Api(status)) if matches!(status.code, 403 | 404) => Ok(None),
        Err(error) => Err(error),
    }
}

async fn ask(client: &Client, namespace: &str) -> Result<Answers, kube::Error> {
    let version = get(client, "/version").await?.unwrap_or_default();
    let mut answers = Answers {
        version: version["gitVersion"]
            .as_str()
            .unwrap_or("unknown")
            .to_owned(),
        ..Answers::default()
    };
    let path = "/apis/subresources.kubevirt.io/v1/version";
    let kubevirt = get(client, path).await.ok().flatten();
    answers.kubevirt =
        kubevirt.and_then(|version| version["gitVersion"].as_str().map(str::to_owned));
    for (group, resource, _) in KINDS {
        let groups = get(client, &format!("/apis/{group}"))
            .await?
            .unwrap_or_default();
        let preferred = groups["preferredVersion"]["groupVersion"].as_str();
        let Some(version) = preferred else { continue };
        let listed = get(client, &format!("/apis/{version}"))
            .await?
            .unwrap_or_default();
        let mut all = listed["resources"].as_array().into_iter().flatten();
        if all.any(|one| one["name"] == *resource) {
            answers.served.insert(format!("{resource}.{group}"));
        }
    }
    let mut missing = Vec::new();
    for (rule, verb) in each(RULES) {
        if !may(client, namespace, rule, verb).await? {
            missing.push(format!("{verb} {}", named(rule)));
        }
    }
    for (rule, verb) in each(NEEDLESS) {
        if may(client, namespace, rule, verb).await? {
            answers.needless.push(format!("{verb} {}", named(rule)));
        }
    }
    answers.missing = Some(missing);
    let classes = get(client, "/apis/storage.k8s.io/v1/storageclasses").await?;
    answers.classes = classes.map(|classes| storage(&classes));
    Ok(answers)
}

fn each(rules: &'static [Rule]) -> impl Iterator<Item = (&'static Rule, &'static str)> {
    rules
        .iter()
        .flat_map(|rule| rule.verbs.iter().map(move |verb| (rule, *verb)))
}

fn named(rule: &Rule) -> String {
    match rule.group {
        "" => rule.resource.to_owned(),
        group => format!("{}.{group}", rule.resource),
    }
}

fn storage(classes: &Value) -> (Vec<String>, bool) {
    let all = classes["items"].as_array().cloned().unwrap_or_default();
    let names = all
        .iter()
        .filter_map(|one| one["metadata"]["name"].as_str().map(str::to_owned));
    let keys = [
        "storageclass.kubernetes.io/is-default-class",
        "storageclass.kubevirt.io/is-default-virt-class",
    ];
    let is_default = |one: &Value| {
        keys.iter()
            .any(|key| one["metadata"]["annotations"][key] == "true")
    };
    (names.collect(), all.iter().any(is_default))
}

async fn may(
    client: &Client,
    namespace: &str,
    rule: &Rule,
    verb: &str,
) -> Result<bool, kube::Error> {
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {
            "namespace": namespace, "verb": verb, "group": rule.group, "resource": rule.resource}},
    });
    let request = Request::new("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews");
    let body = serde_json::to_vec(&review).map_err(kube::Error::SerdeError)?;
    let request = request.create(&kube::api::PostParams::default(), body);
    let request = request.map_err(kube::Error::BuildRequest)?;
    let answer: Value = client.request(request).await?;
    Ok(answer["status"]["allowed"] == true)
}

/// What the answers mean.
#[must_use]
pub fn judge(answers: &Answers, namespace: &str) -> Checkup {
    let mut checkup = Checkup::new();
    checkup.good("reachable", format!("Kubernetes {}", answers.version));
    for (group, resource, is_needed) in KINDS {
        let name = format!("{resource}.{group}");
        if answers.served.contains(&name) {
            let version = answers
                .kubevirt
                .as_deref()
                .filter(|_| *group == "kubevirt.io");
            checkup.good(
                group,
                version.map_or_else(|| "served".to_owned(), str::to_owned),
            );
        } else if *is_needed {
            let fix = "install KubeVirt: https://kubevirt.io/user-guide/cluster_admin/installation";
            checkup.bad(group, format!("{name} is not served"), fix);
        } else {
            let fix = "install CDI, for machines with dataVolumeTemplates: \
                       https://kubevirt.io/user-guide/storage/containerized_data_importer";
            checkup.doubtful(group, format!("{name} is not served"), fix);
        }
    }
    match answers.missing.as_deref() {
        None => checkup.unknown("rights", "not asked"),
        Some([]) => checkup.good(
            "rights",
            format!("all that are used in namespace {namespace}"),
        ),
        Some(missing) => {
            let fix = format!(
                "provider-kubevirt tenant {namespace} --kubeconfig FILE, as an administrator of the \
                 infra cluster, makes the Role"
            );
            let detail = format!("missing in namespace {namespace}: {}", missing.join(", "));
            checkup.bad("rights", detail, fix);
        }
    }
    if !answers.needless.is_empty() {
        let detail = format!("more than is used: {}", answers.needless.join(", "));
        let fix = "use the kubeconfig that `provider-kubevirt tenant` prints";
        checkup.doubtful("privileges", detail, fix);
    }
    match &answers.classes {
        None => checkup.unknown(
            "storage",
            "storage classes may not be listed, which is not needed",
        ),
        Some((classes, true)) => checkup.good("storage", classes.join(", ")),
        Some((classes, false)) => {
            let detail = match classes.as_slice() {
                [] => "there is no storage class".to_owned(),
                some => format!("none of {} is the default", some.join(", ")),
            };
            let fix = "name storageClassName in every dataVolumeTemplate, or make one the default";
            checkup.doubtful("storage", detail, fix);
        }
    }
    checkup
}

#[cfg(test)]
mod tests {
    use capi_contract::checkup::Health;

    use super::*;

    fn good() -> Answers {
        Answers {
            version: "v1.36.0".into(),
            kubevirt: Some("v1.9.0".into()),
            served: KINDS
                .iter()
                .map(|(group, one, _)| format!("{one}.{group}"))
                .collect(),
            missing: Some(Vec::new()),
            needless: Vec::new(),
            classes: Some((vec!["fast".into()], true)),
        }
    }

    fn health(answers: &Answers, subject: &str) -> Health {
        let checkup = judge(answers, "tenant-a");
        let found = checkup
            .findings
            .iter()
            .find(|finding| finding.subject == subject);
        found.map_or(Health::Good, |finding| finding.health)
    }

    #[test]
    fn what_is_there_is_good() {
        assert!(
            judge(&good(), "ns")
                .findings
                .iter()
                .all(|f| f.health == Health::Good)
        );
    }

    #[test]
    fn what_is_missing_is_bad_and_says_how_to_mend_it() {
        let mut answers = good();
        answers.missing = Some(vec!["create services".into()]);
        answers.served.remove("virtualmachines.kubevirt.io");
        let checkup = judge(&answers, "tenant-a");
        assert!(!checkup.is_healthy());
        let rights = checkup
            .findings
            .iter()
            .find(|f| f.subject == "rights")
            .unwrap();
        assert!(rights.detail.contains("create services"));
        assert!(rights.fix.as_ref().unwrap().contains("tenant tenant-a"));
        assert_eq!(health(&answers, "kubevirt.io"), Health::Bad);
    }

    #[test]
    fn what_some_machines_need_is_a_doubt() {
        let mut answers = good();
        answers.served.remove("datavolumes.cdi.kubevirt.io");
        answers.classes = Some((Vec::new(), false));
        answers.needless = vec!["list secrets".into()];
        for subject in ["cdi.kubevirt.io", "storage", "privileges"] {
            assert_eq!(health(&answers, subject), Health::Doubtful, "{subject}");
        }
        assert!(judge(&answers, "ns").is_healthy());
    }
}
