//! What `doctor` finds on a platform that is as it should be, and on broken ones.

use capi_contract::checkup::{Checkup, Health};
use provider_proxmox::connect::Settings;
use provider_proxmox::doctor::{Wanted, examine};
use pve_sim::{Builder, Delays, NodeSpec, Platform, StorageSpec, TemplateSpec, TokenSpec};
use rstest::rstest;
use tempfile::TempDir;

use super::{PROGRAM, golden};
use crate::world::{Halt, Life, machine, session_as};

const TOKEN: &str = "capi@pve!least";
const SECRET: &str = "5e1d5ec2-0000-4000-8000-51b0b1f1ed01";

/// The rights of the table in docs/proxmox.md, and nothing more.
fn least() -> TokenSpec {
    let machines = [
        "VM.Allocate",
        "VM.Audit",
        "VM.Config.CDROM",
        "VM.Config.CPU",
        "VM.Config.Disk",
        "VM.Config.HWType",
        "VM.Config.Memory",
        "VM.Config.Network",
        "VM.Config.Options",
        "VM.GuestAgent.Audit",
        "VM.GuestAgent.FileRead",
        "VM.PowerMgmt",
    ];
    let images = [
        "Datastore.Allocate",
        "Datastore.AllocateTemplate",
        "Datastore.Audit",
    ];
    TokenSpec::new(TOKEN, SECRET)
        .grant("/nodes", &["Sys.Audit"])
        .grant("/vms", &machines)
        .grant("/vms/9000", &["VM.Audit", "VM.Clone"])
        .grant("/storage/local", &images)
        .grant(
            "/storage/local-lvm",
            &["Datastore.AllocateSpace", "Datastore.Audit"],
        )
        .grant("/sdn/zones/localnetwork/vmbr0", &["SDN.Use"])
}

fn builder() -> Builder {
    Builder::new().delays(Delays::zero()).token(least())
}

fn wanted() -> Wanted {
    Wanted {
        nodes: vec!["pve1".into()],
        templates: vec![9000],
        storages: vec!["local-lvm".into()],
        bridges: vec!["vmbr0".into()],
        pool: None,
    }
}

/// Asks over HTTPS, with what the environment would hold.
async fn visit(platform: &Platform, wanted: &Wanted, change: &[(&str, &str)]) -> Checkup {
    let server = platform.serve(([127, 0, 0, 1], 0).into()).await.unwrap();
    let fingerprint = server.fingerprint().to_owned();
    let url = server.url();
    let mut all = vec![
        ("PROXMOX_URL", url.as_str()),
        ("PROXMOX_TOKEN", TOKEN),
        ("PROXMOX_SECRET", SECRET),
        ("PROXMOX_FINGERPRINT", fingerprint.as_str()),
    ];
    for (name, value) in change {
        all.retain(|(known, _)| known != name);
        all.push((name, value));
    }
    let all = all.into_iter();
    let settings = Settings::of_environment(all.map(|(n, v)| (n.to_owned(), v.to_owned())));
    examine(settings.unwrap(), wanted).await
}

/// The findings that are bad: subject, detail and fix in one text each.
fn bad(checkup: &Checkup) -> Vec<String> {
    let bad = checkup
        .findings
        .iter()
        .filter(|finding| finding.health == Health::Bad);
    bad.map(|finding| {
        let fix = finding.fix.as_deref().unwrap_or_default();
        format!("{}: {} > {fix}", finding.subject, finding.detail)
    })
    .collect()
}

#[tokio::test]
async fn a_platform_that_is_ready_is_called_so() {
    let checkup = visit(&builder().build(), &wanted(), &[]).await;
    assert!(checkup.is_healthy(), "{checkup:#?}");
    // Nothing named: what can be seen is looked at.
    let checkup = visit(
        &Builder::new().build(),
        &Wanted::default(),
        &[
            ("PROXMOX_TOKEN", "capi@pve!provider"),
            ("PROXMOX_SECRET", &Builder::new().build().token().1),
        ],
    )
    .await;
    assert!(checkup.is_healthy(), "{checkup:#?}");
}

/// What the doctor asks for is enough for a machine's whole life.
#[tokio::test(start_paused = true)]
async fn the_rights_that_the_doctor_asks_for_suffice() {
    let platform = builder().build();
    let mut object = machine("m");
    object.spec.target = Some("pve1".into());
    object.spec.storage = Some("local-lvm".into());
    let mut life = Life::with(session_as(&platform, TOKEN, SECRET), object);
    let halt = life.run().await;
    assert!(matches!(halt, Halt::Settled), "{halt:?}");
    life.joined();
    let halt = life.run().await;
    assert!(matches!(halt, Halt::Settled), "{halt:?}");
    life.deleting = true;
    let halt = life.run().await;
    assert!(matches!(halt, Halt::Gone), "{halt:?}");
    assert!(platform.vms_left().is_empty() && platform.isos_left().is_empty());
}

#[rstest]
#[case("Sys.Audit", "/nodes/pve1")]
#[case("VM.Clone", "/vms/9000")]
#[case("VM.Allocate", "/vms ")]
#[case("VM.Config.CDROM", "/vms ")]
#[case("VM.Config.CPU", "/vms ")]
#[case("VM.Config.Disk", "/vms ")]
#[case("VM.Config.HWType", "/vms ")]
#[case("VM.Config.Memory", "/vms ")]
#[case("VM.Config.Network", "/vms ")]
#[case("VM.Config.Options", "/vms ")]
#[case("VM.GuestAgent.Audit", "/vms ")]
#[case("VM.GuestAgent.FileRead", "/vms ")]
#[case("VM.PowerMgmt", "/vms ")]
#[case("Datastore.Allocate", "/storage/local ")]
#[case("Datastore.AllocateTemplate", "/storage/local ")]
#[case("Datastore.AllocateSpace", "/storage/local-lvm ")]
#[case("SDN.Use", "/sdn/zones/localnetwork/vmbr0")]
#[tokio::test]
async fn a_missing_right_is_named_with_its_path_and_the_command_that_grants_it(
    #[case] privilege: &str,
    #[case] path: &str,
) {
    let platform = builder().build();
    platform.withdraw(TOKEN, privilege);
    let checkup = visit(&platform, &wanted(), &[]).await;
    let bad = bad(&checkup);
    assert_eq!(bad.len(), 1, "{bad:#?}");
    assert!(bad[0].starts_with(&format!("rights: {path}")), "{}", bad[0]);
    assert!(bad[0].contains(privilege), "{}", bad[0]);
    let command = format!("pveum acl modify {} --tokens '{TOKEN}'", path.trim());
    assert!(bad[0].contains(&command), "{}", bad[0]);
}

#[rstest]
#[case::nobody_there(&[("PROXMOX_URL", "https://127.0.0.1:1")], "reachable: ")]
#[case::other_certificate(&[("PROXMOX_FINGERPRINT",
    "00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF:00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF")],
    "tls: ")]
#[case::wrong_secret(&[("PROXMOX_SECRET", "forged")], "token: ")]
#[case::unknown_token(&[("PROXMOX_TOKEN", "capi@pve!other")], "token: ")]
#[tokio::test]
async fn what_stands_in_the_way_is_told_apart(
    #[case] change: &[(&str, &str)],
    #[case] expected: &str,
) {
    let checkup = visit(&builder().build(), &wanted(), change).await;
    let bad = bad(&checkup);
    assert_eq!(bad.len(), 1, "{bad:#?}");
    assert!(bad[0].starts_with(expected), "{}", bad[0]);
    assert!(!bad[0].contains("forged"), "no secret is shown: {}", bad[0]);
    let rights = checkup
        .findings
        .iter()
        .find(|finding| finding.subject == "rights");
    assert_eq!(rights.map(|rights| rights.health), Some(Health::Unknown));
}

#[tokio::test]
async fn a_certificate_that_nobody_looks_at_is_a_doubt() {
    let change = [("PROXMOX_FINGERPRINT", ""), ("PROXMOX_INSECURE", "1")];
    let checkup = visit(&builder().build(), &wanted(), &change).await;
    assert!(checkup.is_healthy());
    let tls = checkup
        .findings
        .iter()
        .find(|finding| finding.subject == "tls");
    assert_eq!(tls.map(|tls| tls.health), Some(Health::Doubtful));
}

type Change = fn(&mut Wanted);

#[rstest]
#[case::no_node(|w: &mut Wanted| w.nodes = vec!["pve9".into()], "nodes: there is no node pve9")]
#[case::no_template(|w: &mut Wanted| w.templates = vec![9001], "templates: 9001 is not there")]
#[case::no_storage(|w: &mut Wanted| w.storages = vec!["ceph".into()], "storages: ceph is not there")]
#[tokio::test]
async fn what_machines_want_and_the_platform_has_not_is_named(
    #[case] change: Change,
    #[case] expected: &str,
) {
    let mut wanted = wanted();
    change(&mut wanted);
    let bad = bad(&visit(&builder().build(), &wanted, &[]).await);
    assert!(
        bad.iter().any(|text| text.starts_with(expected)),
        "{bad:#?}"
    );
}

#[tokio::test]
async fn an_empty_platform_lacks_templates_and_a_place_for_images() {
    let platform = Builder::empty("bare")
        .node(NodeSpec::new("pve1"))
        .storage(StorageSpec::thin_pool("local-lvm"))
        .token(TokenSpec::provider(TOKEN, SECRET))
        .build();
    let bad = bad(&visit(&platform, &Wanted::default(), &[]).await);
    let subjects: Vec<_> = bad
        .iter()
        .filter_map(|text| text.split(':').next())
        .collect();
    assert_eq!(subjects, ["templates", "storages"], "{bad:#?}");
    platform.add_template(TemplateSpec::new(9000, "pve1", "t").storage("local-lvm"));
    platform.power_off_node("pve1");
    let bad = self::bad(&visit(&platform, &Wanted::default(), &[]).await);
    assert!(
        bad.iter()
            .any(|text| text.starts_with("nodes: no node is online")),
        "{bad:#?}"
    );
}

/// The whole command, as a user sees it.
#[tokio::test(flavor = "multi_thread")]
async fn the_command_prints_what_to_do_and_fails() {
    let platform = builder().build();
    platform.withdraw(TOKEN, "VM.Clone");
    let server = platform.serve(([127, 0, 0, 1], 0).into()).await.unwrap();
    let folder = TempDir::new().unwrap();
    let run = tokio::process::Command::new(PROGRAM)
        .args([
            "doctor",
            "--node=pve1",
            "--template=9000",
            "--storage=local-lvm",
            "--bridge=vmbr0",
        ])
        .env("PROXMOX_URL", server.url())
        .env("PROXMOX_TOKEN", TOKEN)
        .env("PROXMOX_SECRET", SECRET)
        .env("PROXMOX_FINGERPRINT", server.fingerprint())
        .current_dir(folder.path())
        .output()
        .await
        .unwrap();
    let text = String::from_utf8(run.stdout).unwrap();
    assert_eq!(run.status.code(), Some(1), "{text}");
    assert!(
        text.lines().all(|line| line.chars().count() <= 100),
        "{text}"
    );
    assert!(!text.contains(SECRET));
    golden("doctor.txt", &text);
}
