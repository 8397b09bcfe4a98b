//! A matrix in blocks of rows: two slots take turns, so that one fills its pinned buffer while the other's copies
//! and kernel run. Memory does not grow with the matrix; a file larger than the card's memory passes through.
//!
//! ```text
//! slot 0   fill | upload, kernel, download        | drain fill | upload, ...
//! slot 1         fill | upload, kernel, download       | drain fill | ...
//! ```

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use crate::Error;
use crate::driver::{Context, DeviceMemory, Event, Pinned, Stream};
use crate::operation::{Args, BlockBytes, Operation};
use crate::plan::Launch;

/// Bytes of a slot's input, if a row is not larger.
const BLOCK: usize = 32 << 20;
/// Slots that take turns.
const SLOTS: usize = 2;

/// Starts a kernel on a stream.
pub(crate) type Launcher<'a> = dyn Fn(&Stream, &Launch, &Args) -> Result<(), Error> + 'a;

struct Slot {
    // Dropped in this order: the stream's work ends before its buffers go.
    stream: Stream,
    begin: Event,
    end: Event,
    input: Pinned,
    output: Pinned,
    on_device: DeviceMemory,
    output_offset: usize,
    busy: Option<Range<usize>>,
}

impl Slot {
    fn new(context: &Arc<Context>, input: usize, output: usize) -> Result<Self, Error> {
        let output_offset = input.next_multiple_of(256);
        Ok(Self {
            stream: Stream::new(context)?,
            begin: Event::new(context)?,
            end: Event::new(context)?,
            input: Pinned::new(context, input)?,
            output: Pinned::new(context, output)?,
            on_device: DeviceMemory::new(context, output_offset + output)?,
            output_offset,
            busy: None,
        })
    }

    /// Queues a block: its input, its kernel, its output.
    fn start(
        &mut self,
        rows: Range<usize>,
        operation: &mut dyn Operation,
        launcher: &Launcher<'_>,
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
        launcher: &Launcher<'_>,
    ) -> Result<(), Error> {
        let input = self.on_device.address();
        let (launch, args) = operation.launch(rows, input, input + self.output_offset as u64)?;
        self.begin.record(&self.stream)?;
        launcher(&self.stream, &launch, &args)?;
        self.end.record(&self.stream)
    }

    fn download(&mut self, rows: Range<usize>, operation: &dyn Operation) -> Result<(), Error> {
        let bytes = rows.len() * operation.block_bytes().row_output;
        // SAFETY: as in `upload`.
        unsafe { self.stream.download(&self.on_device, self.output_offset, &mut self.output, bytes)? };
        self.busy = Some(rows);
        Ok(())
    }

    /// Waits for what is queued, and returns the milliseconds that the last kernel took.
    fn wait(&self) -> Result<f64, Error> {
        self.stream.synchronize()?;
        self.begin.milliseconds_until(&self.end).map(f64::from)
    }

    /// Waits for the block queued, if there is one, and returns the milliseconds its kernels took.
    fn finish(&mut self, operation: &mut dyn Operation) -> Result<f64, Error> {
        let Some(rows) = self.busy.take() else { return Ok(0.0) };
        let time = self.wait()?;
        let bytes = rows.len() * operation.block_bytes().row_output;
        operation.drain(rows, &self.output.bytes()[..bytes]);
        Ok(time)
    }
}

/// Runs an operation over its rows, in order; returns the milliseconds that its kernels took.
pub(crate) fn run(
    context: &Arc<Context>,
    operation: &mut dyn Operation,
    launcher: &Launcher<'_>,
) -> Result<f64, Error> {
    let rows = operation.rows();
    if rows.is_empty() {
        return Ok(0.0);
    }
    let bytes = operation.block_bytes();
    let per_block = rows_of_block(&bytes).min(rows.len());
    let (input, output) = (per_block * bytes.row_input + bytes.extra_input, per_block * bytes.row_output);
    let slots = SLOTS.min(rows.len().div_ceil(per_block));
    let mut slots = (0..slots).map(|_| Slot::new(context, input, output)).collect::<Result<Vec<_>, _>>()?;
    let blocks = rows.clone().step_by(per_block).map(|start| start..rows.end.min(start + per_block));
    let mut milliseconds = 0.0;
    let operation = RefCell::new(operation);
    take_turns(
        &mut slots,
        blocks,
        |slot, rows| slot.start(rows, &mut **operation.borrow_mut(), launcher),
        |slot| {
            milliseconds += slot.finish(&mut **operation.borrow_mut())?;
            Ok(())
        },
    )?;
    Ok(milliseconds)
}

/// An operation whose input stays on the device, to be launched again and again: for benches.
pub(crate) struct Resident<O> {
    slot: Slot,
    operation: O,
}

impl<O: Operation> Resident<O> {
    /// Uploads the input of all rows, as one block.
    pub fn new(context: &Arc<Context>, mut operation: O) -> Result<Self, Error> {
        let (rows, bytes) = (operation.rows(), operation.block_bytes());
        let input = rows.len() * bytes.row_input + bytes.extra_input;
        let mut slot = Slot::new(context, input, rows.len() * bytes.row_output)?;
        slot.upload(rows, &mut operation)?;
        slot.stream.synchronize()?;
        Ok(Self { slot, operation })
    }

    /// Runs the kernel once; returns the milliseconds it took.
    pub fn launch(&self, launcher: &Launcher<'_>) -> Result<f64, Error> {
        self.slot.launch(self.operation.rows(), &self.operation, launcher)?;
        self.slot.wait()
    }

    /// Takes the output of the last launch.
    pub fn finish(mut self) -> Result<O, Error> {
        self.slot.download(self.operation.rows(), &self.operation)?;
        self.slot.finish(&mut self.operation)?;
        Ok(self.operation)
    }
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
