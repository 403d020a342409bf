//! Answers, as Proxmox VE words them.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use hyper::ext::ReasonPhrase;
use serde_json::{Map, Value, json};

/// What the real server calls itself.
const SERVER: &str = "pve-api-daemon/3.0";

/// An answer that is no success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    pub(crate) message: String,
    pub(crate) errors: Vec<(String, String)>,
    /// Whether the HTTP layer refused, below the REST layer: then there is no body.
    pub(crate) bare: bool,
    /// How long the answer takes.
    pub(crate) after: Duration,
}

impl Refusal {
    pub(crate) fn new(status: u16, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            errors: Vec::new(),
            bare: false,
            after: Duration::ZERO,
        }
    }

    /// A domain error.
    pub(crate) fn domain(message: impl Into<String>) -> Self {
        Self::new(500, message)
    }

    /// An error of the HTTP layer, which has only a reason phrase.
    pub(crate) fn bare(status: u16, message: impl Into<String>) -> Self {
        Self {
            bare: true,
            ..Self::new(status, message)
        }
    }

    /// The same, after a while.
    pub(crate) fn after(mut self, after: Duration) -> Self {
        self.after = after;
        self
    }

    /// Wrong parameters.
    pub(crate) fn invalid(errors: Vec<(String, String)>) -> Self {
        Self {
            errors,
            ..Self::new(400, "Parameter verification failed.")
        }
    }

    /// One wrong parameter.
    pub(crate) fn parameter(name: &str, reason: impl Into<String>) -> Self {
        Self::invalid(vec![(name.to_owned(), reason.into())])
    }

    /// A missing privilege.
    pub(crate) fn forbidden(path: &str, privileges: &str) -> Self {
        Self::new(
            403,
            format!("Permission check failed ({path}, {privileges})"),
        )
    }

    pub(crate) fn response(&self) -> Response<Bytes> {
        let body = if self.bare {
            Bytes::new()
        } else {
            let mut body = Map::new();
            body.insert("data".into(), Value::Null);
            body.insert("message".into(), json!(format!("{}\n", self.message)));
            if !self.errors.is_empty() {
                let errors = self
                    .errors
                    .iter()
                    .map(|(key, text)| (key.clone(), json!(text)));
                body.insert("errors".into(), Value::Object(errors.collect()));
            }
            Bytes::from(Value::Object(body).to_string())
        };
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = respond(status, body);
        if let Some(reason) = reason_phrase(&self.message) {
            response.extensions_mut().insert(reason);
        }
        response
    }
}

/// A message as reason phrase: one line of what HTTP allows.
fn reason_phrase(message: &str) -> Option<ReasonPhrase> {
    let line = message.lines().next().unwrap_or_default();
    let fits = |c: char| c == '\t' || c == ' ' || c.is_ascii_graphic();
    let line: String = line
        .chars()
        .map(|c| if fits(c) { c } else { '?' })
        .collect();
    ReasonPhrase::try_from(line.into_bytes()).ok()
}

/// A success with its data.
pub(crate) fn success(data: &Value) -> Response<Bytes> {
    respond(StatusCode::OK, Bytes::from(format!("{{\"data\":{data}}}")))
}

/// A success of a list that says how long it is in all.
pub(crate) fn success_of(data: &Value, total: usize) -> Response<Bytes> {
    respond(
        StatusCode::OK,
        Bytes::from(format!("{{\"data\":{data},\"total\":{total}}}")),
    )
}

fn respond(status: StatusCode, body: Bytes) -> Response<Bytes> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::SERVER, HeaderValue::from_static(SERVER));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("max-age=0"));
    headers.insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
    let json = HeaderValue::from_static("application/json;charset=UTF-8");
    headers.insert(header::CONTENT_TYPE, json);
    if status.as_u16() >= 400 {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
