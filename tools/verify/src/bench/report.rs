//! What was measured, as a table for people or as one JSON object.

use std::io::{self, Write};

use ccq_cli::{Column, Table, bytes, count};
use serde::Serialize;

use super::paper::{self, Figures};
use super::timing::Timing;
use crate::machine::Machine;
use crate::report::giga;

/// The whole report; the JSON object has these fields.
#[derive(Debug, Serialize)]
pub struct Report {
    device: Machine,
    seconds: f64,
    copy_bytes_per_second: f64,
    notes: Vec<String>,
    results: Vec<Row>,
}

/// A row of the table.
#[derive(Debug, Default, Serialize)]
pub struct Row {
    /// The layer timed; `None` for random weights.
    pub name: Option<String>,
    /// Layers of its shape and encoding in the file.
    pub layers: Option<u64>,
    /// How the weights are stored.
    pub encoding: String,
    /// Output channels timed.
    pub rows: usize,
    /// Input features.
    pub in_features: usize,
    /// What was done.
    pub operation: &'static str,
    /// Type of the weights written, or of the vectors multiplied.
    pub element: &'static str,
    /// M of a product.
    pub tokens: Option<usize>,
    /// Bytes of the weights.
    pub stored_bytes: u64,
    /// Copies that took turns.
    pub sets: usize,
    /// Whether they, and what is written, exceed the cache.
    pub cold: bool,
    /// Runs timed.
    pub runs: usize,
    /// Of a run.
    pub median_seconds: f64,
    /// Weights over time.
    pub weights_per_second: f64,
    /// Stored bytes over time.
    pub stored_bytes_per_second: f64,
    /// Bytes read and written over time, as a share of a copy's.
    pub copy_share: f64,
    /// What memory does in `memory_seconds`: `fill` the output, or `read` the weights.
    pub memory_operation: Option<&'static str>,
    /// Of filling the output, or reading the weights, and nothing else.
    pub memory_seconds: Option<f64>,
    /// Those over ours.
    pub memory_share: Option<f64>,
    /// Of one thread, where there are more.
    pub single_seconds: Option<f64>,
    /// Of cuBLAS's bf16 product of the same shape.
    pub cublas_seconds: Option<f64>,
    /// What the paper has.
    pub paper: Option<Figures>,
}

impl Row {
    /// Fills in the speeds.
    pub fn fill(&mut self, timing: &Timing, copy: f64, written_bytes: u64) {
        let seconds = timing.median;
        (self.runs, self.median_seconds) = (timing.runs, seconds);
        self.weights_per_second = (self.rows * self.in_features) as f64 / seconds;
        self.stored_bytes_per_second = self.stored_bytes as f64 / seconds;
        self.copy_share = (self.stored_bytes + written_bytes) as f64 / seconds / copy;
        self.memory_share = self.memory_seconds.map(|memory| memory / seconds);
    }

    fn operation_text(&self) -> String {
        match (self.operation, self.tokens) {
            ("int8_product", Some(tokens)) => format!("y = W x, x in 8 bits, M = {tokens}"),
            (_, Some(tokens)) => format!("y = W x, M = {tokens}"),
            ("dequantize_rows", _) => format!("{} row by row", self.element),
            _ => format!("{} to memory", self.element),
        }
    }
}

impl Report {
    /// With notes on how to read it.
    pub fn new(device: Machine, seconds: f64, copy: f64, mut notes: Vec<String>, results: Vec<Row>) -> Self {
        if results.iter().any(|row| !row.cold) {
            notes.push("some weights, all copies together, may have stayed in a cache".into());
        }
        if results.iter().any(|row| row.paper.is_some()) {
            notes.push(paper::NOTE.into());
        }
        Self { device, seconds, copy_bytes_per_second: copy, notes, results }
    }

    /// Writes the table, at most `columns` wide.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write(&self, out: &mut impl Write, columns: Option<usize>) -> io::Result<()> {
        writeln!(out, "{}, {} last-level cache", self.device, bytes(self.device.cache))?;
        writeln!(out, "copy of memory: {} GB/s, read plus written\n", giga(self.copy_bytes_per_second))?;
        self.table().write(out, columns)?;
        if !self.notes.is_empty() {
            writeln!(out)?;
        }
        self.notes.iter().try_for_each(|note| writeln!(out, "{note}"))
    }

    fn table(&self) -> Table {
        let of_file = self.results.iter().any(|row| row.name.is_some());
        let with_memory = self.results.iter().any(|row| row.memory_share.is_some());
        let with_single = self.results.iter().any(|row| row.single_seconds.is_some());
        let with_cublas = self.results.iter().any(|row| row.cublas_seconds.is_some());
        let of_paper = self.results.iter().any(|row| row.paper.is_some());
        let mut titles = Vec::new();
        if of_file {
            titles.extend([Column::name("layer"), Column::right("alike")]);
        }
        titles.extend([Column::left("encoding"), Column::right("shape"), Column::left("operation")]);
        titles.extend(["time", "Gweights/s", "GB/s", "of copy"].map(Column::right));
        if with_memory {
            titles.push(Column::right("of read or fill"));
        }
        if with_single {
            titles.push(Column::right("over 1 thread"));
        }
        if with_cublas {
            titles.extend(["cuBLAS bf16", "speed-up"].map(Column::right));
        }
        if of_paper {
            titles.extend(["H20: CCQ", "WINT2", "VPTQ"].map(Column::right));
        }
        let mut table = Table::new(titles);
        for row in &self.results {
            let mut cells = Vec::new();
            if of_file {
                cells.extend([row.name.clone().unwrap_or_default(), count(row.layers.unwrap_or(0))]);
            }
            cells.extend([
                row.encoding.clone(),
                format!("{}x{}", row.rows, row.in_features),
                row.operation_text(),
                millis(row.median_seconds),
                giga(row.weights_per_second),
                giga(row.stored_bytes_per_second),
                percent(row.copy_share),
            ]);
            if with_memory {
                cells.push(row.memory_share.map(percent).unwrap_or_default());
            }
            if with_single {
                let ratio = row.single_seconds.map(|seconds| format!("{:.2}", seconds / row.median_seconds));
                cells.push(ratio.unwrap_or_default());
            }
            if with_cublas {
                let ratio = row.cublas_seconds.map(|seconds| format!("{:.2}", seconds / row.median_seconds));
                cells.extend([row.cublas_seconds.map(millis).unwrap_or_default(), ratio.unwrap_or_default()]);
            }
            let paper = row.paper.iter();
            cells.extend(
                paper.flat_map(|paper| {
                    [paper.ccq_seconds, paper.wint2_seconds, paper.vptq_seconds].map(millis)
                }),
            );
            table.row(cells);
        }
        table
    }
}

fn percent(share: f64) -> String {
    format!("{:.1}%", share * 100.0)
}

fn millis(seconds: f64) -> String {
    let millis = seconds * 1e3;
    let decimals = if millis < 10.0 { 3 } else { 1 };
    format!("{millis:.decimals$} ms")
}
