//! Ctrl-C, in processes of their own: this test starts itself again.

use std::process::Command;

use ccq_cli::{Exit, catch_interrupts, interrupted};
use signal_hook::consts::SIGINT;
use signal_hook::low_level::raise;

/// What the child process does, as the parent asks through this variable: how many signals to raise.
const SIGNALS: &str = "CCQ_TEST_SIGNALS";

#[test]
fn the_first_signal_raises_the_flag_and_the_second_ends_the_process() {
    if let Ok(signals) = std::env::var(SIGNALS) {
        return child(signals.parse().unwrap());
    }
    for (signals, code) in [(0, 0), (1, 0), (2, 130)] {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let status = command.env(SIGNALS, signals.to_string()).output().unwrap().status;
        assert_eq!(status.code(), Some(code), "{signals} signals");
    }
    assert_eq!(Exit::Interrupted.code(), 130);
}

fn child(signals: u32) {
    catch_interrupts().unwrap();
    assert!(!interrupted());
    for _ in 0..signals {
        raise(SIGINT).unwrap();
    }
    assert_eq!(interrupted(), signals > 0);
}
