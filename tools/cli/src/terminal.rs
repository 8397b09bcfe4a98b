//! How wide the terminal is.

use console::Term;

/// The columns of a terminal that does not say.
const UNKNOWN: usize = 80;

/// The columns that standard output has, or `None` where nothing needs cutting: piped or redirected.
///
/// The environment variable `COLUMNS`, where it is a positive number, comes first.
pub fn stdout_width() -> Option<usize> {
    width(std::env::var("COLUMNS").ok().as_deref(), &Term::stdout())
}

/// The same for standard error.
pub(crate) fn stderr_width() -> Option<usize> {
    width(std::env::var("COLUMNS").ok().as_deref(), &Term::stderr())
}

fn width(columns: Option<&str>, terminal: &Term) -> Option<usize> {
    let asked = columns.and_then(|text| text.parse().ok()).filter(|&columns| columns > 0);
    let found = || terminal.size_checked().map_or(UNKNOWN, |(_, columns)| columns.into());
    asked.or_else(|| terminal.is_term().then(found))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_comes_first() {
        assert_eq!(width(Some("40"), &Term::stdout()), Some(40));
        for other in [Some("0"), Some("-3"), Some("wide"), Some(""), None] {
            assert_ne!(width(other, &Term::stdout()), Some(0));
        }
    }
}
