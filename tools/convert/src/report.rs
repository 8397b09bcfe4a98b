//! What was done: every tensor with its encoding and the reason, and totals, as a table or as JSON.

use std::io::{self, Write};
use std::time::Duration;

use ccq::format::{Dtype, Encoding, TensorInfo};
use ccq_cli::{Column, Table, bytes, count, duration, printable};
use serde::Serialize;

use crate::allocate::Outcome;
use crate::args::Common;

/// The report; its JSON has these fields.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The input as it was given.
    pub input: String,
    /// The output as it was given.
    pub output: String,
    /// The files that were written: the output, or all of its shards.
    pub files: Vec<String>,
    /// Sums.
    pub total: Total,
    /// Tensors in the order of their names.
    pub tensors: Vec<Row>,
    /// The model's own files that the output carries.
    pub blobs: Vec<String>,
    /// What lay beside the model, or in the container, and is not in the output.
    pub left_out: Vec<String>,
    /// What could not be done as it was asked.
    pub warnings: Vec<String>,
    /// What was chosen for a budget; `null` where nothing was.
    pub target: Option<Outcome>,
    /// Quantized tensors that the importance file knows nothing of; empty where there is no such file.
    pub without_importance: Vec<String>,
    #[serde(skip)]
    has_importance: bool,
    #[serde(skip)]
    errors: [f64; 2],
    #[serde(skip)]
    weighted_errors: [f64; 2],
    #[serde(skip)]
    quantized_bits: f64,
    #[serde(skip)]
    quantized_parameters: u64,
}

/// Sums over the tensors.
#[derive(Debug, Default, Serialize)]
pub struct Total {
    /// Number of tensors.
    pub tensors: u64,
    /// Those that are quantized in the container.
    pub quantized: u64,
    /// Elements of all tensors.
    pub parameters: u64,
    /// Bytes of the input files.
    pub bytes_in: u64,
    /// Bytes of the output file.
    pub bytes_out: u64,
    /// Bits per weight: all bytes of the output over all parameters; `null` without parameters.
    pub bpw: Option<f64>,
    /// The same over the quantized tensors alone; `null` where the output has none.
    pub quantized_bpw: Option<f64>,
    /// Squared error over energy of the quantized tensors, pooled; `null` where nothing was quantized.
    pub relative_mse: Option<f64>,
    /// The same, weighted with importance, over the tensors that have any; `null` without.
    pub weighted_relative_mse: Option<f64>,
    /// Time taken.
    pub seconds: f64,
}

/// Squared error and energy of a tensor that was quantized, or of some of its rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TensorError {
    /// Sum of the squared errors of its weights.
    pub squared_error: f64,
    /// Sum of the squares of its weights.
    pub energy: f64,
    /// The same two sums, each term times its input feature's importance, if that is known.
    pub weighted: Option<(f64, f64)>,
}

impl TensorError {
    /// The sums over both.
    pub fn and(self, other: Self) -> Self {
        let weighted = self.weighted.zip(other.weighted);
        Self {
            squared_error: self.squared_error + other.squared_error,
            energy: self.energy + other.energy,
            weighted: weighted.map(|(a, b)| (a.0 + b.0, a.1 + b.1)),
        }
    }
}

/// A tensor of the report.
#[derive(Debug, Serialize)]
pub struct Row {
    name: String,
    shape: Vec<u64>,
    dtype: &'static str,
    encoding: String,
    bytes: u64,
    bpw: Option<f64>,
    reason: String,
    relative_mse: Option<f64>,
    weighted_relative_mse: Option<f64>,
    #[serde(skip)]
    quantized: bool,
    #[serde(skip)]
    elements: u64,
}

impl Row {
    /// The tensor's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bytes in the output.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Why it is stored like that.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// Name, shape, encoding, bits a weight and bytes, for a table.
    pub fn cells(&self) -> [String; 5] {
        let shape: Vec<_> = self.shape.iter().map(u64::to_string).collect();
        [
            self.name.clone(),
            format!("[{}]", shape.join(", ")),
            if self.quantized { self.encoding.clone() } else { format!("raw {}", self.dtype) },
            fixed(self.bpw, 2),
            count(self.bytes),
        ]
    }

    /// A tensor as the container has it, its dtype and bytes in the output, and the reason.
    pub fn new(info: &TensorInfo<'_>, dtype: Dtype, bytes: u64, reason: &impl ToString) -> Self {
        let elements = info.elements();
        Self {
            name: info.name().into(),
            shape: info.shape().into(),
            dtype: dtype.name(),
            encoding: info.encoding().to_string(),
            bytes,
            bpw: bpw(bytes as f64 * 8.0, elements),
            reason: reason.to_string(),
            relative_mse: None,
            weighted_relative_mse: None,
            quantized: info.encoding() != Encoding::Raw,
            elements,
        }
    }
}

impl Report {
    /// A report without tensors.
    pub fn new(common: &Common) -> Self {
        Self {
            input: common.input.display().to_string(),
            output: common.output.display().to_string(),
            files: vec![common.output.display().to_string()],
            total: Total::default(),
            tensors: Vec::new(),
            blobs: Vec::new(),
            left_out: Vec::new(),
            warnings: Vec::new(),
            target: None,
            without_importance: Vec::new(),
            has_importance: false,
            errors: [0.0; 2],
            weighted_errors: [0.0; 2],
            quantized_bits: 0.0,
            quantized_parameters: 0,
        }
    }

    /// Says that there is an importance file: each quantized tensor without a vector is listed.
    pub fn expect_importance(&mut self) {
        self.has_importance = true;
    }

    /// Adds a tensor.
    pub fn add(&mut self, mut row: Row, error: Option<TensorError>) {
        if let Some(TensorError { squared_error, energy, weighted }) = error {
            row.relative_mse = add_relative(&mut self.errors, squared_error, energy);
            row.weighted_relative_mse =
                weighted.and_then(|(error, energy)| add_relative(&mut self.weighted_errors, error, energy));
            if self.has_importance && weighted.is_none() {
                self.without_importance.push(row.name.clone());
            }
        }
        if row.quantized {
            self.total.quantized = self.total.quantized.saturating_add(1);
            self.quantized_parameters = self.quantized_parameters.saturating_add(row.elements);
            self.quantized_bits += row.bytes as f64 * 8.0;
        }
        self.total.tensors = self.total.tensors.saturating_add(1);
        self.total.parameters = self.total.parameters.saturating_add(row.elements);
        self.tensors.push(row);
    }

    /// Computes what the sums lead to.
    pub fn finish(&mut self, elapsed: Duration) {
        self.total.bpw = bpw(self.total.bytes_out as f64 * 8.0, self.total.parameters);
        self.total.quantized_bpw = bpw(self.quantized_bits, self.quantized_parameters);
        self.total.relative_mse = relative(self.errors);
        self.total.weighted_relative_mse = relative(self.weighted_errors);
        self.total.seconds = elapsed.as_secs_f64();
    }

    /// Writes one JSON object on one line.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_json(&self, out: &mut impl Write) -> io::Result<()> {
        serde_json::to_writer(&mut *out, self)?;
        writeln!(out)
    }

    /// Writes the closing table in at most `columns` columns.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_table(&self, out: &mut impl Write, columns: Option<usize>) -> io::Result<()> {
        let mut titles = vec![
            Column::name("tensor"),
            Column::right("shape"),
            Column::left("encoding"),
            Column::right("bpw"),
            Column::right("bytes"),
            Column::right("rel. MSE"),
        ];
        if self.has_importance {
            titles.push(Column::right("weighted"));
        }
        let mut table = Table::new(titles.into_iter().chain([Column::name("reason")]));
        let errors = |plain, weighted| {
            let weighted = self.has_importance.then(|| fixed(weighted, 5));
            [fixed(plain, 5)].into_iter().chain(weighted)
        };
        for row in &self.tensors {
            let errors = errors(row.relative_mse, row.weighted_relative_mse);
            table.row(row.cells().into_iter().chain(errors).chain([row.reason.clone()]));
        }
        let tensor_bytes = self.tensors.iter().map(|row| row.bytes).sum();
        table.rule();
        let cells = [
            String::from("total"),
            count(self.total.parameters),
            String::new(),
            String::new(),
            count(tensor_bytes),
        ];
        let errors = errors(self.total.relative_mse, self.total.weighted_relative_mse);
        table.row(cells.into_iter().chain(errors));
        table.write(out, columns)?;
        self.write_summary(out)
    }

    fn write_summary(&self, out: &mut impl Write) -> io::Result<()> {
        let Total { tensors, quantized, bytes_in, bytes_out, bpw, quantized_bpw, seconds, .. } = self.total;
        writeln!(out)?;
        let output = match self.files.as_slice() {
            [first, .., last] => format!("{first} to {last}"),
            _ => self.output.clone(),
        };
        writeln!(out, "{} -> {}", printable(&self.input), printable(&output))?;
        let refused = self.tensors.iter().filter(|row| row.reason.starts_with("could not take")).count();
        let refused = match refused {
            0 => String::new(),
            refused => format!(" ({} could not take the encoding)", count(refused as u64)),
        };
        let raw = count(tensors.saturating_sub(quantized));
        writeln!(out, "  tensors  {}: {} quantized, {raw} raw{refused}", count(tensors), count(quantized))?;
        writeln!(out, "  bytes    {} -> {}", bytes(bytes_in), bytes(bytes_out))?;
        if let Some(bpw) = bpw {
            let quantized = quantized_bpw.map_or(String::new(), |bpw| format!(" ({bpw:.2} where quantized)"));
            writeln!(out, "  bpw      {bpw:.2}{quantized}")?;
        }
        if let Some(outcome) = &self.target {
            outcome.write(out)?;
        }
        writeln!(out, "  time     {}", duration(Duration::from_secs_f64(seconds)))?;
        for (title, names) in [
            ("carried", &self.blobs),
            ("left out", &self.left_out),
            ("without importance", &self.without_importance),
        ] {
            if !names.is_empty() {
                writeln!(out, "  {title:8} {}", printable(&names.join(", ")))?;
            }
        }
        Ok(())
    }
}

fn bpw(bits: f64, elements: u64) -> Option<f64> {
    (elements > 0).then(|| bits / elements as f64)
}

/// Squared error over energy.
fn relative([squared_error, energy]: [f64; 2]) -> Option<f64> {
    Some(squared_error / energy).filter(|relative| relative.is_finite())
}

/// Adds to a total, and returns the ratio of what was added.
fn add_relative(total: &mut [f64; 2], squared_error: f64, energy: f64) -> Option<f64> {
    total[0] += squared_error;
    total[1] += energy;
    relative([squared_error, energy])
}

fn fixed(value: Option<f64>, decimals: usize) -> String {
    value.map_or(String::new(), |value| format!("{value:.decimals$}"))
}
