//! One source, several instruction sets.
//!
//! Hot loops are [`Job`]s: generic over the operations of [`Simd`], and inlined into whatever calls them. [`Isa::run`]
//! calls them from functions compiled for one instruction set each. Nothing is reordered or contracted, so that all
//! of them give the same bits; what is portable defines the result. Other architectures run the portable form,
//! vectorised as far as the compiler can (NEON: untested).

#[cfg(target_arch = "x86_64")]
use crate::simd::{Avx2, Avx512};
use crate::simd::{Portable, Simd};

/// An instruction set that this machine has: there is no other way to get one than from here.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Isa(Level);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

/// A loop to compile for each instruction set. `run` is to be `#[inline(always)]`, and all it calls.
pub(crate) trait Job {
    /// What comes of it.
    type Output;

    /// The loop, over the lanes of an instruction set.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

impl Isa {
    /// What any machine has.
    pub const PORTABLE: Self = Self(Level::Portable);

    /// The instruction sets of this machine, the best one last.
    pub fn all() -> impl Iterator<Item = Self> {
        #[cfg(target_arch = "x86_64")]
        let found = {
            let avx2 = std::is_x86_feature_detected!("avx2");
            let avx512 = avx2
                && std::is_x86_feature_detected!("avx512f")
                && std::is_x86_feature_detected!("avx512bw")
                && std::is_x86_feature_detected!("avx512dq")
                && std::is_x86_feature_detected!("avx512vl")
                && std::is_x86_feature_detected!("avx512vnni");
            [avx2.then_some(Self(Level::Avx2)), avx512.then_some(Self(Level::Avx512))]
        };
        #[cfg(not(target_arch = "x86_64"))]
        let found = [None; 0];
        [Self::PORTABLE].into_iter().chain(found.into_iter().flatten())
    }

    /// The best instruction set of this machine.
    pub fn detect() -> Self {
        Self::all().last().unwrap_or(Self::PORTABLE)
    }

    /// Runs a job compiled for this instruction set.
    #[allow(unsafe_code)]
    pub(crate) fn run<J: Job>(self, job: J) -> J::Output {
        match self.0 {
            Level::Portable => job.run(Portable),
            // SAFETY: `all` makes this level after it has found the features, and nothing else does.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => unsafe { run_avx2(job, Avx2::new()) },
            // SAFETY: the same.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => unsafe { run_avx512(job, Avx512::new()) },
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self.0 {
            Level::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => "avx512",
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn run_avx2<J: Job>(job: J, simd: Avx2) -> J::Output {
    job.run(simd)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn run_avx512<J: Job>(job: J, simd: Avx512) -> J::Output {
    job.run(simd)
}
