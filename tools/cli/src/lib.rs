//! What the command-line tools share: exit codes, tables, numbers for people, progress, and Ctrl-C.
//!
//! Only [`Progress`] prints, and only to standard error; everything else goes through a writer of the
//! caller's.

#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::unwrap_used
    )
)]

mod exit;
mod human;
mod interrupt;
mod progress;
mod table;
mod terminal;

pub use exit::Exit;
pub use human::{bytes, count, duration, parse_bytes, printable, shorten};
pub use interrupt::{catch_interrupts, interrupted};
pub use progress::Progress;
pub use table::{Column, Table};
pub use terminal::stdout_width;
