//! What kubeadm signs with the authorities that the seed brought.

use std::net::{IpAddr, Ipv4Addr};

use capi_testkit::workload::Refused;

use crate::certificate::{Authority, Pair};
use crate::workload::failed;
use crate::workload::machine::Machine;

/// Where certificates are.
pub(super) const PKI: &str = "/etc/kubernetes/pki";

/// Signs what a control-plane machine serves and calls with, and returns an administrator's pair.
pub(super) fn sign(
    machine: &Machine,
    node: &str,
    addresses: &[IpAddr],
    endpoint: &str,
) -> Result<Pair, Refused> {
    let cluster = authority(machine, "ca")?;
    let names = [
        node,
        endpoint,
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ];
    // An endpoint that is an address is no name.
    let names = names.iter().copied();
    let names: Vec<_> = names
        .filter(|name| name.parse::<IpAddr>().is_err())
        .collect();
    let mut reached = vec![IpAddr::V4(Ipv4Addr::LOCALHOST)];
    reached.extend(addresses);
    reached.extend(endpoint.parse::<IpAddr>());
    // KCP looks for a certificate of exactly this name behind the port.
    let serving = cluster.serving("kube-apiserver", &names, &reached);
    save(machine, "apiserver", serving)?;
    let client = cluster.client("kube-apiserver-kubelet-client", Some("system:masters"));
    save(machine, "apiserver-kubelet-client", client)?;
    save(
        machine,
        "kubelet",
        cluster.serving(node, &[node], addresses),
    )?;
    let proxy = authority(machine, "front-proxy-ca")?;
    let client = proxy.client("front-proxy-client", None);
    save(machine, "front-proxy-client", client)?;
    let admin = cluster.client("kubernetes-super-admin", Some("system:masters"));
    admin.map_err(unsigned)
}

/// Signs what a member of etcd needs, and the API server as its client.
pub(super) fn sign_etcd(machine: &Machine, node: &str, address: IpAddr) -> Result<(), Refused> {
    let store = authority(machine, "etcd/ca")?;
    let reached = [address, IpAddr::V4(Ipv4Addr::LOCALHOST)];
    let names = [node, "localhost"];
    for name in ["etcd/server", "etcd/peer"] {
        save(machine, name, store.serving(node, &names, &reached))?;
    }
    let client = store.client("kube-apiserver-etcd-client", None);
    save(machine, "apiserver-etcd-client", client)
}

/// An authority that the seed brought.
fn authority(machine: &Machine, name: &str) -> Result<Authority, Refused> {
    let certificate = machine.read(&format!("{PKI}/{name}.crt"))?;
    let key = machine.read(&format!("{PKI}/{name}.key"))?;
    let read = Authority::from_pem(&certificate, &key);
    read.map_err(|error| failed(&format!("failure loading {name} certificate"))(error.into()))
}

fn save(machine: &Machine, name: &str, pair: Result<Pair, rcgen::Error>) -> Result<(), Refused> {
    let pair = pair.map_err(unsigned)?;
    machine.write(&format!("{PKI}/{name}.crt"), &pair.certificate)?;
    machine.write(&format!("{PKI}/{name}.key"), &pair.key)?;
    Ok(())
}

fn unsigned(error: rcgen::Error) -> Refused {
    failed("sign a certificate")(error.into())
}
