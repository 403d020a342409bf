//! Asking a guest over SSH whether its bootstrap is over: who may ask what, and when. What speaks SSH is
//! in [`ssh`](crate::ssh).
//!
//! The way of the Go provider, for images without a guest agent, and only if it is asked for
//! (`run --ssh-bootstrap-check`): the management cluster must reach port 22 of the machines.
//!
//! # Flow
//!
//! The claim of a machine names the key pair of its cluster. When the bootstrap Secret is made, a user is
//! added to its `#cloud-config` ([`admit`]). Once the VM runs, and until its node is there, the session
//! asks the guest again and again; a look at the machine finds the last answer, and waits for
//! none.
//!
//! # What the guest lets in
//!
//! The user may do one thing: read the file that tells of the end of the bootstrap. The key bears a forced
//! command, there is no password and no sudo. The guest's host key is made for it, from the private key of
//! the cluster and the mark of the machine, so whoever answers in its place is noticed at the first
//! attempt, also after a restart of the provider.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use capi_contract::{Mark, ObjectName, Wakes};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};

/// The user; the Go provider's.
pub const USER: &str = "capk";

/// The file that every bootstrap provider of Cluster API writes at the end.
pub const SENTINEL: &str = "/run/cluster-api/bootstrap-success.complete";

/// What the name of the Secret with a cluster's key pair ends with; the Go provider's.
const KEYS_SUFFIX: &str = "-ssh-keys";

/// Longest time that one attempt takes, over all addresses of the machine.
const ATTEMPT: Duration = Duration::from_secs(20);

/// Between two attempts; the Go provider's.
const AGAIN: Duration = Duration::from_secs(10);

/// How many machines are asked at the same time: a connection is some ten kilobytes and a few
/// milliseconds of signatures.
const AT_ONCE: usize = 16;

/// How many machines are known; a rollout has few that are not nodes yet.
const CHECKS_MAX: usize = 5_000;

/// Name of the Secret with the key pair of a cluster, unless it names another.
#[must_use]
pub fn keys_name(cluster: &str) -> String {
    format!("{cluster}{KEYS_SUFFIX}")
}

/// Who may log in, and who answers.
#[derive(Clone)]
pub struct Login {
    /// The public key of the cluster, as a line of `authorized_keys`.
    pub authorized: String,
    /// The private host key of the guest.
    pub host_private: String,
    /// The public host key of the guest.
    pub host_public: String,
}

// It holds a private key.
impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").finish_non_exhaustive()
    }
}

/// Why keys cannot be had. No text of it holds a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LoginError {
    /// There is no Secret.
    #[error(
        "--ssh-bootstrap-check needs a key pair in Secret {0}: make it by `provider-kubevirt ssh-keys \
         NAMESPACE/KUBEVIRTCLUSTER | kubectl apply -f -`"
    )]
    Missing(ObjectName),
    /// What is in it is no key.
    #[error("the key `key` of Secret {0} is no private SSH key: make another Secret")]
    Malformed(ObjectName),
    /// The management cluster does not give it.
    #[error("read Secret {0}: {1}")]
    Unread(ObjectName, String),
}

/// A machine that is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The machine.
    pub machine: ObjectName,
    /// What its host key was made from.
    pub mark: Mark,
    /// The Secret with the key pair of its cluster.
    pub keys: ObjectName,
    /// Where it may be reached.
    pub addresses: Vec<IpAddr>,
}

/// What came of asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The bootstrap is over.
    Done,
    /// It is not, or nobody knows; why, for people.
    NotYet(String),
}

/// What speaks SSH.
pub trait Logins: Send + Sync + 'static {
    /// Keys for the guest that bears this mark.
    fn login<'a>(
        &'a self,
        keys: &'a ObjectName,
        mark: &'a Mark,
    ) -> BoxFuture<'a, Result<Login, LoginError>>;

    /// Asks once. The caller sets the limit of time.
    fn ask<'a>(&'a self, target: &'a Target) -> BoxFuture<'a, Answer>;
}

/// Adds the user and the host key to a `#cloud-config`; `None` if it is something else, or says more of
/// users and host keys than can be added to.
///
/// The text stays as it is but for the lines that are added: comments, order and all.
#[must_use]
pub fn admit(data: &[u8], login: &Login) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(data).ok()?;
    let first = text
        .lines()
        .find(|line| !line.starts_with("## template:"))?;
    if first.trim_end() != "#cloud-config" {
        return None;
    }
    let before: Value = serde_saphyr::from_str(text).ok()?;
    if !before["ssh_keys"].is_null() {
        return None;
    }
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    match &before["users"] {
        // Without this list cloud-init makes the image's own user.
        Value::Null => {
            lines.push("users:".to_owned());
            lines.push("- default".to_owned());
            lines.extend(user("", login));
        }
        Value::Array(_) => {
            let at = lines.iter().position(|line| line.trim_end() == "users:")? + 1;
            let next = lines.get(at)?;
            let indent = &next[..next.len() - next.trim_start().len()];
            if !next.trim_start().starts_with("- ") {
                return None;
            }
            let added = user(indent, login);
            lines.splice(at..at, added);
        }
        _ => return None,
    }
    lines.push("ssh_keys:".to_owned());
    lines.push("  ed25519_private: |".to_owned());
    let private = login.host_private.lines();
    lines.extend(private.map(|line| format!("    {line}")));
    lines.push(format!("  ed25519_public: {}", login.host_public));
    let after = lines.join("\n") + "\n";
    is_added(&before, &after).then(|| after.into_bytes())
}

/// The entry of the user: one command, read from the key's own line, and nothing else.
fn user(indent: &str, login: &Login) -> Vec<String> {
    let key = format!(
        "restrict,command=\"cat {SENTINEL}\" {}",
        login.authorized.trim()
    );
    [
        format!("- name: {USER}"),
        "  gecos: asks whether the bootstrap is over".to_owned(),
        "  lock_passwd: true".to_owned(),
        "  shell: /bin/sh".to_owned(),
        "  ssh_authorized_keys:".to_owned(),
        format!("  - '{key}'"),
    ]
    .map(|line| format!("{indent}{line}"))
    .to_vec()
}

/// Whether a text says what was said before, and has the user.
fn is_added(before: &Value, after: &str) -> bool {
    let Ok(mut after) = serde_saphyr::from_str::<Value>(after) else {
        return false;
    };
    let Some(fields) = after.as_object_mut() else {
        return false;
    };
    let Some(Value::Array(mut users)) = fields.remove("users") else {
        return false;
    };
    let has_keys = fields.remove("ssh_keys").is_some();
    let count = users.len();
    users.retain(|user| user["name"] != USER);
    let is_ours = users.len() + 1 == count;
    if before["users"].is_array() {
        fields.insert("users".to_owned(), users.into());
    }
    let same = match before {
        Value::Null => fields.is_empty(),
        before => *before == after,
    };
    has_keys && is_ours && same
}

/// The machines of a session that are asked.
#[derive(Default)]
pub(crate) struct Checks {
    all: Mutex<HashMap<Mark, Check>>,
    /// Machines whose guests know the user.
    admitted: Mutex<BTreeSet<String>>,
    more: Notify,
}

struct Check {
    target: Target,
    due: Instant,
    is_asked: bool,
    answer: Option<Answer>,
}

impl Checks {
    /// Notes that the guest that bears this mark knows the user.
    pub(crate) fn admitted(&self, mark: &Mark) {
        let mut admitted = self.admitted.lock();
        if admitted.len() < CHECKS_MAX {
            admitted.insert(mark.to_string());
        }
    }

    /// The last answer of a guest that knows the user; from now on it is asked.
    pub(crate) fn answer(&self, target: Target) -> Option<Answer> {
        if !self.admitted.lock().contains(&target.mark.to_string()) {
            return None;
        }
        let mut all = self.all.lock();
        if all.len() >= CHECKS_MAX && !all.contains_key(&target.mark) {
            return Some(Answer::NotYet(format!(
                "{CHECKS_MAX} other machines are being asked"
            )));
        }
        let check = all.entry(target.mark.clone()).or_insert_with(|| {
            self.more.notify_one();
            Check {
                target: target.clone(),
                due: Instant::now(),
                is_asked: false,
                answer: None,
            }
        });
        check.target = target;
        let none = || Answer::NotYet("it has not been asked yet".to_owned());
        Some(check.answer.clone().unwrap_or_else(none))
    }

    /// Asks a machine no more.
    pub(crate) fn forget(&self, mark: &Mark) {
        self.all.lock().remove(mark);
        self.admitted.lock().remove(&mark.to_string());
    }

    /// Asks until it is dropped, and wakes the machines whose answer changes.
    pub(crate) async fn run(&self, logins: &dyn Logins, wakes: &Wakes) {
        // Whoever asked before was dropped.
        for check in self.all.lock().values_mut() {
            check.is_asked = false;
        }
        let mut asking = FuturesUnordered::new();
        loop {
            let room = AT_ONCE.saturating_sub(asking.len());
            let (due, next) = self.due(room);
            for target in due {
                asking.push(async move {
                    let answer = timeout(ATTEMPT, logins.ask(&target)).await;
                    let silent = || format!("no answer within {} s", ATTEMPT.as_secs());
                    let answer = answer.unwrap_or_else(|_| Answer::NotYet(silent()));
                    (target, answer)
                });
            }
            let has_room = asking.len() < AT_ONCE;
            let wait = async {
                match next {
                    Some(next) if has_room => sleep_until(next).await,
                    _ => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.more.notified() => {}
                () = wait => {}
                Some((target, answer)) = asking.next() => {
                    if self.answered(&target, answer) {
                        wakes.machine(target.machine);
                    }
                }
            }
        }
    }

    /// Who is to be asked now, no more than so many, and when the next one is.
    fn due(&self, room: usize) -> (Vec<Target>, Option<Instant>) {
        let now = Instant::now();
        let mut due = Vec::new();
        let mut next: Option<Instant> = None;
        for check in self.all.lock().values_mut() {
            if check.is_asked || check.answer == Some(Answer::Done) {
                continue;
            }
            if check.due <= now && due.len() < room {
                check.is_asked = true;
                due.push(check.target.clone());
            } else {
                next = Some(next.map_or(check.due, |next| next.min(check.due)));
            }
        }
        (due, next)
    }

    /// Notes an answer, and says whether it is another than before.
    fn answered(&self, target: &Target, answer: Answer) -> bool {
        let mut all = self.all.lock();
        let Some(check) = all.get_mut(&target.mark) else {
            return false;
        };
        check.is_asked = false;
        check.due = Instant::now() + AGAIN;
        let is_new = check.answer.as_ref() != Some(&answer);
        check.answer = Some(answer);
        is_new
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use capi_contract::Token;
    use rstest::rstest;

    use super::*;

    fn login() -> Login {
        Login {
            authorized: "ssh-ed25519 AAAA cluster\n".into(),
            host_private: "-----BEGIN OPENSSH PRIVATE KEY-----\nBBBB\n-----END-----\n".into(),
            host_public: "ssh-ed25519 CCCC".into(),
        }
    }

    fn admitted(text: &str) -> Option<Value> {
        let bytes = admit(text.as_bytes(), &login())?;
        let text = String::from_utf8(bytes).unwrap();
        Some(serde_saphyr::from_str(&text).unwrap())
    }

    /// Defect 8: the Go provider's user has a shell and all of sudo, on every node, for ever.
    #[test]
    fn capk_defect_8_the_user_may_read_one_file_and_the_host_key_is_known() {
        let data = admitted("#cloud-config\n# a comment\nruncmd: [a]\n").unwrap();
        assert_eq!(data["runcmd"], serde_json::json!(["a"]));
        assert_eq!(data["users"][0], "default");
        let user = &data["users"][1];
        assert_eq!(user["name"], "capk");
        let key = "restrict,command=\"cat /run/cluster-api/bootstrap-success.complete\" \
                   ssh-ed25519 AAAA cluster";
        assert_eq!(user["ssh_authorized_keys"][0], key);
        assert_eq!(user["sudo"], Value::Null);
        assert_eq!(data["ssh_keys"]["ed25519_public"], "ssh-ed25519 CCCC");
        let private = data["ssh_keys"]["ed25519_private"].as_str().unwrap();
        assert_eq!(private, login().host_private);
    }

    #[test]
    fn users_that_are_there_stay_and_so_does_every_other_line() {
        let text = "## template: jinja\n#cloud-config\nusers:\n  - name: ops  # on call\n    \
                    sudo: ALL\nruncmd:\n  - 'echo {{ ds.meta_data.local_hostname }}'\n";
        let data = admitted(text).unwrap();
        assert_eq!(data["users"][0]["name"], "capk");
        assert_eq!(data["users"][1]["name"], "ops");
        let bytes = admit(text.as_bytes(), &login()).unwrap();
        let after = String::from_utf8(bytes).unwrap();
        assert!(
            text.lines()
                .all(|line| after.lines().any(|one| one == line))
        );
    }

    #[rstest]
    #[case::a_script("#!/bin/sh\n")]
    #[case::talos("version: v1alpha1\n")]
    #[case::ignition("{\"ignition\": {}}")]
    #[case::host_keys_of_its_own("#cloud-config\nssh_keys: {rsa_private: x}\n")]
    #[case::users_on_a_line("#cloud-config\nusers: [default]\n")]
    #[case::no_yaml("#cloud-config\n{{ x }}: [\n")]
    #[case::all_on_a_line("#cloud-config\n{runcmd: [a]}\n")]
    #[case::a_document_that_ends("#cloud-config\nruncmd: [a]\n...\n")]
    #[case::a_user_of_that_name("#cloud-config\nusers:\n- name: capk\n")]
    fn what_cannot_be_added_to_is_left_alone(#[case] text: &str) {
        assert_eq!(admit(text.as_bytes(), &login()), None);
    }

    /// Says that the bootstrap is over when it is asked for the third time.
    #[derive(Default)]
    struct Slow(Mutex<usize>);

    impl Logins for Slow {
        fn login<'a>(
            &'a self,
            _: &'a ObjectName,
            _: &'a Mark,
        ) -> BoxFuture<'a, Result<Login, LoginError>> {
            Box::pin(async { Ok(login()) })
        }

        fn ask<'a>(&'a self, _: &'a Target) -> BoxFuture<'a, Answer> {
            Box::pin(async {
                let mut asked = self.0.lock();
                *asked += 1;
                match *asked {
                    1 => Answer::NotYet("refused".into()),
                    2 => Answer::NotYet("no such file".into()),
                    _ => Answer::Done,
                }
            })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_guest_is_asked_every_ten_seconds_until_it_is_done() {
        let name = ObjectName::new("ns", "m");
        let target = Target {
            machine: name.clone(),
            mark: Mark::made(Token::random(), name.clone()),
            keys: ObjectName::new("ns", "c-ssh-keys"),
            addresses: Vec::new(),
        };
        let (checks, slow) = (Checks::default(), Slow::default());
        assert_eq!(checks.answer(target.clone()), None, "it knows no user");
        checks.admitted(&target.mark);
        let woken = Arc::new(Mutex::new(0));
        let count = woken.clone();
        let wakes = Wakes::new(move |_| *count.lock() += 1);
        let watched = async {
            let begun = Instant::now();
            let mut seen = Vec::new();
            for _ in 0..120 {
                let answer = checks.answer(target.clone()).unwrap();
                if seen.last().map(|(_, last)| last) != Some(&answer) {
                    seen.push((begun.elapsed().as_secs(), answer));
                }
                // Never at the moment of an attempt: either might come first then.
                let pause = if seen.len() == 1 { 500 } else { 1_000 };
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
            seen
        };
        let seen = tokio::select! {
            () = checks.run(&slow, &wakes) => unreachable!("it never ends"),
            seen = watched => seen,
        };
        let texts: Vec<_> = seen
            .iter()
            .map(|(at, answer)| match answer {
                Answer::Done => (*at, "done"),
                Answer::NotYet(why) => (*at, why.as_str()),
            })
            .collect();
        assert_eq!(texts[0], (0, "it has not been asked yet"));
        assert_eq!(
            texts[1..],
            [(0, "refused"), (10, "no such file"), (20, "done")]
        );
        assert_eq!(*slow.0.lock(), 3, "nobody is asked again");
        assert_eq!(*woken.lock(), 3, "each answer is another");
        checks.forget(&target.mark);
        assert_eq!(checks.answer(target), None);
    }

    fn target(name: &str) -> Target {
        let name = ObjectName::new("ns", name);
        Target {
            machine: name.clone(),
            mark: Mark::made(Token::random(), name),
            keys: ObjectName::new("ns", "c-ssh-keys"),
            addresses: Vec::new(),
        }
    }

    /// What was asked, and when; the guests never answer, or the same for ever.
    #[derive(Default)]
    struct Asked {
        all: Mutex<Vec<(Instant, Target)>>,
        answer: Option<Answer>,
    }

    impl Logins for Asked {
        fn login<'a>(
            &'a self,
            _: &'a ObjectName,
            _: &'a Mark,
        ) -> BoxFuture<'a, Result<Login, LoginError>> {
            Box::pin(async { Ok(login()) })
        }

        fn ask<'a>(&'a self, target: &'a Target) -> BoxFuture<'a, Answer> {
            self.all.lock().push((Instant::now(), target.clone()));
            match self.answer.clone() {
                Some(answer) => Box::pin(async { answer }),
                None => Box::pin(std::future::pending()),
            }
        }
    }

    /// Asks for so many seconds, then dies.
    async fn run(checks: &Checks, asked: &Asked, wakes: &Wakes, seconds: u64) {
        let limit = Duration::from_secs(seconds);
        let ended = timeout(limit, checks.run(asked, wakes)).await;
        assert!(ended.is_err(), "it never ends");
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_guests_are_asked_at_once_and_none_holds_the_others_for_ever() {
        let (checks, asked) = (Checks::default(), Asked::default());
        let wakes = Wakes::new(|_| {});
        for n in 0..AT_ONCE + 4 {
            let target = target(&format!("m-{n}"));
            checks.admitted(&target.mark);
            checks.answer(target);
        }
        let begun = Instant::now();
        run(&checks, &asked, &wakes, 29).await;
        let all = std::mem::take(&mut *asked.all.lock());
        let mut seconds = all.iter().map(|(at, _)| (*at - begun).as_secs());
        let first: Vec<_> = seconds.by_ref().take(AT_ONCE).collect();
        assert_eq!(first, [0; AT_ONCE]);
        assert_eq!(
            seconds.collect::<Vec<_>>(),
            [20; 4],
            "after an attempt's time"
        );
        // Whoever was being asked when the session was followed last, is asked again.
        run(&checks, &asked, &wakes, 5).await;
        let all = asked.all.lock();
        let seconds: Vec<_> = all.iter().map(|(at, _)| (*at - begun).as_secs()).collect();
        assert_eq!(seconds[..4], [29; 4]);
        assert_eq!(seconds[4..], [30; AT_ONCE - 4]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_machine_is_woken_by_another_answer_alone_and_asked_where_it_is_now() {
        let asked = Asked {
            answer: Some(Answer::NotYet("no such file".into())),
            ..Asked::default()
        };
        let (checks, mut target) = (Checks::default(), target("m"));
        let woken = Arc::new(Mutex::new(0));
        let count = woken.clone();
        let wakes = Wakes::new(move |_| *count.lock() += 1);
        let later = async {
            // It is noticed by one who waits.
            tokio::time::sleep(Duration::from_secs(5)).await;
            checks.admitted(&target.mark);
            checks.answer(target.clone());
            tokio::time::sleep(Duration::from_secs(15)).await;
            target.addresses = vec!["10.0.0.9".parse().unwrap()];
            checks.answer(target.clone());
        };
        let begun = Instant::now();
        tokio::join!(run(&checks, &asked, &wakes, 30), later);
        let all = asked.all.lock();
        let seconds: Vec<_> = all
            .iter()
            .map(|(at, target)| ((*at - begun).as_secs(), target.addresses.len()))
            .collect();
        assert_eq!(seconds, [(5, 0), (15, 0), (25, 1)]);
        assert_eq!(*woken.lock(), 1, "it says the same");
    }

    #[tokio::test(start_paused = true)]
    async fn of_more_machines_than_can_be_asked_one_says_so() {
        let checks = Checks::default();
        for n in 0..CHECKS_MAX {
            let target = target(&n.to_string());
            checks.admitted(&target.mark);
            assert!(checks.answer(target).is_some());
        }
        let more = target("more");
        checks.admitted(&more.mark);
        assert_eq!(checks.answer(more.clone()), None, "nor is it noted");
        let one = checks.all.lock().keys().next().cloned().unwrap();
        checks.admitted.lock().remove(&one.to_string());
        checks.admitted(&more.mark);
        let Some(Answer::NotYet(why)) = checks.answer(more.clone()) else {
            panic!("it is asked");
        };
        assert_eq!(why, "5000 other machines are being asked");
        checks.forget(&one);
        let asked = Answer::NotYet("it has not been asked yet".to_owned());
        assert_eq!(checks.answer(more), Some(asked));
    }
}
