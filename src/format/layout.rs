//! Every record of the file, declared once (spec, chapter 4 and 5; tables in spec/layout.md).
//!
//! [`Record`] lets the tables of the specification be generated from the declarations themselves. All integers
//! are little-endian and the records have no alignment, so that they are read in place from any byte slice.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The first eight bytes of every file, in the style of PNG: a high bit, the name, both line endings around
/// an end-of-file character.
pub const MAGIC: [u8; 8] = [0x89, b'C', b'C', b'Q', 0x0D, 0x0A, 0x1A, 0x0A];
/// The format's version, major and minor. The crate's own version is another thing.
pub const VERSION: (u16, u16) = (1, 0);
/// Sections start at multiples of this.
pub const SECTION_ALIGN: u64 = 4096;
/// Planes start at multiples of this, or of [`SECTION_ALIGN`] from [`LARGE_PLANE`] bytes on.
pub const PLANE_ALIGN: u64 = 256;
/// Planes from this size on are aligned like sections.
pub const LARGE_PLANE: u64 = 1 << 20;
/// Bytes of payload under one checksum.
pub const CHUNK: u64 = 1 << 26;
/// Entries of the metadata section start at multiples of this.
pub const METADATA_ALIGN: usize = 8;

/// `encoding` of a tensor record: the source bytes, unchanged.
pub const ENCODING_RAW: u16 = 0;
/// `encoding` of a tensor record: codes of the description in the same record.
pub const ENCODING_CODED: u16 = 1;
/// Bit of a section's `flags`: a reader that does not know the section may skip it.
pub const SECTION_IGNORABLE: u32 = 1;

/// Declares a record: the struct, its size assert and the rows of its table.
macro_rules! record {
    ($(#[doc = $doc:literal])+ $name:ident: $size:literal bytes {
        $($(#[doc = $field_doc:literal])+ $field:ident: $type:ty,)*
    }) => {
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
        #[repr(C)]
        pub struct $name { $($(#[doc = $field_doc])+ pub $field: $type,)* }

        const _: () = assert!(size_of::<$name>() == $size);

        impl $name {
            /// The record's table in the specification.
            pub const RECORD: Record = Record {
                name: stringify!($name),
                doc: concat!($($doc),+),
                size: $size,
                fields: &[$(Field {
                    name: stringify!($field),
                    type_name: stringify!($type),
                    offset: core::mem::offset_of!($name, $field),
                    doc: concat!($($field_doc),+),
                },)*],
            };
        }
    };
}

/// A record's table: its name, size and fields.
#[derive(Clone, Copy, Debug)]
pub struct Record {
    /// Name of the record.
    pub name: &'static str,
    /// What it is.
    pub doc: &'static str,
    /// Bytes.
    pub size: usize,
    /// Its fields in order.
    pub fields: &'static [Field],
}

/// One field of a [`Record`].
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Name of the field.
    pub name: &'static str,
    /// Type as declared, such as `U32`.
    pub type_name: &'static str,
    /// Bytes from the start of the record.
    pub offset: usize,
    /// What it holds.
    pub doc: &'static str,
}

/// Every record, in the order of the specification.
pub const RECORDS: [Record; 7] = [
    Header::RECORD,
    SectionRecord::RECORD,
    TensorRecord::RECORD,
    CodeRecord::RECORD,
    PlaneRecord::RECORD,
    BlobRecord::RECORD,
    MetadataRecord::RECORD,
];

record! {
    /// The first bytes of the file. The section records follow it directly.
    Header: 128 bytes {
        /// 89 43 43 51 0D 0A 1A 0A. Written last: a file without it is unfinished.
        magic: [u8; 8],
        /// Major version: 1. A reader refuses any other.
        major: U16,
        /// Minor version: 0. A reader accepts larger ones.
        minor: U16,
        /// Bytes of this record and all section records.
        header_len: U32,
        /// Features a reader must know. Version 1 defines none.
        incompat: U64,
        /// Features a reader may ignore. Version 1 defines none.
        compat: U64,
        /// Length of the whole file.
        file_len: U64,
        /// Tensor records in the index.
        tensor_count: U64,
        /// Plane records in the index.
        plane_count: U64,
        /// Blob records in the index.
        blob_count: U64,
        /// Dimensions in the index, over all tensors.
        dim_count: U64,
        /// This file's place in its set of shards, from 0.
        shard_index: U32,
        /// Files in the set: 1 for a file that stands alone.
        shard_count: U32,
        /// The same in every file of a set; zero in a file that stands alone.
        set_id: [u8; 16],
        /// Section records after this record.
        section_count: U32,
        /// CRC of the first header_len bytes, with these four as zero.
        header_crc: U32,
        /// Zero.
        reserved: [u8; 24],
    }
}

record! {
    /// One section. Sections follow each other in the order of their records.
    SectionRecord: 32 bytes {
        /// What the section holds.
        kind: U32,
        /// Bit 0: ignorable by a reader that does not know the kind. Others zero.
        flags: U32,
        /// First byte, from the start of the file.
        offset: U64,
        /// Bytes, without the padding after it.
        len: U64,
        /// CRC of those bytes; zero for the payload, which the checksum section covers.
        crc: U32,
        /// Zero.
        reserved: U32,
    }
}

record! {
    /// One tensor.
    TensorRecord: 64 bytes {
        /// First byte of the name in the string section.
        name_offset: U64,
        /// Bytes of the name.
        name_len: U32,
        /// Number of dimensions.
        rank: U32,
        /// Index of the first dimension.
        first_dim: U64,
        /// Index of the first plane record.
        first_plane: U64,
        /// Planes of the tensor.
        plane_count: U32,
        /// Element type of the source.
        dtype: U16,
        /// 0 raw, 1 coded.
        encoding: U16,
        /// Code description; all zero for raw.
        code: CodeRecord,
    }
}

record! {
    /// The code description.
    CodeRecord: 24 bytes {
        /// Segments (L, N, S) from the top of the word down; unused ones zero.
        segments: [[u8; 3]; 4],
        /// Segments in use: 1 to 4.
        segment_count: u8,
        /// Bits of a stored word: 8 or 16.
        word_bits: u8,
        /// 0 none, 1 embedded, 2 nibbles, 3 signed bytes.
        scale_placement: u8,
        /// Bits of a local scale: 0, the spare bits, 4 or 8.
        scale_bits: u8,
        /// Weights in a group: 32, 64 or 128; 0 for one group a row.
        group_size: U16,
        /// 0 none, 1 q8, 2 f32.
        cluster: u8,
        /// Zero.
        reserved: [u8; 5],
    }
}

record! {
    /// One plane: a contiguous range of the payload.
    PlaneRecord: 40 bytes {
        /// What the plane holds.
        kind: U32,
        /// Zero.
        reserved: U32,
        /// First byte, from the start of the file.
        offset: U64,
        /// Bytes, without the padding after it.
        len: U64,
        /// Bytes from row to row of a code plane; zero for the other kinds.
        row_stride: U64,
        /// Index of its first checksum; it has one for every 2^26 bytes or part of them.
        first_chunk: U64,
    }
}

record! {
    /// One blob: a file of the model, carried verbatim.
    BlobRecord: 24 bytes {
        /// First byte of the name in the string section.
        name_offset: U64,
        /// Bytes of the name.
        name_len: U32,
        /// Zero.
        reserved: U32,
        /// Index of its plane record.
        plane: U64,
    }
}

record! {
    /// One metadata entry, followed by the key, the value, and zeros up to a multiple of 8.
    MetadataRecord: 16 bytes {
        /// Bytes of the key.
        key_len: U32,
        /// 1 bool, 2 u64, 3 i64, 4 f64, 5 string, 6 bytes.
        value_type: U32,
        /// Bytes of the value.
        value_len: U64,
    }
}

/// What a section holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum SectionKind {
    /// Tensor, plane and blob records and dimensions.
    Index = 1,
    /// Names of tensors and blobs, without separators.
    Strings = 2,
    /// Typed key-values.
    Metadata = 3,
    /// A u32 for each chunk of the payload.
    Checksums = 4,
    /// The planes.
    Payload = 5,
}

impl SectionKind {
    /// The sections of every file, in file order.
    pub const ALL: [Self; 5] = [Self::Index, Self::Strings, Self::Metadata, Self::Checksums, Self::Payload];

    /// Its name in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Index => "index",
            Self::Strings => "strings",
            Self::Metadata => "metadata",
            Self::Checksums => "checksums",
            Self::Payload => "payload",
        }
    }
}

/// What a plane holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum PlaneKind {
    /// Packed words.
    Code = 1,
    /// Local scales outside the words.
    LocalScale = 2,
    /// An f32 a row.
    SuperScale = 3,
    /// Cluster parameters, a pair a row.
    Cluster = 4,
    /// A raw tensor's bytes.
    Raw = 5,
    /// A blob's bytes.
    Blob = 6,
}

impl PlaneKind {
    /// Its name in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Code => "code",
            Self::LocalScale => "local-scale",
            Self::SuperScale => "super-scale",
            Self::Cluster => "cluster",
            Self::Raw => "raw",
            Self::Blob => "blob",
        }
    }
}

/// Where a plane of `len` bytes starts when the byte before it is the one before `position`.
pub fn plane_start(position: u64, len: u64) -> Option<u64> {
    position.checked_next_multiple_of(if len >= LARGE_PLANE { SECTION_ALIGN } else { PLANE_ALIGN })
}

/// Checksums of a plane of `len` bytes.
pub const fn chunk_count(len: u64) -> u64 {
    len.div_ceil(CHUNK)
}
