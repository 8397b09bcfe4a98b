//! What the tool makes of every model of testdata/bad-import: it is refused with the message of the table and nothing is left
//! behind, or it becomes a container whose weights are finite. Every recipe there is refused at its byte.

mod common;
#[path = "../../../tests/common/peak.rs"]
mod peak;

use std::fs;
use std::path::{Path, PathBuf};

use ccq::Container;
use ccq_convert::recipe::{Recipe, Source, Wish};
use common::{Folder, run};

/// What reading any of the recipes may allocate.
const MEMORY: usize = 1 << 20;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/bad-import")
}

#[test]
fn every_bad_model_is_refused_and_every_odd_one_converted() {
    let models = folder();
    let table = fs::read_to_string(models.join("expected.txt")).unwrap();
    let mut counts = [0; 2];
    for line in table.lines().filter(|line| !line.starts_with('#')) {
        let [name, phase, _, byte, message] =
            line.splitn(5, " | ").collect::<Vec<_>>().try_into().expect(line);
        if matches!(phase, "importance" | "recipe") {
            continue;
        }
        let folder = Folder::new();
        let (model, out) = (models.join(name), folder.path("out.ccq"));
        let done = run([model.as_os_str(), out.as_os_str(), "--allow-requantize".as_ref()]);
        counts[usize::from(phase == "taken")] += 1;
        if phase != "taken" {
            assert!(matches!(done.code(), 1..=3), "{name}: {} {}", done.code(), done.stderr());
            let said = done.stderr().replace(&format!("{}/", models.display()), "");
            assert!(said.contains(message), "{name}: {message:?} is not in: {said}");
            if phase == "convert" {
                let length = fs::metadata(&model).unwrap().len();
                assert!(byte.parse::<u64>().unwrap() < length, "{name}: {byte}");
                assert!(message.starts_with(&format!("{name}: at byte {byte}: ")), "{message}");
            }
            assert!(folder.names().is_empty(), "{name} left {:?}", folder.names());
            continue;
        }
        assert_eq!(done.code(), 0, "{name}: {}", done.stderr());
        let container = Container::read(&out).unwrap();
        container.verify().unwrap();
        for tensor in container.tensors() {
            let Some(matrix) = tensor.matrix() else { continue };
            let mut weights = vec![f32::NAN; matrix.rows() * matrix.in_features()];
            matrix.decode_rows_into(0..matrix.rows(), &mut weights).unwrap();
            assert!(weights.iter().all(|weight| weight.is_finite()), "{name}");
        }
    }
    assert!(counts[0] > 100 && counts[1] > 5, "{counts:?}");
}

#[test]
fn every_bad_recipe_is_refused() {
    let recipes = folder();
    let table = fs::read_to_string(recipes.join("expected.txt")).unwrap();
    let mut count = 0;
    for line in table.lines().filter(|line| line.contains(" | recipe | ")) {
        let [name, _, expected, byte, message] =
            line.splitn(5, " | ").collect::<Vec<_>>().try_into().expect(line);
        count += 1;
        let path = recipes.join(name);
        let wish = Wish { source: Source::File(path.clone()), ..Wish::default() };
        let (found, memory) = peak::measure(|| Recipe::load(&wish));
        assert!(memory <= MEMORY, "{name}: {memory} bytes");
        let error = found.expect_err(name);
        let said = error.to_string().replace(&format!("{}/", recipes.display()), "");
        let variant = format!("{:?}", error.fault);
        let variant = variant.split(|c: char| !c.is_alphanumeric()).next().unwrap();
        let offset = error.place.offset.expect(name);
        assert_eq!([variant, &offset.to_string(), &said], [expected, byte, message], "{name}");
        let text = fs::read(&path).unwrap();
        let lines = text[..offset].iter().filter(|&&byte| byte == b'\n').count();
        assert_eq!(error.place.line, Some(lines + 1), "{name}");

        let model = recipes.join("weights-equal.safetensors");
        let output = Folder::new();
        let out = output.path("out.ccq");
        let done = run([model.as_os_str(), out.as_os_str(), "--recipe".as_ref(), path.as_os_str()]);
        assert_eq!(done.code(), 2, "{name}: {}", done.stderr());
        assert!(output.names().is_empty(), "{name} left {:?}", output.names());
    }
    assert!(count > 20, "{count}");
}
