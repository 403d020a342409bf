//! Storages: listing, uploading, deleting.

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};

use crate::api::lifecycle::patience;
use crate::api::reply::Refusal;
use crate::api::{Answer, Call};
use crate::world::storage::{Storage, Volume};
use crate::world::work::Work;
use crate::world::{Health, World};

type Handled = Result<Answer, Refusal>;

const READ: [&str; 2] = ["Datastore.Audit", "Datastore.AllocateSpace"];

fn readable(world: &World, storage: &str, token: &str) -> bool {
    let path = format!("/storage/{storage}");
    READ.iter()
        .any(|privilege| world.allows(token, &path, privilege))
}

/// A storage of a node in `/cluster/resources`.
pub(crate) fn storage_entry(
    world: &World,
    storage: &Storage,
    node: &str,
    token: &str,
) -> Option<Value> {
    let id = &storage.spec.id;
    if !readable(world, id, token) {
        return None;
    }
    let offline = world
        .nodes
        .get(node)
        .is_none_or(|node| node.health == Health::Offline);
    let mut entry = Map::new();
    entry.insert("id".into(), json!(format!("storage/{node}/{id}")));
    entry.insert("type".into(), json!("storage"));
    entry.insert("storage".into(), json!(id));
    entry.insert("node".into(), json!(node));
    entry.insert("shared".into(), json!(u8::from(storage.spec.shared)));
    entry.insert("content".into(), json!(storage.spec.content.join(",")));
    entry.insert("plugintype".into(), json!(storage.spec.kind));
    if offline || !storage.spec.enabled {
        entry.insert("status".into(), json!("unknown"));
    } else {
        entry.insert("status".into(), json!("available"));
        entry.insert("maxdisk".into(), json!(storage.spec.total));
        entry.insert("disk".into(), json!(storage.used(node)));
    }
    Some(Value::Object(entry))
}

fn entry_on_node(storage: &Storage, node: &str) -> Value {
    let (total, used) = (storage.spec.total, storage.used(node));
    let on = u8::from(storage.spec.enabled);
    #[expect(
        clippy::cast_precision_loss,
        reason = "a share needs no more than a double holds"
    )]
    let share = used as f64 / total.max(1) as f64;
    json!({
        "storage": storage.spec.id, "type": storage.spec.kind,
        "content": storage.spec.content.join(","), "active": on, "enabled": on,
        "shared": u8::from(storage.spec.shared),
        "total": total, "used": used, "avail": total - used, "used_fraction": share,
    })
}

pub(crate) fn list(world: &mut World, call: &Call) -> Handled {
    let contents: Vec<_> = call
        .params
        .get("content")
        .into_iter()
        .flat_map(|c| c.split(','))
        .collect();
    let wanted = |storage: &&Storage| {
        let id = storage.spec.id.as_str();
        storage.is_on(&call.node)
            && readable(world, id, &call.token)
            && call.params.get("storage").is_none_or(|wanted| wanted == id)
            && (contents.is_empty() || contents.iter().any(|content| storage.holds(content)))
            && (storage.spec.enabled || !call.params.flag("enabled"))
    };
    let list = world.storages.values().filter(wanted);
    Ok(Answer::Data(
        list.map(|storage| entry_on_node(storage, &call.node))
            .collect(),
    ))
}

/// The storage of a call, if it is there and on.
fn storage_here<'a>(world: &'a World, call: &Call) -> Result<&'a Storage, Refusal> {
    let id = &call.storage;
    let Some(storage) = world.storages.get(id) else {
        return Err(Refusal::domain(format!("storage '{id}' does not exist")));
    };
    if !storage.spec.enabled {
        return Err(Refusal::domain(format!("storage '{id}' is disabled")));
    }
    if !storage.is_on(&call.node) {
        let reason = format!("storage '{id}' is not available on node '{}'", call.node);
        return Err(Refusal::domain(reason));
    }
    Ok(storage)
}

pub(crate) fn status(world: &mut World, call: &Call) -> Handled {
    let storage = storage_here(world, call)?;
    Ok(Answer::Data(entry_on_node(storage, &call.node)))
}

pub(crate) fn content(world: &mut World, call: &Call) -> Handled {
    let storage = storage_here(world, call)?;
    let path = format!("/storage/{}", call.storage);
    let all = world.allows(&call.token, &path, "Datastore.Allocate");
    let owner = call.params.get("vmid").and_then(|text| text.parse().ok());
    let wanted = |(_, volume): &(&str, &Volume)| {
        (volume.content != "images" || all)
            && call
                .params
                .get("content")
                .is_none_or(|wanted| wanted == volume.content)
            && owner.is_none_or(|owner| volume.vmid == Some(owner))
    };
    let list = storage.on_node(&call.node).filter(wanted);
    Ok(Answer::Data(
        list.map(|(volid, volume)| volume_entry(volid, volume))
            .collect(),
    ))
}

fn volume_entry(volid: &str, volume: &Volume) -> Value {
    let mut entry = json!({
        "volid": volid, "content": volume.content, "format": volume.format, "size": volume.size,
        "ctime": volume.ctime,
    });
    if let (Some(vmid), Value::Object(entry)) = (volume.vmid, &mut entry) {
        entry.insert("vmid".into(), json!(vmid));
    }
    entry
}

/// A volume's full id; the path may leave out the storage.
pub(crate) fn full_volid(storage: &str, volume: &str) -> String {
    if volume.contains(':') {
        volume.to_owned()
    } else {
        format!("{storage}:{volume}")
    }
}

pub(crate) fn volume(world: &mut World, call: &Call) -> Handled {
    let storage = storage_here(world, call)?;
    let volid = full_volid(&call.storage, &call.subject);
    match storage.volume(&call.node, &volid) {
        None => Err(Refusal::domain(format!("volume '{volid}' does not exist"))),
        Some(volume) => Ok(Answer::Data(json!({
            "path": format!("/mnt/pve/{}", volid.replacen(':', "/template/", 1)),
            "size": volume.size, "used": volume.size, "format": volume.format,
        }))),
    }
}

pub(crate) fn upload(world: &mut World, call: &Call) -> Handled {
    let storage = storage_here(world, call)?;
    let wanted = call.params.get("content").unwrap_or_default();
    if !matches!(storage.spec.kind, "dir" | "nfs") {
        let reason = format!("can't upload to storage type '{}'", storage.spec.kind);
        return Err(Refusal::domain(reason));
    }
    if !storage.holds(wanted) {
        let reason = format!(
            "storage '{}' does not support '{wanted}' content",
            call.storage
        );
        return Err(Refusal::parameter("content", reason));
    }
    let (content, endings): (_, &[&str]) = match wanted {
        "iso" => ("iso", &[".iso", ".img"]),
        "vztmpl" => ("vztmpl", &[".tar.gz", ".tar.xz", ".tar.zst"]),
        _ => ("import", &[".ova", ".qcow2", ".raw", ".vmdk"]),
    };
    let Some(file) = &call.upload else {
        return Err(Refusal::bare(501, "unable to parse multipart form data"));
    };
    let name = normal_name(&file.file_name);
    let fits = |ending: &&str| name.to_lowercase().ends_with(ending) && name.len() > ending.len();
    if !endings.iter().any(fits) {
        return Err(Refusal::parameter("filename", "wrong file extension"));
    }
    if world
        .nodes
        .get(&call.node)
        .is_none_or(|node| node.health != Health::Online)
    {
        let reason = format!(
            "ssh: connect to host {} port 22: No route to host",
            call.node
        );
        return Err(Refusal::domain(reason));
    }
    check_sum(call, &file.bytes)?;
    let volid = format!("{}:{content}/{name}", call.storage);
    let (node, storage, bytes) = (call.node.clone(), call.storage.clone(), file.bytes.clone());
    let work = Work::Upload {
        node,
        storage,
        volid,
        content,
        bytes,
    };
    // The worker runs where the upload arrived, not on the node it is for.
    Ok(Answer::text(world.fork(&call.entry, &call.token, work)))
}

/// A file's name without its folders, and with underscores for what isn't allowed.
fn normal_name(name: &str) -> String {
    let name = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let kept = |c: char| c.is_ascii_alphanumeric() || "-_.+".contains(c);
    name.chars()
        .map(|c| if kept(c) { c } else { '_' })
        .collect()
}

fn check_sum(call: &Call, bytes: &[u8]) -> Result<(), Refusal> {
    let (Some(expected), Some(algorithm)) = (
        call.params.get("checksum"),
        call.params.get("checksum-algorithm"),
    ) else {
        return match (
            call.params.get("checksum"),
            call.params.get("checksum-algorithm"),
        ) {
            (Some(_), None) => Err(Refusal::parameter(
                "checksum",
                "missing requirement 'checksum-algorithm'",
            )),
            (None, Some(_)) => Err(Refusal::parameter(
                "checksum-algorithm",
                "missing requirement 'checksum'",
            )),
            _ => Ok(()),
        };
    };
    let hex = |digest: &[u8]| {
        digest
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    let found = match algorithm {
        "sha224" => hex(&Sha224::digest(bytes)),
        "sha256" => hex(&Sha256::digest(bytes)),
        "sha384" => hex(&Sha384::digest(bytes)),
        "sha512" => hex(&Sha512::digest(bytes)),
        other => {
            return Err(Refusal::new(
                501,
                format!("this simulator does not compute {other}"),
            ));
        }
    };
    if found.eq_ignore_ascii_case(expected) {
        return Ok(());
    }
    Err(Refusal::domain(format!(
        "checksum mismatch: got '{found}' != expect '{expected}'"
    )))
}

pub(crate) fn delete(world: &mut World, call: &Call) -> Handled {
    let storage = storage_here(world, call)?;
    let volid = full_volid(&call.storage, &call.subject);
    let owner = storage
        .volume(&call.node, &volid)
        .and_then(|volume| volume.vmid);
    let own_disk = owner
        .is_some_and(|vmid| world.allows(&call.token, &format!("/vms/{vmid}"), "VM.Config.Disk"));
    if !own_disk {
        world.demand(
            &call.token,
            &format!("/storage/{}", call.storage),
            "Datastore.Allocate",
        )?;
    }
    if owner.is_some_and(|vmid| world.vms.contains_key(&vmid)) {
        let vmid = owner.unwrap_or_default();
        return Err(Refusal::domain(format!(
            "Cannot remove image, a guest with VMID '{vmid}' exists! You can delete the image from the guest's hardware pane"
        )));
    }
    let at_most = patience(world, call, "delay");
    let work = Work::DeleteVolume {
        node: call.node.clone(),
        storage: call.storage.clone(),
        volid,
    };
    let upid = world.fork(&call.node, &call.token, work);
    if call.params.contains("delay") {
        return Ok(Answer::Task {
            upid,
            at_most,
            failure: String::new(),
        });
    }
    Ok(Answer::text(upid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_are_made_harmless() {
        assert_eq!(normal_name("../a b(1).iso"), "a_b_1_.iso");
    }

    #[test]
    fn volume_ids_are_completed() {
        assert_eq!(full_volid("local", "iso/a.iso"), "local:iso/a.iso");
        assert_eq!(full_volid("local", "other:iso/a.iso"), "other:iso/a.iso");
    }
}
