//! From an HTTP request to what it asks for.

use http::{Method, request::Parts};

use super::status::StatusError;

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Route {
    /// Objects of a resource.
    Resource(Target),
    /// `/api`, `/apis`, `/apis/{group}` or the list of a version's resources.
    Discovery(DiscoveryPath),
    /// Anything else: version, health, OpenAPI.
    Other,
}

/// A place in the discovery tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DiscoveryPath {
    /// `/api`
    CoreVersions,
    /// `/apis`
    Groups,
    /// `/apis/{group}`
    Group(String),
    /// `/api/v1`, `/apis/{group}/{version}`
    Version { group: String, version: String },
}

/// Which objects a request is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) verb: Verb,
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) plural: String,
    pub(crate) subresource: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

/// Kubernetes verbs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Get,
    List,
    Watch,
    Create,
    Update,
    Patch,
    Delete,
    DeleteCollection,
}

impl Verb {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
            Self::DeleteCollection => "deletecollection",
        }
    }

    /// The kind of the options that go with the verb.
    pub(crate) fn options(self) -> &'static str {
        match self {
            Self::Create => "CreateOptions",
            Self::Update => "UpdateOptions",
            Self::Patch => "PatchOptions",
            Self::Delete | Self::DeleteCollection => "DeleteOptions",
            Self::Get => "GetOptions",
            Self::List | Self::Watch => "ListOptions",
        }
    }
}

/// The route of a request, from path, method and the `watch` parameter.
pub(crate) fn route(parts: &Parts, query: &Query) -> Result<Route, StatusError> {
    let path: Vec<String> = parts
        .uri
        .path()
        .split('/')
        .filter(|segment| !segment.is_empty())
        .map(|segment| percent_decode(segment, false))
        .collect();
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    let (group, version, rest) = match path.as_slice() {
        ["api"] => return Ok(Route::Discovery(DiscoveryPath::CoreVersions)),
        ["apis"] => return Ok(Route::Discovery(DiscoveryPath::Groups)),
        ["apis", group] => {
            return Ok(Route::Discovery(DiscoveryPath::Group((*group).to_owned())));
        }
        ["api", version] => return Ok(version_route("", version)),
        ["apis", group, version] => return Ok(version_route(group, version)),
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => return Ok(Route::Other),
    };
    if rest.first() == Some(&"watch") {
        return Err(StatusError::not_implemented(
            "the deprecated /watch/ paths; use ?watch=true",
        ));
    }
    let (namespace, rest) = namespace_of(rest);
    let (plural, name, subresource) = match rest {
        [plural] => (*plural, "", ""),
        [plural, name] => (*plural, *name, ""),
        [plural, name, subresource] => (*plural, *name, *subresource),
        _ => return Err(StatusError::unknown_path()),
    };
    let verb = verb(&parts.method, !name.is_empty(), query)?;
    Ok(Route::Resource(Target {
        verb,
        group: group.to_owned(),
        version: version.to_owned(),
        plural: plural.to_owned(),
        subresource: subresource.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    }))
}

fn version_route(group: &str, version: &str) -> Route {
    let (group, version) = (group.to_owned(), version.to_owned());
    Route::Discovery(DiscoveryPath::Version { group, version })
}

/// `namespaces/x/pods/y` lies in namespace x; `namespaces/x` and its subresources are the namespace
/// itself.
fn namespace_of<'a, 'b>(rest: &'b [&'a str]) -> (&'a str, &'b [&'a str]) {
    match rest {
        ["namespaces", _, "status" | "finalize"] => ("", rest),
        ["namespaces", namespace, inner @ ..] if !inner.is_empty() => (namespace, inner),
        _ => ("", rest),
    }
}

fn verb(method: &Method, named: bool, query: &Query) -> Result<Verb, StatusError> {
    let verb = match (method, named) {
        (&Method::GET, true) => Verb::Get,
        (&Method::GET, false) if query.flag("watch") => Verb::Watch,
        (&Method::GET, false) => Verb::List,
        (&Method::POST, _) => Verb::Create,
        // Whether a name is needed is up to the resource.
        (&Method::PUT, _) => Verb::Update,
        (&Method::PATCH, _) => Verb::Patch,
        (&Method::DELETE, true) => Verb::Delete,
        (&Method::DELETE, false) => Verb::DeleteCollection,
        _ => return Err(StatusError::method_not_allowed()),
    };
    Ok(verb)
}

/// Query parameters; of a repeated one the first counts, as in Go.
#[derive(Debug, Clone, Default)]
pub(crate) struct Query {
    pairs: Vec<(String, String)>,
}

impl Query {
    pub(crate) fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (percent_decode(name, true), percent_decode(value, true))
        });
        Self {
            pairs: pairs.collect(),
        }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.pairs
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// The value, empty when missing.
    pub(crate) fn text(&self, name: &str) -> &str {
        self.get(name).unwrap_or_default()
    }

    /// Everything but `false`, `0` and absence is true, as in apimachinery's conversion.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.maybe_flag(name).unwrap_or(false)
    }

    pub(crate) fn maybe_flag(&self, name: &str) -> Option<bool> {
        self.get(name).map(|value| !matches!(value, "false" | "0"))
    }

    /// A whole number; a value that is none is refused.
    pub(crate) fn number(&self, name: &str) -> Result<Option<u64>, StatusError> {
        match self.get(name) {
            None | Some("") => Ok(None),
            Some(value) => value.parse().map(Some).map_err(|_| {
                StatusError::bad_request(format!(
                    "strconv.ParseInt: parsing {value:?}: invalid syntax"
                ))
            }),
        }
    }
}

/// Undoes `%xx` (and `+` inside a query); what is no valid escape stays as it is.
fn percent_decode(text: &str, in_query: bool) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escape = (bytes[at] == b'%')
            .then(|| text.get(at + 1..at + 3))
            .flatten();
        let escape = escape.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match (escape, bytes[at]) {
            (Some(byte), _) => {
                decoded.push(byte);
                at += 2;
            }
            (None, b'+') if in_query => decoded.push(b' '),
            (None, byte) => decoded.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn parts(method: &str, uri: &str) -> Parts {
        let mut request = Request::new(());
        *request.method_mut() = method.parse().expect("the method is one");
        *request.uri_mut() = uri.parse().expect("the path is one");
        request.into_parts().0
    }

    fn parse(method: &str, uri: &str) -> Result<Route, StatusError> {
        let parts = parts(method, uri);
        route(&parts, &Query::parse(parts.uri.query().unwrap_or_default()))
    }

    fn summary(method: &str, uri: &str) -> String {
        match parse(method, uri) {
            Ok(Route::Resource(t)) => format!(
                "{} {}/{} ns={} {} name={} sub={}",
                t.verb.as_str(),
                t.group,
                t.version,
                t.namespace,
                t.plural,
                t.name,
                t.subresource
            ),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn paths_name_their_objects() {
        let table = [
            (
                "GET",
                "/api/v1/namespaces",
                "list /v1 ns= namespaces name= sub=",
            ),
            (
                "GET",
                "/api/v1/namespaces/a",
                "get /v1 ns= namespaces name=a sub=",
            ),
            (
                "PUT",
                "/api/v1/namespaces/a/finalize",
                "update /v1 ns= namespaces name=a sub=finalize",
            ),
            (
                "POST",
                "/api/v1/namespaces/a/secrets",
                "create /v1 ns=a secrets name= sub=",
            ),
            (
                "PATCH",
                "/apis/cluster.x-k8s.io/v1beta2/namespaces/a/machines/m/status",
                "patch cluster.x-k8s.io/v1beta2 ns=a machines name=m sub=status",
            ),
            (
                "GET",
                "/api/v1/secrets?watch=1",
                "watch /v1 ns= secrets name= sub=",
            ),
            (
                "DELETE",
                "/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Aa",
                "delete rbac.authorization.k8s.io/v1 ns= clusterroles name=system:a sub=",
            ),
            (
                "DELETE",
                "/api/v1/namespaces/a/pods",
                "deletecollection /v1 ns=a pods name= sub=",
            ),
        ];
        for (method, uri, expected) in table {
            assert_eq!(summary(method, uri), expected, "{method} {uri}");
        }
        assert_eq!(parse("HEAD", "/api/v1/namespaces").unwrap_err().code, 405);
        assert_eq!(parse("GET", "/api/v1/watch/pods").unwrap_err().code, 501);
        assert_eq!(
            parse("GET", "/api/v1/namespaces/a/pods/b/log/c")
                .unwrap_err()
                .code,
            404
        );
    }

    #[test]
    fn queries_are_decoded() {
        let query = Query::parse("labelSelector=a%3Db%2Cc+in+%28d%29&watch=false&limit=x&force");
        assert_eq!(query.text("labelSelector"), "a=b,c in (d)");
        assert!(!query.flag("watch"));
        assert!(query.flag("force"));
        assert_eq!(query.number("limit").unwrap_err().code, 400);
        assert_eq!(percent_decode("100%+é", false), "100%+é");
    }
}
