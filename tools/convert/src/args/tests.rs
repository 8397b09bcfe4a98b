//! What command lines mean, and which are refused.

use super::*;
use crate::recipe::{How, Recipe};

fn parsed(line: &str) -> Result<(Common, Task), clap::Error> {
    parse_from(format!("ccq-convert {line}").split(' ').map(String::from))
}

fn conversion(line: &str) -> Conversion {
    match parsed(line).unwrap().1 {
        Task::Convert(conversion) => *conversion,
        other => panic!("{line}: {other:?}"),
    }
}

fn code_of(line: &str) -> String {
    match Recipe::load(&conversion(line).wish).unwrap().default {
        How::Quantize(search) => search.code.to_string(),
        How::Raw => RAW.into(),
        How::Choose { .. } => "auto".into(),
    }
}

#[test]
fn the_command_is_well_formed() {
    Args::command().debug_assert();
}

#[test]
fn encodings_take_their_usual_groups() {
    assert_eq!(code_of("in out.ccq"), "ccq-2.06");
    for name in encoding_names() {
        assert_eq!(code_of(&format!("in out.ccq --encoding {name}")), name);
    }
    assert_eq!(code_of("in out.ccq --encoding wint8 --group-size 64"), "wint8 g64");
    assert_eq!(code_of("in out.ccq --encoding wint4 --group-size channel"), "wint4 per channel");
    assert_eq!(code_of("in out.ccq --encoding ccq-5.5 --group-size 32"), "ccq-5.5 g32");
    assert_eq!(code_of("in out.CCQ --group-size 128"), "ccq-2.06 g128");
    assert_eq!(code_of("in out.ccq --preset ernie-w4w2"), "wint8");
    assert_eq!(code_of("in out.ccq --preset ernie-w4w2 --encoding ccq-2.75"), "ccq-2.75");
    assert_eq!(code_of("in out.ccq --preset uniform --group-size 32"), "ccq-2.06 g32");
    assert_eq!(code_of("in out.ccq --target-bpw 3"), "auto");
}

#[test]
fn what_cannot_be_done_is_refused() {
    for (line, expected) in [
        ("in", "OUTPUT"),
        ("in out", "must end in .ccq"),
        ("in.ccq out", "must end in .safetensors"),
        ("in.ccq out.ccq", "both .ccq"),
        ("in out.safetensors", "INPUT must be a .ccq file"),
        ("in out.ccq --encoding ccq-2.6", "ccq-2.06"),
        ("in out.ccq --group-size 48", "possible values: 32, 64, 128, channel"),
        ("in out.ccq --group-size channel", "wint4, wint8, int2"),
        ("in out.ccq --encoding raw --group-size 64", "--group-size <N> does not go with --encoding raw"),
        ("in out.ccq --encoding raw --quantize x", "does not go with --encoding raw"),
        ("in out.ccq --encoding raw --quality best", "does not go with --encoding raw"),
        ("in out.ccq --method paper --quality best", "--quality <NAME> does not go with --method paper"),
        ("in out.ccq --method paper --importance x", "--importance <FILE> does not go with --method paper"),
        ("in out.ccq --quality slow", "possible values: fast, balanced, best"),
        ("in.ccq out.safetensors --quality best", "--quality <NAME> does not apply to a .ccq input"),
        ("in", "<OUTPUT>"),
        ("in.ccq --dry-run", "--dry-run does not apply to a .ccq input"),
        ("in out.ccq --recipe a.toml --preset uniform", "cannot be used with '--preset <NAME>'"),
        ("in out.ccq --preset ernie", "a similar value exists: 'ernie-w4w2'"),
        ("in out.ccq --target-bpw 3 --target-size 5", "cannot be used with '--target-size <SIZE>'"),
        ("in out.ccq --target-bpw 0", "more than 0 and at most 64"),
        ("in out.ccq --target-size 5QB", "expected bytes such as"),
        ("in out.ccq --target-bpw 3 --encoding wint4", "--candidates says what to choose from"),
        ("in out.ccq --target-bpw 3 --candidates wint5", "expected ccq-2.06, ccq-2.5"),
        (
            "in out.ccq --target-bpw 3 --candidates ccq-2.06:channel",
            "ccq-2.06 takes group sizes 32, 64 and 128",
        ),
        ("in out.ccq --candidates wint4", "goes with --target-bpw or --target-size only"),
        ("in out.ccq --write-recipe model.safetensors", "must end in .toml"),
        ("in out.ccq --dtype f32", "--dtype <DTYPE> applies to the way back only"),
        ("in out.ccq --threads 0", "--threads"),
        ("in out.ccq --threads 1025", "--threads"),
        ("in.ccq out.safetensors --dtype f64", "possible values: f32, f16, bf16"),
        ("in.ccq out.safetensors --encoding raw", "--encoding <NAME> does not apply to a .ccq input"),
        ("in.ccq out.safetensors --group-size 64", "--group-size <N> does not apply"),
        ("in.ccq out.safetensors --candidates raw", "--candidates <LIST> does not apply"),
        ("in.ccq out.safetensors --keep x", "--keep <PATTERN> does not apply"),
        ("in.ccq out.safetensors --allow-requantize", "--allow-requantize does not apply"),
        ("in.ccq out.safetensors --transpose x", "--transpose <PATTERN> does not apply"),
        ("in out --to fastdeploy", "INPUT must be one"),
        ("in.ccq out.safetensors --to fastdeploy", "is called like a file"),
        ("in.ccq out --to fastdeploy --overwrite", "--overwrite does not go with --to fastdeploy"),
        ("in.ccq out --to fastdeploy --quality best", "--quality <NAME> does not apply to a .ccq input"),
        ("in.ccq out --to paddle", "possible values: fastdeploy"),
    ] {
        let error = parsed(line).expect_err(line);
        assert_eq!(error.exit_code(), 2, "{line}");
        assert!(error.to_string().contains(expected), "{line}: {error}");
    }
}

#[test]
fn budgets_are_sizes_and_bits() {
    for (line, bytes) in [
        ("--target-size 89GiB", 89 << 30),
        ("--target-size 1.5KB", 1500),
        ("--target-size 12345", 12345),
        ("--target-size 2mib", 2 << 20),
    ] {
        let target = conversion(&format!("in --dry-run {line}")).target.unwrap();
        assert!(matches!(target.budget, Budget::Size(size) if size == bytes), "{line}");
        assert_eq!(target.candidates.len(), CANDIDATES.split(',').count());
    }
    let target = conversion("in --dry-run --target-bpw 2.5 --candidates wint4:channel,raw").target.unwrap();
    assert!(matches!(target.budget, Budget::Bpw(bits) if bits == 2.5));
    assert_eq!(target.candidates, [Family::Wint4.code(0).ok(), None]);
}

#[test]
fn parts_and_their_whole() {
    let (common, _) = parsed("in out.ccq --part 2/3 --max-memory 1GiB --resume").unwrap();
    let JobOptions { part, max_memory, resume, .. } = common.job;
    assert_eq!((part.unwrap().number, max_memory, resume), (2, Some(1 << 30), true));
    let (common, task) = parsed("merge a.ccq b.ccq out.ccq --split-max-size 5GB").unwrap();
    assert_eq!((common.output.to_str(), common.job.split_max_size), (Some("out.ccq"), Some(5_000_000_000)));
    assert!(matches!(task, Task::Merge { parts } if parts.len() == 2));
    assert!(matches!(parsed("./merge out.ccq").unwrap().1, Task::Convert { .. }));
    MergeArgs::command().debug_assert();
    for (line, expected) in [
        ("merge", "PART"),
        ("merge a.ccq", "OUTPUT"),
        ("merge a.ccq b.ccq out", "must end in .ccq"),
        ("in out.ccq --part 0/3", "expected I/N"),
        ("in out.ccq --part 1/3 --split-max-size 1G", "cannot be used with"),
        ("in out.ccq --max-memory much", "expected bytes such as"),
        ("in.ccq out.safetensors --resume", "does not apply to a .ccq input"),
    ] {
        let error = parsed(line).expect_err(line);
        assert_eq!(error.exit_code(), 2, "{line}");
        assert!(error.to_string().contains(expected), "{line}: {error}");
    }
}

#[test]
fn the_way_back_takes_a_dtype() {
    for (line, expected) in [("", None), (" --dtype bf16", Some(Dtype::Bf16))] {
        let (common, task) = parsed(&format!("in.ccq out.safetensors --threads 3{line}")).unwrap();
        assert_eq!(common.threads, Some(3));
        assert!(matches!(task, Task::Export { dtype } if dtype == expected));
    }
}
