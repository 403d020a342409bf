//! Runs the provider against the cluster of the current kubeconfig.

use capi_contract::{ByInstance, Connected, GivenEndpoint};
use capi_core::Provider;
use hello_provider::{Directory, HelloCluster};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = std::env::args_os()
        .nth(1)
        .ok_or("usage: hello-provider DIRECTORY")?;
    let client = capi_core::client(kube::Config::infer().await?)?;
    Provider::new(Connected)
        .cluster(GivenEndpoint::<HelloCluster>::new())
        .machine(ByInstance(Directory::new(directory)))
        .run(client, async { drop(tokio::signal::ctrl_c().await) })
        .await?;
    Ok(())
}
