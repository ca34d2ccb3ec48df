//! `fleet`: who is there, and what waits, from heartbeats and the server's own counts.

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::consumer::{DeliverPolicy, ReplayPolicy, push};
use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::stream::Stream;
use futures_util::StreamExt;
use serde::Serialize;

use super::connection::{Access, Connection, Retry};
use super::error::FleetError;
use super::heartbeat::Heartbeat;
use super::layout::{ADAPTERS, ANSWERS, DEAD, DEVICES, JOBS};
use super::names::{Device, Model, Priority};
use super::runtime::block_on;
use super::upload::bucket;

/// The fleet at one moment.
#[derive(Debug, Clone, Serialize)]
pub struct Fleet {
    pub devices: Vec<Seen>,
    /// By model and priority, those that somebody was prepared for.
    pub queues: Vec<Queue>,
    /// Answers that are kept, jobs that were given up, adapters in the bucket.
    pub n_answers: u64,
    pub n_dead: u64,
    pub n_adapters: usize,
}

/// A device, and how long ago it said so.
#[derive(Debug, Clone, Serialize)]
pub struct Seen {
    #[serde(flatten)]
    pub heartbeat: Heartbeat,
    /// By the clocks of the device and of this machine.
    pub seconds_ago: f64,
}

/// Jobs of one model and priority.
#[derive(Debug, Clone, Serialize)]
pub struct Queue {
    pub model: String,
    pub priority: &'static str,
    pub n_waiting: u64,
    /// Jobs that devices have, and of those, jobs that were handed out more than once.
    pub n_taken: usize,
    pub n_redelivered: usize,
}

/// Asks the server.
///
/// # Errors
/// [`FleetError`] when it cannot be asked, or has no fleet.
pub fn list(access: &Access) -> Result<Fleet, FleetError> {
    block_on(async {
        let connection = access.connect("jetspool fleet", Retry::Never).await?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let seen = |heartbeat: Heartbeat| Seen { seconds_ago: (now - heartbeat.at).max(0.0), heartbeat };
        Ok(Fleet {
            devices: heartbeats(&connection).await?.into_iter().map(seen).collect(),
            queues: queues(&connection).await?,
            n_answers: n_messages(&connection, ANSWERS).await?,
            n_dead: n_messages(&connection, DEAD).await?,
            n_adapters: n_objects(&connection, ADAPTERS).await?,
        })
    })
}

/// Models that have queues: also those whose devices are all away.
pub async fn models(connection: &Connection) -> Result<BTreeSet<String>, FleetError> {
    Ok(queues(connection).await?.into_iter().map(|queue| queue.model).collect())
}

/// The latest heartbeat of each device, by name. What does not say what it should is not shown.
async fn heartbeats(connection: &Connection) -> Result<Vec<Heartbeat>, FleetError> {
    let refused = "list the devices";
    let stream = stream(connection, &format!("KV_{DEVICES}")).await?;
    let consumer = stream.create_consumer(push::OrderedConfig {
        deliver_subject: connection.client.new_inbox(),
        deliver_policy: DeliverPolicy::LastPerSubject,
        filter_subject: format!("$KV.{DEVICES}.>"),
        replay_policy: ReplayPolicy::Instant,
        ..push::OrderedConfig::default()
    });
    let consumer = consumer.await.map_err(FleetError::server(refused))?;
    let n = usize::try_from(consumer.cached_info().num_pending).unwrap_or(usize::MAX);
    let mut messages = consumer.messages().await.map_err(FleetError::server(refused))?.take(n);
    let mut found = Vec::new();
    while let Some(message) = messages.next().await {
        let message = message.map_err(FleetError::server(refused))?;
        let device = message.subject.rsplit('.').next().unwrap_or_default();
        let is_fair = |heartbeat: &Heartbeat| {
            heartbeat.device == device && Device::new(device).is_ok() && Model::new(&heartbeat.model).is_ok()
        };
        found.extend(serde_json::from_slice(&message.payload).ok().filter(is_fair));
    }
    found.sort_by(|a, b| a.device.cmp(&b.device));
    Ok(found)
}

async fn queues(connection: &Connection) -> Result<Vec<Queue>, FleetError> {
    let stream = stream(connection, JOBS).await?;
    let mut consumers = stream.consumers();
    let mut found = Vec::new();
    while let Some(info) = consumers.next().await {
        let info = info.map_err(FleetError::server("list the queues"))?;
        let named = |priority: Priority| {
            let model = info.name.strip_suffix(priority.name())?.strip_suffix('-')?;
            Some((model.to_owned(), priority))
        };
        let Some((model, priority)) = Priority::ALL.into_iter().find_map(named) else { continue };
        found.push(Queue {
            model,
            priority: priority.name(),
            n_waiting: info.num_pending,
            n_taken: info.num_ack_pending,
            n_redelivered: info.num_redelivered,
        });
    }
    let place = |queue: &Queue| Priority::ALL.iter().position(|priority| priority.name() == queue.priority);
    found.sort_by(|a, b| (&a.model, place(a)).cmp(&(&b.model, place(b))));
    Ok(found)
}

async fn n_messages(connection: &Connection, name: &str) -> Result<u64, FleetError> {
    Ok(stream(connection, name).await?.cached_info().state.messages)
}

async fn n_objects(connection: &Connection, name: &str) -> Result<usize, FleetError> {
    let objects = bucket(connection, name).await?.list().await;
    Ok(objects.map_err(FleetError::server("list the adapters"))?.count().await)
}

async fn stream(connection: &Connection, name: &str) -> Result<Stream, FleetError> {
    connection.jetstream.get_stream(name).await.map_err(|error| match error.kind() {
        GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND => {
            FleetError::NoLayout { what: format!("stream {name}") }
        }
        _ => FleetError::server(format!("look at the stream {name}"))(error),
    })
}
