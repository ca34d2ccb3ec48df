//! What holds a sentence: a check of what the page's commands left, or a test that is named.

use std::fs;
use std::path::Path;

use super::page::Site;

pub struct Row {
    /// How the sentence begins.
    pub says: &'static str,
    pub proofs: &'static [Proof],
}

pub enum Proof {
    /// The page was run with this in it.
    Run,
    Check(fn(&Site)),
    /// A file and tests in it.
    Tests(&'static str, &'static [&'static str]),
    /// A script measures it, on more data than a test may make.
    Measured(&'static str),
    /// It says what others do, what somebody may do, or where more stands.
    NoClaim,
}

impl Row {
    pub fn is_of(&self, sentence: &str) -> bool {
        sentence.starts_with(self.says)
    }
}

pub const fn row(says: &'static str, proofs: &'static [Proof]) -> Row {
    Row { says, proofs }
}

pub fn prove(row: &Row, site: &Site) {
    assert!(!row.proofs.is_empty(), "{:?} has no proof", row.says);
    for proof in row.proofs {
        // Shown where the check panics.
        println!("{}", row.says);
        match proof {
            Proof::Run | Proof::NoClaim => {}
            Proof::Check(check) => check(site),
            Proof::Measured(script) => {
                assert!(
                    Path::new(env!("CARGO_MANIFEST_DIR")).join(script).is_file(),
                    "{script} is not there"
                );
            }
            Proof::Tests(file, names) => {
                let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
                let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{file}: {error}"));
                for name in *names {
                    let is_test = text.split("#[test]").skip(1).any(|rest| {
                        let head = rest.split_once('{').map_or(rest, |(head, _)| head);
                        head.contains(&format!("fn {name}("))
                    });
                    assert!(is_test, "{file} has no test {name}, which is to hold {:?}", row.says);
                }
            }
        }
    }
}
