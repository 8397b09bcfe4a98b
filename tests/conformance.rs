//! The reader and the decoder in plain Python, written from the specification alone (spec/reference), agree: bit
//! for bit on every golden file, on the error of every bad one, and on which damaged ones to refuse. Python is
//! required: without it these tests fail.
#![cfg(feature = "std")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use ccq::format::{SectionKind, seal};
use ccq::{Container, Limits};

/// Decodes every tensor of a file, one after the other.
const DECODE_ALL: &str = "
import sys
import ccq
f = ccq.open(sys.argv[1])
f.verify()
for t in f.tensors:
    sys.stdout.buffer.write(f.decode(t))
";

/// Prints the phase and the error of each file.
const REFUSE_ALL: &str = "
import sys
import ccq
for path in sys.argv[1:]:
    phase = 'open'
    try:
        f = ccq.open(path)
        phase = 'verify'
        f.verify()
        print(path, '|', 'accepted')
    except ccq.FormatError as error:
        print(path, '|', phase, '|', error)
";

/// Answers each file named on standard input: the phase that refuses it, or the CRC-32 of all it decodes to.
const JUDGE_ALL: &str = "
import sys
import zlib
import ccq
for path in sys.stdin.read().splitlines():
    phase = 'open'
    try:
        f = ccq.open(path)
        phase = 'verify'
        f.verify()
        phase = '%08x' % zlib.crc32(b''.join(f.decode(t) for t in f.tensors))
    except ccq.FormatError:
        pass
    print(phase)
    f = None
";

/// Bad files that break two rules at once, where a reader may name either (clause 9.5): the
/// error other than ours.
const OTHER_FAULT: [(&str, &str); 6] = [
    ("bounds-name-huge.ccq", "LimitExceeded"),
    ("encoding-planes-cut.ccq", "Layout"),
    ("metadata-key-huge.ccq", "LimitExceeded"),
    ("overflow-all-planes.ccq", "BadShape"),
    ("overflow-first-dimension.ccq", "OutOfBounds"),
    ("overflow-name-end.ccq", "OutOfBounds"),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Runs Python in the reference's folder.
fn python(configure: impl FnOnce(&mut Command)) -> Output {
    let mut command = Command::new("python3");
    command.current_dir(root().join("spec/reference")).env("PYTHONDONTWRITEBYTECODE", "1");
    command.env("PYTHONIOENCODING", "utf-8");
    configure(&mut command);
    command.output().expect("python3 could not be started: the conformance tests need it on the PATH")
}

/// The containers of a folder of testdata, sorted.
fn containers(folder: &str) -> Vec<PathBuf> {
    let folder = root().join("testdata").join(folder);
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "ccq"));
    files.sort();
    assert!(!files.is_empty());
    files
}

/// What the container decodes to: little-endian f32, or the bytes of a raw tensor.
fn decoded(tensor: &ccq::Tensor<'_>) -> Vec<u8> {
    let Some(matrix) = tensor.matrix() else { return tensor.raw().unwrap_or_default().to_vec() };
    let mut values = vec![0.0; matrix.rows() * matrix.in_features()];
    matrix.decode_rows_into(0..matrix.rows(), &mut values).unwrap();
    values.iter().flat_map(|value: &f32| value.to_le_bytes()).collect()
}

#[test]
fn the_reference_decodes_every_golden_file_to_the_same_bits() {
    for path in containers("golden") {
        let container = Container::read(&path).unwrap();
        let output = python(|command| {
            command.arg("-c").arg(DECODE_ALL).arg(&path);
        });
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {errors}", path.display());
        let mut found = &output.stdout[..];
        for tensor in container.tensors() {
            let expected = decoded(&tensor);
            let (bytes, rest) = found.split_at_checked(expected.len()).expect("as many bytes as expected");
            let differs = bytes.iter().zip(&expected).position(|(a, b)| a != b).map(|byte| byte / 4);
            assert_eq!(
                differs,
                None,
                "{}: first weight of {:?} that differs",
                path.display(),
                tensor.info().name()
            );
            found = rest;
        }
        assert!(found.is_empty(), "{}: {} bytes too many", path.display(), found.len());
    }
}

#[test]
fn the_reference_refuses_every_bad_file_with_the_same_error() {
    let table = fs::read_to_string(root().join("testdata/bad/expected.txt")).unwrap();
    let files = containers("bad");
    let output = python(|command| {
        command.arg("-c").arg(REFUSE_ALL).args(&files);
    });
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found = String::from_utf8(output.stdout).unwrap();
    let rows = table.lines().filter(|line| !line.starts_with('#'));
    let mut wrong = Vec::new();
    for (row, (path, found)) in rows.zip(files.iter().zip(found.lines())) {
        let name = path.file_name().unwrap().to_str().unwrap();
        let fields: Vec<_> = row.split(" | ").collect();
        assert_eq!(fields[0], name, "the table and the folder differ: run `cargo xtask bad`");
        let variant = fields[2].split('{').next().unwrap();
        let other = OTHER_FAULT.iter().filter(|(file, _)| *file == name).map(|(_, error)| *error);
        let says = |error| found.starts_with(&format!("{} | {} | {error}:", path.display(), fields[1]));
        if ![variant].into_iter().chain(other).any(says) {
            wrong.push(format!("{name}: expected {} {variant}, the reference says {found}", fields[1]));
        }
    }
    assert_eq!(found.lines().count(), files.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Golden files with a byte or a field changed and the checksums of the front made to fit: both readers refuse the
/// same ones in the same phase, and decode the others to the same bits.
#[test]
fn the_reference_judges_damaged_files_alike() {
    let folder = tempfile::tempdir().unwrap();
    let (mut paths, mut expected) = (Vec::new(), Vec::new());
    let mut random = Random(1);
    for path in containers("golden") {
        let good = fs::read(path).unwrap();
        for _ in 0..DAMAGED {
            let mut file = good.clone();
            damage(&mut file, &mut random);
            let path = folder.path().join(paths.len().to_string());
            fs::write(&path, &file).unwrap();
            expected.push((verdict(&file), path.clone()));
            paths.push(path.into_os_string().into_string().unwrap());
        }
    }
    let list = folder.path().join("list");
    fs::write(&list, paths.join("\n")).unwrap();
    let output = python(|command| {
        command.arg("-c").arg(JUDGE_ALL).stdin(fs::File::open(&list).unwrap());
    });
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found = String::from_utf8(output.stdout).unwrap();
    assert_eq!(found.lines().count(), expected.len());
    let accepted = expected.iter().filter(|(verdict, _)| verdict.len() == 8).count();
    assert!(accepted > DAMAGED, "only {accepted} of {} are accepted: too much damage", expected.len());
    for (found, (expected, path)) in found.lines().zip(expected) {
        if found != expected {
            let kept = folder.keep();
            panic!("{}: {expected}, the reference says {found} (kept in {})", path.display(), kept.display());
        }
    }
}

/// Damaged files of each golden one.
const DAMAGED: usize = 300;

/// The phase that refuses a file, or the CRC-32 of all it decodes to.
fn verdict(file: &[u8]) -> String {
    let Ok(container) = Container::from_bytes(file, &Limits::DEFAULT) else { return "open".into() };
    if container.verify().is_err() {
        return "verify".into();
    }
    let mut crc = crc32fast::Hasher::new();
    container.tensors().for_each(|tensor| crc.update(&decoded(&tensor)));
    format!("{:08x}", crc.finalize())
}

/// Changes one byte, or one field to a value near a limit, in front of the payload; its checksums fit again.
fn damage(file: &mut [u8], random: &mut Random) {
    let container = Container::from_bytes(file, &Limits::DEFAULT).unwrap();
    let mut parts: Vec<_> = container.index().sections().to_vec();
    parts.retain(|section| section.len > 0 && section.kind != Some(SectionKind::Payload));
    let part = random.below(parts.len() + 1);
    let (start, len) = parts.get(part).map_or((0, 288), |section| (section.offset, section.len));
    let at = start as usize + random.below(len as usize);
    if random.below(2) == 0 {
        file[at] ^= 1 << random.below(8);
    } else {
        let at = at - at % 8;
        let value = [0, 1, 2, 1 << 32, u64::MAX, 1 << 63, file.len() as u64][random.below(7)];
        let end = file.len().min(at + 8);
        file[at..end].copy_from_slice(&value.to_le_bytes()[..end - at]);
    }
    seal(file);
}

/// SplitMix64 (Steele, Lea and Flood, 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }
}

/// The command line decodes one tensor, and ends with 3 and one line for a bad file.
#[test]
fn the_command_line_of_the_reference_decodes_and_refuses() {
    let path = root().join("testdata/golden/ccq-2.06.ccq");
    let container = Container::read(&path).unwrap();
    let tensor = container.tensor("stacked.2x3x200").unwrap();
    let output = python(|command| {
        command.arg("ccq.py").arg("--decode").arg(&path).arg("stacked.2x3x200");
    });
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stdout == decoded(&tensor));

    let bad = root().join("testdata/bad");
    for (name, error) in [("truncated-empty.ccq", "Truncated"), ("payload-spare-bits.ccq", "Padding")] {
        let output = python(|command| {
            command.arg("ccq.py").arg(bad.join(name));
        });
        assert_eq!(output.status.code(), Some(3), "{name}");
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(message.starts_with(&format!("error: {error}: ")), "{name}: {message}");
        assert_eq!(message.lines().count(), 1, "{message}");
    }
}
