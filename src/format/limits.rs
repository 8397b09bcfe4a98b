//! What a reader is willing to open (spec, clause 9.3).

/// Upper bounds checked before anything is allocated. The defaults hold every published model many times over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Tensor records.
    pub tensors: u64,
    /// Blob records.
    pub blobs: u64,
    /// Bytes of a tensor's or blob's name, or of a metadata key.
    pub name_len: u64,
    /// Dimensions of a tensor.
    pub rank: u64,
    /// Bytes of the metadata section.
    pub metadata_len: u64,
    /// Section records.
    pub sections: u64,
}

impl Limits {
    /// The defaults.
    pub const DEFAULT: Self = Self {
        tensors: 1 << 20,
        blobs: 1 << 16,
        name_len: 1024,
        rank: 32,
        metadata_len: 64 << 20,
        sections: 64,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}
