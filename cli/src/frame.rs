//! An answer as it looks after a pass: settled text, and behind it the block at work.
//!
//! What the last pass decided counts as fresh and stands with the block, even where nothing before it is open; the pass
//! after it settles it. So a block is seen to fill, whatever the order.

use diffulex_compiler::generation::Generation;
use diffulex_runtime::chat::{ChatError, Special, TextStream};
use diffulex_runtime::generate::Trace;
use unicode_width::UnicodeWidthChar;

use crate::answer::Progress;
use crate::harmless::sign;

/// What there is to draw after a pass.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    /// The text of the answer that stays as it is.
    pub settled: String,
    /// What follows it, token by token.
    pub work: Vec<Piece>,
}

/// A position of the block at work.
#[derive(Clone, Debug, PartialEq)]
pub enum Piece {
    /// Not decided.
    Mask,
    /// Decided.
    Token {
        /// What it adds to the text; nothing for a part of a character.
        text: String,
        /// How sure the model was.
        sure: Sure,
    },
}

/// How sure the model was of a token, as far as a color can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sure {
    /// Less than an even chance.
    Hardly,
    /// An even chance or more.
    Fairly,
    /// Nine in ten or more.
    Very,
}

impl Frame {
    /// The picture after a pass.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn of(progress: &Progress<'_>) -> Result<Frame, ChatError> {
        let &Progress { trace, generation, tokenizer, .. } = progress;
        let open = trace.prompt + trace.answer().len();
        let fresh = trace.latest().iter().map(|a| a.position).find(|&position| position >= trace.prompt);
        let settled = &trace.tokens[trace.prompt..open.min(fresh.unwrap_or(open))];
        let text = tokenizer.decode(settled, Special::Skip)?;
        // Half a character decodes to one U+FFFD.
        let mut frame = Frame { settled: text.strip_suffix('\u{fffd}').unwrap_or(&text).into(), work: vec![] };

        let mut stream = TextStream::new(tokenizer);
        stream.advance(settled)?;
        let first = trace.prompt + settled.len();
        let (mut run, end) = (trace.prompt, end(progress).max(first));
        for (position, &token) in trace.tokens.iter().enumerate().take(end).skip(first) {
            if token == generation.mask_id {
                frame.work.push(Piece::Mask);
                (stream, run) = (TextStream::new(tokenizer), position + 1);
            } else {
                let text = stream.advance(&trace.tokens[run..=position])?;
                frame.work.push(Piece::Token { text, sure: Sure::of(trace, position) });
            }
        }
        Ok(frame)
    }

    /// The block at work as one line of at most `columns` columns, in colors or without.
    pub fn line(&self, colors: bool, columns: usize) -> String {
        let (mut line, mut style, mut used) = (String::new(), "", 0);
        let signs = self.work.iter().flat_map(|piece| piece.signs().map(|c| (piece.style(), c)));
        let mut signs = signs.peekable();
        while let Some((wanted, c)) = signs.next() {
            let width = c.width().unwrap_or(0);
            // One column is left for the sign that there is more.
            let full = used + width + usize::from(signs.peek().is_some()) > columns;
            if colors && wanted != style {
                line += if style.is_empty() { "" } else { "\x1b[0m" };
                line += wanted;
                style = wanted;
            }
            if full {
                line.extend((used < columns).then_some('…'));
                break;
            }
            line.push(c);
            used += width;
        }
        line + if style.is_empty() { "" } else { "\x1b[0m" }
    }
}

impl Piece {
    /// What stands for it: no character of it ends the line or steers the terminal.
    fn signs(&self) -> impl Iterator<Item = char> {
        let text = match self {
            Piece::Mask => "·",
            Piece::Token { text, .. } => text,
        };
        text.chars().map(|c| match c {
            '\n' => '↵',
            '\t' => ' ',
            c if c.is_control() => sign(c),
            c => c,
        })
    }

    fn style(&self) -> &'static str {
        match self {
            Piece::Mask => "\x1b[2m",
            Piece::Token { sure: Sure::Hardly, .. } => "\x1b[35m",
            Piece::Token { sure: Sure::Fairly, .. } => "\x1b[33m",
            Piece::Token { sure: Sure::Very, .. } => "\x1b[32m",
        }
    }
}

impl Sure {
    /// How sure the model was of what stands at a position.
    fn of(trace: &Trace, position: usize) -> Sure {
        let accepted = trace.accepted.iter().rev().find(|a| a.position == position);
        let confidence = accepted.map_or(1.0, |a| a.confidence);
        // Some originals rank by negative entropy, at most 0: the logarithm of 1 over the perplexity.
        let (very, fairly) = if confidence > 0.0 { (0.9, 0.5) } else { (-0.105, -0.693) };
        match confidence {
            c if c >= very => Sure::Very,
            c if c >= fairly => Sure::Fairly,
            _ => Sure::Hardly,
        }
    }
}

/// Where the block at work ends: behind the last position that was looked at or is decided; where none of these is open
/// behind the masks that come next. Nothing counts from the end token on.
fn end(progress: &Progress<'_>) -> usize {
    let Progress { trace, generation, evidence, .. } = progress;
    let Generation { mask_id, end_ids, block, max_tokens, .. } = generation;
    let gap = trace.gap();
    let new = &trace.tokens[gap.clone()];
    let looked = evidence.proposals.last().map_or(gap.start, |p| p.position + 1);
    let decided = gap.start + new.iter().rposition(|id| id != mask_id).map_or(0, |last| last + 1);
    let mut end = looked.max(decided);
    if !trace.tokens[gap.start..end.max(gap.start)].contains(mask_id) {
        let next = trace.tokens[end..gap.end.max(end)].iter().take(*block as usize).take_while(|id| *id == mask_id);
        end += next.count();
    }
    let last = gap.end.min(gap.start.saturating_add(*max_tokens as usize));
    let stop = new.iter().position(|id| end_ids.contains(id)).map_or(last, |at| gap.start + at);
    end.min(last).min(stop)
}

#[cfg(test)]
mod tests;
