//! SSH, spoken for [`login`](crate::login): reading a cluster's key pair, making the host keys of its
//! guests, asking them.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use capi_contract::{Mark, ObjectName, Token};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Api, Client};
use parking_lot::Mutex;
use russh::client::{self, Handle};
use russh::keys::ssh_key::LineEnding;
use russh::keys::ssh_key::private::Ed25519Keypair;
use russh::keys::{PrivateKey, PrivateKeyWithHashAlg, PublicKey, PublicKeyOrCertificate};
use russh::{ChannelMsg, Disconnect};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::login::{Answer, Login, LoginError, Logins, SENTINEL, Target, USER};

/// Key of the private key in the Secret; the Go provider's.
const PRIVATE: &str = "key";
/// Key of the public key in the Secret; the Go provider's.
const PUBLIC: &str = "pub";

/// The port of SSH servers.
const PORT: u16 = 22;

/// How long a connection may take to be there. Within the infra cluster's network it takes milliseconds;
/// where packets are dropped, the next address is tried after this.
const CONNECT: Duration = Duration::from_secs(4);

/// How many addresses of a machine are tried: those of two networks in both families.
const ADDRESSES_MAX: usize = 4;

/// How much is read of what the guest says.
const OUTPUT_MAX: usize = 1024;

/// How many clusters' keys are kept; one is a few kilobytes.
const KEYS_MAX: usize = 1_000;

/// A connection to a guest.
pub trait Line: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Line for T {}

/// Makes connections.
type Dial = dyn Fn(SocketAddr) -> BoxFuture<'static, io::Result<Box<dyn Line>>> + Send + Sync;

/// Asks guests by SSH.
///
/// The key pairs are read, by name, from Secrets of the management cluster, when they are first needed and
/// again after a guest refused one.
pub struct Ssh {
    management: Client,
    dial: Arc<Dial>,
    keys: Mutex<HashMap<ObjectName, Arc<Keys>>>,
}

impl fmt::Debug for Ssh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ssh").finish_non_exhaustive()
    }
}

/// The key pair of a cluster.
struct Keys {
    private: Arc<PrivateKey>,
    /// What host keys are made of; as secret as the private key.
    root: [u8; 32],
}

impl Keys {
    /// Reads a private key in any of the usual forms: OpenSSH's, PKCS#1, PKCS#8.
    fn read(name: &ObjectName, secret: &Secret) -> Result<Self, LoginError> {
        let malformed = || LoginError::Malformed(name.clone());
        let data = secret.data.as_ref().and_then(|data| data.get(PRIVATE));
        let text = data.and_then(|bytes| std::str::from_utf8(&bytes.0).ok());
        let text = text.ok_or_else(malformed)?;
        // What is wrong with it may quote it, so the error is not kept.
        let private = russh::keys::decode_secret_key(text, None).map_err(|_| malformed())?;
        let mut root = Sha256::new();
        root.update(b"capi-rs.dev host keys\0");
        root.update(text.as_bytes());
        Ok(Self {
            private: Arc::new(private),
            root: root.finalize().into(),
        })
    }

    /// The host key of the guest that bears this mark: nobody else can make it, and it need not be
    /// stored.
    fn host(&self, mark: &Mark) -> PrivateKey {
        let mut seed = Sha256::new();
        seed.update(self.root);
        seed.update(mark.to_string().as_bytes());
        PrivateKey::from(Ed25519Keypair::from_seed(&seed.finalize().into()))
    }
}

impl Ssh {
    /// Reads keys from this cluster, and reaches guests by TCP.
    #[must_use]
    pub fn new(management: Client) -> Self {
        let dial = |at: SocketAddr| -> BoxFuture<'static, io::Result<Box<dyn Line>>> {
            Box::pin(async move {
                let stream = TcpStream::connect(at).await?;
                Ok(Box::new(stream) as Box<dyn Line>)
            })
        };
        Self {
            management,
            dial: Arc::new(dial),
            keys: Mutex::new(HashMap::new()),
        }
    }

    /// Reaches guests in another way: for tests and simulators in the same process.
    #[must_use]
    pub fn through(
        mut self,
        dial: impl Fn(SocketAddr) -> BoxFuture<'static, io::Result<Box<dyn Line>>>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        self.dial = Arc::new(dial);
        self
    }

    async fn keys(&self, name: &ObjectName) -> Result<Arc<Keys>, LoginError> {
        if let Some(known) = self.keys.lock().get(name) {
            return Ok(known.clone());
        }
        let api = Api::<Secret>::namespaced(self.management.clone(), &name.namespace);
        let found = api.get_opt(&name.name).await;
        let found = found.map_err(|error| LoginError::Unread(name.clone(), error.to_string()))?;
        let secret = found.ok_or_else(|| LoginError::Missing(name.clone()))?;
        let keys = Arc::new(Keys::read(name, &secret)?);
        let mut known = self.keys.lock();
        if known.len() >= KEYS_MAX {
            known.clear();
        }
        known.insert(name.clone(), keys.clone());
        Ok(keys)
    }

    /// Reads the file from the guest at an address.
    async fn read(&self, at: IpAddr, keys: &Keys, host: &PublicKey) -> Result<Vec<u8>, Refusal> {
        let socket = SocketAddr::new(at, PORT);
        let stream = timeout(CONNECT, (self.dial)(socket));
        let stream = stream.await.map_err(|_| Refusal::Silent)??;
        let config = Arc::new(client::Config::default());
        let mut session = client::connect_stream(config, stream, Guest(host.clone())).await?;
        let hash = if keys.private.algorithm().is_rsa() {
            session.best_supported_rsa_hash().await?.flatten()
        } else {
            None
        };
        let key = PrivateKeyWithHashAlg::new(keys.private.clone(), hash);
        if !session.authenticate_publickey(USER, key).await?.success() {
            return Err(Refusal::Key);
        }
        let output = output(&session).await;
        // The guest may have hung up already.
        let _ = session
            .disconnect(Disconnect::ByApplication, "", "en")
            .await;
        output
    }
}

/// What the file's reader says, up to a limit.
async fn output(session: &Handle<Guest>) -> Result<Vec<u8>, Refusal> {
    let mut channel = session.channel_open_session().await?;
    channel.exec(true, format!("cat {SENTINEL}")).await?;
    let mut output = Vec::new();
    while let Some(message) = channel.wait().await {
        if let ChannelMsg::Data { data } | ChannelMsg::ExtendedData { data, .. } = message {
            let room = OUTPUT_MAX.saturating_sub(output.len());
            output.extend(data.iter().take(room));
        }
    }
    Ok(output)
}

/// Why the file could not be read.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("nobody answers within {} s", CONNECT.as_secs())]
    Silent,
    #[error("{0}")]
    Unreached(#[from] io::Error),
    #[error(
        "the guest does not let user {USER} in, since its cloud-init did not run or is not done"
    )]
    Key,
    #[error(
        "the host key is not the one that was made for this machine: somebody else answers there, or \
         its cloud-init is not done"
    )]
    Host,
    #[error("{0}")]
    Spoken(russh::Error),
}

impl From<russh::Error> for Refusal {
    fn from(error: russh::Error) -> Self {
        match error {
            russh::Error::UnknownKey => Self::Host,
            russh::Error::IO(error) => Self::Unreached(error),
            other => Self::Spoken(other),
        }
    }
}

/// Lets nobody answer but the guest itself.
struct Guest(PublicKey);

impl client::Handler for Guest {
    type Error = russh::Error;

    async fn check_server_key(
        &mut self,
        key: &PublicKeyOrCertificate,
    ) -> Result<bool, Self::Error> {
        Ok(match key {
            PublicKeyOrCertificate::PublicKey { key, .. } => key.key_data() == self.0.key_data(),
            PublicKeyOrCertificate::Certificate(_) => false,
        })
    }
}

impl Logins for Ssh {
    fn login<'a>(
        &'a self,
        keys: &'a ObjectName,
        mark: &'a Mark,
    ) -> BoxFuture<'a, Result<Login, LoginError>> {
        Box::pin(async move {
            let pair = self.keys(keys).await?;
            let malformed = |_| LoginError::Malformed(keys.clone());
            let host = pair.host(mark);
            let authorized = pair.private.public_key().to_openssh();
            let private = host.to_openssh(LineEnding::LF).map_err(malformed)?;
            Ok(Login {
                authorized: authorized.map_err(malformed)?,
                host_private: private.to_string(),
                host_public: host.public_key().to_openssh().map_err(malformed)?,
            })
        })
    }

    fn ask<'a>(&'a self, target: &'a Target) -> BoxFuture<'a, Answer> {
        Box::pin(async move {
            let keys = match self.keys(&target.keys).await {
                Ok(keys) => keys,
                Err(error) => return Answer::NotYet(error.to_string()),
            };
            let host = keys.host(&target.mark);
            let mut refusals = Vec::new();
            for at in target.addresses.iter().take(ADDRESSES_MAX) {
                match self.read(*at, &keys, host.public_key()).await {
                    Ok(said) => return judged(&said),
                    Err(refusal) => {
                        if matches!(refusal, Refusal::Key) {
                            // They may have been changed.
                            self.keys.lock().remove(&target.keys);
                        }
                        refusals.push(format!("{}: {refusal}", SocketAddr::new(*at, PORT)));
                    }
                }
            }
            Answer::NotYet(match refusals.as_slice() {
                [] => "the VM has no address yet".to_owned(),
                some => format!("ask the guest over SSH: {}", some.join("; ")),
            })
        })
    }
}

/// What the content of the file means.
fn judged(said: &[u8]) -> Answer {
    let text = String::from_utf8_lossy(said);
    match text.trim() {
        "success" => Answer::Done,
        "" => Answer::NotYet(format!("{SENTINEL} is empty, and should say success")),
        other => Answer::NotYet(format!("the guest is not done: {other}")),
    }
}

/// A new key pair, as the Secret that a cluster's machines look for.
///
/// # Errors
///
/// If the key cannot be encoded, which does not happen to keys of this kind.
pub fn new_keys(
    name: &ObjectName,
    owner: &OwnerReference,
) -> Result<Value, russh::keys::ssh_key::Error> {
    let mut seed = Sha256::new();
    // Each is 122 bits of the system's random numbers.
    for token in [Token::random(), Token::random(), Token::random()] {
        seed.update(token.as_str());
    }
    let private = PrivateKey::from(Ed25519Keypair::from_seed(&seed.finalize().into()));
    let public = private.public_key().to_openssh()?;
    let key = private.to_openssh(LineEnding::LF)?;
    Ok(json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "cluster.x-k8s.io/secret",
        "metadata": {
            "name": name.name, "namespace": name.namespace,
            // With it goes the Secret, and clusterctl takes it along when it moves the cluster.
            "ownerReferences": [owner],
        },
        "stringData": {PUBLIC: public, PRIVATE: key.as_str()},
    }))
}

#[cfg(test)]
mod tests {
    use capi_testkit::apiserver::ApiServer;
    use kube::api::PostParams;
    use russh::keys::ssh_key::certificate::{Builder, CertType};

    use super::*;

    /// A certificate says who has signed it, and nobody is trusted with that.
    #[tokio::test]
    async fn a_guest_answers_with_its_own_key_and_no_certificate() {
        use client::Handler as _;

        let key = |seed| PrivateKey::from(Ed25519Keypair::from_seed(&[seed; 32]));
        let (own, other) = (key(1), key(2));
        let mut guest = Guest(own.public_key().clone());
        let mut builder = Builder::new(
            [7; 16],
            own.public_key().key_data().clone(),
            0,
            u64::MAX >> 1,
        )
        .unwrap();
        builder.cert_type(CertType::Host).unwrap();
        builder.all_principals_valid().unwrap();
        let certificate = builder.sign(&other).unwrap();
        let certificate = PublicKeyOrCertificate::Certificate(certificate);
        assert!(!guest.check_server_key(&certificate).await.unwrap());
        for (private, is_taken) in [(&own, true), (&other, false)] {
            let key = private.public_key().clone();
            let shown = PublicKeyOrCertificate::PublicKey {
                key,
                hash_alg: None,
            };
            assert_eq!(guest.check_server_key(&shown).await.unwrap(), is_taken);
        }
    }

    #[tokio::test]
    async fn the_keys_of_so_many_clusters_are_kept() {
        let server = ApiServer::new();
        let name = |n: usize| ObjectName::new("default", format!("c-{n}-ssh-keys"));
        let management = server.client("script");
        let api = Api::<Secret>::namespaced(management.clone(), "default");
        let mut secret = new_keys(&name(KEYS_MAX), &OwnerReference::default()).unwrap();
        secret["metadata"]["ownerReferences"] = json!([]);
        let secret = serde_json::from_value(secret).unwrap();
        api.create(&PostParams::default(), &secret).await.unwrap();
        let ssh = Ssh::new(management);
        let known = ssh.keys(&name(KEYS_MAX)).await.unwrap();
        ssh.keys.lock().clear();
        for n in 0..KEYS_MAX {
            ssh.keys.lock().insert(name(n), known.clone());
        }
        ssh.keys(&name(KEYS_MAX)).await.unwrap();
        assert_eq!(ssh.keys.lock().len(), 1);
    }

    #[test]
    fn the_file_says_success_and_nothing_else() {
        assert_eq!(judged(b" success\n"), Answer::Done);
        let why = |said: &[u8]| match judged(said) {
            Answer::Done => panic!("{said:?} is believed"),
            Answer::NotYet(why) => why,
        };
        assert!(why(b"\n").contains("is empty, and should say success"));
        assert!(why(b"no success yet").ends_with("the guest is not done: no success yet"));
    }
}
