//! A weakened provider is the real one but for its weakness, whatever the seam asks of it.

use std::marker::PhantomData;

use capi_contract::view::{ClusterView, MachineView};
use capi_contract::{
    Child, ChildKind, ClusterFacts, ClusterScope, Depth, Effect, External, Extras, Identity,
    InfraCluster, InfraMachine, Lookup, Lost, MachineFacts, MachineScope, Mark, ObjectName,
    Operation, Plan, Progress, Receipt, Step, Supply, Teardown, Token, Waiting,
};
use capi_testkit::weakness::{EmptyAtFirst, GoneOnceSent, UnsettledIsAbsent, Weaken, Weakened};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use parking_lot::Mutex;

const EXTERNAL: &str = include_str!("../../../capi-contract/src/external.rs");
const MACHINE: &str = include_str!("../../../capi-contract/src/machine.rs");
const CLUSTER: &str = include_str!("../../../capi-contract/src/cluster.rs");
const WEAKNESS: &str = include_str!("../../src/weakness.rs");

/// The names of a trait's `fn`s or `const`s, as its source lists them.
fn items<'a>(source: &'a str, item: &str, of: &str) -> Vec<&'a str> {
    let body = source.split_once(&format!("\npub trait {of}")).unwrap().1;
    let body = body.split_once("\n}\n").unwrap().0;
    let start = format!("    {item} ");
    let lines = body.lines().filter_map(|line| line.strip_prefix(&start));
    lines
        .map(|rest| rest.split(['(', ':', '<']).next().unwrap())
        .collect()
}

/// What a provider is generic over: object, scope, facts.
type Of<O, S, F> = fn() -> (O, S, F);

/// Notes what it is asked; none of its answers is one that the seam gives by default.
struct Teller<O, S, F> {
    asked: Mutex<Vec<&'static str>>,
    of: PhantomData<Of<O, S, F>>,
}

type Thing = Teller<ConfigMap, (), ()>;
type TellingMachines = Teller<ConfigMap, MachineScope<ConfigMap, Secret>, MachineFacts<()>>;
type TellingClusters = Teller<Secret, ClusterScope<Secret>, ClusterFacts<()>>;

impl<O, S, F> Teller<O, S, F> {
    fn new() -> Self {
        Self {
            asked: Mutex::default(),
            of: PhantomData,
        }
    }

    fn note(&self, method: &'static str) {
        self.asked.lock().push(method);
    }
}

#[derive(Debug)]
struct Destroy;

impl Step for Destroy {
    fn name(&self) -> &'static str {
        "Destroy"
    }

    fn effect(&self) -> Effect {
        Effect::Destroys
    }
}

#[derive(Debug, thiserror::Error)]
#[error("destroying the thing")]
struct Refused;

impl capi_contract::Classify for Refused {}

impl<O: capi_contract::Object, S: Send + Sync + 'static, F: Default + Send + 'static> External
    for Teller<O, S, F>
{
    type Object = O;
    type Scope = S;
    type Session = ();
    type Claim = Mark;
    type Seen = ();
    type Step = Destroy;
    type Facts = F;
    type Error = Refused;

    fn nothing_outside(&self) -> bool {
        self.note("nothing_outside");
        true
    }

    fn creates_once(&self) -> bool {
        self.note("creates_once");
        true
    }

    async fn recover(&self, _: &(), _: &Lost<'_, O>) -> Result<Option<Mark>, Refused> {
        self.note("recover");
        Ok(Some(mark()))
    }

    async fn claim(&self, _: &(), _: &S, _: Option<&Mark>) -> Result<Mark, Refused> {
        self.note("claim");
        Ok(mark())
    }

    async fn observe(&self, _: &(), _: &Mark, _: Depth) -> Result<Lookup<()>, Refused> {
        self.note("observe");
        Ok(Lookup::Unsettled(later()))
    }

    fn plan(&self, _: &S, _: &Mark, _: Option<&()>) -> Plan<Destroy> {
        self.note("plan");
        Plan::Wait(later())
    }

    fn plan_teardown(&self, _: &Mark, (): &()) -> Teardown<Destroy> {
        self.note("plan_teardown");
        Teardown::Wait(later())
    }

    async fn apply(
        &self,
        _: &(),
        _: &Mark,
        _: &Destroy,
        _: Supply<'_>,
    ) -> Result<Receipt, Refused> {
        self.note("apply");
        Err(Refused)
    }

    async fn poll(&self, _: &(), _: &Operation) -> Result<Progress<Refused>, Refused> {
        self.note("poll");
        Ok(Progress::Running)
    }

    fn facts(&self, _: &S, _: &Mark, (): &()) -> F {
        self.note("facts");
        F::default()
    }
}

const KIND: ChildKind = ChildKind {
    group: "example.com",
    version: "v1",
    kind: "Pool",
    plural: "pools",
};

impl InfraMachine for TellingMachines {
    const CONDITION: &'static str = "MachineTold";
    const FINALIZER: &'static str = "example.com/machine";
    const SPEC_WRITES: &'static [&'static str] = &["number"];
    const CONDITIONS: &'static [&'static str] = &["Warm"];
    const PROVIDER_ID_IS_CLAIMED: bool = true;

    type Kind = ConfigMap;
    type Cluster = Secret;
    type Status = ();

    fn identity(&self, _: &ConfigMap, _: Option<&Secret>, _: Option<&str>) -> Option<Identity> {
        self.note("identity");
        Some(Identity::secret("ns", "machine"))
    }

    fn objects(&self, _: &ConfigMap, _: &Secret, _: &MachineView) -> Vec<Child> {
        self.note("objects");
        Vec::new()
    }

    fn child_kinds(&self) -> &'static [ChildKind] {
        self.note("child_kinds");
        &[KIND]
    }

    fn unsupported(&self, _: &ConfigMap, _: &Secret) -> Vec<String> {
        self.note("unsupported");
        vec!["spec.colour".to_owned()]
    }
}

impl InfraCluster for TellingClusters {
    const CONDITION: &'static str = "ClusterTold";
    const FINALIZER: &'static str = "example.com/cluster";
    const SECRET_FINALIZER: Option<&'static str> = Some("example.com/secret");
    const EXTRAS: Option<Extras> = Some(Extras {
        label: ("example.com/extra", "true"),
        kinds: &[KIND],
    });

    type Kind = Secret;
    type Status = ();

    fn identity(&self, _: &Secret) -> Option<Identity> {
        self.note("identity");
        Some(Identity::secret("ns", "cluster"))
    }

    fn objects(&self, _: &Secret, _: &ClusterView) -> Vec<Child> {
        self.note("objects");
        Vec::new()
    }

    fn child_kinds(&self) -> &'static [ChildKind] {
        self.note("child_kinds");
        &[KIND]
    }

    fn endpoint_is_external(&self, _: &Secret) -> bool {
        self.note("endpoint_is_external");
        true
    }

    fn unsupported(&self, _: &Secret) -> Vec<String> {
        self.note("unsupported");
        vec!["spec.colour".to_owned()]
    }
}

/// Bends nothing.
struct Nothing;

impl<T: External> Weaken<T> for Nothing {}

fn mark() -> Mark {
    let owner = "0123456789abcdef0123456789abcdef".parse::<Token>();
    Mark::adopted(owner.unwrap(), ObjectName::new("ns", "m"), "7")
}

fn later() -> Waiting {
    Waiting::new("Later", "waiting", std::time::Duration::from_secs(1))
}

/// The methods that were asked of the real one, in the order of the trait.
fn asked<O, S, F, W>(weak: &Weakened<Teller<O, S, F>, W>) -> Vec<&'static str> {
    std::mem::take(&mut *weak.real().asked.lock())
}

#[tokio::test]
async fn every_question_of_the_seam_reaches_the_real_provider() {
    let weak = Weakened::new(Thing::new(), Nothing);
    let (object, operation) = (ConfigMap::default(), Operation("task".to_owned()));
    let lost = Lost::new(&object, ObjectName::new("ns", "m"), None);
    assert!(weak.nothing_outside());
    assert!(weak.creates_once());
    assert_eq!(weak.recover(&(), &lost).await.unwrap(), Some(mark()));
    assert_eq!(weak.claim(&(), &(), None).await.unwrap(), mark());
    let seen = weak.observe(&(), &mark(), Depth::Thing).await.unwrap();
    assert_eq!(seen, Lookup::Unsettled(later()));
    assert!(matches!(weak.plan(&(), &mark(), None), Plan::Wait(_)));
    assert!(matches!(
        weak.plan_teardown(&mark(), &()),
        Teardown::Wait(_)
    ));
    let supply = Supply::default();
    assert!(weak.apply(&(), &mark(), &Destroy, supply).await.is_err());
    let progress = weak.poll(&(), &operation).await.unwrap();
    assert!(matches!(progress, Progress::Running));
    weak.facts(&(), &mark(), &());

    let questions = items(EXTERNAL, "fn", "External");
    assert_eq!(asked(&weak), questions);
    // Each of them can be bent.
    assert_eq!(items(WEAKNESS, "fn", "Weaken"), questions);
    assert!(items(EXTERNAL, "const", "External").is_empty());
}

#[test]
fn the_words_of_a_machine_are_the_real_ones() {
    type Weak = Weakened<TellingMachines, Nothing>;
    let weak: Weak = Weakened::new(Teller::new(), Nothing);
    let (object, cluster) = (ConfigMap::default(), Secret::default());
    let machine = MachineView::default();
    let named = InfraMachine::identity(&weak, &object, Some(&cluster), None);
    assert_eq!(named, Some(Identity::secret("ns", "machine")));
    InfraMachine::objects(&weak, &object, &cluster, &machine);
    assert_eq!(InfraMachine::child_kinds(&weak), [KIND]);
    let unsupported = InfraMachine::unsupported(&weak, &object, &cluster);
    assert_eq!(unsupported, ["spec.colour"]);
    assert_eq!(asked(&weak), items(MACHINE, "fn", "InfraMachine"));

    assert_eq!(<Weak as InfraMachine>::CONDITION, "MachineTold");
    assert_eq!(<Weak as InfraMachine>::FINALIZER, "example.com/machine");
    assert_eq!(Weak::SPEC_WRITES, ["number"]);
    assert_eq!(Weak::CONDITIONS, ["Warm"]);
    const { assert!(Weak::PROVIDER_ID_IS_CLAIMED) };
    let compared = [
        "CONDITION",
        "FINALIZER",
        "SPEC_WRITES",
        "CONDITIONS",
        "PROVIDER_ID_IS_CLAIMED",
    ];
    assert_eq!(items(MACHINE, "const", "InfraMachine"), compared);
}

#[test]
fn the_words_of_a_cluster_are_the_real_ones() {
    type Weak = Weakened<TellingClusters, Nothing>;
    let weak: Weak = Weakened::new(Teller::new(), Nothing);
    let object = Secret::default();
    let named = InfraCluster::identity(&weak, &object);
    assert_eq!(named, Some(Identity::secret("ns", "cluster")));
    InfraCluster::objects(&weak, &object, &ClusterView::default());
    assert_eq!(InfraCluster::child_kinds(&weak), [KIND]);
    assert!(weak.endpoint_is_external(&object));
    assert_eq!(InfraCluster::unsupported(&weak, &object), ["spec.colour"]);
    assert_eq!(asked(&weak), items(CLUSTER, "fn", "InfraCluster"));

    assert_eq!(<Weak as InfraCluster>::CONDITION, "ClusterTold");
    assert_eq!(<Weak as InfraCluster>::FINALIZER, "example.com/cluster");
    assert_eq!(Weak::SECRET_FINALIZER, Some("example.com/secret"));
    assert_eq!(Weak::EXTRAS, TellingClusters::EXTRAS);
    let compared = ["CONDITION", "FINALIZER", "SECRET_FINALIZER", "EXTRAS"];
    assert_eq!(items(CLUSTER, "const", "InfraCluster"), compared);
}

#[tokio::test]
async fn what_is_unsettled_is_said_to_be_absent() {
    let weak = Weakened::new(Thing::new(), UnsettledIsAbsent);
    for depth in [Depth::Listing, Depth::Thing] {
        let seen = weak.observe(&(), &mark(), depth).await.unwrap();
        assert_eq!(seen, Lookup::Absent);
    }
}

#[tokio::test]
async fn the_first_looks_are_empty_and_no_other() {
    let weak = Weakened::new(Thing::new(), EmptyAtFirst::looks(2));
    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.push(weak.observe(&(), &mark(), Depth::Thing).await.unwrap());
    }
    let real = Lookup::Unsettled(later());
    assert_eq!(seen, [Lookup::Absent, Lookup::Absent, real.clone(), real]);
}

#[tokio::test]
async fn what_a_step_was_sent_to_is_said_to_be_gone_and_nothing_else() {
    let (weak, other) = (
        GoneOnceSent::step("Destroy"),
        Mark::made(Token::random(), mark().object),
    );
    let weak = Weakened::new(Thing::new(), weak);
    let receipt = weak.apply(&(), &mark(), &Destroy, Supply::default()).await;
    assert_eq!(receipt.unwrap(), Receipt::Finished);
    let gone = weak.observe(&(), &mark(), Depth::Thing).await.unwrap();
    assert_eq!(gone, Lookup::Absent);
    let seen = weak.observe(&(), &other, Depth::Thing).await.unwrap();
    assert_eq!(seen, Lookup::Unsettled(later()));

    let weak = Weakened::new(Thing::new(), GoneOnceSent::step("Stop"));
    let receipt = weak.apply(&(), &mark(), &Destroy, Supply::default()).await;
    assert!(receipt.is_err());
    let seen = weak.observe(&(), &mark(), Depth::Thing).await.unwrap();
    assert_eq!(seen, Lookup::Unsettled(later()));
}
