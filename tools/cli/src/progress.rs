//! Progress on standard error.
//!
//! On a terminal: one bar, redrawn in place. Elsewhere: plain lines, at most one a second and one at the end,
//! such as ` 37% encoder.layer.2.output.dense.weight`; or, for long jobs, a line for each tensor that is done,
//! such as ` 37%  1.20 GiB of 3.40 GiB, 21.3 Mweights/s, 2 min 03 s left  encoder.layer.2.output.dense.weight`.

use std::io::{self, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::human::{bytes, duration, printable, shorten};
use crate::terminal::stderr_width;

/// Between two plain lines.
const INTERVAL: Duration = Duration::from_secs(1);
/// The same where tensors get lines of their own: a sign of life from a very large one.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// How much of the work, counted in bytes, is done; any thread may report.
pub struct Progress(Kind);

enum Kind {
    Hidden,
    Bar(Bar),
    Lines(Mutex<Lines<Box<dyn Write + Send>>>),
}

struct Bar {
    bar: ProgressBar,
    /// Columns for a name.
    room: usize,
    rate: Mutex<Rate>,
}

impl Progress {
    /// Starts with `total` bytes to do.
    pub fn new(total: u64) -> Self {
        Self::start(total, false)
    }

    /// The same for a job that reports tensors and their weights: [`Progress::weights`], [`Progress::done`].
    pub fn of_tensors(total: u64) -> Self {
        Self::start(total, true)
    }

    fn start(total: u64, log: bool) -> Self {
        let (target, now) = (ProgressDrawTarget::stderr(), Instant::now());
        if target.is_hidden() {
            // No terminal, or one that cannot redraw a line.
            return Self(Kind::Lines(Mutex::new(Lines::new(Box::new(io::stderr()), total, log, now))));
        }
        let bar = ProgressBar::with_draw_target(Some(total), target);
        let (template, room) = layout(stderr_width().unwrap_or(usize::MAX), log);
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.enable_steady_tick(Duration::from_millis(250));
        Self(Kind::Bar(Bar { bar, room, rate: Mutex::new(Rate::new(now)) }))
    }

    /// Shows nothing.
    pub fn hidden() -> Self {
        Self(Kind::Hidden)
    }

    /// So many bytes were done before: they count for the share that is done and not for the speed.
    pub fn skip(&self, bytes: u64) {
        match &self.0 {
            Kind::Hidden => {}
            Kind::Bar(Bar { bar, .. }) => {
                bar.inc(bytes);
                bar.reset_eta();
            }
            Kind::Lines(lines) => with(lines, |lines| lines.skip(bytes)),
        }
    }

    /// Names what is being worked on.
    pub fn work_on(&self, name: &str) {
        match &self.0 {
            Kind::Hidden => {}
            Kind::Bar(Bar { bar, room, .. }) => bar.set_message(shorten(&printable(name), *room)),
            Kind::Lines(lines) => with(lines, |lines| lines.work_on(name, Instant::now())),
        }
    }

    /// So many more bytes are done.
    pub fn advance(&self, bytes: u64) {
        match &self.0 {
            Kind::Hidden => {}
            Kind::Bar(Bar { bar, .. }) => bar.inc(bytes),
            Kind::Lines(lines) => with(lines, |lines| lines.advance(bytes, Instant::now())),
        }
    }

    /// So many more weights are done; their bytes are for [`Progress::advance`].
    pub fn weights(&self, count: u64) {
        match &self.0 {
            Kind::Hidden => {}
            Kind::Bar(Bar { bar, rate, .. }) => with(rate, |rate| {
                rate.weights = rate.weights.saturating_add(count);
                bar.set_prefix(rate.speed(Instant::now()));
            }),
            Kind::Lines(lines) => {
                with(lines, |lines| lines.rate.weights = lines.rate.weights.saturating_add(count));
            }
        }
    }

    /// The tensor of that name is done.
    pub fn done(&self, name: &str) {
        if let Kind::Lines(lines) = &self.0 {
            with(lines, |lines| lines.done_with(name, Instant::now()));
        }
    }

    /// Writes a line above the bar, such as a warning; also where progress is hidden.
    pub fn line(&self, text: &str) {
        match &self.0 {
            Kind::Hidden => drop(writeln!(io::stderr(), "{text}")),
            Kind::Bar(Bar { bar, .. }) => bar.suspend(|| drop(writeln!(io::stderr(), "{text}"))),
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
        if let Kind::Bar(Bar { bar, .. }) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

/// The bar that fits, and the columns it leaves for a name.
fn layout(columns: usize, log: bool) -> (&'static str, usize) {
    let (template, taken) = match (columns, log) {
        (0..60, _) => ("{percent:>3}% {wide_msg}", 6),
        (60..100, true) => ("{percent:>3}% {prefix:>16}, {eta:>4} left  {wide_msg}", 35),
        (60..100, false) => ("{percent:>3}% [{bar:12}] {eta:>4} left  {wide_msg}", 32),
        (_, true) => (
            "{percent:>3}% [{bar:12}] {binary_bytes:>10} of {binary_total_bytes}, {prefix}, {eta} left  {wide_msg}",
            76,
        ),
        (_, false) => ("{percent:>3}% [{bar:20}] {binary_total_bytes:>10}, {eta:>4} left  {wide_msg}", 52),
    };
    (template, columns.saturating_sub(taken))
}

/// A panic of another thread while it reported leaves nothing half done.
fn with<T>(lines: &Mutex<T>, report: impl FnOnce(&mut T)) {
    report(&mut lines.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
}

/// Weights since the start.
struct Rate {
    start: Instant,
    weights: u64,
}

impl Rate {
    fn new(start: Instant) -> Self {
        Self { start, weights: 0 }
    }

    /// `21.3 Mweights/s`
    fn speed(&self, now: Instant) -> String {
        let seconds = now.saturating_duration_since(self.start).as_secs_f64();
        let rate = if seconds > 0.0 { self.weights as f64 / seconds } else { 0.0 };
        match rate {
            ..1e6 => format!("{:.1} kweights/s", rate / 1e3),
            ..1e9 => format!("{:.1} Mweights/s", rate / 1e6),
            _ => format!("{:.2} Gweights/s", rate / 1e9),
        }
    }
}

/// Plain lines; the time comes from outside.
struct Lines<W> {
    out: W,
    total: u64,
    done: u64,
    /// Of `done`, what was done before the start.
    skipped: u64,
    name: String,
    /// A line a tensor, with everything in it.
    log: bool,
    rate: Rate,
    last: Instant,
}

impl<W: Write> Lines<W> {
    fn new(out: W, total: u64, log: bool, now: Instant) -> Self {
        let name = String::new();
        Self { out, total, done: 0, skipped: 0, name, log, rate: Rate::new(now), last: now }
    }

    fn skip(&mut self, bytes: u64) {
        self.done = self.done.saturating_add(bytes);
        self.skipped = self.skipped.saturating_add(bytes);
    }

    fn work_on(&mut self, name: &str, now: Instant) {
        self.name = printable(name);
        self.tick(now);
    }

    fn advance(&mut self, bytes: u64, now: Instant) {
        self.done = self.done.saturating_add(bytes);
        self.tick(now);
    }

    fn done_with(&mut self, name: &str, now: Instant) {
        if self.log {
            self.name = printable(name);
            self.write(now);
        }
    }

    fn tick(&mut self, now: Instant) {
        let interval = if self.log { LOG_INTERVAL } else { INTERVAL };
        if now.saturating_duration_since(self.last) >= interval {
            self.write(now);
        }
    }

    fn write(&mut self, now: Instant) {
        self.last = now;
        let done = self.done.min(self.total);
        let percent = (u128::from(done) * 100).checked_div(u128::from(self.total)).unwrap_or(100);
        // Nobody can be told that standard error is gone.
        drop(if self.log {
            let (share, speed) = (format!("{} of {}", bytes(done), bytes(self.total)), self.rate.speed(now));
            let left = self.left(now).map_or(String::new(), |left| format!(", {} left", duration(left)));
            writeln!(self.out, "{percent:3}%  {share}, {speed}{left}  {}", self.name)
        } else {
            writeln!(self.out, "{percent:3}% {}", self.name)
        });
    }

    /// The time left at the speed so far.
    fn left(&self, now: Instant) -> Option<Duration> {
        let taken = now.saturating_duration_since(self.rate.start).as_secs_f64();
        let done = self.done.saturating_sub(self.skipped) as f64;
        let left = self.total.saturating_sub(self.done) as f64;
        (done > 0.0).then(|| Duration::try_from_secs_f64(taken * left / done).ok()).flatten()
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
        let mut lines = Lines::new(Vec::new(), 2048, false, start);
        lines.work_on("a", at(10));
        lines.advance(512, at(999));
        lines.advance(512, at(1000));
        lines.done_with("a", at(1400));
        lines.work_on("b\x1b", at(1500));
        lines.advance(4096, at(2000));
        lines.finish();
        let text = String::from_utf8(lines.out).unwrap();
        assert_eq!(text, " 50% a\n100% b\\u{1b}\n100% 2.00 KiB\n");
    }

    #[test]
    fn a_line_a_tensor() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut lines = Lines::new(Vec::new(), 4096, true, start);
        lines.skip(1024);
        lines.work_on("a", at(10));
        lines.rate.weights = 3_000_000;
        lines.advance(1024, at(1999));
        lines.done_with("a", at(2000));
        lines.advance(1024, at(61_000));
        lines.advance(512, at(62_000));
        lines.finish();
        let text = String::from_utf8(lines.out).unwrap();
        let first = " 50%  2.00 KiB of 4.00 KiB, 1.5 Mweights/s, 4.0 s left  a\n";
        let sign_of_life = " 87%  3.50 KiB of 4.00 KiB, 48.4 kweights/s, 12.4 s left  a\n";
        assert_eq!(text, format!("{first}{sign_of_life}100% 4.00 KiB\n"));
    }

    #[test]
    fn nothing_to_do_is_done() {
        let start = Instant::now();
        let mut lines = Lines::new(Vec::new(), 0, false, start);
        lines.work_on("a", start + INTERVAL);
        assert_eq!(String::from_utf8(lines.out).unwrap(), "100% a\n");
    }

    #[test]
    fn templates_are_valid() {
        for columns in [1, 40, 60, 80, 100, 200] {
            for log in [false, true] {
                ProgressStyle::with_template(layout(columns, log).0).unwrap();
            }
        }
    }

    #[test]
    fn threads_report_together() {
        fn shared<T: Send + Sync>(_: &T) {}
        let progress = Progress::hidden();
        shared(&progress);
        progress.work_on("a");
        progress.advance(1);
        progress.weights(1);
        progress.done("a");
        progress.finish();
    }
}
