//! The webhooks in an embedded API server.

use std::net::IpAddr;
use std::sync::{Arc, Weak};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use capi_testkit::actor::{Name, Object};
use capi_testkit::apiserver::{ApiServer, ServiceBackend};
use http::{Request, Response};
use kube::api::{Api, ApiResource, DynamicObject, PostParams};
use kube::core::GroupVersionKind;
use kube::{Client, Error};
use serde_json::{Value, json};

use super::{Cause, causes};
use crate::word::{INSTANCE, MIGRATION};
use crate::world::World;

/// Where virt-api answers, and where what a real API server does by itself.
const NAMESPACE: &str = "kubevirt";
const SERVICE: &str = "virt-api";

/// Creates the configurations of the webhooks.
pub(crate) async fn configure(client: &Client) -> Result<(), Error> {
    for (kind, configuration) in configurations() {
        let kind = GroupVersionKind::gvk("admissionregistration.k8s.io", "v1", kind);
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &ApiResource::from_gvk(&kind));
        let object = serde_json::from_value(configuration).map_err(Error::SerdeError)?;
        api.create(&PostParams::default(), &object).await?;
    }
    Ok(())
}

fn configurations() -> [(&'static str, Value); 2] {
    let hook = |name: &str, group: &str, resource: &str, operations: &[&str], path: &str| {
        json!({
            "name": name,
            "clientConfig": {"service": {"namespace": NAMESPACE, "name": SERVICE, "path": path}},
            "rules": [{"operations": operations, "apiGroups": [group], "apiVersions": ["v1"],
                "resources": [resource]}],
            "sideEffects": "NoneOnDryRun", "admissionReviewVersions": ["v1"],
        })
    };
    let configuration = |kind: &str, name: &str, webhooks: &[Value]| {
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": kind,
            "metadata": {"name": name}, "webhooks": webhooks,
        })
    };
    let group = "kubevirt.io";
    let both = &["CREATE", "UPDATE"];
    let mutating = [
        hook(
            "virtualmachines-mutator.kubevirt.io",
            group,
            "virtualmachines",
            &["CREATE"],
            "/virtualmachines-mutate",
        ),
        hook(
            "services.simulated.io",
            "",
            "services",
            both,
            "/services-allocate",
        ),
    ];
    let validating = [
        hook(
            "virtualmachine-validator.kubevirt.io",
            group,
            "virtualmachines",
            both,
            "/virtualmachines-validate",
        ),
        hook(
            "migration-create-validator.kubevirt.io",
            group,
            "virtualmachineinstancemigrations",
            &["CREATE"],
            "/migration-validate-create",
        ),
    ];
    let kinds = [
        "MutatingWebhookConfiguration",
        "ValidatingWebhookConfiguration",
    ];
    [
        (
            kinds[0],
            configuration(kinds[0], "virt-api-mutator", &mutating),
        ),
        (
            kinds[1],
            configuration(kinds[1], "virt-api-validator", &validating),
        ),
    ]
}

/// Answers behind virt-api's Service, as long as the world is there.
pub(crate) fn serve_in(server: &ApiServer, world: &Arc<World>) {
    let world: Weak<World> = Arc::downgrade(world);
    let handler = move |request: Request<Bytes>| {
        let answer = world.upgrade().map(|world| answer(&world, &request));
        std::future::ready(match answer {
            Some(answer) => Response::new(Bytes::from(answer.to_string())),
            None => {
                let mut gone = Response::new(Bytes::new());
                *gone.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
                gone
            }
        })
    };
    server.serve_service(NAMESPACE, SERVICE, ServiceBackend::handler(handler));
}

/// What a webhook says.
enum Verdict {
    Allowed,
    /// With this as the new spec.
    Changed(Value),
    Denied(Vec<Cause>),
}

fn answer(world: &World, request: &Request<Bytes>) -> Value {
    let review: Value = serde_json::from_slice(request.body()).unwrap_or(Value::Null);
    let asked = &review["request"];
    let object = &asked["object"];
    let verdict = match request.uri().path() {
        "/virtualmachines-validate" => match causes(&object["spec"]) {
            // What is being deleted may be as it was.
            _ if !object["metadata"]["deletionTimestamp"].is_null() => Verdict::Allowed,
            causes if causes.is_empty() => Verdict::Allowed,
            causes => Verdict::Denied(causes),
        },
        "/virtualmachines-mutate" => fill_firmware(world, object),
        "/migration-validate-create" => judge_migration(world, object),
        "/services-allocate" => allocate(world, object, asked["dryRun"] == true),
        _ => Verdict::Allowed,
    };
    let mut response = json!({"uid": asked["uid"], "allowed": true});
    match verdict {
        Verdict::Allowed => {}
        Verdict::Changed(spec) => {
            let patch = json!([{"op": "replace", "path": "/spec", "value": spec}]);
            response["patchType"] = "JSONPatch".into();
            response["patch"] = STANDARD.encode(patch.to_string()).into();
        }
        Verdict::Denied(causes) => {
            response["allowed"] = false.into();
            response["status"] = status(&causes);
        }
    }
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
}

fn status(causes: &[Cause]) -> Value {
    let messages: Vec<&str> = causes.iter().map(|cause| cause.message.as_str()).collect();
    let details: Vec<Value> = causes
        .iter()
        .map(|cause| {
            json!({"reason": "FieldValueInvalid", "field": cause.field, "message": cause.message})
        })
        .collect();
    json!({
        "status": "Failure", "code": 422, "reason": "Invalid", "message": messages.join(", "),
        "details": {"causes": details},
    })
}

/// The uuid and serial number that a machine's firmware shows are chosen once, and stay.
fn fill_firmware(world: &World, object: &Value) -> Verdict {
    let mut spec = object["spec"].clone();
    if !spec["template"]["spec"]["domain"].is_object() {
        return Verdict::Allowed;
    }
    let firmware = &mut spec["template"]["spec"]["domain"]["firmware"];
    let mut is_changed = false;
    for field in ["uuid", "serial"] {
        if firmware[field].as_str().is_none_or(str::is_empty) {
            firmware[field] = world.rng.lock().uuid().into();
            is_changed = true;
        }
    }
    if is_changed {
        Verdict::Changed(spec)
    } else {
        Verdict::Allowed
    }
}

fn judge_migration(world: &World, object: &Value) -> Verdict {
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
    let name = object["spec"]["vmiName"].as_str().unwrap_or_default();
    let denied = |message: String| {
        let field = "spec.vmiName".to_owned();
        Verdict::Denied(vec![Cause { field, message }])
    };
    let Some(instance) = world.hub.get(&INSTANCE, &Name::new(namespace, name)) else {
        return denied(format!("the VMI {namespace}/{name} does not exist"));
    };
    if matches!(instance.text("/status/phase"), Some("Succeeded" | "Failed")) {
        return denied("Cannot migrate VMI in finalized state.".to_owned());
    }
    if let Some(held) = instance
        .condition("LiveMigratable")
        .filter(|held| held.status == "False")
    {
        return denied(format!(
            "Cannot migrate VMI, Reason: {}, Message: {}",
            held.reason, held.message
        ));
    }
    let active = |migration: &&Arc<Object>| {
        migration.namespace() == namespace
            && migration.text("/spec/vmiName") == Some(name)
            && !matches!(
                migration.text("/status/phase"),
                Some("Succeeded" | "Failed")
            )
    };
    match world.hub.all(&MIGRATION).iter().find(active) {
        Some(other) => denied(format!(
            "in-flight migration detected. Active migration job ({}) is currently already in progress for VMI {name}.",
            other.uid()
        )),
        None => Verdict::Allowed,
    }
}

/// The addresses and ports that a real API server gives a Service before it is stored.
fn allocate(world: &World, object: &Value, is_dry_run: bool) -> Verdict {
    let mut spec = object["spec"].clone();
    let kind = spec["type"].as_str().unwrap_or("ClusterIP").to_owned();
    if is_dry_run || kind == "ExternalName" {
        return Verdict::Allowed;
    }
    let text = |key: &str| object["metadata"][key].as_str().unwrap_or_default();
    let holder = Name::new(text("namespace"), text("name")).to_string();
    let mut addresses = world.addresses.lock();
    let asked = spec["clusterIP"].as_str().unwrap_or_default().to_owned();
    if asked != "None" {
        let wanted: Option<IpAddr> = asked.parse().ok();
        let given = addresses.service(&holder, wanted);
        // An address outside of our range is the user's own affair.
        if let Some(given) = given.or(wanted) {
            let family = if given.is_ipv4() { "IPv4" } else { "IPv6" };
            spec["clusterIP"] = given.to_string().into();
            spec["clusterIPs"] = json!([given.to_string()]);
            spec["ipFamilies"] = json!([family]);
            if spec["ipFamilyPolicy"].is_null() {
                spec["ipFamilyPolicy"] = "SingleStack".into();
            }
        }
    }
    let allocates = kind == "NodePort"
        || (kind == "LoadBalancer" && spec["allocateLoadBalancerNodePorts"] != false);
    for port in spec["ports"].as_array_mut().into_iter().flatten() {
        let asked = port["nodePort"]
            .as_u64()
            .and_then(|port| u16::try_from(port).ok());
        if allocates && asked.is_none_or(|port| port == 0) {
            port["nodePort"] = json!(addresses.port(None));
        } else if let Some(asked) = asked {
            addresses.port(Some(asked));
        }
    }
    if spec == object["spec"] {
        Verdict::Allowed
    } else {
        Verdict::Changed(spec)
    }
}
