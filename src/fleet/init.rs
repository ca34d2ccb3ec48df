//! `bridge init`: makes what is missing on the server, and says what differs from what is wanted.

use std::fmt;

use async_nats::jetstream::consumer::IntoConsumerConfig;
use async_nats::jetstream::context::{CreateStreamErrorKind, GetStreamErrorKind};
use async_nats::jetstream::{self, ErrorCode, consumer, stream};

use super::connection::{Access, Retry};
use super::error::FleetError;
use super::layout::{JOBS, Layout};
use super::names::Model;
use super::runtime::block_on;

/// The flags of `bridge init`.
#[derive(Debug, Clone)]
pub struct InitOptions {
    pub access: Access,
    pub models: Vec<Model>,
    pub layout: Layout,
}

/// What became of one thing on the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Made {
    Now,
    Before,
    /// It is there, and is otherwise: `field: wanted a, found b`.
    Differs(Vec<String>),
}

impl fmt::Display for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Now => f.write_str("made"),
            Self::Before => f.write_str("there already"),
            Self::Differs(fields) => write!(f, "differs: {}", fields.join("; ")),
        }
    }
}

/// Makes all streams, buckets and consumers that are not there; what is there stays as it is. `tell` hears of each.
///
/// # Errors
/// [`FleetError`] when the server cannot be asked or refuses, and [`FleetError::Differs`].
pub fn init(options: &InitOptions, mut tell: impl FnMut(&str, &Made)) -> Result<(), FleetError> {
    block_on(async {
        let connection = options.access.connect("jetspool bridge init", Retry::Never).await?;
        let jetstream = &connection.jetstream;
        let (mut n_things, mut n_differing) = (0, 0);
        let mut note = |name: &str, made: &Made| {
            n_things += 1;
            n_differing += usize::from(matches!(made, Made::Differs(_)));
            tell(name, made);
        };
        for config in options.layout.streams() {
            let name = format!("stream {}", config.name);
            note(&name, &make_stream(jetstream, config).await?);
        }
        for config in options.models.iter().flat_map(|model| options.layout.consumers(model)) {
            let name = format!("consumer {}", config.durable_name.as_deref().unwrap_or_default());
            note(&name, &make_consumer(jetstream, config).await?);
        }
        if n_differing > 0 { Err(FleetError::Differs { n_differing, n_things }) } else { Ok(()) }
    })
}

async fn make_stream(jetstream: &jetstream::Context, wanted: stream::Config) -> Result<Made, FleetError> {
    let asked = || format!("look at the stream {}", wanted.name);
    match jetstream.get_stream(&wanted.name).await {
        Ok(stream) => {
            return Ok(compare(&stream_fields(&wanted), &stream_fields(&stream.cached_info().config)));
        }
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND => {}
            _ => return Err(FleetError::server(asked())(error)),
        },
    }
    match jetstream.create_stream(wanted.clone()).await {
        Ok(_) => Ok(Made::Now),
        Err(error) => match error.kind() {
            // Another one made it in the meantime, otherwise.
            CreateStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NAME_EXIST => {
                let found = jetstream.get_stream(&wanted.name).await.map_err(FleetError::server(asked()))?;
                Ok(compare(&stream_fields(&wanted), &stream_fields(&found.cached_info().config)))
            }
            _ => Err(FleetError::server(format!("make the stream {}", wanted.name))(error)),
        },
    }
}

async fn make_consumer(
    jetstream: &jetstream::Context,
    wanted: consumer::pull::Config,
) -> Result<Made, FleetError> {
    let name = wanted.durable_name.clone().unwrap_or_default();
    let doing = format!("make the consumer {name}");
    let stream = jetstream.get_stream(JOBS).await.map_err(FleetError::server(doing.clone()))?;
    if let Ok(info) = stream.consumer_info(&name).await {
        return Ok(compare(
            &consumer_fields(&wanted.clone().into_consumer_config()),
            &consumer_fields(&info.config),
        ));
    }
    stream.create_consumer(wanted).await.map_err(FleetError::server(doing))?;
    Ok(Made::Now)
}

type Fields = Vec<(&'static str, String)>;

/// What of a stream the fleet depends on.
fn stream_fields(config: &stream::Config) -> Fields {
    vec![
        ("subjects", config.subjects.join(" ")),
        ("retention", format!("{:?}", config.retention)),
        ("storage", format!("{:?}", config.storage)),
        ("discard", format!("{:?}", config.discard)),
        ("discard_new_per_subject", config.discard_new_per_subject.to_string()),
        ("max_msgs_per_subject", config.max_messages_per_subject.to_string()),
        ("max_age", format!("{:?}", config.max_age)),
        ("num_replicas", config.num_replicas.to_string()),
        ("allow_direct", config.allow_direct.to_string()),
        ("allow_rollup_hdrs", config.allow_rollup.to_string()),
    ]
}

fn consumer_fields(config: &consumer::Config) -> Fields {
    vec![
        ("filter_subject", config.filter_subject.clone()),
        ("ack_policy", format!("{:?}", config.ack_policy)),
        ("ack_wait", format!("{:?}", config.ack_wait)),
        ("max_deliver", config.max_deliver.to_string()),
        ("max_ack_pending", config.max_ack_pending.to_string()),
    ]
}

fn compare(wanted: &Fields, found: &Fields) -> Made {
    let differing: Vec<String> = wanted
        .iter()
        .zip(found)
        .filter(|(wanted, found)| wanted.1 != found.1)
        .map(|((field, wanted), (_, found))| format!("{field}: wanted {wanted}, found {found}"))
        .collect();
    if differing.is_empty() { Made::Before } else { Made::Differs(differing) }
}
