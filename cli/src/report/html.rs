//! The report as one page that needs nothing else: a table of the artifacts side by side, then for each of them a map
//! of its error, one cell a matrix, layers from left to right.

use std::collections::BTreeMap;
use std::fmt::Write;

use diffulex_compiler::quant::Cost;
use indicatif::HumanBytes;

use super::text::{Kind, decibels, kinds, layer};
use super::{Report, Reported};

/// Width of a cell of the map, in pixels.
const CELL: usize = 34;
/// Height of a row of the map.
const ROW: usize = 22;
/// Room for the names at its left.
const NAMES: usize = 250;
/// Below this many decibels a weight is as bad as can be shown, above the other as good.
const RANGE: [f64; 2] = [10.0, 50.0];

pub(super) const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:80em;padding:0 1em;color:#222}\
table{border-collapse:collapse;margin:1em 0}th,td{padding:.2em .8em;white-space:nowrap;text-align:right;border-bottom:1px solid #ddd}\
th:first-child,td:first-child{text-align:left}h2{margin-top:2em}svg{display:block;margin:1em 0;max-width:100%}\
text{font:12px system-ui,sans-serif}code{font:13px ui-monospace,monospace}summary{cursor:pointer}";

/// The page for some artifacts.
pub fn page(subjects: &[Reported]) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write_page(&mut out, subjects);
    out
}

fn write_page(out: &mut String, subjects: &[Reported]) -> std::fmt::Result {
    let names: Vec<&str> = subjects.iter().map(|s| s.manifest.name.as_str()).collect();
    let title = escaped(&names.join(", "));
    write!(out, "<!DOCTYPE html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>{title}</title>")?;
    writeln!(out, "<style>{STYLE}</style>\n<h1>What quantization costs</h1>")?;
    write_overview(out, subjects)?;
    for subject in subjects {
        writeln!(out, "<h2>{}</h2>", escaped(&subject.manifest.name))?;
        match &subject.report {
            Some(report) => write_report(out, report)?,
            None => writeln!(out, "<p>An older program built this artifact and left no report; build it again.</p>")?,
        }
    }
    writeln!(out, "</html>")
}

/// One row an artifact.
fn write_overview(out: &mut String, subjects: &[Reported]) -> std::fmt::Result {
    let heads =
        ["artifact", "file", "bits a weight", "least SQNR", "verified with", "KL", "same best token", "largest error"];
    let heads = heads.map(|head| format!("<th>{head}</th>")).concat();
    writeln!(out, "<table><tr>{heads}</tr>")?;
    for Reported { manifest, report, verification } in subjects {
        let file = manifest.artifact_bytes();
        let bits = report.as_ref().map_or(String::new(), |r| format!("{:.2}", r.bits_per_weight()));
        let least = report.as_ref().map(|r| r.weights.iter().filter_map(|w| w.sqnr).reduce(f64::min));
        let (engine, distance) = match verification {
            Some(v) if v.failed > 0 => {
                (format!("{}: {} of {} checks failed", v.engine, v.failed, v.checks), v.distance)
            }
            Some(v) => (format!("{}, {} checks", v.engine, v.checks), v.distance),
            None => ("not verified".into(), None),
        };
        let cells = [
            escaped(&manifest.name),
            HumanBytes(file).to_string(),
            bits,
            least.map_or(String::new(), decibels),
            escaped(&engine),
            distance.map_or(String::new(), |d| format!("{:.1e}", d.kl)),
            distance.map_or(String::new(), |d| format!("{:.1}%", d.top1 * 100.0)),
            distance.map_or(String::new(), |d| format!("{:.2}% of the largest logit", d.worst * 100.0)),
        ];
        writeln!(out, "<tr>{}</tr>", cells.map(|cell| format!("<td>{cell}</td>")).concat())?;
    }
    writeln!(
        out,
        "</table>\n<p>SQNR is the ratio of a weight's power to the power of its rounding error, in decibels: 6 dB are \
         one bit. KL and the share of equal best tokens compare the artifact with its checkpoint, unrounded, on prompts \
         and masked blocks.</p>"
    )
}

fn write_report(out: &mut String, report: &Report) -> std::fmt::Result {
    write_bytes(out, report)?;
    writeln!(out, "<p>One cell a matrix, layers from left to right; the number is its SQNR, gray has no error.</p>")?;
    write_map(out, &kinds(&report.weights))?;
    let count = report.weights.len();
    writeln!(out, "<details><summary>All {count} weights</summary><table>")?;
    let heads = ["weight", "encoding", "shape", "bytes", "SQNR", "worst error", "largest number"];
    writeln!(out, "<tr>{}</tr>", heads.map(|head| format!("<th>{head}</th>")).concat())?;
    for w in &report.weights {
        let shape: Vec<String> = w.shape.iter().map(u32::to_string).collect();
        let cells = [
            format!("<code>{}</code>", escaped(&w.name)),
            w.encoding.to_string(),
            shape.join(" × "),
            w.bytes.to_string(),
            decibels(w.sqnr),
            format!("{:.2e}", w.worst),
            format!("{:.2e}", w.largest),
        ];
        writeln!(out, "<tr>{}</tr>", cells.map(|cell| format!("<td>{cell}</td>")).concat())?;
    }
    writeln!(out, "</table></details>")
}

/// A bar of the bytes of each encoding.
fn write_bytes(out: &mut String, report: &Report) -> std::fmt::Result {
    let mut bytes: BTreeMap<&str, u64> = BTreeMap::new();
    report.weights.iter().for_each(|w| *bytes.entry(w.encoding.name()).or_default() += w.bytes);
    let total = bytes.values().sum::<u64>().max(1) as f64;
    let (width, mut x) = (900.0, 0.0);
    writeln!(out, "<svg width=\"{width}\" height=\"44\" viewBox=\"0 0 {width} 44\" role=\"img\">")?;
    for (i, (encoding, bytes)) in bytes.iter().enumerate() {
        let (part, hue) = (*bytes as f64 / total * width, 210 + 35 * i);
        let label = format!("{encoding}: {}", HumanBytes(*bytes));
        write!(out, "<g><title>{label}</title>")?;
        write!(out, "<rect x=\"{x:.1}\" width=\"{part:.1}\" height=\"20\" fill=\"hsl({hue},45%,60%)\"/>")?;
        if part > 7.0 * label.len() as f64 {
            write!(out, "<text x=\"{:.1}\" y=\"36\">{label}</text>", x + 2.0)?;
        }
        writeln!(out, "</g>")?;
        x += part;
    }
    writeln!(out, "</svg>")
}

/// Matrices by kind and layer, colored by their error.
fn write_map(out: &mut String, kinds: &[Kind<'_>]) -> std::fmt::Result {
    let rows: Vec<&Kind<'_>> = kinds.iter().filter(|kind| kind.weights[0].shape.len() > 1).collect();
    let layers = rows.iter().flat_map(|kind| &kind.weights).filter_map(|w| layer(&w.name)).map(|(i, _)| i as usize + 1);
    let layers = layers.max().unwrap_or(0);
    let (width, height) = (NAMES + CELL * layers.max(4), ROW * (rows.len() + 1));
    writeln!(out, "<svg width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" role=\"img\">")?;
    for i in 0..layers {
        let x = NAMES + CELL * i + CELL / 2;
        writeln!(out, "<text x=\"{x}\" y=\"15\" text-anchor=\"middle\">{i}</text>")?;
    }
    for (row, kind) in rows.iter().enumerate() {
        let y = ROW * (row + 1);
        let name = kind.name.strip_prefix("layers.*.").unwrap_or(&kind.name);
        writeln!(out, "<text x=\"0\" y=\"{}\">{} ({})</text>", y + 15, escaped(name), kind.encoding)?;
        for weight in &kind.weights {
            let (column, span) = layer(&weight.name).map_or((0, layers.max(4)), |(i, _)| (i as usize, 1));
            write_cell(out, weight, NAMES + CELL * column, y, CELL * span)?;
        }
    }
    writeln!(out, "</svg>")
}

fn write_cell(out: &mut String, weight: &Cost, x: usize, y: usize, width: usize) -> std::fmt::Result {
    let (name, sqnr) = (escaped(&weight.name), decibels(weight.sqnr));
    write!(out, "<g><title>{name}, {}: {sqnr}, worst error {:.1e}</title>", weight.encoding, weight.worst)?;
    let (w, h, color) = (width - 1, ROW - 1, color(weight.sqnr));
    write!(out, "<rect x=\"{x}\" y=\"{y}\" width=\"{w}\" height=\"{h}\" fill=\"{color}\"/>")?;
    if let Some(sqnr) = weight.sqnr {
        let (x, y) = (x + width / 2, y + 15);
        write!(out, "<text x=\"{x}\" y=\"{y}\" text-anchor=\"middle\">{sqnr:.0}</text>")?;
    }
    writeln!(out, "</g>")
}

/// Red where much is lost, over yellow to green where little is; gray where nothing is.
fn color(sqnr: Option<f64>) -> String {
    let Some(sqnr) = sqnr else { return "#e8e8e8".into() };
    let [low, high] = RANGE;
    let hue = ((sqnr - low) / (high - low)).clamp(0.0, 1.0) * 130.0;
    format!("hsl({hue:.0},65%,72%)")
}

/// Text of names, which may come from a file of a stranger.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
