//! The tool end to end, as a process of its own.
#![allow(missing_docs)]

mod bench;
mod browser;
mod check;
mod compare;
#[cfg(target_os = "linux")]
mod device;
mod extract;
mod fixture;
mod html;
mod list;
mod sets;
