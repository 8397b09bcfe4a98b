//! Products of tokens with their own experts, as an operation in blocks of products: the experts that a block
//! needs go to the device with it, each once.

use std::ops::Range;

use ccq::codec::{Matrix, Planes, SizeError};

use crate::Error;
use crate::operation::{
    Activations, Args, BlockBytes, Operation, PADDING, expect_activations, expect_bytes, pad_activations,
    planes_of,
};
use crate::plan::{self, Launch, MoeProducts, PLANE_ALIGN, Plan};

/// Which experts tokens are sent to.
#[derive(Clone, Copy, Debug)]
pub struct Routing<'a> {
    /// Experts that the matrix is a stack of: its rows, divided evenly.
    pub experts: usize,
    /// Token after token, the same number for each.
    pub chosen: &'a [u32],
}

/// Multiplies every token with its experts.
#[derive(Debug)]
pub struct MoeGemv<'a> {
    matrix: &'a Matrix<'a>,
    routing: Routing<'a>,
    activations: Activations<'a>,
    expert_rows: usize,
    top_k: usize,
    /// Bytes of an expert's planes.
    expert_bytes: usize,
    /// Bytes of a token's activations with their padding.
    padded: usize,
    out: &'a mut [f32],
}

/// Where the input of a block is.
struct Block {
    /// The experts it needs, in the order in which products first name them.
    experts: Vec<u32>,
    plan: Plan,
    tokens: Range<usize>,
    indices_at: usize,
    activations_at: usize,
}

impl<'a> MoeGemv<'a> {
    /// `out[p * rows + r]` becomes the product of `chosen[p]`'s row r, of `rows`, with its token.
    ///
    /// # Errors
    /// [`Error::Activations`], [`Error::Tokens`], [`Error::Bytes`], [`Error::Size`], [`Error::TooLarge`],
    /// [`Error::Experts`], [`Error::NoSuchExpert`], [`Error::Routing`].
    pub fn new(
        matrix: &'a Matrix<'a>,
        routing: Routing<'a>,
        activations: Activations<'a>,
        out: &'a mut [f32],
    ) -> Result<Self, Error> {
        let Activations { element, tokens, bytes } = activations;
        let Routing { experts, chosen } = routing;
        expect_activations(element, tokens)?;
        if experts == 0 || !matrix.rows().is_multiple_of(experts) {
            return Err(Error::Experts { rows: matrix.rows(), experts });
        }
        if let Some(&found) = chosen.iter().find(|&&expert| expert as usize >= experts) {
            return Err(Error::NoSuchExpert { found, experts });
        }
        if chosen.is_empty() || !chosen.len().is_multiple_of(tokens) {
            return Err(Error::Routing { chosen: chosen.len(), tokens });
        }
        let expert_rows = matrix.rows() / experts;
        expect_bytes("activations", tokens * matrix.in_features() * element.bytes(), bytes.len())?;
        let expected = chosen.len() * expert_rows;
        if out.len() != expected {
            return Err(SizeError::Output { expected, found: out.len() }.into());
        }
        let expert = Plan::new(matrix.code(), expert_rows, matrix.in_features())?;
        Ok(Self {
            matrix,
            routing,
            activations,
            expert_rows,
            top_k: chosen.len() / tokens,
            expert_bytes: expert.layout.lens.iter().sum(),
            padded: plan::padded_activations(matrix.in_features()) * element.bytes(),
            out,
        })
    }

    fn block(&self, products: &Range<usize>) -> Result<Block, Error> {
        let mut experts = Vec::new();
        for expert in &self.routing.chosen[products.clone()] {
            if !experts.contains(expert) {
                experts.push(*expert);
            }
        }
        let rows = experts.len() * self.expert_rows;
        let plan = Plan::new(self.matrix.code(), rows, self.matrix.in_features())?;
        let indices_at = plan.layout.bytes;
        let tokens = products.start / self.top_k..products.end.div_ceil(self.top_k);
        let activations_at = indices_at + (products.len() * size_of::<u32>()).next_multiple_of(PLANE_ALIGN);
        Ok(Block { experts, plan, tokens, indices_at, activations_at })
    }
}

impl Operation for MoeGemv<'_> {
    /// The products.
    fn rows(&self) -> Range<usize> {
        0..self.routing.chosen.len()
    }

    fn block_bytes(&self) -> BlockBytes {
        BlockBytes {
            row_input: self.expert_bytes + size_of::<u32>() + self.padded,
            row_output: self.expert_rows * size_of::<f32>(),
            extra_input: PADDING + PLANE_ALIGN + self.padded,
        }
    }

    fn fill(&mut self, products: Range<usize>, input: &mut [u8]) -> Result<usize, Error> {
        let block = self.block(&products)?;
        let parts: Vec<Planes<'_>> = block
            .experts
            .iter()
            .map(|&expert| expert as usize * self.expert_rows)
            .map(|first| planes_of(self.matrix, &(first..first + self.expert_rows)))
            .collect();
        block.plan.layout.fill_parts(&parts, input);
        let indices = input[block.indices_at..].as_chunks_mut::<4>().0;
        for (index, chosen) in indices.iter_mut().zip(&self.routing.chosen[products]) {
            let local = block.experts.iter().position(|expert| expert == chosen).unwrap_or_default();
            *index = (local as u32).to_le_bytes();
        }
        let used = block.activations_at + block.tokens.len() * self.padded;
        let width = self.matrix.in_features() * self.activations.element.bytes();
        let tokens = &self.activations.bytes[block.tokens.start * width..block.tokens.end * width];
        pad_activations(tokens, width, self.padded, &mut input[block.activations_at..used]);
        Ok(used)
    }

    fn launch(&self, products: Range<usize>, input: u64, output: u64) -> Result<(Launch, Args), Error> {
        let block = self.block(&products)?;
        let what = MoeProducts {
            count: products.len() as u32,
            expert_rows: self.expert_rows as u32,
            top_k: self.top_k as u32,
            first: (products.start % self.top_k) as u32,
            experts: input + block.indices_at as u64,
        };
        let x = input + block.activations_at as u64;
        let (launch, args) =
            block.plan.at(input).moe_gemv(self.activations.element, what, x, output, what.expert_rows)?;
        Ok((launch, Args::MoeGemv(args)))
    }

    fn drain(&mut self, products: Range<usize>, output: &[u8]) {
        let first = products.start * self.expert_rows;
        let values = output.as_chunks::<4>().0.iter().map(|&value| f32::from_le_bytes(value));
        self.out[first..].iter_mut().zip(values).for_each(|(out, value)| *out = value);
    }
}
