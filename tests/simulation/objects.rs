//! An object store that fails before an effect, after it, long after it and twice, and that remembers every log entry.
//!
//! Owns the objects and the faults. Every call gives others a turn, before it is looked at and before its answer is
//! heard, so that another process can do anything in between.

use std::{
    collections::BTreeMap,
    fmt,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt as _, PutMode, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, Result, UploadPart, memory::InMemory, path::Path,
};

use crate::{
    clock::{Time, by_the_right_clock},
    report::Kind,
    world::{MILLI, World, here},
};

/// How often calls to the store fail, in a thousand.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Weather {
    /// Puts that never happen, happen without an answer, happen late, or are said to have happened already.
    pub(crate) puts: u32,
    /// Other calls that fail.
    pub(crate) reads: u32,
    /// Calls that take long.
    pub(crate) slow: u32,
}

/// The objects of a simulation.
#[derive(Clone)]
pub(crate) struct Objects(Arc<Inner>);

struct Inner {
    objects: InMemory,
    /// By which it stamps.
    time: Time,
    weather: Mutex<Weather>,
    /// Every log entry by the folder of its log and its version, also after it was cleaned up.
    entries: Mutex<BTreeMap<String, BTreeMap<i64, Bytes>>>,
}

impl Objects {
    pub(crate) fn new(time: Time, weather: Weather) -> Self {
        Self(Arc::new(Inner {
            objects: InMemory::new(),
            time,
            weather: Mutex::new(weather),
            entries: Mutex::default(),
        }))
    }

    pub(crate) fn set_weather(&self, weather: Weather) {
        *lock(&self.0.weather) = weather;
    }

    /// The entries of a log, by version.
    pub(crate) fn entries(&self, log: &str) -> BTreeMap<i64, Bytes> {
        lock(&self.0.entries).get(log).cloned().unwrap_or_default()
    }

    /// The newest version of a log.
    pub(crate) fn newest(&self, log: &str) -> Option<i64> {
        let entries = lock(&self.0.entries);
        Some(*entries.get(log)?.last_key_value()?.0)
    }

    /// An object as it is.
    pub(crate) fn read(&self, path: &str) -> Option<Bytes> {
        let read = async { self.0.objects.get(&Path::from(path)).await?.bytes().await };
        at_once(read).ok()
    }

    fn weather(&self) -> Weather {
        *lock(&self.0.weather)
    }

    fn put_now(&self, path: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let entry = entry_of(path);
        let bytes = entry.is_some().then(|| Bytes::from(payload.clone()));
        let done = by_the_right_clock(&self.0.time, || {
            at_once(self.0.objects.put_opts(path, payload, opts))
        });
        if let (Ok(_), Some((log, version)), Some(bytes)) = (&done, entry, bytes) {
            let mut entries = lock(&self.0.entries);
            let of_log = entries.entry(log).or_default();
            // A version that was there and was cleaned up is one that nobody reads any more.
            of_log.entry(version).or_insert(bytes);
        }
        done
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What never waits.
fn at_once<T>(work: impl Future<Output = T>) -> T {
    work.now_or_never()
        .expect("objects in memory are there at once")
}

fn entry_of(path: &Path) -> Option<(String, i64)> {
    let (log, name) = path.as_ref().rsplit_once('/')?;
    let version = name.strip_suffix(".json")?.parse().ok()?;
    let log = log.strip_suffix("/_delta_log")?;
    Some((log.to_owned(), version))
}

/// What a log entry is, in some words.
fn gist(payload: &PutPayload) -> String {
    let bytes = Bytes::from(payload.clone());
    let lines = serde_json::Deserializer::from_slice(&bytes).into_iter::<serde_json::Value>();
    let mut words = String::new();
    for line in lines.filter_map(std::result::Result::ok) {
        let kind = line["commitInfo"]["alluvium"]["kind"].as_str();
        let added = line["add"]["path"].as_str().map(|path| format!("+{path}"));
        let removed = line["remove"]["path"]
            .as_str()
            .map(|path| format!("-{path}"));
        for word in kind
            .map(str::to_owned)
            .into_iter()
            .chain(added)
            .chain(removed)
        {
            words.push(' ');
            words.push_str(&word);
        }
    }
    format!(" ({})", words.trim())
}

fn lost(what: &'static str) -> Error {
    Error::Generic {
        store: "simulated",
        source: what.into(),
    }
}

/// Others have their turn; sometimes for long.
fn give_way(world: &World, weather: Weather) {
    let nanos = {
        let mut state = world.state();
        if state.choices.rarely(weather.slow) {
            state.counts.add(Kind::SlowCall);
            i64::from(50 + state.choices.below(3000)) * MILLI
        } else if state.choices.below(3) == 0 {
            return;
        } else {
            0
        }
    };
    world.pause(nanos);
}

impl Objects {
    /// The way to the store: whether the call fails before anything happens.
    fn go(&self, what: &str, path: impl fmt::Display) -> Result<()> {
        let Some(world) = here() else { return Ok(()) };
        let weather = self.weather();
        give_way(&world, weather);
        let fails = world.state().choices.rarely(weather.reads);
        if fails {
            world.state().counts.add(Kind::FailedRead);
            world.tell(|| format!("{what} {path}: fails"));
            return Err(lost("the connection was lost"));
        }
        Ok(())
    }

    /// The way back.
    fn come_back(&self) {
        if let Some(world) = here() {
            give_way(&world, self.weather());
        }
    }
}

impl fmt::Debug for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Objects")
    }
}

impl fmt::Display for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the simulated store")
    }
}

/// What becomes of a put.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Before,
    After,
    Late,
    Twice,
    Exists,
}

/// Parts of an object, which is stamped when the last one is there.
#[derive(Debug)]
struct Upload {
    upload: Box<dyn MultipartUpload>,
    time: Time,
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, part: PutPayload) -> UploadPart {
        self.upload.put_part(part)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        by_the_right_clock(&self.time, || at_once(self.upload.complete()))
    }

    async fn abort(&mut self) -> Result<()> {
        self.upload.abort().await
    }
}

#[async_trait]
impl ObjectStore for Objects {
    async fn put_opts(
        &self,
        path: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> Result<PutResult> {
        let Some(world) = here() else {
            return self.put_now(path, payload, opts);
        };
        let weather = self.weather();
        let shown = entry_of(path).map(|_| gist(&payload));
        give_way(&world, weather);
        let is_create = opts.mode == PutMode::Create;
        let fate = {
            let mut state = world.state();
            let strikes = state.choices.rarely(weather.puts);
            strikes.then(|| match state.choices.below(6) {
                0 | 1 => Fate::After,
                2 => Fate::Before,
                3 => Fate::Late,
                4 => Fate::Twice,
                _ if is_create => Fate::Exists,
                _ => Fate::After,
            })
        };
        let answer = match fate {
            None => self.put_now(path, payload, opts),
            Some(Fate::Before) => {
                world.state().counts.add(Kind::PutBefore);
                Err(lost("the connection could not be made"))
            }
            Some(Fate::After) => {
                if self.put_now(path, payload, opts).is_ok() {
                    world.state().counts.add(match entry_of(path) {
                        Some(_) => Kind::AmbiguousCommit,
                        None => Kind::PutAfter,
                    });
                }
                Err(lost("the reply was lost"))
            }
            Some(late @ (Fate::Late | Fate::Twice)) => {
                let first = match late {
                    Fate::Twice => self.put_now(path, payload.clone(), opts.clone()),
                    _ => Err(lost("no reply in time")),
                };
                let after = i64::from(1 + world.state().choices.below(4000)) * MILLI;
                let (objects, path, to) = (self.clone(), path.clone(), world.clone());
                let counts = to.clone();
                drop(to);
                let kind = match late {
                    Fate::Twice => Kind::PutTwice,
                    _ => Kind::PutLate,
                };
                counts.state().counts.add(kind);
                world.later(after, move || {
                    // Whether it still finds room is the store's to say.
                    let _ = objects.put_now(&path, payload, opts);
                });
                first
            }
            Some(Fate::Exists) => {
                world.state().counts.add(Kind::PutExists);
                Err(Error::AlreadyExists {
                    path: path.to_string(),
                    source: "a conflicting operation is under way".into(),
                })
            }
        };
        world.tell(|| {
            let ended = match &answer {
                Ok(_) => "ok".to_owned(),
                Err(error) => error.to_string(),
            };
            match fate {
                None => format!("put {path}{}: {ended}", shown.unwrap_or_default()),
                Some(fate) => format!(
                    "put {path}{}: {ended} ({fate:?})",
                    shown.unwrap_or_default()
                ),
            }
        });
        self.come_back();
        answer
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.go("upload", path)?;
        let upload = self.0.objects.put_multipart_opts(path, opts).await?;
        let time = self.0.time.clone();
        Ok(Box::new(Upload { upload, time }))
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.go("get", path)?;
        let got = self.0.objects.get_opts(path, options).await;
        self.come_back();
        got
    }

    async fn get_ranges(&self, path: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.go("get", path)?;
        let got = self.0.objects.get_ranges(path, ranges).await;
        self.come_back();
        got
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let objects = self.clone();
        paths
            .then(move |path| {
                let objects = objects.clone();
                async move {
                    let path = path?;
                    objects.go("delete", &path)?;
                    if let Some(world) = here() {
                        world.tell(|| format!("delete {path}"));
                        if entry_of(&path).is_some() {
                            world.state().counts.add(Kind::Cleaned);
                        }
                    }
                    objects.0.objects.delete(&path).await?;
                    Ok(path)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (objects, prefix) = (self.clone(), prefix.cloned());
        let listed = async move {
            let found: Vec<Result<ObjectMeta>> = match objects.go("list", "a folder") {
                Err(error) => vec![Err(error)],
                Ok(()) => objects.0.objects.list(prefix.as_ref()).collect().await,
            };
            objects.come_back();
            futures::stream::iter(found)
        };
        listed.flatten_stream().boxed()
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let offset = offset.clone();
        self.list(prefix)
            .filter(move |meta| {
                let is_behind = meta.as_ref().is_ok_and(|meta| meta.location <= offset);
                futures::future::ready(!is_behind)
            })
            .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.go("list", "a folder")?;
        self.0.objects.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.go("copy", from)?;
        self.0.objects.copy_opts(from, to, options).await
    }
}
