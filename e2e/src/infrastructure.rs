//! What suites need of a platform and its provider, so that a story is told once for all of them.

use std::fmt::Debug;

use futures::future::BoxFuture;
use serde_json::Value;

use crate::audit::Request;
use crate::failure::Failure;
use crate::provider::{Program, ProviderError};
use crate::site::Site;

/// How a provider is called, and what belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Names {
    /// Its name for clusterctl, such as `proxmox`.
    pub provider: &'static str,
    /// What the names of its kinds begin with, such as `Proxmox`.
    pub kinds: &'static str,
    /// Its program, and the name of its process.
    pub program: &'static str,
    /// The namespace that its manifests make.
    pub namespace: &'static str,
    /// The service account that it runs under there.
    pub account: &'static str,
    /// Its Deployment there.
    pub deployment: &'static str,
}

impl Names {
    /// One of its kinds, such as `Machine`.
    #[must_use]
    pub fn kind(&self, rest: &str) -> String {
        format!("{}{rest}", self.kinds)
    }

    /// Its program.
    ///
    /// # Errors
    ///
    /// As [`Program::built`].
    pub fn built(&self) -> Result<Program, ProviderError> {
        Program::built(self.program, self.namespace, self.account)
    }
}

/// A change at a platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Under whose account it was made.
    pub by: String,
    /// What it was.
    pub what: String,
}

/// A platform that is played, with its provider's program and manifests.
pub trait Infrastructure: Debug + Send + Sync {
    /// How its provider is called.
    fn names(&self) -> Names;

    /// The program, told where the platform is unless objects tell that.
    ///
    /// # Errors
    ///
    /// As [`Program::built`].
    fn program(&self) -> Result<Program, ProviderError>;

    /// What must be in the management cluster before any cluster is, such as credentials.
    fn prerequisites(&self) -> Vec<Value>;

    /// The cluster of the quick start under another name. A platform whose addresses are given by its
    /// users takes them from 127.`network`.0.0/24; no two clusters that are there have the same.
    ///
    /// # Errors
    ///
    /// An example that is broken.
    fn cluster(&self, name: &str, network: u8) -> Result<Vec<Value>, Failure>;

    /// The VMs that are there.
    fn vms(&self) -> Vec<String>;

    /// The VM of a Machine, by its provider id; `None` if it has none, or that is gone.
    fn vm_of(&self, machine: &Value) -> Option<String>;

    /// How many VMs were ever made.
    fn births(&self) -> usize;

    /// Pairs of VMs that stand or ever stood for the same object, as far as the platform knows.
    fn twins(&self) -> Vec<String>;

    /// Bootstrap data that VMs can still read and no later boot needs.
    fn seeds(&self) -> Vec<String>;

    /// Whether nothing goes on by itself, such as a clone.
    fn is_idle(&self) -> bool;

    /// Destroys a VM as a person would, and waits until it is gone.
    fn destroy<'a>(&'a self, vm: &'a str) -> BoxFuture<'a, Result<(), Failure>>;

    /// What a VM's serial console showed at its last boot.
    fn console(&self, vm: &str) -> Vec<String>;

    /// What providers changed at the platform so far, in its order.
    ///
    /// # Errors
    ///
    /// No log of it.
    fn changes(&self) -> Result<Vec<Change>, Failure>;

    /// Fails unless everything that was made is gone, and nothing was made twice or taken from
    /// somebody else.
    ///
    /// # Errors
    ///
    /// What is left, doubled or touched.
    fn check_clean(&self) -> Result<(), Failure>;

    /// The requests of providers where the platform is an API server with rights of its own.
    ///
    /// # Errors
    ///
    /// No log of them.
    fn requests(&self) -> Result<Option<Vec<Request>>, Failure> {
        Ok(None)
    }

    /// Where its processes belong to, if it has any.
    fn site(&self) -> Option<&Site> {
        None
    }
}

/// The last lines on the consoles of all VMs, for whoever wonders why a node is missing.
#[must_use]
pub fn consoles(infrastructure: &dyn Infrastructure) -> String {
    /// Enough for what kubeadm said last.
    const LINES: usize = 4;
    let mut text = String::new();
    for vm in infrastructure.vms() {
        let console = infrastructure.console(&vm);
        text += &format!("VM {vm}\n");
        for line in &console[console.len().saturating_sub(LINES)..] {
            text += &format!("  {line}\n");
        }
    }
    text
}

/// Fails with everything that must not be there.
pub(crate) fn nothing(of: &[(&str, Vec<String>)]) -> Result<(), Failure> {
    let wrong: String = of
        .iter()
        .filter(|(_, all)| !all.is_empty())
        .map(|(what, all)| format!("{} {what}: {all:?}\n", all.len()))
        .collect();
    if wrong.is_empty() {
        return Ok(());
    }
    Err(Failure::new(wrong))
}

/// All in the words of their `Debug`.
pub(crate) fn shown(all: &[impl Debug]) -> Vec<String> {
    all.iter().map(|one| format!("{one:?}")).collect()
}

/// A file of the quick start, as objects, with this done to its text.
pub(crate) fn example(text: &str, change: impl Fn(&str) -> String) -> Result<Vec<Value>, Failure> {
    Ok(serde_saphyr::from_multiple(&change(text))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_named() {
        assert!(nothing(&[("VMs left", Vec::new())]).is_ok());
        let left = [("VMs left", vec!["a".to_owned()]), ("twins", Vec::new())];
        let said = nothing(&left).expect_err("one is left").to_string();
        assert_eq!(said, "1 VMs left: [\"a\"]\n");
    }
}
