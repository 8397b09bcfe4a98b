//! The kernel of codes without overlap (`wint8`, `wint4`, `int2`): the degenerate trellis, rounding to nearest.
//! An importance does not move the nearest state; it weighs the sums.

use crate::isa::{Isa, Job};
use crate::kernel::{Kernel, Layout, Parabola, Sums, inverse};
use crate::simd::{LANES, Simd};
use ccq::code::{Code, Segment};

/// Rounding, a row at a time.
#[derive(Clone, Debug)]
pub(crate) struct Plain {
    layout: Layout,
    isa: Isa,
    state_bits: u32,
    /// The row, and zeros up to a multiple of [`LANES`].
    row: Vec<f32>,
    importance: Option<Vec<f32>>,
    steps: Vec<f32>,
    states: Vec<i32>,
    words: Vec<u16>,
}

impl Plain {
    /// Bits of a state where all states of the code stand alone and are equally wide.
    pub fn state_bits(code: &Code) -> Option<u32> {
        let segments = code.segments();
        let bits = segments.first()?.state_bits;
        let alone = |s: &Segment| s.state_bits == bits && (s.states == 1 || s.shift == bits);
        (code.cluster().is_none() && segments.iter().all(alone)).then_some(bits.into())
    }

    /// Room for a row of that layout; `importance` is normalised.
    pub fn new(layout: Layout, state_bits: u32, importance: Option<&[f32]>, isa: Isa) -> Self {
        let room = layout.in_features.next_multiple_of(LANES);
        let importance = importance.map(|importance| {
            let mut importance = importance.to_vec();
            importance.resize(room, 0.0);
            importance
        });
        Self {
            isa,
            state_bits,
            row: vec![0.0; room],
            importance,
            steps: vec![0.0; layout.groups],
            states: vec![0; room],
            words: vec![0; layout.groups * layout.words_per_group],
            layout,
        }
    }
}

impl Kernel for Plain {
    fn load(&mut self, row: &[f32]) {
        self.row[..row.len()].copy_from_slice(row);
    }

    fn encode(&mut self, steps: &[f32], fits: &mut [Parabola]) {
        self.steps.copy_from_slice(steps);
        self.isa.run(Round { kernel: self, fits });
    }

    fn words(&mut self) -> &[u16] {
        self.isa.run(States(self));
        for (group, words) in self.words.chunks_exact_mut(self.layout.words_per_group).enumerate() {
            if inverse(self.steps[group]) == 0.0 {
                words.fill(0);
                continue;
            }
            let states = &self.states[self.layout.weights(group)];
            match (self.state_bits, self.layout.states_per_word) {
                // The named codes' parameters as constants, for the optimiser.
                (8, 1) => pack(8, 1, states, words),
                (4, 2) => pack(4, 2, states, words),
                (2, 4) => pack(2, 4, states, words),
                (bits, per_word) => pack(bits, per_word, states, words),
            }
        }
        &self.words
    }
}

/// States side by side, the first one on top; zero bits in the place of those past the end.
#[inline(always)]
fn pack(bits: u32, per_word: usize, states: &[i32], words: &mut [u16]) {
    let full = states.len() / per_word;
    let join = |states: &[i32]| states.iter().fold(0, |word, state| word << bits | state);
    for (word, states) in words.iter_mut().zip(states.chunks_exact(per_word)) {
        *word = join(states) as u16;
    }
    let rest = &states[full * per_word..];
    if !rest.is_empty() {
        words[full] = (join(rest) << (bits * (per_word - rest.len()) as u32)) as u16;
    }
}

/// Where `LANES` weights of a group start, for all of them. Only the last group's last block may reach past its
/// end, where the row is zero.
fn blocks(layout: &Layout, group: usize) -> impl Iterator<Item = usize> {
    layout.weights(group).step_by(LANES)
}

/// The state nearest to each lane, the lower one of two equally near, less its zero point.
#[inline(always)]
fn nearest<S: Simd>(simd: S, u: S::F, half: f32) -> S::F {
    let clamped = simd.clamp(u, -half, half - 1.0);
    simd.ceil(simd.sub(clamped, simd.splat(0.5)))
}

struct Round<'a> {
    kernel: &'a Plain,
    fits: &'a mut [Parabola],
}

impl Job for Round<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { kernel, fits } = self;
        let half = (1u32 << (kernel.state_bits - 1)) as f32;
        for (group, (&step, fit)) in kernel.steps.iter().zip(fits).enumerate() {
            let inverse = inverse(step);
            if inverse == 0.0 {
                *fit = Parabola::default();
                continue;
            }
            let inverse = simd.splat(inverse);
            let [mut error, mut slope, mut norm] = [simd.splat(0.0); 3];
            for start in blocks(&kernel.layout, group) {
                let Some(weights) = kernel.row[start..].first_chunk() else { continue };
                let u = simd.mul(simd.load(weights), inverse);
                let c = nearest(simd, u, half);
                let r = simd.sub(u, c);
                let importance = kernel.importance.as_ref().and_then(|h| h[start..].first_chunk());
                let (hr, hc) = match importance {
                    None => (r, c),
                    Some(h) => (simd.mul(simd.load(h), r), simd.mul(simd.load(h), c)),
                };
                error = simd.add(error, simd.mul(hr, r));
                slope = simd.add(slope, simd.mul(hr, c));
                norm = simd.add(norm, simd.mul(hc, c));
            }
            *fit = Sums::total(simd, error, slope, norm).parabola(step);
        }
    }
}

struct States<'a>(&'a mut Plain);

impl Job for States<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let kernel = self.0;
        let half = (1u32 << (kernel.state_bits - 1)) as f32;
        for (group, &step) in kernel.steps.iter().enumerate() {
            let inverse = simd.splat(inverse(step));
            for start in blocks(&kernel.layout, group) {
                let Some(weights) = kernel.row[start..].first_chunk() else { continue };
                let c = nearest(simd, simd.mul(simd.load(weights), inverse), half);
                let states = simd.round_i32(simd.add(c, simd.splat(half)));
                kernel.states[start..start + LANES].copy_from_slice(&simd.store_i32(states));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lower_of_two_states() {
        struct Nearest([f32; LANES]);
        impl Job for Nearest {
            type Output = [f32; LANES];

            #[inline(always)]
            fn run<S: Simd>(self, simd: S) -> [f32; LANES] {
                simd.store(nearest(simd, simd.load(&self.0), 8.0))
            }
        }
        let u = [
            0.5,
            -0.5,
            1.5,
            0.500_001,
            -7.6,
            -1e30,
            7.4,
            1e30,
            6.5,
            -0.0,
            0.499_999_97,
            -1.5,
            2.0,
            -8.0,
            1e-9,
            -1e-9,
        ];
        let expected = [0.0, -1.0, 1.0, 1.0, -8.0, -8.0, 7.0, 7.0, 6.0, 0.0, 0.0, -2.0, 2.0, -8.0, 0.0, 0.0];
        for isa in Isa::all() {
            assert_eq!(isa.run(Nearest(u)), expected, "{}", isa.name());
        }
    }
}
