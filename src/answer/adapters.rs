//! A name in a request to an adapter: through the file's `available_lora_weights`, else the adapters directory.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::contents::Contents;

use crate::device::{Opened, OpenedLora};
use crate::load::{AdapterLoadError, load_adapter};
use crate::model::Decoder;
use crate::spool::wire::{AdapterName, Fault, FaultCode, RequestFile};
use crate::store::adapter_files::PROCESSED_WEIGHTS_FILE;
use crate::store::{AllowedRoots, Catalog, Expected, FileMap, Sealed, StoreError, explain};

/// Where adapters may come from.
#[derive(Debug, Clone)]
pub struct AdapterPlaces {
    /// Paths of requests must lie in one of these.
    pub roots: AllowedRoots,
    /// `NAME.safetensors` or `NAME/processed_adapter_model.safetensors` in here need no path.
    pub directory: Option<PathBuf>,
}

/// An adapter that is mapped. Whoever computes with it keeps it, and asks [`Adapters::change`] afterwards.
pub struct LoadedAdapter {
    lora: Arc<OpenedLora>,
    file: Sealed,
    content: u64,
}

impl LoadedAdapter {
    /// What the model computes with.
    pub fn lora(&self) -> &Arc<OpenedLora> {
        &self.lora
    }

    /// Names its bytes: an adapter of the same number holds the same.
    pub fn content(&self) -> u64 {
        self.content
    }
}

/// The adapters in use, each mapped once.
pub struct Adapters {
    places: AdapterPlaces,
    loaded: Catalog<LoadedAdapter>,
    contents: Contents,
    max_rank: usize,
}

impl Adapters {
    /// `max_rank` is what the engine was built for.
    pub fn new(places: AdapterPlaces, max_rank: usize) -> Self {
        Self { places, loaded: Catalog::new(), contents: Contents::default(), max_rank }
    }

    pub fn places(&self) -> &AdapterPlaces {
        &self.places
    }

    /// Takes other places; adapters in use stay as they are.
    pub fn set_places(&mut self, places: AdapterPlaces) {
        self.places = places;
    }

    /// Adapters that are mapped.
    pub fn n_loaded(&self) -> usize {
        self.loaded.len()
    }

    /// Adapters that are mapped, but that no sequence uses.
    pub fn n_idle(&self) -> usize {
        self.loaded.n_idle()
    }

    /// Unmaps what no sequence uses. Returns how many.
    pub fn sweep(&self) -> usize {
        self.loaded.sweep()
    }

    /// The adapter of that name for this engine.
    pub fn find(
        &self,
        decoder: &Decoder<Opened>,
        file: &RequestFile,
        name: &str,
    ) -> Result<Arc<LoadedAdapter>, Fault> {
        self.open(decoder, name, &self.path(file, name)?)
    }

    /// The adapter that a request would get by its name alone.
    pub fn find_by_name(&self, decoder: &Decoder<Opened>, name: &str) -> Result<Arc<LoadedAdapter>, Fault> {
        let path = self.path_of_name(AdapterName::try_from(name)?.as_str(), name)?;
        self.open(decoder, name, &path)
    }

    fn open(&self, decoder: &Decoder<Opened>, name: &str, path: &Path) -> Result<Arc<LoadedAdapter>, Fault> {
        self.loaded.get(path, |map| self.load(decoder, map)).map_err(|error| {
            let code = match &error {
                AdapterLoadError::Store(StoreError::Damaged(_)) => return changed(name, &error),
                // Its bytes are wrong.
                AdapterLoadError::Store(StoreError::Format { .. } | StoreError::Mistaken { .. }) => {
                    FaultCode::AdapterMismatch
                }
                AdapterLoadError::Store(_) => FaultCode::AdapterRefused,
                AdapterLoadError::Adapter(_) => FaultCode::AdapterMismatch,
            };
            let place = match &error {
                // They begin with the path themselves.
                AdapterLoadError::Store(_) => String::new(),
                _ => format!(" ({})", path.display()),
            };
            Fault::new(code, format!("adapter \"{name}\"{place}: {error}"))
        })
    }

    fn load(&self, decoder: &Decoder<Opened>, map: &Arc<FileMap>) -> Result<LoadedAdapter, AdapterLoadError> {
        let bound = load_adapter(map, decoder, self.max_rank)?;
        let content = self.contents.number(bound.file.seal());
        Ok(LoadedAdapter { lora: bound.lora, file: bound.file, content })
    }

    /// The fault of all that was computed with an adapter since this was asked last, if its file changed under it.
    /// The next request that names the file gets what it holds then.
    pub fn change(&self, adapter: &Arc<LoadedAdapter>, name: &str) -> Option<Fault> {
        let damage = adapter.file.damage()?;
        self.loaded.forget(adapter);
        self.contents.retire(adapter.content);
        Some(changed(name, &damage))
    }

    fn path(&self, file: &RequestFile, name: &str) -> Result<PathBuf, Fault> {
        let refused =
            |error: StoreError| Fault::new(FaultCode::AdapterRefused, format!("adapter \"{name}\": {error}"));
        if let Some(path) = file.adapters.get(name) {
            // A relative path means the adapters directory, where there is one.
            let path = self.places.directory.as_ref().map_or(path.clone(), |directory| directory.join(path));
            let explained = |error| refused(explain(&path, Expected::ProcessedAdapter, error));
            let real = self.places.roots.resolve(&path).map_err(explained)?;
            return if real.is_dir() { self.resolve_file(&real).map_err(refused) } else { Ok(real) };
        }
        // A name without a path is looked up in a directory, and must not lead out of it.
        self.path_of_name(AdapterName::try_from(name)?.as_str(), name)
    }

    fn path_of_name(&self, plain: &str, name: &str) -> Result<PathBuf, Fault> {
        let refused =
            |error: StoreError| Fault::new(FaultCode::AdapterRefused, format!("adapter \"{name}\": {error}"));
        let unknown = |place: &str| {
            Fault::new(
                FaultCode::UnknownAdapter,
                format!("adapter \"{name}\" is not in available_lora_weights{place}"),
            )
        };
        let Some(directory) = &self.places.directory else { return Err(unknown("")) };
        match candidates(directory, plain).into_iter().find(|path| path.exists()) {
            Some(path) => self.places.roots.resolve(&path).map_err(refused),
            None => Err(unknown(&format!(" and not in {}", directory.display()))),
        }
    }

    /// A directory as process-lora writes it stands for the file in it.
    fn resolve_file(&self, directory: &Path) -> Result<PathBuf, StoreError> {
        let found = self.places.roots.resolve(&directory.join(PROCESSED_WEIGHTS_FILE));
        found.map_err(|error| explain(directory, Expected::ProcessedAdapter, error))
    }
}

/// The files that a plain name in the adapters directory may mean; the first that is there is it.
pub fn candidates(directory: &Path, plain: &str) -> [PathBuf; 2] {
    [directory.join(format!("{plain}.safetensors")), directory.join(plain).join(PROCESSED_WEIGHTS_FILE)]
}

fn changed(name: &str, what: &impl std::fmt::Display) -> Fault {
    let message =
        format!("adapter \"{name}\": {what}; write the new file beside it and rename it onto this one");
    Fault::new(FaultCode::AdapterChanged, message)
}
