//! Typed calls.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use url::form_urlencoded::Serializer;

use super::config::Config;
use super::error::{Error, Refusal};
use super::listing::{Resource, TaskRow, TaskState, TaskStatus, VmStatus};
use super::transport::{Transport, TransportError};
use super::upid::Upid;

/// How long reading may take. A listing of thousands of guests takes the server about a second.
const READ_WITHIN: Duration = Duration::from_secs(15);

/// How long a change may take to be answered. The server gives up on its other nodes after 30 s.
const CHANGE_WITHIN: Duration = Duration::from_secs(40);

/// How long an upload may take: a seed is below 1 MiB, but the server may copy it to another node.
const UPLOAD_WITHIN: Duration = Duration::from_secs(60);

/// How long the server waits for a configuration change or a deletion to end before it answers with
/// a task instead, in seconds. Nearly all end at once, and then no task has to be followed.
const ANSWER_AT_ONCE_WITHIN: u8 = 5;

/// The longest time in which a request may still take effect: the longest of our own limits, and
/// the 30 s that the server's proxy holds a request to another node.
pub const LIFETIME_OF_A_REQUEST: Duration = Duration::from_secs(90);

/// Path below which the API lives, for JSON answers.
const BASE: &str = "/api2/json";

/// A client for one endpoint and token. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    transport: Arc<dyn Transport>,
    authorization: Arc<SecretString>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("transport", &self.transport)
            .finish_non_exhaustive()
    }
}

/// What a clone is made with; the parameters of `POST .../clone`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CloneRequest {
    /// VMID of the new VM.
    pub newid: u32,
    /// Its name.
    pub name: String,
    /// Its notes.
    pub description: String,
    /// Node for the new VM, where it is not the template's.
    pub target: Option<String>,
    /// Whether disks are copied instead of linked.
    pub full: bool,
    /// Storage for a full copy.
    pub storage: Option<String>,
    /// Disk format for a full copy.
    pub format: Option<String>,
    /// Snapshot to clone from.
    pub snapname: Option<String>,
    /// Resource pool for the new VM.
    pub pool: Option<String>,
}

/// An ISO image to be uploaded.
pub struct Image<'a> {
    /// File name on the storage.
    pub name: &'a str,
    /// Its bytes, which hold secrets.
    pub bytes: &'a [u8],
}

impl fmt::Debug for Image<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Image")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// The answer of a call that waits a little before it hands back a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Quick {
    /// Done.
    Done,
    /// Goes on as a task.
    Task(Upid),
}

#[derive(Deserialize)]
struct Envelope<T> {
    data: T,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Complaint {
    message: Option<String>,
    errors: BTreeMap<String, String>,
}

/// One call: what it is for, and the request.
struct Call {
    attempt: Cow<'static, str>,
    method: Method,
    path: String,
    parameters: Vec<(Cow<'static, str>, String)>,
    within: Duration,
}

impl Call {
    fn new(method: Method, attempt: impl Into<Cow<'static, str>>, path: String) -> Self {
        let within = if method == Method::GET {
            READ_WITHIN
        } else {
            CHANGE_WITHIN
        };
        Self {
            attempt: attempt.into(),
            method,
            path,
            parameters: Vec::new(),
            within,
        }
    }

    fn get(attempt: impl Into<Cow<'static, str>>, path: impl Into<String>) -> Self {
        Self::new(Method::GET, attempt, path.into())
    }

    fn post(attempt: impl Into<Cow<'static, str>>, path: impl Into<String>) -> Self {
        Self::new(Method::POST, attempt, path.into())
    }

    fn with(mut self, name: impl Into<Cow<'static, str>>, value: &dyn fmt::Display) -> Self {
        self.parameters.push((name.into(), value.to_string()));
        self
    }

    fn with_some(self, name: &'static str, value: Option<&String>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }
}

impl Client {
    /// A client that speaks through `transport` as the API token `id` (`user@realm!name`).
    pub fn new(transport: Arc<dyn Transport>, id: &str, secret: &SecretString) -> Self {
        let authorization = format!("PVEAPIToken={id}={}", secret.expose_secret());
        Self {
            transport,
            authorization: Arc::new(authorization.into()),
        }
    }

    /// `GET /version`: any token may ask, so it shows whether address, TLS and token are right.
    ///
    /// # Errors
    ///
    /// As for every call: see [`Error`].
    pub async fn version(&self) -> Result<String, Error> {
        #[derive(Deserialize)]
        struct Version {
            version: String,
        }
        let call = Call::get("ask for the version", "/version");
        Ok(self.ask::<Version>(call).await?.version)
    }

    /// `GET /access/permissions?path=`: the privileges of the token on a path.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn rights(&self, path: &str) -> Result<BTreeSet<String>, Error> {
        let attempt = format!("ask for the token's rights on {path}");
        let call = Call::get(attempt, "/access/permissions").with("path", &path);
        type Answer = BTreeMap<String, BTreeMap<String, serde_json::Value>>;
        let all: Answer = self.ask(call).await?;
        Ok(all.into_values().flat_map(BTreeMap::into_keys).collect())
    }

    /// `GET /cluster/resources`: guests, nodes and storages that the token may see.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn resources(&self) -> Result<Vec<Resource>, Error> {
        self.ask(Call::get(
            "list the cluster's resources",
            "/cluster/resources",
        ))
        .await
    }

    /// `GET /cluster/tasks`: running tasks and those that ended last, a few dozen per node.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn tasks(&self) -> Result<Vec<TaskRow>, Error> {
        self.ask(Call::get("list the cluster's tasks", "/cluster/tasks"))
            .await
    }

    /// `GET /nodes/{node}/tasks/{upid}/status`; `None` if the task is not known any more.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn task(&self, upid: &Upid) -> Result<Option<TaskState>, Error> {
        let path = format!(
            "/nodes/{}/tasks/{}/status",
            upid.node(),
            segment(upid.as_str())
        );
        let attempt = format!("ask how task {} on {} stands", upid.kind(), upid.node());
        match self.ask::<TaskStatus>(Call::get(attempt, path)).await {
            Ok(status) => Ok(Some(status.state())),
            Err(error) if error.refusal() == Some(&Refusal::NoSuchTask) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// `GET /cluster/nextid?vmid=`: whether no guest of the whole cluster has this id, including
    /// those that the token may not see.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn is_free(&self, vmid: u32) -> Result<bool, Error> {
        let call = Call::get(
            format!("ask whether VMID {vmid} is free"),
            "/cluster/nextid",
        );
        match self
            .ask::<serde_json::Value>(call.with("vmid", &vmid))
            .await
        {
            Ok(_) => Ok(true),
            Err(error) if error.refusal() == Some(&Refusal::VmidTaken) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// `GET /cluster/nextid`: the lowest free id of the datacenter's own range.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn next_id(&self) -> Result<u32, Error> {
        #[derive(Deserialize)]
        #[serde(transparent)]
        struct Id {
            #[serde(deserialize_with = "super::decode::number")]
            id: Option<u32>,
        }
        let call = Call::get("ask for a free VMID", "/cluster/nextid");
        let attempt = call.attempt.clone();
        self.ask::<Id>(call).await?.id.ok_or(Error::Garbled {
            attempt,
            detail: "there is no id".into(),
        })
    }

    /// `GET .../config`: the configuration with pending changes.
    ///
    /// # Errors
    ///
    /// [`Refusal::NoSuchVm`] if the VM is not on this node; else see [`Error`].
    pub async fn config(&self, node: &str, vmid: u32) -> Result<Config, Error> {
        let attempt = format!("read the configuration of VM {vmid} on {node}");
        self.ask(Call::get(attempt, vm(node, vmid, "/config")))
            .await
    }

    /// `GET .../status/current`.
    ///
    /// # Errors
    ///
    /// [`Refusal::NoSuchVm`] if the VM is not on this node; else see [`Error`].
    pub async fn status(&self, node: &str, vmid: u32) -> Result<VmStatus, Error> {
        let attempt = format!("read the status of VM {vmid} on {node}");
        self.ask(Call::get(attempt, vm(node, vmid, "/status/current")))
            .await
    }

    /// `POST .../clone`.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn clone_vm(
        &self,
        node: &str,
        template: u32,
        request: &CloneRequest,
    ) -> Result<Upid, Error> {
        let attempt = format!(
            "clone template {template} to VM {} on {node}",
            request.newid
        );
        let call = Call::post(attempt, vm(node, template, "/clone"))
            .with("newid", &request.newid)
            .with("name", &request.name)
            .with("description", &request.description)
            .with("full", &u8::from(request.full))
            .with_some("target", request.target.as_ref())
            .with_some("storage", request.storage.as_ref())
            .with_some("format", request.format.as_ref())
            .with_some("snapname", request.snapname.as_ref())
            .with_some("pool", request.pool.as_ref());
        self.ask(call).await
    }

    /// `POST .../config`: sets `changes` if the configuration still has this digest, and deletes
    /// the keys in `deletions`.
    ///
    /// # Errors
    ///
    /// [`Refusal::DigestConflict`] if somebody changed it meanwhile; else see [`Error`].
    pub async fn configure(
        &self,
        node: &str,
        vmid: u32,
        digest: &str,
        changes: &[(String, String)],
        deletions: &[String],
    ) -> Result<Quick, Error> {
        let attempt = format!("configure VM {vmid} on {node}");
        let mut call = Call::post(attempt, vm(node, vmid, "/config"))
            .with("digest", &digest)
            .with("background_delay", &ANSWER_AT_ONCE_WITHIN);
        for (key, value) in changes {
            call = call.with(key.clone(), value);
        }
        if !deletions.is_empty() {
            call = call.with("delete", &deletions.join(","));
        }
        self.ask(call).await.map(quick)
    }

    /// `PUT .../resize` to an absolute size in GiB, if the configuration still has this digest.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn resize(
        &self,
        node: &str,
        vmid: u32,
        digest: &str,
        disk: &str,
        size: u32,
    ) -> Result<Quick, Error> {
        let attempt = format!("resize disk {disk} of VM {vmid} on {node} to {size} GiB");
        let call = Call::new(Method::PUT, attempt, vm(node, vmid, "/resize"))
            .with("digest", &digest)
            .with("disk", &disk)
            .with("size", &format!("{size}G"));
        self.ask(call).await.map(quick)
    }

    /// `POST .../status/start`.
    ///
    /// # Errors
    ///
    /// [`Refusal::Running`] if it runs; else see [`Error`].
    pub async fn start(&self, node: &str, vmid: u32) -> Result<Upid, Error> {
        let attempt = format!("start VM {vmid} on {node}");
        self.ask(Call::post(attempt, vm(node, vmid, "/status/start")))
            .await
    }

    /// `POST .../status/resume`, of a paused VM.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn resume(&self, node: &str, vmid: u32) -> Result<Upid, Error> {
        let attempt = format!("resume VM {vmid} on {node}");
        self.ask(Call::post(attempt, vm(node, vmid, "/status/resume")))
            .await
    }

    /// `POST .../status/stop`: pulls the plug.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn stop(&self, node: &str, vmid: u32) -> Result<Upid, Error> {
        let attempt = format!("stop VM {vmid} on {node}");
        self.ask(Call::post(attempt, vm(node, vmid, "/status/stop")))
            .await
    }

    /// `DELETE` of a stopped VM with all its disks, and of its entries in backup, replication and
    /// high availability, without which a VM under high availability could not be removed.
    ///
    /// # Errors
    ///
    /// [`Refusal::Running`] and [`Refusal::Protected`] if it may not be; else see [`Error`].
    pub async fn destroy(&self, node: &str, vmid: u32) -> Result<Upid, Error> {
        let attempt = format!("destroy VM {vmid} on {node}");
        let call = Call::new(Method::DELETE, attempt, vm(node, vmid, ""))
            .with("purge", &1)
            .with("destroy-unreferenced-disks", &1);
        self.ask(call).await
    }

    /// `POST .../upload` of an ISO image. Replaces one of the same name.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn upload(
        &self,
        node: &str,
        storage: &str,
        image: &Image<'_>,
    ) -> Result<Upid, Error> {
        let attempt = format!("upload {} to storage {storage} on {node}", image.name);
        let path = format!("/nodes/{node}/storage/{}/upload", segment(storage));
        let (boundary, body) = multipart(image);
        let mut call = Call::post(attempt, path);
        call.within = UPLOAD_WITHIN;
        let kind = format!("multipart/form-data; boundary={boundary}");
        let request = self.request(&call, Some(kind), body)?;
        let answer = self.exchange(&call, request).await?;
        decode(call.attempt, &answer)
    }

    /// `GET .../content/{volume}`: whether the volume exists. It cannot be told from a storage that
    /// is not mounted, so the storage's own state has to be asked too.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn has_volume(&self, node: &str, storage: &str, volume: &str) -> Result<bool, Error> {
        let call = Call::get(
            format!("look for {volume} on {node}"),
            content(node, storage, volume),
        );
        match self.ask::<serde_json::Value>(call).await {
            Ok(_) => Ok(true),
            Err(error) if error.refusal() == Some(&Refusal::NoSuchVolume) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// `DELETE .../content/{volume}`. Removing what is not there is no error.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn remove_volume(
        &self,
        node: &str,
        storage: &str,
        volume: &str,
    ) -> Result<Quick, Error> {
        let attempt = format!("remove {volume} on {node}");
        let call = Call::new(Method::DELETE, attempt, content(node, storage, volume))
            .with("delay", &ANSWER_AT_ONCE_WITHIN);
        match self.ask(call).await {
            Ok(upid) => Ok(quick(upid)),
            Err(error) if error.refusal() == Some(&Refusal::NoSuchVolume) => Ok(Quick::Done),
            Err(error) => Err(error),
        }
    }

    /// `POST .../agent/ping`: whether the guest's agent answers.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn agent_answers(&self, node: &str, vmid: u32) -> Result<bool, Error> {
        let call = Call::post(
            format!("ask the agent of VM {vmid}"),
            vm(node, vmid, "/agent/ping"),
        );
        match self.ask::<serde_json::Value>(call).await {
            Ok(_) => Ok(true),
            Err(error) => absent_agent(error).map(|()| false),
        }
    }

    /// `GET .../agent/file-read`: whether the guest has this file; `None` if its agent does not
    /// answer. Needs less rights than running a command in the guest.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn guest_has_file(
        &self,
        node: &str,
        vmid: u32,
        file: &str,
    ) -> Result<Option<bool>, Error> {
        let attempt = format!("read {file} in VM {vmid}");
        let call = Call::get(attempt, vm(node, vmid, "/agent/file-read")).with("file", &file);
        match self.ask::<serde_json::Value>(call).await {
            Ok(_) => Ok(Some(true)),
            Err(error) if error.refusal() == Some(&Refusal::NoSuchFile) => Ok(Some(false)),
            Err(error) => absent_agent(error).map(|()| None),
        }
    }

    async fn ask<T: DeserializeOwned>(&self, call: Call) -> Result<T, Error> {
        let in_body = matches!(call.method, Method::POST | Method::PUT);
        let (kind, body) = if in_body {
            let form = Serializer::new(String::new())
                .extend_pairs(&call.parameters)
                .finish();
            (
                Some("application/x-www-form-urlencoded".to_owned()),
                form.into(),
            )
        } else {
            (None, Bytes::new())
        };
        let request = self.request(&call, kind, body)?;
        let answer = self.exchange(&call, request).await?;
        decode(call.attempt, &answer)
    }

    /// Puts the request together. The server refuses GET and DELETE with a body, so their
    /// parameters are in the query.
    fn request(
        &self,
        call: &Call,
        content_type: Option<String>,
        body: Bytes,
    ) -> Result<Request<Bytes>, Error> {
        let mut path = format!("{BASE}{}", call.path);
        let in_query = matches!(call.method, Method::GET | Method::DELETE);
        if in_query && !call.parameters.is_empty() {
            path.push('?');
            path = Serializer::for_suffix(path.clone(), path.len())
                .extend_pairs(&call.parameters)
                .finish();
        }
        let malformed = |reason: String| Error::Unanswered {
            attempt: call.attempt.clone(),
            fault: TransportError::Malformed(reason).into(),
        };
        let mut secret = HeaderValue::from_str(self.authorization.expose_secret())
            .map_err(|_| malformed("token or secret hold characters that no header may".into()))?;
        secret.set_sensitive(true);
        let mut builder = Request::builder()
            .method(call.method.clone())
            .uri(path)
            .header(AUTHORIZATION, secret);
        if let Some(kind) = content_type {
            builder = builder.header(CONTENT_TYPE, kind);
        }
        builder
            .body(body)
            .map_err(|error| malformed(error.to_string()))
    }

    async fn exchange(
        &self,
        call: &Call,
        request: Request<Bytes>,
    ) -> Result<Response<Bytes>, Error> {
        let answer = tokio::time::timeout(call.within, self.transport.exchange(request)).await;
        answer
            .unwrap_or(Err(TransportError::TimedOut(call.within)))
            .map_err(|fault| Error::Unanswered {
                attempt: call.attempt.clone(),
                fault: fault.into(),
            })
    }
}

fn quick(upid: Option<Upid>) -> Quick {
    upid.map_or(Quick::Done, Quick::Task)
}

fn absent_agent(error: Error) -> Result<(), Error> {
    match error.refusal() {
        Some(Refusal::NoAgent | Refusal::NotRunning) => Ok(()),
        _ => Err(error),
    }
}

fn decode<T: DeserializeOwned>(
    attempt: Cow<'static, str>,
    answer: &Response<Bytes>,
) -> Result<T, Error> {
    let status = answer.status();
    if !status.is_success() {
        let complaint: Complaint = serde_json::from_slice(answer.body()).unwrap_or_default();
        let phrase = answer
            .extensions()
            .get::<hyper::ext::ReasonPhrase>()
            .map(|phrase| String::from_utf8_lossy(phrase.as_bytes()).into_owned())
            .or_else(|| status.canonical_reason().map(str::to_owned))
            .unwrap_or_default();
        let text = complaint
            .message
            .filter(|text| !text.trim().is_empty())
            .unwrap_or(phrase);
        return Err(Error::refused(
            attempt,
            status.as_u16(),
            &text,
            &complaint.errors,
        ));
    }
    // The decoder's message may quote a value, and configurations hold passwords: only the place.
    serde_json::from_slice::<Envelope<T>>(answer.body())
        .map(|envelope| envelope.data)
        .map_err(|error| Error::Garbled {
            attempt,
            detail: format!("{:?} error at column {}", error.classify(), error.column()),
        })
}

fn vm(node: &str, vmid: u32, rest: &str) -> String {
    format!("/nodes/{}/qemu/{vmid}{rest}", segment(node))
}

fn content(node: &str, storage: &str, volume: &str) -> String {
    let (node, storage, volume) = (segment(node), segment(storage), segment(volume));
    format!("/nodes/{node}/storage/{storage}/content/{volume}")
}

/// Percent-encodes everything but unreserved characters, so that a name stays one path segment.
fn segment(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte));
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// The body of an upload. The file part must be called `filename` and come last; the checksum lets
/// the server refuse what was cut on the way.
fn multipart(image: &Image<'_>) -> (String, Bytes) {
    let digest = Sha256::digest(image.bytes);
    let boundary = format!(
        "seed-{}",
        STANDARD.encode(&digest[..12]).replace(['+', '/'], "x")
    );
    let checksum: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut body = Vec::with_capacity(image.bytes.len() + 1024);
    for (name, value) in [
        ("content", "iso"),
        ("checksum-algorithm", "sha256"),
        ("checksum", &checksum),
    ] {
        let part = format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"
        );
        body.extend_from_slice(part.as_bytes());
    }
    let head = format!(
        "--{boundary}\r\nContent-Disposition: form-data; name=\"filename\"; filename=\"{}\"\r\n\
         Content-Type: application/octet-stream\r\n\r\n",
        image.name
    );
    body.extend_from_slice(head.as_bytes());
    body.extend_from_slice(image.bytes);
    body.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    (boundary, body.into())
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use async_trait::async_trait;
    use capi_contract::{Class, Classify};
    use parking_lot::Mutex;

    use super::*;

    /// Answers every request alike and keeps the last one.
    #[derive(Debug)]
    struct Canned {
        status: u16,
        phrase: Option<&'static [u8]>,
        body: &'static str,
        last: Mutex<Option<Request<Bytes>>>,
    }

    #[async_trait]
    impl Transport for Canned {
        async fn exchange(
            &self,
            request: Request<Bytes>,
        ) -> Result<Response<Bytes>, TransportError> {
            *self.last.lock() = Some(request);
            let mut response = Response::new(Bytes::from_static(self.body.as_bytes()));
            *response.status_mut() = self.status.try_into().unwrap();
            if let Some(phrase) = self.phrase {
                response
                    .extensions_mut()
                    .insert(hyper::ext::ReasonPhrase::from_static(phrase));
            }
            Ok(response)
        }
    }

    fn canned(status: u16, phrase: Option<&'static [u8]>, body: &'static str) -> Arc<Canned> {
        Arc::new(Canned {
            status,
            phrase,
            body,
            last: Mutex::default(),
        })
    }

    fn client(transport: Arc<dyn Transport>) -> Client {
        Client::new(transport, "ci@pve!t", &"5ecre7".to_owned().into())
    }

    #[tokio::test]
    async fn get_and_delete_carry_parameters_in_the_query_and_no_body() {
        let server = canned(200, None, r#"{"data":"UPID:a:1:2:3:qmdestroy:104:u@pve:"}"#);
        client(server.clone()).destroy("a", 104).await.unwrap();
        let request = server.last.lock().take().unwrap();
        assert_eq!(request.method(), Method::DELETE);
        let expected = "/api2/json/nodes/a/qemu/104?purge=1&destroy-unreferenced-disks=1";
        assert_eq!(request.uri(), expected);
        assert!(request.body().is_empty());
    }

    #[tokio::test]
    async fn post_carries_a_form_and_the_token_is_sensitive() {
        let server = canned(200, None, r#"{"data":null}"#);
        let client = client(server.clone());
        let changes = [("tags".to_owned(), "a;b c".to_owned())];
        let done = client
            .configure("a", 104, "d1", &changes, &["net1".into()])
            .await;
        assert_eq!(done, Ok(Quick::Done));
        let request = server.last.lock().take().unwrap();
        let expected = "digest=d1&background_delay=5&tags=a%3Bb+c&delete=net1";
        assert_eq!(request.body().as_ref(), expected.as_bytes());
        let token = &request.headers()[AUTHORIZATION];
        assert!(token.is_sensitive());
        assert_eq!(token.as_bytes(), b"PVEAPIToken=ci@pve!t=5ecre7");
        assert!(!format!("{client:?} {request:?}").contains("5ecre7"));
    }

    #[tokio::test]
    async fn the_text_is_read_from_the_body_then_from_the_reason_phrase() {
        let text = "VM is locked (backup)";
        let body = r#"{"data":null,"message":"VM is locked (backup)\n"}"#;
        for server in [
            canned(500, None, body),
            canned(500, Some(text.as_bytes()), ""),
            canned(500, Some(text.as_bytes()), r#"{"data":null}"#),
        ] {
            let error = client(server).stop("a", 104).await.unwrap_err();
            assert_eq!(error.refusal(), Some(&Refusal::Locked), "{error}");
            assert_eq!(
                error.to_string(),
                format!("cannot stop VM 104 on a: {text}")
            );
        }
        let error = client(canned(500, None, ""))
            .stop("a", 104)
            .await
            .unwrap_err();
        assert_eq!(error.refusal(), Some(&Refusal::Other(500)));
    }

    #[tokio::test]
    async fn an_id_is_free_taken_or_not_known() {
        let taken = r#"{"data":null,"message":"Parameter verification failed.\n",
            "errors":{"vmid":"VM 104 already exists"}}"#;
        assert_eq!(
            client(canned(400, None, taken)).is_free(104).await,
            Ok(false)
        );
        assert_eq!(
            client(canned(200, None, r#"{"data":"104"}"#))
                .is_free(104)
                .await,
            Ok(true)
        );
        assert_eq!(
            client(canned(200, None, r#"{"data":"104"}"#))
                .next_id()
                .await,
            Ok(104)
        );
        assert!(client(canned(596, None, "")).is_free(104).await.is_err());
    }

    #[tokio::test]
    async fn a_task_is_asked_for_on_its_own_node() {
        let server = canned(
            200,
            None,
            r#"{"data":{"status":"stopped","exitstatus":"WARNINGS: 1"}}"#,
        );
        let upid = "UPID:b:1:2:3:imgcopy::ci@pve!t:".parse().unwrap();
        assert_eq!(
            client(server.clone()).task(&upid).await,
            Ok(Some(TaskState::Done))
        );
        let path = server.last.lock().take().unwrap().uri().path().to_owned();
        assert_eq!(
            path,
            "/api2/json/nodes/b/tasks/UPID%3Ab%3A1%3A2%3A3%3Aimgcopy%3A%3Aci%40pve%21t%3A/status"
        );
        let gone = canned(400, Some(b"no such task"), "");
        assert_eq!(client(gone).task(&upid).await, Ok(None));
    }

    #[tokio::test]
    async fn an_upload_names_the_file_part_as_the_server_wants() {
        let server = canned(200, None, r#"{"data":"UPID:a:1:2:3:imgcopy::u@pve:"}"#);
        let image = Image {
            name: "user-data-104.iso",
            bytes: b"\0iso\r\n",
        };
        client(server.clone())
            .upload("a", "local", &image)
            .await
            .unwrap();
        let request = server.last.lock().take().unwrap();
        let body = String::from_utf8_lossy(request.body()).into_owned();
        assert!(body.contains("name=\"content\"\r\n\r\niso\r\n"), "{body}");
        assert!(
            body.contains("name=\"filename\"; filename=\"user-data-104.iso\""),
            "{body}"
        );
        let kind = request.headers()[CONTENT_TYPE].to_str().unwrap();
        let boundary = kind.split_once("boundary=").unwrap().1;
        assert!(
            body.ends_with(&format!("\0iso\r\n\r\n--{boundary}--\r\n")),
            "{body}"
        );
        assert!(!format!("{image:?}").contains("iso\r"));
    }

    #[tokio::test]
    async fn the_guest_tells_missing_agent_from_missing_file() {
        let file = "/run/cluster-api/bootstrap-success.complete";
        for (status, body, expected) in [
            (200, r#"{"data":{"content":"success"}}"#, Some(true)),
            (
                500,
                r#"{"message":"Agent error: Failed to open file '/run': No such file or directory"}"#,
                Some(false),
            ),
            (
                500,
                r#"{"message":"QEMU guest agent is not running"}"#,
                None,
            ),
        ] {
            let answer = client(canned(status, None, body))
                .guest_has_file("a", 104, file)
                .await;
            assert_eq!(answer, Ok(expected), "{body}");
        }
    }

    #[tokio::test]
    async fn a_garbled_answer_is_not_quoted() {
        let server = canned(200, None, r#"{"data":[{"type":"qemu","vmid":"hunter2"}]}"#);
        let error = client(server).resources().await.unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
        assert_eq!(error.class(), Class::Transient);
    }

    #[derive(Debug)]
    struct Silent;

    #[async_trait]
    impl Transport for Silent {
        async fn exchange(&self, _: Request<Bytes>) -> Result<Response<Bytes>, TransportError> {
            pending().await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_in_time_with_the_outcome_open() {
        let error = client(Arc::new(Silent)).stop("a", 104).await.unwrap_err();
        assert!(error.is_outcome_unknown());
        assert_eq!(
            error.to_string(),
            "cannot stop VM 104 on a: no answer within 40 s"
        );
    }
}
