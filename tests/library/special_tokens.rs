//! Contents never become special tokens, whatever a template does to them; the template's own always are.

use jetspool::text::{ChatMessage, ChatTemplate, RenderOptions, TemplateVariables, Tokenizer};
use serde_json::json;

/// Every byte is a token, and so are the texts of these.
const SPECIAL: [&str; 6] = ["<|im_start|>", "<|im_end|>", "<|user|>", "<|assistant|>", "<s>", "[INST]"];

fn tokenizer() -> Tokenizer {
    let mut vocab = serde_json::Map::new();
    for character in (' '..='~').chain(['\n', 'é', 'İ', 'ß']) {
        vocab.insert(character.to_string(), vocab.len().into());
    }
    vocab.insert("<unk>".into(), vocab.len().into());
    let added: Vec<_> = SPECIAL
        .iter()
        .map(|text| (text, true))
        .chain([(&"</think>", false)])
        .map(|(text, special)| json!({"id": 0, "content": text, "special": special, "normalized": false}))
        .collect();
    let whole = json!({"version": "1.0", "added_tokens": added, "normalizer": null, "pre_tokenizer": null,
        "decoder": null, "model": {"type": "BPE", "unk_token": "<unk>", "vocab": vocab, "merges": []}});
    Tokenizer::parse(&serde_json::to_vec(&whole).unwrap()).unwrap()
}

struct Outcome {
    /// The special tokens of the prompt, in order.
    special: Vec<String>,
    text: String,
}

fn outcome(tokenizer: &Tokenizer, source: &str, contents: &[&str]) -> Result<Outcome, String> {
    let named = [("bos_token", "<s>"), ("eos_token", "<|im_end|>")];
    let named_tokens = named.map(|(name, text)| (name.to_owned(), text.to_owned())).to_vec();
    let template = ChatTemplate::from_jinja(
        source,
        TemplateVariables { named_tokens },
        tokenizer.special_tokens().clone(),
    );
    let roles = ["user", "assistant"].into_iter().cycle();
    let messages: Vec<_> =
        contents.iter().zip(roles).map(|(content, role)| ChatMessage::new(role, *content)).collect();
    let rendered = template.and_then(|template| template.render(&messages, &RenderOptions::default()));
    let prompt = rendered.map_err(|error| error.to_string())?.prompt;
    let ids = tokenizer.encode(&prompt).unwrap();
    let texts = ids.into_iter().map(|id| String::from_utf8(tokenizer.token_bytes(id)).unwrap());
    let special = texts.filter(|text| SPECIAL.contains(&text.as_str())).collect();
    Ok(Outcome { special, text: prompt.text().to_owned() })
}

/// One message through an expression, between special tokens of the template.
fn around(expression: &str) -> String {
    format!(
        "{{{{ bos_token }}}}{{% for m in messages %}}<|im_start|>{{% set c = m.content %}}{{{{ {expression} }}}}\
         <|im_end|>{{% endfor %}}{{{{ eos_token }}}}"
    )
}

#[test]
fn contents_are_text_whatever_is_done_to_them() {
    struct Case {
        expression: &'static str,
        content: &'static str,
        /// Between the template's own tokens.
        text: &'static str,
    }
    let cases = [
        Case { expression: "c", content: "<|im_end|>", text: "<|im_end|>" },
        Case { expression: "c | lower", content: "a <|IM_END|> İß", text: "a <|im_end|> i\u{307}ß" },
        Case { expression: "c.lower()", content: "<|IM_END|>", text: "<|im_end|>" },
        Case { expression: "c | upper", content: "[inst] ß", text: "[INST] SS" },
        Case { expression: "c.upper()", content: "[inst]", text: "[INST]" },
        Case { expression: "c | title", content: "[INST] x", text: "[Inst] X" },
        Case { expression: "c | capitalize", content: "<S>", text: "<s>" },
        Case { expression: "c.capitalize()", content: "<S>", text: "<s>" },
        Case { expression: "c.title()", content: "<S>", text: "<S>" },
        Case { expression: "c | replace('#', '')", content: "<|im_#end|>", text: "<|im_end|>" },
        Case { expression: "c.replace('#', 'm')", content: "<|i#_end|>", text: "<|im_end|>" },
        Case { expression: "c.replace('|', '~')", content: "<|im_end|>", text: "<~im_end~>" },
        Case { expression: "c.replace('<|im_end|>', '!')", content: "x<|im_end|>y", text: "x!y" },
        Case {
            expression: "c | replace('<|im_end|>', '')",
            content: "<|im_<|im_end|>end|>",
            text: "<|im_end|>",
        },
        Case { expression: "c[::-1]", content: ">|dne_mi|<", text: "<|im_end|>" },
        Case { expression: "c | reverse", content: ">|dne_mi|<", text: "<|im_end|>" },
        Case { expression: "c | list | reverse | join", content: ">|dne_mi|<", text: "<|im_end|>" },
        Case { expression: "c | reverse | join", content: ">|dne_mi|<", text: "<|im_end|>" },
        Case { expression: "c.split('#') | join", content: "<|im#_end#|>", text: "<|im_end|>" },
        Case { expression: "''.join(c.split(' '))", content: "<|im _end |>", text: "<|im_end|>" },
        Case { expression: "c.split() | join", content: " <|im _end \n|>", text: "<|im_end|>" },
        Case { expression: "c.split('<|im_end|>') | join('/')", content: "a<|im_end|>b", text: "a/b" },
        Case { expression: "c[2:12]", content: "xx<|im_end|>yy", text: "<|im_end|>" },
        Case { expression: "c[:5] ~ c[6:]", content: "<|im_X_end|>", text: "<|im__end|>" },
        Case { expression: "c[:6] + c[7:]", content: "<|im_eXnd|>", text: "<|im_end|>" },
        Case { expression: "'<|' ~ c ~ '|>'", content: "im_end", text: "<|im_end|>" },
        Case { expression: "'<|im_' ~ c", content: "end|>", text: "<|im_end|>" },
        Case { expression: "c ~ 'im_end|>'", content: "<|", text: "<|im_end|>" },
        Case { expression: "c ~ '|>'", content: "<|user", text: "<|user|>" },
        Case { expression: "'<|' ~ c ~ '|>'", content: "user", text: "<|user|>" },
        Case { expression: "c | trim", content: "  <s> ", text: "<s>" },
        Case { expression: "c.strip('#<')", content: "#<<s>#", text: "s>" },
        Case { expression: "'<' ~ c.lstrip('<')", content: "<<s>", text: "<s>" },
        Case { expression: "c.rstrip('>\n') ~ '>'", content: "<s>>\n", text: "<s>" },
        Case { expression: "c.removeprefix('<|')", content: "<|<s>", text: "<s>" },
        Case { expression: "c | e", content: "<s>&", text: "&lt;s&gt;&amp;" },
        Case { expression: "c | tojson", content: "<s>\"", text: "\"<s>\\\"\"" },
        Case { expression: "[c]", content: "<s>", text: "['<s>']" },
        Case { expression: "c * 2", content: "<s>", text: "<s><s>" },
        Case { expression: "'{}>'.format(c)", content: "<s", text: "<s>" },
        Case { expression: "c | default('x') | string", content: "<s>", text: "<s>" },
        Case { expression: "'yes' if '<|im_end|>' in c else 'no'", content: "a<|im_end|>", text: "yes" },
        Case { expression: "'no' if '<s>' not in c else c", content: "<s>", text: "<s>" },
        Case { expression: "'yes' if c.startswith('<s>') else 'no'", content: "<s>x", text: "yes" },
        Case { expression: "c.find('<s>')", content: "é<s>", text: "1" },
        Case { expression: "'yes' if c == 'ping' else 'no'", content: "ping", text: "yes" },
        Case { expression: "'yes' if 'think' in c else 'no'", content: "to think", text: "yes" },
        Case { expression: "c.split('</think>')[-1]", content: "a</think><s>", text: "<s>" },
        Case {
            expression: "c.split('</think>')[0].rstrip('\n').lstrip()",
            content: " <s>\n</think>b",
            text: "<s>",
        },
        Case { expression: "c | length", content: "<s>é", text: "4" },
        Case { expression: "c", content: "\u{100000} <s> \u{F0000}", text: "\u{100000} <s> \u{F0000}" },
    ];
    let tokenizer = tokenizer();
    let mut wrong = Vec::new();
    for Case { expression, content, text } in cases {
        let wanted = (
            ["<s>", "<|im_start|>", "<|im_end|>", "<|im_end|>"].map(str::to_owned).to_vec(),
            format!("<s><|im_start|>{text}<|im_end|><|im_end|>"),
        );
        match outcome(&tokenizer, &around(expression), &[content]) {
            Ok(found) if (found.special.clone(), found.text.clone()) == wanted => {}
            Ok(found) => {
                wrong.push(format!("{expression} {content:?}: {:?} {:?}", found.special, found.text))
            }
            Err(error) => wrong.push(format!("{expression} {content:?}: {error}")),
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn tokens_across_messages_are_text() {
    let tokenizer = tokenizer();
    let source = "{% for m in messages %}{{ m.content }}{% endfor %}";
    let joined = "{{ messages | map(attribute='content') | join }}";
    let summed = "{% set ns = namespace(x='') %}{% for m in messages %}{% set ns.x = ns.x + m.content %}{% endfor %}{{ ns.x }}";
    for source in [source, joined, summed] {
        for split in 0.."<|im_end|>".len() {
            let (left, right) = "<|im_end|>".split_at(split);
            let found = outcome(&tokenizer, source, &[left, right]).unwrap();
            assert_eq!((found.special.len(), found.text.as_str()), (0, "<|im_end|>"), "{source} {split}");
        }
    }
}

#[test]
fn the_templates_own_tokens_count_however_it_makes_them() {
    let tokenizer = tokenizer();
    for source in [
        "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m.content }}{% endfor %}<|assistant|>",
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}{{ '<|assis' ~ 'tant|>' }}",
        "{% for m in messages %}{{ ['<|', m.role, '|>', m.content] | join }}{% endfor %}<|{{ 'assistant' }}|>",
        "{% macro head(role) %}{{ '<|%s|>' | format(role) }}{% endmacro %}{% for m in messages %}{{ head(m.role) }}\
         {{ m.content }}{% endfor %}{{ '<|ASSISTANT|>' | lower }}",
        "{% for m in messages %}{% if m.role == 'user' %}<|user|>{% else %}{{ '<|assistant|>' }}{% endif %}\
         {{ m.content.split('</think>')[-1] if '</think>' in m.content else m.content }}{% endfor %}\
         {% set tail = '<|assistant|>' %}{{ tail }}",
    ] {
        for contents in
            [["Hello, user", "the assistant"], ["<|user|>", "<s>x</think> user <|"], ["|>", "user"]]
        {
            let found = outcome(&tokenizer, source, &contents).unwrap();
            assert_eq!(
                found.special,
                ["<|user|>", "<|assistant|>", "<|assistant|>"],
                "{source} {contents:?}"
            );
        }
    }
}

#[test]
fn what_cannot_be_followed_is_refused() {
    let tokenizer = tokenizer();
    // The order is that of the characters, which colours change.
    let source = "{{ messages | map(attribute='content') | sort | join }}";
    let error = outcome(&tokenizer, source, &["<s>", "~"]).err().unwrap();
    assert!(error.contains("hides which special tokens are its own"), "{error}");
}
