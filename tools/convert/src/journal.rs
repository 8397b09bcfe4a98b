//! What is done of a job that is not finished: `OUTPUT.partial.journal`, beside the unfinished output.
//!
//! ```text
//! line  = checksum " " json "\n"          CRC-32 of the json, eight hexadecimal digits
//! first   {"job": {what the job is, with what was measured for a budget}}  compared before it is gone on with
//! then    {"block": [...]}                one for each block that is in the file, in order, with its checksum
//! last    {"complete": true}              all files are complete, and about to get their names
//! ```
//!
//! Lines are added in batches, each after the bytes of its blocks have been flushed to storage, so that a line
//! says the truth also after a loss of power. A line that was cut off ends the journal. Whoever goes on compares
//! each block with its checksum all the same.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ccq::OutputError;
use serde::{Deserialize, Serialize};

use crate::report::TensorError;

/// The share of the time that flushing may take is one in so many.
const SHARE: u32 = 20;
/// Between two flushes, at least.
const LEAST: Duration = Duration::from_millis(20);

/// What a job is: options and inputs by name. A `BTreeMap` so that the first difference is always the same.
pub type Identity = BTreeMap<String, String>;

/// A journal that is being written.
#[derive(Debug)]
pub struct Journal {
    file: File,
    path: PathBuf,
    /// Lines that wait for the next flush.
    pending: Vec<u8>,
    /// Whether there is a block in the file.
    has_blocks: bool,
    last: Instant,
    /// How long the last flush took.
    took: Duration,
}

/// What a journal says of an earlier run.
#[derive(Debug, Default)]
pub struct Found {
    /// What the job was.
    pub identity: Identity,
    /// Its blocks, from the first on, and where in the journal the line of each ends.
    pub blocks: Vec<(BlockDone, u64)>,
    /// Whether all files were complete.
    pub complete: bool,
    /// Where the first line ends.
    start: u64,
    /// Where the last whole line ends.
    end: u64,
}

/// A block that is in the file.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockDone {
    /// CRC-32 of its bytes, plane after plane.
    pub crc: u32,
    /// What quantizing did to it.
    pub error: Option<TensorError>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line {
    Job(Identity),
    /// Checksum, and the bits of four sums of errors: JSON's numbers need not come back the same.
    Block(u32, Option<[u64; 2]>, Option<[u64; 2]>),
    Complete(bool),
}

impl Journal {
    /// Opens the journal beside the unfinished output and locks it, and reads what it says, if anything.
    ///
    /// # Errors
    /// `Locked` while another process has it, `Io`.
    pub fn open(path: PathBuf) -> Result<(Self, Option<Found>), OutputError> {
        let failed = |source| OutputError::Io { path: path.clone(), source };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OutputError::Locked { partial: path }),
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        let mut text = Vec::new();
        file.read_to_end(&mut text).map_err(failed)?;
        let found = read(&text);
        let (last, took) = (Instant::now(), Duration::ZERO);
        let has_blocks = found.as_ref().is_some_and(|found| !found.blocks.is_empty());
        Ok((Self { file, path, pending: Vec::new(), has_blocks, last, took }, found))
    }

    /// Begins anew.
    ///
    /// # Errors
    /// Those of the file.
    pub fn start(&mut self, identity: &Identity) -> Result<(), OutputError> {
        self.cut(0)?;
        self.has_blocks = false;
        self.pending = line(&Line::Job(identity.clone()));
        self.write()
    }

    /// Goes on behind the first `blocks` blocks.
    ///
    /// # Errors
    /// Those of the file.
    pub fn go_on(&mut self, found: &Found, blocks: usize) -> Result<(), OutputError> {
        let end = match blocks.checked_sub(1).and_then(|last| found.blocks.get(last)) {
            _ if blocks == found.blocks.len() && found.complete => found.end,
            Some((_, end)) => *end,
            None => found.start,
        };
        self.has_blocks = blocks > 0;
        self.cut(end)
    }

    /// Notes a block whose bytes have been given to the system.
    pub fn add(&mut self, block: &BlockDone) {
        let bits = |pair: (f64, f64)| [pair.0.to_bits(), pair.1.to_bits()];
        let plain = block.error.map(|error| bits((error.squared_error, error.energy)));
        let weighted = block.error.and_then(|error| error.weighted).map(bits);
        self.pending.extend(line(&Line::Block(block.crc, plain, weighted)));
    }

    /// Whether it is time for [`Journal::flush`]: seldom enough that it costs little.
    pub fn is_due(&self) -> bool {
        self.last.elapsed() >= self.took.saturating_mul(SHARE).max(LEAST)
    }

    /// Makes the blocks noted so far durable: `payload` flushes their bytes, then come the lines.
    ///
    /// # Errors
    /// Those of the files.
    pub fn flush(&mut self, payload: impl FnOnce() -> Result<(), OutputError>) -> Result<(), OutputError> {
        if !self.pending.is_empty() {
            let start = Instant::now();
            payload()?;
            self.write()?;
            self.has_blocks = true;
            self.file.sync_data().map_err(|source| self.failed(source))?;
            self.took = start.elapsed();
        }
        self.last = Instant::now();
        Ok(())
    }

    /// Notes that every file is complete and durable.
    ///
    /// # Errors
    /// Those of the file.
    pub fn complete(&mut self) -> Result<(), OutputError> {
        self.pending.extend(line(&Line::Complete(true)));
        self.write()?;
        self.file.sync_data().map_err(|source| self.failed(source))
    }

    /// Whether there is anything to go on with.
    pub fn has_blocks(&self) -> bool {
        self.has_blocks
    }

    /// Removes the file: the job is finished, or is not to be gone on with.
    pub fn remove(self) {
        // One that stays does no harm: the next job of this output looks at it.
        let _ = fs::remove_file(&self.path);
    }

    fn write(&mut self) -> Result<(), OutputError> {
        let written = self.file.write_all(&self.pending);
        self.pending.clear();
        written.map_err(|source| self.failed(source))
    }

    fn cut(&mut self, len: u64) -> Result<(), OutputError> {
        let cut = self.file.set_len(len).and_then(|()| self.file.seek(SeekFrom::Start(len)).map(drop));
        cut.map_err(|source| self.failed(source))
    }

    fn failed(&self, source: io::Error) -> OutputError {
        OutputError::Io { path: self.path.clone(), source }
    }
}

/// What the job of a journal is, without a lock: it may be over by the time of the answer.
pub fn job(path: &Path) -> Option<Identity> {
    Some(read(&fs::read(path).ok()?)?.identity)
}

/// `OUTPUT.partial.journal`
pub fn path(output: &Path) -> PathBuf {
    let mut path = output.as_os_str().to_os_string();
    path.push(".partial.journal");
    path.into()
}

fn line(line: &Line) -> Vec<u8> {
    // Strings and integers always have a JSON form.
    let json = serde_json::to_string(line).unwrap_or_default();
    format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes())).into_bytes()
}

/// What the whole lines say; nothing where not even the first one is.
fn read(text: &[u8]) -> Option<Found> {
    let mut found = None;
    let mut end = 0u64;
    for raw in text.split_inclusive(|&byte| byte == b'\n') {
        let Some(line) = parse(raw) else { break };
        end = end.saturating_add(raw.len() as u64);
        match (line, &mut found) {
            (Line::Job(identity), None) => {
                found = Some(Found { identity, start: end, ..Found::default() });
            }
            (Line::Block(crc, plain, weighted), Some(found)) if !found.complete => {
                let pair = |bits: [u64; 2]| (f64::from_bits(bits[0]), f64::from_bits(bits[1]));
                let error = plain.map(pair).map(|(squared_error, energy)| TensorError {
                    squared_error,
                    energy,
                    weighted: weighted.map(pair),
                });
                found.blocks.push((BlockDone { crc, error }, end));
            }
            (Line::Complete(true), Some(found)) => found.complete = true,
            _ => break,
        }
        if let Some(found) = &mut found {
            found.end = end;
        }
    }
    found
}

fn parse(line: &[u8]) -> Option<Line> {
    let (crc, json) = line.strip_suffix(b"\n")?.split_at_checked(9)?;
    let crc = u32::from_str_radix(std::str::from_utf8(crc).ok()?.strip_suffix(' ')?, 16).ok()?;
    (crc32fast::hash(json) == crc).then(|| serde_json::from_slice(json).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(crc: u32) -> BlockDone {
        let weighted = (crc > 1).then_some((0.1 + f64::from(crc), f64::MIN_POSITIVE));
        let error = TensorError { squared_error: 1.0 / 3.0, energy: f64::from(crc).sqrt(), weighted };
        BlockDone { crc, error: (crc > 0).then_some(error) }
    }

    fn identity() -> Identity {
        [("--quality".to_owned(), "best".to_owned()), ("input \"a\tb\"\n".to_owned(), "1".to_owned())].into()
    }

    #[test]
    fn what_is_noted_is_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let at = path(&folder.path().join("x.ccq"));
        assert!(at.ends_with("x.ccq.partial.journal"));
        let (mut journal, found) = Journal::open(at.clone()).unwrap();
        assert!(found.is_none() && !journal.has_blocks());
        assert!(matches!(Journal::open(at.clone()), Err(OutputError::Locked { .. })));
        journal.start(&identity()).unwrap();
        (0..3).for_each(|crc| journal.add(&done(crc)));
        journal.flush(|| Ok(())).unwrap();
        journal.add(&done(3));
        drop(journal); // not flushed

        let (mut journal, found) = Journal::open(at.clone()).unwrap();
        let found = found.unwrap();
        assert!(journal.has_blocks() && !found.complete);
        assert_eq!(found.identity, identity());
        let blocks: Vec<_> = found.blocks.iter().map(|block| block.0.clone()).collect();
        assert_eq!(blocks, [done(0), done(1), done(2)]);
        journal.go_on(&found, 2).unwrap();
        journal.add(&done(7));
        journal.flush(|| Ok(())).unwrap();
        journal.complete().unwrap();
        drop(journal);

        let (journal, found) = Journal::open(at.clone()).unwrap();
        let found = found.unwrap();
        let blocks: Vec<_> = found.blocks.iter().map(|block| block.0.clone()).collect();
        assert_eq!((blocks, found.complete), (vec![done(0), done(1), done(7)], true));
        journal.remove();
        assert!(!at.exists());
    }

    /// However a journal is cut or damaged, what is found is a beginning of what was noted.
    #[test]
    fn damage_ends_it() {
        let mut text = line(&Line::Job(identity()));
        let start = text.len();
        for crc in 0..5 {
            text.extend(line(&Line::Block(crc, Some([1, 2]), None)));
        }
        for cut in 0..text.len() {
            let blocks = |text: &[u8]| {
                read(text).map(|found| found.blocks.iter().map(|block| block.0.crc).collect::<Vec<_>>())
            };
            let found = blocks(&text[..cut]);
            assert_eq!(found.is_some(), cut >= start);
            let mut damaged = text.clone();
            damaged[cut] ^= 1;
            for found in [found, blocks(&damaged)].into_iter().flatten() {
                assert!(found.len() < 5 && found.iter().copied().eq(0..found.len() as u32));
            }
        }
    }

    #[test]
    fn payload_that_cannot_be_flushed_is_not_noted() {
        let folder = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(folder.path().join("j")).unwrap();
        journal.start(&identity()).unwrap();
        journal.add(&done(1));
        let full = || Err(OutputError::Io { path: "x".into(), source: io::ErrorKind::StorageFull.into() });
        assert!(journal.flush(full).is_err());
        assert!(!journal.has_blocks());
        assert!(read(&fs::read(folder.path().join("j")).unwrap()).unwrap().blocks.is_empty());
    }
}
