//! Ways to open a file: all give the same values, none reads what it need not, and advice reaches the system.
#![cfg(feature = "mmap")]

#[path = "../tools/xtask/src/dump.rs"]
mod dump;
#[path = "../tools/xtask/src/sparse.rs"]
mod sparse;

use std::fs;
use std::path::{Path, PathBuf};

use ccq::format::{Contents, Dtype, Encoding, Layout, MagicHint, TensorSpec, Writer};
use ccq::planes::{Clusters, LocalScales, Words, as_f32s};
use ccq::{Access, Container, Error, Limits, OpenOptions};
use sparse::Sparse;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/golden").join(name)
}

fn every_way() -> Vec<OpenOptions> {
    let ways = [OpenOptions::map(), OpenOptions::memory()];
    let ways = ways.into_iter().flat_map(|way| {
        [Access::Normal, Access::Sequential, Access::Random].map(|access| way.access(access))
    });
    ways.flat_map(|way| [way, way.huge_pages(true)]).collect()
}

#[test]
fn every_way_to_load_gives_the_same() {
    for name in ["ccq-2.75", "ccq-2.06-f32", "mixed", "empty", "later-minor"] {
        let path = golden(&format!("{name}.ccq"));
        let expected = fs::read_to_string(golden(&format!("{name}.txt"))).unwrap();
        for way in every_way() {
            let container = way.open(&path).unwrap();
            container.tensors().for_each(|tensor| tensor.prefetch());
            container.verify().unwrap();
            assert_eq!(dump::dump(&container), expected, "{name} {way:?}");
        }
    }
}

#[test]
fn every_way_to_load_says_what_is_missing_or_too_much() {
    let folder = tempfile::tempdir().unwrap();
    let mut limits = Limits::DEFAULT;
    limits.tensors = 1;
    for way in every_way() {
        let error = way.open(folder.path().join("not-there.ccq")).unwrap_err();
        assert!(
            matches!(&error, Error::Io(error) if error.kind() == std::io::ErrorKind::NotFound),
            "{error}"
        );
        let error = way.limits(limits).open(golden("mixed.ccq")).unwrap_err();
        assert!(matches!(error, Error::LimitExceeded { what: "tensors", limit: 1, .. }), "{error}");
        let error = way.open(golden("mixed.txt")).unwrap_err();
        assert!(matches!(error, Error::BadMagic { hint: MagicHint::NotThisFormat, .. }), "{error}");
    }
}

/// A terabyte that is no container is refused after its first bytes, not after all of them.
#[test]
fn reading_into_memory_looks_at_the_header_first() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(1 << 40).unwrap();
    let error = OpenOptions::memory().open(file.path()).unwrap_err();
    assert!(matches!(error, Error::BadMagic { hint: MagicHint::Unfinished, .. }), "{error}");
}

/// What a container is opened from stays what it was when another file takes its name.
#[test]
fn a_file_replaced_while_it_is_open_is_read_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.ccq");
    for way in every_way() {
        fs::copy(golden("wint4.ccq"), &path).unwrap();
        let open = way.open(&path).unwrap();
        let replacement = folder.path().join("model.ccq.partial");
        fs::copy(golden("mixed.ccq"), &replacement).unwrap();
        fs::rename(&replacement, &path).unwrap();

        open.verify().unwrap();
        assert_eq!(dump::dump(&open), fs::read_to_string(golden("wint4.txt")).unwrap(), "{way:?}");
        let new = way.open(&path).unwrap();
        assert_eq!(dump::dump(&new), fs::read_to_string(golden("mixed.txt")).unwrap(), "{way:?}");
    }
}

/// What was read into memory stays what it was, whatever becomes of the file. (A map cannot: its pages go with the file,
/// and the system ends the process that touches them.)
#[test]
fn a_file_cut_short_while_it_is_open_in_memory_is_read_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.ccq");
    for len in [0, 1, 4096] {
        fs::copy(golden("wint4.ccq"), &path).unwrap();
        let open = OpenOptions::memory().open(&path).unwrap();
        fs::File::options().write(true).open(&path).unwrap().set_len(len).unwrap();
        open.verify().unwrap();
        assert_eq!(dump::dump(&open), fs::read_to_string(golden("wint4.txt")).unwrap());
        assert!(OpenOptions::memory().open(&path).is_err());
    }
}

#[test]
fn typed_planes_hold_what_the_bytes_say() {
    let mut kinds = [false; 7];
    for name in ["ccq-2.75", "ccq-2.5", "ccq-2.06", "ccq-2.06-f32", "wint4"] {
        let bytes = fs::read(golden(&format!("{name}.ccq"))).unwrap();
        let shifted: Vec<u8> = [0].into_iter().chain(bytes.iter().copied()).collect();
        let aligned = OpenOptions::map().open(golden(&format!("{name}.ccq"))).unwrap();
        let misaligned = Container::from_bytes(&shifted[1..], &Limits::DEFAULT).unwrap();
        for tensor in aligned.tensors().chain(misaligned.tensors()) {
            let (planes, stored) = (tensor.planes().unwrap(), tensor.matrix().unwrap().planes());
            let scales: Vec<u8> =
                planes.super_scales.iter().flat_map(|scale| scale.get().to_le_bytes()).collect();
            assert_eq!(scales, stored.super_scale);
            match planes.words {
                Words::Bits8(words) => (kinds[0], _) = (true, assert_eq!(words, stored.code)),
                Words::Bits16(words) => {
                    kinds[1] = true;
                    let bytes: Vec<u8> = words.iter().flat_map(|word| word.get().to_le_bytes()).collect();
                    assert_eq!(bytes, stored.code);
                }
                _ => unreachable!(),
            }
            match planes.local_scales {
                LocalScales::None => (kinds[2], _) = (true, assert!(stored.local_scale.is_empty())),
                LocalScales::Nibbles(scales) => {
                    (kinds[3], _) = (true, assert_eq!(scales, stored.local_scale))
                }
                LocalScales::Signed8(scales) => {
                    kinds[4] = true;
                    let bytes: Vec<u8> = scales.iter().map(|scale| scale.to_le_bytes()[0]).collect();
                    assert_eq!(bytes, stored.local_scale);
                }
                _ => unreachable!(),
            }
            let clusters: Vec<u8> = match planes.clusters {
                Clusters::None => Vec::new(),
                Clusters::Q8(clusters) => {
                    kinds[5] = true;
                    let pair = |row: &ccq::planes::ClusterQ8| (row.step.get(), row.zero_point.get());
                    let pairs = clusters.iter().map(pair);
                    pairs.flat_map(|(a, zp)| [a.to_le_bytes(), zp.to_le_bytes()].concat()).collect()
                }
                Clusters::F32(clusters) => {
                    kinds[6] = true;
                    let pair =
                        |row: &ccq::planes::ClusterF32| [row.code_scale.get(), row.code_zero_point.get()];
                    clusters.iter().flat_map(pair).flat_map(f32::to_le_bytes).collect()
                }
                _ => unreachable!(),
            };
            assert_eq!(clusters, stored.cluster);
        }
        for tensor in aligned.tensors() {
            let scales = tensor.planes().unwrap().super_scales;
            let floats = as_f32s(scales).map(<[f32]>::to_vec);
            let expected = scales.iter().map(|scale| scale.get()).collect();
            assert_eq!(floats, cfg!(target_endian = "little").then_some(expected));
        }
        for tensor in misaligned.tensors() {
            assert_eq!(as_f32s(tensor.planes().unwrap().super_scales), None);
        }
    }
    assert_eq!(kinds, [true; 7], "a kind of plane was not seen");
}

const TENSORS: usize = 256;
const TENSOR_BYTES: usize = 1 << 20;

/// A file of 256 MiB, most of it holes.
fn large_file() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    let spec = |i| TensorSpec {
        name: format!("{i:03}"),
        shape: vec![TENSOR_BYTES as u64],
        dtype: Dtype::U8,
        encoding: Encoding::Raw,
    };
    let contents = Contents { tensors: (0..TENSORS).map(spec).collect(), ..Contents::default() };
    let mut writer = Writer::new(Sparse(file.reopen().unwrap()), Layout::new(contents).unwrap()).unwrap();
    let zeros = vec![0; TENSOR_BYTES];
    while let Some(name) = writer.next_name().map(String::from) {
        writer.write(&name, &[&zeros]).unwrap();
    }
    writer.finish().unwrap();
    file
}

/// The lines of the system's list of maps that belong to this file.
#[cfg(target_os = "linux")]
fn maps(path: &Path) -> Vec<String> {
    let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
    let starts_map = |line: &str| line.split_once(' ').is_some_and(|(range, _)| range.contains('-'));
    let mut ours = false;
    let mut lines = Vec::new();
    for line in smaps.lines() {
        if starts_map(line) {
            ours = line.ends_with(path.to_str().unwrap());
        }
        lines.extend(ours.then(|| line.to_string()));
    }
    assert!(!lines.is_empty(), "{} is not mapped", path.display());
    lines
}

/// KiB of the file that this process has touched.
#[cfg(target_os = "linux")]
fn resident(path: &Path) -> usize {
    let field = |line: &String| {
        Some(line.strip_prefix("Rss:")?.trim().strip_suffix(" kB")?.parse::<usize>().unwrap())
    };
    maps(path).iter().filter_map(field).sum()
}

#[test]
#[cfg(target_os = "linux")]
fn opening_touches_the_index_and_reading_touches_the_tensor() {
    let file = large_file();
    let container = OpenOptions::map().access(Access::Random).open(file.path()).unwrap();
    let front = container.index().planes()[0].offset / 1024;
    let opened = resident(file.path());
    // The system maps pages around the touched one that it has already, 64 KiB at a time.
    assert!(opened <= front as usize + 128, "{opened} KiB touched to read a front of {front}");

    let raw = container.tensor("100").unwrap().raw().unwrap();
    assert!(raw.iter().all(|&byte| byte == 0));
    let read = resident(file.path()) - opened;
    assert!((1024..1024 + 256).contains(&read), "{read} KiB touched to read a tensor of 1024");

    let all: usize = TENSORS * TENSOR_BYTES / 1024;
    assert!(resident(file.path()) < all / 100);
    container.verify().unwrap();
}

#[test]
#[cfg(target_os = "linux")]
fn advice_reaches_the_system() {
    let file = large_file();
    let flags = |options: OpenOptions| {
        let _open = options.open(file.path()).unwrap();
        let flags: Vec<_> =
            maps(file.path()).into_iter().filter(|line| line.starts_with("VmFlags:")).collect();
        flags.concat().split_whitespace().map(String::from).collect::<Vec<_>>()
    };
    let has = |options, flag: &str| flags(options).iter().any(|found| found == flag);
    let map = OpenOptions::map();
    assert!(has(map.access(Access::Sequential), "sr"));
    assert!(has(map.access(Access::Random), "rr"));
    assert!(!has(map, "sr") && !has(map, "rr") && !has(map, "hg"));
    if Path::new("/sys/kernel/mm/transparent_hugepage/enabled").exists() {
        assert!(has(map.huge_pages(true), "hg"));
    }
}

/// Memory from the system, in huge pages where it gives any.
#[test]
#[cfg(target_os = "linux")]
fn reading_asks_for_huge_pages() {
    let file = large_file();
    let container = OpenOptions::memory().huge_pages(true).open(file.path()).unwrap();
    let address = container.tensors().next().unwrap().raw().unwrap().as_ptr() as usize;
    let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
    let holds = |line: &str| {
        let (start, end) = line.split_once(' ')?.0.split_once('-')?;
        let [start, end] = [start, end].map(|hex| usize::from_str_radix(hex, 16).ok());
        Some((start?..end?).contains(&address))
    };
    let map = smaps.lines().skip_while(|line| holds(line) != Some(true));
    let flags = map.clone().find(|line| line.starts_with("VmFlags:")).unwrap();
    if Path::new("/sys/kernel/mm/transparent_hugepage/enabled").exists() {
        assert!(flags.split_whitespace().any(|flag| flag == "hg"), "{flags}");
    }
    container.verify().unwrap();
}
