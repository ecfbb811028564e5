//! An answer on the output stream while it forms: drawn on a terminal, as plain text elsewhere.
//!
//! Between two drawings the cursor rests at the end of the settled text; what stands behind it is the block at work. A
//! drawing erases that, adds what has settled, makes room below where the block will need it, saves the cursor, draws the
//! block and takes the cursor back. So nothing has to be known about how the terminal wraps, or what a new size did to it:
//! it moves the cursor together with the text.

use std::io::IsTerminal;
use std::ops::ControlFlow;

use diffulex_edge::Error;
use diffulex_edge::answer::Progress;
use diffulex_edge::frame::Frame;
use diffulex_edge::harmless::harmless;
use unicode_width::UnicodeWidthChar;

use super::print;

/// Most rows that the block at work takes below the one it begins in.
const ROWS: usize = 5;

/// Shows one answer.
pub(crate) struct Screen {
    how: How,
    /// Bytes of the answer that were printed.
    given: usize,
    /// The line that the settled text ends in.
    line: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    /// As it is: nobody looks.
    Text,
    /// Without what would steer the terminal.
    Plain,
    /// With the block at work.
    Drawn { colors: bool },
}

impl Screen {
    /// For the output stream; `plain` asks for text even on a terminal.
    pub(crate) fn new(plain: bool) -> Screen {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let how = match std::io::stdout().is_terminal() {
            false => How::Text,
            true if plain || dumb => How::Plain,
            true => How::Drawn { colors: colors() },
        };
        Screen { how, given: 0, line: String::new() }
    }

    /// Whether something is drawn that would be left behind if the program just ended.
    pub(crate) fn is_drawn(&self) -> bool {
        matches!(self.how, How::Drawn { .. })
    }

    /// Shows what a pass did.
    pub(crate) fn show(&mut self, progress: &Progress<'_>) -> Result<(), Error> {
        match self.how {
            How::Drawn { colors } => {
                let frame = Frame::of(progress)?;
                let drawn = self.drawn(&frame, colors, size());
                print(&drawn)
            }
            _ => self.plain(progress.piece),
        }
    }

    /// The same for an observer, which ends the answer when nothing can be shown, or when it was `stopped`.
    pub(crate) fn watch(
        &mut self,
        progress: &Progress<'_>,
        failed: &mut Result<(), Error>,
        stopped: &dyn Fn() -> bool,
    ) -> ControlFlow<()> {
        *failed = self.show(progress);
        if failed.is_err() || stopped() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// Ends the answer, whose text this is: what was not printed of it, and the end of the line.
    pub(crate) fn finish(&mut self, text: &str) -> Result<(), Error> {
        let rest = text.get(self.given..).unwrap_or_default();
        if let How::Drawn { colors } = self.how {
            let frame = Frame { settled: text.into(), work: vec![] };
            let drawn = self.drawn(&frame, colors, size());
            print(&drawn)?;
        } else {
            self.plain(rest)?;
        }
        // A line that fills its row has already been ended.
        let ended =
            matches!(self.how, How::Drawn { .. }) && !self.line.is_empty() && walk(0, &self.line, size().0).1 == 0;
        self.line.clear();
        if ended { Ok(()) } else { print("\n") }
    }

    /// Takes away what a drawing left behind the settled text, where the answer failed.
    pub(crate) fn abandon(&mut self) -> Result<(), Error> {
        match self.how {
            How::Drawn { .. } if self.given > 0 => print("\x1b[J\n"),
            How::Drawn { .. } => print("\x1b[J"),
            _ if self.given > 0 => print("\n"),
            _ => Ok(()),
        }
    }

    fn plain(&mut self, piece: &str) -> Result<(), Error> {
        self.given += piece.len();
        if self.how == How::Text { print(piece) } else { print(&harmless(piece)) }
    }

    /// What a terminal of some columns and rows is sent for a frame.
    fn drawn(&mut self, frame: &Frame, colors: bool, (columns, rows): (usize, usize)) -> String {
        let settled = harmless(frame.settled.get(self.given..).unwrap_or_default()).replace('\t', "    ");
        self.given = self.given.max(frame.settled.len());
        self.line += &settled;
        if let Some(end) = self.line.rfind('\n') {
            self.line.drain(..=end);
        }
        let mut out = format!("\x1b[J{settled}");
        let (_, column) = walk(0, &self.line, columns);
        if column == 0 && !self.line.is_empty() && !settled.is_empty() {
            // A cursor behind the last column is not the same on all terminals: this one goes to the next row.
            out += " \r";
        }
        let below = ROWS.min(rows.saturating_sub(1));
        let line = frame.line(colors, (columns * (below + 1)).saturating_sub(column + below + 1));
        if !line.is_empty() {
            let room = walk(column, &frame.line(false, usize::MAX), columns).0.min(below);
            // A vertical tab goes down and scrolls as the end of a line does, but stays in its column.
            out += &"\x0b".repeat(room);
            if room > 0 {
                out += &format!("\x1b[{room}A");
            }
            out += &format!("\x1b7{line}\x1b8");
        }
        out
    }
}

/// Rows that a text goes down from a column of a terminal, and the column it ends in; behind the last column is the first
/// of the next row.
fn walk(column: usize, text: &str, columns: usize) -> (usize, usize) {
    text.chars().fold((0, column), |(row, column), c| {
        let width = c.width().unwrap_or(0);
        match column + width {
            // What does not fit goes to the next row whole.
            end if end > columns => (row + 1, width.min(columns.saturating_sub(1))),
            end if end == columns => (row + 1, 0),
            end => (row, end),
        }
    })
}

/// Columns and rows of the terminal.
fn size() -> (usize, usize) {
    match rustix::termios::tcgetwinsize(std::io::stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
        _ => (80, 24),
    }
}

/// Whether the output stream shows colors; `NO_COLOR` turns them off.
pub(crate) fn colors() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use diffulex_edge::frame::{Piece, Sure};

    #[test]
    fn rows_and_columns() {
        for (column, text, wanted) in [
            (0, "", (0, 0)),
            (3, "ab", (0, 5)),
            (8, "ab", (1, 0)),
            (8, "abc", (1, 1)),
            (9, "字", (1, 2)),
            (0, "字字字字字", (1, 0)),
            (0, "e\u{301}e", (0, 2)),
            (0, &"x".repeat(35), (3, 5)),
        ] {
            assert_eq!(walk(column, text, 10), wanted, "{column} {text}");
        }
        assert_eq!(walk(0, "字字", 1), (2, 0));
    }

    #[test]
    fn a_screen_of_any_size_holds_the_same_text() {
        let mask = |n: usize| vec![Piece::Mask; n];
        let token = |text: &str| Piece::Token { text: text.into(), sure: Sure::Fairly };
        let text = "One fox and 字字字 an e\u{301}gg.\n\n\tTwo \x1b[2Jlanterns, and what they said to one another.";
        for (rows, columns) in [(24u16, 80u16), (3, 20), (2, 7), (5, 10), (1, 30), (10, 3)] {
            let mut parser = vt100::Parser::new(rows.try_into().unwrap(), columns.try_into().unwrap(), 10_000);
            let mut screen = Screen { how: How::Drawn { colors: true }, given: 0, line: String::new() };
            parser.process(b"before\r\n");
            for end in (0..=text.len()).filter(|end| text.is_char_boundary(*end)) {
                let work = [mask(end % 7), vec![token("tok\n"), token("字")], mask(40)].concat();
                let frame = Frame { settled: text[..end].into(), work };
                let drawn = screen.drawn(&frame, true, (columns.into(), rows.into()));
                parser.process(drawn.replace('\n', "\r\n").as_bytes());
            }
            let last = Frame { settled: text.into(), work: vec![] };
            let drawn = screen.drawn(&last, true, (columns.into(), rows.into()));
            parser.process(drawn.as_bytes());
            let shown = whole(&mut parser, columns);
            let wanted: String = format!("before{}", harmless(text)).replace(['\n', '\t', ' '], "");
            assert_eq!(shown.replace(['\n', ' '], ""), wanted, "{rows} rows, {columns} columns");
        }
    }

    /// Everything on the screen, and all that has gone up from it.
    fn whole(parser: &mut vt100::Parser, columns: u16) -> String {
        let (mut text, rows) = (String::new(), parser.screen().size().0.get() as usize);
        parser.screen_mut().set_scrollback(usize::MAX);
        for back in (0..=parser.screen().scrollback()).rev() {
            parser.screen_mut().set_scrollback(back);
            let screen = parser.screen().rows(0, columns);
            text.extend(screen.take(if back > 0 { 1 } else { rows }).map(|row| row + "\n"));
        }
        text
    }
}
