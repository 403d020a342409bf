//! Every field of the definitions, and the test that shows what it does.
//!
//! A module lists its fields with [`fields!`], one test each; the macro makes the tests and the
//! rows of the table in `docs/proxmox-fields.md`, so that a row without a test cannot be written,
//! and a test without a row is dead code. [`every_field_has_a_test`] walks the definitions: a field
//! that no row names, and a row that names no field, are both red.
//!
//! A test compares two worlds that differ in that field alone: see [`outcome`].

mod addresses;
mod cluster;
mod metadata;
mod network;
pub(crate) mod outcome;
mod placement;
mod status;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use provider_proxmox::api;
use serde_json::Value;

/// A row of the table.
pub(crate) struct Case {
    /// Paths of the fields, such as `ProxmoxMachine.spec.network.networkDevices[].mtu`.
    fields: &'static [&'static str],
    /// What they change, as the table says it.
    effect: &'static str,
    /// The test that shows it.
    test: &'static str,
}

/// Tests of fields: what the field changes, its path (or several), and the test.
///
/// ```ignore
/// fields! {
///     /// The guest's interface has this MTU.
///     "ProxmoxMachine.spec.network.networkDevices[].linkMtu" => link_mtu;
/// }
///
/// async fn link_mtu() { ... }
/// ```
macro_rules! fields {
    ($($(#[doc = $effect:literal])+ $($field:literal),+ => $test:ident;)+) => {
        /// The tests of the table, on a paused clock.
        mod shows {
            $(
                #[tokio::test(start_paused = true)]
                async fn $test() {
                    super::$test().await;
                }
            )+
        }

        /// The rows of this module.
        pub(super) const CASES: &[$crate::fields::Case] = &[
            $($crate::fields::Case {
                fields: &[$($field),+],
                effect: concat!($($effect),+),
                test: concat!(module_path!(), "::shows::", stringify!($test)),
            },)+
        ];
    };
}
pub(crate) use fields;

/// The rows of all modules.
const CASES: &[&[Case]] = &[
    addresses::CASES,
    metadata::CASES,
    network::CASES,
    placement::CASES,
    cluster::CASES,
    status::CASES,
];

/// Places that hold the same fields as another (ICT-01, IMT-01): what is equal there needs no
/// row of its own.
const COPIES: &[(&str, &str)] = &[
    (
        "ProxmoxCluster.spec.cloneSpec.machineSpec[].",
        "ProxmoxMachine.spec.",
    ),
    (
        "ProxmoxClusterTemplate.spec.template.spec.",
        "ProxmoxCluster.spec.",
    ),
    (
        "ProxmoxMachineTemplate.spec.template.spec.",
        "ProxmoxMachine.spec.",
    ),
];

/// The leaves of all definitions, by path, with their schemas. Lists are `[]`, maps `{}`.
fn leaves() -> BTreeMap<String, Value> {
    let mut leaves = BTreeMap::new();
    for definition in api::crds() {
        let kind = definition.spec.names.kind.clone();
        let definition = serde_json::to_value(definition).unwrap();
        let schema = "/spec/versions/0/schema/openAPIV3Schema/properties";
        for part in ["spec", "status"] {
            if let Some(schema) = definition.pointer(&format!("{schema}/{part}")) {
                walk(schema, format!("{kind}.{part}"), &mut leaves);
            }
        }
    }
    leaves
}

fn walk(schema: &Value, path: String, leaves: &mut BTreeMap<String, Value>) {
    if let Some(properties) = schema["properties"].as_object() {
        for (name, property) in properties {
            walk(property, format!("{path}.{name}"), leaves);
        }
    } else if schema["items"].is_object() {
        walk(&schema["items"], format!("{path}[]"), leaves);
    } else if schema["additionalProperties"].is_object() {
        walk(
            &schema["additionalProperties"],
            format!("{path}{{}}"),
            leaves,
        );
    } else {
        leaves.insert(path, schema.clone());
    }
}

/// The fields that need a row: all but copies of others.
fn fields_of_the_definitions() -> BTreeSet<String> {
    let leaves = leaves();
    let is_copy = |path: &str, schema: &Value| {
        COPIES.iter().any(|(copy, original)| {
            let rest = path.strip_prefix(copy);
            rest.is_some_and(|rest| leaves.get(&format!("{original}{rest}")) == Some(schema))
        })
    };
    let own = leaves
        .iter()
        .filter(|(path, schema)| !is_copy(path, schema));
    own.map(|(path, _)| path.clone()).collect()
}

/// The rows by field.
fn rows() -> BTreeMap<&'static str, Vec<&'static Case>> {
    let mut rows: BTreeMap<&str, Vec<&Case>> = BTreeMap::new();
    for case in CASES.iter().copied().flatten() {
        for field in case.fields {
            rows.entry(field).or_default().push(case);
        }
    }
    rows
}

#[test]
fn every_field_has_a_test() {
    let (fields, rows) = (fields_of_the_definitions(), rows());
    let unknown: Vec<_> = rows
        .keys()
        .filter(|field| !fields.contains(**field))
        .collect();
    assert!(unknown.is_empty(), "rows of no field: {unknown:#?}");
    let missing: Vec<_> = fields
        .iter()
        .filter(|field| !rows.contains_key(field.as_str()))
        .collect();
    assert!(missing.is_empty(), "fields without a test: {missing:#?}");
}

/// `docs/proxmox-fields.md` is this table; `UPDATE_GOLDEN=1` writes it anew.
#[test]
fn golden_table_of_fields() {
    let (fields, rows) = (fields_of_the_definitions(), rows());
    let mut text = "# What each field does, and the test that shows it\n\n\
        Generated from `provider-proxmox/tests/it/fields`: \
        `UPDATE_GOLDEN=1 cargo test -p provider-proxmox golden` writes it anew.\n\
        Templates hold the fields of the kind that they are templates of, and these are not repeated.\n\n\
        | field | effect | test |\n|---|---|---|\n"
        .to_owned();
    for field in &fields {
        let cases = rows.get(field.as_str()).map_or(&[][..], Vec::as_slice);
        for case in cases {
            let test = case.test.trim_start_matches("it::");
            let effect = case.effect.trim();
            writeln!(text, "| `{field}` | {effect} | `{test}` |").unwrap();
        }
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/proxmox-fields.md");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let stored = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        stored == text,
        "docs/proxmox-fields.md is out of date: run with UPDATE_GOLDEN=1 and review the difference"
    );
}
