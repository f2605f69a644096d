//! Whether the bytes of a file are those that were written.
//!
//! Owns the checksum of every data file: made of the bytes as they go up, kept in the log beside the file's name, and
//! compared by whoever reads a file to its end. The Parquet writer makes none of its own, and a bit that flips in storage can
//! change a number without an error. Does not own what is then done. Queries compare small files that they keep, and not
//! others, of which they read parts.

use std::{
    collections::BTreeMap,
    fmt,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

use alluvium_plan::CommittedFile;
use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest, checksum_combine, crc64_nvme};
use futures::{FutureExt as _, TryStreamExt as _, future::BoxFuture};
use object_store::{ObjectStore, ObjectStoreExt as _, buffered::BufWriter, path::Path};
use parquet::{
    arrow::async_writer::AsyncFileWriter,
    errors::{ParquetError, Result},
};
use tokio::io::AsyncWriteExt as _;

/// The tag of a file's checksum in the log.
pub(crate) const CHECKSUM: &str = "alluvium.checksum";
/// What the tag begins with: the kind of checksum, which S3 knows by this name too.
const KIND: &str = "crc64nvme:";
/// Of what no reader has asked for, so many bytes are read at once, about.
const ROUND: u64 = 1 << 20;

/// The tag's value.
pub(crate) fn tag_of(sum: u64) -> String {
    format!("{KIND}{sum:016x}")
}

/// What a tag says; `None` where it is none of a kind that is known here.
pub(crate) fn parse_tag(tag: &str) -> Option<u64> {
    u64::from_str_radix(tag.strip_prefix(KIND)?, 16).ok()
}

/// An upload, and the checksum of what has gone into it.
pub(crate) struct SummedUpload {
    upload: BufWriter,
    digest: Digest,
}

impl SummedUpload {
    pub(crate) fn new(upload: BufWriter) -> Self {
        Self {
            upload,
            digest: Digest::new(CrcAlgorithm::Crc64Nvme),
        }
    }

    /// Of everything that was written so far.
    pub(crate) fn sum(&self) -> u64 {
        self.digest.finalize()
    }

    pub(crate) fn into_inner(self) -> BufWriter {
        self.upload
    }
}

impl AsyncFileWriter for SummedUpload {
    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, Result<()>> {
        async move {
            self.digest.update(&bytes);
            self.upload.write_all(&bytes).await?;
            Ok(())
        }
        .boxed()
    }

    fn complete(&mut self) -> BoxFuture<'_, Result<()>> {
        async move {
            self.upload.flush().await?;
            self.upload.shutdown().await?;
            Ok(())
        }
        .boxed()
    }
}

/// Which bytes of a file were read, and their checksums.
#[derive(Debug, Default)]
struct Seen {
    /// By where it begins: where it ends, and its checksum. None overlaps another.
    pieces: BTreeMap<u64, (u64, u64)>,
}

impl Seen {
    /// Takes what of these bytes was not seen before; they stand at `start`.
    fn take(&mut self, start: u64, bytes: &[u8]) {
        for gap in self.gaps(start..start + bytes.len() as u64) {
            let part = bytes
                .get((gap.start - start) as usize..(gap.end - start) as usize)
                .expect("a gap lies within what is taken");
            self.pieces.insert(gap.start, (gap.end, crc64_nvme(part)));
        }
    }

    /// What of a range was not seen.
    fn gaps(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let mut gaps = Vec::new();
        let mut at = range.start;
        let before = self.pieces.range(..range.start).next_back();
        let within = self.pieces.range(range.clone());
        for (&start, &(end, _)) in before.into_iter().chain(within) {
            if at < start {
                gaps.push(at..start);
            }
            at = at.max(end);
        }
        if at < range.end {
            gaps.push(at..range.end);
        }
        gaps
    }

    /// Of all that was seen, which is whole.
    fn sum(&self) -> u64 {
        let mut pieces = self.pieces.iter();
        let first = pieces.next().map_or(0, |(_, (_, sum))| *sum);
        pieces.fold(first, |sum, (start, (end, next))| {
            checksum_combine(CrcAlgorithm::Crc64Nvme, sum, *next, end - start)
        })
    }
}

/// What was read of one file; shared by the reader and whoever waits for its end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reading(Arc<Mutex<Seen>>);

impl Reading {
    pub(crate) fn take(&self, start: u64, bytes: &[u8]) {
        self.with(|seen| seen.take(start, bytes));
    }

    fn with<T>(&self, look: impl FnOnce(&mut Seen) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The comparison of a file with its checksum, once it was read.
pub(crate) struct Check {
    objects: Arc<dyn ObjectStore>,
    path: Path,
    size: u64,
    expected: u64,
    reading: Reading,
}

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Check")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl Check {
    /// `None` for a file of which the log has no checksum: an older release wrote it, or another product has named it anew.
    pub(crate) fn of(objects: &Arc<dyn ObjectStore>, file: &CommittedFile) -> Option<Self> {
        Some(Self {
            objects: objects.clone(),
            path: Path::from(file.path.as_str()),
            size: file.size,
            expected: file.checksum?,
            reading: Reading::default(),
        })
    }

    /// What the file's reader has to tell of the bytes that it gets.
    pub(crate) fn reading(&self) -> Reading {
        self.reading.clone()
    }

    /// Reads what nobody has read so far, and compares.
    ///
    /// # Errors
    /// That the file has other bytes than were written, or that some could not be read.
    pub(crate) async fn finish(self) -> Result<()> {
        for round in rounds(self.reading.with(|seen| seen.gaps(0..self.size))) {
            let read = self.objects.get_ranges(&self.path, &round).await;
            let read = read.map_err(|error| ParquetError::External(Box::new(error)))?;
            for (piece, bytes) in round.iter().zip(&read) {
                self.reading.take(piece.start, bytes);
            }
        }
        compare(self.expected, self.reading.with(|seen| seen.sum()))
    }
}

/// Ranges in rounds that reach over no more than a mebibyte each, larger ones cut: stores read what lies between two ranges along with
/// them.
fn rounds(gaps: Vec<Range<u64>>) -> Vec<Vec<Range<u64>>> {
    let mut rounds: Vec<Vec<Range<u64>>> = Vec::new();
    let mut reach = 0;
    for gap in gaps {
        let mut at = gap.start;
        while at < gap.end {
            if at >= reach {
                rounds.push(Vec::new());
                reach = at + ROUND;
            }
            let piece = at..gap.end.min(reach);
            at = piece.end;
            rounds.last_mut().expect("a round was begun").push(piece);
        }
    }
    rounds
}

/// Whether these are all the bytes of a file, as far as the log says what these were.
///
/// # Errors
/// That they are others than were written.
pub fn compare_bytes(file: &CommittedFile, bytes: &[u8]) -> Result<()> {
    match file.checksum {
        Some(expected) => compare(expected, crc64_nvme(bytes)),
        None => Ok(()),
    }
}

fn compare(expected: u64, found: u64) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(ParquetError::General(format!(
        "it is damaged: its checksum is {found:016x}, and a file with {expected:016x} was written"
    )))
}

/// Whether a file has other bytes than were written; `None` where nothing says what these were.
///
/// # Errors
/// When it cannot be read.
pub(crate) async fn damage_of(
    objects: &dyn ObjectStore,
    file: &CommittedFile,
) -> object_store::Result<Option<ParquetError>> {
    let Some(expected) = file.checksum else {
        return Ok(None);
    };
    let found = checksum_of(objects, &Path::from(file.path.as_str())).await?;
    Ok(compare(expected, found).err())
}

/// The checksum of an object, read from its begin to its end.
async fn checksum_of(objects: &dyn ObjectStore, path: &Path) -> object_store::Result<u64> {
    let mut digest = Digest::new(CrcAlgorithm::Crc64Nvme);
    let mut bytes = objects.get(path).await?.into_stream();
    while let Some(piece) = bytes.try_next().await? {
        digest.update(&piece);
    }
    Ok(digest.finalize())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pieces_in_any_order_sum_up_to_the_whole(
            bytes in proptest::collection::vec(any::<u8>(), 1..400),
            ranges in proptest::collection::vec((0_usize..400, 0_usize..200), 0..12),
        ) {
            let mut seen = Seen::default();
            for (start, length) in ranges {
                let start = start.min(bytes.len());
                let end = (start + length).min(bytes.len());
                seen.take(start as u64, &bytes[start..end]);
            }
            for gap in seen.gaps(0..bytes.len() as u64) {
                seen.take(gap.start, &bytes[gap.start as usize..gap.end as usize]);
            }
            prop_assert!(seen.gaps(0..bytes.len() as u64).is_empty());
            prop_assert_eq!(seen.sum(), crc64_nvme(&bytes));
            let mut digest = Digest::new(CrcAlgorithm::Crc64Nvme);
            digest.update(&bytes);
            prop_assert_eq!(digest.finalize(), crc64_nvme(&bytes));
        }
    }

    #[test]
    fn rounds_cover_gaps_and_reach_no_further_than_a_mebibyte() {
        let gaps = vec![
            0..4,
            100..200,
            ROUND - 1..3 * ROUND,
            9 * ROUND..9 * ROUND + 1,
        ];
        let rounds = rounds(gaps.clone());
        for round in &rounds {
            let (first, last) = (round.first().unwrap(), round.last().unwrap());
            assert!(last.end - first.start <= ROUND, "{round:?}");
        }
        let mut seen = Seen::default();
        let bytes = vec![7; 2 * ROUND as usize + 1];
        for piece in rounds.into_iter().flatten() {
            assert!(piece.start < piece.end);
            seen.take(piece.start, &bytes[..(piece.end - piece.start) as usize]);
        }
        let left = |gap: &Range<u64>| seen.gaps(gap.clone());
        assert!(gaps.iter().all(|gap| left(gap).is_empty()));
        let between = 200..ROUND - 1;
        assert_eq!(left(&between), std::slice::from_ref(&between));
    }

    #[test]
    fn a_tag_of_another_kind_is_none() {
        assert_eq!(
            parse_tag(&tag_of(0x0123_4567_89ab_cdef)),
            Some(0x0123_4567_89ab_cdef)
        );
        // The check value of this CRC in the catalogue of parametrised CRC algorithms.
        assert_eq!(
            tag_of(crc64_nvme(b"123456789")),
            "crc64nvme:ae8b14860a799888"
        );
        for other in ["", "crc64nvme:", "crc32c:12345678", "crc64nvme:xyz"] {
            assert_eq!(parse_tag(other), None, "{other}");
        }
    }
}
