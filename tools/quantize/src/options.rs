//! What a caller chooses: the code, how hard to search, what to minimise.

use crate::isa::Isa;
use ccq::code::{Cluster, Code};

/// How hard to search. All three write what every decoder reads; they differ in error and in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Quality {
    /// Few candidates, each taken once.
    Fast,
    /// Most of what there is to gain.
    #[default]
    Balanced,
    /// Whatever still lowers the error.
    Best,
}

impl Quality {
    /// Every quality, the quickest first.
    pub const ALL: [Self; 3] = [Self::Fast, Self::Balanced, Self::Best];

    /// The name users type.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Balanced => "balanced",
            Self::Best => "best",
        }
    }

    /// The quality of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|quality| quality.name() == name)
    }
}

/// Which quantizer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Method {
    /// Minimise the error of what is decoded.
    #[default]
    Search,
    /// Section 3 of the paper to the letter, to compare with: absolute maxima for scales, the full codebook, codes
    /// that are clustered after they were chosen. Of plain codes, round to nearest.
    Paper,
}

impl Method {
    /// Every method.
    pub const ALL: [Self; 2] = [Self::Search, Self::Paper];

    /// The name users type.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Search => "search",
            Self::Paper => "paper",
        }
    }

    /// The method of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|method| method.name() == name)
    }
}

/// How to quantize.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Options<'a> {
    /// The code asked for; [`Options::result_code`] is the one that comes out.
    pub code: Code,
    /// How hard to search; [`Method::Paper`] knows no qualities.
    pub quality: Quality,
    /// Which quantizer.
    pub method: Method,
    /// What an error in each input feature counts: `in_features` numbers, finite and not negative, such as the
    /// diagonal of the activations' second moment. Only their ratios matter. [`Method::Paper`] leaves it aside.
    pub importance: Option<&'a [f32]>,
    /// The instruction set; results do not depend on it.
    pub(crate) isa: Isa,
}

impl<'a> Options<'a> {
    /// The default search for `code`.
    pub fn new(code: Code) -> Self {
        Self {
            code,
            quality: Quality::default(),
            method: Method::default(),
            importance: None,
            isa: Isa::detect(),
        }
    }

    /// With another quality.
    pub fn with_quality(self, quality: Quality) -> Self {
        Self { quality, ..self }
    }

    /// With another method.
    pub fn with_method(self, method: Method) -> Self {
        Self { method, ..self }
    }

    /// With an importance for each input feature, or with none.
    pub fn with_importance(self, importance: Option<&'a [f32]>) -> Self {
        Self { importance, ..self }
    }

    /// With another instruction set, for tests and benchmarks.
    #[doc(hidden)]
    pub fn with_isa(self, isa: Isa) -> Self {
        Self { isa, ..self }
    }

    /// The code of the result: `code`, except that [`Method::Paper`] stores a cluster's parameters as f32.
    pub fn result_code(&self) -> Code {
        let code = self.code;
        if self.method == Method::Search || code.cluster().is_none() {
            return code;
        }
        let size = code.group_size().and_then(|size| u16::try_from(size).ok()).unwrap_or(0);
        let bits = code.word_bits() as u8;
        Code::new(code.segments(), bits, size, code.local_scale(), Some(Cluster::F32)).unwrap_or(code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        assert!(Quality::ALL.into_iter().all(|quality| Quality::from_name(quality.name()) == Some(quality)));
        assert!(Method::ALL.into_iter().all(|method| Method::from_name(method.name()) == Some(method)));
        assert_eq!((Quality::from_name("slow"), Method::from_name("")), (None, None));
    }
}
