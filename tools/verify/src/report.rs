//! What a check found, as tables for people or as one JSON object.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use ccq::format::{Metadata, TensorInfo, Value};
use ccq::{Index, Set};
use ccq_cli::{Column, Table, bytes, count, shorten};
use serde::Serialize;

use crate::compare::{Figures, Speed};
use crate::machine::Machine;
use crate::problem::{Kind, Problem};

/// A whole report; the JSON object has these fields.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The path that the tool was given.
    pub file: String,
    /// All files of the model, in their order.
    pub files: Vec<FileReport>,
    /// `I/N` where the file is what one of N processes made of the model, to be merged.
    pub part: Option<String>,
    /// Of the format, such as `1.0`.
    pub format_version: String,
    /// The source's path.
    pub source: Option<String>,
    /// What tensors were compared on; the CPU did those that a GPU could not (`decoded_on`).
    pub device: Option<Machine>,
    /// Figures of all files together.
    pub total: Total,
    /// In ascending order of their names.
    pub encodings: Vec<EncodingReport>,
    /// In ascending order of their names.
    pub tensors: Vec<TensorReport>,
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// What became of the checksums.
    pub checksums: Checksums,
}

/// A file of the model.
#[derive(Clone, Debug, Serialize)]
pub struct FileReport {
    /// Its path.
    pub file: String,
    /// Tensors in it.
    pub tensors: u64,
    /// Its length.
    pub bytes: u64,
}

/// Checksums of the payload.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Checksums {
    /// Compared.
    pub checked: u64,
    /// That do not match.
    pub damaged: u64,
}

/// Figures of all files together.
#[derive(Debug, Serialize)]
pub struct Total {
    /// Elements of all tensors.
    pub parameters: u64,
    /// Length of the files.
    pub bytes: u64,
    /// 8 times the length over the parameters.
    pub bpw: Option<f64>,
    /// Pooled over the quantized tensors that have a source without NaN and infinities.
    pub relative_mse: Option<f64>,
    /// Of the quantized tensors, one after another.
    pub decode: Option<Speed>,
}

/// The tensors of an encoding together.
#[derive(Clone, Debug, Default, Serialize)]
pub struct EncodingReport {
    /// Its name.
    pub encoding: String,
    /// How many tensors have it.
    pub tensors: u64,
    /// Their elements.
    pub parameters: u64,
    /// Bytes stored.
    pub bytes: u64,
    /// Bits per weight.
    pub bpw: Option<f64>,
    /// Pooled over those that have a source without NaN and infinities.
    pub relative_mse: Option<f64>,
    /// Of its tensors, one after another.
    pub decode: Option<Speed>,
}

impl EncodingReport {
    /// Sums over tensors, without errors.
    pub fn of(tensors: &[TensorReport]) -> Vec<Self> {
        let mut encodings = BTreeMap::<_, Self>::new();
        for TensorReport { encoding, shape, bytes, .. } in tensors {
            let sums = encodings
                .entry(encoding)
                .or_insert_with(|| Self { encoding: encoding.clone(), ..Self::default() });
            sums.tensors = sums.tensors.saturating_add(1);
            sums.parameters = sums.parameters.saturating_add(
                shape.iter().fold(1, |product, &dimension| u64::saturating_mul(product, dimension)),
            );
            sums.bytes = sums.bytes.saturating_add(*bytes);
        }
        let with_bpw = |sums: Self| Self { bpw: bpw(sums.bytes, sums.parameters), ..sums };
        encodings.into_values().map(with_bpw).collect()
    }
}

/// A tensor and its figures.
#[derive(Debug, Serialize)]
pub struct TensorReport {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<u64>,
    /// How it is stored.
    pub encoding: String,
    /// Element type of its source.
    pub dtype: &'static str,
    /// Bytes stored.
    pub bytes: u64,
    /// Bits per weight.
    pub bpw: Option<f64>,
    /// How far it is from its source; all `null` without one.
    #[serde(flatten)]
    pub figures: Figures,
    /// How fast it was decoded; not where it is raw.
    pub decode: Option<Speed>,
    /// Where: `cpu` or `cuda`.
    pub decoded_on: Option<&'static str>,
    /// Why figures are null.
    pub note: Option<String>,
}

impl TensorReport {
    /// What the index says of a tensor, without figures.
    pub fn new(info: &TensorInfo<'_>) -> Self {
        Self {
            name: info.name().into(),
            shape: info.shape().into(),
            encoding: info.encoding().to_string(),
            dtype: info.dtype().name(),
            bytes: info.stored_bytes(),
            bpw: info.bpw(),
            figures: Figures::default(),
            decode: None,
            decoded_on: None,
            note: None,
        }
    }
}

impl Report {
    /// What the indexes say, nothing checked yet.
    pub fn new(file: &Path, source: Option<&Path>, model: &Set) -> Self {
        let (parameters, bytes) = (model.parameters(), model.file_len());
        let tensors: Vec<_> = model.tensors().map(|tensor| TensorReport::new(tensor.info())).collect();
        let files = model.files().map(|(path, container)| FileReport {
            file: path.display().to_string(),
            tensors: container.tensors().len() as u64,
            bytes: container.index().file_len(),
        });
        let first = model.files().next();
        Self {
            file: file.display().to_string(),
            files: files.collect(),
            part: model.metadata().and_then(part),
            format_version: first.map(|(_, first)| version(first.index())).unwrap_or_default(),
            source: source.map(|source| source.display().to_string()),
            device: None,
            total: Total { parameters, bytes, bpw: bpw(bytes, parameters), relative_mse: None, decode: None },
            encodings: EncodingReport::of(&tensors),
            tensors,
            problems: Vec::new(),
            checksums: Checksums::default(),
        }
    }

    /// Writes the tables, at most `columns` wide.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write(&self, out: &mut impl Write, columns: Option<usize>) -> io::Result<()> {
        let with_speeds = self.total.decode.is_some().then(|| self.compared(true));
        let with_speeds = with_speeds.filter(|table| table.fits(columns));
        let without = || if self.source.is_some() { self.compared(false) } else { self.listed() };
        with_speeds.unwrap_or_else(without).write(out, columns)?;
        let Total { parameters, bytes: len, .. } = self.total;
        writeln!(out, "\n{} parameters, {}", count(parameters), bytes(len))?;
        if self.files.len() > 1 {
            self.shards().write(out, columns)?;
            writeln!(out)?;
        }
        if self.total.relative_mse.is_some() {
            writeln!(out, "total MSE: of the quantized tensors")?;
        }
        if let (Some(device), Some(speed)) = (&self.device, &self.total.decode) {
            let [weights, stored] = speed_texts(Some(speed));
            writeln!(out, "decoding: {weights} Gweights/s")?;
            writeln!(out, "stored bytes read: {stored} GB/s")?;
            writeln!(out, "{}", shorten(&format!("on {device}"), columns.unwrap_or(usize::MAX)))?;
        }
        self.findings().iter().try_for_each(|finding| writeln!(out, "{finding}"))
    }

    /// The files of a model in several.
    fn shards(&self) -> Table {
        let mut table = Table::new([Column::name("file"), Column::right("tensors"), Column::right("bytes")]);
        for FileReport { file, tensors, bytes } in &self.files {
            table.row([file, &count(*tensors), &count(*bytes)]);
        }
        table
    }

    /// What was checked and how it went, a line each.
    pub fn findings(&self) -> Vec<String> {
        let Checksums { checked, damaged } = self.checksums;
        let mut findings = vec![match damaged {
            0 => format!("all {} checksums match", count(checked)),
            _ => format!("{} of {} checksums do not match", count(damaged), count(checked)),
        }];
        if let Some(part) = &self.part {
            findings.push(format!("part {part} of a job: no whole model"));
        }
        let of = |kind| self.problems.iter().filter(|problem| problem.kind == kind).count();
        if of(Kind::Damaged) == 0 {
            findings.push("paddings are zero, scales are finite".into());
        }
        findings.extend(match of(Kind::Mismatch) {
            _ if self.source.is_none() => None,
            _ if of(Kind::Damaged) > 0 => Some("damaged: not compared with the source".into()),
            0 => Some("names, shapes, raw bytes: as the source".into()),
            1 => Some("1 disagreement with the source".into()),
            more => Some(format!("{} disagreements with the source", count(more as u64))),
        });
        findings
    }

    /// The table of a check without a source.
    fn listed(&self) -> Table {
        let mut table = Table::new([
            Column::name("tensor"),
            Column::left("encoding"),
            Column::right("shape"),
            Column::right("bpw"),
            Column::right("bytes"),
        ]);
        for tensor in &self.tensors {
            let TensorReport { name, encoding, shape, bpw, bytes, .. } = tensor;
            table.row([name, encoding, &shape_text(shape), &bpw_text(*bpw), &count(*bytes)]);
        }
        table.rule().row(["total", "", "", &bpw_text(self.total.bpw), &count(self.total.bytes)]);
        table
    }

    /// The table of a comparison, with or without the speeds of decoding.
    fn compared(&self, speeds: bool) -> Table {
        let mut columns = vec![
            Column::name("tensor"),
            Column::left("encoding"),
            Column::right("shape"),
            Column::right("bpw"),
            Column::right("relative MSE"),
            Column::right("SNR dB"),
            Column::right("max |error|"),
            Column::right("cosine"),
        ];
        if speeds {
            columns.extend(["Gweights/s", "GB/s"].map(Column::right));
        }
        if self.tensors.iter().any(|tensor| tensor.note.is_some()) {
            columns.push(Column::left("note"));
        }
        let mut table = Table::new(columns);
        for tensor in &self.tensors {
            let TensorReport { name, encoding, shape, bpw, figures, .. } = tensor;
            let mut cells = vec![
                name.clone(),
                encoding.clone(),
                shape_text(shape),
                bpw_text(*bpw),
                significant(figures.relative_mse),
                fixed(figures.snr_db, 2),
                significant(figures.max_abs_error),
                fixed(figures.cosine, 6),
            ];
            if speeds {
                cells.extend(speed_texts(tensor.decode.as_ref()));
            }
            cells.extend(tensor.note.clone());
            table.row(cells);
        }
        let Total { bpw, relative_mse, decode, .. } = &self.total;
        let mut cells = ["total", "", "", &bpw_text(*bpw), &significant(*relative_mse), "", "", ""]
            .map(String::from)
            .to_vec();
        if speeds {
            cells.extend(speed_texts(decode.as_ref()));
        }
        table.rule().row(cells);
        table
    }
}

/// Which part of a job a container is: `I/N` (spec, clause 7.4).
fn part(metadata: &Metadata) -> Option<String> {
    let Some(Value::String(text)) = metadata.get("ccq.part") else { return None };
    Some(text.split(' ').next().unwrap_or_default().into())
}

/// The format's version.
pub fn version(index: &Index) -> String {
    let (major, minor) = index.version();
    format!("{major}.{minor}")
}

/// Bits per weight of so many bytes; undefined without weights.
pub fn bpw(bytes: u64, parameters: u64) -> Option<f64> {
    (parameters > 0).then(|| bytes as f64 * 8.0 / parameters as f64)
}

/// `384x1536`
pub fn shape_text(shape: &[u64]) -> String {
    if shape.is_empty() {
        return "scalar".into();
    }
    shape.iter().map(u64::to_string).collect::<Vec<_>>().join("x")
}

/// Bits per weight with three decimals.
pub fn bpw_text(bpw: Option<f64>) -> String {
    fixed(bpw, 3)
}

/// What is undefined.
const UNDEFINED: &str = "-";

/// With so many decimals.
pub fn fixed(value: Option<f64>, decimals: usize) -> String {
    value.map_or_else(|| UNDEFINED.into(), |value| format!("{value:.decimals$}"))
}

/// In thousand millions.
pub fn giga(value: f64) -> String {
    let value = value / 1e9;
    let decimals = if value < 10.0 { 3 } else { 1 };
    format!("{value:.decimals$}")
}

/// Gweights/s and GB/s.
pub fn speed_texts(speed: Option<&Speed>) -> [String; 2] {
    let text = |value: Option<f64>| value.map_or_else(|| UNDEFINED.into(), giga);
    [
        text(speed.map(|speed| speed.weights_per_second)),
        text(speed.map(|speed| speed.stored_bytes_per_second)),
    ]
}

/// With four significant digits, in scientific notation where it is small or large.
pub fn significant(value: Option<f64>) -> String {
    match value {
        None => UNDEFINED.into(),
        Some(0.0) => "0".into(),
        Some(value) if (1e-3..1.0).contains(&value) => format!("{value:.5}"),
        Some(value) if (1.0..1e4).contains(&value) => format!("{value:.3}"),
        Some(value) => format!("{value:.3e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        let cases = [
            (None, "-"),
            (Some(0.0), "0"),
            (Some(0.10712345), "0.10712"),
            (Some(0.000012341), "1.234e-5"),
            (Some(12.3456), "12.346"),
            (Some(1e300), "1.000e300"),
        ];
        for (value, text) in cases {
            assert_eq!(significant(value), text);
        }
        assert_eq!(shape_text(&[]), "scalar");
        assert_eq!(shape_text(&[8, 384, 1536]), "8x384x1536");
        assert_eq!((bpw(10, 0), bpw(10, 40)), (None, Some(2.0)));
    }
}
