//! Which mutant is on in this process, and which ones it came by. Put into a copy of `alluvium-types` by `mutants.py`; no
//! part of the product.

use std::{
    fs::OpenOptions,
    io::Write as _,
    sync::{
        LazyLock,
        atomic::{AtomicBool, Ordering},
    },
};

const MOST: usize = 1 << 14;

static CHOSEN: LazyLock<Option<u32>> =
    LazyLock::new(|| std::env::var("ALLUVIUM_MUTANT").ok()?.parse().ok());
static REACHED: LazyLock<Option<String>> =
    LazyLock::new(|| std::env::var("ALLUVIUM_MUTANTS_REACHED").ok());
static SEEN: [AtomicBool; MOST] = [const { AtomicBool::new(false) }; MOST];

/// Whether code is to behave as this mutant of it.
#[inline]
pub fn on(mutant: u32) -> bool {
    if REACHED.is_some() {
        note(mutant);
    }
    *CHOSEN == Some(mutant)
}

/// One line for a mutant and process, in a file that other processes append to as well.
#[cold]
fn note(mutant: u32) {
    if SEEN[mutant as usize].swap(true, Ordering::Relaxed) {
        return;
    }
    let Some(path) = &*REACHED else { return };
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .expect("a file for what was reached");
    file.write_all(format!("{mutant}\n").as_bytes())
        .expect("to note what was reached");
}
