//! Reading, quantizing and writing at the same time, in bounded memory.
//!
//! ```text
//! this thread: asks for a block's bytes as soon as there is memory for it            -> tasks of the pool
//! the pool:    decodes and quantizes blocks of several tensors at a time, by rows    -> a channel
//! one thread:  puts blocks in order and writes them; gives their memory back
//! ```
//!
//! Memory is taken in the order of the blocks, so the next one to be written always has its own, and there is
//! always something that can go on. The first error in the order of the blocks is the one that is returned.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use ccq_cli::{Progress, interrupted};
use ccq_import::{CodedRows, Importance, Model, SourceTensor, Vectors};
use ccq_quantize::QuantizedMatrix;
use rayon::{Scope, ThreadPool};

use crate::blocks::{Block, Item};
use crate::error::Error;
use crate::identity::Inputs;
use crate::memory::Budget;
use crate::output::check_interrupt;
use crate::plan::Plan;
use crate::policy::Action;
use crate::report::TensorError;
use crate::search::{Search, Shape, refused, size, vectors};

/// What blocks are made from, and with what.
pub struct Source<'a> {
    /// The model.
    pub model: &'a Model,
    /// What becomes of its tensors.
    pub plan: &'a Plan<'a>,
    /// What is known of their input features.
    pub importance: Option<&'a Importance>,
    /// The files as they should be.
    pub inputs: &'a Inputs,
    /// Bytes of the model that may stay mapped, and how many have been read since they were let go of.
    pub window: u64,
    /// See [`Source::window`].
    pub mapped: AtomicU64,
    /// Memory for blocks.
    pub budget: &'a Budget,
    /// Who wants to know.
    pub progress: &'a Progress,
}

/// A block that can be written.
pub struct Done {
    bytes: Bytes,
    /// What quantizing did to it.
    pub error: Option<TensorError>,
}

enum Bytes {
    Copied(Vec<u8>),
    Coded(CodedRows),
    Matrix(QuantizedMatrix),
}

impl Done {
    /// The bytes for each plane, in file order; the layout has no plane where the code has none.
    pub fn parts(&self) -> Vec<&[u8]> {
        let planes = match &self.bytes {
            Bytes::Copied(bytes) => return vec![bytes],
            Bytes::Coded(rows) => rows.planes(),
            Bytes::Matrix(matrix) => matrix.planes(),
        };
        let mut parts = vec![planes.code, planes.local_scale, planes.super_scale, planes.cluster];
        parts.retain(|part| !part.is_empty());
        parts
    }
}

/// Memory that a block takes: its weights until it is quantized or rounded, what is stored until it is written.
pub fn cost(block: &Block, plan: &Plan<'_>) -> [u64; 2] {
    let decoded = match block.item {
        Item::Tensor(at) => plan
            .tensors
            .get(at)
            .is_some_and(|planned| planned.search().is_some() || !planned.source.is_exact()),
        Item::Blob(_) => false,
    };
    let weights = if decoded { block.weights().saturating_mul(size_of::<f32>() as u64) } else { 0 };
    [weights, block.stored()]
}

/// Bytes of the source that a block is made from, for progress.
pub fn source_bytes(block: &Block, plan: &Plan<'_>) -> u64 {
    match block.item {
        Item::Tensor(at) => {
            plan.tensors.get(at).map_or(0, |planned| bytes_of(planned.source, block.weights()))
        }
        Item::Blob(_) => block.stored(),
    }
}

fn bytes_of(tensor: &SourceTensor, elements: u64) -> u64 {
    elements.saturating_mul(tensor.dtype.bits()) / 8
}

/// Does all blocks from `first` on, and hands them to `write` in their order.
///
/// # Errors
/// The first of a block or of `write`; `Interrupted`. What came before it was written.
pub fn run(
    source: &Source<'_>,
    first: u64,
    blocks: impl Iterator<Item = Block>,
    pool: &ThreadPool,
    mut write: impl FnMut(&Block, &Done) -> Result<(), Error> + Send,
) -> Result<(), Error> {
    let (send, receive) = channel();
    let written = std::thread::scope(|threads| {
        let writer = threads.spawn(|| {
            let written = write_in_order(source, first, receive, &mut write);
            if written.is_err() {
                source.budget.stop();
            }
            written
        });
        let blocks = blocks.skip_while(|block| block.number < first);
        pool.in_place_scope(|scope| source.read(blocks, scope, send));
        writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    written.and(check_interrupt())
}

type Finished = (Block, Result<Done, Error>);

fn write_in_order(
    source: &Source<'_>,
    first: u64,
    receive: Receiver<Finished>,
    write: &mut impl FnMut(&Block, &Done) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut waiting = BTreeMap::new();
    let mut due = first;
    for (block, done) in receive {
        waiting.insert(block.number, (block, done));
        while let Some((block, done)) = waiting.remove(&due) {
            write(&block, &done?)?;
            let [_, stored] = cost(&block, source.plan);
            source.budget.done(stored);
            due = due.saturating_add(1);
        }
    }
    Ok(())
}

/// The tensor that was read last, and its importance.
type Last = Option<(usize, Option<Arc<Vectors>>)>;

impl Source<'_> {
    /// Starts one block after the other, until there are no more, or there is an error, which goes their way.
    fn read<'scope>(
        &'scope self,
        blocks: impl Iterator<Item = Block>,
        scope: &Scope<'scope>,
        send: Sender<Finished>,
    ) {
        let mut last = None;
        for block in blocks {
            let [weights, stored] = cost(&block, self.plan);
            if !self.budget.take(weights.saturating_add(stored)) {
                return;
            }
            let vectors = match self.prepare(&block, &mut last) {
                Ok(vectors) => vectors,
                Err(error) => {
                    // Whoever would receive it has failed where it cannot be sent; so below.
                    drop(send.send((block, Err(error))));
                    return;
                }
            };
            let send = send.clone();
            scope.spawn(move |_| {
                let done = self.make(&block, vectors.as_deref());
                self.budget.give(weights);
                drop(send.send((block, done)));
            });
        }
    }

    /// Has the block's bytes read, and returns what its input features are worth.
    fn prepare(&self, block: &Block, last: &mut Last) -> Result<Option<Arc<Vectors>>, Error> {
        let Item::Tensor(at) = block.item else { return Ok(None) };
        let Some(planned) = self.plan.tensors.get(at) else { return Ok(None) };
        self.model.prefetch(planned.source, block.elements.clone());
        let vectors = match (last.take(), self.importance, planned.search()) {
            (Some((known, vectors)), ..) if known == at => vectors,
            (_, Some(importance), Some(_)) => vectors(importance, planned.source)?.map(Arc::new),
            _ => None,
        };
        *last = Some((at, vectors.clone()));
        Ok(vectors)
    }

    /// Makes a block.
    fn make(&self, block: &Block, vectors: Option<&Vectors>) -> Result<Done, Error> {
        let copied = |bytes: Vec<u8>| {
            self.progress.advance(source_bytes(block, self.plan));
            Done { bytes: Bytes::Copied(bytes), error: None }
        };
        let at = match block.item {
            Item::Blob(at) => {
                return Ok(copied(self.plan.blobs.get(at).map_or(Ok(Vec::new()), |b| b.read())?));
            }
            Item::Tensor(at) => at,
        };
        let Some(planned) = self.plan.tensors.get(at) else { return Ok(copied(Vec::new())) };
        self.inputs.check(self.model.file(planned.source))?;
        match &planned.decision.action {
            Action::Quantize(search) => self.quantize(block, planned.source, search, vectors),
            Action::Copy(_) => {
                check_interrupt()?;
                let shape = Shape::of(&planned.source.shape);
                let rows = shape.row(block.elements.start)..shape.row(block.elements.end);
                let rows = self.model.planes(planned.source, rows)?;
                self.release(block.stored());
                self.progress.advance(source_bytes(block, self.plan));
                Ok(Done { bytes: Bytes::Coded(rows), error: None })
            }
            Action::Raw => {
                check_interrupt()?;
                let bytes = self.model.elements(planned.source, block.elements.clone())?.into_owned();
                self.release(bytes.len() as u64);
                Ok(copied(bytes))
            }
        }
    }

    /// Pages of a map that have been read stay in memory until they are let go of.
    fn release(&self, read: u64) {
        if self.mapped.fetch_add(read, Ordering::Relaxed).saturating_add(read) > self.window {
            self.mapped.store(0, Ordering::Relaxed);
            self.model.release();
        }
    }

    fn quantize(
        &self,
        block: &Block,
        tensor: &SourceTensor,
        search: &Search,
        vectors: Option<&Vectors>,
    ) -> Result<Done, Error> {
        let Self { model, budget, progress, .. } = self;
        let mut weights = Vec::new();
        model.decode_f32(tensor, block.elements.clone(), &mut weights)?;
        self.release(bytes_of(tensor, block.weights()));
        let shape = Shape::of(&tensor.shape);
        let first_row = shape.row(block.elements.start);
        let importance = vectors.map(|vectors| vectors.of(size(shape.expert(first_row))));
        let row_bytes = bytes_of(tensor, shape.in_features);
        let advance = |rows: usize| {
            progress.advance((rows as u64).saturating_mul(row_bytes));
            !interrupted() && !budget.stopped()
        };
        let row_of = |row: usize| first_row.saturating_add(row as u64);
        let matrix = search
            .quantize(&weights, size(shape.in_features), importance, &advance)
            .map_err(|error| refused(error, model, tensor, row_of))?;
        progress.weights(block.weights());
        let weighted =
            importance.map(|vector| (matrix.weighted_squared_error, energy(&weights, Some(vector))));
        let (squared_error, energy) = (matrix.squared_error, energy(&weights, None));
        let error = Some(TensorError { squared_error, energy, weighted });
        Ok(Done { bytes: Bytes::Matrix(matrix), error })
    }
}

/// The sum of squares, each times its input feature's importance if there is one.
fn energy(weights: &[f32], importance: Option<&[f32]>) -> f64 {
    let square = |&weight: &f32| f64::from(weight) * f64::from(weight);
    match importance {
        None => weights.iter().map(square).sum(),
        Some(importance) => {
            let rows = weights.chunks(importance.len().max(1));
            let terms = rows.flat_map(|row| row.iter().map(square).zip(importance));
            terms.map(|(square, &importance)| square * f64::from(importance)).sum()
        }
    }
}
