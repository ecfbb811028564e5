//! From a prompt to an answer: tokenizer, chat template, session and algorithm of one model.

mod ask;

use std::ops::ControlFlow;
use std::path::Path;

use diffulex_compiler::generation::Generation;
use diffulex_runtime::chat::{Chat, Message, TextStream, Tokenizer, Variables};
use diffulex_runtime::engine::Engine;
use diffulex_runtime::generate::{Algorithm, Behaviour, End, Evidence, Run, Trace, infill};
use diffulex_runtime::session::Session;

use crate::Error;
pub use ask::Answer;

/// A model that answers.
pub struct Model {
    session: Session,
    chat: Chat,
    generation: Generation,
    algorithm: Algorithm,
    run: Run<'static>,
}

/// An answer after one of its passes.
pub struct Progress<'a> {
    /// The text that this pass settled.
    pub piece: &'a str,
    /// What the run did so far.
    pub trace: &'a Trace,
    /// What the pass showed.
    pub evidence: &'a Evidence<'a>,
    /// The model's tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// How the model generates: mask, end tokens, block, length.
    pub generation: &'a Generation,
}

/// Sees an answer after every pass, and may end it with `Break`.
pub type Watch<'a> = dyn FnMut(&Progress<'_>) -> ControlFlow<()> + 'a;

impl Model {
    /// Joins an engine, what a host must know, and the folder of the tokenizer. The behaviour is that of an answer, or
    /// that of an original algorithm, pass by pass.
    ///
    /// # Errors
    /// When tokenizer or template are damaged, the values of generation contradict each other, or the engine cannot
    /// hold a block.
    pub fn new(
        engine: Box<dyn Engine>,
        generation: &Generation,
        behaviour: Behaviour,
        text: &Path,
    ) -> Result<Model, Error> {
        let algorithm = Algorithm::try_from(generation)?;
        let session = Session::new(engine, algorithm.attention())?;
        let (chat, run) = (Chat::open(text)?, run(generation, behaviour));
        Ok(Model { session, chat, generation: generation.clone(), algorithm, run })
    }

    /// Goes on with other values of generation. What the session holds stays, unless attention changes.
    ///
    /// # Errors
    /// When the values contradict each other or the engine cannot hold a block; nothing has changed then.
    pub fn configure(&mut self, generation: &Generation, behaviour: Behaviour) -> Result<(), Error> {
        let algorithm = Algorithm::try_from(generation)?;
        if algorithm.attention() != self.session.attention() {
            self.session.attend(algorithm.attention())?;
        }
        (self.algorithm, self.run) = (algorithm, run(generation, behaviour));
        self.generation = generation.clone();
        Ok(())
    }

    /// The values of generation.
    pub fn generation(&self) -> &Generation {
        &self.generation
    }

    /// Whether it answers, or repeats an original pass by pass.
    pub fn behaviour(&self) -> Behaviour {
        self.run.behaviour
    }

    /// The name of the engine.
    pub fn engine(&self) -> &'static str {
        self.session.engine()
    }

    /// Whether it knows how a conversation is written; base models do not.
    pub fn has_template(&self) -> bool {
        self.chat.template.is_some()
    }

    /// Forgets what the session holds of earlier answers.
    pub fn forget(&mut self) {
        self.session.clear();
    }

    /// Whether an answer ended only because the build has no more positions.
    pub fn was_cut(&self, trace: &Trace) -> bool {
        trace.end == End::Length && trace.undecided == 0 && trace.answer().len() < self.generation.max_tokens as usize
    }

    /// Positions that there is room for: see [`Algorithm::room`].
    pub fn room(&self) -> usize {
        self.algorithm.room(self.session.shape())
    }

    /// The prompt of a conversation, as text and ids.
    ///
    /// # Errors
    /// When the model has no chat template, or it refuses the conversation.
    pub fn conversation(&self, messages: &[Message]) -> Result<Vec<u32>, Error> {
        Ok(self.chat.prompt(messages, &Variables::new())?.1)
    }

    /// The ids of a text as it stands.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn text(&self, text: &str) -> Result<Vec<u32>, Error> {
        Ok(self.chat.tokenizer.encode(text)?)
    }

    /// Answers; `print` gets each piece of text as soon as it is settled, and ends the answer with `Break`. The answer
    /// is cut to what there is room for, unless an original is to be run as it is.
    ///
    /// # Errors
    /// When the prompt, or the canvas of an original, does not fit, or a pass fails.
    pub fn answer(
        &mut self,
        prompt: &[u32],
        print: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<(String, Trace), Error> {
        let mut given = 0;
        let (text, trace) = self.watch(prompt, &mut |progress| {
            given += progress.piece.len();
            print(progress.piece)
        })?;
        // The answer is over; nothing is left to end.
        let _ = print(text.get(given..).unwrap_or_default());
        Ok((text, trace))
    }

    /// The same, seen after every pass. What is left of the text after the last one, half a character at most, stands
    /// only in the result.
    ///
    /// # Errors
    /// As [`Model::answer`].
    pub fn watch(&mut self, prompt: &[u32], watch: &mut Watch<'_>) -> Result<(String, Trace), Error> {
        let mut algorithm = self.algorithm.clone();
        if self.run.behaviour == Behaviour::Answer {
            algorithm.fit(prompt.len(), self.session.shape());
        }
        self.fill(&algorithm, prompt, &[], watch)
    }

    /// Fills the gap between two texts with as many tokens as the generation asks for.
    ///
    /// # Errors
    /// When the model's attention goes by blocks, all does not fit, or a pass fails.
    pub fn infill(&mut self, prefix: &[u32], suffix: &[u32], watch: &mut Watch<'_>) -> Result<(String, Trace), Error> {
        let algorithm = self.algorithm.clone();
        self.fill(&algorithm, prefix, suffix, watch)
    }

    fn fill(
        &mut self,
        algorithm: &Algorithm,
        prefix: &[u32],
        suffix: &[u32],
        watch: &mut Watch<'_>,
    ) -> Result<(String, Trace), Error> {
        let (tokenizer, generation) = (&self.chat.tokenizer, &self.generation);
        let mut stream = TextStream::new(tokenizer);
        let (mut text, mut failed) = (String::new(), None);
        let observe = &mut |trace: &Trace, evidence: &Evidence<'_>| match stream.advance(trace.answer()) {
            Ok(piece) => {
                text.push_str(&piece);
                watch(&Progress { piece: &piece, trace, evidence, tokenizer, generation })
            }
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        };
        let trace = infill(&mut self.session, algorithm, prefix, suffix, self.run, observe)?;
        if let Some(error) = failed {
            return Err(error.into());
        }
        text.push_str(&stream.finish(trace.answer())?);
        Ok((text, trace))
    }
}

fn run(generation: &Generation, behaviour: Behaviour) -> Run<'static> {
    let limit = (behaviour == Behaviour::Answer).then_some(generation.max_tokens as usize);
    Run { behaviour, seed: generation.seed, limit, ..Run::default() }
}
