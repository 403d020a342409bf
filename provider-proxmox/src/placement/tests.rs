use std::collections::{BTreeMap, BTreeSet};

use rstest::rstest;

use super::*;
use crate::api::TemplateSelector;

const GIB: u64 = 1 << 30;

fn node_row(name: &str, gib: u64) -> NodeRow {
    NodeRow {
        name: name.into(),
        online: true,
        memory: gib * GIB,
        cpus: 16,
    }
}

fn guest(vmid: u32, node: &str, gib: u64) -> GuestRow {
    GuestRow {
        vmid,
        node: node.into(),
        memory: gib * GIB,
        ..GuestRow::default()
    }
}

fn template_row(vmid: u32, node: &str, tags: &str) -> GuestRow {
    let name = format!("t{vmid}");
    GuestRow {
        template: true,
        name,
        tags: Tags::parse(tags),
        ..guest(vmid, node, 2)
    }
}

fn listing() -> Listing {
    Listing {
        nodes: vec![
            node_row("pve1", 64),
            node_row("pve2", 64),
            node_row("pve3", 64),
        ],
        guests: vec![
            template_row(9000, "pve1", "ubuntu;k8s"),
            template_row(9001, "pve2", "ubuntu;k8s;gpu"),
            template_row(9002, "pve3", "debian"),
            guest(100, "pve1", 48),
            guest(101, "pve2", 8),
        ],
    }
}

fn tagged(tags: &[&str], policy: MatchPolicy) -> TemplateSelector {
    TemplateSelector {
        match_tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
        match_policy: policy,
    }
}

#[rstest]
#[case::exact(&["k8s", "Ubuntu"], MatchPolicy::Exact, Ok(9000))]
#[case::exact_takes_no_superset(&["k8s"], MatchPolicy::Exact, Err("none matches"))]
#[case::subset_must_be_unique(&["k8s"], MatchPolicy::UniqueSubset, Err("2 match"))]
#[case::unique_subset(&["gpu"], MatchPolicy::UniqueSubset, Ok(9001))]
#[case::best_has_the_fewest_others(&["k8s"], MatchPolicy::BestSubset, Ok(9000))]
#[case::nothing(&["windows"], MatchPolicy::BestSubset, Err("9002 t9002 on pve3 (debian)"))]
fn templates_by_tags(
    #[case] tags: &[&str],
    #[case] policy: MatchPolicy,
    #[case] expected: Result<u32, &str>,
) {
    let selector = tagged(tags, policy);
    let found = templates(Some(TemplateSource::Tags(&selector)), &listing());
    match (found, expected) {
        (Ok(found), Ok(expected)) => assert_eq!((found.len(), found[0].vmid), (1, expected)),
        (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
        (found, expected) => panic!("{found:?} instead of {expected:?}"),
    }
}

#[rstest]
#[case::template("pve1", 9000, Ok(()))]
#[case::machine_that_is_no_template("pve1", 100, Ok(()))]
#[case::elsewhere(
    "pve1",
    9001,
    Err("it is on node pve2, not on pve1; correct sourceNode")
)]
#[case::missing(
    "pve1",
    4711,
    Err("templates to be seen: 9000 t9000 on pve1 (k8s;ubuntu)")
)]
#[case::beyond_all_numbers("pve1", i64::MAX, Err("there is no such virtual machine"))]
fn templates_by_id(#[case] node: &str, #[case] vmid: i64, #[case] expected: Result<(), &str>) {
    let found = templates(Some(TemplateSource::Id { node, vmid }), &listing());
    match (found, expected) {
        (Ok(found), Ok(())) => {
            let found = &found[0];
            assert_eq!((i64::from(found.vmid), found.node.as_str()), (vmid, node));
        }
        (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
        (found, expected) => panic!("{found:?} instead of {expected:?}"),
    }
}

#[test]
fn a_template_needs_a_node_that_answers() {
    let mut listing = listing();
    listing.nodes[0].online = false;
    let error = templates(
        Some(TemplateSource::Id {
            node: "pve1",
            vmid: 9000,
        }),
        &listing,
    );
    assert!(
        error
            .unwrap_err()
            .to_string()
            .starts_with("use node pve1: it is offline")
    );
    assert_eq!(templates(None, &listing), Err(PlacementError::NoSource));
}

/// Places a machine of 16 GiB on `allowed`.
fn place(
    allowed: &[&str],
    adjustment: u64,
    peers: &[(&str, usize)],
    listing: &Listing,
    reservations: &[Reservation],
) -> Result<NodeChoice, PlacementError> {
    let allowed: Vec<String> = allowed.iter().map(|name| (*name).to_owned()).collect();
    let peers: BTreeMap<String, usize> = peers
        .iter()
        .map(|(name, count)| ((*name).to_owned(), *count))
        .collect();
    let request = NodeRequest {
        target: None,
        allowed: &allowed,
        template_nodes: &["pve1".to_owned()],
        memory: 16 * GIB,
        adjustment,
        cpus: 4,
        cpu_adjustment: 0,
        peers: &peers,
    };
    node(&request, listing, reservations)
}

fn chosen(result: Result<NodeChoice, PlacementError>) -> String {
    result.expect("a node fits").node
}

#[test]
fn the_template_stays_where_it_is_without_allowed_nodes() {
    assert_eq!(chosen(place(&[], 100, &[], &listing(), &[])), "pve1");
}

#[test]
fn a_target_is_taken_at_its_word_and_must_answer() {
    let request = NodeRequest {
        target: Some("pve3"),
        allowed: &["pve1".to_owned()],
        template_nodes: &["pve1".to_owned()],
        memory: 1000 * GIB,
        adjustment: 100,
        cpus: 4,
        cpu_adjustment: 0,
        peers: &BTreeMap::new(),
    };
    assert_eq!(chosen(node(&request, &listing(), &[])), "pve3");
    let unknown = NodeRequest {
        target: Some("pve9"),
        ..request
    };
    let error = node(&unknown, &listing(), &[]).unwrap_err().to_string();
    assert!(error.contains("there is no such node"), "{error}");
    assert!(error.contains("pve1, pve2, pve3"), "{error}");
}

#[test]
fn fewest_peers_then_most_memory_then_name() {
    let all = ["pve1", "pve2", "pve3"];
    assert_eq!(chosen(place(&all, 100, &[], &listing(), &[])), "pve3");
    assert_eq!(
        chosen(place(&all, 100, &[("pve3", 1)], &listing(), &[])),
        "pve2"
    );
    let even = [("pve1", 0), ("pve2", 1), ("pve3", 1)];
    let choice = place(&all, 100, &even, &listing(), &[]).unwrap();
    assert_eq!(
        choice.explanation,
        "node pve1: 0 machines of this set, 16384 MiB to promise"
    );
    let empty = Listing {
        guests: Vec::new(),
        ..listing()
    };
    assert_eq!(chosen(place(&all, 100, &[], &empty, &[])), "pve1");
}

#[test]
fn memory_is_counted_with_what_was_promised_but_is_not_listed_yet() {
    let reservation = |vmid| Reservation {
        vmid,
        node: "pve1".into(),
        memory: GIB,
        cpus: 1,
    };
    assert_eq!(chosen(place(&["pve1"], 100, &[], &listing(), &[])), "pve1");
    let error = place(&["pve1"], 100, &[], &listing(), &[reservation(200)]).unwrap_err();
    assert_eq!(
        error,
        PlacementError::NoNode {
            memory_mib: 16384,
            cpus: 4,
            nodes: "pve1 has 15360 MiB to promise".into()
        }
    );
    // Number 100 is listed on that node: counted once.
    assert_eq!(
        chosen(place(&["pve1"], 100, &[], &listing(), &[reservation(100)])),
        "pve1"
    );
    // A clone is listed on the template's node until the end; its target counts the promise.
    let mut cloning = listing();
    cloning.guests.push(guest(200, "pve3", 1));
    assert!(place(&["pve1"], 100, &[], &cloning, &[reservation(200)]).is_err());
}

#[test]
fn adjustment_scales_the_memory_and_zero_ignores_it() {
    assert!(place(&["pve1"], 99, &[], &listing(), &[]).is_err());
    let small = Listing {
        nodes: vec![node_row("pve1", 1)],
        ..listing()
    };
    assert!(place(&["pve1"], 300, &[], &small, &[]).is_err());
    assert_eq!(chosen(place(&["pve1"], 0, &[], &small, &[])), "pve1");
    assert_eq!(percent(u64::MAX, 300), u64::MAX);
}

/// Issues #451 and #673: with storages that nodes do not share, each node has its own copy of the
/// template.
#[test]
fn defect_451_copies_of_a_template_are_one_template() {
    let selector = tagged(&["k8s", "ubuntu"], MatchPolicy::Exact);
    let source = || Some(TemplateSource::Tags(&selector));
    let mut listing = listing();
    listing
        .guests
        .push(template_row(9010, "pve2", "ubuntu;k8s"));
    let found = templates(source(), &listing).unwrap();
    let nodes: Vec<String> = found.iter().map(|one| one.node.clone()).collect();
    assert_eq!(nodes, ["pve1", "pve2"]);
    let place = |allowed: &[&str]| {
        let allowed: Vec<String> = allowed.iter().map(|name| (*name).to_owned()).collect();
        let request = NodeRequest {
            target: None,
            allowed: &allowed,
            template_nodes: &nodes,
            memory: 16 * GIB,
            adjustment: 100,
            cpus: 4,
            cpu_adjustment: 0,
            peers: &BTreeMap::new(),
        };
        chosen(node(&request, &listing, &[]))
    };
    // The third node has the most memory, and no copy.
    assert_eq!(place(&[]), "pve2");
    assert_eq!(place(&["pve1", "pve3"]), "pve1");
    assert_eq!(place(&["pve3"]), "pve3", "where storage is shared");
    // A copy on a node that is down is left out.
    let mut down = listing.clone();
    down.nodes[0].online = false;
    assert_eq!(templates(source(), &down).unwrap()[0].node, "pve2");
    // Two on one node are a mistake.
    listing
        .guests
        .push(template_row(9011, "pve2", "k8s;ubuntu"));
    let error = templates(source(), &listing).unwrap_err().to_string();
    assert!(
        error.contains("3 match") && error.contains("9011"),
        "{error}"
    );
}

/// Issue #724: processors are promised as often as the cluster says, and no more.
#[test]
fn defect_724_processors_are_not_overcommitted_beyond_the_hint() {
    let mut listing = listing();
    listing.guests.push(GuestRow {
        cpus: 30,
        ..guest(102, "pve3", 1)
    });
    let place = |cpu_adjustment, reservations: &[Reservation]| {
        let allowed = ["pve3".to_owned()];
        let request = NodeRequest {
            target: None,
            allowed: &allowed,
            template_nodes: &["pve1".to_owned()],
            memory: GIB,
            adjustment: 100,
            cpus: 4,
            cpu_adjustment,
            peers: &BTreeMap::new(),
        };
        node(&request, &listing, reservations).map(|choice| choice.node)
    };
    assert_eq!(
        place(0, &[]).unwrap(),
        "pve3",
        "not checked unless asked for"
    );
    assert_eq!(place(250, &[]).unwrap(), "pve3");
    let error = place(200, &[]).unwrap_err().to_string();
    assert!(error.contains("pve3 has 2 CPUs to promise"), "{error}");
    assert!(error.contains("cpuAdjustment"), "{error}");
    let promised = Reservation {
        vmid: 103,
        node: "pve3".into(),
        memory: GIB,
        cpus: 8,
    };
    assert!(place(250, &[promised]).is_err());
}

#[test]
fn im_06_a_failure_domain_narrows_the_nodes() {
    let names =
        |names: &[&str]| -> Vec<String> { names.iter().map(|name| (*name).to_owned()).collect() };
    let (zone, cluster) = (names(&["pve2", "pve3"]), names(&["pve1", "pve2"]));
    let of = |zone: &[String], own: &[&str], target| {
        allowed("west", zone, &names(own), &cluster, target).map_err(|error| error.to_string())
    };
    assert_eq!(of(&[], &[], None).unwrap(), cluster);
    assert_eq!(of(&[], &["pve9"], None).unwrap(), ["pve9"]);
    assert_eq!(of(&zone, &[], None).unwrap(), zone);
    assert_eq!(of(&zone, &["pve1", "pve3"], None).unwrap(), ["pve3"]);
    assert_eq!(of(&zone, &[], Some("pve2")).unwrap(), zone);
    let error = of(&zone, &["pve1"], None).unwrap_err();
    assert!(error.contains("spec.allowedNodes names pve1"), "{error}");
    let error = of(&zone, &[], Some("pve1")).unwrap_err();
    assert!(error.contains("spec.target names pve1"), "{error}");
}

#[test]
fn offline_and_unknown_nodes_are_left_out_and_named() {
    let mut listing = listing();
    listing.nodes[2].online = false;
    assert_eq!(
        chosen(place(&["pve2", "pve3", "pve9"], 100, &[], &listing, &[])),
        "pve2"
    );
    let error = place(&["pve9", "pve3"], 100, &[], &listing, &[])
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("(pve3 is offline, pve9 is unknown)"),
        "{error}"
    );
}

#[test]
fn numbers_are_the_first_that_nobody_has() {
    let used = BTreeSet::from([100, 101]);
    let reserved = BTreeSet::from([102]);
    let request = VmidRequest {
        range: Some(VmIdRange {
            start: 100,
            end: 104,
        }),
        next_free: 500,
        used: &used,
        reserved: &reserved,
        given_up: None,
    };
    assert_eq!(vmid(&request), Ok(103));
    assert_eq!(
        vmid(&VmidRequest {
            given_up: Some(103),
            ..request
        }),
        Ok(104)
    );
    let narrow = VmidRequest {
        range: Some(VmIdRange {
            start: 100,
            end: 102,
        }),
        ..request
    };
    assert_eq!(
        vmid(&narrow),
        Err(PlacementError::RangeExhausted {
            start: 100,
            end: 102
        })
    );
    assert_eq!(
        vmid(&VmidRequest {
            range: None,
            ..request
        }),
        Ok(500)
    );
    let backwards = VmidRequest {
        range: Some(VmIdRange {
            start: 200,
            end: 150,
        }),
        ..request
    };
    assert_eq!(
        vmid(&backwards),
        Err(PlacementError::RangeExhausted {
            start: 200,
            end: 150
        })
    );
    assert_eq!(
        vmid(&VmidRequest {
            range: None,
            next_free: 1,
            ..request
        }),
        Ok(103)
    );
}

#[test]
fn long_lists_are_cut() {
    let names = (0..20).map(|number| format!("n{number:02}"));
    assert_eq!(
        list(names),
        "n00, n01, n02, n03, n04, n05, n06, n07 and 12 more"
    );
}
