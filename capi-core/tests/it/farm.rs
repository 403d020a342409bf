//! A platform with tasks that take time: the double that the engine's tests drive.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use capi_contract::crd::{InfraClusterStatus, InfraMachineStatus};
use capi_contract::view::MachineView;
use capi_contract::{
    AddressRequest, AddressType, Child, Claim, Class, Classify, Connect, Credentials, Depth,
    Drained, Effect, Endpoint, Endpointed, External, GivenEndpoint, Identity, InfraMachine, Lookup,
    Lost, MachineAddress, MachineFacts, MachineScope, Mark, NodeWish, ObjectName, Operation, Plan,
    PoolRef, Progress, Receipt, Step, Supply, Teardown, Waiting, Wakes,
};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::Instant;

#[derive(CustomResource, Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "infrastructure.cluster.x-k8s.io",
    version = "v1alpha1",
    kind = "FarmMachine",
    namespaced,
    status = "InfraMachineStatus",
    label("cluster.x-k8s.io/v1beta2", "v1alpha1")
)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FarmMachineSpec {
    #[serde(
        default,
        rename = "providerID",
        skip_serializing_if = "Option::is_none"
    )]
    pub(crate) provider_id: Option<String>,
    /// An address pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pool: Option<String>,
    /// Whether the platform has no cloud controller that writes provider ids.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) node: Option<bool>,
    /// A field without behaviour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) gpu: Option<String>,
}

#[derive(CustomResource, Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "infrastructure.cluster.x-k8s.io",
    version = "v1alpha1",
    kind = "FarmCluster",
    namespaced,
    status = "InfraClusterStatus",
    label("cluster.x-k8s.io/v1beta2", "v1alpha1")
)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FarmClusterSpec {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) control_plane_endpoint: Option<Endpoint>,
    /// Name of the Secret with the credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) secret: Option<String>,
}

impl Endpointed for FarmCluster {
    const FINALIZER: &'static str = "farmcluster.infrastructure.cluster.x-k8s.io";

    fn endpoint(&self) -> Option<Endpoint> {
        self.spec.control_plane_endpoint.clone()
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Vm {
    pub(crate) mark: String,
    pub(crate) configured: bool,
    pub(crate) running: bool,
    pub(crate) data: Vec<u8>,
    /// The host wants to be rid of it, and gives its node this long.
    pub(crate) evicted: Option<Duration>,
}

#[derive(Clone, Debug)]
struct Task {
    ends: Instant,
    work: Work,
    failed: Option<FarmError>,
}

#[derive(Clone, Debug)]
enum Work {
    Clone(u64, String),
    Start(u64),
    Destroy(u64),
    Done,
}

#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct FarmError {
    pub(crate) class: Class,
    pub(crate) message: String,
}

impl FarmError {
    pub(crate) fn new(class: Class, message: &str) -> Self {
        Self {
            class,
            message: message.into(),
        }
    }
}

impl Classify for FarmError {
    fn class(&self) -> Class {
        self.class.clone()
    }
}

#[derive(Debug, Default)]
struct State {
    vms: BTreeMap<u64, Vm>,
    tasks: BTreeMap<String, Task>,
    numbers: u64,
    calls: Vec<String>,
    /// Errors for coming calls, by the call's name.
    refusals: BTreeMap<&'static str, VecDeque<FarmError>>,
    /// Names of calls whose answer is lost after they took effect.
    silent: Vec<&'static str>,
    token: String,
}

/// Sees every call of the platform at the moment it arrives.
type Witness = Arc<dyn Fn(&str) + Send + Sync>;

/// The platform.
#[derive(Clone)]
pub(crate) struct Farm {
    state: Arc<Mutex<State>>,
    delay: Duration,
    witness: Option<Witness>,
    news: Arc<News>,
}

/// What the platform tells of by itself.
#[derive(Default)]
struct News {
    changed: Notify,
    machines: Mutex<Vec<ObjectName>>,
    /// How many sessions listen now, and how often one began to.
    listening: AtomicUsize,
    begun: AtomicUsize,
    /// Whether the next news makes the listener panic.
    is_poisoned: AtomicBool,
}

/// Counts a listener for as long as it listens.
struct Listening<'a>(&'a News);

impl<'a> Listening<'a> {
    fn begin(news: &'a News) -> Self {
        news.listening.fetch_add(1, Ordering::SeqCst);
        news.begun.fetch_add(1, Ordering::SeqCst);
        Self(news)
    }
}

impl Drop for Listening<'_> {
    fn drop(&mut self) {
        self.0.listening.fetch_sub(1, Ordering::SeqCst);
    }
}

impl std::fmt::Debug for Farm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Farm").finish_non_exhaustive()
    }
}

impl Farm {
    /// A platform whose tasks take this long.
    pub(crate) fn new(delay: Duration) -> Self {
        let state = State {
            numbers: 100,
            token: "right".into(),
            ..State::default()
        };
        Self {
            state: Arc::new(Mutex::new(state)),
            delay,
            witness: None,
            news: Arc::default(),
        }
    }

    /// Tells the sessions that something of a machine has changed.
    pub(crate) fn tell(&self, machine: &str) {
        let name = ObjectName::new("default", machine);
        self.news.machines.lock().unwrap().push(name);
        self.news.changed.notify_one();
    }

    /// Makes the session that hears of the next news panic.
    pub(crate) fn poison(&self) {
        self.news.is_poisoned.store(true, Ordering::SeqCst);
    }

    /// How many sessions listen now, and how often one began to.
    pub(crate) fn listeners(&self) -> (usize, usize) {
        let count = |of: &AtomicUsize| of.load(Ordering::SeqCst);
        (count(&self.news.listening), count(&self.news.begun))
    }

    /// Shows every call to `witness` before it takes effect; for engines that are started later.
    pub(crate) fn watched_by(&mut self, witness: impl Fn(&str) + Send + Sync + 'static) {
        self.witness = Some(Arc::new(witness));
    }

    pub(crate) fn vms(&self) -> BTreeMap<u64, Vm> {
        let mut state = self.state.lock().unwrap();
        state.settle();
        state.vms.clone()
    }

    pub(crate) fn plant(&self, id: u64, mark: &str) {
        let vm = Vm {
            mark: mark.into(),
            configured: true,
            running: true,
            data: Vec::new(),
            evicted: None,
        };
        self.state.lock().unwrap().vms.insert(id, vm);
    }

    /// Lets the host want to be rid of its VMs, or not any more.
    pub(crate) fn evict(&self, within: Option<Duration>) {
        let mut state = self.state.lock().unwrap();
        state.vms.values_mut().for_each(|vm| vm.evicted = within);
    }

    pub(crate) fn destroy_by_hand(&self, id: u64) {
        self.state.lock().unwrap().vms.remove(&id);
    }

    pub(crate) fn refuse(&self, call: &'static str, error: FarmError) {
        let mut state = self.state.lock().unwrap();
        state.refusals.entry(call).or_default().push_back(error);
    }

    pub(crate) fn lose_answer(&self, call: &'static str) {
        self.state.lock().unwrap().silent.push(call);
    }

    pub(crate) fn rotate(&self, token: &str) {
        self.state.lock().unwrap().token = token.into();
    }

    /// The mutating calls so far.
    pub(crate) fn mutations(&self) -> Vec<String> {
        let all = self.calls();
        all.into_iter().filter(|call| is_mutation(call)).collect()
    }

    pub(crate) fn calls(&self) -> Vec<String> {
        self.state.lock().unwrap().calls.clone()
    }

    fn call(&self, name: &'static str, what: impl std::fmt::Display) -> Result<(), FarmError> {
        if let Some(witness) = &self.witness {
            witness(&format!("{name} {what}"));
        }
        let mut state = self.state.lock().unwrap();
        state.settle();
        state.calls.push(format!("{name} {what}"));
        let refusal = state.refusals.get_mut(name).and_then(VecDeque::pop_front);
        refusal.map_or(Ok(()), Err)
    }

    fn begin(&self, name: &'static str, work: Work) -> Result<Receipt, FarmError> {
        let mut state = self.state.lock().unwrap();
        let number = state.tasks.len();
        let task = format!("task-{number}-{name}");
        let begun = Task {
            ends: Instant::now() + self.delay,
            work,
            failed: state.refusals.get_mut("task").and_then(VecDeque::pop_front),
        };
        state.tasks.insert(task.clone(), begun);
        state.settle();
        if let Some(at) = state.silent.iter().position(|one| *one == name) {
            state.silent.remove(at);
            return Err(FarmError::new(Class::Transient, "no answer"));
        }
        Ok(Receipt::Started(Operation(task)))
    }
}

/// Whether a call changes the platform.
pub(crate) fn is_mutation(call: &str) -> bool {
    let looks = ["find", "look", "list", "poll", "connect"];
    !looks.iter().any(|look| call.starts_with(look))
}

impl State {
    /// Lets tasks that have ended take effect.
    fn settle(&mut self) {
        let now = Instant::now();
        for task in self.tasks.values_mut().filter(|task| task.ends <= now) {
            let work = std::mem::replace(&mut task.work, Work::Done);
            if task.failed.is_some() {
                continue;
            }
            match work {
                Work::Clone(id, mark) => {
                    let vm = Vm {
                        mark,
                        configured: false,
                        running: false,
                        data: Vec::new(),
                        evicted: None,
                    };
                    self.vms.entry(id).or_insert(vm);
                }
                Work::Start(id) => {
                    if let Some(vm) = self.vms.get_mut(&id) {
                        vm.running = true;
                    }
                }
                Work::Destroy(id) => {
                    self.vms.remove(&id);
                }
                Work::Done => {}
            }
        }
    }

    fn is_cloning(&self, id: u64) -> bool {
        let mut all = self.tasks.values();
        all.any(|task| matches!(task.work, Work::Clone(one, _) if one == id))
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct FarmClaim {
    pub(crate) id: u64,
    pub(crate) mark: Mark,
}

impl Claim for FarmClaim {
    fn mark(&self) -> &Mark {
        &self.mark
    }
}

#[derive(Clone, Debug)]
pub(crate) enum FarmStep {
    Clone,
    Configure,
    Start,
    Stop,
    Destroy,
}

impl Step for FarmStep {
    fn name(&self) -> &'static str {
        match self {
            FarmStep::Clone => "Clone",
            FarmStep::Configure => "Configure",
            FarmStep::Start => "Start",
            FarmStep::Stop => "Stop",
            FarmStep::Destroy => "Destroy",
        }
    }

    fn effect(&self) -> Effect {
        match self {
            FarmStep::Clone => Effect::Creates {
                settle: Duration::from_secs(30),
            },
            FarmStep::Configure | FarmStep::Start => Effect::Changes,
            FarmStep::Stop => Effect::Repeats,
            FarmStep::Destroy => Effect::Destroys,
        }
    }

    fn wants_bootstrap(&self) -> bool {
        matches!(self, FarmStep::Configure)
    }
}

/// A session: the platform, after its token was checked.
#[derive(Debug)]
pub(crate) struct Login(Farm);

impl Connect for Farm {
    type Session = Login;
    type Error = FarmError;

    async fn connect(
        &self,
        _identity: Option<&Identity>,
        credentials: Option<&Credentials>,
    ) -> Result<Login, FarmError> {
        self.call("connect", "")?;
        if let Some(credentials) = credentials {
            let token = credentials
                .text("token")
                .ok_or_else(|| FarmError::new(Class::Credentials, "key token is missing"))?;
            if token != self.state.lock().unwrap().token {
                return Err(FarmError::new(Class::Credentials, "the token is refused"));
            }
        }
        Ok(Login(self.clone()))
    }

    async fn follow(&self, session: &Login, wakes: &Wakes) {
        let news = &session.0.news;
        let _listening = Listening::begin(news);
        loop {
            news.changed.notified().await;
            assert!(!news.is_poisoned.swap(false, Ordering::SeqCst), "poisoned");
            let told = std::mem::take(&mut *news.machines.lock().unwrap());
            told.into_iter().for_each(|name| wakes.machine(name));
        }
    }
}

/// The machines of the platform.
#[derive(Clone, Debug, Default)]
pub(crate) struct FarmMachines {
    /// Whether the author relies on the platform to refuse a number that is taken.
    pub(crate) once: bool,
}

impl External for FarmMachines {
    type Object = FarmMachine;
    type Scope = MachineScope<FarmMachine, FarmCluster>;
    type Session = Login;
    type Claim = FarmClaim;
    type Seen = (u64, Vm);
    type Step = FarmStep;
    type Facts = MachineFacts<()>;
    type Error = FarmError;

    fn creates_once(&self) -> bool {
        self.once
    }

    async fn recover(
        &self,
        on: &Login,
        lost: &Lost<'_, FarmMachine>,
    ) -> Result<Option<FarmClaim>, FarmError> {
        on.0.call("find", &lost.name)?;
        let found = on.0.vms().into_iter().find_map(|(id, vm)| {
            let mark: Mark = vm.mark.parse().ok()?;
            let ours = mark.object == lost.name && Some(&mark.owner) == lost.owner.as_ref();
            ours.then_some(FarmClaim { id, mark })
        });
        Ok(found)
    }

    async fn claim(
        &self,
        on: &Login,
        scope: &Self::Scope,
        _given_up: Option<&FarmClaim>,
    ) -> Result<FarmClaim, FarmError> {
        on.0.call("list", "numbers")?;
        let mut state = on.0.state.lock().unwrap();
        state.numbers += 1;
        Ok(FarmClaim {
            id: state.numbers,
            mark: scope.mark(),
        })
    }

    async fn observe(
        &self,
        on: &Login,
        claim: &FarmClaim,
        depth: Depth,
    ) -> Result<Lookup<(u64, Vm)>, FarmError> {
        let name = match depth {
            Depth::Listing => "list",
            Depth::Thing => "look",
        };
        on.0.call(name, claim.id)?;
        let state = on.0.state.lock().unwrap();
        if state.is_cloning(claim.id) {
            let waiting = Waiting::new("Locked", "the VM is locked", Duration::from_secs(2));
            return Ok(Lookup::Unsettled(waiting));
        }
        Ok(match state.vms.get(&claim.id) {
            None => Lookup::Absent,
            Some(vm) if vm.mark == claim.mark.to_string() => Lookup::Ours((claim.id, vm.clone())),
            Some(vm) => Lookup::Foreign(format!("VM {} bears {}", claim.id, vm.mark)),
        })
    }

    fn plan(
        &self,
        scope: &Self::Scope,
        _claim: &FarmClaim,
        seen: Option<&(u64, Vm)>,
    ) -> Plan<FarmStep> {
        let wait = |reason| Plan::Wait(Waiting::new(reason, "", Duration::from_secs(600)));
        match seen {
            None => Plan::Apply(FarmStep::Clone),
            Some((_, vm)) if !vm.configured => Plan::Apply(FarmStep::Configure),
            Some((_, vm)) if !vm.running => Plan::Apply(FarmStep::Start),
            Some((_, vm)) if vm.evicted.is_some() => match scope.drained {
                None => wait("Draining"),
                Some(Drained::Empty) => wait("DrainedEmpty"),
                Some(Drained::TimedOut) => wait("DrainTimedOut"),
            },
            Some(_) => Plan::Settled,
        }
    }

    fn plan_teardown(&self, _claim: &FarmClaim, seen: &(u64, Vm)) -> Teardown<FarmStep> {
        if seen.1.running {
            Teardown::Apply(FarmStep::Stop)
        } else {
            Teardown::Apply(FarmStep::Destroy)
        }
    }

    async fn apply(
        &self,
        on: &Login,
        claim: &FarmClaim,
        step: &FarmStep,
        supply: Supply<'_>,
    ) -> Result<Receipt, FarmError> {
        match step {
            FarmStep::Clone => {
                on.0.call("clone", claim.id)?;
                if on.0.vms().contains_key(&claim.id) {
                    return Err(FarmError::new(Class::Elsewhere, "the number is taken"));
                }
                on.0.begin("clone", Work::Clone(claim.id, claim.mark.to_string()))
            }
            FarmStep::Configure => {
                on.0.call("configure", claim.id)?;
                let data = supply.bootstrap.map(|b| b.bytes().to_vec());
                if let Some(vm) = on.0.state.lock().unwrap().vms.get_mut(&claim.id) {
                    vm.configured = true;
                    vm.data = data.unwrap_or_default();
                }
                Ok(Receipt::Finished)
            }
            FarmStep::Start => {
                on.0.call("start", claim.id)?;
                on.0.begin("start", Work::Start(claim.id))
            }
            FarmStep::Stop => {
                on.0.call("stop", claim.id)?;
                if let Some(vm) = on.0.state.lock().unwrap().vms.get_mut(&claim.id) {
                    vm.running = false;
                }
                Ok(Receipt::Finished)
            }
            FarmStep::Destroy => {
                on.0.call("destroy", claim.id)?;
                on.0.begin("destroy", Work::Destroy(claim.id))
            }
        }
    }

    async fn poll(
        &self,
        on: &Login,
        operation: &Operation,
    ) -> Result<Progress<FarmError>, FarmError> {
        on.0.call("poll", &operation.0)?;
        let state = on.0.state.lock().unwrap();
        Ok(match state.tasks.get(&operation.0) {
            None => Progress::Forgotten,
            Some(task) if task.ends > Instant::now() => Progress::Running,
            Some(Task {
                failed: Some(error),
                ..
            }) => Progress::Failed(error.clone()),
            Some(_) => Progress::Finished,
        })
    }

    fn facts(&self, scope: &Self::Scope, claim: &FarmClaim, seen: &(u64, Vm)) -> MachineFacts<()> {
        let mut facts = MachineFacts::default();
        let wish = NodeWish::provider_id();
        facts.node = match (scope.object.spec.node, seen.1.evicted) {
            (Some(true), Some(within)) => Some(wish.drain(within)),
            (Some(true), None) => Some(wish),
            (Some(false) | None, _) => None,
        };
        facts.provider_id = claim.mark.token().map(|token| format!("farm://{token}"));
        facts.running = seen.1.running;
        // Not among the fields that this author lists as written by the controller (R14).
        facts.spec.insert("gpu".to_owned(), "none".into());
        if seen.1.running {
            let address = format!("10.0.0.{}", seen.0 % 250);
            facts.addresses = vec![MachineAddress::new(AddressType::InternalIP, address)];
        }
        facts
    }
}

impl InfraMachine for FarmMachines {
    const FINALIZER: &'static str = "farmmachine.infrastructure.cluster.x-k8s.io";
    const CONDITION: &'static str = "VMProvisioned";
    type Kind = FarmMachine;
    type Cluster = FarmCluster;
    type Status = ();

    fn identity(
        &self,
        object: &FarmMachine,
        cluster: Option<&FarmCluster>,
        _failure_domain: Option<&str>,
    ) -> Option<Identity> {
        let secret = cluster?.spec.secret.clone()?;
        Some(Identity::secret(object.metadata.namespace.clone()?, secret))
    }

    fn objects(
        &self,
        object: &FarmMachine,
        _cluster: &FarmCluster,
        _machine: &MachineView,
    ) -> Vec<Child> {
        let Some(pool) = object.spec.pool.clone() else {
            return Vec::new();
        };
        let name = object.metadata.name.clone().unwrap_or_default();
        let pool = PoolRef {
            api_group: "ipam.cluster.x-k8s.io".into(),
            kind: "InClusterIPPool".into(),
            name: pool,
        };
        let request = AddressRequest::new(format!("{name}-net0"), "net0", pool);
        vec![Child::Address(request)]
    }

    fn unsupported(&self, object: &FarmMachine, _cluster: &FarmCluster) -> Vec<String> {
        let gpu = object.spec.gpu.as_ref();
        gpu.map(|_| "spec.gpu is not supported yet; remove it".to_owned())
            .into_iter()
            .collect()
    }
}

pub(crate) type FarmClusters = GivenEndpoint<FarmCluster, Login>;
