//! Faults of code records and of the planes beside the codes (spec, clauses 4.7, 5.4 to 5.7 and 6.4).

use anyhow::Result;
use ccq::code::{Code, Family};
use ccq::format::layout::CodeRecord;

use super::{Case, edited, one_coded};
use crate::container::with_f32_cluster;
use crate::parts::Parts;

const CODE: usize = 0;

pub fn cases() -> Result<Vec<Case>> {
    Ok([records()?, planes()?].concat())
}

/// A code record changed.
fn changed(code: Code, edit: fn(&mut CodeRecord)) -> Result<Vec<u8>> {
    edited(one_coded(code, &[3, 70]), |parts| edit(&mut parts.tensors[0].code))
}

fn records() -> Result<Vec<Case>> {
    let ccq275 = |edit| changed(Family::Ccq275.code(64)?, edit);
    let ccq25 = |edit| changed(Family::Ccq25.code(64)?, edit);
    let ccq206 = |edit| changed(Family::Ccq206.code(64)?, edit);
    let wint4 = |edit| changed(Family::Wint4.code(64)?, edit);
    let wint8 = |edit| changed(Family::Wint8.code(0)?, edit);
    Ok(vec![
        ("reserved-code-record", "Reserved", ccq275(|code| code.reserved[4] = 1)?),
        ("shape-group-size", "BadShape{GroupSize}", ccq275(|code| code.group_size.set(96))?),
        ("shape-group-size-one", "BadShape{GroupSize}", wint4(|code| code.group_size.set(1))?),
        ("shape-group-size-huge", "BadShape{GroupSize}", wint4(|code| code.group_size.set(u16::MAX))?),
        ("encoding-word-too-full", "BadEncoding{WordBits}", ccq275(|code| code.segments[0] = [4, 4, 2])?),
        ("encoding-word-not-full", "BadEncoding{WordBits}", ccq275(|code| code.segments[0] = [4, 2, 2])?),
        ("encoding-word-not-full-16", "BadEncoding{WordBits}", ccq25(|code| code.segments[1] = [3, 3, 2])?),
        (
            "encoding-segments-huge",
            "BadEncoding{WordBits}",
            ccq25(|code| {
                code.segments = [[16, 255, 16]; 4];
                code.segment_count = 4;
            })?,
        ),
        (
            "encoding-no-segments",
            "BadEncoding{SegmentCount}",
            ccq275(|code| {
                code.segments = [[0; 3]; 4];
                code.segment_count = 0;
            })?,
        ),
        ("encoding-five-segments", "BadEncoding{SegmentCount}", ccq275(|code| code.segment_count = 5)?),
        (
            "encoding-unused-segment",
            "BadEncoding{SegmentCount}",
            ccq275(|code| code.segments[3] = [1, 1, 1])?,
        ),
        ("encoding-segment-zero", "BadEncoding{Segment}", ccq275(|code| code.segment_count = 2)?),
        (
            "encoding-segment-without-states",
            "BadEncoding{Segment}",
            wint8(|code| code.segments[0] = [8, 0, 8])?,
        ),
        (
            "encoding-segment-without-shift",
            "BadEncoding{Segment}",
            wint8(|code| code.segments[0] = [8, 1, 0])?,
        ),
        (
            "encoding-segment-shift-too-far",
            "BadEncoding{Segment}",
            ccq275(|code| code.segments[0] = [3, 2, 5])?,
        ),
        (
            "encoding-segment-too-wide",
            "BadEncoding{Segment}",
            ccq25(|code| {
                code.segments[0] = [17, 1, 1];
            })?,
        ),
        ("encoding-word-of-12-bits", "BadEncoding{Word}", ccq275(|code| code.word_bits = 12)?),
        ("encoding-word-of-0-bits", "BadEncoding{Word}", ccq275(|code| code.word_bits = 0)?),
        ("encoding-cluster-of-16-bit-words", "BadEncoding{Word}", ccq206(|code| code.word_bits = 16)?),
        (
            "encoding-cluster-of-8-bit-codes",
            "BadEncoding{WordBits}",
            ccq206(|code| {
                code.segments[0] = [4, 3, 2];
            })?,
        ),
        (
            "encoding-cluster-of-17-bit-codes",
            "BadEncoding{WordBits}",
            ccq206(|code| {
                code.segments[0] = [5, 4, 4];
            })?,
        ),
        ("encoding-cluster-unknown", "BadEncoding{cluster}", ccq206(|code| code.cluster = 3)?),
        (
            "encoding-placement-unknown",
            "BadEncoding{scale_placement}",
            ccq206(|code| code.scale_placement = 4)?,
        ),
        ("encoding-scale-bits-none", "BadEncoding{scale_bits}", wint8(|code| code.scale_bits = 4)?),
        ("encoding-scale-bits-nibble", "BadEncoding{scale_bits}", ccq206(|code| code.scale_bits = 5)?),
        ("encoding-scale-bits-signed", "BadEncoding{scale_bits}", wint4(|code| code.scale_bits = 7)?),
        ("encoding-scale-too-wide", "BadEncoding{ScaleBits}", ccq275(|code| code.scale_bits = 5)?),
        ("encoding-scale-too-narrow", "BadEncoding{ScaleBits}", ccq25(|code| code.scale_bits = 12)?),
        ("encoding-scale-width-huge", "BadEncoding{ScaleBits}", ccq25(|code| code.scale_bits = 255)?),
        (
            "encoding-scale-no-room",
            "BadEncoding{ScaleBits}",
            changed(Family::Ccq275.code(32)?, |code| {
                (code.scale_placement, code.scale_bits) = (1, 2);
            })?,
        ),
        (
            "encoding-scale-not-embedded",
            "BadEncoding{ScaleBits}",
            ccq275(|code| {
                (code.scale_placement, code.scale_bits) = (2, 4);
            })?,
        ),
        (
            "encoding-scale-missing",
            "BadEncoding{ScaleBits}",
            wint4(|code| {
                (code.scale_placement, code.scale_bits) = (0, 0);
            })?,
        ),
        (
            "encoding-scale-per-channel",
            "BadEncoding{ScaleBits}",
            wint8(|code| {
                (code.scale_placement, code.scale_bits) = (3, 8);
            })?,
        ),
    ])
}

fn planes() -> Result<Vec<Case>> {
    let nibbles = || one_coded(Family::Ccq206.code(64)?, &[3, 70]);
    let signed = || one_coded(Family::Wint4.code(64)?, &[3, 70]);
    let floats = || one_coded(with_f32_cluster(Family::Ccq206.code(64)?)?, &[3, 70]);
    let embedded = || one_coded(Family::Ccq25.code(64)?, &[3, 70]);
    let longer = |parts: &mut Parts, plane: usize| {
        let len = parts.planes[plane].len.get();
        parts.planes[plane].len.set(len + 1);
    };
    Ok(vec![
        (
            "encoding-local-scale-missing",
            "BadEncoding{Planes}",
            edited(nibbles(), |parts| {
                remove_plane(parts, 1);
            })?,
        ),
        (
            "encoding-cluster-missing",
            "BadEncoding{Planes}",
            edited(nibbles(), |parts| remove_plane(parts, 3))?,
        ),
        (
            "encoding-super-scale-missing",
            "BadEncoding{Planes}",
            edited(embedded(), |parts| {
                remove_plane(parts, 1);
            })?,
        ),
        (
            "encoding-local-scale-superfluous",
            "BadEncoding{Planes}",
            edited(nibbles(), |parts| {
                let code = &mut parts.tensors[0].code;
                (code.scale_placement, code.scale_bits) = (0, 0);
                code.group_size.set(0);
            })?,
        ),
        (
            "encoding-planes-swapped",
            "BadEncoding{PlaneKind}",
            edited(nibbles(), |parts| {
                parts.planes[1].kind.set(3);
                parts.planes[2].kind.set(2);
            })?,
        ),
        (
            "encoding-code-plane-is-raw",
            "BadEncoding{PlaneKind}",
            edited(embedded(), |parts| {
                parts.planes[CODE].kind.set(5);
            })?,
        ),
        ("encoding-nibbles-length", "BadEncoding{PlaneSize}", edited(nibbles(), |parts| longer(parts, 1))?),
        (
            "encoding-signed-scales-length",
            "BadEncoding{PlaneSize}",
            edited(signed(), |parts| longer(parts, 1))?,
        ),
        (
            "encoding-super-scale-length",
            "BadEncoding{PlaneSize}",
            edited(embedded(), |parts| {
                longer(parts, 1);
                parts.section(ccq::format::SectionKind::Payload).bytes.push(0);
            })?,
        ),
        (
            "encoding-q8-length",
            "BadEncoding{PlaneSize}",
            edited(floats(), |parts| {
                parts.tensors[0].code.cluster = 1;
            })?,
        ),
        (
            "encoding-f32-cluster-length",
            "BadEncoding{PlaneSize}",
            edited(nibbles(), |parts| {
                parts.tensors[0].code.cluster = 2;
            })?,
        ),
        (
            "encoding-row-stride",
            "BadEncoding{RowStride}",
            edited(embedded(), |parts| {
                parts.planes[CODE].row_stride.set(40);
            })?,
        ),
        (
            "encoding-row-stride-zero",
            "BadEncoding{RowStride}",
            edited(embedded(), |parts| {
                parts.planes[CODE].row_stride.set(0);
            })?,
        ),
        (
            "encoding-super-scale-row-stride",
            "BadEncoding{RowStride}",
            edited(embedded(), |parts| {
                parts.planes[1].row_stride.set(4);
            })?,
        ),
    ])
}

/// Takes a plane out of the only tensor, its bytes too.
fn remove_plane(parts: &mut Parts, at: usize) {
    parts.planes.remove(at);
    parts.tensors[0].plane_count.set(parts.planes.len() as u32);
    let old = parts.section(ccq::format::SectionKind::Payload).bytes.clone();
    let mut new = Vec::new();
    for (i, plane) in parts.planes.iter_mut().enumerate() {
        let (start, len) = (plane.offset.get() as usize, plane.len.get() as usize);
        new.resize(usize::next_multiple_of(new.len(), 256), 0);
        plane.offset.set(new.len() as u64);
        plane.first_chunk.set(i as u64);
        new.extend_from_slice(&old[start..start + len]);
    }
    parts.section(ccq::format::SectionKind::Payload).bytes = new;
    parts.sum_payload();
}
