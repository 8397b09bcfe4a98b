//! The job: what the plan says, in blocks, noted in a journal so that it can be gone on with.

use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use ccq::format::TensorInfo;
use ccq::shard_path;
use ccq_cli::Progress;
use ccq_import::{Importance, Model};
use rayon::ThreadPool;

use crate::args::{Common, Conversion};
use crate::blocks::{Block, Item, blocks};
use crate::error::Error;
use crate::files::{Files, checksum, name_completed};
use crate::identity::{self, Inputs};
use crate::journal::{self, BlockDone, Found, Identity, Journal};
use crate::memory::Budget;
use crate::output;
use crate::part::PartId;
use crate::pipeline::{self, Done, Source, cost, source_bytes};
use crate::plan::{Plan, Prepared, prepare};
use crate::report::{Report, Row, TensorError};
use crate::source;
use crate::split::{self, FilePlan};

/// The key of a job's identity that has what was measured for a budget.
const MEASURED: &str = "plan: measured";
/// The key of a job's identity that says how many files it writes.
const FILES: &str = "files";
/// Memory besides that of blocks: code, stacks, the first pages of everything.
const FIXED: u64 = 24 << 20;
/// The same for each tensor: its records, here and in the source's header.
const PER_TENSOR: u64 = 1 << 10;
/// The same for each thread: its stack, and the block that it reads.
const PER_THREAD: u64 = 6 << 20;
/// The same for each block that a journal may tell of.
const PER_BLOCK: u64 = 160;
/// Blocks are given what is left, less a share for what the allocator keeps of those that are done: one in so many.
const KEPT: u64 = 2;
/// Bytes of the model that may stay mapped: an eighth of the memory, within these bounds.
const WINDOW: [u64; 2] = [8 << 20, 256 << 20];

/// Converts a source model to a container, or to several.
///
/// # Errors
/// Any [`Error`]. Nothing is left behind then, unless it is `Stopped`.
pub fn convert(common: &Common, conversion: &Conversion, pool: &ThreadPool) -> Result<Report, Error> {
    let start = Instant::now();
    output::check_input(&common.input)?;
    let model = source::open(common)?;
    let inputs = Inputs::new(model.input_files())?;
    output::check(common, [&common.output], model.input_files())?;
    output::check_new(common)?;
    let measured = measured(conversion, &inputs, common)?;
    let Prepared { mut plan, importance, outcome, warnings } =
        pool.install(|| prepare(&model, conversion, measured.as_deref(), common))?;
    let (mut identity, files) = lay_out(&mut plan, conversion, &inputs, common)?;
    if let Some(outcome) = &outcome {
        identity.insert(MEASURED.into(), outcome.measured.clone());
    }
    let mut report = Report::new(common);
    report.total.bytes_in = inputs.len();
    report.total.bytes_out = files.iter().map(FilePlan::len).sum();
    report.files = files.iter().map(|file| file.path.display().to_string()).collect();
    report.blobs = plan.blobs.iter().map(|blob| blob.name.clone()).collect();
    report.left_out = model.ignored_files().iter().filter_map(|file| file_name(file)).collect();
    report.warnings = warnings;
    report.target = outcome;
    if importance.is_some() {
        report.expect_importance();
    }
    let job = Job { common, model: &model, inputs: &inputs, plan: &plan, files: &files, importance };
    let errors = job.run(&identity, pool, &report.warnings)?;
    for (planned, (info, error)) in plan.tensors.iter().zip(tensors(&files).zip(errors)) {
        report.add(Row::new(&info, info.dtype(), info.stored_bytes(), &planned.decision.reason), error);
    }
    report.finish(start.elapsed());
    Ok(report)
}

/// What the run that is gone on with measured for a budget, if it was about the same inputs and options.
fn measured(conversion: &Conversion, inputs: &Inputs, common: &Common) -> Result<Option<String>, Error> {
    if !common.job.resume || conversion.target.is_none() {
        return Ok(None);
    }
    let Some(mut before) = journal::job(&journal::path(&common.output)) else { return Ok(None) };
    let asked = identify(conversion, inputs)?;
    let same = asked.iter().all(|(key, value)| before.get(key) == Some(value));
    Ok(same.then(|| before.remove(MEASURED)).flatten())
}

/// What is asked for, and of what.
fn identify(conversion: &Conversion, inputs: &Inputs) -> Result<Identity, Error> {
    let mut identity = Identity::new();
    inputs.identify("input", &mut identity)?;
    identity.insert("program".into(), crate::plan::PRODUCER.into());
    identity.extend(conversion.identity());
    let importance = conversion.importance.iter().cloned().collect::<Vec<_>>();
    Inputs::new(&importance)?.identify("importance", &mut identity)?;
    Ok(identity)
}

/// Says what the job is, leaves the part of the plan that it is about, and cuts that into files.
///
/// # Errors
/// `Layout`, `Split`, `Input`.
pub fn lay_out(
    plan: &mut Plan<'_>,
    conversion: &Conversion,
    inputs: &Inputs,
    common: &Common,
) -> Result<(Identity, Vec<FilePlan>), Error> {
    let mut identity = identify(conversion, inputs)?;
    // Whatever else decides what is written: names, shapes, encodings, metadata, and the recipe among that.
    let whole = split::files(plan.contents(), None, &common.output, &common.input)?;
    let mut hash = ccq::format::Fnv128::new();
    whole.iter().for_each(|file| hash.update(file.layout.front()));
    identity.insert("plan".into(), identity::hex(&hash));
    if let Some(part) = common.job.part {
        identity.insert("parts".into(), part.count.to_string());
        plan.keep_part(&PartId { part, job: identity::hash(&identity) });
        identity.insert("--part".into(), part.to_string());
    }
    let most = common.job.split_max_size;
    if let Some(most) = most {
        identity.insert("--split-max-size".into(), most.to_string());
    }
    let files = split::files(plan.contents(), most, &common.output, &common.input)?;
    identity.insert(FILES.into(), files.len().to_string());
    Ok((identity, files))
}

/// The tensors of all files, in order.
pub fn tensors(files: &[FilePlan]) -> impl Iterator<Item = TensorInfo<'_>> {
    files.iter().flat_map(|file| file.layout.index().tensors())
}

/// All that is needed to do it.
struct Job<'a> {
    common: &'a Common,
    model: &'a Model,
    inputs: &'a Inputs,
    plan: &'a Plan<'a>,
    files: &'a [FilePlan],
    importance: Option<Importance>,
}

impl Job<'_> {
    /// Writes all files, and returns what quantizing did to each tensor.
    fn run(
        &self,
        identity: &Identity,
        pool: &ThreadPool,
        warnings: &[String],
    ) -> Result<Vec<Option<TensorError>>, Error> {
        let common = self.common;
        let [window, memory] = self.memory(pool)?;
        output::check(common, self.files.iter().map(|file| &file.path), self.model.input_files())?;
        let (mut journal, found) = Journal::open(journal::path(&common.output)).map_err(output::refused)?;
        let found = self.check_found(found, identity)?;
        if let Some(found) = &found
            && found.complete
            && name_completed(self.files, common)?
        {
            journal.remove();
            let mut errors = Errors::new(self.plan.tensors.len());
            blocks(self.files).zip(&found.blocks).for_each(|(block, done)| errors.add(&block, done.0.error));
            return Ok(errors.0);
        }
        let progress = match common.job.quiet {
            true => Progress::hidden(),
            false => Progress::of_tensors(blocks(self.files).map(|b| source_bytes(&b, self.plan)).sum()),
        };
        output::show_warnings(warnings, &progress);
        let mut files = match Files::create(self.files, common, found.is_some()) {
            Ok(files) => files,
            Err(error) => {
                if found.is_none() {
                    journal.remove();
                }
                return Err(error);
            }
        };
        // From here on a kill leaves an unfinished job.
        let done = self.go(identity, found, &mut files, &mut journal, pool, [window, memory], &progress);
        let named = done.and_then(|errors| {
            output::check_interrupt()?;
            files.keep_unfinished(true);
            files.finish()?;
            journal.complete().map_err(output::refused)?;
            files.commit()?;
            Ok(errors)
        });
        match named {
            Ok(errors) => {
                progress.finish();
                journal.remove();
                Ok(errors)
            }
            Err(error) => Err(self.stop(error, files, journal)),
        }
    }

    /// The mapped bytes and the memory for blocks.
    fn memory(&self, pool: &ThreadPool) -> Result<[u64; 2], Error> {
        let limit = self.common.job.memory();
        let needs = Needs::new(self.plan, self.files, self.common, pool);
        let Some(spare) = limit.checked_sub(needs.least()) else {
            return Err(Error::Memory { limit, needed: needs.least() });
        };
        let window = (limit / 8).clamp(WINDOW[0], WINDOW[1]).min(WINDOW[0].saturating_add(spare));
        let blocks = limit.saturating_sub(needs.fixed).saturating_sub(window);
        Ok([window, (blocks / (KEPT + 1)).saturating_mul(KEPT)])
    }

    /// What an earlier run left that can be gone on with.
    fn check_found(&self, found: Option<Found>, identity: &Identity) -> Result<Option<Found>, Error> {
        let is_left = |file: &FilePlan| output::partial(&file.path).exists();
        let Some(found) = found else { return Ok(None) };
        let worth_keeping = !found.blocks.is_empty() && self.files.iter().any(is_left);
        if !self.common.job.resume && worth_keeping && !self.common.overwrite {
            return Err(Error::Unfinished { output: self.common.output.clone() });
        }
        if !self.common.job.resume || found.blocks.is_empty() {
            self.remove_others(&found);
            return Ok(None);
        }
        match identity::difference(&found.identity, identity) {
            None => Ok(Some(found)),
            Some((what, was, is)) => {
                Err(Error::OtherJob { output: self.common.output.clone(), what, was, is })
            }
        }
    }

    /// Removes the unfinished files of a job that is not gone on with; those of this one are started anew. Whoever
    /// has the journal has them, too.
    fn remove_others(&self, found: &Found) {
        let count = found.identity.get(FILES).and_then(|count| count.parse().ok()).unwrap_or(0);
        for path in (0..count).map(|index| shard_path(&self.common.output, index, count)) {
            if self.files.iter().all(|file| file.path != path) {
                // What stays does not open as a finished file.
                drop(std::fs::remove_file(output::partial(&path)));
            }
        }
    }

    /// Takes over what is done and does the rest.
    #[allow(clippy::too_many_arguments)] // each of them is one
    fn go(
        &self,
        identity: &Identity,
        found: Option<Found>,
        files: &mut Files,
        journal: &mut Journal,
        pool: &ThreadPool,
        [window, memory]: [u64; 2],
        progress: &Progress,
    ) -> Result<Vec<Option<TensorError>>, Error> {
        let mut errors = Errors::new(self.plan.tensors.len());
        let first = match found {
            None => journal.start(identity).map(|()| 0).map_err(output::refused)?,
            Some(found) => self.take_over(&found, files, journal, &mut errors, progress)?,
        };
        // More blocks than that would not be faster.
        let budget = Budget::new(memory, pool.current_num_threads().saturating_mul(4).saturating_add(64));
        let source = Source {
            model: self.model,
            plan: self.plan,
            importance: self.importance.as_ref(),
            inputs: self.inputs,
            window,
            mapped: AtomicU64::new(0),
            budget: &budget,
            progress,
        };
        let mut write = |block: &Block, done: &Done| {
            let parts = done.parts();
            files.write(block, self.name(block), &parts)?;
            journal.add(&BlockDone { crc: checksum(&parts), error: done.error });
            errors.add(block, done.error);
            if journal.is_due() {
                journal.flush(|| files.sync()).map_err(output::refused)?;
            }
            if block.last {
                progress.done(self.name(block));
            }
            Ok(())
        };
        pipeline::run(&source, first, blocks(self.files), pool, &mut write)?;
        Ok(errors.0)
    }

    /// Takes over the blocks that are in the files as the journal says, and returns the number of the next one.
    fn take_over(
        &self,
        found: &Found,
        files: &mut Files,
        journal: &mut Journal,
        errors: &mut Errors,
        progress: &Progress,
    ) -> Result<u64, Error> {
        let mut count = 0usize;
        for (block, (done, _)) in blocks(self.files).zip(&found.blocks) {
            output::check_interrupt()?;
            if !files.take_over(&block, self.name(&block), done.crc)? {
                let name = ccq_cli::printable(self.name(&block));
                progress.line(&format!("warning: {name}: not as the journal says; going on from there"));
                break;
            }
            errors.add(&block, done.error);
            progress.skip(source_bytes(&block, self.plan));
            count = count.saturating_add(1);
        }
        journal.go_on(found, count).map_err(output::refused)?;
        Ok(count as u64)
    }

    /// Ends a job that failed: it can be gone on with, or leaves nothing behind.
    fn stop(&self, error: Error, mut files: Files, mut journal: Journal) -> Error {
        if error.can_be_resumed() {
            // Also what was done since the last flush, if it can be; the error is said in any case.
            drop(journal.flush(|| files.sync()));
        }
        let keep = error.can_be_resumed() && journal.has_blocks();
        files.keep_unfinished(keep);
        if keep {
            return Error::Stopped { source: Box::new(error), command: output::resume_command() };
        }
        journal.remove();
        error
    }

    fn name(&self, block: &Block) -> &str {
        match block.item {
            Item::Tensor(at) => self.plan.tensors.get(at).map_or("", |planned| &planned.source.name),
            Item::Blob(at) => self.plan.blobs.get(at).map_or("", |blob| &blob.name),
        }
    }
}

/// What a job needs of memory.
pub struct Needs {
    /// Whatever is no block and no part of the model.
    fixed: u64,
    /// The largest block.
    largest: u64,
}

impl Needs {
    /// Of a plan cut into files, on a pool of threads.
    pub fn new(plan: &Plan<'_>, files: &[FilePlan], common: &Common, pool: &ThreadPool) -> Self {
        let row = plan.quantized().map(|tensor| tensor.shape.last().copied().unwrap_or(0)).max();
        let thread = row.unwrap_or(0).saturating_mul(64).saturating_add(PER_THREAD);
        let (mut largest, mut count) = (0, 0u64);
        for block in blocks(files) {
            let [weights, stored] = cost(&block, plan);
            largest = weights.saturating_add(stored).max(largest);
            count = count.saturating_add(1);
        }
        let noted = if common.job.resume { count.saturating_mul(PER_BLOCK) } else { 0 };
        let fixed = plan
            .source_tensors
            .saturating_mul(PER_TENSOR)
            .saturating_add(thread.saturating_mul(pool.current_num_threads() as u64))
            .saturating_add(FIXED)
            .saturating_add(noted);
        Self { fixed, largest }
    }

    /// The least that `--max-memory` can be.
    pub fn least(&self) -> u64 {
        self.fixed.saturating_add(WINDOW[0]).saturating_add(self.largest.saturating_add(self.largest / KEPT))
    }
}

/// What quantizing did to each tensor: sums over its blocks, in their order.
struct Errors(Vec<Option<TensorError>>);

impl Errors {
    fn new(tensors: usize) -> Self {
        Self(vec![None; tensors])
    }

    fn add(&mut self, block: &Block, error: Option<TensorError>) {
        let Item::Tensor(at) = block.item else { return };
        let (Some(sum), Some(error)) = (self.0.get_mut(at), error) else { return };
        *sum = Some(match *sum {
            None => error,
            Some(sum) => sum.and(error),
        });
    }
}

/// A file's length, 0 where it has vanished: it only informs.
pub fn file_len(path: &Path) -> u64 {
    path.metadata().map_or(0, |metadata| metadata.len())
}

fn file_name(path: &Path) -> Option<String> {
    path.file_name().map(|name| name.to_string_lossy().into_owned())
}
