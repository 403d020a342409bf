//! The contract of Cluster API, rule by rule.

use capi_testkit::conformance;
use hello_provider::{HelloCluster, HelloClusterTemplate, HelloMachine, HelloMachineTemplate};
use kube::CustomResourceExt;

use crate::life;
use crate::port::Weakening;

#[test]
fn the_definitions_have_the_shape_that_core_reads() {
    let definitions = [
        HelloMachine::crd(),
        HelloMachineTemplate::crd(),
        HelloCluster::crd(),
        HelloClusterTemplate::crd(),
    ];
    let definitions = definitions.map(|crd| serde_json::to_value(crd).unwrap());
    let report = conformance::shape(&definitions);
    println!("{report}");
    assert!(report.is_clean(), "{report}");
}

#[test]
fn the_provider_keeps_the_contract() {
    let report = conformance::behaviour(|| async { life::world(Weakening::None) });
    println!("{report}");
    assert!(report.is_clean(), "{report}");
}
