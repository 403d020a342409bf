//! What goes wrong, by script or at random.

use std::collections::VecDeque;
use std::time::Duration;

use http::Method;

use crate::platform::Platform;

/// Scripts what goes wrong on a [`Platform`].
///
/// ```
/// use pve_sim::{Builder, CallFault, TaskFault};
///
/// let platform = Builder::new().build();
/// platform.faults().task("qmclone", TaskFault::Fail("clone failed: no such device".into()));
/// platform.faults().call("DELETE", "/nodes/{node}/qemu/{vmid}", CallFault::LostAfter);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Faults<'a> {
    platform: &'a Platform,
}

impl<'a> Faults<'a> {
    pub(crate) fn new(platform: &'a Platform) -> Self {
        Self { platform }
    }

    /// Lets the next call of this method and route go wrong. Routes are spelled as in
    /// [`Record::route`](crate::Record::route).
    ///
    /// # Panics
    ///
    /// When `method` is no method, or when more than 10,000 faults wait.
    pub fn call(self, method: &str, route: &str, fault: CallFault) {
        self.nth_call(method, route, 0, fault);
    }

    /// The same, after `skip` such calls went well.
    ///
    /// # Panics
    ///
    /// As [`Faults::call`].
    pub fn nth_call(self, method: &str, route: &str, skip: usize, fault: CallFault) {
        let method = Method::from_bytes(method.as_bytes()).expect("an HTTP method");
        self.platform
            .with_world(|world| world.script.add_call(method, route, skip, fault));
    }

    /// Lets the next task of this type (`qmclone`, `imgcopy`, ...) go wrong.
    ///
    /// # Panics
    ///
    /// When more than 10,000 faults wait.
    pub fn task(self, kind: &str, fault: TaskFault) {
        self.platform
            .with_world(|world| world.script.add_task(kind, None, fault));
    }

    /// The same for the next such task of this VM: of a clone, the new one.
    ///
    /// # Panics
    ///
    /// As [`Faults::task`].
    pub fn task_of(self, kind: &str, vmid: u32, fault: TaskFault) {
        self.platform
            .with_world(|world| world.script.add_task(kind, Some(vmid), fault));
    }

    /// From now on lets things go wrong at these rates.
    pub fn chaos(self, rates: &Rates) {
        self.platform.with_world(|world| {
            let silence = rates.silence.div_f64(world.speed);
            world.rates = Rates {
                silence,
                ..rates.clone()
            };
        });
    }

    /// Forgets all scripted faults, and stops chaos.
    pub fn clear(self) {
        self.platform.with_world(|world| {
            world.script.clear();
            world.rates = Rates::default();
        });
    }
}

/// What happens to a call.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CallFault {
    /// Answered with this status and message; nothing is done.
    Refuse {
        /// The HTTP status.
        status: u16,
        /// The message and reason phrase.
        message: String,
    },
    /// Answered 596 with nothing done: the proxying node could not pass it on.
    LostBefore,
    /// Answered 596 although all was done: the answer was lost on its way.
    LostAfter,
    /// Answered only after that time, which the platform's speed divides.
    Delay(Duration),
}

/// What happens to a task.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TaskFault {
    /// It fails with this text and undoes what it did.
    Fail(String),
    /// It does its work, and then reports this failure.
    FailAfter(String),
    /// It does its work, with so many warnings.
    Warn(u32),
    /// Its worker dies before it did anything: `unexpected status`.
    Killed,
    /// It does its work, but its log is cut off: `unexpected status`.
    KilledAfter,
    /// It takes so many times as long.
    Slow(u32),
}

/// How often things go wrong at random, each from 0 to 1 per call or task.
///
/// The draws depend on the seed and on the order of calls alone.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Rates {
    /// A task fails and undoes its work.
    pub task_fails: f64,
    /// A task does its work and reports a failure.
    pub task_fails_after: f64,
    /// A task ends with warnings.
    pub task_warns: f64,
    /// A task gives up waiting for a lock.
    pub lock_timeout: f64,
    /// A task takes five times as long.
    pub task_slow: f64,
    /// A call to a node is answered 596 and not done.
    pub lost_before: f64,
    /// A changing call to a node is answered 596 and done.
    pub lost_after: f64,
    /// At a call, its node falls silent for [`Rates::silence`].
    pub node_silent: f64,
    /// How long such a node stays silent, before the platform's speed divides it.
    pub silence: Duration,
    /// A task that stores something finds its storage full.
    pub storage_full: f64,
}

impl Rates {
    /// A bad day: one call or task in about 25 goes wrong in some way.
    pub fn rough() -> Self {
        Self {
            task_fails: 0.03,
            task_fails_after: 0.01,
            task_warns: 0.02,
            lock_timeout: 0.02,
            task_slow: 0.02,
            lost_before: 0.01,
            lost_after: 0.01,
            node_silent: 0.002,
            silence: Duration::from_secs(15),
            storage_full: 0.01,
        }
    }
}

/// How many scripted faults of one sort may wait; more than that is a mistake in a test.
const SCRIPT_MAX: usize = 10_000;

#[derive(Clone, Debug)]
struct ScriptedCall {
    method: Method,
    route: String,
    skip: usize,
    fault: CallFault,
}

#[derive(Clone, Debug)]
struct ScriptedTask {
    kind: String,
    vmid: Option<u32>,
    fault: TaskFault,
}

/// The faults that wait for their call or task.
#[derive(Clone, Debug, Default)]
pub(crate) struct Script {
    calls: VecDeque<ScriptedCall>,
    tasks: VecDeque<ScriptedTask>,
}

impl Script {
    pub(crate) fn add_call(&mut self, method: Method, route: &str, skip: usize, fault: CallFault) {
        assert!(
            self.calls.len() < SCRIPT_MAX,
            "too many scripted call faults"
        );
        self.calls.push_back(ScriptedCall {
            method,
            route: route.to_owned(),
            skip,
            fault,
        });
    }

    pub(crate) fn add_task(&mut self, kind: &str, vmid: Option<u32>, fault: TaskFault) {
        assert!(
            self.tasks.len() < SCRIPT_MAX,
            "too many scripted task faults"
        );
        self.tasks.push_back(ScriptedTask {
            kind: kind.to_owned(),
            vmid,
            fault,
        });
    }

    /// Takes the fault that is meant for this call, if one is.
    pub(crate) fn take_call(&mut self, method: &Method, route: &str) -> Option<CallFault> {
        let meant = |call: &ScriptedCall| call.method == *method && call.route == route;
        let at = self.calls.iter().position(meant)?;
        if self.calls[at].skip > 0 {
            self.calls[at].skip -= 1;
            return None;
        }
        self.calls.remove(at).map(|call| call.fault)
    }

    /// Takes the fault that is meant for this task, if one is.
    pub(crate) fn take_task(&mut self, kind: &str, vmid: Option<u32>) -> Option<TaskFault> {
        let meant =
            |task: &ScriptedTask| task.kind == kind && (task.vmid.is_none() || task.vmid == vmid);
        let at = self.tasks.iter().position(meant)?;
        self.tasks.remove(at).map(|task| task.fault)
    }

    pub(crate) fn clear(&mut self) {
        self.calls.clear();
        self.tasks.clear();
    }
}
