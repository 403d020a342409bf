//! Defects of the Go provider, each with a test that shows that it is none of ours.

use crate::site::{Fleet, Site, condition, is_provisioned, machine};

/// Defect 8: no key pair, no user in the guest: the bootstrap data arrive as they were.
#[tokio::test(start_paused = true)]
async fn defect_8_bootstrap_data_arrive_unchanged_and_without_ssh_keys() {
    let site = Site::usual().await;
    let fleet = Fleet::create(&site).await;
    site.start();
    fleet.add("m-0").await;
    site.until("supplied", |site| !site.secrets().is_empty())
        .await;
    let here = site
        .server
        .object("secrets", "default", "m-0-bootstrap")
        .unwrap();
    assert_eq!(site.secrets()[0]["data"]["userdata"], here["data"]["value"]);
    let secrets = site.server.objects("secrets");
    assert!(!secrets.iter().any(|secret| {
        secret["metadata"]["name"]
            .as_str()
            .unwrap()
            .ends_with("-ssh-keys")
    }));
}

/// Defect 14: a wait is no failure.
#[tokio::test(start_paused = true)]
async fn defect_14_waiting_for_the_bootstrap_is_not_called_failed() {
    let site = Site::usual().await;
    let fleet = Fleet::create(&site).await;
    site.start();
    fleet.add("m-0").await;
    site.until("provisioned", |site| {
        is_provisioned(&site.machine("m-0").unwrap())
    })
    .await;
    let object = site.machine("m-0").unwrap();
    let check = condition(&object, "BootstrapExecSucceeded").unwrap();
    assert_eq!(check["reason"], "BootstrapCheckingNotSupported", "{check}");
    assert_eq!(check["status"], "Unknown");
    fleet.join("m-0").await;
    site.until("joined", |site| {
        let object = site.machine("m-0").unwrap();
        condition(&object, "BootstrapExecSucceeded").unwrap()["status"] == "True"
    })
    .await;
}

/// Defect 9 is the price of being drop-in: the cloud controller manager for KubeVirt writes the same
/// id. Two machines of one namespace never share one, since the server gives a name once.
#[tokio::test(start_paused = true)]
async fn defect_9_the_provider_id_is_the_vm_that_it_names() {
    let site = Site::usual().await;
    let fleet = Fleet::create(&site).await;
    site.start();
    for name in ["m-0", "m-1"] {
        fleet.add_like(name, machine()).await;
    }
    site.until("provisioned", |site| {
        ["m-0", "m-1"]
            .iter()
            .all(|name| is_provisioned(&site.machine(name).unwrap()))
    })
    .await;
    for name in ["m-0", "m-1"] {
        let id = format!("kubevirt://{name}");
        assert_eq!(site.machine(name).unwrap()["spec"]["providerID"], id);
        assert!(site.vm(name).is_some());
    }
}
