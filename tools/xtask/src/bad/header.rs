//! Faults of the magic and the header record (spec, clauses 3.1 to 3.4 and 3.7).

use anyhow::Result;
use ccq::format::layout::Header;
use zerocopy::FromBytes;

use super::{Case, damaged, empty, patched, raws};

pub fn cases() -> Result<Vec<Case>> {
    let cut = |len: usize| damaged(raws(), |file| file.truncate(len));
    let magic = |bytes: &[u8]| damaged(empty(), |file| file[..bytes.len()].copy_from_slice(bytes));
    let transfer = |from: &[u8], to: &[u8]| damaged(empty(), |file| *file = replace(file, from, to));
    let swapped =
        |width: usize| damaged(empty(), |file| file.chunks_exact_mut(width).for_each(<[u8]>::reverse));
    let header = |edit: fn(&mut Header)| patched(empty(), |file| edit(header_of(file)));
    Ok(vec![
        ("truncated-empty", "Truncated{header}", cut(0)?),
        ("truncated-magic", "Truncated{header}", cut(5)?),
        ("truncated-header", "Truncated{header}", cut(127)?),
        ("truncated-section-records", "Truncated{header}", cut(200)?),
        ("truncated-front-padding", "Truncated{the file}", cut(4000)?),
        ("truncated-index", "Truncated{the file}", cut(4096 + 100)?),
        ("truncated-strings", "Truncated{the file}", cut(8192 + 3)?),
        ("truncated-payload", "Truncated{the file}", damaged(raws(), |file| file.truncate(file.len() - 1))?),
        ("magic-wrong", "BadMagic{NotThisFormat}", magic(b"GGUF\x03\0\0\0")?),
        ("magic-other-version-byte", "BadMagic{NotThisFormat}", magic(b"\x89CCP\r\n\x1a\n")?),
        ("magic-byte-swapped-16", "BadMagic{ByteSwapped}", swapped(2)?),
        ("magic-byte-swapped-32", "BadMagic{ByteSwapped}", swapped(4)?),
        ("magic-byte-swapped-64", "BadMagic{ByteSwapped}", swapped(8)?),
        ("magic-text-mode-to-lf", "BadMagic{TextMode}", transfer(b"\r\n", b"\n")?),
        (
            "magic-text-mode-to-cr",
            "BadMagic{TextMode}",
            damaged(empty(), |file| {
                *file = replace(&replace(file, b"\r\n", b"\r"), b"\n", b"\r");
            })?,
        ),
        ("magic-text-mode-to-crlf", "BadMagic{TextMode}", transfer(b"\n", b"\r\n")?),
        (
            "magic-high-bit-cut",
            "BadMagic{TextMode}",
            damaged(empty(), |file| {
                file.iter_mut().for_each(|byte| *byte &= 0x7F);
            })?,
        ),
        ("magic-unfinished", "BadMagic{Unfinished}", damaged(raws(), |file| file[..128].fill(0))?),
        ("version-zero", "UnsupportedVersion{0.0}", header(|header| header.major.set(0))?),
        ("version-future-major", "UnsupportedVersion{2.0}", header(|header| header.major.set(2))?),
        ("version-byte-swapped", "UnsupportedVersion{256.0}", header(|header| header.major.set(0x0100))?),
        (
            "feature-incompat-low-bit",
            "UnsupportedFeature{Incompat}",
            header(|header| header.incompat.set(1))?,
        ),
        (
            "feature-incompat-high-bit",
            "UnsupportedFeature{Incompat}",
            header(|header| {
                header.incompat.set(1 << 63);
            })?,
        ),
        ("reserved-header", "Reserved", header(|header| header.reserved[23] = 1)?),
        ("checksum-header", "Checksum{header}", damaged(empty(), |file| header_of(file).compat.set(1))?),
        ("checksum-section-record", "Checksum{header}", damaged(empty(), |file| file[128 + 24] ^= 1)?),
        (
            "checksum-header-crc",
            "Checksum{header}",
            damaged(empty(), |file| header_of(file).header_crc.set(0))?,
        ),
        ("layout-header-len-short", "Layout{header: Length}", header(|header| header.header_len.set(128))?),
        (
            "layout-header-len-huge",
            "Layout{header: Length}",
            header(|header| header.header_len.set(u32::MAX))?,
        ),
        ("layout-trailing-byte", "Layout{file: TrailingBytes}", damaged(raws(), |file| file.push(0))?),
        (
            "layout-trailing-file",
            "Layout{file: TrailingBytes}",
            damaged(empty(), |file| {
                file.extend_from_slice(b"PK\x05\x06 a second format at the end");
            })?,
        ),
        ("limit-sections", "LimitExceeded{section records}", header(|header| header.section_count.set(65))?),
        (
            "limit-sections-huge",
            "LimitExceeded{section records}",
            header(|header| {
                header.section_count.set(u32::MAX);
            })?,
        ),
        ("limit-tensors-huge", "LimitExceeded{tensors}", header(|header| header.tensor_count.set(u64::MAX))?),
        (
            "limit-tensors-beyond-file",
            "LimitExceeded{tensors}",
            header(|header| header.tensor_count.set(65))?,
        ),
        ("limit-planes-huge", "LimitExceeded{planes}", header(|header| header.plane_count.set(u64::MAX))?),
        ("limit-planes-beyond-file", "LimitExceeded{planes}", header(|header| header.plane_count.set(103))?),
        ("limit-blobs-huge", "LimitExceeded{blobs}", header(|header| header.blob_count.set(u64::MAX))?),
        ("limit-blobs-beyond-file", "LimitExceeded{blobs}", header(|header| header.blob_count.set(171))?),
        (
            "limit-dimensions-huge",
            "LimitExceeded{dimensions}",
            header(|header| header.dim_count.set(u64::MAX))?,
        ),
        (
            "limit-dimensions-beyond-file",
            "LimitExceeded{dimensions}",
            header(|header| header.dim_count.set(513))?,
        ),
        ("layout-tensor-count", "Layout{index: Length}", header(|header| header.tensor_count.set(1))?),
        ("shard-index-beyond-count", "Shard{Index}", header(|header| header.shard_index.set(1))?),
        ("shard-count-zero", "Shard{Index}", header(|header| header.shard_count.set(0))?),
        ("shard-set-id-alone", "Shard{SetId}", header(|header| header.set_id[0] = 1)?),
    ])
}

/// The header of a file.
pub fn header_of(file: &mut [u8]) -> &mut Header {
    Header::mut_from_prefix(file).expect("a file with a header").0
}

/// What a transfer in text mode does to a file.
fn replace(file: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = file;
    while let Some((&first, tail)) = rest.split_first() {
        if let Some(tail) = rest.strip_prefix(from) {
            out.extend_from_slice(to);
            rest = tail;
        } else {
            out.push(first);
            rest = tail;
        }
    }
    out
}
