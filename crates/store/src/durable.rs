//! A local folder as an object store whose answers survive a power cut.
//!
//! `object_store`'s local store never calls fsync. Owns: a put is answered only after the file and every folder on
//! the way to it are on the disk, and a name never shows content that is not. Does not own reading, listing and
//! deleting: those are the wrapped store's.

use std::{
    fmt,
    fs::{self, File},
    io::{self, ErrorKind, Write},
    path::{Path as FsPath, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use futures::{StreamExt as _, TryStreamExt as _, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions,
    Result, UploadPart, local::LocalFileSystem, path::Path,
};

const STORE: &str = "local";

#[derive(Clone, Debug)]
pub(crate) struct DurableFolder {
    inner: Arc<LocalFileSystem>,
    root: Arc<FsPath>,
}

impl DurableFolder {
    /// Makes the folder when it is not there.
    pub(crate) fn open(root: &FsPath) -> io::Result<Self> {
        make_folders(root)?;
        let root = root.canonicalize()?;
        let inner = LocalFileSystem::new_with_prefix(&root).map_err(io::Error::other)?;
        Ok(Self {
            inner: Arc::new(inner),
            root: root.into(),
        })
    }

    /// Removes staging files that a killed writer left behind. Listings do not show them, so no vacuum finds them.
    pub(crate) async fn sweep_staging(&self, folder: &Path, older_than: Duration) -> Result<usize> {
        let folder = self.inner.path_to_filesystem(folder)?;
        blocking(move || {
            let mut removed = 0;
            let mut folders = vec![folder];
            while let Some(folder) = folders.pop() {
                for entry in fs::read_dir(&folder)? {
                    let entry = entry?;
                    if entry.file_type()?.is_dir() {
                        folders.push(entry.path());
                    } else if is_staging_name(&entry.file_name().to_string_lossy())
                        && age(&entry)? >= older_than
                    {
                        fs::remove_file(entry.path())?;
                        removed += 1;
                    }
                }
            }
            Ok(removed)
        })
        .await
    }
}

fn age(entry: &fs::DirEntry) -> io::Result<Duration> {
    let modified = entry.metadata()?.modified()?;
    Ok(SystemTime::now()
        .duration_since(modified)
        .unwrap_or(Duration::ZERO))
}

/// The form that `object_store` reserves for files that are not yet objects: `name#digits`.
fn is_staging_name(name: &str) -> bool {
    name.rsplit_once('#').is_some_and(|(_, digits)| {
        !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
    })
}

fn staging_path(path: &FsPath) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!("#{}", rand::random::<u64>()));
    PathBuf::from(name)
}

/// Creates `folder` and what is missing above it, each one synced into its parent.
fn make_folders(folder: &FsPath) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let parent = folder
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent {
        make_folders(parent)?;
    }
    match fs::create_dir(folder) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    sync_folder(parent.unwrap_or(FsPath::new(".")))
}

fn sync_folder(folder: &FsPath) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Writes beside the target, syncs, and only then gives the content its name.
fn put(path: &FsPath, payload: &PutPayload, mode: &PutMode) -> io::Result<()> {
    let parent = path
        .parent()
        .ok_or_else(|| io::Error::other("an object has a folder"))?;
    make_folders(parent)?;
    let staging = staging_path(path);
    let named = (|| {
        let mut file = File::create_new(&staging)?;
        for chunk in payload {
            file.write_all(chunk)?;
        }
        file.sync_all()?;
        match mode {
            PutMode::Create => fs::hard_link(&staging, path).map_err(unless_it_links),
            _ => fs::rename(&staging, path),
        }
    })();
    if named.is_err() || *mode == PutMode::Create {
        // Best effort: what stays is swept later and is never taken for an object.
        let _ = fs::remove_file(&staging);
    }
    named?;
    sync_folder(parent)
}

/// What a failed `link` says of the file system: FAT and many of FUSE refuse every one with EPERM (1), which for a file that
/// we have just made means nothing else.
fn unless_it_links(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(1) => io::Error::new(ErrorKind::Unsupported, error),
        _ => error,
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await?
        .map_err(|source| Error::Generic {
            store: STORE,
            source: Box::new(source),
        })
}

impl fmt::Display for DurableFolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DurableFolder({})", self.root.display())
    }
}

#[async_trait]
impl ObjectStore for DurableFolder {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> Result<PutResult> {
        if matches!(opts.mode, PutMode::Update(_)) || !opts.attributes.is_empty() {
            return self.inner.put_opts(location, payload, opts).await;
        }
        let path = self.inner.path_to_filesystem(location)?;
        let object = location.to_string();
        tokio::task::spawn_blocking(move || put(&path, &payload, &opts.mode))
            .await?
            .map_err(|source| match source.kind() {
                ErrorKind::AlreadyExists => Error::AlreadyExists {
                    path: object,
                    source: Box::new(source),
                },
                ErrorKind::Unsupported => Error::NotSupported {
                    source: Box::new(source),
                },
                _ => Error::Generic {
                    store: STORE,
                    source: Box::new(source),
                },
            })?;
        Ok(PutResult {
            e_tag: None,
            version: None,
        })
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let path = self.inner.path_to_filesystem(location)?;
        let parent = path.parent().map(FsPath::to_owned).unwrap_or_default();
        blocking(move || make_folders(&parent)).await?;
        let upload = self.inner.put_multipart_opts(location, opts).await?;
        Ok(Box::new(DurableUpload { upload, path }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        in_order(self.inner.list(prefix))
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        in_order(self.inner.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.inner.rename_opts(from, to, options).await
    }
}

/// By name, as object stores list; the Delta library relies on it.
fn in_order(
    objects: BoxStream<'static, Result<ObjectMeta>>,
) -> BoxStream<'static, Result<ObjectMeta>> {
    let sorted = async move {
        let mut objects: Vec<ObjectMeta> = objects.try_collect().await?;
        objects.sort_unstable_by(|a, b| a.location.cmp(&b.location));
        Ok::<_, Error>(futures::stream::iter(objects.into_iter().map(Ok)))
    };
    futures::stream::once(sorted).try_flatten().boxed()
}

/// A large file: synced when its last part is in. Nobody reads it before a commit names it.
#[derive(Debug)]
struct DurableUpload {
    upload: Box<dyn MultipartUpload>,
    path: PathBuf,
}

#[async_trait]
impl MultipartUpload for DurableUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.upload.put_part(data)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let result = self.upload.complete().await?;
        let path = self.path.clone();
        blocking(move || {
            File::open(&path)?.sync_all()?;
            path.parent().map_or(Ok(()), sync_folder)
        })
        .await?;
        Ok(result)
    }

    async fn abort(&mut self) -> Result<()> {
        self.upload.abort().await
    }
}
