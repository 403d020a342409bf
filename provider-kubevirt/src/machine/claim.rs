//! What a machine will be, named before anything is made.

use capi_contract::view::MANAGED_BY_ANNOTATION;
use capi_contract::{Mark, ObjectName, Proof};
use serde::{Deserialize, Serialize};

use super::{MachineError, Scope};
use crate::api::CheckStrategy;
use crate::infra::{InstanceView, VmView};
use crate::login;
use crate::session::Session;
use crate::vm::{self, NAME_MAX};

/// How many characters of a claim's token are put into names: enough that names never meet, in
/// anything that one namespace can hold.
const TOKEN_PART: usize = 8;

/// Identity of a virtual machine; all that teardown has to go by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MachineClaim {
    /// Namespace in the infra cluster.
    pub namespace: String,
    /// Name of the VirtualMachine, and of its instance.
    pub name: String,
    /// Name of the Secret with the bootstrap data; none for a machine without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// Names of the DataVolumes, and so of the PersistentVolumeClaims, that are made with the VM.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<String>,
    /// The Secret with the keys by which its guest is asked whether its bootstrap is over; none if the
    /// guest agent is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<ObjectName>,
    /// What it bears.
    pub mark: Mark,
}

impl capi_contract::Claim for MachineClaim {
    fn mark(&self) -> &Mark {
        &self.mark
    }
}

/// The beginning of the token of a claim.
pub(super) fn token_part(mark: &Mark) -> &str {
    match &mark.proof {
        Proof::Made { token } => token.as_str().get(..TOKEN_PART).unwrap_or_default(),
        Proof::Adopted { id } => id.get(..TOKEN_PART).unwrap_or(id),
    }
}

/// Name of a Secret for bootstrap data. The Go provider's name with a part of the token: the VM is
/// made before the Secret, and must never find another's under this name.
fn secret_name(data: &str, mark: &Mark) -> String {
    format!("{data}-userdata-{}", token_part(mark))
}

/// Chooses the names. Nothing is asked: the server refuses a name that is taken.
pub(super) async fn choose(
    on: &Session,
    scope: &Scope,
    given_up: Option<&MachineClaim>,
) -> Result<MachineClaim, MachineError> {
    let own = scope.name();
    let template = scope.object.spec.virtual_machine_template.namespace();
    let namespace = on.namespace(template, &own.namespace).to_owned();
    if let Some(given_up) = given_up
        && let Some(claim) = earlier(on, scope, given_up).await?
    {
        return Ok(claim);
    }
    let mark = scope.mark();
    let name = match given_up {
        None => own.name,
        // Another's VM has the name, of an equally named machine of another management cluster.
        Some(_) => distinct(&own.name, &mark),
    };
    let data = scope.machine.spec.bootstrap.data_secret_name.as_deref();
    let data = data.filter(|data| !data.is_empty());
    Ok(MachineClaim {
        namespace,
        secret: data.map(|data| secret_name(data, &mark)),
        volumes: vm::volumes(&scope.object, &name),
        name,
        keys: on.logins().and_then(|_| keys(scope)),
        mark,
    })
}

/// The key pair of the cluster, for a machine that is to be asked by SSH. A cluster that somebody else
/// manages has none.
fn keys(scope: &Scope) -> Option<ObjectName> {
    let check = &scope.object.spec.virtual_machine_bootstrap_check;
    let meta = &scope.cluster.metadata;
    let annotations = meta.annotations.iter().flatten();
    let is_external = annotations
        .into_iter()
        .any(|(key, _)| key == MANAGED_BY_ANNOTATION);
    if check.check_strategy != CheckStrategy::Ssh || is_external {
        return None;
    }
    let named = scope.cluster.spec.ssh_keys.as_ref();
    let named = named.and_then(|keys| keys.data_secret_name.clone());
    let usual = || login::keys_name(meta.name.as_deref().unwrap_or_default());
    let name = named.filter(|name| !name.is_empty()).unwrap_or_else(usual);
    Some(ObjectName::new(scope.name().namespace, name))
}

/// A name that nobody else has.
fn distinct(name: &str, mark: &Mark) -> String {
    let part = token_part(mark);
    let room = NAME_MAX.saturating_sub(part.len() + 1);
    let stem: String = name.chars().take(room).collect();
    format!("{}-{part}", stem.trim_end_matches('-'))
}

/// The name is taken, and by a VM of this very machine, from an earlier life that was not found: then
/// that is the one.
async fn earlier(
    on: &Session,
    scope: &Scope,
    given_up: &MachineClaim,
) -> Result<Option<MachineClaim>, MachineError> {
    let (namespace, name) = (&given_up.namespace, &given_up.name);
    let found: Option<VmView> = on.infra().get(namespace, name).await?;
    let ours = found.as_ref().and_then(super::observe::mark_of);
    let ours = ours.filter(|mark| mark.same_object(&scope.mark()) && *mark != given_up.mark);
    Ok(found.zip(ours).map(|(vm, mark)| of_vm(&vm, mark)))
}

/// The claim of a VM that is there.
pub(super) fn of_vm(vm: &VmView, mark: Mark) -> MachineClaim {
    let meta = &vm.metadata;
    let templates = vm.spec.data_volume_templates.iter();
    MachineClaim {
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
        secret: vm.spec.template.spec.bootstrap_secret().map(str::to_owned),
        volumes: templates
            .filter_map(|template| template.metadata.name.clone())
            .collect(),
        keys: None,
        mark,
    }
}

/// The claim of an instance whose VM is gone.
pub(super) fn of_instance(instance: &InstanceView, mark: Mark) -> MachineClaim {
    let meta = &instance.metadata;
    MachineClaim {
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
        secret: instance.spec.bootstrap_secret().map(str::to_owned),
        volumes: Vec::new(),
        keys: None,
        mark,
    }
}

#[cfg(test)]
mod tests {
    use capi_contract::{ObjectName, Token};

    use super::*;

    #[test]
    fn a_name_that_another_has_is_made_distinct_and_stays_a_label() {
        let mark = Mark::made(Token::random(), ObjectName::new("ns", "m"));
        let part = token_part(&mark).to_owned();
        assert_eq!(distinct("m-0", &mark), format!("m-0-{part}"));
        let long = distinct(&"m".repeat(63), &mark);
        assert_eq!(long.len(), NAME_MAX);
        assert!(long.ends_with(&part));
    }

    #[test]
    fn the_secret_of_a_claim_is_nobody_elses() {
        let name = ObjectName::new("ns", "m");
        let (one, other) = (
            Mark::made(Token::random(), name.clone()),
            Mark::made(Token::random(), name),
        );
        let secret = secret_name("m-0-bootstrap", &one);
        assert!(secret.starts_with("m-0-bootstrap-userdata-"));
        assert_ne!(secret, secret_name("m-0-bootstrap", &other));
    }
}
