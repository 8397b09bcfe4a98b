//! Key-values that a container carries along.

use ccq::format::Value;

/// A value of a model's own metadata.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Carried {
    /// True or false.
    Bool(bool),
    /// An unsigned integer.
    U64(u64),
    /// A signed integer.
    I64(i64),
    /// A floating-point number.
    F64(f64),
    /// Text.
    String(String),
}

impl Carried {
    /// The same as a value of a container.
    pub fn value(&self) -> Value<'_> {
        match self {
            Self::Bool(value) => Value::Bool(*value),
            Self::U64(value) => Value::U64(*value),
            Self::I64(value) => Value::I64(*value),
            Self::F64(value) => Value::F64(*value),
            Self::String(value) => Value::String(value),
        }
    }
}
