//! JSON of any kind, up to a number of parts: a value of a few bytes takes thirty times as many in memory. No key is there
//! twice: which of the two was meant nobody can tell.

use super::join;
use ci_runner_core::job::Fault;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::cell::{Cell, RefCell};
use std::fmt;

/// Parts of a value: more than any job has but one whose command is a hundred thousand words.
pub const PARTS_MAX: usize = 100_000;

/// Where a reading stands, and what it stumbled over.
#[derive(Default)]
pub struct Notes {
    parts: Cell<usize>,
    /// The path of the key that is there twice, from its object outwards.
    doubled: RefCell<Option<String>>,
}

impl Notes {
    /// The key that ended the reading, if one did.
    pub fn fault(&self) -> Option<Fault> {
        let field = self.doubled.borrow_mut().take()?;
        Some(Fault { field, why: TWICE.to_owned() })
    }

    fn one_more<E: Error>(&self) -> Result<(), E> {
        let count = self.parts.get() + 1;
        self.parts.set(count);
        if count > PARTS_MAX { Err(E::custom("too many parts")) } else { Ok(()) }
    }

    /// What was found lies in this part.
    fn lies_in(&self, part: &str) {
        let mut doubled = self.doubled.borrow_mut();
        *doubled = doubled.take().map(|inner| join(part, &inner));
    }
}

/// What is said of a key that is there twice.
pub const TWICE: &str = "is given twice; give it once";

/// Reads a value; a larger one, or one with a key twice, is an error of its data.
#[derive(Clone, Copy)]
pub struct Parts<'a>(pub &'a Notes);

impl<'de> DeserializeSeed<'de> for Parts<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.0.one_more()?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Parts<'_> {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        loop {
            let entry = list.next_element_seed(self);
            match entry.inspect_err(|_| self.0.lies_in(&format!("[{}]", entries.len())))? {
                Some(entry) => entries.push(entry),
                None => return Ok(Value::Array(entries)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            if entries.contains_key(&name) {
                *self.0.doubled.borrow_mut() = Some(name);
                return Err(A::Error::custom("a key is there twice"));
            }
            let value = map.next_value_seed(self).inspect_err(|_| self.0.lies_in(&name))?;
            entries.insert(name, value);
        }
        Ok(Value::Object(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<Value, (serde_json::Error, Option<String>)> {
        let notes = Notes::default();
        let value = Parts(&notes).deserialize(&mut serde_json::Deserializer::from_str(json));
        value.map_err(|error| (error, notes.fault().map(|fault| fault.field)))
    }

    #[test]
    fn it_reads_as_json_is_read_up_to_so_many_parts() {
        let json = r#"{"a":[1,-2,0.5,"x",null,true,{"b":[]}],"c":18446744073709551615}"#;
        assert_eq!(parse(json).unwrap(), serde_json::from_str::<Value>(json).unwrap());
        let list = |count: usize| format!("[{}]", vec!["1"; count].join(","));
        assert!(parse(&list(PARTS_MAX - 1)).is_ok());
        assert!(matches!(parse(&list(PARTS_MAX)), Err((error, None)) if error.is_data()));
        assert!(matches!(parse("[1,"), Err((error, None)) if error.is_eof()));
    }

    #[test]
    fn a_key_that_is_there_twice_is_told_with_its_path() {
        for (json, path) in [
            (r#"{"a":1,"a":1}"#, "a"),
            (r#"{"env":{"A":"1","B":"2","A":"3"}}"#, "env.A"),
            (r#"[{},{"after":[1,{"id":2,"id":3}]}]"#, "[1].after[1].id"),
        ] {
            let (error, told) = parse(json).unwrap_err();
            assert!(error.is_data(), "{json}: {error}");
            assert_eq!(told.as_deref(), Some(path), "{json}");
        }
    }
}
