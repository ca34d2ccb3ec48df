//! Brings answers out, exactly once, many at a time. The proof stands in [`crate::spool::states`].

use std::ffi::{OsStr, OsString};
use std::io;
use std::sync::Arc;

use super::destination::Destination;
use super::disk::{Disk, Renamed};
use super::error::SpoolError;
use super::id::JobId;
use super::name::{input_name, journal_name, part_name, ready_name, with_id};
use super::place::Place;

/// Answers of one name that may lie in out/ beside each other and beside that of the id.
const MAX_CLASHES: usize = 99;

/// A job on its last way.
#[derive(Debug)]
pub struct Ending {
    pub id: JobId,
    pub name: OsString,
    pub to: Destination,
    /// The answer stands in work/ under its ready name, or went on from there.
    pub is_ready: bool,
    /// Where the answer is in out/, once it was moved there.
    pub out_name: Option<OsString>,
    /// Why the job got no further.
    pub error: Option<Arc<SpoolError>>,
}

/// Makes ready what is whole and synced in tmp/.
pub fn make_ready(disk: &mut Disk, endings: &mut [Ending]) {
    let is_new = |ending: &Ending| ending.error.is_none() && !ending.is_ready;
    // Where the input came from, it must never come back from now on.
    for source in [Place::New, Place::Hold] {
        if endings.iter().any(is_new)
            && let Err(error) = disk.sync_dir(source)
        {
            let error = Arc::new(error);
            endings.iter_mut().filter(|e| is_new(e)).for_each(|e| e.error = Some(error.clone()));
        }
    }
    for ending in endings.iter_mut().filter(|ending| is_new(ending)) {
        let ready = ready_name(ending.id, &ending.name, ending.to);
        let part = part_name(ending.id);
        match disk.rename((Place::Tmp, &part), (Place::Work, &ready)) {
            Ok(Renamed::Done) => ending.is_ready = true,
            Ok(Renamed::Missing) => fail(ending, disk, Place::Tmp, &part, io::ErrorKind::NotFound),
            Ok(Renamed::Taken) => fail(ending, disk, Place::Work, &ready, io::ErrorKind::AlreadyExists),
            Err(error) => ending.error = Some(Arc::new(error)),
        }
    }
}

/// Does what is left to do for ready answers. Any step may have been done before.
pub fn bring_out(disk: &mut Disk, endings: &mut [Ending]) {
    // The answer is ready for good before its input goes.
    sync_work(disk, endings);
    each(endings, |ending| {
        let input = input_name(ending.id, &ending.name);
        let to = ending.to.place();
        put(disk, (Place::Work, &input), to, ending.id, &ending.name).map(drop)
    });
    // The input is away for good before its answer goes: an input without a ready answer has none in out/.
    sync_work(disk, endings);
    each(endings, |ending| {
        let ready = ready_name(ending.id, &ending.name, ending.to);
        let put = put(disk, (Place::Work, &ready), Place::Out, ending.id, &ending.name)?;
        ending.out_name = put.or(ending.out_name.take());
        Ok(())
    });
    // The answer is out for good before anybody is told, and may take it away.
    sync_work(disk, endings);
    for ending in endings.iter().filter(|ending| ending.error.is_none()) {
        // One that stays belongs to no job any more, and goes with the next start.
        let _ = disk.remove(Place::Work, &journal_name(ending.id));
    }
}

/// Moves a file to where it stays, under its plain name if that is free; returns the name. None: it went before.
pub(super) fn put(
    disk: &mut Disk,
    from: (Place, &OsStr),
    to: Place,
    id: JobId,
    name: &OsStr,
) -> Result<Option<OsString>, SpoolError> {
    let Some(source) = disk.stat(from.0, from.1)? else { return Ok(None) };
    let id = id.to_string();
    let clashes = (2..=MAX_CLASHES).map(|n| with_id(name, &format!("{id}.{n}")));
    for to_name in [name.to_owned(), with_id(name, &id)].into_iter().chain(clashes) {
        match disk.rename(from, (to, &to_name))? {
            Renamed::Done => return Ok(Some(to_name)),
            Renamed::Missing => return Ok(None),
            Renamed::Taken => {}
        }
        // After a power cut it may stand under both names.
        let taken = disk.stat(to, &to_name)?;
        if taken.is_some_and(|taken| (taken.st_dev, taken.st_ino) == (source.st_dev, source.st_ino)) {
            disk.remove(from.0, from.1)?;
            return Ok(Some(to_name));
        }
    }
    Err(disk.error("move to", to, name, io::ErrorKind::AlreadyExists.into()))
}

fn each(endings: &mut [Ending], mut step: impl FnMut(&mut Ending) -> Result<(), SpoolError>) {
    for ending in endings.iter_mut().filter(|ending| ending.error.is_none()) {
        if let Err(error) = step(ending) {
            ending.error = Some(Arc::new(error));
        }
    }
}

/// One sync for all; what fails, fails for all.
#[track_caller]
fn sync_work(disk: &mut Disk, endings: &mut [Ending]) {
    if endings.iter().all(|ending| ending.error.is_some()) {
        return;
    }
    if let Err(error) = disk.sync_dir(Place::Work) {
        let error = Arc::new(error);
        each(endings, |ending| {
            ending.error = Some(error.clone());
            Ok(())
        });
    }
}

fn fail(ending: &mut Ending, disk: &Disk, place: Place, name: &OsStr, kind: io::ErrorKind) {
    ending.error = Some(Arc::new(disk.error("make ready", place, name, kind.into())));
}
