//! What the figures were measured on.

use std::{fmt, fs};

use ccq_cli::printable;
use ccq_cuda::DeviceInfo;
use serde::Serialize;

/// The last-level cache taken where the system does not tell.
const ASSUMED_CACHE: u64 = 64 << 20;

/// A device: the processor and the threads used, or a GPU.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// `cpu` or `cuda`.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// Threads that work; none of a GPU are counted.
    pub threads: Option<usize>,
    /// Bytes of the last-level cache.
    #[serde(rename = "cache_bytes")]
    pub cache: u64,
    /// A GPU's number.
    pub ordinal: Option<usize>,
    /// What a GPU's driver serves, such as `13.0`.
    pub driver: Option<String>,
}

impl Machine {
    /// The processor, as the system describes it; the threads are those of the current pool.
    pub fn cpu() -> Self {
        Self {
            kind: "cpu",
            name: name(),
            threads: Some(rayon::current_num_threads()),
            cache: cache().unwrap_or(ASSUMED_CACHE),
            ordinal: None,
            driver: None,
        }
    }

    /// A GPU, as its driver describes it.
    pub fn gpu(info: &DeviceInfo) -> Self {
        let version = info.driver_version;
        Self {
            kind: "cuda",
            name: info.name.clone(),
            threads: None,
            cache: if info.l2_cache > 0 { info.l2_cache as u64 } else { ASSUMED_CACHE },
            ordinal: Some(info.ordinal),
            driver: Some(format!("{}.{}", version / 1000, version % 1000 / 10)),
        }
    }
}

/// `AMD EPYC, 2 threads`, `NVIDIA H200 (cuda:0, driver for CUDA 13.0)`
impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", printable(&self.name))?;
        match self.threads {
            Some(1) => write!(f, ", 1 thread")?,
            Some(threads) => write!(f, ", {threads} threads")?,
            None => {}
        }
        if let (Some(ordinal), Some(driver)) = (self.ordinal, &self.driver) {
            write!(f, " (cuda:{ordinal}, driver for CUDA {driver})")?;
        }
        Ok(())
    }
}

fn name() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    model.map_or(std::env::consts::ARCH, |(_, name)| name).into()
}

/// The largest cache of the first processor.
fn cache() -> Option<u64> {
    let caches = fs::read_dir("/sys/devices/system/cpu/cpu0/cache").ok()?;
    let sizes = caches.filter_map(|cache| {
        let text = fs::read_to_string(cache.ok()?.path().join("size")).ok()?;
        size(text.trim())
    });
    sizes.max()
}

/// `32768K`, `1M`
fn size(text: &str) -> Option<u64> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let unit = match unit {
        "K" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(
            (size("32768K"), size("1M"), size("512"), size("")),
            (Some(32 << 20), Some(1 << 20), None, None)
        );
    }
}
