//! Ctrl-C: the first asks the tool to stop at the next tensor, the second ends it at once.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::SIGINT;
use signal_hook::flag;

use crate::exit::Exit;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Installs the handler, once, at the start of `main`.
///
/// # Errors
/// What the operating system says; the tool can go on without.
pub fn catch_interrupts() -> io::Result<()> {
    // Actions run in the order of their registration: the first signal finds the flag down and raises it, the
    // second finds it raised and exits.
    flag::register_conditional_shutdown(SIGINT, Exit::Interrupted.code().into(), &INTERRUPTED)?;
    flag::register(SIGINT, &INTERRUPTED)?;
    Ok(())
}

/// Whether Ctrl-C has been pressed since [`catch_interrupts`]; tools then end with [`Exit::Interrupted`].
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}
