//! A small file, fetched at once and compared with its checksum before anything of it is decoded.
//!
//! What is kept of a file answers many queries, so a bit that flipped in storage must not get there. And one request is fewer
//! than a footer and its columns take.
//!
//! Owns the reader of such files. Does not own which are small, nor what the log says of them.

use std::{fmt, ops::Range, sync::Arc};

use alluvium_plan::CommittedFile;
use alluvium_store::compare_bytes;
use bytes::Bytes;
use datafusion::{
    common::Result,
    datasource::{listing::PartitionedFile, physical_plan::parquet::ParquetFileReaderFactory},
    physical_plan::metrics::ExecutionPlanMetricsSet,
};
use futures::{FutureExt, future::BoxFuture};
use object_store::{ObjectStore, ObjectStoreExt, path::Path};
use parquet::{
    arrow::{arrow_reader::ArrowReaderOptions, async_reader::AsyncFileReader},
    errors::ParquetError,
    file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader},
};

/// Reads one file, whatever it is asked for.
#[derive(Clone)]
pub(crate) struct WholeFile {
    objects: Arc<dyn ObjectStore>,
    file: CommittedFile,
    bytes: Option<Bytes>,
}

impl fmt::Debug for WholeFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WholeFile")
            .field("path", &self.file.path)
            .finish_non_exhaustive()
    }
}

impl WholeFile {
    pub(crate) fn new(objects: Arc<dyn ObjectStore>, file: &CommittedFile) -> Self {
        Self {
            objects,
            file: file.clone(),
            bytes: None,
        }
    }

    /// # Errors
    /// That it cannot be fetched, or has other bytes than were written.
    async fn bytes(&mut self) -> parquet::errors::Result<Bytes> {
        if let Some(bytes) = &self.bytes {
            return Ok(bytes.clone());
        }
        let external = |error| ParquetError::External(Box::new(error));
        let path = Path::from(self.file.path.as_str());
        let got = self.objects.get(&path).await.map_err(external)?;
        let found = got.meta.size;
        if found != self.file.size {
            let text = format!("it has {found} bytes, and {} were written", self.file.size);
            return Err(ParquetError::General(text));
        }
        let bytes = got.bytes().await.map_err(external)?;
        compare_bytes(&self.file, &bytes)?;
        Ok(self.bytes.insert(bytes).clone())
    }
}

impl ParquetFileReaderFactory for WholeFile {
    fn create_reader(
        &self,
        _partition: usize,
        _file: PartitionedFile,
        _hint: Option<usize>,
        _metrics: &ExecutionPlanMetricsSet,
    ) -> Result<Box<dyn AsyncFileReader + Send>> {
        Ok(Box::new(self.clone()))
    }
}

impl AsyncFileReader for WholeFile {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, parquet::errors::Result<Bytes>> {
        async move {
            let bytes = self.bytes().await?;
            let within = usize::try_from(range.start)
                .ok()
                .zip(usize::try_from(range.end).ok())
                .filter(|(start, end)| start <= end && *end <= bytes.len());
            let (start, end) = within.ok_or_else(|| {
                let (end, size) = (range.end, bytes.len());
                let text =
                    format!("it is damaged: it says that it goes on to byte {end}, and has {size}");
                ParquetError::General(text)
            })?;
            Ok(bytes.slice(start..end))
        }
        .boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, parquet::errors::Result<Arc<ParquetMetaData>>> {
        async move {
            let bytes = self.bytes().await?;
            let policy = options.map_or(
                PageIndexPolicy::Skip,
                ArrowReaderOptions::column_index_policy,
            );
            let metadata = ParquetMetaDataReader::new()
                .with_page_index_policy(policy)
                .parse_and_finish(&bytes)?;
            Ok(Arc::new(metadata))
        }
        .boxed()
    }
}
