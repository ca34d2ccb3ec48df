//! What a bridge publishes: answers, one per job, and dead letters.

use async_nats::HeaderMap;
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::stream::DirectGetErrorKind;
use bytes::Bytes;
use tokio::io::AsyncReadExt;

use super::connection::Connection;
use super::files::AnswerFile;
use super::layout::{
    ANSWER_OBJECTS, ANSWERS, DEVICE_HEADER, HEADER_ROOM, ID_HEADER, JOB_HEADER, OBJECT_HEADER, REASON_HEADER,
    STATUS_HEADER,
};
use super::names::{Device, JobFormat, SpoolName};
use super::objects;
use crate::spool::JobId;
use crate::spool::wire::answer_file::write_rejection;
use crate::spool::wire::openai::response::write_refusal;
use crate::spool::wire::{Fault, count_failures};

/// What the headers say of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Every request has what it asked for.
    Answered,
    /// A request failed; `error` in the answer says why.
    Failed,
    /// The job never came into a spool.
    Refused,
}

impl Status {
    pub fn name(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Failed => "failed",
            Self::Refused => "refused",
        }
    }

    /// Of an answer file.
    fn of(answer: &[u8], format: JobFormat) -> Self {
        match count_failures(answer, format == JobFormat::Jsonl) {
            Ok((_, 0)) => Self::Answered,
            _ => Self::Failed,
        }
    }
}

/// Whose answer the job has now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    Ours(Status),
    /// Another device, or this one before, was first.
    Another,
}

/// The server is away, or does not take it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NotPublished(String);

/// Publishes for one device.
#[derive(Debug, Clone)]
pub struct Publisher {
    pub connection: Connection,
    pub device: Device,
}

impl Publisher {
    /// Who answered the job, if anybody did.
    ///
    /// # Errors
    /// [`NotPublished`] when the server does not say.
    pub async fn answered_by(&self, name: &SpoolName) -> Result<Option<String>, NotPublished> {
        let failed =
            |error: &dyn std::fmt::Display| NotPublished(format!("cannot look for the answer: {error}"));
        let jetstream = &self.connection.jetstream;
        let stream = jetstream.get_stream_no_info(ANSWERS).await.map_err(|error| failed(&error))?;
        match stream.direct_get_last_for_subject(name.model.answer(&name.key)).await {
            Ok(message) => {
                let device = message.headers.get(DEVICE_HEADER).map(|value| value.as_str().to_owned());
                Ok(Some(device.unwrap_or_default()))
            }
            Err(error) if error.kind() == DirectGetErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(&error)),
        }
    }

    /// Publishes an answer of the spool: its object first, if it is large.
    ///
    /// # Errors
    /// [`NotPublished`]; it may be tried again.
    pub async fn answer(&self, name: &SpoolName, answer: AnswerFile) -> Result<Published, NotPublished> {
        let format = answer.format;
        let failed = |error: std::io::Error| NotPublished(format!("cannot read the answer: {error}"));
        if answer.n_bytes <= self.max_body() {
            let mut bytes = Vec::new();
            let n = std::io::Read::read_to_end(
                &mut std::io::Read::take(&answer.file, self.max_body() + 1),
                &mut bytes,
            );
            n.map_err(failed)?;
            let status = Status::of(&bytes, format);
            return self.publish(name, format, status, bytes.into(), None).await;
        }
        // The server would refuse the message, but only after all of the object was sent.
        if self.answered_by(name).await?.is_some() {
            return Ok(Published::Another);
        }
        let status = match count_failures(std::io::BufReader::new(&answer.file), format == JobFormat::Jsonl) {
            Ok((_, 0)) => Status::Answered,
            _ => Status::Failed,
        };
        let mut file = answer.file;
        std::io::Seek::rewind(&mut file).map_err(failed)?;
        let object = format!("{}.{}", name.object(), self.device);
        let later = |error: objects::ObjectError| NotPublished(error.to_string());
        let bucket = objects::bucket(&self.connection.jetstream, ANSWER_OBJECTS).await.map_err(later)?;
        objects::write(
            &bucket,
            self.connection.object(object.clone()),
            &mut Pieces(file).take(answer.n_bytes),
        )
        .await
        .map_err(later)?;
        let published = self.publish(name, format, status, Bytes::new(), Some(&object)).await?;
        // Ours is not what was published, unless this device published it before.
        if published == Published::Another
            && self.answered_by(name).await?.is_some_and(|device| device != self.device.as_str())
            && let Err(error) = bucket.delete(&object).await
        {
            tracing::debug!("the object {object} stays until it is too old: {error}");
        }
        Ok(published)
    }

    /// Publishes that a job is not run.
    ///
    /// # Errors
    /// [`NotPublished`]; it may be tried again.
    pub async fn refusal(
        &self,
        name: &SpoolName,
        format: JobFormat,
        fault: &Fault,
    ) -> Result<Published, NotPublished> {
        let mut body = Vec::new();
        let written = match format {
            JobFormat::Json => write_rejection(&mut body, &name.file_name(format), fault),
            JobFormat::Jsonl => {
                write_refusal(fault, &JobId::next(None).stamp(), &mut body).map(|()| body.push(b'\n'))
            }
        };
        written.map_err(|error| NotPublished(error.to_string()))?;
        self.publish(name, format, Status::Refused, body.into(), None).await
    }

    /// Publishes a job as it came, with the reason for which it is given up.
    ///
    /// # Errors
    /// [`NotPublished`]; it may be tried again.
    pub async fn dead(
        &self,
        name: &SpoolName,
        headers: Option<HeaderMap>,
        body: Bytes,
        reason: &str,
    ) -> Result<(), NotPublished> {
        let mut headers = headers.unwrap_or_default();
        headers.insert(REASON_HEADER, one_line(reason).as_str());
        headers.insert(DEVICE_HEADER, self.device.as_str());
        headers.insert(JOB_HEADER, name.key.as_str());
        // What a producer expected of another stream does not hold here.
        let mut kept = HeaderMap::new();
        for (header, values) in headers.iter().filter(|(header, _)| {
            let header: &str = header.as_ref();
            !header.starts_with("Nats-") || header == ID_HEADER
        }) {
            values.iter().for_each(|value| kept.append(header.clone(), value.clone()));
        }
        let subject = name.model.dead();
        match self.send(&subject, kept.clone(), body).await {
            // A full message leaves no room for the reason.
            Err(Refused::TooLarge) => self.send(&subject, kept, Bytes::new()).await.map(drop),
            sent => sent.map(drop),
        }
        .map_err(|error| NotPublished(error.to_string()))
    }

    /// Largest body of a message; a larger one is an object.
    fn max_body(&self) -> u64 {
        self.connection.client.max_payload().saturating_sub(HEADER_ROOM) as u64
    }

    async fn publish(
        &self,
        name: &SpoolName,
        format: JobFormat,
        status: Status,
        body: Bytes,
        object: Option<&str>,
    ) -> Result<Published, NotPublished> {
        let mut headers = HeaderMap::new();
        // The server remembers ids per stream, and two models may have jobs of one id.
        headers.insert(ID_HEADER, name.object().as_str());
        headers.insert(JOB_HEADER, name.key.as_str());
        headers.insert(DEVICE_HEADER, self.device.as_str());
        headers.insert(STATUS_HEADER, status.name());
        headers.insert(super::layout::FORMAT_HEADER, format.name());
        if let Some(object) = object {
            headers.insert(OBJECT_HEADER, object);
        }
        match self.send(&name.model.answer(&name.key), headers, body).await {
            Ok(false) => Ok(Published::Ours(status)),
            Ok(true) => Ok(Published::Another),
            // "maximum messages per subject exceeded" has no number of its own: the answer itself tells.
            Err(error) => match self.answered_by(name).await? {
                Some(_) => Ok(Published::Another),
                None => Err(NotPublished(error.to_string())),
            },
        }
    }

    /// Whether the server had a message of this id before.
    async fn send(&self, subject: &str, headers: HeaderMap, body: Bytes) -> Result<bool, Refused> {
        let of = |error: async_nats::jetstream::context::PublishError| match error.kind() {
            PublishErrorKind::MaxPayloadExceeded => Refused::TooLarge,
            _ => Refused::Other(error.to_string()),
        };
        let jetstream = &self.connection.jetstream;
        let sent = jetstream.publish_with_headers(subject.to_owned(), headers, body).await.map_err(of)?;
        Ok(sent.await.map_err(of)?.duplicate)
    }
}

#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("the message is larger than the server takes")]
    TooLarge,
    #[error("{0}")]
    Other(String),
}

/// Headers end at a line's end.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(1000).collect()
}

/// A file that is read where it is asked for: it is small, or in the page cache.
struct Pieces(std::fs::File);

impl tokio::io::AsyncRead for Pieces {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        let n = std::io::Read::read(&mut self.0, buffer.initialize_unfilled())?;
        buffer.advance(n);
        std::task::Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_answer_says_tells_its_status() {
        let cases: [(&[u8], JobFormat, Status); 5] = [
            (br#"{"responses": [{"output_text": ""}]}"#, JobFormat::Json, Status::Answered),
            (br#"{"responses": [{"error": {"code": "x"}}]}"#, JobFormat::Json, Status::Failed),
            (br#"{"error": {"code": "bad-file"}, "responses": []}"#, JobFormat::Json, Status::Failed),
            (b"{\"error\": null}\n", JobFormat::Jsonl, Status::Answered),
            (b"half", JobFormat::Json, Status::Failed),
        ];
        for (answer, format, wanted) in cases {
            assert_eq!(Status::of(answer, format), wanted);
        }
    }

    #[test]
    fn a_reason_is_one_line() {
        assert_eq!(one_line("a\r\nNats-Rollup: all"), "a  Nats-Rollup: all");
        assert_eq!(one_line(&"x".repeat(5000)).len(), 1000);
    }
}
