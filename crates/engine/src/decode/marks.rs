//! One look at every byte of an event: which of them end a string, or make it more than plain ASCII.
//!
//! Owns the marks of one event at a time. Where a string ends is then the next mark, found without a loop over its bytes, whose
//! number differs from event to event. Does not own what a mark means.

use wide::u8x16;

use super::processor;

/// Bytes that one word has marks for.
pub(super) const BITS: usize = 32;

/// The marks of the event that was looked at last.
#[derive(Debug)]
pub(super) struct Marks {
    /// A bit for each byte, and two words more, so that there is always a next one.
    words: Vec<u32>,
    look: processor::Look,
}

impl Default for Marks {
    fn default() -> Self {
        Self {
            words: Vec::new(),
            look: processor::look(),
        }
    }
}

impl Marks {
    /// Looks at an event.
    #[inline]
    pub(super) fn look(&mut self, bytes: &[u8]) {
        self.words.clear();
        self.words.reserve(bytes.len() / BITS + 3);
        self.look.run(bytes, &mut self.words);
        let rest = bytes.len() % BITS;
        if rest > 0 {
            // Spaces mark nothing.
            let mut last = [b' '; BITS];
            last[..rest].copy_from_slice(&bytes[bytes.len() - rest..]);
            self.words.push(marked(&last));
        }
        self.words.extend([0, 0]);
    }

    /// The first mark from `from` on, or where the event ends.
    #[inline(always)]
    pub(super) fn next(&self, from: usize, end: usize) -> usize {
        let (at, shift) = (from / BITS, from % BITS);
        // Where most strings end: within the next words, wherever they are divided.
        if let Some(&[low, high]) = self.words.get(at..).and_then(<[u32]>::first_chunk) {
            let window = (u64::from(low) | u64::from(high) << BITS) >> shift;
            if window != 0 {
                return from + window.trailing_zeros() as usize;
            }
        }
        self.far(at + 2).unwrap_or(end)
    }

    #[inline(never)]
    fn far(&self, from: usize) -> Option<usize> {
        let words = self.words.get(from..)?;
        let at = words.iter().position(|word| *word != 0)?;
        Some((from + at) * BITS + words[at].trailing_zeros() as usize)
    }
}

/// A bit for each byte that is a quote, a backslash, a control character, or beyond ASCII.
pub(super) fn marked(bytes: &[u8; BITS]) -> u32 {
    let [low, high] = [&bytes[..16], &bytes[16..]].map(|half| {
        let half = u8x16::new(half.try_into().expect("sixteen bytes"));
        // Bytes beyond ASCII keep their highest bit; it is what a bitmask looks at.
        let care = half
            | half.simd_eq(u8x16::splat(b'"'))
            | half.simd_eq(u8x16::splat(b'\\'))
            | half.simd_eq(half.min(u8x16::splat(0x1F)));
        care.to_bitmask()
    });
    low | high << 16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_found_wherever_they_stand() {
        let mut marks = Marks::default();
        for length in 0..200 {
            for mark in [b'"', b'\\', 0x1F, 0, b'\n', 0x80, 0xFF] {
                for place in (0..length).step_by(3) {
                    let mut bytes = vec![b'a'; length];
                    bytes[place] = mark;
                    marks.look(&bytes);
                    for from in (0..=place).step_by(7).chain([place]) {
                        assert_eq!(marks.next(from, length), place, "{length} {mark} {from}");
                    }
                    assert_eq!(marks.next(place + 1, length), length);
                }
            }
        }
    }

    #[test]
    fn every_byte_is_marked_alike_by_both_looks() {
        let bytes: Vec<u8> = (0..=255).chain((0..=255).rev()).collect();
        let mut fast = Marks::default();
        fast.look(&bytes);
        let slow: Vec<u32> = bytes.as_chunks::<BITS>().0.iter().map(marked).collect();
        assert_eq!(fast.words[..slow.len()], slow);
        for (place, &byte) in bytes.iter().enumerate() {
            let expected = byte == b'"' || byte == b'\\' || byte < 0x20 || byte >= 0x80;
            assert_eq!(
                slow[place / BITS] >> (place % BITS) & 1 == 1,
                expected,
                "{byte}"
            );
        }
    }
}
