//! What OpenAPI 3.1 demands of a document: for each kind of object that ours has, the fields that must be there and those that
//! may (<https://spec.openapis.org/oas/v3.1.1.html>). A reader that takes the specification at its word, as generators of
//! clients do, refuses the whole document for one response without a description.

use crate::schema::document;
use serde_json::{Map, Value, json};

/// Fields of one kind of object.
struct Kind {
    name: &'static str,
    required: &'static [&'static str],
    allowed: &'static [&'static str],
}

const ROOT: Kind = Kind { name: "document", required: &["openapi", "info", "paths"], allowed: &["components", "tags"] };
const INFO: Kind = Kind { name: "info", required: &["title", "version"], allowed: &["description", "license"] };
const LICENSE: Kind = Kind { name: "license", required: &["name"], allowed: &["identifier"] };
const COMPONENTS: Kind = Kind { name: "components", required: &[], allowed: &["schemas", "responses"] };
const METHODS: Kind = Kind { name: "path item", required: &[], allowed: &["get", "put", "post", "delete"] };
const OPERATION: Kind = Kind {
    name: "operation",
    required: &["responses"],
    allowed: &["tags", "summary", "description", "operationId", "parameters", "requestBody"],
};
const PARAMETER: Kind =
    Kind { name: "parameter", required: &["name", "in", "schema"], allowed: &["description", "required"] };
const BODY: Kind = Kind { name: "request body", required: &["content"], allowed: &["description", "required"] };
const RESPONSE: Kind = Kind { name: "response", required: &["description"], allowed: &["headers", "content"] };
const HEADER: Kind = Kind { name: "header", required: &["schema"], allowed: &["description"] };
const MEDIA: Kind = Kind { name: "media type", required: &["schema"], allowed: &["example"] };

/// What is wrong with a document, each with its place.
pub fn faults(document: &Value) -> Vec<String> {
    let mut faults = Faults(Vec::new());
    let root = faults.object(&ROOT, document, "");
    let info = faults.object(&INFO, &root["info"], "info");
    if let Some(license) = info.get("license") {
        faults.object(&LICENSE, license, "info.license");
    }
    let components = faults.object(&COMPONENTS, &root["components"], "components");
    for (name, schema) in &fields(components.get("schemas")) {
        faults.schema(schema, &format!("components.schemas.{name}"));
    }
    for (name, response) in &fields(components.get("responses")) {
        faults.response(response, &format!("components.responses.{name}"));
    }
    for (path, item) in &fields(root.get("paths")) {
        faults.unless(path.starts_with('/'), path, "a path begins with /");
        for (method, operation) in &faults.object(&METHODS, item, path) {
            faults.operation(operation, &format!("{method} {path}"));
        }
    }
    faults.0
}

fn fields(value: Option<&Value>) -> Map<String, Value> {
    value.and_then(Value::as_object).cloned().unwrap_or_default()
}

struct Faults(Vec<String>);

impl Faults {
    fn unless(&mut self, fine: bool, at: &str, why: &str) {
        if !fine {
            self.0.push(format!("{at}: {why}"));
        }
    }

    /// Its fields, with null for those that are missing.
    fn object(&mut self, kind: &Kind, value: &Value, at: &str) -> Map<String, Value> {
        self.unless(value.is_object(), at, "is no object");
        let mut found = fields(Some(value));
        for field in found.keys() {
            let known = kind.required.iter().chain(kind.allowed).any(|known| known == field);
            self.unless(known, at, &format!("a {} has no field {field:?}", kind.name));
        }
        for field in kind.required {
            let given = found.get(*field).is_some_and(|value| !matches!(value, Value::Null) && *value != json!(""));
            self.unless(given, at, &format!("a {} needs {field:?}", kind.name));
            found.entry(*field).or_insert(Value::Null);
        }
        found
    }

    fn operation(&mut self, operation: &Value, at: &str) {
        let operation = self.object(&OPERATION, operation, at);
        for parameter in operation.get("parameters").and_then(Value::as_array).into_iter().flatten() {
            let at = format!("{at}, parameter {}", parameter["name"]);
            let parameter = self.object(&PARAMETER, parameter, &at);
            let place = parameter["in"].as_str().unwrap_or_default();
            self.unless(["query", "header", "path", "cookie"].contains(&place), &at, "is nowhere");
            let required = parameter.get("required") == Some(&json!(true));
            self.unless(place != "path" || required, &at, "what is in the path is required");
            self.schema(&parameter["schema"], &at);
        }
        if let Some(body) = operation.get("requestBody") {
            let body = self.object(&BODY, body, at);
            self.content(&body["content"], at);
        }
        let responses = fields(operation.get("responses"));
        self.unless(!responses.is_empty(), at, "has no responses");
        for (status, response) in &responses {
            let code = status.len() == 3 && status.parse().is_ok_and(|code: u16| (100..600).contains(&code));
            self.unless(code, at, &format!("{status} is no status"));
            self.response(response, &format!("{at}, {status}"));
        }
    }

    /// A response, or where it is described.
    fn response(&mut self, response: &Value, at: &str) {
        if let Some(target) = response["$ref"].as_str() {
            self.unless(target.starts_with("#/components/responses/"), at, "leads to no response");
            return;
        }
        let response = self.object(&RESPONSE, response, at);
        for (name, header) in fields(response.get("headers")) {
            let header = self.object(&HEADER, &header, &format!("{at}, header {name}"));
            self.schema(&header["schema"], at);
        }
        if let Some(content) = response.get("content") {
            self.content(content, at);
        }
    }

    fn content(&mut self, content: &Value, at: &str) {
        self.unless(content.as_object().is_some_and(|content| !content.is_empty()), at, "has no content");
        for (kind, media) in fields(Some(content)) {
            self.unless(kind.contains('/'), at, &format!("{kind:?} is no media type"));
            let media = self.object(&MEDIA, &media, &format!("{at}, {kind}"));
            self.schema(&media["schema"], at);
        }
    }

    /// A schema's words: any may be there, these are of a kind.
    fn schema(&mut self, schema: &Value, at: &str) {
        if schema.is_boolean() {
            return;
        }
        self.unless(schema.is_object(), at, "a schema is an object or a boolean");
        let types = match &schema["type"] {
            Value::Null => Vec::new(),
            Value::Array(types) => types.clone(),
            one => vec![one.clone()],
        };
        let known = ["null", "boolean", "object", "array", "number", "string", "integer"].map(Value::from);
        self.unless(types.iter().all(|kind| known.contains(kind)), at, "is of no known type");
        let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
        for name in required {
            self.unless(schema["properties"].get(name).is_some(), at, &format!("{name:?} is required and not there"));
        }
        for (name, property) in fields(schema.get("properties")) {
            self.schema(&property, &format!("{at}.{name}"));
        }
        let parts = ["oneOf", "anyOf", "allOf"].into_iter().filter_map(|word| schema[word].as_array()).flatten();
        for part in parts.chain(schema.get("items")).chain(schema.get("additionalProperties")) {
            self.schema(part, at);
        }
    }
}

/// Without these the test of the document would say nothing: each of them is refused.
#[test]
fn what_the_specification_refuses_is_refused() {
    let spoiled = |pointer: &str, value: Option<Value>| {
        let mut document = document().clone();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        let parent = document.pointer_mut(parent).unwrap().as_object_mut().unwrap();
        let key = key.replace("~1", "/");
        match value {
            Some(value) => drop(parent.insert(key, value)),
            None => assert!(parent.remove(&key).is_some(), "{pointer}"),
        }
        faults(&document)
    };
    let list = "/paths/~1api~1v1~1jobs/get";
    for (pointer, value, why) in [
        ("/info/title".to_owned(), None, "info: a info needs \"title\""),
        (format!("{list}/responses/200/description"), None, "200: a response needs \"description\""),
        (format!("{list}/responses/200/description"), Some(json!("")), "200: a response needs \"description\""),
        ("/components/responses/NotNow/description".to_owned(), None, "NotNow: a response needs"),
        (format!("{list}/responses"), Some(json!({})), "has no responses"),
        (format!("{list}/responses/2000"), Some(json!({"description": "x"})), "2000 is no status"),
        (format!("{list}/answers"), Some(json!({})), "a operation has no field \"answers\""),
        (format!("{list}/responses/200/content/application~1json/schema"), None, "media type needs \"schema\""),
        ("/paths/~1api~1v1~1jobs~1{id}/get/parameters/0/required".to_owned(), Some(json!(false)), "path is required"),
        ("/components/schemas/Problem/properties/status/type".to_owned(), Some(json!("int")), "no known type"),
        ("/components/schemas/Problem/properties/status".to_owned(), None, "\"status\" is required and not there"),
    ] {
        let found = spoiled(&pointer, value);
        assert!(found.iter().any(|fault| fault.contains(why)), "{pointer}: {found:?}");
    }
}
