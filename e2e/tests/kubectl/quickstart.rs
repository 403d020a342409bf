//! The quick start as somebody starts it who wants to try `kubectl`: a process that stays up.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

/// Time until everything runs; 20 seconds on an idle machine.
const UP_MAX: Duration = Duration::from_secs(240);
/// Time until the process has ended after SIGTERM.
const DOWN_MAX: Duration = Duration::from_secs(10);
/// Time between two looks at a process that ends.
const LOOK: Duration = Duration::from_millis(20);
/// How the line with the kubeconfig begins.
const KUBECONFIG: &str = "kubeconfig: ";

/// Name of the kubeconfig of the infra cluster, beside the other, and of its context.
const INFRA: &str = "infra";

/// A running quick start.
pub(crate) struct QuickStart {
    child: Child,
    /// The kubeconfig that it wrote.
    kubeconfig: PathBuf,
}

impl QuickStart {
    /// Builds and starts it with the provider for this platform, and waits until everything runs.
    pub(crate) fn start(provider: &str) -> Self {
        let mut child = Command::new(build())
            .args(["--serve", "--plain", "--provider", provider])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the quick start starts");
        let lines = lines(&mut child);
        let started = Instant::now();
        let mut said = Vec::new();
        while let Ok(line) = lines.recv_timeout(UP_MAX.saturating_sub(started.elapsed())) {
            if let Some(path) = line.strip_prefix(KUBECONFIG) {
                let kubeconfig = PathBuf::from(path);
                return Self { child, kubeconfig };
            }
            said.push(line);
        }
        // Whether it has ended or is too slow, it goes.
        let _ = child.kill();
        panic!(
            "the quick start does not come up; it said:\n{}",
            said.join("\n")
        );
    }
}

impl QuickStart {
    /// Its kubeconfig; the infra cluster, where there is one, is the context `infra`.
    pub(crate) fn kubeconfig(&self) -> String {
        let mut all = read(&self.kubeconfig);
        let infra = self.kubeconfig.with_file_name(INFRA);
        if infra.exists() {
            let mut infra = read(&infra);
            let context = &mut infra["contexts"][0];
            context["name"] = json!(INFRA);
            context["context"]["cluster"] = json!(INFRA);
            context["context"]["user"] = json!(INFRA);
            infra["clusters"][0]["name"] = json!(INFRA);
            infra["users"][0]["name"] = json!(INFRA);
            for part in ["contexts", "clusters", "users"] {
                let more = infra[part][0].take();
                let list = all[part].as_array_mut();
                list.expect("a kubeconfig has lists").push(more);
            }
        }
        all.to_string()
    }
}

/// What it writes is JSON, which is YAML too.
fn read(path: &Path) -> Value {
    let text = fs::read_to_string(path).expect("the quick start wrote it");
    serde_json::from_str(&text).expect("it writes JSON")
}

impl Drop for QuickStart {
    fn drop(&mut self) {
        // The standard library knows SIGKILL only, which leaves the kubeconfig behind.
        let asked = Command::new("kill")
            .arg(self.child.id().to_string())
            .status();
        let deadline = Instant::now() + DOWN_MAX;
        while asked.as_ref().is_ok_and(ExitStatus::success) && Instant::now() < deadline {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            thread::sleep(LOOK);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the process says, line by line, read to the end so that it never waits for a reader.
fn lines(child: &mut Child) -> Receiver<String> {
    let out = child.stdout.take().expect("the output is a pipe");
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            // Nobody listens once it is up.
            let _ = sender.send(line);
        }
    });
    receiver
}

/// The program, as `cargo run --example quickstart` builds it: of the whole workspace, since of one
/// package half of its dependencies would be built again with fewer features.
fn build() -> PathBuf {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--workspace", "--example", "quickstart"]);
    if cfg!(not(debug_assertions)) {
        cargo.arg("--release");
    }
    let built = cargo.status().expect("cargo starts");
    assert!(built.success(), "the quick start does not build");
    let test = env::current_exe().expect("a test knows its path");
    let profile = test.ancestors().nth(2).expect("tests lie in deps");
    profile.join("examples/quickstart")
}
