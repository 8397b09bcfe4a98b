//! The tool end to end, as a process of its own.
#![allow(missing_docs)]

mod check;
mod compare;
mod fixture;
mod list;
