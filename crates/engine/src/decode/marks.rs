//! One look at every byte of an event: where its quotes are, and whether it has bytes that need care.
//!
//! Owns the marks of one event at a time. Does not own what a quote means: behind a backslash it is none that ends a
//! string, so the marks answer for events without any.

use wide::u8x16;

/// The marks of the event that was looked at last.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    /// A bit for each byte, in words.
    quotes: Vec<u64>,
    plain: bool,
    ascii: bool,
}

/// What a look gathers besides quotes.
struct Seen {
    /// Not zero where a byte was a backslash or a control character.
    special: u8x16,
    /// All bytes together, of which the highest bit counts.
    all: u8x16,
}

impl Marks {
    /// Looks at an event.
    #[inline]
    pub(crate) fn look(&mut self, bytes: &[u8]) {
        let mut seen = Seen {
            special: u8x16::splat(0),
            all: u8x16::splat(0),
        };
        let (blocks, rest) = bytes.as_chunks::<64>();
        self.quotes.clear();
        self.quotes
            .extend(blocks.iter().map(|block| seen.quotes(block)));
        // Spaces mark nothing.
        let mut last = [b' '; 64];
        last[..rest.len()].copy_from_slice(rest);
        // One word more, so that there is always a next one.
        self.quotes.extend([seen.quotes(&last), 0]);
        self.plain = seen.special.to_bitmask() == 0;
        self.ascii = seen.all.to_bitmask() == 0;
    }

    /// Whether there is no backslash and no control character: then every quote begins or ends a string.
    #[inline]
    pub(crate) fn plain(&self) -> bool {
        self.plain
    }

    /// Whether all bytes are ASCII, hence valid UTF-8.
    #[inline]
    pub(crate) fn ascii(&self) -> bool {
        self.ascii
    }

    /// The first quote from `from` on.
    #[inline]
    pub(crate) fn quote(&self, from: usize) -> Option<usize> {
        let (mut at, shift) = (from / 64, from % 64);
        // Where most strings end: within the next 64 bytes, wherever the words are divided.
        let &[low, high] = self.quotes.get(at..)?.first_chunk()?;
        let window = low >> shift | (high << 1) << (63 - shift);
        if window != 0 {
            return Some(from + window.trailing_zeros() as usize);
        }
        loop {
            at += 1;
            let word = *self.quotes.get(at)?;
            if word != 0 {
                return Some(at * 64 + word.trailing_zeros() as usize);
            }
        }
    }
}

impl Seen {
    #[inline]
    fn quotes(&mut self, block: &[u8; 64]) -> u64 {
        let (lanes, _) = block.as_chunks::<16>();
        let mut quotes = 0;
        for (at, lane) in lanes.iter().enumerate() {
            let lane = u8x16::new(*lane);
            let control = lane.simd_eq(lane.min(u8x16::splat(0x1F)));
            self.special |= control | lane.simd_eq(u8x16::splat(b'\\'));
            self.all |= lane;
            quotes |= u64::from(lane.simd_eq(u8x16::splat(b'"')).to_bitmask()) << (16 * at);
        }
        quotes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn marks_are_what_a_look_at_each_byte_finds(
            bytes in prop::collection::vec(prop_oneof![
                8 => b' '..=b'~',
                1 => Just(b'"'),
                1 => prop_oneof![Just(b'\\'), Just(0x1F), Just(0x7F), Just(0x80), Just(0xFF)],
            ], 0..300),
            few in any::<bool>(),
        ) {
            let bytes: Vec<u8> = bytes
                .into_iter()
                .filter(|byte| !few || (b' '..=b'~').contains(byte) && *byte != b'\\')
                .collect();
            let mut marks = Marks::default();
            marks.look(b"\"\\ \xFF and what was there before");
            marks.look(&bytes);
            prop_assert_eq!(marks.plain(), !bytes.iter().any(|byte| *byte < 0x20 || *byte == b'\\'));
            prop_assert_eq!(marks.ascii(), bytes.is_ascii());
            for from in 0..bytes.len() + 130 {
                let found = bytes.iter().skip(from).position(|byte| *byte == b'"');
                prop_assert_eq!(marks.quote(from), found.map(|found| from + found));
            }
        }
    }
}
