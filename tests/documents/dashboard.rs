//! package/grafana.json asks for metrics that the daemon writes, and for every one of them.

use std::collections::BTreeSet;

use serde_json::Value;

use super::blocks::root;

/// The metrics that src/daemon/metrics.rs names; tests/program/status.rs holds it against a running daemon.
fn written() -> BTreeSet<String> {
    let source = std::fs::read_to_string(root().join("src/daemon/metrics.rs")).unwrap();
    let body = source.split_once("vec![").unwrap().1;
    let calls = body.split(['(']).collect::<Vec<_>>();
    let names = calls.windows(2).filter(|pair| pair[0].ends_with("gauge") || pair[0].ends_with("counter"));
    names.map(|pair| format!("jetspool_{}", pair[1].split('"').nth(1).unwrap())).collect()
}

fn texts<'v>(value: &'v Value, key: &str, found: &mut Vec<&'v str>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get(key).and_then(Value::as_str));
            fields.values().for_each(|value| texts(value, key, found));
        }
        Value::Array(items) => items.iter().for_each(|value| texts(value, key, found)),
        _ => {}
    }
}

#[test]
fn the_dashboard_shows_the_daemons_metrics() {
    let text = std::fs::read_to_string(root().join("package/grafana.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let mut expressions = Vec::new();
    texts(&dashboard, "expr", &mut expressions);
    let mut asked = BTreeSet::new();
    for expression in &expressions {
        let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        asked.extend(
            expression
                .split(|c: char| !is_of_name(c))
                .filter(|word| word.starts_with("jetspool_"))
                .map(str::to_owned),
        );
        // A counter alone only grows.
        for counter in expression.match_indices("_total").map(|(at, _)| &expression[..at]) {
            assert!(counter.contains("rate(") || counter.contains("increase("), "{expression}");
        }
    }
    let written = written();
    assert!(written.len() > 20, "{written:?}");
    assert_eq!(asked, written);
}
