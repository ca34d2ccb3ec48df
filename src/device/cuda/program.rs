//! What a step asks of the device: launches are written down and asked for together when somebody waits for them. A step
//! that is the same as one before becomes a graph, and is asked for by one call from then on.
//!
//! Steps are the same where every kernel, grid and argument is: adapters, positions and blocks are told by tables whose
//! places do not change, so that the steps of a batch that decodes are all the same.

use std::sync::Arc;

use crate::cuda::{Argument, Context, CudaError, Function, Graph, Grid};

/// Graphs that are kept.
const MAX_GRAPHS: usize = 24;

/// A launch that was not asked for yet.
#[derive(Clone, PartialEq)]
pub struct Launch {
    pub kernel: Function,
    pub grid: Grid,
    pub arguments: Vec<Argument>,
}

impl Launch {
    fn ask(&self) -> Result<(), CudaError> {
        // SAFETY: whoever wrote it down promised so, and frees nothing before it was asked for.
        unsafe { self.kernel.launch(self.grid, &self.arguments) }
    }
}

/// The launches of the step under way, and the graphs of steps before.
#[derive(Default)]
pub struct Program {
    pending: Vec<Launch>,
    /// What the step before asked for, where it was no graph.
    last: Vec<Launch>,
    /// The one that was used last at the end.
    graphs: Vec<(Vec<Launch>, Graph)>,
}

impl Program {
    pub fn push(&mut self, launch: Launch) {
        self.pending.push(launch);
    }

    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Asks for what was written down, one by one.
    ///
    /// # Errors
    /// [`CudaError`] of the first launch that is refused.
    pub fn flush(&mut self) -> Result<(), CudaError> {
        std::mem::take(&mut self.pending).iter().try_for_each(Launch::ask)
    }

    /// The same as a graph, where the step was seen before.
    ///
    /// # Errors
    /// As [`Program::flush`].
    pub fn run(&mut self, context: &Arc<Context>) -> Result<(), CudaError> {
        if let Some(found) = self.graphs.iter().rposition(|(launches, _)| *launches == self.pending) {
            self.pending.clear();
            let found = self.graphs.remove(found);
            let asked = found.1.launch();
            self.graphs.push(found);
            return asked;
        }
        if self.last != self.pending {
            self.last.clone_from(&self.pending);
            return self.flush();
        }
        let launches = std::mem::take(&mut self.pending);
        self.last.clear();
        let graph = Graph::capture(context, || launches.iter().try_for_each(Launch::ask))?;
        let asked = graph.launch();
        if self.graphs.len() == MAX_GRAPHS {
            self.graphs.remove(0);
        }
        self.graphs.push((launches, graph));
        asked
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}
