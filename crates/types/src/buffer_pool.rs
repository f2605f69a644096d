//! Buffers that are used again, so that the kernel need not clear fresh memory for every raw batch.
//!
//! Owns the idle buffers. Does not own those in use: they come back by themselves when the last slice of them is gone,
//! on whatever thread that is.

use std::{
    mem,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;

use crate::Reservation;

/// Buffers that wait for their next use. Cheap to clone; clones share the buffers.
#[derive(Clone, Debug)]
pub struct BufferPool(Arc<Idle>);

#[derive(Debug)]
struct Idle {
    most: usize,
    buffers: Mutex<Vec<Vec<u8>>>,
}

impl BufferPool {
    /// A pool that keeps at most so many idle buffers.
    pub fn new(most: usize) -> Self {
        Self(Arc::new(Idle {
            most,
            buffers: Mutex::default(),
        }))
    }

    /// An empty buffer with room for `bytes`, and for at most twice as many: what is in use stays near what is counted.
    pub fn take(&self, bytes: usize) -> Vec<u8> {
        let mut buffer = self.take_used(bytes);
        buffer.clear();
        buffer
    }

    /// As [`take`](Self::take), but with whatever bytes its last use left in it: for those who overwrite them anyway and
    /// need not pay for clearing.
    pub fn take_used(&self, bytes: usize) -> Vec<u8> {
        let fits = |buffer: &Vec<u8>| (bytes..=2 * bytes).contains(&buffer.capacity());
        let mut idle = self.idle();
        let found = idle.iter().rposition(fits).map(|at| idle.swap_remove(at));
        drop(idle);
        // With some room it fits more often the next time.
        found.unwrap_or_else(|| Vec::with_capacity(bytes + bytes / 4))
    }

    /// The buffer's bytes. When the last slice of them is dropped, the buffer comes back and `reservation` ends.
    pub fn share(&self, buffer: Vec<u8>, reservation: Option<Reservation>) -> Bytes {
        Bytes::from_owner(Lent {
            buffer,
            pool: self.clone(),
            _reservation: reservation,
        })
    }

    fn give_back(&self, buffer: Vec<u8>) {
        let mut idle = self.idle();
        if idle.len() == self.0.most {
            // The one that has found no use for longest goes, so that sizes of the past do not stay.
            idle.remove(0);
        }
        idle.push(buffer);
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Vec<u8>>> {
        // A list of empty buffers is right whatever happened.
        self.0
            .buffers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

struct Lent {
    buffer: Vec<u8>,
    pool: BufferPool,
    _reservation: Option<Reservation>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.pool.give_back(mem::take(&mut self.buffer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_with_its_last_slice() {
        let pool = BufferPool::new(2);
        let mut buffer = pool.take(100);
        buffer.extend_from_slice(b"abc");
        let address = buffer.as_ptr();
        let bytes = pool.share(buffer, None);
        let slice = bytes.slice(1..2);
        drop(bytes);
        let other = pool.take(100);
        assert_ne!(other.as_ptr(), address, "a slice is still there");
        assert_eq!(&*slice, b"b");
        drop(slice);
        let again = pool.take(80);
        assert_eq!((again.as_ptr(), again.len()), (address, 0));
        assert_eq!(again.capacity(), 125);
    }

    #[test]
    fn a_buffer_is_not_used_for_what_is_much_smaller_or_larger() {
        let pool = BufferPool::new(2);
        drop(pool.share(Vec::with_capacity(1000), None));
        assert!(pool.take(499).capacity() < 1000);
        assert!(pool.take(1001).capacity() >= 1001);
        assert_eq!(pool.take(500).capacity(), 1000);
    }

    #[test]
    fn the_oldest_idle_buffer_goes_first() {
        let pool = BufferPool::new(2);
        for size in [100, 1000, 10_000] {
            drop(pool.share(Vec::with_capacity(size), None));
        }
        assert_eq!(
            pool.idle().iter().map(Vec::capacity).collect::<Vec<_>>(),
            [1000, 10_000]
        );
    }
}
