//! Man pages: one for each command, with EXIT STATUS and EXAMPLES in their own sections, links for the workflow's names, and
//! pages on the configuration and the formats, made of the documents.

use std::io;
use std::path::Path;

use clap::{Arg, Command};

use super::markdown;
use super::roff::{Roff, bold, escaped, italic};

/// A page and where it belongs.
pub struct Page {
    pub name: String,
    pub section: u8,
    pub text: String,
}

/// Documents that are pages too: name, what it is, file.
const DOCUMENTS: [(&str, &str, &str); 3] = [
    ("jetspool-request", "request files and answer files of jetspool", "docs/requests.md"),
    ("jetspool-batch", "batch files of jetspool, one request a line", "docs/batch.md"),
    ("jetspool-spool", "the spool directory of jetspool", "docs/spool.md"),
];
const CONFIGURATION: &str = "jetspool.toml";
/// What the end of every help begins with.
const EXIT_CODES: &str = "Exit codes: ";
const EXAMPLES: &str = "Examples:\n";

impl Page {
    pub fn file_name(&self) -> String {
        format!("{}.{}", self.name, self.section)
    }
}

/// A page for the program, one for each command, and for each other name of a command a link to its page.
pub fn commands(program: &Command, links: impl Iterator<Item = (&'static str, &'static str)>) -> Vec<Page> {
    let mut pages = vec![page(program, "jetspool", None)];
    for command in program.get_subcommands() {
        pages.push(page(command, &page_name(command), Some(program)));
    }
    pages.extend(links.map(|(name, command)| Page {
        name: name.to_owned(),
        section: 1,
        text: match command {
            "" => ".so man1/jetspool.1\n".to_owned(),
            command => format!(".so man1/jetspool-{command}.1\n"),
        },
    }));
    pages
}

/// The pages on files.
///
/// # Errors
/// The system's, with the file.
pub fn formats() -> io::Result<Vec<Page>> {
    let read = |path: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
        std::fs::read_to_string(&path)
            .map_err(|error| io::Error::other(format!("{}: {error}", path.display())))
    };
    let mut pages = vec![configuration(&read("systemd/jetspool.toml")?)];
    for (name, about, path) in DOCUMENTS {
        let mut roff = Roff::new(name, 5, about);
        markdown::write(&mut roff, &read(path)?);
        see_also(&mut roff, &format!("{name}(5)"));
        pages.push(Page { name: name.to_owned(), section: 5, text: roff.finish() });
    }
    Ok(pages)
}

fn page_name(command: &Command) -> String {
    format!("jetspool-{}", command.get_name())
}

fn page(command: &Command, name: &str, program: Option<&Command>) -> Page {
    let about = command.get_about().map(|about| about.to_string()).unwrap_or_default();
    let mut roff = Roff::new(name, 1, about.trim_end_matches('.'));
    let words = program.map_or("jetspool".to_owned(), |_| format!("jetspool {}", command.get_name()));
    roff.section("SYNOPSIS");
    roff.line(&synopsis(command, &words));
    let help = command.get_after_help().map(|help| help.to_string()).unwrap_or_default();
    let (help, ends) = help.split_once(EXIT_CODES).unwrap_or((&help, ""));
    let (description, examples) = help.split_once(EXAMPLES).unwrap_or((help, ""));
    roff.section("DESCRIPTION");
    description.trim().split("\n\n").for_each(|paragraph| roff.paragraph(paragraph.trim()));
    if program.is_none() {
        roff.section("COMMANDS");
        for command in command.get_subcommands() {
            let about = command.get_about().map(|about| about.to_string()).unwrap_or_default();
            roff.tagged(&format!("{}(1)", bold(&page_name(command))), &escaped(&about));
        }
    }
    options(&mut roff, command, program);
    roff.section("EXIT STATUS");
    let (codes, environment) = ends.split_once(".\n").unwrap_or((ends, ""));
    for code in codes.split("; ") {
        let words: Vec<&str> = code.split_whitespace().collect();
        // `130 or 143 interrupted ...`
        let is_number = |word: &&&str| **word == "or" || word.bytes().all(|byte| byte.is_ascii_digit());
        let n_numbers = words.iter().take_while(is_number).count();
        roff.tagged(&bold(&words[..n_numbers].join(" ")), &escaped(&words[n_numbers..].join(" ")));
    }
    roff.section("ENVIRONMENT");
    if let Some((name, meaning)) = environment.trim().split_once('=') {
        roff.tagged(&bold(name), &escaped(meaning));
    }
    if !examples.trim().is_empty() {
        roff.section("EXAMPLES");
        let unindented: Vec<&str> =
            examples.trim_end().lines().map(|line| line.strip_prefix("  ").unwrap_or(line)).collect();
        roff.verbatim(&unindented.join("\n"));
    }
    see_also(&mut roff, &format!("{name}(1)"));
    Page { name: name.to_owned(), section: 1, text: roff.finish() }
}

/// Usage as the help has it, without its first word.
fn synopsis(command: &Command, words: &str) -> String {
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim().trim_start_matches("Usage:").trim();
    let rest = usage.split_once(' ').map_or("", |(_, rest)| rest);
    let rest = match words.contains(' ') && rest.starts_with(command.get_name()) {
        true => rest[command.get_name().len()..].trim(),
        false => rest,
    };
    format!("{} {}", bold(words), escaped(rest))
}

fn options(roff: &mut Roff, command: &Command, program: Option<&Command>) {
    roff.section("OPTIONS");
    let global =
        program.into_iter().flat_map(|program| program.get_arguments()).filter(|arg| arg.is_global_set());
    for arg in command.get_arguments().chain(global).filter(|arg| !arg.is_hide_set()) {
        roff.tagged(&tag(arg), &meaning(arg));
    }
    roff.tagged(&format!("{}, {}", bold("-h"), bold("--help")), "Print help");
    if program.is_none() {
        roff.tagged(&format!("{}, {}", bold("-V"), bold("--version")), "Print version");
    }
}

fn tag(arg: &Arg) -> String {
    let values =
        arg.get_value_names().unwrap_or_default().iter().map(|name| italic(name)).collect::<Vec<_>>();
    let values = values.join(" ");
    match arg.get_long() {
        Some(_) if !arg.get_action().takes_values() => bold(&flag(arg)),
        Some(_) => format!("{} {values}", bold(&flag(arg))),
        None => values,
    }
}

fn flag(arg: &Arg) -> String {
    format!("--{}", arg.get_long().unwrap_or_default())
}

fn meaning(arg: &Arg) -> String {
    let mut text = arg.get_help().map(|help| help.to_string()).unwrap_or_default();
    let mut add = |more: String| text = format!("{}. {more}", text.trim_end_matches('.'));
    let defaults: Vec<_> = arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    let is_shown = arg.get_action().takes_values() && !arg.is_hide_default_value_set();
    if is_shown && !defaults.is_empty() {
        add(format!("Default: {}", defaults.join(" ")));
    }
    let possible: Vec<String> = match arg.get_action().takes_values() {
        true => arg.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect(),
        false => Vec::new(),
    };
    if !possible.is_empty() {
        add(format!("One of: {}", possible.join(", ")));
    }
    let others = arg.get_visible_aliases().unwrap_or_default();
    if !others.is_empty() {
        add(format!("Also: --{}", others.join(", --")));
    }
    escaped(&text)
}

/// Each key of the file with the comment above it.
fn configuration(file: &str) -> Page {
    let mut roff = Roff::new(CONFIGURATION, 5, "configuration of jetspool serve");
    let (head, keys) = file.split_once("\n\n").unwrap_or(("", file));
    roff.section("SYNOPSIS");
    roff.line(&bold("/etc/jetspool/jetspool.toml"));
    roff.section("DESCRIPTION");
    roff.paragraph(&uncommented(head));
    roff.paragraph("The file is TOML. An unknown key, a wrong type and a value out of its range end the start with exit code 78.");
    roff.section("KEYS");
    for block in keys.split("\n\n") {
        let is_key = |line: &&str| line.trim_start_matches('#').starts_with(|c: char| c.is_ascii_lowercase());
        let (lines, comment): (Vec<&str>, Vec<&str>) = block.lines().partition(is_key);
        let comment = uncommented(&comment.join("\n"));
        for (index, line) in lines.iter().enumerate() {
            let tag = bold(line.trim_start_matches('#'));
            // Keys that share a comment stand below each other.
            roff.line(if index == 0 { ".TP" } else { ".TQ" });
            roff.line(&tag);
        }
        roff.line(&escaped(&comment));
    }
    see_also(&mut roff, "jetspool.toml(5)");
    Page { name: CONFIGURATION.to_owned(), section: 5, text: roff.finish() }
}

fn uncommented(lines: &str) -> String {
    lines.lines().map(|line| line.trim_start_matches('#').trim()).collect::<Vec<_>>().join(" ")
}

fn see_also(roff: &mut Roff, own: &str) {
    let pages =
        ["jetspool(1)", "jetspool.toml(5)", "jetspool-request(5)", "jetspool-batch(5)", "jetspool-spool(5)"];
    let others: Vec<String> = pages.iter().filter(|page| **page != own).map(|page| reference(page)).collect();
    roff.section("SEE ALSO");
    roff.line(&others.join(", "));
    roff.marked_paragraph(&escaped("The documents: /usr/share/doc/jetspool/README.md"));
}

fn reference(page: &str) -> String {
    let (name, section) = page.split_at(page.len() - "(1)".len());
    format!("{}{section}", bold(name))
}
