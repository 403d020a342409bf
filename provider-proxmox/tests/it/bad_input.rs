//! What users get wrong: each gives an error that says what is wrong and what to change, costs no
//! VM, and goes when its cause goes.

mod engine;

use std::sync::Arc;
use std::time::Duration;

use capi_contract::{Bootstrap, Class, Classify, Depth, External, Format, Lookup};
use provider_proxmox::machine::{MachineError, Machines};
use provider_proxmox::pve::{Client, Error, Fingerprint, Https, Trust};
use pve_sim::{Builder, Delays, Platform, TemplateSpec, TokenSpec};

use crate::world::{Halt, Life, machine, session, session_as};

fn quick() -> Platform {
    Builder::new().delays(Delays::zero()).build()
}

fn strict(platform: &Platform) -> Life {
    let mut life = Life::new(platform, "m-0");
    life.strict = true;
    life
}

/// Runs until the error comes, and checks its class and that its message says all of this.
async fn refused(life: &mut Life, class: &Class, says: &[&str]) -> MachineError {
    let halt = life.run().await;
    let Halt::Error(error) = halt else {
        panic!("no error: {halt:?}");
    };
    assert_eq!(&error.class(), class, "{error}");
    let message = error.to_string();
    for part in says {
        assert!(message.contains(part), "{part} is missing: {message}");
    }
    error
}

/// The cause is gone: the same object comes up, after the shared listing was asked again.
async fn heals(life: &mut Life, platform: &Platform) {
    tokio::time::sleep(Duration::from_secs(30)).await;
    life.strict = false;
    let halt = life.run().await;
    assert!(matches!(halt, Halt::Settled), "{halt:?}");
    assert_eq!(platform.vms_left().len(), 1);
    assert_eq!(platform.twins(), []);
}

const WAITS: Class = Class::RetryAfter(Duration::from_secs(30));

#[tokio::test(start_paused = true)]
async fn unknown_template() {
    let platform = quick();
    let mut life = strict(&platform);
    life.scope.object.spec.template_id = Some(9100);
    refused(
        &mut life,
        &WAITS,
        &["9100", "templateID", "templates to be seen"],
    )
    .await;
    assert_eq!(platform.vms_left(), []);
    platform.add_template(TemplateSpec::new(9100, "pve1", "ubuntu"));
    heals(&mut life, &platform).await;
}

#[tokio::test(start_paused = true)]
async fn no_template_with_the_tags() {
    let platform = quick();
    let mut life = strict(&platform);
    let spec = &mut life.scope.object.spec;
    (spec.source_node, spec.template_id) = (None, None);
    let selector = serde_json::json!({"matchTags": ["Kube", "ubuntu"]});
    spec.template_selector = serde_json::from_value(selector).unwrap();
    refused(&mut life, &WAITS, &["templateSelector", "kube"]).await;
    platform.add_template(TemplateSpec::new(9100, "pve1", "ubuntu").tags("kube;ubuntu"));
    heals(&mut life, &platform).await;
}

/// Defect 9, issues #71 and #37: too little memory is waited for.
#[tokio::test(start_paused = true)]
async fn no_node_with_memory() {
    let platform = quick();
    let mut life = strict(&platform);
    life.scope.object.spec.memory_mib = Some(1 << 20);
    let says = ["1048576 MiB", "pve1", "allowedNodes", "memoryAdjustment"];
    refused(&mut life, &WAITS, &says).await;
    life.scope.object.spec.memory_mib = Some(4096);
    heals(&mut life, &platform).await;
}

#[tokio::test(start_paused = true)]
async fn vmid_range_used_up() {
    let platform = quick();
    let mut life = strict(&platform);
    life.scope.object.spec.vm_id_range =
        serde_json::from_value(serde_json::json!({"start": 200, "end": 201})).unwrap();
    platform.stranger(200, "pve1", "a");
    platform.stranger(201, "pve1", "b");
    refused(&mut life, &WAITS, &["200 to 201", "vmIDRange"]).await;
    platform.destroy_behind_back(201);
    heals(&mut life, &platform).await;
    assert_eq!(life.vmid(), 201);
    assert_eq!(platform.strangers_touched(), []);
}

#[tokio::test(start_paused = true)]
async fn wrong_token() {
    let platform = quick();
    let (token, _) = platform.token();
    let mut life = Life::with(session_as(&platform, &token, "wrong"), machine("m-0"));
    life.strict = true;
    let error = refused(
        &mut life,
        &Class::Credentials,
        &["token", "credentials Secret"],
    )
    .await;
    assert!(!error.to_string().contains("wrong"), "{error}");
    life.on = session(&platform);
    heals(&mut life, &platform).await;
}

#[tokio::test(start_paused = true)]
async fn missing_privileges() {
    for (privilege, path) in [
        ("VM.Clone", "/vms/9000"),
        ("VM.Config.CPU", "/vms/100"),
        ("Datastore.AllocateTemplate", "/storage/"),
        ("VM.PowerMgmt", "/vms/100"),
    ] {
        let platform = quick();
        let (token, secret) = platform.token();
        platform.withdraw(&token, privilege);
        let mut life = strict(&platform);
        refused(&mut life, &Class::Credentials, &["grant", privilege, path]).await;
        platform.add_token(TokenSpec::provider(token, secret));
        heals(&mut life, &platform).await;
    }
}

#[tokio::test(start_paused = true)]
async fn no_storage_for_the_seed() {
    let platform = quick();
    let (token, secret) = platform.token();
    platform.withdraw(&token, "Datastore.Audit");
    platform.withdraw(&token, "Datastore.AllocateSpace");
    let mut life = strict(&platform);
    let says = ["ISO image", "Datastore.Audit"];
    refused(&mut life, &Class::Misconfigured, &says).await;
    assert_eq!(platform.vms_left(), []);
    platform.add_token(TokenSpec::provider(token, secret));
    heals(&mut life, &platform).await;
}

#[tokio::test(start_paused = true)]
async fn silent_node() {
    let platform = quick();
    let mut life = Life::new(&platform, "m-0");
    assert!(matches!(life.run().await, Halt::Settled));
    let claim = life.claim.clone().unwrap();
    platform.silence_node(&claim.node);
    tokio::time::sleep(Duration::from_secs(30)).await;
    let seen = Machines
        .observe(&life.on, &claim, Depth::Thing)
        .await
        .unwrap();
    let Lookup::Unsettled(waiting) = seen else {
        panic!("settled: {seen:?}");
    };
    assert_eq!(waiting.reason, "NodeUnreachable");
    assert!(waiting.message.contains(&claim.node), "{}", waiting.message);
    life.deleting = true;
    life.strict = true;
    assert!(
        matches!(life.run().await, Halt::Waiting(_)),
        "it is not taken for gone"
    );
    platform.restore_node(&claim.node);
    tokio::time::sleep(Duration::from_secs(30)).await;
    life.strict = false;
    assert!(matches!(life.run().await, Halt::Gone));
    assert_eq!(platform.vms_left(), []);
}

#[tokio::test(start_paused = true)]
async fn malformed_bootstrap_data() {
    let platform = quick();
    for (data, format, says) in [
        (&b"runcmd: [secret]"[..], Format::CloudConfig, "first line"),
        (&b""[..], Format::CloudConfig, "empty"),
        (&b"{}"[..], Format::Ignition, "ignition.version"),
        (&b"{\"secret"[..], Format::Ignition, "line 1, column 8"),
    ] {
        let mut life = strict(&platform);
        let good = std::mem::replace(&mut life.bootstrap, Bootstrap::new(format, data));
        let error = refused(&mut life, &Class::Misconfigured, &["bootstrap data", says]).await;
        assert!(!error.to_string().contains("secret"), "{error}");
        assert_eq!(platform.isos_left(), []);
        life.bootstrap = good;
        heals(&mut life, &platform).await;
        life.deleting = true;
        assert!(matches!(life.run().await, Halt::Gone));
    }
}

#[tokio::test(start_paused = true)]
async fn no_quorum_and_full_storage_are_waited_for() {
    let platform = quick();
    let mut life = strict(&platform);
    platform.set_quorate(false);
    refused(&mut life, &Class::Transient, &["no quorum"]).await;
    platform.set_quorate(true);
    platform.set_storage_full("shared", true);
    let full = Class::RetryAfter(Duration::from_secs(60));
    refused(&mut life, &full, &["space", "make room"]).await;
    assert_eq!(platform.vms_left(), []);
    platform.set_storage_full("shared", false);
    heals(&mut life, &platform).await;
}

/// Over real TLS. A certificate that is not trusted is told from an endpoint that does not answer.
#[tokio::test]
async fn tls_mismatch() {
    let platform = quick();
    let server = platform
        .serve("127.0.0.1:0".parse().unwrap())
        .await
        .unwrap();
    let (token, secret) = platform.token();
    let ask = async |trust: Trust| {
        let https = Https::new(server.url().parse().unwrap(), &trust).unwrap();
        let secret = secret.clone().into();
        Client::new(Arc::new(https), &token, &secret)
            .version()
            .await
    };
    let strangers = Trust::roots("").unwrap();
    for trust in [strangers, Trust::Pinned(Fingerprint::of(b"another"))] {
        let error = ask(trust).await.unwrap_err();
        assert_eq!(error.class(), Class::Credentials, "{error}");
        assert!(matches!(error, Error::Unanswered { .. }));
        let message = error.to_string();
        for part in ["certificate of 127.0.0.1", "root_ca", "fingerprint"] {
            assert!(message.contains(part), "{part} is missing: {message}");
        }
    }
    let pinned = Trust::Pinned(server.fingerprint().parse().unwrap());
    for trust in [
        Trust::roots(server.ca_pem()).unwrap(),
        pinned,
        Trust::Insecure,
    ] {
        ask(trust).await.unwrap();
    }
}
