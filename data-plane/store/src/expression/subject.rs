//! Events as CEL sees them, and CEL's values as JSON.

use std::collections::HashMap;
use std::sync::Arc;

use cel::Value;
use cel::common::value::{CowVal, Val};
use cel::context::VariableResolver;
use cel::objects::{Key, Map};

use super::environment::Pattern;
use super::{EvaluateError, TEMPLATE_VARIABLES};

/// An event, converted once and then matched against the expressions of many endpoints.
#[derive(Debug)]
pub struct Subject {
    variables: Vec<(&'static str, Box<dyn Val>)>,
}

impl Subject {
    /// From the event's native JSON object; for a template, `code` stands beside the event's own fields. Whole
    /// numbers are `int` where they fit.
    pub fn new(event: &serde_json::Value) -> Self {
        let variables = TEMPLATE_VARIABLES
            .iter()
            .filter_map(|name| {
                let value: Box<dyn Val> = from_json(event.get(*name)?).try_into().ok()?;
                Some((*name, value))
            })
            .collect();
        Subject { variables }
    }
}

/// What the names of one evaluation stand for.
pub(super) struct Scope<'a> {
    pub(super) subject: &'a Subject,
    pub(super) patterns: &'a [Pattern],
}

impl VariableResolver for Scope<'_> {
    fn resolve<'b>(&'b self, variable: &str) -> Option<CowVal<'b, 'b>> {
        if let Some(index) = variable.strip_prefix('@') {
            let pattern = self.patterns.get(index.parse::<usize>().ok()?)?;
            return Some(CowVal::Borrowed(pattern));
        }
        let (_, value) = self
            .subject
            .variables
            .iter()
            .find(|(name, _)| *name == variable)?;
        Some(CowVal::Borrowed(value.as_ref()))
    }
}

fn from_json(value: &serde_json::Value) -> Value {
    match value {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::Bool(bool) => Value::Bool(*bool),
        serde_json::Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(int), _, _) => Value::Int(int),
            (None, Some(uint), _) => Value::UInt(uint),
            (None, None, Some(float)) => Value::Float(float),
            (None, None, None) => Value::Null,
        },
        serde_json::Value::String(text) => Value::String(Arc::new(text.clone())),
        serde_json::Value::Array(list) => Value::List(Arc::new(list.iter().map(from_json).collect())),
        serde_json::Value::Object(fields) => {
            let fields = fields
                .iter()
                .map(|(name, value)| (Key::String(Arc::new(name.clone())), from_json(value)));
            Value::Map(Map {
                map: Arc::new(fields.collect::<HashMap<_, _>>()),
            })
        }
    }
}

/// The value as JSON, as long as `room` bytes last.
pub(super) fn to_json(value: &Value, room: &mut usize) -> Result<serde_json::Value, EvaluateError> {
    /// What a number or a bracket may take.
    const SCALAR_BYTES: usize = 8;
    let size = match value {
        Value::String(text) => text.len().saturating_add(2),
        _ => SCALAR_BYTES,
    };
    *room = room.checked_sub(size).ok_or(EvaluateError::TooLarge)?;
    Ok(match value {
        Value::Null => serde_json::Value::Null,
        Value::Bool(bool) => (*bool).into(),
        Value::Int(int) => (*int).into(),
        Value::UInt(uint) => (*uint).into(),
        // What JSON cannot say (an infinity, NaN) is null.
        Value::Float(float) => (*float).into(),
        Value::String(text) => text.as_str().into(),
        Value::List(list) => list
            .iter()
            .map(|value| to_json(value, room))
            .collect::<Result<Vec<_>, _>>()?
            .into(),
        Value::Map(map) => {
            let mut fields: Vec<(String, &Value)> = map
                .map
                .iter()
                .map(|(key, value)| (key.to_string(), value))
                .collect();
            fields.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
            let mut object = serde_json::Map::new();
            for (name, value) in fields {
                *room = room
                    .checked_sub(name.len().saturating_add(3))
                    .ok_or(EvaluateError::TooLarge)?;
                object.insert(name, to_json(value, room)?);
            }
            object.into()
        }
        _ => {
            return Err(EvaluateError::Failed {
                reason: "the value cannot be written as JSON".to_owned(),
            });
        }
    })
}
