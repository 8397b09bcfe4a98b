//! Small containers of any contents.

use std::collections::BTreeMap;
use std::io::Cursor;

use arbitrary::Arbitrary;
use ccq::code::{Cluster, Code, Family, LocalScale, Segment};
use ccq::format::{Contents, Dtype, Encoding, Layout, Shard, TensorSpec, Value, Writer};

/// A small container.
#[derive(Arbitrary, Debug)]
pub struct Recipe {
    tensors: Vec<(String, u8, [u8; 2], Vec<u8>)>,
    blobs: BTreeMap<String, u8>,
    metadata: BTreeMap<String, (u8, u64, String)>,
    shard: Option<(u8, u8, [u8; 16])>,
    /// What the planes are filled with, over and over.
    fill: Vec<u8>,
}

impl Recipe {
    /// The container, or `None` where no container can hold that.
    pub fn build(&self) -> Option<Vec<u8>> {
        let layout = Layout::new(self.contents()).ok()?;
        let mut fill = self.fill.iter().chain(&[0]).copied().cycle();
        let mut plane = |len| fill.by_ref().take(len as usize).collect::<Vec<u8>>();
        let planes: Vec<_> = layout.index().planes().iter().map(|record| plane(record.len)).collect();
        let counts: Vec<_> = layout.index().tensors().map(|tensor| tensor.planes().len()).collect();
        let mut writer = Writer::new(Cursor::new(Vec::new()), layout).ok()?;
        let mut planes = planes.iter().map(Vec::as_slice);
        for count in counts.into_iter().chain(self.blobs.iter().map(|_| 1)) {
            let name = writer.next_name()?.to_owned();
            let planes: Vec<_> = planes.by_ref().take(count).collect();
            writer.write(&name, &planes).expect("planes of the layout");
        }
        Some(writer.finish().expect("everything was written").into_inner())
    }

    fn contents(&self) -> Contents<'_> {
        let tensors = self.tensors.iter().take(8).map(|(name, encoding, shape, leading)| {
            let encoding = encoding_of(*encoding);
            let leading = leading.iter().take(3).map(|&dimension| u64::from(dimension % 4));
            let shape = leading.chain(shape.map(u64::from)).collect();
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
        let shard = self.shard.map(|(index, count, set_id)| Shard {
            index: index.into(),
            count: count.into(),
            set_id,
        });
        Contents { tensors: tensors.collect(), blobs, metadata: metadata.collect(), shard }
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
        _ => unnamed(choice, group as u16).map_or(Encoding::Raw, Encoding::Coded),
    }
}

/// A code without a name, or none.
fn unnamed(choice: u8, group: u16) -> Option<Code> {
    let (segments, word_bits): (&[(u8, u8, u8)], u8) = match choice % 8 {
        0 => (&[(8, 3, 4)], 16),
        1 => (&[(16, 1, 16)], 16),
        2 => (&[(1, 16, 1)], 16),
        3 => (&[(7, 2, 1), (5, 2, 3)], 16),
        4 => (&[(5, 2, 3)], 8),
        _ => return None,
    };
    let segments: Vec<_> = segments.iter().map(|&(l, n, s)| Segment::new(l, n, s)).collect();
    let placements = (4..16).map(|bits| LocalScale::Embedded { bits });
    let mut placements = [LocalScale::None, LocalScale::Nibble].into_iter().chain(placements);
    placements.find_map(|scale| Code::new(&segments, word_bits, group, scale, None).ok())
}
