//! Answers that whoever dropped the job has read, and takes out of the spool. The files in out/ are the daemon's;
//! whose an answer is tell the job, and after a restart the inputs of its name.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::error::SpoolError;
use super::name;
use super::operate::Found;
use super::place::Place;
use super::root::Spool;

impl Spool {
    /// The answer of exactly this name.
    pub(super) fn answer(&self, name: &OsStr) -> Result<Vec<Found>, SpoolError> {
        name::meant(name).map_err(|why| SpoolError::Name { name: name.to_owned(), why })?;
        let found = self.disk.stat(Place::Out, name)?;
        Ok(found.map(|_| Found { place: Place::Out, id: None, name: name.to_owned() }).into_iter().collect())
    }

    /// Removes an answer from out/.
    ///
    /// # Errors
    /// [`SpoolError`] when the disk refuses.
    pub(super) fn collect(&mut self, job: &Found) -> Result<(), SpoolError> {
        self.disk.remove(Place::Out, &job.name)?;
        self.answers.forget(&job.name);
        Ok(())
    }

    /// The user whose job an answer is to. One that came out before this start, or long ago, is that of the user who
    /// owns all inputs that its name may come from; none where they are several users', or gone.
    pub(super) fn answer_owner(&self, name: &OsStr) -> Option<u32> {
        if let Some(owner) = self.answers.owner(name) {
            return Some(owner);
        }
        let plain = name::without_id(name);
        let (stem, suffix) = name::split_suffix(plain.as_deref().unwrap_or(name))?;
        let is_like = |other: &OsStr| {
            name::split_suffix(other).is_some_and(|(other, end)| {
                let rest = other.as_bytes().strip_prefix(stem.as_bytes());
                end == suffix && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"."))
            })
        };
        let mut owners = Vec::new();
        for place in [Place::Done, Place::Failed] {
            let mut names = Vec::new();
            self.disk.list(place, |other| names.extend(is_like(other).then(|| other.to_owned()))).ok()?;
            for name in names {
                owners.extend(self.disk.stat(place, &name).ok()?.map(|stat| stat.st_uid));
            }
        }
        owners.sort_unstable();
        owners.dedup();
        (owners.len() == 1).then(|| owners[0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::{Action, SpoolConfig};

    #[test]
    fn an_answer_is_his_whose_all_inputs_of_its_name_are() {
        let dir = tempfile::tempdir().unwrap();
        let (mut spool, _) = Spool::open(dir.path(), SpoolConfig::default()).unwrap();
        let me = nix::unistd::geteuid().as_raw();
        let write = |file: &str| std::fs::write(dir.path().join(file), "{}").unwrap();
        let owner = |spool: &Spool, name: &str| spool.answer_owner(OsStr::new(name));
        write("out/x.json");
        write("done/xy.json");
        assert_eq!(owner(&spool, "x.json"), None, "its input is gone");
        write("done/x.json");
        write("failed/x.1kvzb7c8m0a.json");
        assert_eq!(owner(&spool, "x.json"), Some(me));
        assert_eq!(owner(&spool, "x.1kvzb7c8m0a.json"), Some(me));
        let other = dir.path().join("done/x.1kvzb7c8m0b.2.json");
        write("done/x.1kvzb7c8m0b.2.json");
        if std::os::unix::fs::chown(&other, Some(12_345), None).is_ok() {
            assert_eq!(owner(&spool, "x.json"), None, "it may be the other one's");
        }
        spool.answers.note("x.json".into(), 7);
        assert_eq!(owner(&spool, "x.json"), Some(7));
        let found =
            spool.chosen(Action::Collect, Some(&[OsStr::new("x.json"), OsStr::new("y.json")])).unwrap();
        assert_eq!((found.jobs.len(), found.missing.len()), (1, 1));
        spool.act(Action::Collect, &found.jobs[0]).unwrap();
        assert!(!dir.path().join("out/x.json").exists() && dir.path().join("done/x.json").exists());
        assert!(
            spool.chosen(Action::Collect, Some(&[OsStr::new("../done/x.json")])).unwrap().jobs.is_empty()
        );
    }
}
