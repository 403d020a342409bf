//! Logs of a program: text or JSON on standard error.

use std::io;

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Libraries that say much about connections and little about machines. Their levels can be raised
/// with `RUST_LOG` only; requests with their headers are among what they log. Requests that fail are
/// reported by those who made them, with what they were for.
const QUIET: &str = "hyper=warn,hyper_util=warn,h2=warn,rustls=warn,tower=warn,reqwest=warn,\
                     kube_client=warn,kube_client::client::builder=off,kube_runtime=warn";

/// The level that a number after `-v` stands for, by the habits of Kubernetes programs: up to 3 is
/// normal, 4 and 5 are for looking into trouble, more is everything.
fn level(verbosity: u8) -> &'static str {
    match verbosity {
        0..=3 => "info",
        4..=5 => "debug",
        _ => "trace",
    }
}

/// Begins to log; `RUST_LOG` has the last word. Does nothing if the process logs already.
pub(super) fn begin(format: Format, verbosity: u8) {
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new(format!("{},{QUIET}", level(verbosity))));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr);
    // An error means that somebody who embeds us logs already.
    let _ = match format {
        Format::Text => subscriber.with_ansi(false).try_init(),
        Format::Json => subscriber.json().flatten_event(true).try_init(),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_is_well_formed_at_every_verbosity() {
        for verbosity in 0..10 {
            let text = format!("{},{QUIET}", level(verbosity));
            assert!(EnvFilter::try_new(&text).is_ok(), "{text}");
        }
        assert_eq!([level(0), level(4), level(9)], ["info", "debug", "trace"]);
    }
}
