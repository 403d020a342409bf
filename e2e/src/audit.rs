//! What the API server of a run noted down: who asked for what.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;

use crate::failure::Failure;
use crate::site::Site;

/// A request that was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Request {
    /// `get`, `list`, `watch`, `create`, `patch`, ...
    pub verb: String,
    /// The API group; empty for core.
    pub group: String,
    /// The resource in the plural, with its subresource: `machines`, `machines/status`.
    pub resource: String,
    /// The object, if one was named.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// The answer's code.
    pub code: u64,
    /// When it came.
    pub at: Timestamp,
    /// What followed the question mark: field manager, dry run.
    pub query: String,
    /// What was sent, as far as it was noted: by the managers of Cluster API to infrastructure.
    pub body: Value,
}

/// The requests of a user, in the order in which they were answered. Watches are noted of service
/// accounts alone.
///
/// # Errors
///
/// No log, or a line of it that cannot be read.
pub fn requests(site: &Site, user: &str) -> Result<Vec<Request>, Failure> {
    let text = site.read("logs/audit.log")?;
    // The last line may be half written.
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let mut found = Vec::new();
    for line in whole.lines() {
        // Reading a line takes long, and most are somebody else's.
        if !line.contains(user) {
            continue;
        }
        let record: Value = serde_json::from_str(line)?;
        if record["user"]["username"] == user {
            found.push(request(&record)?);
        }
    }
    Ok(found)
}

/// The user name of a service account.
#[must_use]
pub fn account(namespace: &str, name: &str) -> String {
    format!("system:serviceaccount:{namespace}:{name}")
}

fn request(record: &Value) -> Result<Request, Failure> {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let object = &record["objectRef"];
    let resource = match object["subresource"].as_str() {
        Some(below) => format!("{}/{below}", word(&object["resource"])),
        None => word(&object["resource"]),
    };
    Ok(Request {
        verb: word(&record["verb"]),
        group: word(&object["apiGroup"]),
        resource,
        name: word(&object["name"]),
        namespace: word(&object["namespace"]),
        code: record["responseStatus"]["code"]
            .as_u64()
            .unwrap_or_default(),
        at: word(&record["requestReceivedTimestamp"]).parse()?,
        query: word(&record["requestURI"])
            .split_once('?')
            .map_or_else(String::new, |(_, query)| query.to_owned()),
        body: record["requestObject"].clone(),
    })
}

/// Requests that were forbidden, and lists or watches of Secrets: a provider makes none of them.
#[must_use]
pub fn wrong(requests: &[Request]) -> Vec<&Request> {
    let is_wrong = |request: &&Request| {
        let reads_all = matches!(request.verb.as_str(), "list" | "watch");
        request.code == 403 || (reads_all && request.resource == "secrets")
    };
    requests.iter().filter(is_wrong).collect()
}

/// How many requests there were, told apart as in the budget of a machine: Leases, events and reviews
/// of access count for nobody's machine; a list is what a start costs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tally {
    /// Creates, updates, patches and deletions, by verb and resource.
    pub writes: BTreeMap<String, usize>,
    /// Reads of one object, by resource.
    pub reads: BTreeMap<String, usize>,
    /// Lists, by resource.
    pub lists: BTreeMap<String, usize>,
    /// Events.
    pub events: usize,
}

impl Tally {
    /// Counts these requests.
    #[must_use]
    pub fn of(requests: &[Request]) -> Self {
        let mut tally = Self::default();
        for request in requests {
            let resource = request.resource.clone();
            if resource == "leases" || resource.ends_with("reviews") {
                continue;
            }
            if resource == "events" {
                tally.events += 1;
            } else if request.verb == "get" {
                *tally.reads.entry(resource).or_default() += 1;
            } else if request.verb == "list" {
                *tally.lists.entry(resource).or_default() += 1;
            } else if request.verb != "watch" {
                let what = format!("{} {resource}", request.verb);
                *tally.writes.entry(what).or_default() += 1;
            }
        }
        tally
    }

    /// All writes.
    #[must_use]
    pub fn writes(&self) -> usize {
        self.writes.values().sum()
    }

    /// All reads of one object.
    #[must_use]
    pub fn reads(&self) -> usize {
        self.reads.values().sum()
    }

    /// All writes, reads and lists.
    #[must_use]
    pub fn all(&self) -> usize {
        self.writes() + self.reads() + self.lists.values().sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(user: &str, verb: &str, resource: &str, code: u64) -> String {
        serde_json::json!({"user": {"username": user}, "verb": verb,
            "objectRef": {"resource": resource, "name": "n", "namespace": "d"},
            "responseStatus": {"code": code},
            "requestReceivedTimestamp": "2026-11-21T10:00:00.000000Z"})
        .to_string()
    }

    #[test]
    fn forbidden_requests_and_lists_of_secrets_are_found() {
        let site = Site::named(&format!("test-audit-{}", std::process::id()));
        let (us, them) = (account("ns", "us"), account("ns", "them"));
        let lines = [
            line(&us, "get", "secrets", 200),
            line(&us, "list", "machines", 200),
            line(&us, "patch", "machines", 403),
            line(&us, "watch", "secrets", 200),
            line(&them, "list", "secrets", 200),
            "{\"half".to_owned(),
        ];
        site.write("logs/audit.log", &lines.join("\n"))
            .expect("written");
        let ours = requests(&site, &us).expect("a log");
        assert_eq!(ours.len(), 4);
        let wrong: Vec<_> = wrong(&ours).into_iter().map(|one| &*one.verb).collect();
        assert_eq!(wrong, ["patch", "watch"]);
        site.clear().expect("removed");
    }

    #[test]
    fn a_tally_leaves_out_what_no_machine_costs() {
        let request = |verb: &str, resource: &str| {
            let record = serde_json::from_str(&line("u", verb, resource, 200));
            request(&record.expect("a record")).expect("a request")
        };
        let all = [
            ("patch", "machines"),
            ("patch", "machines"),
            ("create", "ipaddressclaims"),
            ("get", "secrets"),
            ("list", "clusters"),
            ("watch", "secrets"),
            ("update", "leases"),
            ("create", "events"),
            ("create", "subjectaccessreviews"),
        ];
        let tally = Tally::of(&all.map(|(verb, resource)| request(verb, resource)));
        assert_eq!((tally.writes(), tally.reads(), tally.events), (3, 1, 1));
        assert_eq!(tally.writes["patch machines"], 2);
        assert_eq!(tally.all(), 5);
    }
}
