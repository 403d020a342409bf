//! A hook that holds a teardown until a backup is done.
//!
//! ```console
//! cargo run --example backup_hook
//! ```
//!
//! Hooks are for operators, not for provider authors: the provider knows nothing of the backup. The
//! wait shows in the machine's condition like any other, with the hook's name. The example plays on an
//! API server in memory and ends by itself.

#![expect(clippy::print_stdout, reason = "what it prints is what it shows")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use capi_contract::{
    ByInstance, Connected, GivenEndpoint, Hook, HookError, Moment, Occasion, Verdict, Waiting,
    async_trait,
};
use capi_core::Provider;
use examples::{Error, Stage};
use hello_provider::{Directory, HelloCluster};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// How often the hook asks whether a backup is done.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// A backup service. It remembers by itself what was ordered and what is done: the engine asks a hook
/// again after a restart, so a hook that remembered would back up twice.
#[derive(Clone, Debug, Default)]
struct Vault(Arc<Mutex<BTreeMap<String, bool>>>);

impl Vault {
    /// Orders a backup, unless there is one; whether it is done.
    fn order(&self, machine: &str) -> bool {
        *self.0.lock().entry(machine.to_owned()).or_default()
    }

    /// Where the service has got to, by machine.
    fn orders(&self) -> BTreeMap<String, bool> {
        self.0.lock().clone()
    }

    /// What happens in the service some time later.
    fn finish(&self, machine: &str) {
        self.0.lock().insert(machine.to_owned(), true);
    }
}

/// Lets no machine go before its backup is done.
struct BackUpFirst {
    vault: Vault,
}

#[async_trait]
impl Hook for BackUpFirst {
    fn name(&self) -> &str {
        "backup"
    }

    async fn on(&self, occasion: &Occasion) -> Result<Verdict, HookError> {
        // Hooks are asked at every moment of every object's life, clusters included.
        let is_due = occasion.moment == Moment::BeforeTeardown && occasion.kind == "HelloMachine";
        if !is_due || self.vault.order(&occasion.name.name) {
            return Ok(Verdict::Proceed);
        }
        let message = "the machine is backed up before it is destroyed";
        Ok(Verdict::Hold(Waiting::new(
            "BackupRunning",
            message,
            ASK_AGAIN,
        )))
    }
}

/// Runs the provider with the hook until a machine has come and gone.
async fn run() -> Result<(), Error> {
    let stage = Stage::new().await?;
    let vault = Vault::default();
    let stop = CancellationToken::new();
    let provider = Provider::new(Connected)
        .cluster(GivenEndpoint::<HelloCluster>::new())
        .machine(ByInstance(Directory::new(stage.directory())))
        .hook(BackUpFirst {
            vault: vault.clone(),
        })
        .run(stage.client("provider"), stop.clone().cancelled_owned());
    let (provided, played) = tokio::join!(provider, async {
        let played = play(&stage, &vault).await;
        stop.cancel();
        played
    });
    provided?;
    played
}

/// A machine comes, is to go, is held, and goes.
async fn play(stage: &Stage, vault: &Vault) -> Result<(), Error> {
    stage.ask_for_machine("precious").await?;
    let is_made = || stage.hello_machine("precious")["spec"]["providerID"].is_string();
    stage.until("the machine is made", is_made).await?;
    assert!(vault.orders().is_empty(), "nobody wants it gone yet");

    stage.delete_machine("precious").await?;
    let held = || {
        let machine = stage.hello_machine("precious");
        let conditions = machine["status"]["conditions"].as_array().cloned();
        let mut messages = conditions.into_iter().flatten();
        messages.find_map(|it| {
            let text = it["message"].as_str()?;
            text.contains("hook backup holds").then(|| text.to_owned())
        })
    };
    stage
        .until("the wait is shown", || held().is_some())
        .await?;
    println!("deletion waits: {}", held().unwrap_or_default());
    // Asked several times meanwhile, and one backup was ordered.
    tokio::time::sleep(ASK_AGAIN * 3).await;
    assert_eq!(
        vault.orders(),
        BTreeMap::from([("precious".to_owned(), false)])
    );
    assert_eq!(stage.files()?, 1, "the machine is still there");

    vault.finish("precious");
    println!("the backup is done");
    let is_gone = || stage.hello_machine("precious").is_null();
    stage.until("the machine is gone", is_gone).await?;
    assert_eq!(stage.files()?, 0);
    println!("the machine is gone");
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    run().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_machine_goes_after_its_backup_and_not_before() {
        run().await.unwrap();
    }
}
