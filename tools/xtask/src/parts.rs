//! A container taken apart into its records, to be changed and put together again: lengths, counts and offsets
//! then fit the change, so that it is the only fault.

use anyhow::{Context, Result};
use ccq::format::layout::{
    BlobRecord, Header, PlaneRecord, SECTION_ALIGN, SECTION_IGNORABLE, SectionRecord, TensorRecord,
};
use ccq::format::{SectionKind, seal};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

/// A section: its record and its bytes. Those of the index are the arrays in [`Parts`].
#[derive(Clone)]
pub struct Section {
    pub record: SectionRecord,
    pub bytes: Vec<u8>,
}

/// A container in parts.
#[derive(Clone)]
pub struct Parts {
    pub header: Header,
    pub sections: Vec<Section>,
    pub tensors: Vec<TensorRecord>,
    /// Offsets count from the start of the payload here.
    pub planes: Vec<PlaneRecord>,
    pub blobs: Vec<BlobRecord>,
    pub dims: Vec<U64>,
}

impl Parts {
    /// Takes a valid container apart.
    pub fn parse(file: &[u8]) -> Result<Self> {
        let (header, rest) = Header::read_from_prefix(file).ok().context("header")?;
        let count = header.section_count.get() as usize;
        let (records, _) =
            <[SectionRecord]>::ref_from_prefix_with_elems(rest, count).ok().context("sections")?;
        let bytes = |record: &SectionRecord| {
            file[record.offset.get() as usize..][..record.len.get() as usize].to_vec()
        };
        let sections: Vec<_> =
            records.iter().map(|record| Section { record: *record, bytes: bytes(record) }).collect();
        let mut parts =
            Self { header, sections, tensors: vec![], planes: vec![], blobs: vec![], dims: vec![] };
        let index = parts.section(SectionKind::Index).bytes.clone();
        let rest = &index[..];
        let (tensors, rest) = split(rest, header.tensor_count)?;
        let (planes, rest) = split::<PlaneRecord>(rest, header.plane_count)?;
        let (blobs, rest) = split(rest, header.blob_count)?;
        let (dims, _) = split(rest, header.dim_count)?;
        let payload = parts.section(SectionKind::Payload).record.offset.get();
        let relative = |mut plane: PlaneRecord| {
            plane.offset -= payload;
            plane
        };
        let planes = planes.into_iter().map(relative).collect();
        Ok(Self { tensors, planes, blobs, dims, ..parts })
    }

    /// The section of a known kind.
    pub fn section(&mut self, kind: SectionKind) -> &mut Section {
        let is_kind = |section: &&mut Section| section.record.kind.get() == kind as u32;
        self.sections.iter_mut().find(is_kind).expect("every valid container has every known section")
    }

    /// Puts a section of an unknown kind, which readers may skip, before section `at`.
    pub fn insert_ignorable(&mut self, at: usize, kind: u32, bytes: &[u8]) {
        let mut record = SectionRecord::new_zeroed();
        record.kind.set(kind);
        record.flags.set(SECTION_IGNORABLE);
        self.sections.insert(at, Section { record, bytes: bytes.to_vec() });
    }

    /// Recomputes the checksums of the planes, each of one chunk at most, after a change to the payload.
    pub fn sum_payload(&mut self) {
        let payload = self.section(SectionKind::Payload).bytes.clone();
        let ranges = self.planes.iter().map(|plane| (plane.offset.get() as usize, plane.len.get() as usize));
        let sums: Vec<_> = ranges
            .filter(|&(_, len)| len > 0)
            .map(|(offset, len)| U32::new(crc32fast::hash(&payload[offset..offset + len])))
            .collect();
        self.section(SectionKind::Checksums).bytes = sums.as_bytes().to_vec();
    }

    /// The file: sections one after the other, counts and lengths as they are, everything sealed.
    pub fn assemble(mut self) -> Vec<u8> {
        let header_len = size_of::<Header>() + self.sections.len() * size_of::<SectionRecord>();
        self.header.header_len.set(header_len as u32);
        self.header.section_count.set(self.sections.len() as u32);
        self.header.tensor_count.set(self.tensors.len() as u64);
        self.header.plane_count.set(self.planes.len() as u64);
        self.header.blob_count.set(self.blobs.len() as u64);
        self.header.dim_count.set(self.dims.len() as u64);
        let index_len = self.index_bytes().len();
        let mut position = header_len as u64;
        for section in &mut self.sections {
            let is_index = section.record.kind.get() == SectionKind::Index as u32;
            let len = if is_index { index_len } else { section.bytes.len() } as u64;
            section.record.offset.set(position.next_multiple_of(SECTION_ALIGN));
            section.record.len.set(len);
            position = section.record.offset.get() + len;
        }
        self.header.file_len.set(position);
        let payload = self.section(SectionKind::Payload).record.offset.get();
        for plane in &mut self.planes {
            plane.offset.set(plane.offset.get().wrapping_add(payload));
        }
        self.section(SectionKind::Index).bytes = self.index_bytes();

        let mut file = self.header.as_bytes().to_vec();
        self.sections.iter().for_each(|section| file.extend_from_slice(section.record.as_bytes()));
        for section in &self.sections {
            file.resize(section.record.offset.get() as usize, 0);
            file.extend_from_slice(&section.bytes);
        }
        seal(&mut file);
        file
    }

    fn index_bytes(&self) -> Vec<u8> {
        [self.tensors.as_bytes(), self.planes.as_bytes(), self.blobs.as_bytes(), self.dims.as_bytes()]
            .concat()
    }
}

fn split<'a, T>(bytes: &'a [u8], count: U64) -> Result<(Vec<T>, &'a [u8])>
where
    T: FromBytes + Immutable + KnownLayout + Unaligned + Copy + 'a,
{
    let (records, rest) =
        <[T]>::ref_from_prefix_with_elems(bytes, count.get() as usize).ok().context("index section")?;
    Ok((records.to_vec(), rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;

    #[test]
    fn taking_apart_and_putting_together_changes_nothing() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/golden");
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.extension().is_some_and(|extension| extension == "ccq") {
                let file = fs::read(&path).unwrap();
                let mut parts = Parts::parse(&file).unwrap();
                assert!(parts.clone().assemble() == file, "{}", path.display());
                parts.sum_payload();
                assert!(parts.assemble() == file, "{}", path.display());
            }
        }
    }
}
