//! The man pages against `--help`: the same flags, the sections that man-pages(7) asks for, links that lead to pages.

use std::collections::BTreeSet;

use jetspool::cli;

use crate::man::{self, Page};
use crate::support::service::jetspool;

fn pages() -> Vec<Page> {
    let pages = man::commands(&cli::documented_command(), cli::program_commands());
    pages.into_iter().chain(man::formats().unwrap()).collect()
}

/// Roff without its marks.
fn plain(text: &str) -> String {
    let marks = [
        ("\\fB", ""),
        ("\\fI", ""),
        ("\\fR", ""),
        ("\\-", "-"),
        ("\\(aq", "'"),
        ("\\(dq", "\""),
        ("\\&", ""),
    ];
    marks.iter().fold(text.to_owned(), |text, (mark, plain)| text.replace(mark, plain)).replace("\\e", "\\")
}

/// The part of a page below a title.
fn section<'p>(page: &'p Page, title: &str) -> Option<&'p str> {
    let (_, after) = page.text.split_once(&format!(".SH \"{title}\"\n"))?;
    Some(after.split_once("\n.SH ").map_or(after, |(section, _)| section))
}

/// Flags at the beginning of an indented line from `Options:` on: those of a group have a heading of their own.
fn flags_of_help(help: &str) -> BTreeSet<String> {
    let (_, options) = help.split_once("\nOptions:\n").unwrap();
    let (options, _) = options.split_once("\nExamples:\n").unwrap();
    let lines = options.lines().filter(|line| line.starts_with("  ") && line.trim_start().starts_with('-'));
    let lines = lines.map(str::trim_start);
    let words = lines.flat_map(|line| line.split([' ', ',']));
    words.filter(|word| word.starts_with('-')).map(str::to_owned).collect()
}

fn flags_of_page(page: &Page) -> BTreeSet<String> {
    let options = section(page, "OPTIONS").unwrap();
    let tags = options.split(".TP\n").skip(1).map(|entry| plain(entry.lines().next().unwrap()));
    tags.flat_map(|tag| tag.split([' ', ',']).map(str::to_owned).collect::<Vec<_>>())
        .filter(|word| word.starts_with('-'))
        .collect()
}

#[test]
fn pages_have_the_flags_of_the_help() {
    let pages = pages();
    let page = |name: &str| pages.iter().find(|page| page.name == name && page.section == 1).unwrap();
    let commands: Vec<String> =
        cli::documented_command().get_subcommands().map(|command| command.get_name().to_owned()).collect();
    assert!(commands.len() > 20, "{commands:?}");
    for command in commands.iter().map(String::as_str).chain([""]) {
        let words: Vec<&str> = [command, "--help"].into_iter().filter(|word| !word.is_empty()).collect();
        let help = String::from_utf8(jetspool(&words).output().unwrap().stdout).unwrap();
        let name = if command.is_empty() { "jetspool".to_owned() } else { format!("jetspool-{command}") };
        let (help, page) = (flags_of_help(&help), flags_of_page(page(&name)));
        assert!(help.contains("--help") && help == page, "{name}: the help has {help:?}, the page {page:?}");
    }
}

#[test]
fn pages_have_their_sections() {
    for page in pages().iter().filter(|page| !page.text.starts_with(".so ")) {
        let name = page.file_name();
        let has = |title: &str| section(page, title).is_some_and(|text| !text.trim().is_empty());
        assert!(has("NAME") && has("DESCRIPTION") && has("SEE ALSO"), "{name}");
        assert!(!page.text.contains("EXTRA"), "{name}");
        if page.section == 1 {
            assert!(has("SYNOPSIS") && has("OPTIONS") && has("EXIT STATUS") && has("EXAMPLES"), "{name}");
            let codes: Vec<&str> = section(page, "EXIT STATUS").unwrap().split(".TP\n").collect();
            assert!(codes.len() > 10 && codes[1].starts_with("\\fB0\\fR\ndone"), "{name}: {codes:?}");
            let examples = section(page, "EXAMPLES").unwrap();
            assert!(examples.contains(".nf\n") && !examples.contains("\n jetspool"), "{name}: {examples}");
        }
        // A line that begins with a dot and is no request would be lost.
        let requests = [".TH", ".SH", ".SS", ".PP", ".TP", ".TQ", ".IP", ".RS", ".RE", ".nf", ".fi", ".br"];
        for line in page.text.lines().filter(|line| line.starts_with(['.', '\''])) {
            assert!(requests.iter().any(|request| line.starts_with(request)), "{name}: {line}");
        }
    }
}

#[test]
fn names_of_programs_and_references_lead_to_pages() {
    let pages = pages();
    let files: BTreeSet<String> =
        pages.iter().map(|page| format!("man{}/{}", page.section, page.file_name())).collect();
    let links: Vec<&Page> = pages.iter().filter(|page| page.text.starts_with(".so ")).collect();
    assert_eq!(links.len(), cli::program_commands().count());
    for page in &links {
        assert!(files.contains(page.text[4..].trim()), "{}", page.text);
    }
    for page in &pages {
        let text = plain(&page.text);
        for (at, _) in text.match_indices("jetspool") {
            let name = text[at..].split(|c: char| c.is_whitespace() || c == ',').next().unwrap();
            let Some((name, section)) = name.split_once('(') else { continue };
            let Some(section) = section.chars().next().filter(char::is_ascii_digit) else { continue };
            assert!(
                files.contains(&format!("man{section}/{name}.{section}")),
                "{}: {name}({section})",
                page.name
            );
        }
    }
}

#[test]
fn every_key_of_the_configuration_has_its_page() {
    let pages = pages();
    let page = plain(&pages.iter().find(|page| page.name == "jetspool.toml").unwrap().text);
    let file = include_str!("../../systemd/jetspool.toml");
    let keys = file.lines().filter(|line| line.contains(" = "));
    assert!(keys.clone().count() > 20);
    for key in keys {
        assert!(page.lines().any(|line| line == key.trim_start_matches('#')), "{key}");
    }
}
