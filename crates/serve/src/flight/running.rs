//! Queries whose rows are being fetched, so that they can be cancelled by their ticket.
//!
//! A cancelled query is dropped at once, even if its client has stopped reading.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use alluvium_query::QueryResult;
use arrow_flight::FlightData;
use datafusion::{arrow::record_batch::RecordBatch, error::DataFusionError};
use futures::{Stream, StreamExt, future::poll_fn, stream};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{refusal, rows};

type Batches = datafusion::execution::SendableRecordBatchStream;

/// All of them. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Running(Arc<Mutex<Entries>>);

#[derive(Default)]
struct Entries {
    last: u64,
    queries: HashMap<u64, (String, Arc<Query>)>,
}

#[derive(Default)]
struct Query {
    cancelled: CancellationToken,
    /// `None` until the first rows are known, and when it is cancelled.
    batches: Mutex<Option<Batches>>,
}

/// One query's entry; it goes with this.
pub(super) struct Entry {
    number: u64,
    query: Arc<Query>,
    running: Running,
}

impl Running {
    /// A query that begins under this ticket.
    pub(super) fn enter(&self, ticket: String) -> Entry {
        let query = Arc::<Query>::default();
        let mut entries = self.entries();
        entries.last += 1;
        let number = entries.last;
        entries.queries.insert(number, (ticket, query.clone()));
        drop(entries);
        Entry {
            number,
            query,
            running: self.clone(),
        }
    }

    /// Ends what runs under this ticket; whether anything did.
    pub(super) fn cancel(&self, ticket: &str) -> bool {
        let entries = self.entries();
        let named = entries.queries.values().filter(|(name, _)| name == ticket);
        named.map(|(_, query)| query.cancel()).count() > 0
    }

    /// Ends everything.
    pub(super) fn cancel_all(&self) {
        for (_, query) in self.entries().queries.values() {
            query.cancel();
        }
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        // Entries come and go whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Query {
    fn cancel(&self) {
        self.cancelled.cancel();
        // Dropping the stream ends the query, whoever waits for it.
        self.batches().take();
    }

    fn batches(&self) -> MutexGuard<'_, Option<Batches>> {
        self.batches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.running.entries().queries.remove(&self.number);
    }
}

impl Entry {
    /// Waits for an answer, unless it is cancelled before.
    pub(super) async fn answer<T>(&self, work: impl Future<Output = T>) -> Result<T, Status> {
        tokio::select! {
            biased;
            () = self.query.cancelled.cancelled() => Err(refusal::cancelled()),
            answer = work => Ok(answer),
        }
    }

    /// The answer's rows as they are asked for.
    pub(super) fn send(
        self,
        result: QueryResult,
    ) -> Result<impl Stream<Item = Result<FlightData, Status>> + Send + 'static, Status> {
        let (schema, as_of) = (result.schema, result.as_of);
        *self.query.batches() = Some(result.stream);
        let batches = stream::unfold(Some(self), |entry| async move {
            let entry = entry?;
            match entry.next().await? {
                Ok(batch) => Some((Ok(batch), Some(entry))),
                Err(status) => Some((Err(status), None)),
            }
        });
        rows::encoded(&schema, &as_of, batches)
    }

    async fn next(&self) -> Option<Result<RecordBatch, Status>> {
        let next = poll_fn(|context| match self.query.batches().as_mut() {
            Some(batches) => batches.poll_next_unpin(context).map(Next::Batch),
            None => std::task::Poll::Ready(Next::Cancelled),
        });
        tokio::select! {
            biased;
            () = self.query.cancelled.cancelled() => Some(Err(refusal::cancelled())),
            next = next => match next {
                Next::Batch(batch) => batch.map(|batch| batch.map_err(refusal::of_rows)),
                Next::Cancelled => Some(Err(refusal::cancelled())),
            },
        }
    }
}

enum Next {
    Batch(Option<Result<RecordBatch, DataFusionError>>),
    Cancelled,
}
