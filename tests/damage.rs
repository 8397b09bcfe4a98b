//! Exhaustive damage: every single-byte change of small golden files, and every length they can be cut to.
#![cfg(feature = "std")]

use std::fs;
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::thread;

use ccq::format::layout::{Header, SectionRecord};
use ccq::format::{Section, SectionKind, seal};
use ccq::{Container, Error, Limits};

/// Files that between them hold every kind of section, of metadata and of plane.
const FILES: [&str; 5] = ["later-minor", "mixed", "ccq-2.06-f32", "shard-00002-of-00003", "empty"];

fn golden(name: &str) -> Vec<u8> {
    fs::read(folder().join(format!("{name}.ccq"))).unwrap()
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/golden")
}

/// Splits `range` among the processor's cores; each runs on its own copy of the file.
fn on_all_cores(file: &[u8], range: impl Iterator<Item = usize>, run: impl Fn(&mut [u8], usize) + Sync) {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let positions: Vec<usize> = range.collect();
    thread::scope(|scope| {
        for part in positions.chunks(positions.len().div_ceil(cores).max(1)) {
            scope.spawn(|| {
                let mut file = file.to_vec();
                part.iter().for_each(|&at| run(&mut file, at));
            });
        }
    });
}

/// Flips these bits of a byte, one set after the other, and puts its own value back.
fn every_change(file: &mut [u8], at: usize, changes: RangeInclusive<u8>, mut check: impl FnMut(&mut [u8])) {
    for change in changes {
        file[at] ^= change;
        check(file);
        file[at] ^= change;
    }
}

/// The sections of a file.
fn sections(file: &[u8]) -> Vec<Section> {
    Container::from_bytes(file, &Limits::DEFAULT).unwrap().index().sections().to_vec()
}

fn range(section: &Section) -> Range<usize> {
    section.offset as usize..(section.offset + section.len) as usize
}

/// Where the payload is.
fn payload(file: &[u8]) -> Range<usize> {
    let sections = sections(file);
    range(sections.iter().find(|section| section.kind == Some(SectionKind::Payload)).unwrap())
}

/// Where everything before the payload is, with nothing between.
fn records(file: &[u8]) -> Vec<Range<usize>> {
    let sections = sections(file);
    let header = size_of::<Header>() + sections.len() * size_of::<SectionRecord>();
    let before = sections.iter().take_while(|section| section.kind != Some(SectionKind::Payload));
    std::iter::once(0..header).chain(before.map(range)).collect()
}

/// Where the planes are.
fn planes(file: &[u8]) -> Vec<Range<usize>> {
    let container = Container::from_bytes(file, &Limits::DEFAULT).unwrap();
    container.index().planes().iter().map(|plane| plane.offset as usize..plane.end() as usize).collect()
}

/// Every change of a byte that means something, one of a zero between those.
fn changes(meaning: &[Range<usize>], at: usize) -> RangeInclusive<u8> {
    if meaning.iter().any(|range| range.contains(&at)) { 1..=255 } else { 255..=255 }
}

/// Opens, verifies, and decodes everything; nothing of it may panic.
fn use_all(file: &[u8]) -> Result<(), Error> {
    let container = Container::from_bytes(file, &Limits::DEFAULT)?;
    container.verify()?;
    for tensor in container.tensors() {
        let Some(matrix) = tensor.matrix() else { continue };
        let mut values = vec![0.0; matrix.rows() * matrix.in_features()];
        matrix.decode_rows_into(0..matrix.rows(), &mut values).unwrap();
    }
    Ok(())
}

/// Header, section records, index, strings, metadata and checksums; of the zeros between them, that each is looked at.
#[test]
fn every_change_before_the_payload_is_refused() {
    for name in FILES {
        let file = golden(name);
        let records = records(&file);
        on_all_cores(&file, 0..payload(&file).start, |file, at| {
            every_change(file, at, changes(&records, at), |file| {
                let found = Container::from_bytes(file, &Limits::DEFAULT);
                // Sections that a reader may ignore are left to `verify`.
                let refused = found.and_then(|container| container.verify()).is_err();
                assert!(refused, "{name}: byte {at} can be {:#04x}", file[at]);
            });
        });
    }
}

/// The same with the front's checksums made to fit, as somebody who means harm would: the checks behind them answer
/// with an error, or with a container that can be used.
#[test]
fn every_change_with_repaired_checksums_is_refused_or_of_use() {
    for name in FILES {
        let good = golden(name);
        on_all_cores(&good, records(&good).into_iter().flatten(), |file, at| {
            every_change(file, at, 1..=255, |file| {
                let changed = file[at];
                seal(file);
                let _ = use_all(file);
                file.copy_from_slice(&good);
                file[at] = changed;
            });
        });
    }
}

/// Planes; of the zeros between them, that each is looked at.
#[test]
fn every_change_of_the_payload_is_caught_by_verify() {
    for name in FILES {
        let file = golden(name);
        let planes = planes(&file);
        on_all_cores(&file, payload(&file), |file, at| {
            every_change(file, at, changes(&planes, at), |file| {
                let container = Container::from_bytes(file, &Limits::DEFAULT).unwrap();
                assert!(container.verify().is_err(), "{name}: byte {at} can be {:#04x}", file[at]);
            });
        });
    }
}

#[test]
fn every_shorter_or_longer_file_is_refused() {
    for entry in fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "ccq") {
            continue;
        }
        let mut file = fs::read(&path).unwrap();
        for len in 0..file.len() {
            let error = Container::from_bytes(&file[..len], &Limits::DEFAULT).unwrap_err();
            assert!(matches!(error, Error::Truncated { .. }), "{} of {len} bytes: {error}", path.display());
        }
        for _ in 0..4096 {
            file.push(0);
            let error = Container::from_bytes(&file, &Limits::DEFAULT).unwrap_err();
            assert!(matches!(error, Error::Layout { .. }), "{}: {error}", path.display());
        }
    }
}
