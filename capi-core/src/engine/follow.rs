//! Lets sessions follow their backends, each for as long as it lives.
//!
//! # Guarantees
//!
//! One future per live session, of which there is a bounded number; a session that is replaced,
//! refused, idle or crowded out takes its future with it, and all end with the engine. A future that
//! ends or panics is begun again, with a growing pause.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use capi_contract::{Connect, Identity, Wakes};
use futures::future::{AbortHandle, FutureExt, abortable};
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::time::sleep;

use super::backoff::growth;
use super::session::Sessions;

/// How long a session lives that nobody asks for. Settled things ask every few seconds, and the
/// longest wait of the contract's gates is 10 minutes.
const IDLE_MAX: Duration = Duration::from_secs(900);
/// How often idle sessions are looked for.
const IDLE_LOOK: Duration = Duration::from_secs(60);
/// Pauses before a following that ended is begun again.
const AGAIN_FIRST: Duration = Duration::from_millis(500);
const AGAIN_MAX: Duration = Duration::from_secs(30);
/// A following that lasted this long had begun well: the pauses start over.
const GOOD_AFTER: Duration = Duration::from_secs(60);

/// A session that is followed, and how to end that.
type Followed<S> = (Arc<S>, AbortHandle);

impl<C: Connect> Sessions<C> {
    /// Follows every session that there is, for ever.
    pub(crate) async fn follow(&self, wakes: &Wakes) {
        let mut running = FuturesUnordered::new();
        let mut known: HashMap<Option<Identity>, Followed<C::Session>> = HashMap::new();
        loop {
            let live = self.live();
            known.retain(|identity, (session, handle)| {
                let stays = live
                    .get(identity)
                    .is_some_and(|now| Arc::ptr_eq(now, session));
                if !stays {
                    handle.abort();
                }
                stays
            });
            for (identity, session) in live {
                if known.contains_key(&identity) {
                    continue;
                }
                let following = self.follow_one(Arc::clone(&session), wakes);
                let (following, handle) = abortable(following);
                running.push(following.boxed());
                known.insert(identity, (session, handle));
            }
            tokio::select! {
                () = self.changed() => {}
                Some(_) = running.next(), if !running.is_empty() => {}
                () = sleep(IDLE_LOOK), if !known.is_empty() => self.forget_idle(IDLE_MAX),
            }
        }
    }

    async fn follow_one(&self, session: Arc<C::Session>, wakes: &Wakes) {
        let mut failures = 0;
        loop {
            let begun = self.now();
            let following = self.connector().follow(&session, wakes);
            match AssertUnwindSafe(following).catch_unwind().await {
                Ok(()) => tracing::warn!("following the backend has ended; it is begun again"),
                Err(_) => tracing::error!("following the backend panicked; it is begun again"),
            }
            let lasted = self.now().saturating_sub(begun);
            failures = if lasted < GOOD_AFTER { failures + 1 } else { 1 };
            sleep(growth(AGAIN_FIRST, AGAIN_MAX, failures)).await;
        }
    }
}
