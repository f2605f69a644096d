//! The same code compiled twice: for every processor, and for those of today.
//!
//! Owns the choice between the two, made where the program runs. Does not own any code that is worth it.
//!
//! `unsafe`: a function for a newer processor may only be called on one, which the compiler cannot see. Decoding is a sixth
//! faster with it, and a program that is built for newer processors as a whole would not start on older ones.

#![allow(unsafe_code)]

use super::marks::{BITS, marked};

/// Work whose code is worth being compiled for a newer processor. What `run` calls has to be inlined into it for that.
pub(super) trait Work {
    type Done;

    fn run(self) -> Self::Done;
}

/// Does the work, with the code for this processor.
#[inline]
pub(super) fn run<W: Work>(work: W) -> W::Done {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("lzcnt")
        && is_x86_feature_detected!("movbe")
    {
        // SAFETY: each of the features was just seen to be there.
        return unsafe { with_avx2(work) };
    }
    work.run()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,movbe,popcnt")]
fn with_avx2<W: Work>(work: W) -> W::Done {
    work.run()
}

/// A look at the bytes of an event, [`BITS`] at a time; what is left over at its end is not looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    /// Only made by [`look`], on a processor that has what it needs.
    run: unsafe fn(&[u8], &mut Vec<u32>),
}

/// The look for this processor.
pub(super) fn look() -> Look {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        return Look {
            run: look_with_avx2,
        };
    }
    Look { run: look_anywhere }
}

impl Look {
    /// Appends a word of marks for each whole [`BITS`] bytes.
    #[inline]
    pub(super) fn run(self, bytes: &[u8], words: &mut Vec<u32>) {
        // SAFETY: it was chosen for this processor.
        unsafe { (self.run)(bytes, words) }
    }
}

fn look_anywhere(bytes: &[u8], words: &mut Vec<u32>) {
    words.extend(bytes.as_chunks::<BITS>().0.iter().map(marked));
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn look_with_avx2(bytes: &[u8], words: &mut Vec<u32>) {
    use std::arch::x86_64::{
        _mm256_cmpeq_epi8, _mm256_loadu_si256, _mm256_min_epu8, _mm256_movemask_epi8,
        _mm256_or_si256, _mm256_set1_epi8,
    };
    let quote = _mm256_set1_epi8(b'"' as i8);
    let backslash = _mm256_set1_epi8(b'\\' as i8);
    let control = _mm256_set1_epi8(0x1F);
    words.extend(bytes.as_chunks::<BITS>().0.iter().map(|chunk| {
        // SAFETY: a chunk has the 32 bytes that are loaded, at any address.
        let lane = unsafe { _mm256_loadu_si256(chunk.as_ptr().cast()) };
        let ends = _mm256_or_si256(
            _mm256_cmpeq_epi8(lane, quote),
            _mm256_cmpeq_epi8(lane, backslash),
        );
        let low = _mm256_cmpeq_epi8(lane, _mm256_min_epu8(lane, control));
        // Bytes beyond ASCII keep their highest bit, which is what the mask is made of.
        _mm256_movemask_epi8(_mm256_or_si256(lane, _mm256_or_si256(ends, low))) as u32
    }));
}
