//! Using everything of an open container.

use ccq::format::{Encoding, Error};
use ccq::{Container, Limits};

/// Opens bytes and, if they are accepted, uses everything: no call may panic, whatever the bytes.
///
/// # Errors
/// What the reader says.
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
