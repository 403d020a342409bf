use rstest::rstest;

use super::*;
use crate::network::{GuestRoute, GuestRule, Interface, Vrf};

const UUID: &str = "6c3fa683-bef9-4425-b413-eaa45a9d6191";

fn meta_data() -> MetaData {
    MetaData {
        instance_id: UUID.into(),
        hostname: "m-0".into(),
        provider_id: None,
        kubernetes_version: None,
    }
}

fn route(to: &str, via: &str, metric: Option<u32>, table: Option<u32>) -> GuestRoute {
    GuestRoute {
        to: to.into(),
        via: Some(via.into()),
        metric,
        table,
    }
}

/// Two interfaces, the second in a VRF, with all that can be said of them.
fn guest() -> GuestNetwork {
    let eth0 = Interface {
        name: "eth0".into(),
        mac: "bc:24:11:00:00:00".into(),
        addresses: vec![
            ("10.0.0.10".parse().unwrap(), 24),
            ("fd00::10".parse().unwrap(), 64),
        ],
        mtu: Some(1400),
        name_servers: vec!["10.0.0.2".into(), "fd00::2".into()],
        vrf: None,
        routes: vec![
            route("0.0.0.0/0", "10.0.0.1", Some(100), None),
            route("::/0", "fd00::1", Some(100), None),
        ],
        rules: vec![GuestRule {
            to: None,
            from: Some("10.0.0.0/24".into()),
            table: Some(1000),
            priority: None,
        }],
    };
    let eth1 = Interface {
        name: "eth1".into(),
        mac: "bc:24:11:00:00:01".into(),
        addresses: vec![("10.5.0.10".parse().unwrap(), 16)],
        mtu: None,
        name_servers: Vec::new(),
        vrf: Some("vrf-red".into()),
        routes: vec![route("0.0.0.0/0", "10.5.0.1", Some(200), Some(500))],
        rules: Vec::new(),
    };
    let red = Vrf {
        name: "vrf-red".into(),
        table: 500,
        interfaces: vec!["eth1".into()],
        routes: vec![route("10.9.0.0/16", "10.5.0.3", None, Some(500))],
        rules: vec![GuestRule {
            to: Some("10.5.0.0/16".into()),
            from: None,
            table: Some(500),
            priority: Some(1),
        }],
    };
    GuestNetwork {
        node_addresses: eth0.addresses.clone(),
        interfaces: vec![eth0, eth1],
        vrfs: vec![red],
    }
}

fn merged(document: &Value) -> Value {
    let bytes = merge(document.to_string().as_bytes(), &meta_data(), &guest()).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

/// The files of a document by path: permissions and text.
fn files(document: &Value) -> Vec<(String, u64, String)> {
    let files = document["storage"]["files"].as_array().unwrap();
    files
        .iter()
        .map(|file| {
            let source = file["contents"]["source"].as_str().unwrap();
            let packed = source.strip_prefix("data:;base64,").unwrap();
            let text = String::from_utf8(STANDARD.decode(packed).unwrap()).unwrap();
            let path = file["path"].as_str().unwrap().to_owned();
            (path, file["mode"].as_u64().unwrap(), text)
        })
        .collect()
}

const ENVIRONMENT_TEXT: &str = "COREOS_CUSTOM_HOSTNAME=m-0
COREOS_CUSTOM_INSTANCE_ID=6c3fa683-bef9-4425-b413-eaa45a9d6191
COREOS_CUSTOM_PROVIDER_ID=proxmox://6c3fa683-bef9-4425-b413-eaa45a9d6191
COREOS_CUSTOM_PRIVATE_IPV4=10.0.0.10/24
COREOS_CUSTOM_PRIVATE_IPV6=fd00::10/64
";

const ETH0: &str = "[Match]
MACAddress=bc:24:11:00:00:00

[Link]
MTUBytes=1400

[Network]
DNS=10.0.0.2
DNS=fd00::2

[Address]
Address=10.0.0.10/24

[Address]
Address=fd00::10/64

[Route]
Destination=0.0.0.0/0
Gateway=10.0.0.1
Metric=100

[Route]
Destination=::/0
Gateway=fd00::1
Metric=100

[RoutingPolicyRule]
From=10.0.0.0/24
Table=1000
";

#[test]
fn version_2_has_units_of_networkd() {
    let document = json!({"ignition": {"version": "2.3.0"}, "networkd": {}});
    let merged = merged(&document);
    let expected = [
        ("/etc/hostname".to_owned(), 0o644, "m-0\n".to_owned()),
        (
            "/etc/proxmox-env".to_owned(),
            0o644,
            ENVIRONMENT_TEXT.to_owned(),
        ),
    ];
    assert_eq!(files(&merged), expected);
    for file in merged["storage"]["files"].as_array().unwrap() {
        assert_eq!(file["filesystem"], "root");
    }
    let units = merged["networkd"]["units"].as_array().unwrap();
    let names: Vec<&str> = units
        .iter()
        .map(|unit| unit["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "00-vrf-red.netdev",
            "00-vrf-red.network",
            "00-eth0.network",
            "00-eth1.network"
        ]
    );
    let text = |number: usize| units[number]["contents"].as_str().unwrap();
    assert_eq!(
        text(0),
        "[NetDev]\nName=vrf-red\nKind=vrf\n\n[VRF]\nTable=500\n"
    );
    assert_eq!(
        text(1),
        "[Match]\nName=vrf-red\n\n\
         [Route]\nDestination=10.9.0.0/16\nGateway=10.5.0.3\nTable=500\n\n\
         [RoutingPolicyRule]\nTo=10.5.0.0/16\nTable=500\nPriority=1\n"
    );
    assert_eq!(text(2), ETH0);
    assert!(text(3).contains("[Network]\nVRF=vrf-red\n"));
    let resolver = json!([{"name": "systemd-resolved.service", "enabled": true}]);
    assert_eq!(merged["systemd"]["units"], resolver);
}

const ETH1_CONNECTION: &str = "[connection]
id=eth1
type=ethernet
master=vrf-red
slave-type=vrf

[ethernet]
mac-address=bc:24:11:00:00:01

[ipv4]
method=manual
address1=10.5.0.10/16
route1=0.0.0.0/0,10.5.0.1,200
route1_options=table=500
route2=10.9.0.0/16,10.5.0.3
route2_options=table=500
routing-rule1=priority 1 to 10.5.0.0/16 table 500

[ipv6]
method=link-local
";

/// Version 3 has no part for networkd, and its files serve Flatcar and Fedora CoreOS alike.
#[test]
fn defect_14_version_3_has_files_for_both_network_services() {
    let merged = merged(&json!({"ignition": {"version": "3.4.0"}}));
    assert_eq!(merged.get("networkd"), None);
    let files = files(&merged);
    let paths: Vec<(&str, u64)> = files.iter().map(|file| (file.0.as_str(), file.1)).collect();
    let (units, connections) = (
        "/etc/systemd/network",
        "/etc/NetworkManager/system-connections",
    );
    let expected = [
        ("/etc/hostname".to_owned(), 0o644),
        ("/etc/proxmox-env".to_owned(), 0o644),
        (format!("{units}/00-vrf-red.netdev"), 0o644),
        (format!("{units}/00-vrf-red.network"), 0o644),
        (format!("{units}/00-eth0.network"), 0o644),
        (format!("{units}/00-eth1.network"), 0o644),
        (format!("{connections}/vrf-red.nmconnection"), 0o600),
        (format!("{connections}/eth0.nmconnection"), 0o600),
        (format!("{connections}/eth1.nmconnection"), 0o600),
    ];
    let expected: Vec<(&str, u64)> = expected
        .iter()
        .map(|file| (file.0.as_str(), file.1))
        .collect();
    assert_eq!(paths, expected);
    assert_eq!(files[4].2, ETH0);
    assert_eq!(files[8].2, ETH1_CONNECTION);
    assert!(
        files[7]
            .2
            .contains("routing-rule1=priority 30001 from 10.0.0.0/24 table 1000\n")
    );
    for file in merged["storage"]["files"].as_array().unwrap() {
        assert_eq!(file.get("filesystem"), None);
    }
}

#[test]
fn what_the_document_has_stays_as_it_is() {
    let own = json!({"path": "/etc/hostname", "contents": {"source": "data:,own"}});
    let link = json!({"path": "/etc/proxmox-env", "target": "/dev/null"});
    let document = json!({
        "ignition": {"version": "3.0.0", "config": {"merge": [{"source": "https://example.com"}]}},
        "passwd": {"users": [{"name": "core"}]},
        "storage": {"files": [own], "links": [link]},
        "kernelArguments": {"shouldExist": ["quiet"]},
    });
    let merged = merged(&document);
    assert_eq!(merged["storage"]["files"][0], own);
    for key in ["ignition", "passwd", "kernelArguments"] {
        assert_eq!(merged[key], document[key]);
    }
    let paths: Vec<&str> = merged["storage"]["files"]
        .as_array()
        .unwrap()
        .iter()
        .map(|file| file["path"].as_str().unwrap())
        .collect();
    assert_eq!(
        paths
            .iter()
            .filter(|path| **path == "/etc/hostname")
            .count(),
        1
    );
    assert!(!paths.contains(&"/etc/proxmox-env"), "it is a link already");
    let unit = json!({"name": "00-eth0.network", "contents": "own"});
    let document = json!({"ignition": {"version": "2.3.0"}, "networkd": {"units": [unit]}});
    let units = self::merged(&document)["networkd"]["units"].take();
    let twins = units
        .as_array()
        .unwrap()
        .iter()
        .filter(|one| one["name"] == unit["name"]);
    assert_eq!(twins.collect::<Vec<_>>(), [&unit]);
}

#[rstest]
#[case::two("2.0.0", true)]
#[case::newest_two("2.4.0", true)]
#[case::beyond_two("2.5.0", false)]
#[case::one("1.0.0", false)]
#[case::three("3.0.0", true)]
#[case::later_three("3.9.0", true)]
#[case::experimental("3.7.0-experimental", true)]
#[case::four("4.0.0", false)]
#[case::short("3", false)]
#[case::nonsense("three", false)]
fn versions_are_told_apart(#[case] version: &str, #[case] fits: bool) {
    let document = json!({"ignition": {"version": version}}).to_string();
    let merged = merge(document.as_bytes(), &meta_data(), &guest());
    let version = version.to_owned();
    match merged {
        Ok(_) => assert!(fits),
        Err(error) => assert_eq!(error, IgnitionError::UnsupportedVersion { version }),
    }
}

#[rstest]
#[case::list("[]", "has no ignition.version")]
#[case::no_version(r#"{"ignition": {}}"#, "has no ignition.version")]
#[case::open(r#"{"secret": "#, "no JSON at line 1, column 11")]
#[case::replaced(
    r#"{"ignition": {"version": "3.0.0", "config": {"replace": {"source": "https://secret"}}}}"#,
    "use ignition.config.merge"
)]
#[case::replaced_2(
    r#"{"ignition": {"version": "2.3.0", "config": {"replace": {"source": "https://secret"}}}}"#,
    "use ignition.config.append"
)]
#[case::files(
    r#"{"ignition": {"version": "3.0.0"}, "storage": {"files": "secret"}}"#,
    "storage.files of the Ignition document is no list"
)]
#[case::storage(
    r#"{"ignition": {"version": "3.0.0"}, "storage": "secret"}"#,
    "storage.files of the Ignition document is no object"
)]
#[case::units(
    r#"{"ignition": {"version": "2.3.0"}, "networkd": {"units": {"a": "secret"}}}"#,
    "networkd.units of the Ignition document is no list"
)]
fn r15_what_is_wrong_is_said_without_showing_the_document(
    #[case] document: &str,
    #[case] expected: &str,
) {
    let error = merge(document.as_bytes(), &meta_data(), &guest()).unwrap_err();
    for text in [error.to_string(), format!("{error:?}")] {
        assert!(!text.contains("secret"), "{text}");
    }
    assert!(error.to_string().contains(expected), "{error}");
}

#[test]
fn equal_input_gives_equal_bytes() {
    let document = br#"{"ignition": {"version": "3.0.0"}, "b": 1, "a": {"d": 2, "c": 3}}"#;
    let made = || merge(document, &meta_data(), &guest()).unwrap();
    assert_eq!(made(), made());
}
