//! A job that the queue gave to this device: checks, then into the spool, or an error for an answer.
//!
//! Every step may be the last one of this process. The order makes the next start right: the answer on the server
//! comes before the job leaves the queue, and the job leaves the queue before its answer leaves the spool.

use std::sync::Arc;

use async_nats::HeaderMap;
use async_nats::jetstream::{AckKind, Message};
use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use super::adapters::InUse;
use super::attend::{Whereabouts, attend, finish, whereabouts};
use super::layout::{FORMAT_HEADER, ID_HEADER, JOB_OBJECTS, OBJECT_HEADER};
use super::names::{AdapterDigest, JobFormat, JobKey, SpoolName};
use super::objects::{self, ObjectError};
use super::references::{references, replaced};
use super::shared::{Shared, told};
use super::table::Held;
use crate::spool::wire::{Fault, FaultCode};

/// What came with the message.
struct Job {
    format: JobFormat,
    /// What the format's header says, where that is no format.
    wrong_format: Option<String>,
    /// The object that holds the body.
    object: Option<String>,
    headers: Option<HeaderMap>,
    body: Bytes,
    n_deliveries: u64,
}

/// Why a job does not come into the spool.
enum Halt {
    /// It has an answer now, or had one before.
    Done,
    Refused(Fault),
    /// It went to the dead letters, which name its object.
    Buried,
    Later(String),
}

impl From<super::publish::NotPublished> for Halt {
    fn from(error: super::publish::NotPublished) -> Self {
        Self::Later(error.to_string())
    }
}

/// Looks after one message to its end. `place` is the job's place in the spool.
pub async fn look_after(shared: Arc<Shared>, message: Message, place: OwnedSemaphorePermit) {
    let Ok((sequence, delivered)) = message.info().map(|info| (info.stream_sequence, info.delivered)) else {
        return tracing::warn!("a message that the queue did not send is left alone");
    };
    let (message, acker) = message.split();
    let header = |name: &str| {
        message.headers.as_ref().and_then(|headers| headers.get(name)).map(|value| value.as_str().to_owned())
    };
    let format = header(FORMAT_HEADER);
    let parsed = format.as_deref().map_or(Some(JobFormat::Json), JobFormat::parse);
    let job = Job {
        format: parsed.unwrap_or_default(),
        wrong_format: format.filter(|_| parsed.is_none()),
        object: header(OBJECT_HEADER),
        n_deliveries: u64::try_from(delivered).unwrap_or(0),
        body: message.payload.clone(),
        headers: message.headers.clone(),
    };
    let key = JobKey::of_message(header(ID_HEADER).as_deref(), sequence);
    let name = SpoolName { model: shared.settings.model.clone(), key };
    drop(message);
    // Somebody looks after it already: he has the new handle now.
    let Some(held) = shared.table.enter(name, Some(acker)) else { return };
    shared.counts.pulled();
    let taken = take_in(&shared, &held, &job).await;
    let object = job.object.clone();
    drop(job);
    match taken {
        Ok(in_use) => {
            if attend(&shared, &held).await {
                forget_object(&shared, &held.name, object).await;
            }
            drop(in_use);
        }
        Err(Halt::Done) => forget_object(&shared, &held.name, object).await,
        Err(Halt::Refused(_) | Halt::Buried) => {}
        Err(Halt::Later(reason)) => {
            tracing::warn!("{}: given back: {reason}", told(&held.name));
            shared.counts.given_back();
            held.entry.give_back(AckKind::Nak(Some(shared.later()))).await;
        }
    }
    drop(place);
}

/// Brings the job into the spool, if that is the thing to do. What it needs there is in the result.
async fn take_in(shared: &Shared, held: &Held, job: &Job) -> Result<Vec<InUse>, Halt> {
    let name = &held.name;
    if shared.publisher.answered_by(name).await?.is_some() {
        tracing::info!("{}: answered already", told(name));
        finish(shared, held).await;
        return Err(Halt::Done);
    }
    if job.n_deliveries > shared.settings.max_deliveries {
        return bury(shared, held, job).await;
    }
    match whereabouts(shared, name).await {
        Whereabouts::Nowhere => {}
        Whereabouts::Unknown(reason) => return Err(Halt::Later(reason)),
        _ => return Ok(Vec::new()),
    }
    match bring_in(shared, name, job).await {
        Err(Halt::Refused(fault)) => {
            tracing::warn!("{}: refused: {fault}", told(name));
            let published = shared.publisher.refusal(name, job.format, &fault).await?;
            shared.counts.published(published);
            finish(shared, held).await;
            Err(Halt::Done)
        }
        done => done,
    }
}

/// Gives a job up that came back again and again.
async fn bury(shared: &Shared, held: &Held, job: &Job) -> Result<Vec<InUse>, Halt> {
    let name = &held.name;
    let reason = format!(
        "handed out {} times without an answer, over the limit of {}",
        job.n_deliveries, shared.settings.max_deliveries
    );
    tracing::error!("{}: to the dead letters: {reason}", told(name));
    shared.publisher.dead(name, job.headers.clone(), job.body.clone(), &reason).await?;
    shared.counts.dead();
    let fault = Fault::new(FaultCode::GaveUp, reason);
    let published = shared.publisher.refusal(name, job.format, &fault).await?;
    shared.counts.published(published);
    finish(shared, held).await;
    Err(Halt::Buried)
}

async fn bring_in(shared: &Shared, name: &SpoolName, job: &Job) -> Result<Vec<InUse>, Halt> {
    if let Some(found) = &job.wrong_format {
        let found: String = found.chars().take(40).collect();
        let message = format!("{FORMAT_HEADER}: wanted json or jsonl, found {found:?}");
        return Err(Halt::Refused(Fault::new(FaultCode::BadFile, message)));
    }
    let mut body = body(shared, job).await?;
    let mut in_use = Vec::new();
    if job.format == JobFormat::Json {
        let (changed, adapters) = with_adapters(shared, &body).await?;
        in_use = adapters;
        body = changed.map_or(body, |changed| Bytes::from(changed.into_bytes()));
    }
    let (files, name, format) = (shared.files.clone(), name.clone(), job.format);
    let dropped = tokio::task::spawn_blocking(move || files.drop_in(&name, format, &body)).await;
    match dropped {
        Ok(Ok(())) => Ok(in_use),
        Ok(Err(error)) => Err(Halt::Later(error.to_string())),
        Err(error) => Err(Halt::Later(error.to_string())),
    }
}

async fn body(shared: &Shared, job: &Job) -> Result<Bytes, Halt> {
    let limit = shared.settings.max_job_bytes;
    let Some(object) = &job.object else {
        if job.body.len() as u64 > limit {
            let message = format!("{} bytes are over the limit of {limit}; split the job", job.body.len());
            return Err(Halt::Refused(Fault::new(FaultCode::TooLarge, message)));
        }
        return Ok(job.body.clone());
    };
    let mut body = Vec::new();
    let bucket = objects::bucket(&shared.publisher.connection.jetstream, JOB_OBJECTS).await;
    let bucket = bucket.map_err(|error| halt(error, FaultCode::BadFile))?;
    let read = objects::read(&bucket, object, limit, |piece| {
        body.extend_from_slice(piece);
        Ok(())
    });
    read.await.map_err(|error| halt(error, FaultCode::BadFile))?;
    Ok(body.into())
}

/// The request file with paths in place of digests, and what must stay for it. A file that is none goes on as it is:
/// the daemon says what is wrong with it.
async fn with_adapters(shared: &Shared, body: &[u8]) -> Result<(Option<String>, Vec<InUse>), Halt> {
    let mut in_use = Vec::new();
    let Some((text, values)) =
        std::str::from_utf8(body).ok().and_then(|text| Some((text, references(text).ok()?)))
    else {
        return Ok((None, in_use));
    };
    let mut places = std::collections::BTreeMap::new();
    for value in values {
        if !AdapterDigest::is_meant(&value) || places.contains_key(&value) {
            continue;
        }
        let Some(digest) = AdapterDigest::parse(&value) else {
            let message =
                "available_lora_weights: wanted sha256: and 64 hexadecimal digits in small letters after it";
            return Err(Halt::Refused(Fault::new(FaultCode::AdapterRefused, message)));
        };
        let adapter = shared.adapters.get(&shared.publisher.connection.jetstream, digest).await;
        let adapter = adapter.map_err(|error| halt(error, FaultCode::AdapterRefused))?;
        places.insert(value, adapter.path().to_string_lossy().into_owned());
        in_use.push(adapter);
    }
    if places.is_empty() {
        return Ok((None, in_use));
    }
    Ok((replaced(text, |value| places.get(value).cloned()).ok(), in_use))
}

fn halt(error: ObjectError, code: FaultCode) -> Halt {
    match error {
        ObjectError::Refused(reason) => Halt::Refused(Fault::new(code, reason)),
        ObjectError::Later(reason) => Halt::Later(reason),
    }
}

/// The body of a job that is done with, if it has the job's own name: a message may name the object of another job.
/// One that stays goes when it is too old.
async fn forget_object(shared: &Shared, name: &SpoolName, object: Option<String>) {
    let Some(object) = object.filter(|object| *object == name.object()) else { return };
    if let Ok(bucket) = objects::bucket(&shared.publisher.connection.jetstream, JOB_OBJECTS).await {
        let _ = bucket.delete(&object).await;
    }
}
