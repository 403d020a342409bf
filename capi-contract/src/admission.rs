//! Rules for objects that a schema cannot state, asked when somebody writes one (rules WH-*).
//!
//! An author implements [`Admission`] for a kind; [`review`] puts the rules together as the contract
//! wants them, and the engine serves it as a webhook. All of it is pure: a webhook that calls something
//! else stops a cluster when that is down (WH-01).

use std::collections::BTreeMap;

use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;

use crate::view::MANAGED_BY_ANNOTATION;

/// Annotation of the rehearsals in which the topology controller finds out what a change would do
/// (WH-03).
pub const TOPOLOGY_DRY_RUN_ANNOTATION: &str = "topology.cluster.x-k8s.io/dry-run";

/// Longest name of a label or annotation, and longest value of a label, in bytes.
const NAME_MAX: usize = 63;
/// Longest prefix of the name of a label or annotation, in bytes.
const PREFIX_MAX: usize = 253;
/// Most that all annotations of an object may hold together, in bytes.
const ANNOTATIONS_MAX: usize = 256 * 1024;

/// What is wrong with one field.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[error("{field}: {message}")]
pub struct Fault {
    /// Path of the field, such as `spec.network.networkDevices[0].name`.
    pub field: String,
    /// What is wrong, and what to put there.
    pub message: String,
}

impl Fault {
    /// Names a field and what is wrong with it.
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            message: message.into(),
        }
    }
}

/// The rules of one kind.
pub trait Admission: Send + Sync + 'static {
    /// The kind.
    type Kind: Resource<DynamicType = ()> + DeserializeOwned;

    /// What is wrong with an object by itself. On an update, what was wrong before is let pass (WH-07),
    /// so a new rule never locks stored objects.
    fn check(&self, object: &Self::Kind) -> Vec<Fault>;

    /// What is wrong with a change.
    fn change(&self, _old: &Self::Kind, _new: &Self::Kind) -> Vec<Fault> {
        Vec::new()
    }

    /// What is wrong with a change of what a template has given to its clones (WH-02); not asked in
    /// rehearsals of the topology controller (WH-03).
    fn frozen(&self, _old: &Self::Kind, _new: &Self::Kind) -> Vec<Fault> {
        Vec::new()
    }
}

/// Somebody's wish to create or update an object. Deletions are not asked about (WH-06).
#[derive(Debug)]
pub struct Wish<'a, K> {
    /// The object as it is; `None` for a create.
    pub old: Option<&'a K>,
    /// The object as it is to be.
    pub new: &'a K,
    /// Whether nothing is to be stored.
    pub dry_run: bool,
}

/// What speaks against a wish; nothing if it is granted.
pub fn review<A: Admission>(rules: &A, wish: &Wish<'_, A::Kind>) -> Vec<Fault> {
    let Some(old) = wish.old else {
        return rules.check(wish.new);
    };
    // Nothing must stand in the way of the finalizer's removal (WH-04).
    if wish.new.meta().deletion_timestamp.is_some() {
        return Vec::new();
    }
    let before = rules.check(old);
    let mut faults = rules.check(wish.new);
    faults.retain(|fault| !before.contains(fault));
    faults.extend(rules.change(old, wish.new));
    let is_rehearsal = wish
        .new
        .annotations()
        .contains_key(TOPOLOGY_DRY_RUN_ANNOTATION);
    if !(wish.dry_run && is_rehearsal) {
        faults.extend(rules.frozen(old, wish.new));
    }
    faults
}

/// The fault of handing an externally managed infra cluster back to a controller that did not make it
/// (WH-05).
pub fn managed_by_kept<K: Resource>(old: &K, new: &K) -> Option<Fault> {
    let has = |object: &K| object.annotations().contains_key(MANAGED_BY_ANNOTATION);
    (has(old) && !has(new)).then(|| {
        Fault::new(
            format!("metadata.annotations[{MANAGED_BY_ANNOTATION}]"),
            "cannot be removed: an externally managed cluster stays so",
        )
    })
}

/// What is wrong with the labels and annotations that a template gives to its clones (WH-07): they are
/// refused when a clone is made, long after and far from the mistake. `field` is where they are.
pub fn template_metadata(
    field: &str,
    labels: &BTreeMap<String, String>,
    annotations: &BTreeMap<String, String>,
) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (key, value) in labels {
        let place = format!("{field}.labels[{key}]");
        if let Err(message) = check_key(key) {
            faults.push(Fault::new(place.as_str(), message));
        }
        if !value.is_empty() && !is_name(value) {
            faults.push(Fault::new(place, name_rule("a label's value")));
        }
    }
    for key in annotations.keys() {
        if let Err(message) = check_key(&key.to_ascii_lowercase()) {
            faults.push(Fault::new(format!("{field}.annotations[{key}]"), message));
        }
    }
    let size: usize = annotations.iter().map(|(k, v)| k.len() + v.len()).sum();
    if size > ANNOTATIONS_MAX {
        let message = format!("{size} bytes together; at most {ANNOTATIONS_MAX} are stored");
        faults.push(Fault::new(format!("{field}.annotations"), message));
    }
    faults
}

fn check_key(key: &str) -> Result<(), String> {
    let name = match key.split_once('/') {
        Some((prefix, name)) => {
            if !is_domain(prefix) {
                return Err(format!(
                    "the prefix must be a DNS name of at most {PREFIX_MAX} lower-case letters, \
                     digits, dashes and dots"
                ));
            }
            name
        }
        None => key,
    };
    if is_name(name) {
        Ok(())
    } else {
        Err(name_rule("the name"))
    }
}

fn name_rule(what: &str) -> String {
    format!(
        "{what} must have at most {NAME_MAX} letters, digits, dashes, underscores and dots, and begin \
         and end with a letter or digit"
    )
}

fn is_name(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    let bytes = text.as_bytes();
    let ends = bytes.first().zip(bytes.last());
    bytes.len() <= NAME_MAX
        && ends.is_some_and(|(a, z)| a.is_ascii_alphanumeric() && z.is_ascii_alphanumeric())
        && bytes.iter().all(|b| inner(*b))
}

fn is_domain(text: &str) -> bool {
    let word = |word: &str| {
        let outer = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let bytes = word.as_bytes();
        let ends = bytes.first().zip(bytes.last());
        ends.is_some_and(|(a, z)| outer(*a) && outer(*z))
            && bytes.iter().all(|b| outer(*b) || *b == b'-')
    };
    text.len() <= PREFIX_MAX && text.split('.').all(word)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    /// A kind whose `data` may not say `bad`, whose `keep` may not change and whose `mold` is frozen.
    struct Rules;

    impl Admission for Rules {
        type Kind = ConfigMap;

        fn check(&self, object: &ConfigMap) -> Vec<Fault> {
            let data = object.data.iter().flatten();
            data.filter(|(_, value)| *value == "bad")
                .map(|(key, _)| Fault::new(format!("data.{key}"), "must not be bad"))
                .collect()
        }

        fn change(&self, old: &ConfigMap, new: &ConfigMap) -> Vec<Fault> {
            differs(old, new, "keep")
        }

        fn frozen(&self, old: &ConfigMap, new: &ConfigMap) -> Vec<Fault> {
            differs(old, new, "mold")
        }
    }

    fn differs(old: &ConfigMap, new: &ConfigMap, key: &str) -> Vec<Fault> {
        let of = |object: &ConfigMap| object.data.as_ref().and_then(|data| data.get(key).cloned());
        if of(old) == of(new) {
            Vec::new()
        } else {
            vec![Fault::new(format!("data.{key}"), "cannot be changed")]
        }
    }

    fn object(data: &Value) -> ConfigMap {
        serde_json::from_value(json!({"metadata": {"name": "o"}, "data": data})).unwrap()
    }

    fn asked(old: Option<&ConfigMap>, new: &ConfigMap, dry_run: bool) -> Vec<String> {
        let wish = Wish { old, new, dry_run };
        review(&Rules, &wish).into_iter().map(|f| f.field).collect()
    }

    #[test]
    fn wh_07_what_was_wrong_before_is_let_pass() {
        let bad = object(&json!({"a": "bad"}));
        assert_eq!(asked(None, &bad, false), ["data.a"]);
        let worse = object(&json!({"a": "bad", "b": "bad"}));
        assert_eq!(asked(Some(&bad), &worse, false), ["data.b"]);
        let labelled = object(&json!({"a": "bad", "c": "fine"}));
        assert!(asked(Some(&bad), &labelled, false).is_empty());
    }

    #[test]
    fn wh_04_while_deleting_everything_passes() {
        let old = object(&json!({"keep": "1"}));
        let mut new = object(&json!({"keep": "2", "a": "bad"}));
        assert_eq!(asked(Some(&old), &new, false), ["data.a", "data.keep"]);
        let deleted = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        new.metadata.deletion_timestamp = Some(deleted);
        assert!(asked(Some(&old), &new, false).is_empty());
    }

    #[rstest]
    #[case::plain(false, false, true)]
    #[case::dry_run_alone(true, false, true)]
    #[case::annotation_alone(false, true, true)]
    #[case::rehearsal(true, true, false)]
    fn wh_02_wh_03_imt_02_imt_03_only_a_rehearsal_of_the_topology_may_change_a_template(
        #[case] dry_run: bool,
        #[case] annotated: bool,
        #[case] is_refused: bool,
    ) {
        let old = object(&json!({"mold": "1"}));
        let mut new = object(&json!({"mold": "2"}));
        if annotated {
            // Any value counts.
            let annotation = (TOPOLOGY_DRY_RUN_ANNOTATION.to_owned(), String::new());
            new.metadata.annotations = Some([annotation].into());
        }
        assert_eq!(!asked(Some(&old), &new, dry_run).is_empty(), is_refused);
        // Other rules hold in a rehearsal too.
        let mut bad = new.clone();
        let data = bad.data.get_or_insert_default();
        data.insert("a".into(), "bad".into());
        assert!(asked(Some(&old), &bad, dry_run).contains(&"data.a".to_owned()));
    }

    #[test]
    fn wh_03_the_annotation_of_the_old_object_does_not_count() {
        let mut old = object(&json!({"mold": "1"}));
        let annotation = (TOPOLOGY_DRY_RUN_ANNOTATION.to_owned(), String::new());
        old.metadata.annotations = Some([annotation].into());
        let new = object(&json!({"mold": "2"}));
        assert_eq!(asked(Some(&old), &new, true), ["data.mold"]);
    }

    #[rstest]
    #[case::kept(true, true, false)]
    #[case::added(false, true, false)]
    #[case::never(false, false, false)]
    #[case::removed(true, false, true)]
    fn wh_05_an_externally_managed_cluster_stays_so(
        #[case] before: bool,
        #[case] after: bool,
        #[case] is_refused: bool,
    ) {
        let managed = |managed: bool| {
            let mut object = ConfigMap::default();
            if managed {
                let annotation = (MANAGED_BY_ANNOTATION.to_owned(), "x".to_owned());
                object.metadata.annotations = Some([annotation].into());
            }
            object
        };
        let fault = managed_by_kept(&managed(before), &managed(after));
        assert_eq!(fault.is_some(), is_refused);
    }

    #[rstest]
    #[case::plain("app", "web", true)]
    #[case::prefixed("example.com/App_1.x", "", true)]
    #[case::space("my app", "web", false)]
    #[case::dash_first("-app", "web", false)]
    #[case::empty_name("example.com/", "web", false)]
    #[case::upper_prefix("Example.com/app", "web", false)]
    #[case::two_slashes("a/b/c", "web", false)]
    #[case::value_space("app", "my web", false)]
    #[case::value_dash("app", "web-", false)]
    #[case::long_value("app", &"v".repeat(64), false)]
    #[case::longest_value("app", &"v".repeat(63), true)]
    fn wh_07_labels_of_clones_are_checked(
        #[case] key: &str,
        #[case] value: &str,
        #[case] is_good: bool,
    ) {
        let labels = [(key.to_owned(), value.to_owned())].into();
        let faults = template_metadata("spec.template.metadata", &labels, &BTreeMap::new());
        assert_eq!(faults.is_empty(), is_good, "{faults:?}");
        assert!(
            faults
                .iter()
                .all(|fault| fault.field.ends_with(&format!("labels[{key}]")))
        );
    }

    #[test]
    fn wh_07_annotations_of_clones_are_checked() {
        let check = |key: &str, value: String| {
            let annotations = [(key.to_owned(), value)].into();
            template_metadata("m", &BTreeMap::new(), &annotations)
        };
        assert_eq!(check("Example.com/any thing", "x".into()).len(), 1);
        assert!(check("Example.com/thing", "any thing at all".into()).is_empty());
        let size = check("a", "x".repeat(ANNOTATIONS_MAX));
        assert_eq!(size[0].field, "m.annotations");
    }
}
