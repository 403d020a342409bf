//! The table of routes.

use std::collections::HashMap;
use std::sync::LazyLock;

use http::Method;

use crate::api::reply::Refusal;
use crate::api::schema::{
    DNS_NAME, Kind, NODE, Others, Param, STORAGE_ID, Schema, VMID, optional, required,
};
use crate::api::{
    Call, Handler, access, agent, cluster, config, ha, lifecycle, node, pool, storage, tasks,
};
use crate::world::World;

/// What a call needs before anything else is looked at. Placeholders as in routes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Permission {
    /// Whoever is authenticated; the handler may look closer.
    Anyone,
    All(&'static str, &'static [&'static str]),
    Any(&'static str, &'static [&'static str]),
}

impl Permission {
    pub(crate) fn check(self, world: &World, call: &Call) -> Result<(), Refusal> {
        let fill = |path: &str| {
            path.replace("{vmid}", &call.vmid.to_string())
                .replace("{node}", &call.node)
                .replace("{storage}", &call.storage)
                .replace("{poolid}", &call.subject)
        };
        match self {
            Self::Anyone => Ok(()),
            Self::All(path, privileges) => {
                let path = fill(path);
                privileges
                    .iter()
                    .try_for_each(|privilege| world.demand(&call.token, &path, privilege))
            }
            Self::Any(path, privileges) => world.demand_any(&call.token, &fill(path), privileges),
        }
    }
}

/// A method on a path.
#[derive(Debug)]
pub(crate) struct Route {
    method: &'static str,
    pub(crate) pattern: &'static str,
    pub(crate) permission: Permission,
    /// Whether the node in the path answers, through the one that received the call.
    pub(crate) proxied: bool,
    pub(crate) is_upload: bool,
    pub(crate) schema: Schema,
    pub(crate) handler: Handler,
}

const fn route(
    method: &'static str,
    pattern: &'static str,
    permission: Permission,
    params: &'static [Param],
    handler: Handler,
) -> Route {
    let schema = Schema::of(params);
    Route {
        method,
        pattern,
        permission,
        proxied: true,
        is_upload: false,
        schema,
        handler,
    }
}

impl Route {
    const fn upload(mut self) -> Self {
        self.is_upload = true;
        self.proxied = false;
        self
    }

    const fn with(mut self, others: Others) -> Self {
        self.schema.others = Some(others);
        self
    }
}

/// What a path holds where its route has placeholders.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Captures {
    pub(crate) node: Option<String>,
    pub(crate) vmid: Option<String>,
    pub(crate) storage: Option<String>,
    pub(crate) subject: Option<String>,
}

const VM_AUDIT: Permission = Permission::All("/vms/{vmid}", &["VM.Audit"]);
const VM_POWER: Permission = Permission::All("/vms/{vmid}", &["VM.PowerMgmt"]);
const VM_ALLOCATE: Permission = Permission::All("/vms/{vmid}", &["VM.Allocate"]);
const VM_CONFIG: Permission = Permission::Any("/vms/{vmid}", &config::PRIVILEGES);
const AGENT_AUDIT: Permission = Permission::Any(
    "/vms/{vmid}",
    &["VM.GuestAgent.Audit", "VM.GuestAgent.Unrestricted"],
);
const AGENT_ALL: Permission = Permission::All("/vms/{vmid}", &["VM.GuestAgent.Unrestricted"]);
const AGENT_READ: Permission = Permission::Any(
    "/vms/{vmid}",
    &["VM.GuestAgent.FileRead", "VM.GuestAgent.Unrestricted"],
);
const CLUSTER_AUDIT: Permission = Permission::All("/", &["Sys.Audit"]);
const CONSOLE: Permission = Permission::All("/", &["Sys.Console"]);
const NODE_AUDIT: Permission = Permission::All("/nodes/{node}", &["Sys.Audit"]);
const STORAGE_READ: Permission = Permission::Any(
    "/storage/{storage}",
    &["Datastore.Audit", "Datastore.AllocateSpace"],
);

/// Time-outs of power calls, in seconds.
const TIMEOUT: Param = optional("timeout", Kind::Integer(0, 86_400));
const SKIP_LOCK: Param = optional("skiplock", Kind::Boolean);
const DIGEST: Param = optional("digest", Kind::Text);

const CLUSTER_ROUTES: &[Route] = &[
    route("GET", "/version", Permission::Anyone, &[], cluster::version),
    route(
        "GET",
        "/cluster/status",
        CLUSTER_AUDIT,
        &[],
        cluster::status,
    ),
    route(
        "GET",
        "/cluster/resources",
        Permission::Anyone,
        &[optional(
            "type",
            Kind::OneOf(&["vm", "storage", "node", "sdn"]),
        )],
        cluster::resources,
    ),
    route(
        "GET",
        "/cluster/nextid",
        Permission::Anyone,
        &[optional("vmid", VMID)],
        cluster::next_id,
    ),
    route(
        "GET",
        "/cluster/tasks",
        Permission::Anyone,
        &[],
        tasks::recent,
    ),
    route(
        "GET",
        "/access/permissions",
        Permission::Anyone,
        &[optional("path", Kind::Text), optional("userid", Kind::Text)],
        access::permissions,
    ),
    route("GET", "/cluster/ha/resources", CLUSTER_AUDIT, &[], ha::list),
    route(
        "POST",
        "/cluster/ha/resources",
        CONSOLE,
        &[
            required("sid", Kind::Text),
            optional(
                "state",
                Kind::OneOf(&["started", "stopped", "enabled", "disabled", "ignored"]),
            ),
            optional("comment", Kind::Text),
            optional("failback", Kind::Boolean),
            optional("max_restart", Kind::Integer(0, i64::MAX)),
            optional("max_relocate", Kind::Integer(0, i64::MAX)),
            optional("type", Kind::OneOf(&["vm", "ct"])),
        ],
        ha::create,
    ),
    route(
        "GET",
        "/cluster/ha/resources/{subject}",
        CLUSTER_AUDIT,
        &[],
        ha::read,
    ),
    route(
        "DELETE",
        "/cluster/ha/resources/{subject}",
        CONSOLE,
        &[optional("purge", Kind::Boolean)],
        ha::delete,
    ),
    route(
        "GET",
        "/pools",
        Permission::Anyone,
        &[optional("poolid", Kind::Text)],
        pool::list,
    ),
    route(
        "POST",
        "/pools",
        Permission::Anyone,
        &[
            required("poolid", Kind::Text),
            optional("comment", Kind::Text),
        ],
        pool::create,
    ),
    route(
        "PUT",
        "/pools",
        Permission::Anyone,
        &[
            required("poolid", Kind::Text),
            optional("vms", Kind::Text),
            optional("storage", Kind::Text),
            optional("comment", Kind::Text),
            optional("delete", Kind::Boolean),
            optional("allow-move", Kind::Boolean),
        ],
        pool::update,
    ),
    route(
        "DELETE",
        "/pools",
        Permission::Anyone,
        &[required("poolid", Kind::Text)],
        pool::delete,
    ),
    route("GET", "/nodes", Permission::Anyone, &[], node::list),
    route("GET", "/nodes/{node}/status", NODE_AUDIT, &[], node::status),
];

const VM_ROUTES: &[Route] = &[
    route(
        "GET",
        "/nodes/{node}/qemu",
        Permission::Anyone,
        &[optional("full", Kind::Boolean)],
        lifecycle::list,
    ),
    route(
        "POST",
        "/nodes/{node}/qemu",
        Permission::Anyone,
        &[
            required("vmid", VMID),
            optional("pool", Kind::Text),
            optional("start", Kind::Boolean),
            optional("storage", STORAGE_ID),
            optional("unique", Kind::Boolean),
        ],
        lifecycle::create,
    )
    .with(config::check_key),
    route(
        "POST",
        "/nodes/{node}/qemu/{vmid}/clone",
        Permission::All("/vms/{vmid}", &["VM.Clone"]),
        &[
            required("newid", VMID),
            optional("name", DNS_NAME),
            optional("description", Kind::Text),
            optional("pool", Kind::Text),
            optional("snapname", Kind::Text),
            optional("full", Kind::Boolean),
            optional("storage", STORAGE_ID),
            optional("format", Kind::OneOf(&["raw", "qcow2", "vmdk"])),
            optional("target", NODE),
            optional("bwlimit", Kind::Integer(0, i64::MAX)),
        ],
        lifecycle::clone,
    ),
    route(
        "GET",
        "/nodes/{node}/qemu/{vmid}/status/current",
        VM_AUDIT,
        &[],
        lifecycle::current,
    ),
    route(
        "GET",
        "/nodes/{node}/qemu/{vmid}/config",
        VM_AUDIT,
        &[
            optional("current", Kind::Boolean),
            optional("snapshot", Kind::Text),
        ],
        config::read,
    ),
    route(
        "GET",
        "/nodes/{node}/qemu/{vmid}/pending",
        VM_AUDIT,
        &[],
        config::pending,
    ),
    route(
        "POST",
        "/nodes/{node}/qemu/{vmid}/config",
        VM_CONFIG,
        &[
            DIGEST,
            SKIP_LOCK,
            optional("delete", Kind::List),
            optional("revert", Kind::List),
            optional("force", Kind::Boolean),
            optional("background_delay", Kind::Integer(1, 30)),
            optional("import-working-storage", STORAGE_ID),
        ],
        config::update,
    )
    .with(config::check_key),
    route(
        "PUT",
        "/nodes/{node}/qemu/{vmid}/config",
        VM_CONFIG,
        &[
            DIGEST,
            SKIP_LOCK,
            optional("delete", Kind::List),
            optional("revert", Kind::List),
            optional("force", Kind::Boolean),
        ],
        config::update_now,
    )
    .with(config::check_key),
    route(
        "PUT",
        "/nodes/{node}/qemu/{vmid}/resize",
        Permission::All("/vms/{vmid}", &["VM.Config.Disk"]),
        &[
            required("disk", Kind::Format(config::drive_key)),
            required("size", Kind::Format(config::size_change)),
            DIGEST,
            SKIP_LOCK,
        ],
        config::resize,
    ),
    route(
        "DELETE",
        "/nodes/{node}/qemu/{vmid}",
        VM_ALLOCATE,
        &[
            optional("purge", Kind::Boolean),
            optional("destroy-unreferenced-disks", Kind::Boolean),
            SKIP_LOCK,
        ],
        lifecycle::destroy,
    ),
    route(
        "POST",
        "/nodes/{node}/qemu/{vmid}/template",
        VM_ALLOCATE,
        &[],
        lifecycle::make_template,
    ),
    route(
        "POST",
        "/nodes/{node}/qemu/{vmid}/migrate",
        Permission::All("/vms/{vmid}", &["VM.Migrate"]),
        &[
            required("target", NODE),
            optional("online", Kind::Boolean),
            optional("force", Kind::Boolean),
            optional("with-local-disks", Kind::Boolean),
            optional("targetstorage", Kind::Text),
            optional("bwlimit", Kind::Integer(0, i64::MAX)),
        ],
        lifecycle::migrate,
    ),
    route(
        "GET",
        "/nodes/{node}/qemu/{vmid}/snapshot",
        VM_AUDIT,
        &[],
        lifecycle::snapshots,
    ),
];

const POWER_ROUTES: &[Route] = &[
    route(
        "POST",
        "/nodes/{node}/qemu/{vmid}/status/start",
        VM_POWER,
        &[TIMEOUT, SKIP_LOCK],
        lifecycle::start,
    ),
    route(
        "POST",
        "/nodes/{node}/qemu/{vmid}/status/stop",
        VM_POWER,
        &[
            TIMEOUT,
            SKIP_LOCK,
            optional("keepActive", Kind::Boolean),
            optional("overrule-shutdown", Kind::Boolean),
        ],
        lifecycle::stop,
    ),
    route(
        "POST",
        "/nodes/{node}/qemu/{vmid}/status/shutdown",
        VM_POWER,
        &[
            TIMEOUT,
            SKIP_LOCK,
            optional("forceStop", Kind::Boolean),
            optional("keepActive", Kind::Boolean),
        ],
        lifecycle::shutdown,
    ),
    route(
        "POST",
        "/nodes/{node}/qemu/{vmid}/status/reboot",
        VM_POWER,
        &[TIMEOUT],
        lifecycle::reboot,
    ),
    route(
        "POST",
        "/nodes/{node}/qemu/{vmid}/status/resume",
        VM_POWER,
        &[SKIP_LOCK, optional("nocheck", Kind::Boolean)],
        lifecycle::resume,
    ),
    route(
        "POST",
        "/nodes/{node}/qemu/{vmid}/status/suspend",
        VM_POWER,
        &[SKIP_LOCK],
        lifecycle::suspend,
    ),
    route(
        "POST",
        "/nodes/{node}/qemu/{vmid}/agent/ping",
        AGENT_AUDIT,
        &[],
        agent::ping,
    ),
    route(
        "GET",
        "/nodes/{node}/qemu/{vmid}/agent/get-osinfo",
        AGENT_AUDIT,
        &[],
        agent::os_info,
    ),
    route(
        "GET",
        "/nodes/{node}/qemu/{vmid}/agent/network-get-interfaces",
        AGENT_AUDIT,
        &[],
        agent::interfaces,
    ),
    route(
        "POST",
        "/nodes/{node}/qemu/{vmid}/agent/exec",
        AGENT_ALL,
        &[
            required("command", Kind::List),
            optional("input-data", Kind::Text),
        ],
        agent::exec,
    ),
    route(
        "GET",
        "/nodes/{node}/qemu/{vmid}/agent/exec-status",
        AGENT_ALL,
        &[required("pid", Kind::Integer(0, i64::MAX))],
        agent::exec_status,
    ),
    route(
        "GET",
        "/nodes/{node}/qemu/{vmid}/agent/file-read",
        AGENT_READ,
        &[required("file", Kind::Text)],
        agent::file_read,
    ),
];

const STORAGE_ROUTES: &[Route] = &[
    route(
        "GET",
        "/nodes/{node}/storage",
        Permission::Anyone,
        &[
            optional("storage", STORAGE_ID),
            optional("content", Kind::Text),
            optional("enabled", Kind::Boolean),
            optional("target", NODE),
            optional("format", Kind::Boolean),
        ],
        storage::list,
    ),
    route(
        "GET",
        "/nodes/{node}/storage/{storage}/status",
        STORAGE_READ,
        &[],
        storage::status,
    ),
    route(
        "GET",
        "/nodes/{node}/storage/{storage}/content",
        STORAGE_READ,
        &[optional("content", Kind::Text), optional("vmid", VMID)],
        storage::content,
    ),
    route(
        "POST",
        "/nodes/{node}/storage/{storage}/upload",
        Permission::All("/storage/{storage}", &["Datastore.AllocateTemplate"]),
        &[
            required("content", Kind::OneOf(&["iso", "vztmpl", "import"])),
            required("filename", Kind::Text),
            optional("checksum", Kind::Text),
            optional(
                "checksum-algorithm",
                Kind::OneOf(&["md5", "sha1", "sha224", "sha256", "sha384", "sha512"]),
            ),
        ],
        storage::upload,
    )
    .upload(),
    route(
        "GET",
        "/nodes/{node}/storage/{storage}/content/{rest}",
        STORAGE_READ,
        &[],
        storage::volume,
    ),
    route(
        "DELETE",
        "/nodes/{node}/storage/{storage}/content/{rest}",
        Permission::Anyone,
        &[optional("delay", Kind::Integer(1, 30))],
        storage::delete,
    ),
    route(
        "GET",
        "/nodes/{node}/tasks",
        Permission::Anyone,
        &[
            optional("vmid", VMID),
            optional("typefilter", Kind::Text),
            optional("source", Kind::OneOf(&["archive", "active", "all"])),
            optional("since", Kind::Integer(0, i64::MAX)),
            optional("until", Kind::Integer(0, i64::MAX)),
            optional("start", Kind::Integer(0, i64::MAX)),
            optional("limit", Kind::Integer(0, i64::MAX)),
            optional("errors", Kind::Boolean),
            optional("statusfilter", Kind::Text),
            optional("userfilter", Kind::Text),
        ],
        tasks::list,
    ),
    route(
        "GET",
        "/nodes/{node}/tasks/{subject}/status",
        Permission::Anyone,
        &[],
        tasks::status,
    ),
    route(
        "GET",
        "/nodes/{node}/tasks/{subject}/log",
        Permission::Anyone,
        &[
            optional("start", Kind::Integer(0, i64::MAX)),
            optional("limit", Kind::Integer(0, i64::MAX)),
            optional("download", Kind::Boolean),
        ],
        tasks::log,
    ),
    route(
        "DELETE",
        "/nodes/{node}/tasks/{subject}",
        Permission::Anyone,
        &[],
        tasks::stop,
    ),
];

struct Compiled {
    segments: Vec<&'static str>,
    route: &'static Route,
}

/// By method, and by whether the path leads to a node, a VM, or elsewhere.
static TABLE: LazyLock<HashMap<(&'static str, usize), Vec<Compiled>>> = LazyLock::new(|| {
    let mut table: HashMap<_, Vec<Compiled>> = HashMap::new();
    for route in [CLUSTER_ROUTES, VM_ROUTES, POWER_ROUTES, STORAGE_ROUTES]
        .into_iter()
        .flatten()
    {
        let segments: Vec<_> = route.pattern.split('/').skip(1).collect();
        table
            .entry((route.method, segments.len()))
            .or_default()
            .push(Compiled { segments, route });
    }
    table
});

/// Length of the patterns that end in `{rest}`, which stands for all that follows.
const REST_LENGTH: usize = 6;

/// The route of a path, with what its placeholders stand for.
pub(crate) fn find(method: &Method, path: &[String]) -> Option<(&'static Route, Captures)> {
    let length = match path {
        [nodes, _, storage, _, content, _, ..]
            if nodes == "nodes" && storage == "storage" && content == "content" =>
        {
            REST_LENGTH
        }
        _ => path.len(),
    };
    let routes = TABLE.get(&(method.as_str(), length))?;
    routes.iter().find_map(|compiled| {
        captures(&compiled.segments, path).map(|captures| (compiled.route, captures))
    })
}

fn captures(pattern: &[&str], path: &[String]) -> Option<Captures> {
    let mut captures = Captures::default();
    for (at, (expected, part)) in pattern.iter().zip(path).enumerate() {
        match *expected {
            "{node}" => captures.node = Some(part.clone()),
            "{vmid}" => captures.vmid = Some(part.clone()),
            "{storage}" => captures.storage = Some(part.clone()),
            "{subject}" => captures.subject = Some(part.clone()),
            "{rest}" => captures.subject = Some(path[at..].join("/")),
            literal if literal == part => {}
            _ => return None,
        }
    }
    Some(captures)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::api::form::segments;

    #[rstest]
    #[case("GET", "/version", Some("/version"))]
    #[case(
        "GET",
        "/nodes/pve1/qemu/100/config",
        Some("/nodes/{node}/qemu/{vmid}/config")
    )]
    #[case("DELETE", "/nodes/pve1/qemu/100", Some("/nodes/{node}/qemu/{vmid}"))]
    #[case("PUT", "/nodes/pve1/qemu/100", None)]
    #[case("GET", "/nodes/pve1/nothing", None)]
    #[case(
        "DELETE",
        "/nodes/pve1/storage/local/content/local:iso/a.iso",
        Some("/nodes/{node}/storage/{storage}/content/{rest}")
    )]
    #[case(
        "DELETE",
        "/nodes/pve1/storage/local/content/local%3Aiso%2Fa.iso",
        Some("/nodes/{node}/storage/{storage}/content/{rest}")
    )]
    fn routes_are_found(#[case] method: &str, #[case] path: &str, #[case] pattern: Option<&str>) {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let found = find(&method, &segments(path));
        assert_eq!(found.map(|(route, _)| route.pattern), pattern);
    }

    #[test]
    fn a_volume_is_all_that_follows() {
        let path = segments("/nodes/n/storage/local/content/local:iso/a.iso");
        let (_, captures) = find(&Method::GET, &path).unwrap();
        assert_eq!(captures.subject.as_deref(), Some("local:iso/a.iso"));
        assert_eq!(captures.storage.as_deref(), Some("local"));
    }
}
