//! An unmodified `kubectl` against the TLS face.

use std::{path::Path, process::Stdio};

use tokio::{io::AsyncWriteExt, process::Command};

use super::{secure::face, server};

const WIDGET: &str = r#"{"apiVersion": "test.io/v1", "kind": "Widget", "metadata": {"name": "w"},
    "spec": {"replicas": 2}}"#;

/// What a command prints on both streams, trimmed.
async fn kubectl(kubeconfig: &Path, arguments: &str, input: &str) -> String {
    let program = std::env::var("KUBECTL").unwrap_or_else(|_| "kubectl".to_owned());
    let mut child = Command::new(program)
        .arg("--kubeconfig")
        .arg(kubeconfig)
        .args(arguments.split(' '))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("kubectl starts");
    let mut stdin = child.stdin.take().expect("the input is a pipe");
    stdin
        .write_all(input.as_bytes())
        .await
        .expect("kubectl reads its input");
    drop(stdin);
    let output = child.wait_with_output().await.expect("kubectl ends");
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text).trim().to_owned()
}

#[tokio::test]
#[ignore = "needs kubectl 1.30 or later on the path, or in the variable KUBECTL"]
async fn everyday_commands_read_as_against_a_real_server() {
    let server = server();
    let face = face(&server).await;
    let directory = std::env::temp_dir().join(format!("capi-testkit-{}", face.address().port()));
    std::fs::create_dir_all(&directory).expect("the directory can be made");
    let kubeconfig = directory.join("kubeconfig");
    let text = face
        .kubeconfig("admin", &["system:masters"])
        .expect("a certificate");
    std::fs::write(&kubeconfig, text).expect("the file can be written");
    let table = [
        ("apply -f -", "widget.test.io/w created"),
        ("apply -f -", "widget.test.io/w unchanged"),
        ("get wd -o name", "widget.test.io/w"),
        ("get widgets w -o jsonpath={.spec.colour}", "red"),
        ("scale widget w --replicas=5", "widget.test.io/w scaled"),
        ("label wd w a=b", "widget.test.io/w labeled"),
        ("annotate wd w c=d", "widget.test.io/w annotated"),
        (
            "patch wd w --type=merge -p {\"spec\":{\"replicas\":7}}",
            "widget.test.io/w patched",
        ),
        (
            "apply --server-side --force-conflicts -f -",
            "widget.test.io/w serverside-applied",
        ),
        (
            "get wd nope",
            "Error from server (NotFound): widgets.test.io \"nope\" not found",
        ),
        (
            "create configmap c --from-literal=a=b",
            "configmap/c created",
        ),
        (
            "patch configmap c -p {\"data\":{\"a\":null}}",
            "configmap/c patched",
        ),
        ("get configmap c -o jsonpath={.data}", ""),
        ("auth can-i list secrets", "yes"),
        (
            "wait --for=condition=Established crd/widgets.test.io --timeout=5s",
            "customresourcedefinition.apiextensions.k8s.io/widgets.test.io condition met",
        ),
        ("delete wd w", "widget.test.io \"w\" deleted"),
        ("get wd", "No resources found in default namespace."),
    ];
    for (arguments, expected) in table {
        let mut printed = kubectl(&kubeconfig, arguments, WIDGET).await;
        // Since 1.34 deletions name the namespace too.
        if let Some(short) = printed.strip_suffix(" from default namespace") {
            printed = short.to_owned();
        }
        assert_eq!(printed, expected, "kubectl {arguments}");
    }
    let explained = kubectl(&kubeconfig, "explain widget.spec.replicas", "").await;
    assert!(
        explained.contains("FIELD: replicas <integer>"),
        "{explained}"
    );
    face.stop().await;
    std::fs::remove_dir_all(&directory).expect("the directory can be removed");
}
