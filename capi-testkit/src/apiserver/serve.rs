//! From a request to its answer: routing, negotiation, audit.

use std::{
    collections::BTreeSet,
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header, request::Parts};
use http_body::{Body, Frame, SizeHint};
use jiff::Timestamp;
use serde_json::json;

use super::{
    ApiServer, AuditRecord,
    kinds::Resource,
    output::{Form, RowObject, Shape},
    request::{Query, Route, Target, Verb, route},
    review::Review,
    status::{StatusError, Subject},
};
use crate::schema::{FieldError, FieldErrorKind};

/// Longest request body, as in a real server.
pub(crate) const BODY_BYTES_MAX: usize = 3 * 1024 * 1024;
/// Longest field manager; the part of the user agent is cut there.
const MANAGER_LENGTH_MAX: usize = 128;

/// Who sends a request.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// Name in the audit record.
    pub(crate) actor: String,
    /// User name of authentication.
    pub(crate) user: String,
    pub(crate) groups: Vec<String>,
}

/// A request about a resource, with everything that its verb needs.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) caller: Caller,
    pub(crate) target: Target,
    pub(crate) resource: Arc<Resource>,
    pub(crate) query: Query,
    pub(crate) content_type: String,
    pub(crate) body: Bytes,
    pub(crate) shape: Shape,
    pub(crate) dry_run: bool,
    /// Field manager: the parameter, else the start of the user agent.
    pub(crate) manager: String,
}

/// What goes back.
pub(crate) struct Answer {
    pub(crate) code: StatusCode,
    pub(crate) content_type: &'static str,
    pub(crate) body: AnswerBody,
    pub(crate) warnings: Vec<String>,
    /// The object's name, where the request did not say it.
    pub(crate) name: Option<String>,
}

/// The body of an answer: whole, or the lines of a watch.
pub(crate) enum AnswerBody {
    Whole(Option<Bytes>),
    Stream(BoxStream<'static, Bytes>),
}

impl AnswerBody {
    /// Ends a watch when `stop` is ready; whole answers are finished.
    pub(crate) fn until(self, stop: impl Future<Output = ()> + Send + 'static) -> Self {
        match self {
            Self::Whole(bytes) => Self::Whole(bytes),
            Self::Stream(lines) => Self::Stream(lines.take_until(Box::pin(stop)).boxed()),
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take()),
            Self::Stream(lines) => lines.poll_next_unpin(context),
        };
        next.map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Stream(_) => SizeHint::default(),
        }
    }
}

impl Answer {
    pub(crate) fn json(body: Bytes) -> Self {
        Self {
            code: StatusCode::OK,
            content_type: "application/json",
            body: AnswerBody::Whole(Some(body)),
            warnings: Vec::new(),
            name: None,
        }
    }

    fn error(error: &StatusError, yaml: bool) -> Self {
        let code = StatusCode::from_u16(error.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if error.plain {
            let body = AnswerBody::Whole(Some(Bytes::from(error.message.clone())));
            let content_type = "text/plain; charset=utf-8";
            return Self {
                code,
                content_type,
                body,
                warnings: Vec::new(),
                name: None,
            };
        }
        let shape = Shape {
            yaml,
            ..Shape::json(Timestamp::UNIX_EPOCH)
        };
        let status = error.to_value();
        let (content_type, body) = match shape.encode(&status) {
            Ok(body) => (shape.content_type(), body),
            Err(_) => ("application/json", Bytes::from(status.to_string())),
        };
        Self {
            code,
            warnings: error.warnings.clone(),
            ..Self::json(body)
        }
        .of_type(content_type)
    }

    pub(crate) fn of_type(self, content_type: &'static str) -> Self {
        Self {
            content_type,
            ..self
        }
    }
}

impl ApiServer {
    /// Answers one request. `body` is complete and at most [`BODY_BYTES_MAX`] long.
    pub(crate) async fn serve(
        &self,
        caller: Caller,
        parts: Parts,
        body: Bytes,
    ) -> Response<AnswerBody> {
        self.start_collector();
        let query = Query::parse(parts.uri.query().unwrap_or_default());
        let mut record = self.record(&caller, &parts, &query);
        let result = match route(&parts, &query) {
            Ok(route) => {
                if let Route::Resource(target) = &route {
                    describe(&mut record, target);
                }
                match self.admit(caller, &parts, &route, &query) {
                    Ok(caller) => self.dispatch(caller, &parts, route, query, body).await,
                    Err(error) => Err(error),
                }
            }
            Err(error) => Err(error),
        };
        let answer = result.unwrap_or_else(|error| {
            let accepts = header_text(&parts.headers, header::ACCEPT);
            Answer::error(&error, accepts.starts_with("application/yaml"))
        });
        if let Some(name) = &answer.name {
            record.name.clone_from(name);
        }
        record.code = answer.code.as_u16();
        self.inner.audit.push(record);
        response(answer)
    }

    /// Records a request that is refused before it is read.
    pub(crate) fn record_refused(&self, caller: &Caller, parts: &Parts, error: &StatusError) {
        let mut record = self.record(caller, parts, &Query::default());
        record.code = error.code;
        self.inner.audit.push(record);
    }

    fn record(&self, caller: &Caller, parts: &Parts, query: &Query) -> AuditRecord {
        AuditRecord {
            actor: caller.actor.clone(),
            user_agent: header_text(&parts.headers, header::USER_AGENT).to_owned(),
            verb: method_verb(parts),
            group: String::new(),
            resource: parts.uri.path().to_owned(),
            subresource: String::new(),
            namespace: String::new(),
            name: String::new(),
            field_manager: query.text("fieldManager").to_owned(),
            dry_run: query.get("dryRun").is_some(),
            code: 0,
            at: self.inner.clock.elapsed(),
            revision: self.revision(),
        }
    }

    async fn dispatch(
        &self,
        caller: Caller,
        parts: &Parts,
        route: Route,
        query: Query,
        body: Bytes,
    ) -> Result<Answer, StatusError> {
        let accept = header_text(&parts.headers, header::ACCEPT);
        let mut target = match route {
            Route::Resource(target) => target,
            Route::Discovery(path) => return self.discover(&path, accept),
            Route::Other => return self.other(&parts.method, parts.uri.path()),
        };
        if let Some(review) = Review::find(&target) {
            let content_type = header_text(&parts.headers, header::CONTENT_TYPE);
            return self.review(review, &caller, target.verb, content_type, &body);
        }
        let found = self
            .inner
            .registry
            .find(&target.group, &target.version, &target.plural);
        let Some(resource) = found else {
            let known = self
                .inner
                .registry
                .has_builtin_version(&target.group, &target.version);
            return Err(if known {
                StatusError::unknown_resource()
            } else {
                StatusError::unknown_path()
            });
        };
        check_scope(&resource, &target)?;
        check_name(&resource, &mut target)?;
        let manager = manager(&query, &parts.headers, &caller.actor, target.verb)?;
        let ask = Ask {
            shape: Shape::negotiate(accept, query.text("includeObject"), self.inner.clock.now())?,
            content_type: header_text(&parts.headers, header::CONTENT_TYPE).to_owned(),
            dry_run: dry_run(&query, target.verb)?,
            manager,
            caller,
            target,
            resource,
            query,
            body,
        };
        let mut answer = self.answer(&ask).await?;
        if let Some(deprecation) = &ask.resource.deprecation {
            answer.warnings.push(deprecation.clone());
        }
        Ok(answer)
    }

    async fn answer(&self, ask: &Ask) -> Result<Answer, StatusError> {
        match (ask.target.verb, ask.target.subresource.as_str()) {
            (Verb::Get, "" | "status") => self.get(ask).await,
            (Verb::Get, "scale") => self.get_scale(ask),
            (Verb::List, _) => self.list(ask).await,
            (Verb::Watch, _) => self.watch(ask).await,
            (Verb::Create, "") => self.create(ask).await,
            (Verb::Create, "token") => self.create_token(ask),
            (Verb::Create, "eviction") => self.evict(ask),
            (Verb::Update, "" | "status" | "finalize") => self.update(ask).await,
            (Verb::Patch, "" | "status") => self.patch(ask).await,
            (Verb::Update, "scale") => self.update_scale(ask).await,
            (Verb::Patch, "scale") => self.patch_scale(ask).await,
            (Verb::Delete, "") => self.delete(ask).await,
            (Verb::DeleteCollection, "") => self.delete_collection(ask).await,
            (_, "status" | "scale" | "finalize" | "token" | "eviction") => {
                Err(StatusError::method_not_allowed())
            }
            (_, other) => {
                let what = format!("the subresource {other} of {}", ask.resource.plural);
                Err(StatusError::not_implemented(what))
            }
        }
    }
}

/// The answer to a request that never reached the API.
pub(crate) fn refusal(error: &StatusError) -> Response<AnswerBody> {
    response(Answer::error(error, false))
}

fn describe(record: &mut AuditRecord, target: &Target) {
    record.verb = target.verb.as_str();
    record.group.clone_from(&target.group);
    record.resource.clone_from(&target.plural);
    record.subresource.clone_from(&target.subresource);
    record.namespace.clone_from(&target.namespace);
    record.name.clone_from(&target.name);
}

/// Names that do not fit the resource's scope lead to paths that no server has.
fn check_scope(resource: &Resource, target: &Target) -> Result<(), StatusError> {
    let served = match target.subresource.as_str() {
        "status" => resource.status,
        "scale" => resource.scale.is_some(),
        "finalize" => resource.kind == "Namespace" && !resource.is_custom(),
        "token" => resource.kind == "ServiceAccount" && !resource.is_custom(),
        "eviction" => resource.kind == "Pod" && !resource.is_custom(),
        _ => true,
    };
    let needs_namespace = resource.namespaced
        && target.namespace.is_empty()
        && !matches!(
            target.verb,
            Verb::List | Verb::Watch | Verb::DeleteCollection
        );
    let misplaced = !resource.namespaced && !target.namespace.is_empty();
    let over_all =
        resource.namespaced && target.namespace.is_empty() && target.verb == Verb::DeleteCollection;
    if over_all {
        return Err(StatusError::method_not_allowed());
    }
    if !served && resource.is_custom() {
        let subject = Subject {
            group: &target.group,
            resource: &target.plural,
            name: &target.name,
        };
        return Err(StatusError::not_found(subject));
    }
    if !served || needs_namespace || misplaced {
        return Err(if resource.is_custom() {
            StatusError::unknown_path()
        } else {
            StatusError::unknown_resource()
        });
    }
    Ok(())
}

/// The name, where the verb needs one or may not have one.
fn check_name(resource: &Resource, target: &mut Target) -> Result<(), StatusError> {
    let is_object = target.subresource.is_empty();
    match target.verb {
        Verb::Create if is_object && !target.name.is_empty() => {
            if !resource.is_custom() {
                return Err(StatusError::method_not_allowed());
            }
            // One handler serves all paths of custom kinds, and the name counts for nothing.
            target.name.clear();
        }
        Verb::Update | Verb::Patch if target.name.is_empty() => {
            return Err(if resource.is_custom() {
                StatusError::bad_request("name must be provided")
            } else {
                StatusError::method_not_allowed()
            });
        }
        _ => {}
    }
    Ok(())
}

fn dry_run(query: &Query, verb: Verb) -> Result<bool, StatusError> {
    match (verb, query.get("dryRun")) {
        (Verb::Get | Verb::List | Verb::Watch, _) | (_, None) => Ok(false),
        (_, Some("All")) => Ok(true),
        (_, Some(other)) => {
            let error = FieldError::new(
                FieldErrorKind::NotSupported,
                "dryRun",
                json!([other]),
                "supported values: \"All\"",
            );
            Err(StatusError::invalid_options(verb.options(), &[error]))
        }
    }
}

fn manager(
    query: &Query,
    headers: &HeaderMap,
    actor: &str,
    verb: Verb,
) -> Result<String, StatusError> {
    let given = query.text("fieldManager");
    if given.len() > MANAGER_LENGTH_MAX {
        let detail = format!("may not be more than {MANAGER_LENGTH_MAX} bytes");
        let error = FieldError::new(FieldErrorKind::TooLong, "fieldManager", None, detail);
        return Err(StatusError::invalid_options(verb.options(), &[error]));
    }
    if !given.is_empty() {
        return Ok(given.to_owned());
    }
    let agent = header_text(headers, header::USER_AGENT);
    let agent = if agent.is_empty() { actor } else { agent };
    let product = agent.split('/').next().unwrap_or_default();
    Ok(product.chars().take(MANAGER_LENGTH_MAX).collect())
}

fn header_text(headers: &HeaderMap, name: header::HeaderName) -> &str {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}

pub(crate) fn method_verb(parts: &Parts) -> &'static str {
    match parts.method.as_str() {
        "GET" => "get",
        "POST" => "post",
        "PUT" => "put",
        "PATCH" => "patch",
        "DELETE" => "delete",
        "HEAD" => "head",
        "OPTIONS" => "options",
        _ => "other",
    }
}

fn response(answer: Answer) -> Response<AnswerBody> {
    let mut response = Response::new(answer.body);
    *response.status_mut() = answer.code;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static(answer.content_type),
    );
    headers.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("no-cache, private"),
    );
    let mut said = BTreeSet::new();
    for warning in answer.warnings {
        // Several webhooks, or several objects of one request, may say the same.
        if !said.insert(warning.clone()) {
            continue;
        }
        let text = format!("299 - {warning:?}");
        if let Ok(value) = HeaderValue::from_str(&text) {
            headers.append(header::WARNING, value);
        }
    }
    response
}

/// Tables of a watch carry their columns once.
pub(crate) fn repeats_columns(shape: Shape) -> bool {
    match shape.form {
        Form::Whole | Form::Metadata => true,
        Form::Table(RowObject::None | RowObject::Metadata | RowObject::Object) => false,
    }
}
