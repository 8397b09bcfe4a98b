//! `list`: what the index says, the payload left alone.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use ccq::format::{Limits, Place, Value};
use ccq::{Error, Index};
use ccq_cli::{Column, Exit, Table, bytes, count, printable};
use serde::Serialize;
use serde_json::{Map, json};

use crate::args::ListArgs;
use crate::failure::{self, Failure, print, say};
use crate::report::{bpw, bpw_text, shape_text, version};

/// Bytes that tell how long the front is.
const FIRST: u64 = 4096;
/// A longer front is not read: the indexes of the largest models take a few MiB.
const LONGEST: u64 = 2 << 30;
/// Characters of a metadata value in the table.
const SHOWN: usize = 60;

/// Lists the container.
///
/// # Errors
/// Where there is nothing to list.
pub fn run(args: &ListArgs) -> Result<Exit, Failure> {
    let path = &args.file;
    let (file, found) = failure::open(path)?;
    let (index, found) = read(file, found.len()).map_err(|error| Failure::container(path, &error))?;
    if found < index.file_len() {
        let (path, due) = (path.display(), index.file_len());
        say(&format!("warning: {path}: cut short: {found} of {due} bytes; fetch it again before using it"));
    }
    print(args.json, || Listing::new(path, &index), |out, columns| write(&index, out, columns))?;
    Ok(Exit::Ok)
}

/// Reads the index alone, also that of a file that ends within its payload; also the bytes there are.
fn read(file: File, found: u64) -> Result<(Index, u64), Error> {
    let limits = Limits::DEFAULT;
    let mut front = Vec::new();
    (&file).take(FIRST).read_to_end(&mut front)?;
    let mut file_len = found;
    let front_len = match Index::front_len(&front, file_len, &limits) {
        // The header says how long the file is to be; its checksum vouches for that.
        Err(Error::Truncated { expected, .. }) if expected > found => {
            file_len = expected;
            Index::front_len(&front, file_len, &limits)
        }
        other => other,
    }?;
    if front_len > LONGEST {
        return Err(Error::LimitExceeded {
            what: "bytes before the payload",
            at: Place::byte(0),
            limit: LONGEST,
            found: front_len,
        });
    }
    let rest = front_len.saturating_sub(front.len() as u64);
    file.take(rest).read_to_end(&mut front)?;
    Ok((Index::parse(&front, file_len, &limits)?, found))
}

/// Writes the tables.
fn write(index: &Index, out: &mut impl Write, columns: Option<usize>) -> io::Result<()> {
    let mut table = Table::new([
        Column::name("tensor"),
        Column::left("encoding"),
        Column::left("dtype"),
        Column::right("shape"),
        Column::right("bpw"),
        Column::right("offset"),
    ]);
    for tensor in index.tensors() {
        let offset = tensor.planes().first().map_or(0, |plane| plane.offset);
        table.row([
            tensor.name(),
            &tensor.encoding().to_string(),
            tensor.dtype().name(),
            &shape_text(tensor.shape()),
            &bpw_text(tensor.bpw()),
            &offset.to_string(),
        ]);
    }
    let file_bpw = bpw(index.file_len(), index.parameters());
    table.rule().row(["total", "", "", "", &bpw_text(file_bpw)]).write(out, columns)?;

    let (parameters, len) = (count(index.parameters()), bytes(index.file_len()));
    writeln!(out, "\nformat {}\n{parameters} parameters, {len}", version(index))?;
    let shard = index.shard();
    if shard.count > 1 {
        let number = u64::from(shard.index) + 1;
        writeln!(out, "shard {number} of {}: the others are not listed", shard.count)?;
    }
    if index.metadata().iter().len() > 0 {
        let mut table = Table::new([Column::left("metadata"), Column::left("value")]);
        for (key, value) in index.metadata().iter() {
            table.row([key, &value_text(&value)]);
        }
        writeln!(out)?;
        table.write(out, columns)?;
    }
    if index.blobs().len() > 0 {
        let mut table = Table::new([Column::name("blob"), Column::right("bytes")]);
        for blob in index.blobs() {
            table.row([blob.name, &count(blob.plane.len)]);
        }
        writeln!(out)?;
        table.write(out, columns)?;
    }
    Ok(())
}

/// A metadata value for people.
fn value_text(value: &Value<'_>) -> String {
    match value {
        Value::Bool(value) => value.to_string(),
        Value::U64(value) => value.to_string(),
        Value::I64(value) => value.to_string(),
        Value::F64(value) => value.to_string(),
        Value::String(text) => {
            let mut start = text.chars();
            let shown = printable(&start.by_ref().take(SHOWN).collect::<String>());
            if start.as_str().is_empty() { shown } else { format!("{shown}…") }
        }
        Value::Bytes(value) => format!("({} bytes)", count(value.len() as u64)),
        _ => "(a type of a newer reader)".into(),
    }
}

/// The JSON object.
#[derive(Debug, Serialize)]
struct Listing {
    file: String,
    format_version: String,
    shard: serde_json::Value,
    total: serde_json::Value,
    tensors: Vec<serde_json::Value>,
    metadata: Map<String, serde_json::Value>,
    blobs: Vec<serde_json::Value>,
}

impl Listing {
    fn new(path: &Path, index: &Index) -> Self {
        let shard = index.shard();
        let (parameters, len) = (index.parameters(), index.file_len());
        let tensors = index.tensors().map(|tensor| {
            json!({
                "name": tensor.name(),
                "shape": tensor.shape(),
                "encoding": tensor.encoding().to_string(),
                "dtype": tensor.dtype().name(),
                "bpw": tensor.bpw(),
                "bytes": tensor.stored_bytes(),
                "offset": tensor.planes().first().map(|plane| plane.offset),
            })
        });
        let blobs = index
            .blobs()
            .map(|blob| json!({"name": blob.name, "bytes": blob.plane.len, "offset": blob.plane.offset}));
        let metadata = index.metadata().iter();
        Self {
            file: path.display().to_string(),
            format_version: version(index),
            shard: json!({"index": shard.index, "count": shard.count}),
            total: json!({"parameters": parameters, "bytes": len, "bpw": bpw(len, parameters)}),
            tensors: tensors.collect(),
            metadata: metadata.map(|(key, value)| (key.into(), value_json(&value))).collect(),
            blobs: blobs.collect(),
        }
    }
}

/// A metadata value as JSON: whole strings, the length of bytes.
fn value_json(value: &Value<'_>) -> serde_json::Value {
    match value {
        Value::Bool(value) => json!(value),
        Value::U64(value) => json!(value),
        Value::I64(value) => json!(value),
        Value::F64(value) => json!(value),
        Value::String(text) => json!(text),
        Value::Bytes(value) => json!({"bytes": value.len()}),
        _ => serde_json::Value::Null,
    }
}
