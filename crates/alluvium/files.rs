//! The server file and the pipeline files beside it: where they are, and reading them.
//!
//! Owns the search and the environment that fills `${NAME}`. Does not own what a file means: that is
//! `plan`'s.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use alluvium_plan::{
    AllowHttp, Code, Connections, Diagnostic, Diagnostics, Environment, InlineTest, Plan, Server,
    SourceFile, check_schema, load_pipelines, load_server,
};
use alluvium_store::{StorageConfig, Store, StoreError};
use tokio::runtime::Runtime;

use crate::{cli::ServerFile, failure::Failure};

/// The name that is looked for.
const SERVER_FILE: &str = "alluvium.yaml";
/// Where servers are asked that say nothing else.
const USUAL_DOOR: &str = "http://127.0.0.1:8427";
/// Where a packaged server has its file.
const SYSTEM_FILE: &str = "/etc/alluvium/alluvium.yaml";

/// A server file as meant, and where it was found.
#[derive(Debug)]
pub(crate) struct Found {
    /// Where.
    pub(crate) path: PathBuf,
    /// What it says.
    pub(crate) server: Server,
    /// What a person should know about it.
    pub(crate) warnings: Diagnostics,
}

/// The server file: the one given, or the nearest upwards, or the system's.
///
/// # Errors
/// A usage failure when there is none.
pub(crate) fn find(given: &ServerFile) -> Result<PathBuf, Failure> {
    if let Some(path) = &given.config {
        return Ok(path.clone());
    }
    let here = env::current_dir()?;
    here.ancestors()
        .map(|folder| folder.join(SERVER_FILE))
        .chain([PathBuf::from(SYSTEM_FILE)])
        .find(|path| path.is_file())
        .ok_or_else(|| {
            Failure::input(format!(
                "there is no {SERVER_FILE} in {} or above it, and no {SYSTEM_FILE}",
                here.display()
            ))
            .help("name it with `--config FILE`, or try `alluvium demo`, which needs none")
        })
}

/// Reads the server file.
///
/// # Errors
/// A usage failure with every mistake in it.
pub(crate) fn load(given: &ServerFile) -> Result<Found, Failure> {
    let path = find(given)?;
    load_at(&path).map_err(|found| Failure::wrong_files(&found))
}

/// Reads the server file at `path`.
///
/// # Errors
/// Every mistake in it.
pub(crate) fn load_at(path: &Path) -> Result<Found, Diagnostics> {
    let source = SourceFile::read(path)?;
    let (server, warnings) = load_server(&source, &mut |path| fs::read(path), &environment())?;
    Ok(Found {
        path: path.to_owned(),
        server,
        warnings,
    })
}

/// Where the server of this file is asked over HTTP from the machine that it runs on; the usual place where the file does not say it, or there
/// is none at hand that can be read.
///
/// # Errors
/// A usage failure with every mistake in a file that was named.
pub(crate) fn door(given: &ServerFile) -> Result<String, Failure> {
    match load(given) {
        Ok(found) if found.server.listen.http.port() > 0 => Ok(found.server.door()),
        Err(failure) if given.config.is_some() => Err(failure),
        _ => Ok(USUAL_DOOR.to_owned()),
    }
}

impl Found {
    /// The folder of its pipelines.
    pub(crate) fn pipelines(&self) -> PathBuf {
        pipelines_beside(&self.path)
    }

    /// The connections that its pipelines can name.
    pub(crate) fn connections(&self) -> Connections {
        Connections {
            known: self.server.kafka.keys().cloned().collect(),
            file: self.path.display().to_string(),
        }
    }

    /// The storage, for commands that write to it: it must refuse to create one key twice (S8).
    pub(crate) async fn store_to_write(&self) -> Result<Store, Failure> {
        let store = self.store().await?;
        match store.prove().await {
            Ok(()) => Ok(store),
            Err(error) => {
                let root = &self.server.storage.root;
                Err(
                    Failure::work(format!("the storage at {root} cannot be written to"))
                        .because(&error),
                )
            }
        }
    }

    /// Opens its storage.
    ///
    /// # Errors
    /// When the root cannot be used.
    pub(crate) async fn store(&self) -> Result<Store, Failure> {
        let storage = &self.server.storage;
        let config = StorageConfig {
            root: storage.root.clone(),
            endpoint: storage.endpoint.clone(),
            region: storage.region.clone(),
            access_key: storage.access_key.clone(),
            secret_key: storage
                .secret_key
                .as_ref()
                .map(|secret| secret.reveal().to_owned()),
            allow_http: storage.allow_http == AllowHttp::Yes,
        };
        Store::open(&config).await.map_err(|error| {
            let what = format!("the storage at {} cannot be used", storage.root);
            // A root that is wrong stays wrong, however often it is tried.
            let failure = match error {
                StoreError::Root { .. } => Failure::input(what),
                _ => Failure::work(what),
            };
            failure.because(&error)
        })
    }
}

/// The tables of these names in the storage, or all of them when none is named.
///
/// # Errors
/// That there is no such table, or none at all.
pub(crate) fn tables(
    found: &Found,
    runtime: &Runtime,
    store: &Store,
    named: &[String],
) -> Result<Vec<String>, Failure> {
    let root = &found.server.storage.root;
    let known = runtime.block_on(store.tables()).map_err(|error| {
        Failure::work(format!("the tables in {root} cannot be listed")).because(&error)
    })?;
    let meanwhile = "tables appear when their pipeline first runs";
    if let Some(table) = named.iter().find(|table| !known.contains(table)) {
        let failure = Failure::input(format!("there is no table `{table}` in {root}"));
        return Err(match known.as_slice() {
            [] => failure.help(meanwhile),
            known => failure.help(format!("there are: {}", known.join(", "))),
        });
    }
    match (named, known.as_slice()) {
        ([], []) => Err(Failure::work(format!("there is no table in {root}")).help(meanwhile)),
        ([], _) => Ok(known),
        (named, _) => Ok(named.to_vec()),
    }
}

/// All pipeline files of a folder, or the one file that `path` is, in the order of their names.
///
/// # Errors
/// A mistake that names the path when it cannot be read.
pub(crate) fn pipeline_files(path: &Path) -> Result<Vec<PathBuf>, Diagnostics> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let unreadable = |error: std::io::Error| {
        Diagnostics::from(Diagnostic::of_file(
            path.display().to_string(),
            Code::File,
            format!("the folder cannot be read: {error}"),
            "check the path and your rights",
        ))
    };
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(unreadable)? {
        let file = entry.map_err(unreadable)?.path();
        let is_yaml = file
            .extension()
            .is_some_and(|ending| ending == "yaml" || ending == "yml");
        if is_yaml && file.is_file() {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

/// Reads files; what cannot be read is added to `found`.
pub(crate) fn read_all(paths: &[PathBuf], found: &mut Diagnostics) -> Vec<SourceFile> {
    paths
        .iter()
        .filter_map(|path| match SourceFile::read(path) {
            Ok(source) => Some(source),
            Err(mistakes) => {
                found.extend(mistakes);
                None
            }
        })
        .collect()
}

/// The pipelines of these files, for a server with these connections; any will do where `None` are known.
///
/// # Errors
/// Every mistake in all files.
pub(crate) fn plans(
    sources: &[SourceFile],
    connections: Option<&Connections>,
) -> Result<Vec<(Plan, Vec<InlineTest>)>, Diagnostics> {
    let read_file = &mut |path: &Path| fs::read(path);
    load_pipelines(sources, read_file, &environment(), connections)
}

/// Every mistake in an event schema.
pub(crate) fn schema_mistakes(source: &SourceFile) -> Diagnostics {
    check_schema(source, &environment())
}

/// The folder of the pipelines of a server file.
pub(crate) fn pipelines_beside(server_file: &Path) -> PathBuf {
    beside(server_file, "pipelines")
}

/// A name in the same folder as `file`.
fn beside(file: &Path, name: &str) -> PathBuf {
    match file.parent() {
        Some(folder) if folder != Path::new("") => folder.join(name),
        _ => PathBuf::from(name),
    }
}

/// What `${NAME}` in files may name. A variable that is not UTF-8 cannot be named.
fn environment() -> Environment {
    env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}
