//! The text form of a container that stands beside every golden file.

use std::fmt::{Result, Write};

use ccq::code::Code;
use ccq::format::{Encoding, Value};
use ccq::{Container, Tensor};

/// Values of a decoded tensor that are printed.
const SHOWN: usize = 8;

/// Everything the container holds, raw and decoded values by their CRC-32 and the first few.
pub fn dump(container: &Container<'_>) -> String {
    let mut text = String::new();
    write_all(container, &mut text).expect("a String takes everything");
    text
}

fn write_all(container: &Container<'_>, out: &mut impl Write) -> Result {
    let index = container.index();
    let ((major, minor), shard) = (index.version(), index.shard());
    writeln!(out, "version {major}.{minor}, {} bytes, {} parameters", index.file_len(), index.parameters())?;
    writeln!(out, "shard {} of {}, set {}", shard.index, shard.count, hex(&shard.set_id))?;
    writeln!(out, "\nsections")?;
    for section in index.sections() {
        let name = section.kind.map_or("(unknown)", |kind| kind.name());
        let (offset, len, crc) = (section.offset, section.len, section.crc);
        writeln!(out, "  {name:<12} offset {offset:<8} len {len:<8} crc {crc:08x}")?;
    }
    writeln!(out, "\nmetadata")?;
    for (key, value) in index.metadata().iter() {
        writeln!(out, "  {key:?}: {}", typed(value))?;
    }
    writeln!(out, "\nblobs")?;
    for (info, (name, bytes)) in index.blobs().zip(container.blobs()) {
        let (offset, crc) = (info.plane.offset, crc32fast::hash(bytes));
        writeln!(out, "  {name:?} offset {offset} len {} crc {crc:08x}", bytes.len())?;
    }
    writeln!(out, "\ntensors")?;
    container.tensors().try_for_each(|tensor| write_tensor(&tensor, out))
}

fn write_tensor(tensor: &Tensor<'_>, out: &mut impl Write) -> Result {
    let info = tensor.info();
    let bpw = info.bpw().map_or("-".into(), |bpw| format!("{bpw:.6}"));
    writeln!(out, "  {:?} {} {:?} {}, {bpw} bpw", info.name(), info.dtype(), info.shape(), info.encoding())?;
    if let Encoding::Coded(code) = info.encoding() {
        writeln!(out, "    {}", description(&code))?;
    }
    for plane in info.planes() {
        let (offset, len, crc) = (plane.offset, plane.len, crc32fast::hash(tensor.plane(plane.kind)));
        write!(out, "    {:<12} offset {offset:<8} len {len:<8} crc {crc:08x}", plane.kind.name())?;
        let stride = plane.row_stride;
        if stride > 0 { writeln!(out, " stride {stride}")? } else { writeln!(out)? }
    }
    match decode(tensor) {
        None => {
            let bytes = tensor.raw().unwrap_or_default();
            writeln!(out, "    bytes {}", hex(&bytes[..bytes.len().min(SHOWN)]))
        }
        Some(values) => {
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            writeln!(out, "    decoded {} values, crc {:08x}", values.len(), crc32fast::hash(&bytes))?;
            for value in values.iter().take(SHOWN) {
                writeln!(out, "      {:08x}  {value:e}", value.to_bits())?;
            }
            Ok(())
        }
    }
}

/// All values of a quantized tensor.
pub fn decode(tensor: &Tensor<'_>) -> Option<Vec<f32>> {
    let matrix = tensor.matrix()?;
    let mut values = vec![0.0; matrix.rows() * matrix.in_features()];
    tensor.decode_rows_into(0..matrix.rows(), &mut values).expect("a buffer of the tensor's size");
    Some(values)
}

fn description(code: &Code) -> String {
    let segments: Vec<_> = code
        .segments()
        .iter()
        .map(|segment| format!("({},{},{})", segment.state_bits, segment.states, segment.shift))
        .collect();
    let group = code.group_size().map_or("per channel".into(), |size| format!("group {size}"));
    let cluster = code.cluster().map_or("none".into(), |cluster| format!("{cluster:?}"));
    let (word, scale) = (code.word_bits(), code.local_scale());
    format!("{} in {word} bits, {group}, local scale {scale:?}, cluster {cluster}", segments.join(" + "))
}

fn typed(value: Value<'_>) -> String {
    match value {
        Value::Bool(value) => format!("bool {value}"),
        Value::U64(value) => format!("u64 {value}"),
        Value::I64(value) => format!("i64 {value}"),
        Value::F64(value) => format!("f64 {value:e} ({:016x})", value.to_bits()),
        Value::String(value) => format!("string {value:?}"),
        Value::Bytes(value) => format!("bytes {}", hex(value)),
        other => format!("{other:?}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
