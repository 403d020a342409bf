//! Tasks: status, log, lists, stopping.

use serde_json::{Map, Value, json};

use crate::api::reply::Refusal;
use crate::api::{Answer, Call};
use crate::world::World;
use crate::world::task::{State, Task, is_success};

type Handled = Result<Answer, Refusal>;

/// How many entries a list or log gives, unless asked for another number.
const PAGE: usize = 50;

fn visible(world: &World, task: &Task, token: &str) -> bool {
    task.upid.user == token
        || world.allows(token, &format!("/nodes/{}", task.upid.node), "Sys.Audit")
}

/// The task of a call; the node in its UPID must be the one in the path.
fn task_here<'a>(world: &'a World, call: &Call) -> Result<&'a Task, Refusal> {
    let task = world
        .tasks
        .get(&call.subject)
        .filter(|task| task.upid.node == call.node);
    let task = task.ok_or_else(|| Refusal::parameter("upid", "no such task"))?;
    if visible(world, task, &call.token) {
        Ok(task)
    } else {
        Err(Refusal::forbidden(
            &format!("/nodes/{}", call.node),
            "Sys.Audit",
        ))
    }
}

fn head(task: &Task) -> Map<String, Value> {
    let upid = &task.upid;
    let mut entry = Map::new();
    entry.insert("upid".into(), json!(upid.to_string()));
    entry.insert("node".into(), json!(upid.node));
    entry.insert("pid".into(), json!(upid.pid));
    entry.insert("pstart".into(), json!(upid.pstart));
    entry.insert("starttime".into(), json!(upid.starttime));
    entry.insert("type".into(), json!(upid.kind));
    entry.insert("id".into(), json!(upid.id));
    entry
}

pub(crate) fn status(world: &mut World, call: &Call) -> Handled {
    let task = task_here(world, call)?;
    let mut data = head(task);
    let (user, token) = task
        .upid
        .user
        .split_once('!')
        .unwrap_or((&task.upid.user, ""));
    data.insert("user".into(), json!(user));
    if !token.is_empty() {
        data.insert("tokenid".into(), json!(token));
    }
    match task.exit() {
        None => data.insert("status".into(), json!("running")),
        Some(exit) => {
            data.insert("exitstatus".into(), json!(exit));
            data.insert("status".into(), json!("stopped"))
        }
    };
    Ok(Answer::Data(Value::Object(data)))
}

pub(crate) fn log(world: &mut World, call: &Call) -> Handled {
    let task = task_here(world, call)?;
    let start = call.params.number("start").unwrap_or(0);
    let limit: usize = call.params.number("limit").unwrap_or(PAGE);
    let limit = if limit == 0 { usize::MAX } else { limit };
    let lines = task.log.iter().enumerate().skip(start).take(limit);
    let lines = lines.map(|(at, line)| json!({ "n": at + 1, "t": line }));
    Ok(Answer::Part(lines.collect(), task.log.len()))
}

/// A task in a list: its end and exit status, once it has one.
fn listed(task: &Task) -> Map<String, Value> {
    let mut entry = head(task);
    entry.insert("user".into(), json!(task.upid.user));
    if let State::Stopped { endtime, exit, .. } = &task.state {
        entry.insert("endtime".into(), json!(endtime));
        entry.insert("status".into(), json!(exit));
    }
    entry
}

pub(crate) fn recent(world: &mut World, call: &Call) -> Handled {
    let recent = world.tasks.recent();
    let mine = recent
        .into_iter()
        .filter(|task| visible(world, task, &call.token));
    let list = mine.map(|task| {
        let mut entry = listed(task);
        if !task.is_running() {
            entry.remove("pid");
            entry.remove("pstart");
        }
        entry.insert(
            "saved".into(),
            json!(if task.is_running() { "0" } else { "1" }),
        );
        Value::Object(entry)
    });
    Ok(Answer::Data(list.collect()))
}

pub(crate) fn list(world: &mut World, call: &Call) -> Handled {
    let source = call.params.get("source").unwrap_or("archive");
    let of = |name: &str| call.params.get(name);
    let (since, until): (Option<u64>, Option<u64>) =
        (call.params.number("since"), call.params.number("until"));
    let wanted = |task: &&Task| {
        let running = task.is_running();
        let in_source = match source {
            "active" => running,
            "all" => true,
            _ => !running,
        };
        in_source
            && task.upid.node == call.node
            && visible(world, task, &call.token)
            && of("vmid").is_none_or(|vmid| task.upid.id == vmid)
            && of("typefilter").is_none_or(|kind| task.upid.kind == kind)
            && of("userfilter").is_none_or(|user| task.upid.user.contains(user))
            && since.is_none_or(|since| task.upid.starttime >= since)
            && until.is_none_or(|until| task.upid.starttime <= until)
            && (!call.params.flag("errors") || task.exit().is_some_and(|exit| !is_success(exit)))
    };
    let found: Vec<_> = world.tasks.newest().filter(wanted).collect();
    let start = call.params.number("start").unwrap_or(0);
    let limit = call.params.number("limit").unwrap_or(PAGE);
    let page = found.iter().skip(start).take(limit).map(|task| {
        let mut entry = listed(task);
        if task.is_running() {
            entry.insert("status".into(), json!("RUNNING"));
        }
        Value::Object(entry)
    });
    Ok(Answer::Part(page.collect(), found.len()))
}

pub(crate) fn stop(world: &mut World, call: &Call) -> Handled {
    let task = world
        .tasks
        .get(&call.subject)
        .filter(|task| task.upid.node == call.node);
    let task = task.ok_or_else(|| Refusal::parameter("upid", "no such task"))?;
    if task.upid.user != call.token {
        world.demand(&call.token, &format!("/nodes/{}", call.node), "Sys.Modify")?;
    }
    world.abort(&call.subject, "received interrupt");
    Ok(Answer::null())
}
