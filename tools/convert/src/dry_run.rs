//! `--dry-run`: what a conversion would write and need, from headers alone.
//!
//! Only a budget (`--target-bpw`, `--target-size`) reads weights, to measure what each encoding costs.

use std::io::{self, Write};

use ccq_cli::{Column, Table, bytes, count, printable};
use rayon::ThreadPool;
use serde::Serialize;

use crate::allocate::Outcome;
use crate::args::{Common, Conversion};
use crate::error::Error;
use crate::identity::Inputs;
use crate::job::{self, lay_out, tensors};
use crate::output::check_input;
use crate::plan::{Prepared, prepare};
use crate::report::{Report, Row};
use crate::source;
use crate::split::FilePlan;

/// The plan as a report; its JSON has these fields.
#[derive(Debug, Serialize)]
pub struct DryRun {
    /// The input as it was given.
    pub input: String,
    /// Sums.
    pub total: Total,
    /// What the job needs.
    pub needs: Needs,
    /// Tensors in the order of their names.
    pub tensors: Vec<Row>,
    /// The model's own files that the output would carry.
    pub blobs: Vec<String>,
    /// What could not be done as it is asked.
    pub warnings: Vec<String>,
    /// What was chosen for a budget; `null` where nothing was.
    pub target: Option<Outcome>,
    /// The recipe, as the container would have it.
    pub recipe: String,
}

/// Sums over the tensors.
#[derive(Debug, Serialize)]
pub struct Total {
    /// Number of tensors.
    pub tensors: u64,
    /// Those that would be quantized.
    pub quantized: u64,
    /// Elements of all tensors.
    pub parameters: u64,
    /// Bytes of the output file.
    pub bytes: u64,
    /// Bits a weight: all bytes of the output over all parameters; `null` without parameters.
    pub bpw: Option<f64>,
    /// The same over the quantized tensors alone; `null` where there are none.
    pub quantized_bpw: Option<f64>,
}

/// What the job needs.
#[derive(Debug, Serialize)]
pub struct Needs {
    /// Bytes of memory: the least that `--max-memory` can be.
    pub memory: u64,
    /// Free bytes in the output's folder.
    pub disk: u64,
}

/// Plans a conversion.
///
/// # Errors
/// Any [`Error`] that comes before the first byte of output.
pub fn dry_run(common: &Common, conversion: &Conversion, pool: &ThreadPool) -> Result<DryRun, Error> {
    check_input(&common.input)?;
    let model = source::open(common)?;
    let inputs = Inputs::new(model.input_files())?;
    let Prepared { mut plan, outcome, warnings, .. } =
        pool.install(|| prepare(&model, conversion, None, common))?;
    let (_, files) = lay_out(&mut plan, conversion, &inputs, common)?;
    let bytes = files.iter().map(FilePlan::len).sum();
    let mut report = Report::new(common);
    for (planned, info) in plan.tensors.iter().zip(tensors(&files)) {
        report.add(Row::new(&info, info.dtype(), info.stored_bytes(), &planned.decision.reason), None);
    }
    report.total.bytes_out = bytes;
    report.finish(std::time::Duration::ZERO);
    let needs = Needs { memory: job::Needs::new(&plan, &files, common, pool).least(), disk: bytes };
    let total = &report.total;
    Ok(DryRun {
        input: report.input,
        total: Total {
            tensors: total.tensors,
            quantized: total.quantized,
            parameters: total.parameters,
            bytes,
            bpw: total.bpw,
            quantized_bpw: total.quantized_bpw,
        },
        needs,
        tensors: report.tensors,
        blobs: plan.blobs.iter().map(|blob| blob.name.clone()).collect(),
        warnings,
        target: outcome,
        recipe: plan.recipe,
    })
}

impl DryRun {
    /// Writes one JSON object on one line.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_json(&self, out: &mut impl Write) -> io::Result<()> {
        serde_json::to_writer(&mut *out, self)?;
        writeln!(out)
    }

    /// Writes a table in at most `columns` columns, and what follows from it.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_table(&self, out: &mut impl Write, columns: Option<usize>) -> io::Result<()> {
        let mut table = Table::new([
            Column::name("tensor"),
            Column::right("shape"),
            Column::left("encoding"),
            Column::right("bpw"),
            Column::right("bytes"),
            Column::name("reason"),
        ]);
        for row in &self.tensors {
            table.row(row.cells().into_iter().chain([row.reason().to_owned()]));
        }
        table.rule();
        let stored = self.tensors.iter().map(Row::bytes).sum();
        let cells =
            ["total".into(), count(self.total.parameters), String::new(), String::new(), count(stored)];
        table.row(cells);
        table.write(out, columns)?;
        let Total { tensors, quantized, bpw, quantized_bpw, .. } = self.total;
        writeln!(out)?;
        writeln!(out, "{}: nothing was written", printable(&self.input))?;
        let raw = count(tensors.saturating_sub(quantized));
        writeln!(out, "  tensors  {}: {} quantized, {raw} raw", count(tensors), count(quantized))?;
        if let Some(bpw) = bpw {
            let quantized = quantized_bpw.map_or(String::new(), |bpw| format!(" ({bpw:.2} where quantized)"));
            writeln!(out, "  bpw      {bpw:.2}{quantized}")?;
        }
        if let Some(outcome) = &self.target {
            outcome.write(out)?;
        }
        writeln!(out, "  disk     {} ({} bytes)", bytes(self.needs.disk), count(self.needs.disk))?;
        writeln!(out, "  memory   {}", bytes(self.needs.memory))?;
        for warning in &self.warnings {
            writeln!(out, "  warning  {}", printable(warning))?;
        }
        Ok(())
    }
}
