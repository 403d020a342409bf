//! What KubeVirt makes of an instance's cloud-init volume: a drive that its guest reads.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use capi_testkit::actor::{Name, Object};
use capi_testkit::guest::{File, Medium};
use serde_json::{Value, json};

/// How a Secret may spell its keys.
const USER_DATA: [&str; 2] = ["userdata", "userData"];
const NETWORK_DATA: [&str; 2] = ["networkdata", "networkData"];

/// Why a pod with these volumes cannot start yet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoSeed {
    /// It waits for the Secret, as a pod does that mounts one.
    #[error("MountVolume.SetUp failed for volume {volume:?}: secret {secret:?} not found")]
    NoSecret { volume: String, secret: Name },
    /// It will never start.
    #[error("{0}")]
    Broken(String),
}

/// The drives of all cloud-init volumes, in their order. `secret` gives a Secret of the instance's
/// namespace.
pub(crate) fn media(
    instance: &Object,
    uuid: &str,
    secret: impl Fn(&str) -> Option<Value>,
) -> Result<Vec<Medium>, NoSeed> {
    let mut media = Vec::new();
    for (volume, kind, source) in sources(instance) {
        let data = Data::read(instance, volume, source, &secret)?;
        media.push(if kind == NO_CLOUD {
            data.nocloud(instance, uuid)
        } else {
            data.config_drive(instance, uuid)
        });
    }
    Ok(media)
}

/// Whether one of its cloud-init volumes is made of this Secret.
pub(crate) fn mounts(instance: &Object, secret: &str) -> bool {
    let references = ["secretRef", "networkDataSecretRef"];
    sources(instance).any(|(_, _, source)| {
        references
            .iter()
            .any(|reference| source[*reference]["name"] == secret)
    })
}

const NO_CLOUD: &str = "cloudInitNoCloud";
const CONFIG_DRIVE: &str = "cloudInitConfigDrive";

/// The cloud-init volumes, each with its kind and what it is made of.
fn sources(instance: &Object) -> impl Iterator<Item = (&Value, &'static str, &Value)> {
    let volumes = instance.at("/spec/volumes").and_then(Value::as_array);
    volumes.into_iter().flatten().flat_map(|volume| {
        let kinds = [NO_CLOUD, CONFIG_DRIVE].into_iter();
        kinds
            .map(move |kind| (volume, kind, &volume[kind]))
            .filter(|(_, _, source)| source.is_object())
    })
}

/// The host name that an instance has, also by DHCP.
pub(crate) fn hostname(instance: &Object) -> &str {
    let name = instance.word("/spec/hostname").unwrap_or(instance.name());
    name.split('.').next().unwrap_or(name)
}

struct Data {
    user: Bytes,
    network: Option<Bytes>,
}

impl Data {
    fn read(
        instance: &Object,
        volume: &Value,
        source: &Value,
        secret: impl Fn(&str) -> Option<Value>,
    ) -> Result<Self, NoSeed> {
        let volume = volume["name"].as_str().unwrap_or_default();
        let mount = |reference: &str, keys: [&str; 2]| {
            let Some(name) = source[reference]["name"].as_str() else {
                return Ok(None);
            };
            let object = secret(name).ok_or_else(|| NoSeed::NoSecret {
                volume: volume.to_owned(),
                secret: Name::new(instance.namespace(), name),
            })?;
            let held = keys.iter().find_map(|key| object["data"][*key].as_str());
            Ok(held
                .and_then(|text| STANDARD.decode(text).ok())
                .map(Bytes::from))
        };
        let inline = |plain: &str, encoded: &str| {
            let text = source[plain].as_str().filter(|text| !text.is_empty());
            let decoded = source[encoded]
                .as_str()
                .and_then(|text| STANDARD.decode(text).ok());
            text.map(|text| Bytes::from(text.to_owned()))
                .or(decoded.map(Bytes::from))
        };
        // A Secret goes before what is said in line, and may hold both.
        let user = mount("secretRef", USER_DATA)?.or_else(|| inline("userData", "userDataBase64"));
        let network = mount("networkDataSecretRef", NETWORK_DATA)?
            .or_else(|| inline("networkData", "networkDataBase64"));
        if user.is_none() && network.is_none() {
            return Err(NoSeed::Broken(format!(
                "no cloud-init user-data or network-data found at volume: {volume}"
            )));
        }
        Ok(Self {
            user: user.unwrap_or_default(),
            network,
        })
    }

    fn nocloud(self, instance: &Object, uuid: &str) -> Medium {
        let meta = json!({"instance-id": uuid, "local-hostname": hostname(instance)});
        let mut files = vec![
            File::new("meta-data", meta.to_string()),
            File::new("user-data", self.user),
        ];
        files.extend(self.network.map(|bytes| File::new("network-config", bytes)));
        let label = "cidata".to_owned();
        Medium::Drive { label, files }
    }

    fn config_drive(self, instance: &Object, uuid: &str) -> Medium {
        let meta = json!({
            "instance_id": format!("{}.{}", instance.name(), instance.namespace()),
            "hostname": hostname(instance),
            "uuid": uuid,
        });
        let folder = |name: &str| format!("openstack/latest/{name}");
        let mut files = vec![
            File::new(folder("meta_data.json"), meta.to_string()),
            File::new(folder("user_data"), self.user),
        ];
        let network = self.network;
        files.extend(network.map(|bytes| File::new(folder("network_data.json"), bytes)));
        let label = "config-2".to_owned();
        Medium::Drive { label, files }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(source: &Value) -> Object {
        let object = json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
            "metadata": {"name": "a", "namespace": "n"},
            "spec": {"volumes": [{"name": "disk", "containerDisk": {"image": "i"}},
                {"name": "seed", "cloudInitNoCloud": source}]},
        });
        Object::new(serde_json::from_value(object).expect("an object"))
    }

    fn secret(name: &str) -> Option<Value> {
        // "user" and "net" in base64.
        (name == "s").then(|| json!({"data": {"userdata": "dXNlcg==", "networkData": "bmV0"}}))
    }

    #[test]
    fn a_secret_is_read_by_both_spellings_and_a_missing_one_is_waited_for() {
        let source = json!({"secretRef": {"name": "s"}, "networkDataSecretRef": {"name": "s"}});
        let media = media(&instance(&source), "u", secret).expect("a seed");
        let [Medium::Drive { label, files }] = &media[..] else {
            unreachable!("one drive");
        };
        assert_eq!(label, "cidata");
        let read: Vec<_> = files
            .iter()
            .map(|file| (file.path.as_str(), &file.bytes[..]))
            .collect();
        assert_eq!(read[1], ("user-data", &b"user"[..]));
        assert_eq!(read[2], ("network-config", &b"net"[..]));

        let missing = json!({"secretRef": {"name": "other"}});
        let refused = super::media(&instance(&missing), "u", secret).expect_err("waits");
        assert!(matches!(refused, NoSeed::NoSecret { .. }), "{refused}");
        let empty = super::media(&instance(&json!({})), "u", secret).expect_err("is broken");
        assert!(matches!(empty, NoSeed::Broken(_)), "{empty}");
    }
}
