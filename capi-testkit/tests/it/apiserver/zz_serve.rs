use super::{secure::face, server};
#[tokio::test(flavor = "multi_thread")]
#[ignore]
async fn zz_serve() {
    let server = server();
    let _ = capi_testkit::crds::cluster_api();
    server
        .install_crds(capi_testkit::crds::cluster_api())
        .unwrap();
    let face = face(&server).await;
    std::fs::write(
        "/tmp/zz.kubeconfig",
        face.kubeconfig("admin", &["system:masters"]).unwrap(),
    )
    .unwrap();
    for _ in 0..600 {
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        let text: Vec<_> = server
            .audit()
            .records()
            .iter()
            .map(|r| {
                format!(
                    "{} {} {}/{}/{} {} {}",
                    r.code, r.verb, r.group, r.resource, r.subresource, r.name, r.user_agent
                )
            })
            .collect();
        std::fs::write("/tmp/zz.audit", text.join("\n")).unwrap();
        if std::path::Path::new("/tmp/zz.stop").exists() {
            break;
        }
    }
    face.stop().await;
}
