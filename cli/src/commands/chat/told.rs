//! What the chat tells about its model and its answers.

use diffulex_compiler::generation::Attention;
use diffulex_edge::conversation::Conversation;
use diffulex_edge::harmless::harmless;
use diffulex_runtime::generate::{Behaviour, End, settings};

use super::table::{COMMANDS, Does};

/// The text of `/show`.
pub(super) fn show(talk: &Conversation) -> String {
    let (model, g) = (talk.model(), talk.model().generation());
    let attention = match g.attention {
        Attention::BlockCausal => format!("blocks of {}", g.block),
        Attention::Full => "full attention".into(),
    };
    let room = model.room();
    let mut lines = vec![
        ("model", format!("{} ({}, {attention}), {room} positions, on {}", talk.name(), g.family, model.engine())),
        ("system", talk.system().map_or("none".into(), |text| harmless(text).into_owned())),
        ("messages", talk.turns().len().to_string()),
    ];
    if !model.has_template() {
        lines.push(("template", "none: messages and answers continue one another as plain text".into()));
    }
    let known = settings(g.algorithm);
    let always = ["algorithm", "temperature", "max_tokens", "seed"];
    for command in &COMMANDS {
        let Does::Set(setting) = command.does else { continue };
        let mut value = (setting.value)(g);
        if setting.name == "algorithm" && model.behaviour() == Behaviour::Original {
            value += " (every pass of the original)";
        } else if !known.contains(&setting.name) && !always.contains(&setting.name) {
            value += " (unused)";
        }
        lines.push((command.name, value));
    }
    lines.iter().map(|(name, value)| format!("{name:<10} {value}\n")).collect()
}

/// The text of `/stats`.
pub(super) fn stats(talk: &Conversation) -> String {
    let Some(trace) = talk.last() else { return "nothing was answered yet\n".into() };
    let ended = match trace.end {
        End::EndToken => "to the end token",
        End::Length => "to the last one asked for",
        End::Stopped => "until it was stopped",
    };
    let (model, fed) = (talk.model(), trace.prompt - trace.reused.min(trace.prompt));
    let prompt = match (model.generation().attention, model.behaviour()) {
        (Attention::Full, _) => "every pass of full attention begins with all of it".to_string(),
        (_, Behaviour::Original) => "an original begins anew each time".to_string(),
        _ => {
            let time = trace.prefill_time().as_secs_f64() * 1000.0;
            format!("{} of them reused from the turns before, {fed} new, prefilled in {time:.0} ms", trace.reused)
        }
    };
    let (answer, room) = (trace.answer().len(), model.room());
    format!(
        "answer     {answer} tokens in {} passes ({:.1} a pass), {:.0} tokens a second {ended}\n\
         prompt     {} tokens, {prompt}\n\
         positions  {} of {room} used\n",
        trace.decoding_passes(),
        trace.tokens_per_pass(),
        trace.tokens_per_second(),
        trace.prompt,
        trace.prompt + answer,
    )
}
