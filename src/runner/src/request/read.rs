//! JSON into requests, with faults that name the field.
//!
//! Reading is done twice at most: first straight into the types, which is fast and says little when it fails; only then a
//! second time, key by key, to name the one that is wrong, with what may stand there (`forms.rs`). The second reading stops at
//! [`parts::PARTS_MAX`] parts: what is larger is no job, and then says less.

mod forms;
mod parts;

use crate::api::{JobRequest, ScheduleRequest};
use crate::suggest::{did_you_mean, fields_of};
use ci_runner_core::job::Fault;
use parts::{Notes, Parts, TWICE};
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, Error as _, IgnoredAny, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::fmt;

/// Words, labels, variables, dependencies and the like that all jobs of an array have: forty for each of the most jobs there may
/// be. In memory they take some fifty bytes each, however short they are.
const ENTRIES_MAX: usize = 4_000_000;

/// A fault, and in which job of an array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadFault {
    /// Index from 0; None: the whole.
    pub index: Option<usize>,
    /// What is wrong. An empty field means the whole document or job.
    pub fault: Fault,
}

/// Reads a document of any type that refuses unknown keys.
pub fn read<T: DeserializeOwned>(json: &[u8]) -> Result<T, Fault> {
    serde_json::from_slice(json).or_else(|error| explain::<T>(json, &error, id_of))
}

/// Reads one job.
pub fn read_job(json: &[u8]) -> Result<JobRequest, Fault> {
    serde_json::from_slice(json).or_else(|error| explain::<JobRequest>(json, &error, job_part))
}

/// Reads a schedule.
pub fn read_schedule(json: &[u8]) -> Result<ScheduleRequest, Fault> {
    let job = |key: &str, value: &Value| match key {
        "job" => whole_job(value).map(|fault| Fault { field: join("job", &fault.field), ..fault }),
        _ => None,
    };
    serde_json::from_slice(json).or_else(|error| explain::<ScheduleRequest>(json, &error, job))
}

/// Reads an array of at most `most` jobs.
pub fn read_jobs(json: &[u8], most: usize) -> Result<Vec<JobRequest>, ReadFault> {
    let (mut jobs, mut entries) = (Vec::new(), 0);
    let mut reader = serde_json::Deserializer::from_slice(json);
    let read =
        Jobs { jobs: &mut jobs, most, entries: &mut entries }.deserialize(&mut reader).and_then(|()| reader.end());
    let Err(error) = read else { return Ok(jobs) };
    let index = jobs.len();
    if !error.is_data() {
        return Err(ReadFault { index: None, fault: no_json(&error) });
    }
    if index >= most {
        let why = format!("the array has more than {most} jobs; send them in parts");
        return Err(ReadFault { index: None, fault: Fault { field: String::new(), why } });
    }
    if entries > ENTRIES_MAX {
        let why = format!(
            "up to its job {index} the array has more than {ENTRIES_MAX} words, labels, variables, dependencies and the like; \
             send the jobs in parts"
        );
        return Err(ReadFault { index: None, fault: Fault { field: String::new(), why } });
    }
    // The elements behind it were not read yet, nor was its depth: only now may the text turn out to be no JSON.
    let notes = Notes::default();
    let element = match nth(json, index, &notes) {
        Ok(element) => element.unwrap_or_default(),
        Err(refused) if refused.is_data() => {
            let fault = notes.fault().unwrap_or_else(|| plain_fault(&error));
            return Err(ReadFault { index: Some(index), fault });
        }
        Err(error) => return Err(ReadFault { index: None, fault: no_json(&error) }),
    };
    let fault = whole_job(&element).unwrap_or_else(|| plain_fault(&error));
    Err(ReadFault { index: Some(index), fault })
}

/// Collects the jobs of an array, so that their number tells where an error was.
struct Jobs<'a> {
    jobs: &'a mut Vec<JobRequest>,
    most: usize,
    entries: &'a mut usize,
}

impl<'de> DeserializeSeed<'de> for Jobs<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Jobs<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an array of jobs")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        while let Some(job) = elements.next_element::<JobRequest>()? {
            *self.entries += job.entries();
            if *self.entries > ENTRIES_MAX {
                return Err(A::Error::custom("too many entries"));
            }
            if self.jobs.len() == self.most {
                return Err(A::Error::custom("too many jobs"));
            }
            self.jobs.push(job);
        }
        Ok(())
    }
}

/// The element of an array at an index.
fn nth(json: &[u8], index: usize, notes: &Notes) -> serde_json::Result<Option<Value>> {
    struct Nth<'a>(usize, &'a Notes);
    impl<'de> Visitor<'de> for Nth<'_> {
        type Value = Option<Value>;
        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("an array")
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Option<Value>, A::Error> {
            for _ in 0..self.0 {
                elements.next_element::<IgnoredAny>()?;
            }
            let wanted = elements.next_element_seed(Parts(self.1))?;
            while elements.next_element::<IgnoredAny>()?.is_some() {}
            Ok(wanted)
        }
    }
    serde_json::Deserializer::from_slice(json).deserialize_seq(Nth(index, notes))
}

fn no_json(error: &serde_json::Error) -> Fault {
    Fault { field: String::new(), why: format!("the body is no JSON: {error}") }
}

/// The second reading of an object of type `T`; `part` looks closer at the value of a known key.
fn explain<T: DeserializeOwned>(
    json: &[u8],
    error: &serde_json::Error,
    part: impl Fn(&str, &Value) -> Option<Fault>,
) -> Result<T, Fault> {
    if !error.is_data() {
        return Err(no_json(error));
    }
    let mut reader = serde_json::Deserializer::from_slice(json);
    let notes = Notes::default();
    let value = Parts(&notes).deserialize(&mut reader).and_then(|value| reader.end().map(|()| value));
    match value {
        Ok(value) => Err(whole::<T>(&value, part).unwrap_or_else(|| plain_fault(error))),
        Err(refused) if refused.is_data() => Err(notes.fault().unwrap_or_else(|| plain_fault(error))),
        Err(broken) => Err(no_json(&broken)),
    }
}

fn whole_job(value: &Value) -> Option<Fault> {
    whole::<JobRequest>(value, job_part)
}

/// What is wrong with an object that should be a `T`; None when no single key is to blame.
fn whole<T: DeserializeOwned>(value: &Value, part: impl Fn(&str, &Value) -> Option<Fault>) -> Option<Fault> {
    let Value::Object(object) = value else {
        return Some(Fault { field: String::new(), why: format!("is {}; an object is needed", kind(value)) });
    };
    let known = fields_of::<T>();
    if let Some(key) = object.keys().find(|key| !known.contains(&key.as_str())) {
        return Some(unknown(key, key, known));
    }
    object.iter().find_map(|(key, value)| {
        part(key, value).or_else(|| {
            let alone = Value::Object(Map::from_iter([(key.clone(), value.clone())]));
            let why = serde_json::from_value::<T>(alone).err()?.to_string();
            (!why.starts_with("missing field")).then(|| Fault { field: key.clone(), why: in_words(key, value, why) })
        })
    })
}

fn unknown(field: &str, key: &str, known: &[&str]) -> Fault {
    Fault {
        field: field.to_owned(),
        why: format!("there is no key {key:?}; {}", did_you_mean(key, known.iter().copied())),
    }
}

/// What serde said of a field. Of a value that is of another kind, or too large for its type, it says nothing that helps: what may
/// stand there does.
fn in_words(field: &str, value: &Value, why: String) -> String {
    let is_kind = why.starts_with("invalid type") || why.starts_with("invalid value");
    match forms::of(field).filter(|_| is_kind) {
        Some(form) => format!("is {}; {form}", kind(value)),
        None => why,
    }
}

/// What serde said, with the field it quotes.
fn plain_fault(error: &serde_json::Error) -> Fault {
    let text = error.to_string();
    let field = text.split('`').nth(1).unwrap_or_default().to_owned();
    let why = if text.starts_with("missing field") {
        forms::of(&field).map_or_else(|| "is missing".to_owned(), |form| format!("is missing; {form}"))
    } else if text.starts_with("duplicate field") {
        TWICE.to_owned()
    } else {
        text
    };
    Fault { field, why }
}

/// A closer look at lists of jobs.
fn id_of(key: &str, value: &Value) -> Option<Fault> {
    let mut ids = value.as_array().filter(|_| key == "ids")?.iter().enumerate();
    let (index, id) = ids.find(|(_, id)| !id.is_u64())?;
    Some(Fault { field: format!("ids[{index}]"), why: format!("is {}; {}", kind(id), forms::inner("id")) })
}

/// A closer look at the fields of a job that hold others.
fn job_part(key: &str, value: &Value) -> Option<Fault> {
    match key {
        "command" | "labels" | "notify" | "retry_on" => {
            let elements = value.as_array()?.iter().enumerate();
            texts(elements.map(|(index, value)| (format!("{key}[{index}]"), value)))
        }
        // Looked at whatever they are: what the general words would quote may be a secret.
        "env" | "secrets" => match value {
            Value::Object(object) => texts(object.iter().map(|(name, value)| (format!("{key}.{name}"), value))),
            other => {
                let why = format!("is {}; an object is needed, as in {{\"NAME\": \"value\"}}", kind(other));
                Some(Fault { field: key.to_owned(), why })
            }
        },
        "group" => object_or_text(key, value, &["name", "limit", "policy"], "a text such as \"deploy:2\""),
        "after" => {
            let elements = value.as_array()?.iter().enumerate();
            elements.filter(|(_, value)| !value.is_u64()).find_map(|(index, value)| {
                let forms = "an id such as 3, a text such as \"3:always\"";
                object_or_text(&format!("after[{index}]"), value, &["id", "on"], forms)
            })
        }
        _ => None,
    }
}

fn texts<'a>(mut values: impl Iterator<Item = (String, &'a Value)>) -> Option<Fault> {
    let (field, value) = values.find(|(_, value)| !value.is_string())?;
    Some(Fault { field, why: format!("is {}; a text is needed: write it in quotes", kind(value)) })
}

fn object_or_text(field: &str, value: &Value, known: &[&str], forms: &str) -> Option<Fault> {
    match value {
        Value::String(_) | Value::Null => None,
        Value::Object(object) => {
            if let Some(key) = object.keys().find(|key| !known.contains(&key.as_str())) {
                return Some(unknown(&format!("{field}.{key}"), key, known));
            }
            if let Some(required) = known.first().filter(|required| !object.contains_key(**required)) {
                let why = format!("is missing; {}", forms::inner(required));
                return Some(Fault { field: format!("{field}.{required}"), why });
            }
            object.iter().find_map(|(key, value)| {
                let fits = match key.as_str() {
                    "id" => value.is_u64(),
                    "limit" => value.as_u64().is_some_and(|limit| u32::try_from(limit).is_ok()),
                    _ => value.is_string(),
                };
                let optional = value.is_null() && known.first() != Some(&key.as_str());
                let why = || format!("is {}; {}", kind(value), forms::inner(key));
                (!fits && !optional).then(|| Fault { field: format!("{field}.{key}"), why: why() })
            })
        }
        _ => {
            let why = format!("is {}; write {forms} or an object with {}", kind(value), known.join(", "));
            Some(Fault { field: field.to_owned(), why })
        }
    }
}

/// The path of a part of a part; entries of lists are `[3]`.
fn join(outer: &str, inner: &str) -> String {
    let dot = if inner.is_empty() || inner.starts_with('[') { "" } else { "." };
    format!("{outer}{dot}{inner}")
}

/// A value in words; short, since a client wrote it.
fn kind(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => format!("the number {number}"),
        Value::String(_) => "a text".to_owned(),
        Value::Array(_) => "an array".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}
