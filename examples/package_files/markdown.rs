//! The Markdown of our documents as roff: headings, paragraphs, lists, tables, code.

use super::roff::{Roff, bold, escaped};

/// Documents that are pages, as links show them.
const PAGES: [(&str, &str); 3] = [
    ("requests.md", "jetspool-request(5)"),
    ("batch.md", "jetspool-batch(5)"),
    ("spool.md", "jetspool-spool(5)"),
];

/// Writes a document; its first heading is the page's name already.
pub fn write(roff: &mut Roff, document: &str) {
    roff.section("DESCRIPTION");
    let mut lines = document.lines().skip_while(|line| !line.starts_with("# ")).skip(1).peekable();
    while let Some(line) = lines.next() {
        let mut rest = |is_more: &dyn Fn(&str) -> bool| {
            let mut part = vec![line.to_owned()];
            while let Some(more) = lines.next_if(|line| is_more(line)) {
                part.push(more.to_owned());
            }
            part
        };
        if line.is_empty() {
            continue;
        } else if let Some(title) = line.strip_prefix("## ") {
            roff.section(&title.to_uppercase());
        } else if let Some(title) = line.strip_prefix("### ") {
            roff.subsection(title);
        } else if line.starts_with("```") {
            let block = rest(&|line| !line.starts_with("```"));
            roff.verbatim(&block[1..].join("\n"));
            lines.next();
        } else if line.starts_with("    ") {
            let block = rest(&|line| line.starts_with("    "));
            roff.verbatim(&block.iter().map(|line| line[4..].to_owned()).collect::<Vec<_>>().join("\n"));
        } else if line.starts_with('|') {
            table(roff, &rest(&|line| line.starts_with('|')));
        } else if let Some((mark, first)) = item(line) {
            let part = rest(&|line| line.starts_with("  ") && !line.trim().is_empty());
            let text =
                part[1..].iter().fold(first.to_owned(), |text, line| format!("{text} {}", line.trim()));
            roff.line(&format!(".IP \"{mark}\" 4\n{}", inline(&text)));
        } else {
            let is_more = |line: &str| {
                !line.is_empty()
                    && !line.starts_with(['#', '|'])
                    && !["    ", "```"].iter().any(|mark| line.starts_with(mark))
                    && item(line).is_none()
            };
            roff.marked_paragraph(&inline(&rest(&is_more).join(" ")));
        }
    }
}

/// What stands before an item of a list, and the item.
fn item(line: &str) -> Option<(&str, &str)> {
    line.strip_prefix("- ").map(|text| ("\\(bu", text)).or_else(|| {
        let (mark, text) = line.split_once(". ")?;
        mark.bytes().all(|byte| byte.is_ascii_digit()).then_some((mark, text))
    })
}

/// Each row: its first cell, and below it the others, each after its heading.
fn table(roff: &mut Roff, lines: &[String]) {
    let cells = |line: &String| -> Vec<String> {
        line.trim_matches('|')
            .replace("\\|", "\u{0}")
            .split('|')
            .map(|cell| cell.trim().replace('\u{0}', "|"))
            .collect()
    };
    let mut rows = lines.iter().map(cells);
    let headings = rows.next().unwrap_or_default();
    for row in rows.skip(1) {
        let tag = inline(row.first().map_or("", String::as_str));
        let rest: Vec<String> =
            row.iter().zip(&headings).skip(1).filter(|(cell, _)| !cell.is_empty()).map(part).collect();
        roff.tagged(&tag, &rest.join("\n.br\n"));
    }
}

fn part((cell, heading): (&String, &String)) -> String {
    match heading.is_empty() {
        true => inline(cell),
        false => format!("{}: {}", inline(heading), inline(cell)),
    }
}

/// Code and strong words bold, links as their text.
fn inline(text: &str) -> String {
    let mut roff = String::new();
    for (index, piece) in text.split('`').enumerate() {
        // Between an odd and an even mark stands code.
        match index % 2 {
            1 => roff.push_str(&bold(piece)),
            _ => roff.push_str(&strong(&unlinked(piece))),
        }
    }
    roff
}

fn strong(text: &str) -> String {
    let pieces = text.split("**").enumerate();
    pieces.map(|(index, piece)| if index % 2 == 1 { bold(piece) } else { inner(piece) }).collect()
}

/// Escaped, but for a dot, which does not begin a line here.
fn inner(text: &str) -> String {
    escaped(text)
}

fn unlinked(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("](") {
        let (before, shown) = before.rsplit_once('[').unwrap_or((before, ""));
        let page = PAGES.iter().find(|(document, _)| *document == shown).map(|(_, page)| *page);
        plain.push_str(&format!("{before}{}", page.unwrap_or(shown)));
        rest = after.split_once(')').map_or("", |(_, rest)| rest);
    }
    plain + rest
}
