//! Merges the layers of a recipe: tables key by key, anything else as a whole.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::check::check;
use super::diagnostic::{Diagnostic, Label, Note};
use super::mistake::{Mistake, shortened};
use super::read::Layer;
use super::schema::{self, Place, is_name};
use super::source::{Located, Origin, SourceFile};
use super::suggest::near_miss;
use super::typed::FromValue;
use super::value::{Entry, Value};

/// Nobody reads more, and finding them all in a hostile file could take long.
const MOST_MISTAKES: usize = 1000;

/// The effective values of a recipe, by dotted path.
pub(super) struct Settings {
    /// The files looked through, the recipe first.
    files: Vec<Arc<SourceFile>>,
    values: BTreeMap<String, Located<Value>>,
    schemes: BTreeMap<String, Origin>,
    /// Keys and tables that a reported mistake was meant to set: their absence is no second mistake.
    refused: BTreeSet<String>,
}

impl Settings {
    pub(super) fn new(files: &[Arc<SourceFile>]) -> Self {
        let (values, schemes, refused) = Default::default();
        Self { files: files.to_vec(), values, schemes, refused }
    }

    /// Puts a layer over what is there, reporting everything in it that is not as the schema says.
    pub(super) fn overlay(&mut self, layer: &Layer, out: &mut Vec<Diagnostic>) {
        let mut walk = Walk { inherited: self, accepted: vec![], schemes: vec![], refused: vec![], out };
        walk.table(&mut vec![], &layer.entries);
        let Walk { accepted, schemes, refused, .. } = walk;
        for (name, origin) in schemes {
            self.schemes.entry(name).or_insert(origin);
        }
        for path in refused {
            self.values.remove(&path);
            self.refused.insert(path);
        }
        for (path, value) in accepted {
            self.values.insert(path, value);
        }
    }

    /// Every value, in the order of the schema.
    pub(super) fn in_order(&self) -> Vec<(&str, &Located<Value>)> {
        let mut values: Vec<_> = self.values.iter().map(|(path, value)| (path.as_str(), value)).collect();
        values.sort_by_cached_key(|(path, _)| schema::order(path));
        values
    }

    /// The values below a table, with their paths inside it, sorted by path.
    pub(super) fn under(&self, table: &str) -> impl Iterator<Item = (&str, &Located<Value>)> {
        let prefix = format!("{table}.");
        let inside = move |path| str::strip_prefix(path, &prefix);
        self.values.range(format!("{table}.")..).map_while(move |(path, value)| Some((inside(path.as_str())?, value)))
    }

    /// The names of all schemes and where each is first mentioned.
    pub(super) fn schemes(&self) -> &BTreeMap<String, Origin> {
        &self.schemes
    }

    /// A value that may be left out.
    pub(super) fn optional<T: FromValue>(&self, path: &str) -> Option<Located<T>> {
        let found = self.values.get(path)?;
        T::from_value(&found.value).map(|value| Located::new(value, found.origin.clone()))
    }

    /// A value that must be there; `asked` is what makes it necessary, where that is not the recipe itself.
    pub(super) fn need<T: FromValue>(
        &self,
        path: &str,
        asked: Option<&Origin>,
        out: &mut Vec<Diagnostic>,
    ) -> Option<Located<T>> {
        let value = self.optional(path);
        if value.is_none() && !self.is_refused(path) {
            out.push(self.missing(path, asked));
        }
        value
    }

    /// True when a mistake already reported was meant to set this.
    pub(super) fn is_refused(&self, path: &str) -> bool {
        let covers = |refused: &String| {
            path.strip_prefix(refused.as_str()).is_some_and(|rest| matches!(rest.as_bytes().first(), None | Some(b'.')))
        };
        self.refused.iter().any(covers)
    }

    fn missing(&self, path: &str, asked: Option<&Origin>) -> Diagnostic {
        let words: Vec<&str> = path.split('.').collect();
        let (example, doc) = match schema::place(&words) {
            Place::Value(key) => (key.example, key.doc),
            _ => ("…", ""),
        };
        let mistake = Mistake::MissingKey { key: path.to_owned(), example, doc };
        if let Some(asked) = asked {
            return Diagnostic::new(mistake, asked);
        }
        let diagnostic = Diagnostic::new(mistake, &Origin::whole(&self.files[0]));
        match &self.files[1..] {
            [] => diagnostic,
            others => {
                let names: Vec<&str> = others.iter().map(|file| file.name()).collect();
                diagnostic.note(format!("nor is it set in {}", names.join(", ")))
            }
        }
    }
}

/// One layer on its way into the settings.
struct Walk<'a> {
    inherited: &'a Settings,
    accepted: Vec<(String, Located<Value>)>,
    schemes: Vec<(String, Origin)>,
    refused: Vec<String>,
    out: &'a mut Vec<Diagnostic>,
}

impl Walk<'_> {
    fn table<'e>(&mut self, path: &mut Vec<&'e str>, entries: &'e [Entry]) {
        for entry in entries {
            if self.out.len() >= MOST_MISTAKES {
                return;
            }
            path.push(&entry.key.value);
            self.entry(path, entry, entries);
            path.pop();
        }
    }

    fn entry<'e>(&mut self, path: &mut Vec<&'e str>, entry: &'e Entry, beside: &[Entry]) {
        let joined = path.join(".");
        let table = &path[..path.len() - 1];
        if schema::keys_of(table).is_none() && !is_name(&entry.key, false) {
            let expected = "a word of a-z, 0-9 and `-`, at most 64 long".into();
            let mistake = Mistake::BadName { subject: "the name of a scheme".into(), expected };
            self.out.push(Diagnostic::new(mistake, &entry.key.origin));
            self.refused.push(joined);
            return;
        }
        match (schema::place(path), &entry.value.value) {
            // Followed while reading.
            (Place::Value(key), _) if key.path == "extends" => {}
            (Place::Value(key), _) => {
                let before = self.out.len();
                match check(&key.kind, &format!("`{joined}`"), &entry.value, self.out) {
                    Some(value) => self.accepted.push((joined, value)),
                    None => {
                        self.note_inherited(before, &joined);
                        self.refused.push(joined);
                    }
                }
            }
            (Place::Table, Value::Table(entries)) => {
                if let ["quant", name] = path.as_slice() {
                    self.schemes.push(((*name).to_owned(), entry.key.origin.clone()));
                }
                self.table(path, entries);
            }
            (Place::Table, other) => {
                let (subject, expected) = (format!("`{joined}`"), "a table".into());
                let mistake = Mistake::WrongType { subject, expected, found: other.describe(), instead: None };
                self.out.push(Diagnostic::new(mistake, &entry.value.origin));
                self.refused.push(joined);
            }
            (Place::Unknown, _) => self.unknown(table, &entry.key, beside),
        }
    }

    fn unknown(&mut self, table: &[&str], key: &Located<String>, beside: &[Entry]) {
        let keys = schema::keys_of(table).unwrap_or_default();
        let near = near_miss(key, keys.iter().copied());
        let home = schema::home_of(key).filter(|_| near.is_none());
        let mistake = Mistake::UnknownKey {
            table: table.join("."),
            key: shortened(key),
            near: near.map(str::to_owned),
            home,
            keys,
        };
        self.out.push(Diagnostic::new(mistake, &key.origin));
        let meant = match (near, home) {
            (Some(near), _) => [table, &[near]].concat().join("."),
            (None, Some(home)) => format!("{home}.{}", key.value),
            (None, None) => return,
        };
        if !beside.iter().any(|entry| Some(entry.key.as_str()) == near) {
            self.note_inherited(self.out.len() - 1, &meant);
            if !self.inherited.values.contains_key(&meant) {
                self.refused.push(meant);
            }
        }
    }

    /// Tells the first diagnostic from `index` on what holds without the value at fault.
    fn note_inherited(&mut self, index: usize, path: &str) {
        let Some(inherited) = self.inherited.values.get(path) else { return };
        let Some(diagnostic) = self.out.get_mut(index) else { return };
        let key = path.rsplit('.').next().unwrap_or(path);
        let text = format!("without it `{key}` stays {}", shortened(&inherited.to_string()));
        let label = Some(Label { origin: inherited.origin.clone(), text: "inherited from here".into() });
        diagnostic.notes.push(Note { text, label });
    }
}
