//! Progress on standard error.
//!
//! On a terminal: one bar, redrawn in place. Elsewhere: plain lines, at most one a second and one at the end,
//! such as ` 37% encoder.layer.2.output.dense.weight`.

use std::io::{self, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::human::{bytes, printable, shorten};
use crate::terminal::stderr_width;

/// Between two plain lines.
const INTERVAL: Duration = Duration::from_secs(1);

/// How much of the work, counted in bytes, is done; any thread may report.
pub struct Progress(Kind);

enum Kind {
    Hidden,
    /// The bar, and the columns it has for a name.
    Bar(ProgressBar, usize),
    Lines(Mutex<Lines<Box<dyn Write + Send>>>),
}

impl Progress {
    /// Starts with `total` bytes to do.
    pub fn new(total: u64) -> Self {
        let target = ProgressDrawTarget::stderr();
        if target.is_hidden() {
            // No terminal, or one that cannot redraw a line.
            return Self(Kind::Lines(Mutex::new(Lines::new(Box::new(io::stderr()), total, Instant::now()))));
        }
        let bar = ProgressBar::with_draw_target(Some(total), target);
        let (template, room) = layout(stderr_width().unwrap_or(usize::MAX));
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.enable_steady_tick(Duration::from_millis(250));
        Self(Kind::Bar(bar, room))
    }

    /// Shows nothing.
    pub fn hidden() -> Self {
        Self(Kind::Hidden)
    }

    /// Names what is being worked on.
    pub fn work_on(&self, name: &str) {
        match &self.0 {
            Kind::Hidden => {}
            Kind::Bar(bar, room) => bar.set_message(shorten(&printable(name), *room)),
            Kind::Lines(lines) => with(lines, |lines| lines.work_on(name, Instant::now())),
        }
    }

    /// So many more bytes are done.
    pub fn advance(&self, bytes: u64) {
        match &self.0 {
            Kind::Hidden => {}
            Kind::Bar(bar, _) => bar.inc(bytes),
            Kind::Lines(lines) => with(lines, |lines| lines.advance(bytes, Instant::now())),
        }
    }

    /// Writes a line above the bar, such as a warning; also where progress is hidden.
    pub fn line(&self, text: &str) {
        match &self.0 {
            Kind::Hidden => drop(writeln!(io::stderr(), "{text}")),
            Kind::Bar(bar, _) => bar.suspend(|| drop(writeln!(io::stderr(), "{text}"))),
            Kind::Lines(lines) => with(lines, |lines| drop(writeln!(lines.out, "{text}"))),
        }
    }

    /// Ends: the bar is removed, plain lines get their last one.
    pub fn finish(self) {
        if let Kind::Lines(lines) = &self.0 {
            with(lines, Lines::finish);
        }
    }
}

/// A bar that is dropped, by an error or by [`Progress::finish`], leaves the terminal clean.
impl Drop for Progress {
    fn drop(&mut self) {
        if let Kind::Bar(bar, _) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

/// The bar that fits, and the columns it leaves for a name.
fn layout(columns: usize) -> (&'static str, usize) {
    let (template, taken) = match columns {
        0..60 => ("{percent:>3}% {wide_msg}", 6),
        60..100 => ("{percent:>3}% [{bar:12}] {eta:>4} left  {wide_msg}", 32),
        _ => ("{percent:>3}% [{bar:20}] {binary_total_bytes:>10}, {eta:>4} left  {wide_msg}", 52),
    };
    (template, columns.saturating_sub(taken))
}

/// A panic of another thread while it reported leaves nothing half done.
fn with<T>(lines: &Mutex<T>, report: impl FnOnce(&mut T)) {
    report(&mut lines.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
}

/// Plain lines; the time comes from outside.
struct Lines<W> {
    out: W,
    total: u64,
    done: u64,
    name: String,
    last: Instant,
}

impl<W: Write> Lines<W> {
    fn new(out: W, total: u64, now: Instant) -> Self {
        Self { out, total, done: 0, name: String::new(), last: now }
    }

    fn work_on(&mut self, name: &str, now: Instant) {
        self.name = printable(name);
        self.tick(now);
    }

    fn advance(&mut self, bytes: u64, now: Instant) {
        self.done = self.done.saturating_add(bytes);
        self.tick(now);
    }

    fn tick(&mut self, now: Instant) {
        if now.saturating_duration_since(self.last) >= INTERVAL {
            self.last = now;
            let percent = match self.total {
                0 => 100,
                total => (u128::from(self.done.min(total)) * 100) / u128::from(total),
            };
            // Nobody can be told that standard error is gone.
            drop(writeln!(self.out, "{percent:3}% {}", self.name));
        }
    }

    fn finish(&mut self) {
        drop(writeln!(self.out, "100% {}", bytes(self.total)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_most_one_line_a_second() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut lines = Lines::new(Vec::new(), 2048, start);
        lines.work_on("a", at(10));
        lines.advance(512, at(999));
        lines.advance(512, at(1000));
        lines.work_on("b\x1b", at(1500));
        lines.advance(4096, at(2000));
        lines.finish();
        let text = String::from_utf8(lines.out).unwrap();
        assert_eq!(text, " 50% a\n100% b\\u{1b}\n100% 2.00 KiB\n");
    }

    #[test]
    fn nothing_to_do_is_done() {
        let start = Instant::now();
        let mut lines = Lines::new(Vec::new(), 0, start);
        lines.work_on("a", start + INTERVAL);
        assert_eq!(String::from_utf8(lines.out).unwrap(), "100% a\n");
    }

    #[test]
    fn templates_are_valid() {
        for columns in [1, 40, 60, 80, 100, 200] {
            ProgressStyle::with_template(layout(columns).0).unwrap();
        }
    }

    #[test]
    fn threads_report_together() {
        fn shared<T: Send + Sync>(_: &T) {}
        let progress = Progress::hidden();
        shared(&progress);
        progress.work_on("a");
        progress.advance(1);
        progress.finish();
    }
}
