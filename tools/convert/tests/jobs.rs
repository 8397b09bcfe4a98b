//! Jobs that are killed, interrupted, starved or disturbed, and gone on with.
#![cfg(unix)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ccq::{Container, Set, shard_path};
use common::{Folder, Run, bf16_tensor, bound_tool, f32_tensor, matrix, tool, values, write};

/// A model folder with several blocks in one matrix, several matrices in one stack, copied tensors of one block
/// and of several, and files of its own.
fn model(folder: &Folder) -> PathBuf {
    let path = folder.path("model");
    fs::create_dir(&path).unwrap();
    let mut tensors: Vec<_> =
        (0..6).map(|layer| matrix(&format!("layers.{layer}.up_proj.weight"), 192, 1000)).collect();
    tensors.push(bf16_tensor("experts.down_proj", &[4, 64, 512], &values(4 * 64 * 512, 1)));
    tensors.push(bf16_tensor("wide.weight", &[300, 4096], &values(300 * 4096, 2)));
    tensors.push(f32_tensor("embed_tokens.weight", &[1500, 1024], &values(1500 * 1024, 3)));
    tensors.push(f32_tensor("norm.weight", &[1024], &values(1024, 4)));
    tensors.push(f32_tensor("empty", &[0, 4], &[]));
    write(&path.join("model.safetensors"), &tensors);
    fs::write(path.join("config.json"), "{}").unwrap();
    fs::write(path.join("tokenizer.json"), vec![b' '; 100_000]).unwrap();
    path
}

/// Makes two files of it.
const SPLIT: &str = "6500000";
const OPTIONS: [&str; 5] = ["--encoding", "ccq-2.06", "--quality", "fast", "--json"];

fn command(model: &Path, out: &Path, args: &[&str]) -> Command {
    let mut command = tool();
    command.args([model, out]).args(OPTIONS).args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn convert(model: &Path, out: &Path, args: &[&str]) -> Run {
    Run(command(model, out, args).output().unwrap())
}

fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
}

/// Waits until the journal tells of a block; `false` if the job was quicker.
fn wait_for_block(out: &Path, child: &mut Child) -> bool {
    let start = Instant::now();
    while !tells_of_a_block(out) {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        assert!(start.elapsed() < Duration::from_secs(30));
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}

fn tells_of_a_block(out: &Path) -> bool {
    let journal = PathBuf::from(format!("{}.partial.journal", out.display()));
    fs::read_to_string(journal).is_ok_and(|text| text.lines().count() > 1)
}

/// The files of a model that is called `out`: what their names end in, and hashes of their bytes.
fn files(folder: &Folder, out: &str) -> Vec<(String, u32)> {
    let stem = out.trim_end_matches(".ccq");
    let names = folder
        .names()
        .into_iter()
        .filter(|name| name.starts_with(&format!("{stem}.")) || name.starts_with(&format!("{stem}-")));
    names
        .map(|name| (name[stem.len()..].to_owned(), crc32fast::hash(&fs::read(folder.path(&name)).unwrap())))
        .collect()
}

/// What the report says, but for the time it took.
fn report(done: &Run) -> serde_json::Value {
    let mut json = done.json();
    json["total"]["seconds"] = 0.into();
    serde_json::json!([json["total"], json["tensors"], json["blobs"]])
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// `CCQ_KILLS` asks for more than the twenty jobs that are killed otherwise.
#[test]
fn killed_at_any_point_it_goes_on_to_the_same_bytes() {
    let folder = Folder::new();
    let model = model(&folder);
    let mut random = Random(2026);
    let wanted: u64 = std::env::var("CCQ_KILLS").map_or(20, |text| text.parse().unwrap());
    let mut kills = 0;
    for (name, split) in [("one", &[][..]), ("set", &["--split-max-size", SPLIT])] {
        let start = Instant::now();
        let done = convert(&model, &folder.path(&format!("{name}-whole.ccq")), split).ok();
        let took = u64::try_from(start.elapsed().as_micros()).unwrap();
        let expected = (files(&folder, &format!("{name}-whole.ccq")), report(&done));
        let (enough, mut round) = (kills + wanted.div_ceil(2), 0);
        while kills < enough {
            round += 1;
            assert!(round <= 10 * wanted, "{kills} jobs were killed in time in {round} rounds");
            let out_name = format!("{name}-{round}.ccq");
            let out = folder.path(&out_name);
            let mut attempts = 0;
            let done = loop {
                let threads = ["1", "2", "3"][random.below(3) as usize];
                let memory = ["64MiB", "200MiB"][random.below(2) as usize];
                let args = [split, &["--resume", "--threads", threads, "--max-memory", memory]].concat();
                let mut child = command(&model, &out, &args).spawn().unwrap();
                attempts += 1;
                if attempts > 4 {
                    break Some(Run(child.wait_with_output().unwrap()));
                }
                std::thread::sleep(Duration::from_micros(random.below(took)));
                // The signal that cannot be caught.
                child.kill().unwrap();
                let ended = child.wait_with_output().unwrap();
                if ended.status.success() {
                    break Some(Run(ended));
                }
                kills += 1;
                let journal = folder.path(&format!("{out_name}.partial.journal"));
                if !journal.exists() && (out.exists() || shard_path(&out, 1, 2).exists()) {
                    // Between the last of its work and its report.
                    break None;
                }
                let names =
                    folder.names().into_iter().filter(|file| file.starts_with(&format!("{name}-{round}")));
                for file in names.filter(|file| file.ends_with(".partial")) {
                    // What opens is complete, and only its name is missing.
                    if let Ok(container) = Container::open(folder.path(&file)) {
                        container.verify().unwrap();
                    }
                }
            };
            assert_eq!(files(&folder, &out_name), expected.0, "{name}, round {round}");
            if let Some(done) = done {
                assert_eq!(report(&done.ok()), expected.1, "{name}, round {round}");
            }
            folder.names().iter().filter(|file| file.starts_with(&format!("{name}-{round}"))).for_each(
                |file| {
                    fs::remove_file(folder.path(file)).unwrap();
                },
            );
        }
    }
    eprintln!("{kills} jobs were killed");
}

#[test]
fn ctrl_c_says_how_to_go_on() {
    let folder = Folder::new();
    let model = model(&folder);
    let (whole, out) = (folder.path("whole.ccq"), folder.path("it's out.ccq"));
    // Slow enough to be interrupted.
    let slow = |out: &Path| {
        let mut command = tool();
        command.args([&*model, out]).args(["--threads", "1"]).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    Run(slow(&whole).wait_with_output().unwrap()).ok();
    let interrupted = || {
        let mut child = slow(&out);
        if wait_for_block(&out, &mut child) {
            signal(&child, "-INT");
        }
        let ended = child.wait_with_output().unwrap();
        // Unless it was quicker.
        if ended.status.success() {
            fs::remove_file(&out).unwrap();
            return None;
        }
        Some(Run(ended))
    };
    let ended = (0..20).find_map(|_| interrupted()).expect("no job was slow enough to be interrupted");
    let ended = ended.failed(130, &["what is done is kept; go on with:\n"]);
    assert!(!out.exists());
    assert!(folder.names().iter().any(|name| name == "it's out.ccq.partial"));
    let stderr = ended.stderr();
    let again = stderr.trim_end().rsplit('\n').next().unwrap();
    assert!(again.ends_with(" --resume") && !stderr.contains("error"), "{stderr}");
    let done = Command::new("sh").args(["-c", again]).output().unwrap();
    Run(done).ok();
    assert_eq!(fs::read(&whole).unwrap(), fs::read(&out).unwrap());
    assert_eq!(folder.names(), ["it's out.ccq", "model", "whole.ccq"]);
}

/// Leaves an unfinished job.
fn unfinished(model: &Path, out: &Path, args: &[&str]) {
    for _ in 0..20 {
        let mut child = command(model, out, &[&["--threads", "1"], args].concat()).spawn().unwrap();
        if wait_for_block(out, &mut child) {
            child.kill().unwrap();
        }
        // Unless it was quicker.
        if !child.wait().unwrap().success() && !out.exists() {
            return;
        }
        fs::remove_file(out).unwrap();
    }
    panic!("no job was slow enough to be killed");
}

#[test]
fn another_job_is_refused_and_the_difference_named() {
    let folder = Folder::new();
    let model = model(&folder);
    let out = folder.path("out.ccq");
    unfinished(&model, &out, &[]);
    let before = fs::read(folder.path("out.ccq.partial.journal")).unwrap();

    let said = ["out.ccq.partial: an unfinished job", "--resume", "--overwrite"];
    convert(&model, &out, &[]).failed(2, &said);
    for (args, said) in [
        (&["--quality", "best"][..], "another --quality: fast, now best"),
        (&["--encoding", "int2"], "another --encoding: ccq-2.06, now int2"),
        (&["--group-size", "32"], "another --group-size: not given, now 32"),
        (&["--keep", "wide.*"], "another --keep: not given, now \"wide.*\""),
        (&["--split-max-size", SPLIT], "another --split-max-size: not there, now 6500000"),
        (&["--part", "1/2"], "another --part: not there, now 1/2"),
    ] {
        let kept = OPTIONS.chunks(2).filter(|pair| pair[0] != args[0]).flatten();
        let mut command = tool();
        command.args([&model, &out]).args(kept).args(args).arg("--resume");
        Run(command.output().unwrap()).failed(2, &[said, "give --overwrite in place of --resume"]);
    }
    let weights = model.join("model.safetensors");
    let source = fs::read(&weights).unwrap();
    for (path, bytes, said) in [
        (&weights, [&source[..], &[]].concat(), "another time of input \"model.safetensors\""),
        (&model.join("config.json"), b"{\"a\": 1}".to_vec(), "another input \"config.json\": 2 bytes"),
        (&model.join("config.json"), b"[]".to_vec(), "another input \"config.json\": 2 bytes"),
    ] {
        std::thread::sleep(Duration::from_millis(20));
        let original = fs::read(path).unwrap();
        let time = fs::metadata(path).unwrap().modified().unwrap();
        fs::write(path, bytes).unwrap();
        convert(&model, &out, &["--resume"]).failed(2, &[said, ", now "]);
        fs::write(path, original).unwrap();
        fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
    }
    assert_eq!(fs::read(folder.path("out.ccq.partial.journal")).unwrap(), before);
    convert(&model, &out, &["--resume"]).ok();

    unfinished(&model, &folder.path("again.ccq"), &["--split-max-size", SPLIT]);
    assert!(folder.path("again-00002-of-00002.ccq.partial").exists());
    convert(&model, &folder.path("again.ccq"), &["--overwrite"]).ok();
    assert_eq!(fs::read(&out).unwrap(), fs::read(folder.path("again.ccq")).unwrap());
    assert_eq!(folder.names(), ["again.ccq", "model", "out.ccq"]);
}

/// What was measured for a budget is kept, too: for the same job, and for no other.
#[test]
fn a_budget_is_not_measured_again() {
    let folder = Folder::new();
    let model = model(&folder);
    let convert = |out: &str, args: &[&str]| {
        let budget = ["--quality", "fast", "--json", "--threads", "1", "--target-bpw"];
        Run(tool().args([&model, &folder.path(out)]).args(budget).args(args).output().unwrap())
    };
    let report = |done: &Run| (report(done), done.json()["target"].clone(), done.json()["warnings"].clone());
    // Besides a line a tensor, the log has one at the end of each, measuring and converting.
    let measures = |done: &Run| {
        done.stderr().lines().filter(|line| line.contains('%') && !line.contains("weights/s")).count() > 1
    };
    let whole = convert("whole.ccq", &["16"]).ok();
    assert!(measures(&whole), "{}", whole.stderr());
    let out = folder.path("out.ccq");
    // The file may not become as large as it has to, in the shell's blocks of 512 bytes; what is done by then is kept.
    let blocks = fs::metadata(folder.path("whole.ccq")).unwrap().len() / 512 - 1;
    let limited = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"");
    let program = tool().get_program().to_owned();
    let args = ["--quality", "fast", "--json", "--threads", "1", "--target-bpw", "16"];
    let left =
        Command::new("sh").args(["-c", &limited]).arg(program).args([&model, &out]).args(args).output();
    Run(left.unwrap()).failed(1, &["go on with", "--resume"]);
    assert!(tells_of_a_block(&out));
    convert("out.ccq", &["15", "--resume"])
        .failed(2, &["another --target: --target-bpw 16, now --target-bpw 15"]);
    convert("out.ccq", &["16", "--resume", "--candidates", "wint8,wint4"])
        .failed(2, &["another --candidates: "]);
    let done = convert("out.ccq", &["16", "--resume"]).ok();
    assert!(!measures(&done), "{}", done.stderr());
    assert_eq!(report(&done), report(&whole));
    assert!(fs::read(&out).unwrap() == fs::read(folder.path("whole.ccq")).unwrap());
}

#[test]
fn what_was_damaged_meanwhile_is_done_again() {
    let folder = Folder::new();
    let model = model(&folder);
    let (whole, out) = (folder.path("whole.ccq"), folder.path("out.ccq"));
    convert(&model, &whole, &[]).ok();
    let partial = folder.path("out.ccq.partial");
    for damage in 0..3 {
        unfinished(&model, &out, &[]);
        let mut bytes = fs::read(&partial).unwrap();
        let end = bytes.len();
        match damage {
            // From within the first block on: the journal may tell of no other.
            0 => bytes[end.min(100_000)..].fill(0xA5),
            1 => bytes.truncate(5000),
            _ => bytes.clear(),
        }
        fs::write(&partial, bytes).unwrap();
        let done = convert(&model, &out, &["--resume"]).ok();
        assert!(done.stderr().contains("not as the journal says; going on from there"), "{}", done.stderr());
        assert!(fs::read(&whole).unwrap() == fs::read(&out).unwrap(), "damage {damage}");
        fs::remove_file(&out).unwrap();
    }
}

/// A job that has begun and stands still.
fn stopped(model: &Path, out: &Path, args: &[&str]) -> Child {
    for _ in 0..20 {
        let mut child = command(model, out, args).spawn().unwrap();
        let files = [out.to_path_buf(), shard_path(out, 0, 2), shard_path(out, 1, 2)];
        if wait_for_block(out, &mut child) {
            signal(&child, "-STOP");
            // Unless it was quicker.
            if files.iter().all(|file| !file.exists()) {
                return child;
            }
            signal(&child, "-CONT");
        }
        child.wait().unwrap();
        files.iter().for_each(|file| drop(fs::remove_file(file)));
    }
    panic!("no job was slow enough to be stopped");
}

#[test]
fn two_jobs_of_one_output() {
    let folder = Folder::new();
    let model = model(&folder);
    for (out, args) in [("a.ccq", &[][..]), ("b.ccq", &["--split-max-size", SPLIT])] {
        let out = folder.path(out);
        let mut child = stopped(&model, &out, args);
        convert(&model, &out, &["--resume"]).failed(1, &["another process is writing"]);
        convert(&model, &out, &["--overwrite"]).failed(1, &["another process is writing"]);
        signal(&child, "-CONT");
        assert!(child.wait().unwrap().success());
        Set::open(if args.is_empty() { out } else { folder.path("b-00002-of-00002.ccq") }).unwrap();
    }
}

#[test]
fn an_input_that_is_cut_while_it_is_read() {
    let folder = Folder::new();
    let (model, out) = (folder.path("m.safetensors"), folder.path("out.ccq"));
    let layers: Vec<_> = (0..24).map(|layer| matrix(&format!("layers.{layer}.weight"), 1024, 1024)).collect();
    write(&model, &layers);
    // So little memory that the end of the file is read last.
    let mut child = command(&model, &out, &["--threads", "1", "--max-memory", "50MiB"]).spawn().unwrap();
    assert!(wait_for_block(&out, &mut child));
    let len = fs::metadata(&model).unwrap().len();
    fs::File::options().write(true).open(&model).unwrap().set_len(len - 100).unwrap();
    let said = ["m.safetensors: changed while it was read", &len.to_string(), &(len - 100).to_string()];
    Run(child.wait_with_output().unwrap()).failed(1, &said);
    assert_eq!(folder.names(), ["m.safetensors"]);
}

#[test]
fn a_full_disk() {
    let folder = Folder::new();
    let model = model(&folder);
    let whole = folder.path("whole.ccq");
    convert(&model, &whole, &[]).ok();
    let disk = folder.path("disk");
    fs::create_dir(&disk).unwrap();
    let mount =
        |args: &[&str]| Command::new("mount").args(args).arg(&disk).output().unwrap().status.success();
    if !mount(&["-t", "tmpfs", "-o", "size=6500k", "tmpfs"]) {
        eprintln!("skipped: a disk that can be filled takes the right to mount one");
        return;
    }
    let out = disk.join("out.ccq");
    let full = convert(&model, &out, &["--threads", "1"]);
    let resized = mount(&["-o", "remount,size=40m"]);
    let done = convert(&model, &out, &["--resume"]);
    let bytes = fs::read(&out);
    let left = fs::read_dir(&disk).unwrap().count();
    assert!(Command::new("umount").arg(&disk).status().unwrap().success());
    full.failed(1, &["error: ", "out.ccq", "No space left on device", "go on with:\n", " --resume"]);
    assert!(resized);
    done.ok();
    assert!(bytes.unwrap() == fs::read(&whole).unwrap());
    assert_eq!(left, 1);
}

/// Each file of a set is open while it is written.
#[test]
fn more_files_than_may_be_open() {
    let folder = Folder::new();
    let model = folder.path("m.safetensors");
    let tensors: Vec<_> =
        (0..60).map(|at| f32_tensor(&format!("t{at:02}"), &[8, 128], &[0.5; 1024])).collect();
    write(&model, &tensors);
    let (out, split) = (folder.path("out.ccq"), ["--encoding", "raw", "--split-max-size", "25000", "--json"]);
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 40 && exec \"$0\" \"$@\""]).arg(tool().get_program());
    let few = Run(command.args([&model, &out]).args(split).output().unwrap());
    few.failed(1, &["out-000", ".ccq.partial: Too many open files"]);
    assert_eq!(folder.names(), ["m.safetensors"]);
    let done = Run(tool().args([&model, &out]).args(split).output().unwrap()).ok();
    assert!(done.json()["files"].as_array().unwrap().len() > 40);
}

/// A container that is open stays what it was while the tool puts another in its place.
#[test]
fn a_reader_of_what_is_replaced() {
    let folder = Folder::new();
    let (model, out) = (folder.path("m.safetensors"), folder.path("out.ccq"));
    write(&model, &[matrix("a.weight", 64, 256)]);
    convert(&model, &out, &[]).ok();
    let before = fs::read(&out).unwrap();
    let (mapped, read) = (Container::open(&out).unwrap(), Container::read(&out).unwrap());
    Run(tool().args([&model, &out]).args(["--encoding", "wint8", "--overwrite"]).output().unwrap()).ok();
    let new = Container::open(&out).unwrap();
    assert_ne!(fs::read(&out).unwrap(), before);
    for (container, code) in [(mapped, "ccq-2.06"), (read, "ccq-2.06"), (new, "wint8")] {
        container.verify().unwrap();
        let matrix = container.tensor("a.weight").unwrap().matrix().unwrap();
        assert_eq!(matrix.code().family().map(|family| family.name()), Some(code));
    }
}

#[test]
fn what_permissions_forbid() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new();
    let chmod = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let model = folder.path("m.safetensors");
    write(&model, &[matrix("a.weight", 8, 64)]);
    let (closed, open) = (folder.path("closed"), folder.path("open"));
    fs::create_dir(&closed).unwrap();
    fs::create_dir(&open).unwrap();
    chmod(&open, 0o777);
    chmod(&model, 0o644);
    let out = open.join("out.ccq");
    let convert = |model: &Path, out: &Path, more: &[&Path]| {
        Run(bound_tool(&folder).args([model, out]).args(more).output().unwrap())
    };
    let names = |folder: &Path| fs::read_dir(folder).unwrap().count();

    // What is refused below is done before.
    convert(&model, &out, &[]).ok();
    fs::remove_file(&out).unwrap();

    chmod(&closed, 0o555);
    convert(&model, &closed.join("out.ccq"), &[]).failed(1, &["closed/out.ccq", "Permission denied"]);
    let recipe = closed.join("mix.toml");
    convert(&model, &out, &[Path::new("--write-recipe"), &recipe])
        .failed(1, &["closed/mix.toml", "Permission denied"]);
    assert_eq!((names(&closed), names(&open)), (0, 0));

    chmod(&model, 0o000);
    convert(&model, &out, &[]).failed(1, &["m.safetensors", "Permission denied"]);
    chmod(&model, 0o644);
    let kept = open.join("kept.ccq");
    fs::write(&kept, "someone else's").unwrap();
    chmod(&open, 0o555);
    convert(&model, &kept, &[Path::new("--overwrite")]).failed(1, &["kept.ccq", "Permission denied"]);
    assert_eq!(fs::read(&kept).unwrap(), b"someone else's");
    assert_eq!(names(&open), 1);
}

#[test]
fn a_log_has_a_line_a_tensor() {
    let folder = Folder::new();
    let model = model(&folder);
    let log = convert(&model, &folder.path("a.ccq"), &[]).ok().stderr();
    let lines: Vec<_> = log.lines().collect();
    // A warning, eleven tensors, two files, the end.
    assert_eq!(lines.len(), 15, "{log}");
    let line = lines.iter().find(|line| line.ends_with("  wide.weight")).unwrap();
    assert!(line.contains(" MiB of ") && line.contains("weights/s, "), "{line}");
    let quiet = convert(&model, &folder.path("b.ccq"), &["--quiet"]).ok().stderr();
    assert_eq!(quiet, format!("{}\n", lines[0]));
}
