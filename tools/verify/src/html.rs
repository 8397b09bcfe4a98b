//! The report as one page for a browser: no network, the same bytes for the same report.
//!
//! Template, style and script are the files in `html/`; everything from outside goes through [`escape`].

mod order;
mod plot;

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use ccq::{Output, OutputError};
use ccq_cli::{bytes, count, printable};

use crate::compare::Speed;
use crate::failure::Failure;
use crate::report::{
    EncodingReport, Report, TensorReport, bpw_text, fixed, giga, shape_text, significant, speed_texts,
};
use order::{layer, natural};
use plot::{Bar, Point};

const PAGE: &str = include_str!("html/page.html");
const STYLE: &str = include_str!("html/style.css");
const SCRIPT: &str = include_str!("html/sort.js");

/// Tensors in the table; a browser opens that many in a second or two.
const ROWS: usize = 10_000;
/// Problems listed.
const PROBLEMS: usize = 100;
/// Characters of a name or a message; its middle goes where it has more.
const LONGEST: usize = 240;
/// Colours of encodings; more of them start over.
const CLASSES: [&str; 5] = ["s0", "s1", "s2", "s3", "s4"];

/// A page to be written: its name is taken from the start, so that a long check does not end in a refusal.
#[derive(Debug)]
pub struct Page {
    output: Output,
    path: PathBuf,
}

impl Page {
    /// Takes the name. One that an input has is refused, also with `overwrite`.
    ///
    /// # Errors
    /// A [`Failure`] that names the file.
    pub fn create<'a>(
        path: &Path,
        overwrite: bool,
        inputs: impl IntoIterator<Item = &'a Path>,
    ) -> Result<Self, Failure> {
        if let Ok(page) = fs::canonicalize(path) {
            let same = |input: &&Path| fs::canonicalize(input).is_ok_and(|input| input == page);
            if inputs.into_iter().any(|input| same(&input)) {
                let path = path.display();
                return Err(Failure::runtime(format!(
                    "{path}: is an input: choose another name for the page"
                )));
            }
            if page.is_dir() {
                return Err(Failure::runtime(format!(
                    "{}: is a folder, expected a file name",
                    path.display()
                )));
            }
        }
        let output = Output::create(path, overwrite).map_err(|error| refused(&error))?;
        Ok(Self { output, path: path.into() })
    }

    /// Writes the report and gives the page its name.
    ///
    /// # Errors
    /// A [`Failure`] that names the file.
    pub fn write(self, report: &Report) -> Result<(), Failure> {
        let failed = |error| Failure::io(&self.path, &error);
        self.output.file().write_all(render(report).as_bytes()).map_err(failed)?;
        self.output.commit().map_err(|error| refused(&error))
    }
}

fn refused(error: &OutputError) -> Failure {
    match error {
        OutputError::Exists { path } => Failure::runtime(format!(
            "{}: exists: choose another name, or give --overwrite to replace it",
            path.display()
        )),
        OutputError::Io { path, source } => Failure::io(path, source),
        error => Failure::runtime(error.to_string()),
    }
}

/// The whole page.
fn render(report: &Report) -> String {
    let mut page = String::new();
    let mut parts = PAGE.split("{{");
    page.push_str(parts.next().unwrap_or_default());
    for part in parts {
        let (slot, rest) = part.split_once("}}").unwrap_or((part, ""));
        match slot {
            "file" => page.push_str(&escape(&report.file)),
            "style" => page.push_str(STYLE),
            "verdict" => page.push_str(&verdict(report)),
            "facts" => page.push_str(&facts(report)),
            "problems" => page.push_str(&problems(report)),
            "bars" => page.push_str(&bars(report)),
            "encodings" => page.push_str(&encodings(report)),
            "layers" => page.push_str(&layers(report)),
            "note" => page.push_str(&note(report)),
            "tensors" => page.push_str(&tensors(report)),
            "tool" => page.push_str(concat!("ccq-verify ", env!("CARGO_PKG_VERSION"))),
            "script" => page.push_str(SCRIPT),
            _ => debug_assert!(false, "the template has an unknown slot: {slot}"),
        }
        page.push_str(rest);
    }
    page
}

/// Text that is only text in a page: no markup, no control characters, not too long.
fn escape(text: &str) -> String {
    let text = printable(text);
    let mut escaped = String::with_capacity(text.len());
    let len = text.chars().count();
    let kept = LONGEST / 2;
    for (at, c) in text.chars().enumerate() {
        if len > LONGEST && (kept..len.saturating_sub(kept)).contains(&at) {
            if at == kept {
                escaped.push('…');
            }
            continue;
        }
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

fn verdict(report: &Report) -> String {
    let (class, text) = match report.problems.len() {
        0 if report.source.is_some() => ("good", "Valid, and as the source".into()),
        0 => ("good", "Valid".into()),
        1 => ("bad", "1 problem".into()),
        more => ("bad", format!("{} problems", count(more as u64))),
    };
    format!("<p class=\"verdict {class}\">{text}</p>")
}

/// Figures of the whole file, and what was checked.
fn facts(report: &Report) -> String {
    let total = &report.total;
    let mut facts = vec![
        ("", "Format", report.format_version.clone()),
        ("", "Tensors", count(report.tensors.len() as u64)),
        ("", "Parameters", count(total.parameters)),
        ("", "Size", bytes(total.bytes)),
        ("", "Bits a weight", bpw_text(total.bpw)),
    ];
    if report.files.len() > 1 {
        facts.push(("", "Files", count(report.files.len() as u64)));
    }
    if let Some(source) = &report.source {
        facts.push(("", "Relative MSE, quantized", significant(total.relative_mse)));
        facts.push((" class=\"wide\"", "Source", source.clone()));
    }
    if let (Some(device), Some(speed)) = (&report.device, &total.decode) {
        let [weights, stored] = speed_texts(Some(speed));
        let text = format!(
            "{weights} Gweights/s, {stored} GB/s of stored bytes read, copies to a GPU left out, on {device}"
        );
        facts.push((" class=\"wide\"", "Decoding", text));
    }
    facts.push((" class=\"wide\"", "Checked", report.findings().join("; ")));
    let mut html = String::new();
    for (class, name, value) in facts {
        let _ = writeln!(html, "<div{class}><dt>{name}</dt><dd>{}</dd></div>", escape(&value));
    }
    html
}

fn problems(report: &Report) -> String {
    if report.problems.is_empty() {
        return String::new();
    }
    let mut html =
        "<section aria-labelledby=\"problems\">\n<h2 id=\"problems\">Problems</h2>\n<ul>\n".to_string();
    for problem in report.problems.iter().take(PROBLEMS) {
        // A page has its file in its title.
        let file = if report.files.len() > 1 { format!("{}: ", problem.file) } else { String::new() };
        let _ = writeln!(html, "<li>{}{}</li>", escape(&file), escape(&problem.message));
    }
    if let Some(more @ 1..) = report.problems.len().checked_sub(PROBLEMS) {
        let _ = writeln!(html, "<li>{} more, which --json names</li>", count(more as u64));
    }
    html + "</ul>\n</section>\n"
}

/// Size, error and speed of every encoding.
fn bars(report: &Report) -> String {
    let sizes =
        report.encodings.iter().map(|encoding| (encoding, encoding.bytes as f64, bytes(encoding.bytes)));
    let errors = quantized(report).filter_map(|encoding| {
        let mse = encoding.relative_mse?;
        Some((encoding, mse, significant(Some(mse))))
    });
    let speeds = quantized(report).filter_map(|encoding| {
        let speed = encoding.decode?.weights_per_second;
        Some((encoding, speed, giga(speed)))
    });
    let charts = [
        ("size", "Size", sizes.collect::<Vec<_>>()),
        ("error", "Relative MSE", errors.collect()),
        ("speed", "Decoding, Gweights/s", speeds.collect()),
    ];
    let mut html = String::new();
    for (id, title, bars) in charts {
        let bars = bars.into_iter().map(|(EncodingReport { encoding, .. }, value, text)| {
            let class = class(report, encoding);
            Bar { label: encoding, class, value, text }
        });
        let bars: Vec<_> = bars.collect();
        if !bars.is_empty() {
            let svg = plot::bars(id, &format!("{title} by encoding"), &bars);
            let _ = write!(html, "<figure>\n<figcaption>{title}</figcaption>\n{svg}</figure>\n");
        }
    }
    html
}

fn quantized(report: &Report) -> impl Iterator<Item = &EncodingReport> {
    report.encodings.iter().filter(|encoding| encoding.encoding != "raw")
}

/// The class that colours an encoding.
fn class(report: &Report, encoding: &str) -> &'static str {
    let at = quantized(report).position(|other| other.encoding == encoding);
    at.and_then(|at| CLASSES.iter().cycle().nth(at)).unwrap_or(&"raw")
}

/// A title of a table, and whether its cells are text.
type Title = (&'static str, bool);

fn table(class: &str, titles: &[Title], rows: impl IntoIterator<Item = String>) -> String {
    let mut html = format!("<table{class}>\n<thead><tr>");
    for (title, text) in titles {
        let text = if *text { " class=\"text\"" } else { "" };
        let _ = write!(html, "<th scope=\"col\"{text}>{title}</th>");
    }
    html.push_str("</tr></thead>\n<tbody>\n");
    for row in rows {
        let _ = writeln!(html, "<tr>{row}</tr>");
    }
    html + "</tbody>\n</table>\n"
}

fn name_cell(name: &str) -> String {
    format!("<th scope=\"row\">{}</th>", escape(name))
}

fn text_cell(text: &str) -> String {
    format!("<td class=\"text\">{}</td>", escape(text))
}

/// A number, exact in `data-v`, or undefined.
fn cell(value: Option<f64>, text: &str) -> String {
    match value {
        Some(value) => format!("<td data-v=\"{value}\">{text}</td>"),
        None => format!("<td>{text}</td>"),
    }
}

/// The titles of [`speed_cells`].
const SPEEDS: [Title; 2] = [("Gweights/s", false), ("GB/s", false)];

/// How fast something was decoded, exact in weights and bytes a second.
fn speed_cells(speed: Option<&Speed>) -> String {
    let [weights, stored] = speed_texts(speed);
    cell(speed.map(|speed| speed.weights_per_second), &weights)
        + &cell(speed.map(|speed| speed.stored_bytes_per_second), &stored)
}

fn whole_cell(value: u64) -> String {
    format!("<td data-v=\"{value}\">{}</td>", count(value))
}

fn encodings(report: &Report) -> String {
    let mut titles: Vec<Title> =
        vec![("Encoding", true), ("Tensors", false), ("Parameters", false), ("Bytes", false), ("bpw", false)];
    let compared = report.source.is_some();
    titles.extend(compared.then_some(("Relative MSE", false)));
    let timed = report.total.decode.is_some();
    titles.extend(SPEEDS.into_iter().filter(|_| timed));
    let rows = report.encodings.iter().map(|encoding| {
        let EncodingReport { encoding, tensors, parameters, bytes, bpw, relative_mse, decode } = encoding;
        let mut row = name_cell(encoding);
        row.extend([tensors, parameters, bytes].map(|&value| whole_cell(value)));
        row.push_str(&cell(*bpw, &bpw_text(*bpw)));
        row.extend(compared.then(|| cell(*relative_mse, &significant(*relative_mse))));
        row.extend(timed.then(|| speed_cells(decode.as_ref())));
        row
    });
    table("", &titles, rows)
}

/// The error of every quantized tensor, in natural order of their names.
fn layers(report: &Report) -> String {
    let mut points: Vec<_> = (report.tensors.iter().filter(|tensor| tensor.encoding != "raw"))
        .filter_map(|tensor| {
            Some(Point {
                name: &tensor.name,
                class: class(report, &tensor.encoding),
                value: tensor.figures.relative_mse?,
                layer: layer(&tensor.name),
            })
        })
        .collect();
    if points.is_empty() {
        let why = match report.source {
            None => "The file was not compared with a source.",
            Some(_) => "No quantized tensor has an error.",
        };
        return format!("<p class=\"quiet\">{why}</p>\n");
    }
    points.sort_by(|a, b| natural(a.name, b.name));
    let shared = if points.len() > plot::COLUMNS {
        ". A line spans the errors of neighbours that share a place"
    } else {
        ""
    };
    let mut html = format!(
        "<figure>\n<figcaption>Relative MSE of each quantized tensor, in order of their names; the numbers below \
         are layers{shared}</figcaption>\n"
    );
    html.push_str(&plot::points("layer-error", "Relative MSE by layer", &points));
    html.push_str("<ul class=\"legend\">\n");
    for encoding in quantized(report) {
        let (class, name) = (class(report, &encoding.encoding), escape(&encoding.encoding));
        let swatch = format!(
            "<svg viewBox=\"0 0 8 8\" aria-hidden=\"true\"><rect class=\"{class}\" width=\"8\" height=\"8\"/></svg>"
        );
        let _ = writeln!(html, "<li>{swatch}{name}</li>");
    }
    html + "</ul>\n</figure>\n"
}

/// What the table leaves out.
fn note(report: &Report) -> String {
    if report.tensors.len() <= ROWS {
        return String::new();
    }
    let by = if report.source.is_some() { "largest errors" } else { "most bytes" };
    let (shown, all) = (count(ROWS as u64), count(report.tensors.len() as u64));
    format!("<p class=\"quiet\">The {shown} of {all} tensors with the {by}; --json has all of them.</p>\n")
}

fn tensors(report: &Report) -> String {
    let mut shown: Vec<_> = report.tensors.iter().collect();
    if shown.len() > ROWS {
        let rank = |tensor: &TensorReport| (tensor.figures.relative_mse.unwrap_or(-1.0), tensor.bytes);
        shown.sort_by(|a, b| {
            let (a, b) = (rank(a), rank(b));
            b.0.total_cmp(&a.0).then(b.1.cmp(&a.1))
        });
        shown.truncate(ROWS);
    }
    shown.sort_by(|a, b| natural(&a.name, &b.name));

    let compared = report.source.is_some();
    let noted = report.tensors.iter().any(|tensor| tensor.note.is_some());
    let mut titles: Vec<Title> = vec![
        ("Tensor", true),
        ("Encoding", true),
        ("Source", true),
        ("Shape", false),
        ("Bytes", false),
        ("bpw", false),
    ];
    if compared {
        titles.extend(["Relative MSE", "SNR dB", "max |error|", "Cosine"].map(|title| (title, false)));
    }
    let timed = report.total.decode.is_some();
    titles.extend(SPEEDS.into_iter().filter(|_| timed));
    titles.extend(noted.then_some(("Note", true)));
    let rows = shown.into_iter().map(|tensor| {
        let mut row = name_cell(&tensor.name) + &text_cell(&tensor.encoding) + &text_cell(tensor.dtype);
        let elements = tensor.shape.iter().map(|&dimension| dimension as f64).product();
        row.push_str(&cell(Some(elements), &escape(&shape_text(&tensor.shape))));
        row.push_str(&whole_cell(tensor.bytes));
        row.push_str(&cell(tensor.bpw, &bpw_text(tensor.bpw)));
        if compared {
            let figures = &tensor.figures;
            row.push_str(&cell(figures.relative_mse, &significant(figures.relative_mse)));
            row.push_str(&cell(figures.snr_db, &fixed(figures.snr_db, 2)));
            row.push_str(&cell(figures.max_abs_error, &significant(figures.max_abs_error)));
            row.push_str(&cell(figures.cosine, &fixed(figures.cosine, 6)));
        }
        row.extend(timed.then(|| speed_cells(tensor.decode.as_ref())));
        row.extend(noted.then(|| text_cell(tensor.note.as_deref().unwrap_or_default())));
        row
    });
    table(" class=\"sortable\"", &titles, rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::Figures;
    use crate::report::{Checksums, Total};

    fn report(tensors: usize, source: bool) -> Report {
        let tensor = |at: usize| TensorReport {
            name: format!("model.layers.{}.mlp.experts.{}.up_proj.weight", at / 500, at % 500),
            shape: vec![7168, 2048],
            encoding: ["ccq-2.06", "wint4"][at % 2].into(),
            dtype: "BF16",
            bytes: 3_786_000 + at as u64,
            bpw: Some(2.0634),
            figures: Figures {
                relative_mse: source.then_some(0.1 + 1e-7 * at as f64),
                snr_db: source.then_some(9.871_234_567),
                max_abs_error: source.then_some(0.012_345_678),
                cosine: source.then_some(0.951_234_567_8),
            },
            decode: source.then(|| Speed::of(7168 * 2048, 3_786_000, 0.001 + at as f64 * 1e-7)),
            decoded_on: source.then_some("cpu"),
            note: None,
        };
        let mut report = Report {
            file: "model.ccq".into(),
            files: Vec::new(),
            part: None,
            format_version: "1.0".into(),
            source: source.then(|| "model".into()),
            device: None,
            total: Total {
                parameters: 1,
                bytes: 1,
                bpw: None,
                relative_mse: None,
                decode: source.then(|| Speed::of(1, 1, 1.0)),
            },
            encodings: Vec::new(),
            tensors: (0..tensors).map(tensor).collect(),
            problems: Vec::new(),
            checksums: Checksums::default(),
        };
        report.encodings = EncodingReport::of(&report.tensors);
        report
    }

    #[test]
    fn the_largest_models_give_a_page_that_opens() {
        let page = render(&report(50_000, true));
        assert!(page.len() < 20_000_000, "{}", page.len());
        assert_eq!(page.matches("<th scope=\"row\">model.").count(), ROWS);
        assert!(page.contains("The 10,000 of 50,000 tensors with the largest errors"));
        assert!(page.contains("layers.99.") && !page.contains("<th scope=\"row\">model.layers.1."));
        let page = render(&report(50_000, false));
        assert!(page.contains("tensors with the most bytes") && page.contains("not compared with a source"));
        assert!(!render(&report(ROWS, true)).contains("tensors with the"));
    }

    #[test]
    fn names_are_only_text() {
        let hostile = "</script><script>alert(1)</script><img src=x onerror='a'>\"&\u{202E}{{script}}";
        let mut report = report(2, true);
        report.file = hostile.into();
        report.source = Some(hostile.into());
        report.tensors[0].name = hostile.into();
        report.tensors[0].note = Some(hostile.into());
        report.tensors[1].encoding = hostile.into();
        report.encodings = EncodingReport::of(&report.tensors);
        report.problems.push(crate::problem::Problem {
            kind: crate::problem::Kind::Mismatch,
            file: hostile.into(),
            name: None,
            message: hostile.into(),
        });
        let page = render(&report);
        assert_eq!((page.matches("<script").count(), page.matches("</script").count()), (1, 1));
        assert!(!page.contains("<img") && !page.contains('\u{202E}') && !page.contains("onerror='"));
        assert!(
            page.contains("&lt;/script&gt;&lt;script&gt;alert(1)") && page.contains("\\u{202e}{{script}}")
        );
        assert!(!page.contains("http") || page.matches("http").count() == page.matches("http-equiv").count());
    }

    #[test]
    fn long_names_lose_their_middle() {
        let name = format!("{}<b>{}", "a".repeat(500), "z".repeat(500));
        let escaped = escape(&name);
        assert_eq!(escaped.chars().count(), LONGEST + 1);
        assert!(escaped.starts_with("aaa") && escaped.ends_with("zzz") && escaped.contains('…'));
        assert_eq!(escape(&"é".repeat(LONGEST)), "é".repeat(LONGEST));
    }
}
