//! Checked views into the front of a file: the only place where offsets become slices.

use core::ops::Range;

use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use super::error::{At, Error, LayoutFault, Place};

/// The front of a file and the length of the whole.
#[derive(Clone, Copy)]
pub(super) struct Front<'a> {
    pub bytes: &'a [u8],
    pub file_len: u64,
}

impl<'a> Front<'a> {
    /// The bytes `start..end` of the file.
    pub fn range(&self, what: &'static str, start: u64, end: u64) -> Result<&'a [u8], Error> {
        usize_range(start, end).and_then(|range| self.bytes.get(range)).ok_or(Error::Truncated {
            what,
            expected: end,
            found: self.bytes.len() as u64,
        })
    }

    /// A record at `offset`.
    pub fn record<T>(&self, what: &'static str, offset: u64) -> Result<&'a T, Error>
    where
        T: FromBytes + KnownLayout + Immutable + Unaligned,
    {
        let end = end_of(what, offset, size_of::<T>() as u64, At::byte(offset))?;
        let bytes = self.range(what, offset, end)?;
        T::ref_from_bytes(bytes).map_err(|_| Error::Truncated {
            what,
            expected: end,
            found: self.bytes.len() as u64,
        })
    }

    /// Fails unless `start..end` is zero.
    pub fn zeros(&self, what: &'static str, start: u64, end: u64) -> Result<(), Error> {
        check_zeros(self.range(what, start, end)?, what, start, "")
    }
}

/// Splits `count` records off a section; the caller has checked that they fit.
pub(super) fn take_records<'a, T>(bytes: &mut &'a [u8], count: u64) -> Option<&'a [T]>
where
    T: FromBytes + KnownLayout + Immutable + Unaligned,
{
    let (records, rest) = <[T]>::ref_from_prefix_with_elems(bytes, usize::try_from(count).ok()?).ok()?;
    *bytes = rest;
    Some(records)
}

/// `start..end` as a range of this machine's addresses.
pub(super) fn usize_range(start: u64, end: u64) -> Option<Range<usize>> {
    Some(usize::try_from(start).ok()?..usize::try_from(end).ok()?)
}

/// `offset + len`.
pub(super) fn end_of(what: &'static str, offset: u64, len: u64, at: At<'_>) -> Result<u64, Error> {
    offset.checked_add(len).ok_or_else(|| Error::Overflow { what, at: at.into() })
}

/// Fails with `Padding` at the first byte that is not zero.
pub(super) fn check_zeros(bytes: &[u8], what: &'static str, start: u64, name: &str) -> Result<(), Error> {
    match bytes.iter().position(|&byte| byte != 0) {
        None => Ok(()),
        Some(i) => Err(Error::Padding { what, at: Place::named(start.saturating_add(i as u64), name) }),
    }
}

/// A range declared in the file, and the place it must have.
pub(super) struct Placement<'a> {
    pub what: &'static str,
    pub at: At<'a>,
    pub offset: u64,
    pub len: u64,
    /// End of what stands before it.
    pub position: u64,
    pub align: u64,
    /// The part of the file it must lie in.
    pub bounds: Range<u64>,
}

impl Placement<'_> {
    /// The end of the range, if it stands exactly where it must (spec, clauses 3.6 and 5.2).
    pub fn check(self) -> Result<u64, Error> {
        let Self { what, at, offset, len, position, align, bounds } = self;
        let overflow = || Error::Overflow { what, at: at.into() };
        let end = end_of(what, offset, len, at)?;
        let expected = position.checked_next_multiple_of(align).ok_or_else(overflow)?;
        if offset < bounds.start || end > bounds.end {
            let (low, high) = (bounds.start, bounds.end);
            return Err(Error::OutOfBounds { what, at: at.into(), start: offset, end, low, high });
        }
        let fault = if !offset.is_multiple_of(align) {
            LayoutFault::Misaligned
        } else if offset < expected {
            LayoutFault::Overlap
        } else if offset > expected {
            LayoutFault::Hole
        } else {
            return Ok(end);
        };
        Err(Error::Layout { what, at: at.into(), fault, expected, found: offset })
    }
}
