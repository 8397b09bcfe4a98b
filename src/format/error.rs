//! Everything that can be wrong with a container (spec, clause 9.2). Messages begin with the clause.

use alloc::string::String;
use core::fmt;
use core::mem::offset_of;

use super::layout::Header;
use crate::code::CodeError;
use crate::messages::messages;

messages! {
/// Why a container is refused. Every variant says where, what was expected and what was found.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The bytes end before `what` does.
    #[error("[9.2] the file is cut short: {what} needs {expected} bytes, found {found}; fetch it again")]
    Truncated {
        /// What does not fit.
        what: &'static str,
        /// Bytes needed from the start of the file.
        expected: u64,
        /// Bytes there are.
        found: u64,
    },
    /// The first eight bytes are not the format's.
    #[error("[3.1] {hint}: it begins with {found:02x?}")]
    BadMagic {
        /// What stands there.
        found: [u8; 8],
        /// What that usually means.
        hint: MagicHint,
    },
    /// Written by a version of the format that this reader does not know.
    #[error("[3.2] format version {major}.{minor}, this reader knows 1.x: update the reader")]
    UnsupportedVersion {
        /// Major version found.
        major: u16,
        /// Minor version found.
        minor: u16,
    },
    /// Something that a reader must understand and this one does not.
    #[error(
        "[{}] {feature} ({found:#x}) at {at} is not known to this reader: update the reader",
        feature.clause()
    )]
    UnsupportedFeature {
        /// What it is.
        feature: Feature,
        /// Where it is.
        at: Place,
        /// Its identifier, or the bits that are set.
        found: u64,
    },
    /// A reserved field is not zero.
    #[error("[1.3] a reserved field or flag of the record at {at} is not zero")]
    Reserved {
        /// Where it is.
        at: Place,
    },
    /// A part of the front does not match its checksum.
    #[error(
        "[3.5] {section} at {at}: checksum {found:08x}, expected {expected:08x}: the file is damaged, fetch it again"
    )]
    Checksum {
        /// Which part: `header` or the section's name.
        section: &'static str,
        /// Where that part begins.
        at: Place,
        /// Stored in the file.
        expected: u32,
        /// Computed from the bytes.
        found: u32,
    },
    /// More than this reader is willing to open.
    #[error(
        "[9.3] {found} {what} at {at}, expected at most {limit}: more than the limits or the file's length allow"
    )]
    LimitExceeded {
        /// What there is too much of.
        what: &'static str,
        /// Where the file claims it.
        at: Place,
        /// The bound, from [`Limits`](super::Limits) or from the length of the file.
        limit: u64,
        /// What the file claims.
        found: u64,
    },
    /// A computed size exceeds 2^64 - 1.
    #[error("[{}] {what} at {at} exceeds 64 bits", clause(what))]
    Overflow {
        /// Which computation.
        what: &'static str,
        /// Where it comes from.
        at: Place,
    },
    /// A shape that the encoding cannot have, or that its planes contradict.
    #[error("[4.5] {at}: {fault}")]
    BadShape {
        /// Which tensor.
        at: Place,
        /// What is wrong.
        fault: ShapeFault,
    },
    /// A range outside the part of the file it belongs to.
    #[error("[{}] {what} at {at}: {start}..{end} lies outside {low}..{high}", clause(what))]
    OutOfBounds {
        /// What the range is of.
        what: &'static str,
        /// Where the range is declared.
        at: Place,
        /// First byte.
        start: u64,
        /// Byte after the last.
        end: u64,
        /// First byte allowed.
        low: u64,
        /// Byte after the last allowed.
        high: u64,
    },
    /// Ranges or records that do not follow each other as they must.
    #[error("[{}] {what} at {at}: {fault}{}", clause(what), Found { expected, found })]
    Layout {
        /// What is out of place.
        what: &'static str,
        /// Where it is declared.
        at: Place,
        /// How.
        fault: LayoutFault,
        /// The only value allowed there.
        expected: u64,
        /// The value there.
        found: u64,
    },
    /// A name that no tensor, blob or key can have.
    #[error("[4.3] name at {at}: {fault}")]
    BadName {
        /// Where it is.
        at: Place,
        /// What is wrong.
        fault: NameFault,
    },
    /// A metadata entry that is not well-formed.
    #[error("[{}] metadata entry at {at}: {fault}", fault.clause())]
    BadMetadata {
        /// Where it is; the key stands for the tensor.
        at: Place,
        /// What is wrong.
        fault: MetadataFault,
    },
    /// A code description or a set of planes that is not one.
    #[error("[{}] {at}: {fault}", fault.clause())]
    BadEncoding {
        /// Which tensor.
        at: Place,
        /// What is wrong.
        fault: EncodingFault,
    },
    /// The file does not belong to the set of shards it is opened with.
    #[error("[3.7] {fault}")]
    Shard {
        /// What is wrong.
        fault: ShardFault,
    },
    /// A chunk of a plane does not match its checksum.
    #[error(
        "[5.9] {at}, {plane} plane, chunk {chunk}: checksum {found:08x}, expected {expected:08x}: the file is damaged, fetch it again"
    )]
    PayloadChecksum {
        /// Which tensor or blob, and the chunk's first byte.
        at: Place,
        /// Which of its planes.
        plane: &'static str,
        /// Which chunk of the plane, from 0.
        chunk: u64,
        /// Stored in the file.
        expected: u32,
        /// Computed from the bytes.
        found: u32,
    },
    /// Padding that is not zero.
    #[error("[{}] {what} at {at} is not zero", clause(what))]
    Padding {
        /// Which padding.
        what: &'static str,
        /// Where it is.
        at: Place,
    },
    /// A scale or a cluster parameter is NaN or infinite.
    #[error("[{}] {at}, {plane} plane, row {row}: {value} is not a finite number", clause(plane))]
    NonFinite {
        /// Which tensor, and the value's first byte.
        at: Place,
        /// Which plane.
        plane: &'static str,
        /// Which row.
        row: u64,
        /// The value.
        value: f32,
    },
    /// The system failed to read or write.
    #[cfg(feature = "std")]
    #[error("{error}")]
    Io(std::io::Error) as error,
}
}

impl core::error::Error for Error {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            #[cfg(feature = "std")]
            Self::Io(error) => Some(error),
            _ => None,
        }
    }
}

#[cfg(feature = "std")]
impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

impl Error {
    /// The byte of the file that the error is about, counted from its start: where the record or the range that is
    /// wrong begins, or where the bytes end too early. `None` where the system failed.
    pub fn offset(&self) -> Option<u64> {
        Some(match self {
            Self::BadMagic { .. } => 0,
            Self::UnsupportedVersion { .. } => offset_of!(Header, major) as u64,
            Self::Truncated { found, .. } => *found,
            Self::Shard { fault: ShardFault::SetId | ShardFault::OtherSet { .. } } => {
                offset_of!(Header, set_id) as u64
            }
            Self::Shard { .. } => offset_of!(Header, shard_index) as u64,
            Self::UnsupportedFeature { at, .. }
            | Self::Reserved { at }
            | Self::Checksum { at, .. }
            | Self::LimitExceeded { at, .. }
            | Self::Overflow { at, .. }
            | Self::BadShape { at, .. }
            | Self::OutOfBounds { at, .. }
            | Self::Layout { at, .. }
            | Self::BadName { at, .. }
            | Self::BadMetadata { at, .. }
            | Self::BadEncoding { at, .. }
            | Self::PayloadChecksum { at, .. }
            | Self::Padding { at, .. }
            | Self::NonFinite { at, .. } => at.offset,
            #[cfg(feature = "std")]
            Self::Io(_) => return None,
        })
    }
}

/// A byte of the file, and the tensor, blob or key it belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Offset from the start of the file.
    pub offset: u64,
    /// Name of what it belongs to; empty where it belongs to nothing named.
    pub name: String,
}

impl Place {
    /// A byte that belongs to nothing named.
    pub const fn byte(offset: u64) -> Self {
        Self { offset, name: String::new() }
    }

    /// A byte of something named.
    pub fn named(offset: u64, name: &str) -> Self {
        Self { offset, name: name.into() }
    }
}

/// A [`Place`] that borrows its name, so that nothing is allocated while all is well.
#[derive(Clone, Copy)]
pub(super) struct At<'a> {
    pub offset: u64,
    pub name: &'a str,
}

impl At<'_> {
    pub const fn byte(offset: u64) -> Self {
        Self { offset, name: "" }
    }
}

impl From<At<'_>> for Place {
    fn from(at: At<'_>) -> Self {
        Self::named(at.offset, at.name)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name.is_empty() {
            write!(f, "byte {}", self.offset)
        } else {
            write!(f, "`{}` (byte {})", self.name.escape_debug(), self.offset)
        }
    }
}

/// The clause of the specification that `what` is about.
fn clause(what: &str) -> &'static str {
    match what {
        "the length of the file" => "3.4",
        "header" | "file" | "section" | "padding before a section" => "3.6",
        "index" | "planes" => "4.1",
        "name" | "strings" => "4.2",
        "dimensions" | "first plane of a tensor" => "4.4",
        "the product of the dimensions" => "4.5",
        "the length in bits" => "4.6",
        "plane of a blob" => "4.8",
        "plane" | "payload" | "padding before a plane" => "5.2",
        "the length of a plane" | "padding of a row" => "5.4",
        "last nibble of a row" => "5.5",
        "super-scale" => "5.6",
        "cluster" => "5.7",
        "checksums" | "first checksum of a plane" => "5.9",
        "spare bits of a group" => "6.4",
        "metadata padding" => "7.1",
        _ => "9.2",
    }
}

impl Feature {
    fn clause(self) -> &'static str {
        match self {
            Self::Incompat => "3.3",
            Self::Section => "3.6",
            Self::Encoding => "4.4",
            Self::Dtype => "4.6",
            Self::Plane => "5.1",
        }
    }
}

impl MetadataFault {
    fn clause(self) -> &'static str {
        match self {
            Self::UnknownType | Self::BadLength | Self::BadBool | Self::NotUtf8 => "7.3",
            Self::Unsorted | Self::Duplicate => "7.2",
            Self::WrongType => "7.4",
        }
    }
}

impl EncodingFault {
    fn clause(self) -> &'static str {
        match self {
            Self::Code(CodeError::ScaleBits { .. }) => "6.4",
            Self::Code(_) | Self::Field { .. } => "4.7",
            Self::Planes { .. } | Self::PlaneKind { .. } => "5.3",
            Self::PlaneSize { plane: "local-scale", .. } => "5.5",
            Self::PlaneSize { plane, .. } => clause(plane),
            Self::RowStride { .. } => "5.4",
        }
    }
}

/// The two numbers of a message, where they say anything: names out of order have none.
struct Found<'a> {
    expected: &'a u64,
    found: &'a u64,
}

impl fmt::Display for Found<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { expected, found } = self;
        if expected == found { Ok(()) } else { write!(f, ": expected {expected}, found {found}") }
    }
}

/// Enums whose variants carry a message only.
macro_rules! faults {
    ($($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum $name { $($(#[$variant_doc])* $variant,)* }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$variant => $text,)* })
            }
        }
    )*};
}

faults! {
    /// What a wrong magic usually means.
    MagicHint {
        /// Another kind of file.
        NotThisFormat = "this is not a .ccq file",
        /// Bytes swapped in pairs, fours or eights.
        ByteSwapped = "this .ccq file was byte-swapped on its way",
        /// Line endings were translated or the high bit cut.
        TextMode = "this .ccq file was damaged by a text-mode transfer: fetch it in binary mode",
        /// Eight zeros: the header is written last.
        Unfinished = "this .ccq file was never finished: its writer stopped early, write it again",
    }

    /// A feature that this reader does not know.
    Feature {
        /// A bit of the incompat word.
        Incompat = "an incompatible feature bit",
        /// A section without the ignorable bit.
        Section = "a section that must be understood",
        /// An encoding identifier.
        Encoding = "an encoding",
        /// A dtype identifier.
        Dtype = "a dtype",
        /// A plane kind.
        Plane = "a plane kind",
    }

    /// What is wrong with the order of ranges or records.
    LayoutFault {
        /// Not a multiple of its alignment.
        Misaligned = "misaligned",
        /// Begins before the one before it ends, or repeats it.
        Overlap = "overlaps what stands before it",
        /// Leaves more than alignment needs.
        Hole = "leaves a hole before it",
        /// Not in its place of the order.
        Unsorted = "not in ascending order",
        /// A length that is not the sum of its parts.
        Length = "count or length is not that of its parts",
        /// The file goes on after its last section.
        TrailingBytes = "bytes after the end",
    }

    /// What is wrong with a name.
    NameFault {
        /// No bytes.
        Empty = "empty",
        /// Not UTF-8.
        NotUtf8 = "not UTF-8",
        /// A NUL or another control character.
        ControlCharacter = "holds a control character",
        /// The same name twice.
        Duplicate = "stands there twice",
        /// Not a relative path of plain components.
        UnsafePath = "not a plain relative path (no `..`, no empty part, no `\\`, no `:`)",
    }

    /// What is wrong with a metadata entry.
    MetadataFault {
        /// An identifier that is no type.
        UnknownType = "value type is not 1 to 6",
        /// A fixed-size value of another length, or an entry that runs past its section.
        BadLength = "a value of the wrong length for its type, or an entry that ends after its section",
        /// A bool that is neither 0 nor 1.
        BadBool = "a bool that is neither 0 nor 1",
        /// A string that is not UTF-8.
        NotUtf8 = "a string that is not UTF-8",
        /// A key smaller than the one before it.
        Unsorted = "keys are not in ascending order",
        /// The same key twice.
        Duplicate = "the same key twice",
        /// A known key with another type than its own.
        WrongType = "a known key whose value is not a string",
    }
}

/// What is wrong with a shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ShapeFault {
    /// A coded tensor without dimensions.
    Scalar,
    /// A coded tensor with a zero dimension.
    ZeroDimension,
    /// Elements narrower than a byte that do not fill whole bytes.
    PartialByte,
    /// A plane whose length is not what shape and encoding call for.
    PlaneLength {
        /// Bytes due.
        expected: u64,
        /// Bytes found.
        found: u64,
    },
    /// Not 0, 32, 64 or 128.
    GroupSize(u32),
}

impl fmt::Display for ShapeFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scalar => f.write_str("a quantized tensor needs at least one dimension"),
            Self::ZeroDimension => f.write_str("a quantized tensor cannot have a zero dimension"),
            Self::PartialByte => f.write_str("the elements do not fill whole bytes"),
            Self::PlaneLength { expected, found } => {
                write!(f, "the shape calls for {expected} bytes, the plane has {found}")
            }
            Self::GroupSize(size) => write!(f, "group size {size}, expected 0, 32, 64 or 128"),
        }
    }
}

/// What is wrong with an encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EncodingFault {
    /// The code description is not valid.
    Code(CodeError),
    /// A field of the code record holds a value that stands for nothing.
    Field {
        /// Which field.
        field: &'static str,
        /// Its value.
        found: u8,
    },
    /// Planes missing, superfluous or of the wrong kind.
    Planes {
        /// Planes due.
        expected: u64,
        /// Planes there are, or the kind found in place of the due one.
        found: u64,
    },
    /// The kind of a plane is not the one due in its place.
    PlaneKind {
        /// Kind due.
        expected: u32,
        /// Kind found.
        found: u32,
    },
    /// The length of a plane beside the codes is not what the code calls for.
    PlaneSize {
        /// Which plane.
        plane: &'static str,
        /// Bytes due.
        expected: u64,
        /// Bytes found.
        found: u64,
    },
    /// The row stride of a plane is not what the code calls for.
    RowStride {
        /// Bytes due.
        expected: u64,
        /// Bytes found.
        found: u64,
    },
}

impl fmt::Display for EncodingFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(error) => error.fmt(f),
            Self::Field { field, found } => {
                write!(f, "`{field}` of the code description is {found}, which stands for nothing")
            }
            Self::Planes { expected, found } => write!(f, "{found} planes, expected {expected}"),
            Self::PlaneKind { expected, found } => write!(f, "plane of kind {found}, expected {expected}"),
            Self::PlaneSize { plane, expected, found } => {
                write!(f, "{plane} plane of {found} bytes, expected {expected}")
            }
            Self::RowStride { expected, found } => write!(f, "row stride {found}, expected {expected}"),
        }
    }
}

/// What is wrong with a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ShardFault {
    /// The index is not smaller than the count.
    Index {
        /// This file's index.
        index: u32,
        /// Files in the set.
        count: u32,
    },
    /// A file that stands alone carries a set id.
    SetId,
    /// The name of one of several files does not say where the others are.
    Name {
        /// This file's index.
        index: u32,
        /// Files in the set.
        count: u32,
    },
    /// This file of the set is not there.
    Missing {
        /// Its index.
        index: u32,
        /// Files in the set.
        count: u32,
    },
    /// The file is of another set.
    OtherSet {
        /// A file of the set that it was opened with.
        first: String,
    },
    /// The file holds the same part of the set as another.
    Twice {
        /// Index of both.
        index: u32,
        /// The other file.
        other: String,
    },
    /// The file holds a name that another file of the set holds.
    Repeated {
        /// `tensor` or `blob`.
        what: &'static str,
        /// The name.
        name: String,
        /// The other file.
        other: String,
    },
}

impl fmt::Display for ShardFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = |index: &u32, count: &u32| (index.saturating_add(1), *count);
        match self {
            Self::Index { index, count } => {
                write!(f, "shard index {index} in a set of {count}, expected less than the count")
            }
            Self::SetId => f.write_str("a file that stands alone carries the id of a set, expected zeros"),
            Self::Name { index, count } => {
                let (number, count) = place(index, count);
                write!(
                    f,
                    "shard {number} of {count}, whose others are not known: expected a name that ends in -{number:05}-of-{count:05}.ccq"
                )
            }
            Self::Missing { index, count } => {
                let (number, count) = place(index, count);
                write!(f, "shard {number} of {count} is missing: put it there")
            }
            Self::OtherSet { first } => {
                write!(f, "belongs to another set of shards than {first}: fetch all files of one set")
            }
            Self::Twice { index, other } => {
                write!(f, "is shard {}, which {other} is too: fetch it again", index.saturating_add(1))
            }
            Self::Repeated { what, name, other } => {
                write!(f, "holds the {what} `{}`, which {other} holds too", name.escape_debug())
            }
        }
    }
}
