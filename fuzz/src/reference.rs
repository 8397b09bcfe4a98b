//! The reader in plain Python, kept running: it is asked about one file after the other.

use std::cell::RefCell;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use ccq::{Container, Limits};

use crate::decode;

/// Weights that the reference decodes in a moment.
const FEW: u64 = 1 << 12;

/// What a reader makes of a file. Where several things are wrong it may name any of them, so errors are not
/// compared (spec, clause 9.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Refused when opened.
    Open,
    /// Refused when verified.
    Verify,
    /// Accepted; the CRC-32 of everything decoded, zero where it is too much for the reference.
    Accepted(u32),
}

/// What the reader in Rust says.
pub fn verdict(bytes: &[u8]) -> Verdict {
    let Ok(container) = Container::from_bytes(bytes, &Limits::DEFAULT) else { return Verdict::Open };
    if container.verify().is_err() {
        return Verdict::Verify;
    }
    let mut crc = crc32fast::Hasher::new();
    if container.index().parameters() <= FEW {
        for tensor in container.tensors() {
            match tensor.matrix() {
                Some(matrix) => decode(&matrix).into_iter().for_each(|value| crc.update(&bits(value))),
                None => crc.update(tensor.raw().unwrap_or_default()),
            }
        }
    }
    Verdict::Accepted(crc.finalize())
}

/// The bytes of a decoded weight; of a NaN those of the reference, as the specification leaves them open.
pub fn bits(value: f32) -> [u8; 4] {
    if value.is_nan() { 0x7FC0_0000u32.to_le_bytes() } else { value.to_le_bytes() }
}

/// What the reference says.
pub fn reference(bytes: &[u8]) -> Verdict {
    thread_local!(static READER: RefCell<Reader> = RefCell::new(Reader::start()));
    READER.with_borrow_mut(|reader| reader.ask(bytes))
}

struct Reader {
    _process: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Reader {
    fn start() -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("reference.py");
        let mut command = Command::new("python3");
        command.arg(script).arg(FEW.to_string()).env("PYTHONDONTWRITEBYTECODE", "1");
        let mut process =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("python3 on the PATH");
        let questions = process.stdin.take().expect("a pipe");
        let answers = BufReader::new(process.stdout.take().expect("a pipe"));
        Self { _process: process, questions, answers }
    }

    fn ask(&mut self, bytes: &[u8]) -> Verdict {
        let len = u32::try_from(bytes.len()).expect("a small file").to_le_bytes();
        self.questions.write_all(&len).and_then(|()| self.questions.write_all(bytes)).expect("a reader");
        self.questions.flush().expect("a reader");
        let mut answer = String::new();
        self.answers.read_line(&mut answer).expect("a reader");
        match answer.trim_end() {
            "open" => Verdict::Open,
            "verify" => Verdict::Verify,
            crc => Verdict::Accepted(crc.parse().expect("a checksum")),
        }
    }
}
