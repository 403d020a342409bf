//! Resource pools.

use serde_json::{Value, json};

use crate::api::reply::Refusal;
use crate::api::{Answer, Call};
use crate::world::World;

type Handled = Result<Answer, Refusal>;

fn pool_of(call: &Call) -> String {
    call.params.owned("poolid").unwrap_or_default()
}

fn known(world: &World, pool: &str) -> Result<(), Refusal> {
    if world.pools.contains_key(pool) {
        Ok(())
    } else {
        Err(Refusal::domain(format!("pool '{pool}' does not exist")))
    }
}

pub(crate) fn list(world: &mut World, call: &Call) -> Handled {
    let Some(pool) = call.params.get("poolid") else {
        let visible =
            |pool: &&String| world.allows(&call.token, &format!("/pool/{pool}"), "Pool.Audit");
        let pools = world.pools.iter().filter(|(pool, _)| visible(pool));
        let list = pools.map(|(pool, comment)| json!({ "poolid": pool, "comment": comment }));
        return Ok(Answer::Data(list.collect()));
    };
    world.demand(&call.token, &format!("/pool/{pool}"), "Pool.Audit")?;
    known(world, pool)?;
    let vms = world
        .vms
        .values()
        .filter(|vm| vm.pool.as_deref() == Some(pool));
    let members: Vec<Value> = vms
        .map(|vm| {
            json!({
                "id": format!("qemu/{}", vm.vmid), "type": "qemu", "vmid": vm.vmid,
                "node": vm.node, "name": vm.get("name"),
                "status": if vm.is_running() { "running" } else { "stopped" },
            })
        })
        .collect();
    Ok(Answer::Data(
        json!([{ "poolid": pool, "members": members }]),
    ))
}

pub(crate) fn create(world: &mut World, call: &Call) -> Handled {
    let pool = pool_of(call);
    world.demand(&call.token, &format!("/pool/{pool}"), "Pool.Allocate")?;
    if world.pools.contains_key(&pool) {
        return Err(Refusal::domain(format!(
            "create pool failed: pool '{pool}' already exists"
        )));
    }
    world
        .pools
        .insert(pool, call.params.owned("comment").unwrap_or_default());
    Ok(Answer::null())
}

pub(crate) fn update(world: &mut World, call: &Call) -> Handled {
    let pool = pool_of(call);
    world.demand(&call.token, &format!("/pool/{pool}"), "Pool.Allocate")?;
    known(world, &pool)?;
    if call.params.contains("storage") {
        return Err(Refusal::new(501, "this simulator has no storages in pools"));
    }
    let listed = call.params.get("vms").unwrap_or_default();
    for text in listed
        .split([',', ';', ' '])
        .filter(|text| !text.is_empty())
    {
        let path = format!("/vms/{text}");
        world.demand(&call.token, &path, "VM.Allocate")?;
        let remove = call.params.flag("delete");
        let may_move = call.params.flag("allow-move");
        let vm = text
            .parse()
            .ok()
            .and_then(|vmid: u32| world.vms.get_mut(&vmid));
        let vm = vm.ok_or_else(|| Refusal::domain(format!("VM {text} does not exist")))?;
        match (&vm.pool, remove) {
            (Some(own), true) if *own == pool => vm.pool = None,
            (_, true) => return Err(Refusal::domain(format!("VM {text} is not a pool member"))),
            (Some(own), false) if *own != pool && !may_move => {
                let reason = format!(
                    "VM {text} belongs already to pool '{own}' and 'allow-move' is not set"
                );
                return Err(Refusal::domain(reason));
            }
            (_, false) => vm.pool = Some(pool.clone()),
        }
    }
    if let Some(comment) = call.params.owned("comment") {
        world.pools.insert(pool, comment);
    }
    Ok(Answer::null())
}

pub(crate) fn delete(world: &mut World, call: &Call) -> Handled {
    let pool = pool_of(call);
    world.demand(&call.token, &format!("/pool/{pool}"), "Pool.Allocate")?;
    known(world, &pool)?;
    if world
        .vms
        .values()
        .any(|vm| vm.pool.as_deref() == Some(pool.as_str()))
    {
        return Err(Refusal::domain(format!("pool '{pool}' is not empty")));
    }
    world.pools.remove(&pool);
    Ok(Answer::null())
}
