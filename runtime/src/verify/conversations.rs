//! Recorded conversations: a JSON list, each with messages, the prompt as text and ids, the generated ids and the answer
//! as text. From the chat template to the last character ours must be the same.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::departure::{Comparison, Departure, Recording};
use super::trajectories::algorithm;
use super::{Check, Known, VerifyError, read_json};
use crate::chat::{Chat, ChatError, Message, Special, TextStream, Variables};
use crate::generate::{Algorithm, Behaviour, Evidence, Run, Trace, generate};
use crate::session::Session;

/// A recorded conversation.
#[derive(Clone, Debug)]
pub struct Conversation {
    /// Algorithm and parameters.
    pub algorithm: Algorithm,
    entry: Entry,
}

#[derive(Clone, Debug, Deserialize)]
struct Entry {
    messages: Vec<Message>,
    #[serde(default)]
    kwargs: Variables,
    algorithm: String,
    params: Map<String, Value>,
    prompt_text: String,
    prompt_ids: Vec<u32>,
    output_ids: Vec<u32>,
    end_ids: Vec<u32>,
    answer_ids: Vec<u32>,
    answer_text: String,
    answer_text_with_special: Option<String>,
}

/// Reads all conversations of a file.
///
/// # Errors
/// When the file is not of this layout, or names an algorithm or a parameter that is not known.
pub fn read(file: &Path) -> Result<Vec<Conversation>, VerifyError> {
    let wrong = |what: String| VerifyError::Format { file: file.into(), what };
    let entries: Vec<Entry> = read_json(file)?;
    if entries.is_empty() {
        return Err(wrong("holds no conversation".into()));
    }
    let named = |(i, entry): (usize, Entry)| {
        let algorithm =
            algorithm(&entry.algorithm, &entry.params).map_err(|e| wrong(format!("conversation {i}: {e}")))?;
        Ok(Conversation { algorithm, entry })
    };
    entries.into_iter().enumerate().map(named).collect()
}

/// Holds one conversation: prompt text, prompt ids, generated ids, answer.
///
/// One that cannot be carried out with this model has failed.
pub fn check(
    session: &mut Session,
    model: &Known<'_>,
    chat: &Chat,
    number: usize,
    conversation: &Conversation,
    all_rows: bool,
) -> Check {
    let Conversation { algorithm, entry } = conversation;
    let said = entry.messages.last().map_or("", |m| m.content.as_str());
    let case = format!("{number}: {}", said.chars().take(40).collect::<String>());
    let result = |difference: Option<String>, departure: Option<Departure>| Check::Conversation {
        case: case.clone(),
        tokens: entry.answer_ids.len(),
        passed: difference.is_none() && departure.is_none(),
        difference,
        departure,
    };
    let begins = match prompt_difference(model, chat, conversation) {
        Ok(difference) => difference.map_or(Ok(()), Err),
        Err(error) => Err(error.to_string()),
    };
    let begins = begins.and_then(|()| session.attend(algorithm.attention()).map_err(|e| e.to_string()));
    if let Err(difference) = begins {
        return result(Some(difference), None);
    }
    let recording = Recording { forwards: None, accepted: None, rows: None, output: entry.output_ids.clone() };
    let mut comparison = Comparison::new(&recording, algorithm);
    let run = Run { behaviour: Behaviour::Original, all_rows, ..Run::default() };
    let see = &mut |trace: &Trace, evidence: &Evidence<'_>| comparison.see(trace, evidence);
    let trace = match generate(session, algorithm, &entry.prompt_ids, run, see) {
        Err(error) => return result(Some(error.to_string()), None),
        Ok(trace) => trace,
    };
    match comparison.finish(&trace) {
        Some(departure) => result(None, Some(departure)),
        None => {
            let difference = answer_difference(chat, entry, &trace.tokens[entry.prompt_ids.len()..]);
            result(difference.unwrap_or_else(|error| Some(error.to_string())), None)
        }
    }
}

/// What differs before the model is asked.
fn prompt_difference(model: &Known<'_>, chat: &Chat, talk: &Conversation) -> Result<Option<String>, ChatError> {
    let entry = &talk.entry;
    if let Some(what) = model.contradiction(&talk.algorithm) {
        return Ok(Some(what));
    }
    if let Some(known) = model.generation
        && let Some(id) = entry.end_ids.iter().find(|id| !known.end_ids.contains(id))
    {
        let known = &known.end_ids;
        return Ok(Some(format!("token {id} ends the recorded answer, but the model's end tokens are {known:?}")));
    }
    let (prompt, ids) = chat.prompt(&entry.messages, &entry.kwargs)?;
    Ok(text_difference("the prompt", &prompt, &entry.prompt_text).or_else(|| {
        let at = ids.iter().zip(&entry.prompt_ids).take_while(|(a, b)| a == b).count();
        (ids != entry.prompt_ids).then(|| format!("the prompt's ids differ from position {at} on"))
    }))
}

/// What differs in the answer that the same ids make.
fn answer_difference(chat: &Chat, entry: &Entry, new: &[u32]) -> Result<Option<String>, ChatError> {
    let end = new.iter().position(|id| entry.end_ids.contains(id)).unwrap_or(new.len());
    let answer = &new[..end];
    if answer != entry.answer_ids {
        let at = answer.iter().zip(&entry.answer_ids).take_while(|(a, b)| a == b).count();
        let (ours, theirs) = (answer.get(at..at + 1), entry.answer_ids.get(at..at + 1));
        return Ok(Some(format!(
            "the answer of {end} tokens, recorded with {}, differs from its token {at} on: {:?}, not {:?}",
            entry.answer_ids.len(),
            ours.unwrap_or_default(),
            theirs.unwrap_or_default()
        )));
    }
    // As it would be shown, token by token.
    let (mut stream, mut shown) = (TextStream::new(&chat.tokenizer), String::new());
    for end in 0..=answer.len() {
        shown += &stream.advance(&answer[..end])?;
    }
    shown += &stream.finish(answer)?;
    let plain = text_difference("the answer", &shown, &entry.answer_text);
    let Some(want) = entry.answer_text_with_special.as_ref().filter(|_| plain.is_none()) else { return Ok(plain) };
    let with_special = chat.tokenizer.decode(answer, Special::Keep)?;
    Ok(text_difference("the answer with special tokens", &with_special, want))
}

fn text_difference(what: &str, ours: &str, theirs: &str) -> Option<String> {
    let at = ours.bytes().zip(theirs.bytes()).take_while(|(a, b)| a == b).count();
    let from = |text: &str| text.get(..at).map_or(0, str::len);
    let rest = |text: &str| text.get(from(text)..).unwrap_or_default().chars().take(24).collect::<String>();
    (ours != theirs).then(|| format!("{what} differs from byte {at} on: {:?}, not {:?}", rest(ours), rest(theirs)))
}
