//! The demo's folder: files to read, tables, and a log.
//!
//! Owns what is written there and what may be deleted again: only what a demo wrote.

use std::{
    fs::{self, File},
    io,
    net::SocketAddr,
    num::NonZeroUsize,
    path::{Path, PathBuf},
};

use alluvium_plan::json_schemas;

use crate::failure::Failure;

const PIPELINE: &str = include_str!("../../../../pipelines/clicks.yaml");
const SCHEMA: &str = include_str!("../../../../schemas/click.yaml");
/// The first line of a server file that a demo wrote; nothing is deleted without it.
const MARK: &str = "# Written by `alluvium demo`.";
/// What a demo makes in its folder.
const OURS: [&str; 5] = ["alluvium.yaml", "pipelines", "schemas", "data", "demo.log"];

/// Where the demo's doors listen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Doors {
    pub(super) http: SocketAddr,
    pub(super) postgres: SocketAddr,
    pub(super) flight: SocketAddr,
}

/// A folder that belongs to one demo.
pub(super) struct Folder(PathBuf);

impl Folder {
    /// Makes the folder; what an earlier demo left in it is deleted when `reset` says so, and refused otherwise.
    pub(super) fn prepare(path: &Path, reset: bool) -> Result<Self, Failure> {
        let shown = path.display();
        let unusable = |error: io::Error| {
            Failure::work(format!("the folder {shown} cannot be used")).because(&error)
        };
        fs::create_dir_all(path).map_err(unusable)?;
        let is_used = fs::read_dir(path).map_err(unusable)?.next().is_some();
        if is_used {
            let server_file = fs::read_to_string(path.join(OURS[0])).unwrap_or_default();
            if !server_file.starts_with(MARK) {
                return Err(Failure::input(format!(
                    "{shown} is in use, and not by an earlier demo"
                ))
                .help("name another folder with `--dir`"));
            }
            if !reset {
                return Err(Failure::input(format!("{shown} holds an earlier demo"))
                    .help("`--reset` deletes it, `--dir FOLDER` takes another folder"));
            }
            for name in OURS {
                let part = path.join(name);
                let removed = if part.is_dir() {
                    fs::remove_dir_all(&part)
                } else {
                    fs::remove_file(&part)
                };
                match removed {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(unusable(error));
                    }
                    _ => {}
                }
            }
        }
        let folder = Self(path.to_owned());
        // From here on the folder is recognised as a demo's, even if this one ends early.
        fs::write(folder.server_file(), format!("{MARK}\n")).map_err(unusable)?;
        Ok(folder)
    }

    /// Writes pipeline, schema and server file.
    pub(super) fn write(
        &self,
        brokers: &str,
        doors: Doors,
        workers: Option<NonZeroUsize>,
    ) -> io::Result<()> {
        let schemas = self.0.join("schemas");
        // By these, editors complete and check both files.
        let of_files = json_schemas().map(|(name, text)| (schemas.join(name), text));
        let own = [
            (self.pipeline_file(), PIPELINE.to_owned()),
            (schemas.join("click.yaml"), SCHEMA.to_owned()),
        ];
        for (file, text) in own.into_iter().chain(of_files) {
            if let Some(parent) = file.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::write(file, text)?;
        }
        let Doors {
            http,
            postgres,
            flight,
        } = doors;
        let workers = workers.map_or_else(String::new, |workers| format!("workers: {workers}\n"));
        fs::write(
            self.server_file(),
            format!(
                "{MARK}\n\
                 # The broker lives in the demo's process and ends with it; the tables in ./data stay.\n\
                 version: 1\n\
                 storage: {{root: ./data}}\n\
                 connections:\n  kafka:\n    main:\n      brokers: {brokers}\n\
                 listen: {{http: \"{http}\", postgres: \"{postgres}\", flight: \"{flight}\"}}\n\
                 {workers}"
            ),
        )
    }

    /// A fresh log file.
    pub(super) fn log(&self) -> io::Result<File> {
        File::create(self.log_file())
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn server_file(&self) -> PathBuf {
        self.0.join(OURS[0])
    }

    pub(super) fn pipeline_file(&self) -> PathBuf {
        self.0.join("pipelines/clicks.yaml")
    }

    pub(super) fn data(&self) -> PathBuf {
        self.0.join("data")
    }

    pub(super) fn log_file(&self) -> PathBuf {
        self.0.join("demo.log")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn doors() -> Doors {
        let [http, postgres, flight] = ["127.0.0.1:8427", "127.0.0.1:8432", "127.0.0.1:8433"]
            .map(|text| text.parse().unwrap());
        Doors {
            http,
            postgres,
            flight,
        }
    }

    #[test]
    fn only_a_demos_folder_is_deleted_and_only_when_asked() {
        let outer = tempfile::tempdir().unwrap();
        let path = outer.path().join("demo");
        let folder =
            Folder::prepare(&path, false).unwrap_or_else(|_| panic!("a new folder is taken"));
        folder.write("127.0.0.1:1", doors(), None).unwrap();
        fs::create_dir(folder.data()).unwrap();
        fs::write(path.join("mine.txt"), "keep").unwrap();
        assert!(Folder::prepare(&path, false).is_err());
        assert!(folder.data().exists());
        assert!(Folder::prepare(&path, true).is_ok());
        assert!(!folder.data().exists());
        assert!(path.join("mine.txt").exists());

        let other = outer.path().join("other");
        fs::create_dir(&other).unwrap();
        fs::write(other.join("alluvium.yaml"), "version: 1\n").unwrap();
        assert!(Folder::prepare(&other, true).is_err());
        assert!(other.join("alluvium.yaml").exists());
    }

    #[test]
    fn what_is_written_is_right() {
        let outer = tempfile::tempdir().unwrap();
        let folder = Folder::prepare(&outer.path().join("demo"), false)
            .unwrap_or_else(|_| panic!("a new folder is taken"));
        folder
            .write("127.0.0.1:1", doors(), NonZeroUsize::new(3))
            .unwrap();
        let found = crate::files::load_at(&folder.server_file()).unwrap();
        assert_eq!(found.server.workers, NonZeroUsize::new(3));
        let sources = [alluvium_plan::SourceFile::read(&folder.pipeline_file()).unwrap()];
        assert_eq!(crate::files::plans(&sources, None).unwrap().len(), 1);
    }
}
