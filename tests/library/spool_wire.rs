//! The request file and the answer file: every field, every limit, every wrong type, and damage.

use std::sync::Arc;

use jetspool::spool::wire::request_file::{CacheCommit, CacheLookup};
use jetspool::spool::wire::{
    Answer, AnswerFile, BadRequest, ContentPart, Echo, Fault, FaultCode, FinishReason, Form, Logprobs,
    LoraUse, Message, Request, RequestFile, Role, TokenBytes, Usage,
};

fn parse(text: &str) -> Result<RequestFile, Fault> {
    RequestFile::parse(text.as_bytes().to_vec())
}

fn request(fields: &str) -> Result<Request, BadRequest> {
    let file =
        parse(&format!(r#"{{"requests":[{{"messages":[{{"role":"user","content":"hi"}}]{fields}}}]}}"#));
    file.expect("the top level is right").request(0)
}

/// A request with these `messages`.
fn messages(messages: &str) -> Result<Request, BadRequest> {
    parse(&format!(r#"{{"requests":[{{"messages":{messages}}}]}}"#)).unwrap().request(0)
}

const FULL: &str = r#"{
  "batch_size": 2, "temperature": 0.25, "top_p": 0.5, "top_k": 7, "max_generate_length": 32.0,
  "apply_chat_template": false, "add_generation_prompt": false, "enable_thinking": true,
  "logit_bias": {"5": -100, "3": 1.5}, "num_logprobs": 2, "sampling_seed": 18446744073709551615,
  "available_lora_weights": {"french": "/a/f.safetensors", "none": "", "é": "b"},
  "context_cache_lookup_policy": "bypass", "context_cache_commit_policy": "prefill_state_only",
  "priority": -100, "reference": [[1]], "diffusion_config": {"max_denoising_steps": 3}, "colour": 1,
  "requests": [
    {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content":
       [{"type": "text", "text": "a"}, {"type": "text", "text": "b\u00e9\n"}]}],
     "lora_name": "french", "lora_scale": 0.5, "stop": ["x", "y"], "id": {"n": [1, null]}, "reference": "r",
     "save_system_prompt_kv_cache": true, "disable_spec_decode": true},
    {"messages": [{"role": "assistant", "content": "c", "name": "n"}], "lora_name": "", "stop": "z",
     "temperature": 0, "top_p": 1, "top_k": 0, "max_generate_length": 1, "sampling_seed": 3,
     "logit_bias": {}, "num_logprobs": 50, "id": "q", "max_tokens": 5},
    7
  ]
}"#;

#[test]
fn reads_every_field() {
    let file = parse(FULL).unwrap();
    assert_eq!((file.batch_size, file.priority, file.n_requests()), (2, -100, 3));
    assert_eq!((file.cache_lookup, file.cache_commit), (CacheLookup::Bypass, CacheCommit::PrefillStateOnly));
    assert_eq!(file.adapters.keys().map(String::as_str).collect::<Vec<_>>(), ["french", "é"]);
    assert_eq!(
        file.warnings,
        [
            "colour: unknown field, ignored",
            "diffusion_config: has no effect, ignored",
            "available_lora_weights.none: empty path, ignored"
        ]
    );
    let first = file.request(0).unwrap();
    let text = |text: &str| ContentPart::Text(text.into());
    assert_eq!(first.messages[0], Message::new(Role::System, vec![text("s")]));
    assert_eq!(first.messages[1], Message::new(Role::User, vec![text("a"), text("bé\n")]));
    let sampling = &first.sampling;
    assert_eq!((sampling.temperature, sampling.top_p, sampling.top_k), (0.25, 0.5, 7));
    assert_eq!((sampling.max_generate_length, sampling.seed, sampling.num_logprobs), (32, Some(u64::MAX), 2));
    assert_eq!(*sampling.logit_bias, [(3, 1.5), (5, -100.0)]);
    assert_eq!((first.lora_name.as_deref(), first.lora_scale), (Some("french"), 0.5));
    assert_eq!(first.stop, ["x", "y"]);
    assert_eq!(first.id.map(|id| id.as_str().to_owned()), Some(r#"{"n":[1,null]}"#.to_owned()));
    assert!(first.save_system_prompt_kv_cache && first.disable_spec_decode && first.warnings.is_empty());
    assert!(
        !first.chat.apply_chat_template && !first.chat.add_generation_prompt && first.chat.enable_thinking
    );
    let second = file.request(1).unwrap();
    let sampling = &second.sampling;
    assert_eq!((sampling.temperature, sampling.top_p, sampling.top_k), (0.0, 1.0, 0));
    assert_eq!((sampling.max_generate_length, sampling.seed, sampling.num_logprobs), (1, Some(3), 50));
    assert!(sampling.logit_bias.is_empty() && second.lora_name.is_none() && second.lora_scale == 1.0);
    assert_eq!(
        second.warnings,
        [
            "requests[1].max_tokens: unknown field, ignored; max_generate_length is meant?",
            "requests[1].messages[0].name: unknown field, ignored"
        ]
    );
    let third = file.request(2).unwrap_err().fault;
    assert_eq!(third.message, "requests[2]: wanted an object, found the number 7");
    assert_eq!(file.requests().filter(Result::is_ok).count(), 2);
    assert!(file.request(3).is_err());
}

#[test]
fn defaults_are_the_documented_ones() {
    let file =
        parse(r#"{"requests":[{"messages":[{"role":"user","content":""}],"lora_name":null,"stop":null}]}"#);
    let file = file.unwrap();
    let request = file.request(0).unwrap();
    let sampling = request.sampling;
    assert_eq!((file.batch_size, file.priority, file.warnings.len()), (1, 0, 0));
    assert_eq!((sampling.temperature, sampling.top_p, sampling.top_k), (1.0, 0.8, 50));
    assert_eq!((sampling.max_generate_length, sampling.num_logprobs, sampling.seed), (256, 0, None));
    assert!(
        request.chat.apply_chat_template
            && request.chat.add_generation_prompt
            && !request.chat.enable_thinking
    );
    assert_eq!((file.cache_lookup, file.cache_commit), Default::default());
}

fn used(name: &str, scale: f32) -> LoraUse {
    LoraUse { name: name.into(), scale }
}

#[test]
fn several_adapters_are_read_in_their_order() {
    let cases: [(&str, &[LoraUse]); 5] = [
        ("", &[]),
        (r#","loras":[]"#, &[]),
        (r#","loras":null,"lora_name":null"#, &[]),
        (r#","loras":[{"name":"french"}]"#, &[used("french", 1.0)]),
        (
            r#","loras":[{"scale":-0.7,"name":"é/x"},{"name":"a","scale":null},{"name":"é/x","scale":1e30}]"#,
            &[used("é/x", -0.7), used("a", 1.0), used("é/x", 1e30)],
        ),
    ];
    for (fields, wanted) in cases {
        let request = request(fields).unwrap();
        assert_eq!(request.loras, wanted, "{fields}");
        assert!(request.lora_name.is_none() && request.warnings.is_empty(), "{fields}");
        let adapters: Vec<LoraUse> = request.adapters().map(|(_, name, scale)| used(name, scale)).collect();
        assert_eq!(adapters, wanted, "{fields}");
    }
    let places = |fields| request(fields).unwrap().adapters().map(|(at, ..)| at).collect::<Vec<_>>();
    assert_eq!(places(r#","loras":[{"name":"a"},{"name":"b"}]"#), ["loras[0].name", "loras[1].name"]);
    let one = request(r#","lora_name":"a","lora_scale":0.5"#).unwrap();
    let one: Vec<_> = one.adapters().collect();
    assert_eq!(one, [("lora_name".to_owned(), "a", 0.5)]);
    assert_eq!(
        request(r#","loras":[{"name":"a","weight":0.5}],"adapters":[]"#).unwrap().warnings,
        [
            "requests[0].adapters: unknown field, ignored; loras is meant?",
            "requests[0].loras[0].weight: unknown field, ignored; scale is meant?"
        ]
    );
    // They survive a fault, for the answer.
    let bad = request(r#","loras":[{"name":"a","scale":2}],"top_k":-5"#).unwrap_err();
    assert_eq!((bad.loras, bad.lora_name), (vec![used("a", 2.0)], None));
}

struct Case {
    fields: &'static str,
    /// The whole message, after `requests[0].` where it is of a request.
    says: &'static str,
}

/// Values that are wrong at the top level and in a request alike.
const SAMPLING: &[Case] = &[
    Case {
        fields: r#""temperature":"hot""#,
        says: r#"temperature: wanted a number of at least 0, found the string "hot""#,
    },
    Case {
        fields: r#""temperature":-0.1"#,
        says: "temperature: wanted a number of at least 0, found the number -0.1",
    },
    Case {
        fields: r#""temperature":1e999"#,
        says: "temperature: wanted a number of at least 0, found the number 1e999",
    },
    Case {
        fields: r#""temperature":1e39"#,
        says: "temperature: wanted a number of at least 0, found the number 1e39",
    },
    Case { fields: r#""top_p":0"#, says: "top_p: wanted a number above 0 and at most 1, found the number 0" },
    Case {
        fields: r#""top_p":1e-60"#,
        says: "top_p: wanted a number above 0 and at most 1, found the number 1e-60",
    },
    Case {
        fields: r#""top_p":1.01"#,
        says: "top_p: wanted a number above 0 and at most 1, found the number 1.01",
    },
    Case {
        fields: r#""top_k":-1"#,
        says: "top_k: wanted a whole number from 0 to 2147483647, found the number -1",
    },
    Case {
        fields: r#""top_k":1.5"#,
        says: "top_k: wanted a whole number from 0 to 2147483647, found the number 1.5",
    },
    // As 32 bits it would be 1.
    Case {
        fields: r#""top_k":4294967297"#,
        says: "top_k: wanted a whole number from 0 to 2147483647, found the number 4294967297",
    },
    Case { fields: r#""top_k":true"#, says: "top_k: wanted a whole number from 0 to 2147483647, found true" },
    Case {
        fields: r#""max_generate_length":0"#,
        says: "max_generate_length: wanted a whole number from 1 to 2147483647, found the number 0",
    },
    Case {
        fields: r#""sampling_seed":-1"#,
        says: "sampling_seed: wanted a whole number from 0 to 18446744073709551615, found the number -1",
    },
    Case {
        fields: r#""sampling_seed":18446744073709551616"#,
        says: "sampling_seed: wanted a whole number from 0 to 18446744073709551615, found the number 18446744073709551616",
    },
    // Above 2^53 a float is no whole number of one value.
    Case {
        fields: r#""sampling_seed":9007199254740994.0"#,
        says: "sampling_seed: wanted a whole number from 0 to 18446744073709551615, found the number 9007199254740994.0",
    },
    Case {
        fields: r#""num_logprobs":51"#,
        says: "num_logprobs: wanted a whole number from 0 to 50, found the number 51",
    },
    Case {
        fields: r#""logit_bias":[]"#,
        says: "logit_bias: wanted an object of token ids and biases, found an array",
    },
    Case {
        fields: r#""logit_bias":{"1":100.5}"#,
        says: "logit_bias.1: wanted a number from -100 to 100, found the number 100.5",
    },
    Case {
        fields: r#""logit_bias":{"1":null}"#,
        says: "logit_bias.1: wanted a number from -100 to 100, found null",
    },
    Case {
        fields: r#""logit_bias":{"2147483648":1}"#,
        says: r#"logit_bias: wanted token ids from 0 to 2147483647 as keys, found the string "2147483648""#,
    },
    Case {
        fields: r#""logit_bias":{"-1":1}"#,
        says: r#"logit_bias: wanted token ids from 0 to 2147483647 as keys, found the string "-1""#,
    },
];

#[test]
fn wrong_sampling_fails_the_file_at_the_top_and_one_request_below() {
    for Case { fields, says } in SAMPLING {
        let top = parse(&format!("{{{fields},\"requests\":[{{}}]}}")).unwrap_err();
        assert_eq!((top.code, top.message.as_str()), (FaultCode::BadFile, *says));
        let below = request(&format!(",{fields}")).unwrap_err().fault;
        assert_eq!((below.code, below.message), (FaultCode::BadRequest, format!("requests[0].{says}")));
    }
}

#[test]
fn wrong_top_levels_reject_the_file() {
    let cases = [
        ("", "the file is empty; wanted a JSON object with a requests array"),
        (" \n", "the file is empty; wanted a JSON object with a requests array"),
        ("{", "not JSON: EOF while parsing an object at line 1 column 1"),
        ("[1]", "wanted a JSON object with a requests array, found an array"),
        ("{}", "requests: missing; wanted an array of requests"),
        (r#"{"requests":null}"#, "requests: missing; wanted an array of requests"),
        (r#"{"requests":{}}"#, "requests: wanted an array of requests, found an object"),
        (r#"{"requests":[]}"#, "requests: empty; wanted at least one request"),
        (
            r#"{"batch_size":0,"requests":[1]}"#,
            "batch_size: wanted a whole number from 1 to 16, found the number 0",
        ),
        (
            r#"{"batch_size":17,"requests":[1]}"#,
            "batch_size: wanted a whole number from 1 to 16, found the number 17",
        ),
        (
            r#"{"batch_size":"2","requests":[1]}"#,
            "batch_size: wanted a whole number from 1 to 16, found the string \"2\"",
        ),
        (
            r#"{"priority":101,"requests":[1]}"#,
            "priority: wanted a whole number from -100 to 100, found the number 101",
        ),
        (
            r#"{"enable_thinking":1,"requests":[1]}"#,
            "enable_thinking: wanted true or false, found the number 1",
        ),
        (
            r#"{"available_lora_weights":["a"],"requests":[1]}"#,
            "available_lora_weights: wanted an object of adapter names and paths, found an array",
        ),
        (
            r#"{"available_lora_weights":{"a":1},"requests":[1]}"#,
            "available_lora_weights.a: wanted a path as a string, found the number 1",
        ),
        (
            r#"{"context_cache_lookup_policy":"never","requests":[1]}"#,
            "context_cache_lookup_policy: wanted \"use_cache\" or \"bypass\", found the string \"never\"",
        ),
        (
            r#"{"context_cache_commit_policy":3,"requests":[1]}"#,
            "context_cache_commit_policy: wanted \"including_generated_tokens\" or \"prefill_state_only\", found the number 3",
        ),
    ];
    for (text, says) in cases {
        let fault = parse(text).unwrap_err();
        assert_eq!((fault.code, fault.message.as_str()), (FaultCode::BadFile, says), "{text}");
    }
    let fault = RequestFile::parse(b"{\"requests\":[\"\xff\"]}".to_vec()).unwrap_err();
    assert_eq!(fault.message, "not JSON: byte 14 is not UTF-8; save the file as UTF-8");
    // A byte order mark and equal keys are no faults; the last of them counts.
    let file = parse("\u{feff}{\"batch_size\":0,\"requests\":[],\"batch_size\":3,\"requests\":[1]}").unwrap();
    assert_eq!((file.batch_size, file.n_requests()), (3, 1));
}

#[test]
fn wrong_requests_fail_alone() {
    let cases = [
        (request(r#","stop":"""#), "stop: wanted a string that is not empty, found the string \"\""),
        (request(r#","stop":["a",1]"#), "stop[1]: wanted a string, found the number 1"),
        (request(r#","stop":{}"#), "stop: wanted a string or an array of strings, found an object"),
        (request(r#","lora_name":5"#), "lora_name: wanted a string, found the number 5"),
        (
            request(r#","lora_name":"\ud800""#),
            "lora_name: wanted a string of valid Unicode, found the string \"\\ud800\"",
        ),
        (request(r#","lora_scale":"1""#), "lora_scale: wanted a finite number, found the string \"1\""),
        (request(r#","lora_scale":1e400"#), "lora_scale: wanted a finite number, found the number 1e400"),
        (
            request(r#","loras":{"name":"a"}"#),
            "loras: wanted an array of adapters, each with a name, found an object",
        ),
        (request(r#","loras":["a"]"#), "loras[0]: wanted an object, found the string \"a\""),
        (
            request(r#","loras":[{"name":"a"},{"scale":1}]"#),
            "loras[1].name: missing; wanted an adapter's name",
        ),
        (request(r#","loras":[{"name":5}]"#), "loras[0].name: wanted a string, found the number 5"),
        (
            request(r#","loras":[{"name":""}]"#),
            "loras[0].name: wanted a name that is not empty, found the string \"\"",
        ),
        (
            request(r#","loras":[{"name":"a","scale":1e39}]"#),
            "loras[0].scale: wanted a finite number, found the number 1e39",
        ),
        (
            request(r#","loras":[],"lora_name":"a""#),
            "loras: stands beside lora_name; give either lora_name with lora_scale, or all adapters in loras",
        ),
        (
            request(r#","loras":[{"name":"a"}],"lora_scale":1"#),
            "loras: stands beside lora_scale; give either lora_name with lora_scale, or all adapters in loras",
        ),
        (
            request(r#","disable_spec_decode":0"#),
            "disable_spec_decode: wanted true or false, found the number 0",
        ),
        (request(r#","messages":null"#), "messages: missing; wanted an array of messages"),
        (messages("[]"), "messages: empty; wanted at least one message"),
        (messages("{}"), "messages: wanted an array of messages, found an object"),
        (messages("[1]"), "messages[0]: wanted an object, found the number 1"),
        (messages(r#"[{"content":""}]"#), "messages[0].role: missing; wanted a string"),
        (
            messages(r#"[{"role":"user"}]"#),
            "messages[0].content: missing; wanted a string or an array of content items",
        ),
        (
            messages(r#"[{"role":"tool","content":""}]"#),
            "messages[0].role: wanted \"system\", \"user\" or \"assistant\", found the string \"tool\"",
        ),
        (messages(r#"[{"role":1,"content":""}]"#), "messages[0].role: wanted a string, found the number 1"),
        (
            messages(r#"[{"role":"user","content":1}]"#),
            "messages[0].content: wanted a string or an array of content items, found the number 1",
        ),
        (
            messages(r#"[{"role":"user","content":["a"]}]"#),
            "messages[0].content[0]: wanted an object, found the string \"a\"",
        ),
        (
            messages(r#"[{"role":"user","content":[{"text":"a"}]}]"#),
            "messages[0].content[0].type: missing; wanted \"text\"",
        ),
        (
            messages(r#"[{"role":"user","content":[{"type":"text"}]}]"#),
            "messages[0].content[0].text: missing; wanted a string",
        ),
        (
            messages(r#"[{"role":"user","content":[{"type":"text","text":2}]}]"#),
            "messages[0].content[0].text: wanted a string, found the number 2",
        ),
        (
            messages(r#"[{"role":"user","content":[{"type":"smell"}]}]"#),
            "messages[0].content[0].type: wanted \"text\", found the string \"smell\"",
        ),
    ];
    for (found, says) in cases {
        let fault = found.unwrap_err().fault;
        assert_eq!((fault.code, fault.message), (FaultCode::BadRequest, format!("requests[0].{says}")));
    }
    for (kind, says) in [("image", "images are"), ("audio", "audio is"), ("video", "video is")] {
        let fault = messages(&format!(r#"[{{"role":"user","content":[{{"type":"{kind}","{kind}":"p"}}]}}]"#));
        let fault = fault.unwrap_err().fault;
        assert_eq!(fault.code, FaultCode::UnsupportedContent);
        assert!(
            fault.message.contains(&format!("{says} not supported yet; send items of type \"text\"")),
            "{fault}"
        );
    }
    // What the producer needs to find its request again survives the fault.
    let bad = request(r#","id":17,"lora_name":"x","top_k":-5"#).unwrap_err();
    assert_eq!((bad.id, bad.lora_name.as_deref()), (Some(Echo::new("17").unwrap()), Some("x")));
}

#[test]
fn limits_hold_to_the_last_one_and_are_named() {
    let message = |n: usize| format!(r#"{{"role":"user","content":"{}"}}"#, "x".repeat(n));
    let many = |n: usize, item: &str| format!("[{}]", vec![item; n].join(","));
    let items = |n| {
        messages(&format!(r#"[{{"role":"user","content":{}}}]"#, many(n, r#"{"type":"text","text":"a"}"#)))
    };
    let biases = |n: usize| {
        let entries: Vec<String> = (0..n).map(|i| format!("\"{i}\":1")).collect();
        request(&format!(",\"logit_bias\":{{{}}}", entries.join(",")))
    };
    let stops = |n| request(&format!(",\"stop\":{}", many(n, "\"a\"")));
    let id = |n: usize| request(&format!(",\"id\":\"{}\"", "i".repeat(n - 2)));
    let loras = |n: usize, n_bytes: usize| {
        let entry = format!("{{\"name\":\"{}\"}}", "n".repeat(n_bytes));
        request(&format!(",\"loras\":{}", many(n, &entry)))
    };
    let escaped = |n: usize| messages(&format!(r#"[{{"role":"user","content":"{}"}}]"#, "\\u0041".repeat(n)));
    let text = 131_072;
    let cases = [
        ("64", messages(&many(64, &message(1))), messages(&many(65, &message(1)))),
        ("18", items(18), items(19)),
        ("131072", messages(&many(1, &message(text))), messages(&many(1, &message(text + 1)))),
        ("131072", escaped(text), escaped(text + 1)),
        (
            "1048576",
            messages(&many(8, &message(text))),
            messages(&format!("[{},{}]", vec![message(text); 8].join(","), message(1))),
        ),
        ("1024", biases(1024), biases(1025)),
        ("64", stops(64), stops(65)),
        (
            "4096",
            request(&format!(",\"stop\":\"{}\"", "s".repeat(4096))),
            request(&format!(",\"stop\":\"{}\"", "s".repeat(4097))),
        ),
        ("4096", id(4096), id(4097)),
        ("8", loras(8, 1), loras(9, 1)),
        ("1024", loras(1, 1024), loras(1, 1025)),
    ];
    for (limit, good, bad) in cases {
        assert!(good.is_ok(), "{limit}: {good:?}");
        let message = bad.unwrap_err().fault.message;
        assert!(message.contains("over the limit of") && message.contains(limit), "{message}");
    }
    let file = |n| parse(&format!("{{\"requests\":{}}}", many(n, "0")));
    assert_eq!(file(100_000).unwrap().n_requests(), 100_000);
    let fault = file(100_001).unwrap_err();
    assert_eq!(
        (fault.code, fault.message.as_str()),
        (FaultCode::TooLarge, "requests: 100001 requests are over the limit of 100000")
    );
    let unknown: Vec<String> = (0..20).map(|i| format!("\"k{i}\":0")).collect();
    let warnings = parse(&format!("{{{},\"requests\":[0]}}", unknown.join(","))).unwrap().warnings;
    assert_eq!((warnings.len(), warnings[8].as_str()), (9, "…: 12 more unknown fields, ignored"));
}

/// Every token is the first byte of a character of two.
struct HalfCharacters;

impl TokenBytes for HalfCharacters {
    fn token_bytes(&self, _token: u32) -> Vec<u8> {
        vec![195]
    }
}

fn full_answer() -> Answer {
    Answer {
        finish_reason: FinishReason::StopWords,
        formatted_complete_request: "<s>hi".into(),
        formatted_system_prompt: "<s>".into(),
        id: Some(Echo::new(r#"{"a": [], "b": 1}"#).unwrap()),
        logprobs: Some({
            let mut logprobs = Logprobs::new(Arc::new(HalfCharacters));
            logprobs.push([(9, -0.5)]);
            logprobs
        }),
        lora_name: Some("french".into()),
        messages: vec![Message::new(Role::User, vec![ContentPart::Text("hi \"you\"\n".into())])],
        output_text: "né\u{7f}\u{1}".into(),
        token_ids: vec![1, 2],
        usage: Usage { prompt_tokens: 3, cached_tokens: 0, generated_tokens: 2 },
        warnings: vec!["w".into()],
        ..Answer::empty(3, 2)
    }
}

#[test]
fn answers_have_the_documented_bytes() {
    let bad = BadRequest {
        loras: vec![used("french", 0.7), used("po\"lite", 1.0)],
        ..BadRequest::new(Fault::new(FaultCode::UnknownAdapter, "no"))
    };
    let mut file = AnswerFile::begin(Vec::new(), "/spool/new/ä.json").unwrap();
    file.entry(|out| full_answer().write_json(out)).unwrap();
    file.entry(|out| Answer::failed(4, 2, bad).write_json(out)).unwrap();
    let bytes = file.finish(&["top".into()]).unwrap();
    assert_eq!(String::from_utf8(bytes).unwrap(), include_str!("../data/spool/answer.json"));
    let bytes = AnswerFile::begin(Vec::new(), "x").unwrap().finish(&[]).unwrap();
    assert_eq!(
        String::from_utf8(bytes).unwrap(),
        "{\n    \"input_file\": \"x\",\n    \"responses\": []\n}\n"
    );
    let mut bytes = Vec::new();
    let fault = Fault::new(FaultCode::BadFile, "not JSON");
    jetspool::spool::wire::answer_file::write_rejection(&mut bytes, "x", &fault).unwrap();
    assert_eq!(String::from_utf8(bytes).unwrap(), include_str!("../data/spool/rejection.json"));
}

/// A large file is read again for each request, and one that was written into meanwhile is noticed.
#[test]
fn large_files_are_read_again_and_checked() {
    use std::io::{Seek, SeekFrom, Write};
    let request = |i: usize| {
        format!(r#"{{"messages":[{{"role":"user","content":"question {i} {}"}}]}}"#, "x".repeat(1000))
    };
    let requests: Vec<String> = (0..100).map(request).collect();
    let text = format!("{{\"requests\": [{}]}}", requests.join(", "));
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    let (parsed, crc) =
        RequestFile::read(file.try_clone().unwrap(), text.len() as u64, Form::Object).unwrap();
    let (parsed, wanted) = (parsed.unwrap(), parse(&text).unwrap());
    assert_eq!(crc, crc32fast::hash(text.as_bytes()));
    assert!(parsed.n_bytes() < 2000, "{} bytes for 100 requests", parsed.n_bytes());
    assert!(parsed.requests().eq(wanted.requests()));
    let at = text.find("question 50").unwrap() as u64;
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(b"Q").unwrap();
    let faults: Vec<usize> = (0..100).filter(|&i| parsed.request(i).is_err()).collect();
    assert_eq!(faults, [50]);
    assert!(parsed.request(50).unwrap_err().fault.message.contains("changed while it was answered"));
    file.set_len(at).unwrap();
    assert!(parsed.request(49).is_ok() && parsed.request(99).is_err());
}

/// Reads all there is to read; the result may be anything but a panic.
fn swallow(bytes: Vec<u8>) -> usize {
    match RequestFile::parse(bytes) {
        Ok(file) => file
            .requests()
            .map(|request| request.map_or_else(|bad| bad.fault.message.len(), |r| r.messages.len()))
            .sum(),
        Err(fault) => fault.message.len(),
    }
}

#[test]
fn damage_is_an_error_or_a_request_never_a_panic() {
    let large = FULL.replace(
        "\"requests\": [",
        &format!("\"requests\": [{}", r#"{"messages":[{"role":"user","content":"ü😀\\\""}]},"#.repeat(200)),
    );
    for end in (0..large.len()).step_by(97) {
        assert!(swallow(large.as_bytes()[..end].to_vec()) > 0);
    }
    // A fixed sequence of pseudo-random numbers (Numerical Recipes' quick generator).
    let mut state = 1u32;
    let mut next = |n: usize| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as usize % n
    };
    let marks = b"{}[]\",:\\0-9e.tfnu \xff\x00";
    for _ in 0..2000 {
        let mut bytes = FULL.as_bytes().to_vec();
        for _ in 0..=next(4) {
            let at = next(bytes.len());
            match next(3) {
                0 => bytes[at] = marks[next(marks.len())],
                1 => bytes.insert(at, marks[next(marks.len())]),
                _ => drop(bytes.remove(at)),
            }
        }
        swallow(bytes);
    }
}
