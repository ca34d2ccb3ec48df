//! `fleet add-adapter`: an adapter for all devices, under the digest of its bytes.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use async_nats::jetstream::context::ObjectStoreErrorKind;
use async_nats::jetstream::object_store::{InfoErrorKind, ObjectMetadata, ObjectStore};

use super::connection::{Access, Connection, Retry};
use super::error::FleetError;
use super::layout::ADAPTERS;
use super::names::AdapterDigest;
use super::packed::Packed;
use super::runtime::block_on;

/// What an adapter was called where it came from; for people.
const SOURCE: &str = "source";

/// Sends an adapter and returns what requests call it.
///
/// # Errors
/// [`FleetError`] when it is none, or the server does not take it.
pub fn add_adapter(access: &Access, directory: PathBuf) -> Result<String, FleetError> {
    block_on(async {
        let connection = access.connect("jetspool fleet add-adapter", Retry::Never).await?;
        Ok(upload(&connection, &directory).await?.to_string())
    })
}

/// Sends the adapter of a directory, unless it is there.
pub async fn upload(connection: &Connection, directory: &Path) -> Result<AdapterDigest, FleetError> {
    let mut packed = Packed::open(directory)?;
    let digest = packed.digest().map_err(FleetError::system("read the adapter"))?;
    let adapters = bucket(connection, ADAPTERS).await?;
    match adapters.info(digest.object()).await {
        Ok(info) if !info.deleted => return Ok(digest),
        Ok(_) => {}
        Err(error) if error.kind() == InfoErrorKind::NotFound => {}
        Err(error) => return Err(FleetError::server("look for the adapter")(error)),
    }
    let name = directory.file_name().unwrap_or(directory.as_os_str()).to_string_lossy().into_owned();
    let metadata = ObjectMetadata {
        metadata: HashMap::from([(SOURCE.to_owned(), name)]),
        ..connection.object(digest.object())
    };
    let mut bytes = packed.body().map_err(FleetError::system("read the adapter"))?;
    adapters.put(metadata, &mut bytes).await.map_err(FleetError::server("take the adapter"))?;
    Ok(digest)
}

/// A bucket of objects that `bridge init` made.
pub async fn bucket(connection: &Connection, name: &str) -> Result<ObjectStore, FleetError> {
    connection.jetstream.get_object_store(name).await.map_err(|error| match error.kind() {
        ObjectStoreErrorKind::GetStore => FleetError::NoLayout { what: format!("bucket {name}") },
        _ => FleetError::server(format!("open the bucket {name}"))(error),
    })
}
