//! `/access`: what a token may do.

use serde_json::{Map, Value, json};

use crate::api::reply::Refusal;
use crate::api::{Answer, Call};
use crate::world::World;
use crate::world::access::Privileges;

/// Paths that are always looked at, beside those with an entry of the token.
const ALWAYS: [&str; 8] = [
    "/",
    "/access",
    "/access/groups",
    "/nodes",
    "/pool",
    "/sdn",
    "/storage",
    "/vms",
];

pub(crate) fn permissions(world: &mut World, call: &Call) -> Result<Answer, Refusal> {
    if call
        .params
        .get("userid")
        .is_some_and(|user| user != call.token)
    {
        world.demand(&call.token, "/access", "Sys.Audit")?;
    }
    let shown = |privileges: Privileges| -> Value {
        let entry = |(name, below): (String, bool)| (name, json!(u8::from(below)));
        Value::Object(privileges.into_iter().map(entry).collect())
    };
    let of = |path: &str| world.access.privileges(&call.token, path, None);
    let mut data = Map::new();
    if let Some(path) = call.params.get("path") {
        data.insert(path.to_owned(), shown(of(path)));
        return Ok(Answer::Data(Value::Object(data)));
    }
    let mut paths = world.access.paths(&call.token);
    paths.extend(ALWAYS.map(str::to_owned));
    for path in paths {
        let privileges = of(&path);
        if !privileges.is_empty() {
            data.insert(path, shown(privileges));
        }
    }
    Ok(Answer::Data(Value::Object(data)))
}
