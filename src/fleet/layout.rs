//! What there is on the server: streams, consumers and buckets, and what each of them must be like.
//!
//! | thing                     | holds                                                                          |
//! |---------------------------|--------------------------------------------------------------------------------|
//! | stream JETSPOOL_JOBS      | `JETSPOOL.jobs.MODEL.PRIORITY`: jobs until they are answered (a work queue)    |
//! | consumer MODEL-PRIORITY   | who of the devices works on which job                                          |
//! | stream JETSPOOL_ANSWERS   | `JETSPOOL.answers.MODEL.ID`: one answer per job; a second one is refused       |
//! | stream JETSPOOL_DEAD      | `JETSPOOL.dead.MODEL`: jobs that were given up                                 |
//! | bucket JETSPOOL_jobs      | objects: bodies of large jobs                                                  |
//! | bucket JETSPOOL_answers   | objects: bodies of large answers                                               |
//! | bucket JETSPOOL_adapters  | objects `sha256-HEX`: archives of adapters                                     |
//! | bucket JETSPOOL_devices   | keys: the latest heartbeat of each device                                      |
//!
//! Buckets are streams too, named and set as the specifications of NATS have it (ADR-8 and ADR-20).

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType};

use super::names::{Model, Priority};

pub const JOBS: &str = "JETSPOOL_JOBS";
pub const ANSWERS: &str = "JETSPOOL_ANSWERS";
pub const DEAD: &str = "JETSPOOL_DEAD";
pub const JOB_OBJECTS: &str = "JETSPOOL_jobs";
pub const ANSWER_OBJECTS: &str = "JETSPOOL_answers";
pub const ADAPTERS: &str = "JETSPOOL_adapters";
pub const DEVICES: &str = "JETSPOOL_devices";

/// Headers of messages.
pub const ID_HEADER: &str = "Nats-Msg-Id";
pub const FORMAT_HEADER: &str = "Jetspool-Format";
pub const OBJECT_HEADER: &str = "Jetspool-Object";
pub const JOB_HEADER: &str = "Jetspool-Job";
pub const DEVICE_HEADER: &str = "Jetspool-Device";
pub const STATUS_HEADER: &str = "Jetspool-Status";
pub const REASON_HEADER: &str = "Jetspool-Reason";

/// A body that is larger than the server's limit less this goes into a bucket: headers need room too.
pub const HEADER_ROOM: usize = 64 << 10;
/// How long a job's message is a device's own without a sign of life.
pub const ACK_WAIT: Duration = Duration::from_secs(30);

const DAY: Duration = Duration::from_secs(86_400);
/// Jobs with an id that was published before within this time are dropped by the server.
const DUPLICATES: Duration = Duration::from_secs(3600);
/// Largest message of a stream.
const MAX_MESSAGE: i32 = 8 << 20;
/// Job bodies in the bucket go after so long, if nobody took them away.
const KEEP_JOB_OBJECTS: Duration = DAY.saturating_mul(7);
const KEEP_DEAD: Duration = DAY.saturating_mul(90);
/// How often a device says how it is.
pub const HEARTBEAT_EVERY: Duration = Duration::from_secs(10);
const KEEP_DEVICES: Duration = DAY.saturating_mul(30);
/// Jobs of a model and priority that all devices together have at once.
const MAX_ACK_PENDING: i64 = 20_000;
/// Devices that may wait for a job of a model and priority.
const MAX_WAITING: i64 = 4096;

/// What may be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Servers that hold each thing.
    pub n_replicas: usize,
    pub keep_answers: Duration,
}

impl Layout {
    /// All streams, those of buckets included.
    pub fn streams(&self) -> Vec<Config> {
        vec![
            Config {
                subjects: vec!["JETSPOOL.jobs.*.*".into()],
                retention: RetentionPolicy::WorkQueue,
                duplicate_window: DUPLICATES,
                max_message_size: MAX_MESSAGE,
                ..self.stream(JOBS, "jobs until they are answered")
            },
            Config {
                subjects: vec!["JETSPOOL.answers.*.*".into()],
                max_age: self.keep_answers,
                max_messages_per_subject: 1,
                discard_new_per_subject: true,
                allow_direct: true,
                max_message_size: MAX_MESSAGE,
                ..self.stream(ANSWERS, "one answer per job")
            },
            Config {
                subjects: vec!["JETSPOOL.dead.*".into()],
                max_age: KEEP_DEAD,
                max_message_size: MAX_MESSAGE,
                allow_direct: true,
                ..self.stream(DEAD, "jobs that were given up")
            },
            self.objects(JOB_OBJECTS, KEEP_JOB_OBJECTS, "bodies of large jobs"),
            self.objects(ANSWER_OBJECTS, self.keep_answers, "bodies of large answers"),
            self.objects(ADAPTERS, Duration::ZERO, "archives of adapters"),
            Config {
                subjects: vec![format!("$KV.{DEVICES}.>")],
                max_messages_per_subject: 1,
                max_age: KEEP_DEVICES,
                allow_rollup: true,
                deny_delete: true,
                allow_direct: true,
                ..self.stream(&format!("KV_{DEVICES}"), "the latest heartbeat of each device")
            },
        ]
    }

    /// The consumers of a model's jobs.
    pub fn consumers(&self, model: &Model) -> Vec<pull::Config> {
        let consumer = |priority| pull::Config {
            durable_name: Some(model.consumer(priority)),
            filter_subject: model.jobs(priority),
            ack_policy: AckPolicy::Explicit,
            ack_wait: ACK_WAIT,
            max_deliver: -1,
            max_ack_pending: MAX_ACK_PENDING,
            max_waiting: MAX_WAITING,
            ..pull::Config::default()
        };
        Priority::ALL.map(consumer).into()
    }

    fn stream(&self, name: &str, description: &str) -> Config {
        Config {
            name: name.to_owned(),
            description: Some(description.to_owned()),
            storage: StorageType::File,
            num_replicas: self.n_replicas,
            discard: DiscardPolicy::New,
            retention: RetentionPolicy::Limits,
            max_messages: -1,
            max_bytes: -1,
            max_messages_per_subject: -1,
            max_consumers: -1,
            max_message_size: -1,
            ..Config::default()
        }
    }

    fn objects(&self, bucket: &str, max_age: Duration, description: &str) -> Config {
        Config {
            subjects: vec![format!("$O.{bucket}.C.>"), format!("$O.{bucket}.M.>")],
            max_age,
            allow_rollup: true,
            allow_direct: true,
            ..self.stream(&format!("OBJ_{bucket}"), description)
        }
    }
}
