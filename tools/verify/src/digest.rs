//! `list --sha256`: a digest of every part of a file. A checksum finds accidents; whoever wants to find a forger signs
//! these.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use ccq::Container;
use ccq::format::SectionKind;
use ccq_cli::{Exit, printable};
use rayon::prelude::*;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::failure::{self, Failure, Stdout};

/// A part of the file.
#[derive(Serialize)]
struct Part<'a> {
    /// The tensor or blob; empty for parts of the file that belong to none.
    name: &'a str,
    /// The kind of the plane; `front` for everything before the first one, names, shapes and metadata included;
    /// `section` for what may be ignored behind them.
    plane: &'static str,
    offset: u64,
    bytes: u64,
    sha256: String,
}

/// Lists the digests of the front and of all planes in file order. The zeros between them are not a part; a check
/// looks at those.
///
/// # Errors
/// Where the container does not open.
pub fn run(path: &Path, json: bool) -> Result<Exit, Failure> {
    let (file, _) = failure::open(path)?;
    let container = Container::open(path).map_err(|error| Failure::container(path, &error))?;
    let parts = parts(&container, file).map_err(|error| Failure::io(path, &error))?;
    let digested: Vec<_> = parts
        .into_par_iter()
        .map(|(part, bytes)| Part { sha256: sha256(&bytes), bytes: bytes.len() as u64, ..part })
        .collect();
    let line = |out: &mut Stdout, Part { name, plane, sha256, .. }: &Part<'_>| {
        writeln!(out, "{}", format!("{sha256}  {plane}  {}", printable(name)).trim_end())
    };
    failure::print(json, || &digested, |out, _| digested.iter().try_for_each(|part| line(out, part)))?;
    Ok(Exit::Ok)
}

/// Parts and their bytes, nothing digested yet.
fn parts<'a>(container: &'a Container<'_>, mut file: File) -> io::Result<Vec<(Part<'a>, Cow<'a, [u8]>)>> {
    let part = |name, plane, offset| Part { name, plane, offset, bytes: 0, sha256: String::new() };
    let mut read = |offset, len| {
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(offset))?;
        Read::by_ref(&mut file).take(len).read_to_end(&mut bytes)?;
        io::Result::Ok(Cow::Owned(bytes))
    };
    let sections = container.index().sections();
    let mut after = sections.iter().skip_while(|section| section.kind != Some(SectionKind::Payload));
    let front = after.next().map_or(0, |payload| payload.offset);
    let mut parts = vec![(part("", "front", 0), read(0, front)?)];
    for tensor in container.tensors() {
        for plane in tensor.info().planes() {
            let part = part(tensor.info().name(), plane.kind.name(), plane.offset);
            parts.push((part, Cow::Borrowed(tensor.plane(plane.kind))));
        }
    }
    for (blob, (name, bytes)) in container.index().blobs().zip(container.blobs()) {
        parts.push((part(name, blob.plane.kind.name(), blob.plane.offset), Cow::Borrowed(bytes)));
    }
    for section in after {
        parts.push((part("", "section", section.offset), read(section.offset, section.len)?));
    }
    Ok(parts)
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
