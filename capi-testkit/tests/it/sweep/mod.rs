//! The sweep is judged by a tiny controller that is right, and by what is wrong with it when any one
//! of its precautions is left out.

pub(crate) mod provider;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use capi_testkit::faults::{Call, Faults, Injected};
use capi_testkit::sweep::{Family, Goal, Held, Interference, Report, Sweep, World};
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::time::Instant;

/// Longer than a call can land late.
const SETTLE: Duration = Duration::from_secs(5);
/// A thing this young accepts its destruction and does not go, like a VM that is starting.
const BUSY: Duration = Duration::from_millis(1500);

/// A precaution that is left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Weakness {
    None,
    /// Creates first and writes the claim down afterwards.
    ActsBeforeWriting,
    /// Does not look whose thing it is.
    IgnoresMarks,
    /// Takes absence for granted while a create may still land.
    DoesNotSettle,
    /// Releases the object when the destruction was accepted.
    TrustsDestroy,
    /// Makes a thing again that was once proven.
    MakesAgain,
    /// Writes without a condition on the version that it saw.
    WritesBlindly,
    /// Asks without a pause.
    Spins,
    Panics,
}

/// The Kubernetes object.
#[derive(Clone, Default, Debug)]
struct Object {
    version: u64,
    deleting: bool,
    finalizer: bool,
    claim: Option<Claim>,
    proven: bool,
    lost: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Claim {
    id: u64,
    token: u64,
    /// When a create was last announced.
    intent: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Thing {
    /// `None`: a stranger's.
    token: Option<u64>,
    born: Instant,
}

#[derive(Default)]
struct State {
    object: Option<Object>,
    /// What a held view shows.
    held: Option<Object>,
    things: BTreeMap<u64, Thing>,
    tokens: u64,
    violations: Vec<String>,
}

impl State {
    fn ours(&self) -> Vec<String> {
        self.things
            .iter()
            .filter(|(_, thing)| thing.token.is_some())
            .map(|(id, thing)| format!("{id} {:?}", thing.token))
            .collect()
    }
}

#[derive(Clone)]
struct Tiny {
    state: Arc<Mutex<State>>,
    weakness: Weakness,
}

enum Failed {
    Port,
    Refused,
}

impl From<Injected> for Failed {
    fn from(_: Injected) -> Self {
        Self::Port
    }
}

impl Tiny {
    async fn read(&self, faults: &Faults) -> Result<Option<Object>, Failed> {
        let state = Arc::clone(&self.state);
        let call = Call::read("kubernetes", "tiny", "get", "object");
        let read = faults.around(call, async move {
            let state = state.lock();
            state.held.clone().or(state.object.clone())
        });
        Ok(read.await?)
    }

    /// A conditional write; the object goes with its last finalizer.
    async fn write(&self, faults: &Faults, object: Object) -> Result<Object, Failed> {
        let (state, blind) = (
            Arc::clone(&self.state),
            self.weakness == Weakness::WritesBlindly,
        );
        let call = Call::mutation("kubernetes", "tiny", "patch", "object");
        let written = faults.around(call, async move {
            let mut state = state.lock();
            let stored = state.object.as_mut().ok_or(Failed::Refused)?;
            if stored.version != object.version && !blind {
                return Err(Failed::Refused);
            }
            *stored = Object {
                version: stored.version + 1,
                deleting: stored.deleting,
                ..object
            };
            let stored = stored.clone();
            if stored.deleting && !stored.finalizer {
                state.object = None;
            }
            Ok(stored)
        });
        written.await?
    }

    async fn create(&self, faults: &Faults, claim: Claim) -> Result<(), Failed> {
        let state = Arc::clone(&self.state);
        let call = Call::mutation("backend", "tiny", "create", claim.id.to_string());
        let created = faults.around(call, async move {
            let mut state = state.lock();
            if state.things.contains_key(&claim.id) {
                return Err(Failed::Refused);
            }
            let token = Some(claim.token);
            let born = Instant::now();
            state.things.insert(claim.id, Thing { token, born });
            Ok(())
        });
        created.await?
    }

    async fn observe(&self, faults: &Faults, id: u64) -> Result<Option<Thing>, Failed> {
        let state = Arc::clone(&self.state);
        let call = Call::read("backend", "tiny", "get", id.to_string());
        Ok(faults
            .around(call, async move { state.lock().things.get(&id).copied() })
            .await?)
    }

    async fn destroy(&self, faults: &Faults, id: u64) -> Result<(), Failed> {
        let state = Arc::clone(&self.state);
        let call = Call::mutation("backend", "tiny", "destroy", id.to_string());
        let destroyed = faults.around(call, async move {
            let mut state = state.lock();
            let Some(thing) = state.things.get(&id).copied() else {
                return;
            };
            if thing.token.is_none() {
                state
                    .violations
                    .push(format!("a stranger's thing {id} was destroyed"));
            }
            if thing.born.elapsed() >= BUSY {
                state.things.remove(&id);
            }
        });
        Ok(destroyed.await?)
    }

    fn new_claim(&self) -> Claim {
        let mut state = self.state.lock();
        state.tokens += 1;
        let free = (100..).find(|id| !state.things.contains_key(id));
        Claim {
            id: free.expect("numbers do not end"),
            token: state.tokens,
            intent: None,
        }
    }

    async fn pass(&self, faults: &Faults) -> Result<(), Failed> {
        let Some(object) = self.read(faults).await? else {
            return Ok(());
        };
        match object.claim {
            _ if object.deleting && !object.finalizer => Ok(()),
            None if object.deleting => self.release(faults, object).await,
            None => self.claim(faults, object).await,
            Some(claim) => {
                let seen = self.observe(faults, claim.id).await?;
                let ours = |thing: &Thing| {
                    thing.token == Some(claim.token) || self.weakness == Weakness::IgnoresMarks
                };
                let settled = claim.intent.is_none_or(|at| at.elapsed() > SETTLE)
                    || self.weakness == Weakness::DoesNotSettle;
                match seen {
                    Some(thing) if ours(&thing) => self.own(faults, object, claim).await,
                    Some(_) | None if !settled => Ok(()),
                    Some(_) if object.deleting => self.release(faults, object).await,
                    Some(_) => self.claim(faults, object).await,
                    None => self.absent(faults, object, claim).await,
                }
            }
        }
    }

    async fn claim(&self, faults: &Faults, object: Object) -> Result<(), Failed> {
        let mut claim = self.new_claim();
        claim.intent = Some(Instant::now());
        if self.weakness == Weakness::ActsBeforeWriting {
            self.create(faults, claim).await?;
        }
        let object = Object {
            claim: Some(claim),
            finalizer: true,
            ..object
        };
        self.write(faults, object).await?;
        if self.weakness != Weakness::ActsBeforeWriting {
            self.create(faults, claim).await?;
        }
        Ok(())
    }

    async fn own(&self, faults: &Faults, object: Object, claim: Claim) -> Result<(), Failed> {
        if object.deleting {
            self.write(faults, object.clone()).await?;
            self.destroy(faults, claim.id).await?;
            if self.weakness == Weakness::TrustsDestroy {
                let now = self.read(faults).await?.ok_or(Failed::Refused)?;
                return self.release(faults, now).await;
            }
        } else if !object.proven {
            let proven = Object {
                proven: true,
                ..object
            };
            self.write(faults, proven).await?;
        }
        Ok(())
    }

    async fn absent(&self, faults: &Faults, object: Object, claim: Claim) -> Result<(), Failed> {
        if object.deleting {
            return self.release(faults, object).await;
        }
        if object.proven && self.weakness != Weakness::MakesAgain {
            if !object.lost {
                self.write(
                    faults,
                    Object {
                        lost: true,
                        ..object
                    },
                )
                .await?;
            }
            return Ok(());
        }
        let claim = Claim {
            intent: Some(Instant::now()),
            ..claim
        };
        let object = Object {
            claim: Some(claim),
            ..object
        };
        self.write(faults, object).await?;
        self.create(faults, claim).await
    }

    async fn release(&self, faults: &Faults, object: Object) -> Result<(), Failed> {
        let released = Object {
            finalizer: false,
            ..object
        };
        self.write(faults, released).await.map(|_| ())
    }
}

impl World for Tiny {
    fn start(&self, faults: Faults) -> BoxFuture<'static, ()> {
        let tiny = self.clone();
        Box::pin(async move {
            loop {
                match tiny.pass(&faults).await {
                    // A refusal or a broken connection: look again, later.
                    Ok(()) | Err(Failed::Port | Failed::Refused) => {}
                }
                match tiny.weakness {
                    Weakness::Spins => tokio::task::yield_now().await,
                    Weakness::Panics => assert_ne!(tiny.weakness, Weakness::Panics, "on purpose"),
                    _ => tokio::time::sleep(Duration::from_secs(1)).await,
                }
            }
        })
    }

    fn create(&self) -> BoxFuture<'_, Result<(), String>> {
        self.state.lock().object = Some(Object::default());
        Box::pin(async { Ok(()) })
    }

    fn delete(&self) -> BoxFuture<'_, Result<(), String>> {
        let mut state = self.state.lock();
        if let Some(object) = &mut state.object {
            object.deleting = true;
            object.version += 1;
            if !object.finalizer {
                state.object = None;
            }
        }
        Box::pin(async { Ok(()) })
    }

    fn missing(&self, goal: Goal) -> BoxFuture<'_, Option<String>> {
        let state = self.state.lock();
        let object = state.object.as_ref();
        let reached = match goal {
            Goal::Built => object.is_some_and(|object| object.proven) && !state.ours().is_empty(),
            Goal::Lost => object.is_some_and(|object| object.lost),
            Goal::Gone => object.is_none(),
        };
        let missing = (!reached).then(|| match object {
            Some(object) => format!("proven: {}, lost: {}", object.proven, object.lost),
            None => "no object".to_owned(),
        });
        Box::pin(async { missing })
    }

    fn things(&self) -> Vec<String> {
        self.state.lock().ours()
    }

    fn violations(&self) -> Vec<String> {
        self.state.lock().violations.clone()
    }

    fn interfere(&self, interference: Interference) -> BoxFuture<'_, bool> {
        let mut state = self.state.lock();
        let claimed = state.object.as_ref().and_then(|object| object.claim);
        let done = match (interference, claimed) {
            (Interference::Stranger, claimed) => {
                let id = claimed.map_or(100, |claim| claim.id);
                let born = Instant::now();
                let free = !state.things.contains_key(&id);
                state
                    .things
                    .entry(id)
                    .or_insert(Thing { token: None, born });
                free
            }
            (Interference::Removal, Some(claim)) => state.things.remove(&claim.id).is_some(),
            _ => false,
        };
        Box::pin(async move { done })
    }

    fn hold(&self) -> Option<Held> {
        let mut state = self.state.lock();
        state.held = state.object.clone();
        Some(Box::new(Release(Arc::clone(&self.state))))
    }
}

struct Release(Arc<Mutex<State>>);

impl Drop for Release {
    fn drop(&mut self) {
        self.0.lock().held = None;
    }
}

fn swept(weakness: Weakness) -> Report {
    let sweep = Sweep::new(move || async move {
        Tiny {
            state: Arc::default(),
            weakness,
        }
    });
    sweep.pairs(300).run()
}

#[test]
fn a_right_controller_passes() {
    let report = swept(Weakness::None);
    println!("{report}");
    assert!(report.is_clean(), "{report}");
    assert_eq!((report.calm_built, report.calm_mutations), (3, 6));
    assert!(report.runs > 400 && report.crashes > 150, "{report}");
}

#[test]
fn every_missing_precaution_is_caught() {
    for (weakness, words) in [
        (
            Weakness::ActsBeforeWriting,
            &["leaked", "things where 1"][..],
        ),
        (Weakness::IgnoresMarks, &["stranger", "Built not reached"]),
        (Weakness::DoesNotSettle, &["leaked", "things where 1"]),
        (Weakness::TrustsDestroy, &["leaked"]),
        (Weakness::MakesAgain, &["Lost not reached"]),
        (Weakness::WritesBlindly, &["leaked", "things where 1"]),
        (Weakness::Spins, &["spins"]),
        (Weakness::Panics, &["panicked"]),
    ] {
        let report = swept(weakness);
        let reasons: Vec<&str> = report
            .failures
            .iter()
            .map(|one| one.reason.as_str())
            .collect();
        assert!(
            reasons
                .iter()
                .any(|reason| words.iter().any(|word| reason.contains(word))),
            "{weakness:?}: {report}"
        );
    }
}

#[test]
fn a_failure_can_be_played_again() {
    let make = || async {
        Tiny {
            state: Arc::default(),
            weakness: Weakness::IgnoresMarks,
        }
    };
    let sweep = Sweep::new(make).families([Family::Strangers]);
    let report = sweep.run();
    let failure = &report.failures[0];
    let again = sweep.replay(&failure.scenario);
    assert_eq!(again.failure.as_ref(), Some(&failure.reason));
    assert_eq!(again.trace, failure.trace);
}
