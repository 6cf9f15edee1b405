//! The input of a call: a JSON object whose fields are taken one by one, in the documented words.

use serde_json::{Map, Value};

use super::ToolError;

/// A JSON object. Unknown keys do not matter.
#[derive(Debug)]
pub(super) struct Input {
    tool: &'static str,
    fields: Map<String, Value>,
}

impl Input {
    pub(super) fn parse(tool: &'static str, json: &[u8]) -> Result<Self, ToolError> {
        match serde_json::from_slice(json) {
            Ok(Value::Object(fields)) => Ok(Self { tool, fields }),
            Ok(_) => Err(ToolError::Told(format!("{tool}: input must be a JSON object"))),
            Err(error) => Err(ToolError::Told(format!("{tool}: input is not valid JSON: {error}"))),
        }
    }

    fn take<T>(
        &self,
        field: &str,
        kind: &str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<T>, ToolError> {
        match self.fields.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match read(value) {
                Some(value) => Ok(Some(value)),
                None => Err(ToolError::Told(format!("{}: {field} must be {kind}", self.tool))),
            },
        }
    }

    pub(super) fn string(&self, field: &str) -> Result<Option<String>, ToolError> {
        self.take(field, "a string", |value| value.as_str().map(str::to_owned))
    }

    pub(super) fn required(&self, field: &str) -> Result<String, ToolError> {
        self.string(field)?.ok_or_else(|| ToolError::Told(format!("{}: {field} is required", self.tool)))
    }

    pub(super) fn flag(&self, field: &str) -> Result<bool, ToolError> {
        Ok(self.take(field, "a boolean", Value::as_bool)?.unwrap_or(false))
    }

    pub(super) fn integer(&self, field: &str) -> Result<Option<i64>, ToolError> {
        self.take(field, "an integer", Value::as_i64)
    }

    /// Two integers; `None` within if it is anything else.
    pub(super) fn pair(&self, field: &str) -> Option<Option<(i64, i64)>> {
        match self.fields.get(field) {
            None | Some(Value::Null) => None,
            Some(Value::Array(pair)) => match pair.as_slice() {
                [one, other] => Some(one.as_i64().zip(other.as_i64())),
                _ => Some(None),
            },
            Some(_) => Some(None),
        }
    }
}
