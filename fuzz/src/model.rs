//! Using everything of a source model.

use std::fmt::Debug;
use std::ops::Range;
use std::path::Path;

use ccq::codec::Matrix;
use ccq_import::{CodedRows, Error, Model, SourceTensor};

use crate::decode;
use crate::reference::bits;

/// Opens a model and returns it; if it is accepted, reads everything: no call may panic, and what is read in parts is what is
/// read at once.
///
/// # Errors
/// What the importer says.
pub fn read_model(path: &Path) -> Result<Model, Error> {
    let model = Model::open(path)?;
    model.blobs().iter().try_for_each(|blob| blob.read().map(drop))?;
    for tensor in model.tensors() {
        assert_eq!(model.tensor(&tensor.name), Some(tensor));
        let (width, count) = (tensor.dtype.bits(), tensor.element_count());
        if width % 8 == 0 {
            let elements = |range| model.elements(tensor, range).map(|bytes| bytes.into_owned());
            check_parts(count, width as usize / 8, elements);
        }
        check_parts(count, 1, |range| {
            let mut values = Vec::new();
            model.decode_f32(tensor, range, &mut values)?;
            Ok(values.into_iter().map(bits).collect())
        });
        if tensor.code().is_some() {
            check_planes(&model, tensor);
        }
    }
    Ok(model)
}

/// Parts are parts of the whole, `size` items an element, where there is a whole; else they are answered all the same.
fn check_parts<T: Debug + PartialEq>(
    count: u64,
    size: usize,
    read: impl Fn(Range<u64>) -> Result<Vec<T>, Error>,
) {
    let whole = read(0..count);
    for cut in [0, 1, count / 3, count / 2, count.saturating_sub(1)] {
        for range in [0..cut.min(count), cut.min(count)..count, count / 3..count / 2] {
            let (part, place) = (read(range.clone()), range.start as usize * size..range.end as usize * size);
            if let Ok(whole) = &whole {
                assert_eq!(part.expect("a part of what can be read"), whole[place]);
            }
        }
    }
    assert!(read(0..count + 1).is_err());
}

/// The planes of all rows are those of some rows and those of the others, and decode to what the model decodes to.
fn check_planes(model: &Model, tensor: &SourceTensor) {
    let [rows, in_features] = *tensor.shape else { panic!("codes of {:?}", tensor.shape) };
    let half = rows / 2;
    let parts = [model.planes(tensor, 0..half), model.planes(tensor, half..rows)];
    let Ok(whole) = model.planes(tensor, 0..rows) else { return };
    let [first, second] = parts.map(|part| part.expect("a part of what can be read"));
    let planes: [fn(&CodedRows) -> &Vec<u8>; 4] =
        [|rows| &rows.words, |rows| &rows.local_scale, |rows| &rows.super_scale, |rows| &rows.cluster];
    for plane in planes {
        assert_eq!([&plane(&first)[..], plane(&second)].concat(), *plane(&whole));
    }
    let matrix = Matrix::new(whole.code, rows as usize, in_features as usize, whole.planes());
    let mut values = Vec::new();
    model.decode_f32(tensor, 0..tensor.element_count(), &mut values).expect("what has planes");
    let decoded = decode(&matrix.expect("planes of the code"));
    assert!(decoded.into_iter().map(bits).eq(values.into_iter().map(bits)));
}
