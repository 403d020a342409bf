//! Cases: requests in order, with values that later ones take from earlier answers.

use std::collections::BTreeMap;
use std::error::Error;
use std::time::Duration;

use http::{Method, Request};
use serde_json::{Value, json};

use crate::answer;
use crate::server::Server;

/// How long a watch is left open, in whole seconds; everything that it shows was written before.
const WATCH_SECONDS: u64 = 2;
/// How long a state may take: the collector of garbage learns of new kinds every 30 s.
const LIMIT: Duration = Duration::from_secs(90);
/// Between two looks at it.
const LOOK: Duration = Duration::from_millis(100);

pub(crate) const JSON: &str = "application/json";
pub(crate) const MERGE: &str = "application/merge-patch+json";
pub(crate) const JSON_PATCH: &str = "application/json-patch+json";
pub(crate) const STRATEGIC: &str = "application/strategic-merge-patch+json";
pub(crate) const APPLY: &str = "application/apply-patch+yaml";
pub(crate) const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

/// Requests in order, in a namespace of their own. `{ns}` stands for it, `{name}` for a value that
/// was [kept](Step::keep), `{webhook}` and `{authority}` for the [webhook](crate::webhook) that both call.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) steps: Vec<Step>,
    /// No other case is played meanwhile.
    pub(crate) is_alone: bool,
    hidden: Vec<Hidden>,
}

/// What a case hides from the comparison, since it must differ.
#[derive(Clone, Copy)]
enum Hidden {
    /// A value that was kept.
    Value(&'static str),
    /// How old an object is, in tables.
    Ages,
    /// Addresses of the server.
    Addresses,
}

impl Case {
    /// Lets no other case be played meanwhile, since they would notice.
    pub(crate) fn alone(mut self) -> Self {
        self.is_alone = true;
        self
    }

    /// Takes a kept value out of all answers.
    pub(crate) fn without_value(mut self, name: &'static str) -> Self {
        self.hidden.push(Hidden::Value(name));
        self
    }

    /// Takes ages out of all answers.
    pub(crate) fn without_ages(mut self) -> Self {
        self.hidden.push(Hidden::Ages);
        self
    }

    /// Takes the server's addresses out of all answers.
    pub(crate) fn without_addresses(mut self) -> Self {
        self.hidden.push(Hidden::Addresses);
        self
    }

    fn hide(&self, text: &str, values: &BTreeMap<String, String>) -> String {
        let mut text = text.to_owned();
        for hidden in &self.hidden {
            text = match hidden {
                Hidden::Value(name) => match values.get(*name).filter(|value| !value.is_empty()) {
                    Some(value) => text.replace(value, &format!("({name})")),
                    None => text,
                },
                Hidden::Ages => lines(&text, |line| {
                    let word = line.trim().trim_matches(|c| c == '"' || c == ',');
                    let number = word.strip_suffix('s').unwrap_or_default();
                    !number.is_empty() && number.chars().all(|c| c.is_ascii_digit())
                }),
                Hidden::Addresses => lines(&text, |line| line.contains("serverAddress\":")),
            };
        }
        text
    }
}

/// Leaves out lines.
fn lines(text: &str, is_hidden: impl Fn(&str) -> bool) -> String {
    let kept = text.lines().filter(|line| !is_hidden(line));
    kept.map(|line| format!("{line}\n")).collect()
}

/// One request.
pub(crate) struct Step {
    method: Method,
    path: String,
    content_type: &'static str,
    accept: &'static str,
    body: Vec<u8>,
    keep: Vec<(&'static str, &'static str)>,
    until: Option<fn(u16, &str) -> bool>,
    is_watch: bool,
    is_compaction: bool,
    /// Only the answer's code is compared.
    only_code: bool,
}

pub(crate) fn case(name: &'static str, steps: impl IntoIterator<Item = Step>) -> Case {
    Case {
        name,
        steps: steps.into_iter().collect(),
        is_alone: false,
        hidden: Vec::new(),
    }
}

fn step(method: Method, path: &str, content_type: &'static str, body: Vec<u8>) -> Step {
    Step {
        method,
        path: path.to_owned(),
        content_type,
        accept: JSON,
        body,
        keep: Vec::new(),
        until: None,
        is_watch: false,
        is_compaction: false,
        only_code: false,
    }
}

pub(crate) fn get(path: &str) -> Step {
    step(Method::GET, path, "", Vec::new())
}

#[expect(clippy::needless_pass_by_value, reason = "json! makes values")]
pub(crate) fn post(path: &str, body: Value) -> Step {
    step(Method::POST, path, JSON, body.to_string().into_bytes())
}

#[expect(clippy::needless_pass_by_value, reason = "json! makes values")]
pub(crate) fn put(path: &str, body: Value) -> Step {
    step(Method::PUT, path, JSON, body.to_string().into_bytes())
}

#[expect(clippy::needless_pass_by_value, reason = "json! makes values")]
pub(crate) fn patch(kind: &'static str, path: &str, body: Value) -> Step {
    step(Method::PATCH, path, kind, body.to_string().into_bytes())
}

pub(crate) fn delete(path: &str) -> Step {
    step(Method::DELETE, path, "", Vec::new())
}

#[expect(clippy::needless_pass_by_value, reason = "json! makes values")]
pub(crate) fn delete_with(path: &str, options: Value) -> Step {
    step(Method::DELETE, path, JSON, options.to_string().into_bytes())
}

/// A body as it stands, whatever it is.
pub(crate) fn raw(method: Method, path: &str, kind: &'static str, body: &str) -> Step {
    step(method, path, kind, body.as_bytes().to_vec())
}

/// A watch that is left open for two seconds; `path` begins its parameters with `?`.
pub(crate) fn watch(path: &str) -> Step {
    let path = format!("{path}&watch=1&timeoutSeconds={WATCH_SECONDS}");
    Step {
        is_watch: true,
        ..step(Method::GET, &path, "", Vec::new())
    }
}

/// Lets the server forget its history; no request does.
pub(crate) fn compact() -> Step {
    Step {
        is_compaction: true,
        ..get("compaction")
    }
}

impl Step {
    /// Keeps a value of the answer under a name, for later steps.
    pub(crate) fn keep(mut self, name: &'static str, pointer: &'static str) -> Self {
        self.keep.push((name, pointer));
        self
    }

    /// Compares the answer's code alone, for objects that a case only needs.
    pub(crate) fn only_code(mut self) -> Self {
        self.only_code = true;
        self
    }

    /// Asks for another form of the answer.
    pub(crate) fn accept(mut self, accept: &'static str) -> Self {
        self.accept = accept;
        self
    }

    /// Repeats the request until the answer is as wanted.
    pub(crate) fn until(mut self, wanted: fn(u16, &str) -> bool) -> Self {
        self.until = Some(wanted);
        self
    }

    /// For messages.
    pub(crate) fn title(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    fn request(&self, values: &BTreeMap<String, String>) -> Result<Request<Vec<u8>>, http::Error> {
        let fill = |text: &str| {
            let mut text = text.to_owned();
            for (name, value) in values {
                text = text.replace(&format!("{{{name}}}"), value);
            }
            text
        };
        let body = match std::str::from_utf8(&self.body) {
            Ok(text) => fill(text).into_bytes(),
            Err(_) => self.body.clone(),
        };
        let request = Request::builder()
            .method(self.method.clone())
            .uri(fill(&self.path))
            .header("accept", self.accept)
            // Both servers name the manager of fields after it.
            .header("user-agent", "conformance/1.0");
        let request = if self.content_type.is_empty() {
            request
        } else {
            request.header("content-type", self.content_type)
        };
        request.body(body)
    }

    async fn play(
        &self,
        server: &Server,
        values: &mut BTreeMap<String, String>,
    ) -> Result<String, Box<dyn Error>> {
        if self.is_compaction {
            server.compact().await?;
            return Ok(String::new());
        }
        let begun = tokio::time::Instant::now();
        let answer = loop {
            let answer = server.send(self.request(values)?).await?;
            let is_there = self
                .until
                .is_none_or(|wanted| wanted(answer.status().as_u16(), answer.body()));
            if is_there || begun.elapsed() > LIMIT {
                break answer;
            }
            tokio::time::sleep(LOOK).await;
        };
        let parsed: Value = serde_json::from_str(answer.body()).unwrap_or_default();
        for (name, pointer) in &self.keep {
            let value = match parsed.pointer(pointer) {
                Some(Value::String(text)) => text.clone(),
                Some(other) => other.to_string(),
                None => String::new(),
            };
            values.insert((*name).to_owned(), value);
        }
        if self.only_code {
            return Ok(answer.status().to_string());
        }
        let text = answer::render(&answer, self.is_watch);
        Ok(text.replace(&values["ns"], "(namespace)"))
    }
}

impl Case {
    /// The answers to all steps.
    pub(crate) async fn play(&self, server: &Server) -> Result<Vec<String>, String> {
        // Words of cases are words of answers, so the namespace needs one of its own.
        let namespace = format!("case-{}", self.name);
        let made =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
        let failed = |error: Box<dyn Error>| crate::explain(&*error);
        server.apply(made).await.map_err(failed)?;
        let webhook = server.webhook.clone();
        let mut values = BTreeMap::from([
            ("ns".to_owned(), namespace),
            ("webhook".to_owned(), webhook.url),
            ("authority".to_owned(), webhook.authority),
        ]);
        let mut answers = Vec::new();
        for step in &self.steps {
            let answer = step.play(server, &mut values).await.map_err(failed)?;
            answers.push(self.hide(&answer, &values));
        }
        Ok(answers)
    }
}
