//! From a prompt to an answer: tokenizer, chat template, session and algorithm of one model.

use std::ops::ControlFlow;
use std::path::Path;

use diffulex_compiler::generation::Generation;
use diffulex_runtime::chat::{Chat, Message, TextStream, Variables};
use diffulex_runtime::engine::Engine;
use diffulex_runtime::generate::{Algorithm, Run, Trace, generate};
use diffulex_runtime::session::Session;

use crate::Error;

/// A model that answers.
pub struct Model {
    session: Session,
    chat: Chat,
    algorithm: Algorithm,
    run: Run,
}

impl Model {
    /// Joins an engine, what a host must know, and the folder of the tokenizer.
    ///
    /// # Errors
    /// When tokenizer or template are damaged, or the engine cannot hold a block.
    pub fn new(engine: Box<dyn Engine>, generation: &Generation, text: &Path) -> Result<Model, Error> {
        let mut generation = generation.clone();
        // A reply never asks for more than the cache holds; a longer one could not even begin.
        let room = engine.shape().max_cache as u32;
        generation.max_tokens = generation.max_tokens.min(room);
        let algorithm = Algorithm::try_from(&generation)?;
        let session = Session::new(engine, algorithm.attention())?;
        let run = Run { seed: generation.seed, ..Run::default() };
        Ok(Model { session, chat: Chat::open(text)?, algorithm, run })
    }

    /// Positions that the cache holds.
    pub fn cache(&self) -> usize {
        self.session.shape().max_cache
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

    /// Answers; `print` gets each piece of text as soon as it is settled, and ends the answer with `Break`.
    ///
    /// # Errors
    /// When prompt and answer do not fit the cache, or a pass fails.
    pub fn answer(
        &mut self,
        prompt: &[u32],
        print: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<(String, Trace), Error> {
        let algorithm = fitted(&self.algorithm, prompt.len(), self.session.shape().max_cache);
        let mut stream = TextStream::new(&self.chat.tokenizer);
        let (mut text, mut failed) = (String::new(), None);
        let observe = &mut |trace: &Trace| match stream.advance(trace.answer()) {
            Ok(piece) => {
                text.push_str(&piece);
                print(&piece)
            }
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        };
        let trace = generate(&mut self.session, &algorithm, prompt, self.run, observe)?;
        if let Some(error) = failed {
            return Err(error.into());
        }
        let rest = stream.finish(trace.answer())?;
        text.push_str(&rest);
        // The answer is over; nothing is left to end.
        let _ = print(&rest);
        Ok((text, trace))
    }
}

/// The algorithm with its length cut to what the cache has room for after the prompt.
fn fitted(algorithm: &Algorithm, prompt: usize, room: usize) -> Algorithm {
    let mut algorithm = algorithm.clone();
    match &mut algorithm {
        Algorithm::Sdar(sdar) => sdar.gen_length = sdar.gen_length.min(room.saturating_sub(prompt)).max(1),
    }
    algorithm
}
