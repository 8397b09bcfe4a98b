//! Faults that only verify sees: the file opens (spec, clauses 3.6 and 5.2 to 5.9).

use anyhow::Result;
use ccq::code::{Code, Family, LocalScale, Segment};
use ccq::format::SectionKind;

use super::{Case, damaged, edited, empty, one_coded, patched, raws};
use crate::container::with_f32_cluster;
use crate::parts::Parts;

pub fn cases() -> Result<Vec<Case>> {
    let flip = |parts: Result<Parts>, plane: usize, at: usize| {
        edited(parts, |parts| {
            let start = parts.planes[plane].offset.get() as usize;
            parts.section(SectionKind::Payload).bytes[start + at] ^= 0x10;
        })
    };
    let ccq206 = || one_coded(Family::Ccq206.code(32)?, &[3, 70]);
    let ccq275 = || one_coded(Family::Ccq275.code(32)?, &[3, 70]);
    let ccq25 = || one_coded(Family::Ccq25.code(64)?, &[3, 64]);
    let floats = || one_coded(with_f32_cluster(Family::Ccq206.code(32)?)?, &[3, 70]);
    let wide = || {
        let segments = [Segment::new(7, 2, 1), Segment::new(5, 2, 3)];
        one_coded(Code::new(&segments, 16, 32, LocalScale::Nibble, None)?, &[2, 33])
    };
    Ok(vec![
        ("payload-flip-code", "PayloadChecksum{code}", flip(ccq206(), 0, 40)?),
        ("payload-flip-local-scale", "PayloadChecksum{local-scale}", flip(ccq206(), 1, 0)?),
        ("payload-flip-super-scale", "PayloadChecksum{super-scale}", flip(ccq206(), 2, 11)?),
        ("payload-flip-cluster", "PayloadChecksum{cluster}", flip(ccq206(), 3, 5)?),
        ("payload-flip-raw", "PayloadChecksum{raw}", flip(raws(), 1, 15)?),
        ("payload-flip-blob", "PayloadChecksum{blob}", flip(raws(), 4, 2)?),
        (
            "payload-checksum-zero",
            "PayloadChecksum{raw}",
            edited(raws(), |parts| {
                parts.section(SectionKind::Checksums).bytes[..4].fill(0);
            })?,
        ),
        (
            "payload-padding-between-planes",
            "Padding{padding before a plane}",
            edited(raws(), |parts| {
                parts.section(SectionKind::Payload).bytes[255] = 1;
            })?,
        ),
        (
            "payload-padding-before-blob",
            "Padding{padding before a plane}",
            edited(raws(), |parts| {
                let start = parts.planes[3].offset.get() as usize;
                parts.section(SectionKind::Payload).bytes[start - 1] = 1;
            })?,
        ),
        ("payload-padding-after", "Padding{padding before a section}", {
            let with_section = raws().map(|mut parts| {
                parts.insert_ignorable(5, 99, b"after the payload");
                parts
            });
            damaged(with_section, |file| {
                let at = file.len() - b"after the payload".len() - 1;
                file[at] = 1;
            })?
        }),
        ("payload-ignorable-section", "Checksum{ignorable section}", {
            let with_section = empty().map(|mut parts| {
                parts.insert_ignorable(5, 99, b"after the payload");
                parts
            });
            damaged(with_section, |file| *file.last_mut().expect("a file") ^= 1)?
        }),
        // Rows of 24 words, padded to 32.
        ("payload-row-padding", "Padding{padding of a row}", summed(ccq206(), 0, 24)?),
        ("payload-row-padding-last", "Padding{padding of a row}", summed(ccq206(), 0, 95)?),
        ("payload-row-padding-16", "Padding{padding of a row}", summed(ccq25(), 0, 2 * 32 + 20)?),
        // Three groups a row, two bytes of nibbles.
        ("payload-last-nibble", "Padding{last nibble of a row}", summed(ccq206(), 1, 1)?),
        ("payload-last-nibble-of-row", "Padding{last nibble of a row}", summed(ccq206(), 1, 5)?),
        // Groups of 11 words, two spare bits below the last one's second state.
        ("payload-spare-bits", "Padding{spare bits of a group}", summed(ccq275(), 0, 10)?),
        ("payload-spare-bits-tail", "Padding{spare bits of a group}", summed(ccq275(), 0, 48 + 32)?),
        ("payload-super-scale-nan", "NonFinite{super-scale}", float(ccq25(), 1, 0, f32::NAN)?),
        ("payload-super-scale-infinite", "NonFinite{super-scale}", float(ccq25(), 1, 2, f32::NEG_INFINITY)?),
        ("payload-code-scale-nan", "NonFinite{cluster}", float(floats(), 3, 0, f32::NAN)?),
        ("payload-code-scale-infinite", "NonFinite{cluster}", float(floats(), 3, 4, f32::INFINITY)?),
        ("payload-code-zero-point-nan", "NonFinite{cluster}", float(floats(), 3, 5, f32::NAN)?),
        ("payload-second-word-byte", "PayloadChecksum{code}", flip(wide(), 0, 1)?),
        (
            "payload-swapped-planes",
            "PayloadChecksum{raw}",
            patched(raws(), |file| {
                let at = file.len() - 256 * 4 - 3;
                let (first, rest) = file[at..].split_at_mut(256);
                first[..3].swap_with_slice(&mut rest[..3]);
            })?,
        ),
    ])
}

/// The lowest bit of a byte of a plane set, checksums repaired.
fn summed(parts: Result<Parts>, plane: usize, at: usize) -> Result<Vec<u8>> {
    edited(parts, |parts| {
        let start = parts.planes[plane].offset.get() as usize;
        parts.section(SectionKind::Payload).bytes[start + at] |= 1;
        parts.sum_payload();
    })
}

/// One f32 of a plane replaced, checksums repaired.
fn float(parts: Result<Parts>, plane: usize, at: usize, value: f32) -> Result<Vec<u8>> {
    edited(parts, |parts| {
        let start = parts.planes[plane].offset.get() as usize + 4 * at;
        parts.section(SectionKind::Payload).bytes[start..start + 4].copy_from_slice(&value.to_le_bytes());
        parts.sum_payload();
    })
}
