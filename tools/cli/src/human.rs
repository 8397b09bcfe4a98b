//! Numbers and names for people.

use std::time::Duration;

use unicode_width::UnicodeWidthChar;

/// `512 B`, `3.38 MiB`, `86.7 MiB`: in powers of 1024, with three digits above bytes.
pub fn bytes(bytes: u64) -> String {
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let (mut value, mut unit) = (bytes as f64 / 1024.0, "KiB");
    for larger in ["MiB", "GiB", "TiB", "PiB", "EiB"] {
        // 1023.95 would round to 1024.0.
        if value < 1023.95 {
            break;
        }
        (value, unit) = (value / 1024.0, larger);
    }
    let decimals = if value < 9.995 { 2 } else { 1 };
    format!("{value:.decimals$} {unit}")
}

/// Reads a size: `4096`, `512 MiB`, `50GB`, `1.5T`; a letter alone is a power of 1024.
///
/// # Errors
/// What is expected, for a text that is no size of at least one byte.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    const EXPECTED: &str = "expected bytes such as 4096, 512MiB, 50GB or 1.5T";
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit = unit.to_ascii_uppercase();
    let mut letters = unit.strip_suffix('B').unwrap_or(&unit).chars();
    let power = match letters.next() {
        None => Some(0),
        Some(letter) => "KMGTP".chars().zip(1..).find(|power| power.0 == letter).map(|power| power.1),
    };
    let base: f64 = match letters.as_str() {
        "I" => 1024.0,
        "" if unit.ends_with('B') => 1000.0,
        "" => 1024.0,
        _ => return Err(EXPECTED.into()),
    };
    let bytes = number.trim().parse::<f64>().ok().zip(power).map(|(number, power)| number * base.powi(power));
    match bytes {
        // Exact as f64, and far more than any disk holds.
        #[allow(clippy::cast_possible_truncation)] // to whole bytes
        Some(bytes) if (1.0..2f64.powi(60)).contains(&bytes) => Ok(bytes as u64),
        _ => Err(EXPECTED.into()),
    }
}

/// `22,713,216`
pub fn count(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (after, digit) in (0..digits.len()).rev().zip(digits.chars()) {
        text.push(digit);
        if after > 0 && after.is_multiple_of(3) {
            text.push(',');
        }
    }
    text
}

/// `85 ms`, `1.2 s`, `2 min 03 s`, `1 h 05 min`
pub fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    #[allow(clippy::cast_possible_truncation)] // rounded, and a cast of a float saturates
    let whole = seconds.round() as u64;
    if seconds < 0.9995 {
        format!("{:.0} ms", seconds * 1000.0)
    } else if seconds < 59.95 {
        format!("{seconds:.1} s")
    } else if whole < 3600 {
        format!("{} min {:02} s", whole / 60, whole % 60)
    } else {
        format!("{} h {:02} min", whole / 3600, whole % 3600 / 60)
    }
}

/// The text with control characters escaped: a name from a file cannot move the cursor or forge a line.
pub fn printable(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || is_direction_control(c) {
            escaped.extend(c.escape_unicode());
        } else {
            escaped.push(c);
        }
    }
    escaped
}

/// Characters that change the order in which others are shown.
fn is_direction_control(c: char) -> bool {
    matches!(c, '\u{061C}' | '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

/// Columns that the text takes on a terminal.
pub(crate) fn width(text: &str) -> usize {
    text.chars().map(char_width).sum()
}

/// The text in at most `room` columns, its middle replaced by `…`; the tail gets the odd column, since it is
/// where tensor names differ.
pub fn shorten(text: &str, room: usize) -> String {
    if width(text) <= room {
        return text.into();
    }
    let Some(kept) = room.checked_sub(1) else { return String::new() };
    let head = fitting(text.chars(), kept / 2);
    let tail = fitting(text.chars().rev(), kept.div_ceil(2));
    let start: String = text.chars().take(head).collect();
    let skip = text.chars().count().saturating_sub(tail);
    let end: String = text.chars().skip(skip).collect();
    format!("{start}…{end}")
}

/// How many of the characters fit into `room` columns.
fn fitting(chars: impl Iterator<Item = char>, room: usize) -> usize {
    chars
        .scan(0usize, |used, c| {
            *used = used.saturating_add(char_width(c));
            Some(*used)
        })
        .take_while(|&used| used <= room)
        .count()
}

fn char_width(c: char) -> usize {
    c.width().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_three_digits() {
        let cases: [(u64, &str); 10] = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (10 * 1024 - 1, "10.0 KiB"),
            (3_539_648, "3.38 MiB"),
            (90_868_376, "86.7 MiB"),
            (1 << 20, "1.00 MiB"),
            ((1 << 20) - 1, "1.00 MiB"),
            (5 << 30, "5.00 GiB"),
            (u64::MAX, "16.0 EiB"),
        ];
        for (value, text) in cases {
            assert_eq!(bytes(value), text, "{value}");
        }
    }

    #[test]
    fn sizes_are_read() {
        for (text, value) in [
            ("1", 1),
            ("4096", 4096),
            ("12b", 12),
            ("50GB", 50_000_000_000),
            ("50 GB", 50_000_000_000),
            ("512MiB", 512 << 20),
            ("512m", 512 << 20),
            ("1.5T", 3 << 39),
            ("0.5kib", 512),
        ] {
            assert_eq!(parse_bytes(text), Ok(value), "{text}");
        }
        for text in ["", "0", "-1", "GB", "1 x", "1GBB", "1iB", "nan", "inf", "1e30", "0.1"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn counts_have_thousands_separators() {
        for (value, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (22_713_216, "22,713,216")] {
            assert_eq!(count(value), text);
        }
        assert_eq!(count(u64::MAX), "18,446,744,073,709,551,615");
    }

    #[test]
    fn durations_keep_two_units() {
        for (millis, text) in [
            (0, "0 ms"),
            (85, "85 ms"),
            (999, "999 ms"),
            (1234, "1.2 s"),
            (59_940, "59.9 s"),
            (59_960, "1 min 00 s"),
            (123_000, "2 min 03 s"),
            (3_900_000, "1 h 05 min"),
        ] {
            assert_eq!(duration(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(printable("a\x1b[2Jb\n"), "a\\u{1b}[2Jb\\u{a}");
        assert_eq!(printable("a\u{202E}b"), "a\\u{202e}b");
        assert_eq!(printable("模型.weight"), "模型.weight");
    }

    #[test]
    fn shortening_keeps_both_ends() {
        assert_eq!(shorten("abcdefghij", 10), "abcdefghij");
        assert_eq!(shorten("abcdefghij", 6), "ab…hij");
        assert_eq!(shorten("abcdefghij", 1), "…");
        assert_eq!(shorten("abcdefghij", 0), "");
        for room in 0..12 {
            assert!(width(&shorten("模型模型模型", room)) <= room, "{room}");
        }
    }
}
