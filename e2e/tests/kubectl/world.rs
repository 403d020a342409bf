//! What the user of a transcript finds: a management cluster with the kinds of Cluster API and of the
//! Proxmox VE provider, the objects of `state/`, and nobody who acts on them, so that all that happens
//! is what is typed. The transcripts `quickstart...` find the quick start instead, where everybody
//! acts.

use std::net::{Ipv4Addr, SocketAddr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use capi_testkit::{
    apiserver::{ApiServer, Authorization, ServiceBackend, TlsFace},
    crds,
};
use http::{Request, Response};
use kube::{
    Api, Client,
    api::{DynamicObject, Patch, PatchParams, PostParams},
    core::GroupVersionKind,
    discovery::ApiResource,
};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::quickstart::QuickStart;

/// The objects, owners before what they own.
const STATE: &str = include_str!("state/cluster.yaml");

/// A served management cluster.
pub(crate) struct World {
    kubeconfig: String,
    running: Running,
}

/// What serves it, which ends with it.
enum Running {
    Own {
        face: Option<TlsFace>,
        runtime: Runtime,
    },
    QuickStart(#[expect(dead_code, reason = "is kept to be dropped")] QuickStart),
}

impl World {
    /// A server for the transcript of this name.
    pub(crate) fn start(transcript: &str) -> Self {
        let provider = match transcript {
            "quickstart" => Some("proxmox"),
            "quickstart-kubevirt" => Some("kubevirt"),
            _ => None,
        };
        if let Some(provider) = provider {
            let quickstart = QuickStart::start(provider);
            return Self {
                kubeconfig: quickstart.kubeconfig(),
                running: Running::QuickStart(quickstart),
            };
        }
        let runtime = Runtime::new().expect("threads can be started");
        let (kubeconfig, face) = runtime.block_on(async {
            let server = server(transcript);
            server.serve_service("default", "webhook", ServiceBackend::handler(judge));
            populate(&server.client("core")).await;
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            let face = server.serve_tls(address).await.expect("a free port");
            let kubeconfig = face.kubeconfig("admin", &["system:masters"]);
            (kubeconfig.expect("a certificate"), face)
        });
        let face = Some(face);
        Self {
            kubeconfig,
            running: Running::Own { face, runtime },
        }
    }

    /// Whether others act here than the user.
    pub(crate) fn is_lively(&self) -> bool {
        matches!(self.running, Running::QuickStart(_))
    }

    /// A kubeconfig with all rights.
    pub(crate) fn kubeconfig(&self) -> &str {
        &self.kubeconfig
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        match self {
            Self::Own { face, runtime } => {
                if let Some(face) = face.take() {
                    runtime.block_on(face.stop());
                }
            }
            Self::QuickStart(_) => {}
        }
    }
}

fn server(transcript: &str) -> ApiServer {
    let mut builder = ApiServer::builder().seed(1);
    if transcript == "rights" {
        builder = builder.authorization(Authorization::Rbac);
    }
    let server = builder.build();
    let published = server.install_crds(crds::all());
    published.expect("published definitions are valid");
    let ours = server.install_crds(provider_proxmox::api::crds());
    ours.expect("our definitions are valid");
    server
}

/// The webhook of `manifests/webhooks.yaml`: labels what is new, warns always, and refuses thirteen
/// replicas and the deletion of clusters.
async fn judge(request: Request<Bytes>) -> Response<Bytes> {
    let review: Value = serde_json::from_slice(request.body()).expect("reviews are JSON");
    let asked = &review["request"];
    let refusal = match (&asked["operation"], &asked["object"]["spec"]["replicas"]) {
        (Value::String(operation), _) if operation == "DELETE" => Some(json!({
            "code": 403, "reason": "Forbidden", "message": "clusters are kept",
        })),
        (_, replicas) if *replicas == 13 => Some(json!({
            "code": 422,
            "reason": "Invalid",
            "message": "MachineDeployment.cluster.x-k8s.io \"more-workers\" is invalid: \
                        spec.replicas: Invalid value: 13: brings bad luck",
        })),
        _ => None,
    };
    let mut response = json!({"uid": asked["uid"], "allowed": refusal.is_none()});
    if let Some(status) = refusal {
        response["status"] = status;
    } else if request.uri().path() == "/mutate" {
        let label = json!([{"op": "add", "path": "/metadata/labels", "value": {"new": "true"}}]);
        response["patchType"] = "JSONPatch".into();
        response["patch"] = STANDARD.encode(label.to_string()).into();
    } else {
        response["warnings"] = json!(["counting machines is not for everyone"]);
    }
    let review = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response,
    });
    Response::new(Bytes::from(review.to_string()))
}

async fn populate(client: &Client) {
    let documents: Vec<Value> = serde_saphyr::from_multiple(STATE).expect("the state is YAML");
    for mut document in documents {
        fill_uids(client, &mut document).await;
        fill_times(&mut document);
        let api = api(client, &document["apiVersion"], &document["kind"]);
        let status = document
            .as_object_mut()
            .and_then(|map| map.remove("status"));
        let object: DynamicObject = serde_json::from_value(document).expect("this is an object");
        let name = object.metadata.name.clone().expect("all have names");
        let created = api.create(&PostParams::default(), &object).await;
        created.unwrap_or_else(|error| panic!("create {name}: {error}"));
        if let Some(status) = status {
            let patch = Patch::Merge(json!({"status": status}));
            let patched = api
                .patch_status(&name, &PatchParams::default(), &patch)
                .await;
            patched.unwrap_or_else(|error| panic!("patch the status of {name}: {error}"));
        }
    }
}

/// Uids are made by the server: references to owners, and of events, get them from there.
async fn fill_uids(client: &Client, document: &mut Value) {
    let is_event = document["involvedObject"].is_object();
    let references: Vec<&mut Value> = if is_event {
        document.get_mut("involvedObject").into_iter().collect()
    } else {
        let owners = document.pointer_mut("/metadata/ownerReferences");
        let owners = owners.and_then(Value::as_array_mut);
        owners.into_iter().flatten().collect()
    };
    for reference in references {
        let api = api(client, &reference["apiVersion"], &reference["kind"]);
        let name = reference["name"].as_str().expect("references have names");
        let object = api.get(name).await.expect("owners come first");
        reference["uid"] = json!(object.metadata.uid);
    }
}

/// Events are as young as everything else, so that their ages are as wide.
fn fill_times(document: &mut Value) {
    if document["involvedObject"].is_object() {
        for field in ["firstTimestamp", "lastTimestamp"] {
            document[field] = json!(jiff::Timestamp::now().round(jiff::Unit::Second).ok());
        }
    }
}

fn api(client: &Client, api_version: &Value, kind: &Value) -> Api<DynamicObject> {
    let text = |value: &Value| value.as_str().expect("this is text").to_owned();
    let api_version = text(api_version);
    let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &text(kind)));
    Api::default_namespaced_with(client.clone(), &resource)
}
