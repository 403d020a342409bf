//! What the API server of the management cluster noted down: who asked for what.

use serde_json::Value;

use crate::failure::Failure;
use crate::site::Site;

/// A request that was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Request {
    /// `get`, `list`, `watch`, `create`, `patch`, ...
    pub verb: String,
    /// The resource in the plural, with its subresource: `machines`, `machines/status`.
    pub resource: String,
    /// The object, if one was named.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// The answer's code.
    pub code: u64,
    /// When it came, RFC 3339 in UTC.
    pub at: String,
}

/// The requests of a user, in the order in which they were answered. Watches are not noted, except
/// those of Secrets.
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
        let record: Value = serde_json::from_str(line)?;
        if record["user"]["username"] == user {
            found.push(request(&record));
        }
    }
    Ok(found)
}

/// The user name of a service account.
#[must_use]
pub fn account(namespace: &str, name: &str) -> String {
    format!("system:serviceaccount:{namespace}:{name}")
}

fn request(record: &Value) -> Request {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let object = &record["objectRef"];
    let resource = match object["subresource"].as_str() {
        Some(below) => format!("{}/{below}", word(&object["resource"])),
        None => word(&object["resource"]),
    };
    Request {
        verb: word(&record["verb"]),
        resource,
        name: word(&object["name"]),
        namespace: word(&object["namespace"]),
        code: record["responseStatus"]["code"]
            .as_u64()
            .unwrap_or_default(),
        at: word(&record["requestReceivedTimestamp"]),
    }
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
}
