//! The report as text: the model in a few lines, then one line for each kind of weight.

use std::collections::BTreeMap;
use std::fmt::Write;

use diffulex_compiler::ir::Encoding;
use diffulex_compiler::quant::Cost;
use indicatif::HumanBytes;

use super::{Report, Reported, Verification};

/// Weights that differ only in their layer.
pub(super) struct Kind<'a> {
    /// `layers.*.mlp.down_proj`, or the name of the one weight.
    pub(super) name: String,
    /// How they are stored.
    pub(super) encoding: Encoding,
    /// They themselves, by layer.
    pub(super) weights: Vec<&'a Cost>,
}

/// The report of one artifact.
pub fn summary(subject: &Reported) -> String {
    let mut text = String::new();
    if let Some(report) = &subject.report {
        let file = subject.manifest.artifact_bytes();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "size       {}, {:.2} bits a weight\n", HumanBytes(file), report.bits_per_weight());
        text.push_str(&weights(report));
    }
    match &subject.verification {
        Some(verification) => text.push_str(&verified(verification)),
        None => text.push_str("\nnot verified since it was built\n"),
    }
    text
}

/// The weights of a report, a line for those that differ only in their layer.
pub fn weights(report: &Report) -> String {
    table(&kinds(&report.weights))
}

/// Groups weights by name without the layer, and by encoding, in the order of the file.
pub(super) fn kinds(weights: &[Cost]) -> Vec<Kind<'_>> {
    let mut kinds: Vec<Kind<'_>> = Vec::new();
    let mut known: BTreeMap<(String, Encoding), usize> = BTreeMap::new();
    for weight in weights {
        let name = match layer(&weight.name) {
            Some((_, local)) => format!("layers.*.{local}"),
            None => weight.name.clone(),
        };
        let at = *known.entry((name.clone(), weight.encoding)).or_insert(kinds.len());
        if at == kinds.len() {
            kinds.push(Kind { name, encoding: weight.encoding, weights: vec![] });
        }
        kinds[at].weights.push(weight);
    }
    kinds
}

/// `layers.3.mlp.up_proj` → `(3, "mlp.up_proj")`.
pub(super) fn layer(name: &str) -> Option<(u32, &str)> {
    let (layer, local) = name.strip_prefix("layers.")?.split_once('.')?;
    Some((layer.parse().ok()?, local))
}

/// `31.2 dB`, or what stands for no error at all.
pub(super) fn decibels(sqnr: Option<f64>) -> String {
    sqnr.map_or("exact".into(), |sqnr| format!("{sqnr:.1} dB"))
}

fn table(kinds: &[Kind<'_>]) -> String {
    let mut rows = vec![["weight", "count", "encoding", "bytes", "SQNR least", "worst error"].map(String::from)];
    for kind in kinds {
        let least = kind.weights.iter().filter_map(|w| w.sqnr).reduce(f64::min);
        let worst = kind.weights.iter().map(|w| w.worst).fold(0.0, f32::max);
        rows.push([
            kind.name.clone(),
            kind.weights.len().to_string(),
            kind.encoding.to_string(),
            HumanBytes(kind.weights.iter().map(|w| w.bytes).sum()).to_string(),
            decibels(least),
            if worst == 0.0 { String::new() } else { format!("{worst:.1e}") },
        ]);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..6).map(width).collect();
    let line = |row: &[String; 6]| {
        let [a, b, c, d, e, f] = [0, 1, 2, 3, 4, 5].map(|i| widths[i]);
        let [name, count, encoding, bytes, sqnr, worst] = row;
        let line = format!("{name:a$}  {count:>b$}  {encoding:c$}  {bytes:>d$}  {sqnr:>e$}  {worst:>f$}");
        line.trim_end().to_string() + "\n"
    };
    rows.iter().map(line).collect()
}

fn verified(verification: &Verification) -> String {
    let Verification { engine, checks, failed, distance, .. } = verification;
    let verdict = match failed {
        0 => format!("verified with {engine}: {checks} checks passed"),
        failed => format!("not verified with {engine}: {failed} of {checks} checks failed"),
    };
    let distance = distance.map_or(String::new(), |d| {
        format!(
            "\nagainst the checkpoint as it is, {} rows of prompts and masked blocks: KL {:.1e}, same best token {:.1}%, \
             largest error {:.1}% of the largest logit",
            d.rows,
            d.kl,
            d.top1 * 100.0,
            d.worst * 100.0
        )
    });
    format!("\n{verdict}{distance}\n")
}
