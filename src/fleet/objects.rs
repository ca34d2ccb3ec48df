//! Objects of the server's buckets, under limits. What a bucket says of an object is a producer's word.

use std::time::Duration;

use async_nats::jetstream::object_store::{InfoErrorKind, ObjectMetadata, ObjectStore};
use async_nats::jetstream::{self, context::ObjectStoreErrorKind};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::timeout;

/// Longest name of an object that is looked for.
const MAX_NAME: usize = 256;
/// A server that sends nothing for so long is gone.
const STALLED: Duration = Duration::from_secs(30);
/// Bytes that are read at once.
const PIECE: usize = 128 << 10;

/// Why there are no bytes.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// It will not get better: the reason is told to whoever asked for it.
    #[error("{0}")]
    Refused(String),
    /// The server is away, or does not answer.
    #[error("{0}")]
    Later(String),
}

/// Opens a bucket.
///
/// # Errors
/// [`ObjectError::Later`].
pub async fn bucket(jetstream: &jetstream::Context, name: &str) -> Result<ObjectStore, ObjectError> {
    jetstream.get_object_store(name).await.map_err(|error| match error.kind() {
        ObjectStoreErrorKind::GetStore => ObjectError::Later(format!(
            "the bucket {name} is not to be had: {error}; see `jetspool bridge init`"
        )),
        ObjectStoreErrorKind::InvalidBucketName => ObjectError::Refused(error.to_string()),
    })
}

/// Reads an object piece by piece into `take`, up to `limit` bytes.
///
/// # Errors
/// [`ObjectError::Refused`] for one that is not there, that is a link, that is larger, or whose bytes are not whole;
/// what `take` says.
pub async fn read(
    bucket: &ObjectStore,
    name: &str,
    limit: u64,
    mut take: impl FnMut(&[u8]) -> Result<(), ObjectError>,
) -> Result<(), ObjectError> {
    if name.is_empty() || name.len() > MAX_NAME {
        return Err(ObjectError::Refused(format!("an object's name has 1 to {MAX_NAME} bytes")));
    }
    let info = bucket.info(name).await.map_err(|error| match error.kind() {
        InfoErrorKind::NotFound | InfoErrorKind::InvalidName => {
            ObjectError::Refused(format!("there is no object {name:?}"))
        }
        _ => ObjectError::Later(error.to_string()),
    })?;
    let is_link = info.options.as_ref().is_some_and(|options| options.link.is_some());
    if is_link || info.deleted {
        // A link may lead to another bucket, or to itself.
        let found = if is_link { "a link" } else { "deleted" };
        return Err(ObjectError::Refused(format!("the object {name:?} is {found}; wanted one with bytes")));
    }
    let too_large = |found: String| {
        ObjectError::Refused(format!("the object {name:?} has {found} bytes, over the limit of {limit}"))
    };
    if u64::try_from(info.size).unwrap_or(u64::MAX) > limit {
        return Err(too_large(info.size.to_string()));
    }
    let object = bucket.get(name).await.map_err(|error| ObjectError::Later(error.to_string()))?;
    let mut object = object.take(limit + 1);
    let (mut n_read, mut piece) = (0, vec![0; PIECE]);
    loop {
        let read = timeout(STALLED, object.read(&mut piece));
        let n = match read.await {
            Ok(Ok(n)) => n,
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::InvalidData => {
                return Err(ObjectError::Refused(format!("the object {name:?} is not whole: {error}")));
            }
            Ok(Err(error)) => return Err(ObjectError::Later(error.to_string())),
            Err(_) => return Err(ObjectError::Later("the server sends nothing".into())),
        };
        if n == 0 {
            return Ok(());
        }
        n_read += n as u64;
        if n_read > limit {
            return Err(too_large(format!("more than {limit}")));
        }
        take(&piece[..n])?;
    }
}

/// Puts an object in place of one of the same name.
///
/// # Errors
/// [`ObjectError::Later`].
pub async fn write(
    bucket: &ObjectStore,
    object: ObjectMetadata,
    bytes: &mut (impl AsyncRead + Unpin),
) -> Result<(), ObjectError> {
    bucket.put(object, bytes).await.map(drop).map_err(|error| ObjectError::Later(error.to_string()))
}
