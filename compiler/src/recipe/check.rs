//! Holds one value against what its key takes.

use super::choice::TargetName;
use super::diagnostic::Diagnostic;
use super::mistake::{Mistake, shortened};
use super::schema::{Kind, LONGEST_LIST, is_name};
use super::source::Located;
use super::suggest::near_miss;
use super::value::{Entry, Value};

/// The value as builds see it, or `None` after reporting what is wrong. Numbers of a float key become floats and
/// a single element becomes a list, so that equal values print alike.
pub(super) fn check(
    kind: &Kind,
    subject: &str,
    value: &Located<Value>,
    out: &mut Vec<Diagnostic>,
) -> Option<Located<Value>> {
    match (kind, &value.value) {
        (Kind::List(kind), Value::List(items)) => list(kind, subject, value, items, true, out),
        (Kind::OneOrMore(kind), Value::List(items)) => list(kind, subject, value, items, false, out),
        (Kind::OneOrMore(one), Value::Integer(_) | Value::Float(_)) => {
            let item = check(one, subject, value, out)?;
            Some(Located::new(Value::List(vec![item]), value.origin.clone()))
        }
        (Kind::Cells, Value::List(items)) => cells(subject, value, items, out),
        _ => match scalar(kind, subject, &value.value) {
            Ok(checked) => Some(Located::new(checked, value.origin.clone())),
            Err(mistake) => {
                out.push(Diagnostic::new(mistake, &value.origin));
                None
            }
        },
    }
}

fn scalar(kind: &Kind, subject: &str, value: &Value) -> Result<Value, Mistake> {
    let off = |why: String| Err(Mistake::OutOfRange { subject: subject.to_owned(), expected: kind.to_string(), why });
    match (kind, value) {
        (Kind::Text, Value::Text(text)) if text.is_empty() => off("this is empty".into()),
        (Kind::Name, Value::Text(text)) if !is_name(text, true) => {
            Err(Mistake::BadName { subject: subject.to_owned(), expected: kind.to_string() })
        }
        (Kind::Choice(names), Value::Text(text)) if !names.contains(&text.as_str()) => Err(Mistake::UnknownChoice {
            subject: subject.to_owned(),
            found: shortened(text),
            near: near_miss(text, names.iter().copied()).map(str::to_owned),
            choices: names,
        }),
        (Kind::Text | Kind::Name | Kind::Choice(_), Value::Text(_)) | (Kind::Boolean, Value::Boolean(_)) => {
            Ok(value.clone())
        }

        (Kind::Integer { min, max } | Kind::PowerOfTwo { min, max }, Value::Integer(number)) => {
            let power = u64::try_from(*number).is_ok_and(u64::is_power_of_two);
            match *number {
                number if number < i128::from(*min) => off(format!("less than {min}")),
                number if number > i128::from(*max) => off(format!("more than {max}")),
                _ if matches!(kind, Kind::PowerOfTwo { .. }) && !power => off("not a power of two".into()),
                _ => Ok(value.clone()),
            }
        }
        (Kind::Float { .. } | Kind::Probability, Value::Integer(number)) => {
            scalar(kind, subject, &Value::Float(*number as f64))
        }
        (Kind::Float { .. } | Kind::Probability, Value::Float(number)) if number.is_nan() => off("not a number".into()),
        (Kind::Float { min, .. }, Value::Float(number)) if number < min => off(format!("less than {min}")),
        (Kind::Float { max, .. }, Value::Float(number)) if number > max => off(format!("more than {max}")),
        (Kind::Probability, Value::Float(number)) if *number <= 0.0 => off("not above 0".into()),
        (Kind::Probability, Value::Float(number)) if *number > 1.0 => off("more than 1".into()),
        // Adding 0.0 turns -0.0 into 0.0.
        (Kind::Float { .. } | Kind::Probability, Value::Float(number)) => Ok(Value::Float(*number + 0.0)),
        _ => Err(wrong_type(subject, kind, value)),
    }
}

fn wrong_type(subject: &str, kind: &Kind, value: &Value) -> Mistake {
    let instead = match (kind, value) {
        (Kind::List(_) | Kind::Cells, _) => Some(format!("[{}]", shortened(&value.to_string()))),
        (Kind::Choice(_), _) => None,
        (Kind::Text | Kind::Name, Value::Integer(_) | Value::Float(_)) => Some(format!("\"{value}\"")),
        (Kind::Boolean, Value::Text(text)) if text.parse::<bool>().is_ok() => Some(text.clone()),
        (Kind::Boolean, _) => None,
        (_, Value::Text(text)) if text.parse::<f64>().is_ok() => Some(shortened(text)),
        _ => None,
    };
    Mistake::WrongType { subject: subject.to_owned(), expected: kind.to_string(), found: value.describe(), instead }
}

/// A list of one to [`LONGEST_LIST`] elements, `distinct` or not.
fn list(
    kind: &Kind,
    subject: &str,
    value: &Located<Value>,
    items: &[Located<Value>],
    distinct: bool,
    out: &mut Vec<Diagnostic>,
) -> Option<Located<Value>> {
    let before = out.len();
    if items.is_empty() {
        out.push(length("this is empty".into(), subject, value));
    } else if items.len() > LONGEST_LIST {
        out.push(length(format!("these are {} elements", items.len()), subject, value));
        return None;
    }
    let each = format!("each element of {subject}");
    let items: Vec<_> = items.iter().filter_map(|item| check(kind, &each, item, out)).collect();
    if distinct {
        report_repeated(subject, &items, out);
    }
    (out.len() == before).then(|| Located::new(Value::List(items), value.origin.clone()))
}

fn length(why: String, subject: &str, value: &Located<Value>) -> Diagnostic {
    let expected = format!("an array of 1 to {LONGEST_LIST} elements");
    Diagnostic::new(Mistake::OutOfRange { subject: subject.to_owned(), expected, why }, &value.origin)
}

fn report_repeated(subject: &str, items: &[Located<Value>], out: &mut Vec<Diagnostic>) {
    for (index, item) in items.iter().enumerate() {
        if let Some(first) = items[..index].iter().find(|earlier| *earlier == item) {
            let mistake = Mistake::Repeated { subject: subject.to_owned(), value: shortened(&item.to_string()) };
            out.push(Diagnostic::new(mistake, &item.origin).label(&first.origin, "first here"));
        }
    }
}

/// The exceptions of the matrix. An empty list is one too: it lifts the exceptions of the parent.
fn cells(
    subject: &str,
    value: &Located<Value>,
    items: &[Located<Value>],
    out: &mut Vec<Diagnostic>,
) -> Option<Located<Value>> {
    let before = out.len();
    if items.len() > LONGEST_LIST {
        out.push(length(format!("these are {} elements", items.len()), subject, value));
        return None;
    }
    for item in items {
        match &item.value {
            Value::Table(entries) if !entries.is_empty() => {
                entries.iter().for_each(|entry| cell_entry(subject, entry, out));
            }
            other => {
                let found = if matches!(other, Value::Table(_)) { "an empty table" } else { other.describe() };
                let (subject, expected) = (format!("each element of {subject}"), "`{ target = …, quant = … }`".into());
                out.push(Diagnostic::new(Mistake::WrongType { subject, expected, found, instead: None }, &item.origin));
            }
        }
    }
    report_repeated(subject, items, out);
    (out.len() == before).then(|| value.clone())
}

fn cell_entry(subject: &str, entry: &Entry, out: &mut Vec<Diagnostic>) {
    const KEYS: [&str; 2] = ["target", "quant"];
    let named = |key: &str| format!("`{key}` in {subject}");
    match entry.key.as_str() {
        "target" => {
            check(&Kind::Choice(TargetName::NAMES), &named("target"), &entry.value, out);
        }
        "quant" => {
            check(&Kind::Text, &named("quant"), &entry.value, out);
        }
        key => {
            let near = near_miss(key, KEYS).map(str::to_owned);
            let (table, key) = (subject.trim_matches('`').to_owned(), shortened(key));
            let mistake = Mistake::UnknownKey { table, key, near, home: None, keys: KEYS.to_vec() };
            out.push(Diagnostic::new(mistake, &entry.key.origin));
        }
    }
}
