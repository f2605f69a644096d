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
use crate::size::sliced_size;

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
        let bytes = sliced_size(&answer) + ENTRY;
        if bytes > MOST_OF_ONE {
            return;
        }
        let mut kept = self.kept();
        if let Some(before) = kept.answers.pop(&(question, rows.clone())) {
            kept.memory.shrink(sliced_size(&before) + ENTRY);
        }
        if kept.make_room(bytes, self.most)
            && let Some((_, oldest)) = kept.answers.push((question, rows), answer)
        {
            kept.memory.shrink(sliced_size(&oldest) + ENTRY);
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Between two statements the account may be too high, never too low; so a panic elsewhere leaves it usable.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    /// Takes `bytes` more, where that comes to no more than `most`: answers make room first, then questions. A pool without
    /// room says that a query needs it more.
    fn make_room(&mut self, bytes: usize, most: usize) -> bool {
        while self.memory.size() + bytes > most {
            let freed = match self.answers.pop_lru() {
                Some((_, oldest)) => sliced_size(&oldest) + ENTRY,
                None => match self.questions.pop_lru() {
                    Some((_, (_, forgotten))) => forgotten,
                    None => return false,
                },
            };
            self.memory.shrink(freed);
        }
        self.memory.try_grow(bytes).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use datafusion::{
        arrow::{
            array::Int64Array,
            datatypes::{DataType, Field, Schema},
        },
        execution::memory_pool::GreedyMemoryPool,
        physical_plan::expressions::{Column, in_list, lit},
    };

    use super::*;

    fn answer(rows: i64) -> RecordBatch {
        let column = Arc::new(Int64Array::from_iter_values(0..rows));
        RecordBatch::try_from_iter([("n", column as _)]).unwrap()
    }

    fn rows(group: usize) -> Rows {
        Rows {
            file: "a.parquet".into(),
            group,
        }
    }

    /// A question with a list of so many numbers.
    fn question(list: i64) -> Question {
        let schema = Schema::new(vec![Field::new("n", DataType::Int64, true)]);
        let numbers = (0..list).map(lit).collect();
        let condition = in_list(Arc::new(Column::new("n", 0)), numbers, &false, &schema);
        Question::of(Arc::new(schema), vec![condition.unwrap()])
    }

    #[test]
    fn what_was_asked_last_is_kept_within_the_share() {
        let pool: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(32 << 20));
        let kept = KeptPartials::new(&pool, 16 << 20);
        let number = kept.number(question(3)).unwrap();
        assert_eq!(kept.number(question(3)), Some(number));
        for group in 0..100 {
            kept.keep(number, rows(group), answer(10_000));
            assert!(pool.reserved() <= 2 << 20);
        }
        assert!(kept.get(number, &rows(0)).is_none());
        assert_eq!(kept.get(number, &rows(99)), Some(answer(10_000)));
        // More than is worth keeping.
        kept.keep(number, rows(100), answer(200_000));
        assert!(kept.get(number, &rows(100)).is_none());
    }

    #[test]
    fn many_large_questions_leave_room_for_answers() {
        let pool: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(32 << 20));
        let kept = KeptPartials::new(&pool, 16 << 20);
        for list in 800..1_100 {
            let number = kept.number(question(list)).expect("older ones make room");
            kept.keep(number, rows(0), answer(10));
            assert_eq!(kept.get(number, &rows(0)), Some(answer(10)));
            assert!(pool.reserved() <= 2 << 20);
        }
    }
}
