//! What `manifests` writes: stored files, and the rules of clusterctl and of the contract.

use std::collections::{BTreeMap, BTreeSet};

use capi_testkit::substitute::{substitute, variables};
use provider_proxmox::connect::Settings;
use rstest::rstest;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{ACCOUNT, HOME, OTHERS, documents, golden, manifests, output};

const LABEL: &str = "infrastructure-proxmox";

/// Kinds without a namespace.
const CLUSTER_WIDE: [&str; 5] = [
    "ClusterRole",
    "ClusterRoleBinding",
    "CustomResourceDefinition",
    "Namespace",
    "ValidatingWebhookConfiguration",
];

fn of_kind<'a>(all: &'a [Value], kind: &str) -> Vec<&'a Value> {
    all.iter().filter(|object| object["kind"] == kind).collect()
}

fn only<'a>(all: &'a [Value], kind: &str) -> &'a Value {
    let found = of_kind(all, kind);
    assert_eq!(found.len(), 1, "{kind}");
    found[0]
}

/// The definitions have stored files of their own.
fn without_definitions(yaml: &str) -> String {
    let documents = yaml.split("---\n");
    let kept = documents.filter(|text| !text.contains("kind: CustomResourceDefinition\n"));
    kept.collect::<Vec<_>>().join("---\n")
}

#[rstest]
#[case::usual("components.yaml", &[])]
#[case::plain("components-without-webhooks.yaml", &["--without-webhooks"])]
#[case::confined("components-namespaced.yaml",
    &["--without-webhooks", "--namespace=team-a", "--namespace=team-b", "--watch-filter=blue",
      "--replicas=2", "--image=registry.example.com/provider:dev"])]
fn stored_files_match(#[case] file: &str, #[case] flags: &[&str]) {
    golden(file, &without_definitions(&output("manifests", flags)));
}

#[test]
fn ctl_01_a_directory_becomes_a_clusterctl_repository() {
    let directory = TempDir::new().unwrap();
    let told = output("manifests", &["-o", directory.path().to_str().unwrap()]);
    let version = format!("v{}", env!("CARGO_PKG_VERSION"));
    let repository = directory.path().join(LABEL).join(version);
    let read = |name: &str| std::fs::read_to_string(repository.join(name)).unwrap();
    let written = std::fs::read_dir(&repository).unwrap().count();
    assert_eq!(told.lines().count(), written, "{told}");
    golden("metadata.yaml", &read("metadata.yaml"));
    // For clusterctl, and only for it, there is a Secret of variables.
    let components = read("infrastructure-components.yaml");
    let secret = documents(&components);
    let secret = only(&secret, "Secret");
    assert_eq!(secret["stringData"]["url"], "${PROXMOX_URL:= }");
    assert!(components.contains("url: \"${PROXMOX_URL:= }\""));
    // It installs without any of them, and then has no credentials of its own.
    let known = variables("components", &components).unwrap();
    assert_eq!(known.len(), 6, "{known:?}");
    assert!(known.values().all(Option::is_some), "{known:?}");
    let filled = substitute("components", &components, &BTreeMap::new(), |_| None).unwrap();
    let filled = documents(&filled.text);
    let own = only(&filled, "Secret")["stringData"]
        .as_object()
        .unwrap()
        .iter();
    let own = own.map(|(key, value)| {
        let variable = format!("PROXMOX_{}", key.to_uppercase());
        (variable, value.as_str().unwrap().to_owned())
    });
    assert!(Settings::of_environment(own).unwrap().is_none());
    assert!(!output("manifests", &[]).contains("${"));
}

/// CTL-01, CTL-02: a release names directory, image and series.
#[test]
fn ctl_01_ctl_02_a_release_may_have_another_version() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().to_str().unwrap();
    output("manifests", &["-o", path, "--release", "v1.1.0-rc.1"]);
    let repository = directory.path().join(LABEL).join("v1.1.0-rc.1");
    let read = |name: &str| documents(&std::fs::read_to_string(repository.join(name)).unwrap());
    let series = read("metadata.yaml")[0]["releaseSeries"].clone();
    let series = series.as_array().unwrap();
    let last: Vec<_> = series.iter().rev().take(2).collect();
    assert_eq!(
        *last[0],
        json!({"major": 1, "minor": 1, "contract": "v1beta2"})
    );
    assert_eq!(
        *last[1],
        json!({"major": 1, "minor": 0, "contract": "v1beta2"})
    );
    let components = read("infrastructure-components.yaml");
    let pod = &only(&components, "Deployment")["spec"]["template"]["spec"];
    let image = pod["containers"][0]["image"].as_str().unwrap();
    assert!(image.ends_with(":v1.1.0-rc.1"), "{image}");
}

/// A mistake names the flag or the path, and what to do.
#[test]
fn mistakes_are_told_with_the_way_out() {
    let said = |flags: &[&str]| {
        let mut command = std::process::Command::new(super::PROGRAM);
        let run = command.arg("manifests").args(flags).output().unwrap();
        assert!(!run.status.success(), "{flags:?}");
        String::from_utf8(run.stderr).unwrap()
    };
    let told = said(&["--release", "latest"]);
    assert!(
        told.contains("--release") && told.contains("v1.2.0-rc.1"),
        "{told}"
    );
    let file = TempDir::new().unwrap();
    let file = file.path().join("file");
    std::fs::write(&file, "").unwrap();
    let told = said(&["-o", file.to_str().unwrap()]);
    let path = file.join(LABEL);
    assert!(told.contains(path.to_str().unwrap()), "{told}");
    assert!(
        told.contains("--output") && told.contains("Not a directory"),
        "{told}"
    );
}

/// CTL-04: one Namespace, everything in it, `manager`, and the label on everything. CTL-09: names of
/// cluster-wide objects begin with the namespace.
#[test]
fn ctl_03_ctl_04_ctl_09_objects_are_where_and_what_clusterctl_expects() {
    let all = manifests(&[]);
    assert_eq!(only(&all, "Namespace")["metadata"]["name"], HOME);
    for object in &all {
        let (kind, metadata) = (object["kind"].as_str().unwrap(), &object["metadata"]);
        let name = metadata["name"].as_str().unwrap();
        assert_eq!(
            metadata["labels"]["cluster.x-k8s.io/provider"], LABEL,
            "{name}"
        );
        if !CLUSTER_WIDE.contains(&kind) {
            assert_eq!(metadata["namespace"], HOME, "{kind} {name}");
            continue;
        }
        assert_eq!(metadata.get("namespace"), None, "{kind} {name}");
        if !["Namespace", "CustomResourceDefinition"].contains(&kind) {
            assert!(name.starts_with(&format!("{HOME}-")), "{kind} {name}");
        }
    }
    let pod = &only(&all, "Deployment")["spec"]["template"]["spec"];
    assert_eq!(pod["containers"][0]["name"], "manager");
}

/// CRD-02 to CRD-07: what core computes from a reference finds the definition and its version.
#[test]
fn crd_03_crd_04_crd_06_ctl_10_definitions_are_found_as_core_looks_for_them() {
    let all = manifests(&[]);
    let kinds: BTreeSet<_> = of_kind(&all, "CustomResourceDefinition")
        .into_iter()
        .map(|crd| {
            let (spec, metadata) = (&crd["spec"], &crd["metadata"]);
            let kind = spec["names"]["kind"].as_str().unwrap();
            let plural = format!("{}s", kind.to_lowercase());
            let group = spec["group"].as_str().unwrap();
            assert_eq!(metadata["name"], format!("{plural}.{group}"));
            assert_eq!(spec["names"]["listKind"], format!("{kind}List"));
            assert_eq!(spec["scope"], "Namespaced");
            let served: Vec<_> = spec["versions"].as_array().unwrap().iter().collect();
            let served = served.iter().filter(|version| version["served"] == true);
            let served: Vec<_> = served.map(|v| v["name"].as_str().unwrap()).collect();
            assert_eq!(
                metadata["labels"]["cluster.x-k8s.io/v1beta2"],
                served.join("_")
            );
            kind.to_owned()
        })
        .collect();
    assert_eq!(kinds.len(), 4, "{kinds:?}");
}

/// CTL-05: clusterctl rewrites namespaces; what names one does so where clusterctl looks.
#[test]
fn ctl_05_every_reference_to_the_namespace_is_one_that_clusterctl_rewrites() {
    let all = manifests(&[]);
    let certificate = only(&all, "Certificate");
    let service = only(&all, "Service")["metadata"]["name"].as_str().unwrap();
    let host = format!("{service}.{HOME}.svc");
    assert_eq!(certificate["spec"]["dnsNames"][0], host);
    assert_eq!(
        certificate["spec"]["dnsNames"][1],
        format!("{host}.cluster.local")
    );
    let registration = only(&all, "ValidatingWebhookConfiguration");
    let authority = &registration["metadata"]["annotations"]["cert-manager.io/inject-ca-from"];
    let name = certificate["metadata"]["name"].as_str().unwrap();
    assert_eq!(*authority, format!("{HOME}/{name}"));
    for webhook in registration["webhooks"].as_array().unwrap() {
        let target = &webhook["clientConfig"]["service"];
        assert_eq!(
            (&target["name"], &target["namespace"]),
            (&json!(service), &json!(HOME))
        );
    }
    for kind in ["ClusterRoleBinding", "RoleBinding"] {
        let subjects = &only(&all, kind)["subjects"];
        assert_eq!(subjects[0]["namespace"], HOME);
        assert_eq!(subjects[0]["name"], ACCOUNT);
    }
    // Nothing else names it: an argument or variable would not be rewritten.
    let pod = only(&all, "Deployment")["spec"]["template"].to_string();
    assert!(!pod.contains(HOME), "{pod}");
}

#[test]
fn wh_01_webhooks_are_registered_as_they_are_served() {
    let all = manifests(&[]);
    let webhooks = only(&all, "ValidatingWebhookConfiguration")["webhooks"].clone();
    let webhooks = webhooks.as_array().unwrap();
    assert_eq!(webhooks.len(), 4);
    for webhook in webhooks {
        assert_eq!(webhook["sideEffects"], "None");
        assert_eq!(webhook["failurePolicy"], "Fail");
        assert_eq!(webhook["matchPolicy"], "Equivalent");
        assert_eq!(webhook["admissionReviewVersions"], json!(["v1"]));
        let rule = &webhook["rules"][0];
        // Deletions are never asked about (WH-06).
        assert_eq!(rule["operations"], json!(["CREATE", "UPDATE"]));
        let kind = rule["resources"][0].as_str().unwrap().trim_end_matches('s');
        let path = format!("/validate-infrastructure-cluster-x-k8s-io-v1alpha2-{kind}");
        assert_eq!(webhook["clientConfig"]["service"]["path"], path);
    }
}

#[test]
fn without_webhooks_nothing_needs_cert_manager() {
    let all = manifests(&["--without-webhooks"]);
    for object in &all {
        let group = object["apiVersion"]
            .as_str()
            .unwrap()
            .split('/')
            .next()
            .unwrap();
        assert!(!OTHERS.contains(&group), "{object}");
    }
    assert!(of_kind(&all, "ValidatingWebhookConfiguration").is_empty());
    assert!(of_kind(&all, "Service").is_empty());
    let pod = only(&all, "Deployment")["spec"]["template"].to_string();
    assert!(!pod.contains("webhook"), "{pod}");
}

/// What the Pod Security Standard "restricted" asks for.
#[test]
fn the_pod_is_restricted() {
    let all = manifests(&[]);
    let pod = &only(&all, "Deployment")["spec"]["template"]["spec"];
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(
        pod["securityContext"]["seccompProfile"]["type"],
        "RuntimeDefault"
    );
    let context = &pod["containers"][0]["securityContext"];
    assert_eq!(context["allowPrivilegeEscalation"], false);
    assert_eq!(context["readOnlyRootFilesystem"], true);
    assert_eq!(context["capabilities"]["drop"], json!(["ALL"]));
    assert!(pod["containers"][0]["livenessProbe"].is_object());
    assert!(pod["containers"][0]["readinessProbe"].is_object());
}

/// With chosen namespaces, rights are Roles only, in these namespaces and for the lease.
#[test]
fn confined_to_namespaces_there_are_only_roles() {
    let all = manifests(&["--namespace=team-a", "--namespace=team-b"]);
    assert!(of_kind(&all, "ClusterRole").is_empty());
    assert!(of_kind(&all, "ClusterRoleBinding").is_empty());
    let roles = of_kind(&all, "Role");
    let places: BTreeSet<_> = roles
        .iter()
        .map(|role| role["metadata"]["namespace"].as_str().unwrap())
        .collect();
    assert_eq!(places, BTreeSet::from([HOME, "team-a", "team-b"]));
    let arguments = &only(&all, "Deployment")["spec"]["template"]["spec"]["containers"][0]["args"];
    for namespace in ["--namespace=team-a", "--namespace=team-b"] {
        let arguments = arguments.as_array().unwrap();
        assert!(arguments.contains(&json!(namespace)), "{arguments:?}");
    }
}

/// RB-03, whatever else changes.
#[test]
fn secrets_are_neither_listed_nor_watched() {
    for flags in [&[][..], &["--namespace=team-a"]] {
        let all = manifests(flags);
        let roles = of_kind(&all, "ClusterRole")
            .into_iter()
            .chain(of_kind(&all, "Role"));
        for rule in roles.flat_map(|role| role["rules"].as_array().unwrap()) {
            let text = rule.to_string();
            assert!(!text.contains('*'), "{text}");
            if text.contains("secrets") {
                assert!(!text.contains("list") && !text.contains("watch"), "{text}");
            }
        }
    }
}
