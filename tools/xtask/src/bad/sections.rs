//! Faults of the section records and of what they cover (spec, clauses 3.5 and 3.6).

use anyhow::Result;
use ccq::format::SectionKind;
use ccq::format::layout::{Header, SectionRecord};
use zerocopy::FromBytes;

use super::header::header_of;
use super::{Case, damaged, edited, empty, entries, patched, raws};

/// Places in the list of sections.
const INDEX: usize = 0;
const STRINGS: usize = 1;
const METADATA: usize = 2;
const CHECKSUMS: usize = 3;
const PAYLOAD: usize = 4;

pub fn cases() -> Result<Vec<Case>> {
    let section =
        |at: usize, edit: fn(&mut SectionRecord)| patched(raws(), |file| edit(section_of(file, at)));
    let flip_in = |at: usize| {
        damaged(raws(), |file| {
            let start = section_of(file, at).offset.get() as usize;
            file[start] ^= 1;
        })
    };
    Ok(vec![
        ("checksum-index", "Checksum{index}", flip_in(INDEX)?),
        ("checksum-strings", "Checksum{strings}", flip_in(STRINGS)?),
        (
            "checksum-metadata",
            "Checksum{metadata}",
            damaged(entries(), |file| {
                let start = section_of(file, METADATA).offset.get() as usize;
                file[start + 16] ^= 1;
            })?,
        ),
        ("checksum-checksums", "Checksum{checksums}", flip_in(CHECKSUMS)?),
        (
            "feature-section",
            "UnsupportedFeature{Section}",
            edited(empty(), |parts| {
                parts.insert_ignorable(2, 99, b"must be understood");
                parts.sections[2].record.flags.set(0);
            })?,
        ),
        (
            "feature-section-kind-zero",
            "UnsupportedFeature{Section}",
            edited(empty(), |parts| {
                parts.insert_ignorable(5, 0, b"");
                parts.sections[5].record.flags.set(0);
            })?,
        ),
        ("reserved-section-record", "Reserved", section(STRINGS, |section| section.reserved.set(1))?),
        ("reserved-section-flag", "Reserved", section(STRINGS, |section| section.flags.set(2))?),
        ("reserved-section-known-ignorable", "Reserved", section(METADATA, |section| section.flags.set(1))?),
        (
            "reserved-unknown-section-flag",
            "Reserved",
            edited(empty(), |parts| {
                parts.insert_ignorable(5, 99, b"");
                parts.sections[5].record.flags.set(3);
            })?,
        ),
        ("reserved-payload-crc", "Reserved", section(PAYLOAD, |section| section.crc.set(1))?),
        (
            "bounds-section-past-end",
            "OutOfBounds{section}",
            section(PAYLOAD, |section| {
                section.len.set(section.len.get() + 1);
            })?,
        ),
        (
            "bounds-section-huge",
            "OutOfBounds{section}",
            section(METADATA, |section| {
                section.len.set(1 << 62);
            })?,
        ),
        (
            "bounds-section-in-header",
            "OutOfBounds{section}",
            section(INDEX, |section| section.offset.set(0))?,
        ),
        (
            "bounds-payload-in-header",
            "OutOfBounds{section}",
            section(PAYLOAD, |section| {
                section.offset.set(0);
            })?,
        ),
        (
            "overflow-section-end",
            "Overflow{section}",
            section(PAYLOAD, |section| {
                section.offset.set(0u64.wrapping_sub(4096));
                section.len.set(8192);
            })?,
        ),
        (
            "layout-section-misaligned",
            "Layout{section: Misaligned}",
            section(STRINGS, |section| {
                section.offset.set(section.offset.get() + 8);
            })?,
        ),
        (
            "layout-sections-overlap",
            "Layout{section: Overlap}",
            section(CHECKSUMS, |section| {
                section.offset.set(section.offset.get() - 4096);
            })?,
        ),
        (
            "layout-sections-equal",
            "Layout{section: Overlap}",
            patched(raws(), |file| {
                let (offset, len) = (section_of(file, INDEX).offset, section_of(file, INDEX).len);
                let strings = section_of(file, STRINGS);
                (strings.offset, strings.len) = (offset, len);
            })?,
        ),
        (
            "layout-section-hole",
            "Layout{section: Hole}",
            patched(raws(), |file| {
                let at = section_of(file, PAYLOAD).offset.get() as usize;
                file.splice(at..at, [0; 4096]);
                section_of(file, PAYLOAD).offset.set(at as u64 + 4096);
                let len = file.len() as u64;
                header_of(file).file_len.set(len);
            })?,
        ),
        (
            "layout-sections-unsorted",
            "Layout{section: Unsorted}",
            edited(entries(), |parts| {
                parts.sections.swap(STRINGS, METADATA);
            })?,
        ),
        (
            "layout-section-missing",
            "Layout{section: Unsorted}",
            edited(empty(), |parts| {
                parts.sections.remove(METADATA);
            })?,
        ),
        (
            "layout-section-missing-last",
            "Layout{section: Unsorted}",
            patched(empty(), |file| {
                header_of(file).section_count.set(4);
                header_of(file).header_len.set(128 + 4 * 32);
            })?,
        ),
        (
            "layout-section-twice",
            "Layout{section: Unsorted}",
            edited(empty(), |parts| {
                let strings = parts.sections[STRINGS].clone();
                parts.sections.insert(METADATA, strings);
            })?,
        ),
        (
            "layout-no-sections",
            "Layout{section: Unsorted}",
            patched(empty(), |file| {
                header_of(file).section_count.set(0);
                header_of(file).header_len.set(128);
            })?,
        ),
        (
            "layout-bytes-after-last-section",
            "Layout{file: TrailingBytes}",
            patched(raws(), |file| {
                file.extend_from_slice(&[0; 256]);
                let len = file.len() as u64;
                header_of(file).file_len.set(len);
            })?,
        ),
        (
            "layout-index-length",
            "Layout{index: Length}",
            section(INDEX, |section| {
                section.len.set(section.len.get() + 8);
            })?,
        ),
        (
            "layout-strings-left-over",
            "Layout{strings: Length}",
            edited(raws(), |parts| {
                parts.section(SectionKind::Strings).bytes.push(b'x');
            })?,
        ),
        (
            "layout-checksums-left-over",
            "Layout{checksums: Length}",
            edited(raws(), |parts| {
                parts.section(SectionKind::Checksums).bytes.extend_from_slice(&[0; 4]);
            })?,
        ),
        (
            "layout-checksums-missing",
            "Layout{checksums: Length}",
            edited(raws(), |parts| {
                parts.section(SectionKind::Checksums).bytes.truncate(16);
            })?,
        ),
        (
            "layout-payload-left-over",
            "Layout{payload: Length}",
            edited(raws(), |parts| {
                parts.section(SectionKind::Payload).bytes.push(0);
            })?,
        ),
        (
            "layout-payload-without-planes",
            "Layout{payload: Length}",
            edited(empty(), |parts| {
                parts.section(SectionKind::Payload).bytes = b"hidden".to_vec();
            })?,
        ),
        (
            "padding-after-header",
            "Padding{padding before a section}",
            damaged(empty(), |file| file[4095] = 1)?,
        ),
        (
            "padding-between-sections",
            "Padding{padding before a section}",
            damaged(raws(), |file| {
                file[8191] = 1;
            })?,
        ),
    ])
}

/// A section record of a file.
fn section_of(file: &mut [u8], at: usize) -> &mut SectionRecord {
    let start = size_of::<Header>() + at * size_of::<SectionRecord>();
    SectionRecord::mut_from_prefix(&mut file[start..]).expect("a file with section records").0
}
