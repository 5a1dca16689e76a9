//! The OpenAPI document as a measure: which answer it describes for a request, and whether what was answered is of that kind.

use crate::client::Answer;
use serde_json::{Value, json};
use std::sync::LazyLock;

/// What TCP serves beside nothing at all; the rest of the document is that of the unix socket.
const ON_TCP: [&str; 6] = ["/health", "/livez", "/readyz", "/startupz", "/status", "/runners"];

/// The document.
pub fn document() -> &'static Value {
    static DOCUMENT: LazyLock<Value> =
        LazyLock::new(|| serde_json::from_str(&ci_runner::http::openapi_json()).unwrap());
    &DOCUMENT
}

/// Every operation as `GET /path`.
pub fn operations() -> impl Iterator<Item = (String, &'static Value)> {
    let paths = document()["paths"].as_object().unwrap().iter();
    paths.flat_map(|(path, item)| {
        let methods = item.as_object().unwrap().iter();
        methods.map(move |(method, operation)| (format!("{} {path}", method.to_uppercase()), operation))
    })
}

/// What a `$ref` leads to, or the thing itself.
pub fn resolve<'a>(document: &'a Value, thing: &'a Value) -> &'a Value {
    match thing["$ref"].as_str() {
        None => thing,
        Some(target) => {
            let pointer = target.strip_prefix('#').unwrap_or_else(|| panic!("{target} leads outside"));
            document.pointer(pointer).unwrap_or_else(|| panic!("{target} leads nowhere"))
        }
    }
}

/// The operation that answers this request, as `GET /path`; None where there is no such route.
pub fn operation(method: &str, target: &str) -> Option<(&'static str, &'static Value)> {
    let asked = target.split('?').next().unwrap_or_default();
    let fits = |path: &str| {
        let (mut parts, mut asked) = (path.split('/'), asked.split('/'));
        loop {
            match (parts.next(), asked.next()) {
                (None, None) => return true,
                (Some(part), Some(asked)) if part == asked => {}
                (Some(part), Some(asked)) if part.starts_with('{') && !asked.is_empty() => {}
                _ => return false,
            }
        }
    };
    let paths = document()["paths"].as_object().unwrap();
    let mut found: Vec<_> = paths.iter().filter(|(path, _)| fits(path)).collect();
    // `/jobs/cancel` before `/jobs/{id}`.
    found.sort_by_key(|(path, _)| path.matches('{').count());
    let (path, item) = found.first()?;
    Some((path.as_str(), item.get(method.to_lowercase())?))
}

/// How the document describes this answer; None where it describes no such route.
///
/// # Panics
/// The route is described, this status of it is not.
pub fn described(method: &str, target: &str, tcp: bool, status: u16) -> Option<&'static Value> {
    let (path, operation) = operation(method, target)?;
    if tcp && !ON_TCP.contains(&path) {
        return None;
    }
    let response = resolve(document(), &operation["responses"][status.to_string()]);
    assert!(response.is_object(), "{method} {path} does not document {status}");
    Some(response)
}

/// Fails unless the answer is as the document says.
pub fn agrees(method: &str, target: &str, tcp: bool, answer: &Answer) {
    let Some(response) = described(method, target, tcp, answer.status) else { return };
    let at = format!("{method} {target}, {}", answer.status);
    let Some(content) = response["content"].as_object() else {
        assert!(answer.bytes.is_empty(), "{at}: no body is documented: {answer:?}");
        return;
    };
    let kind = answer.header("content-type").split(';').next().unwrap_or_default();
    let media = content.get(kind).unwrap_or_else(|| panic!("{at}: {kind:?} is not documented"));
    let values = match kind {
        "application/x-ndjson" => answer.lines(),
        "application/json" | "application/problem+json" => vec![answer.json()],
        _ => return,
    };
    for value in values {
        check(document(), &media["schema"], &value, "").unwrap_or_else(|error| panic!("{at}: {error}"));
    }
}

/// Fails unless the value is of the kind that the document describes under this name.
pub fn is_a(name: &str, value: &Value) {
    let schema = json!({ "$ref": format!("#/components/schemas/{name}") });
    check(document(), &schema, value, name).unwrap_or_else(|error| panic!("{error}"));
}

fn is_of(kind: &str, value: &Value) -> bool {
    match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("type {other}"),
    }
}

/// One schema for an object that has the properties of all of them.
fn joined(document: &Value, parts: &[Value]) -> Value {
    let mut joined = json!({"type": "object", "properties": {}, "required": []});
    for part in parts {
        let part = resolve(document, part);
        let properties = part["properties"].as_object().into_iter().flatten();
        properties.for_each(|(key, schema)| joined["properties"][key] = schema.clone());
        let required = part["required"].as_array().into_iter().flatten().cloned();
        joined["required"].as_array_mut().unwrap().extend(required);
    }
    joined
}

/// The part of JSON Schema that the document uses; properties that it does not name are errors.
pub fn check(document: &Value, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    let schema = resolve(document, schema);
    for key in ["oneOf", "anyOf"] {
        if let Some(choices) = schema[key].as_array() {
            let tried: Vec<_> = choices.iter().map(|choice| check(document, choice, value, at)).collect();
            let fits = tried.iter().any(Result::is_ok);
            return if fits { Ok(()) } else { Err(format!("{at}: {value} fits none: {tried:?}")) };
        }
    }
    if let Some(parts) = schema["allOf"].as_array() {
        return check(document, &joined(document, parts), value, at);
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(many) => many.iter().filter_map(Value::as_str).collect(),
        _ => return Ok(()),
    };
    if !types.iter().any(|kind| is_of(kind, value)) {
        return Err(format!("{at}: {value} is not {types:?}"));
    }
    if let (Some(values), Some(items)) = (value.as_array(), schema.get("items")) {
        let mut numbered = values.iter().enumerate();
        return numbered.try_for_each(|(index, value)| check(document, items, value, &format!("{at}[{index}]")));
    }
    let Some(object) = value.as_object() else { return Ok(()) };
    let mut required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    if let Some(missing) = required.find(|key| !object.contains_key(*key)) {
        return Err(format!("{at}: {missing} is missing in {value}"));
    }
    for (key, value) in object {
        match schema["properties"].get(key).or(schema.get("additionalProperties")) {
            Some(schema) => check(document, schema, value, &format!("{at}.{key}"))?,
            None => return Err(format!("{at}: {key} is not documented")),
        }
    }
    Ok(())
}

/// The checker itself refuses what is wrong: without that, agreement would say nothing.
#[test]
fn the_checker_refuses() {
    let problem = json!({"$ref": "#/components/schemas/Problem"});
    let good = json!({"type": "t", "title": "t", "status": 400, "detail": "d"});
    assert_eq!(check(document(), &problem, &good, ""), Ok(()));
    for (key, value) in [("status", json!("400")), ("more", json!(1)), ("index", json!("x"))] {
        let mut bad = good.clone();
        bad[key] = value;
        assert!(check(document(), &problem, &bad, "").is_err(), "{bad}");
    }
    assert!(check(document(), &problem, &json!({"type": "t"}), "").is_err());
}

#[test]
fn requests_are_matched_to_their_operations() {
    for (method, target, path) in [
        ("GET", "/api/v1/jobs?limit=2", Some("/api/v1/jobs")),
        ("GET", "/api/v1/jobs/7", Some("/api/v1/jobs/{id}")),
        ("POST", "/api/v1/jobs/cancel", Some("/api/v1/jobs/cancel")),
        ("POST", "/api/v1/jobs/7/cancel", Some("/api/v1/jobs/{id}/cancel")),
        ("DELETE", "/api/v1/jobs", None),
        ("GET", "/api/v1/jobs/", None),
        ("GET", "/nothing", None),
    ] {
        assert_eq!(operation(method, target).map(|(path, _)| path), path, "{method} {target}");
    }
    assert!(described("GET", "/api/v1/jobs", false, 200).is_some());
    assert!(std::panic::catch_unwind(|| described("GET", "/api/v1/jobs", false, 418)).is_err());
}
