//! A template's document as it was written: JSON, in which nothing is lost without a word. A member that is there twice and
//! a number that would be sent as another one are refused.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::TemplateError;

/// Reads a document.
pub(super) fn read(text: &str) -> Result<Value, TemplateError> {
    let document: Document =
        serde_json::from_str(text).map_err(|error| TemplateError::NotJson(error.to_string()))?;
    match numbers(text).find(|number| !is_kept(number)) {
        Some(number) => Err(TemplateError::Number(number.chars().take(40).collect())),
        None => Ok(document.0),
    }
}

struct Document(Value);

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader).map(Self)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Document(entry)) = entries.next_element()? {
            list.push(entry);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some(name) = entries.next_key::<String>()? {
            if members.contains_key(&name) {
                let shown: String = name.chars().filter(|c| !c.is_control()).take(100).collect();
                return Err(Error::custom(format!("the member `{shown}` is there twice")));
            }
            let Document(value) = entries.next_value()?;
            members.insert(name, value);
        }
        Ok(Value::Object(members))
    }
}

/// The numbers of a text that is JSON.
fn numbers(text: &str) -> impl Iterator<Item = &str> {
    let (mut in_text, mut is_escaped) = (false, false);
    text.split(move |character: char| {
        let was_in_text = in_text;
        match character {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = in_text,
            '"' => in_text = !in_text,
            _ => {}
        }
        was_in_text || !(character.is_ascii_alphanumeric() || "+-.".contains(character))
    })
    .filter(|word| word.starts_with(|first: char| first == '-' || first.is_ascii_digit()))
}

/// Whether the number that is sent for this one has its value.
fn is_kept(number: &str) -> bool {
    let is_whole = !number.contains(['.', 'e', 'E']);
    if is_whole && (number.parse::<i64>().is_ok() || number.parse::<u64>().is_ok()) {
        return true;
    }
    let sent = number.parse::<f64>().map(|sent| format!("{sent:e}"));
    sent.is_ok_and(|sent| decimal(&sent) == decimal(number))
}

/// A number's significant digits, and the power of ten that they are to be multiplied by; the sign never changes.
fn decimal(number: &str) -> Option<(String, i64)> {
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{}{fraction}", whole.trim_start_matches('-'));
    let digits = digits.trim_start_matches('0');
    let kept = digits.trim_end_matches('0');
    if kept.is_empty() {
        return Some((String::new(), 0));
    }
    let places = i64::try_from(fraction.len()).ok()?;
    let dropped = i64::try_from(digits.len() - kept.len()).ok()?;
    let exponent = exponent.parse::<i64>().ok()?;
    Some((
        kept.to_owned(),
        exponent.checked_sub(places)?.checked_add(dropped)?,
    ))
}
