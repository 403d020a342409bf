//! A server, and a user who types.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::{Child, Command as Process, Stdio},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::{
    directory,
    normal::{normal, normal_of_lively},
    script::{Action, Command},
    world::World,
};

/// Longest that one command may take. All of them take well under a second on an idle machine.
const COMMAND_MAX: Duration = Duration::from_secs(60);
/// Time between two looks at a command that runs.
const LOOK: Duration = Duration::from_millis(10);

/// One user at one server.
pub(crate) struct Session {
    kubectl: PathBuf,
    home: TempDir,
    background: Option<Running>,
    normal: fn(&str) -> String,
    /// Dropped last: stops the server.
    _world: World,
}

impl Session {
    /// A fresh server, and a user with all rights.
    pub(crate) fn start(kubectl: &Path, transcript: &str) -> Self {
        let world = World::start(transcript);
        let home = TempDir::new().expect("a temporary directory can be made");
        fs::write(home.path().join("kubeconfig"), world.kubeconfig()).expect("it can be written");
        Self {
            kubectl: kubectl.to_owned(),
            home,
            background: None,
            normal: if world.is_lively() {
                normal_of_lively
            } else {
                normal
            },
            _world: world,
        }
    }

    /// What a line prints, as transcripts show it.
    pub(crate) fn run(&mut self, command: &Command) -> Result<String, String> {
        match &command.action {
            Action::Run {
                variables,
                arguments,
                background,
            } => {
                let mut running = Running::start(self.process(variables, arguments));
                if *background {
                    // The first answer has come, so whatever follows is a change.
                    running.wait_for(|running| running.lines() >= 2, &command.text)?;
                    self.background = Some(running);
                    return Ok(String::new());
                }
                running.wait_for(Running::is_over, &command.text)?;
                Ok(running.shown(true, self.normal))
            }
            Action::Stop { lines } => {
                let running = self.background.take();
                let mut running = running.ok_or("nothing goes on in the background")?;
                running.wait_for(|running| running.lines() >= *lines, &command.text)?;
                Ok(running.shown(false, self.normal))
            }
        }
    }

    fn process(&self, variables: &[(String, String)], arguments: &[String]) -> Process {
        let mut process = Process::new(&self.kubectl);
        process
            .current_dir(directory().join("manifests"))
            .env_clear()
            .env("HOME", self.home.path())
            .env("KUBECONFIG", self.home.path().join("kubeconfig"))
            .env("PATH", "/usr/bin:/bin")
            .env("TZ", "UTC")
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .args(arguments);
        process
    }
}

/// A process, and what it has printed.
struct Running {
    child: Child,
    out: Printed,
    error: Printed,
}

/// One stream of a process, read by a thread of its own.
struct Printed {
    text: std::sync::Arc<std::sync::Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Printed {
    fn from(mut stream: impl Read + Send + 'static) -> Self {
        let text = std::sync::Arc::<std::sync::Mutex<Vec<u8>>>::default();
        let into = text.clone();
        let reader = thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(count @ 1..) = stream.read(&mut chunk) {
                into.lock().unwrap().extend_from_slice(&chunk[..count]);
            }
        });
        Self {
            text,
            reader: Some(reader),
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.text.lock().unwrap()).into_owned()
    }

    /// Everything, after the process has ended.
    fn rest(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            reader.join().expect("readers do not panic");
        }
        self.text()
    }
}

impl Running {
    fn start(mut process: Process) -> Self {
        let mut child = process
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl starts");
        let out = Printed::from(child.stdout.take().expect("the output is a pipe"));
        let error = Printed::from(child.stderr.take().expect("the errors are a pipe"));
        Self { child, out, error }
    }

    fn lines(&self) -> usize {
        self.out.text().lines().count()
    }

    fn is_over(&self) -> bool {
        self.out.reader.as_ref().is_none_or(JoinHandle::is_finished)
            && self
                .error
                .reader
                .as_ref()
                .is_none_or(JoinHandle::is_finished)
    }

    fn wait_for(&mut self, done: impl Fn(&Self) -> bool, what: &str) -> Result<(), String> {
        let started = Instant::now();
        while !done(self) {
            if started.elapsed() > COMMAND_MAX {
                let printed = format!("{}{}", self.out.text(), self.error.text());
                return Err(format!(
                    "{what}: not done after {COMMAND_MAX:?}:\n{printed}"
                ));
            }
            thread::sleep(LOOK);
        }
        Ok(())
    }

    /// Ends the process and shows both streams, and the exit code if the process ended by itself.
    fn shown(mut self, with_code: bool, normal: fn(&str) -> String) -> String {
        if !with_code {
            self.child.kill().expect("a child can be killed");
        }
        let status = self.child.wait().expect("a child can be waited for");
        let mut shown = normal(&self.out.rest());
        for line in normal(&self.error.rest()).lines() {
            shown += &format!("! {line}\n");
        }
        if with_code && !status.success() {
            let code = status
                .code()
                .map_or("signal".to_owned(), |code| code.to_string());
            shown += &format!("[exit {code}]\n");
        }
        shown
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Fails for a child that has ended, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
