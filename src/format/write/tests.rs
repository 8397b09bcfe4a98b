use super::*;
use crate::code::Family;
use alloc::string::ToString;
use alloc::vec;
use std::io::Cursor;

fn coded(name: &str, family: Family, shape: &[u64]) -> TensorSpec {
    let encoding = Encoding::Coded(family.default_code().unwrap());
    TensorSpec { name: name.into(), shape: shape.into(), dtype: Dtype::Bf16, encoding }
}

fn raw(name: &str, dtype: Dtype, shape: &[u64]) -> TensorSpec {
    TensorSpec { name: name.into(), shape: shape.into(), dtype, encoding: Encoding::Raw }
}

/// Writes contents with planes full of `fill` bytes; blobs too.
fn write(contents: Contents<'_>, fill: u8) -> Vec<u8> {
    let layout = Layout::new(contents).unwrap();
    let index = layout.index().clone();
    let mut writer = Writer::new(Cursor::new(Vec::new()), layout).unwrap();
    let mut planes = index.planes().iter();
    for name in index.tensors().map(|t| t.name()).chain(index.blobs().map(|b| b.name)) {
        assert_eq!(writer.next_name(), Some(name));
        let count = index.tensor(name).map_or(1, |tensor| tensor.planes().len());
        let bytes: Vec<_> = planes.by_ref().take(count).map(|plane| vec![fill; plane.len as usize]).collect();
        writer.write(name, &bytes.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

fn example() -> Contents<'static> {
    Contents {
        tensors: vec![
            coded("b.weight", Family::Ccq206, &[2, 5, 100]),
            raw("a.bias", Dtype::F32, &[5]),
            raw("scalar", Dtype::Bool, &[]),
            raw("empty", Dtype::F16, &[3, 0]),
            coded("c.weight", Family::Ccq275, &[3, 64]),
        ],
        blobs: [("config.json".to_string(), 5), ("1_Pooling/config.json".to_string(), 0)].into(),
        metadata: [("ccq.producer", Value::String("test")), ("flag", Value::Bool(true))].into(),
        shard: None,
    }
}

#[test]
fn what_is_written_reads_back() {
    let bytes = write(example(), 0);
    let index = Index::parse(&bytes, bytes.len() as u64, &Limits::DEFAULT).unwrap();
    let names: Vec<_> = index.tensors().map(|tensor| tensor.name()).collect();
    assert_eq!(names, ["a.bias", "b.weight", "c.weight", "empty", "scalar"]);
    let tensor = index.tensor("b.weight").unwrap();
    assert_eq!(tensor.shape(), [2, 5, 100]);
    assert_eq!(tensor.dtype(), Dtype::Bf16);
    assert_eq!(tensor.encoding().to_string(), "ccq-2.06");
    assert_eq!(tensor.rows_and_features(), Some((10, 100)));
    assert_eq!(tensor.planes().len(), 4);
    assert_eq!(tensor.stored_bytes(), 10 * (32 + 1 + 4 + 4));
    assert_eq!(index.metadata().get("flag"), Some(Value::Bool(true)));
    assert_eq!(index.metadata().iter().count(), 2);
    let blobs: Vec<_> = index.blobs().map(|blob| (blob.name, blob.plane.len)).collect();
    assert_eq!(blobs, [("1_Pooling/config.json", 0), ("config.json", 5)]);
    assert_eq!(index.file_len(), bytes.len() as u64);
    assert!(index.tensor("b.weigh").is_none());
    let front = Index::front_len(&bytes[..4096], bytes.len() as u64, &Limits::DEFAULT).unwrap();
    assert!(Index::parse(&bytes[..front as usize], bytes.len() as u64, &Limits::DEFAULT).is_ok());
}

#[test]
fn an_empty_container_is_one() {
    let bytes = write(Contents::default(), 0);
    let index = Index::parse(&bytes, bytes.len() as u64, &Limits::DEFAULT).unwrap();
    assert_eq!(index.tensors().len(), 0);
}

#[test]
fn readers_errors_are_the_writers() {
    let refused = |tensors| Layout::new(Contents { tensors, ..Contents::default() }).unwrap_err();
    let twice = refused(vec![raw("a", Dtype::U8, &[1]), raw("a", Dtype::U8, &[1])]);
    assert!(matches!(twice, Error::BadName { .. }), "{twice}");
    let half_a_byte = refused(vec![raw("a", Dtype::F4, &[3])]);
    assert!(matches!(half_a_byte, Error::BadShape { .. }), "{half_a_byte}");
    let huge = refused(vec![raw("a", Dtype::U8, &[1 << 40, 1 << 40, 0])]);
    assert!(matches!(huge, Error::Overflow { .. }), "{huge}");
    let too_long = refused(vec![raw(&"n".repeat(1025), Dtype::U8, &[1])]);
    assert!(matches!(too_long, Error::LimitExceeded { .. }), "{too_long}");
}

#[test]
fn planes_come_in_order_and_of_their_length() {
    let layout = Layout::new(example()).unwrap();
    let mut writer = Writer::new(Cursor::new(Vec::new()), layout).unwrap();
    assert!(matches!(writer.write("scalar", &[&[0]]), Err(WriteError::Order { .. })));
    assert!(matches!(writer.write("a.bias", &[&[0; 19]]), Err(WriteError::PlaneLength { .. })));
    assert!(matches!(writer.write("a.bias", &[]), Err(WriteError::PlaneLength { .. })));
    writer.write("a.bias", &[&[0; 20]]).unwrap();
    assert!(matches!(writer.finish(), Err(WriteError::Unfinished { .. })));
}

/// Nothing but zeros stands where the magic will be until everything else is written.
#[test]
fn the_header_comes_last() {
    let mut sink = Cursor::new(Vec::new());
    let mut writer = Writer::new(&mut sink, Layout::new(example()).unwrap()).unwrap();
    writer.write("a.bias", &[&[7; 20]]).unwrap();
    drop(writer);
    let bytes = sink.into_inner();
    let error = Index::parse(&bytes, bytes.len() as u64, &Limits::DEFAULT).unwrap_err();
    let Error::BadMagic { hint, .. } = error else { panic!("{error}") };
    assert_eq!(hint, crate::format::MagicHint::Unfinished);
}

/// Writes contents row by row, or byte by byte where `width` is 1; what `skip` says is on the sink already.
fn write_in_parts(sink: Vec<u8>, width: usize, skip: impl Fn(&str) -> bool) -> Vec<u8> {
    let layout = Layout::new(example()).unwrap();
    let index = layout.index().clone();
    let mut writer = Writer::new(Cursor::new(sink), layout).unwrap();
    let tensors = index.tensors().map(|tensor| (tensor.name(), tensor.planes().to_vec()));
    for (name, planes) in tensors.chain(index.blobs().map(|blob| (blob.name, vec![*blob.plane]))) {
        let longest = planes.iter().map(|plane| plane.len as usize).max().unwrap();
        for start in (0..longest.max(1)).step_by(width) {
            let parts: Vec<Vec<u8>> = planes
                .iter()
                .map(|plane| (start..(start + width).min(plane.len as usize)).map(|i| i as u8).collect())
                .collect();
            let offsets: Vec<_> = planes.iter().map(|p| p.offset + p.len.min(start as u64)).collect();
            assert!(writer.next_offsets().eq(offsets), "{name}");
            let parts: Vec<_> = parts.iter().map(Vec::as_slice).collect();
            if skip(name) { writer.skip_part(name, &parts) } else { writer.write_part(name, &parts) }
                .unwrap();
        }
    }
    writer.finish().unwrap().into_inner()
}

#[test]
fn parts_make_the_same_file_as_wholes() {
    let whole = write_in_parts(Vec::new(), usize::MAX, |_| false);
    for width in [1, 7, 64] {
        assert_eq!(write_in_parts(Vec::new(), width, |_| false), whole, "{width}");
    }
    // An unfinished file that has all tensors but none of its front is gone on with.
    let mut unfinished = whole.clone();
    let front = Layout::new(example()).unwrap().front.len();
    unfinished[..front].fill(0);
    // Whatever stands in its paddings.
    let index = Layout::new(example()).unwrap().index;
    for pair in index.planes().windows(2) {
        unfinished[pair[0].end() as usize..pair[1].offset as usize].fill(0xA5);
    }
    assert_eq!(write_in_parts(unfinished, 7, |name| !name.contains("config")), whole);
    Index::parse(&whole, whole.len() as u64, &Limits::DEFAULT).unwrap();
}

#[test]
fn parts_longer_than_their_plane_are_refused() {
    let mut writer = Writer::new(Cursor::new(Vec::new()), Layout::new(example()).unwrap()).unwrap();
    writer.write_part("a.bias", &[&[0; 15]]).unwrap();
    let error = writer.write_part("a.bias", &[&[0; 6]]).unwrap_err();
    assert!(matches!(error, WriteError::PlaneLength { expected: 20, found: 21, .. }), "{error}");
    assert!(matches!(writer.write_part("scalar", &[&[0]]), Err(WriteError::Order { .. })));
    writer.write_part("a.bias", &[&[0; 5]]).unwrap();
    assert_eq!(writer.next_name(), Some("b.weight"));
}

#[test]
fn the_files_of_a_set_share_an_id() {
    let set = |fill: u8, dtype| {
        let writers = (0..2u32).map(|index| {
            let name = ["a", "b"][index as usize];
            let shard = Some(Shard { index, count: 2, set_id: [0; 16] });
            let contents = Contents { tensors: vec![raw(name, dtype, &[4])], shard, ..Contents::default() };
            let mut writer = Writer::new(Cursor::new(Vec::new()), Layout::new(contents).unwrap()).unwrap();
            writer.write(name, &[&[fill; 4]]).unwrap();
            writer
        });
        let files = Writer::finish_set(writers.collect()).unwrap();
        let ids: Vec<_> = files
            .into_iter()
            .map(|file| {
                let bytes = file.into_inner();
                Index::parse(&bytes, bytes.len() as u64, &Limits::DEFAULT).unwrap().shard().set_id
            })
            .collect();
        assert_eq!(ids[0], ids[1]);
        ids[0]
    };
    let id = set(1, Dtype::U8);
    assert_eq!(id, set(1, Dtype::U8));
    assert_ne!(id, set(2, Dtype::U8));
    assert_ne!(id, set(1, Dtype::I8));
    assert_ne!(id, [0; 16]);
}

/// The published vectors of FNV-1a, 128 bits.
#[test]
fn fnv128_is_itself() {
    let hash = |bytes: &[u8]| {
        let mut hash = Fnv128::new();
        hash.update(bytes);
        u128::from_be_bytes(hash.bytes())
    };
    assert_eq!(hash(b""), 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d);
    assert_eq!(hash(b"a"), 0xd228_cb69_6f1a_8caf_7891_2b70_4e4a_8964);
    assert_eq!(hash(b"foobar"), 0x343e_1662_793c_64bf_6f0d_3597_ba44_6f18);
}
