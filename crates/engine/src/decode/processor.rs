//! The same code compiled twice: for every processor, and for those of today.
//!
//! Owns the choice between the two, made where the program runs. Does not own any code that is worth it.
//!
//! `unsafe`: a function for a newer processor may only be called on one, which the compiler cannot see. Decoding is a sixth
//! faster with it, and a program that is built for newer processors as a whole would not start on older ones.

#![allow(unsafe_code)]

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
