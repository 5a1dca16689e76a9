//! JSON of any kind, up to a number of parts: a value of a few bytes takes thirty times as many in memory.

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::cell::Cell;
use std::fmt;

/// Parts of a value: more than any job has but one whose command is a hundred thousand words.
pub const PARTS_MAX: usize = 100_000;

/// Reads a value; a larger one is an error of its data.
#[derive(Clone, Default)]
pub struct Parts<'a> {
    count: Count<'a>,
}

#[derive(Clone)]
enum Count<'a> {
    Own(Cell<usize>),
    Of(&'a Cell<usize>),
}

impl Default for Count<'_> {
    fn default() -> Self {
        Self::Own(Cell::new(0))
    }
}

impl Parts<'_> {
    fn cell(&self) -> &Cell<usize> {
        match &self.count {
            Count::Own(cell) => cell,
            Count::Of(cell) => cell,
        }
    }

    fn one_more<E: Error>(&self) -> Result<(), E> {
        let count = self.cell().get() + 1;
        self.cell().set(count);
        if count > PARTS_MAX { Err(E::custom("too many parts")) } else { Ok(()) }
    }

    fn inner(&self) -> Parts<'_> {
        Parts { count: Count::Of(self.cell()) }
    }
}

impl<'de> DeserializeSeed<'de> for Parts<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.one_more()?;
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
        while let Some(entry) = list.next_element_seed(self.inner())? {
            entries.push(entry);
        }
        Ok(Value::Array(entries))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            entries.insert(name, map.next_value_seed(self.inner())?);
        }
        Ok(Value::Object(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> serde_json::Result<Value> {
        Parts::default().deserialize(&mut serde_json::Deserializer::from_str(json))
    }

    #[test]
    fn it_reads_as_json_is_read_up_to_so_many_parts() {
        let json = r#"{"a":[1,-2,0.5,"x",null,true,{"b":[]}],"c":18446744073709551615}"#;
        assert_eq!(parse(json).unwrap(), serde_json::from_str::<Value>(json).unwrap());
        let list = |count: usize| format!("[{}]", vec!["1"; count].join(","));
        assert!(parse(&list(PARTS_MAX - 1)).is_ok());
        assert!(parse(&list(PARTS_MAX)).unwrap_err().is_data());
        assert!(parse("[1,").unwrap_err().is_eof());
    }
}
