//! The provider as a program: the library on the engine. What it says here is all that is its own.

use std::process::ExitCode;

use capi_contract::checkup::Checkup;
use capi_core::command::{self, BoxError, Program};
use capi_core::manifests::{Package, Series};
use clap::Args;
use provider_kubevirt::api;
use provider_kubevirt::cluster::Clusters;
use provider_kubevirt::connect::Connector;
use provider_kubevirt::machine::Machines;

/// The release series of CAPK, whose place this provider can take (CTL-02).
const SERIES: &[Series] = &[
    Series {
        major: 0,
        minor: 1,
        contract: "v1beta1",
    },
    Series {
        major: 0,
        minor: 10,
        contract: "v1beta1",
    },
    Series {
        major: 0,
        minor: 11,
        contract: "v1beta2",
    },
];

struct Kubevirt;

/// Nothing beside the flags of every provider: credentials come from Secrets, or are the provider's
/// own.
#[derive(Debug, Args)]
struct RunFlags {}

/// Nothing yet.
#[derive(Debug, Args)]
struct DoctorFlags {}

impl Program for Kubevirt {
    type RunFlags = RunFlags;
    type DoctorFlags = DoctorFlags;
    type Connector = Connector;
    type Clusters = Clusters;
    type Machines = Machines;

    fn package() -> Package {
        Package {
            name: "kubevirt",
            about: env!("CARGO_PKG_DESCRIPTION"),
            version: env!("CARGO_PKG_VERSION"),
            binary: "/provider-kubevirt",
            image: "ghcr.io/capi-rs/provider-kubevirt",
            namespace: "capk-system",
            prefix: "capk",
            lease: "controller-leader-elect-capk",
            series: SERIES,
            definitions: api::crds(),
            takes_addresses: false,
            environment: None,
            templates: &[],
        }
    }

    fn clusters() -> Clusters {
        Clusters
    }

    fn machines() -> Machines {
        Machines
    }

    fn connector(_: &RunFlags) -> Result<Connector, BoxError> {
        Ok(Connector::new())
    }

    async fn doctor(_: DoctorFlags) -> Checkup {
        Checkup::default()
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    command::main::<Kubevirt>().await
}
