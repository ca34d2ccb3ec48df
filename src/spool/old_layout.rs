//! A spool of the layout before ids, for tests, in every state that it had.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::lines::write_line;
use super::operate::Action;
use super::trial::{Told, answer};

/// What a job's journal said.
struct Journal<'a> {
    /// Where it lay.
    path: &'a str,
    /// The input it was begun for.
    input: &'a str,
    n_answers: usize,
    announced: bool,
    inode: fn(&Path) -> u64,
}

/// Moves what lies in new/ to where jobs were: `a` answered in part; `b` the same, and held; `c` with its answer
/// announced in tmp/; `d` with its answer out; `e` just claimed; `f` answered in part, held and released. The
/// journals say what `inode` says of the inputs. Returns what was told of them.
pub fn lay_out(root: &Path, answers: &BTreeMap<OsString, Vec<u8>>, inode: fn(&Path) -> u64) -> Vec<Told> {
    let path = |name: &str| root.join(name);
    for name in ["work/a.json", "hold/b.json", "work/c.json", "work/d.json", "work/e.json"] {
        fs::rename(path(&name.replace("work", "new").replace("hold", "new")), path(name)).unwrap();
    }
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_764_000_000);
    File::options().write(true).open(path("work/e.json")).unwrap().set_modified(time).unwrap();
    let journal = |path, input, n_answers, announced| Journal { path, input, n_answers, announced, inode };
    journal("work/a.json.journal", "work/a.json", 2, false).write(root);
    journal("hold/b.json.journal", "hold/b.json", 1, false).write(root);
    let staged = journal("work/c.json.journal", "work/c.json", 1, true).write(root);
    fs::write(path("tmp").join(format!("{staged}.json")), &answers[&OsString::from("c.json")]).unwrap();
    journal("work/d.json.journal", "work/d.json", 1, true).write(root);
    fs::write(path("out/d.json"), &answers[&OsString::from("d.json")]).unwrap();
    journal("hold/f.json.journal", "new/f.json", 1, false).write(root);
    fs::write(path("tmp/half.json"), "{").unwrap();
    let recorded = [("a.json", 0), ("a.json", 1), ("b.json", 0), ("c.json", 0), ("d.json", 0), ("f.json", 0)];
    let mut told: Vec<Told> =
        recorded.into_iter().map(|(name, index)| Told::Recorded(name.into(), index)).collect();
    told.push(Told::Done(Action::Hold, "b.json".into()));
    told
}

impl Journal<'_> {
    /// Returns the job's id.
    fn write(&self, root: &Path) -> String {
        let input = fs::read(root.join(self.input)).unwrap();
        let id =
            format!("{:016x}-fd01-{:x}", 1_764_115_200_000_000_000_u64, (self.inode)(&root.join(self.input)));
        let (size, crc) = (input.len(), crc32fast::hash(&input));
        let mut lines = vec![
            format!(r#"{{"event":"claim","job":"{id}","size":{size},"crc":{crc}}}"#),
            r#"{"event":"start","attempt":1}"#.to_owned(),
        ];
        for index in 0..self.n_answers {
            lines.push(format!(r#"{{"event":"done","index":{index},"answer":{}}}"#, answer(index).to_json()));
        }
        if self.announced {
            lines.push(r#"{"event":"publish","to":"done"}"#.to_owned());
        }
        let mut bytes = Vec::new();
        for line in lines {
            write_line(&mut bytes, &[&line]).unwrap();
        }
        fs::write(root.join(self.path), bytes).unwrap();
        id
    }
}
