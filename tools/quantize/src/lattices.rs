//! Cluster parameters worth trying.

/// `(a, zp)` pairs for the code (6, 4, 3), best first.
pub(crate) const RANKED: &[(u16, i16)] = &[(30_721, 1234), (31_165, 853)];
