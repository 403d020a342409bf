//! Services get what a cloud and an API server give them.

use serde_json::{Value, json};

use crate::world::{World, builder};

fn service(name: &str, kind: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"type": kind, "selector": {"a": "b"}, "ports": [{"name": "api", "port": 6443}]},
    })
}

fn ingress(world: &World, name: &str) -> Value {
    let service = world.get("services", name).expect("a Service");
    service["status"]["loadBalancer"]["ingress"].clone()
}

#[tokio::test(start_paused = true)]
async fn each_type_gets_its_addresses_and_ports() {
    let world = World::start(builder()).await;
    let inner = world
        .create("Service", service("inner", "ClusterIP"))
        .await
        .expect("is created");
    assert_eq!(inner.data["spec"]["clusterIP"], "10.96.0.10");
    assert!(inner.data["spec"]["ports"][0].get("nodePort").is_none());
    let node = world
        .create("Service", service("node", "NodePort"))
        .await
        .expect("is created");
    assert_eq!(node.data["spec"]["clusterIP"], "10.96.0.11");
    assert_eq!(node.data["spec"]["ports"][0]["nodePort"], 30_000);
    let outer = world
        .create("Service", service("outer", "LoadBalancer"))
        .await
        .expect("is created");
    assert_eq!(outer.data["spec"]["ports"][0]["nodePort"], 30_001);
    world.settle().await;
    assert_eq!(ingress(&world, "inner"), Value::Null);
    assert_eq!(ingress(&world, "outer")[0]["ip"], "192.168.100.1");

    // What it has it keeps, and gives back with its type.
    world
        .patch(
            "Service",
            "outer",
            json!({"metadata": {"labels": {"x": "y"}}}),
        )
        .await;
    world.settle().await;
    let outer = world.get("services", "outer").expect("a Service");
    assert_eq!(outer["spec"]["ports"][0]["nodePort"], 30_001);
    world
        .patch("Service", "outer", json!({"spec": {"type": "ClusterIP"}}))
        .await;
    world.settle().await;
    assert_eq!(ingress(&world, "outer"), Value::Null);
}

#[tokio::test(start_paused = true)]
async fn an_address_is_asked_for_and_comes_back_when_the_service_goes() {
    let range = "192.168.100.0/30".parse().expect("a range");
    let world = World::start(builder().load_balancer_addresses(range)).await;
    let mut wanted = service("a", "LoadBalancer");
    wanted["metadata"]["annotations"] = json!({"metallb.io/loadBalancerIPs": "192.168.100.2"});
    world.create("Service", wanted).await.expect("is created");
    world
        .create("Service", service("b", "LoadBalancer"))
        .await
        .expect("is created");
    world
        .create("Service", service("c", "LoadBalancer"))
        .await
        .expect("is created");
    world.settle().await;
    assert_eq!(ingress(&world, "a")[0]["ip"], "192.168.100.2");
    assert_eq!(ingress(&world, "b")[0]["ip"], "192.168.100.1");
    assert_eq!(ingress(&world, "c"), Value::Null, "none is left");
    world.delete("Service", "b").await;
    world
        .until("an address", |world| {
            ingress(world, "c")[0]["ip"].as_str().map(str::to_owned)
        })
        .await;
}
