//! Real programs that judge what this workspace serves.
//!
//! etcd, kube-apiserver, Cluster API with kubeadm, and kubectl, as plain processes on loopback: no
//! container, kubelet or service network. By hand:
//!
//! ```console
//! cargo run -p e2e -- up        # builds what is missing, starts everything, prints a kubeconfig
//! cargo run -p e2e -- status
//! cargo run -p e2e -- logs capi-core-manager
//! cargo run -p e2e -- down      # ends what was started, also after a crash
//! cargo run -p e2e -- templates --infrastructure kubevirt DIR   # whether cluster templates apply as they are
//! ```
//!
//! The suites below `tests/` run them too. They are shown as ignored, with the reason, unless
//! `--include-ignored` is given, since the first build takes minutes:
//!
//! ```console
//! cargo test -p e2e -- --include-ignored
//! ```
//!
//! | suite | shows |
//! |---|---|
//! | `kubectl` | an unmodified `kubectl` against the API server of `capi-testkit` and against the quick start with `--serve`: each command's output and exit code, compared with stored ones |
//! | `conformance` | the API server of `capi-testkit` against the real kube-apiserver: one table of requests goes to both, and their answers are equal or listed with a reason in `differences.txt` |
//! | `life` | the Proxmox provider's program under the real Cluster API, with real workload control planes, with the webhooks and rights of its manifests, killed at ten random moments: provisioning, scaling of control plane and workers, replacement of lost machines, a new version, pause, conversion of older manifests, deletion |
//! | `life_kubevirt` | the same for the KubeVirt provider, whose infra cluster is a second API server that enforces a tenant's rights |
//! | `clusterctl` | an unmodified `clusterctl`: init, generate of every flavor, describe, move to a second management cluster in the middle of provisioning and back, upgrade, delete, with the provider killed ten times |
//! | `clusterctl_kubevirt` | the same for the KubeVirt provider, whose credentials move along |
//! | `strict` | objects written for KubeVirt and its image importer decode by their published Go types, without an unknown field |
//! | `templates` | the flavors that the providers ship apply to a real API server with their webhooks, and are stored as they are written; what is refused is told in the server's words; machines of KubeVirt's are built where that is in the management cluster |
//! | `requests` | what a hundred machines cost a real API server, counted from its audit log, beside the Go provider's figures; with the binary of a release, a day under the rights of its manifests |
//! | `core` | the simulator of Cluster API against the real one: the same day in both, and the same writes to the provider's objects, or listed with a reason in `differences.txt` |
//! | `topology` | the class that the Proxmox provider ships, under the real topology controller: created, changed, rebased, upgraded, deleted; infrastructure that somebody else manages |
//!
//! # Map
//!
//! | module | is |
//! |---|---|
//! | [`tool`] | programs, built from the Go modules below `tools/`, which pin version and checksums |
//! | [`site`] | the files of one run, below `target/e2e` |
//! | [`process`] | processes of a run, found by a mark in their environment |
//! | [`certificate`] | the authority of a run, and what it signs |
//! | [`management`] | etcd, kube-apiserver, kube-controller-manager |
//! | [`embedded`] | the embedded API server in their place |
//! | [`manifest`] | release manifests, rewritten for programs outside a cluster |
//! | [`apply`] | objects of any kind, applied |
//! | [`manager`] | the managers of Cluster API, each under its own account and rights |
//! | [`clusterctl`] | clusterctl with a local repository |
//! | [`world`] | all of that together, and a person's hands in it |
//! | [`provider`] | a provider's program, with its manifests and their rights; killed on the way |
//! | [`ipam`] | the in-cluster IPAM provider, played by a program with rights of its own |
//! | [`killer`] | kills providers at random moments |
//! | [`infrastructure`] | what suites need of a platform and its provider |
//! | [`proxmox`] | Proxmox VE, played, and the program of its provider |
//! | [`kubevirt`] | KubeVirt, played on a second API server, and the program of its provider |
//! | [`workload`] | workload clusters of real API servers, which simulated guests make of their seeds |
//! | [`template`] | cluster templates, tried on an API server with a provider's webhooks |
//! | [`audit`] | what the API server noted down of a user's requests |
//! | [`suite`] | stories that share a world |
//! | [`failure`] | any error with its causes |
//! | [`strict`] | objects, decoded by the published types of those who will read them |

pub mod apply;
pub mod audit;
pub mod certificate;
pub mod clusterctl;
pub mod embedded;
pub mod failure;
pub mod infrastructure;
pub mod ipam;
pub mod killer;
pub mod kubevirt;
pub mod management;
pub mod manager;
pub mod manifest;
pub mod process;
pub mod provider;
pub mod proxmox;
pub mod site;
pub mod strict;
pub mod suite;
pub mod template;
pub mod tool;
pub mod workload;
pub mod world;
