//! Lines of batch files: what is read of them, what is refused, and the line that answers.

use std::sync::Arc;

use jetspool::spool::wire::guide::Guide;
use jetspool::spool::wire::{
    Answer, BadRequest, Fault, FaultCode, FinishReason, Logprobs, NO_LIMIT, Request, RequestFile, Stamp,
    TokenBytes, Usage,
};
use serde_json::{Value, json};

fn stamp() -> Stamp {
    Stamp { name: "job".into(), created: 7 }
}

fn requests(text: &str) -> Vec<Result<Request, BadRequest>> {
    RequestFile::parse_lines(text.as_bytes().to_vec(), stamp()).unwrap().requests().collect()
}

fn line(url: &str, body: &Value) -> String {
    json!({ "custom_id": "c", "method": "POST", "url": url, "body": body }).to_string()
}

/// A chat with these fields.
fn chat(fields: Value) -> Result<Request, BadRequest> {
    let mut body = json!({ "model": "m", "messages": [{ "role": "user", "content": "hi" }] });
    fields.as_object().unwrap().iter().for_each(|(name, value)| body[name] = value.clone());
    requests(&line("/v1/chat/completions", &body)).remove(0)
}

fn completion(fields: Value) -> Result<Request, BadRequest> {
    let mut body = json!({ "model": "m", "prompt": "hi" });
    fields.as_object().unwrap().iter().for_each(|(name, value)| body[name] = value.clone());
    requests(&line("/v1/completions", &body)).remove(0)
}

fn weather() -> Value {
    let parameters = json!({ "type": "object", "properties": { "place": { "type": "string" } } });
    json!([{ "type": "function", "function": { "name": "weather", "description": "d", "parameters": parameters } }])
}

#[test]
fn defaults_are_those_of_the_api() {
    let request = chat(json!({})).unwrap();
    let sampling = &request.sampling;
    assert_eq!((sampling.temperature, sampling.top_p, sampling.top_k), (1.0, 1.0, 0));
    assert_eq!((sampling.max_generate_length, sampling.seed, sampling.num_logprobs), (NO_LIMIT, None, 0));
    assert!(request.chat.apply_chat_template && request.warnings.is_empty());
    let line = request.line.unwrap();
    assert_eq!((line.model.as_str(), line.n_choices, line.id.as_str()), ("m", 1, "job-0"));
    let request = completion(json!({})).unwrap();
    assert_eq!(request.sampling.max_generate_length, 16);
    assert!(!request.chat.apply_chat_template && request.messages[0].text() == "hi");
    assert_eq!(completion(json!({ "prompt": ["one"] })).unwrap().messages[0].text(), "one");
}

#[test]
fn every_field_is_read() {
    let request = chat(json!({
        "n": 3, "stop": "x", "seed": -1, "temperature": 0.5, "top_p": 0.9, "top_k": -1, "max_tokens": 5,
        "max_completion_tokens": 6, "logprobs": true, "top_logprobs": 2, "logit_bias": { "7": -100 },
        "frequency_penalty": 0, "presence_penalty": 0.0, "user": "u", "stream": false, "echo": false,
        "chat_template_kwargs": { "enable_thinking": true },
    }))
    .unwrap();
    let sampling = &request.sampling;
    assert_eq!((sampling.max_generate_length, sampling.seed, sampling.num_logprobs), (6, Some(u64::MAX), 2));
    assert_eq!((sampling.top_k, &*sampling.logit_bias), (0, &[(7, -100.0)][..]));
    assert_eq!((request.stop.as_slice(), request.chat.enable_thinking), (&["x".to_owned()][..], true));
    let line = request.line.unwrap();
    assert_eq!((line.n_choices, line.n_alternatives), (3, Some(2)));
    assert!(request.warnings.is_empty(), "{:?}", request.warnings);
    // Without alternatives there is still the token's own.
    let request = chat(json!({ "logprobs": true })).unwrap();
    assert_eq!((request.sampling.num_logprobs, request.line.unwrap().n_alternatives), (1, Some(0)));
    let warnings = chat(json!({ "temprature": 1 })).unwrap().warnings;
    assert_eq!(warnings, ["body.temprature: unknown field, ignored; temperature is meant?"]);
}

#[test]
fn guides_have_many_names() {
    let schema = json!({ "type": "object" });
    let text = r#"{"type":"object"}"#;
    let format = json!({ "type": "json_schema", "json_schema": { "name": "n", "schema": schema } });
    let cases = [
        (json!({ "response_format": format }), Guide::JsonSchema(text.into())),
        (json!({ "response_format": { "type": "json_object" } }), Guide::JsonObject),
        (json!({ "guided_json": schema }), Guide::JsonSchema(text.into())),
        (json!({ "guided_json": text }), Guide::JsonSchema(text.into())),
        (json!({ "guided_regex": "a+" }), Guide::Regex("a+".into())),
        (json!({ "guided_choice": ["a", "b"] }), Guide::Choice(vec!["a".into(), "b".into()])),
        (json!({ "guided_grammar": "root ::= \"a\"" }), Guide::Ebnf("root ::= \"a\"".into())),
        (json!({ "structured_outputs": { "regex": "a+", "json": null } }), Guide::Regex("a+".into())),
        (json!({ "structured_outputs": { "json_object": true } }), Guide::JsonObject),
    ];
    for (fields, wanted) in cases {
        assert_eq!(chat(fields.clone()).unwrap().guide, Some(wanted), "{fields}");
    }
}

#[test]
fn tools_are_shown_and_a_forced_call_is_a_guide() {
    let request = chat(json!({ "tools": weather() })).unwrap();
    assert_eq!(serde_json::from_str::<Value>(request.tools.as_deref().unwrap()).unwrap(), weather());
    assert_eq!(
        (request.guide, request.line.unwrap().calls.clone().unwrap().names),
        (None, vec!["weather".to_owned()])
    );
    let request = chat(json!({ "tools": weather(), "tool_choice": "none" })).unwrap();
    assert!(request.tools.is_none() && request.line.unwrap().calls.is_none());
    let named = json!({ "type": "function", "function": { "name": "weather" } });
    let request = chat(json!({ "tools": weather(), "tool_choice": named })).unwrap();
    let parameters = weather()[0]["function"]["parameters"].to_string();
    assert_eq!(request.guide, Some(Guide::JsonSchema(parameters)));
    let request = chat(json!({ "tools": weather(), "tool_choice": "required" })).unwrap();
    let Some(Guide::JsonSchema(schema)) = request.guide else { panic!("no schema") };
    let schema: Value = serde_json::from_str(&schema).unwrap();
    assert_eq!(schema["items"]["anyOf"][0]["properties"]["name"], json!({ "const": "weather" }));
    // Where the model chooses, a strict function still has arguments that fit.
    let mut strict = weather();
    strict[0]["function"]["strict"] = json!(true);
    let Some(Guide::Calls(functions)) = chat(json!({ "tools": strict })).unwrap().guide else {
        panic!("no guide")
    };
    let [function] = functions.as_slice() else { panic!("{functions:?}") };
    assert!(function.is_strict && function.name == "weather", "{function:?}");
    assert!(chat(json!({ "tools": strict, "guided_regex": "a" })).is_err());
    let call = json!({ "id": "1", "type": "function", "function": { "name": "weather", "arguments": "{\"place\": 1.50}" } });
    let messages = json!([
        { "role": "developer", "content": "d" },
        { "role": "user", "content": [{ "type": "text", "text": "u" }] },
        { "role": "assistant", "content": null, "tool_calls": [call] },
        { "role": "tool", "content": "r", "tool_call_id": "1" },
    ]);
    let request = chat(json!({ "messages": messages })).unwrap();
    let roles: Vec<&str> = request.messages.iter().map(|message| message.role.as_str()).collect();
    assert_eq!(roles, ["system", "user", "assistant", "tool"]);
    let (name, text) = &request.messages[2].fields[0];
    assert_eq!(
        (*name, text.as_str()),
        (
            "tool_calls",
            r#"[{"id":"1","type":"function","function":{"name":"weather","arguments":{"place": 1.50}}}]"#
        )
    );
    assert_eq!(request.messages[3].fields[0], ("tool_call_id", "\"1\"".to_owned()));
}

#[test]
fn what_cannot_be_honoured_is_refused_by_name() {
    let cases = [
        (json!({ "frequency_penalty": 0.5 }), "body.frequency_penalty: no value other than 0 is supported"),
        (json!({ "min_p": 0.1 }), "body.min_p"),
        (json!({ "stop_token_ids": [1] }), "body.stop_token_ids"),
        (json!({ "audio": {} }), "body.audio: no value is supported"),
        (json!({ "n": 0 }), "body.n: wanted a whole number from 1 to 128"),
        (json!({ "n": 129 }), "body.n"),
        (json!({ "top_logprobs": 3 }), "wanted logprobs to be true"),
        (json!({ "logprobs": 3 }), "body.logprobs: wanted true or false"),
        (json!({ "messages": [] }), "body.messages: empty"),
        (json!({ "messages": [{ "role": "function", "content": "x" }] }), "body.messages[0].role"),
        (json!({ "messages": [{ "role": "assistant" }] }), "body.messages[0].content: missing"),
        (json!({ "model": null }), "body.model: missing"),
        (json!({ "tool_choice": "required" }), "wanted tools beside it"),
        (json!({ "tools": weather(), "tool_choice": "always" }), "body.tool_choice"),
        (json!({ "tools": weather(), "tool_choice": { "function": { "name": "x" } } }), "one of the tools"),
        (json!({ "tools": [{ "type": "code_interpreter" }] }), "body.tools[0].type"),
        (
            json!({ "tools": weather(), "tool_choice": "required", "guided_regex": "a" }),
            "another one stands beside",
        ),
        (
            json!({ "guided_regex": "a", "response_format": { "type": "json_object" } }),
            "response_format and guided_regex",
        ),
        (json!({ "structured_outputs": { "lark": "x" } }), "structured_outputs.lark: not known"),
        (json!({ "temperature": "hot" }), "body.temperature: wanted a number"),
    ];
    for (fields, wanted) in cases {
        let fault = chat(fields.clone()).unwrap_err().fault;
        assert!(fault.message.contains(wanted), "{fields}: {fault}");
    }
    for (fields, wanted) in [
        (json!({ "prompt": ["a", "b"] }), "a line of its own"),
        (json!({ "prompt": [1, 2] }), "body.prompt"),
        (json!({ "echo": true }), "body.echo"),
        (json!({ "suffix": "x" }), "body.suffix"),
        (json!({ "best_of": 2 }), "body.best_of"),
    ] {
        let fault = completion(fields.clone()).unwrap_err().fault;
        assert!(fault.message.contains(wanted), "{fields}: {fault}");
    }
}

#[test]
fn a_wrong_line_is_its_own_fault() {
    let good = line(
        "/v1/chat/completions",
        &json!({ "model": "m", "messages": [{ "role": "user", "content": "x" }] }),
    );
    let text = [
        good.as_str(),
        "{\"custom_id\": ",
        "[]",
        r#"{"custom_id": "a"}"#,
        r#"{"custom_id": "b", "url": "/v1/embeddings", "body": {}}"#,
        r#"{"custom_id": "d", "url": "/v1/completions", "method": "GET", "body": {}}"#,
        r#"{"custom_id": 7, "url": "/v1/completions", "body": {}}"#,
        good.as_str(),
        "\u{ff}",
    ];
    let wanted = [
        "",
        "not JSON",
        "wanted an object",
        "url: missing",
        "url: wanted",
        "method",
        "custom_id",
        "custom_id: stands in a line",
        "not JSON",
    ];
    let found = requests(&text.join("\n"));
    for ((found, wanted), index) in found.iter().zip(wanted).zip(0..) {
        match found {
            Ok(_) => assert_eq!(wanted, "", "{index}"),
            Err(bad) => {
                assert!(!wanted.is_empty() && bad.fault.message.contains(wanted), "{index}: {}", bad.fault);
                assert_eq!(bad.line.as_ref().unwrap().id, format!("job-{index}"));
            }
        }
    }
    let mut bytes = good.into_bytes();
    bytes.extend(b"\n\xff\n");
    let file = RequestFile::parse_lines(bytes, stamp()).unwrap();
    assert!(file.request(0).is_ok() && file.request(1).unwrap_err().fault.message.contains("not JSON"));
}

struct Names;

impl TokenBytes for Names {
    fn token_bytes(&self, token: u32) -> Vec<u8> {
        [b"\xc3".as_slice(), b"\xa9", b"b"][token as usize].to_vec()
    }
}

fn answer(request: &Request, text: &str, reason: FinishReason) -> Answer {
    let mut logprobs = Logprobs::new(Arc::new(Names));
    logprobs.push([(2, -0.5), (0, -0.25), (2, -0.5)]);
    logprobs.push([(0, -1.0), (0, -1.0), (1, -2.0)]);
    Answer {
        line: request.line.clone(),
        output_text: text.into(),
        finish_reason: reason,
        logprobs: (request.sampling.num_logprobs > 0).then_some(logprobs),
        token_ids: vec![2, 0],
        usage: Usage { cached_tokens: 1, generated_tokens: 2, prompt_tokens: 5 },
        warnings: request.warnings.clone(),
        ..Answer::empty(0, 1)
    }
}

fn written(answer: &Answer) -> Value {
    serde_json::from_str(&answer.to_json()).unwrap()
}

#[test]
fn an_answer_is_a_line_of_the_api() {
    let request = chat(json!({ "logprobs": true, "top_logprobs": 2, "tools": weather(), "n": 2 })).unwrap();
    let mut first = answer(&request, "é", FinishReason::MaxLength);
    let call = r#"Well.<tool_call>{"name": "weather", "arguments": {"place": "Paris"}}</tool_call>"#;
    first.choices = vec![answer(&request, call, FinishReason::EndOfSequence)];
    let found = written(&first);
    let entry =
        |text: &str, logprob: f64, bytes: &[u8]| json!({ "token": text, "logprob": logprob, "bytes": bytes });
    let with = |mut entry: Value, top: Value| {
        entry["top_logprobs"] = top;
        entry
    };
    let (b, c3, a9) =
        (entry("b", -0.5, b"b"), entry("\u{fffd}", -0.25, b"\xc3"), entry("\u{fffd}", -2.0, b"\xa9"));
    let c3_first = entry("\u{fffd}", -1.0, b"\xc3");
    let body = &found["response"]["body"];
    let id = body["choices"][1]["message"]["tool_calls"][0]["id"].clone();
    let steps = [with(b.clone(), json!([c3, b])), with(c3_first.clone(), json!([c3_first, a9]))];
    let wanted = json!({
        "id": "batch_req_job-0",
        "custom_id": "c",
        "response": { "status_code": 200, "request_id": "req_job-0", "body": {
            "id": "chatcmpl-job-0", "object": "chat.completion", "created": 7, "model": "m",
            "choices": [
                { "index": 0, "message": { "role": "assistant", "content": "é", "refusal": null },
                  "logprobs": { "content": steps, "refusal": null }, "finish_reason": "length" },
                { "index": 1, "message": { "role": "assistant", "content": "Well.", "refusal": null, "tool_calls": [
                    { "id": id, "type": "function",
                      "function": { "name": "weather", "arguments": "{\"place\": \"Paris\"}" } }] },
                  "logprobs": { "content": steps[..1], "refusal": null }, "finish_reason": "tool_calls" },
            ],
            "usage": { "prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9,
                       "prompt_tokens_details": { "cached_tokens": 1 } },
        } },
        "error": null,
    });
    assert_eq!(found, wanted);
    assert_eq!(id.as_str().unwrap().len(), 9);
    assert!(!first.to_json().contains('\n'));
    let request = completion(json!({ "logprobs": 1 })).unwrap();
    let found = written(&answer(&request, "bé", FinishReason::StopWords));
    let choice = &found["response"]["body"]["choices"][0];
    assert_eq!(found["response"]["body"]["object"], "text_completion");
    assert_eq!((&choice["text"], &choice["finish_reason"]), (&json!("bé"), &json!("stop")));
    let wanted = json!({ "tokens": ["b", "\u{fffd}"], "token_logprobs": [-0.5, -1.0],
        "top_logprobs": [{ "\u{fffd}": -0.25 }, { "\u{fffd}": -1.0 }], "text_offset": [0, 1] });
    assert_eq!(choice["logprobs"], wanted);
}

#[test]
fn a_fault_has_a_status_and_an_error() {
    let cases = [
        (
            Fault::new(FaultCode::UnknownAdapter, "body.model: \"x\" is not known"),
            404,
            "model_not_found",
            json!("model"),
        ),
        (Fault::new(FaultCode::PromptTooLong, "too long"), 400, "context_length_exceeded", Value::Null),
        (Fault::new(FaultCode::Internal, "broken"), 500, "internal", Value::Null),
        (Fault::new(FaultCode::Guide, "no"), 400, "guide", Value::Null),
    ];
    for (fault, status, code, param) in cases {
        let line = chat(json!({})).unwrap().line;
        let bad = BadRequest { line, ..BadRequest::new(fault.clone()) };
        let found = written(&Answer::failed(0, 1, bad));
        assert_eq!((&found["custom_id"], &found["response"]["status_code"]), (&json!("c"), &json!(status)));
        for error in [&found["error"], &found["response"]["body"]["error"]] {
            let kind = if status == 500 { "server_error" } else { "invalid_request_error" };
            let wanted = json!({ "message": fault.message, "type": kind, "param": param, "code": code });
            assert_eq!(*error, wanted);
        }
    }
}

#[test]
fn every_cut_of_a_line_is_a_fault_and_no_panic() {
    let body = json!({ "model": "m", "messages": [{ "role": "user", "content": "é" }], "tools": weather(), "n": 2,
        "logit_bias": { "1": 2 }, "stop": ["a"], "structured_outputs": { "regex": "a" } });
    let text = line("/v1/chat/completions", &body);
    for end in 0..text.len() {
        let Some(cut) = text.get(..end).filter(|cut| !cut.is_empty()) else { continue };
        assert!(requests(cut)[0].is_err(), "{cut}");
    }
    assert!(requests(&text)[0].is_ok());
}
