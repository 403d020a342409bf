//! etcd: a member on each control-plane machine, or one elsewhere for clusters that keep their state
//! outside.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use capi_testkit::workload::Refused;
use k8s_openapi::ByteString;
use reqwest::{Certificate, Client, Identity};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use crate::certificate::{Authority, Pair};
use crate::failure::Failure;
use crate::process::{self, Launch};
use crate::site::Site;
use crate::tool::ETCD;
use crate::workload::certificates::PKI;
use crate::workload::failed;
use crate::workload::machine::Machine;

/// Under which name the program of a machine is listed.
const NAME: &str = "etcd";
/// For clients.
const CLIENTS: u16 = 2379;
/// For other members.
const PEERS: u16 = 2380;
/// How long a member may take to listen, or a learner to catch up with the others.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How long a member may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Between two tries.
const RETRY: Duration = Duration::from_millis(200);

/// An etcd for clusters whose control plane has none, shared by all of them.
#[derive(Debug)]
pub struct ExternalEtcd {
    url: String,
    authority: String,
    client: Pair,
}

impl ExternalEtcd {
    /// Starts it on two ports of 127.0.0.1, from this one on, as a process of the run.
    ///
    /// # Errors
    ///
    /// A program that is missing, a port that is taken.
    pub async fn start(site: &Site, port: u16) -> Result<Self, Failure> {
        let authority = Authority::new("etcd-ca")?;
        let localhost = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let serving = authority.serving("etcd", &["localhost"], &[localhost])?;
        let name = "external-etcd";
        let file = |file: &str, text: &str| site.write(&format!("{name}/{file}"), text);
        let certificate = file("server.crt", &serving.certificate)?;
        let key = file("server.key", &serving.key)?;
        let trusted = file("ca.crt", authority.certificate())?;
        let url = format!("https://127.0.0.1:{port}");
        let peers = format!("http://127.0.0.1:{}", port + 1);
        let arguments = vec![
            format!("--name={name}"),
            format!("--data-dir={}", site.path(format!("{name}/data")).display()),
            format!("--listen-client-urls={url}"),
            format!("--advertise-client-urls={url}"),
            format!("--listen-peer-urls={peers}"),
            format!("--initial-advertise-peer-urls={peers}"),
            format!("--initial-cluster={name}={peers}"),
            format!("--cert-file={}", certificate.display()),
            format!("--key-file={}", key.display()),
            format!("--trusted-ca-file={}", trusted.display()),
            "--client-cert-auth".to_owned(),
            "--unsafe-no-fsync".to_owned(),
            "--log-level=warn".to_owned(),
        ];
        let launch = Launch {
            name: name.to_owned(),
            program: ETCD.build()?,
            arguments,
            environment: Vec::new(),
        };
        process::start(site, &launch)?;
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        listening(at, || Ok(process::check(site, name)?)).await?;
        Ok(Self {
            url,
            client: authority.client("kube-apiserver-etcd-client", None)?,
            authority: authority.certificate().to_owned(),
        })
    }

    /// Where API servers find it: `etcd.external.endpoints` of a `ClusterConfiguration`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The objects of a cluster with a kubeadm control plane, which keeps its state here: first the
    /// Secrets that Cluster API reads the certificates from.
    ///
    /// # Panics
    ///
    /// Without a control plane among the objects.
    #[must_use]
    pub fn keeps(&self, cluster: &str, mut objects: Vec<Value>) -> Vec<Value> {
        let control_plane = objects
            .iter_mut()
            .find(|object| object["kind"] == "KubeadmControlPlane")
            .expect("the cluster has a control plane");
        let configuration = &mut control_plane["spec"]["kubeadmConfigSpec"]["clusterConfiguration"];
        configuration["etcd"]["external"] = json!({
            "endpoints": [self.url],
            "caFile": format!("{PKI}/etcd/ca.crt"),
            "certFile": format!("{PKI}/apiserver-etcd-client.crt"),
            "keyFile": format!("{PKI}/apiserver-etcd-client.key"),
        });
        let mut all = self.secrets(cluster);
        all.append(&mut objects);
        all
    }

    /// The Secrets that Cluster API reads the certificates of an external etcd from. They must be
    /// there before the Cluster is.
    #[must_use]
    pub fn secrets(&self, cluster: &str) -> Vec<Value> {
        let bytes = |text: &str| ByteString(text.as_bytes().to_vec());
        let secret = |name: &str, data: Value| {
            json!({"apiVersion": "v1", "kind": "Secret", "type": "cluster.x-k8s.io/secret",
                "metadata": {"name": format!("{cluster}-{name}"), "namespace": "default",
                    "labels": {"cluster.x-k8s.io/cluster-name": cluster}}, "data": data})
        };
        let client = json!({"tls.crt": bytes(&self.client.certificate),
            "tls.key": bytes(&self.client.key)});
        vec![
            // The key stays where etcd is; an empty one would be taken for a broken one.
            secret("etcd", json!({"tls.crt": bytes(&self.authority)})),
            secret("apiserver-etcd-client", client),
        ]
    }
}

/// Waits until somebody listens, as long as the check holds.
async fn listening(at: SocketAddr, check: impl Fn() -> Result<(), Failure>) -> Result<(), Failure> {
    let begun = Instant::now();
    while TcpStream::connect(at).await.is_err() {
        check()?;
        if begun.elapsed() > READY_WITHIN {
            return Err(Failure::new(format!("nobody listens on {at}")));
        }
        sleep(RETRY).await;
    }
    Ok(())
}

/// Starts the first member.
pub(super) async fn begin(
    machine: &Machine,
    program: PathBuf,
    node: &str,
    address: IpAddr,
) -> Result<(), Refused> {
    let members = format!("{node}={}", peer(address));
    start(machine, program, node, address, &members, "new").await
}

/// Starts another member: as a learner, which does not count until it has caught up (kubeadm does
/// so too; a voting one would stall the others while it starts).
pub(super) async fn join(
    machine: &Machine,
    program: PathBuf,
    node: &str,
    address: IpAddr,
    urls: &[String],
) -> Result<(), Refused> {
    let joined = async {
        let gateway = Gateway::new(machine, urls)?;
        let members = gateway.enlist(address).await?;
        let initial = initial_cluster(&members, node, &peer(address));
        let started = start(machine, program, node, address, &initial, "existing");
        started.await.map_err(Failure::from)?;
        gateway.promote(address).await
    };
    joined.await.map_err(failed("join etcd"))
}

async fn start(
    machine: &Machine,
    program: PathBuf,
    node: &str,
    address: IpAddr,
    members: &str,
    state: &str,
) -> Result<(), Refused> {
    let clients = url(address);
    let file = |name: &str| {
        machine
            .path(&format!("{PKI}/etcd/{name}"))
            .display()
            .to_string()
    };
    let arguments = vec![
        // KCP finds a machine's member by the name of its Node.
        format!("--name={node}"),
        format!("--data-dir={}", machine.path("/var/lib/etcd").display()),
        format!("--listen-client-urls={clients}"),
        format!("--advertise-client-urls={clients}"),
        format!("--listen-peer-urls={}", peer(address)),
        format!("--initial-advertise-peer-urls={}", peer(address)),
        format!("--initial-cluster={members}"),
        format!("--initial-cluster-state={state}"),
        format!("--cert-file={}", file("server.crt")),
        format!("--key-file={}", file("server.key")),
        format!("--trusted-ca-file={}", file("ca.crt")),
        "--client-cert-auth".to_owned(),
        format!("--peer-cert-file={}", file("peer.crt")),
        format!("--peer-key-file={}", file("peer.key")),
        format!("--peer-trusted-ca-file={}", file("ca.crt")),
        "--peer-client-cert-auth".to_owned(),
        // What is lost in a power cut was made by a test.
        "--unsafe-no-fsync".to_owned(),
        "--log-level=warn".to_owned(),
    ];
    machine.start(NAME, program, arguments)?;
    let at = SocketAddr::from((address, CLIENTS));
    let up = listening(at, || machine.check(NAME)).await;
    up.map_err(failed("start etcd"))
}

/// Where the member of a machine answers its clients.
pub(super) fn url(address: IpAddr) -> String {
    format!("https://{address}:{CLIENTS}")
}

fn peer(address: IpAddr) -> String {
    format!("https://{address}:{PEERS}")
}

/// Members by name, as a new one is told them. Its own entry has no name yet.
fn initial_cluster(members: &[Value], node: &str, own: &str) -> String {
    let entries = members.iter().flat_map(|member| {
        let name = member["name"].as_str().unwrap_or_default();
        let urls = member["peerURLs"].as_array().into_iter().flatten();
        urls.filter_map(move |url| {
            let url = url.as_str()?;
            let name = if url == own { node } else { name };
            Some(format!("{name}={url}"))
        })
    });
    entries.collect::<Vec<_>>().join(",")
}

/// The members that are there, by the gateway that speaks JSON.
struct Gateway {
    client: Client,
    urls: Vec<String>,
}

impl Gateway {
    fn new(machine: &Machine, urls: &[String]) -> Result<Self, Failure> {
        let read = |name: &str| {
            machine
                .read(&format!("{PKI}/{name}"))
                .map_err(Failure::from)
        };
        let pair = read("apiserver-etcd-client.crt")? + &read("apiserver-etcd-client.key")?;
        let client = Client::builder()
            .tls_certs_only([Certificate::from_pem(read("etcd/ca.crt")?.as_bytes())?])
            .identity(Identity::from_pem(pair.as_bytes())?)
            .timeout(ANSWER_WITHIN);
        Ok(Self {
            client: client.build()?,
            urls: urls.to_vec(),
        })
    }

    /// Asks one member after the other: pods of lost machines may still be listed.
    async fn ask(&self, what: &str, body: &Value) -> Result<Value, Failure> {
        let mut last = Failure::new("no member of etcd is known");
        for url in &self.urls {
            let request = self.client.post(format!("{url}/v3/cluster/member/{what}"));
            match request.json(body).send().await {
                Ok(answer) if answer.status().is_success() => return Ok(answer.json().await?),
                Ok(answer) => {
                    let (code, text) = (answer.status(), answer.text().await?);
                    last = Failure::new(format!("member/{what}: {code}: {text}"));
                }
                Err(error) => last = error.into(),
            }
        }
        Err(last)
    }

    async fn list(&self) -> Result<Vec<Value>, Failure> {
        let mut answer = self.ask("list", &json!({})).await?;
        Ok(match answer["members"].take() {
            Value::Array(members) => members,
            _ => Vec::new(),
        })
    }

    /// Adds a learner, unless an earlier try did; all members then.
    async fn enlist(&self, address: IpAddr) -> Result<Vec<Value>, Failure> {
        let own = peer(address);
        let members = self.list().await?;
        if found(&members, &own).is_none() {
            let body = json!({"peerURLs": [own], "isLearner": true});
            self.ask("add", &body).await?;
        }
        self.list().await
    }

    /// Lets the learner vote once it has caught up.
    async fn promote(&self, address: IpAddr) -> Result<(), Failure> {
        let own = peer(address);
        let begun = Instant::now();
        loop {
            let members = self.list().await?;
            let member = found(&members, &own)
                .ok_or_else(|| Failure::new("the new member was removed meanwhile"))?;
            if member["isLearner"] != true {
                return Ok(());
            }
            let promoted = self.ask("promote", &json!({"ID": member["ID"]})).await;
            match promoted {
                Ok(_) => return Ok(()),
                Err(failure) if begun.elapsed() > READY_WITHIN => return Err(failure),
                // It has not caught up.
                Err(_) => sleep(RETRY).await,
            }
        }
    }
}

fn found<'a>(members: &'a [Value], own: &str) -> Option<&'a Value> {
    members.iter().find(|member| {
        let mut urls = member["peerURLs"].as_array().into_iter().flatten();
        urls.any(|url| url == own)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_member_is_told_all_others_and_itself() {
        let members = [
            json!({"name": "a", "peerURLs": ["https://127.0.0.2:2380"]}),
            json!({"ID": "7", "peerURLs": ["https://127.0.0.3:2380"], "isLearner": true}),
        ];
        let own = "https://127.0.0.3:2380";
        assert_eq!(
            initial_cluster(&members, "b", own),
            "a=https://127.0.0.2:2380,b=https://127.0.0.3:2380"
        );
        assert_eq!(found(&members, own).expect("it is there")["ID"], "7");
        assert_eq!(found(&members, "https://127.0.0.4:2380"), None);
    }

    #[test]
    fn the_secret_of_an_external_authority_has_no_key() {
        let authority = Authority::new("etcd-ca").expect("randomness");
        let etcd = ExternalEtcd {
            url: "https://127.0.0.1:1".to_owned(),
            client: authority.client("c", None).expect("signed"),
            authority: authority.certificate().to_owned(),
        };
        let [ca, client] = <[Value; 2]>::try_from(etcd.secrets("demo")).expect("two");
        assert_eq!(ca["metadata"]["name"], "demo-etcd");
        assert_eq!(ca["data"].as_object().map(serde_json::Map::len), Some(1));
        assert_eq!(client["metadata"]["name"], "demo-apiserver-etcd-client");
        assert_eq!(
            client["data"].as_object().map(serde_json::Map::len),
            Some(2)
        );
    }
}
