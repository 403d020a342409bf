//! Real programs that judge what this workspace serves.
//!
//! [`tool`] builds them from the Go modules below `tools/`, which pin version and checksums. The
//! suites below `tests/` run them; they are shown as ignored, with the reason, unless
//! `--include-ignored` is given, since the first build takes minutes:
//!
//! ```console
//! cargo test -p e2e -- --include-ignored
//! ```
//!
//! | suite | shows |
//! |---|---|
//! | `kubectl` | an unmodified `kubectl` against the API server of `capi-testkit`: each command's output and exit code, compared with stored ones |

pub mod tool;
