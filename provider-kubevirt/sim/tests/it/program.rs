//! The program, as people start it.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::time::Duration;

use kube::api::{Api, ApiResource, DynamicObject, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::GroupVersionKind;
use kube::{Client, Config};
use tokio::process::Command;

use crate::world::{IDLE, machine, secret};

/// Until a machine runs in it, on the slowest host.
const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test]
async fn the_program_serves_a_cluster_in_which_machines_run() {
    let folder = std::env::temp_dir().join(format!("kubevirt-sim-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let kubeconfig = folder.join("kubeconfig");
    // Open to all, as an earlier version may have left it.
    std::fs::write(&kubeconfig, "").expect("a file");
    let open = Permissions::from_mode(0o644);
    std::fs::set_permissions(&kubeconfig, open).expect("permissions");
    let mut program = Command::new(env!("CARGO_BIN_EXE_kubevirt-sim"))
        .args(["--no-delays", "--speed", "100", "--kubeconfig-out"])
        .arg(&kubeconfig)
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("the program starts");
    let told = tokio::time::timeout(LIMIT, async {
        let client = loop {
            if let Some(client) = client(&kubeconfig).await {
                break client;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        let api = |group: &str, kind: &str| -> Api<DynamicObject> {
            let kind = GroupVersionKind::gvk(group, "v1", kind);
            Api::default_namespaced_with(client.clone(), &ApiResource::from_gvk(&kind))
        };
        let with_types = |api_version: &str, kind: &str, mut value: serde_json::Value| {
            value["apiVersion"] = api_version.into();
            value["kind"] = kind.into();
            serde_json::from_value::<DynamicObject>(value).expect("an object")
        };
        let seed = with_types("v1", "Secret", secret("a", IDLE));
        let made = api("", "Secret")
            .create(&PostParams::default(), &seed)
            .await;
        made.expect("is created");
        let vm = with_types("kubevirt.io/v1", "VirtualMachine", machine("a"));
        let machines = api("kubevirt.io", "VirtualMachine");
        machines
            .create(&PostParams::default(), &vm)
            .await
            .expect("is created");
        loop {
            let vm = machines.get("a").await.expect("is there");
            let status = vm.data["status"]["printableStatus"].clone();
            if status == "Running" {
                break status;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let told = told.await;
    program.kill().await.expect("the program ends");
    let mode = std::fs::metadata(&kubeconfig)
        .expect("a file")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600, "it gives all rights");
    std::fs::remove_dir_all(&folder).expect("the folder goes");
    assert_eq!(told.expect("in time"), "Running");
}

/// A client, once the kubeconfig is written.
async fn client(path: &std::path::Path) -> Option<Client> {
    let text = std::fs::read_to_string(path).ok()?;
    let kubeconfig = Kubeconfig::from_yaml(&text).ok()?;
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
    Client::try_from(config.ok()?).ok()
}
