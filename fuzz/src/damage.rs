//! One fault in a container, alone if need be: checksums can be made to fit again.

use arbitrary::Arbitrary;
use ccq::format::{SectionKind, seal};
use ccq::{Container, Limits};

/// One byte or one 64-bit field changed.
#[derive(Arbitrary, Debug)]
pub struct Damage {
    section: u8,
    at: u16,
    value: u64,
    wide: bool,
}

impl Damage {
    /// Changes a byte, or eight, of one section or of the header, and repairs the checksums if told to.
    pub fn apply(&self, file: &mut [u8], repair: bool) {
        let Ok(container) = Container::from_bytes(file, &Limits::DEFAULT) else { return };
        let sections = container.index().sections();
        let (start, len) = match sections.get(usize::from(self.section) % (sections.len() + 1)) {
            Some(section) => (section.offset, section.len),
            None => (0, 288),
        };
        let at = start + u64::from(self.at).checked_rem(len).unwrap_or(0);
        let width = if self.wide { 8 } else { 1 };
        for (byte, value) in file.iter_mut().skip(at as usize).take(width).zip(self.value.to_le_bytes()) {
            *byte = value;
        }
        if repair {
            repair_checksums(file);
        }
    }
}

/// Makes the checksums of the front fit, and those of the payload if the front opens then.
pub fn repair_checksums(file: &mut [u8]) {
    seal(file);
    let Ok(container) = Container::from_bytes(file, &Limits::DEFAULT) else { return };
    let sums: Vec<u8> =
        container.chunks().flat_map(|chunk| crc32fast::hash(chunk.bytes).to_le_bytes()).collect();
    let mut sections = container.index().sections().iter();
    let Some(section) = sections.find(|section| section.kind == Some(SectionKind::Checksums)) else { return };
    let start = section.offset as usize;
    file[start..start + sums.len()].copy_from_slice(&sums);
    seal(file);
}

/// Lines as a journal has them, each behind the checksum that fits.
pub fn lines_with_checksums(lines: &[String]) -> Vec<u8> {
    let line = |json: &String| format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes()));
    lines.iter().map(line).collect::<String>().into_bytes()
}
