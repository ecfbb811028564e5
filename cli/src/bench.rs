//! Timing steps of artifacts, side by side.
//!
//! All subjects are loaded before the first run and take turns, so that a machine that slows down slows them alike; each
//! is first as often as any other, since the first of a round finds the caches of the processor colder. What is timed is a pass of the session: mask, step of the engine, logits of the wanted rows.

use std::time::{Duration, Instant};

use diffulex_runtime::session::{Attention, Session, Store};

use crate::Error;
use crate::subject::{EngineChoice, Opened};

/// Passes before the first that counts.
const WARM_UP: usize = 2;

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Pass {
    /// Tokens that are fed.
    pub tokens: usize,
    /// Cached positions that they see.
    pub cached: usize,
}

/// One artifact and its times.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Timing {
    /// Its name.
    pub name: String,
    /// The engine that ran it.
    pub engine: String,
    /// What was timed.
    pub pass: Pass,
    /// Rows that got logits.
    pub rows: usize,
    /// Milliseconds, ascending.
    pub milliseconds: Vec<f64>,
}

impl Timing {
    /// The middle one.
    pub fn median(&self) -> f64 {
        self.milliseconds.get(self.milliseconds.len() / 2).copied().unwrap_or(f64::NAN)
    }
}

/// An artifact with its engine, ready to be timed.
pub struct Loaded {
    /// Its name.
    pub name: String,
    /// What it took to load it.
    pub load: Duration,
    session: Session,
}

impl Loaded {
    /// Loads an artifact or a checkpoint; `name` is what it is called in the result.
    ///
    /// # Errors
    /// When the engine cannot be made.
    pub fn new(name: String, opened: &Opened, engine: &EngineChoice) -> Result<Loaded, Error> {
        let started = Instant::now();
        let session = Session::new(opened.engine(engine)?, Attention::Full)?;
        Ok(Loaded { name, load: started.elapsed(), session })
    }

    /// As much of `pass` as it was built for.
    fn fit(&self, pass: Pass) -> Pass {
        let shape = self.session.shape();
        Pass { tokens: pass.tokens.min(shape.max_tokens), cached: pass.cached.min(shape.max_cache) }
    }

    /// Fills the cache.
    fn prepare(&mut self, pass: Pass) -> Result<(), Error> {
        self.session.clear();
        while self.session.cached() < pass.cached {
            let from = self.session.cached();
            let count = (pass.cached - from).min(self.session.shape().max_tokens);
            self.session.pass(&self.tokens(from, count), from, &[], Store::Keep)?;
        }
        Ok(())
    }

    fn run(&mut self, pass: Pass, rows: &[u32]) -> Result<Duration, Error> {
        let tokens = self.tokens(pass.cached, pass.tokens);
        let started = Instant::now();
        self.session.pass(&tokens, pass.cached, rows, Store::Discard)?;
        Ok(started.elapsed())
    }

    /// Ids that differ from place to place.
    fn tokens(&self, from: usize, count: usize) -> Vec<u32> {
        let vocab = self.session.shape().vocab.max(1);
        (from..from + count).map(|position| (position * 7919 % vocab) as u32).collect()
    }
}

/// Times `runs` passes of each subject in turn, with logits of `rows` rows, or of all. A pass is cut to what every subject
/// was built for.
///
/// # Errors
/// When a pass cannot be run.
pub fn time(
    subjects: &mut [Loaded],
    pass: Pass,
    rows: Option<usize>,
    runs: usize,
    done: &mut dyn FnMut(),
) -> Result<Vec<Timing>, Error> {
    let pass = subjects.iter().fold(pass, |pass, subject| subject.fit(pass));
    let rows: Vec<u32> = (0..rows.unwrap_or(pass.tokens).min(pass.tokens) as u32).collect();
    for subject in subjects.iter_mut() {
        subject.prepare(pass)?;
    }
    let mut times = vec![Vec::new(); subjects.len()];
    for run in 0..WARM_UP + runs {
        for turn in 0..subjects.len() {
            let i = (run + turn) % subjects.len();
            let took = subjects[i].run(pass, &rows)?;
            if run >= WARM_UP {
                times[i].push(took.as_secs_f64() * 1e3);
            }
            done();
        }
    }
    let timing = |(subject, mut milliseconds): (&Loaded, Vec<f64>)| {
        milliseconds.sort_by(f64::total_cmp);
        let engine = subject.session.engine().to_string();
        Timing { name: subject.name.clone(), engine, pass, rows: rows.len(), milliseconds }
    };
    Ok(subjects.iter().zip(times).map(timing).collect())
}

/// Passes that [`time`] makes of each subject.
pub fn passes(runs: usize) -> usize {
    WARM_UP + runs
}
