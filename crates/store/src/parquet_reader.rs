//! Reading columns of one Parquet file from the object store.
//!
//! Owns ranged reads: only the footer and the wanted columns travel. Does not own what the columns mean.

use std::{ops::Range, sync::Arc};

use alluvium_plan::CommittedFile;
use alluvium_types::survived;
use bytes::Bytes;
use datafusion::arrow::array::RecordBatch;
use futures::{FutureExt as _, Stream, StreamExt as _, TryStreamExt as _, future::BoxFuture};
use object_store::{ObjectStore, ObjectStoreExt as _, path::Path};
use parquet::{
    arrow::{
        ParquetRecordBatchStreamBuilder, ProjectionMask, arrow_reader::ArrowReaderOptions,
        async_reader::AsyncFileReader,
    },
    errors::{ParquetError, Result},
    file::metadata::{ParquetMetaData, ParquetMetaDataReader},
};

use crate::{
    StoreError,
    checksum::{Check, Reading},
    damage::{Surviving, or_astray, survived_by},
};

/// What is read of a file's end at once: mostly all that describes it.
const FOOTER: usize = 32 << 10;

/// Ranges of one object.
pub(crate) struct ObjectReader {
    objects: Arc<dyn ObjectStore>,
    path: Path,
    size: u64,
    /// Who wants to know which bytes came.
    reading: Option<Reading>,
}

impl ObjectReader {
    fn tell(&self, start: u64, bytes: &[u8]) {
        if let Some(reading) = &self.reading {
            reading.take(start, bytes);
        }
    }

    /// Why a range did not come. A file of another size than was written is damaged, though the store has words for it that sound as if it were away.
    async fn cause(&self, end: u64, error: object_store::Error) -> ParquetError {
        if end > self.size {
            return ParquetError::General(format!(
                "it is damaged: it says that it goes on to byte {end}, and has {}",
                self.size
            ));
        }
        match self.objects.head(&self.path).await {
            Ok(found) if found.size != self.size => ParquetError::General(format!(
                "it has {} bytes, and {} were written",
                found.size, self.size
            )),
            _ => ParquetError::External(Box::new(error)),
        }
    }
}

impl AsyncFileReader for ObjectReader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes>> {
        async move {
            match self.objects.get_range(&self.path, range.clone()).await {
                Ok(bytes) => {
                    self.tell(range.start, &bytes);
                    Ok(bytes)
                }
                Err(error) => Err(self.cause(range.end, error).await),
            }
        }
        .boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, Result<Vec<Bytes>>> {
        async move {
            match self.objects.get_ranges(&self.path, &ranges).await {
                Ok(all) => {
                    for (range, bytes) in ranges.iter().zip(&all) {
                        self.tell(range.start, bytes);
                    }
                    Ok(all)
                }
                Err(error) => {
                    let ends = ranges.iter().map(|range| range.end);
                    Err(self.cause(ends.max().unwrap_or(0), error).await)
                }
            }
        }
        .boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>>> {
        async move {
            let size = self.size;
            let metadata = ParquetMetaDataReader::new().with_prefetch_hint(Some(FOOTER));
            let metadata = metadata.load_and_finish(&mut *self, size);
            metadata.await.map(Arc::new)
        }
        .boxed()
    }
}

/// Opens one file of `size` bytes; its footer is read.
pub(crate) async fn open_file(
    objects: Arc<dyn ObjectStore>,
    path: &str,
    size: u64,
) -> Result<ParquetRecordBatchStreamBuilder<ObjectReader>, StoreError> {
    open(objects, path, size, None).await
}

/// Opens one file that will be read whole. The check is to be finished when it was: only then are its bytes those that were written.
pub(crate) async fn open_checked(
    objects: Arc<dyn ObjectStore>,
    file: &CommittedFile,
) -> Result<(ParquetRecordBatchStreamBuilder<ObjectReader>, Option<Check>), StoreError> {
    let check = Check::of(&objects, file);
    let reading = check.as_ref().map(Check::reading);
    let opened = open(objects, &file.path, file.size, reading).await?;
    Ok((opened, check))
}

async fn open(
    objects: Arc<dyn ObjectStore>,
    path: &str,
    size: u64,
    reading: Option<Reading>,
) -> Result<ParquetRecordBatchStreamBuilder<ObjectReader>, StoreError> {
    let reader = ObjectReader {
        objects,
        path: Path::from(path),
        size,
        reading,
    };
    survived_by(ParquetRecordBatchStreamBuilder::new(reader))
        .await
        .map_err(|source| StoreError::UnreadableFile {
            path: path.to_owned(),
            source,
        })
}

/// Reads top-level columns of one file of `size` bytes, in the order of `columns`.
pub(crate) async fn read_columns(
    objects: Arc<dyn ObjectStore>,
    path: &str,
    size: u64,
    columns: &[&str],
) -> Result<Vec<RecordBatch>, StoreError> {
    let file = open_file(objects, path, size).await?;
    let rows = rows_of(file, path, columns, 0..usize::MAX)?;
    rows.try_collect().await
}

/// The same of a file whose bytes are to be those that were written.
pub(crate) async fn read_checked(
    objects: Arc<dyn ObjectStore>,
    file: &CommittedFile,
    columns: &[&str],
) -> Result<Vec<RecordBatch>, StoreError> {
    let (open, check) = open_checked(objects, file).await?;
    let rows = rows_of(open, &file.path, columns, 0..usize::MAX)?;
    let rows = rows.try_collect().await?;
    if let Some(check) = check {
        let compared = check.finish().await;
        compared.map_err(StoreError::unreadable(&file.path))?;
    }
    Ok(rows)
}

/// Rows of an open file, and bytes of these once they are unpacked.
pub(crate) fn extent(file: &ParquetRecordBatchStreamBuilder<ObjectReader>) -> (u64, u64) {
    let count = |number: i64| u64::try_from(number).unwrap_or(0);
    let groups = file.metadata().row_groups().iter();
    groups.fold((0, 0), |(rows, bytes), group| {
        let (more_rows, more_bytes) = (group.num_rows(), group.total_byte_size());
        // A damaged file may say anything.
        (
            rows.saturating_add(count(more_rows)),
            bytes.saturating_add(count(more_bytes)),
        )
    })
}

/// How many rows a batch of about `batch_bytes` bytes has, where so many rows have so many bytes.
pub(crate) fn rows_of_batch(batch_bytes: usize, (rows, bytes): (u64, u64)) -> usize {
    let row_bytes = usize::try_from(bytes / rows.max(1)).unwrap_or(usize::MAX);
    (batch_bytes / row_bytes.max(1)).clamp(16, 8192)
}

/// Some rows of top-level columns of an open file, in the order of `columns`; fewer where the file ends before.
pub(crate) fn rows_of<'a>(
    builder: ParquetRecordBatchStreamBuilder<ObjectReader>,
    path: &'a str,
    columns: &'a [&'a str],
    rows: Range<usize>,
) -> Result<impl Stream<Item = Result<RecordBatch, StoreError>> + 'a, StoreError> {
    let unreadable = move |source| StoreError::UnreadableFile {
        path: path.to_owned(),
        source,
    };
    let positions: Vec<usize> = builder
        .schema()
        .fields()
        .iter()
        .enumerate()
        .filter(|(_, field)| columns.contains(&field.name().as_str()))
        .map(|(position, _)| position)
        .collect();
    let mask = ProjectionMask::roots(builder.parquet_schema(), positions);
    let builder = builder
        .with_projection(mask)
        .with_offset(rows.start)
        .with_limit(rows.len());
    let batches = or_astray(survived(|| builder.build())).map_err(unreadable)?;
    Ok(Surviving::new(batches).map(move |batch| {
        let batch = batch.map_err(unreadable)?;
        let positions: Result<Vec<usize>, _> = columns
            .iter()
            .map(|column| batch.schema_ref().index_of(column))
            .collect();
        let projected = positions.and_then(|positions| batch.project(&positions));
        projected.map_err(|error| unreadable(error.into()))
    }))
}
