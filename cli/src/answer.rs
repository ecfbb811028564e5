//! From a prompt to an answer: tokenizer, chat template, session and algorithm of one model.

mod ask;

use std::ops::ControlFlow;
use std::path::Path;

use diffulex_compiler::generation::Generation;
use diffulex_runtime::chat::{Chat, Message, TextStream, Variables};
use diffulex_runtime::engine::Engine;
use diffulex_runtime::generate::{Algorithm, Behaviour, Evidence, Run, Trace, infill};
use diffulex_runtime::session::Session;

use crate::Error;
pub use ask::Answer;

/// A model that answers.
pub struct Model {
    session: Session,
    chat: Chat,
    algorithm: Algorithm,
    max_tokens: usize,
    run: Run<'static>,
}

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
        let limit = (behaviour == Behaviour::Answer).then_some(generation.max_tokens as usize);
        let run = Run { behaviour, seed: generation.seed, limit, ..Run::default() };
        let max_tokens = generation.max_tokens as usize;
        Ok(Model { session, chat: Chat::open(text)?, algorithm, max_tokens, run })
    }

    /// Most tokens of an answer.
    pub fn max_tokens(&self) -> usize {
        self.max_tokens
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
        let mut algorithm = self.algorithm.clone();
        if self.run.behaviour == Behaviour::Answer {
            algorithm.fit(prompt.len(), self.session.shape());
        }
        self.fill(&algorithm, prompt, &[], print)
    }

    /// Fills the gap between two texts with as many tokens as the generation asks for; `print` as in
    /// [`Model::answer`].
    ///
    /// # Errors
    /// When the model's attention goes by blocks, all does not fit, or a pass fails.
    pub fn infill(
        &mut self,
        prefix: &[u32],
        suffix: &[u32],
        print: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<(String, Trace), Error> {
        let algorithm = self.algorithm.clone();
        self.fill(&algorithm, prefix, suffix, print)
    }

    fn fill(
        &mut self,
        algorithm: &Algorithm,
        prefix: &[u32],
        suffix: &[u32],
        print: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<(String, Trace), Error> {
        let mut stream = TextStream::new(&self.chat.tokenizer);
        let (mut text, mut failed) = (String::new(), None);
        let observe = &mut |trace: &Trace, _: &Evidence<'_>| match stream.advance(trace.answer()) {
            Ok(piece) => {
                text.push_str(&piece);
                print(&piece)
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
        let rest = stream.finish(trace.answer())?;
        text.push_str(&rest);
        // The answer is over; nothing is left to end.
        let _ = print(&rest);
        Ok((text, trace))
    }
}
