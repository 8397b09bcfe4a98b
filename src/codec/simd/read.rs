//! Reading bytes and doing next to nothing with them: what no product of as many bytes can be faster than.

use super::plan::BLOCK;
use super::source::AHEAD;
use super::{Isa, Job, Simd};

/// Cache lines in a turn, whose sums do not wait for each other.
const TURN: usize = 4;
type Turn = [[u8; BLOCK]; TURN];

/// Reads all whole turns, prefetching as products do or leaving that to the processor. The result depends on every byte
/// read, and is good for nothing else.
pub fn read(isa: Isa, bytes: &[u8], prefetch: bool) -> f32 {
    let turns = bytes.as_chunks().0.as_chunks().0;
    let mut sum = 0.0;
    match isa {
        Isa::PORTABLE => sum = read_portably(turns),
        isa if prefetch => isa.run(Read::<true> { turns, sum: &mut sum }),
        isa => isa.run(Read::<false> { turns, sum: &mut sum }),
    }
    sum
}

fn read_portably(turns: &[Turn]) -> f32 {
    let mut sums = [0u64; BLOCK / 8];
    for line in turns.iter().flatten() {
        for (sum, eight) in sums.iter_mut().zip(line.as_chunks().0) {
            *sum ^= u64::from_ne_bytes(*eight);
        }
    }
    sums.iter().fold(0, |all, sum| all ^ sum) as f32
}

struct Read<'a, const PREFETCH: bool> {
    turns: &'a [Turn],
    sum: &'a mut f32,
}

impl<const PREFETCH: bool> Job for Read<'_, PREFETCH> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let mut sums = [simd.splat(0.0); TURN];
        let one = simd.splat(1.0);
        for turn in self.turns {
            for (line, sum) in turn.iter().zip(&mut sums) {
                if PREFETCH {
                    simd.prefetch(line, AHEAD);
                }
                *sum = simd.fma(simd.dot(simd.bytes(line), &[1; BLOCK], true), one, *sum);
            }
        }
        *self.sum = sums.into_iter().map(|sum| simd.total(sum)).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_read() {
        for isa in Isa::all() {
            let mut bytes = [0; 3 * TURN * BLOCK];
            for prefetch in [false, true] {
                assert_eq!(read(isa, &bytes, prefetch), 0.0, "{isa:?}");
                for line in 0..3 * TURN {
                    bytes[line * BLOCK + 5 * line] = 1;
                    assert_ne!(read(isa, &bytes, prefetch), 0.0, "{isa:?}, line {line}");
                    bytes.fill(0);
                }
            }
        }
    }
}
