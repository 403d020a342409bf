//! One watch per kind and namespace, kept up for as long as the session lives.

use std::pin::pin;
use std::time::Duration;

use capi_contract::view::CLUSTER_NAME_LABEL;
use capi_contract::{Mark, ObjectName};
use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource};

use super::cache::Cache;
use super::client::Namespaced;
use crate::api::{MACHINE_NAME_LABEL, MACHINE_NAMESPACE_LABEL, MARK_ANNOTATION};

/// Delays between tries of a broken watch: a server that restarts is back within seconds, and one that
/// is gone must not be hammered.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// How often a kind is asked for that the server does not know: it appears when somebody installs it.
const UNSERVED_RETRY: Duration = Duration::from_secs(600);

/// What is watched: everything that was made for a machine, and nothing of anybody else.
pub(crate) const OF_MACHINES: &str = MACHINE_NAME_LABEL;

/// What is watched for clusters: what belongs to any, since the names of Services are their users'.
pub(crate) const OF_CLUSTERS: &str = CLUSTER_NAME_LABEL;

/// The mark that an object bears.
pub(crate) fn mark_in(meta: &ObjectMeta) -> Option<Mark> {
    let annotations = meta.annotations.as_ref()?;
    annotations.get(MARK_ANNOTATION)?.parse().ok()
}

/// The KubevirtCluster that an object was made for.
pub(crate) fn cluster_of<K: Resource>(object: &K) -> Option<ObjectName> {
    mark_in(object.meta()).map(|mark| mark.object)
}

/// The KubevirtMachine that an object was made for.
pub(crate) fn machine_of<K: Resource>(object: &K) -> Option<ObjectName> {
    let labels = object.meta().labels.as_ref()?;
    let (namespace, name) = (
        labels.get(MACHINE_NAMESPACE_LABEL)?,
        labels.get(MACHINE_NAME_LABEL)?,
    );
    Some(ObjectName::new(namespace, name))
}

/// While it lives, a namespace of a cache is watched; afterwards what is known proves nothing.
struct Upkeep<'a, K: Resource> {
    cache: &'a Cache<K>,
    namespace: &'a str,
}

impl<K: Resource> Drop for Upkeep<'_, K> {
    fn drop(&mut self) {
        self.cache.broke(self.namespace);
    }
}

/// Keeps one kind in one namespace up to date for ever, and tells of each change.
pub(crate) async fn follow<K: Namespaced>(
    client: &Client,
    namespace: &str,
    selector: &str,
    cache: &Cache<K>,
    changed: impl Fn(&K),
) {
    let upkeep = Upkeep { cache, namespace };
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    let config = watcher::Config::default().labels(selector);
    let mut failures = 0;
    loop {
        let mut stream = pin!(watcher(api.clone(), config.clone()));
        while let Some(item) = stream.next().await {
            match item {
                Ok(event) => {
                    // The beginning of a list is not yet an answer.
                    if !matches!(event, Event::Init) {
                        failures = 0;
                    }
                    take(event, &upkeep, &changed);
                }
                Err(error) => {
                    cache.broke(namespace);
                    failures += 1;
                    let pause = pause(&error, failures);
                    report::<K>(namespace, &error, failures == 1);
                    tokio::time::sleep(pause).await;
                    // A new list says when what is known is current again; a watch that goes on
                    // where it broke off says so only with its next event.
                    break;
                }
            }
        }
    }
}

fn take<K: Resource>(event: Event<K>, to: &Upkeep<'_, K>, changed: &impl Fn(&K)) {
    let Upkeep { cache, namespace } = to;
    match event {
        Event::Init => cache.begin(namespace),
        Event::InitApply(object) => cache.listed(namespace, object),
        Event::InitDone => {
            for object in cache.done(namespace) {
                changed(&object);
            }
        }
        Event::Apply(object) => changed(&cache.applied(namespace, object)),
        Event::Delete(object) => changed(&cache.deleted(namespace, object)),
    }
}

/// HTTP code of a watch that was refused.
fn code(error: &watcher::Error) -> Option<u16> {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => Some(status.code),
        _ => None,
    }
}

fn pause(error: &watcher::Error, failures: u32) -> Duration {
    if code(error) == Some(404) {
        return UNSERVED_RETRY;
    }
    let doublings = failures.saturating_sub(1).min(8);
    RETRY_MAX.min(RETRY_FIRST * 2_u32.pow(doublings))
}

fn report<K: Resource<DynamicType = ()>>(namespace: &str, error: &watcher::Error, is_first: bool) {
    let kind = K::kind(&());
    if is_first {
        tracing::warn!(%kind, namespace, %error, "watch of the infra cluster failed; it is retried");
    } else {
        tracing::debug!(%kind, namespace, %error, "watch of the infra cluster failed again");
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn a_broken_watch_is_tried_again_at_once_and_then_seldom() {
        let broken = watcher::Error::NoResourceVersion;
        let pauses = [1, 2, 3, 7, 8, u32::MAX].map(|failures| pause(&broken, failures));
        let millis = pauses.map(|pause| pause.as_millis());
        assert_eq!(millis, [500, 1_000, 2_000, 30_000, 30_000, 30_000]);
        let status = Status::failure("the server could not find it", "NotFound").with_code(404);
        let refusal = kube::Error::Api(Box::new(status));
        let unserved = watcher::Error::InitialListFailed(refusal);
        assert_eq!(pause(&unserved, 1), UNSERVED_RETRY);
    }
}
