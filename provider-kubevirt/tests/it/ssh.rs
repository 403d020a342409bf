//! Guests that are asked over SSH: real clients and servers of the protocol, on connections in memory and
//! on loopback. The servers are what a guest's cloud-init makes of its data.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use capi_contract::{Mark, ObjectName, Token};
use capi_testkit::apiserver::ApiServer;
use capi_testkit::sweep::PROVIDER;
use futures::future::BoxFuture;
use kube::Client;
use kube::api::{Patch, PatchParams};
use provider_kubevirt::connect::Connector;
use provider_kubevirt::login::{self, Answer, Logins, Target};
use provider_kubevirt::machine::Machines;
use provider_kubevirt::ssh::{Line, Ssh};
use rstest::rstest;
use russh::keys::{PrivateKey, PublicKey};
use russh::server::{self, Auth, ChannelOpenHandle, Handler, Msg, VerifiedPublicKey};
use russh::{Channel, ChannelId};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::record::recorded;
use crate::site::{
    FLEET, Fleet, NAMESPACE, Site, condition, create, is_provisioned, machine, objects_of, ready,
};

/// What cloud-init makes of a guest's data: a host key, the lines that let the user in, and later the file.
#[derive(Clone)]
struct Guest {
    host: PrivateKey,
    authorized: Vec<String>,
    /// What a read of the file gives; the words of `cat` where there is none.
    file: Result<String, String>,
}

impl Guest {
    fn of(data: &[u8], file: Result<&str, &str>) -> Self {
        let data: Value = serde_saphyr::from_slice(data).unwrap();
        let private = data["ssh_keys"]["ed25519_private"].as_str().unwrap();
        let users = data["users"].as_array().unwrap();
        let user = users
            .iter()
            .find(|user| user["name"] == login::USER)
            .unwrap();
        let lines = user["ssh_authorized_keys"].as_array().unwrap().iter();
        Self {
            host: PrivateKey::from_openssh(private).unwrap(),
            authorized: lines
                .map(|line| line.as_str().unwrap().to_owned())
                .collect(),
            file: file.map(str::to_owned).map_err(str::to_owned),
        }
    }

    /// Serves one connection.
    fn serve(&self, line: impl Line + 'static) {
        let config = server::Config {
            keys: vec![self.host.clone()],
            auth_rejection_time: Duration::ZERO,
            ..server::Config::default()
        };
        let guest = self.clone();
        tokio::spawn(async move {
            // A client that does not like what it sees hangs up.
            if let Ok(session) = server::run_stream(Arc::new(config), line, guest).await {
                let _ = session.await;
            }
        });
    }
}

impl Handler for Guest {
    type Error = russh::Error;

    async fn auth_publickey(
        &mut self,
        user: &str,
        key: VerifiedPublicKey<'_>,
    ) -> Result<Auth, russh::Error> {
        let is_known = self.authorized.iter().any(|line| {
            let forced = format!("restrict,command=\"cat {}\" ", login::SENTINEL);
            let own = line.strip_prefix(&forced).expect("a forced command");
            PublicKey::from_openssh(own).unwrap().key_data() == key.public_key.key_data()
        });
        // OpenSSH has refused signatures with SHA-1 since its version 8.8.
        let is_sound = key.algorithm.as_str() != "ssh-rsa";
        if user == login::USER && is_known && is_sound {
            Ok(Auth::Accept)
        } else {
            Ok(Auth::reject())
        }
    }

    async fn channel_open_session(
        &mut self,
        _: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut server::Session,
    ) -> Result<(), russh::Error> {
        reply.accept().await;
        Ok(())
    }

    /// Whatever is asked for, the forced command is run.
    async fn exec_request(
        &mut self,
        channel: ChannelId,
        _: &[u8],
        session: &mut server::Session,
    ) -> Result<(), russh::Error> {
        session.channel_success(channel)?;
        match self.file.clone() {
            Ok(text) => session.data(channel, text.into_bytes())?,
            Err(text) => session.extended_data(channel, 1, text.into_bytes())?,
        }
        session.exit_status_request(channel, u32::from(self.file.is_err()))?;
        session.eof(channel)?;
        session.close(channel)
    }
}

fn keys() -> ObjectName {
    ObjectName::new(NAMESPACE, login::keys_name(FLEET))
}

/// An Ed25519 key as the provider's command makes it.
fn own_keys() -> Value {
    let owner = serde_json::from_value(json!({
        "apiVersion": "infrastructure.cluster.x-k8s.io/v1alpha1", "kind": "KubevirtCluster",
        "name": FLEET, "uid": "1",
    }));
    provider_kubevirt::ssh::new_keys(&keys(), &owner.unwrap()).unwrap()
}

/// An RSA key in the form of the Go provider: PKCS#1.
fn go_keys() -> Value {
    /// What PKCS#8 puts before a key of 2048 bits.
    const PKCS_8: usize = 26;
    let pair = rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048)
        .unwrap();
    let body = STANDARD.encode(&pair.serialize_der()[PKCS_8..]);
    let lines: Vec<_> = body.as_bytes().chunks(64).collect();
    let lines = lines.iter().map(|line| std::str::from_utf8(line).unwrap());
    let body = lines.collect::<Vec<_>>().join("\n");
    let pem = format!("-----BEGIN RSA PRIVATE KEY-----\n{body}\n-----END RSA PRIVATE KEY-----\n");
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": "cluster.x-k8s.io/secret",
        "metadata": {"name": keys().name, "namespace": NAMESPACE},
        "stringData": {"key": pem, "pub": "ssh-rsa AAAA"},
    })
}

fn target(mark: &Mark, addresses: &[&str]) -> Target {
    Target {
        machine: mark.object.clone(),
        mark: mark.clone(),
        keys: keys(),
        addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
    }
}

fn mark() -> Mark {
    Mark::made(Token::random(), ObjectName::new(NAMESPACE, "m-0"))
}

/// The data that a guest with this mark gets.
async fn data(ssh: &Ssh, mark: &Mark) -> Vec<u8> {
    let login = ssh.login(&keys(), mark).await.unwrap();
    login::admit(b"#cloud-config\nruncmd: []\n", &login).unwrap()
}

/// Defect 7: an IPv6 address and `:22` are no address to the Go provider.
#[rstest]
#[case::v4("127.0.0.1", own_keys())]
#[case::v6("::1", own_keys())]
#[case::keys_of_the_go_provider("127.0.0.1", go_keys())]
#[tokio::test]
async fn capk_defect_7_a_guest_is_asked_at_either_family(#[case] ip: &str, #[case] secret: Value) {
    let server = ApiServer::new();
    create(&server.client("script"), secret).await;
    let listener = tokio::net::TcpListener::bind((ip.parse::<IpAddr>().unwrap(), 0)).await;
    let listener = listener.unwrap();
    let port = listener.local_addr().unwrap().port();
    let ssh = Ssh::new(server.client(PROVIDER)).through(move |at: SocketAddr| {
        assert_eq!(at.port(), 22);
        Box::pin(async move {
            let stream = tokio::net::TcpStream::connect((at.ip(), port)).await?;
            Ok(Box::new(stream) as Box<dyn Line>)
        })
    });
    let mark = mark();
    let guest = Guest::of(&data(&ssh, &mark).await, Ok("success\n"));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            guest.serve(stream);
        }
    });
    assert_eq!(ssh.ask(&target(&mark, &[ip])).await, Answer::Done);
}

/// Reaches guests by these addresses.
fn reaching(client: Client, guests: Vec<(&str, Guest)>) -> Ssh {
    let guests: Vec<(IpAddr, Guest)> = guests
        .into_iter()
        .map(|(ip, guest)| (ip.parse().unwrap(), guest))
        .collect();
    Ssh::new(client).through(move |at| line(guests.iter().find(|(ip, _)| *ip == at.ip())))
}

fn line(guest: Option<&(IpAddr, Guest)>) -> BoxFuture<'static, io::Result<Box<dyn Line>>> {
    let Some((_, guest)) = guest else {
        return Box::pin(async { Err(io::ErrorKind::ConnectionRefused.into()) });
    };
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    guest.serve(theirs);
    Box::pin(async move { Ok(Box::new(ours) as Box<dyn Line>) })
}

/// Defect 8: the Go provider takes any host key.
#[tokio::test(start_paused = true)]
async fn capk_defect_8_nobody_answers_in_a_guests_place() {
    let server = ApiServer::new();
    create(&server.client("script"), own_keys()).await;
    let client = server.client(PROVIDER);
    let (mark, other) = (mark(), mark());
    let ssh = Ssh::new(client.clone());
    let ours = Guest::of(&data(&ssh, &mark).await, Ok("success\n"));
    let another = Guest::of(&data(&ssh, &other).await, Ok("success\n"));
    let stranger = Guest {
        host: PrivateKey::from_openssh(ssh.login(&keys(), &other).await.unwrap().host_private)
            .unwrap(),
        ..ours.clone()
    };
    let unwilling = Guest {
        authorized: Vec::new(),
        ..ours.clone()
    };
    let waiting = Guest::of(
        &data(&ssh, &mark).await,
        Err("cat: /run/cluster-api/bootstrap-success.complete: No such file or directory\n"),
    );
    let silent = vec![
        ("10.0.0.1", ours.clone()),
        ("10.0.0.2", another),
        ("10.0.0.3", stranger),
        ("10.0.0.4", unwilling),
        ("10.0.0.5", waiting),
    ];
    let ssh = reaching(client, silent);
    for (ip, told) in [
        (
            "10.0.0.2",
            "host key is not the one that was made for this machine",
        ),
        (
            "10.0.0.3",
            "host key is not the one that was made for this machine",
        ),
        ("10.0.0.4", "does not let user capk in"),
        ("10.0.0.5", "the guest is not done: cat: /run/cluster-api"),
        ("10.0.0.6", "10.0.0.6:22: connection refused"),
    ] {
        let Answer::NotYet(why) = ssh.ask(&target(&mark, &[ip])).await else {
            panic!("{ip} is believed");
        };
        assert!(why.contains(told), "{ip}: {why}");
    }
    // An address that nobody answers does not hide the others.
    let both = target(&mark, &["10.0.0.6", "10.0.0.1"]);
    assert_eq!(ssh.ask(&both).await, Answer::Done);
}

/// Host keys are made of the mark, which is no secret, and of the cluster's private key, which is.
#[tokio::test]
async fn capk_defect_8_the_host_key_of_a_machine_needs_the_keys_of_its_cluster() {
    let mark = mark();
    let host = async || {
        let server = ApiServer::new();
        create(&server.client("script"), own_keys()).await;
        let ssh = Ssh::new(server.client(PROVIDER));
        ssh.login(&keys(), &mark).await.unwrap().host_public
    };
    assert_ne!(host().await, host().await);
}

/// The keys of a cluster are read once, and again once a guest has refused them.
#[tokio::test(start_paused = true)]
async fn keys_are_read_again_where_a_guest_refused_them() {
    let server = ApiServer::new();
    create(&server.client("script"), own_keys()).await;
    let client = server.client(PROVIDER);
    let mark = mark();
    let willing = Guest::of(
        &data(&Ssh::new(client.clone()), &mark).await,
        Ok("success\n"),
    );
    let unwilling = Guest {
        authorized: Vec::new(),
        ..willing.clone()
    };
    let ssh = reaching(client, vec![("10.0.0.1", willing), ("10.0.0.2", unwilling)]);
    let mut reads = Vec::new();
    for ip in ["10.0.0.1", "10.0.0.1", "10.0.0.2", "10.0.0.1"] {
        let before = server.audit().reads(PROVIDER).len();
        ssh.ask(&target(&mark, &[ip])).await;
        reads.push(server.audit().reads(PROVIDER).len() - before);
    }
    assert_eq!(reads, [1, 0, 0, 1]);
}

/// Whatever a guest says, no more of it is kept than a person reads.
#[tokio::test(start_paused = true)]
async fn a_guest_that_says_much_is_cut_short() {
    let server = ApiServer::new();
    create(&server.client("script"), own_keys()).await;
    let client = server.client(PROVIDER);
    let mark = mark();
    let words = "x".repeat(100_000);
    let guest = Guest::of(
        &data(&Ssh::new(client.clone()), &mark).await,
        Err(words.as_str()),
    );
    let ssh = reaching(client, vec![("10.0.0.1", guest)]);
    let Answer::NotYet(why) = ssh.ask(&target(&mark, &["10.0.0.1"])).await else {
        panic!("it is believed");
    };
    assert!(why.len() < 1_100 && why.contains("xxx"), "{}", why.len());
}

/// A connection that is never there takes four seconds per address, and four addresses are enough.
#[tokio::test(start_paused = true)]
async fn an_attempt_has_an_end() {
    let server = ApiServer::new();
    create(&server.client("script"), own_keys()).await;
    let ssh = Ssh::new(server.client(PROVIDER))
        .through(|_| Box::pin(std::future::pending::<io::Result<Box<dyn Line>>>()));
    let begun = tokio::time::Instant::now();
    let Answer::NotYet(why) = ssh.ask(&target(&mark(), &["10.0.0.1", "fd00::1"])).await else {
        panic!("nobody is believed");
    };
    assert!(
        why.contains("[fd00::1]:22: nobody answers within 4 s"),
        "{why}"
    );
    assert_eq!(begun.elapsed().as_secs(), 8);
    let many = target(&mark(), &["10.0.0.1"; 6]);
    assert!(matches!(ssh.ask(&many).await, Answer::NotYet(_)));
    assert_eq!(begun.elapsed().as_secs(), 8 + 16);
}

fn told(site: &Site) -> (String, String) {
    let machine = site.machine("m-0").unwrap();
    let one = condition(&machine, "BootstrapExecSucceeded").cloned();
    let one = one.unwrap_or_default();
    let word = |key: &str| one[key].as_str().unwrap_or_default().to_owned();
    (word("reason"), word("message"))
}

/// A provider that asks guests over SSH, whose bootstrap is over after so many seconds.
struct Asking {
    site: Site,
    begun: tokio::time::Instant,
    boots: Duration,
    asked: Arc<AtomicUsize>,
}

impl Asking {
    fn of(site: &Site, seconds: u64) -> Self {
        Self {
            site: site.clone(),
            begun: tokio::time::Instant::now(),
            boots: Duration::from_secs(seconds),
            asked: Arc::default(),
        }
    }

    /// How often guests were asked.
    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    fn start(&self) -> JoinHandle<()> {
        let site = self.site.clone();
        let (management, infra) = (site.server.client(PROVIDER), site.infra.client(PROVIDER));
        let (of_guest, asked) = (site.clone(), self.asked.clone());
        let over = self.begun + self.boots;
        let ssh = Ssh::new(management.clone()).through(move |_| {
            asked.fetch_add(1, Ordering::SeqCst);
            let secret = &of_guest.secrets()[0];
            let data = secret["data"]["userdata"].as_str().unwrap();
            let file = if tokio::time::Instant::now() > over {
                Ok("success\n")
            } else {
                Err("cat: no such file\n")
            };
            let guest = Guest::of(&STANDARD.decode(data).unwrap(), file);
            let (ours, theirs) = tokio::io::duplex(1 << 16);
            guest.serve(theirs);
            Box::pin(async move { Ok(Box::new(ours) as Box<dyn Line>) })
        });
        let connector = Connector::new().through(move |_| recorded(infra.clone()));
        let connector = connector.asking(Arc::new(ssh));
        tokio::spawn(async move {
            site.provide_by(connector, management, Machines).await;
        })
    }
}

/// A machine that is being asked is asked by the provider's next process, too; and it is asked no more
/// once it is a node, whatever it said last.
#[tokio::test(start_paused = true)]
async fn a_guest_is_asked_after_a_restart_and_not_once_it_is_a_node() {
    let site = Site::usual().await;
    let fleet = Fleet::create(&site).await;
    site.play();
    let mut keys = own_keys();
    // Nothing of that uid is there, so they would be collected.
    keys["metadata"]["ownerReferences"] = json!([]);
    create(&site.server.client("script"), keys).await;
    let asking = Asking::of(&site, 1_000_000);
    let provider = asking.start();
    fleet.add_like("m-0", machine()).await;
    let is_told = |site: &Site| {
        let machine = site.machine("m-0").unwrap();
        condition(&machine, "BootstrapExecSucceeded").is_some()
            && told(site).1.contains("the guest is not done")
    };
    site.until("asked", is_told).await;
    provider.abort();
    let before = asking.asked();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(asking.asked(), before, "nobody is there");
    asking.start();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(asking.asked() >= before + 5, "{}", asking.asked());
    assert!(is_told(&site));

    fleet.join("m-0").await;
    site.until("ready", |site| {
        ready(&site.machine("m-0").unwrap()) == Some("True")
    })
    .await;
    let before = asking.asked();
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(asking.asked(), before, "a node is not asked");
}

/// What is no cloud-config has no place for the user, and so needs no keys.
#[tokio::test(start_paused = true)]
async fn a_machine_of_ignition_needs_no_keys() {
    let site = Site::usual().await;
    let fleet = Fleet::create(&site).await;
    site.play();
    let _provider = Asking::of(&site, 0).start();
    let owner = fleet.add_owner("m-0", json!({})).await;
    let secret = json!({"apiVersion": "v1", "kind": "Secret"});
    let patch = json!({"stringData": {"format": "ignition", "value": "{\"ignition\": {}}"}});
    let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
    let secrets = objects_of(&fleet.script, &secret);
    let patched = secrets.patch("m-0-bootstrap", &params, &patch).await;
    patched.unwrap();
    fleet.add_infra("m-0", &owner, machine()).await;
    site.until("provisioned", |site| {
        site.machine("m-0").is_some_and(|one| is_provisioned(&one))
    })
    .await;
}

/// A machine from its keys to its node: asked while it boots, and never after.
#[tokio::test(start_paused = true)]
async fn a_machine_is_ready_once_its_guest_says_so_over_ssh() {
    let site = Site::usual().await;
    let fleet = Fleet::create(&site).await;
    site.play();
    let asking = Asking::of(&site, 120);
    let begun = asking.begun;
    asking.start();

    fleet.add_like("m-0", machine()).await;
    let is_missing = |site: &Site| {
        let machine = site.machine("m-0").unwrap();
        let one = condition(&machine, "VMProvisioned")
            .cloned()
            .unwrap_or_default();
        let message = one["message"].as_str().unwrap_or_default();
        message.contains("needs a key pair in Secret default/fleet-ssh-keys")
    };
    site.until("the keys are missed", is_missing).await;
    create(&site.server.client("script"), go_keys()).await;
    site.until("asked", |site| {
        told(site).1.contains("the guest is not done")
    })
    .await;
    assert_eq!(told(&site).0, "WaitingForBootstrap");
    let object = site.machine("m-0").unwrap();
    assert_eq!(ready(&object), Some("False"));
    assert_eq!(object["status"]["initialization"]["provisioned"], true);
    assert!(begun.elapsed() < Duration::from_secs(120));

    site.until("ready", |site| {
        ready(&site.machine("m-0").unwrap()) == Some("True")
    })
    .await;
    assert_eq!(told(&site).0, "BootstrapSucceeded");
    assert!(
        begun.elapsed() < Duration::from_secs(140),
        "{:?}",
        begun.elapsed()
    );
    let before = asking.asked();
    fleet.join("m-0").await;
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(asking.asked(), before, "a node is not asked");
    assert_eq!(ready(&site.machine("m-0").unwrap()), Some("True"));
}
