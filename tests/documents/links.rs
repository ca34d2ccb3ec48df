//! Every link of every document leads somewhere: in the repository, and for documents that the package holds in the
//! package too, where they lie beside each other as they do here.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use super::blocks::{documents, root};

/// Where the package puts documents.
const SHARE: &str = "usr/share/doc/jetspool";

/// A link as it is written.
struct Link {
    line: usize,
    target: String,
}

/// Links and pictures outside code.
fn links(text: &str) -> Vec<Link> {
    let mut links = Vec::new();
    let mut is_code = false;
    for (index, line) in text.lines().enumerate() {
        is_code ^= line.starts_with("```");
        if is_code || line.starts_with("    ") {
            continue;
        }
        // Between an odd and an even mark stands code.
        let prose: Vec<&str> = line.split('`').step_by(2).collect();
        let prose = prose.join("`");
        let mut rest = prose.as_str();
        while let Some((_, after)) = rest.split_once("](") {
            let (target, after) = after.split_once(')').unwrap_or((after, ""));
            links.push(Link { line: index + 1, target: target.to_owned() });
            rest = after;
        }
    }
    links
}

/// The anchors that a renderer makes of a document's headings.
fn anchors(text: &str) -> Vec<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let kept = |c: char| c.is_alphanumeric() || c == ' ' || c == '-' || c == '_';
    headings
        .map(|line| line.trim_start_matches('#').trim().to_lowercase())
        .map(|title| title.chars().filter(|c| kept(*c)).collect::<String>().replace(' ', "-"))
        .collect()
}

/// A path without `..`.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir => {}
            other => plain.push(other),
        }
    }
    plain
}

/// What the package holds below [`SHARE`], by its path there, with its source.
fn shipped() -> BTreeMap<PathBuf, PathBuf> {
    let text = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let assets = text.split_once("assets = [").unwrap().1.split_once("\n]").unwrap().0;
    let mut shipped = BTreeMap::new();
    for line in assets.lines().filter(|line| line.contains(SHARE)) {
        let words: Vec<&str> = line.split('"').collect();
        let (source, place) = (words[1], words[3].strip_prefix(SHARE).unwrap().trim_start_matches('/'));
        match source.split_once('*') {
            None if place.ends_with('/') || place.is_empty() => {
                shipped.insert(Path::new(place).join(Path::new(source).file_name().unwrap()), source.into());
            }
            None => drop(shipped.insert(place.into(), source.into())),
            Some((folder, suffix)) => {
                for entry in std::fs::read_dir(root().join(folder)).unwrap() {
                    let name = entry.unwrap().file_name().into_string().unwrap();
                    if name.ends_with(suffix) {
                        shipped.insert(Path::new(place).join(&name), Path::new(folder).join(&name));
                    }
                }
            }
        }
    }
    shipped
}

#[test]
fn every_link_leads_somewhere() {
    let mut faults = Vec::new();
    let shipped = shipped();
    assert!(shipped.contains_key(Path::new("README.md")), "{shipped:?}");
    let mut n_links = 0;
    for document in documents() {
        let text = std::fs::read_to_string(&document).unwrap();
        let own = document.strip_prefix(root()).unwrap();
        let places: Vec<&Path> =
            shipped.iter().filter(|(_, source)| *source == own).map(|(place, _)| place.as_path()).collect();
        for Link { line, target } in links(&text) {
            if target.starts_with("http://") || target.starts_with("https://") {
                continue;
            }
            n_links += 1;
            let mut fault = |what: &str| faults.push(format!("{}:{line}: {target} {what}", own.display()));
            let (path, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let meant = match path {
                "" => own.to_owned(),
                path => plain(&own.parent().unwrap().join(path)),
            };
            if !root().join(&meant).exists() {
                fault("is not there");
                continue;
            }
            if !anchor.is_empty() {
                let text = std::fs::read_to_string(root().join(&meant)).unwrap();
                if !anchors(&text).iter().any(|found| found == anchor) {
                    fault("has no such heading");
                }
            }
            for place in &places {
                let there = match path {
                    "" => place.to_path_buf(),
                    path => plain(&place.parent().unwrap().join(path)),
                };
                if shipped.get(&there) != Some(&meant) {
                    fault("is not in the package");
                }
            }
        }
    }
    assert!(n_links > 40, "{n_links}");
    assert!(faults.is_empty(), "{} links lead nowhere:\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn a_link_that_leads_nowhere_is_seen() {
    let text = "See [a](b.md#c) and ![d](e.svg), not `[x](y)`.\n\n    [k](l)\n```\n[m](n)\n```\n[o](p)";
    let found: Vec<(usize, String)> = links(text).into_iter().map(|link| (link.line, link.target)).collect();
    assert_eq!(found, [(1, "b.md#c".into()), (1, "e.svg".into()), (7, "p".into())]);
    assert_eq!(anchors("# A b\n## What `x` costs, and why"), ["a-b", "what-x-costs-and-why"]);
    assert_eq!(plain(Path::new("docs/../systemd/./a")), Path::new("systemd/a"));
}

/// Paths below /usr/share/doc/jetspool that texts name are those of the package.
#[test]
fn paths_in_the_package_are_named_as_they_are() {
    let shipped = shipped();
    let mut files = documents();
    for folder in ["package", "systemd"] {
        files.extend(std::fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap().path()));
    }
    let mut n_paths = 0;
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        for (_, after) in
            text.match_indices("/usr/share/doc/jetspool/").map(|(at, found)| text.split_at(at + found.len()))
        {
            let path = after.split(|c: char| c.is_whitespace() || "`'\",;)".contains(c)).next().unwrap();
            let path = path.trim_end_matches(['.', '/']);
            let is_there = shipped.keys().any(|place| place == Path::new(path) || place.starts_with(path));
            assert!(is_there, "{}: /usr/share/doc/jetspool/{path} is not in the package", file.display());
            n_paths += 1;
        }
    }
    assert!(n_paths > 5, "{n_paths}");
}

/// Files that ARCHITECTURE.md names are there, from the root or from src/.
#[test]
fn files_of_the_architecture_are_there() {
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let endings = [".rs", ".cu", ".py", "/"];
    let is_path = |name: &&str| name.contains('/') && endings.iter().any(|ending| name.ends_with(ending));
    let names: Vec<&str> = text.split('`').skip(1).step_by(2).filter(is_path).collect();
    // Directories of the spool.
    let of_spool = ["new/", "tmp/", "done/"];
    for name in names.iter().filter(|name| !of_spool.contains(name)) {
        let is_there = root().join(name).exists() || root().join("src").join(name).exists();
        assert!(is_there, "ARCHITECTURE.md: {name} is not there");
    }
    assert!(names.len() > 50, "{names:?}");
}
