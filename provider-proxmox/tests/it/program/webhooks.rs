//! The webhooks as the API server finds them: over TLS, at the paths of the manifests.

use std::net::TcpListener;

use pve_sim::{Builder, Delays};
use reqwest::Certificate;
use rstest::rstest;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Stage, manifests};

/// A template whose memory differs from the stored one, as a review of an update.
fn review(is_rehearsal: bool) -> Value {
    let template = |memory: i64| {
        let network = json!({"networkDevices": [{"name": "net0"}]});
        let spec = json!({"sourceNode": "pve1", "templateID": 9000, "memoryMiB": memory,
            "network": network});
        json!({
            "apiVersion": "infrastructure.cluster.x-k8s.io/v1alpha2",
            "kind": "ProxmoxMachineTemplate", "metadata": {"name": "t", "namespace": "default"},
            "spec": {"template": {"spec": spec}},
        })
    };
    let mut new = template(4096);
    if is_rehearsal {
        let annotation = json!({"topology.cluster.x-k8s.io/dry-run": ""});
        new["metadata"]["annotations"] = annotation;
    }
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "u", "operation": "UPDATE", "name": "t", "namespace": "default", "userInfo": {},
            "kind": {"group": "infrastructure.cluster.x-k8s.io", "version": "v1alpha2",
                "kind": "ProxmoxMachineTemplate"},
            "resource": {"group": "infrastructure.cluster.x-k8s.io", "version": "v1alpha2",
                "resource": "proxmoxmachinetemplates"},
            "object": new, "oldObject": template(2048), "dryRun": is_rehearsal,
        },
    })
}

/// The path under which the manifests register the templates' webhook.
fn registered() -> String {
    let all = manifests(&[]);
    let kind = "ValidatingWebhookConfiguration";
    let registration = all.iter().find(|object| object["kind"] == kind).unwrap();
    let mut webhooks = registration["webhooks"].as_array().unwrap().iter();
    let is_it = |it: &&Value| it["rules"][0]["resources"][0] == "proxmoxmachinetemplates";
    let path = &webhooks.find(is_it).unwrap()["clientConfig"]["service"]["path"];
    path.as_str().unwrap().to_owned()
}

#[rstest]
#[case::change(false, false)]
#[case::rehearsal(true, true)]
#[tokio::test(flavor = "multi_thread")]
async fn wh_02_wh_03_a_review_is_answered_over_tls(
    #[case] is_rehearsal: bool,
    #[case] is_allowed: bool,
) {
    let stage = Stage::new(Builder::new().delays(Delays::zero()).build()).await;
    let directory = TempDir::new().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    std::fs::write(directory.path().join("tls.crt"), made.cert.pem()).unwrap();
    let key = made.signing_key.serialize_pem();
    std::fs::write(directory.path().join("tls.key"), key).unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let (port_flag, directory) = (
        format!("--webhook-port={port}"),
        format!("--webhook-cert-dir={}", directory.path().display()),
    );
    let more = [port_flag.as_str(), &directory, "--diagnostics-address=0"];
    let replica = stage.start("a", &more);
    let is_up = || replica.log().contains("the provider starts");
    stage.until("serving", is_up).await;
    let authority = Certificate::from_pem(made.cert.pem().as_bytes()).unwrap();
    let client = reqwest::Client::builder()
        .tls_certs_only([authority])
        .build()
        .unwrap();
    let url = format!("https://localhost:{port}{}", registered());
    let answer = client.post(url).json(&review(is_rehearsal)).send().await;
    let answer: Value = answer.unwrap().json().await.unwrap();
    assert_eq!(answer["response"]["allowed"], is_allowed, "{answer}");
    if !is_allowed {
        let message = answer["response"]["status"]["message"].as_str().unwrap();
        assert!(message.contains("spec.template.spec"), "{message}");
    }
}
