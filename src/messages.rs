//! Enums of errors with a message each.
//!
//! A derive would do the same, but brings a second copy of the largest crate that an embedder builds.

/// Declares an enum and its `Display`: `#[error("...")]` is a format string over the variant's fields, and what follows
/// it its arguments. A variant that holds another error is written `Name(Type) as name`.
macro_rules! messages {
    ($(#[$meta:meta])* pub enum $enum:ident {
        $(
            $(#[doc = $doc:literal])*
            $(#[cfg($cfg:meta)])?
            #[error($($message:tt)*)]
            $variant:ident
            $({ $($(#[$field_meta:meta])* $field:ident: $type:ty,)* })?
            $(($inner:ty) as $bind:ident)?
            ,
        )*
    }) => {
        $(#[$meta])*
        pub enum $enum {$(
            $(#[doc = $doc])*
            $(#[cfg($cfg)])?
            $variant $({ $($(#[$field_meta])* $field: $type,)* })? $(($inner))?,
        )*}

        impl core::fmt::Display for $enum {
            #[allow(unused_variables)] // a message need not name every field
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                match self {$(
                    $(#[cfg($cfg)])?
                    Self::$variant $({ $($field),* })? $(($bind))? => write!(f, $($message)*),
                )*}
            }
        }
    };
}

pub(crate) use messages;
