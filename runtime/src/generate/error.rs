//! Why a run could not start or go on.

use crate::sample::SampleError;
use crate::session::SessionError;

/// Why a run could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// There is nothing to answer.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// Prompt and answer do not fit the build.
    #[error("{}", too_long(*prompt, *new, *need, *room))]
    TooLong {
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens asked for.
        new: usize,
        /// Positions they need.
        need: usize,
        /// Positions there are.
        room: usize,
    },
    /// A parameter without meaning.
    #[error("{name} {problem}")]
    Setting {
        /// The parameter.
        name: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The prompt holds an id the model does not know.
    #[error("token {id} of the prompt is not below the model's {vocab}")]
    Token {
        /// The id.
        id: u32,
        /// Rows of the model's vocabulary.
        vocab: usize,
    },
    /// Text after the gap, for a model that reads block by block.
    #[error("{0} fills in from left to right, block by block: only models with full attention see what follows a gap")]
    Suffix(&'static str),
    /// A parameter of the sampler without meaning.
    #[error(transparent)]
    Sampling(#[from] SampleError),
    /// Logits without meaning.
    #[error("pass {pass}, position {position}: {error}")]
    Sample {
        /// The pass, counted from 0.
        pass: usize,
        /// The position in the sequence.
        position: usize,
        /// What is wrong with it.
        error: SampleError,
    },
    /// A pass failed.
    #[error("pass {pass}: {error}")]
    Pass {
        /// The pass, counted from 0.
        pass: usize,
        /// Why.
        error: SessionError,
    },
}

fn too_long(prompt: usize, new: usize, need: usize, room: usize) -> String {
    let what = match prompt >= room {
        true => format!("a prompt of {prompt} tokens leaves no room for an answer: this build holds {room} positions"),
        false => format!("{new} new tokens after a prompt of {prompt} need {need} positions; this build holds {room}"),
    };
    let answer = if prompt >= room { "" } else { "ask for fewer tokens, " };
    format!("{what}: {answer}shorten the conversation or build with a larger shape")
}
