//! What the figures were measured on.

use std::fs;

use serde::Serialize;

/// The last-level cache taken where the system does not tell.
const ASSUMED_CACHE: u64 = 64 << 20;

/// The processor and the threads used.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// `cpu`.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// Threads that work.
    pub threads: usize,
    /// Bytes of the last-level cache.
    #[serde(rename = "cache_bytes")]
    pub cache: u64,
}

impl Machine {
    /// Asks the system; the threads are those of the current pool.
    pub fn find() -> Self {
        let threads = rayon::current_num_threads();
        Self { kind: "cpu", name: name(), threads, cache: cache().unwrap_or(ASSUMED_CACHE) }
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
