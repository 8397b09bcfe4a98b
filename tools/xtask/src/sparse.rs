//! Files whose zeros take no room on the disk.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};

/// What is shorter than a page is written as it is.
const PAGE: usize = 4096;

/// Writes runs of zeros by leaving them out.
pub struct Sparse(pub File);

impl Write for Sparse {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() < PAGE || bytes.iter().any(|&byte| byte != 0) {
            return self.0.write(bytes);
        }
        self.0.seek_relative(bytes.len() as i64)?;
        Ok(bytes.len())
    }

    /// Gives the file its length where it ends in zeros that were left out.
    fn flush(&mut self) -> io::Result<()> {
        let end = self.0.metadata()?.len().max(self.0.stream_position()?);
        self.0.set_len(end)
    }
}

impl Seek for Sparse {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        self.flush()?;
        self.0.seek(position)
    }
}
