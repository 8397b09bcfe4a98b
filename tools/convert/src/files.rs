//! The files of a job under way: unfinished, written block by block, named together in the end.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::PathBuf;

use ccq::format::{WriteError, Writer};
use ccq::{Output, OutputError};

use crate::args::Common;
use crate::blocks::Block;
use crate::error::Error;
use crate::output;
use crate::split::FilePlan;

/// One file, or all of a set.
#[derive(Debug)]
pub struct Files {
    outputs: Vec<Output>,
    writers: Vec<Writer<File>>,
    /// Those with bytes that may not have reached storage.
    dirty: BTreeSet<usize>,
}

impl Files {
    /// Creates the unfinished files, or takes up those that an earlier run left, which then have no header.
    ///
    /// # Errors
    /// `OutputExists`, `Output`, `Write`.
    pub fn create(plans: &[FilePlan], common: &Common, go_on: bool) -> Result<Self, Error> {
        let open = |plan: &FilePlan| match go_on {
            true => Output::resume(&plan.path, common.overwrite).map(|mut output| {
                // Whatever happens next, hours of work are in it.
                output.keep_unfinished(true);
                output
            }),
            false => Output::create(&plan.path, common.overwrite),
        };
        let outputs = plans.iter().map(open).collect::<Result<Vec<_>, _>>().map_err(output::refused)?;
        let mut writers = Vec::new();
        for (output, plan) in outputs.iter().zip(plans) {
            let failed = |source: io::Error| write_error(output, source.into());
            let file = output.file().try_clone().map_err(failed)?;
            remove_header(&file).map_err(failed)?;
            let writer = Writer::new(file, plan.layout.clone());
            writers.push(writer.map_err(|source| write_error(output, source))?);
        }
        Ok(Self { outputs, writers, dirty: BTreeSet::new() })
    }

    /// Writes a block.
    ///
    /// # Errors
    /// `Write`.
    pub fn write(&mut self, block: &Block, name: &str, parts: &[&[u8]]) -> Result<(), Error> {
        let writer = self.writers.get_mut(block.file);
        let written = writer.map_or(Ok(()), |writer| writer.write_part(name, parts));
        self.dirty.insert(block.file);
        written.map_err(|source| self.failed(block.file, source))
    }

    /// Takes a block as written if its bytes are in the file with that checksum.
    ///
    /// # Errors
    /// `Write`.
    pub fn take_over(&mut self, block: &Block, name: &str, checksum: u32) -> Result<bool, Error> {
        let Some((writer, output)) = self.writers.get_mut(block.file).zip(self.outputs.get(block.file))
        else {
            return Ok(false);
        };
        let mut parts = Vec::new();
        // The writer's own handle must stay where it is.
        let file = File::open(output.partial_path()).map_err(|source| write_error(output, source.into()))?;
        for (offset, len) in writer.next_offsets().zip(&block.lens) {
            match read_at(&file, offset, *len) {
                Ok(part) => parts.push(part),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
                Err(error) => return Err(write_error(output, error.into())),
            }
        }
        let parts: Vec<_> = parts.iter().map(Vec::as_slice).collect();
        if self::checksum(&parts) != checksum {
            return Ok(false);
        }
        let skipped = writer.skip_part(name, &parts);
        skipped.map(|()| true).map_err(|source| write_error(output, source))
    }

    /// Makes durable what has been written.
    ///
    /// # Errors
    /// Those of the files.
    pub fn sync(&mut self) -> Result<(), OutputError> {
        for output in self.dirty.iter().filter_map(|&file| self.outputs.get(file)) {
            let failed = |source| OutputError::Io { path: output.partial_path().into(), source };
            output.file().sync_data().map_err(failed)?;
        }
        self.dirty.clear();
        Ok(())
    }

    /// Whether unfinished files stay when this is dropped.
    pub fn keep_unfinished(&mut self, keep: bool) {
        self.outputs.iter_mut().for_each(|output| output.keep_unfinished(keep));
    }

    /// Writes the headers and makes everything durable: all that is missing is the names.
    ///
    /// # Errors
    /// `Write`, `Output`.
    pub fn finish(&mut self) -> Result<(), Error> {
        let writers = std::mem::take(&mut self.writers);
        Writer::finish_set(writers).map_err(|source| self.failed(0, source))?;
        self.dirty = (0..self.outputs.len()).collect();
        self.sync().map_err(Error::Output)
    }

    /// Gives the files their names.
    ///
    /// # Errors
    /// `OutputExists`, `Output`.
    pub fn commit(&mut self) -> Result<(), Error> {
        Output::commit_all(&mut self.outputs).map_err(output::refused)
    }

    fn failed(&self, file: usize, source: WriteError) -> Error {
        match self.outputs.get(file) {
            Some(output) => write_error(output, source),
            None => Error::Write { output: PathBuf::new(), source },
        }
    }
}

/// Names files that an earlier run completed and did not get to name. False if one of them is not there.
///
/// # Errors
/// `OutputExists`, `Output`.
pub fn name_completed(plans: &[FilePlan], common: &Common) -> Result<bool, Error> {
    let is_left = |plan: &&FilePlan| output::partial(&plan.path).exists();
    let (left, named): (Vec<_>, Vec<_>) = plans.iter().partition(is_left);
    if !named.iter().all(|plan| plan.path.is_file()) {
        return Ok(false);
    }
    let open = |plan: &&FilePlan| Output::resume(&plan.path, common.overwrite);
    let mut outputs = left.iter().map(open).collect::<Result<Vec<_>, _>>().map_err(output::refused)?;
    outputs.iter_mut().for_each(|output| output.keep_unfinished(true));
    Output::commit_all(&mut outputs).map_err(output::refused)?;
    Ok(true)
}

/// CRC-32 of parts, one after the other.
pub fn checksum(parts: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize()
}

fn write_error(output: &Output, source: WriteError) -> Error {
    Error::Write { output: output.path().into(), source }
}

/// An unfinished file never opens as a finished one, also if its writer died after it wrote the header.
fn remove_header(mut file: &File) -> io::Result<()> {
    use std::io::{Seek, SeekFrom, Write};
    if file.metadata()?.len() > 0 {
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&[0; 8])?;
    }
    Ok(())
}

fn read_at(mut file: &File, offset: u64, len: u64) -> io::Result<Vec<u8>> {
    use std::io::{Read, Seek, SeekFrom};
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    file.seek(SeekFrom::Start(offset))?;
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::JobOptions;
    use ccq::format::{Contents, Dtype, Encoding, TensorSpec};
    use std::fs;

    /// A process that died between two names left one file with its name and one without.
    #[test]
    fn files_that_are_complete_get_their_names() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("x.ccq");
        let tensor = |name: &str| TensorSpec {
            name: name.into(),
            shape: vec![100_000],
            dtype: Dtype::U8,
            encoding: Encoding::Raw,
        };
        let contents = Contents { tensors: vec![tensor("a"), tensor("b")], ..Contents::default() };
        let plans = crate::split::files(contents, Some(150_000), &output, &output).unwrap();
        let common = Common {
            input: output.clone(),
            output,
            threads: None,
            overwrite: false,
            json: false,
            reading: crate::source::Reading::default(),
            job: JobOptions::default(),
        };
        let [first, second] = plans.as_slice() else { panic!("{plans:?}") };
        fs::write(&first.path, "first").unwrap();
        assert!(!name_completed(&plans, &common).unwrap());
        fs::write(output::partial(&second.path), "second").unwrap();
        assert!(name_completed(&plans, &common).unwrap());
        assert_eq!(fs::read(&second.path).unwrap(), b"second");
        assert!(name_completed(&plans, &common).unwrap());
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 2);
        // What somebody else put there is not replaced, and nothing is lost.
        fs::write(output::partial(&second.path), "third").unwrap();
        assert!(matches!(name_completed(&plans, &common), Err(Error::OutputExists { .. })));
        assert_eq!(fs::read(output::partial(&second.path)).unwrap(), b"third");
    }
}
