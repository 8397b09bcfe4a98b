//! Options of long jobs: how much memory, whether to go on with an unfinished job, and how many files.

use std::fmt;
use std::str::FromStr;

use ccq_cli::parse_bytes;

/// Memory used where none is given, if the machine has four times as much.
const MEMORY: u64 = 4 << 30;

/// The options as the command line has them.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct JobOptions {
    /// Memory to use, such as 512MiB or 16GB [default: a quarter of the memory there is, 4GiB at most]
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub max_memory: Option<u64>,

    /// Go on with an unfinished job of the same input and options; start where there is none
    #[arg(long)]
    pub resume: bool,

    /// Write several files of at most this size, such as 50GB: OUTPUT-00001-of-0000N.ccq
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub split_max_size: Option<u64>,

    /// Convert part I of N only, such as 3/16; `ccq-convert merge` joins the parts
    #[arg(long, value_name = "I/N", conflicts_with = "split_max_size")]
    pub part: Option<Part>,

    /// Show no progress on standard error
    #[arg(short, long)]
    pub quiet: bool,
}

impl JobOptions {
    /// The memory to use.
    pub fn memory(&self) -> u64 {
        self.max_memory.unwrap_or_else(|| machine_memory().map_or(MEMORY, |memory| MEMORY.min(memory / 4)))
    }
}

/// One of several parts of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// From 1.
    pub number: u32,
    /// Parts of the model.
    pub count: u32,
}

impl FromStr for Part {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let part = text.split_once('/').and_then(|(number, count)| {
            Some(Self { number: number.parse().ok()?, count: count.parse().ok()? })
        });
        match part {
            Some(part) if (1..=part.count).contains(&part.number) && part.count <= 65_535 => Ok(part),
            _ => Err("expected I/N, such as 3/16, with I from 1 to N".into()),
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.count)
    }
}

/// The memory of this machine, or of the control group that this process is in, where Linux says so.
fn machine_memory() -> Option<u64> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let total: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    let limits = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let limit = |path: &&str| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    Some(limits.iter().filter_map(limit).fold(total.saturating_mul(1024), u64::min))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_count_from_one() {
        assert_eq!("3/16".parse(), Ok(Part { number: 3, count: 16 }));
        assert_eq!("1/1".parse::<Part>().unwrap().to_string(), "1/1");
        for text in ["", "3", "0/4", "5/4", "1/0", "-1/4", "1/65536", "a/b", "1/2/3"] {
            assert!(text.parse::<Part>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_default_memory_is_no_more_than_a_quarter() {
        let memory = JobOptions::default().memory();
        assert!((1..=MEMORY).contains(&memory), "{memory}");
        assert!(machine_memory().is_none_or(|machine| memory <= machine / 4));
        assert_eq!(JobOptions { max_memory: Some(5), ..JobOptions::default() }.memory(), 5);
    }
}
