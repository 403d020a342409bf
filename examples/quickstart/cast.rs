//! Who plays: the names and numbers that the chapters need, from the manifest: pure.

use kube::api::DynamicObject;
use serde_json::Value;

use crate::manifest::Manifest;
use crate::platform::Profile;

/// The Kubernetes version that the examples begin with.
pub(crate) const OLDER: &str = "v1.36.0";
/// The Kubernetes version that machines are upgraded to.
pub(crate) const NEWER: &str = "v1.37.0";
/// How versions begin that can be upgraded to it: Kubernetes skips no minor version.
const UPGRADABLE: &str = "v1.36.";

/// Where a machine template has the spec of its machines.
const MACHINE: &str = "/spec/template/spec";

/// An object that owns machines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) kind: &'static str,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) replicas: usize,
    pub(crate) version: String,
    pub(crate) template: String,
}

/// Everybody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cast {
    pub(crate) clusters: Vec<String>,
    /// How many machines the manifest asks for, all owners together.
    pub(crate) machines: usize,
    /// Those of the whole day, if the manifest has them.
    pub(crate) day: Result<Day, &'static str>,
}

/// Those who play in the chapters between coming up and going away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Day {
    pub(crate) plane: Owner,
    pub(crate) workers: Owner,
    /// The MachineHealthCheck that looks after the workers.
    pub(crate) check: String,
    /// How many machines there are once it has grown.
    pub(crate) grown: usize,
    /// Whether all VMs are moved while they run when their node is drained.
    pub(crate) moves: bool,
}

impl Day {
    /// How many control plane machines it grows to: the least that survive the loss of one.
    pub(crate) fn planes(&self) -> usize {
        self.plane.replicas.max(3)
    }

    /// How many workers it grows to.
    pub(crate) fn workers(&self) -> usize {
        self.workers.replicas + 2
    }

    /// The name of the newer copy of a machine template.
    pub(crate) fn newer(owner: &Owner) -> String {
        format!("{}-{}", owner.template, NEWER.replace('.', "-"))
    }
}

impl Cast {
    /// Reads a manifest.
    pub(crate) fn of(manifest: &Manifest, profile: &Profile) -> Self {
        let machines = manifest.objects.iter().map(machines).sum();
        let clusters = manifest.of_kind("Cluster").filter_map(name_of);
        Self {
            clusters: clusters.collect(),
            machines,
            day: day(manifest, profile, machines),
        }
    }
}

fn day(manifest: &Manifest, profile: &Profile, machines: usize) -> Result<Day, &'static str> {
    let plane = manifest.of_kind("KubeadmControlPlane").next();
    let plane = plane
        .and_then(|it| {
            owner(
                it,
                "KubeadmControlPlane",
                "/spec",
                "/spec/machineTemplate/spec",
            )
        })
        .ok_or("it has no KubeadmControlPlane with a version and a machine template")?;
    let workers = manifest.of_kind("MachineDeployment").next();
    let inner = "/spec/template/spec";
    let workers = workers
        .and_then(|it| owner(it, "MachineDeployment", inner, inner))
        .ok_or("it has no MachineDeployment with a version and a machine template")?;
    let check = manifest.of_kind("MachineHealthCheck").find_map(name_of);
    let check = check.ok_or("it has no MachineHealthCheck")?;
    for owner in [&plane, &workers] {
        if !owner.version.starts_with(UPGRADABLE) {
            return Err("there is no image of the next Kubernetes version to upgrade to");
        }
        newer_template(manifest, profile, owner)?;
    }
    let moves = |owner: &Owner| {
        let machine = machine_of(manifest, profile, owner);
        machine.is_some_and(|machine| (profile.moves)(machine))
    };
    let moves = moves(&plane) && moves(&workers);
    let mut day = Day {
        plane,
        workers,
        check,
        grown: machines,
        moves,
    };
    day.grown += day.planes() - day.plane.replicas + day.workers() - day.workers.replicas;
    Ok(day)
}

/// The machine template that an owner refers to.
fn template_of<'a>(
    manifest: &'a Manifest,
    profile: &Profile,
    owner: &Owner,
) -> Option<&'a DynamicObject> {
    let is_named = |it: &&DynamicObject| name_of(it).as_ref() == Some(&owner.template);
    manifest.of_kind(&profile.template()).find(is_named)
}

/// The spec of the machines in it.
fn machine_of<'a>(manifest: &'a Manifest, profile: &Profile, owner: &Owner) -> Option<&'a Value> {
    let template = template_of(manifest, profile, owner)?;
    template.data.pointer(MACHINE)
}

/// A copy of an owner's machine template, under another name and with the newer image. An error says
/// what it lacks.
pub(crate) fn newer_template(
    manifest: &Manifest,
    profile: &Profile,
    owner: &Owner,
) -> Result<DynamicObject, &'static str> {
    const MISSING: &str = "it has no machine template of a name that is referred to";
    let template = template_of(manifest, profile, owner);
    let mut template = template.cloned().ok_or(MISSING)?;
    template.metadata.name = Some(Day::newer(owner));
    let machine = template.data.pointer_mut(MACHINE);
    (profile.renew)(machine.ok_or(MISSING)?)?;
    Ok(template)
}

fn name_of(object: &DynamicObject) -> Option<String> {
    object.metadata.name.clone()
}

fn owner(
    object: &DynamicObject,
    kind: &'static str,
    version: &str,
    machine: &str,
) -> Option<Owner> {
    let text = |pointer: String| object.data.pointer(&pointer)?.as_str().map(str::to_owned);
    let namespace = object.metadata.namespace.clone();
    Some(Owner {
        kind,
        namespace: namespace.unwrap_or_else(|| "default".to_owned()),
        name: name_of(object)?,
        replicas: machines(object),
        version: text(format!("{version}/version"))?,
        template: text(format!("{machine}/infrastructureRef/name"))?,
    })
}

/// How many machines an object asks for.
fn machines(object: &DynamicObject) -> usize {
    let kind = object.types.as_ref().map(|types| types.kind.as_str());
    match kind.unwrap_or_default() {
        "Machine" => 1,
        "KubeadmControlPlane" | "MachineDeployment" | "MachineSet" => {
            let replicas = object
                .data
                .pointer("/spec/replicas")
                .and_then(Value::as_u64);
            let replicas = replicas.and_then(|count| usize::try_from(count).ok());
            replicas.unwrap_or(1)
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;
    use crate::platform::Platform;

    fn cast(platform: Platform, text: &str) -> Cast {
        let manifest = Manifest::parse("m".to_owned(), text).unwrap();
        Cast::of(&manifest, platform.profile())
    }

    #[test]
    fn every_example_plays_the_whole_day() {
        for platform in Platform::value_variants() {
            let cast = cast(*platform, platform.profile().text);
            assert_eq!((cast.machines, cast.clusters), (3, vec!["demo".to_owned()]));
            let day = cast.day.unwrap();
            assert_eq!((day.planes(), day.workers(), day.grown), (3, 4, 7));
            assert_eq!(day.workers.template, "demo-workers");
            assert_eq!(day.moves, *platform == Platform::Kubevirt);
            assert_eq!(Day::newer(&day.plane), "demo-control-plane-v1-37-0");
        }
    }

    #[test]
    fn newer_templates_name_the_newer_image_wherever_the_older_was_named() {
        for platform in Platform::value_variants() {
            let profile = platform.profile();
            let manifest = profile.manifest().unwrap();
            let day = Cast::of(&manifest, profile).day.unwrap();
            for owner in [&day.plane, &day.workers] {
                let newer = newer_template(&manifest, profile, owner).unwrap();
                let spec = newer.data.to_string();
                assert!(!spec.contains(OLDER) && !spec.contains("9000"), "{spec}");
                assert!(spec.contains(NEWER) || spec.contains("9001"), "{spec}");
                assert_eq!(newer.metadata.name, Some(Day::newer(owner)));
            }
        }
    }

    #[test]
    fn a_manifest_that_lacks_something_says_what() {
        const BOTH: [(&str, &str, &str); 4] = [
            (
                "kind: KubeadmControlPlane",
                "kind: OtherControlPlane",
                "KubeadmControlPlane",
            ),
            (
                "kind: MachineDeployment",
                "kind: MachineSet",
                "MachineDeployment",
            ),
            (
                "kind: MachineHealthCheck",
                "kind: Other",
                "MachineHealthCheck",
            ),
            ("version: v1.36.0", "version: v1.35.2", "image"),
        ];
        let own = |platform| match platform {
            Platform::Proxmox => ("templateID: 9000", "localStorage: true", "templateID"),
            Platform::Kubevirt => ("containerDisk:", "emptyDisk:", "containerDisk"),
        };
        for platform in Platform::value_variants() {
            for (from, to, part) in BOTH.into_iter().chain([own(*platform)]) {
                let text = platform.profile().text.replace(from, to);
                let why = cast(*platform, &text).day.unwrap_err();
                assert!(why.contains(part), "{from}: {why}");
            }
        }
    }
}
