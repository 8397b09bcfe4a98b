//! The short name of an error: its variant and what exactly is wrong, such as `Layout{plane: Overlap}`.

use std::fmt::Debug;

use ccq::Error;
use ccq::format::EncodingFault;

/// Variant and fault of an error.
pub fn classify(error: &Error) -> String {
    match error {
        Error::Truncated { what, .. } => format!("Truncated{{{what}}}"),
        Error::BadMagic { hint, .. } => format!("BadMagic{{{}}}", variant(hint)),
        Error::UnsupportedVersion { major, minor } => format!("UnsupportedVersion{{{major}.{minor}}}"),
        Error::UnsupportedFeature { feature, .. } => format!("UnsupportedFeature{{{}}}", variant(feature)),
        Error::Reserved { .. } => "Reserved".into(),
        Error::Checksum { section, .. } => format!("Checksum{{{section}}}"),
        Error::LimitExceeded { what, .. } => format!("LimitExceeded{{{what}}}"),
        Error::Overflow { what, .. } => format!("Overflow{{{what}}}"),
        Error::BadShape { fault, .. } => format!("BadShape{{{}}}", variant(fault)),
        Error::OutOfBounds { what, .. } => format!("OutOfBounds{{{what}}}"),
        Error::Layout { what, fault, .. } => format!("Layout{{{what}: {}}}", variant(fault)),
        Error::BadName { fault, .. } => format!("BadName{{{}}}", variant(fault)),
        Error::BadMetadata { fault, .. } => format!("BadMetadata{{{}}}", variant(fault)),
        Error::BadEncoding { fault: EncodingFault::Code(code), .. } => {
            format!("BadEncoding{{{}}}", variant(code))
        }
        Error::BadEncoding { fault: EncodingFault::Field { field, .. }, .. } => {
            format!("BadEncoding{{{field}}}")
        }
        Error::BadEncoding { fault, .. } => format!("BadEncoding{{{}}}", variant(fault)),
        Error::Shard { fault } => format!("Shard{{{}}}", variant(fault)),
        Error::PayloadChecksum { plane, .. } => format!("PayloadChecksum{{{plane}}}"),
        Error::Padding { what, .. } => format!("Padding{{{what}}}"),
        Error::NonFinite { plane, .. } => format!("NonFinite{{{plane}}}"),
        other => format!("{other:?}"),
    }
}

/// The name of an enum's variant, without its fields.
fn variant(fault: &impl Debug) -> String {
    let text = format!("{fault:?}");
    let end = text.find(|c: char| !c.is_alphanumeric()).unwrap_or(text.len());
    text[..end].into()
}
