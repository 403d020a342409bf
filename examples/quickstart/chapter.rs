//! What each chapter is called, what a person would type for it, and why it takes its time: pure.

use crate::cast::{Day, NEWER, Owner};
use crate::tree::WIDTH;

/// A part of the story.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chapter {
    pub(crate) title: &'static str,
    /// Commands that do the same in a real cluster.
    commands: Vec<String>,
    /// What happens and what it waits for.
    why: &'static str,
}

impl Chapter {
    pub(crate) fn coming_up(source: &str) -> Self {
        Self {
            title: "A cluster comes up",
            commands: vec![format!("kubectl apply -f {source}")],
            why: "Workers wait for the first control-plane machine, since they join through it.",
        }
    }

    pub(crate) fn growing(day: &Day) -> Self {
        let scale = |owner: &Owner, replicas: usize| {
            let kind = owner.kind.to_lowercase();
            format!("kubectl scale {kind} {} --replicas {replicas}", owner.name)
        };
        Self {
            title: "It grows",
            commands: vec![
                scale(&day.workers, day.workers()),
                scale(&day.plane, day.planes()),
            ],
            why: "Workers come together; control-plane machines one by one, as each has to join etcd.",
        }
    }

    /// `command` is what a person types to destroy a VM.
    pub(crate) fn healing(command: String) -> Self {
        Self {
            title: "A VM is destroyed behind the provider's back",
            commands: vec![command],
            why: "It is reported and never made again: the MachineHealthCheck has its machine replaced.",
        }
    }

    /// `command` is what a person types to drain a node.
    pub(crate) fn draining(command: String) -> Self {
        Self {
            title: "A node of the infra cluster is drained",
            commands: vec![command],
            why: "KubeVirt moves its VMs while they run; no machine is replaced, no guest restarts.",
        }
    }

    pub(crate) fn upgrading(day: &Day) -> Self {
        let edit = |owner: &Owner| {
            let kind = owner.kind.to_lowercase();
            format!(
                "kubectl edit {kind} {}     # the same two fields",
                owner.name
            )
        };
        let plane = edit(&day.plane).replace(
            "the same two fields",
            &format!("version: {NEWER}, and a new template"),
        );
        Self {
            title: "Kubernetes is upgraded",
            commands: vec![plane, edit(&day.workers)],
            why: "No machine is changed: one new, one old gone, the control plane before the workers.",
        }
    }

    pub(crate) fn going_away(clusters: &[String]) -> Self {
        Self {
            title: "The cluster goes away",
            commands: vec![format!("kubectl delete cluster {}", clusters.join(" "))],
            why: "Workers first, then the control plane; a machine goes once its VM is seen to be gone.",
        }
    }

    /// The heading, a line each.
    pub(crate) fn heading(&self, number: usize, count: usize) -> Vec<String> {
        let title = format!("== {number}/{count}  {} ", self.title);
        let rule = "=".repeat(WIDTH.saturating_sub(title.chars().count()));
        let mut lines = vec![String::new(), format!("{title}{rule}")];
        lines.extend(self.commands.iter().map(|line| format!("   $ {line}")));
        lines.push(format!("   {}", self.why));
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cast::Cast;
    use crate::platform::{Platform, Vm};

    #[test]
    fn headings_fit_the_line_and_show_what_a_person_would_type() {
        let profile = Platform::Proxmox.profile();
        let cast = Cast::of(&profile.manifest().unwrap(), profile);
        let day = cast.day.unwrap();
        let chapters = [
            Chapter::coming_up(profile.example),
            Chapter::growing(&day),
            Chapter::healing((profile.destroy)(&Vm("1000000".to_owned()))),
            Chapter::upgrading(&day),
            Chapter::going_away(&cast.clusters),
        ];
        let mut commands = Vec::new();
        for (index, chapter) in chapters.iter().enumerate() {
            let lines = chapter.heading(index + 1, chapters.len());
            assert!(
                lines.iter().all(|line| line.chars().count() <= WIDTH),
                "{lines:#?}"
            );
            commands.extend(chapter.commands.clone());
        }
        assert_eq!(
            commands,
            [
                "kubectl apply -f examples/quickstart/cluster.yaml",
                "kubectl scale machinedeployment demo-workers --replicas 4",
                "kubectl scale kubeadmcontrolplane demo-control-plane --replicas 3",
                "qm stop 1000000 && qm destroy 1000000     # on a Proxmox VE node",
                "kubectl edit kubeadmcontrolplane demo-control-plane     \
                 # version: v1.37.0, and a new template",
                "kubectl edit machinedeployment demo-workers     # the same two fields",
                "kubectl delete cluster demo",
            ]
        );
    }

    #[test]
    fn headings_on_kubevirt_fit_the_line_whatever_vms_are_called() {
        let profile = Platform::Kubevirt.profile();
        let vm = Vm("default/demo-workers-nhphw-269kl".to_owned());
        let chapters = [
            Chapter::coming_up(profile.example),
            Chapter::healing((profile.destroy)(&vm)),
            Chapter::draining("kubectl drain infra-1 --ignore-daemonsets".to_owned()),
        ];
        for chapter in chapters {
            let lines = chapter.heading(6, 6);
            let mut widths = lines.iter().map(|line| line.chars().count());
            assert!(widths.all(|width| width <= WIDTH), "{lines:#?}");
        }
    }
}
