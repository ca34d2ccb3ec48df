//! What a step asks of the device: operations are written down and asked for together when somebody waits for them, as the
//! launches that [`super::fuse`] makes of them. A step that is the same as one before becomes a graph, and is asked for by
//! one call from then on.
//!
//! Steps are the same where every operation is, with its sizes and addresses: adapters, positions and blocks are told by
//! tables whose places do not change, so that the steps of a batch that decodes are all the same.

use std::sync::Arc;

use super::fuse::launches;
use super::kernels::Kernels;
use super::operation::Operation;
use super::tuning::Tuning;
use crate::cuda::{Context, CudaError, Graph};

/// Graphs that are kept.
const MAX_GRAPHS: usize = 24;

/// How operations become launches.
pub struct Means<'a> {
    pub context: &'a Arc<Context>,
    pub kernels: &'a Kernels,
    pub tuning: &'a Tuning,
}

impl Means<'_> {
    fn ask(&self, operations: &[Operation]) -> Result<(), CudaError> {
        // SAFETY: whoever wrote them down promised so, and frees nothing before it was asked for.
        launches(operations, self.kernels, self.tuning).iter().try_for_each(|launch| unsafe { launch.ask() })
    }
}

/// The operations of the step under way, and the graphs of steps before.
#[derive(Default)]
pub struct Program {
    pending: Vec<Operation>,
    /// What the step before asked for, where it was no graph.
    last: Vec<Operation>,
    /// The one that was used last at the end.
    graphs: Vec<(Vec<Operation>, Graph)>,
}

impl Program {
    pub fn push(&mut self, operation: Operation) {
        self.pending.push(operation);
    }

    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// What the step before asked for, where it was no graph.
    pub fn last(&self) -> &[Operation] {
        &self.last
    }

    /// Asks for what was written down.
    ///
    /// # Errors
    /// [`CudaError`] of the first launch that is refused.
    pub fn flush(&mut self, means: &Means<'_>) -> Result<(), CudaError> {
        means.ask(&std::mem::take(&mut self.pending))
    }

    /// The same as a graph, where the step was seen before.
    ///
    /// # Errors
    /// As [`Program::flush`].
    pub fn run(&mut self, means: &Means<'_>) -> Result<(), CudaError> {
        if let Some(found) = self.graphs.iter().rposition(|(operations, _)| *operations == self.pending) {
            self.pending.clear();
            let found = self.graphs.remove(found);
            let asked = found.1.launch();
            self.graphs.push(found);
            return asked;
        }
        if self.last != self.pending {
            self.last.clone_from(&self.pending);
            return self.flush(means);
        }
        let operations = std::mem::take(&mut self.pending);
        self.last.clear();
        let graph = Graph::capture(means.context, || means.ask(&operations))?;
        let asked = graph.launch();
        if self.graphs.len() == MAX_GRAPHS {
            self.graphs.remove(0);
        }
        self.graphs.push((operations, graph));
        asked
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}
