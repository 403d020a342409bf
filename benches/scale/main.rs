//! What the release binary costs with many machines: memory, processor time, requests.
//!
//! ```console
//! cargo bench -p benches --bench scale
//! ```
//!
//! The binary that a release ships runs as a process of its own, over TLS, against the embedded
//! management cluster and a simulated Proxmox VE whose tasks end at once. Machines are added to 100
//! and to 1,000, the provider is left alone, killed and started again, and all machines are deleted.
//! API server and hypervisor run in this process, on the same cores, so the seconds are an upper
//! bound; counts and memory are the provider's own.
//!
//! `cargo test --benches` does not run it: it builds the release binary first.

#![expect(
    clippy::print_stdout,
    reason = "a bench's figures go to whoever called it"
)]

mod process;

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use benches::world::{Failure, PROVIDER, VMID_FIRST, World};
use capi_testkit::apiserver::AuditRecord;
use tokio::time::sleep;

use crate::process::Process;

/// Machines at which memory is read.
const SIZES: [usize; 2] = [100, 1_000];
/// Loopback, any free port.
const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
/// Between two looks at a state.
const LOOK: Duration = Duration::from_millis(20);
/// What is not there by then will not come.
const PATIENCE: Duration = Duration::from_secs(300);
/// How long the settled provider is watched: six rounds of its shared listing.
const CALM: Duration = Duration::from_secs(30);
/// How long a started or finished provider is left alone before it is measured: one round of its
/// shared listing, in which the last conditions are written.
const REST: Duration = Duration::from_secs(8);

#[tokio::main]
async fn main() -> Result<(), Failure> {
    // Cargo says so to benches, but not to tests.
    if !std::env::args().any(|argument| argument == "--bench") {
        println!("scale: run with `cargo bench -p benches --bench scale`; it builds a release");
        return Ok(());
    }
    let program = process::build()?;
    let mut world = World::new(0).await?;
    let face = world.server.serve_tls(ANY_PORT).await?;
    let proxmox = world.platform.serve(ANY_PORT).await?;
    let (token, secret) = world.platform.token();
    let own = [
        ("PROXMOX_URL", proxmox.url()),
        ("PROXMOX_TOKEN", token),
        ("PROXMOX_SECRET", secret),
        ("PROXMOX_ROOT_CA", proxmox.ca_pem().to_owned()),
    ];
    let kubeconfig = Kubeconfig::write(&face.kubeconfig(PROVIDER, &["system:masters"])?)?;
    let start = || Process::start(&program, &kubeconfig.0, &own);

    let mut provider = start()?;
    sleep(REST).await;
    provider.check()?;
    report("no machine", &provider)?;
    for size in SIZES {
        grow(&mut world, &mut provider, size).await?;
    }
    calm(&world, &provider).await?;
    drop(provider);
    let mut provider = start()?;
    restart(&world, &mut provider).await?;
    shrink(&world, &mut provider).await?;
    Ok(())
}

/// Adds machines and waits until all are provisioned.
async fn grow(world: &mut World, provider: &mut Process, size: usize) -> Result<(), Failure> {
    let had = world.uids.len();
    let mut provisioned = world.provisioned().await?;
    let (audit, calls, cpu) = (
        world.server.audit(),
        world.platform.audit().total(),
        provider.cpu()?,
    );
    let mark = audit.mark();
    let began = Instant::now();
    world.add_machines(size).await?;
    let added = began.elapsed();
    benches::world::told(&mut provisioned, size).await?;
    let took = began.elapsed();
    sleep(REST).await;
    provider.check()?;
    let new = (size - had) as f64;
    let records: Vec<_> = audit.since(mark).into_iter().filter(is_counted).collect();
    let writes = records.iter().filter(|record| record.is_write()).count();
    let reads = records.iter().filter(|record| record.is_read()).count();
    let calls = world.platform.audit().total() - calls;
    report(&format!("{size} machines"), provider)?;
    println!(
        "  {} added in {:.1} s, provisioned after {:.1} s; processor {:.1} s",
        size - had,
        added.as_secs_f64(),
        took.as_secs_f64(),
        (provider.cpu()? - cpu).as_secs_f64()
    );
    println!(
        "  per machine: {:.1} writes (goal 8), {:.1} reads (goal 1), {:.1} hypervisor calls",
        writes as f64 / new,
        reads as f64 / new,
        calls as f64 / new
    );
    Ok(())
}

/// Leaves the provider alone.
async fn calm(world: &World, provider: &Process) -> Result<(), Failure> {
    let audit = world.server.audit();
    let (mark, calls, cpu) = (
        audit.mark(),
        world.platform.audit().total(),
        provider.cpu()?,
    );
    sleep(CALM).await;
    let requests = audit.since(mark).into_iter().filter(is_counted).count();
    println!(
        "left alone for {} s: {requests} Kubernetes requests, {} hypervisor calls, {:.0} % of a core",
        CALM.as_secs(),
        world.platform.audit().total() - calls,
        (provider.cpu()? - cpu).as_secs_f64() / CALM.as_secs_f64() * 100.0
    );
    Ok(())
}

/// Watches a new provider take over what another has built.
async fn restart(world: &World, provider: &mut Process) -> Result<(), Failure> {
    let audit = world.server.audit();
    let (mark, calls) = (audit.mark(), world.platform.audit().total());
    sleep(REST).await;
    provider.check()?;
    let records: Vec<_> = audit.since(mark).into_iter().filter(is_counted).collect();
    let writes = records.iter().filter(|record| record.is_write()).count();
    report(&format!("restarted with {}", world.machines()), provider)?;
    println!(
        "  {} hypervisor calls in {} s, {writes} writes",
        world.platform.audit().total() - calls,
        REST.as_secs(),
    );
    Ok(())
}

/// Deletes all machines and waits until their VMs are gone.
async fn shrink(world: &World, provider: &mut Process) -> Result<(), Failure> {
    let count = world.machines();
    let audit = world.server.audit();
    let (mark, cpu) = (audit.mark(), provider.cpu()?);
    let began = Instant::now();
    world.delete_machines().await?;
    while world.machines() > 0 {
        provider.check()?;
        if began.elapsed() > PATIENCE {
            return Err(format!("{} machines are not gone", world.machines()).into());
        }
        sleep(LOOK).await;
    }
    let took = began.elapsed();
    let records: Vec<_> = audit.since(mark).into_iter().filter(is_counted).collect();
    let writes = records.iter().filter(|record| record.is_write()).count();
    let vms = world.platform.vms_left();
    let left = vms.iter().filter(|vm| vm.vmid >= VMID_FIRST).count();
    println!(
        "{count} machines deleted in {:.1} s, {left} VMs left; per machine {:.1} writes (goal 5), \
         processor {:.1} s",
        took.as_secs_f64(),
        writes as f64 / count as f64,
        (provider.cpu()? - cpu).as_secs_f64()
    );
    Ok(())
}

fn report(when: &str, provider: &Process) -> Result<(), Failure> {
    let (now, most) = provider.memory_mib()?;
    println!("{when}: {now:.1} MiB resident, {most:.1} MiB at most");
    Ok(())
}

/// Events, watches, lists at the start and Leases are told apart, as in the budget of one machine.
fn is_counted(record: &AuditRecord) -> bool {
    record.actor == PROVIDER
        && !record.is_event()
        && !record.is_lease()
        && !record.is_watch()
        && record.verb != "list"
}

/// A kubeconfig in a file that goes with the bench.
struct Kubeconfig(PathBuf);

impl Kubeconfig {
    fn write(text: &str) -> Result<Self, Failure> {
        let name = format!("capi-rs-scale-{}.kubeconfig", std::process::id());
        let path = std::env::temp_dir().join(name);
        let mut file = create_private(&path)?;
        file.write_all(text.as_bytes())?;
        Ok(Self(path))
    }
}

/// The file holds a key, so nobody else may read it.
fn create_private(path: &Path) -> Result<std::fs::File, Failure> {
    use std::os::unix::fs::OpenOptionsExt as _;

    let mut options = std::fs::OpenOptions::new();
    Ok(options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?)
}

impl Drop for Kubeconfig {
    fn drop(&mut self) {
        // A file that cannot be removed harms nobody; the certificate in it ends with the server.
        let _removed = std::fs::remove_file(&self.0);
    }
}
