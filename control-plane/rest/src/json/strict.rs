//! Bytes to a JSON tree, stricter than `serde_json` alone: duplicate keys and deep nesting are refused.
//!
//! A duplicate key is refused because two readers may disagree about which one counts. The depth is bounded
//! before anything recurses over the tree.

use std::{cell::RefCell, fmt};

use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::error::{RequestError, Violations};

/// Parses one JSON document with nothing but white space around it.
pub(crate) fn parse(bytes: &[u8], depth_max: usize) -> Result<Value, RequestError> {
    let state = State {
        depth_max,
        path: RefCell::new(Vec::new()),
        duplicate: RefCell::new(None),
    };
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let parsed = Node {
        state: &state,
        depth: 0,
    }
    .deserialize(&mut reader);
    let parsed = parsed.and_then(|value| reader.end().map(|()| value));
    if let Some(path) = state.duplicate.take() {
        let mut violations = Violations::default();
        violations.add(path, "the key is given twice");
        violations.into_result()?;
    }
    parsed.map_err(|error| RequestError::Syntax(error.to_string()))
}

struct State {
    depth_max: usize,
    /// Names and indexes from the root to where the reader is.
    path: RefCell<Vec<String>>,
    duplicate: RefCell<Option<String>>,
}

#[derive(Clone, Copy)]
struct Node<'s> {
    state: &'s State,
    depth: usize,
}

impl Node<'_> {
    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.depth == self.state.depth_max {
            return Err(E::custom(format_args!(
                "it nests deeper than {} levels",
                self.state.depth_max
            )));
        }
        Ok(Self {
            depth: self.depth + 1,
            ..self
        })
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| E::custom("the number is out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut values = Vec::new();
        loop {
            self.state.path.borrow_mut().push(format!("[{}]", values.len()));
            let next = seq.next_element_seed(inner)?;
            self.state.path.borrow_mut().pop();
            match next {
                Some(value) => values.push(value),
                None => return Ok(Value::Array(values)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut values = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            self.state.path.borrow_mut().push(format!(".{key}"));
            if values.contains_key(&key) {
                let path = self.state.path.borrow().concat();
                *self.state.duplicate.borrow_mut() = Some(path.trim_start_matches('.').to_owned());
                return Err(A::Error::custom("a key is given twice"));
            }
            let value = map.next_value_seed(inner)?;
            self.state.path.borrow_mut().pop();
            values.insert(key, value);
        }
        Ok(Value::Object(values))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_duplicate_key_is_refused_by_its_path_however_it_is_escaped() {
        for (text, path) in [
            (r#"{"a":1,"a":1}"#, "a"),
            (r#"{"a":1,"\u0061":2}"#, "a"),
            (r#"{"m":{"x":[{},{"k":1,"k":2}]}}"#, "m.x[1].k"),
            (r#"{"":1,"":2}"#, ""),
        ] {
            let error = parse(text.as_bytes(), 24).expect_err(text);
            let RequestError::Invalid(violations, 0) = error else {
                panic!("{error:?}")
            };
            assert_eq!(violations[0].field, path);
        }
    }

    #[test]
    fn the_same_key_may_stand_in_two_objects() {
        assert_eq!(
            parse(br#"[{"a":1},{"a":{"a":2}}]"#, 24),
            Ok(json!([{"a": 1}, {"a": {"a": 2}}]))
        );
    }

    #[test]
    fn nesting_is_bounded_exactly() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(parse(nested(24).as_bytes(), 24).is_ok());
        for depth in [25, 129, 100_000] {
            let error = parse(nested(depth).as_bytes(), 24).expect_err("too deep");
            assert!(error.to_string().contains("deeper than 24 levels"), "{error}");
        }
    }

    #[test]
    fn what_is_not_json_is_refused() {
        let broken: [&[u8]; 9] = [
            b"",
            b"{",
            b"{}x",
            b"{'a':1}",
            b"{\"a\":01}",
            b"\"\xff\"",
            b"\"\\ud800\"",
            b"1e999",
            b"NaN",
        ];
        for text in broken {
            assert!(
                matches!(parse(text, 24), Err(RequestError::Syntax(_))),
                "{text:?}"
            );
        }
    }

    #[test]
    fn the_order_of_keys_and_the_kind_of_numbers_are_kept() {
        let text = r#"{"b":1,"a":-1,"c":1.5,"d":18446744073709551615,"e":"\u0000","f":[null,true]}"#;
        assert_eq!(parse(text.as_bytes(), 24).expect("valid").to_string(), text);
    }
}
