//! What Tab completes, and what stands in gray behind the cursor.

use super::table::{COMMANDS, Command, Does};
use crate::terminal::line::Words;

/// The commands and the names that follow them.
pub(super) struct Known {
    /// The algorithms of the model's family.
    pub(super) algorithms: Vec<String>,
}

impl Words for Known {
    fn words(&self, line: &str) -> (usize, Vec<String>) {
        let Some(rest) = line.strip_prefix('/') else { return (line.len(), vec![]) };
        let Some((name, last)) = rest.split_once(' ') else {
            return (
                0,
                COMMANDS.iter().map(|c| format!("/{}", c.name)).filter(|word| word.starts_with(line)).collect(),
            );
        };
        let begun = |word: &&String| word.starts_with(last);
        let words = match name {
            "algorithm" => self.algorithms.iter().filter(begun).cloned().collect(),
            _ => vec![],
        };
        (line.len() - last.len(), words)
    }

    fn hint(&self, line: &str) -> Option<String> {
        let begun = line.strip_prefix('/').filter(|name| !name.is_empty())?;
        let fits = |command: &&Command| command.name.starts_with(begun.trim_end());
        let command = COMMANDS.iter().find(|c| c.name == begun.trim_end()).or_else(|| COMMANDS.iter().find(fits))?;
        let whole = format!("{} {}", command.name, command.takes);
        whole.trim_end().strip_prefix(begun).filter(|rest| !rest.is_empty()).map(str::to_string)
    }

    fn wants_file(&self, line: &str) -> bool {
        let files = |c: &Command| matches!(c.does, Does::Save | Does::Load);
        let named = |c: &Command| {
            line.strip_prefix('/').and_then(|l| l.strip_prefix(c.name)).is_some_and(|l| l.starts_with(' '))
        };
        COMMANDS.iter().any(|c| files(c) && named(c))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_completed() {
        let known = Known { algorithms: vec!["default".into(), "dream.diffusion_generate".into()] };
        for (line, from, words) in [
            ("/te", 0, &["/temp"][..]),
            ("/top", 0, &["/topk", "/topp"]),
            ("hello", 5, &[]),
            ("/algorithm d", 11, &["default", "dream.diffusion_generate"]),
            ("/algorithm dr", 11, &["dream.diffusion_generate"]),
            ("/temp 0", 6, &[]),
        ] {
            assert_eq!(known.words(line), (from, words.iter().map(|w| w.to_string()).collect()), "{line}");
        }
        for (line, hint) in [
            ("/te", Some("mp <0.0-2.0>")),
            ("/temp", Some(" <0.0-2.0>")),
            ("/temp ", Some("<0.0-2.0>")),
            ("/temp 1", None),
            ("/", None),
            ("/qu", Some("it")),
            ("/quit", None),
            ("hi", None),
        ] {
            assert_eq!(known.hint(line).as_deref(), hint, "{line}");
        }
        assert!(known.wants_file("/save ") && known.wants_file("/load a/b") && !known.wants_file("/save"));
    }
}
