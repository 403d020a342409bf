//! Cluster templates on a real API server, as `cargo run -p e2e -- templates` tries them: the flavors of both
//! providers, and templates that are wrong.
//!
//! Real: clusterctl, kubectl, etcd, kube-apiserver, and the webhooks and conversions of Cluster API and of
//! the provider. Nothing is built of the templates, but for one story, in which the controllers run and
//! KubeVirt is played in the management cluster itself.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helper functions of tests are tests too"
)]

mod building;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use e2e::failure::Failure;
use e2e::kubevirt::NAMES;
use e2e::management::Ports;
use e2e::site::Site;
use e2e::template::{Bench, Verdict, templates};
use e2e::{proxmox, suite};

/// Ports of this suite, away from those of `up` and the others.
const PORTS: Ports = Ports(28_040);
/// Ports while the flavors of the other provider are tried.
const OTHER: Ports = Ports(28_090);
/// What the other provider's flavors need, of kinds that nobody can make up by a name.
const OF_PROXMOX: [(&str, &str); 9] = [
    ("ALLOWED_NODES", "[pve1]"),
    ("BOOT_VOLUME_SIZE", "40"),
    ("DNS_SERVERS", "[10.20.0.1]"),
    ("GATEWAY", "10.20.0.1"),
    ("IP_PREFIX", "16"),
    ("MEMORY_MIB", "2048"),
    ("NODE_IP_RANGES", "[10.20.0.10-10.20.0.39]"),
    ("NUM_CORES", "2"),
    ("TEMPLATE_VMID", "9000"),
];
/// A machine of the provider, and nothing else.
const MACHINES: &str = r#"
apiVersion: infrastructure.cluster.x-k8s.io/v1alpha1
kind: KubevirtMachineTemplate
metadata: {name: "${CLUSTER_NAME}-worker"}
spec:
  template:
    spec:
      virtualMachineTemplate:
        spec:
          runStrategy: Always
          template:
            spec:
              domain: {devices: {interfaces: [{name: pod, passt: {}}]}}
              fromTheFuture: {image: "${IMAGE}"}
"#;

fn main() -> ExitCode {
    suite::play(
        |runtime| runtime.block_on(Bench::start(Site::named("templates-suite"), PORTS, NAMES)),
        &[
            (
                "ctl_08_a_server_takes_every_flavor_as_it_is",
                |on, bench| on.block_on(flavors(bench)),
            ),
            (
                "what_passes_through_to_kubevirt_is_stored_as_it_is_written",
                |on, bench| on.block_on(passing(bench)),
            ),
            ("what_is_refused_is_told_in_its_words", |on, bench| {
                on.block_on(refused(bench))
            }),
            ("what_clusterctl_cannot_read_is_told", |on, bench| {
                on.block_on(unreadable(bench))
            }),
            ("ctl_08_a_server_takes_every_flavor_of_proxmox", |on, _| {
                on.block_on(of_proxmox())
            }),
            (
                "ctl_08_machines_of_every_flavor_are_built_beside_cluster_api",
                |on, _| on.block_on(building::every_flavor()),
            ),
        ],
    )
}

/// The flavors of a provider.
fn of(provider: &str) -> Result<Vec<PathBuf>, Failure> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    templates(&workspace.join(provider).join("templates"))
}

/// What the provider ships. A kind that another project defines is stood in for.
async fn flavors(bench: &mut Bench) -> Result<(), Failure> {
    let mut kept = 0;
    for template in of("provider-kubevirt")? {
        let verdict = bench.judge(&template).await?;
        println!("{verdict}");
        assert!(verdict.is_good(), "{verdict}");
        let hosted = verdict.file.contains("hosted-control-plane");
        let expected: &[&str] = if hosted { &["KamajiControlPlane"] } else { &[] };
        assert_eq!(verdict.stand_ins, expected, "{verdict}");
        kept += verdict.kept;
    }
    assert!(kept > 20, "{kept}");
    Ok(())
}

async fn of_proxmox() -> Result<(), Failure> {
    let site = Site::named("templates-proxmox");
    let mut bench = Bench::start(site, OTHER, proxmox::NAMES).await?;
    for (name, value) in OF_PROXMOX {
        bench.set(name, value);
    }
    for template in of("provider-proxmox")? {
        let verdict = bench.judge(&template).await?;
        println!("{verdict}");
        assert!(verdict.is_good() && verdict.kept > 2, "{verdict}");
        assert!(verdict.stand_ins.is_empty(), "{verdict}");
    }
    Ok(())
}

/// Tries a template of this text.
async fn tried(bench: &mut Bench, text: &str) -> Result<Verdict, Failure> {
    let folder = tempfile::tempdir()?;
    let path: PathBuf = folder.path().join("cluster-template-mine.yaml");
    std::fs::write(&path, text)?;
    let verdict = bench.judge(&path).await?;
    println!("{verdict}");
    assert_eq!(verdict.file, "cluster-template-mine.yaml");
    Ok(verdict)
}

async fn passing(bench: &mut Bench) -> Result<(), Failure> {
    let verdict = tried(bench, MACHINES).await?;
    assert!(verdict.is_good(), "{verdict}");
    assert_eq!((verdict.objects, verdict.kept), (1, 1));
    // Deleted, so the same can be applied once more.
    assert!(tried(bench, MACHINES).await?.is_good());
    Ok(())
}

/// By the schema, by a webhook, and of another kind than the provider's; the others are applied.
async fn refused(bench: &mut Bench) -> Result<(), Failure> {
    let unknown = MACHINES.replace(
        "      virtualMachineTemplate",
        "      nonsense: 1\n      virtualMachineTemplate",
    );
    let taken = MACHINES.replace(
        "domain:",
        "volumes: [{name: cloudinitvolume}]\n              domain:",
    );
    let account = "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: a}\nspec: {}\n";
    for (text, said) in [
        (unknown, "nonsense"),
        (taken, "cloudinitvolume"),
        (
            format!("{MACHINES}---\n{account}"),
            "unknown field \"spec\"",
        ),
    ] {
        let verdict = tried(bench, &text).await?;
        assert!(!verdict.is_good(), "{verdict}");
        assert!(verdict.faults.join("\n").contains(said), "{verdict}");
        assert_eq!(verdict.kept, verdict.objects - 1, "{verdict}");
    }
    Ok(())
}

async fn unreadable(bench: &mut Bench) -> Result<(), Failure> {
    let verdict = tried(bench, "kind: [").await?;
    assert!(!verdict.is_good() && verdict.objects == 0, "{verdict}");
    Ok(())
}
