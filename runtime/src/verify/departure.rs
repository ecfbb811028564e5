//! A run against a recorded one, pass by pass while it goes: the first thing that differs, and what the logits of that
//! pass say of it.

use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};

use crate::generate::{Algorithm, Evidence, Pass, Trace};
use crate::sample::{argmax, softmax};
use crate::session::{Attention, Store};

/// What the probability of a recorded row may differ by.
const PROBABILITY_LIMIT: f64 = 1e-4;

/// What is known of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Recording {
    /// The passes in order, where they were recorded.
    pub forwards: Option<Vec<Forward>>,
    /// `(pass, position, token)`: what changed after each pass, where it was recorded.
    pub accepted: Option<Vec<(usize, usize, u32)>>,
    /// For each pass the best token of every fed row and its probability among the raw logits, where it was recorded.
    pub rows: Option<Vec<(Vec<u32>, Vec<f64>)>>,
    /// The whole sequence at the end, prompt included.
    pub output: Vec<u32>,
}

/// One recorded pass; keys that an algorithm does not record are absent.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Forward {
    q_len: usize,
    past_len: usize,
    store_kv: Option<bool>,
    block_cache: Option<BlockCache>,
    mode: Option<Mode>,
    batch: Option<u32>,
}

/// What a pass does with the block cache of Fast-dLLM v2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum BlockCache {
    Fill,
    Reuse,
}

/// What a pass does with a dual cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Mode {
    Replace,
}

/// The first thing in which a run departs from its recording.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Departure {
    /// The pass, counted from 0.
    pub pass: usize,
    /// The row of that pass, counted from the first token fed, where one can be named.
    pub row: Option<usize>,
    /// What differs, in words.
    pub what: String,
    /// What the recording has there.
    pub recorded: Option<Candidate>,
    /// What this run has there.
    pub found: Option<Candidate>,
}

/// A token for a position.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Candidate {
    /// The position in the sequence.
    pub position: usize,
    /// The token.
    pub token: u32,
    /// Its probability by the raw logits of this run, where the row was asked for.
    pub probability: Option<f64>,
    /// Its probability in the recording, where there is one.
    pub recorded_probability: Option<f64>,
}

impl Departure {
    /// A run that could not even begin.
    pub(super) fn at_the_start(what: String) -> Departure {
        Departure { pass: 0, row: None, what, recorded: None, found: None }
    }
}

impl Forward {
    /// A pass as a recording of its family writes it: where attention goes by blocks, the cached positions are those
    /// before the block.
    fn of(pass: &Pass, attention: Attention) -> Forward {
        let (fed, replaces) = (pass.fed, pass.replaces());
        match attention {
            Attention::BlockCausal(block) => Forward {
                q_len: fed,
                past_len: pass.cached.min(pass.start / block * block),
                store_kv: Some(pass.store == Store::Keep),
                block_cache: match pass.store {
                    Store::Draft(_) if replaces => Some(BlockCache::Reuse),
                    Store::Draft(_) => Some(BlockCache::Fill),
                    Store::Keep | Store::Discard => None,
                },
                mode: None,
                batch: None,
            },
            Attention::Full => Forward {
                q_len: fed,
                past_len: pass.cached,
                store_kv: None,
                block_cache: None,
                mode: replaces.then_some(Mode::Replace),
                batch: pass.guided.then_some(2),
            },
        }
    }

    /// Whether the other is the same in what this one, a recorded one, knows.
    fn is(&self, other: &Forward) -> bool {
        *self == Forward { store_kv: self.store_kv.and(other.store_kv), ..other.clone() }
    }
}

impl std::fmt::Display for Forward {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "feeds {} rows over {} cached", self.q_len, self.past_len)?;
        match self.store_kv {
            Some(true) => f.write_str(" and keeps them")?,
            Some(false) => f.write_str(" and keeps nothing")?,
            None => {}
        }
        match (self.block_cache, self.mode) {
            (Some(BlockCache::Fill), _) => f.write_str(", filling the block cache")?,
            (Some(BlockCache::Reuse), _) => f.write_str(", reusing the block cache")?,
            (None, Some(Mode::Replace)) => f.write_str(", replacing cached rows")?,
            (None, None) => {}
        }
        if self.batch == Some(2) { f.write_str(", twice") } else { Ok(()) }
    }
}

/// Compares a run with a recording, as its observer.
pub struct Comparison<'a> {
    recording: &'a Recording,
    attention: Attention,
    ends: &'a [u32],
    /// Set at the first difference.
    pub departure: Option<Departure>,
}

impl<'a> Comparison<'a> {
    /// A comparison that has seen nothing yet.
    #[must_use]
    pub fn new(recording: &'a Recording, algorithm: &'a Algorithm) -> Self {
        Self { recording, attention: algorithm.attention(), ends: algorithm.end_ids(), departure: None }
    }

    /// Sees a pass; ends the run at the first difference.
    pub fn see(&mut self, trace: &Trace, evidence: &Evidence<'_>) -> ControlFlow<()> {
        if self.departure.is_none() {
            self.departure = self.pass(trace, evidence);
        }
        if self.departure.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// The verdict on a run that came to its end.
    #[must_use]
    pub fn finish(self, trace: &Trace) -> Option<Departure> {
        let (ours, passes) = (&trace.tokens, trace.passes.len());
        let pass = passes.saturating_sub(1);
        let plain = |what: String| Departure { pass, row: None, what, recorded: None, found: None };
        let fewer = self.recording.forwards.as_ref().map(Vec::len).filter(|&want| want != passes);
        let fewer = || fewer.map(|want| plain(format!("it is the last of {passes}, recorded were {want}")));
        let output = || {
            let theirs = &self.recording.output;
            let at = ours.iter().zip(theirs).take_while(|(a, b)| a == b).count();
            let (us, them) = (ours.len(), theirs.len());
            let what = format!("the output of {us} tokens, recorded with {them}, differs from position {at} on");
            let candidate = |tokens: &[u32]| {
                let token = *tokens.get(at)?;
                Some(Candidate { position: at, token, probability: None, recorded_probability: None })
            };
            (*ours != *theirs).then(|| Departure { recorded: candidate(theirs), found: candidate(ours), ..plain(what) })
        };
        self.departure.or_else(fewer).or_else(output)
    }

    fn pass(&self, trace: &Trace, evidence: &Evidence<'_>) -> Option<Departure> {
        let pass = trace.passes.len() - 1;
        let plain = |what: String| Some(Departure { pass, row: None, what, recorded: None, found: None });
        if let Some(forwards) = &self.recording.forwards {
            let got = Forward::of(&trace.passes[pass], self.attention);
            match forwards.get(pass) {
                None => return plain(format!("there are only {} passes in the recording", forwards.len())),
                Some(want) if !want.is(&got) => return plain(format!("it {got}, not: {want}")),
                Some(_) => {}
            }
        }
        if let Some(rows) = self.recording.rows.as_ref().and_then(|rows| rows.get(pass)) {
            let departure = row_departure(pass, rows, evidence);
            if departure.is_some() {
                return departure;
            }
        }
        let latest: Vec<(usize, u32)> = trace.latest().iter().map(|a| (a.position, a.token)).collect();
        match &self.recording.accepted {
            Some(all) => {
                let want: Vec<(usize, u32)> = all.iter().filter(|a| a.0 == pass).map(|a| (a.1, a.2)).collect();
                acceptance_departure(pass, &latest, &want, evidence)
            }
            None => {
                // What lies behind the end may have been written over since.
                let new = &self.recording.output[trace.prompt.min(self.recording.output.len())..];
                let end = new.iter().position(|id| self.ends.contains(id)).map_or(usize::MAX, |at| trace.prompt + at);
                let other = |&(position, token): &(usize, u32)| {
                    let recorded = *self.recording.output.get(position).filter(|_| position <= end)?;
                    (recorded != token).then_some((position, recorded))
                };
                let want = latest.iter().find_map(other)?;
                acceptance_departure(pass, &latest, &[want], evidence)
            }
        }
    }
}

/// The first row whose best token or its probability is not the recorded one.
fn row_departure(pass: usize, rows: &(Vec<u32>, Vec<f64>), evidence: &Evidence<'_>) -> Option<Departure> {
    let (tokens, probabilities) = rows;
    if evidence.rows.len() != tokens.len() || tokens.len() != probabilities.len() {
        let what = format!("{} rows, recorded with {}", evidence.rows.len(), tokens.len());
        return Some(Departure { pass, row: None, what, recorded: None, found: None });
    }
    (0..tokens.len()).find_map(|row| {
        let distribution = evidence.distribution(row as u32)?;
        let best = argmax(&distribution);
        let (token, probability) = (tokens[row], probabilities[row]);
        let same = best as u32 == token && (distribution[best] - probability).abs() <= PROBABILITY_LIMIT;
        let candidate = |token: u32, recorded_probability| Candidate {
            position: evidence.start + row,
            token,
            probability: distribution.get(token as usize).copied(),
            recorded_probability,
        };
        (!same).then(|| Departure {
            pass,
            row: Some(row),
            what: format!("token {best} with {}, not {token} with {probability}", distribution[best]),
            recorded: Some(candidate(token, Some(probability))),
            found: Some(candidate(best as u32, None)),
        })
    })
}

/// The first position that only one of the two accepts, or with another token.
fn acceptance_departure(
    pass: usize,
    ours: &[(usize, u32)],
    theirs: &[(usize, u32)],
    evidence: &Evidence<'_>,
) -> Option<Departure> {
    let only = |a: &[(usize, u32)], b: &[(usize, u32)]| a.iter().find(|x| !b.contains(x)).copied();
    let (found, recorded) = (only(ours, theirs), only(theirs, ours));
    let candidate = |(position, token): (usize, u32)| {
        let row = evidence.row_of(position);
        let probability = row.and_then(|row| evidence.distribution(row)?.get(token as usize).copied());
        Candidate { position, token, probability, recorded_probability: None }
    };
    let position = recorded.or(found)?.0;
    Some(Departure {
        pass,
        row: evidence.row_of(position).map(|row| row as usize),
        what: format!("it accepts (position, token) {ours:?}, not {theirs:?}"),
        recorded: recorded.map(candidate),
        found: found.map(candidate),
    })
}

impl Evidence<'_> {
    /// The distribution of the raw logits of a row, where it was asked for.
    fn distribution(&self, row: u32) -> Option<Vec<f64>> {
        let at = self.rows.binary_search(&row).ok()?;
        let width = self.logits.len() / self.rows.len();
        Some(softmax(&self.logits[at * width..(at + 1) * width]))
    }
}

impl std::fmt::Display for Departure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "pass {}", self.pass)?;
        if let Some(row) = self.row {
            write!(f, ", row {row}")?;
        }
        write!(f, ": {}", self.what)
    }
}

impl std::fmt::Display for Candidate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "token {} at position {}", self.token, self.position)?;
        match self.probability {
            Some(p) => write!(f, ", probability {p:.6} here")?,
            None => f.write_str(", decided in another pass")?,
        }
        self.recorded_probability.map_or(Ok(()), |p| write!(f, ", {p:.6} in the recording"))
    }
}
