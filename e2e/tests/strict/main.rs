//! Objects for KubeVirt and its image importer, decoded by the Go types that they publish.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helper functions of tests are tests too"
)]

use std::collections::BTreeMap;
use std::process::{Command, ExitCode};

use e2e::strict::{StrictError, check};
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use serde_json::{Value, json};

/// Why the tests do not run unless they are asked for.
const ON_REQUEST: &str =
    "builds a small program from KubeVirt's Go modules; run with --include-ignored";

/// What a test does.
type Case = fn() -> Result<(), Failed>;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let asked_for = arguments.include_ignored || arguments.ignored;
    let table: [(&str, Case); 3] = [
        ("what_the_types_know_passes", what_is_known_passes),
        (
            "what_the_types_do_not_know_is_named",
            what_is_unknown_is_named,
        ),
        (
            "what_the_provider_writes_is_known",
            what_the_provider_writes,
        ),
    ];
    let trials = table.map(|(name, test)| {
        let runner = move || {
            if !asked_for {
                return Ok(Completion::ignored_with(ON_REQUEST));
            }
            test().map(|()| Completion::Completed)
        };
        // Without the flag `--ignored` would filter them out.
        Trial::ignorable_test(name, runner).with_ignored_flag(asked_for)
    });
    libtest_mimic::run(&arguments, trials.into()).exit_code()
}

/// The integration tests of the KubeVirt provider, built with the whole workspace: of one package half
/// of the dependencies would be built again with fewer features.
fn provider_tests() -> Result<String, Failed> {
    let output = Command::new(env!("CARGO"))
        .args(["test", "--workspace", "--test", "it", "--no-run"])
        .args(["--message-format", "json"])
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let built = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .find_map(|message| {
            let package = message["package_id"].as_str()?;
            let is_it =
                message["target"]["name"] == "it" && package.contains("/provider-kubevirt#");
            let program = message["executable"].as_str().filter(|_| is_it)?;
            Some(program.to_owned())
        });
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    built.ok_or_else(|| format!("the provider's tests do not build:\n{said}").into())
}

/// Every object that the tests of the KubeVirt provider write into infra clusters.
fn what_the_provider_writes() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("objects");
    let output = Command::new(provider_tests()?)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../provider-kubevirt"))
        .env("KUBEVIRT_OBJECTS", &path)
        .output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stdout);
        return Err(format!("the provider's tests fail:\n{said}").into());
    }
    let text = std::fs::read_to_string(path)?;
    let mut objects = Vec::new();
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for line in text.lines() {
        let object: Value = serde_json::from_str(line)?;
        let kind = object["kind"].as_str().unwrap_or_default().to_owned();
        *kinds.entry(kind).or_default() += 1;
        objects.push(object);
    }
    for expected in ["VirtualMachine", "Secret", "Service"] {
        assert!(kinds.contains_key(expected), "no {expected}: {kinds:?}");
    }
    check(&objects)?;
    println!("decoded by the published types: {kinds:?}");
    Ok(())
}

fn machine(interface: &Value) -> Value {
    json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
        "metadata": {"name": "a"},
        "spec": {"runStrategy": "Always", "template": {"spec": {
            "domain": {
                "cpu": {"cores": 2},
                "devices": {"interfaces": [interface]},
                "memory": {"guest": "4Gi"},
            },
            "networks": [{"name": "default", "pod": {}}],
        }}},
    })
}

fn what_is_known_passes() -> Result<(), Failed> {
    let secret = json!({"apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "a-userdata"}, "data": {"userdata": "YQ=="}});
    let volume = json!({"apiVersion": "cdi.kubevirt.io/v1beta1", "kind": "DataVolume",
        "metadata": {"name": "a-root"},
        "spec": {"source": {"blank": {}}, "storage": {"resources": {"requests": {"storage": "1Gi"}}}}});
    let machine = machine(&json!({"name": "default", "masquerade": {}}));
    check(&[machine, secret, volume])?;
    Ok(())
}

/// One fault where the types decode strictly, one below a type that decodes itself, one kind that
/// nobody publishes.
fn what_is_unknown_is_named() -> Result<(), Failed> {
    let mut outer = machine(&json!({"name": "default", "masquerade": {}}));
    outer["spec"]["runStrategi"] = json!("Always");
    let inner = machine(&json!({"name": "default", "masquerad": {}}));
    let stranger =
        json!({"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "t"}});
    let table = [
        (
            outer,
            "1: kubevirt.io/v1/VirtualMachine a: unknown field \"spec.runStrategi\"",
        ),
        (
            inner,
            "in spec.template.spec: unknown field \"domain.devices.interfaces[0].masquerad\"",
        ),
        (stranger, "example.com/v1/Thing t: no type for this kind"),
    ];
    for (object, expected) in table {
        match check(&[object]) {
            Err(StrictError::Faults { faults, .. }) => {
                assert!(faults.contains(expected), "{faults}");
            }
            other => return Err(format!("not refused: {expected}: {other:?}").into()),
        }
    }
    Ok(())
}
