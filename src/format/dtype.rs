//! Element types of source tensors (spec, clause 4.6).

use core::fmt;

macro_rules! dtypes {
    ($($(#[$doc:meta])* $name:ident = $id:literal, $text:literal, $bits:literal;)*) => {
        /// Element type of a source tensor: every type that safetensors knows, little-endian.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Dtype { $($(#[$doc])* $name,)* }

        impl Dtype {
            /// Every dtype, in the order of their identifiers.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The identifier stored in a tensor record.
            pub const fn id(self) -> u16 {
                match self { $(Self::$name => $id,)* }
            }

            /// The dtype of a stored identifier.
            pub const fn from_id(id: u16) -> Option<Self> {
                match id { $($id => Some(Self::$name),)* _ => None }
            }

            /// The name safetensors uses, such as `BF16`.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// Bits of an element.
            pub const fn bits(self) -> u64 {
                match self { $(Self::$name => $bits,)* }
            }
        }
    };
}

dtypes! {
    /// A byte that is 0 or 1.
    Bool = 1, "BOOL", 8;
    /// OCP MX 4-bit float.
    F4 = 2, "F4", 4;
    /// OCP MX 6-bit float, 2 exponent bits.
    F6E2M3 = 3, "F6_E2M3", 6;
    /// OCP MX 6-bit float, 3 exponent bits.
    F6E3M2 = 4, "F6_E3M2", 6;
    /// Unsigned 8-bit integer.
    U8 = 5, "U8", 8;
    /// Signed 8-bit integer.
    I8 = 6, "I8", 8;
    /// 8-bit float, 5 exponent bits.
    F8E5M2 = 7, "F8_E5M2", 8;
    /// 8-bit float, 4 exponent bits, no infinity.
    F8E4M3 = 8, "F8_E4M3", 8;
    /// 8-bit power of two.
    F8E8M0 = 9, "F8_E8M0", 8;
    /// 8-bit float, 4 exponent bits, no negative zero.
    F8E4M3Fnuz = 10, "F8_E4M3FNUZ", 8;
    /// 8-bit float, 5 exponent bits, no negative zero.
    F8E5M2Fnuz = 11, "F8_E5M2FNUZ", 8;
    /// Signed 16-bit integer.
    I16 = 12, "I16", 16;
    /// Unsigned 16-bit integer.
    U16 = 13, "U16", 16;
    /// IEEE binary16.
    F16 = 14, "F16", 16;
    /// bfloat16.
    Bf16 = 15, "BF16", 16;
    /// Signed 32-bit integer.
    I32 = 16, "I32", 32;
    /// Unsigned 32-bit integer.
    U32 = 17, "U32", 32;
    /// IEEE binary32.
    F32 = 18, "F32", 32;
    /// Two binary32: real and imaginary part.
    C64 = 19, "C64", 64;
    /// IEEE binary64.
    F64 = 20, "F64", 64;
    /// Signed 64-bit integer.
    I64 = 21, "I64", 64;
    /// Unsigned 64-bit integer.
    U64 = 22, "U64", 64;
}

impl Dtype {
    /// The dtype of that safetensors name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|dtype| dtype.name() == name)
    }

    /// Bytes of a tensor of this shape, or `None` where a dimension overflows (even behind a zero one) or
    /// the elements do not fill whole bytes.
    pub fn tensor_bytes(self, shape: &[u64]) -> Option<u64> {
        let bits = element_count(shape)?.checked_mul(self.bits())?;
        bits.is_multiple_of(8).then_some(bits / 8)
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Elements of a tensor of this shape; `None` where the product of its non-zero dimensions exceeds
/// 2^64 - 1, so that a zero dimension hides no overflow.
pub fn element_count(shape: &[u64]) -> Option<u64> {
    let mut product = 1u64;
    let mut empty = false;
    for &dimension in shape {
        empty |= dimension == 0;
        product = product.checked_mul(dimension.max(1))?;
    }
    Some(if empty { 0 } else { product })
}
