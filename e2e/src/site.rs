//! Where one run keeps its files, and how they are named.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Why a file of the run could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{attempt} {}", path.display())]
pub struct SiteError {
    attempt: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// The directory of one run. Only its owner may read it: it holds keys.
#[derive(Clone, Debug)]
pub struct Site {
    directory: PathBuf,
}

impl Site {
    /// The directory of this name below the workspace's `target/e2e`.
    #[must_use]
    pub fn named(name: &str) -> Self {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let target = std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| workspace.join("target"), PathBuf::from);
        let target = fs::canonicalize(&target).unwrap_or(target);
        Self {
            directory: target.join("e2e").join(name),
        }
    }

    /// The directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A path below the directory.
    #[must_use]
    pub fn path(&self, below: impl AsRef<Path>) -> PathBuf {
        self.directory.join(below)
    }

    /// The log of a program.
    #[must_use]
    pub fn log(&self, program: &str) -> PathBuf {
        self.path("logs").join(format!("{program}.log"))
    }

    /// Removes what an earlier run left. etcd must start empty: its old content was written under
    /// other certificates.
    ///
    /// # Errors
    ///
    /// A file that cannot be removed.
    pub fn clear(&self) -> Result<(), SiteError> {
        match fs::remove_dir_all(&self.directory) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(failed("remove", &self.directory, source)),
        }
    }

    /// Makes a directory below.
    ///
    /// # Errors
    ///
    /// A directory that cannot be made.
    pub fn make(&self, below: &str) -> Result<PathBuf, SiteError> {
        let path = self.path(below);
        let mut builder = fs::DirBuilder::new();
        let made = builder.recursive(true).mode(0o700).create(&path);
        made.map_err(|source| failed("create", &path, source))?;
        Ok(path)
    }

    /// Writes a file that only its owner may read, with the directories above it.
    ///
    /// # Errors
    ///
    /// A file that cannot be written.
    pub fn write(&self, below: &str, text: &str) -> Result<PathBuf, SiteError> {
        use std::io::Write as _;

        let path = self.path(below);
        if let Some((directory, _)) = below.rsplit_once('/') {
            self.make(directory)?;
        } else {
            self.make("")?;
        }
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options
            .open(&path)
            .map_err(|source| failed("create", &path, source))?;
        file.write_all(text.as_bytes())
            .map_err(|source| failed("write", &path, source))?;
        Ok(path)
    }

    /// Reads a file.
    ///
    /// # Errors
    ///
    /// A file that cannot be read.
    pub fn read(&self, below: &str) -> Result<String, SiteError> {
        let path = self.path(below);
        fs::read_to_string(&path).map_err(|source| failed("read", &path, source))
    }
}

pub(crate) fn failed(attempt: &'static str, path: &Path, source: io::Error) -> SiteError {
    SiteError {
        attempt,
        path: path.to_owned(),
        source,
    }
}
