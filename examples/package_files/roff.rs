//! Text as roff, in the macros of man(7).

/// A page that is being written.
pub struct Roff {
    text: String,
}

impl Roff {
    /// The head of a page.
    pub fn new(name: &str, section: u8, about: &str) -> Self {
        let version = env!("CARGO_PKG_VERSION");
        let mut page =
            Self { text: format!(".TH \"{name}\" \"{section}\" \"\" \"jetspool {version}\" \"jetspool\"\n") };
        page.section("NAME");
        page.line(&format!("{} \\- {}", escaped(name), escaped(about)));
        page
    }

    pub fn section(&mut self, title: &str) {
        self.line(&format!(".SH \"{}\"", escaped(title)));
    }

    pub fn subsection(&mut self, title: &str) {
        self.line(&format!(".SS \"{}\"", escaped(title)));
    }

    /// A paragraph of plain text.
    pub fn paragraph(&mut self, text: &str) {
        self.marked_paragraph(&escaped(text));
    }

    /// A paragraph that is roff already.
    pub fn marked_paragraph(&mut self, text: &str) {
        self.line(".PP");
        self.line(text);
    }

    /// A word and what it means, both roff already.
    pub fn tagged(&mut self, tag: &str, text: &str) {
        self.line(".TP");
        self.line(tag);
        self.line(text);
    }

    /// Lines as they stand.
    pub fn verbatim(&mut self, text: &str) {
        self.line(".PP\n.RS 4\n.nf");
        text.lines().for_each(|line| self.line(&escaped(line)));
        self.line(".fi\n.RE");
    }

    /// A line of roff.
    pub fn line(&mut self, text: &str) {
        self.text.push_str(text);
        self.text.push('\n');
    }

    pub fn finish(self) -> String {
        self.text
    }
}

/// Text that roff shows as it is.
pub fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq").replace('"', "\\(dq");
    match text.starts_with('.') {
        true => format!("\\&{text}"),
        false => text,
    }
}

pub fn bold(text: &str) -> String {
    format!("\\fB{}\\fR", escaped(text))
}

pub fn italic(text: &str) -> String {
    format!("\\fI{}\\fR", escaped(text))
}
