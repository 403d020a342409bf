//! What a simulated infra cluster consists of before anybody uses it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use capi_testkit::apiserver::{ApiServer, StatusError};
use ipnet::{IpNet, Ipv4Net};
use jiff::Timestamp;
use kube::Client;

use crate::admission;
use crate::definition;
use crate::delays::Delays;
use crate::fault::Rates;
use crate::guest::Guests;
use crate::platform::Platform;

/// One GiB in bytes.
pub(crate) const GIB: u64 = 1 << 30;

/// A node that instances run on.
#[derive(Clone, Debug)]
pub struct NodeSpec {
    pub(crate) name: String,
    pub(crate) cores: u32,
    pub(crate) memory: u64,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) taints: Vec<(String, String, String)>,
    pub(crate) address: Option<IpAddr>,
}

impl NodeSpec {
    /// A node with 16 cores and 64 GiB of memory.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            cores: 16,
            memory: 64 * GIB,
            labels: BTreeMap::new(),
            taints: Vec::new(),
            address: None,
        }
    }

    /// Sets the number of cores.
    #[must_use]
    pub fn cores(mut self, cores: u32) -> Self {
        self.cores = cores;
        self
    }

    /// Sets the memory, in GiB.
    #[must_use]
    pub fn memory_gib(mut self, memory: u64) -> Self {
        self.memory = memory * GIB;
        self
    }

    /// Sets the label `topology.kubernetes.io/zone`.
    #[must_use]
    pub fn zone(self, zone: &str) -> Self {
        self.label(crate::word::ZONE_LABEL, zone)
    }

    /// Sets the label `topology.kubernetes.io/region`.
    #[must_use]
    pub fn region(self, region: &str) -> Self {
        self.label(crate::word::REGION_LABEL, region)
    }

    /// Sets a label.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Adds a taint; `effect` is `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    #[must_use]
    pub fn taint(mut self, key: &str, value: &str, effect: &str) -> Self {
        self.taints
            .push((key.to_owned(), value.to_owned(), effect.to_owned()));
        self
    }

    /// Sets its internal address, where Services of type `NodePort` answer.
    #[must_use]
    pub fn address(mut self, address: IpAddr) -> Self {
        self.address = Some(address);
        self
    }
}

/// A storage class.
#[derive(Clone, Debug)]
pub struct StorageSpec {
    pub(crate) name: String,
    pub(crate) is_default: bool,
    pub(crate) waits_for_consumer: bool,
    pub(crate) is_shared: bool,
}

impl StorageSpec {
    /// A class whose volumes all nodes reach (`ReadWriteMany`), bound at once.
    pub fn shared(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            is_default: false,
            waits_for_consumer: false,
            is_shared: true,
        }
    }

    /// A class of volumes local to a node (`ReadWriteOnce`), bound when their first consumer is
    /// scheduled (`WaitForFirstConsumer`). Instances on them cannot migrate.
    pub fn local(name: impl Into<String>) -> Self {
        Self {
            waits_for_consumer: true,
            is_shared: false,
            ..Self::shared(name)
        }
    }

    /// Makes it the class of claims that name none.
    #[must_use]
    pub fn as_default(mut self) -> Self {
        self.is_default = true;
        self
    }
}

/// A golden image: a claim with an operating system on it, and a `DataSource` of the same name.
#[derive(Clone, Debug)]
pub struct GoldenSpec {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) size_gib: u64,
}

impl GoldenSpec {
    /// An image of 10 GiB.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
            size_gib: 10,
        }
    }

    /// Sets its size, in GiB.
    #[must_use]
    pub fn size_gib(mut self, size: u64) -> Self {
        self.size_gib = size;
        self
    }
}

/// KubeVirt could not be built into an embedded API server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// A definition was refused.
    #[error("installing the definitions of KubeVirt and CDI")]
    Definitions(#[from] StatusError),
    /// A configuration was refused, as where KubeVirt is built in already.
    #[error("configuring KubeVirt's admission webhooks")]
    Webhooks(#[source] Box<kube::Error>),
}

/// What Services of type `LoadBalancer` get.
#[derive(Clone, Debug)]
pub(crate) enum Balancer {
    /// Nobody plays the load balancer.
    Absent,
    /// An address of this range, as MetalLB gives.
    Address(IpNet),
    /// A host name below this domain, as some clouds give.
    Hostname(String),
}

/// Puts an infra cluster together.
///
/// ```
/// use capi_testkit::apiserver::ApiServer;
/// use kubevirt_sim::{Builder, Delays, NodeSpec};
///
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
/// # runtime.block_on(async {
/// let infra = ApiServer::builder().seed(1).build();
/// let platform = Builder::new()
///     .delays(Delays::zero())
///     .node(NodeSpec::new("gpu-1").zone("zone-1").label("gpu", "true"))
///     .build_in(&infra)
///     .await
///     .expect("the published definitions are valid");
/// tokio::select! {
///     never = platform.run() => match never {},
///     () = tokio::time::sleep(std::time::Duration::from_secs(1)) => {}
/// }
/// assert_eq!(infra.objects("nodes").len(), 4);
/// # });
/// ```
#[derive(Clone, Debug)]
pub struct Builder {
    pub(crate) nodes: Vec<NodeSpec>,
    pub(crate) storages: Vec<StorageSpec>,
    pub(crate) goldens: Vec<GoldenSpec>,
    pub(crate) networks: BTreeMap<String, Option<IpNet>>,
    pub(crate) delays: Delays,
    pub(crate) speed: f64,
    pub(crate) seed: u64,
    pub(crate) epoch: Option<Timestamp>,
    pub(crate) guests: Option<Guests>,
    pub(crate) pods: IpNet,
    pub(crate) sticky: bool,
    pub(crate) services: IpNet,
    pub(crate) balancer: Balancer,
    pub(crate) chaos: Rates,
}

impl Builder {
    /// Three nodes `node-1` to `node-3` in the zones `zone-1` to `zone-3`; the storage classes
    /// `shared` (the default) and `local`; load balancers with addresses of 192.168.100.0/24.
    pub fn new() -> Self {
        let node = |n: u8| NodeSpec::new(format!("node-{n}")).zone(&format!("zone-{n}"));
        Self::empty()
            .node(node(1))
            .node(node(2))
            .node(node(3))
            .storage(StorageSpec::shared("shared").as_default())
            .storage(StorageSpec::local("local"))
    }

    /// An infra cluster without nodes and storage.
    pub fn empty() -> Self {
        let net =
            |a, b, c, prefix| IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, 0), prefix));
        Self {
            nodes: Vec::new(),
            storages: Vec::new(),
            goldens: Vec::new(),
            networks: BTreeMap::new(),
            delays: Delays::realistic(),
            speed: 1.0,
            seed: 0,
            epoch: None,
            guests: None,
            pods: net(10, 244, 0, 16),
            sticky: false,
            services: net(10, 96, 0, 16),
            balancer: Balancer::Address(net(192, 168, 100, 24)),
            chaos: Rates::default(),
        }
    }

    /// Adds a node, or replaces the one of that name.
    #[must_use]
    pub fn node(mut self, node: NodeSpec) -> Self {
        self.nodes.retain(|known| known.name != node.name);
        self.nodes.push(node);
        self
    }

    /// Adds a storage class, or replaces the one of that name.
    #[must_use]
    pub fn storage(mut self, storage: StorageSpec) -> Self {
        self.storages.retain(|known| known.name != storage.name);
        self.storages.push(storage);
        self
    }

    /// Adds a golden image.
    #[must_use]
    pub fn golden(mut self, golden: GoldenSpec) -> Self {
        self.goldens.push(golden);
        self
    }

    /// Adds a network that Multus attaches, `namespace/name` of its attachment definition, with the
    /// addresses that a DHCP server there gives out, if there is one.
    #[must_use]
    pub fn network(mut self, name: impl Into<String>, dhcp: Option<IpNet>) -> Self {
        self.networks.insert(name.into(), dhcp);
        self
    }

    /// Sets how long work takes; [`Delays::realistic`] unless set.
    #[must_use]
    pub fn delays(mut self, delays: Delays) -> Self {
        self.delays = delays;
        self
    }

    /// Divides all delays by this factor, and the times that users set (grace periods, probes). What
    /// is not finite and above zero counts as 1.
    #[must_use]
    pub fn speed(mut self, speed: f64) -> Self {
        let is_valid = speed.is_finite() && speed > 0.0;
        self.speed = if is_valid { speed } else { 1.0 };
        self
    }

    /// Sets the seed of everything random: uuids, generated names, chaos.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Sets the wall-clock time at the start, which should be that of the API server; now unless
    /// set.
    #[must_use]
    pub fn epoch(mut self, epoch: Timestamp) -> Self {
        self.epoch = Some(epoch);
        self
    }

    /// Lets instances boot a simulated operating system. Without it they run empty, and no guest
    /// agent answers.
    #[must_use]
    pub fn guests(mut self, guests: Guests) -> Self {
        self.guests = Some(guests);
        self
    }

    /// Sets the range of pod addresses, 10.244.0.0/16 unless set. A range inside 127.0.0.0/8 lets
    /// other processes of this host answer on them.
    #[must_use]
    pub fn pods(mut self, range: IpNet) -> Self {
        self.pods = range;
        self
    }

    /// Lets an instance of the same name get the same pod address again, as kube-ovn does. Without
    /// it the address changes at each restart and migration.
    #[must_use]
    pub fn sticky_addresses(mut self) -> Self {
        self.sticky = true;
        self
    }

    /// Sets the range of cluster addresses of Services, 10.96.0.0/16 unless set. Counts only with
    /// [`Builder::build_in`]: a real API server has a range of its own.
    #[must_use]
    pub fn services(mut self, range: IpNet) -> Self {
        self.services = range;
        self
    }

    /// Gives Services of type `LoadBalancer` addresses of this range, as MetalLB does.
    #[must_use]
    pub fn load_balancer_addresses(mut self, range: IpNet) -> Self {
        self.balancer = Balancer::Address(range);
        self
    }

    /// Gives Services of type `LoadBalancer` a host name below this domain instead of an address.
    #[must_use]
    pub fn load_balancer_hostnames(mut self, domain: impl Into<String>) -> Self {
        self.balancer = Balancer::Hostname(domain.into());
        self
    }

    /// Leaves Services of type `LoadBalancer` without any answer.
    #[must_use]
    pub fn without_load_balancer(mut self) -> Self {
        self.balancer = Balancer::Absent;
        self
    }

    /// Lets things go wrong at random; nothing does unless set.
    #[must_use]
    pub fn chaos(mut self, rates: Rates) -> Self {
        self.chaos = rates;
        self
    }

    /// Builds it in an embedded API server: installs the published definitions, and KubeVirt's
    /// admission webhooks in this process, which refuse what KubeVirt refuses. Cluster addresses and
    /// node ports, which a real API server allocates itself, come from such a webhook too.
    ///
    /// Requests of the simulator are recorded under `kubevirt`, those of [`Platform::hand`] under
    /// `hand`.
    ///
    /// # Errors
    ///
    /// The server's refusal of a definition or of a webhook's configuration.
    pub async fn build_in(self, server: &ApiServer) -> Result<Platform, BuildError> {
        definition::install_in(server)?;
        let clients = [server.client("kubevirt"), server.client("hand")];
        admission::configure(&clients[0])
            .await
            .map_err(|cause| BuildError::Webhooks(Box::new(cause)))?;
        let platform = Platform::new(self, clients, true);
        admission::serve_in(server, &platform.world);
        Ok(platform)
    }

    /// Builds it on any API server. `client` needs all rights on the kinds that are played; the
    /// definitions must be there ([`install`](crate::install)). What KubeVirt's admission webhooks
    /// would refuse is not refused here: the VM gets the condition `Failure` instead.
    pub fn build(self, client: &Client) -> Platform {
        Platform::new(self, [client.clone(), client.clone()], false)
    }
}

impl Default for Builder {
    fn default() -> Self {
        Self::new()
    }
}

/// A span of time as a platform of that speed has it.
pub(crate) fn scaled(span: Duration, speed: f64) -> Duration {
    span.div_f64(speed)
}
