//! The floor: the recorded requests for another machine, one after the other, and nothing else.

use std::collections::BTreeSet;

use bytes::Bytes;
use http::Request;
use http_body_util::BodyExt as _;
use kube::Client;
use kube::client::Body;
use pve_sim::Platform;
use tokio::sync::watch;

use crate::record::{Call, Port};
use benches::world::{Failure, VMID_FIRST, name};

/// What stands before the digest of a configuration, in a request and in an answer.
const DIGEST: (&[u8], &[u8]) = (b"digest=", b"\"digest\":\"");
/// The length of a digest, a SHA-1 in hexadecimal.
const DIGEST_LENGTH: usize = 40;

/// What a recorded machine is known by.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) name: String,
    pub(crate) vmid: String,
    pub(crate) uid: String,
}

impl Identity {
    /// The machine with this number.
    pub(crate) fn new(number: usize, uid: &str) -> Self {
        Self {
            name: name(number),
            vmid: (VMID_FIRST as usize + number).to_string(),
            uid: uid.to_owned(),
        }
    }
}

/// The requests of one machine, ready to be sent.
pub(crate) struct Script {
    calls: Vec<Call>,
    claim: String,
}

impl Script {
    /// The calls of `recorded` as they are for `machine`.
    pub(crate) fn new(calls: &[Call], recorded: &Identity, machine: &Identity) -> Self {
        let pairs = [
            (&recorded.vmid, &machine.vmid),
            (&recorded.name, &machine.name),
            (&recorded.uid, &machine.uid),
        ];
        let renamed = |call: &Call| {
            let mut uri = call.uri.clone();
            let mut body = call.body.to_vec();
            // An image has a checksum, so only its file name is another one.
            let count = if uri.ends_with("/upload") {
                1
            } else {
                pairs.len()
            };
            for (from, to) in pairs.into_iter().take(count) {
                uri = uri.replace(from.as_str(), to);
                replace(&mut body, from.as_bytes(), to.as_bytes());
            }
            let body = Bytes::from(body);
            Call {
                uri,
                body,
                ..call.clone()
            }
        };
        Self {
            calls: calls.iter().map(renamed).collect(),
            claim: format!("{}-net0", machine.name),
        }
    }

    /// Sends all of them.
    pub(crate) async fn play(
        self,
        client: Client,
        platform: Platform,
        mut addresses: watch::Receiver<BTreeSet<String>>,
    ) -> Result<(), Failure> {
        let mut digest = None;
        for call in self.calls {
            let (status, uri) = (call.status, call.uri.clone());
            let is_claim = call.is_write() && uri.contains("/ipaddressclaims");
            let answered = match call.port {
                Port::Kubernetes => kubernetes(&client, call).await?,
                Port::Hypervisor => hypervisor(&platform, call, &mut digest).await?,
            };
            if answered != status {
                return Err(format!("{uri} was answered with {answered}, not {status}").into());
            }
            if is_claim {
                let given =
                    |all: &BTreeSet<String>| all.iter().any(|it| it.starts_with(&self.claim));
                addresses.wait_for(given).await?;
            }
        }
        Ok(())
    }
}

async fn kubernetes(client: &Client, call: Call) -> Result<http::StatusCode, Failure> {
    let mut request = Request::new(Body::from(call.body));
    *request.method_mut() = call.method;
    *request.uri_mut() = call.uri.parse()?;
    *request.headers_mut() = call.headers;
    let response = client.send(request).await?;
    let status = response.status();
    response.into_body().collect().await?;
    Ok(status)
}

async fn hypervisor(
    platform: &Platform,
    call: Call,
    digest: &mut Option<Bytes>,
) -> Result<http::StatusCode, Failure> {
    let body = match (digest.as_ref(), position(&call.body, DIGEST.0)) {
        // A change is made to the configuration that was read last.
        (Some(digest), Some(at)) => {
            let mut body = call.body.to_vec();
            body[at..at + DIGEST_LENGTH].copy_from_slice(digest);
            Bytes::from(body)
        }
        _ => call.body,
    };
    let mut request = Request::new(body);
    *request.method_mut() = call.method;
    *request.uri_mut() = call.uri.parse()?;
    *request.headers_mut() = call.headers;
    let response = platform.handle(request).await;
    let body = response.body();
    if let Some(at) = position(body, DIGEST.1) {
        *digest = Some(body.slice(at..at + DIGEST_LENGTH));
    }
    Ok(response.status())
}

/// Where `wanted` ends, the first time.
fn position(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    let mut parts = bytes.windows(wanted.len());
    Some(parts.position(|part| part == wanted)? + wanted.len())
}

/// Replaces all of `from` by `to`, which is as long.
fn replace(bytes: &mut [u8], from: &[u8], to: &[u8]) {
    let mut at = 0;
    while let Some(end) = position(&bytes[at..], from) {
        bytes[at + end - from.len()..at + end].copy_from_slice(to);
        at += end;
    }
}
