//! A matrix in blocks of rows: two slots take turns, so that one fills its pinned buffer while the other's copies
//! and kernel run. Memory does not grow with the matrix; a file larger than the card's memory passes through.
//!
//! ```text
//! slot 0   fill | upload, kernel, download        | drain fill | upload, ...
//! slot 1         fill | upload, kernel, download       | drain fill | ...
//! ```

use std::cell::RefCell;
use std::mem;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use crate::Error;
use crate::driver::{Context, DeviceMemory, Event, Graph, Pinned, Stream};
use crate::operation::{Args, BlockBytes, Operation};
use crate::plan::Launch;

/// Bytes of a slot's input, if a row is not larger.
const BLOCK: usize = 32 << 20;
/// Slots that take turns.
const SLOTS: usize = 2;

/// What starts kernels.
pub(crate) trait Launcher {
    /// Compiles and loads a kernel where that was not done, so that it does not count as the kernel's time.
    fn prepare(&self, launch: &Launch, args: &Args) -> Result<(), Error>;
    /// Starts a kernel on a stream.
    fn start(&self, stream: &Stream, launch: &Launch, args: &Args) -> Result<(), Error>;
}

/// Milliseconds that kernels took.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Milliseconds {
    /// Those of the operation.
    pub operation: f64,
    /// Those launched afterwards.
    pub afterwards: f64,
}

/// A stream, and room for a block.
struct Slot {
    // Dropped in this order: the stream's work ends before its buffers go.
    stream: Stream,
    begin: Event,
    end: Event,
    end_afterwards: Event,
    input: Pinned,
    output: Pinned,
    on_device: DeviceMemory,
    room: Room,
    busy: Option<Range<usize>>,
}

/// Bytes of a block's input and output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Room {
    input: usize,
    output: usize,
}

impl Room {
    /// For so many rows.
    fn of(bytes: &BlockBytes, rows: usize) -> Self {
        Self { input: rows * bytes.row_input + bytes.extra_input, output: rows * bytes.row_output }
    }

    /// Where the output is in the device's memory.
    fn output_offset(self) -> usize {
        self.input.next_multiple_of(256)
    }

    /// Bytes of the device's memory.
    fn on_device(self) -> usize {
        self.output_offset() + self.output
    }

    fn holds(self, other: Self) -> bool {
        self.input >= other.input && self.output >= other.output
    }
}

impl Slot {
    fn new(context: &Arc<Context>, room: Room) -> Result<Self, Error> {
        Ok(Self {
            stream: Stream::new(context)?,
            begin: Event::new(context)?,
            end: Event::new(context)?,
            end_afterwards: Event::new(context)?,
            input: Pinned::new(context, room.input)?,
            output: Pinned::new(context, room.output)?,
            on_device: DeviceMemory::new(context, room.on_device())?,
            room,
            busy: None,
        })
    }

    /// Queues a block: its input, its kernels, its output.
    fn start(
        &mut self,
        rows: Range<usize>,
        operation: &mut dyn Operation,
        launcher: &dyn Launcher,
    ) -> Result<(), Error> {
        self.upload(rows.clone(), operation)?;
        self.launch(rows.clone(), operation, launcher)?;
        self.download(rows, operation)
    }

    fn upload(&mut self, rows: Range<usize>, operation: &mut dyn Operation) -> Result<(), Error> {
        let used = operation.fill(rows, self.input.bytes_mut())?;
        // SAFETY: the slot keeps its buffers, and leaves them alone until `finish` has waited, or for ever.
        unsafe { self.stream.upload(&self.input, &self.on_device, used) }
    }

    fn launch(
        &self,
        rows: Range<usize>,
        operation: &dyn Operation,
        launcher: &dyn Launcher,
    ) -> Result<(), Error> {
        let input = self.on_device.address();
        let output = input + self.room.output_offset() as u64;
        let (launch, args) = operation.launch(rows.clone(), input, output)?;
        let afterwards = operation.launch_afterwards(rows, input)?;
        launcher.prepare(&launch, &args)?;
        afterwards.iter().try_for_each(|(launch, args)| launcher.prepare(launch, args))?;
        self.begin.record(&self.stream)?;
        launcher.start(&self.stream, &launch, &args)?;
        self.end.record(&self.stream)?;
        afterwards.iter().try_for_each(|(launch, args)| launcher.start(&self.stream, launch, args))?;
        self.end_afterwards.record(&self.stream)
    }

    fn download(&mut self, rows: Range<usize>, operation: &dyn Operation) -> Result<(), Error> {
        let bytes = rows.len() * operation.block_bytes().row_output;
        // SAFETY: as in `upload`.
        unsafe { self.stream.download(&self.on_device, self.room.output_offset(), &mut self.output, bytes)? };
        self.busy = Some(rows);
        Ok(())
    }

    /// Waits for the block queued, if there is one, and adds the milliseconds its kernels took.
    fn finish(&mut self, operation: &mut dyn Operation, took: &mut Milliseconds) -> Result<(), Error> {
        let Some(rows) = self.busy.take() else { return Ok(()) };
        self.stream.synchronize()?;
        took.operation += f64::from(self.begin.milliseconds_until(&self.end)?);
        took.afterwards += f64::from(self.end.milliseconds_until(&self.end_afterwards)?);
        let bytes = rows.len() * operation.block_bytes().row_output;
        operation.drain(rows, &self.output.bytes()[..bytes]);
        Ok(())
    }
}

/// Slots kept from one matrix to the next: page-locked memory takes long to get.
#[derive(Default)]
pub(crate) struct Pool(Mutex<Vec<Slot>>);

impl Pool {
    /// Slots for blocks of an operation of so many rows, and the rows of a block: fewer where memory is short.
    fn take(
        &self,
        context: &Arc<Context>,
        bytes: &BlockBytes,
        rows: usize,
    ) -> Result<(Vec<Slot>, usize), Error> {
        let mut per_block = rows_of_block(bytes).min(rows);
        let mut slots = SLOTS;
        loop {
            let count = slots.min(rows.div_ceil(per_block));
            match self.slots(context, count, Room::of(bytes, per_block)) {
                Err(Error::OutOfMemory { .. }) if per_block > 1 => per_block = per_block.div_ceil(2),
                Err(Error::OutOfMemory { .. }) if count > 1 => slots = 1,
                taken => return Ok((taken?, per_block)),
            }
        }
    }

    /// So many slots with that room; those kept that are too small are given up.
    fn slots(&self, context: &Arc<Context>, count: usize, room: Room) -> Result<Vec<Slot>, Error> {
        let mut slots = mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        slots.retain(|slot| slot.room.holds(room));
        slots.truncate(count);
        while slots.len() < count {
            slots.push(Slot::new(context, room)?);
        }
        Ok(slots)
    }

    /// Keeps slots that have nothing to do.
    fn keep(&self, slots: Vec<Slot>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = slots;
    }
}

/// Runs an operation over its rows, in order; returns the milliseconds that its kernels took.
pub(crate) fn run(
    context: &Arc<Context>,
    pool: &Pool,
    operation: &mut dyn Operation,
    launcher: &dyn Launcher,
) -> Result<Milliseconds, Error> {
    let rows = operation.rows();
    let mut took = Milliseconds::default();
    if rows.is_empty() {
        return Ok(took);
    }
    context.enter()?;
    let (mut slots, per_block) = pool.take(context, &operation.block_bytes(), rows.len())?;
    let blocks = rows.clone().step_by(per_block).map(|start| start..rows.end.min(start + per_block));
    let operation = RefCell::new(operation);
    take_turns(
        &mut slots,
        blocks,
        |slot, rows| slot.start(rows, &mut **operation.borrow_mut(), launcher),
        |slot| slot.finish(&mut **operation.borrow_mut(), &mut took),
    )?;
    pool.keep(slots);
    Ok(took)
}

/// Work that was recorded to be done again and again, and timed.
pub(crate) struct Repeated {
    stream: Stream,
    graph: Graph,
    rounds: u32,
    begin: Event,
    end: Event,
}

impl Repeated {
    /// Does what `queue` queues, which compiles kernels where they are not, and records it: as often as takes a
    /// millisecond, beside which the start of a graph is short.
    ///
    /// # Errors
    /// Those of `queue`, and [`Error::MissingSymbol`] for drivers before CUDA 11.4.
    pub fn new(context: &Arc<Context>, queue: impl Fn(&Stream) -> Result<(), Error>) -> Result<Self, Error> {
        const MOST_ROUNDS: f32 = 256.0;
        let stream = Stream::new(context)?;
        let (begin, end) = (Event::new(context)?, Event::new(context)?);
        queue(&stream)?;
        begin.record(&stream)?;
        queue(&stream)?;
        end.record(&stream)?;
        stream.synchronize()?;
        let milliseconds = begin.milliseconds_until(&end)?;
        let rounds = (1.0 / milliseconds).ceil().clamp(1.0, MOST_ROUNDS) as u32;
        let graph = Graph::record(&stream, || (0..rounds).try_for_each(|_| queue(&stream)))?;
        Ok(Self { stream, graph, rounds, begin, end })
    }

    /// The stream it is done on.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Does the work once more, or more often; returns the milliseconds it took once.
    ///
    /// # Safety
    /// What the work uses is still there.
    pub unsafe fn launch(&self) -> Result<f64, Error> {
        self.stream.context().enter()?;
        self.begin.record(&self.stream)?;
        // SAFETY: the caller's, until the stream is synchronised, which happens also where recording fails.
        let launched = unsafe { self.graph.launch(&self.stream) };
        let ended = launched.and_then(|()| self.end.record(&self.stream));
        self.stream.synchronize()?;
        ended?;
        let milliseconds = self.begin.milliseconds_until(&self.end)?;
        Ok(f64::from(milliseconds) / f64::from(self.rounds))
    }
}

/// Operations whose input stays on the device, to be launched in turn again and again: for benches.
pub(crate) struct Residents<O> {
    // Dropped in this order: the stream's work ends before its memory goes.
    repeated: Repeated,
    sets: Vec<Set<O>>,
}

struct Set<O> {
    operation: O,
    room: Room,
    memory: DeviceMemory,
}

impl<O: Operation> Residents<O> {
    /// Uploads the input of all rows of every operation, as one block each, and launches each once.
    pub fn new(
        context: &Arc<Context>,
        operations: impl IntoIterator<Item = O>,
        launcher: &dyn Launcher,
    ) -> Result<Self, Error> {
        let stream = Stream::new(context)?;
        let set = |mut operation: O| {
            let room = Room::of(&operation.block_bytes(), operation.rows().len());
            let memory = DeviceMemory::new(context, room.on_device())?;
            let mut input = Pinned::new(context, room.input)?;
            let used = operation.fill(operation.rows(), input.bytes_mut())?;
            upload(&stream, &input, &memory, used)?;
            Ok(Set { operation, room, memory })
        };
        let sets = operations.into_iter().map(set).collect::<Result<Vec<_>, Error>>()?;
        let repeated = Repeated::new(context, |stream| {
            sets.iter().try_for_each(|Set { operation, room, memory }| {
                let (input, output) = (memory.address(), memory.address() + room.output_offset() as u64);
                let (launch, args) = operation.launch(operation.rows(), input, output)?;
                launcher.start(stream, &launch, &args)
            })
        })?;
        Ok(Self { repeated, sets })
    }

    /// Runs the kernels of all once, in their order; returns the milliseconds they took together.
    pub fn launch(&self) -> Result<f64, Error> {
        // SAFETY: what the kernels read and write is in the sets, which live as long as `repeated`.
        unsafe { self.repeated.launch() }
    }

    /// Takes the outputs of the last launch.
    pub fn finish(self) -> Result<Vec<O>, Error> {
        let Self { repeated, sets } = self;
        let take = |Set { mut operation, room, memory }: Set<O>| {
            let output = download(repeated.stream(), &memory, room.output_offset(), room.output)?;
            operation.drain(operation.rows(), &output.bytes()[..room.output]);
            Ok(operation)
        };
        sets.into_iter().map(take).collect()
    }
}

/// Copies to the device and waits.
pub(crate) fn upload(stream: &Stream, from: &Pinned, to: &DeviceMemory, bytes: usize) -> Result<(), Error> {
    // SAFETY: both are kept until the stream was synchronised: if copying fails, nothing was queued.
    unsafe { stream.upload(from, to, bytes)? };
    stream.synchronize()
}

/// Copies from the device and waits.
pub(crate) fn download(
    stream: &Stream,
    from: &DeviceMemory,
    offset: usize,
    bytes: usize,
) -> Result<Pinned, Error> {
    let mut to = Pinned::new(stream.context(), bytes)?;
    // SAFETY: as in `upload`.
    unsafe { stream.download(from, offset, &mut to, bytes)? };
    stream.synchronize()?;
    Ok(to)
}

/// Starts each block in the slot whose turn it is, once what that slot has was finished, and finishes them all.
fn take_turns<S, B>(
    slots: &mut [S],
    blocks: impl Iterator<Item = B>,
    mut start: impl FnMut(&mut S, B) -> Result<(), Error>,
    mut finish: impl FnMut(&mut S) -> Result<(), Error>,
) -> Result<(), Error> {
    for block in blocks {
        let slot = &mut slots[0];
        finish(slot)?;
        start(slot, block)?;
        slots.rotate_left(1); // the oldest comes first
    }
    slots.iter_mut().try_for_each(finish)
}

/// Rows whose input and output both stay within a block, at least one.
fn rows_of_block(bytes: &BlockBytes) -> usize {
    (BLOCK / bytes.row_input.max(bytes.row_output).max(1)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Blocks start and finish in order, a slot's own never overlap, and none is left behind.
    #[test]
    fn slots_take_turns() {
        for (slots, blocks) in [(1, 1), (2, 2), (2, 3), (2, 8), (2, 0)] {
            let mut slots = vec![None; slots];
            let log = RefCell::new(Vec::new());
            take_turns(
                &mut slots,
                0..blocks,
                |slot: &mut Option<usize>, block| {
                    assert_eq!(slot.replace(block), None);
                    log.borrow_mut().push(format!("+{block}"));
                    Ok(())
                },
                |slot| {
                    log.borrow_mut().extend(slot.take().map(|block| format!("-{block}")));
                    Ok(())
                },
            )
            .unwrap();
            let log = log.into_inner();
            let of =
                |sign| log.iter().filter_map(move |e: &String| e.strip_prefix(sign)?.parse::<usize>().ok());
            assert!(of('+').eq(0..blocks) && of('-').eq(0..blocks), "{log:?}");
            if blocks == 3 {
                assert_eq!(log, ["+0", "+1", "-0", "+2", "-1", "-2"]);
            }
        }
    }

    #[test]
    fn blocks_hold_at_least_a_row() {
        let rows =
            |row_input, row_output| rows_of_block(&BlockBytes { row_input, row_output, extra_input: 0 });
        assert_eq!(rows(1 << 30, 4), 1);
        assert_eq!(rows(1 << 10, 1 << 12), 1 << 13);
        assert_eq!(rows(0, 0), BLOCK);
    }
}
