//! A load balancer on the address of a control plane endpoint, in the place of kube-vip.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};

/// How long the address may still be held by what was there before.
const FREE_WITHIN: Duration = Duration::from_secs(10);
/// How long a backend may take to accept.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// Between two tries.
const RETRY: Duration = Duration::from_millis(100);
/// Connections at a time; controllers hold a few dozen.
const CONNECTIONS_MAX: usize = 1_024;

/// Passes connections on to API servers that are ready, by turns. It ends when dropped.
#[derive(Debug)]
pub(super) struct Balancer {
    backends: Arc<Backends>,
    task: AbortHandle,
}

#[derive(Debug, Default)]
struct Backends {
    all: Mutex<Vec<SocketAddr>>,
    turn: AtomicUsize,
}

impl Balancer {
    /// Listens, without backends.
    pub(super) async fn bind(address: SocketAddr) -> io::Result<Self> {
        let begun = Instant::now();
        let listener = loop {
            match TcpListener::bind(address).await {
                Ok(listener) => break listener,
                Err(error) if begun.elapsed() > FREE_WITHIN => return Err(error),
                Err(_) => sleep(RETRY).await,
            }
        };
        let backends = Arc::new(Backends::default());
        let task = tokio::spawn(serve(listener, Arc::clone(&backends))).abort_handle();
        Ok(Self { backends, task })
    }

    /// Adds an API server that is ready.
    pub(super) fn add(&self, backend: SocketAddr) {
        let mut all = self.backends.lock();
        if !all.contains(&backend) {
            all.push(backend);
        }
    }

    /// Takes one off.
    pub(super) fn remove(&self, backend: SocketAddr) {
        self.backends.lock().retain(|one| *one != backend);
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Backends {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<SocketAddr>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All, from the one whose turn it is.
    fn by_turns(&self) -> Vec<SocketAddr> {
        let mut all = self.lock().clone();
        if !all.is_empty() {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed) % all.len();
            all.rotate_left(turn);
        }
        all
    }
}

async fn serve(listener: TcpListener, backends: Arc<Backends>) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    // Dropped with this task, it ends the connections.
    let mut connections = JoinSet::new();
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((client, _)) => {
                let backends = Arc::clone(&backends);
                connections.spawn(async move {
                    pass(client, &backends).await;
                    drop(permit);
                });
            }
            // Out of descriptors, or the client is gone already.
            Err(_) => sleep(RETRY).await,
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn pass(mut client: TcpStream, backends: &Backends) {
    for backend in backends.by_turns() {
        let connected = timeout(CONNECT_WITHIN, TcpStream::connect(backend)).await;
        if let Ok(Ok(mut server)) = connected {
            // How it ended is between the two.
            let _ended = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn says(word: &'static str) -> SocketAddr {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = listener.local_addr().expect("bound");
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _written = stream.write_all(word.as_bytes()).await;
            }
        });
        address
    }

    async fn heard(at: SocketAddr) -> String {
        let mut text = String::new();
        let mut stream = TcpStream::connect(at).await.expect("somebody listens");
        // A balancer without backends closes at once.
        let _read = stream.read_to_string(&mut text).await;
        text
    }

    #[tokio::test]
    async fn backends_come_by_turns_and_dead_ones_are_passed_over() {
        let at = SocketAddr::from(([127, 0, 0, 1], 0));
        let free = TcpListener::bind(at).await.expect("a port");
        let at = free.local_addr().expect("bound");
        drop(free);
        let balancer = Balancer::bind(at).await.expect("a free port");
        assert_eq!(heard(at).await, "");
        let (a, b) = (says("a").await, says("b").await);
        balancer.add(a);
        balancer.add(b);
        let mut all = vec![heard(at).await, heard(at).await];
        all.sort();
        assert_eq!(all, ["a", "b"]);
        balancer.remove(a);
        // Nobody listens there.
        balancer.add(SocketAddr::from(([127, 0, 0, 1], 1)));
        assert_eq!(heard(at).await, "b");
        assert_eq!(heard(at).await, "b");
        drop(balancer);
        sleep(RETRY).await;
        TcpStream::connect(at).await.expect_err("it is gone");
    }
}
