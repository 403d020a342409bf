//! How long the simulated work takes.

use std::time::Duration;

/// How long each kind of task runs, before the platform's speed divides it.
///
/// A task's duration is what stands between its UPID and its exit status. With a delay of zero
/// the task has ended when the call that started it returns.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Delays {
    /// `qmclone`.
    pub clone: Duration,
    /// `qmcreate`.
    pub create: Duration,
    /// `qmconfig`, and the synchronous form of a configuration change.
    pub config: Duration,
    /// `resize`.
    pub resize: Duration,
    /// `qmstart` and `qmresume`.
    pub start: Duration,
    /// `qmstop`.
    pub stop: Duration,
    /// `qmshutdown`: the time that a guest takes to power off.
    pub shutdown: Duration,
    /// `qmdestroy`.
    pub destroy: Duration,
    /// `imgcopy`: the time to store an upload, whatever its size.
    pub upload: Duration,
    /// `imgdel`.
    pub delete_volume: Duration,
    /// `qmigrate`.
    pub migrate: Duration,
    /// `hastart` and `hastop`, which only hand a request to the HA manager.
    pub ha_request: Duration,
    /// How old name, status and load in `/cluster/resources` may be: pvestatd sends them about
    /// every 10 s, while existence, node, tags and locks are seen at once.
    pub statistics: Duration,
    /// What an answer to a failed authentication waits for, against guessing.
    pub unauthorized: Duration,
    /// How long a guest agent is pinged that doesn't answer.
    pub agent_ping: Duration,
    /// How long the proxying node waits for a silent one before it answers 596.
    pub proxy_timeout: Duration,
    /// How long a worker waits for a VM's lock file before it gives up.
    pub lock_timeout: Duration,
    /// The same for a clone, which wants both of its locks within a second.
    pub clone_lock_timeout: Duration,
}

impl Delays {
    /// What a small cluster on SSDs needs: clone and start 3 s, other work mostly 0.3 s.
    pub fn realistic() -> Self {
        let short = Duration::from_millis(300);
        Self {
            clone: Duration::from_secs(3),
            create: Duration::from_secs(1),
            config: short,
            resize: short,
            start: Duration::from_secs(3),
            stop: short,
            shutdown: Duration::from_secs(3),
            destroy: short,
            upload: short,
            delete_volume: short,
            migrate: Duration::from_secs(5),
            ha_request: short,
            statistics: Duration::from_secs(10),
            unauthorized: Duration::from_secs(3),
            agent_ping: Duration::from_secs(3),
            proxy_timeout: Duration::from_secs(30),
            lock_timeout: Duration::from_secs(10),
            clone_lock_timeout: Duration::from_secs(1),
        }
    }

    /// Nothing waits: every task has ended when its UPID is returned.
    pub fn zero() -> Self {
        Self {
            clone: Duration::ZERO,
            create: Duration::ZERO,
            config: Duration::ZERO,
            resize: Duration::ZERO,
            start: Duration::ZERO,
            stop: Duration::ZERO,
            shutdown: Duration::ZERO,
            destroy: Duration::ZERO,
            upload: Duration::ZERO,
            delete_volume: Duration::ZERO,
            migrate: Duration::ZERO,
            ha_request: Duration::ZERO,
            statistics: Duration::ZERO,
            unauthorized: Duration::ZERO,
            agent_ping: Duration::ZERO,
            proxy_timeout: Duration::ZERO,
            lock_timeout: Duration::ZERO,
            clone_lock_timeout: Duration::ZERO,
        }
    }

    /// These delays as a platform of that speed has them.
    pub(crate) fn divided_by(&self, speed: f64) -> Self {
        let divide = |delay: Duration| delay.div_f64(speed);
        Self {
            clone: divide(self.clone),
            create: divide(self.create),
            config: divide(self.config),
            resize: divide(self.resize),
            start: divide(self.start),
            stop: divide(self.stop),
            shutdown: divide(self.shutdown),
            destroy: divide(self.destroy),
            upload: divide(self.upload),
            delete_volume: divide(self.delete_volume),
            migrate: divide(self.migrate),
            ha_request: divide(self.ha_request),
            statistics: divide(self.statistics),
            unauthorized: divide(self.unauthorized),
            agent_ping: divide(self.agent_ping),
            proxy_timeout: divide(self.proxy_timeout),
            lock_timeout: divide(self.lock_timeout),
            clone_lock_timeout: divide(self.clone_lock_timeout),
        }
    }
}

impl Default for Delays {
    fn default() -> Self {
        Self::realistic()
    }
}
