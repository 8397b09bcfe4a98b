//! What the tool makes of every model of testdata/bad-import: it is refused with the message of the table and nothing is left
//! behind, or it becomes a container whose weights are finite.

mod common;

use std::fs;
use std::path::Path;

use ccq::Container;
use common::{Folder, run};

#[test]
fn every_bad_model_is_refused_and_every_odd_one_converted() {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/bad-import");
    let table = fs::read_to_string(models.join("expected.txt")).unwrap();
    let mut counts = [0; 2];
    for line in table.lines().filter(|line| !line.starts_with('#')) {
        let [name, phase, _, _, message] = line.splitn(5, " | ").collect::<Vec<_>>().try_into().expect(line);
        if phase == "importance" {
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
