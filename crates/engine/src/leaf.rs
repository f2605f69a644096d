//! The leaf of our plans: it hands a stream of batches to DataFusion, once.
//!
//! Owns the two streams we feed plans with: an inbox that may be empty for now, and an iterator. Takes
//! no part in tokio's cooperative budget, so that a plan over it can be polled by hand anywhere
//! (P31).

use std::{
    collections::VecDeque,
    fmt,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
};

use datafusion::{
    arrow::{array::RecordBatch, datatypes::SchemaRef},
    common::{Result, internal_err, tree_node::TreeNodeRecursion},
    execution::{RecordBatchStream, SendableRecordBatchStream, TaskContext},
    physical_expr::{EquivalenceProperties, LexOrdering},
    physical_plan::{
        ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning,
        PhysicalExpr, PlanProperties, ReplaceChildrenOptions,
        execution_plan::{Boundedness, EmissionType},
    },
};
use futures::Stream;

use crate::EngineError;

/// A plan node without children whose only partition is a given stream.
pub(crate) struct Leaf {
    properties: Arc<PlanProperties>,
    stream: Mutex<Option<SendableRecordBatchStream>>,
}

impl Leaf {
    /// A leaf over `stream`, whose rows are in `order` when one is given.
    pub(crate) fn new(stream: SendableRecordBatchStream, order: Option<LexOrdering>) -> Arc<Self> {
        let equivalences = EquivalenceProperties::new_with_orderings(stream.schema(), order);
        Arc::new(Self {
            properties: Arc::new(PlanProperties::new(
                equivalences,
                Partitioning::UnknownPartitioning(1),
                EmissionType::Incremental,
                Boundedness::Bounded,
            )),
            stream: Mutex::new(Some(stream)),
        })
    }
}

impl fmt::Debug for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leaf").finish_non_exhaustive()
    }
}

impl DisplayAs for Leaf {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Leaf")
    }
}

impl ExecutionPlan for Leaf {
    fn name(&self) -> &str {
        "Leaf"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if children.is_empty() {
            Ok(self)
        } else {
            internal_err!("a leaf has no children")
        }
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(
            children,
            ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute),
        )
    }

    fn execute(&self, _: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let stream = self
            .stream
            .lock()
            .expect("nobody panics while holding the stream")
            .take();
        match stream {
            Some(stream) => Ok(stream),
            None => internal_err!("a leaf is executed once"),
        }
    }
}

/// What waits for a plan: shared by the side that fills it and the leaf that drains it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Inbox(Arc<Mutex<Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    batches: VecDeque<RecordBatch>,
    closed: bool,
}

impl Inbox {
    fn with<T>(&self, action: impl FnOnce(&mut Waiting) -> T) -> T {
        action(
            &mut self
                .0
                .lock()
                .expect("nobody panics while holding the inbox"),
        )
    }

    pub(crate) fn push(&self, batch: RecordBatch) {
        self.with(|waiting| waiting.batches.push_back(batch));
    }

    /// Nothing follows.
    pub(crate) fn close(&self) {
        self.with(|waiting| waiting.closed = true);
    }

    fn is_drained(&self) -> bool {
        self.with(|waiting| waiting.batches.is_empty() && !waiting.closed)
    }

    /// The draining side.
    pub(crate) fn stream(&self, schema: SchemaRef) -> SendableRecordBatchStream {
        Box::pin(InboxStream {
            inbox: self.clone(),
            schema,
        })
    }
}

struct InboxStream {
    inbox: Inbox,
    schema: SchemaRef,
}

impl Stream for InboxStream {
    type Item = Result<RecordBatch>;

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        // Nobody is woken: whoever fills the inbox polls the plan.
        self.inbox
            .with(|waiting| match waiting.batches.pop_front() {
                Some(batch) => Poll::Ready(Some(Ok(batch))),
                None if waiting.closed => Poll::Ready(None),
                None => Poll::Pending,
            })
    }
}

impl RecordBatchStream for InboxStream {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
}

/// What a plan answered when polled by hand.
pub(crate) enum Answer {
    Batch(RecordBatch),
    End,
}

/// Polls a plan whose input never waits.
pub(crate) fn next(stream: &mut SendableRecordBatchStream) -> Result<Answer, PollError> {
    match poll(stream)? {
        Some(answer) => Ok(answer),
        None => Err(PollError::Engine(EngineError::Starved)),
    }
}

/// Polls a plan until it has taken everything out of its inbox; `None`: it waits for more.
pub(crate) fn drain(
    stream: &mut SendableRecordBatchStream,
    inbox: &Inbox,
) -> Result<Option<Answer>, PollError> {
    match poll(stream)? {
        // "Pending" must mean that the inbox is empty; anything else would lose data (P31).
        None if !inbox.is_drained() => Err(PollError::Engine(EngineError::Starved)),
        answer => Ok(answer),
    }
}

/// Why a plan gave no answer.
pub(crate) enum PollError {
    Plan(datafusion::error::DataFusionError),
    Engine(EngineError),
}

fn poll(stream: &mut SendableRecordBatchStream) -> Result<Option<Answer>, PollError> {
    match stream
        .as_mut()
        .poll_next(&mut Context::from_waker(Waker::noop()))
    {
        Poll::Pending => Ok(None),
        Poll::Ready(None) => Ok(Some(Answer::End)),
        Poll::Ready(Some(Ok(batch))) => Ok(Some(Answer::Batch(batch))),
        Poll::Ready(Some(Err(error))) => Err(PollError::Plan(error)),
    }
}
