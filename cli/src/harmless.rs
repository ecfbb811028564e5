//! Text of models and files as a terminal may show it: what steers a terminal becomes visible instead.

use std::borrow::Cow;

/// The text with its control characters as signs, `␛` for escape; only ends of lines and tabs are left.
pub fn harmless(text: &str) -> Cow<'_, str> {
    let harmful = |c: char| c.is_control() && c != '\n' && c != '\t';
    match text.contains(harmful) {
        true => Cow::Owned(text.chars().map(|c| if harmful(c) { sign(c) } else { c }).collect()),
        false => Cow::Borrowed(text),
    }
}

/// The sign of a control character; those beyond ASCII have none of their own.
pub(crate) fn sign(c: char) -> char {
    match u32::from(c) {
        code @ 0..0x20 => char::from_u32(0x2400 + code).unwrap_or('\u{fffd}'),
        0x7f => '\u{2421}',
        _ => '\u{fffd}',
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_steers_the_terminal() {
        assert_eq!(harmless("a\n\tb é 字"), "a\n\tb é 字");
        assert_eq!(harmless("\x1b]0;title\x07\r\u{9b}2J\x7f\0"), "␛]0;title␇␍\u{fffd}2J␡␀");
        let all: String = (0..0x110000).filter_map(char::from_u32).collect();
        assert!(harmless(&all).chars().all(|c| !c.is_control() || c == '\n' || c == '\t'));
    }
}
