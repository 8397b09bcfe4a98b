//! The page in headless Chromium.
//!
//! Needs `chromium` on the path: where `CI` is set these tests fail without it, elsewhere they say that they were
//! left out.

use std::fs::File;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::fixture::{Folder, Tensor, tensors};

/// Loads the page in a frame of the size of a screen and says what is there.
const PROBE: &str = r#"<!DOCTYPE html><meta charset="utf-8"><body style="margin:0">
<iframe width="WIDTH" height="HEIGHT" style="border:0" src="page.html"></iframe><pre id="probe"></pre><script>
addEventListener("load", () => {
  const view = document.querySelector("iframe").contentWindow, page = view.document;
  const table = page.querySelector("table.sortable"), body = table.tBodies[0];
  const column = (at) => [...body.rows].map((row) => row.cells[at].textContent);
  const click = (at) => { table.tHead.rows[0].cells[at].querySelector("button").click(); return column(at); };
  const style = (element) => view.getComputedStyle(element);
  const label = page.querySelector("svg.layers text");
  const found = {
    width: view.innerWidth,
    scrollWidth: page.documentElement.scrollWidth,
    tableWidth: table.scrollWidth, tableBox: table.parentElement.clientWidth,
    labelHeight: label.getBoundingClientRect().height,
    background: style(page.body).backgroundColor, text: style(page.body).color,
    written: column(0), byName: click(0), byNameDown: click(0), byBytes: click(4), byError: click(6), byErrorDown: click(6),
    sorted: table.tHead.rows[0].cells[6].getAttribute("aria-sort"),
    ran: view.ran ?? null,
    unlabelled: [...page.querySelectorAll("svg[role=img]")].filter((svg) => !svg.querySelector("title")?.textContent || !svg.querySelector("desc")?.textContent).length,
    drawings: page.querySelectorAll("svg[role=img]").length,
  };
  document.getElementById("probe").textContent = JSON.stringify(found);
});
</script>"#;

/// A folder with a page about a model of several encodings.
fn folder() -> Folder {
    let folder = Folder::new();
    let mut named = tensors();
    named.push(Tensor::f32("layer.3.<img src=x onerror=ran=1>", &[4, 64], None));
    folder.container("model.ccq", &named);
    folder.source("source.safetensors", &named);
    folder.run(&["model.ccq", "--source", "source.safetensors", "--html", "page.html"]).expect(0, &[]);
    folder
}

/// Chromium, where it is to be used.
fn chromium(folder: &Folder) -> Option<Command> {
    let version =
        Command::new("chromium").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !version.is_ok_and(|status| status.success()) {
        assert!(std::env::var_os("CI").is_none(), "install chromium: CI tests the page in a browser");
        eprintln!("left out: there is no `chromium` on the path (apt-get install chromium)");
        return None;
    }
    let mut command = Command::new("chromium");
    command.args([
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-dev-shm-usage",
        "--allow-file-access-from-files",
        "--virtual-time-budget=20000",
    ]);
    command.arg(format!("--user-data-dir={}", folder.path("profile").display()));
    command.stdin(Stdio::null());
    Some(command)
}

/// What the browser writes, given a minute.
fn run(folder: &Folder, mut command: Command) -> String {
    let out = File::create(folder.path("dom.html")).unwrap();
    let mut child = command.stdout(out).stderr(Stdio::null()).spawn().unwrap();
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > Duration::from_secs(60) {
            child.kill().unwrap();
            panic!("chromium did not end within a minute: {command:?}");
        }
        sleep(Duration::from_millis(20));
    }
    String::from_utf8(folder.read("dom.html")).unwrap()
}

/// What the probe found on a screen of that size; `None` where browsers are left out.
fn probe(folder: &Folder, (width, height): (u32, u32), dark: bool) -> Option<Value> {
    let mut command = chromium(folder)?;
    let probe = PROBE.replace("WIDTH", &width.to_string()).replace("HEIGHT", &height.to_string());
    folder.write("probe.html", probe.as_bytes());
    let scheme = if dark { 0 } else { 1 };
    command.arg(format!("--blink-settings=preferredColorScheme={scheme}"));
    command.args(["--dump-dom", &format!("file://{}", folder.path("probe.html").display())]);
    let dom = run(folder, command);
    let found = dom.split_once("<pre id=\"probe\">").and_then(|(_, rest)| rest.split_once("</pre>"));
    let found = found.unwrap_or_else(|| panic!("{dom}")).0;
    let found = found.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
    Some(serde_json::from_str(&found).unwrap_or_else(|error| panic!("{error} in {found:?}")))
}

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
}

fn numbers(value: &Value) -> Vec<f64> {
    let number = |text: &str| text.replace(',', "").parse().unwrap_or(f64::NAN);
    texts(value).into_iter().map(number).collect()
}

/// Relative luminance (WCAG 2) of `rgb(r, g, b)`.
fn luminance(color: &Value) -> f64 {
    let color = color.as_str().unwrap();
    let parts = color.trim_start_matches("rgb(").trim_end_matches(')').split(", ");
    let linear = |part: &str| {
        let part = part.parse::<f64>().unwrap() / 255.0;
        if part <= 0.04045 { part / 12.92 } else { ((part + 0.055) / 1.055).powf(2.4) }
    };
    parts.map(linear).zip([0.2126, 0.7152, 0.0722]).map(|(part, weight)| part * weight).sum()
}

#[test]
fn the_page_fits_its_screens() {
    let folder = folder();
    for (size, dark) in [((360, 640), false), ((360, 640), true), ((1280, 800), false), ((1280, 800), true)] {
        let Some(found) = probe(&folder, size, dark) else { return };
        let number = |key: &str| found[key].as_f64().unwrap();
        assert_eq!(found["width"], size.0, "{found}");
        assert!(number("scrollWidth") <= number("width"), "{found}");
        assert!(size.0 > 400 || number("tableWidth") > number("tableBox"), "{found}");
        assert!((8.0..24.0).contains(&number("labelHeight")), "{found}");
        let (text, background) = (luminance(&found["text"]), luminance(&found["background"]));
        assert_eq!(background < 0.1, dark, "{found}");
        let contrast = (text.max(background) + 0.05) / (text.min(background) + 0.05);
        assert!(contrast > 7.0, "{found}");
    }
}

#[test]
fn the_table_sorts() {
    let folder = folder();
    let Some(found) = probe(&folder, (1280, 800), false) else { return };
    let names = texts(&found["written"]);
    assert_eq!(names.len(), 8);
    assert_eq!(texts(&found["byName"]), names);
    assert_eq!(texts(&found["byNameDown"]), names.iter().rev().copied().collect::<Vec<_>>());
    assert!(numbers(&found["byBytes"]).is_sorted(), "{found}");
    for (key, descending) in [("byError", false), ("byErrorDown", true)] {
        let errors = numbers(&found[key]);
        let defined: Vec<_> = errors.iter().copied().filter(|error| !error.is_nan()).collect();
        assert!(defined.is_sorted_by(|a, b| if descending { a >= b } else { a <= b }), "{found}");
        assert!(errors.last().is_some_and(|error| error.is_nan()), "{found}");
    }
    assert_eq!(found["sorted"], "descending");
    assert!(found["ran"].is_null(), "{found}");
    assert_eq!((&found["unlabelled"], &found["drawings"]), (&0.into(), &4.into()), "{found}");
}
