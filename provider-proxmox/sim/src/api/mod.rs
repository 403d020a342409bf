//! The REST API: routes, and the order in which a call is checked.
//!
//! The order is the real server's: authentication (401), content and its type (501, 506), the
//! route (501), privileges (403), the way to the node (595, 596), parameters (400), and only then
//! what the call is about (500 with a message).

mod access;
mod agent;
mod cluster;
mod config;
mod form;
mod ha;
mod lifecycle;
mod multipart;
mod node;
mod pool;
mod reply;
mod route;
mod schema;
mod storage;
mod tasks;

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, header};
use serde_json::Value;

use crate::api::form::{read_parameters, segments};
use crate::api::multipart::Upload;
pub(crate) use crate::api::reply::Refusal;
use crate::api::reply::{success, success_of};
use crate::api::route::{Route, find};
use crate::api::schema::Params;
use crate::audit::{Record, Touched};
use crate::fault::CallFault;
use crate::world::task::{State, Upid, is_success};
use crate::world::{Health, World};

/// What all paths of the API begin with.
const BASE: &str = "/api2/json";

/// Largest body that is no upload.
const BODY_MAX: usize = 512 << 10;

/// A call with everything known of it.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) token: String,
    pub(crate) params: Params,
    /// The node in the path, or the one that received the call.
    pub(crate) node: String,
    /// The node that received the call.
    pub(crate) entry: String,
    pub(crate) vmid: u32,
    pub(crate) storage: String,
    /// The last part of the path, where it is a name of some sort: task, volume, pool, resource.
    pub(crate) subject: String,
    pub(crate) upload: Option<Upload>,
}

/// What a handler answers.
#[derive(Debug)]
pub(crate) enum Answer {
    Data(Value),
    /// A part of a list, and how long the list is.
    Part(Value, usize),
    /// The UPID of a task, or null if it ends well in so much time; `failure` precedes the
    /// reason if it doesn't.
    Task {
        upid: String,
        at_most: Duration,
        failure: String,
    },
    /// Data that takes a while.
    After(Duration, Value),
}

impl Answer {
    pub(crate) fn null() -> Self {
        Self::Data(Value::Null)
    }

    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self::Data(Value::String(text.into()))
    }
}

pub(crate) type Handler = fn(&mut World, &Call) -> Result<Answer, Refusal>;

/// What the platform does about a call.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Answers it, after so long.
    Respond {
        after: Duration,
        response: Response<Bytes>,
    },
    /// Waits for a task, at most so long, and then answers.
    Await {
        upid: String,
        at_most: Duration,
        failure: String,
    },
}

/// Decides what a call does and does it. `entry` is the node that received it.
pub(crate) fn handle(world: &mut World, entry: Option<&str>, request: &Request<Bytes>) -> Outcome {
    let path = request.uri().path();
    let path = path.strip_prefix(BASE).unwrap_or(path).to_owned();
    let mut record = Record {
        at: world.elapsed(),
        method: request.method().clone(),
        route: "-",
        path,
        vmid: None,
        token: "-".to_owned(),
        status: http::StatusCode::OK,
    };
    let outcome =
        run(world, entry, request, &mut record).unwrap_or_else(|refusal| Outcome::Respond {
            after: refusal.after,
            response: refusal.response(),
        });
    if let Outcome::Respond { response, .. } = &outcome {
        record.status = response.status();
    }
    tracing::debug!(
        method = %record.method, path = record.path, token = record.token,
        status = record.status.as_u16(), "answered"
    );
    world.audit.add(record);
    outcome
}

/// What a call that waited for a task is answered, or `None` while it has to wait on.
pub(crate) fn settle(
    world: &World,
    upid: &str,
    failure: &str,
    give_up: bool,
) -> Option<Response<Bytes>> {
    match world.tasks.get(upid).and_then(|task| task.exit()) {
        Some(exit) if is_success(exit) => Some(success(&Value::Null)),
        Some(exit) => Some(Refusal::domain(format!("{failure}{exit}")).response()),
        None if give_up => Some(success(&Value::String(upid.to_owned()))),
        None => None,
    }
}

fn run(
    world: &mut World,
    entry: Option<&str>,
    request: &Request<Bytes>,
    record: &mut Record,
) -> Result<Outcome, Refusal> {
    let full = request.uri().path();
    let Some(path) = full
        .strip_prefix(BASE)
        .filter(|rest| rest.is_empty() || rest.starts_with('/'))
    else {
        return Err(Refusal::bare(404, format!("no such file '{full}'")));
    };
    let authorization = request.headers().get(header::AUTHORIZATION);
    let authorization = authorization.and_then(|value| value.to_str().ok());
    let token = world.access.authenticate(authorization);
    let delay = world.delays.unauthorized;
    let token = token.map_err(|reason| Refusal::bare(401, reason).after(delay))?;
    record.token.clone_from(&token);
    let method = request.method();
    check_content(method, request)?;
    let segments = segments(path);
    let found = find(method, &segments);
    let Some((route, captures)) = found else {
        read_parameters(request)?;
        return Err(Refusal::new(
            501,
            format!("Method '{method} {path}' not implemented"),
        ));
    };
    record.route = route.pattern;
    let (mut params, upload) = read_content(route, request)?;
    if let Some(upload) = &upload {
        upload.add_to(&mut params)?;
    }
    let entry = entry_node(world, entry);
    let mut call = Call {
        token,
        params,
        node: captures.node.clone().unwrap_or_else(|| entry.clone()),
        entry,
        vmid: 0,
        storage: captures.storage.unwrap_or_default(),
        subject: captures.subject.unwrap_or_default(),
        upload,
    };
    let vmid = captures.vmid.as_deref().map(str::parse::<u32>);
    call.vmid = vmid.clone().and_then(Result::ok).unwrap_or_default();
    record.vmid = named_machine(&call);
    route.permission.check(world, &call)?;
    if let (Some(Err(_)), Some(text)) = (vmid, captures.vmid) {
        return Err(Refusal::parameter(
            "vmid",
            format!("type check ('integer') failed - got '{text}'"),
        ));
    }
    if captures.node.is_some()
        && route.proxied
        && let Some(outcome) = way_to_node(world, &call)?
    {
        return Ok(outcome);
    }
    if method != Method::GET && !world.quorate && !path.starts_with("/access") {
        return Err(Refusal::domain("cluster not ready - no quorum?"));
    }
    let fault = draw_call_fault(world, route, method, captures.node.is_some());
    carry_out(world, route, &call, fault.as_ref(), record)
}

fn carry_out(
    world: &mut World,
    route: &Route,
    call: &Call,
    fault: Option<&CallFault>,
    record: &Record,
) -> Result<Outcome, Refusal> {
    let mut after = Duration::ZERO;
    let lost = Refusal::new(596, "Connection timed out");
    match fault {
        Some(CallFault::Refuse { status, message }) => {
            return Err(Refusal::new(*status, message.clone()));
        }
        Some(CallFault::LostBefore) => {
            let after = world.delays.proxy_timeout;
            return Ok(Outcome::Respond {
                after,
                response: lost.response(),
            });
        }
        Some(CallFault::Delay(delay)) => after = delay.div_f64(world.speed),
        Some(CallFault::LostAfter) | None => {}
    }
    route.schema.check(&call.params)?;
    let stranger = stranger_of(world, call, record);
    let answer = (route.handler)(world, call)?;
    if record.is_mutation()
        && let Some(what) = stranger
    {
        world.audit.touched.push(Touched {
            what,
            method: record.method.clone(),
            path: record.path.clone(),
            token: record.token.clone(),
        });
    }
    if fault == Some(&CallFault::LostAfter) {
        let after = world.delays.proxy_timeout;
        return Ok(Outcome::Respond {
            after,
            response: lost.response(),
        });
    }
    Ok(match answer {
        Answer::Data(data) => Outcome::Respond {
            after,
            response: success(&data),
        },
        Answer::Part(data, total) => Outcome::Respond {
            after,
            response: success_of(&data, total),
        },
        Answer::After(more, data) => Outcome::Respond {
            after: after + more,
            response: success(&data),
        },
        Answer::Task { upid, at_most, .. } if at_most.is_zero() => Outcome::Respond {
            after,
            response: success(&Value::String(upid)),
        },
        Answer::Task {
            upid,
            at_most,
            failure,
        } => match settle(world, &upid, &failure, false) {
            Some(response) => Outcome::Respond { after, response },
            None => Outcome::Await {
                upid,
                at_most,
                failure,
            },
        },
    })
}

/// Checks what the HTTP layer checks before it knows the route.
fn check_content(method: &Method, request: &Request<Bytes>) -> Result<(), Refusal> {
    if request.headers().contains_key(header::TRANSFER_ENCODING) {
        return Err(Refusal::bare(
            501,
            "chunked transfer encoding not supported",
        ));
    }
    match *method {
        Method::PUT | Method::POST => Ok(()),
        Method::GET | Method::DELETE if request.body().is_empty() => Ok(()),
        Method::GET | Method::DELETE => Err(Refusal::bare(
            501,
            format!("Unexpected content for method '{method}'"),
        )),
        _ => Err(Refusal::bare(
            501,
            format!("method '{method}' not available"),
        )),
    }
}

fn read_content(
    route: &Route,
    request: &Request<Bytes>,
) -> Result<(Params, Option<Upload>), Refusal> {
    if route.is_upload {
        return Upload::read(request).map(|(params, upload)| (params, Some(upload)));
    }
    if request.body().len() > BODY_MAX {
        return Err(Refusal::bare(501, "for data too large"));
    }
    Ok((read_parameters(request)?, None))
}

/// The node that receives a call: the one asked for, or the first that answers.
pub(crate) fn entry_node(world: &World, entry: Option<&str>) -> String {
    let online = || {
        world
            .nodes
            .values()
            .find(|node| node.health == Health::Online)
    };
    let node = entry.and_then(|entry| world.nodes.get(entry));
    let node = node.or_else(online).or_else(|| world.nodes.values().next());
    node.map(|node| node.spec.name.clone()).unwrap_or_default()
}

/// What becomes of a call that can't reach its node, or `None` if it can.
fn way_to_node(world: &mut World, call: &Call) -> Result<Option<Outcome>, Refusal> {
    let known = world.nodes.contains_key(&call.node);
    if known && world.rng.happens(world.rates.node_silent) {
        world.silence(&call.node, Some(world.rates.silence));
    }
    let Some(node) = world.nodes.get(&call.node) else {
        return Err(Refusal::domain(format!(
            "hostname lookup '{0}' failed - failed to get address info for: {0}: Name or service not known",
            call.node
        )));
    };
    Ok(match node.health {
        Health::Online => None,
        Health::Offline => {
            let response = Refusal::new(595, "No route to host").response();
            Some(Outcome::Respond {
                after: Duration::ZERO,
                response,
            })
        }
        Health::Silent => {
            let response = Refusal::new(596, "Connection timed out").response();
            Some(Outcome::Respond {
                after: world.delays.proxy_timeout,
                response,
            })
        }
    })
}

fn draw_call_fault(
    world: &mut World,
    route: &Route,
    method: &Method,
    to_node: bool,
) -> Option<CallFault> {
    if let Some(fault) = world.script.take_call(method, route.pattern) {
        return Some(fault);
    }
    if !to_node {
        return None;
    }
    if world.rng.happens(world.rates.lost_before) {
        return Some(CallFault::LostBefore);
    }
    let changes = *method != Method::GET;
    (changes && world.rng.happens(world.rates.lost_after)).then_some(CallFault::LostAfter)
}

/// The machine that a call names.
fn named_machine(call: &Call) -> Option<u32> {
    let parameter = || call.params.get("newid").or_else(|| call.params.get("vmid"));
    let task = || Upid::parse(&call.subject)?.id.parse().ok();
    let file = || {
        let name = call
            .upload
            .as_ref()
            .map_or(call.subject.as_str(), |upload| &upload.file_name);
        let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
        let digits = stem.rsplit(|c: char| !c.is_ascii_digit()).next()?;
        digits.parse().ok()
    };
    let newid = call.params.get("newid").and_then(|text| text.parse().ok());
    newid
        .or((call.vmid >= 100).then_some(call.vmid))
        .or_else(|| parameter().and_then(|text| text.parse().ok()))
        .or_else(task)
        .or_else(file)
        .filter(|vmid| *vmid >= 100)
}

/// What a changing call is about, if that belongs to somebody else. Reading a template to clone
/// it doesn't change it.
fn stranger_of(world: &World, call: &Call, record: &Record) -> Option<String> {
    if record.route.ends_with("/clone") {
        return None;
    }
    if call.vmid != 0 {
        let vm = world.vms.get(&call.vmid)?;
        return world
            .births
            .is_stranger(vm.birth)
            .then(|| call.vmid.to_string());
    }
    if record.method == Method::DELETE && record.route.contains("/content/") {
        let volid = storage::full_volid(&call.storage, &call.subject);
        let volume = world.volume(&call.node, &volid)?;
        let owner = volume.vmid.and_then(|vmid| world.vms.get(&vmid));
        let strange = volume.given || owner.is_some_and(|vm| world.births.is_stranger(vm.birth));
        return strange.then_some(volid);
    }
    None
}

impl World {
    /// Whether a token has a privilege on a path; VMs have those of their pool too.
    pub(crate) fn allows(&self, token: &str, path: &str, privilege: &str) -> bool {
        self.access
            .allows(token, path, self.pool_of(path), privilege)
    }

    fn pool_of(&self, path: &str) -> Option<&str> {
        let vmid = path.strip_prefix("/vms/")?.parse().ok()?;
        self.vms.get(&vmid)?.pool.as_deref()
    }

    /// Demands a privilege.
    pub(crate) fn demand(&self, token: &str, path: &str, privilege: &str) -> Result<(), Refusal> {
        if self.allows(token, path, privilege) {
            Ok(())
        } else {
            Err(Refusal::forbidden(path, privilege))
        }
    }

    /// Demands any of these privileges.
    pub(crate) fn demand_any(
        &self,
        token: &str,
        path: &str,
        privileges: &[&str],
    ) -> Result<(), Refusal> {
        if privileges
            .iter()
            .any(|privilege| self.allows(token, path, privilege))
        {
            Ok(())
        } else {
            Err(Refusal::forbidden(path, &privileges.join("|")))
        }
    }

    /// When a waiting call should look at its task again.
    pub(crate) fn task_ends(&self, upid: &str) -> Option<tokio::time::Instant> {
        match self.tasks.get(upid)?.state {
            State::Waiting { until } => Some(until),
            State::Running { ends } => Some(ends),
            State::Stopped { at, .. } => Some(at),
        }
    }
}
