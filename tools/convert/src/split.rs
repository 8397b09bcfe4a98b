//! Which file holds what: one, or several of at most a given size (spec, clause 3.7).

use std::ops::Range;
use std::path::{Path, PathBuf};

use ccq::format::{Contents, Layout, Shard};
use ccq::shard_path;

use crate::error::Error;

/// More files than anybody wants to handle; all of them are open at the same time.
const MOST_FILES: usize = 512;

/// A file to be written.
#[derive(Debug)]
pub struct FilePlan {
    /// Its name in the end.
    pub path: PathBuf,
    /// Where everything in it will be.
    pub layout: Layout,
    /// Its tensors among all tensors in the order of their names.
    pub tensors: Range<usize>,
}

impl FilePlan {
    /// Length of the file.
    pub fn len(&self) -> u64 {
        self.layout.index().file_len()
    }
}

/// Lays contents out in files of at most `most` bytes: tensors in the order of their names, as many as fit into
/// each, and all blobs in the first. Errors name `input`, where the contents come from.
///
/// # Errors
/// `Layout`; `Split` for a tensor that is larger than a file may be, or for too many files.
pub fn files(
    contents: Contents<'_>,
    most: Option<u64>,
    output: &Path,
    input: &Path,
) -> Result<Vec<FilePlan>, Error> {
    let failed = |source| Error::Layout { input: input.into(), source };
    let layout = Layout::new(contents.clone()).map_err(failed)?;
    let count = contents.tensors.len();
    let most = most.filter(|&most| layout.index().file_len() > most);
    let Some(most) = most else {
        return Ok(vec![FilePlan { path: output.into(), layout, tensors: 0..count }]);
    };
    let mut contents = contents;
    contents.tensors.sort_by(|a, b| a.name.cmp(&b.name));
    let stored: Vec<u64> = layout.index().tensors().map(|tensor| tensor.stored_bytes()).collect();
    let mut ranges: Vec<Range<usize>> = Vec::new();
    while let start = ranges.last().map_or(0, |range| range.end)
        && start < count
    {
        let end = end_of_file(&contents, start, &stored, most, ranges.is_empty()).map_err(failed)?;
        if end == start || ranges.len() == MOST_FILES {
            let alone = some(&contents, start..start.saturating_add(1), ranges.is_empty(), None);
            let needed = Layout::new(alone).map_err(failed)?.index().file_len();
            let tensor = contents.tensors.get(start).map(|tensor| tensor.name.clone()).unwrap_or_default();
            return Err(Error::Split { most, tensor, needed, files: MOST_FILES, too_many: end > start });
        }
        ranges.push(start..end);
    }
    let shards = u32::try_from(ranges.len()).unwrap_or(u32::MAX);
    let plan = |(index, tensors): (u32, Range<usize>)| {
        let shard = Some(Shard { index, count: shards, set_id: [0; 16] });
        let layout = Layout::new(some(&contents, tensors.clone(), index == 0, shard)).map_err(failed)?;
        Ok(FilePlan { path: shard_path(output, index, shards), layout, tensors })
    };
    (0..).zip(ranges).map(plan).collect()
}

/// Where a file ends that begins with a tensor; where it begins if not even that one fits.
fn end_of_file(
    contents: &Contents<'_>,
    start: usize,
    stored: &[u64],
    most: u64,
    first: bool,
) -> Result<usize, ccq::Error> {
    let mut sum = 0u64;
    let payload = stored.iter().skip(start).take_while(|&&len| {
        sum = sum.saturating_add(len);
        sum <= most
    });
    // What the payload alone allows; paddings and records take a little more.
    let (mut low, mut high) = (start, start.saturating_add(payload.count()));
    let mut step = 1usize;
    let fits = |end: usize| -> Result<bool, ccq::Error> {
        let file = some(contents, start..end, first, None);
        Ok(end == start || Layout::new(file)?.index().file_len() <= most)
    };
    while !fits(high)? {
        low = high.saturating_sub(step).max(start);
        if fits(low)? {
            break;
        }
        (high, step) = (low, step.saturating_mul(2));
    }
    if low < high && fits(high)? {
        return Ok(high);
    }
    // `low` fits, `high` does not.
    while let middle = low.midpoint(high)
        && middle > low
    {
        if fits(middle)? { low = middle } else { high = middle }
    }
    Ok(low)
}

/// Some of the tensors, with the blobs or without.
fn some<'a>(
    contents: &Contents<'a>,
    tensors: Range<usize>,
    blobs: bool,
    shard: Option<Shard>,
) -> Contents<'a> {
    Contents {
        tensors: contents.tensors.get(tensors).unwrap_or_default().to_vec(),
        blobs: if blobs { contents.blobs.clone() } else { Default::default() },
        metadata: contents.metadata.clone(),
        shard,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ccq::format::{Dtype, Encoding, TensorSpec};

    fn contents(sizes: &[u64]) -> Contents<'static> {
        let tensor = |(at, &size): (usize, &u64)| TensorSpec {
            name: format!("t{at:04}"),
            shape: vec![size],
            dtype: Dtype::U8,
            encoding: Encoding::Raw,
        };
        let blobs = [("config.json".to_owned(), 10_000)].into();
        Contents { tensors: sizes.iter().enumerate().map(tensor).collect(), blobs, ..Contents::default() }
    }

    fn split(sizes: &[u64], most: u64) -> Result<Vec<FilePlan>, Error> {
        files(contents(sizes), Some(most), Path::new("x.ccq"), Path::new("m"))
    }

    #[test]
    fn files_are_as_full_as_they_can_be() {
        let sizes: Vec<u64> = (0..300).map(|i| i * 37 % 1000 * 100).collect();
        for most in [150_000, 1_000_000, 5_000_000] {
            let plans = split(&sizes, most).unwrap();
            let mut next = 0;
            for (at, plan) in plans.iter().enumerate() {
                assert!(plan.len() <= most, "{at}");
                assert_eq!(plan.tensors.start, next);
                next = plan.tensors.end;
                assert_eq!(plan.layout.index().blobs().len(), usize::from(at == 0));
                assert_eq!(plan.layout.index().shard().index as usize, at);
                assert_eq!(plan.path, shard_path(Path::new("x.ccq"), at as u32, plans.len() as u32));
                if next < sizes.len() {
                    let more = some(&contents(&sizes), plan.tensors.start..next + 1, at == 0, None);
                    assert!(Layout::new(more).unwrap().index().file_len() > most, "{at}");
                }
            }
            assert_eq!(next, sizes.len());
        }
    }

    #[test]
    fn what_fits_is_one_file() {
        let plans = split(&[5, 6], 1 << 20).unwrap();
        assert_eq!((plans.len(), plans[0].path.as_path()), (1, Path::new("x.ccq")));
        assert_eq!(plans[0].layout.index().shard(), Shard::ALONE);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let error = split(&[5, 1 << 20, 7], 100_000).unwrap_err().to_string();
        assert!(error.contains("\"t0001\"") && error.contains("100000"), "{error}");
        let error = split(&[20_000; 1000], 50_000).unwrap_err().to_string();
        assert!(error.contains("more than 512 files"), "{error}");
    }
}
