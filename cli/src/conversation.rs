//! A conversation: the turns so far, and the model that answers the next.
//!
//! Every turn goes through the model's chat template anew. The session keeps what the new prompt shares with what it
//! holds, in whole blocks, where attention goes by blocks; with full attention every pass sees everything, and nothing
//! can be kept. A base model without a template continues the texts as they stand, one message after the other.
//!
//! Nothing is ever dropped from a conversation: one that has outgrown the positions of its build is refused by
//! [`Conversation::say`] and stays as it was; [`Conversation::clear`] begins anew.

mod file;

use std::ops::ControlFlow;

use diffulex_compiler::generation::Generation;
use diffulex_runtime::chat::Message;
use diffulex_runtime::generate::{Behaviour, End, Trace};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::answer::{Model, Watch};

pub use file::{ConversationError, MAX_FILE, Saved};

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Who asks.
    User,
    /// The model.
    Assistant,
}

/// A message of one of the two.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Turn {
    /// Who speaks.
    pub role: Role,
    /// The text.
    pub content: String,
    /// An answer that was stopped before its end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stopped: bool,
}

/// A model, and what was said.
pub struct Conversation {
    name: String,
    model: Model,
    system: Option<String>,
    turns: Vec<Turn>,
    last: Option<Trace>,
}

impl Conversation {
    /// An empty conversation with a model of this name.
    pub fn new(name: &str, model: Model, system: Option<String>) -> Conversation {
        Conversation { name: name.into(), model, system, turns: vec![], last: None }
    }

    /// The name of the model.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The turn that sets the scene.
    pub fn system(&self) -> Option<&str> {
        self.system.as_deref()
    }

    /// What was said.
    pub fn turns(&self) -> &[Turn] {
        &self.turns
    }

    /// What the run of the last answer did.
    pub fn last(&self) -> Option<&Trace> {
        self.last.as_ref()
    }

    /// Says something and answers it; `watch` sees every pass, and stops the answer with `Break`. What was answered until
    /// then stays in the conversation, marked. Returns the answer.
    ///
    /// # Errors
    /// When the template refuses the message, the conversation does not fit the build, or a pass fails; the conversation
    /// is then what it was.
    pub fn say(&mut self, text: &str, watch: &mut Watch<'_>) -> Result<&str, Error> {
        let asked = Turn { role: Role::User, content: text.into(), stopped: false };
        self.turns.push(asked);
        let answered = self.prompt().and_then(|prompt| self.model.watch(&prompt, watch));
        if answered.is_err() {
            self.turns.pop();
        }
        let (content, trace) = answered?;
        self.turns.push(Turn { role: Role::Assistant, content, stopped: trace.end == End::Stopped });
        self.last = Some(trace);
        Ok(self.turns.last().map_or("", |turn| &turn.content))
    }

    /// The same, seen by nobody.
    ///
    /// # Errors
    /// As [`Conversation::say`].
    pub fn ask(&mut self, text: &str) -> Result<&str, Error> {
        self.say(text, &mut |_| ControlFlow::Continue(()))
    }

    /// Begins anew: nothing was said. System turn and settings stay.
    pub fn clear(&mut self) {
        self.turns.clear();
        self.last = None;
        self.model.forget();
    }

    /// Sets the scene, or takes it away, and begins anew.
    pub fn set_system(&mut self, text: Option<String>) {
        self.system = text;
        self.clear();
    }

    /// Goes on with other values of generation.
    ///
    /// # Errors
    /// When they contradict each other or do not fit the model; nothing has changed then.
    pub fn configure(&mut self, generation: &Generation, behaviour: Behaviour) -> Result<(), Error> {
        self.model.configure(generation, behaviour)
    }

    /// What a file is to hold of it.
    pub fn saved(&self) -> Saved {
        Saved {
            model: self.name.clone(),
            system: self.system.clone(),
            messages: self.turns.clone(),
            original: self.model.behaviour() == Behaviour::Original,
            settings: self.model.generation().clone(),
        }
    }

    /// Goes on where another conversation was saved; the settings stay, see [`Conversation::configure`].
    pub fn resume(&mut self, saved: Saved) {
        self.clear();
        (self.system, self.turns) = (saved.system, saved.messages);
    }

    /// The ids up to where the next answer begins.
    fn prompt(&self) -> Result<Vec<u32>, Error> {
        if !self.model.has_template() {
            return self.model.text(&self.plain());
        }
        let message = |role: &str, content: &str| Message { role: role.into(), content: content.into() };
        let system = self.system.iter().map(|text| message("system", text));
        let turns = self.turns.iter().map(|turn| match turn.role {
            Role::User => message("user", &turn.content),
            Role::Assistant => message("assistant", &turn.content),
        });
        self.model.conversation(&system.chain(turns).collect::<Vec<_>>())
    }

    /// One text of it all: an answer stands right behind its message, the next message on a line of its own.
    fn plain(&self) -> String {
        let mut text: String = self.system.iter().map(|text| format!("{text}\n")).collect();
        for turn in &self.turns {
            text += &turn.content;
            text += if turn.role == Role::Assistant { "\n" } else { "" };
        }
        text
    }
}

#[cfg(test)]
mod tests;
