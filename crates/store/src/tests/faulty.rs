//! An object store that fails before, after and long after the effect, by a seed.
//!
//! Owns the faults and the count of those that took effect. A campaign that hurt nothing proved nothing.

use std::{
    fmt,
    ops::Range,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
    memory::InMemory, path::Path,
};

use crate::clock::suspend;

/// How often, in a thousand puts of log entries, each fault is tried.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    /// The put fails and nothing happened.
    pub(crate) before: u64,
    /// The put happens and the reply is lost.
    pub(crate) after: u64,
    /// The put fails now and happens later, if its name is still free then.
    pub(crate) late: u64,
    /// The store says `AlreadyExists` and nothing happened, as S3's 409 does.
    pub(crate) exists: u64,
    /// Reads fail, in a thousand reads.
    pub(crate) reads: u64,
}

impl Faults {
    /// Some of each, of a thousand calls.
    pub(crate) fn of_every_kind() -> Self {
        Self {
            before: 100,
            after: 100,
            late: 100,
            exists: 50,
            reads: 10,
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Hits {
    pub(crate) before: AtomicUsize,
    pub(crate) after: AtomicUsize,
    pub(crate) late: AtomicUsize,
    /// Late puts that found their name free.
    pub(crate) late_landed: AtomicUsize,
    pub(crate) exists: AtomicUsize,
    pub(crate) reads: AtomicUsize,
}

/// What becomes of a put whose reply is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// It happens.
    Lands,
    /// It happens after whatever happens meanwhile, if its name is still free then.
    LandsAfterwards,
    /// It never happens.
    Never,
}

/// One lost reply, and what its writer cannot see.
struct LostReply {
    effect: Effect,
    meanwhile: BoxFuture<'static, ()>,
    asleep: Duration,
}

impl fmt::Debug for LostReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LostReply")
            .field("effect", &self.effect)
            .field("asleep", &self.asleep)
            .finish_non_exhaustive()
    }
}

#[derive(Clone, Debug)]
pub(crate) struct FaultyStore {
    inner: Arc<InMemory>,
    faults: Faults,
    random: Arc<AtomicU64>,
    pub(crate) hits: Arc<Hits>,
    /// How much older objects look in listings, so that clean-up can be tested without waiting.
    pub(crate) age: Arc<AtomicU64>,
    /// It takes nothing.
    pub(crate) is_away: Arc<AtomicBool>,
    /// Nobody may delete.
    pub(crate) keeps_all: Arc<AtomicBool>,
    /// By so many seconds its clock is behind ours.
    pub(crate) behind: Arc<AtomicU64>,
    /// Puts that are refused twice but happen: a store without conditional put (S8).
    pub(crate) overwrites: Overwrites,
    /// Left out of the next listing, as what is put into a folder while it is listed.
    pub(crate) unlisted: Arc<Mutex<Option<Path>>>,
    /// An object that can be read so many times more.
    pub(crate) withheld: Arc<Mutex<Option<(Path, usize)>>>,
    next_entry: Arc<Mutex<Option<LostReply>>>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Overwrites {
    Never,
    Always,
}

impl FaultyStore {
    pub(crate) fn new(seed: u64, faults: Faults) -> Self {
        Self {
            inner: Arc::new(InMemory::new()),
            faults,
            random: Arc::new(AtomicU64::new(seed)),
            hits: Arc::default(),
            age: Arc::default(),
            behind: Arc::default(),
            is_away: Arc::default(),
            keeps_all: Arc::default(),
            overwrites: Overwrites::Never,
            unlisted: Arc::default(),
            withheld: Arc::default(),
            next_entry: Arc::default(),
        }
    }

    /// The next put of a log entry gets no reply. Then `meanwhile` happens, and before its writer reads on the machine sleeps
    /// for so long. Only on a runtime of one thread.
    pub(crate) fn lose_next_reply(
        &self,
        effect: Effect,
        meanwhile: impl Future<Output = ()> + Send + 'static,
        asleep: Duration,
    ) {
        let lost = LostReply {
            effect,
            meanwhile: meanwhile.boxed(),
            asleep,
        };
        *self.next_entry() = Some(lost);
    }

    /// Whether the reply that was to be lost is still to come.
    pub(crate) fn is_reply_to_come(&self) -> bool {
        self.next_entry().is_some()
    }

    fn next_entry(&self) -> std::sync::MutexGuard<'_, Option<LostReply>> {
        self.next_entry
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The same objects behind a store that does not fail.
    pub(crate) fn without_faults(&self) -> Self {
        Self {
            faults: Faults::default(),
            ..self.clone()
        }
    }

    fn is_withheld(&self, path: &Path) -> bool {
        let mut withheld = self.withheld.lock().unwrap_or_else(PoisonError::into_inner);
        match withheld.as_mut().filter(|(of, _)| of == path) {
            None => false,
            Some((_, 0)) => true,
            Some((_, left)) => {
                *left -= 1;
                false
            }
        }
    }

    /// SplitMix64 (Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators").
    fn draw(&self) -> u64 {
        let mut z = self
            .random
            .fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Other tasks get their turn here, and some wait a little.
    async fn jitter(&self) {
        match self.draw() % 4 {
            0 => tokio::time::sleep(Duration::from_micros(self.draw() % 1500)).await,
            _ => tokio::task::yield_now().await,
        }
    }
}

fn lost() -> Error {
    Error::Generic {
        store: "faulty",
        source: "injected".into(),
    }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FaultyStore")
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(
        &self,
        path: &Path,
        payload: PutPayload,
        mut opts: PutOptions,
    ) -> Result<PutResult> {
        if self.is_away.load(Ordering::Relaxed) {
            return Err(lost());
        }
        if self.overwrites == Overwrites::Always {
            opts.mode = PutMode::Overwrite;
        }
        self.jitter().await;
        let is_entry = path.as_ref().ends_with(".json") && opts.mode == PutMode::Create;
        if !is_entry {
            return self.inner.put_opts(path, payload, opts).await;
        }
        let scripted = self.next_entry().take();
        if let Some(scripted) = scripted {
            if scripted.effect == Effect::Lands {
                self.inner.put_opts(path, payload, opts).await?;
                scripted.meanwhile.await;
            } else {
                scripted.meanwhile.await;
                if scripted.effect == Effect::LandsAfterwards {
                    // Whether it still finds room is for whoever reads the log to say.
                    let _ = self.inner.put_opts(path, payload, opts).await;
                }
            }
            // On one thread this runs when the writer next waits: when it backs off before it reads on.
            tokio::spawn(async move { suspend(scripted.asleep) });
            return Err(lost());
        }
        let Faults {
            before,
            after,
            late,
            exists,
            ..
        } = self.faults;
        let drawn = self.draw() % 1000;
        if drawn < before {
            self.hits.before.fetch_add(1, Ordering::Relaxed);
            return Err(lost());
        }
        if drawn < before + after {
            let landed = self.inner.put_opts(path, payload, opts).await;
            if landed.is_ok() {
                self.hits.after.fetch_add(1, Ordering::Relaxed);
            }
            return Err(lost());
        }
        if drawn < before + after + late {
            self.hits.late.fetch_add(1, Ordering::Relaxed);
            let (store, path, wait) = (self.clone(), path.clone(), self.draw() % 30_000);
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_micros(wait)).await;
                if store.inner.put_opts(&path, payload, opts).await.is_ok() {
                    store.hits.late_landed.fetch_add(1, Ordering::Relaxed);
                }
            });
            return Err(lost());
        }
        if drawn < before + after + late + exists {
            self.hits.exists.fetch_add(1, Ordering::Relaxed);
            return Err(Error::AlreadyExists {
                path: path.to_string(),
                source: "injected".into(),
            });
        }
        self.inner.put_opts(path, payload, opts).await
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(path, opts).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.jitter().await;
        if self.draw() % 1000 < self.faults.reads || self.is_withheld(path) {
            self.hits.reads.fetch_add(1, Ordering::Relaxed);
            return Err(lost());
        }
        let mut result = self.inner.get_opts(path, options).await?;
        result.meta.last_modified -= Duration::from_secs(self.behind.load(Ordering::Relaxed));
        Ok(result)
    }

    async fn get_ranges(&self, path: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.inner.get_ranges(path, ranges).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        if self.keeps_all.load(Ordering::Relaxed) {
            let denied = |path: Result<Path>| {
                let path = path?.to_string();
                let source = "nobody may delete".into();
                Err(object_store::Error::PermissionDenied { path, source })
            };
            return paths.map(denied).boxed();
        }
        self.inner.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let seconds = self.age.load(Ordering::Relaxed) + self.behind.load(Ordering::Relaxed);
        let age = Duration::from_secs(seconds);
        let mut unlisted = self.unlisted.lock().unwrap_or_else(PoisonError::into_inner);
        let unlisted = unlisted.take();
        self.inner
            .list(prefix)
            .filter(move |meta| {
                let is_left_out = meta
                    .as_ref()
                    .is_ok_and(|meta| Some(&meta.location) == unlisted.as_ref());
                futures::future::ready(!is_left_out)
            })
            .map(move |meta| {
                meta.map(|mut meta| {
                    meta.last_modified -= age;
                    meta
                })
            })
            .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
