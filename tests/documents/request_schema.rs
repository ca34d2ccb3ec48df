//! package/request.schema.json says what the parser says: over every request of the documents, the examples and the
//! package, over a table of limits, and over a full request in which one value after the other is another one.

use boon::{Compiler, Schemas};
use jetspool::spool::wire::RequestFile;
use serde_json::{Value, json};

use super::blocks::{blocks, documents, root};

struct Schema {
    schemas: Schemas,
    index: boon::SchemaIndex,
}

impl Schema {
    fn read() -> Self {
        let text = std::fs::read_to_string(root().join("package/request.schema.json")).unwrap();
        let mut compiler = Compiler::new();
        compiler.add_resource("request.json", serde_json::from_str(&text).unwrap()).unwrap();
        let mut schemas = Schemas::new();
        let index = compiler.compile("request.json", &mut schemas).unwrap();
        Self { schemas, index }
    }

    /// Why a request file is refused; nothing if it is taken.
    fn fault(&self, file: &Value) -> Option<String> {
        self.schemas.validate(file, self.index).err().map(|error| error.to_string())
    }
}

/// Why the parser refuses a file or one of its requests.
fn parser_fault(file: &str) -> Option<String> {
    match RequestFile::parse(file.as_bytes().to_vec()) {
        Err(fault) => Some(fault.message),
        Ok(file) => file.requests().find_map(|request| Some(request.err()?.fault.message)),
    }
}

/// Both sides say the same of a file.
fn disagreement(schema: &Schema, file: &Value) -> Option<String> {
    let (schema, parser) = (schema.fault(file), parser_fault(&file.to_string()));
    (schema.is_some() != parser.is_some())
        .then(|| format!("the schema says {schema:?}, the parser {parser:?}, of {}", shown(file)))
}

fn shown(file: &Value) -> String {
    file.to_string().chars().take(600).collect()
}

fn with_request(fields: Value) -> Value {
    let mut request = json!({"messages": [{"role": "user", "content": "hi"}]});
    request.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    json!({"requests": [request]})
}

/// Fields of every kind, so that each can be made another one.
fn full() -> Value {
    json!({
        "batch_size": 2, "temperature": 0.5, "top_p": 0.5, "top_k": 7, "max_generate_length": 32,
        "sampling_seed": 3, "logit_bias": {"5": -1.5}, "num_logprobs": 2, "apply_chat_template": true,
        "add_generation_prompt": true, "enable_thinking": false,
        "available_lora_weights": {"french": "/a/f.safetensors"}, "context_cache_lookup_policy": "bypass",
        "context_cache_commit_policy": "prefill_state_only", "priority": -5, "reference": [1],
        "diffusion_config": {}, "guided_decoding": {"regex": "a+"}, "colour": 1,
        "requests": [
            {"messages": [{"role": "system", "content": "s"},
                {"role": "user", "content": [{"type": "text", "text": "a"}], "name": "n"}],
             "lora_name": "french", "lora_scale": 0.5, "stop": ["x"], "id": {"n": 1}, "reference": "r",
             "save_system_prompt_kv_cache": true, "disable_spec_decode": false, "temperature": 0, "top_p": 1,
             "top_k": 0, "max_generate_length": 1, "sampling_seed": 0, "logit_bias": {}, "num_logprobs": 0,
             "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}},
            {"messages": [{"role": "assistant", "content": "c"}], "loras": [{"name": "a", "scale": -2}],
             "stop": "x", "guided_decoding": {"choice": ["a", "b"]}},
            {"messages": [{"role": "user", "content": "c"}], "guided_decoding": {"json_schema": {"type": "object"}}},
            {"messages": [{"role": "user", "content": "c"}], "guided_decoding": {"json_object": true}},
            {"messages": [{"role": "user", "content": "c"}], "response_format": {"type": "text"}}
        ]
    })
}

#[test]
fn requests_of_documents_and_files_are_taken_by_both() {
    let schema = Schema::read();
    let mut files: Vec<(String, String)> = Vec::new();
    for document in documents() {
        let json = blocks(&document).into_iter().filter(|block| block.language == "json");
        files.extend(json.map(|block| (block.place, block.text)));
    }
    for folder in ["package", "examples/requests"] {
        for entry in std::fs::read_dir(root().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|suffix| suffix == "json") {
                files.push((path.display().to_string(), std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    let mut n_requests = 0;
    for (place, text) in files {
        let Ok(value) = serde_json::from_str::<Value>(&text) else { continue };
        let file = match (value.get("requests"), value.get("messages"), value.get("request_idx")) {
            (Some(Value::Array(_)), ..) => value,
            // A request alone; what has a request_idx is an answer.
            (None, Some(_), None) => json!({"requests": [value]}),
            _ => continue,
        };
        n_requests += 1;
        assert_eq!((schema.fault(&file), parser_fault(&file.to_string())), (None, None), "{place}");
    }
    assert!(n_requests >= 5, "{n_requests}");
}

#[test]
fn limits_and_types_are_the_same_on_both_sides() {
    let schema = Schema::read();
    let many = |n: usize, value: Value| Value::Array(vec![value; n]);
    let message = json!({"role": "user", "content": ""});
    let keys = |n: usize, value: Value| (0..n).map(|i| (i.to_string(), value.clone())).collect::<Value>();
    let good = [
        full(),
        with_request(json!({"messages": many(64, message.clone())})),
        with_request(json!({"stop": many(64, json!("x"))})),
        with_request(json!({"stop": "x".repeat(4096), "lora_name": "n".repeat(1024)})),
        with_request(json!({"logit_bias": keys(1024, json!(100))})),
        with_request(json!({"logit_bias": {"2147483647": 1, "+7": 1, "007": 2, "-0": 1}})),
        with_request(json!({"loras": many(8, json!({"name": "a"}))})),
        with_request(json!({"loras": [], "lora_name": null, "lora_scale": null})),
        with_request(json!({"loras": null, "lora_name": "", "lora_scale": -1e38})),
        with_request(json!({"sampling_seed": u64::MAX, "top_k": 2_147_483_647, "top_p": 1e-45})),
        with_request(json!({"top_k": 7.0, "max_generate_length": 32.0})),
        with_request(
            json!({"messages": [{"role": "user", "content": many(18, json!({"type": "text", "text": "a"}))}]}),
        ),
        with_request(json!({"messages": [{"role": "user", "content": "x".repeat(128 << 10)}]})),
        with_request(json!({"guided_decoding": {"json_schema": "{\"type\": \"object\"}"}})),
        with_request(json!({"guided_decoding": {"choice": "[\"a\"]"}, "response_format": null})),
        with_request(json!({"response_format": {"type": "text", "json_schema": 7}})),
        with_request(json!({"max_tokens": 5})),
        json!({"available_lora_weights": {"a": ""}, "requests": [{"messages": [message]}]}),
    ];
    for file in &good {
        assert_eq!((schema.fault(file), parser_fault(&file.to_string())), (None, None), "{}", shown(file));
    }
    let bad = [
        json!({}),
        json!([]),
        json!({"requests": []}),
        json!({"requests": null}),
        json!({"requests": [7]}),
        json!({"requests": [{}]}),
        json!({"requests": [{"messages": []}]}),
        with_request(json!({"messages": many(65, message.clone())})),
        with_request(json!({"stop": many(65, json!("x"))})),
        with_request(json!({"stop": ""})),
        with_request(json!({"stop": "x".repeat(4097)})),
        with_request(json!({"lora_name": "n".repeat(1025)})),
        with_request(json!({"lora_scale": 1e39})),
        with_request(json!({"logit_bias": keys(1025, json!(1))})),
        with_request(json!({"logit_bias": {"2147483648": 1}})),
        with_request(json!({"logit_bias": {"-1": 1}})),
        with_request(json!({"logit_bias": {"x": 1}})),
        with_request(json!({"logit_bias": {"1": 100.5}})),
        with_request(json!({"loras": many(9, json!({"name": "a"}))})),
        with_request(json!({"loras": [], "lora_name": ""})),
        with_request(json!({"loras": [{"name": ""}]})),
        with_request(json!({"loras": [{"name": "a"}], "lora_scale": 1})),
        with_request(json!({"top_p": 1e-60})),
        with_request(json!({"top_k": 7.5})),
        with_request(json!({"top_k": 2_147_483_648_u64})),
        with_request(json!({"messages": [{"role": "tool", "content": "a"}]})),
        with_request(json!({"messages": [{"role": "user", "content": [{"type": "image", "image": "a"}]}]})),
        with_request(
            json!({"messages": [{"role": "user", "content": many(19, json!({"type": "text", "text": "a"}))}]}),
        ),
        with_request(json!({"messages": [{"role": "user", "content": "x".repeat((128 << 10) + 1)}]})),
        with_request(json!({"guided_decoding": {"json_object": false}})),
        with_request(json!({"guided_decoding": {"regex": "a", "choice": ["a"]}})),
        with_request(json!({"guided_decoding": {"jsonschema": {}}})),
        with_request(json!({"guided_decoding": {"choice": []}})),
        with_request(json!({"guided_decoding": {"regex": "a"}, "response_format": {"type": "text"}})),
        with_request(json!({"response_format": {"type": "xml"}})),
        with_request(json!({"response_format": {"type": "json_schema"}})),
        json!({"batch_size": 17, "requests": [{"messages": [message]}]}),
        json!({"priority": 101, "requests": [{"messages": [message]}]}),
        json!({"guided_decoding": {"regex": 7}, "requests": [{"messages": [message]}]}),
    ];
    for file in &bad {
        let found = (schema.fault(file).is_some(), parser_fault(&file.to_string()).is_some());
        assert_eq!(found, (true, true), "{}", shown(file));
    }
}

/// What docs/requests.md lists: sizes in bytes, texts that must be JSON, the depth.
#[test]
fn what_the_schema_cannot_say_is_refused_by_the_parser_alone() {
    let schema = Schema::read();
    let deep = (0..130).fold(json!(1), |value, _| json!([value]));
    let big = json!({"role": "user", "content": "x".repeat(128 << 10)});
    let cases = [
        with_request(json!({"lora_name": "é".repeat(1000)})),
        with_request(json!({"stop": "é".repeat(4000)})),
        with_request(json!({"id": "x".repeat(4096)})),
        with_request(json!({"messages": vec![big; 9]})),
        with_request(json!({"guided_decoding": {"regex": "a".repeat(128 << 10)}})),
        with_request(json!({"guided_decoding": {"json_schema": "{"}})),
        with_request(json!({"guided_decoding": {"choice": "[1]"}})),
        with_request(json!({"colour": deep})),
        with_request(json!({"sampling_seed": 1e19})),
    ];
    for file in &cases {
        let found = (schema.fault(file), parser_fault(&file.to_string()).is_some());
        assert_eq!(found, (None, true), "{}", shown(file));
    }
}

#[test]
fn every_value_made_another_one_is_judged_alike() {
    let schema = Schema::read();
    let others = [
        json!(null),
        json!(true),
        json!(false),
        json!(-1),
        json!(0),
        json!(1),
        json!(1.5),
        json!(17),
        json!(51),
        json!(101),
        json!(1e39),
        json!(2_147_483_648_u64),
        json!(""),
        json!("true"),
        json!("user"),
        json!("bypass"),
        json!([]),
        json!([1]),
        json!(["a"]),
        json!([""]),
        json!({}),
        json!({"1": 1}),
        json!({"type": "text"}),
        json!([{"type": "text"}]),
        json!([{"name": "a"}]),
    ];
    let (mut n, mut faults) = (0, Vec::new());
    for path in paths(&full(), String::new()) {
        let mutants = others.iter().map(Some).chain([None]);
        for other in mutants {
            let mut file = full();
            match other {
                Some(other) => *file.pointer_mut(&path).unwrap() = other.clone(),
                None => remove(&mut file, &path),
            }
            n += 1;
            faults.extend(disagreement(&schema, &file).filter(|_| !is_text_of_json(&path, other)));
        }
    }
    assert!(n > 1000, "{n}");
    assert!(
        faults.is_empty(),
        "{} of {n}, for example\n{}",
        faults.len(),
        faults[..faults.len().min(3)].join("\n")
    );
}

/// What must not stand beside each other is refused by both.
#[test]
fn every_field_beside_every_other_is_judged_alike() {
    let schema = Schema::read();
    let full = full();
    let requests = full["requests"].as_array().unwrap();
    let fields: Vec<_> = requests.iter().flat_map(|request| request.as_object().unwrap()).collect();
    let mut faults = Vec::new();
    for request in requests {
        for &(name, value) in &fields {
            let mut request = request.clone();
            request[name.as_str()] = value.clone();
            faults.extend(disagreement(&schema, &json!({"requests": [request]})));
        }
    }
    assert!(fields.len() > 25, "{}", fields.len());
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// A guide that may also be JSON in a string, which a schema does not read.
fn is_text_of_json(path: &str, other: Option<&Value>) -> bool {
    (path.ends_with("/choice") || path.ends_with("guided_decoding/json_schema"))
        && other.is_some_and(Value::is_string)
}

/// A pointer to each value inside another one.
fn paths(value: &Value, path: String) -> Vec<String> {
    let inner: Vec<(String, &Value)> = match value {
        Value::Object(fields) => {
            fields.iter().map(|(name, value)| (format!("{path}/{name}"), value)).collect()
        }
        Value::Array(items) => {
            items.iter().enumerate().map(|(i, value)| (format!("{path}/{i}"), value)).collect()
        }
        _ => Vec::new(),
    };
    let deeper = inner.iter().flat_map(|(path, value)| paths(value, path.clone())).collect::<Vec<_>>();
    inner.into_iter().map(|(path, _)| path).chain(deeper).collect()
}

fn remove(file: &mut Value, path: &str) {
    let (parent, last) = path.rsplit_once('/').unwrap();
    match file.pointer_mut(parent).unwrap() {
        Value::Object(fields) => drop(fields.remove(last)),
        Value::Array(items) => drop(items.remove(last.parse::<usize>().unwrap())),
        _ => unreachable!("a pointer leads into an object or an array"),
    }
}
