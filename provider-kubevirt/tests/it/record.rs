//! Keeps what the provider writes into infra clusters, for those who can read it as KubeVirt does: with
//! `KUBEVIRT_OBJECTS` set to a file, every object and every patch of all tests is added to it, a line
//! each. The suite `strict` of `e2e` decodes them by the published Go types.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::Write;
use std::sync::{LazyLock, Mutex};

use http::{Method, Request};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tower::service_fn;

const VARIABLE: &str = "KUBEVIRT_OBJECTS";

/// Tests run beside each other, and a line must not be torn.
static FILE: LazyLock<Mutex<Option<OsString>>> =
    LazyLock::new(|| Mutex::new(std::env::var_os(VARIABLE).filter(|path| !path.is_empty())));

/// The same client; what goes through it is kept, if anybody asks for it.
pub(crate) fn recorded(client: Client) -> Client {
    if FILE.lock().unwrap().is_none() {
        return client;
    }
    let namespace = client.default_namespace().to_owned();
    let service = service_fn(move |request: Request<Body>| {
        let client = client.clone();
        async move {
            let (parts, body) = request.into_parts();
            let bytes = body.collect_bytes().await?;
            if [Method::POST, Method::PATCH, Method::PUT].contains(&parts.method) {
                let object = serde_json::from_slice(&bytes).unwrap();
                keep(&object_of(parts.uri.path(), object));
            }
            client
                .send(Request::from_parts(parts, Body::from(bytes.to_vec())))
                .await
        }
    });
    Client::new(service, namespace)
}

/// The object that is written; a merge patch does not say what it is a part of, its path does.
fn object_of(path: &str, mut object: Value) -> Value {
    assert!(object.is_object(), "{path}: only objects can be read back");
    let words: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let (version, rest) = match words.as_slice() {
        ["api", version, rest @ ..] => ((*version).to_owned(), rest),
        ["apis", group, version, rest @ ..] => (format!("{group}/{version}"), rest),
        other => panic!("{other:?} is no path of an object"),
    };
    let [_, _, plural, ..] = rest else {
        panic!("{path} is not in a namespace")
    };
    let kind = match *plural {
        "secrets" => "Secret",
        "services" => "Service",
        "events" => "Event",
        "virtualmachines" => "VirtualMachine",
        "virtualmachineinstances" => "VirtualMachineInstance",
        "virtualmachineinstancemigrations" => "VirtualMachineInstanceMigration",
        other => panic!("the provider has no business with {other}"),
    };
    for (field, value) in [("apiVersion", version), ("kind", kind.to_owned())] {
        if object[field].is_null() {
            object[field] = json!(value);
        }
    }
    object
}

fn keep(object: &Value) {
    let path = FILE.lock().unwrap();
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(path.as_ref().unwrap())
        .unwrap();
    file.write_all(format!("{object}\n").as_bytes()).unwrap();
}

#[test]
fn what_is_written_is_named_by_its_path() {
    let path = "/apis/kubevirt.io/v1/namespaces/a/virtualmachines/m";
    let named = object_of(path, json!({"spec": {}}));
    assert_eq!(named["apiVersion"], "kubevirt.io/v1");
    assert_eq!(named["kind"], "VirtualMachine");
    let path = "/api/v1/namespaces/a/secrets";
    let whole = json!({"apiVersion": "v1", "kind": "Secret", "data": {}});
    assert_eq!(object_of(path, whole.clone()), whole);
}
