//! What a simulated cluster consists of before anybody calls it.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use crate::delays::Delays;
use crate::fault::Rates;
use crate::guest::Guests;
use crate::platform::Platform;

/// One GiB in bytes.
pub(crate) const GIB: u64 = 1 << 30;

/// 2026-01-01T00:00:00Z: what the cluster's clock shows first, unless a builder says otherwise,
/// so that equal runs give equal UPIDs.
const EPOCH: Duration = Duration::from_secs(1_767_225_600);

/// The default token's secret; a simulator has nothing to protect.
const DEFAULT_SECRET: &str = "5e1d5ec2-0000-4000-8000-51b0b1f1ed00";

/// A host of the cluster.
#[derive(Clone, Debug)]
pub struct NodeSpec {
    pub(crate) name: String,
    pub(crate) cpus: u32,
    pub(crate) memory: u64,
    pub(crate) bridges: Vec<String>,
}

impl NodeSpec {
    /// A host with 16 CPUs, 64 GiB of memory and the bridge `vmbr0`.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            cpus: 16,
            memory: 64 * GIB,
            bridges: vec!["vmbr0".into()],
        }
    }

    /// Sets the number of logical CPUs.
    pub fn cpus(mut self, cpus: u32) -> Self {
        self.cpus = cpus;
        self
    }

    /// Sets the memory, in GiB.
    pub fn memory_gib(mut self, memory: u64) -> Self {
        self.memory = memory * GIB;
        self
    }

    /// Adds a bridge of the SDN zone `localnetwork`.
    pub fn bridge(mut self, bridge: impl Into<String>) -> Self {
        self.bridges.push(bridge.into());
        self
    }
}

/// A storage definition of the cluster.
#[derive(Clone, Debug)]
pub struct StorageSpec {
    pub(crate) id: String,
    pub(crate) kind: &'static str,
    pub(crate) content: Vec<String>,
    pub(crate) nodes: Option<Vec<String>>,
    pub(crate) shared: bool,
    pub(crate) enabled: bool,
    pub(crate) total: u64,
    pub(crate) clones_at_once: Option<usize>,
}

impl StorageSpec {
    fn new(id: impl Into<String>, kind: &'static str, shared: bool, content: &[&str]) -> Self {
        Self {
            id: id.into(),
            kind,
            content: content.iter().map(ToString::to_string).collect(),
            nodes: None,
            shared,
            enabled: true,
            total: if shared { 10_240 * GIB } else { 1_024 * GIB },
            clones_at_once: None,
        }
    }

    /// A directory of each node for `iso`, `vztmpl` and `import`.
    pub fn directory(id: impl Into<String>) -> Self {
        Self::new(id, "dir", false, &["iso", "vztmpl", "import"])
    }

    /// A thin pool of each node for `images` and `rootdir`.
    pub fn thin_pool(id: impl Into<String>) -> Self {
        Self::new(id, "lvmthin", false, &["images", "rootdir"])
    }

    /// A network file system that all nodes share, for `images` and `iso`.
    pub fn shared(id: impl Into<String>) -> Self {
        Self::new(id, "nfs", true, &["images", "iso"])
    }

    /// Replaces the content types.
    pub fn content(mut self, content: &[&str]) -> Self {
        self.content = content.iter().map(ToString::to_string).collect();
        self
    }

    /// Restricts it to these nodes.
    pub fn on(mut self, nodes: &[&str]) -> Self {
        self.nodes = Some(nodes.iter().map(ToString::to_string).collect());
        self
    }

    /// Switches it off.
    pub fn disabled(mut self) -> Self {
        self.enabled = false;
        self
    }

    /// Sets its size, in GiB; 1 TiB on each node unless set, 10 TiB where shared. Disks are
    /// sparse and take an eighth of their size.
    pub fn total_gib(mut self, total: u64) -> Self {
        self.total = total * GIB;
        self
    }

    /// Lets further clones onto it fail with a lock time-out while so many run, as slow storages
    /// do that allocate under one lock.
    pub fn clones_at_once(mut self, clones_max: usize) -> Self {
        self.clones_at_once = Some(clones_max);
        self
    }
}

/// A VM template.
#[derive(Clone, Debug)]
pub struct TemplateSpec {
    pub(crate) vmid: u32,
    pub(crate) node: String,
    pub(crate) storage: String,
    pub(crate) disk_gib: u64,
    pub(crate) pool: Option<String>,
    pub(crate) config: BTreeMap<String, String>,
    pub(crate) is_template: bool,
    pub(crate) snapshots: BTreeMap<String, BTreeMap<String, String>>,
}

impl TemplateSpec {
    /// A template of two cores and 2 GiB with a disk of 8 GiB on `shared`, one NIC on `vmbr0`
    /// and the guest agent enabled.
    pub fn new(vmid: u32, node: impl Into<String>, name: impl Into<String>) -> Self {
        let config = [
            ("agent", "enabled=1"),
            ("boot", "order=scsi0"),
            ("cores", "2"),
            ("memory", "2048"),
            ("net0", "virtio=BC:24:11:00:00:01,bridge=vmbr0"),
            ("ostype", "l26"),
            ("scsihw", "virtio-scsi-single"),
            ("sockets", "1"),
            ("vmgenid", "00000000-0000-4000-8000-000000000001"),
        ];
        let config = config
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value.to_owned()));
        let mut config: BTreeMap<_, _> = config.collect();
        config.insert("name".into(), name.into());
        Self {
            vmid,
            node: node.into(),
            storage: "shared".into(),
            disk_gib: 8,
            pool: None,
            config,
            is_template: true,
            snapshots: BTreeMap::new(),
        }
    }

    /// A stopped VM, which can be cloned as well: only such have snapshots.
    pub fn machine(mut self) -> Self {
        self.is_template = false;
        self
    }

    /// A snapshot, in which these keys of the configuration are different.
    pub fn snapshot(mut self, name: &str, differences: &[(&str, &str)]) -> Self {
        let differences = differences.iter();
        let differences = differences.map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        self.snapshots
            .insert(name.to_owned(), differences.collect());
        self
    }

    /// Sets the tags, separated as Proxmox VE does: `a;b`.
    pub fn tags(self, tags: &str) -> Self {
        self.set("tags", tags)
    }

    /// Puts the disk on another storage.
    pub fn storage(mut self, storage: impl Into<String>) -> Self {
        self.storage = storage.into();
        self
    }

    /// Sets the disk's size, in GiB.
    pub fn disk_gib(mut self, size: u64) -> Self {
        self.disk_gib = size;
        self
    }

    /// Puts it into a pool.
    pub fn pool(mut self, pool: impl Into<String>) -> Self {
        self.pool = Some(pool.into());
        self
    }

    /// Sets any configuration key.
    pub fn set(mut self, key: &str, value: impl Into<String>) -> Self {
        self.config.insert(key.to_owned(), value.into());
        self
    }

    /// Takes a configuration key away.
    pub fn unset(mut self, key: &str) -> Self {
        self.config.remove(key);
        self
    }
}

/// An API token of a user, with rights of its own (`privsep=1`).
#[derive(Clone)]
pub struct TokenSpec {
    pub(crate) id: String,
    pub(crate) secret: String,
    pub(crate) grants: Vec<(String, Vec<String>)>,
}

impl std::fmt::Debug for TokenSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenSpec")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl TokenSpec {
    /// A token without any right. `id` is `user@realm!tokenid`.
    pub fn new(id: impl Into<String>, secret: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            secret: secret.into(),
            grants: Vec::new(),
        }
    }

    /// A token with the least rights that a Cluster API provider needs.
    pub fn provider(id: impl Into<String>, secret: impl Into<String>) -> Self {
        Self::new(id, secret)
            .grant("/", &["Sys.Audit"])
            .grant("/nodes", &["Sys.Audit"])
            .grant("/vms", &["PVEVMAdmin"])
            .grant("/pool", &["PVEPoolUser", "PVEVMAdmin"])
            .grant("/sdn/zones/localnetwork", &["PVESDNUser"])
            .grant("/storage", &["PVEDatastoreAdmin"])
    }

    /// Grants roles or single privileges on a path and everything below it.
    pub fn grant(mut self, path: &str, privileges: &[&str]) -> Self {
        let privileges = privileges.iter().map(ToString::to_string).collect();
        self.grants.push((path.to_owned(), privileges));
        self
    }
}

/// Puts a cluster together.
///
/// ```
/// use pve_sim::{Builder, Delays, TemplateSpec};
///
/// let platform = Builder::new()
///     .delays(Delays::zero())
///     .template(TemplateSpec::new(9001, "pve2", "flatcar").tags("flatcar;kube"))
///     .build();
/// assert_eq!(platform.vms().len(), 2);
/// ```
#[derive(Clone, Debug)]
pub struct Builder {
    pub(crate) name: String,
    pub(crate) nodes: Vec<NodeSpec>,
    pub(crate) storages: Vec<StorageSpec>,
    pub(crate) templates: Vec<TemplateSpec>,
    pub(crate) tokens: Vec<TokenSpec>,
    pub(crate) pools: Vec<String>,
    pub(crate) delays: Delays,
    pub(crate) speed: f64,
    pub(crate) seed: u64,
    pub(crate) epoch: SystemTime,
    pub(crate) next_id: (u32, u32),
    pub(crate) chaos: Rates,
    pub(crate) guests: Option<Guests>,
}

impl Builder {
    /// Three nodes `pve1` to `pve3`; the storages `local` (iso, vztmpl, import) and `local-lvm`
    /// of each, and `shared` (images, iso); the template 9000 on `pve1`; the pool `capi`; the
    /// token `capi@pve!provider`.
    pub fn new() -> Self {
        Self::empty("pve")
            .node(NodeSpec::new("pve1"))
            .node(NodeSpec::new("pve2"))
            .node(NodeSpec::new("pve3"))
            .storage(StorageSpec::directory("local"))
            .storage(StorageSpec::thin_pool("local-lvm"))
            .storage(StorageSpec::shared("shared"))
            .pool("capi")
            .template(
                TemplateSpec::new(9000, "pve1", "ubuntu-2404-kube-v1.36.0")
                    .tags("kube-v1.36.0;template;ubuntu-2404"),
            )
            .token(TokenSpec::provider("capi@pve!provider", DEFAULT_SECRET))
    }

    /// A cluster of that name with nothing in it.
    pub fn empty(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            nodes: Vec::new(),
            storages: Vec::new(),
            templates: Vec::new(),
            tokens: Vec::new(),
            pools: Vec::new(),
            delays: Delays::realistic(),
            speed: 1.0,
            seed: 0,
            epoch: SystemTime::UNIX_EPOCH + EPOCH,
            next_id: (100, 1_000_000),
            chaos: Rates::default(),
            guests: None,
        }
    }

    /// Adds a node, or replaces the one of that name.
    pub fn node(mut self, node: NodeSpec) -> Self {
        self.nodes.retain(|known| known.name != node.name);
        self.nodes.push(node);
        self
    }

    /// Adds a storage, or replaces the one of that id.
    pub fn storage(mut self, storage: StorageSpec) -> Self {
        self.storages.retain(|known| known.id != storage.id);
        self.storages.push(storage);
        self
    }

    /// Adds a template, or replaces the one of that VMID.
    pub fn template(mut self, template: TemplateSpec) -> Self {
        self.templates.retain(|known| known.vmid != template.vmid);
        self.templates.push(template);
        self
    }

    /// Takes all templates away.
    pub fn without_templates(mut self) -> Self {
        self.templates.clear();
        self
    }

    /// Adds a token, or replaces the one of that id. The first is the one that
    /// [`Platform::authorization`] names.
    pub fn token(mut self, token: TokenSpec) -> Self {
        match self.tokens.iter_mut().find(|known| known.id == token.id) {
            Some(known) => *known = token,
            None => self.tokens.push(token),
        }
        self
    }

    /// Takes all tokens away.
    pub fn without_tokens(mut self) -> Self {
        self.tokens.clear();
        self
    }

    /// Adds a pool.
    pub fn pool(mut self, pool: impl Into<String>) -> Self {
        self.pools.push(pool.into());
        self
    }

    /// Sets how long work takes; [`Delays::realistic`] unless set.
    pub fn delays(mut self, delays: Delays) -> Self {
        self.delays = delays;
        self
    }

    /// Divides all delays by this factor. What is not finite and above zero counts as 1.
    pub fn speed(mut self, speed: f64) -> Self {
        self.speed = if speed.is_finite() && speed > 0.0 {
            speed
        } else {
            1.0
        };
        self
    }

    /// Sets the seed of everything random: uuids, MAC addresses, process ids, chaos.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Sets what the cluster's clock shows at the start; 2026-01-01 unless set.
    pub fn epoch(mut self, epoch: SystemTime) -> Self {
        self.epoch = epoch;
        self
    }

    /// Sets the range of `/cluster/nextid`, without its upper end; 100 to 1,000,000 unless set.
    pub fn next_id(mut self, lower: u32, upper: u32) -> Self {
        self.next_id = (lower, upper);
        self
    }

    /// Lets things go wrong at random; nothing does unless set.
    pub fn chaos(mut self, rates: Rates) -> Self {
        self.chaos = rates;
        self
    }

    /// Lets VMs boot a simulated operating system; without it a started VM has nothing in it
    /// and its guest agent never answers.
    pub fn guests(mut self, guests: Guests) -> Self {
        self.guests = Some(guests);
        self
    }

    /// Brings the cluster up.
    ///
    /// # Panics
    ///
    /// When a template lies on a node or storage that isn't there, as that's a mistake in the
    /// test at hand.
    pub fn build(self) -> Platform {
        Platform::new(self)
    }
}

impl Default for Builder {
    fn default() -> Self {
        Self::new()
    }
}
