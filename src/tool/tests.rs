//! The table of tools.

use serde_json::Value;

use super::{Input, TOOLS, ToolError};

#[test]
fn every_tool_has_a_schema_whose_required_fields_exist() {
    let names: Vec<_> = TOOLS.iter().map(|tool| tool.name).collect();
    assert_eq!(names, ["bash", "read", "write", "edit", "glob", "grep"]);
    for tool in TOOLS {
        let schema: Value = serde_json::from_str(tool.schema).expect("JSON");
        assert_eq!(schema["type"], "object", "{}", tool.name);
        for field in schema["required"].as_array().into_iter().flatten() {
            let field = field.as_str().expect("a name");
            assert!(schema["properties"].get(field).is_some(), "{}: {field}", tool.name);
        }
    }
}

#[test]
fn t_18_bad_input_is_told_in_the_documented_words() {
    let input = |json: &str| Input::parse("read", json.as_bytes());
    let told = |error: ToolError| error.to_string();
    let good = input(r#"{"a":"x","b":true,"c":3,"d":null,"unknown":{},"r":[1,2],"s":[1]}"#).expect("object");
    assert_eq!(good.required("a").expect("string"), "x");
    assert!(good.flag("b").expect("flag") && good.integer("c").expect("integer") == Some(3));
    assert_eq!(told(good.required("d").expect_err("null")), "read: d is required");
    assert_eq!(told(good.string("b").expect_err("no string")), "read: b must be a string");
    assert_eq!(told(good.flag("a").expect_err("no flag")), "read: a must be a boolean");
    assert_eq!(told(good.integer("a").expect_err("no integer")), "read: a must be an integer");
    assert_eq!((good.pair("r"), good.pair("s"), good.pair("d")), (Some(Some((1, 2))), Some(None), None));
    for bad in ["", "[]", "7", "{", "\"x\""] {
        assert!(input(bad).is_err(), "{bad}");
    }
    let deep = format!("{{\"a\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(input(&deep).is_err(), "a hundred thousand levels");
}
