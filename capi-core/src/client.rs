//! A Kubernetes client that does not repeat requests behind the engine's back.

use kube::{Client, Config};

/// Makes a client as the engine needs it.
///
/// kube's own client repeats a request that was answered with 429, 503 or 504 up to fifteen times,
/// for minutes, creates included. The engine has a backoff per object, must know when a request
/// really left (R2), and looks at the world before it asks again, so that retry is switched off.
///
/// # Errors
///
/// Whatever [`Client::try_from`] reports: a malformed certificate, an unusable proxy.
pub fn client(mut config: Config) -> Result<Client, kube::Error> {
    config.default_retry = false;
    Client::try_from(config)
}
