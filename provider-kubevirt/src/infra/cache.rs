//! What is known of one kind in the infra cluster without asking: what a watch brought, and for a
//! moment what our own requests answered.
//!
//! What is not in it may be there all the same (R5); and every change that is decided on it names the
//! version it is meant for, so that the server refuses one that was decided on an old view.
//!
//! One end is known without asking: that of an object, known by its uid, whose deletion this process
//! has asked for and which the watch then told the end of.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use kube::{Resource, ResourceExt};
use parking_lot::RwLock;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::client::Version;

/// How long the answer to a request of our own stands for the object, until the watch brings it. A
/// watch is behind by milliseconds; after this time the object is asked for.
const ANSWER_FOR: Duration = Duration::from_secs(2);

/// How many answers are kept: more than machines that one infra cluster can have in flight.
const ANSWERS_MAX: usize = 10_000;

/// How long the end of an object is remembered: its machine is woken by it and looks at once.
const ENDED_FOR: Duration = Duration::from_secs(10);

/// How many deletions are remembered until their end; of more than these, objects are asked for.
const ENDINGS_MAX: usize = 10_000;

/// Namespace and name.
type Key = (String, String);

/// Objects of one kind.
#[derive(Debug)]
pub struct Cache<K> {
    inner: RwLock<Inner<K>>,
    /// Told when a namespace is watched in another way than before.
    news: Notify,
}

#[derive(Debug)]
struct Inner<K> {
    spaces: HashMap<String, Space<K>>,
    answers: HashMap<Key, (Instant, Answer<K>)>,
    /// The objects whose deletion was asked for.
    endings: HashMap<Key, Ending<K>>,
    /// When what has aged was last thrown away.
    swept: Instant,
}

/// An object whose deletion was asked for.
#[derive(Debug)]
struct Ending<K> {
    uid: String,
    /// The moment of its end, and what it was.
    ended: Option<(Instant, Arc<K>)>,
}

impl<K> Ending<K> {
    fn is_over(&self) -> bool {
        let ended = self.ended.as_ref();
        ended.is_some_and(|(at, _)| at.elapsed() >= ENDED_FOR)
    }
}

/// What a request of our own was answered with.
#[derive(Debug)]
enum Answer<K> {
    /// The object.
    Is(Arc<K>),
    /// The object of this uid is gone.
    Gone(String),
}

/// Objects of one namespace.
#[derive(Debug)]
struct Space<K> {
    objects: HashMap<String, Arc<K>>,
    /// What a list that is under way has brought.
    listing: Option<HashMap<String, Arc<K>>>,
    watched: Watched,
    /// Whether somebody could not wait for the first list, and has asked for objects one by one.
    has_asked: bool,
    /// The newest version that the watch has brought: of what is older, it knows more than an answer.
    newest: u64,
}

/// How a namespace is watched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Watched {
    /// Not at all, or no list has come to its end yet.
    #[default]
    No,
    /// What is known is current, but for the watch's delay.
    Live,
    /// The watch broke off and has not come back.
    Broken,
}

impl<K> Default for Space<K> {
    fn default() -> Self {
        Self {
            objects: HashMap::new(),
            listing: None,
            watched: Watched::No,
            has_asked: false,
            newest: 0,
        }
    }
}

impl<K> Default for Cache<K> {
    fn default() -> Self {
        let inner = Inner {
            spaces: HashMap::new(),
            answers: HashMap::new(),
            endings: HashMap::new(),
            swept: Instant::now(),
        };
        Self {
            inner: RwLock::new(inner),
            news: Notify::new(),
        }
    }
}

impl<K> Inner<K> {
    /// Throws away what has aged, now and then: what is called for each object must not walk over all
    /// of them.
    fn sweep(&mut self) {
        if self.swept.elapsed() < ANSWER_FOR {
            return;
        }
        self.swept = Instant::now();
        self.endings.retain(|_, ending| !ending.is_over());
        self.answers.retain(|_, (at, _)| at.elapsed() < ANSWER_FOR);
    }
}

impl<K: Resource> Inner<K> {
    /// Forgets the deletion of what was under a name before, where something else is there now.
    fn unless_another(&mut self, key: &Key, object: &K) {
        if let Some(ending) = self.endings.get(key)
            && Some(&ending.uid) != object.meta().uid.as_ref()
        {
            self.endings.remove(key);
        }
    }
}

/// Versions are numbers in every Kubernetes API server, and comparable by its API conventions since
/// 1.35; one that is none is older than all.
fn version<K: Resource>(object: &K) -> u64 {
    let version = object.meta().resource_version.as_deref();
    version.and_then(|text| text.parse().ok()).unwrap_or(0)
}

impl<K: Resource> Cache<K> {
    /// The newest state that is known without asking; `None` says nothing about absence.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        let inner = self.inner.read();
        let space = inner.spaces.get(namespace);
        let live = space.filter(|space| space.watched == Watched::Live);
        let known = live.and_then(|space| space.objects.get(name)).cloned();
        let key = (namespace.to_owned(), name.to_owned());
        let answer = inner.answers.get(&key);
        let Some((_, answer)) = answer.filter(|(at, _)| at.elapsed() < ANSWER_FOR) else {
            return known;
        };
        match answer {
            Answer::Gone(uid) => known.filter(|one| one.meta().uid.as_ref() != Some(uid)),
            Answer::Is(answered) => {
                let at = version(answered.as_ref());
                let is_newer = match &known {
                    Some(known) => at > version(known.as_ref()),
                    // Of what the watch has gone past, it knows more: it is gone.
                    None => live.is_none_or(|space| at > space.newest),
                };
                if is_newer {
                    Some(Arc::clone(answered))
                } else {
                    known
                }
            }
        }
    }

    /// How a namespace is watched.
    pub fn watched(&self, namespace: &str) -> Watched {
        let inner = self.inner.read();
        let space = inner.spaces.get(namespace);
        space.map_or(Watched::No, |space| space.watched)
    }

    /// Waits for the first list of a namespace, no longer than until this moment.
    pub(crate) async fn first_list(&self, namespace: &str, until: Instant) {
        loop {
            let mut news = pin!(self.news.notified());
            news.as_mut().enable();
            if self.watched(namespace) != Watched::No {
                return;
            }
            if timeout_at(until, news).await.is_err() {
                let mut inner = self.inner.write();
                let space = inner.spaces.entry(namespace.to_owned()).or_default();
                space.has_asked = true;
                return;
            }
        }
    }

    /// What was there under this name until a moment ago, if this process has asked for its deletion,
    /// the watch has told of its end, and nothing has come in its place since.
    pub fn ended(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        let inner = self.inner.read();
        let space = inner.spaces.get(namespace)?;
        if space.watched != Watched::Live || space.objects.contains_key(name) {
            return None;
        }
        let ending = inner
            .endings
            .get(&(namespace.to_owned(), name.to_owned()))?;
        let (at, object) = ending.ended.as_ref()?;
        (at.elapsed() < ENDED_FOR).then(|| Arc::clone(object))
    }

    /// Notes that the deletion of an object was asked for, by itself or by that of its owner.
    pub(crate) fn deleting(&self, namespace: &str, name: &str, uid: &str) {
        let key = (namespace.to_owned(), name.to_owned());
        let mut inner = self.inner.write();
        inner.sweep();
        if inner.endings.len() < ENDINGS_MAX {
            let uid = uid.to_owned();
            inner.endings.insert(key, Ending { uid, ended: None });
        }
    }

    /// Notes what a request of our own was answered with.
    pub fn answered(&self, object: K) -> Arc<K> {
        let object = Arc::new(object);
        let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
        let key = (namespace.clone(), name.clone());
        self.inner.write().unless_another(&key, object.as_ref());
        self.note((namespace, name), Answer::Is(Arc::clone(&object)));
        object
    }

    /// Notes how a deletion of our own was answered: with what is left for now, or with nothing.
    pub fn removed(&self, namespace: &str, name: &str, version: &Version, left: Option<K>) {
        match left {
            Some(object) => {
                self.answered(object);
            }
            None => self.gone(namespace, name, &version.uid),
        }
    }

    fn gone(&self, namespace: &str, name: &str, uid: &str) {
        let key = (namespace.to_owned(), name.to_owned());
        self.note(key, Answer::Gone(uid.to_owned()));
    }

    fn note(&self, key: Key, answer: Answer<K>) {
        let mut inner = self.inner.write();
        inner.sweep();
        if inner.answers.len() < ANSWERS_MAX {
            inner.answers.insert(key, (Instant::now(), answer));
        }
    }

    /// Forgets what a request was answered with: the object was found gone.
    pub fn forget(&self, namespace: &str, name: &str) {
        let key = (namespace.to_owned(), name.to_owned());
        self.inner.write().answers.remove(&key);
    }

    /// A list begins.
    pub(crate) fn begin(&self, namespace: &str) {
        let mut inner = self.inner.write();
        let space = inner.spaces.entry(namespace.to_owned()).or_default();
        space.listing = Some(HashMap::new());
    }

    /// A list has brought an object.
    pub(crate) fn listed(&self, namespace: &str, object: K) {
        let mut inner = self.inner.write();
        let space = inner.spaces.entry(namespace.to_owned()).or_default();
        space.newest = space.newest.max(version(&object));
        let listing = space.listing.get_or_insert_default();
        listing.insert(object.name_any(), Arc::new(object));
    }

    /// A list has come to its end. What has changed by it, in the form before for what is gone. The
    /// first one changes nothing: whoever looks has waited for it, or else all of it is news.
    pub(crate) fn done(&self, namespace: &str) -> Vec<Arc<K>> {
        let mut inner = self.inner.write();
        let space = inner.spaces.entry(namespace.to_owned()).or_default();
        let is_first = space.watched == Watched::No && !space.has_asked;
        space.watched = Watched::Live;
        self.news.notify_waiters();
        let Some(listing) = space.listing.take() else {
            return Vec::new();
        };
        let before = std::mem::replace(&mut space.objects, listing);
        let after = &space.objects;
        let gone = before.iter().filter(|(name, _)| !after.contains_key(*name));
        let changed = after.iter().filter(|(name, object)| {
            let old = before.get(*name);
            old.is_none_or(|old| version(old.as_ref()) != version(object.as_ref()))
        });
        if is_first {
            return Vec::new();
        }
        let all = gone.chain(changed);
        all.map(|(_, object)| Arc::clone(object)).collect()
    }

    /// The watch has brought an object.
    pub(crate) fn applied(&self, namespace: &str, object: K) -> Arc<K> {
        let object = Arc::new(object);
        let mut inner = self.inner.write();
        inner.sweep();
        let space = inner.spaces.entry(namespace.to_owned()).or_default();
        space.watched = Watched::Live;
        space.newest = space.newest.max(version(object.as_ref()));
        space.objects.insert(object.name_any(), Arc::clone(&object));
        let key = (namespace.to_owned(), object.name_any());
        inner.unless_another(&key, object.as_ref());
        object
    }

    /// The watch has told of the end of an object.
    pub(crate) fn deleted(&self, namespace: &str, object: K) -> Arc<K> {
        let object = Arc::new(object);
        let mut inner = self.inner.write();
        let space = inner.spaces.entry(namespace.to_owned()).or_default();
        space.watched = Watched::Live;
        space.newest = space.newest.max(version(object.as_ref()));
        space.objects.remove(&object.name_any());
        let key = (namespace.to_owned(), object.name_any());
        if let Some(ending) = inner.endings.get_mut(&key)
            && Some(&ending.uid) == object.meta().uid.as_ref()
        {
            ending.ended = Some((Instant::now(), Arc::clone(&object)));
        }
        object
    }

    /// The watch has broken off.
    pub(crate) fn broke(&self, namespace: &str) {
        let mut inner = self.inner.write();
        let space = inner.spaces.entry(namespace.to_owned()).or_default();
        space.watched = Watched::Broken;
        // While nobody watches, another may come under a name whose end was told.
        inner
            .endings
            .retain(|(at, _), ending| at != namespace || ending.ended.is_none());
        self.news.notify_waiters();
    }

    /// How many objects are kept.
    pub fn len(&self) -> usize {
        let inner = self.inner.read();
        inner.spaces.values().map(|space| space.objects.len()).sum()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::infra::VmView;

    fn vm(name: &str, version: u64) -> VmView {
        let meta = json!({
            "name": name, "namespace": "ns", "uid": name, "resourceVersion": version.to_string(),
        });
        serde_json::from_value(json!({"metadata": meta})).unwrap()
    }

    fn live(objects: &[VmView]) -> Cache<VmView> {
        let cache = Cache::default();
        cache.begin("ns");
        objects
            .iter()
            .for_each(|object| cache.listed("ns", object.clone()));
        cache.done("ns");
        cache
    }

    fn seen(cache: &Cache<VmView>, name: &str) -> Option<u64> {
        cache.get("ns", name).map(|vm| version(vm.as_ref()))
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_stands_for_the_object_until_the_watch_has_gone_past_it() {
        let cache = live(&[vm("a", 5)]);
        cache.answered(vm("a", 7));
        assert_eq!(seen(&cache, "a"), Some(7));
        tokio::time::advance(ANSWER_FOR).await;
        assert_eq!(seen(&cache, "a"), Some(5), "an answer ages");
        cache.answered(vm("a", 4));
        assert_eq!(seen(&cache, "a"), Some(5), "the watch is past it");
        cache.answered(vm("a", 7));
        cache.deleted("ns", vm("a", 8));
        assert_eq!(seen(&cache, "a"), None, "the watch knows of its end");
        cache.answered(vm("b", 9));
        cache.applied("ns", vm("c", 10));
        assert_eq!(seen(&cache, "b"), None, "the watch is past it, without b");
        cache.gone("ns", "c", "c");
        assert_eq!(
            seen(&cache, "c"),
            None,
            "the watch does not know of its end yet"
        );
        cache.gone("ns", "c", "another");
        assert_eq!(seen(&cache, "c"), Some(10));
    }

    #[tokio::test(start_paused = true)]
    async fn a_broken_watch_proves_nothing() {
        let cache = live(&[vm("a", 5)]);
        assert_eq!(cache.watched("ns"), Watched::Live);
        cache.broke("ns");
        assert_eq!(
            (seen(&cache, "a"), cache.watched("ns")),
            (None, Watched::Broken)
        );
        assert_eq!(cache.watched("other"), Watched::No);
    }

    fn names(changed: &[Arc<VmView>]) -> Vec<String> {
        let mut names: Vec<_> = changed.iter().map(|vm| vm.name_any()).collect();
        names.sort();
        names
    }

    /// After a restart nothing has changed, and whoever looks has waited for the list.
    #[tokio::test(start_paused = true)]
    async fn the_first_list_changes_nothing_for_those_who_have_waited_for_it() {
        let listed = |cache: &Cache<VmView>| {
            cache.begin("ns");
            cache.listed("ns", vm("a", 1));
            names(&cache.done("ns"))
        };
        assert_eq!(listed(&Cache::default()), [""; 0]);
        let impatient = Cache::default();
        impatient.first_list("ns", Instant::now()).await;
        assert_eq!(listed(&impatient), ["a"], "it was asked for meanwhile");
        let broken = Cache::default();
        broken.broke("ns");
        broken.first_list("ns", Instant::now()).await;
        assert_eq!(listed(&broken), ["a"], "nobody waits for a broken watch");
    }

    #[tokio::test(start_paused = true)]
    async fn r5_only_an_end_that_was_asked_for_and_told_is_known_without_asking() {
        let cache = live(&[vm("a", 5), vm("b", 6)]);
        let ended = |name| cache.ended("ns", name).is_some();
        cache.deleted("ns", vm("b", 7));
        assert!(!ended("b"), "nobody has asked for it");
        cache.deleting("ns", "a", "a");
        assert!(!ended("a"), "it is still there");
        cache.deleted("ns", vm("a", 8));
        assert!(ended("a"));
        tokio::time::advance(ENDED_FOR).await;
        assert!(!ended("a"), "by now anything may have come");
    }

    #[tokio::test(start_paused = true)]
    async fn r5_an_end_is_forgotten_where_another_may_be_there() {
        let ended = || {
            let cache = live(&[vm("a", 5)]);
            cache.deleting("ns", "a", "a");
            cache.deleted("ns", vm("a", 6));
            assert!(cache.ended("ns", "a").is_some());
            cache
        };
        let mut another = vm("a", 7);
        another.metadata.uid = Some("another".into());
        let (answered, applied, broken, stranger) = (ended(), ended(), ended(), live(&[]));
        let listed = ended();
        listed.begin("ns");
        listed.listed("ns", another.clone());
        listed.done("ns");
        assert!(listed.ended("ns", "a").is_none());
        answered.answered(another.clone());
        assert!(answered.ended("ns", "a").is_none());
        applied.applied("ns", another.clone());
        applied.deleted("ns", another.clone());
        assert!(applied.ended("ns", "a").is_none(), "its end was not ours");
        broken.broke("ns");
        broken.begin("ns");
        broken.done("ns");
        assert!(broken.ended("ns", "a").is_none());
        stranger.deleting("ns", "a", "a");
        stranger.deleted("ns", another);
        assert!(stranger.ended("ns", "a").is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_aged_does_not_stay_in_memory() {
        let cache = live(&[vm("a", 1), vm("b", 2)]);
        cache.answered(vm("b", 3));
        cache.deleting("ns", "a", "a");
        cache.deleted("ns", vm("a", 4));
        let kept = || {
            let inner = cache.inner.read();
            (inner.answers.len(), inner.endings.len())
        };
        assert_eq!(kept(), (1, 1));
        tokio::time::advance(ENDED_FOR).await;
        cache.applied("ns", vm("b", 5));
        assert_eq!(kept(), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_list_tells_what_changed_and_what_is_gone() {
        let cache = live(&[vm("a", 1), vm("b", 2), vm("c", 3)]);
        cache.begin("ns");
        assert_eq!(
            seen(&cache, "c"),
            Some(3),
            "the old list counts until the new one is whole"
        );
        for object in [vm("a", 1), vm("b", 5), vm("d", 6)] {
            cache.listed("ns", object);
        }
        assert_eq!(names(&cache.done("ns")), ["b", "c", "d"]);
        assert_eq!(cache.len(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_counts_where_nobody_watches_until_a_list_has_gone_past_it() {
        let cache = Cache::default();
        cache.answered(vm("a", 3));
        assert_eq!(seen(&cache, "a"), Some(3));
        cache.forget("ns", "a");
        assert_eq!(seen(&cache, "a"), None, "it was found gone");
        cache.answered(vm("a", 3));
        cache.begin("ns");
        cache.listed("ns", vm("b", 5));
        cache.done("ns");
        assert_eq!(seen(&cache, "a"), None, "the list is newer, and without a");
    }

    #[tokio::test(start_paused = true)]
    async fn a_deletion_of_our_own_is_known_before_the_watch_tells_of_it() {
        let cache = live(&[vm("a", 5), vm("b", 6)]);
        let version = |vm: &VmView| Version::identity(&vm.metadata);
        cache.removed("ns", "a", &version(&vm("a", 5)), Some(vm("a", 7)));
        assert_eq!(seen(&cache, "a"), Some(7), "something holds it");
        cache.removed("ns", "b", &version(&vm("b", 6)), None);
        assert_eq!(seen(&cache, "b"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn r5_a_watch_that_broke_before_an_end_may_tell_of_it_later() {
        let cache = live(&[vm("a", 5), vm("b", 6)]);
        cache.deleting("ns", "a", "a");
        cache.deleting("ns", "b", "b");
        cache.deleted("ns", vm("b", 7));
        cache.broke("other");
        assert!(cache.ended("ns", "b").is_some(), "here it is watched");
        cache.broke("ns");
        assert!(cache.ended("ns", "b").is_none());
        cache.begin("ns");
        cache.listed("ns", vm("a", 5));
        cache.done("ns");
        cache.deleted("ns", vm("a", 8));
        assert!(cache.ended("ns", "a").is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_that_is_begun_again_forgets_what_it_had_brought() {
        let cache = live(&[vm("a", 5)]);
        cache.begin("ns");
        cache.listed("ns", vm("a", 5));
        cache.begin("ns");
        assert_eq!(names(&cache.done("ns")), ["a"], "it is gone meanwhile");
        assert!(cache.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_for_a_first_list_is_told_of_it_and_of_a_watch_that_broke() {
        let brought = |cache: &Cache<VmView>| drop(cache.done("ns"));
        let broke = |cache: &Cache<VmView>| cache.broke("ns");
        for end in [&brought as &dyn Fn(&Cache<VmView>), &broke] {
            let (cache, begun) = (Cache::default(), Instant::now());
            let until = begun + Duration::from_secs(60);
            let ends = async {
                tokio::time::sleep(Duration::from_secs(1)).await;
                end(&cache);
            };
            tokio::join!(cache.first_list("ns", until), ends);
            assert_eq!(begun.elapsed(), Duration::from_secs(1));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_has_a_limit_and_room_comes_back_with_time() {
        let cache = live(&[]);
        let all: Vec<_> = (0..ANSWERS_MAX).map(|n| n.to_string()).collect();
        for name in &all {
            cache.answered(vm(name, 7));
        }
        cache.answered(vm("more", 7));
        assert_eq!(seen(&cache, "more"), None);
        tokio::time::advance(ANSWER_FOR).await;
        cache.answered(vm("more", 7));
        assert_eq!(seen(&cache, "more"), Some(7));

        let end = |name: &str| {
            cache.deleting("ns", name, name);
            cache.deleted("ns", vm(name, 8));
            cache.ended("ns", name).is_some()
        };
        assert_eq!(ENDINGS_MAX, all.len());
        assert!(all.iter().all(|name| end(name)));
        assert!(!end("more"));
        tokio::time::advance(ENDED_FOR).await;
        assert!(end("more"));
    }
}
