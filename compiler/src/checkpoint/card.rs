//! The model card: README.md with a few facts in front, between two lines of `---`.

use std::fs::File;
use std::io::Read;
use std::path::Path;

/// No more of a card is looked at.
const LARGEST: u64 = 1 << 20;

/// What a model card says in front, as far as it matters to those who pass the model on. A card is written by hand and may
/// be missing, so that nothing of it is an error.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Card {
    /// The license, in the card's word: `license_name` where `license` is `other`.
    pub license: Option<String>,
    /// The models it was made from.
    pub base_models: Vec<String>,
}

impl Card {
    /// Reads the card of a folder.
    pub fn read(folder: &Path) -> Card {
        let mut text = Vec::new();
        let path = folder.join("README.md");
        if path.is_file()
            && let Ok(file) = File::open(path)
        {
            // What cannot be read is as good as missing.
            let _ = file.take(LARGEST).read_to_end(&mut text);
        }
        Card::parse(&String::from_utf8_lossy(&text))
    }

    fn parse(text: &str) -> Card {
        let mut lines = text.lines();
        if lines.next().map(str::trim_end) != Some("---") {
            return Card::default();
        }
        let front: Vec<&str> = lines.take_while(|line| line.trim_end() != "---").collect();
        let license = values(&front, "license").into_iter().next();
        let named = values(&front, "license_name").into_iter().next();
        let license = if license.as_deref() == Some("other") { named.or(license) } else { license };
        Card { license, base_models: values(&front, "base_model") }
    }
}

/// The values of a key at the left margin: on its line, in brackets, or on the lines below it, each behind a dash.
fn values<'a>(front: &[&'a str], key: &str) -> Vec<String> {
    let own = |line: &'a str| line.strip_prefix(key).and_then(|rest| rest.strip_prefix(':'));
    let Some(at) = front.iter().position(|line| own(line).is_some()) else { return vec![] };
    let plain = |text: &str| text.trim().trim_matches(['"', '\'']).trim().to_string();
    let here = own(front[at]).map(str::trim).unwrap_or_default();
    let listed = here.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let found: Vec<String> = match listed {
        Some(list) => list.split(',').map(plain).collect(),
        None if here.is_empty() => {
            let items = front[at + 1..].iter().map_while(|line| line.trim_start().strip_prefix("- "));
            items.map(plain).collect()
        }
        None => vec![plain(here)],
    };
    found.into_iter().filter(|text| !text.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_found_however_they_are_written() {
        let card = |text: &str| {
            let Card { license, base_models } = Card::parse(text);
            (license, base_models.join(" "))
        };
        let said = |license: &str, models: &str| (Some(license.to_string()), models.to_string());
        assert_eq!(card("---\nlicense: mit\nbase_model: A/b\n---\nlicense: gpl\n"), said("mit", "A/b"));
        assert_eq!(
            card("---\r\nbase_model:\r\n- A/b\r\n- 'C/d'\r\nlicense: \"apache-2.0\"\r\n---\r\n"),
            said("apache-2.0", "A/b C/d")
        );
        assert_eq!(
            card("---\nbase_model: [A/b, C/d]\nlicense: other\nlicense_name: own\n---\n"),
            said("own", "A/b C/d")
        );
        assert_eq!(card("---\nlicense: other\nlicense_link: x\n---\n"), said("other", ""));
        for text in ["", "license: mit", "---", "---\nlicense:\n---\n", "# Title\n---\nlicense: mit\n---\n"] {
            assert_eq!(card(text), (None, String::new()), "{text}");
        }
    }
}
