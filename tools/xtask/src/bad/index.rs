//! Faults of names, tensor, plane and blob records and dimensions (spec, chapters 4 and 5).

use anyhow::Result;
use ccq::code::Family;
use ccq::format::layout::{PlaneRecord, TensorRecord};
use ccq::format::{Dtype, SectionKind};

use super::{Case, edited, one_coded, one_raw, raws};
use crate::parts::Parts;

pub fn cases() -> Result<Vec<Case>> {
    Ok([names()?, shapes()?, tensors()?, planes()?, blobs()?].concat())
}

/// A raw tensor whose name is replaced; the blobs' names move along.
fn renamed(at: usize, name: &[u8]) -> Result<Vec<u8>> {
    edited(raws(), |parts| rename(parts, at, name))
}

/// Renames tensor or, after the last tensor, blob `at`.
fn rename(parts: &mut Parts, at: usize, name: &[u8]) {
    let mut lens: Vec<_> = parts.tensors.iter().map(|tensor| tensor.name_len.get()).collect();
    lens.extend(parts.blobs.iter().map(|blob| blob.name_len.get()));
    let start = lens[..at].iter().sum::<u32>() as usize;
    let strings = &mut parts.section(SectionKind::Strings).bytes;
    strings.splice(start..start + lens[at] as usize, name.iter().copied());
    lens[at] = name.len() as u32;
    let tensors = parts.tensors.iter_mut().map(|tensor| (&mut tensor.name_offset, &mut tensor.name_len));
    let blobs = parts.blobs.iter_mut().map(|blob| (&mut blob.name_offset, &mut blob.name_len));
    let mut offset = 0;
    for ((name_offset, name_len), len) in tensors.chain(blobs).zip(lens) {
        name_offset.set(offset);
        name_len.set(len);
        offset += u64::from(len);
    }
}

fn names() -> Result<Vec<Case>> {
    let tensor = |edit: fn(&mut TensorRecord)| edited(raws(), |parts| edit(&mut parts.tensors[1]));
    Ok(vec![
        ("name-empty", "BadName{Empty}", renamed(0, b"")?),
        ("name-not-utf8", "BadName{NotUtf8}", renamed(2, b"c\xFF")?),
        ("name-overlong-utf8", "BadName{NotUtf8}", renamed(2, b"\xE0\x80\xAF")?),
        ("name-surrogate", "BadName{NotUtf8}", renamed(2, b"\xED\xA0\x80")?),
        ("name-cut-utf8", "BadName{NotUtf8}", renamed(2, b"c\xC3")?),
        ("name-nul", "BadName{ControlCharacter}", renamed(2, b"c\0")?),
        ("name-newline", "BadName{ControlCharacter}", renamed(2, b"c\nd")?),
        ("name-delete", "BadName{ControlCharacter}", renamed(2, b"c\x7F")?),
        ("name-c1-control", "BadName{ControlCharacter}", renamed(2, "c\u{85}".as_bytes())?),
        ("name-too-long", "LimitExceeded{bytes of a name}", renamed(2, &[b'c'; 1025])?),
        ("name-twice", "BadName{Duplicate}", renamed(1, b"a")?),
        ("layout-names-unsorted", "Layout{name: Unsorted}", renamed(0, b"bb")?),
        (
            "layout-names-unsorted-prefix",
            "Layout{name: Unsorted}",
            edited(raws(), |parts| {
                rename(parts, 0, b"ab");
                rename(parts, 1, b"a");
            })?,
        ),
        // Unsigned bytes decide: é, which starts with C3, comes after b.
        ("layout-names-unsorted-high-bit", "Layout{name: Unsorted}", renamed(0, "é".as_bytes())?),
        ("name-blob-twice", "BadName{Duplicate}", renamed(4, b"config.json")?),
        ("layout-blobs-unsorted", "Layout{name: Unsorted}", renamed(4, b"a")?),
        ("name-blob-parent", "BadName{UnsafePath}", renamed(4, b"d/../../etc/passwd")?),
        ("name-blob-starts-with-parent", "BadName{UnsafePath}", renamed(3, b"../config.json")?),
        ("name-blob-absolute", "BadName{UnsafePath}", renamed(3, b"/etc/passwd")?),
        ("name-blob-dot", "BadName{UnsafePath}", renamed(3, b"./config.json")?),
        ("name-blob-empty-part", "BadName{UnsafePath}", renamed(4, b"dir//file")?),
        ("name-blob-folder", "BadName{UnsafePath}", renamed(4, b"dir/")?),
        ("name-blob-backslash", "BadName{UnsafePath}", renamed(4, b"dir\\file")?),
        ("name-blob-drive", "BadName{UnsafePath}", renamed(3, b"c:config.json")?),
        ("bounds-name", "OutOfBounds{name}", tensor(|tensor| tensor.name_len.set(1000))?),
        ("bounds-name-huge", "OutOfBounds{name}", tensor(|tensor| tensor.name_len.set(u32::MAX))?),
        ("bounds-name-offset", "OutOfBounds{name}", tensor(|tensor| tensor.name_offset.set(1 << 40))?),
        ("overflow-name-end", "Overflow{name}", tensor(|tensor| tensor.name_offset.set(u64::MAX))?),
        ("layout-names-overlap", "Layout{name: Overlap}", tensor(|tensor| tensor.name_offset.set(0))?),
        ("layout-names-hole", "Layout{name: Hole}", tensor(|tensor| tensor.name_offset.set(2))?),
    ])
}

fn shapes() -> Result<Vec<Case>> {
    let raw = |dtype, shape: &[u64]| {
        let rank = shape.len();
        edited(one_raw("w", dtype, &vec![0; rank]), |parts| set_shape(parts, shape))
    };
    let code = |family: Family, group, shape: &[u64]| {
        let first_shape = vec![1; shape.len().max(1)];
        edited(one_coded(family.code(group)?, &first_shape), |parts| set_shape(parts, shape))
    };
    Ok(vec![
        (
            "overflow-dimensions",
            "Overflow{the product of the dimensions}",
            raw(Dtype::U8, &[1 << 32, 1 << 32, 2])?,
        ),
        (
            "overflow-dimensions-behind-zero",
            "Overflow{the product of the dimensions}",
            raw(Dtype::U8, &[0, 1 << 40, 1 << 40])?,
        ),
        (
            "overflow-dimensions-before-zero",
            "Overflow{the product of the dimensions}",
            raw(Dtype::U8, &[u64::MAX, 2, 0])?,
        ),
        (
            "overflow-dimensions-coded",
            "Overflow{the product of the dimensions}",
            code(Family::Ccq206, 64, &[1 << 40, 1 << 40])?,
        ),
        ("overflow-bits", "Overflow{the length in bits}", raw(Dtype::F64, &[1 << 58])?),
        ("overflow-align-up", "Overflow{the length of a plane}", code(Family::Wint8, 0, &[u64::MAX])?),
        ("overflow-code-plane", "Overflow{the length of a plane}", code(Family::Ccq206, 64, &[1 << 61, 1])?),
        (
            "overflow-all-planes",
            "Overflow{the length of a plane}",
            code(Family::Wint8, 0, &[(1 << 60) - 1, 16])?,
        ),
        ("shape-coded-scalar", "BadShape{Scalar}", code(Family::Ccq275, 64, &[])?),
        ("shape-coded-zero-rows", "BadShape{ZeroDimension}", code(Family::Ccq275, 64, &[0, 64])?),
        ("shape-coded-zero-in-features", "BadShape{ZeroDimension}", code(Family::Ccq275, 64, &[64, 0])?),
        ("shape-coded-zero-experts", "BadShape{ZeroDimension}", code(Family::Wint4, 0, &[0, 2, 2])?),
        ("shape-partial-byte-f4", "BadShape{PartialByte}", raw(Dtype::F4, &[3])?),
        ("shape-partial-byte-f6", "BadShape{PartialByte}", raw(Dtype::F6E2M3, &[2])?),
        ("shape-raw-plane-short", "BadShape{PlaneLength}", raw(Dtype::F32, &[1])?),
        (
            "shape-raw-plane-long",
            "BadShape{PlaneLength}",
            edited(one_raw("w", Dtype::F32, &[2]), |parts| {
                set_shape(parts, &[1]);
            })?,
        ),
        ("shape-code-plane", "BadShape{PlaneLength}", code(Family::Ccq25, 64, &[2, 1])?),
        ("shape-code-plane-in-features", "BadShape{PlaneLength}", code(Family::Ccq275, 64, &[1, 65])?),
        ("shape-huge", "BadShape{PlaneLength}", code(Family::Wint4, 0, &[1 << 30, 1 << 30])?),
    ])
}

/// Another shape, of any rank, for the only tensor.
fn set_shape(parts: &mut Parts, shape: &[u64]) {
    parts.dims = shape.iter().map(|&dimension| dimension.into()).collect();
    parts.tensors[0].rank.set(shape.len() as u32);
}

fn tensors() -> Result<Vec<Case>> {
    let tensor = |edit: fn(&mut TensorRecord)| edited(raws(), |parts| edit(&mut parts.tensors[1]));
    Ok(vec![
        ("feature-encoding", "UnsupportedFeature{Encoding}", tensor(|tensor| tensor.encoding.set(2))?),
        ("feature-dtype-zero", "UnsupportedFeature{Dtype}", tensor(|tensor| tensor.dtype.set(0))?),
        ("feature-dtype", "UnsupportedFeature{Dtype}", tensor(|tensor| tensor.dtype.set(23))?),
        ("reserved-code-of-raw", "Reserved", tensor(|tensor| tensor.code.word_bits = 8)?),
        (
            "limit-rank",
            "LimitExceeded{dimensions of a tensor}",
            edited(one_raw("w", Dtype::U8, &[1; 32]), |parts| {
                set_shape(parts, &[1; 33]);
            })?,
        ),
        (
            "limit-rank-huge",
            "LimitExceeded{dimensions of a tensor}",
            tensor(|tensor| tensor.rank.set(u32::MAX))?,
        ),
        ("bounds-dimensions", "OutOfBounds{dimensions}", tensor(|tensor| tensor.rank.set(10))?),
        (
            "bounds-first-dimension",
            "OutOfBounds{dimensions}",
            tensor(|tensor| tensor.first_dim.set(1 << 60))?,
        ),
        (
            "overflow-first-dimension",
            "Overflow{dimensions}",
            tensor(|tensor| tensor.first_dim.set(u64::MAX))?,
        ),
        (
            "layout-dimensions-shared",
            "Layout{dimensions: Overlap}",
            tensor(|tensor| tensor.first_dim.set(0))?,
        ),
        ("layout-dimensions-hole", "Layout{dimensions: Hole}", tensor(|tensor| tensor.first_dim.set(2))?),
        (
            "layout-dimensions-left-over",
            "Layout{dimensions: Length}",
            edited(raws(), |parts| {
                parts.dims.push(1.into());
            })?,
        ),
        (
            "layout-planes-shared",
            "Layout{first plane of a tensor: Overlap}",
            tensor(|tensor| {
                tensor.first_plane.set(0);
            })?,
        ),
        (
            "layout-first-plane-hole",
            "Layout{first plane of a tensor: Hole}",
            tensor(|tensor| {
                tensor.first_plane.set(u64::MAX);
            })?,
        ),
        ("encoding-plane-missing", "BadEncoding{Planes}", tensor(|tensor| tensor.plane_count.set(0))?),
        ("encoding-plane-superfluous", "BadEncoding{Planes}", tensor(|tensor| tensor.plane_count.set(2))?),
        (
            "encoding-plane-count-huge",
            "BadEncoding{Planes}",
            tensor(|tensor| {
                tensor.plane_count.set(u32::MAX);
            })?,
        ),
    ])
}

fn planes() -> Result<Vec<Case>> {
    let plane = |edit: fn(&mut PlaneRecord)| edited(raws(), |parts| edit(&mut parts.planes[1]));
    Ok(vec![
        ("feature-plane-kind-zero", "UnsupportedFeature{Plane}", plane(|plane| plane.kind.set(0))?),
        ("feature-plane-kind", "UnsupportedFeature{Plane}", plane(|plane| plane.kind.set(7))?),
        ("reserved-plane", "Reserved", plane(|plane| plane.reserved.set(1))?),
        ("encoding-plane-kind", "BadEncoding{PlaneKind}", plane(|plane| plane.kind.set(1))?),
        ("encoding-raw-row-stride", "BadEncoding{RowStride}", plane(|plane| plane.row_stride.set(16))?),
        // Offsets count from the payload here, so this is byte 0 of the file.
        (
            "bounds-plane-in-header",
            "OutOfBounds{plane}",
            plane(|plane| {
                plane.offset.set(0u64.wrapping_sub(5 * 4096 - 4096));
            })?,
        ),
        ("bounds-plane-past-end", "OutOfBounds{plane}", plane(|plane| plane.offset.set(1 << 20))?),
        (
            "bounds-plane-huge",
            "OutOfBounds{plane}",
            edited(one_raw("w", Dtype::U8, &[0]), |parts| {
                set_shape(parts, &[1 << 60]);
                parts.planes[0].len.set(1 << 60);
            })?,
        ),
        (
            "overflow-plane-end",
            "Overflow{plane}",
            edited(one_coded(Family::Wint8.code(0)?, &[1]), |parts| {
                set_shape(parts, &[u64::MAX - 15]);
                parts.planes[0].len.set(u64::MAX - 15);
                parts.planes[0].row_stride.set(u64::MAX - 15);
            })?,
        ),
        ("layout-plane-misaligned", "Layout{plane: Misaligned}", plane(|plane| plane.offset.set(256 + 16))?),
        ("layout-planes-equal", "Layout{plane: Overlap}", plane(|plane| plane.offset.set(0))?),
        ("layout-plane-hole", "Layout{plane: Hole}", plane(|plane| plane.offset.set(512))?),
        (
            "layout-planes-overlap",
            "Layout{plane: Overlap}",
            edited(one_raw("w", Dtype::U8, &[600]), |parts| {
                let mut second = Parts::clone(parts).tensors[0];
                second.name_offset.set(1);
                second.first_dim.set(1);
                second.first_plane.set(1);
                parts.tensors.push(second);
                parts.dims.push(parts.dims[0]);
                parts.section(SectionKind::Strings).bytes = b"wx".to_vec();
                let mut plane = parts.planes[0];
                plane.offset.set(256);
                plane.first_chunk.set(1);
                parts.planes.push(plane);
                parts.section(SectionKind::Payload).bytes.resize(856, 0);
                parts.sum_payload();
            })?,
        ),
        (
            "layout-planes-unsorted",
            "Layout{plane: Hole}",
            edited(raws(), |parts| {
                let (first, second) = (parts.planes[0].offset, parts.planes[1].offset);
                (parts.planes[0].offset, parts.planes[1].offset) = (second, first);
            })?,
        ),
        (
            "layout-first-chunk-shared",
            "Layout{first checksum of a plane: Overlap}",
            plane(|plane| {
                plane.first_chunk.set(0);
            })?,
        ),
        (
            "layout-first-chunk-hole",
            "Layout{first checksum of a plane: Hole}",
            plane(|plane| {
                plane.first_chunk.set(u64::MAX);
            })?,
        ),
        (
            "layout-planes-left-over",
            "Layout{planes: Length}",
            edited(raws(), |parts| {
                let mut plane = parts.planes[4];
                plane.first_chunk.set(5);
                parts.planes.push(plane);
            })?,
        ),
        (
            "encoding-planes-cut",
            "BadEncoding{Planes}",
            edited(raws(), |parts| {
                parts.planes.pop();
            })?,
        ),
    ])
}

fn blobs() -> Result<Vec<Case>> {
    Ok(vec![
        ("reserved-blob", "Reserved", edited(raws(), |parts| parts.blobs[0].reserved.set(1))?),
        (
            "encoding-blob-plane-kind",
            "BadEncoding{PlaneKind}",
            edited(raws(), |parts| {
                parts.planes[3].kind.set(5);
            })?,
        ),
        (
            "encoding-blob-row-stride",
            "BadEncoding{RowStride}",
            edited(raws(), |parts| {
                parts.planes[3].row_stride.set(1);
            })?,
        ),
        (
            "layout-blob-shares-plane",
            "Layout{plane of a blob: Overlap}",
            edited(raws(), |parts| {
                parts.blobs[1].plane.set(3);
            })?,
        ),
        (
            "layout-blob-plane-hole",
            "Layout{plane of a blob: Hole}",
            edited(raws(), |parts| {
                parts.blobs[0].plane.set(4);
            })?,
        ),
        (
            "bounds-blob-name",
            "OutOfBounds{name}",
            edited(raws(), |parts| {
                parts.blobs[1].name_len.set(9);
            })?,
        ),
    ])
}
