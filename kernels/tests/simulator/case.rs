//! Matrices of random bits: every code, awkward widths.

use ccq::code::{Cluster, Code, Family, GROUP_SIZES, LocalScale, Segment};
use ccq::codec::{Matrix, Planes};
use ccq_cuda::plan::{Element, Plan};
use half::{bf16, f16};

use super::Aligned;

const IN_FEATURES: [usize; 8] = [1, 3, 33, 64, 100, 255, 384, 4095];
const ROWS: [usize; 3] = [1, 3, 5];
/// The value of memory that no kernel may write.
pub const GUARD: u8 = 0x5A;

/// A seeded generator good enough to fill planes with.
pub struct Random(pub u64);

impl Random {
    pub fn bits(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 32) as u32
    }

    /// From -1 to 1.
    pub fn unit(&mut self) -> f32 {
        self.bits() as f32 / u32::MAX as f32 * 2.0 - 1.0
    }
}

/// Every named code, and some that only the general kernels serve.
pub fn codes() -> Vec<Code> {
    let mut codes = Vec::new();
    for family in Family::ALL {
        for group in GROUP_SIZES {
            let Ok(code) = family.code(group.into()) else { continue };
            codes.push(code);
            if code.cluster().is_some() {
                let scale = code.local_scale();
                codes.push(Code::new(code.segments(), 8, group, scale, Some(Cluster::F32)).unwrap());
            }
        }
    }
    let custom: [(&[Segment], u8, u16, Option<Cluster>); 12] = [
        (&[Segment::new(4, 3, 2)], 8, 0, None),
        (&[Segment::new(3, 3, 2), Segment::new(3, 4, 2)], 16, 0, None),
        (&[Segment::new(6, 4, 3)], 8, 0, Some(Cluster::Q8)),
        (&[Segment::new(4, 5, 3)], 16, 0, None),
        (&[Segment::new(6, 3, 5)], 16, 0, None),
        (&[Segment::new(5, 4, 1)], 8, 64, None),
        (&[Segment::new(1, 8, 1)], 8, 128, None),
        (&[Segment::new(16, 1, 1)], 16, 32, None),
        (&[Segment::new(1, 16, 1)], 16, 64, None),
        (&[Segment::new(4, 2, 2), Segment::new(6, 3, 2)], 16, 128, None),
        (&[Segment::new(1, 16, 1)], 8, 32, Some(Cluster::Q8)),
        (&[Segment::new(3, 5, 2)], 8, 128, Some(Cluster::F32)),
    ];
    for (segments, word, group, cluster) in custom {
        let placements = [LocalScale::None, LocalScale::Nibble, LocalScale::Signed8];
        let embedded = (4..16).map(|bits| LocalScale::Embedded { bits });
        codes.extend(
            placements
                .into_iter()
                .chain(embedded)
                .filter_map(|scale| Code::new(segments, word, group, scale, cluster).ok()),
        );
    }
    codes
}

/// A matrix of random bits, its decoded values, and its planes as a device would hold them.
pub struct Case {
    pub code: Code,
    pub rows: usize,
    pub in_features: usize,
    pub planes: Aligned,
    pub decoded: Vec<f32>,
}

impl Case {
    /// The planes, as the codec takes them.
    pub fn views(&self) -> Planes<'_> {
        let layout = self.plans()[0].layout;
        let part = |i: usize| &self.planes.bytes()[layout.offsets[i]..layout.offsets[i] + layout.lens[i]];
        Planes { code: part(0), local_scale: part(1), super_scale: part(2), cluster: part(3) }
    }

    /// Decodes the planes again, after they were changed.
    pub fn decode(&mut self) {
        let mut decoded = vec![0.0; self.rows * self.in_features];
        let matrix = Matrix::new(self.code, self.rows, self.in_features, self.views()).unwrap();
        matrix.decode_rows_into(0..self.rows, &mut decoded).unwrap();
        self.decoded = decoded;
    }

    pub fn new(code: Code, rows: usize, in_features: usize, random: &mut Random) -> Self {
        let plan = Plan::new(&code, rows, in_features).unwrap();
        let mut planes = plan.layout.lens.map(|len| vec![0u8; len]);
        let [words, local_scale, super_scale, cluster] = &mut planes;
        words.iter_mut().chain(local_scale.iter_mut()).for_each(|byte| *byte = random.bits() as u8);
        for scale in super_scale.chunks_exact_mut(4) {
            scale.copy_from_slice(&(random.unit() * 0.25).to_le_bytes());
        }
        for pair in cluster.chunks_exact_mut(4) {
            let value = match code.cluster() {
                Some(Cluster::F32) => (random.unit() * 400.0).to_bits(),
                _ => random.bits(),
            };
            pair.copy_from_slice(&value.to_le_bytes());
        }
        let [code_plane, local_scale, super_scale, cluster] = &planes;
        let views = Planes { code: code_plane, local_scale, super_scale, cluster };
        let mut aligned = Aligned::new(plan.layout.bytes, 0, GUARD);
        plan.layout.fill(&views, aligned.bytes_mut());
        let mut case = Self { code, rows, in_features, planes: aligned, decoded: Vec::new() };
        case.decode();
        case
    }

    /// The plans of the code's own kernels and, where they are not the same, of the general ones.
    pub fn plans(&self) -> Vec<Plan> {
        let own = Plan::new(&self.code, self.rows, self.in_features).unwrap();
        let general = Plan::general(&self.code, self.rows, self.in_features).unwrap();
        let both = if own.kernel() == general.kernel() { vec![own] } else { vec![own, general] };
        both.into_iter().map(|plan| plan.at(self.planes.address())).collect()
    }

    pub fn name(&self, plan: &Plan) -> String {
        format!(
            "{} {:?}, {} kernel, {} x {}",
            self.code,
            self.code,
            plan.kernel().suffix,
            self.rows,
            self.in_features
        )
    }
}

/// Runs `check` on every code with every width.
pub fn sweep(seed: u64, mut check: impl FnMut(&Case, &Plan, &mut Random)) {
    let mut random = Random(seed);
    for code in codes() {
        for (i, in_features) in IN_FEATURES.into_iter().enumerate() {
            let case = Case::new(code, ROWS[i % ROWS.len()], in_features, &mut random);
            case.plans().iter().for_each(|plan| check(&case, plan, &mut random));
        }
    }
}

/// A value's bytes in an element type.
pub fn to_element(element: Element, value: f32) -> Vec<u8> {
    match element {
        Element::F32 => value.to_le_bytes().to_vec(),
        Element::F16 => f16::from_f32(value).to_le_bytes().to_vec(),
        Element::Bf16 => bf16::from_f32(value).to_le_bytes().to_vec(),
    }
}

pub fn from_element(element: Element, bytes: &[u8]) -> f32 {
    match element {
        Element::F32 => f32::from_le_bytes(bytes.try_into().unwrap()),
        Element::F16 => f16::from_le_bytes(bytes.try_into().unwrap()).to_f32(),
        Element::Bf16 => bf16::from_le_bytes(bytes.try_into().unwrap()).to_f32(),
    }
}
