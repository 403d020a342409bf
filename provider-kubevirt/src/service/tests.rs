use rstest::rstest;

use super::*;

const WANTED: Wanted<'static> = Wanted {
    name: "kc-lb",
    namespace: "infra",
    cluster: "c",
    mark: "mark",
};

fn spec(value: Value) -> KubevirtClusterSpec {
    serde_json::from_value(value).unwrap()
}

#[expect(clippy::needless_pass_by_value, reason = "json! makes values")]
fn template(spec: Value) -> KubevirtClusterSpec {
    self::spec(json!({"controlPlaneServiceTemplate": {"spec": spec}}))
}

/// The Service as a server keeps it: with addresses, node ports and defaults.
#[expect(clippy::needless_pass_by_value, reason = "json! makes values")]
fn served(manifest: &Value, extra: Value) -> ServiceView {
    let mut service = manifest.clone();
    service["spec"]["sessionAffinity"] = "None".into();
    service["spec"]["clusterIP"] = "10.96.0.9".into();
    for (at, port) in service["spec"]["ports"]
        .as_array_mut()
        .unwrap()
        .iter_mut()
        .enumerate()
    {
        if port["nodePort"].is_null() {
            port["nodePort"] = (30_001 + at).into();
        }
    }
    let mut merged = service;
    json_merge(&mut merged, &extra);
    serde_json::from_value(merged).unwrap()
}

fn json_merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                json_merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "json! makes values")]
fn ingress(list: Value) -> Value {
    json!({"status": {"loadBalancer": {"ingress": list}}})
}

#[test]
fn the_template_passes_through_whole_and_the_rest_is_added() {
    let spec = spec(json!({"controlPlaneServiceTemplate": {
        "metadata": {"labels": {"team": "a"}, "annotations": {"metallb.io/address-pool": "p"}},
        "spec": {"type": "LoadBalancer", "loadBalancerClass": "metallb", "ipFamilyPolicy":
            "PreferDualStack", "allocateLoadBalancerNodePorts": false},
    }}));
    let made = manifest(&spec, &WANTED);
    assert_eq!(made["metadata"]["labels"]["team"], "a");
    assert_eq!(made["metadata"]["labels"][CLUSTER_NAME_LABEL], "c");
    assert_eq!(
        made["metadata"]["annotations"]["metallb.io/address-pool"],
        "p"
    );
    assert_eq!(made["metadata"]["annotations"][MARK_ANNOTATION], "mark");
    assert_eq!(made["spec"]["loadBalancerClass"], "metallb");
    assert_eq!(made["spec"]["allocateLoadBalancerNodePorts"], false);
    assert_eq!(
        made["spec"]["selector"],
        json!({
        "cluster.x-k8s.io/role": "control-plane", "cluster.x-k8s.io/cluster-name": "c"})
    );
    assert_eq!(
        made["spec"]["ports"],
        json!([
        {"port": 6443, "targetPort": 6443, "protocol": "TCP"}])
    );
    assert_eq!(drift(&made, &served(&made, json!({}))), None);
}

/// CAPK 365: only the port of the endpoint can be set.
#[rstest]
#[case(json!("ClusterIP"), 443, json!({"port": 443, "targetPort": 6443, "protocol": "TCP"}))]
#[case(json!("LoadBalancer"), 443, json!({"port": 443, "targetPort": 6443, "protocol": "TCP"}))]
#[case(json!("NodePort"), 31_000,
    json!({"port": 6443, "targetPort": 6443, "protocol": "TCP", "nodePort": 31_000}))]
fn capk_365_the_port_of_the_endpoint_is_the_services(
    #[case] kind: Value,
    #[case] port: i32,
    #[case] expected: Value,
) {
    let spec = spec(json!({
        "controlPlaneEndpoint": {"port": port},
        "controlPlaneServiceTemplate": {"spec": {"type": kind}},
    }));
    let made = manifest(&spec, &WANTED);
    assert_eq!(made["spec"]["ports"], json!([expected]));
}

#[rstest]
#[case::cluster_ip(json!({}), json!({}), Ok("10.96.0.9:6443"))]
#[case::no_address(json!({}), json!({"spec": {"clusterIP": ""}}), Err("WaitingForLoadBalancer"))]
#[case::ip(json!({"type": "LoadBalancer"}), ingress(json!([{"ip": "192.0.2.7"}])), Ok("192.0.2.7:6443"))]
#[case::hostname(json!({"type": "LoadBalancer"}), ingress(json!([{"hostname": "lb.example"}])), Ok("lb.example:6443"))]
#[case::both(json!({"type": "LoadBalancer"}), ingress(json!([{}, {"hostname": "h", "ip": "192.0.2.7"}])), Ok("192.0.2.7:6443"))]
#[case::pending(json!({"type": "LoadBalancer"}), json!({}), Err("WaitingForLoadBalancer"))]
#[case::six(json!({}), json!({"spec": {"clusterIP": "fd00::9"}}), Ok("[fd00::9]:6443"))]
#[case::nodes(json!({"type": "NodePort"}), json!({}), Err("ControlPlaneHostMissing"))]
#[case::own_port(json!({"ports": [{"port": 7443, "targetPort": 6443}, {"port": 9}]}), json!({}), Ok("10.96.0.9:7443"))]
fn the_endpoint_is_where_the_service_is(
    #[case] body: Value,
    #[case] server: Value,
    #[case] expected: Result<&str, &str>,
) {
    let spec = template(body);
    let service = served(&manifest(&spec, &WANTED), server);
    let got = endpoint(&spec, &service)
        .map(|e| e.to_string())
        .map_err(|w| w.reason);
    assert_eq!(got, expected.map(str::to_owned));
}

/// CAPK 338: the endpoint of a NodePort Service is a node, at the node port.
#[test]
fn capk_338_a_node_port_is_reached_at_the_host_that_was_given() {
    let spec = spec(json!({
        "controlPlaneEndpoint": {"host": "nodes.example"},
        "controlPlaneServiceTemplate": {"spec": {"type": "NodePort"}},
    }));
    let service = served(&manifest(&spec, &WANTED), json!({}));
    assert_eq!(
        endpoint(&spec, &service).unwrap().to_string(),
        "nodes.example:30001"
    );
}

#[test]
fn a_change_of_the_template_changes_the_service_and_nothing_else() {
    let before = spec(json!({"controlPlaneServiceTemplate": {
        "metadata": {"labels": {"team": "a", "old": "x"}},
        "spec": {"externalTrafficPolicy": "Local", "sessionAffinity": "ClientIP"}}}));
    let after = spec(json!({"controlPlaneServiceTemplate": {
        "metadata": {"labels": {"team": "b"}},
        "spec": {"sessionAffinity": "None"}}}));
    let mut service = served(&manifest(&before, &WANTED), json!({}));
    service
        .metadata
        .labels
        .get_or_insert_default()
        .insert("theirs".into(), "y".into());
    let wanted = manifest(&after, &WANTED);
    let patch = drift(&wanted, &service).unwrap();
    assert_eq!(
        patch["metadata"]["labels"],
        json!({"team": "b", "old": null})
    );
    assert_eq!(patch["spec"]["externalTrafficPolicy"], Value::Null);
    assert!(
        patch["spec"]
            .as_object()
            .unwrap()
            .contains_key("externalTrafficPolicy")
    );
    assert!(!patch["spec"].as_object().unwrap().contains_key("ports"));
}

#[test]
fn ports_that_change_keep_their_node_ports() {
    let before = template(json!({"type": "NodePort"}));
    let after = template(json!({"type": "NodePort", "ports": [{"port": 443, "targetPort": 6443}]}));
    let service = served(&manifest(&before, &WANTED), json!({}));
    let patch = drift(&manifest(&after, &WANTED), &service).unwrap();
    assert_eq!(patch["spec"]["ports"][0]["nodePort"], 30_001);
}

#[test]
fn a_selector_is_what_is_wanted_and_no_more() {
    let spec = spec(json!({}));
    let made = manifest(&spec, &WANTED);
    let service = served(&made, json!({"spec": {"selector": {"also": "this"}}}));
    let patch = drift(&made, &service).unwrap();
    assert_eq!(patch["spec"]["selector"], made["spec"]["selector"]);
}

#[test]
fn r9_a_service_that_is_made_again_asks_for_the_address_it_had() {
    for (kind, field) in [
        ("ClusterIP", "clusterIP"),
        ("LoadBalancer", "loadBalancerIP"),
    ] {
        let spec = spec(json!({
            "controlPlaneEndpoint": {"host": "10.96.0.9", "port": 6443},
            "controlPlaneServiceTemplate": {"spec": {"type": kind}},
        }));
        assert_eq!(
            placed(&spec, manifest(&spec, &WANTED))["spec"][field],
            "10.96.0.9"
        );
    }
    let by_name = spec(json!({"controlPlaneEndpoint": {"host": "lb.example", "port": 6443}}));
    let made = manifest(&by_name, &WANTED);
    assert_eq!(placed(&by_name, made.clone()), made);
}

#[test]
fn ic_04_an_endpoint_is_not_given_up_for_another_type() {
    let balanced = template(json!({"type": "LoadBalancer"}));
    let service = served(
        &manifest(&balanced, &WANTED),
        ingress(json!([{"ip": "192.0.2.7"}])),
    );
    let patch = drift(&manifest(&template(json!({})), &WANTED), &service).unwrap();
    let at = |host: &str| Endpoint {
        host: host.into(),
        port: 6443,
    };
    assert!(
        loses_endpoint(&at("192.0.2.7"), &service, &patch)
            .unwrap()
            .contains("192.0.2.7")
    );
    assert_eq!(loses_endpoint(&at("10.96.0.9"), &service, &patch), None);
    assert_eq!(loses_endpoint(&at("vip.example"), &service, &patch), None);
    assert!(
        astray(&at("192.0.2.8"), &service)
            .unwrap()
            .contains("192.0.2.7, 10.96.0.9")
    );
    assert_eq!(astray(&at("10.96.0.9"), &service), None);
}

#[test]
fn a_template_that_cannot_be_a_service_names_the_field() {
    for (body, field) in [
        (json!({"type": "ExternalName"}), "spec.type"),
        (json!({"clusterIP": "None"}), "clusterIP"),
        (json!({"selector": {"a": "b"}}), "selector"),
        (json!({"ports": []}), "ports"),
    ] {
        let faults = faults(&template(body));
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(faults[0].contains(field), "{faults:?}");
    }
    assert!(faults(&spec(json!({}))).is_empty());
}

#[test]
fn the_go_providers_service_is_known_by_label_and_selector() {
    let service = |label: &str, selects: &str| -> ServiceView {
        serde_json::from_value(json!({
            "metadata": {"name": "kc-lb", "labels": {CLUSTER_NAME_LABEL: label}},
            "spec": {"selector": {ROLE_LABEL: "control-plane", CLUSTER_NAME_LABEL: selects}},
        }))
        .unwrap()
    };
    assert!(is_of_the_go_provider(&service("c", "c"), "c"));
    assert!(!is_of_the_go_provider(&service("c", "other"), "c"));
    assert!(!is_of_the_go_provider(&service("other", "c"), "c"));
}
