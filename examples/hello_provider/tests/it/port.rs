//! The directory behind a port that faults can strike, and deliberate weakenings of the provider.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use capi_contract::{
    ByInstance, Classify, Connected, Creation, GivenEndpoint, InfraMachine, Instance,
    InstanceState, Instances, MachineFacts, Mark, Order,
};
use capi_core::{Options, Provider};
use capi_testkit::faults::{Call, Faults, Injected, without_preconditions};
use capi_testkit::weakness::{EmptyAtFirst, GoneOnceSent, Weakened};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use hello_provider::{Directory, Error, HelloCluster, HelloMachine};
use kube::Client;

/// How many looks find nothing under [`Weakening::LooksEmptyAtFirst`].
const LOOKS_EMPTY: usize = 3;

/// How the provider is broken on purpose; each must be caught by the sweep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weakening {
    /// Not at all.
    None,
    /// Creates are said to settle at once, though they may land late.
    SettlesAtOnce,
    /// A destroy that failed is taken for done.
    FailedDestroyIsGone,
    /// Whatever bears the object's name is taken for ours.
    NamesAreMarks,
    /// Writes lose the resource version that makes them conditional, on a backend that finds a thing
    /// by its claim only. (Where everything of an object is found, surplus is found too.)
    NoPreconditions,
    /// A look finds nothing for a while after the process started.
    LooksEmptyAtFirst,
}

impl Weakening {
    pub(crate) fn client(self, client: Client) -> Client {
        match self {
            Weakening::NoPreconditions => without_preconditions(client),
            Weakening::None
            | Weakening::SettlesAtOnce
            | Weakening::FailedDestroyIsGone
            | Weakening::NamesAreMarks
            | Weakening::LooksEmptyAtFirst => client,
        }
    }
}

/// Runs the provider until it is dropped.
pub(crate) fn run(
    directory: &Path,
    faults: Faults,
    weakening: Weakening,
    client: Client,
    options: Options,
) -> BoxFuture<'static, ()> {
    let port = Port::<false>::new(directory, faults.clone(), weakening);
    let machines = ByInstance(port);
    match weakening {
        Weakening::SettlesAtOnce => {
            let hasty = Port::<true>::new(directory, faults, weakening);
            drive(ByInstance(hasty), client, options).boxed()
        }
        Weakening::FailedDestroyIsGone => {
            let weak = Weakened::new(machines, GoneOnceSent::step("Destroy"));
            drive(weak, client, options).boxed()
        }
        Weakening::LooksEmptyAtFirst => {
            let weak = Weakened::new(machines, EmptyAtFirst::looks(LOOKS_EMPTY));
            drive(weak, client, options).boxed()
        }
        Weakening::None | Weakening::NamesAreMarks | Weakening::NoPreconditions => {
            drive(machines, client, options).boxed()
        }
    }
}

async fn drive<M>(machines: M, client: Client, options: Options)
where
    M: InfraMachine<Kind = HelloMachine, Cluster = HelloCluster, Session = ()>,
{
    let provider = Provider::new(Connected)
        .cluster(GivenEndpoint::<HelloCluster>::new())
        .machine(machines)
        .options(options);
    provider
        .run(client, futures::future::pending())
        .await
        .unwrap();
}

#[derive(Clone, Debug)]
struct Port<const HASTY: bool> {
    path: PathBuf,
    directory: Directory,
    faults: Faults,
    weakening: Weakening,
}

#[derive(Debug, thiserror::Error)]
enum PortError {
    #[error(transparent)]
    Directory(#[from] Error),
    #[error("calling the directory")]
    Injected(#[from] Injected),
}

impl Classify for PortError {}

/// A file, as the port shows it: with the mark that it has, and the mark that it is said to have.
#[derive(Clone, Debug)]
struct Shown {
    real: Mark,
    shown: Mark,
}

impl Instance for Shown {
    fn mark(&self) -> &Mark {
        &self.shown
    }

    fn state(&self) -> InstanceState {
        InstanceState::Running
    }
}

impl<const HASTY: bool> Port<HASTY> {
    fn new(path: &Path, faults: Faults, weakening: Weakening) -> Self {
        Self {
            path: path.to_owned(),
            directory: Directory::new(path),
            faults,
            weakening,
        }
    }

    async fn call<T: Send + 'static>(
        &self,
        verb: &str,
        mark: &Mark,
        act: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, PortError> {
        let call = match verb {
            "list" => Call::read("hypervisor", "hello-provider", verb, mark.to_string()),
            _ => Call::mutation("hypervisor", "hello-provider", verb, mark.to_string()),
        };
        Ok(self.faults.around(call, act).await??)
    }

    /// All files whose mark names the object, whoever owns it.
    fn named_alike(&self, mark: &Mark) -> Vec<Shown> {
        let entries = std::fs::read_dir(&self.path).unwrap();
        let names = entries.map(|entry| {
            entry
                .unwrap()
                .file_name()
                .to_string_lossy()
                .replace('+', "/")
        });
        let marks = names.map(|name| name.parse::<Mark>().unwrap());
        let alike = marks.filter(|real| real.object == mark.object);
        alike
            .map(|real| Shown {
                real,
                shown: mark.clone(),
            })
            .collect()
    }
}

impl<const HASTY: bool> Instances for Port<HASTY> {
    const CREATION: Creation = if HASTY {
        Creation::Ambiguous {
            settle: Duration::ZERO,
        }
    } else {
        Directory::CREATION
    };
    const FINALIZER: &'static str = Directory::FINALIZER;
    type Kind = HelloMachine;
    type Cluster = HelloCluster;
    type Session = ();
    type Instance = Shown;
    type Error = PortError;

    async fn find(&self, _: &(), mark: &Mark) -> Result<Vec<Shown>, PortError> {
        let (directory, of) = (self.directory.clone(), mark.clone());
        let files = self
            .call("list", mark, async move { directory.find(&(), &of).await })
            .await?;
        if self.weakening == Weakening::NamesAreMarks {
            return Ok(self.named_alike(mark));
        }
        let all = files.iter().map(|file| file.mark().clone());
        let by_claim_only = self.weakening == Weakening::NoPreconditions;
        let kept = all.filter(|real| !by_claim_only || real == mark);
        Ok(kept
            .map(|real| Shown {
                shown: real.clone(),
                real,
            })
            .collect())
    }

    async fn create(&self, _: &(), order: Order<'_, HelloMachine>) -> Result<(), PortError> {
        // A late call outlives its caller, so it owns all it needs.
        let directory = self.directory.clone();
        let (mark, object) = (order.mark.clone(), order.object.clone());
        let bootstrap = order.bootstrap.cloned();
        let create = async move {
            directory
                .create(&(), Order::new(&mark, &object, bootstrap.as_ref()))
                .await
        };
        self.call("create", order.mark, create).await
    }

    async fn destroy(&self, _: &(), shown: &Shown) -> Result<(), PortError> {
        let (directory, real) = (self.directory.clone(), shown.real.clone());
        let destroy = async move {
            let files = directory.find(&(), &real).await?;
            match files.iter().find(|file| *file.mark() == real) {
                Some(file) => directory.destroy(&(), file).await,
                None => Ok(()),
            }
        };
        self.call("destroy", &shown.real, destroy).await
    }

    fn facts(&self, object: &HelloMachine, shown: &Shown) -> MachineFacts<()> {
        hello_provider::facts(object, &shown.real)
    }
}
