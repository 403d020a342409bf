//! Cluster templates on a real API server: whether they apply as they are, and whether what is stored of
//! a provider's kinds is what they say.
//!
//! Nothing is built of them. The managers of Cluster API and the provider run for their webhooks and
//! conversions, and look after objects with a label that none has. So no platform is needed, and what was
//! applied can be deleted at once.

use std::collections::{BTreeSet, HashSet};
use std::fmt::{Display, Formatter};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use kube::core::GroupVersionKind;
use kube::discovery::pinned_kind;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::apply::Applier;
use crate::clusterctl::{Clusterctl, ClusterctlError, permissive};
use crate::failure::Failure;
use crate::infrastructure::Names;
use crate::management::{Management, Ports};
use crate::manager;
use crate::site::Site;
use crate::tool::KUBECTL;
use crate::world::World;

/// The provider's place among the managers, after those of Cluster API.
const PLACE: u16 = 3;
/// Nobody labels an object so: whoever looks only at such objects looks at none.
const NOBODYS: &str = "--watch-filter=nobody";
/// The version of clusters for which nobody asks for another.
const VERSION: &str = "v1.36.0";
/// Values of variables that have no default, by the ends of their names. All others are called after
/// themselves.
const SORTS: [(&str, &str); 9] = [
    ("_CIDR", "10.128.0.0/16"),
    ("_CORES", "2"),
    ("_COUNT", "1"),
    ("_IP", "10.20.0.5"),
    ("_MEMORY", "4Gi"),
    ("_PATH", "/var/run/containerd/containerd.sock"),
    ("_PORT", "6443"),
    ("_SIZE", "20Gi"),
    ("_VERSION", VERSION),
];
/// How long a new kind may take until it is served, and a deletion until nothing refers to the object
/// any more.
const SETTLES_WITHIN: Duration = Duration::from_secs(30);
/// How long kubectl waits until what it deleted is gone.
const GONE_WITHIN: &str = "--timeout=60s";
/// Between two looks.
const LOOK: Duration = Duration::from_millis(200);

/// The templates of a folder: files `cluster-template*.yaml` and `clusterclass-*.yaml`, by name.
///
/// # Errors
///
/// A folder that cannot be read, or has none.
pub fn templates(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let unread = |error: io::Error| {
        let cause = Failure::from(error);
        Failure::new(format!("read the folder {}: {cause}", folder.display()))
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(unread)? {
        let path = entry.map_err(unread)?.path();
        let name = name_of(&path);
        let is_one = name.starts_with("cluster-template") || name.starts_with("clusterclass-");
        if is_one && name.ends_with(".yaml") {
            found.push(path);
        }
    }
    if found.is_empty() {
        return Err(Failure::new(format!(
            "no cluster-template*.yaml in {}: name the folder where the templates are",
            folder.display()
        )));
    }
    found.sort();
    Ok(found)
}

/// What clusterctl makes of a template for a cluster of this name: the text, and the objects in it. A
/// ClusterClass that its Cluster names, and that lies beside it, comes first, as with the flavors of a
/// provider. Variables without default that nobody gave are made up.
///
/// # Errors
///
/// As [`Clusterctl::run`], which refuses what is no template.
pub fn filled(
    clusterctl: &Clusterctl,
    template: &Path,
    cluster: &str,
    namespace: &str,
) -> Result<(String, Vec<Value>), ClusterctlError> {
    let (own, objects) = rendered(clusterctl, template, cluster, namespace)?;
    let (mut text, mut all) = (String::new(), Vec::new());
    for class in classes(&objects) {
        let path = template.with_file_name(format!("clusterclass-{class}.yaml"));
        if path.exists() {
            let (class, objects) = rendered(clusterctl, &path, cluster, namespace)?;
            text += &format!("{class}\n---\n");
            all.extend(objects);
        }
    }
    all.extend(objects);
    Ok((text + &own, all))
}

fn rendered(
    clusterctl: &Clusterctl,
    template: &Path,
    cluster: &str,
    namespace: &str,
) -> Result<(String, Vec<Value>), ClusterctlError> {
    let from = template.display().to_string();
    let arguments = [
        &["generate", "cluster", cluster, "--from", &from][..],
        &["--target-namespace", namespace],
        &["--kubernetes-version", VERSION],
        &["--control-plane-machine-count", "3"],
        &["--worker-machine-count", "2"],
    ]
    .concat();
    let mut clusterctl = clusterctl.clone();
    let listed = clusterctl.run(&[&arguments[..], &["--list-variables"]].concat())?;
    for name in needed(&listed) {
        if std::env::var_os(name).is_none() && !clusterctl.has(name) {
            clusterctl.set(name, made_up(name));
        }
    }
    let text = clusterctl.run(&arguments)?;
    let objects = serde_saphyr::from_multiple(&text)
        .map_err(|error| ClusterctlError::Components(template.to_owned(), Box::new(error)))?;
    Ok((text, objects))
}

/// What became of a template.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Its file.
    pub file: String,
    /// How many objects it makes.
    pub objects: usize,
    /// How many of them are of the provider's kinds, and are stored as they were written.
    pub kept: usize,
    /// Kinds of other projects, in whose place a definition stands that takes anything.
    pub stand_ins: Vec<String>,
    /// What servers and webhooks warned of.
    pub warnings: Vec<String>,
    /// Why it does not apply as it is, in the words of the server or of clusterctl; or what is stored
    /// otherwise.
    pub faults: Vec<String>,
}

impl Verdict {
    /// Whether it applies, and is stored as it was written.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.faults.is_empty()
    }

    /// Takes what kubectl says: warnings, and the rest as faults if it did not end well.
    fn hear(&mut self, output: &Output) {
        for line in String::from_utf8_lossy(&output.stderr).lines() {
            let line = line.trim_end();
            if let Some(warning) = line.strip_prefix("Warning: ") {
                if !self.warnings.iter().any(|known| known == warning) {
                    self.warnings.push(warning.to_owned());
                }
            } else if !output.status.success() && !line.is_empty() {
                self.faults.push(line.to_owned());
            }
        }
    }
}

impl Display for Verdict {
    fn fmt(&self, out: &mut Formatter<'_>) -> std::fmt::Result {
        let word = if self.is_good() { "applied" } else { "REFUSED" };
        let (objects, kept) = (self.objects, self.kept);
        write!(
            out,
            "{}: {word}; {objects} objects, {kept} of the provider stored as written",
            self.file
        )?;
        if !self.stand_ins.is_empty() {
            write!(out, "; stand-ins for {}", self.stand_ins.join(", "))?;
        }
        for fault in &self.faults {
            write!(out, "\n    {fault}")?;
        }
        for warning in &self.warnings {
            write!(out, "\n    warning: {warning}")?;
        }
        Ok(())
    }
}

/// A management cluster where templates are tried. Its processes end when it is dropped.
#[derive(Debug)]
pub struct Bench {
    world: World,
    clusterctl: Clusterctl,
    kubectl: PathBuf,
    names: Names,
    applier: Applier,
    stand_ins: HashSet<GroupVersionKind>,
    tried: usize,
}

impl Bench {
    /// Starts Kubernetes, and Cluster API and the provider with the definitions, rights and webhooks of
    /// their manifests.
    ///
    /// # Errors
    ///
    /// As [`Management::start`]; programs that cannot be built or do not become ready.
    pub async fn start(site: Site, ports: Ports, names: Names) -> Result<Self, Failure> {
        let kubectl = KUBECTL.build()?;
        let program = names.built()?.argument(NOBODYS);
        let world = World::around(Management::start(site, ports).await?);
        let management = &world.management;
        manager::install_all(management).await?;
        for manager in manager::MANAGERS {
            manager.start_with(management, &[NOBODYS]).await?;
        }
        program.install(management, PLACE).await?.start().await?;
        Ok(Self {
            clusterctl: Clusterctl::alone(management)?,
            kubectl,
            names,
            applier: Applier::new(management.client.clone()),
            stand_ins: HashSet::new(),
            tried: 0,
            world,
        })
    }

    /// Sets a variable of templates. Others without default are taken from the environment, as clusterctl
    /// does, and else made up.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        self.clusterctl.set(name, value);
    }

    /// Tries a template in a namespace of its own, which is deleted again with all that was applied. A
    /// ClusterClass that its Cluster names, and that lies beside it, comes along as it does with a
    /// provider's flavors.
    ///
    /// # Errors
    ///
    /// Files that cannot be read, programs that cannot be run, a server that does not answer. What is wrong
    /// with the template stands in the verdict.
    pub async fn judge(&mut self, template: &Path) -> Result<Verdict, Failure> {
        self.tried += 1;
        let namespace = format!("template-{}", self.tried);
        let mut verdict = Verdict {
            file: name_of(template).to_owned(),
            ..Verdict::default()
        };
        let (text, objects) = match filled(&self.clusterctl, template, &namespace, &namespace) {
            Ok(rendered) => rendered,
            Err(ClusterctlError::Failed { output, .. }) => {
                verdict.faults = output.lines().map(str::to_owned).collect();
                return Ok(verdict);
            }
            Err(error) => return Err(error.into()),
        };
        verdict.objects = objects.len();
        verdict.stand_ins = self.stand_in(&objects).await?;
        let home =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
        self.applier.apply(home.clone()).await?;
        verdict.hear(&self.kubectl(&["apply", "--validate=strict"], &text)?);
        for object in objects.iter().filter(|object| self.is_own(object)) {
            match self.differences(object).await? {
                Some(found) if found.is_empty() => verdict.kept += 1,
                Some(found) => verdict.faults.extend(found),
                // It was refused, which the server has told.
                None => {}
            }
        }
        self.delete(&objects, &mut verdict).await?;
        let arguments = ["delete", "--wait=false"];
        verdict.hear(&self.kubectl(&arguments, &home.to_string())?);
        Ok(verdict)
    }

    fn is_own(&self, object: &Value) -> bool {
        let kind = object["kind"].as_str();
        kind.is_some_and(|kind| kind.starts_with(self.names.kinds))
    }

    /// Makes definitions for kinds that nobody has installed here, other than the provider's own; all
    /// kinds of these objects for which one stands in.
    async fn stand_in(&mut self, objects: &[Value]) -> Result<Vec<String>, Failure> {
        let mut found = BTreeSet::new();
        let others = objects.iter().filter(|object| !self.is_own(object));
        let kinds: HashSet<_> = others.filter_map(kind_of).collect();
        for kind in kinds {
            if !self.stand_ins.contains(&kind) {
                if self.is_served(&kind).await? {
                    continue;
                }
                let definition = permissive(&kind.group, &kind.version, &kind.kind);
                self.applier.apply(definition).await?;
                let begun = Instant::now();
                while !self.is_served(&kind).await? {
                    if begun.elapsed() > SETTLES_WITHIN {
                        return Err(Failure::new(format!("{kind:?} is not served")));
                    }
                    sleep(LOOK).await;
                }
                self.stand_ins.insert(kind.clone());
            }
            found.insert(kind.kind);
        }
        Ok(found.into_iter().collect())
    }

    async fn is_served(&self, kind: &GroupVersionKind) -> Result<bool, Failure> {
        match pinned_kind(&self.world.management.client, kind).await {
            Ok(_) => Ok(true),
            Err(kube::Error::Discovery(_)) => Ok(false),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Where an object is stored otherwise than it was written; `None` if it is not there.
    async fn differences(&self, object: &Value) -> Result<Option<Vec<String>>, Failure> {
        let Some(kind) = kind_of(object) else {
            return Ok(None);
        };
        let word = |key: &str| object["metadata"][key].as_str().unwrap_or_default();
        let named = format!("{}.{}.{}", kind.kind, kind.version, kind.group);
        let api = self.world.api_in(word("namespace"), &named);
        let Some(stored) = api.get_opt(word("name")).await? else {
            return Ok(None);
        };
        let mut found = Vec::new();
        let at = format!("{} {}:", kind.kind, word("name"));
        compare(&at, object, &serde_json::to_value(stored)?, &mut found);
        Ok(Some(found))
    }

    /// Deletes what was applied, the last first, as one refers to the other. What something refers to is
    /// refused until webhooks have seen that it is gone.
    async fn delete(&self, objects: &[Value], verdict: &mut Verdict) -> Result<(), Failure> {
        let arguments = ["delete", "--ignore-not-found", GONE_WITHIN];
        let texts: Vec<_> = objects.iter().rev().map(Value::to_string).collect();
        let text = texts.join("\n---\n");
        let begun = Instant::now();
        loop {
            let output = self.kubectl(&arguments, &text)?;
            if output.status.success() || begun.elapsed() > SETTLES_WITHIN {
                verdict.hear(&output);
                return Ok(());
            }
            sleep(LOOK).await;
        }
    }

    fn kubectl(&self, arguments: &[&str], text: &str) -> Result<Output, Failure> {
        let site = &self.world.management.site;
        let path = site.write("template.yaml", text)?;
        let mut command = Command::new(&self.kubectl);
        command
            .args(arguments)
            // Not by its name, so that what is said of it names no path of this run.
            .args(["-f", "-", "--cache-dir"])
            .arg(site.path("kubectl"))
            .env("KUBECONFIG", &self.world.management.kubeconfig)
            .stdin(File::open(path)?);
        Ok(command.output()?)
    }
}

fn name_of(path: &Path) -> &str {
    path.file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default()
}

fn kind_of(object: &Value) -> Option<GroupVersionKind> {
    let (version, kind) = (object["apiVersion"].as_str()?, object["kind"].as_str()?);
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    Some(GroupVersionKind::gvk(group, version, kind))
}

/// The classes that Clusters name and that do not come with them.
fn classes(objects: &[Value]) -> BTreeSet<String> {
    let of_kind = |kind: &'static str| objects.iter().filter(move |object| object["kind"] == kind);
    let named = of_kind("Cluster").filter_map(|cluster| {
        let topology = &cluster["spec"]["topology"];
        let old = topology["class"].as_str();
        topology["classRef"]["name"].as_str().or(old)
    });
    let own: BTreeSet<_> = of_kind("ClusterClass")
        .filter_map(|class| class["metadata"]["name"].as_str())
        .collect();
    named
        .filter(|name| !own.contains(name))
        .map(str::to_owned)
        .collect()
}

/// The variables without default, of what clusterctl lists.
fn needed(listed: &str) -> Vec<&str> {
    let lines = listed.lines().map(str::trim_end);
    let own = lines.skip_while(|line| *line != "Required Variables:");
    own.skip(1)
        .map_while(|line| line.strip_prefix("  - "))
        .collect()
}

/// A value for a variable that nobody gave.
fn made_up(name: &str) -> String {
    let known = SORTS.iter().find(|(end, _)| name.ends_with(end));
    let own = || name.to_lowercase().replace('_', "-");
    known.map_or_else(own, |(_, value)| (*value).to_owned())
}

/// Finds what of the written is not stored, or is stored otherwise. More may be stored: defaults, and
/// what controllers add. Null means not set.
fn compare(at: &str, written: &Value, stored: &Value, found: &mut Vec<String>) {
    match (written, stored) {
        (Value::Object(fields), Value::Object(_)) => {
            for (key, value) in fields {
                compare(&format!("{at} {key}"), value, &stored[key], found);
            }
        }
        (Value::Array(items), Value::Array(others)) if items.len() == others.len() => {
            for (index, (item, other)) in items.iter().zip(others).enumerate() {
                compare(&format!("{at} {index}"), item, other, found);
            }
        }
        (Value::Null, _) => {}
        (written, stored) if written == stored => {}
        (_, Value::Null) => found.push(format!("{at} is not stored")),
        (written, stored) => {
            found.push(format!("{at} is stored as {stored}, and not as {written}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::ExitStatus;

    use super::*;

    fn compared(written: &Value, stored: &Value) -> Vec<String> {
        let mut found = Vec::new();
        compare("T a:", written, stored, &mut found);
        found
    }

    #[test]
    fn what_is_not_stored_as_it_was_written_is_named() {
        let written = json!({"spec": {
            "set": {}, "unset": null, "list": [{"a": 1}, {"b": null}], "number": 1, "word": "x",
        }});
        let mut stored = written.clone();
        stored["spec"]["more"] = json!(true);
        stored["spec"]["list"][0]["default"] = json!("d");
        assert_eq!(compared(&written, &stored), Vec::<String>::new());
        stored["spec"]
            .as_object_mut()
            .expect("it is one")
            .remove("set");
        stored["spec"]["list"][0] = json!({});
        stored["spec"]["number"] = json!("1");
        assert_eq!(
            compared(&written, &stored),
            [
                "T a: spec list 0 a is not stored",
                "T a: spec number is stored as \"1\", and not as 1",
                "T a: spec set is not stored",
            ]
        );
        stored["spec"] = json!({"set": {}, "list": [], "number": 1, "word": "x"});
        let shorter = compared(&written, &stored);
        assert!(
            shorter[0].starts_with("T a: spec list is stored as []"),
            "{shorter:?}"
        );
    }

    #[test]
    fn ctl_06_values_are_made_up_for_variables_without_default() {
        let listed = "Required Variables:\n  - CRI_PATH\n  - STORAGE_CLASS_NAME\n\n\
                      Optional Variables:\n  - CLUSTER_NAME  (defaults to a)\n";
        assert_eq!(needed(listed), ["CRI_PATH", "STORAGE_CLASS_NAME"]);
        assert_eq!(
            needed("Optional Variables:\n  - A  (defaults to 1)\n"),
            [""; 0]
        );
        assert_eq!(made_up("STORAGE_CLASS_NAME"), "storage-class-name");
        assert_eq!(made_up("ROOT_VOLUME_SIZE"), "20Gi");
        assert_eq!(made_up("TALOS_VERSION"), VERSION);
    }

    #[test]
    fn classes_that_do_not_come_along_are_named() {
        let new = json!({"kind": "Cluster", "spec": {"topology": {"classRef": {"name": "a"}}}});
        let old = json!({"kind": "Cluster", "spec": {"topology": {"class": "b"}}});
        let own = json!({"kind": "ClusterClass", "metadata": {"name": "b"}});
        let plain = json!({"kind": "Cluster", "spec": {}});
        let named = classes(&[new, old, own, plain]);
        assert_eq!(named.into_iter().collect::<Vec<_>>(), ["a"]);
    }

    #[test]
    fn warnings_are_kept_apart_from_what_was_refused() {
        let said = "Warning: v1 is old\nWarning: v1 is old\nError from server: no\n";
        let heard = |code: i32| {
            let mut verdict = Verdict::default();
            verdict.hear(&Output {
                status: ExitStatus::from_raw(code),
                stdout: Vec::new(),
                stderr: said.as_bytes().to_vec(),
            });
            verdict
        };
        let refused = heard(1 << 8);
        assert_eq!(refused.warnings, ["v1 is old"]);
        assert_eq!(refused.faults, ["Error from server: no"]);
        assert!(heard(0).is_good());
        let shown = refused.to_string();
        assert!(
            shown.contains("REFUSED") && shown.contains("\n    Error from server: no"),
            "{shown}"
        );
    }
}
