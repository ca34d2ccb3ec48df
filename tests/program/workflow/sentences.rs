//! The sentences of a document in Markdown, as a reader counts them.

/// Sentences, entries of lists and lines of tables, in order; headings, examples and the heads of tables left out.
pub fn sentences(document: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut paragraph = String::new();
    let mut is_example = false;
    let lines: Vec<&str> = document.lines().collect();
    for (index, line) in lines.iter().enumerate() {
        let is_fence = line.trim_start().starts_with("```");
        let is_item =
            line.starts_with("- ") || line.split_once(". ").is_some_and(|(n, _)| n.parse::<u32>().is_ok());
        // Text that goes on in a list is indented by fewer.
        let is_indented = line.starts_with("    ");
        if is_fence || is_item || is_example || is_indented || line.is_empty() || line.starts_with(['#', '|'])
        {
            split(&std::mem::take(&mut paragraph), &mut found);
        }
        is_example ^= is_fence;
        let next_is_rule = lines.get(index + 1).is_some_and(|next| next.starts_with("|--"));
        if line.starts_with('|') && !next_is_rule && !line.starts_with("|--") {
            found.push(line.trim_matches(['|', ' ']).to_owned());
        }
        if !(is_fence || is_example || is_indented || line.starts_with(['#', '|'])) {
            paragraph += line.trim_start_matches("- ").trim();
            paragraph.push(' ');
        }
    }
    split(&paragraph, &mut found);
    found
}

/// Cuts behind a full stop that is followed by the beginning of a sentence.
fn split(paragraph: &str, found: &mut Vec<String>) {
    let mut rest = paragraph.trim();
    let mut from = 0;
    while let Some(at) = rest[from..].find(". ").map(|at| at + from) {
        let starts = rest[at + 2..].starts_with(|c: char| c.is_uppercase() || c == '`' || c == '(');
        let is_number = rest[..at].parse::<u32>().is_ok();
        if starts && !is_number {
            found.push(rest[..=at].to_owned());
            rest = &rest[at + 2..];
            from = 0;
        } else {
            from = at + 2;
        }
    }
    if !rest.is_empty() {
        found.push(rest.to_owned());
    }
}

#[test]
fn a_document_has_the_sentences_that_one_reads() {
    let document = "# Head\n\nOne is `a.b` of 0.5 and\nmore. Two: all.\n\n```sh\nno\n```\n\n| a | b |\n|---|---|\n| c. D | e |\n\
                    \n1. First. `Second` of it\n   goes on.\n2. Third\n- Fourth (5. of them)\n\n      example\n\nFifth\n";
    let wanted = [
        "One is `a.b` of 0.5 and more.",
        "Two: all.",
        "c. D | e",
        "1. First.",
        "`Second` of it goes on.",
        "2. Third",
        "Fourth (5. of them)",
        "Fifth",
    ];
    assert_eq!(sentences(document), wanted);
}
