//! Traits and rules for writing Cluster API infrastructure providers.

mod bootstrap;
mod child;
mod class;
mod cluster;
pub mod condition;
mod connect;
pub mod crd;
mod external;
pub mod gate;
mod given;
mod hook;
mod instances;
pub mod ledger;
mod lookup;
mod machine;
mod mark;
mod operation;
mod plan;
mod step;
pub mod view;

pub use bootstrap::{Bootstrap, Format, Supply};
pub use child::{Address, AddressRequest, Child, ChildKind, ChildObject, PoolRef};
pub use class::{Class, Classify, Dependency};
pub use cluster::{ClusterFacts, ClusterScope, Endpoint, FailureDomain, InfraCluster};
pub use connect::{Connect, Connected, Credentials, Identity};
pub use external::{Claim, External, Lost, Object};
pub use given::{Endpointed, GivenEndpoint, NoStep};
pub use hook::{Hook, HookError, Moment, Occasion, Verdict};
pub use instances::{
    ByInstance, Creation, Found, Instance, InstanceError, InstanceState, InstanceStep, Instances,
    Order,
};
pub use ledger::{Intent, Ledger};
pub use lookup::{Depth, Lookup};
pub use machine::{
    AddressType, Health, InfraMachine, MachineAddress, MachineFacts, MachineScope, NodeWish,
    StringMap,
};
pub use mark::{Mark, MarkError, ObjectName, Proof, Token};
pub use operation::{Operation, Progress, Receipt};
pub use plan::{Plan, Teardown, Waiting};
pub use step::{Effect, Step};

pub use async_trait::async_trait;
