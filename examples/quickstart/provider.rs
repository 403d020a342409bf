//! The provider: in this process, or in one of its own that is killed on the way.

use std::future::pending;
use std::io::{BufRead, Read};
use std::process::{ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use capi_core::Options;
use capi_core::lease::{Election, LeaseOptions};
use capi_testkit::faults::{Faults, Rates};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use crate::moments::Moments;
use crate::platform::{Access, Platform};

/// The argument that makes this program the provider; what it needs comes on standard input.
pub(crate) const ROLE: &str = "--as-provider";
/// How long a provider that died stays away, as a Deployment would need at the least.
const RESTART: Duration = Duration::from_millis(500);
/// One call in a thousand kills the provider under faults; a machine's life has some fifty calls.
const KILLED_PER_MILLE: u16 = 1;
/// With which code a process ends that a fault killed.
const KILLED_BY_FAULT: i32 = 9;
/// The longest brief, in bytes: a kubeconfig and a certificate are some 6 KiB.
const BRIEF_MAX: u64 = 64 * 1024;
/// How long the lease of a killed process holds its successor up. A real one is 15 s long.
const LEASE: Duration = Duration::from_secs(3);

/// Why a provider could not work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("reading the provider's brief from standard input")]
    Read(#[source] std::io::Error),
    #[error("reading the provider's brief")]
    Brief(#[source] serde_json::Error),
    #[error("starting the provider's process")]
    Start(#[source] std::io::Error),
    #[error("connecting the provider")]
    Connect(#[source] Box<dyn std::error::Error + Send + Sync>),
}

pub(crate) fn connecting(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Connect(cause.into())
}

/// All that a provider must be told. It holds credentials, so it goes through a pipe and is not shown.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Brief {
    pub(crate) kubeconfig: String,
    pub(crate) platform: Platform,
    pub(crate) access: Access,
    /// Seed of the faults, if there are to be any.
    pub(crate) chaos: Option<u64>,
}

impl Brief {
    async fn client(&self) -> Result<Client, Error> {
        client(&self.kubeconfig).await
    }

    fn faults(&self) -> Faults {
        let Some(seed) = self.chaos else {
            return Faults::none();
        };
        let rates = Rates {
            killed: KILLED_PER_MILLE,
            ..Rates::default()
        };
        Faults::chaos(seed, rates)
    }
}

/// A client of the engine's kind from the text of a kubeconfig.
pub(crate) async fn client(kubeconfig: &str) -> Result<Client, Error> {
    let parsed = Kubeconfig::from_yaml(kubeconfig).map_err(connecting)?;
    let config = Config::from_custom_kubeconfig(parsed, &KubeConfigOptions::default()).await;
    capi_core::client(config.map_err(connecting)?).map_err(connecting)
}

/// Runs the provider in this process; whenever a fault kills it, a new one is started.
pub(crate) async fn work_here(brief: Brief, kills: Arc<Kills>) -> Result<(), Error> {
    let client = brief.client().await?;
    let mut faults = brief.faults();
    loop {
        let (client, options) = (client.clone(), Options::default());
        let working = brief
            .platform
            .provide(&brief, client, &faults, options, pending());
        tokio::select! {
            ended = working => return ended,
            () = faults.killed() => kills.say("a fault killed the provider; it starts again"),
        }
        sleep(RESTART).await;
        faults = faults.revive();
    }
}

/// Runs the provider in processes of its own, one after the other, and kills them.
///
/// None outlives this process: each has a pipe to it, and ends when that ends.
pub(crate) async fn work_apart(
    mut brief: Brief,
    kills: Arc<Kills>,
    mut moments: Moments,
) -> Result<(), Error> {
    let mut last_call = kills.last_call.subscribe();
    let mut next = Instant::now() + moments.next();
    loop {
        let mut child = start(&brief).await?;
        // Dropping it would tell the provider to end.
        let _pipe = child.stdin.take();
        let ended = tokio::select! {
            ended = child.wait() => Some(ended.map_err(Error::Start)?),
            () = kills.due(next, &mut last_call) => None,
        };
        match ended {
            None => {
                let process = child.id().unwrap_or_default();
                child.kill().await.map_err(Error::Start)?;
                kills.note(process);
                next = Instant::now() + moments.next();
            }
            Some(code) if code.code() == Some(KILLED_BY_FAULT) => {
                kills.say("a fault killed the provider; it starts again");
            }
            Some(code) => {
                tracing::error!(%code, "the provider's process ended by itself");
                return Ok(());
            }
        }
        // The next life meets other faults than this one.
        brief.chaos = brief.chaos.map(|seed| seed.wrapping_add(1));
        sleep(RESTART).await;
    }
}

/// This program again, in its other role.
async fn start(brief: &Brief) -> Result<Child, Error> {
    let program = std::env::current_exe().map_err(Error::Start)?;
    let mut child = Command::new(program)
        .arg(ROLE)
        .stdin(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(Error::Start)?;
    let mut line = serde_json::to_string(brief).map_err(Error::Brief)?;
    line.push('\n');
    if let Some(pipe) = &mut child.stdin {
        pipe.write_all(line.as_bytes())
            .await
            .map_err(Error::Start)?;
        pipe.flush().await.map_err(Error::Start)?;
    }
    Ok(child)
}

/// The provider's own process: works until standard input ends.
pub(crate) async fn main() -> Result<ExitCode, Error> {
    // Nothing else runs yet that waiting could hold up.
    let brief = read_brief()?;
    std::thread::spawn(end_with_the_input);
    let (client, faults) = (brief.client().await?, brief.faults());
    let lease = LeaseOptions {
        duration: LEASE,
        renew_deadline: LEASE * 2 / 3,
        retry_period: LEASE / 6,
        ..LeaseOptions::new("default", brief.platform.profile().provider)
    };
    let election = Election::new(client.clone(), lease).map_err(connecting)?;
    let working = election.run(pending(), |term| {
        let options = Options {
            leadership: term.leadership(),
            ..Options::default()
        };
        let (brief, client, faults) = (&brief, client.clone(), &faults);
        async move {
            let platform = brief.platform;
            platform
                .provide(brief, client, faults, options, term.stopped())
                .await
        }
    });
    tokio::select! {
        ended = working => match ended {
            Some(Err(error)) => Err(error),
            Some(Ok(())) | None => Ok(ExitCode::SUCCESS),
        },
        () = faults.killed() => std::process::exit(KILLED_BY_FAULT),
    }
}

/// The first line of standard input. Its lock goes with this function, since the rest is read elsewhere.
fn read_brief() -> Result<Brief, Error> {
    let mut line = String::new();
    let mut head = std::io::stdin().lock().take(BRIEF_MAX);
    head.read_line(&mut line).map_err(Error::Read)?;
    serde_json::from_str(&line).map_err(Error::Brief)
}

/// Ends the process at once when nobody holds the other end of its standard input any more: nothing
/// waits for a provider whose world is gone.
fn end_with_the_input() {
    let mut rest = [0; 64];
    // An error is an end, too.
    while std::io::stdin()
        .read(&mut rest)
        .is_ok_and(|count| count > 0)
    {}
    std::process::exit(0)
}

/// How often the provider was killed, and what there is to tell of it.
#[derive(Debug)]
pub(crate) struct Kills {
    planned: u32,
    done: AtomicU32,
    last_call: watch::Sender<bool>,
    news: Mutex<Vec<String>>,
}

impl Kills {
    pub(crate) fn new(planned: u32) -> Self {
        Self {
            planned,
            done: AtomicU32::new(0),
            last_call: watch::Sender::new(false),
            news: Mutex::default(),
        }
    }

    pub(crate) fn planned(&self) -> u32 {
        self.planned
    }

    pub(crate) fn done(&self) -> u32 {
        self.done.load(Ordering::Acquire)
    }

    /// Whether all are done but the one that is kept for the end, if there are several.
    pub(crate) fn are_nearly_done(&self) -> bool {
        self.done() + self.kept() >= self.planned
    }

    /// The end begins: what is left comes now.
    pub(crate) fn call_the_last(&self) {
        self.last_call.send_replace(true);
    }

    /// What happened since the last question.
    pub(crate) fn take_news(&self) -> Vec<String> {
        std::mem::take(&mut self.news.lock())
    }

    fn kept(&self) -> u32 {
        u32::from(self.planned > 1)
    }

    fn say(&self, text: &str) {
        self.news.lock().push(text.to_owned());
    }

    fn note(&self, process: u32) {
        let done = self.done.fetch_add(1, Ordering::AcqRel) + 1;
        self.say(&format!(
            "kill -9 {process}: the provider is dead, {done} of {}; it starts again",
            self.planned
        ));
    }

    /// Returns when a kill is due; the one that is kept is due soon after the last call.
    async fn due(&self, at: Instant, last_call: &mut watch::Receiver<bool>) {
        if self.done() >= self.planned {
            return pending().await;
        }
        if self.done() + self.kept() >= self.planned && self.kept() > 0 {
            // The sender lives as long as `self`. What is answered is a lock, which goes at once.
            last_call.wait_for(|is_called| *is_called).await.ok();
            let soon = at.saturating_duration_since(Instant::now()) / 8;
            return sleep(soon).await;
        }
        sleep_until(at).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_last_of_several_kills_waits_for_the_end() {
        let kills = Kills::new(2);
        let mut last_call = kills.last_call.subscribe();
        let at = Instant::now() + Duration::from_secs(8);
        kills.due(at, &mut last_call).await;
        assert!(Instant::now() >= at);
        assert!(!kills.are_nearly_done());
        kills.note(1);
        assert!(kills.are_nearly_done());
        let next = Instant::now() + Duration::from_secs(8);
        {
            let due = std::pin::pin!(kills.due(next, &mut last_call));
            let early = tokio::time::timeout(Duration::from_secs(99), due).await;
            assert!(early.is_err(), "not before the last call");
        }
        kills.call_the_last();
        let next = Instant::now() + Duration::from_secs(8);
        kills.due(next, &mut last_call).await;
        assert!(Instant::now() < next, "soon after it");
        kills.note(2);
        let due = std::pin::pin!(kills.due(next, &mut last_call));
        let more = tokio::time::timeout(Duration::from_secs(99), due).await;
        assert!(more.is_err(), "no more than planned");
        assert_eq!(kills.take_news().len(), 2);
        assert!(kills.take_news().is_empty());
    }

    #[test]
    fn one_kill_is_not_kept() {
        let kills = Kills::new(1);
        assert!(!kills.are_nearly_done());
        kills.note(1);
        assert!(kills.are_nearly_done());
        assert_eq!((kills.planned(), kills.done()), (1, 1));
    }
}
