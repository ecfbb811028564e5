//! What a build took how long: noted while it goes on, and drawn as a page that needs nothing else.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::html::{STYLE, escaped};
use crate::build::Event;

/// Width of the timeline, in pixels.
const WIDTH: f64 = 1100.0;
/// Height of a row.
const ROW: usize = 26;
/// Room for names at its left.
const NAMES: usize = 250;
/// Rows of the table of what took longest.
const LONGEST: usize = 40;

/// What a stretch of time was spent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// Looking at the checkpoint, a pass, or another stage of the module.
    Stage,
    /// Running the model over texts.
    Calibration,
    /// Making and writing a weight.
    Weight,
    /// All other files, and putting the folder in its place.
    Files,
}

impl Kind {
    const ALL: [Kind; 4] = [Kind::Stage, Kind::Calibration, Kind::Weight, Kind::Files];

    fn name(self) -> &'static str {
        match self {
            Kind::Stage => "passes",
            Kind::Calibration => "calibration",
            Kind::Weight => "weights",
            Kind::Files => "other files",
        }
    }

    fn color(self) -> &'static str {
        match self {
            Kind::Stage => "#7b5ea7",
            Kind::Calibration => "#c2571a",
            Kind::Weight => "#2a7f9e",
            Kind::Files => "#8a8a8a",
        }
    }
}

/// A stretch of time of one build, in seconds since the first began.
#[derive(Clone, Debug, PartialEq)]
struct Span {
    build: String,
    kind: Kind,
    name: String,
    start: f64,
    end: f64,
}

/// Takes the times of several builds.
#[derive(Debug)]
pub struct Timings {
    began: Instant,
    spans: Mutex<Vec<Span>>,
}

impl Default for Timings {
    fn default() -> Timings {
        Timings { began: Instant::now(), spans: Mutex::default() }
    }
}

/// Takes the times of one build: each stretch ends where something is told, and the next begins.
#[derive(Debug)]
pub struct Clock<'a> {
    timings: &'a Timings,
    build: String,
    last: f64,
}

impl Timings {
    /// Begins to take the times of a build.
    pub fn clock(&self, build: &str) -> Clock<'_> {
        Clock { timings: self, build: build.into(), last: self.began.elapsed().as_secs_f64() }
    }

    /// The page.
    pub fn page(&self) -> String {
        let spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = write_page(&mut out, &spans);
        out
    }
}

impl Clock<'_> {
    /// Notes what an event ends.
    pub fn see(&mut self, event: &Event<'_>) {
        match event {
            Event::Stage { name, .. } => self.note(Kind::Stage, name),
            Event::Calibrating { pass, passes } if pass == passes => self.note(Kind::Calibration, "calibration"),
            Event::Weight { name, before: true } => self.note(Kind::Weight, &format!("{name}, written before")),
            Event::Weight { name, before: false } => self.note(Kind::Weight, name),
            _ => {}
        }
    }

    /// Notes that the build ended.
    pub fn stop(mut self) {
        self.note(Kind::Files, "other files");
    }

    fn note(&mut self, kind: Kind, name: &str) {
        let now = self.timings.began.elapsed().as_secs_f64();
        let start = std::mem::replace(&mut self.last, now);
        let span = Span { build: self.build.clone(), kind, name: name.into(), start, end: now };
        self.timings.spans.lock().unwrap_or_else(PoisonError::into_inner).push(span);
    }
}

fn write_page(out: &mut String, spans: &[Span]) -> std::fmt::Result {
    writeln!(out, "<!DOCTYPE html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>Build times</title>")?;
    writeln!(out, "<style>{STYLE}rect:hover{{stroke:#000}}</style>\n<h1>What took how long</h1>")?;
    let mut builds: BTreeMap<&str, Vec<&Span>> = BTreeMap::new();
    for span in spans {
        builds.entry(&span.build).or_default().push(span);
    }
    let end = spans.iter().map(|span| span.end).fold(0.0, f64::max);
    writeln!(out, "<p>{} builds in {end:.2} s. Point at a stretch to see what it is.</p>", builds.len())?;
    write_legend(out)?;
    let mut rows: Vec<(&str, Vec<&Span>)> = builds.into_iter().collect();
    rows.sort_by(|a, b| start(&a.1).total_cmp(&start(&b.1)));
    write_timeline(out, &rows, end)?;
    write_sums(out, &rows)?;
    write_longest(out, spans)?;
    writeln!(out, "</html>")
}

fn start(spans: &[&Span]) -> f64 {
    spans.iter().map(|span| span.start).fold(f64::INFINITY, f64::min)
}

fn write_legend(out: &mut String) -> std::fmt::Result {
    let entry = |kind: Kind| format!("<span style=\"color:{}\">■</span> {}", kind.color(), kind.name());
    writeln!(out, "<p>{}</p>", Kind::ALL.map(entry).join(" &nbsp; "))
}

/// One row a build, time from left to right.
fn write_timeline(out: &mut String, rows: &[(&str, Vec<&Span>)], end: f64) -> std::fmt::Result {
    let (scale, height) = (WIDTH / end.max(1e-9), (rows.len() + 1) * ROW);
    let width = NAMES as f64 + WIDTH + 10.0;
    writeln!(out, "<svg viewBox=\"0 0 {width} {height}\" width=\"{width}\" role=\"img\">")?;
    for tenth in 0..=10 {
        let x = NAMES as f64 + WIDTH * f64::from(tenth) / 10.0;
        writeln!(out, "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"0\" y2=\"{}\" stroke=\"#ddd\"/>", height - ROW)?;
        let at = end * f64::from(tenth) / 10.0;
        writeln!(out, "<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\" fill=\"#666\">{at:.2} s</text>", height - 8)?;
    }
    for (row, (build, spans)) in rows.iter().enumerate() {
        let y = row * ROW;
        writeln!(out, "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>", NAMES - 8, y + 17, escaped(build))?;
        for Span { kind, name, start, end, .. } in spans {
            let (x, wide) = (NAMES as f64 + start * scale, ((end - start) * scale).max(0.2));
            let (color, seconds) = (kind.color(), end - start);
            writeln!(
                out,
                "<rect x=\"{x:.2}\" y=\"{}\" width=\"{wide:.2}\" height=\"{}\" fill=\"{color}\"><title>{}: {seconds:.4} s, \
                 from {start:.3} s on</title></rect>",
                y + 4,
                ROW - 8,
                escaped(name)
            )?;
        }
    }
    writeln!(out, "</svg>")
}

/// What each build spent its time on.
fn write_sums(out: &mut String, rows: &[(&str, Vec<&Span>)]) -> std::fmt::Result {
    let heads = Kind::ALL.map(|kind| format!("<th>{}</th>", kind.name())).concat();
    writeln!(out, "<table><tr><th>build</th>{heads}<th>in all</th></tr>")?;
    for (build, spans) in rows {
        let sum = |kind: Option<Kind>| -> f64 {
            let spans = spans.iter().filter(|span| kind.is_none_or(|kind| kind == span.kind));
            spans.map(|span| span.end - span.start).sum()
        };
        let cells = Kind::ALL.map(|kind| format!("<td>{:.3} s</td>", sum(Some(kind)))).concat();
        writeln!(out, "<tr><td>{}</td>{cells}<td>{:.3} s</td></tr>", escaped(build), sum(None))?;
    }
    writeln!(out, "</table>")
}

fn write_longest(out: &mut String, spans: &[Span]) -> std::fmt::Result {
    let mut longest: Vec<&Span> = spans.iter().collect();
    longest.sort_by(|a, b| (b.end - b.start).total_cmp(&(a.end - a.start)));
    writeln!(out, "<h2>What took longest</h2>\n<table><tr><th>what</th><th>build</th><th>time</th></tr>")?;
    for Span { build, name, start, end, .. } in longest.into_iter().take(LONGEST) {
        let (name, build) = (escaped(name), escaped(build));
        writeln!(out, "<tr><td>{name}</td><td>{build}</td><td>{:.4} s</td></tr>", end - start)?;
    }
    writeln!(out, "</table>")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(build: &str, kind: Kind, name: &str, start: f64, end: f64) -> Span {
        Span { build: build.into(), kind, name: name.into(), start, end }
    }

    #[test]
    fn the_page_has_every_stretch() {
        let spans = [
            span("b", Kind::Stage, "import", 0.5, 1.0),
            span("a", Kind::Weight, "x < \"y\"", 0.0, 1.5),
            span("b", Kind::Files, "other files", 1.0, 2.0),
        ];
        let mut page = String::new();
        write_page(&mut page, &spans).unwrap();
        assert!(page.contains("2 builds in 2.00 s") && page.contains("x &lt; &quot;y&quot;: 1.5000 s"), "{page}");
        assert_eq!(page.matches("<rect").count(), 3);
        // The build that began first is drawn first; the longest stretch is told first.
        assert!(page.find(">a</text>").unwrap() < page.find(">b</text>").unwrap());
        let table = &page[page.find("took longest").unwrap()..];
        assert!(table.find("x &lt;").unwrap() < table.find("other files").unwrap());
    }

    #[test]
    fn stretches_follow_each_other() {
        let timings = Timings::default();
        let mut clock = timings.clock("a");
        clock.see(&Event::Weight { name: "w", before: false });
        clock.see(&Event::Written { bytes: 1, total: 2 });
        clock.stop();
        let spans = timings.spans.lock().unwrap();
        assert_eq!(spans.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["w", "other files"]);
        assert!(spans[0].end == spans[1].start && spans[0].start <= spans[0].end);
    }
}
