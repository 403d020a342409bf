//! The adapter [`ByInstance`], against a farm in memory.

use std::sync::Mutex;
use std::time::Duration;

use capi_contract::crd::{InfraClusterStatus, InfraMachineStatus};
use capi_contract::view::{ClusterView, MachineView};
use capi_contract::{
    Bootstrap, ByInstance, Class, Classify, Creation, Depth, Effect, External, Format, Instance,
    InstanceState, InstanceStep, Instances, Lookup, Lost, MachineFacts, MachineScope, Mark,
    ObjectName, Order, Plan, Step, Supply, Teardown, Token,
};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

#[derive(CustomResource, Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "infrastructure.cluster.x-k8s.io",
    version = "v1alpha1",
    kind = "FarmMachine"
)]
#[kube(namespaced, status = "InfraMachineStatus")]
struct FarmMachineSpec {}

#[derive(CustomResource, Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "infrastructure.cluster.x-k8s.io",
    version = "v1alpha1",
    kind = "FarmCluster"
)]
#[kube(namespaced, status = "InfraClusterStatus")]
struct FarmClusterSpec {}

#[derive(Clone, Debug, PartialEq)]
struct Server {
    mark: Mark,
    state: InstanceState,
}

impl Instance for Server {
    fn mark(&self) -> &Mark {
        &self.mark
    }

    fn state(&self) -> InstanceState {
        self.state.clone()
    }
}

#[derive(Debug, thiserror::Error)]
#[error("asking the farm")]
struct FarmError;

impl Classify for FarmError {}

#[derive(Debug)]
struct Farm;

type World = Mutex<Vec<Server>>;

impl Instances for Farm {
    const CREATION: Creation = Creation::Ambiguous {
        settle: Duration::from_secs(90),
    };
    const FINALIZER: &'static str = "farmmachine.infrastructure.cluster.x-k8s.io";
    type Kind = FarmMachine;
    type Cluster = FarmCluster;
    type Session = World;
    type Instance = Server;
    type Error = FarmError;

    async fn find(&self, on: &World, _mark: &Mark) -> Result<Vec<Server>, FarmError> {
        // A sloppy backend: returns strangers too. The adapter must not take them for ours.
        Ok(on.lock().unwrap().clone())
    }

    async fn create(&self, on: &World, order: Order<'_, FarmMachine>) -> Result<(), FarmError> {
        assert!(order.bootstrap.is_some());
        let mark = order.mark.clone();
        on.lock().unwrap().push(Server {
            mark,
            state: InstanceState::Running,
        });
        Ok(())
    }

    async fn destroy(&self, on: &World, server: &Server) -> Result<(), FarmError> {
        let mut all = on.lock().unwrap();
        let at = all.iter().position(|s| s == server).ok_or(FarmError)?;
        all.remove(at);
        Ok(())
    }

    fn facts(&self, _object: &FarmMachine, _server: &Server) -> MachineFacts<()> {
        MachineFacts::default()
    }
}

const MACHINE: ByInstance<Farm> = ByInstance(Farm);

fn name() -> ObjectName {
    ObjectName::new("ns", "m")
}

fn scope(owner: &Token) -> MachineScope<FarmMachine, FarmCluster> {
    let mut object = FarmMachine::new("m", FarmMachineSpec {});
    object.metadata.namespace = Some("ns".to_owned());
    let machine: MachineView =
        serde_json::from_value(json!({"spec": {"bootstrap": {"dataSecretName": "data"}}})).unwrap();
    let cluster = FarmCluster::new("c", FarmClusterSpec {});
    MachineScope::new(
        object,
        cluster,
        machine,
        ClusterView::default(),
        owner.clone(),
    )
}

fn server(mark: &Mark, state: InstanceState) -> Server {
    Server {
        mark: mark.clone(),
        state,
    }
}

async fn see(world: &World, claim: &Mark) -> Lookup<<ByInstance<Farm> as External>::Seen> {
    MACHINE.observe(world, claim, Depth::Thing).await.unwrap()
}

#[tokio::test]
async fn a_life_from_nothing_to_nothing() {
    let (world, owner) = (World::default(), Token::random());
    let scope = scope(&owner);
    let claim = MACHINE.claim(&world, &scope, None).await.unwrap();
    assert!(matches!(see(&world, &claim).await, Lookup::Absent));

    let Plan::Apply(create) = MACHINE.plan(&scope, &claim, None) else {
        panic!("no create")
    };
    assert_eq!(
        create.effect(),
        Effect::Creates {
            settle: Duration::from_secs(90)
        }
    );
    assert!(create.wants_bootstrap());
    let data = Bootstrap::new(Format::CloudConfig, b"#cloud-config".to_vec());
    MACHINE
        .apply(&world, &claim, &create, Supply::with_bootstrap(&data))
        .await
        .unwrap();

    let Lookup::Ours(seen) = see(&world, &claim).await else {
        panic!("not found")
    };
    assert!(matches!(
        MACHINE.plan(&scope, &claim, Some(&seen)),
        Plan::Settled
    ));
    assert!(MACHINE.facts(&scope, &claim, &seen).running);

    let Teardown::Apply(destroy) = MACHINE.plan_teardown(&claim, &seen) else {
        panic!("no step")
    };
    assert_eq!(destroy.effect(), Effect::Destroys);
    MACHINE
        .apply(&world, &claim, &destroy, Supply::default())
        .await
        .unwrap();
    assert!(matches!(see(&world, &claim).await, Lookup::Absent));
}

#[tokio::test]
async fn r5_strangers_are_never_ours() {
    let owner = Token::random();
    let ours = Mark::made(owner.clone(), name());
    let elsewhere = Mark::made(Token::random(), name());
    let neighbour = Mark::made(owner, ObjectName::new("ns", "other"));
    let world = World::new(vec![
        server(&elsewhere, InstanceState::Running),
        server(&neighbour, InstanceState::Running),
    ]);
    assert!(matches!(see(&world, &ours).await, Lookup::Absent));
}

#[tokio::test]
async fn surplus_is_removed_and_the_claimed_one_is_kept() {
    let owner = Token::random();
    let scope = scope(&owner);
    let (claim, stray) = (scope.mark(), scope.mark());
    let world = World::new(vec![
        server(&stray, InstanceState::Running),
        server(&claim, InstanceState::Pending),
        server(&claim, InstanceState::Running),
        server(&stray, InstanceState::Stopping),
    ]);
    for _ in 0..2 {
        let Lookup::Ours(seen) = see(&world, &claim).await else {
            panic!("not found")
        };
        let Plan::Apply(step) = MACHINE.plan(&scope, &claim, Some(&seen)) else {
            panic!("surplus is left")
        };
        assert!(matches!(step, InstanceStep::Destroy { .. }));
        MACHINE
            .apply(&world, &claim, &step, Supply::default())
            .await
            .unwrap();
    }
    let Lookup::Ours(seen) = see(&world, &claim).await else {
        panic!("not found")
    };
    assert!(matches!(
        MACHINE.plan(&scope, &claim, Some(&seen)),
        Plan::Settled
    ));
    let left = world.lock().unwrap().clone();
    assert!(left.contains(&server(&claim, InstanceState::Running)));
    assert!(!left.contains(&server(&stray, InstanceState::Running)));
}

#[tokio::test]
async fn recover_finds_what_an_earlier_life_made() {
    let owner = Token::random();
    let scope = scope(&owner);
    let before = scope.mark();
    let world = World::new(vec![server(&before, InstanceState::Running)]);
    let lost = Lost::new(&scope.object, name(), Some(owner));
    assert_eq!(MACHINE.recover(&world, &lost).await.unwrap(), Some(before));
    world.lock().unwrap().clear();
    assert_eq!(MACHINE.recover(&world, &lost).await.unwrap(), None);
}

#[tokio::test]
async fn recover_without_an_owner_fails_rather_than_leak() {
    let scope = scope(&Token::random());
    let lost = Lost::new(&scope.object, name(), None);
    let error = MACHINE.recover(&World::default(), &lost).await.unwrap_err();
    assert_eq!(error.class(), Class::Terminal);
}
