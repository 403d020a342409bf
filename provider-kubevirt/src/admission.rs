//! Rules for the kinds that their schemas cannot state, for the webhooks (rules WH-*).
//!
//! Pure, and each on the one object that is written. What passes through to KubeVirt is judged by
//! KubeVirt; here is only what would collide with what this provider adds.

use capi_contract::admission::{Admission, Fault, managed_by_kept, template_metadata};
use capi_contract::crd::TemplateMeta;

use crate::api::{
    KubevirtCluster, KubevirtClusterSpec, KubevirtClusterTemplate, KubevirtMachine,
    KubevirtMachineSpec, KubevirtMachineTemplate, Zone,
};
use crate::{service, vm};

/// Where a template keeps the spec of what is made from it.
const TEMPLATE: &str = "spec.template.spec";

/// Rules for KubevirtCluster.
#[derive(Clone, Copy, Debug)]
pub struct ClusterRules;

/// Rules for KubevirtClusterTemplate.
#[derive(Clone, Copy, Debug)]
pub struct ClusterTemplateRules;

/// Rules for KubevirtMachine.
#[derive(Clone, Copy, Debug)]
pub struct MachineRules;

/// Rules for KubevirtMachineTemplate.
#[derive(Clone, Copy, Debug)]
pub struct MachineTemplateRules;

impl Admission for ClusterRules {
    type Kind = KubevirtCluster;

    fn check(&self, object: &KubevirtCluster) -> Vec<Fault> {
        cluster(&object.spec)
    }

    fn change(&self, old: &KubevirtCluster, new: &KubevirtCluster) -> Vec<Fault> {
        let mut faults: Vec<_> = managed_by_kept(old, new).into_iter().collect();
        if namespace(&old.spec) != namespace(&new.spec) {
            let message = "cannot be changed: the Service stays where it was made";
            let field = "spec.controlPlaneServiceTemplate.metadata.namespace";
            faults.push(Fault::new(field, message));
        }
        faults
    }
}

impl Admission for ClusterTemplateRules {
    type Kind = KubevirtClusterTemplate;

    /// A ClusterClass may complete the spec later, so only the metadata can be judged.
    fn check(&self, object: &KubevirtClusterTemplate) -> Vec<Fault> {
        metadata(object.spec.template.metadata.as_ref())
    }

    fn frozen(&self, old: &KubevirtClusterTemplate, new: &KubevirtClusterTemplate) -> Vec<Fault> {
        frozen(old.spec.template.spec == new.spec.template.spec)
    }
}

impl Admission for MachineRules {
    type Kind = KubevirtMachine;

    fn check(&self, object: &KubevirtMachine) -> Vec<Fault> {
        vm::faults(object).iter().map(|text| fault(text)).collect()
    }

    fn change(&self, old: &KubevirtMachine, new: &KubevirtMachine) -> Vec<Fault> {
        if old.spec.network_interfaces == new.spec.network_interfaces {
            return Vec::new();
        }
        let message = "cannot be changed: the guest was told its addresses when it was made; make a \
                       new template and roll it out";
        vec![Fault::new("spec.networkInterfaces", message)]
    }
}

impl Admission for MachineTemplateRules {
    type Kind = KubevirtMachineTemplate;

    fn check(&self, object: &KubevirtMachineTemplate) -> Vec<Fault> {
        let template = &object.spec.template;
        let mut faults = metadata(template.metadata.as_ref());
        let found = machine(&template.spec);
        faults.extend(
            found
                .into_iter()
                .map(|fault| match fault.field.strip_prefix("spec") {
                    Some(rest) => Fault::new(format!("{TEMPLATE}{rest}"), fault.message),
                    None => fault,
                }),
        );
        faults
    }

    fn frozen(&self, old: &KubevirtMachineTemplate, new: &KubevirtMachineTemplate) -> Vec<Fault> {
        frozen(old.spec.template.spec == new.spec.template.spec)
    }
}

/// WH-02. Metadata may change: the topology controller adds owners to templates.
fn frozen(is_same: bool) -> Vec<Fault> {
    if is_same {
        return Vec::new();
    }
    let message = "cannot be changed: machines and clusters were made from it; make a new template \
                   and refer to that";
    vec![Fault::new(TEMPLATE, message)]
}

fn metadata(metadata: Option<&TemplateMeta>) -> Vec<Fault> {
    metadata.map_or_else(Vec::new, |it| {
        template_metadata("spec.template.metadata", &it.labels, &it.annotations)
    })
}

/// Faults of a spec begin with the field.
fn fault(text: &str) -> Fault {
    match text.split_once(' ') {
        Some((field, message)) => Fault::new(field, message),
        None => Fault::new("spec", text),
    }
}

fn namespace(spec: &KubevirtClusterSpec) -> Option<&str> {
    let template = spec.control_plane_service_template.as_ref()?;
    let namespace = template.metadata.as_ref()?.namespace.as_deref();
    namespace.filter(|namespace| !namespace.is_empty())
}

fn cluster(spec: &KubevirtClusterSpec) -> Vec<Fault> {
    let mut faults: Vec<_> = service::faults(spec)
        .iter()
        .map(|text| fault(text))
        .collect();
    let named = |zone: &Zone| {
        let secret = zone.infra_cluster_secret_ref.as_ref();
        secret.is_none_or(|secret| secret.name.as_deref().is_some_and(|name| !name.is_empty()))
    };
    for (at, zone) in spec.failure_domains.iter().enumerate() {
        if !named(zone) {
            let field = format!("spec.failureDomains[{at}].infraClusterSecretRef.name");
            let message = "is empty: name the Secret with the kubeconfig of that infra cluster";
            faults.push(Fault::new(field, message));
        }
    }
    faults
}

/// What is wrong with the spec of machines that have no name yet.
fn machine(spec: &KubevirtMachineSpec) -> Vec<Fault> {
    let object = KubevirtMachine {
        spec: spec.clone(),
        ..KubevirtMachine::default()
    };
    vm::faults(&object).iter().map(|text| fault(text)).collect()
}

#[cfg(test)]
mod tests {
    use capi_contract::admission::{Wish, review};
    use rstest::rstest;
    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};

    use super::*;

    #[expect(clippy::needless_pass_by_value, reason = "json! makes values")]
    fn of<K: DeserializeOwned>(kind: &str, metadata: Value, spec: Value) -> K {
        serde_json::from_value(json!({
            "apiVersion": "infrastructure.cluster.x-k8s.io/v1alpha1", "kind": kind,
            "metadata": metadata, "spec": spec,
        }))
        .unwrap()
    }

    fn template(metadata: Value, strategy: &str) -> KubevirtMachineTemplate {
        let vm = json!({"runStrategy": strategy, "template": {"spec": {"domain": {}}}});
        let spec = json!({"virtualMachineTemplate": {"spec": vm}});
        of(
            "KubevirtMachineTemplate",
            metadata,
            json!({"template": {"spec": spec}}),
        )
    }

    fn asked<A: Admission>(
        rules: &A,
        old: Option<&A::Kind>,
        new: &A::Kind,
        dry_run: bool,
    ) -> Vec<String> {
        let wish = Wish { old, new, dry_run };
        review(rules, &wish)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    /// CAPK 264: the topology controller rehearses changes of templates. Defect 15: a review that
    /// says nothing of a dry run is none.
    #[rstest]
    #[case::rehearsed(true, json!({"topology.cluster.x-k8s.io/dry-run": ""}), 0)]
    #[case::meant(false, json!({"topology.cluster.x-k8s.io/dry-run": ""}), 1)]
    #[case::tried(true, json!({}), 1)]
    #[case::plain(false, json!({}), 1)]
    fn capk_264_a_template_is_frozen_but_for_rehearsals(
        #[case] dry_run: bool,
        #[case] annotations: Value,
        #[case] faults: usize,
    ) {
        let old = template(json!({"name": "t"}), "Always");
        let new = template(json!({"name": "t", "annotations": annotations}), "Once");
        let got = asked(&MachineTemplateRules, Some(&old), &new, dry_run);
        assert_eq!(got.len(), faults, "{got:?}");
        assert!(
            got.iter()
                .all(|text| text.starts_with("spec.template.spec: ")),
            "{got:?}"
        );
    }

    /// CAPK 294: the topology controller adds an owner to a KubevirtClusterTemplate.
    #[test]
    fn capk_294_metadata_of_a_template_may_change() {
        let spec = json!({"template": {"spec": {}}});
        let owner = json!([{"apiVersion": "v1", "kind": "ClusterClass", "name": "c", "uid": "1"}]);
        let old: KubevirtClusterTemplate = of(
            "KubevirtClusterTemplate",
            json!({"name": "t"}),
            spec.clone(),
        );
        let new: KubevirtClusterTemplate = of(
            "KubevirtClusterTemplate",
            json!({"name": "t", "ownerReferences": owner, "labels": {"a": "b"}}),
            spec,
        );
        assert!(asked(&ClusterTemplateRules, Some(&old), &new, false).is_empty());
        let endpoint = json!({"template": {"spec": {"controlPlaneEndpoint": {"port": 7}}}});
        let changed = of("KubevirtClusterTemplate", json!({"name": "t"}), endpoint);
        assert_eq!(
            asked(&ClusterTemplateRules, Some(&old), &changed, false).len(),
            1
        );
    }

    #[test]
    fn a_fault_of_a_template_names_the_field_in_the_template() {
        let spec = json!({"template": {"spec": {"virtualMachineTemplate": {"spec": {}}}}});
        let new = of("KubevirtMachineTemplate", json!({"name": "t"}), spec);
        let got = asked(&MachineTemplateRules, None, &new, false);
        let field = "spec.template.spec.virtualMachineTemplate.spec.template.spec: ";
        assert!(got.len() == 1 && got[0].starts_with(field), "{got:?}");
    }

    #[test]
    fn a_cluster_names_its_faults_and_keeps_its_place() {
        let cluster = |namespace: &str, kind: &str| -> KubevirtCluster {
            of(
                "KubevirtCluster",
                json!({"name": "c"}),
                json!({"controlPlaneServiceTemplate": {
                "metadata": {"namespace": namespace}, "spec": {"type": kind}}}),
            )
        };
        let got = asked(&ClusterRules, None, &cluster("", "ExternalName"), false);
        assert!(
            got[0].starts_with("spec.controlPlaneServiceTemplate.spec.type: "),
            "{got:?}"
        );
        let (old, new) = (cluster("", "ClusterIP"), cluster("other", "ClusterIP"));
        let got = asked(&ClusterRules, Some(&old), &new, false);
        assert!(
            got.len() == 1 && got[0].contains("metadata.namespace"),
            "{got:?}"
        );
    }

    #[test]
    fn wh_07_what_was_wrong_before_is_let_pass() {
        let cluster = |team: &str| -> KubevirtCluster {
            of(
                "KubevirtCluster",
                json!({"name": "c", "labels": {"team": team}}),
                json!({
                "controlPlaneServiceTemplate": {"spec": {"type": "ExternalName"}}}),
            )
        };
        assert!(asked(&ClusterRules, Some(&cluster("a")), &cluster("b"), false).is_empty());
    }

    #[test]
    fn the_addresses_of_a_machine_stay_as_its_guest_was_told() {
        let machine = |pool: &str| -> KubevirtMachine {
            let interfaces = json!([{"name": "vlan", "addressesFromPools":
                [{"kind": "InClusterIPPool", "name": pool}]}]);
            let instance = json!({
                "domain": {"devices": {"interfaces": [{"name": "vlan", "bridge": {}}]}},
                "networks": [{"name": "vlan", "multus": {"networkName": "vlan"}}],
            });
            let vm = json!({"spec": {"template": {"spec": instance}}});
            of(
                "KubevirtMachine",
                json!({"name": "m"}),
                json!({"virtualMachineTemplate": vm, "networkInterfaces": interfaces}),
            )
        };
        let old = machine("a");
        assert!(asked(&MachineRules, Some(&old), &machine("a"), false).is_empty());
        let got = asked(&MachineRules, Some(&old), &machine("b"), false);
        assert!(
            got.len() == 1 && got[0].starts_with("spec.networkInterfaces: cannot be changed"),
            "{got:?}"
        );
        let mut unknown = machine("a");
        unknown.spec.network_interfaces[0].name = "other".into();
        let got = asked(&MachineRules, None, &unknown, false);
        assert!(
            got[0].starts_with("spec.networkInterfaces[0].name: is other"),
            "{got:?}"
        );
    }

    #[rstest]
    #[case::empty(json!({"name": ""}), 1)]
    #[case::missing(json!({"namespace": "ns"}), 1)]
    #[case::named(json!({"name": "b-kubeconfig"}), 0)]
    #[case::in_the_same_infra_cluster(Value::Null, 0)]
    fn a_failure_domain_elsewhere_names_its_secret(#[case] secret: Value, #[case] faults: usize) {
        let zones = json!([{"name": "a"}, {"name": "b", "infraClusterSecretRef": secret}]);
        let spec = json!({"failureDomains": zones});
        let new: KubevirtCluster = of("KubevirtCluster", json!({"name": "c"}), spec);
        let got = asked(&ClusterRules, None, &new, false);
        assert_eq!(got.len(), faults, "{got:?}");
        let field = "spec.failureDomains[1].infraClusterSecretRef.name: ";
        assert!(got.iter().all(|text| text.starts_with(field)), "{got:?}");
    }

    #[test]
    fn wh_05_an_externally_managed_cluster_stays_so() {
        let cluster = |annotations: Value| -> KubevirtCluster {
            let meta = json!({"name": "c", "annotations": annotations});
            of("KubevirtCluster", meta, json!({}))
        };
        let (theirs, ours) = (
            cluster(json!({"cluster.x-k8s.io/managed-by": "somebody"})),
            cluster(json!({})),
        );
        let got = asked(&ClusterRules, Some(&theirs), &ours, false);
        assert!(got.len() == 1 && got[0].contains("managed-by"), "{got:?}");
        assert!(asked(&ClusterRules, Some(&ours), &theirs, false).is_empty());
    }

    #[test]
    fn wh_07_a_template_gives_its_clones_labels_that_they_can_have() {
        let spec = json!({"virtualMachineTemplate": {"spec": {"template": {"spec": {}}}}});
        let resource = |spec: Value| {
            let meta = json!({"labels": {"team": "no value of a label"}});
            json!({"template": {"metadata": meta, "spec": spec}})
        };
        let name = json!({"name": "t"});
        let machine = of("KubevirtMachineTemplate", name.clone(), resource(spec));
        let cluster = of("KubevirtClusterTemplate", name, resource(json!({})));
        for got in [
            asked(&MachineTemplateRules, None, &machine, false),
            asked(&ClusterTemplateRules, None, &cluster, false),
        ] {
            let field = "spec.template.metadata.labels";
            assert!(got.len() == 1 && got[0].starts_with(field), "{got:?}");
        }
    }

    /// An empty text means the same as none to whoever writes YAML.
    #[test]
    fn a_namespace_that_is_emptied_is_no_move() {
        let cluster = |meta: Value| -> KubevirtCluster {
            let template = json!({"metadata": meta, "spec": {}});
            let spec = json!({"controlPlaneServiceTemplate": template});
            of("KubevirtCluster", json!({"name": "c"}), spec)
        };
        let (none, empty) = (cluster(json!({})), cluster(json!({"namespace": ""})));
        assert!(asked(&ClusterRules, Some(&none), &empty, false).is_empty());
    }
}
