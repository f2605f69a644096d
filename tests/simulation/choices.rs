//! Every decision of a schedule, from a seed or from a list.
//!
//! Owns the order of decisions, so that a schedule can be run again and made shorter. 0 is always the calm choice: no fault,
//! and the thread goes on that has waited longest. So a list that ends early, or has zeros in it, is a calmer schedule.

/// Decisions that are drawn, or read again.
#[derive(Debug)]
pub(crate) struct Choices {
    random: u64,
    script: Option<Vec<u16>>,
    made: Vec<u16>,
}

impl Choices {
    /// Decisions drawn from a seed.
    pub(crate) fn drawn(seed: u64) -> Self {
        Self {
            random: seed,
            script: None,
            made: Vec::new(),
        }
    }

    /// Decisions as they were; after the last one, the calm one.
    pub(crate) fn scripted(script: Vec<u16>) -> Self {
        Self {
            random: 0,
            script: Some(script),
            made: Vec::new(),
        }
    }

    /// What was decided so far.
    pub(crate) fn made(self) -> Vec<u16> {
        self.made
    }

    /// A number below `bound`, which is at most 65,536.
    pub(crate) fn below(&mut self, bound: u32) -> u32 {
        let choice = match &self.script {
            Some(script) => script.get(self.made.len()).copied().unwrap_or(0),
            None => self.next(),
        };
        self.made.push(choice);
        u32::from(choice) % bound.max(1)
    }

    /// Whether something happens that does so `per_mille` times in a thousand; never where the calm choice is made.
    pub(crate) fn rarely(&mut self, per_mille: u32) -> bool {
        per_mille > 0 && self.below(1000) >= 1000 - per_mille.min(999)
    }

    /// SplitMix64 (Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators").
    fn next(&mut self) -> u16 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 17) as u16
    }
}
