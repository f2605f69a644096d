//! The name under which a server is a static member of its consumer groups (P29).
//!
//! A name is host, server file and the lowest free slot; the slot is held by a file lock for as long as
//! the process lives. So a killed server comes back under its old name, to its old partitions, and two
//! servers with one file differ.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

/// The most servers of one file on one host.
const SLOTS: usize = 1024;

/// A held name.
#[derive(Debug)]
pub struct Instance {
    name: String,
    _lock: Option<File>,
}

/// No slot could be taken.
#[derive(Debug, thiserror::Error)]
pub enum InstanceError {
    /// The lock file cannot be made.
    #[error(
        "the lock file {path} that names this server cannot be used: {source}; set `instance` in the server file"
    )]
    Lock {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// Every slot is taken.
    #[error(
        "all {SLOTS} slots of {file} are taken on this host; set `instance` in the server file"
    )]
    Full {
        /// The server file.
        file: PathBuf,
    },
}

impl Instance {
    /// Takes the name that the server file gives.
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            _lock: None,
        }
    }

    /// Takes the lowest free slot of `server_file` on this `host`; lock files live in `folder`.
    ///
    /// # Errors
    /// [`InstanceError`] when a lock file cannot be made or all slots are taken.
    pub fn lowest_free(
        host: &str,
        server_file: &Path,
        folder: &Path,
    ) -> Result<Self, InstanceError> {
        let lock_error = |path: &Path| {
            let path = path.to_owned();
            move |source| InstanceError::Lock { path, source }
        };
        fs::create_dir_all(folder).map_err(lock_error(folder))?;
        let file_name = fnv1a(server_file.to_string_lossy().as_bytes());
        for slot in 0..SLOTS {
            let path = folder.join(format!("alluvium-{file_name:016x}-{slot}.lock"));
            let file = File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .open(&path)
                .map_err(lock_error(&path))?;
            match file.try_lock() {
                Ok(()) => {
                    return Ok(Self {
                        name: format!("{host}-{file_name:016x}-{slot}"),
                        _lock: Some(file),
                    });
                }
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(source)) => return Err(lock_error(&path)(source)),
            }
        }
        Err(InstanceError::Full {
            file: server_file.to_owned(),
        })
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// A stable 64-bit name of a path. Source: Fowler, Noll, Vo, FNV-1a.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_held_and_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let take = || Instance::lowest_free("h", Path::new("/etc/a.yaml"), folder.path()).unwrap();
        let (first, second) = (take(), take());
        assert_ne!(first.name(), second.name());
        let name = first.name().to_owned();
        drop(first);
        assert_eq!(take().name(), name);
        let other = Instance::lowest_free("h", Path::new("/etc/b.yaml"), folder.path()).unwrap();
        assert_ne!(other.name(), name);
    }
}
