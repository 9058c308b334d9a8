//! JSON schemas, as much of them as those in `tests/http/schemas` need. Any other keyword is an error: nothing goes
//! unchecked.

use serde_json::Value;

pub struct Schema(Value);

impl Schema {
    pub fn parse(text: &str) -> Self {
        Self(serde_json::from_str(text).unwrap())
    }

    /// What is wrong with a value.
    pub fn problems(&self, value: &Value) -> Vec<String> {
        let mut problems = Vec::new();
        self.check(&self.0, value, "", &mut problems);
        problems
    }

    fn check(&self, schema: &Value, value: &Value, at: &str, problems: &mut Vec<String>) {
        for (keyword, wanted) in schema.as_object().unwrap() {
            let is_good = match keyword.as_str() {
                "$schema" | "$defs" | "title" => true,
                "$ref" => {
                    let pointer = wanted.as_str().unwrap().trim_start_matches('#');
                    self.check(self.0.pointer(pointer).expect(pointer), value, at, problems);
                    true
                }
                "allOf" => {
                    wanted.as_array().unwrap().iter().for_each(|schema| self.check(schema, value, at, problems));
                    true
                }
                "if" => {
                    let mut unlike = Vec::new();
                    self.check(wanted, value, at, &mut unlike);
                    let branch = if unlike.is_empty() { "then" } else { "else" };
                    self.check(&schema[branch], value, at, problems);
                    true
                }
                "then" | "else" => schema.get("if").is_some(),
                "type" => is_of_type(value, wanted.as_str().unwrap()),
                "const" => value == wanted,
                "enum" => wanted.as_array().unwrap().contains(value),
                "minimum" => value.as_i64() >= wanted.as_i64(),
                "minItems" => value.as_array().map(|items| items.len() as u64) >= wanted.as_u64(),
                "required" => wanted.as_array().unwrap().iter().all(|name| value.get(name.as_str().unwrap()).is_some()),
                "additionalProperties" => {
                    assert_eq!(wanted, &Value::Bool(false));
                    value
                        .as_object()
                        .is_none_or(|members| members.keys().all(|name| schema["properties"].get(name).is_some()))
                }
                "properties" => {
                    for (name, schema) in wanted.as_object().unwrap() {
                        if let Some(member) = value.get(name) {
                            self.check(schema, member, &format!("{at}/{name}"), problems);
                        }
                    }
                    true
                }
                "items" => {
                    for (n, item) in value.as_array().into_iter().flatten().enumerate() {
                        self.check(wanted, item, &format!("{at}/{n}"), problems);
                    }
                    true
                }
                other => panic!("the keyword {other} is not known here"),
            };
            if !is_good {
                problems.push(format!("{at}: {value} is not as {keyword} wants it: {wanted}"));
            }
        }
    }
}

fn is_of_type(value: &Value, wanted: &str) -> bool {
    match wanted {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        other => panic!("the type {other} is not known here"),
    }
}
