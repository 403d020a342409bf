//! A connected client with what all machines and clusters of one credential share: two polls, and
//! what this process itself did a moment ago.
//!
//! Nothing here decides what is true. The polls save calls; the notes say where to look, when to
//! look, and what not to promise twice, and every one of them ages.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use capi_contract::Mark;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::machine::Seen;
use crate::placement::Reservation;
use crate::pve::{Client, Config, Error, Power, Resource, ResourceKind, TaskRow, TaskState, Upid};

/// How old a shared answer may be: at most one call of each kind and endpoint in this time.
const SHARED_FOR: Duration = Duration::from_secs(5);

/// How long the failure of a shared call answers for all, so that hundreds of waiting objects do
/// not ask a silent endpoint one after the other.
const FAILURE_SHARED_FOR: Duration = Duration::from_secs(2);

/// How long a promised VMID and its memory are kept from others. A clone is listed within seconds;
/// the time covers a claim that waits for its turn.
const RESERVED_FOR: Duration = Duration::from_secs(120);

/// How long what was read while waiting for a task may stand for the look that follows it.
const GLANCE_FOR: Duration = Duration::from_secs(1);

/// How long the listing's status is not believed after this process started or stopped a VM. Hosts
/// report about every 10 s, and the listing is up to 5 s old.
const STATUS_SETTLES_IN: Duration = Duration::from_secs(20);

/// How long an uploaded image is taken to be there. It only decides whether to upload again, which
/// is harmless.
const UPLOADED_FOR: Duration = Duration::from_secs(3600);

/// How long a VM that was cloned here may be missing from the listing.
const CLONE_LISTED_IN: Duration = Duration::from_secs(15);

/// First and longest pause between two looks into a booting guest. The first is what a small Linux
/// needs; each look costs the host up to 3 s of waiting for the agent.
const GUEST_PAUSE: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(60));

/// How soon the shared list knows a task.
const TASKS_LISTED_IN: Duration = Duration::from_secs(10);

/// How often one task is asked after by itself; then the shared list has to do.
const PROBES_MAX: u32 = 4;

/// How many notes of one kind are kept; more than machines that one endpoint can have in flight.
const NOTES_MAX: usize = 10_000;

/// When something was asked, and the answer.
type Answer<T> = (Instant, Result<Arc<T>, Error>);

/// One answer that many ask for.
struct Shared<T> {
    last: tokio::sync::Mutex<Option<Answer<T>>>,
}

impl<T> Shared<T> {
    fn new() -> Self {
        Self {
            last: tokio::sync::Mutex::new(None),
        }
    }

    /// The last answer if it is young enough, else a new one; whoever asks meanwhile waits for it.
    async fn get<F: Future<Output = Result<T, Error>>>(
        &self,
        fetch: impl FnOnce() -> F,
    ) -> Result<(Instant, Arc<T>), Error> {
        let mut last = self.last.lock().await;
        if let Some((at, answer)) = &*last {
            let keep = if answer.is_ok() {
                SHARED_FOR
            } else {
                FAILURE_SHARED_FOR
            };
            if at.elapsed() < keep {
                return answer.clone().map(|answer| (*at, answer));
            }
        }
        let at = Instant::now();
        let answer = fetch().await.map(Arc::new);
        *last = Some((at, answer.clone()));
        answer.map(|answer| (at, answer))
    }
}

/// The listing of guests, nodes and storages, with an index by VMID.
#[derive(Debug)]
pub struct Listing {
    rows: Vec<Resource>,
    guests: HashMap<u32, usize>,
}

impl Listing {
    /// Indexes the rows.
    pub fn new(rows: Vec<Resource>) -> Self {
        let guests = rows
            .iter()
            .enumerate()
            .filter_map(|(at, row)| Some((row.vmid?, at)))
            .collect();
        Self { rows, guests }
    }

    /// The row of a guest.
    pub fn guest(&self, vmid: u32) -> Option<&Resource> {
        self.guests.get(&vmid).map(|at| &self.rows[*at])
    }

    /// All rows.
    pub fn rows(&self) -> &[Resource] {
        &self.rows
    }

    /// Whether a node is known and answers.
    pub fn is_online(&self, node: &str) -> bool {
        self.rows
            .iter()
            .any(|row| row.kind == ResourceKind::Node && row.node == node && row.status == "online")
    }

    /// The row of a storage as a node sees it.
    pub fn storage(&self, node: &str, storage: &str) -> Option<&Resource> {
        self.rows.iter().find(|row| {
            row.kind == ResourceKind::Storage
                && row.node == node
                && row.storage.as_deref() == Some(storage)
        })
    }
}

/// What was read of a VM while waiting for a task.
#[derive(Clone, Debug)]
pub(crate) enum Glance {
    Config(Config),
    Gone,
}

/// A note that ages.
struct Note<T> {
    at: Instant,
    what: T,
}

struct Notes<K, T> {
    map: HashMap<K, Note<T>>,
    keep: Duration,
}

impl<K: std::hash::Hash + Eq, T> Notes<K, T> {
    fn new(keep: Duration) -> Self {
        Self {
            map: HashMap::new(),
            keep,
        }
    }

    fn put(&mut self, key: K, what: T) {
        if self.map.len() >= NOTES_MAX {
            let keep = self.keep;
            self.map.retain(|_, note| note.at.elapsed() < keep);
        }
        if self.map.len() < NOTES_MAX {
            self.map.insert(
                key,
                Note {
                    at: Instant::now(),
                    what,
                },
            );
        }
    }

    fn get(&self, key: &K) -> Option<&T> {
        let note = self.map.get(key)?;
        (note.at.elapsed() < self.keep).then_some(&note.what)
    }

    fn take(&mut self, key: &K) -> Option<T> {
        let note = self.map.remove(key)?;
        (note.at.elapsed() < self.keep).then_some(note.what)
    }

    fn live(&self) -> impl Iterator<Item = (&K, &T)> {
        let young = |note: &Note<T>| note.at.elapsed() < self.keep;
        self.map
            .iter()
            .filter(move |(_, note)| young(note))
            .map(|(key, note)| (key, &note.what))
    }
}

#[derive(Clone)]
struct Promise {
    reservation: Reservation,
    set: String,
}

struct GuestWatch {
    ready: bool,
    next: Instant,
    pause: Duration,
}

struct Memory {
    promises: Notes<u32, Promise>,
    affirmed_free: Notes<u32, String>,
    cloned: Notes<u32, ()>,
    glances: Notes<u32, Glance>,
    looks: Notes<u32, (Mark, Seen)>,
    switched: Notes<u32, Switch>,
    uploads: Notes<String, String>,
    stored: Notes<String, ()>,
    removed: Notes<String, ()>,
    guests: Notes<(u32, String), GuestWatch>,
    begun: Notes<String, Instant>,
    /// How old tasks were when they were last seen running.
    ran: Notes<String, Duration>,
    durations: BTreeMap<String, Duration>,
    probes: Notes<String, (u32, Instant)>,
    is_slow: bool,
}

/// A client and what its users share.
pub struct Session {
    client: Client,
    listing: Shared<Listing>,
    tasks: Shared<HashMap<String, TaskRow>>,
    memory: Mutex<Memory>,
    choosing: tokio::sync::Mutex<()>,
    first_id: tokio::sync::OnceCell<u32>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("client", &self.client)
            .finish_non_exhaustive()
    }
}

impl Session {
    /// A session on a client.
    pub fn new(client: Client) -> Self {
        let memory = Memory {
            promises: Notes::new(RESERVED_FOR),
            affirmed_free: Notes::new(SHARED_FOR),
            cloned: Notes::new(CLONE_LISTED_IN),
            glances: Notes::new(GLANCE_FOR),
            looks: Notes::new(SHARED_FOR),
            switched: Notes::new(STATUS_SETTLES_IN),
            uploads: Notes::new(UPLOADED_FOR),
            stored: Notes::new(UPLOADED_FOR),
            removed: Notes::new(GLANCE_FOR),
            guests: Notes::new(UPLOADED_FOR * 24),
            begun: Notes::new(UPLOADED_FOR),
            ran: Notes::new(UPLOADED_FOR),
            durations: BTreeMap::new(),
            probes: Notes::new(UPLOADED_FOR),
            is_slow: false,
        };
        Self {
            client,
            listing: Shared::new(),
            tasks: Shared::new(),
            memory: Mutex::new(memory),
            choosing: tokio::sync::Mutex::new(()),
            first_id: tokio::sync::OnceCell::new(),
        }
    }

    /// The client.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The listing, at most 5 s old.
    ///
    /// # Errors
    ///
    /// Those of the call; one failure answers for all who ask within 2 s.
    pub async fn listing(&self) -> Result<Arc<Listing>, Error> {
        self.dated_listing().await.map(|(_, listing)| listing)
    }

    /// The same, with the moment when it was asked for.
    pub(crate) async fn dated_listing(&self) -> Result<(Instant, Arc<Listing>), Error> {
        let fetch = || async { Ok(Listing::new(self.client.resources().await?)) };
        self.listing.get(fetch).await
    }

    /// Notes what a look at a VM itself saw, until a younger listing can show it.
    pub(crate) fn note_look(&self, vmid: u32, mark: &Mark, seen: &Seen) {
        // The configuration is the bulk of it, and is read again before anything is changed.
        let seen = Seen {
            config: None,
            ..seen.clone()
        };
        self.memory.lock().looks.put(vmid, (mark.clone(), seen));
    }

    /// Nothing is known of a VM any more.
    pub(crate) fn forget_look(&self, vmid: u32) {
        self.memory.lock().looks.take(&vmid);
    }

    /// The last look at the VM of a mark, if it was taken after this moment.
    pub(crate) fn look_since(&self, vmid: u32, mark: &Mark, moment: Instant) -> Option<Seen> {
        let memory = self.memory.lock();
        let (of, seen) = memory.looks.get(&vmid)?;
        (of == mark && seen.at >= moment).then(|| seen.clone())
    }

    /// Where to begin looking for a free VMID: the datacenter's own answer, asked once.
    pub(crate) async fn first_id(&self) -> Result<u32, Error> {
        self.first_id
            .get_or_try_init(|| self.client.next_id())
            .await
            .copied()
    }

    /// Held while a place is chosen, so that two machines are not promised the same.
    pub(crate) async fn choosing(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.choosing.lock().await
    }

    /// Keeps a VMID and memory from others; `set` names the machines among which it is spread.
    pub(crate) fn promise(&self, reservation: Reservation, set: &str) {
        let promise = Promise {
            reservation,
            set: set.to_owned(),
        };
        let mut memory = self.memory.lock();
        memory.promises.put(promise.reservation.vmid, promise);
    }

    /// What is promised, and how many machines of a set are promised to each node.
    pub(crate) fn promised(&self, set: &str) -> (Vec<Reservation>, Vec<(u32, String)>) {
        let memory = self.memory.lock();
        let all: Vec<_> = memory
            .promises
            .live()
            .map(|(_, promise)| promise.clone())
            .collect();
        let peers = all
            .iter()
            .filter(|promise| promise.set == set)
            .map(|promise| (promise.reservation.vmid, promise.reservation.node.clone()))
            .collect();
        (
            all.into_iter().map(|promise| promise.reservation).collect(),
            peers,
        )
    }

    /// The VMIDs that are promised.
    pub(crate) fn promised_ids(&self) -> BTreeSet<u32> {
        self.memory
            .lock()
            .promises
            .live()
            .map(|(vmid, _)| *vmid)
            .collect()
    }

    /// Notes that the backend just affirmed that a VMID is free, for the new claim with this mark.
    /// Nothing can exist yet under a mark that nobody else has seen.
    pub(crate) fn affirm_free(&self, vmid: u32, mark: String) {
        self.memory.lock().affirmed_free.put(vmid, mark);
    }

    /// Whether the backend affirmed that within the last seconds, once.
    pub(crate) fn take_affirmed_free(&self, vmid: u32, mark: &str) -> bool {
        self.memory
            .lock()
            .affirmed_free
            .take(&vmid)
            .is_some_and(|found| found == mark)
    }

    /// Notes that a clone to this VMID was asked for: it may exist although the listing lacks it.
    pub(crate) fn note_cloned(&self, vmid: u32) {
        self.memory.lock().cloned.put(vmid, ());
    }

    pub(crate) fn may_be_unlisted(&self, vmid: u32) -> bool {
        self.memory.lock().cloned.get(&vmid).is_some()
    }

    pub(crate) fn put_glance(&self, vmid: u32, glance: Glance) {
        self.memory.lock().glances.put(vmid, glance);
    }

    /// What was read within the last second while waiting for a task, once.
    pub(crate) fn take_glance(&self, vmid: u32) -> Option<Glance> {
        self.memory.lock().glances.take(&vmid)
    }

    /// Notes that a VM was told to start or stop.
    pub(crate) fn note_switched(&self, vmid: u32, towards: Power) {
        let switch = Switch {
            towards,
            seen: false,
        };
        self.memory.lock().switched.put(vmid, switch);
    }

    /// Notes what a VM itself said of its power.
    pub(crate) fn note_power(&self, vmid: u32, power: Power) {
        let mut memory = self.memory.lock();
        if let Some(note) = memory.switched.map.get_mut(&vmid) {
            note.what.seen |= note.what.towards == power;
        }
    }

    /// Whose word on a VM's power counts.
    pub(crate) fn power_source(&self, vmid: u32) -> PowerSource {
        match self.memory.lock().switched.get(&vmid) {
            None => PowerSource::Listing,
            Some(Switch {
                towards,
                seen: true,
            }) => PowerSource::Known(*towards),
            Some(Switch { seen: false, .. }) => PowerSource::Ask,
        }
    }

    /// Notes which image an upload task stores.
    pub(crate) fn note_upload(&self, upid: &Upid, volume: &str) {
        self.memory
            .lock()
            .uploads
            .put(upid.as_str().to_owned(), volume.to_owned());
    }

    /// Notes that an upload task ended well.
    pub(crate) fn note_uploaded(&self, upid: &Upid) {
        let mut memory = self.memory.lock();
        if let Some(volume) = memory.uploads.take(&upid.as_str().to_owned()) {
            memory.stored.put(volume, ());
        }
    }

    pub(crate) fn is_stored(&self, volume: &str) -> bool {
        self.memory.lock().stored.get(&volume.to_owned()).is_some()
    }

    pub(crate) fn forget_stored(&self, volume: &str) {
        self.memory.lock().stored.take(&volume.to_owned());
    }

    /// Notes that the storage just said that an image is removed.
    pub(crate) fn note_removed(&self, volume: &str) {
        self.memory.lock().removed.put(volume.to_owned(), ());
    }

    /// Whether the storage said so within the last second, once.
    pub(crate) fn was_removed(&self, volume: &str) -> bool {
        self.memory
            .lock()
            .removed
            .take(&volume.to_owned())
            .is_some()
    }

    /// Whether it is time to look into a guest, or what the last look said.
    pub(crate) fn guest(&self, vmid: u32, mark: &str) -> GuestTurn {
        let mut memory = self.memory.lock();
        let key = (vmid, mark.to_owned());
        let now = Instant::now();
        match memory.guests.map.get_mut(&key) {
            Some(Note { what, .. }) if what.ready => GuestTurn::Ready,
            Some(Note { what, .. }) if now < what.next => GuestTurn::NotYet,
            Some(Note { what, .. }) => {
                what.pause = (what.pause * 3 / 2).min(GUEST_PAUSE.1);
                what.next = now + what.pause;
                GuestTurn::Ask
            }
            None => {
                let (pause, _) = GUEST_PAUSE;
                let next = now + pause;
                memory.guests.put(
                    key,
                    GuestWatch {
                        ready: false,
                        next,
                        pause,
                    },
                );
                GuestTurn::Ask
            }
        }
    }

    /// Begins a guest's first pause: it was started just now.
    pub(crate) fn note_booting(&self, vmid: u32, mark: &str) {
        let (pause, _) = GUEST_PAUSE;
        let watch = GuestWatch {
            ready: false,
            next: Instant::now() + pause,
            pause,
        };
        self.memory
            .lock()
            .guests
            .put((vmid, mark.to_owned()), watch);
    }

    /// Notes that a guest passed its check, which it does once.
    pub(crate) fn note_guest_ready(&self, vmid: u32, mark: &str) {
        let watch = GuestWatch {
            ready: true,
            next: Instant::now(),
            pause: GUEST_PAUSE.0,
        };
        self.memory
            .lock()
            .guests
            .put((vmid, mark.to_owned()), watch);
    }

    /// Notes when a task began.
    pub(crate) fn note_begun(&self, upid: &Upid) {
        self.memory
            .lock()
            .begun
            .put(upid.as_str().to_owned(), Instant::now());
    }

    /// Learns how long tasks of this kind take.
    pub(crate) fn note_ended(&self, upid: &Upid) {
        let mut memory = self.memory.lock();
        let key = upid.as_str().to_owned();
        memory.probes.take(&key);
        let Some(begun) = memory.begun.take(&key) else {
            return;
        };
        // It ended between the last look that saw it running and now. The moment of noticing alone
        // teaches nothing: a list may be 5 s old.
        let (least, most) = (memory.ran.take(&key).unwrap_or_default(), begun.elapsed());
        let usual = memory.usual(upid.kind()).max(least).min(most);
        memory.durations.insert(upid.kind().to_owned(), usual);
    }

    /// Whether it is time to ask for this one task: when tasks of its kind usually end, and a few
    /// times more. Otherwise, and in the end, the shared list of tasks tells.
    pub(crate) fn is_probe_due(&self, upid: &Upid) -> bool {
        let mut memory = self.memory.lock();
        let key = upid.as_str().to_owned();
        let usual = memory.usual(upid.kind());
        // A task of another process: nobody knows how old it is.
        let age = memory
            .begun
            .get(&key)
            .map_or(UPLOADED_FOR, Instant::elapsed);
        let asked = memory.probes.get(&key).copied();
        let due = match asked {
            None => age >= usual,
            Some((PROBES_MAX.., _)) => false,
            Some((count, last)) => last.elapsed() >= probe_pause(count, usual),
        };
        if due {
            let count = asked.map_or(0, |(count, _)| count);
            memory.probes.put(key, (count + 1, Instant::now()));
        }
        due
    }

    /// Notes that a task was found running: work takes time here.
    pub(crate) fn note_running(&self, upid: &Upid) {
        let mut memory = self.memory.lock();
        memory.is_slow = true;
        let key = upid.as_str().to_owned();
        if let Some(age) = memory.begun.get(&key).map(Instant::elapsed) {
            memory.ran.put(key, age);
        }
    }

    /// How a task stands by the shared list, at most 5 s old.
    pub(crate) async fn listed_task(&self, upid: &Upid) -> Result<Listed, Error> {
        let fetch = || async {
            let rows = self.client.tasks().await?;
            Ok(rows
                .into_iter()
                .map(|row| (row.upid.as_str().to_owned(), row))
                .collect())
        };
        let (at, tasks): (_, Arc<HashMap<String, TaskRow>>) = self.tasks.get(fetch).await?;
        let begun = self
            .memory
            .lock()
            .begun
            .get(&upid.as_str().to_owned())
            .copied();
        Ok(match tasks.get(upid.as_str()) {
            Some(row) => Listed::As(row.state()),
            // The nodes tell each other of their tasks every few seconds.
            None if begun.is_none_or(|begun| at > begun + TASKS_LISTED_IN) => Listed::Missing,
            None => Listed::NotYet,
        })
    }
}

/// What the shared list says of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Listed {
    /// This.
    As(TaskState),
    /// The list is too old to know it.
    NotYet,
    /// It is not in the list, and should be.
    Missing,
}

/// Pause before the next look at one task: a quarter of the usual time, at least half a second, and
/// twice as long each time.
fn probe_pause(count: u32, usual: Duration) -> Duration {
    let first = (usual / 4).max(Duration::from_millis(500));
    first
        .saturating_mul(1 << count.min(6))
        .min(Duration::from_secs(30))
}

impl Memory {
    /// How long tasks of a kind take: what was learned, else nothing at all, until the first task
    /// is seen running; from then on what a small cluster needs.
    fn usual(&self, kind: &str) -> Duration {
        match self.durations.get(kind) {
            Some(usual) => *usual,
            None if !self.is_slow => Duration::ZERO,
            None if matches!(kind, "qmclone" | "qmstart") => Duration::from_secs(3),
            None => Duration::from_millis(400),
        }
    }
}

/// A VM that was told to start or stop, and whether it was seen to have done so.
struct Switch {
    towards: Power,
    seen: bool,
}

/// Whose word on a VM's power counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PowerSource {
    /// The listing's.
    Listing,
    /// The VM's own, of a moment ago, which the listing does not show yet.
    Known(Power),
    /// The VM has to be asked.
    Ask,
}

/// Whether to look into a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GuestTurn {
    /// It passed its check before.
    Ready,
    /// Look now.
    Ask,
    /// Too early; it has not passed yet.
    NotYet,
}
