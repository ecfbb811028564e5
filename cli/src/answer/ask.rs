//! One question, one answer.

use std::ops::ControlFlow;
use std::path::Path;

use diffulex_runtime::chat::Message;
use diffulex_runtime::generate::{Behaviour, Trace};

use super::Model;
use crate::Error;
use crate::subject::{self, EngineChoice, Opened};

/// What a model said, and how it came to it.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The text up to the end token.
    pub text: String,
    /// Every pass, with what it accepted: see [`Trace::tokens_per_pass`] and [`Trace::tokens_per_second`].
    pub trace: Trace,
}

impl Model {
    /// Opens an artifact, its folder or a checkpoint, with a tokenizer beside it, on the engine inside this program. The
    /// family and all that generation needs stand in the artifact.
    ///
    /// # Errors
    /// When the path stands for something else, or something is missing or damaged.
    pub fn open(path: impl AsRef<Path>) -> Result<Model, Error> {
        subject::open(path.as_ref(), None)?.model()
    }

    /// A model of something opened, with the engine and the behaviour that are asked for.
    ///
    /// # Errors
    /// When it has no tokenizer, does not say how to generate, or as [`Model::new`].
    pub fn of(opened: &Opened, engine: &EngineChoice, behaviour: Behaviour) -> Result<Model, Error> {
        let unknown = |why| Error::Usage(format!("{}: {why}", opened.name));
        let generation = opened.generation.as_ref().map_err(unknown)?;
        let text = opened.tokenizer_folder()?;
        Model::new(opened.engine(engine)?, generation, behaviour, text)
    }

    /// Answers one question, through the chat template of the model. Questions do not know of each other.
    ///
    /// # Errors
    /// When the model has no chat template, the question does not fit, or a pass fails.
    pub fn ask(&mut self, question: &str) -> Result<Answer, Error> {
        self.ask_streaming(question, |_| ControlFlow::Continue(()))
    }

    /// The same; `show` gets each piece of text as soon as it is settled, and ends the answer with `Break`.
    ///
    /// # Errors
    /// As [`Model::ask`].
    pub fn ask_streaming(
        &mut self,
        question: &str,
        mut show: impl FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Answer, Error> {
        let prompt = self.conversation(&[Message { role: "user".into(), content: question.into() }])?;
        let (text, trace) = self.answer(&prompt, &mut show)?;
        Ok(Answer { text, trace })
    }
}
