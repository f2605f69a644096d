//! The same code compiled several times: for every processor, and for those of today.
//!
//! Owns the choice between them, made where the program runs, and the one step that is written anew for each: looking for
//! the byte that ends a string. Does not own any other code that is worth it.
//!
//! `unsafe`: a function for a newer processor may only be called on one, which the compiler cannot see. Decoding is a sixth
//! faster with AVX2 alone, and a program that is built for newer processors as a whole would not start on older ones.

#![allow(unsafe_code)]

use wide::i8x16;

/// Work whose code is worth being compiled for a newer processor. What `run` calls has to be inlined into it for that.
pub(super) trait Work {
    type Done;

    fn run<P: Processor>(self) -> Self::Done;
}

/// What is written anew for each processor.
pub(super) trait Processor {
    /// Where the first byte stands, from `at` on, that ends a string or makes it more than plain ASCII without control
    /// characters; the number of bytes or more when none does.
    fn careful(bytes: &[u8], at: usize) -> usize;
}

/// Does the work, with the code for this processor.
#[inline]
pub(super) fn run<W: Work>(work: W) -> W::Done {
    #[cfg(target_arch = "x86_64")]
    match newer::Kind::detected() {
        // SAFETY: each of the features was seen to be there.
        newer::Kind::Avx512 => return unsafe { newer::with_avx512(work) },
        // SAFETY: as above.
        newer::Kind::Avx2 => return unsafe { newer::with_avx2(work) },
        newer::Kind::Other => {}
    }
    work.run::<Any>()
}

/// The same number, of which the compiler knows nothing any more. Unlike `std::hint::black_box` it stays in a register.
#[inline(always)]
pub(super) fn opaque(number: usize) -> usize {
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    {
        let mut number = number;
        // SAFETY: there is no instruction.
        unsafe {
            std::arch::asm!(
                "/* {0} */",
                inout(reg) number,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        number
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    std::hint::black_box(number)
}

/// Every processor that the program is built for.
pub(super) struct Any;

const LANE: usize = 16;

impl Processor for Any {
    #[inline(always)]
    fn careful(bytes: &[u8], mut at: usize) -> usize {
        while let Some(lane) = bytes.get(at..).and_then(<[u8]>::first_chunk) {
            let care = care_for(lane);
            if care != 0 {
                return at + care.trailing_zeros() as usize;
            }
            at += LANE;
        }
        match bytes.last_chunk() {
            // The last bytes of the event, behind some that were looked at already.
            Some(lane) => {
                let care = care_for(lane) >> (at + LANE - bytes.len()).min(LANE);
                at + care.trailing_zeros() as usize
            }
            None => one_by_one(bytes, at),
        }
    }
}

/// A bit for each byte that ends a string or makes it more than plain ASCII.
#[inline(always)]
fn care_for(lane: &[u8; LANE]) -> u32 {
    let lane = i8x16::new(lane.map(u8::cast_signed));
    // Bytes beyond ASCII are negative numbers, so what is below a space is one of them or a control character.
    let care = lane.simd_eq(i8x16::splat(b'"'.cast_signed()))
        | lane.simd_eq(i8x16::splat(b'\\'.cast_signed()))
        | lane.simd_lt(i8x16::splat(b' '.cast_signed()));
    care.to_bitmask()
}

/// Of fewer bytes than are looked at together.
#[cold]
#[inline(never)]
fn one_by_one(bytes: &[u8], at: usize) -> usize {
    let is_plain = |byte: &u8| matches!(byte, b' '..0x80) && !matches!(byte, b'"' | b'\\');
    let rest = bytes.get(at..).unwrap_or_default();
    at + rest.iter().take_while(|byte| is_plain(byte)).count()
}

#[cfg(target_arch = "x86_64")]
mod newer {
    use std::arch::x86_64::*;

    use super::{Processor, Work, one_by_one};

    /// What this processor can do.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum Kind {
        Avx512,
        Avx2,
        Other,
    }

    impl Kind {
        #[inline]
        pub(super) fn detected() -> Self {
            let avx2 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("bmi1")
                && is_x86_feature_detected!("bmi2")
                && is_x86_feature_detected!("lzcnt")
                && is_x86_feature_detected!("movbe")
                && is_x86_feature_detected!("popcnt");
            match avx2 {
                true if is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl") =>
                {
                    Self::Avx512
                }
                true => Self::Avx2,
                false => Self::Other,
            }
        }
    }

    /// Processors with 32 bytes at a time.
    struct Avx2;

    impl Processor for Avx2 {
        #[inline(always)]
        fn careful(bytes: &[u8], at: usize) -> usize {
            // SAFETY: this type is named by `with_avx2` alone.
            unsafe { careful_avx2(bytes, at) }
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,movbe,popcnt")]
    fn careful_avx2(bytes: &[u8], mut at: usize) -> usize {
        const LANE: usize = 32;
        while let Some(lane) = bytes.get(at..).and_then(<[u8]>::first_chunk::<LANE>) {
            let care = care_avx2(lane);
            if care != 0 {
                return at + care.trailing_zeros() as usize;
            }
            at += LANE;
        }
        match bytes.last_chunk() {
            Some(lane) => {
                let care = u64::from(care_avx2(lane)) >> (at + LANE - bytes.len()).min(LANE);
                at + care.trailing_zeros() as usize
            }
            None => one_by_one(bytes, at),
        }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn care_avx2(lane: &[u8; 32]) -> u32 {
        // SAFETY: so many bytes are there.
        let lane = unsafe { _mm256_loadu_si256(lane.as_ptr().cast()) };
        let quote = _mm256_cmpeq_epi8(lane, _mm256_set1_epi8(b'"'.cast_signed()));
        let escape = _mm256_cmpeq_epi8(lane, _mm256_set1_epi8(b'\\'.cast_signed()));
        let other = _mm256_cmpgt_epi8(_mm256_set1_epi8(b' '.cast_signed()), lane);
        let care = _mm256_or_si256(_mm256_or_si256(quote, escape), other);
        _mm256_movemask_epi8(care).cast_unsigned()
    }

    /// Processors with 64 bytes at a time, of which any may be left out.
    struct Avx512;

    impl Processor for Avx512 {
        #[inline(always)]
        fn careful(bytes: &[u8], at: usize) -> usize {
            // SAFETY: this type is named by `with_avx512` alone.
            unsafe { careful_avx512(bytes, at) }
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,bmi1,bmi2,lzcnt,movbe,popcnt")]
    fn careful_avx512(bytes: &[u8], mut at: usize) -> usize {
        const LANE: usize = 64;
        loop {
            let rest = bytes.get(at..).unwrap_or_default();
            let lane = match rest.first_chunk::<LANE>() {
                // SAFETY: so many bytes are there.
                Some(lane) => unsafe { _mm512_loadu_epi8(lane.as_ptr().cast()) },
                None => {
                    let there = _bzhi_u64(u64::MAX, rest.len() as u32);
                    // SAFETY: bytes that are not there are left out, and read as zeros.
                    unsafe { _mm512_maskz_loadu_epi8(there, rest.as_ptr().cast()) }
                }
            };
            // Bytes that are not there are control characters too, so a string ends with them at the latest.
            let care = _mm512_cmpeq_epi8_mask(lane, _mm512_set1_epi8(b'"'.cast_signed()))
                | _mm512_cmpeq_epi8_mask(lane, _mm512_set1_epi8(b'\\'.cast_signed()))
                | _mm512_cmplt_epi8_mask(lane, _mm512_set1_epi8(b' '.cast_signed()));
            if care != 0 {
                return at + care.trailing_zeros() as usize;
            }
            at += LANE;
        }
    }

    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,movbe,popcnt")]
    pub(super) fn with_avx2<W: Work>(work: W) -> W::Done {
        work.run::<Avx2>()
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,bmi1,bmi2,lzcnt,movbe,popcnt")]
    pub(super) fn with_avx512<W: Work>(work: W) -> W::Done {
        work.run::<Avx512>()
    }

    #[cfg(test)]
    mod tests {
        use super::*;
        use crate::decode::processor::Any;

        struct Careful<'b>(&'b [u8], usize);

        impl Work for Careful<'_> {
            type Done = usize;

            fn run<P: Processor>(self) -> usize {
                P::careful(self.0, self.1)
            }
        }

        /// What every processor has to find.
        fn expected(bytes: &[u8], at: usize) -> usize {
            let plain = |byte: &u8| (b' '..0x80).contains(byte) && !b"\"\\".contains(byte);
            at + bytes[at..].iter().take_while(|byte| plain(byte)).count()
        }

        #[test]
        fn each_processor_finds_the_first_byte_that_needs_care() {
            let kind = Kind::detected();
            for length in 0..200 {
                let mut bytes: Vec<u8> = (0..length).map(|at| b'a' + (at % 26) as u8).collect();
                for at in 0..=length {
                    let mut places: Vec<usize> = (at..length).step_by(7).collect();
                    places.push(length);
                    for place in places {
                        for special in [b'"', b'\\', 0, 0x1F, 0x80, 0xFF, b' ', b'!', 0x7F] {
                            let before = bytes.get(place).copied();
                            if before.is_some() {
                                bytes[place] = special;
                            }
                            let expected = expected(&bytes, at).min(length);
                            let found = |found: usize| found.min(length);
                            assert_eq!(found(Any::careful(&bytes, at)), expected);
                            if kind != Kind::Other {
                                // SAFETY: the features are there.
                                let avx2 = unsafe { with_avx2(Careful(&bytes, at)) };
                                assert_eq!(found(avx2), expected);
                            }
                            if kind == Kind::Avx512 {
                                // SAFETY: the features are there.
                                let avx512 = unsafe { with_avx512(Careful(&bytes, at)) };
                                assert_eq!(found(avx512), expected);
                            }
                            if let Some(before) = before {
                                bytes[place] = before;
                            }
                        }
                    }
                }
            }
        }
    }
}
