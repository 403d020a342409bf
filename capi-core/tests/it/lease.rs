//! Leader election by a Lease: candidates with the in-memory API server and a paused clock.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use capi_core::lease::{Election, LeaseError, LeaseOptions, Term};
use capi_core::{Clock, Leadership};
use capi_testkit::apiserver::ApiServer;
use capi_testkit::faults::{Fate, Faults, Injected, Side};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, Client};
use parking_lot::Mutex;
use rstest::rstest;
use serde_json::json;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::world::seconds;

const NAMESPACE: &str = "default";
const NAME: &str = "provider";

/// The defaults: lease duration and retry period.
const TAKEOVER: Duration = Duration::from_secs(15 + 2);

fn epoch() -> jiff::Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

struct Stage {
    server: ApiServer,
    clock: Clock,
    /// Who says of himself that he leads, asked at every look.
    leaders: Arc<Mutex<BTreeMap<String, Leadership>>>,
}

/// A candidate whose work does nothing until it is stopped.
struct Candidate {
    stop: Option<oneshot::Sender<()>>,
    running: JoinHandle<Option<()>>,
    terms: Arc<Mutex<usize>>,
}

impl Candidate {
    /// As SIGKILL does.
    fn kill(&self) {
        self.running.abort();
    }

    async fn stop(mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        timeout(TAKEOVER, self.running).await.unwrap().unwrap();
    }
}

impl Stage {
    fn new() -> Self {
        Self {
            server: ApiServer::builder().epoch(epoch()).seed(1).build(),
            clock: Clock::tokio(epoch()),
            leaders: Arc::default(),
        }
    }

    fn options(&self, identity: &str) -> LeaseOptions {
        LeaseOptions {
            identity: identity.to_owned(),
            clock: self.clock.clone(),
            ..LeaseOptions::new(NAMESPACE, NAME)
        }
    }

    fn stand(&self, identity: &str) -> Candidate {
        self.stand_with(self.options(identity), self.server.client(identity))
    }

    fn stand_with(&self, options: LeaseOptions, client: Client) -> Candidate {
        let (stop, stopped) = oneshot::channel();
        let terms = Arc::new(Mutex::new(0));
        let (count, leaders) = (Arc::clone(&terms), Arc::clone(&self.leaders));
        let identity = options.identity.clone();
        let election = Election::new(client, options).unwrap();
        let stopped = async move {
            let _ = stopped.await;
        };
        let work = move |term: Term| {
            *count.lock() += 1;
            leaders.lock().insert(identity.clone(), term.leadership());
            term.stopped()
        };
        Candidate {
            stop: Some(stop),
            running: tokio::spawn(election.run(stopped, work)),
            terms,
        }
    }

    fn leads(&self, identity: &str) -> bool {
        self.leaders
            .lock()
            .get(identity)
            .is_some_and(Leadership::holds)
    }

    fn leaders(&self) -> Vec<String> {
        let all = self.leaders.lock();
        let held = all.iter().filter(|(_, leadership)| leadership.holds());
        held.map(|(identity, _)| identity.clone()).collect()
    }

    /// Waits until exactly these lead; at no look are there two. Returns how long it took.
    async fn until(&self, wanted: &[&str], limit: Duration) -> Duration {
        let begun = Instant::now();
        loop {
            let leaders = self.leaders();
            assert!(leaders.len() <= 1, "two lead: {leaders:?}");
            if leaders == wanted {
                return begun.elapsed();
            }
            assert!(
                begun.elapsed() < limit,
                "{leaders:?} leads, wanted {wanted:?}"
            );
            sleep(Duration::from_millis(50)).await;
        }
    }

    fn api(&self) -> Api<Lease> {
        Api::namespaced(self.server.client("script"), NAMESPACE)
    }

    async fn lease(&self) -> Lease {
        self.api().get(NAME).await.unwrap()
    }

    async fn holder(&self) -> String {
        let spec = self.lease().await.spec.unwrap();
        spec.holder_identity.unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_candidate_leads_at_once_and_stays() {
    let stage = Stage::new();
    let a = stage.stand("a");
    stage.until(&["a"], Duration::from_secs(1)).await;
    let _b = stage.stand("b");
    for _ in 0..200 {
        sleep(Duration::from_millis(333)).await;
        assert_eq!(stage.leaders(), ["a"]);
    }
    assert_eq!(*a.terms.lock(), 1);
    let spec = stage.lease().await.spec.unwrap();
    assert_eq!(spec.lease_transitions, Some(0));
    assert_eq!(spec.lease_duration_seconds, Some(15));
    // While it leads, a renewal is one request: a conditional write.
    let audit = stage.server.audit();
    let requests = audit.select(|r| r.actor == "a");
    let reads = requests.iter().filter(|r| r.is_read()).count();
    assert_eq!(reads, 1, "{requests:?}");
    assert!(requests.iter().all(|r| r.verb != "update"));
}

#[tokio::test(start_paused = true)]
async fn a_killed_holder_is_succeeded_within_the_lease_time_and_one_retry() {
    let stage = Stage::new();
    let a = stage.stand("a");
    stage.until(&["a"], Duration::from_secs(1)).await;
    let _b = stage.stand("b");
    seconds(60).await;
    let begun = Instant::now();
    a.kill();
    // Not before the lease has run out, whatever the time of day says.
    stage.until(&[], Duration::from_secs(11)).await;
    stage.until(&["b"], TAKEOVER).await;
    let took = begun.elapsed();
    assert!(took <= TAKEOVER, "{took:?}");
    assert!(
        took >= Duration::from_secs(13),
        "after {took:?} the holder might still have acted"
    );
    let transitions = stage.lease().await.spec.unwrap().lease_transitions;
    assert_eq!(transitions, Some(1));
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_stops_gives_the_lease_back() {
    let stage = Stage::new();
    let a = stage.stand("a");
    stage.until(&["a"], Duration::from_secs(1)).await;
    let _b = stage.stand("b");
    seconds(5).await;
    a.stop().await;
    assert_eq!(stage.holder().await, "");
    stage.until(&["b"], Duration::from_secs(3)).await;
}

#[tokio::test(start_paused = true)]
async fn the_lease_is_renewed_until_the_work_has_ended() {
    let stage = Stage::new();
    let options = stage.options("slow");
    let election = Election::new(stage.server.client("slow"), options).unwrap();
    let leadership = Arc::new(Mutex::new(None));
    let shown = Arc::clone(&leadership);
    let work = move |term: Term| {
        *shown.lock() = Some(term.leadership());
        async move {
            term.elected().await;
            term.stopped().await;
            // A pass that is under way, twice as long as the deadline.
            seconds(20).await;
            term.leadership().holds()
        }
    };
    let running = tokio::spawn(election.run(seconds(5), work));
    seconds(24).await;
    assert_eq!(stage.holder().await, "slow");
    let ended = timeout(TAKEOVER, running).await.unwrap().unwrap();
    assert_eq!(ended, Some(true), "it led to the end");
    assert_eq!(stage.holder().await, "");
    let leadership = leadership.lock().take().unwrap();
    assert!(!leadership.holds(), "what is left of the work must not act");
}

/// The clock of the process goes on while none of its code runs, as with SIGSTOP or suspend: nothing
/// is polled, and the first thing after the pause is the question before a mutation (R2).
#[tokio::test(start_paused = true)]
async fn a_paused_holder_may_not_act_when_it_goes_on() {
    let stage = Stage::new();
    let election = Election::new(stage.server.client("a"), stage.options("a")).unwrap();
    let shown = Arc::new(Mutex::new(None));
    let work = {
        let shown = Arc::clone(&shown);
        move |term: Term| {
            *shown.lock() = Some(term.leadership());
            std::future::pending::<()>()
        }
    };
    let mut running = Box::pin(election.run(std::future::pending(), work));
    assert!(
        timeout(Duration::from_secs(5), &mut running).await.is_err(),
        "it runs for ever"
    );
    let leadership = shown.lock().clone().unwrap();
    assert!(leadership.holds());
    // Not polled any more. Its last renewal was sent after 4 s.
    tokio::time::advance(Duration::from_millis(8_900)).await;
    assert!(leadership.holds());
    tokio::time::advance(Duration::from_millis(200)).await;
    assert!(!leadership.holds());
    let _b = stage.stand("b");
    stage.until(&["b"], TAKEOVER).await;
    // It goes on, and learns that it was succeeded before it can do anything.
    let looked = async {
        for _ in 0..100 {
            assert!(!leadership.holds());
            let now = shown.lock().clone().unwrap();
            assert!(!now.holds(), "the new term of the old holder leads");
            assert!(stage.leads("b"));
            sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::select! {
        _ = &mut running => panic!("the election ended"),
        () = looked => {}
    }
}

#[tokio::test(start_paused = true)]
async fn of_candidates_that_try_at_once_one_wins() {
    let stage = Stage::new();
    // Writes take a while, so that all have looked before the first of them lands.
    let slow = || (0..100).map(|n| (n, Fate::Delay(Duration::from_millis(50))));
    let all: Vec<_> = (0..5)
        .map(|n| {
            let name = format!("c{n}");
            let client = Faults::planned(slow()).kubernetes(stage.server.client(&name), &name);
            stage.stand_with(stage.options(&name), client)
        })
        .collect();
    for _ in 0..3 {
        seconds(5).await;
        let leaders = stage.leaders();
        assert_eq!(leaders.len(), 1);
        assert_eq!(stage.holder().await, leaders[0]);
        // All others see it become free at once. Clearing the Lease by hand would not do: its holder
        // may act until it looks again.
        let number = leaders[0].trim_start_matches('c');
        all[number.parse::<usize>().unwrap()].kill();
        let begun = Instant::now();
        while stage.leaders().is_empty() || begun.elapsed() < Duration::from_secs(1) {
            assert!(begun.elapsed() < TAKEOVER * 2, "nobody leads");
            sleep(Duration::from_millis(10)).await;
            let leaders = stage.leaders();
            assert!(leaders.len() <= 1, "two lead: {leaders:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn wall_clocks_do_not_matter() {
    let stage = Stage::new();
    let mut ahead = stage.options("ahead");
    ahead.clock = Clock::tokio("2027-06-01T00:00:00Z".parse().unwrap());
    let mut behind = stage.options("behind");
    behind.clock = Clock::tokio("2020-01-01T00:00:00Z".parse().unwrap());
    let behind = stage.stand_with(behind, stage.server.client("behind"));
    stage.until(&["behind"], Duration::from_secs(1)).await;
    let _ahead = stage.stand_with(ahead, stage.server.client("ahead"));
    for _ in 0..100 {
        sleep(Duration::from_millis(500)).await;
        assert_eq!(stage.leaders(), ["behind"]);
    }
    behind.kill();
    stage.until(&["ahead"], TAKEOVER).await;
}

/// Every request fails from some moment on.
#[tokio::test(start_paused = true)]
async fn a_holder_without_an_api_server_steps_down_before_anybody_can_follow() {
    let stage = Stage::new();
    let outage = (6..60).map(|n| (n, Fate::Answer(Injected::Lost, Side::Before)));
    let faults = Faults::planned(outage);
    let client = faults.kubernetes(stage.server.client("a"), "a");
    let a = stage.stand_with(stage.options("a"), client);
    stage.until(&["a"], Duration::from_secs(1)).await;
    let _b = stage.stand("b");
    // Six writes: one at 0 s and one each 2 s. The last renewal was sent at 10 s.
    seconds(19).await;
    assert_eq!(stage.leaders(), ["a"]);
    stage.until(&[], Duration::from_secs(2)).await;
    stage.until(&["b"], Duration::from_secs(8)).await;
    assert!(*a.terms.lock() >= 2, "the work was dropped and begun anew");
}

#[tokio::test(start_paused = true)]
async fn a_short_outage_loses_nothing() {
    let stage = Stage::new();
    let outage = (4..7).map(|n| (n, Fate::Answer(Injected::Failed(503), Side::Before)));
    let faults = Faults::planned(outage);
    let client = faults.kubernetes(stage.server.client("a"), "a");
    let a = stage.stand_with(stage.options("a"), client);
    stage.until(&["a"], Duration::from_secs(1)).await;
    for _ in 0..100 {
        sleep(Duration::from_millis(500)).await;
        assert_eq!(stage.leaders(), ["a"]);
    }
    assert_eq!(*a.terms.lock(), 1);
}

/// The renewal was accepted, its answer was lost: the next write is refused, the look after it shows
/// that the lease is still ours.
#[rstest]
#[case::the_acquisition(0)]
#[case::a_renewal(3)]
#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_found_out(#[case] number: usize) {
    let stage = Stage::new();
    let lost = Fate::Answer(Injected::Lost, Side::After);
    let faults = Faults::planned([(number, lost)]);
    let client = faults.kubernetes(stage.server.client("a"), "a");
    let a = stage.stand_with(stage.options("a"), client);
    stage.until(&["a"], Duration::from_secs(5)).await;
    for _ in 0..60 {
        sleep(Duration::from_millis(500)).await;
        assert_eq!(stage.leaders(), ["a"]);
    }
    assert_eq!(*a.terms.lock(), 1);
    let transitions = stage.lease().await.spec.unwrap().lease_transitions;
    assert_eq!(transitions, Some(0));
}

#[tokio::test(start_paused = true)]
async fn a_write_that_lands_late_does_not_bring_an_old_holder_back() {
    let stage = Stage::new();
    // The third renewal lies in a queue for 40 s, the others after it are lost.
    let late = Fate::Answer(Injected::Lost, Side::Late(Duration::from_secs(40)));
    let lost = (4..60).map(|n| (n, Fate::Answer(Injected::Lost, Side::Before)));
    let faults = Faults::planned([(3, late)].into_iter().chain(lost));
    let client = faults.kubernetes(stage.server.client("a"), "a");
    let _a = stage.stand_with(stage.options("a"), client);
    stage.until(&["a"], Duration::from_secs(1)).await;
    let _b = stage.stand("b");
    stage.until(&["b"], Duration::from_secs(25)).await;
    for _ in 0..200 {
        sleep(Duration::from_millis(500)).await;
        assert_eq!(stage.leaders(), ["b"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_deleted_by_hand_is_made_again_by_its_holder() {
    let stage = Stage::new();
    let a = stage.stand("a");
    stage.until(&["a"], Duration::from_secs(1)).await;
    let _b = stage.stand("b");
    for _ in 0..3 {
        sleep(Duration::from_millis(3_100)).await;
        let deleted = stage.api().delete(NAME, &DeleteParams::default()).await;
        deleted.unwrap();
        for _ in 0..40 {
            sleep(Duration::from_millis(200)).await;
            assert_eq!(stage.leaders(), ["a"]);
        }
        assert_eq!(stage.holder().await, "a");
    }
    assert_eq!(*a.terms.lock(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_lease_given_to_another_by_hand_is_let_go_at_once() {
    let stage = Stage::new();
    let a = stage.stand("a");
    stage.until(&["a"], Duration::from_secs(1)).await;
    let patch = json!({"spec": {"holderIdentity": "a maintenance job"}});
    stage
        .api()
        .patch(NAME, &PatchParams::default(), &Patch::Merge(patch))
        .await
        .unwrap();
    stage.until(&[], Duration::from_secs(5)).await;
    assert_eq!(*a.terms.lock(), 2);
    // The job never renews.
    stage.until(&["a"], TAKEOVER).await;
}

#[tokio::test(start_paused = true)]
async fn what_others_keep_in_the_lease_stays() {
    let stage = Stage::new();
    let a = stage.stand("a");
    stage.until(&["a"], Duration::from_secs(1)).await;
    let patch = json!({"metadata": {"labels": {"team": "x"}}, "spec": {"preferredHolder": "b"}});
    stage
        .api()
        .patch(NAME, &PatchParams::default(), &Patch::Merge(patch))
        .await
        .unwrap();
    seconds(10).await;
    assert_eq!(stage.leaders(), ["a"]);
    a.stop().await;
    let lease = stage.lease().await;
    assert_eq!(lease.metadata.labels.unwrap()["team"], "x");
    assert_eq!(lease.spec.unwrap().preferred_holder.as_deref(), Some("b"));
}

#[tokio::test(start_paused = true)]
async fn work_that_ends_by_itself_ends_the_election() {
    let stage = Stage::new();
    let election = Election::new(stage.server.client("a"), stage.options("a")).unwrap();
    let work = |term: Term| async move {
        term.elected().await;
        "done"
    };
    let ended = timeout(TAKEOVER, election.run(std::future::pending(), work)).await;
    assert_eq!(ended.unwrap(), Some("done"));
    assert_eq!(stage.holder().await, "");
}

#[tokio::test]
async fn candidates_have_names_of_their_own() {
    let one = LeaseOptions::new("ns", "lease");
    assert_ne!(one.identity, LeaseOptions::new("ns", "lease").identity);
    assert_eq!(
        [one.duration, one.renew_deadline, one.retry_period].map(|it| it.as_secs()),
        [15, 10, 2]
    );
}

#[rstest]
#[case::no_namespace("namespace", |o: &mut LeaseOptions| o.namespace.clear())]
#[case::no_name("name", |o: &mut LeaseOptions| o.name.clear())]
#[case::no_identity("identity", |o: &mut LeaseOptions| o.identity.clear())]
#[case::short("duration", |o: &mut LeaseOptions| o.duration = Duration::from_millis(900))]
#[case::long("duration", |o: &mut LeaseOptions| o.duration = Duration::from_secs(3_601))]
#[case::deadline("renew_deadline", |o: &mut LeaseOptions| o.renew_deadline = o.duration)]
#[case::retry("retry_period", |o: &mut LeaseOptions| o.retry_period = o.renew_deadline)]
#[case::no_pause("retry_period", |o: &mut LeaseOptions| o.retry_period = Duration::ZERO)]
#[tokio::test]
async fn settings_that_cannot_be_safe_are_refused(
    #[case] field: &str,
    #[case] spoil: fn(&mut LeaseOptions),
) {
    let stage = Stage::new();
    let mut options = stage.options("a");
    spoil(&mut options);
    let error = Election::new(stage.server.client("a"), options).unwrap_err();
    let LeaseError::Option { field: named, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(*named, field);
}
