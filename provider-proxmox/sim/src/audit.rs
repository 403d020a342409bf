//! What was asked of the cluster, by whom, and what came of it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use http::{Method, StatusCode};

/// How many requests are kept one by one, some 100 MB; counters go on beyond that.
const RECORDS_MAX: usize = 500_000;

/// One request and its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Record {
    /// When it came, since the platform's start.
    pub at: Duration,
    /// Its method.
    pub method: Method,
    /// The route, such as `/nodes/{node}/qemu/{vmid}/config`; `-` for none that exists.
    pub route: &'static str,
    /// The path without `/api2/json` and without the query.
    pub path: String,
    /// The machine that it names: by its VMID in path or query, in a clone's new id, in a task's
    /// id, or at the end of the name of an uploaded file.
    pub vmid: Option<u32>,
    /// The token's id, or `-`.
    pub token: String,
    /// The status of the answer.
    pub status: StatusCode,
}

impl Record {
    /// Whether it may have changed something.
    pub fn is_mutation(&self) -> bool {
        self.method != Method::GET && !self.route.ends_with("/agent/ping")
    }
}

/// Something that belongs to somebody else was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Touched {
    /// What: a VMID or a volume id.
    pub what: String,
    /// The method of the call.
    pub method: Method,
    /// Its path.
    pub path: String,
    /// The token that made it.
    pub token: String,
}

/// The book of requests.
#[derive(Clone, Debug, Default)]
pub(crate) struct Audit {
    records: VecDeque<Record>,
    by_route: BTreeMap<(String, &'static str), u64>,
    by_vmid: BTreeMap<u32, u64>,
    total: u64,
    pub(crate) touched: Vec<Touched>,
}

impl Audit {
    pub(crate) fn add(&mut self, record: Record) {
        self.total += 1;
        *self
            .by_route
            .entry((record.method.to_string(), record.route))
            .or_default() += 1;
        if let Some(vmid) = record.vmid {
            *self.by_vmid.entry(vmid).or_default() += 1;
        }
        if self.records.len() == RECORDS_MAX {
            self.records.pop_front();
        }
        self.records.push_back(record);
    }

    pub(crate) fn clear(&mut self) {
        *self = Self {
            touched: std::mem::take(&mut self.touched),
            ..Self::default()
        };
    }

    pub(crate) fn report(&self) -> Report {
        Report {
            records: self.records.iter().cloned().collect(),
            by_route: self.by_route.clone(),
            by_vmid: self.by_vmid.clone(),
            total: self.total,
        }
    }
}

/// A copy of the book of requests at one moment.
#[derive(Clone, Debug)]
pub struct Report {
    records: Vec<Record>,
    by_route: BTreeMap<(String, &'static str), u64>,
    by_vmid: BTreeMap<u32, u64>,
    total: u64,
}

impl Report {
    /// The latest requests, oldest first; at most 500,000.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// How many requests there were in all.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// How many requests a route had: method, route, count.
    pub fn routes(&self) -> impl Iterator<Item = (&str, &'static str, u64)> {
        self.by_route
            .iter()
            .map(|((method, route), count)| (method.as_str(), *route, *count))
    }

    /// How many requests named each machine.
    pub fn calls_per_vm(&self) -> &BTreeMap<u32, u64> {
        &self.by_vmid
    }

    /// The requests that may have changed something.
    pub fn mutations(&self) -> impl Iterator<Item = &Record> {
        self.records.iter().filter(|record| record.is_mutation())
    }

    /// Requests that read what all machines share, by path: the most that fell into any window
    /// of this length.
    pub fn shared_polls(&self, window: Duration) -> BTreeMap<&str, usize> {
        let mut times: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
        let shared = |record: &&Record| !record.is_mutation() && record.vmid.is_none();
        for record in self.records.iter().filter(shared) {
            times.entry(&record.path).or_default().push(record.at);
        }
        times
            .into_iter()
            .map(|(path, times)| (path, most_within(&times, window)))
            .collect()
    }
}

/// The most of these ascending times that any window holds, its end not counted.
fn most_within(times: &[Duration], window: Duration) -> usize {
    let mut first = 0;
    let mut most = 0;
    for (last, time) in times.iter().enumerate() {
        while *time - times[first] >= window {
            first += 1;
        }
        most = most.max(last - first + 1);
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_count_what_they_hold() {
        let at = |seconds: &[u64]| {
            seconds
                .iter()
                .map(|s| Duration::from_secs(*s))
                .collect::<Vec<_>>()
        };
        let five = Duration::from_secs(5);
        assert_eq!(most_within(&at(&[]), five), 0);
        assert_eq!(most_within(&at(&[0, 5, 10]), five), 1);
        assert_eq!(most_within(&at(&[0, 3, 4, 5, 20]), five), 3);
    }
}
