//! What one group holds: nothing, a sketch that takes values, or the registers of sketches that were merged.
//!
//! Owns the choice between the three. Registers are merged as the bytes they are stored in, by an element-wise maximum:
//! that is what a union of two full sketches is, and their sums follow from the registers. Coupons are left to the crate.

use std::{hash::Hash, mem};

use datafusion::common::Result;
use datasketches::hll::HllUnion;

use super::codec::{self, REGISTERS, Stored};

/// The distinct values of one group.
#[derive(Clone, Default)]
pub(super) enum Group {
    /// No value and no sketch.
    #[default]
    Empty,
    /// It grows with its values.
    Small(HllUnion),
    /// It has all its registers and grows no more.
    Grown(HllUnion),
    /// All registers, without what only an update needs.
    Registers(Box<[u8; REGISTERS]>),
}

impl Group {
    /// Adds a value. What is slow about it happens as long as a group is small.
    #[inline]
    pub(super) fn add(&mut self, value: impl Hash) -> isize {
        match self {
            Self::Grown(sketch) => {
                sketch.update_value(value);
                0
            }
            // Where it stays: most values of small groups come here.
            Self::Small(sketch) => {
                let before = sketch.estimated_size();
                sketch.update_value(value);
                let after = sketch.estimated_size();
                if after >= REGISTERS
                    && let Self::Small(sketch) = mem::take(self)
                {
                    *self = Self::Grown(sketch);
                }
                after as isize - before as isize
            }
            Self::Empty | Self::Registers(_) => self.change(|sketch| sketch.update_value(value)),
        }
    }

    /// Adds the values of a stored sketch. Returns by how many bytes the heap has grown.
    ///
    /// # Errors
    /// When the bytes are not those of a sketch like ours.
    pub(super) fn merge(&mut self, bytes: &[u8]) -> Result<isize> {
        Ok(match (codec::look(bytes)?, &mut *self) {
            (Stored::Registers(other), Self::Registers(registers)) => {
                raise_to(registers, other);
                0
            }
            (Stored::Registers(other), Self::Empty) => {
                *self = Self::Registers(Box::new(*other));
                REGISTERS as isize
            }
            (Stored::Registers(other), _) => {
                let before = self.heap_size() as isize;
                let mut registers = Box::new(*other);
                match codec::look(&self.bytes())? {
                    Stored::Registers(own) => raise_to(&mut registers, own),
                    Stored::Coupons(own) => codec::raise(&mut registers, own),
                }
                *self = Self::Registers(registers);
                REGISTERS as isize - before
            }
            // More sketches are going to come, each of which is a few coupons to registers and an object to the crate.
            (Stored::Coupons(other), Self::Grown(sketch)) => {
                let before = sketch.estimated_size() as isize;
                let mut registers = Box::new([0; REGISTERS]);
                match codec::look(&codec::write(sketch))? {
                    Stored::Registers(own) => *registers = *own,
                    Stored::Coupons(own) => codec::raise(&mut registers, own),
                }
                codec::raise(&mut registers, other);
                *self = Self::Registers(registers);
                REGISTERS as isize - before
            }
            (Stored::Coupons(other), Self::Registers(registers)) => {
                codec::raise(registers, other);
                0
            }
            (Stored::Coupons(_), _) => {
                let other = codec::read_checked(bytes)?;
                self.change(|sketch| sketch.update(&other))
            }
        })
    }

    /// The stored form: the same for the same set of values.
    pub(super) fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Empty => codec::write(&codec::empty()),
            Self::Small(sketch) | Self::Grown(sketch) => codec::write(sketch),
            Self::Registers(registers) => codec::write_registers(registers),
        }
    }

    pub(super) fn heap_size(&self) -> usize {
        match self {
            Self::Empty => 0,
            Self::Small(sketch) | Self::Grown(sketch) => sketch.estimated_size(),
            Self::Registers(_) => REGISTERS,
        }
    }

    /// Returns by how many bytes the heap has grown.
    fn change(&mut self, change: impl FnOnce(&mut HllUnion)) -> isize {
        let before = self.heap_size() as isize;
        let mut sketch = match mem::take(self) {
            Self::Empty => codec::empty(),
            Self::Small(sketch) | Self::Grown(sketch) => sketch,
            Self::Registers(registers) => {
                let mut sketch = codec::empty();
                let stored = codec::write_registers(&registers);
                sketch.update(&codec::read(&stored).expect("it was written just now"));
                sketch
            }
        };
        change(&mut sketch);
        *self = match sketch.estimated_size() >= REGISTERS {
            true => Self::Grown(sketch),
            false => Self::Small(sketch),
        };
        self.heap_size() as isize - before
    }
}

fn raise_to(registers: &mut [u8; REGISTERS], other: &[u8; REGISTERS]) {
    for (register, other) in registers.iter_mut().zip(other) {
        *register = (*register).max(*other);
    }
}
