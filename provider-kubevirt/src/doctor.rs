//! Whether an infra cluster can be used with given credentials, and what to change if not.
//!
//! [`examine`] asks, [`judge`] decides from the answers. What is missing is named with the command that
//! mends it.

use std::collections::BTreeSet;

use capi_contract::checkup::Checkup;
use kube::Client;
use kube::core::Request;
use serde_json::{Value, json};

use crate::api::ZONE_LABEL;
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
    /// Nodes; `None` if they may not be listed, which is not needed.
    pub nodes: Option<Vec<Node>>,
}

/// A node of the infra cluster, as far as machines are placed by it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its zone, if it is labelled with one.
    pub zone: Option<String>,
    /// Whether KubeVirt runs VMs on it.
    pub takes_vms: bool,
}

/// What an infra cluster is to be used for, beyond what every machine needs.
#[derive(Clone, Debug, Default)]
pub struct Wishes {
    /// Storage classes that templates name.
    pub storage_classes: Vec<String>,
    /// Failure domains that clusters name.
    pub failure_domains: Vec<String>,
}

/// Label of nodes on which KubeVirt runs VMs.
const SCHEDULABLE: &str = "kubevirt.io/schedulable";
/// How many names a finding lists; nobody reads more.
const NAMES_MAX: usize = 8;

/// Asks an infra cluster, in the namespace where machines are to be made.
pub async fn examine(client: &Client, namespace: &str, wishes: &Wishes) -> Checkup {
    match ask(client, namespace).await {
        Ok(answers) => judge(&answers, namespace, wishes),
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
    let nodes = get(client, "/api/v1/nodes").await?;
    answers.nodes = nodes.map(|nodes| nodes_of(&nodes));
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

fn nodes_of(nodes: &Value) -> Vec<Node> {
    let all = nodes["items"].as_array().into_iter().flatten();
    let node = |one: &Value| {
        let labels = &one["metadata"]["labels"];
        Node {
            name: one["metadata"]["name"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
            zone: labels[ZONE_LABEL].as_str().map(str::to_owned),
            takes_vms: labels[SCHEDULABLE] == "true" && one["spec"]["unschedulable"] != true,
        }
    };
    all.map(node).collect()
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
pub fn judge(answers: &Answers, namespace: &str, wishes: &Wishes) -> Checkup {
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
    judge_storage(&mut checkup, answers, wishes);
    judge_nodes(&mut checkup, answers, wishes);
    checkup
}

fn judge_storage(checkup: &mut Checkup, answers: &Answers, wishes: &Wishes) {
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
    let Some((classes, _)) = &answers.classes else {
        return;
    };
    for wanted in wishes
        .storage_classes
        .iter()
        .filter(|one| !classes.contains(one))
    {
        let detail = format!(
            "there is no storage class {wanted}; there are: {}",
            listed(classes)
        );
        let fix = format!("name one of these in the template, or make storage class {wanted}");
        checkup.bad("storage", detail, fix);
    }
}

/// Whether machines can be placed by failure domain.
fn judge_nodes(checkup: &mut Checkup, answers: &Answers, wishes: &Wishes) {
    let Some(nodes) = &answers.nodes else {
        let detail = "nodes may not be listed, which only this check needs: whether failure domains have \
                      nodes is not known";
        return checkup.unknown("failure domains", detail);
    };
    let (able, unable): (Vec<_>, Vec<_>) = nodes.iter().partition(|node| node.takes_vms);
    if able.is_empty() {
        let detail = format!("KubeVirt runs VMs on none of {} nodes", unable.len());
        let fix = format!(
            "look for nodes with the label {SCHEDULABLE}=true, and at the virt-handler pods of the others"
        );
        return checkup.bad("nodes", detail, fix);
    }
    let zones: BTreeSet<_> = able.iter().filter_map(|node| node.zone.clone()).collect();
    let zones: Vec<_> = zones.into_iter().collect();
    for wanted in wishes
        .failure_domains
        .iter()
        .filter(|one| !zones.contains(one))
    {
        let detail = format!(
            "failure domain {wanted}: no node that takes VMs has the label {ZONE_LABEL}={wanted}"
        );
        let fix = format!(
            "kubectl label node NODE {ZONE_LABEL}={wanted}, or name other labels in \
             spec.failureDomains[].nodeLabels of the KubevirtCluster"
        );
        checkup.bad("failure domains", detail, fix);
    }
    let bare: Vec<_> = able
        .iter()
        .filter(|node| node.zone.is_none())
        .map(|node| node.name.clone())
        .collect();
    if !zones.is_empty() && !bare.is_empty() {
        let detail = format!("nodes without {ZONE_LABEL}: {}", listed(&bare));
        let fix = format!(
            "kubectl label node NODE {ZONE_LABEL}=ZONE: machines of a zone do not run there"
        );
        return checkup.doubtful("failure domains", detail, fix);
    }
    let detail = match zones.as_slice() {
        [] => format!(
            "{} nodes take VMs, none of them is labelled with a zone",
            able.len()
        ),
        some => format!("{} nodes take VMs, in zones {}", able.len(), listed(some)),
    };
    checkup.good("nodes", detail);
}

/// Names, for people.
fn listed(names: &[String]) -> String {
    match names {
        [] => "none".to_owned(),
        all if all.len() > NAMES_MAX => {
            let first = all.iter().take(NAMES_MAX).cloned().collect::<Vec<_>>();
            format!("{} and {} more", first.join(", "), all.len() - NAMES_MAX)
        }
        all => all.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use capi_contract::checkup::Health;

    use super::*;

    fn node(name: &str, zone: Option<&str>) -> Node {
        Node {
            name: name.into(),
            zone: zone.map(str::to_owned),
            takes_vms: true,
        }
    }

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
            nodes: Some(vec![node("n-1", Some("a")), node("n-2", Some("b"))]),
        }
    }

    fn health(answers: &Answers, subject: &str) -> Health {
        let checkup = judge(answers, "tenant-a", &Wishes::default());
        let found = checkup
            .findings
            .iter()
            .find(|finding| finding.subject == subject);
        found.map_or(Health::Good, |finding| finding.health)
    }

    #[test]
    fn what_is_there_is_good() {
        assert!(
            judge(&good(), "ns", &Wishes::default())
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
        let checkup = judge(&answers, "tenant-a", &Wishes::default());
        assert!(!checkup.is_healthy());
        let rights = checkup
            .findings
            .iter()
            .find(|f| f.subject == "rights")
            .unwrap();
        assert_eq!(rights.health, Health::Bad);
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
        assert!(judge(&answers, "ns", &Wishes::default()).is_healthy());
    }

    /// A finding about this subject that says all of this.
    fn tells(checkup: &Checkup, subject: &str, texts: &[&str]) -> bool {
        checkup.findings.iter().any(|one| {
            let all = format!("{} {}", one.detail, one.fix.as_deref().unwrap_or_default());
            one.subject == subject && texts.iter().all(|text| all.contains(text))
        })
    }

    #[test]
    fn what_templates_and_clusters_name_has_to_be_there() {
        let wishes = Wishes {
            storage_classes: vec!["fast".into(), "slow".into()],
            failure_domains: vec!["a".into(), "c".into()],
        };
        let checkup = judge(&good(), "ns", &wishes);
        assert!(!checkup.is_healthy());
        assert!(tells(
            &checkup,
            "storage",
            &["no storage class slow", "there are: fast"]
        ));
        let label = "kubectl label node NODE topology.kubernetes.io/zone=c";
        assert!(tells(
            &checkup,
            "failure domains",
            &["failure domain c", label]
        ));
        let bad = checkup
            .findings
            .iter()
            .filter(|one| one.health == Health::Bad);
        assert_eq!(bad.count(), 2);
    }

    #[test]
    fn nodes_are_judged_by_their_labels_where_they_may_be_listed() {
        let mut answers = good();
        answers.nodes = Some(vec![node("n-1", Some("a")), node("n-2", None)]);
        assert_eq!(health(&answers, "failure domains"), Health::Doubtful);
        let checkup = judge(&answers, "ns", &Wishes::default());
        assert!(tells(&checkup, "failure domains", &["without", "n-2"]));
        answers.nodes = Some(vec![node("n-1", None)]);
        assert_eq!(health(&answers, "nodes"), Health::Good);
        answers.nodes = Some(vec![Node::default()]);
        assert_eq!(health(&answers, "nodes"), Health::Bad);
        answers.nodes = None;
        assert_eq!(health(&answers, "failure domains"), Health::Unknown);
    }

    #[test]
    fn what_was_not_answered_is_unknown() {
        let mut answers = good();
        answers.missing = None;
        answers.classes = None;
        for subject in ["rights", "storage"] {
            assert_eq!(health(&answers, subject), Health::Unknown, "{subject}");
        }
        assert!(judge(&answers, "ns", &Wishes::default()).is_healthy());
    }

    #[test]
    fn a_finding_says_what_there_is() {
        let told = |answers: &Answers, subject: &str, text: &str| {
            let checkup = judge(answers, "ns", &Wishes::default());
            assert!(tells(&checkup, subject, &[text]), "{checkup:?}");
        };
        let mut answers = good();
        told(&answers, "reachable", "Kubernetes v1.36.0");
        told(&answers, "kubevirt.io", "v1.9.0");
        // CDI says nothing of its version.
        told(&answers, "cdi.kubevirt.io", "served");
        told(&answers, "nodes", "2 nodes take VMs, in zones a, b");
        answers.nodes = Some(vec![node("n-1", None)]);
        told(&answers, "nodes", "none of them is labelled with a zone");
        answers.classes = Some((Vec::new(), false));
        told(&answers, "storage", "there is no storage class");
        answers.classes = Some((vec!["fast".into(), "slow".into()], false));
        told(&answers, "storage", "none of fast, slow is the default");
        answers.classes = Some((Vec::new(), true));
        let wishes = Wishes {
            storage_classes: vec!["fast".into()],
            ..Wishes::default()
        };
        let checkup = judge(&answers, "ns", &wishes);
        assert!(tells(&checkup, "storage", &["there are: none"]));
    }

    #[test]
    fn a_finding_names_a_few_and_counts_the_others() {
        let names = |count: usize| (1..=count).map(|n| format!("n-{n}")).collect::<Vec<_>>();
        assert!(listed(&names(NAMES_MAX)).ends_with("n-8"));
        assert!(listed(&names(NAMES_MAX + 2)).ends_with("n-8 and 2 more"));
    }

    #[test]
    fn a_storage_class_is_the_default_for_all_or_for_vms() {
        let class = |annotations: Value| json!({"items": [{"metadata": {"name": "fast", "annotations": annotations}}]});
        let for_all = json!({"storageclass.kubernetes.io/is-default-class": "true"});
        let for_vms = json!({"storageclass.kubevirt.io/is-default-virt-class": "true"});
        let not = json!({"storageclass.kubernetes.io/is-default-class": "false"});
        for (annotations, is_default) in [
            (for_all, true),
            (for_vms, true),
            (not, false),
            (Value::Null, false),
        ] {
            let told = storage(&class(annotations));
            assert_eq!(told, (vec!["fast".to_owned()], is_default));
        }
    }

    #[test]
    fn a_node_takes_vms_if_kubevirt_and_its_administrator_say_so() {
        let one = |labels: Value, spec: Value| json!({"metadata": {"name": "n", "labels": labels}, "spec": spec});
        let able = json!({"kubevirt.io/schedulable": "true", "topology.kubernetes.io/zone": "a"});
        let all = nodes_of(&json!({"items": [
            one(able.clone(), json!({})), one(able, json!({"unschedulable": true})),
            one(json!({}), json!({})),
        ]}));
        let shown: Vec<_> = all
            .iter()
            .map(|node| (node.zone.as_deref(), node.takes_vms))
            .collect();
        assert_eq!(
            shown,
            [(Some("a"), true), (Some("a"), false), (None, false)]
        );
    }
}
