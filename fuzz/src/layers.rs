//! Small models of the layers that an importer puts together from several tensors.

use arbitrary::Arbitrary;

const DTYPES: [(&str, u64); 10] = [
    ("F32", 4),
    ("F16", 2),
    ("BF16", 2),
    ("U8", 1),
    ("U16", 2),
    ("F8_E4M3", 1),
    ("F8_E5M2", 1),
    ("F8_E8M0", 1),
    ("I8", 1),
    ("I64", 8),
];
const ENDINGS: [&str; 8] = [
    ".quant_weight",
    ".weight_scale",
    ".super_scales",
    ".code_scale",
    ".code_zp",
    ".weight",
    ".weight_scale_inv",
    ".bias",
];

/// A model folder to be.
#[derive(Arbitrary, Debug)]
pub struct Layers {
    layers: Vec<Layer>,
    changes: [Option<(u8, Change)>; 2],
    /// `weight_block_size` of config.json.
    block: Option<[u8; 2]>,
    /// What the tensors are filled with, over and over.
    fill: Vec<u8>,
}

#[derive(Arbitrary, Debug)]
enum Layer {
    /// A matrix of a model that stores it the other way round.
    Plain {
        dtype: u8,
        shape: [u8; 2],
    },
    /// FP8 and its scales: one, one a row, one a column, one a block; shared by a stack or not.
    Fp8 {
        e5m2: bool,
        inverse: bool,
        dtype: u8,
        shape: [u8; 2],
        stack: Option<u8>,
        kind: u8,
    },
    /// FastDeploy's expert layers: groups of input channels, output channels.
    Wint2 {
        dtype: u8,
        groups: u8,
        channels: u8,
    },
    Wint25 {
        dtype: u8,
        groups: u8,
        channels: u8,
    },
}

/// What is wrong with a tensor.
#[derive(Arbitrary, Debug)]
enum Change {
    Missing,
    Dtype(u8),
    Dimension(u8, u8),
    Shape(Vec<u8>),
    Ending(u8),
}

type Tensor = (String, (&'static str, u64), Vec<u64>);

impl Layers {
    /// `model.safetensors`, and `config.json`.
    pub fn build(&self) -> (Vec<u8>, String) {
        let mut tensors: Vec<Tensor> =
            (0..).zip(&self.layers).flat_map(|(number, layer)| layer.tensors(number)).collect();
        for (at, change) in self.changes.iter().flatten() {
            if !tensors.is_empty() {
                let at = usize::from(*at) % tensors.len();
                change.apply(&mut tensors, at);
            }
        }
        let (mut header, mut end) = (String::from("{"), 0u64);
        for (name, (dtype, size), shape) in &tensors {
            let begin = end;
            end += shape.iter().product::<u64>() * size;
            let separator = if begin > 0 || header.len() > 1 { "," } else { "" };
            header += &format!(
                r#"{separator}"{name}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{begin},{end}]}}"#
            );
        }
        header.push('}');
        let data = self.fill.iter().chain(&[0x3F]).copied().cycle().take(end as usize);
        let file =
            (header.len() as u64).to_le_bytes().into_iter().chain(header.bytes()).chain(data).collect();
        let block =
            self.block.map(|block| format!(r#","quantization_config":{{"weight_block_size":{block:?}}}"#));
        (file, format!(r#"{{"model_type":"gpt2"{}}}"#, block.unwrap_or_default()))
    }
}

impl Layer {
    fn tensors(&self, number: usize) -> Vec<Tensor> {
        let dtype = |at: u8| DTYPES[usize::from(at) % DTYPES.len()];
        let size = |value: u8, most: u8| u64::from(value % most);
        match *self {
            Self::Plain { dtype: at, shape } => {
                let name = format!("h.{number}.attn.c_attn.weight");
                vec![(name, dtype(at), shape.map(|side| size(side, 20)).into())]
            }
            Self::Fp8 { e5m2, inverse, dtype: at, shape, stack, kind } => {
                let [rows, columns] = shape.map(|side| size(side, 150));
                let scales = match kind % 4 {
                    0 => vec![],
                    1 => vec![rows, 1],
                    2 => vec![1, columns],
                    _ => vec![rows.div_ceil(128), columns.div_ceil(128)],
                };
                let stack = stack.map(|stack| size(stack, 4)).into_iter();
                let inner = if kind & 4 == 0 { stack.clone().chain(scales).collect() } else { scales };
                let name = format!("layers.{number}.q_proj.weight");
                let ending = if inverse { "_scale_inv" } else { "_scale" };
                vec![
                    (format!("{name}{ending}"), dtype(at), inner),
                    (name, DTYPES[5 + usize::from(e5m2)], stack.chain([rows, columns]).collect()),
                ]
            }
            Self::Wint2 { dtype: at, groups, channels } => {
                let (groups, channels) = (size(groups, 5), size(channels, 9));
                let base = format!("layers.0.mlp.experts.{number}.up_gate_proj");
                let tensor = |ending, dtype, shape| (format!("{base}{ending}"), dtype, shape);
                vec![
                    tensor(".quant_weight", DTYPES[3], vec![groups * 16, channels]),
                    tensor(".weight_scale", DTYPES[3], vec![groups.div_ceil(2), channels]),
                    tensor(".super_scales", DTYPES[usize::from(at % 3)], vec![channels]),
                    tensor(".code_scale", DTYPES[0], vec![channels]),
                    tensor(".code_zp", DTYPES[0], vec![channels]),
                ]
            }
            Self::Wint25 { dtype: at, groups, channels } => {
                let (groups, channels) = (size(groups, 5), size(channels, 9));
                let base = format!("layers.0.mlp.experts.{number}.down_proj");
                vec![
                    (format!("{base}.quant_weight"), DTYPES[4], vec![groups * 10, channels]),
                    (format!("{base}.super_scales"), DTYPES[usize::from(at % 3)], vec![channels]),
                ]
            }
        }
    }
}

impl Change {
    fn apply(&self, tensors: &mut Vec<Tensor>, at: usize) {
        let (name, dtype, shape) = &mut tensors[at];
        match self {
            Self::Missing => drop(tensors.remove(at)),
            Self::Dtype(other) => *dtype = DTYPES[usize::from(*other) % DTYPES.len()],
            Self::Dimension(which, side) => {
                let rank = shape.len().max(1);
                shape
                    .iter_mut()
                    .skip(usize::from(*which) % rank)
                    .take(1)
                    .for_each(|old| *old = (side % 64).into());
            }
            Self::Shape(sides) => *shape = sides.iter().take(4).map(|side| u64::from(side % 20)).collect(),
            Self::Ending(other) => {
                let stem = name.rsplit_once('.').map_or("", |(stem, _)| stem);
                *name = format!("{stem}{}", ENDINGS[usize::from(*other) % ENDINGS.len()]);
            }
        }
    }
}
