//! Waiting for an answer. A message on its subject is a hint, what the stream holds is the truth: the server hands a
//! message to listeners before it has stored it, and also one that it then refuses.

use std::time::{Duration, Instant};

use async_nats::jetstream::stream::DirectGetErrorKind;
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::io::AsyncReadExt;

use super::connection::Connection;
use super::error::FleetError;
use super::layout::{ANSWER_OBJECTS, ANSWERS, OBJECT_HEADER};
use super::names::{JobKey, Model};
use super::upload::bucket;

/// Looked at again so soon after a hint, then after twice as long, up to the rarest.
const SOON: Duration = Duration::from_millis(1);
const SELDOM: Duration = Duration::from_secs(5);

/// The answer file of a job, when it is there.
///
/// # Errors
/// [`FleetError::NoAnswerYet`] after `limit`.
pub async fn wait_for_answer(
    connection: &Connection,
    model: &Model,
    id: &JobKey,
    limit: Duration,
) -> Result<Bytes, FleetError> {
    let subject = model.answer(id);
    let begin = Instant::now();
    let hints = connection.client.subscribe(subject.clone()).await;
    let mut hints = hints.map_err(FleetError::server("tell of answers"))?;
    let mut pause = SOON;
    loop {
        if let Some(answer) = stored_answer(connection, &subject).await? {
            return Ok(answer);
        }
        let left = limit.saturating_sub(begin.elapsed());
        if left.is_zero() {
            return Err(FleetError::NoAnswerYet { id: id.to_string(), seconds: limit.as_secs() });
        }
        pause = match tokio::time::timeout(pause.min(left), hints.next()).await {
            Ok(Some(_)) => SOON,
            // Without a connection there are no hints.
            Ok(None) => {
                tokio::time::sleep(SELDOM.min(left)).await;
                SELDOM
            }
            Err(_) => (2 * pause).min(SELDOM),
        };
    }
}

/// None while there is none, or while the server is away.
async fn stored_answer(connection: &Connection, subject: &str) -> Result<Option<Bytes>, FleetError> {
    let stream = connection.jetstream.get_stream_no_info(ANSWERS).await;
    let stream = stream.map_err(FleetError::server("look at its streams"))?;
    let message = match stream.direct_get_last_for_subject(subject).await {
        Ok(message) => message,
        Err(error) => {
            return match error.kind() {
                DirectGetErrorKind::NotFound | DirectGetErrorKind::TimedOut | DirectGetErrorKind::Request => {
                    Ok(None)
                }
                _ => Err(FleetError::server("look for the answer")(error)),
            };
        }
    };
    let Some(name) = message.headers.get(OBJECT_HEADER) else { return Ok(Some(message.payload)) };
    let object = bucket(connection, ANSWER_OBJECTS).await?.get(name.as_str()).await;
    let mut object = object.map_err(FleetError::server("find the answer's file"))?;
    let mut bytes = Vec::new();
    object.read_to_end(&mut bytes).await.map_err(FleetError::system("read the answer's file"))?;
    Ok(Some(bytes.into()))
}
