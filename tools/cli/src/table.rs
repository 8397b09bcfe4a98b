//! Tables that fit the terminal.
//!
//! ```text
//! wide enough                        shortened                 stacked
//! tensor                  bpw        tensor        bpw         encoder.…weight
//! encoder.layer.0.weight  2.13       encoder.…ght  2.13          bpw: 2.13
//! ```

use std::io::{self, Write};

use crate::human::{printable, shorten, width};

/// Spaces between two columns.
const GAP: usize = 2;
/// A shortened column keeps at least this much.
const LEAST: usize = 16;
/// Spaces before a stacked value's key.
const INDENT: usize = 2;

/// A column: its title and how its cells are set.
#[derive(Clone, Debug)]
pub struct Column {
    title: String,
    right: bool,
    shortens: bool,
}

impl Column {
    /// Text, set to the left.
    pub fn left(title: &str) -> Self {
        Self { title: title.into(), right: false, shortens: false }
    }

    /// Numbers, set to the right.
    pub fn right(title: &str) -> Self {
        Self { title: title.into(), right: true, shortens: false }
    }

    /// Names, set to the left, that lose their middle where the table is too wide.
    pub fn name(title: &str) -> Self {
        Self { title: title.into(), right: false, shortens: true }
    }
}

/// Rows of text under titles.
#[derive(Clone, Debug)]
pub struct Table {
    columns: Vec<Column>,
    rows: Vec<Row>,
}

#[derive(Clone, Debug)]
enum Row {
    Cells(Vec<String>),
    Rule,
}

impl Table {
    /// A table without rows.
    pub fn new(columns: impl IntoIterator<Item = Column>) -> Self {
        Self { columns: columns.into_iter().collect(), rows: Vec::new() }
    }

    /// Adds a row: missing cells are empty, cells beyond the columns are dropped, control characters escaped.
    pub fn row<S: AsRef<str>>(&mut self, cells: impl IntoIterator<Item = S>) -> &mut Self {
        let mut cells: Vec<_> = cells.into_iter().map(|cell| printable(cell.as_ref())).collect();
        cells.resize(self.columns.len(), String::new());
        self.rows.push(Row::Cells(cells));
        self
    }

    /// Adds a line, such as one above totals.
    pub fn rule(&mut self) -> &mut Self {
        self.rows.push(Row::Rule);
        self
    }

    /// Whether the table is written as wide as it is, no name shortened.
    pub fn fits(&self, columns: Option<usize>) -> bool {
        columns.is_none_or(|room| self.widths(room) == self.widths(usize::MAX))
    }

    /// Writes the table in at most `columns` columns, or as wide as it is for `None`.
    ///
    /// A table that is too wide first loses the middle of its names; if that is not enough, every row becomes
    /// a block of `title: value` lines under its first cell, empty values left out.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write(&self, out: &mut impl Write, columns: Option<usize>) -> io::Result<()> {
        let room = columns.unwrap_or(usize::MAX);
        match self.widths(room) {
            Some(widths) => self.write_aligned(out, &widths),
            None => self.write_stacked(out, room),
        }
    }

    /// The widths of the columns, or `None` where they do not fit.
    fn widths(&self, room: usize) -> Option<Vec<usize>> {
        let mut widths: Vec<_> = self.columns.iter().map(|column| width(&column.title)).collect();
        for row in &self.rows {
            if let Row::Cells(cells) = row {
                widths.iter_mut().zip(cells).for_each(|(widest, cell)| *widest = width(cell).max(*widest));
            }
        }
        let gaps = widths.len().saturating_sub(1).saturating_mul(GAP);
        let total = widths.iter().fold(gaps, |total, &width| total.saturating_add(width));
        let mut excess = total.saturating_sub(room);
        for (column, width_now) in self.columns.iter().zip(&mut widths) {
            let least = LEAST.max(width(&column.title));
            if column.shortens {
                let taken = excess.min(width_now.saturating_sub(least));
                *width_now = width_now.saturating_sub(taken);
                excess = excess.saturating_sub(taken);
            }
        }
        (excess == 0).then_some(widths)
    }

    fn write_aligned(&self, out: &mut impl Write, widths: &[usize]) -> io::Result<()> {
        let titles: Vec<_> = self.columns.iter().map(|column| column.title.clone()).collect();
        self.write_cells(out, &titles, widths)?;
        for row in &self.rows {
            match row {
                Row::Cells(cells) => self.write_cells(out, cells, widths)?,
                Row::Rule => {
                    let rules: Vec<_> = widths.iter().map(|&width| "-".repeat(width)).collect();
                    self.write_cells(out, &rules, widths)?;
                }
            }
        }
        Ok(())
    }

    fn write_cells(&self, out: &mut impl Write, cells: &[String], widths: &[usize]) -> io::Result<()> {
        let mut line = String::new();
        let mut due = 0usize;
        for ((column, cell), &room) in self.columns.iter().zip(cells).zip(widths) {
            let cell = shorten(cell, room);
            let padding = room.saturating_sub(width(&cell));
            let (before, after) = if column.right { (padding, 0) } else { (0, padding) };
            due = due.saturating_add(before);
            if !cell.is_empty() {
                // Spaces are written only before text, so that no line ends in them.
                line.push_str(&" ".repeat(std::mem::take(&mut due)));
                line.push_str(&cell);
            }
            due = due.saturating_add(after).saturating_add(GAP);
        }
        writeln!(out, "{line}")
    }

    fn write_stacked(&self, out: &mut impl Write, room: usize) -> io::Result<()> {
        for row in &self.rows {
            let Row::Cells(cells) = row else {
                writeln!(out, "{}", "-".repeat(room.min(LEAST)))?;
                continue;
            };
            let mut cells = self.columns.iter().zip(cells);
            if let Some((_, first)) = cells.next() {
                writeln!(out, "{}", shorten(first, room))?;
            }
            for (column, cell) in cells.filter(|(_, cell)| !cell.is_empty()) {
                write_wrapped(out, &format!("{}: {cell}", column.title), room)?;
            }
        }
        Ok(())
    }
}

/// Writes indented text, broken at spaces; a word wider than the line loses its middle.
fn write_wrapped(out: &mut impl Write, text: &str, room: usize) -> io::Result<()> {
    let indent = INDENT.min(room / 4);
    let (mut lines, mut line) = (Vec::new(), String::new());
    let more = indent.saturating_mul(2);
    let mut room_now = room.saturating_sub(indent).max(1);
    for word in text.split(' ') {
        let word = shorten(word, room_now);
        if line.is_empty() {
            line.push_str(&word);
        } else if width(&line).saturating_add(width(&word)) < room_now {
            line.push(' ');
            line.push_str(&word);
        } else {
            // Further lines are indented once more.
            room_now = room.saturating_sub(more).max(1);
            lines.push(std::mem::replace(&mut line, shorten(&word, room_now)));
        }
    }
    lines.push(line);
    for (at, line) in lines.iter().enumerate() {
        let indent = if at == 0 { indent } else { more };
        writeln!(out, "{:indent$}{line}", "")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Table {
        let mut table = Table::new([
            Column::name("tensor"),
            Column::left("encoding"),
            Column::right("bpw"),
            Column::left("reason"),
        ]);
        table.row(["encoder.layer.0.attention.self.query.weight", "ccq-2.06", "2.13", ""]);
        table.row(["norm", "raw", "16.00", "1-D"]);
        table.rule().row(["total", "", "2.20"]);
        table
    }

    fn render(table: &Table, columns: Option<usize>) -> String {
        let mut out = Vec::new();
        table.write(&mut out, columns).unwrap();
        let text = String::from_utf8(out).unwrap();
        for line in text.lines() {
            assert_eq!(line, line.trim_end());
            assert!(width(line) <= columns.unwrap_or(usize::MAX), "{columns:?}: {line}");
        }
        text
    }

    #[test]
    fn columns_are_aligned() {
        let expected = "\
tensor                                       encoding    bpw  reason
encoder.layer.0.attention.self.query.weight  ccq-2.06   2.13
norm                                         raw       16.00  1-D
-------------------------------------------  --------  -----  ------
total                                                   2.20
";
        assert_eq!(render(&sample(), None), expected);
        assert_eq!(render(&sample(), Some(68)), expected);
    }

    #[test]
    fn names_are_shortened_first() {
        let expected = "\
tensor                 encoding    bpw  reason
encoder.la…ery.weight  ccq-2.06   2.13
norm                   raw       16.00  1-D
---------------------  --------  -----  ------
total                             2.20
";
        assert_eq!(render(&sample(), Some(46)), expected);
    }

    #[test]
    fn narrow_terminals_get_blocks() {
        let expected = "\
encoder.layer.0.at…n.self.query.weight
  encoding: ccq-2.06
  bpw: 2.13
norm
  encoding: raw
  bpw: 16.00
  reason: 1-D
----------------
total
  bpw: 2.20
";
        let text = render(&sample(), Some(38));
        assert_eq!(text, expected);
    }

    #[test]
    fn long_values_wrap_in_blocks() {
        let mut table = Table::new([Column::name("tensor"), Column::left("reason")]);
        table.row(["x", "an embedding stays raw because rows are looked up one by one"]);
        let expected = "\
x
  reason: an embedding stays raw because
    rows are looked up one by one
";
        assert_eq!(render(&table, Some(40)), expected);
    }

    #[test]
    fn every_width_fits() {
        for columns in 1..80 {
            render(&sample(), Some(columns));
        }
    }

    #[test]
    fn cells_are_made_printable_and_complete() {
        let mut table = Table::new([Column::left("a"), Column::left("b")]);
        table.row(["\x1b[31m"]).row(["1", "2", "3"]);
        assert_eq!(render(&table, None), "a           b\n\\u{1b}[31m\n1           2\n");
    }
}
