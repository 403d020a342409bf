//! Refusals: `Status` bodies with the codes, reasons and texts of a real kube-apiserver.

use std::{borrow::Cow, fmt};

use serde_json::{Map, Value, json};

use crate::schema::{FieldError, invalid_message};

/// A request that the server refuses, as a `metav1.Status` will say it.
///
/// The texts are those of `k8s.io/apimachinery/pkg/api/errors`, since clients and people match on
/// them.
#[derive(Debug, Clone, PartialEq)]
pub struct StatusError {
    /// HTTP status code.
    pub code: u16,
    /// Machine readable reason (`NotFound`, `Conflict`, ...); empty for `Unknown`.
    pub reason: Cow<'static, str>,
    /// Text for people.
    pub message: String,
    /// What the refusal is about. Boxed: most results carry no error.
    pub(crate) details: Option<Box<Details>>,
    /// Token of a list that can only go on from the newest revision.
    pub(crate) continue_token: Option<String>,
    /// Answered as bare text: paths that no API serves.
    pub(crate) plain: bool,
    /// Warnings that go along with the refusal.
    pub(crate) warnings: Vec<String>,
}

/// `status.details`.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Details {
    pub(crate) name: String,
    pub(crate) group: String,
    pub(crate) kind: String,
    pub(crate) uid: String,
    pub(crate) causes: Vec<Cause>,
    pub(crate) retry_after_seconds: u32,
}

/// One entry of `status.details.causes`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Cause {
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) field: String,
}

/// Which resource and object a refusal names.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subject<'a> {
    pub(crate) group: &'a str,
    /// Plural name of the resource; the kind in the few messages that use it.
    pub(crate) resource: &'a str,
    pub(crate) name: &'a str,
}

impl Subject<'_> {
    fn qualified(&self) -> String {
        if self.group.is_empty() {
            self.resource.to_owned()
        } else {
            format!("{}.{}", self.resource, self.group)
        }
    }

    fn details(&self) -> Details {
        Details {
            name: self.name.to_owned(),
            group: self.group.to_owned(),
            kind: self.resource.to_owned(),
            ..Details::default()
        }
    }
}

impl StatusError {
    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason: Cow::Borrowed(reason),
            message: message.into(),
            details: None,
            continue_token: None,
            plain: false,
            warnings: Vec::new(),
        }
    }

    /// The refusal with warnings about what was sent.
    pub(crate) fn with_warnings(mut self, warnings: &[String]) -> Self {
        self.warnings.extend_from_slice(warnings);
        self
    }

    fn about(mut self, details: Details) -> Self {
        self.details = Some(Box::new(details));
        self
    }

    pub(crate) fn cause(mut self, reason: &str, message: String, field: &str) -> Self {
        self.details.get_or_insert_default().causes.push(Cause {
            reason: reason.to_owned(),
            message,
            field: field.to_owned(),
        });
        self
    }

    /// No API serves this path.
    pub(crate) fn unknown_path() -> Self {
        Self {
            plain: true,
            ..Self::new(404, "NotFound", "404 page not found\n")
        }
    }

    /// The group is served, the resource is not.
    pub(crate) fn unknown_resource() -> Self {
        Self::new(
            404,
            "NotFound",
            "the server could not find the requested resource",
        )
        .about(Details::default())
    }

    pub(crate) fn not_found(subject: Subject<'_>) -> Self {
        Self::new(
            404,
            "NotFound",
            format!("{} {:?} not found", subject.qualified(), subject.name),
        )
        .about(subject.details())
    }

    pub(crate) fn already_exists(subject: Subject<'_>) -> Self {
        let message = format!("{} {:?} already exists", subject.qualified(), subject.name);
        Self::new(409, "AlreadyExists", message).about(subject.details())
    }

    pub(crate) fn conflict(subject: Subject<'_>, why: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} {:?}: {why}",
            subject.qualified(),
            subject.name
        );
        Self::new(409, "Conflict", message).about(subject.details())
    }

    /// The object changed since the client read it.
    pub(crate) fn modified(subject: Subject<'_>) -> Self {
        Self::conflict(
            subject,
            "the object has been modified; please apply your changes to the latest version and \
             try again",
        )
    }

    pub(crate) fn forbidden(subject: Subject<'_>, why: &str) -> Self {
        let message = if subject.resource.is_empty() {
            format!("forbidden: {why}")
        } else if subject.name.is_empty() {
            format!("{} is forbidden: {why}", subject.qualified())
        } else {
            format!(
                "{} {:?} is forbidden: {why}",
                subject.qualified(),
                subject.name
            )
        };
        Self::new(403, "Forbidden", message).about(subject.details())
    }

    /// The refusal of the webhook `name`, with the status that it gave.
    pub(crate) fn denied_by(name: &str, status: &Value) -> Self {
        let text = |field: &str| status[field].as_str().unwrap_or_default();
        let denied = format!("admission webhook {name:?} denied the request");
        let message = match (text("message"), text("reason")) {
            ("", "") => format!("{denied} without explanation"),
            ("", why) | (why, _) => format!("{denied}: {why}"),
        };
        // A refusal is none of the codes of success.
        let code = status["code"]
            .as_u64()
            .and_then(|code| u16::try_from(code).ok());
        let details = &status["details"];
        Self {
            reason: text("reason").to_owned().into(),
            details: details
                .is_object()
                .then(|| Box::new(Details::read(details))),
            ..Self::new(code.unwrap_or_default().max(400), "", message)
        }
    }

    /// `subject.resource` is the kind here.
    pub(crate) fn invalid(subject: Subject<'_>, errors: &[FieldError]) -> Self {
        let message = invalid_message(&subject.qualified(), subject.name, errors);
        let error = Self::new(422, "Invalid", message).about(subject.details());
        errors.iter().fold(error, |error, found| {
            error.cause(found.kind.reason(), found.body(), &found.field)
        })
    }

    /// An error without a reason, as Go makes of a bare `errors.New`.
    pub(crate) fn unknown(message: impl Into<String>) -> Self {
        Self::new(500, "", message)
    }

    /// Fields of an apply that others own; `message` lists them.
    pub(crate) fn apply_conflict(message: String) -> Self {
        Self::new(409, "Conflict", message).about(Details::default())
    }

    pub(crate) fn too_many_operations(message: impl Into<String>) -> Self {
        Self::new(413, "RequestEntityTooLarge", message)
    }

    /// An eviction that a disruption budget forbids now, and why; `again` is when to ask again, in
    /// seconds, 0 for whenever.
    pub(crate) fn disruption(why: String, again: u32) -> Self {
        let message = "Cannot evict pod as it would violate the pod's disruption budget.";
        Self::new(429, "TooManyRequests", message)
            .about(Details {
                retry_after_seconds: again,
                ..Details::default()
            })
            .cause("DisruptionBudget", why, "")
    }

    /// Options of a request that are wrong or do not go together; `kind` is that of the options.
    pub(crate) fn invalid_options(kind: &str, errors: &[FieldError]) -> Self {
        let subject = Subject {
            group: "meta.k8s.io",
            resource: kind,
            name: "",
        };
        Self::invalid(subject, errors)
    }

    /// A patch that cannot be carried out on this object.
    pub(crate) fn unprocessable() -> Self {
        let message = "the server rejected our request due to an error in our request";
        Self::new(422, "Invalid", message).about(Details::default())
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    pub(crate) fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    pub(crate) fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        Self::new(405, "MethodNotAllowed", message).about(Details::default())
    }

    pub(crate) fn not_acceptable(accepted: &str) -> Self {
        let message = format!("only the following media types are accepted: {accepted}");
        Self::new(406, "NotAcceptable", message)
    }

    pub(crate) fn unsupported_media_type(accepted: &str) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: \
             {accepted}"
        );
        Self::new(415, "UnsupportedMediaType", message)
    }

    pub(crate) fn too_large(limit: usize) -> Self {
        let message = format!("Request entity too large: limit is {limit}");
        Self::new(413, "RequestEntityTooLarge", message)
    }

    /// The history that the request needs was compacted.
    pub(crate) fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// A watch cannot go on from `asked`, since the oldest event kept is `oldest`.
    pub(crate) fn too_old(asked: u64, oldest: u64) -> Self {
        Self::expired(format!("too old resource version: {asked} ({oldest})"))
    }

    pub(crate) fn revision_ahead(asked: u64, current: u64) -> Self {
        let message = format!("Timeout: Too large resource version: {asked}, current: {current}");
        Self::new(504, "Timeout", message)
            .about(Details {
                retry_after_seconds: 1,
                ..Details::default()
            })
            .cause(
                "ResourceVersionTooLarge",
                "Too large resource version".to_owned(),
                "",
            )
    }

    /// An error that a real server passes on without saying of what kind it is.
    pub(crate) fn unexplained(message: impl Into<String>) -> Self {
        Self::new(500, "", message)
    }

    pub(crate) fn internal(message: impl fmt::Display) -> Self {
        let text = format!("Internal error occurred: {message}");
        Self::new(500, "InternalError", text).cause("", message.to_string(), "")
    }

    /// Something a real server does and this one does not: refused, never ignored.
    pub(crate) fn not_implemented(what: impl fmt::Display) -> Self {
        Self::new(
            501,
            "NotImplemented",
            format!("the test API server does not implement {what}"),
        )
    }

    /// The `metav1.Status` object.
    pub(crate) fn to_value(&self) -> Value {
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "code": self.code,
        });
        if !self.reason.is_empty() {
            status["reason"] = (*self.reason).into();
        }
        if let Some(details) = &self.details {
            status["details"] = details.to_value();
        }
        if let Some(token) = &self.continue_token {
            status["metadata"]["continue"] = token.as_str().into();
        }
        status
    }
}

impl Details {
    /// What someone else's status says.
    fn read(details: &Value) -> Self {
        let text = |object: &Value, field: &str| {
            let text = object[field].as_str();
            text.unwrap_or_default().to_owned()
        };
        let causes = details["causes"].as_array().into_iter().flatten();
        let seconds = details["retryAfterSeconds"].as_u64();
        Self {
            name: text(details, "name"),
            group: text(details, "group"),
            kind: text(details, "kind"),
            uid: text(details, "uid"),
            causes: causes
                .map(|cause| Cause {
                    reason: text(cause, "reason"),
                    message: text(cause, "message"),
                    field: text(cause, "field"),
                })
                .collect(),
            retry_after_seconds: seconds.and_then(|it| u32::try_from(it).ok()).unwrap_or(0),
        }
    }

    pub(crate) fn to_value(&self) -> Value {
        let mut map = Map::new();
        for (key, text) in [
            ("name", &self.name),
            ("group", &self.group),
            ("kind", &self.kind),
            ("uid", &self.uid),
        ] {
            if !text.is_empty() {
                map.insert(key.to_owned(), text.as_str().into());
            }
        }
        if !self.causes.is_empty() {
            let causes = self.causes.iter().map(Cause::to_value).collect();
            map.insert("causes".to_owned(), Value::Array(causes));
        }
        if self.retry_after_seconds > 0 {
            map.insert(
                "retryAfterSeconds".to_owned(),
                self.retry_after_seconds.into(),
            );
        }
        Value::Object(map)
    }
}

impl Cause {
    fn to_value(&self) -> Value {
        let mut map = Map::new();
        for (key, text) in [
            ("reason", &self.reason),
            ("message", &self.message),
            ("field", &self.field),
        ] {
            if !text.is_empty() {
                map.insert(key.to_owned(), text.as_str().into());
            }
        }
        Value::Object(map)
    }
}

impl fmt::Display for StatusError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message.trim_end(), self.code)
    }
}

impl std::error::Error for StatusError {}
