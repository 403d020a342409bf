//! Manifests against the published definitions, with the schema rules of a real API server.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use capi_testkit::schema::Schema;
use provider_proxmox::api::{
    self, ProxmoxCluster, ProxmoxClusterTemplate, ProxmoxMachine, ProxmoxMachineTemplate,
};
use rstest::rstest;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

mod refusals;

/// The schemas of all kinds, compiled once: that takes longer than all tests together.
static SCHEMAS: LazyLock<BTreeMap<String, Schema>> = LazyLock::new(|| {
    let compiled = api::crds().into_iter().map(|definition| {
        let kind = definition.spec.names.kind.clone();
        let definition = serde_json::to_value(definition).unwrap();
        let schema = definition
            .pointer("/spec/versions/0/schema/openAPIV3Schema")
            .unwrap();
        (kind, Schema::compile(schema).unwrap())
    });
    compiled.collect()
});

/// The schema of an object's kind.
fn schema_of(object: &Value) -> &'static Schema {
    &SCHEMAS[object["kind"].as_str().unwrap()]
}

/// The documents of a manifest.
fn documents(text: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(text).unwrap()
}

/// What a server makes of an object; panics with what it would refuse.
pub(crate) fn admit(object: &Value) -> Value {
    let schema = schema_of(object);
    let mut admitted = object.clone();
    let unknown = schema.prune(&mut admitted);
    assert!(
        unknown.is_empty(),
        "{}: unknown fields {unknown:?}",
        object["metadata"]["name"]
    );
    schema.fill_defaults(&mut admitted);
    let errors = refusals(&admitted);
    assert!(
        errors.is_empty(),
        "{}: {errors:#?}",
        object["metadata"]["name"]
    );
    admitted
}

/// What a server would refuse of an object.
pub(crate) fn refusals(object: &Value) -> Vec<String> {
    let errors = schema_of(object).validate(object, None);
    errors.iter().map(ToString::to_string).collect()
}

/// Decodes and encodes an object with the type of its kind.
fn through_types(object: &Value) -> Value {
    fn pass<T: DeserializeOwned + Serialize>(object: &Value) -> Value {
        serde_json::to_value(serde_json::from_value::<T>(object.clone()).unwrap()).unwrap()
    }
    match object["kind"].as_str().unwrap() {
        "ProxmoxCluster" => pass::<ProxmoxCluster>(object),
        "ProxmoxClusterTemplate" => pass::<ProxmoxClusterTemplate>(object),
        "ProxmoxMachine" => pass::<ProxmoxMachine>(object),
        "ProxmoxMachineTemplate" => pass::<ProxmoxMachineTemplate>(object),
        kind => panic!("unknown kind {kind}"),
    }
}

/// Without empty lists, which mean the same as no list.
fn without_empty_lists(mut value: Value) -> Value {
    match &mut value {
        Value::Object(fields) => {
            fields.retain(|_, field| *field != json!([]));
            fields
                .values_mut()
                .for_each(|field| *field = without_empty_lists(field.take()));
        }
        Value::Array(items) => {
            items
                .iter_mut()
                .for_each(|item| *item = without_empty_lists(item.take()));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
    value
}

/// Objects of existing manifests are accepted without a change, strictly decoded; reading them
/// gives the same whether the server applied the defaults or nobody did; and writing them loses
/// nothing and adds no null (rule CRD-10).
#[rstest]
#[case::default(include_str!("manifests/default.yaml"), 3)]
#[case::zones(include_str!("manifests/zones.yaml"), 2)]
#[case::multiple_vlans(include_str!("manifests/multiple-vlans.yaml"), 1)]
#[case::vrf(include_str!("manifests/vrf.yaml"), 1)]
#[case::dual_stack(include_str!("manifests/dual-stack.yaml"), 2)]
#[case::auto_image(include_str!("manifests/auto-image.yaml"), 3)]
#[case::external_control_plane(include_str!("manifests/external-control-plane.yaml"), 1)]
#[case::cluster_class(include_str!("manifests/cluster-class.yaml"), 2)]
#[case::stored(include_str!("manifests/stored.yaml"), 2)]
fn manifests_are_accepted_unchanged(#[case] text: &str, #[case] count: usize) {
    let objects = documents(text);
    assert_eq!(objects.len(), count);
    for object in objects {
        let admitted = without_empty_lists(admit(&object));
        assert_eq!(through_types(&admitted), admitted);
        assert_eq!(
            through_types(&object),
            admitted,
            "defaults differ from the server's"
        );
    }
}

/// Every document of every manifest is read into these types; fields of a later release are not
/// an error.
#[test]
fn unknown_fields_are_tolerated_when_read() {
    let mut object = documents(include_str!("manifests/vrf.yaml")).remove(0);
    let known = through_types(&object);
    object["spec"]["network"]["networkDevices"][0]["fromTheFuture"] = json!({"a": 1});
    assert_eq!(through_types(&object), known);
}

/// ICT-04, IC-02: an endpoint may be absent, and is left out then, not written empty.
#[test]
fn an_absent_endpoint_stays_absent() {
    let object = documents(include_str!("manifests/external-control-plane.yaml")).remove(0);
    let written = through_types(&object);
    assert_eq!(written["spec"].get("controlPlaneEndpoint"), None);
    assert_eq!(written.get("status"), None);
}
