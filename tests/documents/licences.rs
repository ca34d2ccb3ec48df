//! deny.toml allows the licences that the tree has, and no others.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

use super::blocks::root;

/// Each crate of the tree and its licence, as its author wrote it.
fn licences() -> Vec<(String, String)> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--locked", "--offline", "--format-version", "1", "--all-features"])
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let nodes = metadata["resolve"]["nodes"].as_array().unwrap();
    let used: BTreeSet<String> = nodes.iter().map(|node| text(&node["id"])).collect();
    let packages = metadata["packages"].as_array().unwrap().iter();
    packages
        .filter(|package| used.contains(&text(&package["id"])))
        .map(|package| (text(&package["name"]), text(&package["license"])))
        .collect()
}

/// One of the choices for each part that must hold.
fn parts(licence: &str) -> Vec<Vec<String>> {
    let choices = |part: &str| {
        let part = part.trim_matches(['(', ')', ' ']).replace('/', " OR ");
        part.split(" OR ").map(|choice| choice.trim().to_owned()).collect()
    };
    licence.split(" AND ").map(choices).collect()
}

#[test]
fn the_licences_are_those_of_the_tree() {
    let text = std::fs::read_to_string(root().join("deny.toml")).unwrap();
    let table: toml::Table = text.parse().unwrap();
    let allowed = table["licenses"]["allow"].as_array().unwrap().iter();
    let allowed: BTreeSet<String> = allowed.map(|name| name.as_str().unwrap().to_owned()).collect();
    let mut named = BTreeSet::new();
    let licences = licences();
    assert!(licences.len() > 100, "{licences:?}");
    for (name, licence) in licences {
        for choices in parts(&licence) {
            assert!(
                choices.iter().any(|choice| allowed.contains(choice)),
                "{name}: {licence:?} is not in deny.toml"
            );
            named.extend(choices);
        }
    }
    assert!(allowed.is_subset(&named), "no crate has {:?}", allowed.difference(&named).collect::<Vec<_>>());
}
