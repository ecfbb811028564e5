//! Chat templates: the Jinja text a model is published with, rendered as `transformers` does.

use super::{ChatError, Message, Variables, read_bounded};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, Error, ErrorKind, Value};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// Work a template may do: one unit an instruction or 64 bytes of text, so about 64 MiB.
const FUEL: u64 = 1_000_000;
/// Nesting of calls and includes.
const RECURSION: usize = 100;
/// Bytes a rendered conversation may have.
const MAX_OUTPUT: usize = 16 << 20;

/// A compiled chat template.
#[derive(Debug)]
pub struct Template {
    environment: Environment<'static>,
    tokens: [(&'static str, Option<String>); 2],
}

impl Template {
    /// The template of a folder: `chat_template.jinja`, else `chat_template` of the contents of
    /// `tokenizer_config.json`, a text or a list of named ones of which `default` counts. `None` when there is none.
    ///
    /// # Errors
    /// When the template is not text or does not compile.
    pub fn open(folder: &Path, tokenizer_config: &serde_json::Value) -> Result<Option<Self>, ChatError> {
        let path = folder.join("chat_template.jinja");
        let source = match read_bounded(&path)? {
            Some(bytes) => Some(
                String::from_utf8(bytes).map_err(|e| ChatError::Format { path, message: format!("not UTF-8: {e}") })?,
            ),
            None => match &tokenizer_config["chat_template"] {
                serde_json::Value::Array(named) => {
                    named.iter().find(|t| t["name"] == "default").and_then(|t| t["template"].as_str())
                }
                text => text.as_str(),
            }
            .map(str::to_string),
        };
        // A token is written as its text or as an object.
        let text = |v: &serde_json::Value| v.as_str().or_else(|| v["content"].as_str()).map(str::to_string);
        let token = |name: &str| text(&tokenizer_config[name]);
        source.map(|source| Self::new(source, token("bos_token"), token("eos_token"))).transpose()
    }

    /// Compiles a template.
    ///
    /// # Errors
    /// [`ChatError::Template`] names line and mistake.
    pub fn new(source: String, bos_token: Option<String>, eos_token: Option<String>) -> Result<Self, ChatError> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(failed)?;
        environment.set_syntax(syntax);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(RECURSION);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", |format: &str| strftime(format, SystemTime::now()));
        environment.add_template_owned("chat", source).map_err(failed)?;
        Ok(Self { environment, tokens: [("bos_token", bos_token), ("eos_token", eos_token)] })
    }

    /// The text of a conversation; with `add_generation_prompt` up to where the assistant's answer begins.
    ///
    /// # Errors
    /// [`ChatError::Refused`] when the template does not take the conversation, [`ChatError::Template`] when it is wrong
    /// or passes its limits.
    pub fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
        variables: &Variables,
    ) -> Result<String, ChatError> {
        let mut context = variables.clone();
        for (name, token) in &self.tokens {
            if let Some(text) = token {
                context.insert((*name).into(), text.as_str().into());
            }
        }
        context.insert("add_generation_prompt".into(), add_generation_prompt.into());
        let turn = |m: &Message| serde_json::json!({ "role": m.role, "content": m.content });
        context.insert("messages".into(), messages.iter().map(turn).collect());
        let template = self.environment.get_template("chat").map_err(failed)?;
        let text = template.render(Value::from(Serde(&context))).map_err(failed)?;
        if text.len() > MAX_OUTPUT {
            return Err(ChatError::Template(format!("the conversation has more than {MAX_OUTPUT} bytes")));
        }
        Ok(text)
    }
}

/// Marks an error as the template's own refusal.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refusal(String);

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Refusal(message)))
}

fn failed(error: Error) -> ChatError {
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        if let Some(Refusal(message)) = cause.downcast_ref() {
            return ChatError::Refused(message.clone());
        }
        source = cause.source();
    }
    ChatError::Template(match error.kind() {
        ErrorKind::OutOfFuel => "it does more work than a template may".into(),
        _ => error.to_string(),
    })
}

/// The date and time in UTC, in the letters chat templates use.
fn strftime(format: &str, now: SystemTime) -> Result<String, Error> {
    const DAYS: &str = "Thursday Friday Saturday Sunday Monday Tuesday Wednesday";
    const MONTHS: &str = "January February March April May June July August September October November December";
    let word = |words: &'static str, n: u64| words.split(' ').nth(n as usize).unwrap_or_default();
    let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (day, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, date) = civil(day);
    let (weekday, name) = (word(DAYS, day % 7), word(MONTHS, month - 1));
    let mut text = String::new();
    let mut letters = format.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            text.push(letter);
            continue;
        }
        text += &match letters.next() {
            Some('Y') => year.to_string(),
            Some('y') => format!("{:02}", year % 100),
            Some('m') => format!("{month:02}"),
            Some('d') => format!("{date:02}"),
            Some('B') => name.to_string(),
            Some('b') => name[..3].to_string(),
            Some('A') => weekday.to_string(),
            Some('a') => weekday[..3].to_string(),
            Some('H') => format!("{:02}", second / 3600),
            Some('M') => format!("{:02}", second / 60 % 60),
            Some('S') => format!("{:02}", second % 60),
            Some('%') => "%".to_string(),
            other => {
                let letter = other.map(String::from).unwrap_or_default();
                return Err(Error::new(ErrorKind::InvalidOperation, format!("strftime_now: unknown %{letter}")));
            }
        };
    }
    Ok(text)
}

/// Year, month and day of a day counted from 1970-01-01 (Gregorian; H. Hinnant, "chrono-compatible date algorithms").
fn civil(day: u64) -> (u64, u64, u64) {
    let shifted = day + 719_468; // from 0000-03-01
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (year + era * 400 + u64::from(month <= 2), month, of_year - (153 * from_march + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn dates() {
        let at = |seconds| strftime("%a %d %b %Y|%A %B %y %m|%H:%M:%S%%", UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0).unwrap(), "Thu 01 Jan 1970|Thursday January 70 01|00:00:00%");
        assert_eq!(at(951_825_599).unwrap(), "Tue 29 Feb 2000|Tuesday February 00 02|11:59:59%");
        assert_eq!(at(1_704_067_199).unwrap(), "Sun 31 Dec 2023|Sunday December 23 12|23:59:59%");
        assert!(strftime("%Q", UNIX_EPOCH).is_err());
    }
}
