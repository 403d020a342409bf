//! The TLS face, through sockets.

use std::net::{Ipv4Addr, SocketAddr};

use capi_testkit::apiserver::{ApiServer, TlsFace};
use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client, Config,
    api::{PostParams, WatchEvent, WatchParams},
    config::{AuthInfo, KubeConfigOptions, Kubeconfig},
};
use serde_json::json;

pub(crate) async fn face(server: &ApiServer) -> TlsFace {
    server
        .serve_tls(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
        .await
        .expect("a free port")
}

async fn config(text: &str) -> Config {
    let kubeconfig = Kubeconfig::from_yaml(text).expect("the kubeconfig is one");
    let options = KubeConfigOptions::default();
    Config::from_custom_kubeconfig(kubeconfig, &options)
        .await
        .expect("the kubeconfig is complete")
}

fn map(name: &str) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name}})).expect("this is a ConfigMap")
}

#[tokio::test]
async fn a_client_certificate_names_the_actor() {
    let server = ApiServer::new();
    let face = face(&server).await;
    let kubeconfig = face.kubeconfig("alice", &["system:masters"]).unwrap();
    let client = Client::try_from(config(&kubeconfig).await).unwrap();
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    maps.create(&PostParams::default(), &map("a"))
        .await
        .unwrap();
    let stream = maps.watch(&WatchParams::default(), "1").await.unwrap();
    let mut stream = std::pin::pin!(stream);
    let event = stream.next().await.unwrap().unwrap();
    assert!(matches!(event, WatchEvent::Added(map) if map.metadata.name.as_deref() == Some("a")));
    assert_eq!(server.audit().writes("alice").len(), 1);
    face.stop().await;
    assert!(
        stream.next().await.is_none_or(|event| event.is_err()),
        "the stop ends watches"
    );
}

#[tokio::test]
async fn tokens_work_and_strangers_do_not() {
    let server = ApiServer::new();
    let face = face(&server).await;
    let mut config = config(&face.kubeconfig("alice", &[]).unwrap()).await;
    config.auth_info = AuthInfo::default();
    let code = |error: kube::Error| match error {
        kube::Error::Api(status) => status.code,
        other => panic!("{other}"),
    };
    let anonymous = Client::try_from(config.clone()).unwrap();
    assert_eq!(anonymous.apiserver_version().await.unwrap().major, "1");
    let maps: Api<ConfigMap> = Api::default_namespaced(anonymous);
    assert_eq!(code(maps.list(&Default::default()).await.unwrap_err()), 401);

    let mut with_token = config.clone();
    with_token.auth_info.token = Some(face.token("robot", &[]).into());
    let maps: Api<ConfigMap> = Api::default_namespaced(Client::try_from(with_token).unwrap());
    maps.create(&PostParams::default(), &map("a"))
        .await
        .unwrap();
    assert_eq!(server.audit().writes("robot").len(), 1);

    config.auth_info.token = Some("wrong".to_owned().into());
    let maps: Api<ConfigMap> = Api::default_namespaced(Client::try_from(config).unwrap());
    assert_eq!(code(maps.get("a").await.unwrap_err()), 401);
    face.stop().await;
}
