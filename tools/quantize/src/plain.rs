//! The kernel of codes without overlap (`wint8`, `wint4`, `int2`): the degenerate trellis, rounding to nearest.

use super::kernel::{Kernel, LANES, Layout, Parabola, Sums, inverse, nearest};
use ccq::code::Code;

/// Weights whose sums are kept in f32 before they go to f64.
const BLOCK: usize = 64;

/// Rounding, a row at a time.
#[derive(Clone, Debug)]
pub(crate) struct Plain {
    layout: Layout,
    state_bits: u32,
    row: Vec<f32>,
    steps: Vec<f32>,
    words: Vec<u16>,
}

impl Plain {
    /// Bits of a state where all states of the code stand alone and are equally wide.
    pub fn state_bits(code: &Code) -> Option<u32> {
        let segments = code.segments();
        let bits = segments.first()?.state_bits;
        let alone = |s: &ccq::code::Segment| s.state_bits == bits && (s.states == 1 || s.shift == bits);
        (code.cluster().is_none() && segments.iter().all(alone)).then_some(bits.into())
    }

    /// Room for a row of that layout.
    pub fn new(layout: Layout, state_bits: u32) -> Self {
        Self {
            state_bits,
            row: vec![0.0; layout.in_features],
            steps: vec![0.0; layout.groups],
            words: vec![0; layout.groups * layout.words_per_group],
            layout,
        }
    }

    fn half(&self) -> f32 {
        (1u32 << (self.state_bits - 1)) as f32
    }
}

impl Kernel for Plain {
    fn load(&mut self, row: &[f32]) {
        self.row.copy_from_slice(row);
    }

    fn encode(&mut self, steps: &[f32], fits: &mut [Parabola]) {
        self.steps.copy_from_slice(steps);
        for (group, (&step, fit)) in steps.iter().zip(fits).enumerate() {
            let inverse = inverse(step);
            let weights = &self.row[self.layout.weights(group)];
            *fit = if inverse == 0.0 {
                Parabola::default()
            } else {
                round(weights, inverse, self.half()).parabola(step)
            };
        }
    }

    fn words(&mut self) -> &[u16] {
        self.words.fill(0);
        let half = self.half();
        for (group, &step) in self.steps.iter().enumerate() {
            let inverse = inverse(step);
            if inverse == 0.0 {
                continue;
            }
            let words = &mut self.words[group * self.layout.words_per_group..];
            let weights = self.row[self.layout.weights(group)].chunks(self.layout.states_per_word);
            for (word, weights) in words.iter_mut().zip(weights) {
                let mut code = 0;
                for p in 0..self.layout.states_per_word {
                    let state = weights.get(p).map_or(0.0, |w| nearest(w * inverse, half) + half);
                    code = code << self.state_bits | state as u32;
                }
                *word = code as u16;
            }
        }
        &self.words
    }
}

/// The sums over a group's weights rounded to nearest.
fn round(weights: &[f32], inverse: f32, half: f32) -> Sums {
    let mut total = Sums::default();
    for block in weights.chunks(BLOCK) {
        let [mut error, mut slope, mut norm] = [[0.0f32; LANES]; 3];
        let mut lanes = block.chunks_exact(LANES);
        for weights in &mut lanes {
            for lane in 0..LANES {
                let u = weights[lane] * inverse;
                let c = nearest(u, half);
                let r = u - c;
                error[lane] += r * r;
                slope[lane] += r * c;
                norm[lane] += c * c;
            }
        }
        for lane in 0..LANES {
            total.error += f64::from(error[lane]);
            total.slope += f64::from(slope[lane]);
            total.norm += f64::from(norm[lane]);
        }
        for &weight in lanes.remainder() {
            let u = weight * inverse;
            total.add(u, nearest(u, half));
        }
    }
    total
}
