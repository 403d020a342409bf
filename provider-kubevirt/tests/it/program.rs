//! The shipped program, as a process.

use std::process::Command;

use serde_json::Value;

pub(crate) fn output(arguments: &[&str]) -> String {
    let program = env!("CARGO_BIN_EXE_provider-kubevirt");
    let output = Command::new(program).args(arguments).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// The verbs that a role of the manifests gives on a resource.
fn verbs(manifests: &str, resource: &str) -> Vec<String> {
    let all: Vec<Value> = serde_saphyr::from_multiple(manifests).unwrap();
    let roles = all
        .iter()
        .filter(|one| one["kind"] == "ClusterRole" || one["kind"] == "Role");
    let rules = roles.flat_map(|role| role["rules"].as_array().unwrap());
    let picked = rules.filter(|rule| {
        let mut resources = rule["resources"].as_array().into_iter().flatten();
        resources.any(|one| one == resource)
    });
    let verbs = picked.flat_map(|rule| rule["verbs"].as_array().unwrap());
    let mut verbs: Vec<_> = verbs
        .map(|verb| verb.as_str().unwrap().to_owned())
        .collect();
    verbs.sort();
    verbs
}

/// Defect 16: Secrets by name only, and nothing of others may be deleted unless that was asked for.
#[test]
fn capk_defect_16_the_provider_has_few_rights_on_the_management_cluster() {
    let usual = output(&["manifests"]);
    assert_eq!(verbs(&usual, "secrets"), ["get"]);
    let extras = [
        "configmaps",
        "serviceaccounts",
        "deployments",
        "roles",
        "rolebindings",
    ];
    for resource in extras {
        assert!(verbs(&usual, resource).is_empty(), "{resource}");
    }
    let more = output(&["manifests", "--extra-resources"]);
    for resource in extras {
        assert_eq!(verbs(&more, resource), ["deletecollection"], "{resource}");
    }
}

/// Where the management cluster is the infra cluster too, the rights for that are given where they are
/// asked for.
#[test]
fn rb_03_rights_on_the_own_cluster_are_given_by_namespace() {
    let usual = output(&["manifests"]);
    assert!(verbs(&usual, "virtualmachines").is_empty());
    let one = output(&["manifests", "--platform-namespace", "team-a"]);
    let all: Vec<Value> = serde_saphyr::from_multiple(&one).unwrap();
    let named = |kind: &str| {
        let found = all
            .iter()
            .find(|object| object["kind"] == kind && object["metadata"]["name"] == "capk-platform");
        found.map(|object| object["metadata"]["namespace"].clone())
    };
    assert_eq!(named("Role"), Some("team-a".into()));
    assert_eq!(named("RoleBinding"), Some("team-a".into()));
    assert!(verbs(&one, "virtualmachines").contains(&"create".to_owned()));
    let everywhere = output(&["manifests", "--platform-namespace="]);
    assert!(everywhere.contains("capk-system-platform"));
}

/// CTL-01: clusterctl finds every flavor beside the components.
#[test]
fn ctl_01_the_repository_has_every_flavor() {
    let directory = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("repository");
    let _ = std::fs::remove_dir_all(&directory);
    output(&[
        "manifests",
        "-o",
        directory.to_str().unwrap(),
        "--release",
        "v1.2.0",
    ]);
    let shipped = directory.join("infrastructure-kubevirt/v1.2.0");
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("templates");
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let copy = shipped.join(path.file_name().unwrap());
        let is_same = std::fs::read(&path).unwrap() == std::fs::read(&copy).unwrap_or_default();
        assert!(is_same, "{}", copy.display());
    }
    assert!(shipped.join("infrastructure-components.yaml").exists());
}

#[test]
fn the_program_says_what_it_can() {
    let help = output(&["--help"]);
    for command in [
        "run",
        "manifests",
        "doctor",
        "tenant",
        "ssh-keys",
        "version",
    ] {
        assert!(help.contains(&format!("  {command} ")), "{help}");
    }
    assert!(output(&["tenant", "--help"]).contains("--days"));
    assert_eq!(
        output(&["version"]).trim(),
        "infrastructure-kubevirt v1.0.0"
    );
}
