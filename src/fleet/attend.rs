//! A job in the spool, until its answer is published, or until it goes to another device.

use std::ffi::OsString;
use std::io;
use std::time::Duration;

use async_nats::jetstream::AckKind;
use tokio::time::{Instant, sleep, sleep_until};

use super::daemon::is_unbegun;
use super::names::SpoolName;
use super::publish::Published;
use super::shared::{Mode, Shared, told};
use super::table::Held;
use crate::spool::control::JobName;
use crate::spool::{Action, Place};

/// Pauses before an answer is published again.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// Where a job of the fleet stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whereabouts {
    New,
    Taken,
    Held,
    Out,
    Nowhere,
    /// The daemon, or the system, does not say.
    Unknown(String),
}

/// Looks for a job in the order in which jobs move, so that one that moves meanwhile is found.
pub async fn whereabouts(shared: &Shared, name: &SpoolName) -> Whereabouts {
    let unknown = |error: io::Error| Whereabouts::Unknown(format!("the spool cannot be looked at: {error}"));
    match shared.files.of_job(Place::New, name) {
        Ok(files) if !files.is_empty() => return Whereabouts::New,
        Ok(_) => {}
        Err(error) => return unknown(error),
    }
    match taken(shared, name).await {
        Ok(jobs) if !jobs.is_empty() => return Whereabouts::Taken,
        Ok(_) => {}
        Err(error) => return Whereabouts::Unknown(format!("the daemon does not answer: {error}")),
    }
    match (shared.files.is_held(name), shared.files.of_job(Place::Out, name)) {
        (_, Ok(files)) if !files.is_empty() => Whereabouts::Out,
        (Ok(true), _) => Whereabouts::Held,
        (Err(error), _) | (_, Err(error)) => unknown(error),
        _ => Whereabouts::Nowhere,
    }
}

/// The jobs that the daemon has taken: their names, and whether none of them was begun.
async fn taken(shared: &Shared, name: &SpoolName) -> io::Result<Vec<(OsString, bool)>> {
    use super::names::JobFormat::{Json, Jsonl};
    let mut found = Vec::new();
    for format in [Json, Jsonl] {
        let file = OsString::from(name.file_name(format));
        let jobs = shared.daemon.jobs(&file).await?;
        found.extend(jobs.iter().map(|job| (file.clone(), is_unbegun(job))));
    }
    Ok(found)
}

/// Waits for the answer and publishes it. False: it goes to another device, or is left for the next start.
pub async fn attend(shared: &Shared, held: &Held) -> bool {
    let mut mode = shared.mode.clone();
    mode.mark_changed();
    let mut next_look = Instant::now() + shared.progress_every();
    let mut was_missing = false;
    loop {
        match shared.files.of_job(Place::Out, &held.name) {
            Ok(files) if !files.is_empty() => return publish(shared, held, files).await,
            Ok(_) => {}
            Err(error) => tracing::warn!("out/ cannot be looked at: {error}"),
        }
        tokio::select! {
            () = held.entry.came_out.notified() => {}
            changed = mode.changed() => {
                if changed.is_err() || !goes_on(shared, held).await {
                    return false;
                }
            }
            () = sleep_until(next_look) => {
                next_look = Instant::now() + shared.progress_every();
                held.entry.say(AckKind::Progress).await;
                let is_missing = whereabouts(shared, &held.name).await == Whereabouts::Nowhere;
                if is_missing && was_missing {
                    tracing::warn!("{}: somebody took it out of the spool; given back", told(&held.name));
                    give_back(shared, held).await;
                    return false;
                }
                was_missing = is_missing;
            }
        }
    }
}

/// What a new mode means for a job that has no answer yet.
async fn goes_on(shared: &Shared, held: &Held) -> bool {
    match shared.mode() {
        Mode::Pulling | Mode::Pausing => true,
        mode @ (Mode::GivingBack | Mode::Ending) => {
            if take_back(shared, &held.name).await {
                tracing::info!("{}: not begun, given back", told(&held.name));
                give_back(shared, held).await;
                return false;
            }
            mode == Mode::GivingBack
        }
        Mode::Abandoning => {
            if held.entry.is_awaited() {
                tracing::warn!("{}: others may take it", told(&held.name));
                give_back(shared, held).await;
            }
            true
        }
    }
}

async fn give_back(shared: &Shared, held: &Held) {
    if held.entry.is_awaited() {
        shared.counts.given_back();
        held.entry.give_back(AckKind::Nak(Some(shared.later()))).await;
    }
}

/// Takes a job that was not begun out of the spool; whether it is out.
async fn take_back(shared: &Shared, name: &SpoolName) -> bool {
    let new = shared.files.of_job(Place::New, name).unwrap_or_default();
    if new.iter().any(|file| shared.files.take_back(file)) {
        return true;
    }
    let Ok(jobs) = taken(shared, name).await else { return false };
    if jobs.is_empty() || jobs.iter().any(|(_, is_unbegun)| !is_unbegun) {
        return false;
    }
    let names = jobs.into_iter().map(|(file, _)| JobName(file)).collect();
    matches!(shared.daemon.act(Action::Delete, names).await, Ok(Ok(())))
}

/// Publishes the first of the files, however long the server is away, and takes all of them out of the spool.
async fn publish(shared: &Shared, held: &Held, files: Vec<OsString>) -> bool {
    let mut pause = FIRST_PAUSE;
    loop {
        let answer = match files.first().map(|file| shared.files.answer(file)) {
            Some(Ok(Some(answer))) => answer,
            Some(Ok(None)) | None => {
                tracing::warn!("{}: somebody took its answer out of the spool", told(&held.name));
                give_back(shared, held).await;
                return false;
            }
            Some(Err(error)) => {
                tracing::error!("{}: its answer cannot be read: {error}", told(&held.name));
                give_back(shared, held).await;
                return false;
            }
        };
        match shared.publisher.answer(&held.name, answer).await {
            Ok(published) => {
                shared.counts.published(published);
                if published == Published::Another {
                    tracing::info!("{}: answered already", told(&held.name));
                }
                finish(shared, held).await;
                return true;
            }
            Err(error) => {
                if pause == FIRST_PAUSE {
                    tracing::warn!("{}: its answer waits in out/: {error}", told(&held.name));
                }
            }
        }
        if shared.mode() == Mode::Ending {
            return false;
        }
        sleep(pause).await;
        pause = (pause * 2).min(MAX_PAUSE);
        held.entry.say(AckKind::Progress).await;
    }
}

/// The job has its answer on the server: it leaves the queue, then its answers leave the spool.
pub async fn finish(shared: &Shared, held: &Held) {
    if !held.entry.finish().await {
        // The queue gives it out once more, and then hears that it is answered.
        tracing::debug!("{}: the queue did not say that it knows", told(&held.name));
    }
    let files = shared.files.of_job(Place::Out, &held.name).unwrap_or_default();
    if files.is_empty() {
        return;
    }
    let names = files.iter().cloned().map(JobName).collect();
    match shared.daemon.act(Action::Collect, names).await {
        Ok(Ok(())) => {}
        Ok(Err(refusal)) => files.into_iter().for_each(|file| shared.note_stuck(file, &refusal.message)),
        // The daemon is away: the next look at out/ finds them.
        Err(error) => tracing::debug!("{}: its answer stays in out/ for now: {error}", told(&held.name)),
    }
}
