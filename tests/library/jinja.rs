//! Every filter, test and global of jinja2, every method of Python's strings, lists, maps and tuples, and every code of
//! strftime, against what jinja2 and Python make of them.

use jetspool::text::{ChatMessage, ChatTemplate, RenderOptions, SpecialTokens, TemplateVariables};
use serde_json::Value;

use crate::support::{json, reference};

/// What is left out, by its name: it fails and says so. The rest of its group works.
const LEFT_OUT: [(&str, &str); 10] = [
    // Depends on chance.
    ("filters", "random"),
    ("globals", "lipsum"),
    // For pages of a web site.
    ("filters", "striptags"),
    ("filters", "urlize"),
    ("filters", "wordwrap"),
    ("filters", "xmlattr"),
    // A prompt has no use for them.
    ("tests", "callable"),
    ("str", "encode"),
    ("str", "maketrans"),
    ("str", "translate"),
];
/// Templates that fail or come out otherwise, in corners that no template of a model goes to: views and ranges print as
/// lists, escaped texts are not marked, very large and small floats are written out by `~` and `join`.
const OTHERWISE: [&str; 11] = [
    "{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.current }}",
    "{% set c = cycler('a', 'b') %}{{ c.next() }}{% set _ = c.reset() %}{{ c.next() }}",
    "{{ 'a' | e is escaped }}",
    "{{ range(2) is sequence }}",
    "{{ ([1] | map('upper')) is sequence }}",
    "{{ range(4) }}",
    "{{ {'a': 1}.values() }}",
    "{{ ['\\U0001f600'] }}",
    "{{ 'x' ~ 1e16 }}",
    "{{ [1e16] | join(',') }}",
    "{{ '{!r}'.format('a') }}",
];

fn render(source: &str, messages: &[ChatMessage], local_time: i64) -> Result<String, String> {
    let named = [("bos_token", "<s>"), ("eos_token", "</s>")];
    let named_tokens = named.map(|(name, text)| (name.to_owned(), text.to_owned())).to_vec();
    // Contents are followed through all that is done with them.
    let special = SpecialTokens::new(["<|im_end|>", "</s>", "<s>"].map(str::to_owned));
    let template = ChatTemplate::from_jinja(source, TemplateVariables { named_tokens }, special);
    let options = RenderOptions { local_time, ..RenderOptions::default() };
    let rendered = template.and_then(|template| template.render(messages, &options));
    rendered.map(|rendered| rendered.prompt.text().to_owned()).map_err(|error| error.to_string())
}

#[test]
fn every_feature_of_jinja_is_there_or_fails_by_name() {
    let features = json(&reference("jinja_features.json"));
    let messages: Vec<ChatMessage> = features["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|message| {
            ChatMessage::new(message["role"].as_str().unwrap(), message["content"].as_str().unwrap())
        })
        .collect();
    let mut differences = Vec::new();
    let mut n_equal = 0;
    for (group, features) in features.as_object().unwrap().iter().filter(|(group, _)| *group != "messages") {
        for (name, cases) in features.as_object().unwrap() {
            let is_left_out = LEFT_OUT.contains(&(group, name));
            for case in cases.as_array().unwrap() {
                let source = case["template"].as_str().unwrap();
                let found = render(source, &messages, 0);
                let is_equal = match (case["rendered"].as_str(), &found) {
                    (Some(wanted), Ok(found)) => wanted == found,
                    (wanted, found) => wanted.is_none() && found.is_err(),
                };
                if is_left_out {
                    let error = found.expect_err(source);
                    assert!(error.contains(name), "{source}: {error}");
                } else if OTHERWISE.contains(&source) {
                    assert!(!is_equal, "{source} works now");
                } else if !is_equal {
                    differences.push(format!("{group} {name}\n{case}\nfound {found:?}"));
                } else {
                    n_equal += 1;
                }
            }
        }
    }
    assert!(differences.is_empty(), "{} differ:\n{}", differences.len(), differences.join("\n"));
    assert!(n_equal > 200, "{n_equal}");
}

#[test]
fn dates_are_pythons() {
    let messages = [ChatMessage::new("user", "Hi")];
    let mut differences = Vec::new();
    let mut n_codes = 0;
    for moment in json(&reference("strftime.json")).as_array().unwrap() {
        for (format, wanted) in moment["texts"].as_object().unwrap() {
            let source = format!("{{{{ strftime_now({}) }}}}", Value::from(format.as_str()));
            let found = render(&source, &messages, moment["unix"].as_i64().unwrap());
            n_codes += 1;
            if found.as_deref() != Ok(wanted.as_str().unwrap()) {
                differences.push(format!("{} {format}: wanted {wanted}, found {found:?}", moment["now"]));
            }
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    assert!(n_codes > 300, "{n_codes}");
}
