//! Holds the house together: which room may use which, how long files and functions are, where
//! `cfg(target_arch)`, `unwrap()` and the environment may stand. The map is in src/lib.rs.
//!
//! Sources are read as text with comments and strings blanked out, so that line numbers stay.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::Path;

/// Every room may use them: the names of exit codes, and numbers with a noun.
const COMMON: [&str; 2] = ["exit", "count"];

/// Room and what it may use of ours.
const ARROWS: [(&str, &[&str]); 26] = [
    ("main", &["answer", "cli", "compress", "config", "daemon", "doctor", "operator", "probe", "tools"]),
    (
        "cli",
        &[
            "answer", "compress", "config", "daemon", "doctor", "fleet", "format", "numbers", "operator",
            "probe", "tools",
        ],
    ),
    ("compress", &["device", "format", "model", "numbers", "progress", "store", "text", "tools"]),
    ("daemon", &["answer", "config", "infer", "service", "spool"]),
    // Of the spool only the wire.
    (
        "answer",
        &[
            "config", "device", "format", "infer", "load", "model", "numbers", "progress", "spool", "store",
            "text",
        ],
    ),
    ("operator", &["spool", "store"]),
    ("fleet", &["config", "service", "spool", "store"]),
    ("doctor", &["answer", "config", "cuda", "format", "spool", "store"]),
    ("cuda", &[]),
    // Of infer only the sampler.
    ("probe", &["device", "format", "infer", "kernels", "load", "model", "numbers", "progress", "store"]),
    ("load", &["device", "format", "model", "numbers", "store"]),
    ("tools", &["cuda", "device", "format", "kernels", "numbers", "progress", "store", "text"]),
    // Of the device only the trait, as a bound on the model.
    ("infer", &["device", "format", "model", "numbers"]),
    ("model", &["device", "format", "numbers"]),
    ("device", &["cuda", "format", "kernels", "numbers"]),
    ("kernels", &["numbers"]),
    ("store", &["format"]),
    ("spool", &[]),
    ("text", &[]),
    ("config", &["numbers"]),
    ("format", &["numbers"]),
    ("numbers", &[]),
    (COMMON[0], &[]),
    (COMMON[1], &[]),
    ("progress", &[]),
    ("service", &["config"]),
];

const MAX_FILE_LINES: usize = 600;
const MAX_FUNCTION_LINES: usize = 100;

/// A rule that is broken, with the place.
struct Violation {
    /// Below src/.
    path: String,
    line: usize,
    what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "src/{}:{}: {}", self.path, self.line, self.what)
    }
}

#[test]
fn the_house_holds_its_rules() {
    let mut sources = Vec::new();
    read_sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), "", &mut sources);
    assert!(sources.len() > 20, "only {} files were found", sources.len());
    let test_files: Vec<String> = sources.iter().flat_map(|(path, text)| test_files(path, text)).collect();
    let mut found = Vec::new();
    for (path, text) in &sources {
        let is_test_file =
            test_files.iter().any(|test| path == test || path.starts_with(&format!("{test}/")));
        found.extend(violations(path, text, is_test_file));
    }
    let mut lines: Vec<String> = found.iter().map(Violation::to_string).collect();
    sources.retain(|(path, _)| {
        !test_files.iter().any(|test| path == test || path.starts_with(&format!("{test}/")))
    });
    lines.extend(circles(&sources).iter().map(|files| format!("{} use each other", files.join(", "))));
    lines.extend(
        unused_arrows(&sources).iter().map(|(from, to)| format!("the arrow {from} -> {to} is never used")),
    );
    assert!(lines.is_empty(), "{} rules are broken:\n{}", lines.len(), lines.join("\n"));
}

/// The rules themselves are tried on sources that break them.
#[test]
fn each_rule_can_be_broken() {
    struct Case {
        path: &'static str,
        source: &'static str,
        found: &'static [&'static str],
    }
    let long_function = format!("fn a() {{\n{}}}\nfn b() {{}}\n", "    x();\n".repeat(99));
    let long_function: &'static str = long_function.leak();
    let long_file: &'static str = "// a\n".repeat(601).leak();
    let cases = [
        Case { path: "text/a.rs", source: "use crate::text::b;\nuse super::c;", found: &[] },
        Case { path: "text/a.rs", source: "\nuse crate::format::X;", found: &["2: text -> format"] },
        Case {
            path: "infer/a.rs",
            source: "use crate::{\n    model::{A, text::B},\n    spool::wire as w, store,\n};",
            found: &["3: infer -> spool", "3: infer -> store"],
        },
        Case {
            path: "spool/wire/a.rs",
            source: "fn f() { crate :: store::g() }",
            found: &["1: spool -> store"],
        },
        Case { path: "spool/a.rs", source: "use super::super::daemon::X;", found: &["1: spool -> daemon"] },
        Case { path: "format/a.rs", source: "use crate::*;", found: &["1: format -> everything"] },
        Case { path: "main.rs", source: "use jetspool::{cli, spool};", found: &["1: main -> spool"] },
        Case {
            path: "format/a.rs",
            source: "// crate::spool\nconst A: &str = \"crate::spool\";",
            found: &[],
        },
        Case {
            path: "format/a.rs",
            source: "/// [`crate::spool`]\nfn f<'a>(c: char) { c == '\"' }",
            found: &[],
        },
        Case { path: "format/a.rs", source: "const A: &str = r#\"\" crate::spool \"#;", found: &[] },
        Case {
            path: "device/a.rs",
            source: "#[cfg(any(unix, target_arch = \"arm\"))]\nfn f() {}\n",
            found: &["1: target_arch outside kernels/"],
        },
        Case { path: "kernels/a.rs", source: "#[cfg(target_arch = \"x86_64\")] fn f() {}", found: &[] },
        Case {
            path: "text/a.rs",
            source: "fn f() { g().unwrap() }\n#[cfg(test)]\nmod tests {\n fn t() { g().unwrap() }\n}\nfn h() { g()\n.unwrap() }",
            found: &["1: unwrap()", "7: unwrap()"],
        },
        Case { path: "text/a.rs", source: "fn f() { g().unwrap_or(3) }", found: &[] },
        Case { path: "text/a.rs", source: "fn f() { std::env::var(\"A\") }", found: &["1: the environment"] },
        Case { path: "config/environment.rs", source: "fn f() { std::env::var(\"A\") }", found: &[] },
        Case { path: "text/a.rs", source: "static mut A: u8 = 1;", found: &["1: a mutable static"] },
        Case {
            path: "text/mod.rs",
            source: "//! a\n#[cfg(test)]\nmod b;\npub(crate) mod c;\npub use b::{D, E};\n",
            found: &[],
        },
        Case { path: "text/mod.rs", source: "mod b;\n\nfn f() {}\n", found: &["3: mod.rs"] },
        Case { path: "text/mod.rs", source: "mod b { const A: u8 = 1; }", found: &["1: mod.rs"] },
        Case { path: "lib.rs", source: "pub mod a;\nuse b::c;\n", found: &["2: lib.rs"] },
        Case { path: "text/a.rs", source: long_function, found: &["1: fn a has 101 lines"] },
        Case { path: "text/a.rs", source: long_file, found: &["601: 601 lines"] },
        Case { path: "attic/a.rs", source: "", found: &["1: no arrows"] },
    ];
    for Case { path, source, found } in cases {
        let violations = violations(path, source, false);
        let lines: Vec<String> = violations.iter().map(|v| format!("{}: {}", v.line, v.what)).collect();
        let is_same = lines.len() == found.len() && lines.iter().zip(found).all(|(a, b)| a.starts_with(b));
        assert!(is_same, "{path}: {source:?}\n found {lines:?}\nwanted {found:?}");
    }
    let is_test = test_files("spool/mod.rs", "#[cfg(test)]\nmod crash_tests;\nmod job;");
    assert_eq!(is_test, ["spool/crash_tests.rs", "spool/crash_tests"]);
    assert_eq!(
        test_files("spool/job.rs", "#[cfg(test)] mod tests;"),
        ["spool/job/tests.rs", "spool/job/tests"]
    );
}

#[test]
fn circles_and_idle_arrows_are_seen() {
    let sources = |files: &[(&str, &str)]| -> Vec<(String, String)> {
        files.iter().map(|(path, code)| ((*path).to_owned(), (*code).to_owned())).collect()
    };
    let chain = [
        ("text/a.rs", "use super::b::X;"),
        ("text/b.rs", "use super::{c::Y, d};"),
        ("text/c.rs", "#[cfg(test)]\nmod tests { use super::super::a::Z; }"),
        ("text/d/e.rs", "use super::super::c;"),
    ];
    assert!(circles(&sources(&chain)).is_empty());
    for (path, code) in [
        ("text/c.rs", "fn f() { super::a::g() }"),
        ("text/c.rs", "use super::d::e::W;"),
        ("text/c.rs", "use super::{z, a};"),
        ("text/c.rs", "use crate::text::a::g;"),
        ("text/c.rs", "use crate::text::{z, d::e::{V, W}};"),
    ] {
        let mut files = sources(&chain);
        files.retain(|file| file.0 != path);
        files.push((path.to_owned(), code.to_owned()));
        assert_eq!(circles(&files).len(), 1, "{code}");
    }
    let idle = unused_arrows(&sources(&[
        ("kernels/a.rs", "// crate::numbers"),
        ("store/a.rs", "use crate::format;"),
    ]));
    assert!(idle.contains(&("kernels", "numbers")) && !idle.contains(&("store", "format")), "{idle:?}");
}

/// Files that use each other in a circle, each circle (or circles that touch) as one list.
fn circles(sources: &[(String, String)]) -> Vec<Vec<String>> {
    let mut edges: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for (path, text) in sources.iter().filter(|(path, _)| !path.ends_with("mod.rs")) {
        let code = blanked(text);
        let tests = test_regions(&code);
        let used = used_files(path, &code, &tests).into_iter();
        let is_file = |file: &String| sources.iter().any(|(path, _)| path == file);
        edges.insert(path, used.filter(is_file).filter(|file| file != path).collect());
    }
    // What uses nothing, or is used by nothing, of what is left belongs to no circle.
    loop {
        let used: BTreeSet<String> = edges.values().flatten().cloned().collect();
        let left: BTreeSet<String> = edges.keys().map(|path| (*path).to_owned()).collect();
        let n_before = edges.len();
        edges.retain(|path, uses| {
            uses.retain(|file| left.contains(file));
            !uses.is_empty() && used.contains(*path)
        });
        if edges.len() == n_before {
            break;
        }
    }
    let mut by_room: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for path in edges.keys() {
        by_room.entry(room_of(path)).or_default().push((*path).to_owned());
    }
    by_room.into_values().collect()
}

/// What the paths of a file may lead to outside tests, as paths of files: `crate::a::b::C` to a.rs, a/b.rs and
/// a/b/C.rs, of which at most one is there.
fn used_files(path: &str, code: &str, tests: &[(usize, usize)]) -> BTreeSet<String> {
    let folder_of = |path: &str| path.rsplit_once('/').map_or(String::new(), |(folder, _)| folder.to_owned());
    let mut found = BTreeSet::new();
    for root in ["crate", "super"] {
        for at in words(code, root) {
            let is_inner = code[..at].trim_end().ends_with("::");
            if is_inner || tests.iter().any(|&(start, end)| (start..end).contains(&at)) {
                continue;
            }
            let Some(mut rest) = after_colons(&code[at + root.len()..]) else { continue };
            let mut names: Vec<String> = match root {
                "crate" => Vec::new(),
                _ => folder_of(path).split('/').map(str::to_owned).collect(),
            };
            while let Some(further) = rest.strip_prefix("super").and_then(after_colons) {
                names.pop();
                rest = further;
            }
            follow(code, code.len() - rest.len(), &names, &mut found);
        }
    }
    found
}

/// Adds what the path, or the group of paths, at `start` may lead to from the folder `names`.
fn follow(code: &str, start: usize, names: &[String], found: &mut BTreeSet<String>) {
    let rest = &code[start..];
    if rest.starts_with('{') {
        for (at, _) in group_names(code, start) {
            follow(code, at, names, found);
        }
        return;
    }
    let name = identifier(rest);
    if name.is_empty() {
        return;
    }
    let names = [names, &[name.to_owned()]].concat();
    found.insert(format!("{}.rs", names.join("/")));
    if let Some(further) = after_colons(&rest[name.len()..]) {
        follow(code, code.len() - further.len(), &names, found);
    }
}

/// Arrows that no file of the room follows.
fn unused_arrows(sources: &[(String, String)]) -> Vec<(&'static str, &'static str)> {
    let mut used: BTreeSet<(String, String)> = BTreeSet::new();
    for (path, text) in sources {
        let code = blanked(text);
        let room = room_of(path).to_owned();
        used.extend(uses(&code).into_iter().map(|(_, other)| (room.clone(), other.to_owned())));
    }
    let arrows = ARROWS.iter().flat_map(|(from, to)| to.iter().map(move |to| (*from, *to)));
    arrows.filter(|(from, to)| !used.contains(&((*from).to_owned(), (*to).to_owned()))).collect()
}

fn room_of(path: &str) -> &str {
    path.split('/').next().unwrap_or_default().trim_end_matches(".rs")
}

fn read_sources(directory: &Path, below: &str, sources: &mut Vec<(String, String)>) {
    let mut entries: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap()).collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = format!("{below}{}", entry.file_name().to_str().unwrap());
        if entry.file_type().unwrap().is_dir() {
            read_sources(&entry.path(), &format!("{name}/"), sources);
        } else if name.ends_with(".rs") {
            sources.push((name, fs::read_to_string(entry.path()).unwrap()));
        }
    }
}

/// All rules on one file.
fn violations(path: &str, text: &str, is_test_file: bool) -> Vec<Violation> {
    let code = blanked(text);
    let tests = if is_test_file { vec![(0, code.len())] } else { test_regions(&code) };
    let mut found = Vec::new();
    let mut report = |at: usize, what: String| {
        found.push(Violation { path: path.to_owned(), line: line_of(&code, at), what });
    };
    let room = room_of(path);
    let file = path.rsplit('/').next().unwrap_or_default();
    if file == "mod.rs" || path == "lib.rs" {
        check_declarations(&code, file, &mut report);
    }
    if path != "lib.rs" {
        check_arrows(&code, room, &mut report);
    }
    for (needle, home, what) in [
        ("target_arch", "kernels", "target_arch outside kernels/"),
        ("env::var", "config", "the environment is read outside config/"),
        ("static mut", "", "a mutable static"),
    ] {
        for at in words(&code, needle).filter(|_| room != home) {
            report(at, what.to_owned());
        }
    }
    let in_tests = |at: usize| tests.iter().any(|&(start, end)| (start..end).contains(&at));
    for at in words(&code, "unwrap").filter(|&at| code[at..].starts_with("unwrap()") && !in_tests(at)) {
        report(at, "unwrap() outside tests".to_owned());
    }
    check_lengths(&code, &mut report);
    found
}

/// A file of declarations holds `mod`, `pub use` and attributes.
fn check_declarations(code: &str, file: &str, report: &mut impl FnMut(usize, String)) {
    let mut start = 0;
    for statement in code.split_inclusive(';') {
        let at = start + statement.len() - statement.trim_start().len();
        start += statement.len();
        let mut rest = statement.trim();
        while let Some((_, after)) = rest.starts_with('#').then(|| rest.split_once(']')).flatten() {
            rest = after.trim_start();
        }
        let item = rest.strip_prefix("pub").map_or(rest, |public| {
            let public = public.trim_start();
            public.starts_with('(').then(|| public.split_once(')')).flatten().map_or(public, |(_, item)| item)
        });
        let item = item.trim_start();
        let declares = item.starts_with("mod ") && !item.contains('{');
        let re_exports = item.starts_with("use ") && rest.starts_with("pub");
        if !rest.is_empty() && !declares && !re_exports {
            let first = rest.lines().next().unwrap_or_default();
            return report(at, format!("{file} only declares and re-exports, found `{first}`"));
        }
    }
}

/// Every use of another room must be an arrow.
fn check_arrows(code: &str, room: &str, report: &mut impl FnMut(usize, String)) {
    let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == room) else {
        return report(
            0,
            format!("no arrows are known of {room}; add it to ARROWS and to the map in lib.rs"),
        );
    };
    for (at, other) in uses(code) {
        let is_known = other == "everything" || ARROWS.iter().any(|(name, _)| *name == other);
        if is_known && other != room && !COMMON.contains(&other) && !allowed.contains(&other) {
            report(at, format!("{room} -> {other} is no arrow; allowed: {}", allowed.join(" ")));
        }
    }
}

/// The first names after the crate's own: `crate::a::b`, `crate::{a, b::c}`, `super::super::a`.
fn uses(code: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for root in ["crate", "jetspool", "super"] {
        for at in words(code, root) {
            let Some(mut rest) = after_colons(&code[at + root.len()..]) else { continue };
            if root == "super" {
                let Some(further) = rest.strip_prefix("super").and_then(after_colons) else { continue };
                rest = further;
            }
            let start = code.len() - rest.len();
            match rest.chars().next() {
                Some('{') => found.extend(group_names(code, start)),
                Some('*') => found.push((start, "everything")),
                _ => found.push((start, identifier(rest))),
            }
        }
    }
    found.sort_unstable();
    found
}

fn after_colons(text: &str) -> Option<&str> {
    text.trim_start().strip_prefix("::").map(str::trim_start)
}

/// The names at the first level of the group that opens at `start`.
fn group_names(code: &str, start: usize) -> Vec<(usize, &str)> {
    let mut names = Vec::new();
    let (mut depth, mut wants_name) = (0, false);
    for (at, c) in code[start..].char_indices().map(|(at, c)| (at + start, c)) {
        match c {
            '{' => {
                depth += 1;
                wants_name = depth == 1;
            }
            '}' => depth -= 1,
            ',' => wants_name = depth == 1,
            _ if wants_name && !c.is_whitespace() => {
                names.push((at, if c == '*' { "everything" } else { identifier(&code[at..]) }));
                wants_name = false;
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    names
}

/// Files end at 600 lines, functions at 100.
fn check_lengths(code: &str, report: &mut impl FnMut(usize, String)) {
    let n_lines = code.lines().count();
    if n_lines > MAX_FILE_LINES {
        report(code.len() - 1, format!("{n_lines} lines, {MAX_FILE_LINES} are allowed"));
    }
    for at in words(code, "fn") {
        let name = identifier(code[at + 2..].trim_start());
        // A function type or a declaration without a body.
        let Some(open) = code[at..].find(['{', ';']).map(|open| at + open) else { continue };
        if name.is_empty() || code[open..].starts_with(';') {
            continue;
        }
        let n_lines = line_of(code, block_end(code, open)) - line_of(code, at) + 1;
        if n_lines > MAX_FUNCTION_LINES {
            report(at, format!("fn {name} has {n_lines} lines, {MAX_FUNCTION_LINES} are allowed"));
        }
    }
}

/// Where the items after `#[cfg(test)]` begin and end.
fn test_regions(code: &str) -> Vec<(usize, usize)> {
    let attributes = code.match_indices("#[cfg(test)]");
    attributes
        .filter_map(|(at, _)| {
            let open = at + code[at..].find(['{', ';'])?;
            Some((at, if code[open..].starts_with('{') { block_end(code, open) } else { open }))
        })
        .collect()
}

/// Files that `#[cfg(test)] mod NAME;` brings in, and the folders of their own modules.
fn test_files(path: &str, text: &str) -> Vec<String> {
    let code = blanked(text);
    let stem = path.strip_suffix("mod.rs").map_or_else(|| path.replace(".rs", "/"), str::to_owned);
    let declared = code.split("#[cfg(test)]").skip(1).filter_map(|after| {
        let name = after.trim_start().trim_start_matches("pub ").strip_prefix("mod ").map(identifier)?;
        let is_file = after.find(';')? < after.find('{').unwrap_or(usize::MAX);
        is_file.then(|| format!("{stem}{name}"))
    });
    declared.flat_map(|file| [format!("{file}.rs"), file]).collect()
}

/// Where `needle` stands as whole words.
fn words<'a>(code: &'a str, needle: &'a str) -> impl Iterator<Item = usize> + 'a {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(needle).map(|(at, _)| at).filter(move |&at| {
        let ends = needle == "env::var" || !code[at + needle.len()..].starts_with(is_part);
        !code[..at].ends_with(is_part) && ends
    })
}

fn identifier(text: &str) -> &str {
    &text[..text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len())]
}

fn line_of(code: &str, at: usize) -> usize {
    1 + code.as_bytes()[..at].iter().filter(|&&byte| byte == b'\n').count()
}

/// The closing brace of the block that opens at `open`.
fn block_end(code: &str, open: usize) -> usize {
    let mut depth = 0;
    for (at, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    code.len()
}

/// The text with comments, strings and character literals as blanks; line ends stay.
fn blanked(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = literal_end(bytes, at);
        if let Some(end) = end {
            let end = end.min(bytes.len());
            code[at..end].iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
            at = end;
        } else {
            at += 1;
        }
    }
    // Whole characters were blanked: each literal begins and ends on one.
    String::from_utf8(code).unwrap()
}

/// Where the comment, string or character that begins at `at` ends; none if there is none.
fn literal_end(bytes: &[u8], at: usize) -> Option<usize> {
    let rest = &bytes[at..];
    let follows_name = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    let find = |from: usize, needle: &[u8]| {
        let found = rest[from..].windows(needle.len()).position(|window| window == needle);
        Some(found.map_or(bytes.len(), |position| at + from + position + needle.len()))
    };
    match rest {
        [b'/', b'/', ..] => Some(at + rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len())),
        [b'/', b'*', ..] => find(2, b"*/"),
        [b'"', ..] => Some(at + quoted_len(rest, b'"')),
        [b'r', b'"' | b'#', ..] if !follows_name => {
            let n_hashes = rest[1..].iter().take_while(|&&byte| byte == b'#').count();
            let is_string = rest.get(1 + n_hashes) == Some(&b'"');
            let end = [&b"\""[..], &b"#".repeat(n_hashes)].concat();
            if is_string { find(2 + n_hashes, &end) } else { None }
        }
        [b'\'', b'\\', ..] => Some(at + quoted_len(rest, b'\'')),
        // A lifetime has no quote after its first character.
        [b'\'', first, ..] => {
            let n_bytes = match first {
                0..0x80 => 1,
                0x80..0xe0 => 2,
                0xe0..0xf0 => 3,
                _ => 4,
            };
            (rest.get(1 + n_bytes) == Some(&b'\'')).then_some(at + n_bytes + 2)
        }
        _ => None,
    }
}

/// Length of the literal with both its quotes; a backslash hides the next byte.
fn quoted_len(text: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < text.len() && text[at] != quote {
        at += if text[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(text.len())
}
