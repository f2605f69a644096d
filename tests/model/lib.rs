//! The commit protocol as models small enough to look at every schedule.
//!
//! Each module owns one part of the protocol and says where it abstracts from the code. `docs/model.md` has the bounds, the
//! numbers, and which weaker rules are shown to fail. Everything here is a test: nothing is built for the product.

#[cfg(test)]
mod check;
#[cfg(test)]
mod cleanup;
#[cfg(test)]
mod commit;
#[cfg(test)]
mod compaction;
#[cfg(test)]
mod letters;
#[cfg(test)]
mod replay;
#[cfg(test)]
mod sweep;
