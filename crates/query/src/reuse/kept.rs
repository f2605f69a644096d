//! The partial aggregates that are kept, and the memory that they take.

use std::{
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use datafusion::{
    arrow::record_batch::RecordBatch,
    execution::memory_pool::{MemoryConsumer, MemoryPool, MemoryReservation},
};
use lru::LruCache;
use object_store::path::Path;

use super::question::Question;

/// Of what queries have, the share that is kept at most.
const SHARE: usize = 8;
/// Bytes of one row group's partial aggregates that are kept at most: more are hardly less than the row group.
pub(super) const MOST_OF_ONE: usize = 1 << 20;
/// Questions that are told apart; of one that was not asked for so many others nothing is found again.
const MOST_QUESTIONS: NonZeroUsize = NonZeroUsize::new(256).expect("256 is not zero");
/// Answers that are kept at most.
const MOST_ANSWERS: NonZeroUsize = NonZeroUsize::new(64 << 10).expect("65,536 is not zero");
/// What an entry takes beside its rows.
const ENTRY: usize = 512;

/// A question that was asked before has the same number again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Number(u64);

/// A row group of a file. Names of files are never used twice.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Rows {
    pub(super) file: Path,
    pub(super) group: usize,
}

/// Answers to questions about row groups, most recently used first.
#[derive(Debug)]
pub(crate) struct KeptPartials {
    most: usize,
    kept: Mutex<Kept>,
}

#[derive(Debug)]
struct Kept {
    /// With the bytes that each takes.
    questions: LruCache<Question, (Number, usize)>,
    next: u64,
    answers: LruCache<(Number, Rows), RecordBatch>,
    memory: MemoryReservation,
}

impl KeptPartials {
    /// Keeps up to an eighth of the `memory` bytes of `pool`.
    pub(crate) fn new(pool: &Arc<dyn MemoryPool>, memory: usize) -> Self {
        Self {
            most: memory / SHARE,
            kept: Mutex::new(Kept {
                questions: LruCache::new(MOST_QUESTIONS),
                next: 0,
                answers: LruCache::new(MOST_ANSWERS),
                memory: MemoryConsumer::new("partial aggregates of row groups").register(pool),
            }),
        }
    }

    /// The number of a question; `None` when there is no memory to tell it from others.
    pub(super) fn number(&self, question: Question) -> Option<Number> {
        let mut kept = self.kept();
        if let Some((number, _)) = kept.questions.get(&question) {
            return Some(*number);
        }
        let bytes = question.size();
        if bytes > MOST_OF_ONE || !kept.make_room(bytes, self.most) {
            return None;
        }
        let number = Number(kept.next);
        kept.next += 1;
        if let Some((_, (_, forgotten))) = kept.questions.push(question, (number, bytes)) {
            kept.memory.shrink(forgotten);
        }
        Some(number)
    }

    /// The answer that is kept.
    pub(super) fn get(&self, question: Number, rows: &Rows) -> Option<RecordBatch> {
        let mut kept = self.kept();
        kept.answers.get(&(question, rows.clone())).cloned()
    }

    /// Keeps an answer, where memory allows. Those that were used longest ago make room.
    pub(super) fn keep(&self, question: Number, rows: Rows, answer: RecordBatch) {
        let bytes = size(&answer);
        if bytes > MOST_OF_ONE {
            return;
        }
        let mut kept = self.kept();
        if let Some(before) = kept.answers.pop(&(question, rows.clone())) {
            kept.memory.shrink(size(&before));
        }
        if kept.make_room(bytes, self.most)
            && let Some((_, oldest)) = kept.answers.push((question, rows), answer)
        {
            kept.memory.shrink(size(&oldest));
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Between two statements the account may be too high, never too low; so a panic elsewhere leaves it usable.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    /// Takes `bytes` more, where that comes to no more than `most`. A pool without room says that a query needs it more.
    fn make_room(&mut self, bytes: usize, most: usize) -> bool {
        while self.memory.size() + bytes > most {
            let Some((_, oldest)) = self.answers.pop_lru() else {
                return false;
            };
            self.memory.shrink(size(&oldest));
        }
        self.memory.try_grow(bytes).is_ok()
    }
}

fn size(answer: &RecordBatch) -> usize {
    answer.get_array_memory_size() + ENTRY
}
