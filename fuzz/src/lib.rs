//! What the fuzz targets share: exercising an open container, and containers built to be damaged.

use std::collections::BTreeMap;
use std::io::Cursor;

use arbitrary::Arbitrary;
use ccq::code::{Cluster, Code, Family};
use ccq::format::{Contents, Dtype, Encoding, Error, Layout, TensorSpec, Value, Writer, seal};
use ccq::{Container, Limits};

/// Opens bytes and, if they are accepted, uses everything: no call may panic, whatever the bytes.
pub fn exercise(bytes: &[u8]) -> Result<(), Error> {
    let container = Container::from_bytes(bytes, &Limits::DEFAULT)?;
    let index = container.index();
    assert_eq!(index.file_len(), bytes.len() as u64);
    for tensor in container.tensors() {
        let info = tensor.info();
        assert!(index.tensor(info.name()).is_some());
        assert_eq!(tensor.matrix().is_some(), info.encoding() != Encoding::Raw);
        let Some(matrix) = tensor.matrix() else { continue };
        if matrix.in_features() < 1 << 16 {
            let mut row = vec![0.0; matrix.in_features()];
            for i in 0..matrix.rows().min(4) {
                tensor.decode_rows_into(i..i + 1, &mut row).expect("a row of the tensor");
            }
        }
    }
    index.metadata().iter().for_each(|(key, _)| assert!(index.metadata().get(key).is_some()));
    container.blobs().for_each(|(name, blob)| assert_eq!(container.blob(name), Some(blob)));
    container.verify()
}

/// A small container.
#[derive(Arbitrary, Debug)]
pub struct Recipe {
    tensors: Vec<(String, u8, [u8; 2], Vec<u8>)>,
    blobs: BTreeMap<String, u8>,
    metadata: BTreeMap<String, (u8, u64, String)>,
    fill: u8,
}

/// One byte or one 64-bit field changed.
#[derive(Arbitrary, Debug)]
pub struct Damage {
    section: u8,
    at: u16,
    value: u64,
    wide: bool,
}

impl Recipe {
    /// The container, or `None` where no container can hold that.
    pub fn build(&self) -> Option<Vec<u8>> {
        let tensors = self.tensors.iter().take(8).map(|(name, encoding, shape, leading)| {
            let encoding = encoding_of(*encoding);
            let shape =
                leading.iter().take(3).map(|&d| u64::from(d % 4)).chain(shape.map(u64::from)).collect();
            TensorSpec { name: name.clone(), shape, dtype: Dtype::F16, encoding }
        });
        let metadata = self.metadata.iter().map(|(key, (kind, number, text))| {
            let value = match kind % 6 {
                0 => Value::Bool(number % 2 == 1),
                1 => Value::U64(*number),
                2 => Value::I64(number.cast_signed()),
                3 => Value::F64(f64::from_bits(*number)),
                4 => Value::String(text),
                _ => Value::Bytes(text.as_bytes()),
            };
            (key.as_str(), value)
        });
        let blobs = self.blobs.iter().map(|(name, &len)| (name.clone(), len.into())).collect();
        let contents =
            Contents { tensors: tensors.collect(), blobs, metadata: metadata.collect(), shard: None };
        let layout = Layout::new(contents).ok()?;
        let planes: Vec<_> =
            layout.index().planes().iter().map(|plane| vec![self.fill; plane.len as usize]).collect();
        let counts: Vec<_> = layout.index().tensors().map(|tensor| tensor.planes().len()).collect();
        let mut writer = Writer::new(Cursor::new(Vec::new()), layout).ok()?;
        let mut planes = planes.iter().map(Vec::as_slice);
        for count in counts.into_iter().chain(self.blobs.iter().map(|_| 1)) {
            let name = writer.next_name()?.to_owned();
            writer
                .write(&name, &planes.by_ref().take(count).collect::<Vec<_>>())
                .expect("planes of the layout");
        }
        Some(writer.finish().expect("everything was written").into_inner())
    }
}

fn encoding_of(choice: u8) -> Encoding {
    let family = Family::ALL[usize::from(choice) % Family::ALL.len()];
    let group = [0, 32, 64, 128][usize::from(choice >> 4) % 4];
    match family.code(group) {
        Ok(code) if choice < 192 => Encoding::Coded(code),
        Ok(code) if code.cluster().is_some() => {
            let imported =
                Code::new(code.segments(), 8, group as u16, code.local_scale(), Some(Cluster::F32));
            Encoding::Coded(imported.expect("the kind of cluster constrains nothing"))
        }
        _ => Encoding::Raw,
    }
}

impl Damage {
    /// Changes a byte, or eight, of one section or of the header, and repairs the checksums if told to.
    pub fn apply(&self, file: &mut [u8], repair: bool) {
        let Ok(container) = Container::from_bytes(file, &Limits::DEFAULT) else { return };
        let sections = container.index().sections();
        let (start, len) = match sections.get(usize::from(self.section) % (sections.len() + 1)) {
            Some(section) => (section.offset, section.len),
            None => (0, 288),
        };
        let at = start + u64::from(self.at).checked_rem(len).unwrap_or(0);
        let width = if self.wide { 8 } else { 1 };
        for (byte, value) in file.iter_mut().skip(at as usize).take(width).zip(self.value.to_le_bytes()) {
            *byte = value;
        }
        if repair {
            seal(file);
        }
    }
}
