//! `submit --nats`: a job for whichever device comes first, and its answer.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use bytes::Bytes;

use super::connection::{Access, Connection, Retry};
use super::error::FleetError;
use super::layout::{FORMAT_HEADER, HEADER_ROOM, ID_HEADER, JOB_OBJECTS, JOBS, OBJECT_HEADER};
use super::listing::models;
use super::names::{AdapterDigest, JobFormat, JobKey, Model, Priority, SpoolName};
use super::references::{references, replaced};
use super::runtime::block_on;
use super::upload::{bucket, upload};
use super::wait::wait_for_answer;
use crate::spool::wire::{RequestFile, Stamp, count_failures};
use crate::spool::{form, is_of_lines};
use crate::store::{Expected, explain, read_small};

/// The flags of `submit --nats`.
#[derive(Debug, Clone)]
pub struct ProducerOptions {
    pub file: PathBuf,
    pub access: Access,
    /// None means the one that the fleet has.
    pub model: Option<Model>,
    pub priority: Priority,
    /// None makes one.
    pub id: Option<JobKey>,
    /// How long to wait for the answer, if at all.
    pub wait: Option<Duration>,
}

/// What `tell` hears of.
#[derive(Debug)]
pub enum Told<'a> {
    /// The server has the job.
    Queued { id: &'a JobKey },
    /// It had a job of this id before.
    Known { id: &'a JobKey },
    /// The answer file.
    Answer(&'a [u8]),
}

/// A job to be published.
struct Job {
    model: Model,
    id: JobKey,
    format: JobFormat,
    body: Bytes,
}

/// Publishes a request file, with the adapters that it names, and waits for its answer where that is wanted.
///
/// # Errors
/// [`FleetError::Rejected`] for a file that no daemon would take; [`FleetError::SomeFailed`] after the answer was told.
pub fn produce(options: &ProducerOptions, mut tell: impl FnMut(Told<'_>)) -> Result<(), FleetError> {
    let path = &options.file;
    let bytes = read_small(path).map_err(|error| explain(path, Expected::Requests, error))?;
    let form = form(path.as_os_str(), || Stamp { name: String::new(), created: 0 });
    RequestFile::parse_as(bytes.clone(), form)
        .map_err(|fault| FleetError::Rejected { path: path.clone(), fault })?;
    let is_of_lines = is_of_lines(path.as_os_str());
    block_on(async {
        let connection = options.access.connect("jetspool submit", Retry::Never).await?;
        let format = if is_of_lines { JobFormat::Jsonl } else { JobFormat::Json };
        let body = if is_of_lines { bytes.into() } else { with_adapters(&connection, path, bytes).await? };
        let model = match &options.model {
            Some(model) => known(&connection, model.clone(), options.priority).await?,
            None => the_only_model(&connection).await?,
        };
        let id = match &options.id {
            Some(id) => id.clone(),
            None => new_id(&connection)?,
        };
        let job = Job { model, id, format, body };
        let is_known = publish(&connection, &job, options.priority).await?;
        let id = &job.id;
        tell(if is_known { Told::Known { id } } else { Told::Queued { id } });
        let Some(limit) = options.wait else { return Ok(()) };
        let answer = wait_for_answer(&connection, &job.model, id, limit).await?;
        tell(Told::Answer(&answer));
        let counted = count_failures(&*answer, is_of_lines);
        match counted.map_err(|error| FleetError::server("give a whole answer")(error))? {
            (_, 0) => Ok(()),
            (n_requests, n_failed) => Err(FleetError::SomeFailed { n_failed, n_requests }),
        }
    })
}

/// One that nobody else has: as the library names the places for its replies.
fn new_id(connection: &Connection) -> Result<JobKey, FleetError> {
    let inbox = connection.client.new_inbox();
    Ok(JobKey::new(inbox.rsplit('.').next().unwrap_or(&inbox))?)
}

/// The file with adapters of this machine sent ahead and named by their digests.
async fn with_adapters(connection: &Connection, path: &Path, bytes: Vec<u8>) -> Result<Bytes, FleetError> {
    let no_json = |error: serde_json::Error| FleetError::File {
        path: path.to_owned(),
        found: error.to_string(),
        wanted: "available_lora_weights once, an object of names and places of adapters",
    };
    let text = String::from_utf8_lossy(&bytes);
    let mut digests = BTreeMap::new();
    for value in references(&text).map_err(no_json)? {
        let is_there = AdapterDigest::is_meant(&value) || value.is_empty() || digests.contains_key(&value);
        if !is_there {
            let digest = upload(connection, Path::new(&value)).await?;
            digests.insert(value, digest.to_string());
        }
    }
    Ok(replaced(&text, |value| digests.get(value).cloned()).map_err(no_json)?.into_bytes().into())
}

/// Whether the server had a job of this id before.
async fn publish(connection: &Connection, job: &Job, priority: Priority) -> Result<bool, FleetError> {
    let mut headers = HeaderMap::new();
    headers.insert(ID_HEADER, job.id.as_str());
    headers.insert(FORMAT_HEADER, job.format.name());
    // Nothing else listens on the subject, or there is no stream.
    headers.insert(async_nats::header::NATS_EXPECTED_STREAM, JOBS);
    let mut body = job.body.clone();
    if body.len() + HEADER_ROOM > connection.client.server_info().max_payload {
        let objects = bucket(connection, JOB_OBJECTS).await?;
        // Two models may have jobs of one id.
        let object = SpoolName { model: job.model.clone(), key: job.id.clone() }.object();
        let put = objects.put(connection.object(object.clone()), &mut &*body).await;
        put.map_err(FleetError::server("take the job's file"))?;
        headers.insert(OBJECT_HEADER, object.as_str());
        body = Bytes::new();
    }
    let sent = connection.jetstream.publish_with_headers(job.model.jobs(priority), headers, body).await;
    Ok(sent.map_err(not_taken)?.await.map_err(not_taken)?.duplicate)
}

fn not_taken(error: PublishError) -> FleetError {
    match error.kind() {
        PublishErrorKind::StreamNotFound => FleetError::NoLayout { what: format!("stream {JOBS}") },
        _ => FleetError::server("take the job")(error),
    }
}

/// A model that nobody was prepared for is a slip of the pen: its jobs would wait for ever.
async fn known(connection: &Connection, model: Model, priority: Priority) -> Result<Model, FleetError> {
    use async_nats::jetstream::context::ConsumerInfoErrorKind::{NotFound, StreamNotFound};
    let stream = connection.jetstream.get_stream_no_info(JOBS).await;
    let stream = stream.map_err(FleetError::server("look at its streams"))?;
    match stream.consumer_info(model.consumer(priority)).await.map_err(|error| error.kind()) {
        Err(StreamNotFound) => Err(FleetError::NoLayout { what: format!("stream {JOBS}") }),
        Err(NotFound) => {
            let known = models(connection).await?.into_iter().collect();
            Err(FleetError::NoModel { wanted: model.to_string(), known })
        }
        // Who may not ask may still publish.
        _ => Ok(model),
    }
}

async fn the_only_model(connection: &Connection) -> Result<Model, FleetError> {
    let known = models(connection).await?;
    match known.iter().next() {
        Some(model) if known.len() == 1 => Ok(Model::new(model)?),
        _ => Err(FleetError::WhichModel { known: known.into_iter().collect() }),
    }
}
