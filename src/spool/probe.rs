//! Where a test looks at every change of the disk, fails it, or ends the world. In a build it is nothing.

use std::ffi::OsStr;
use std::fs::File;

use super::place::Place;

#[cfg(test)]
pub use active::{Probe, Site};
#[cfg(not(test))]
pub use idle::Probe;

/// A change that was made.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(test), expect(dead_code, reason = "only tests look at it"))]
pub enum Change<'a> {
    Create { place: Place, name: &'a OsStr, file: &'a File },
    Write { file: &'a File, bytes: &'a [u8] },
    Truncate { file: &'a File, n_bytes: u64 },
    SyncFile { file: &'a File },
    SyncDir { place: Place },
    Rename { from: (Place, &'a OsStr), to: (Place, &'a OsStr) },
    Remove { place: Place, name: &'a OsStr },
}

#[cfg(not(test))]
mod idle {
    use std::io;
    use std::panic::Location;

    use super::{Change, Place};

    /// Does nothing.
    #[derive(Debug, Default)]
    pub struct Probe(());

    impl Probe {
        #[inline]
        pub fn step(&self) -> io::Result<()> {
            Ok(())
        }

        #[inline]
        pub fn did(&self, _: Change) {}

        #[inline]
        pub fn is_left_out(&self, _: &'static Location, _: Option<Place>) -> bool {
            false
        }
    }
}

#[cfg(test)]
mod active {
    use std::io;
    use std::panic::Location;
    use std::sync::{Arc, Mutex};

    use super::{Change, Place};

    /// Ends the world after a number of steps, tells a listener of each change, and leaves a sync out.
    #[derive(Default)]
    pub struct Probe(Mutex<State>);

    type Listener = Arc<dyn Fn(Change) + Send + Sync>;

    #[derive(Default)]
    struct State {
        n_taken: usize,
        burns: Vec<Burn>,
        listener: Option<Listener>,
        left_out: Option<Site>,
        sites: Vec<Site>,
    }

    /// File and line of a call that syncs, and the directory that it syncs.
    pub type Site = (&'static str, u32, Option<Place>);

    #[derive(Debug, Clone, Copy)]
    struct Burn {
        at: usize,
        n_failing: usize,
        errno: i32,
    }

    impl std::fmt::Debug for Probe {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("Probe")
        }
    }

    impl Probe {
        /// From now on, `n_good` steps succeed, then `n_failing` fail with `errno`. May be called again for
        /// further failures, all counted from their call.
        pub fn set(&self, n_good: usize, n_failing: usize, errno: i32) {
            let mut state = self.0.lock().unwrap();
            let at = state.n_taken + n_good;
            state.burns.push(Burn { at, n_failing, errno });
        }

        /// Tells `listener` of every change from now on; the sync at `left_out` is not made.
        pub fn listen(&self, listener: Listener, left_out: Option<Site>) {
            let mut state = self.0.lock().unwrap();
            (state.listener, state.left_out) = (Some(listener), left_out);
        }

        pub fn n_taken(&self) -> usize {
            self.0.lock().unwrap().n_taken
        }

        /// The calls that synced so far, or would have.
        pub fn sites(&self) -> Vec<Site> {
            self.0.lock().unwrap().sites.clone()
        }

        pub fn step(&self) -> io::Result<()> {
            let mut state = self.0.lock().unwrap();
            let step = state.n_taken;
            state.n_taken += 1;
            let burning = state.burns.iter().find(|burn| step >= burn.at && step - burn.at < burn.n_failing);
            burning.map_or(Ok(()), |burn| Err(io::Error::from_raw_os_error(burn.errno)))
        }

        pub fn did(&self, change: Change) {
            let listener = self.0.lock().unwrap().listener.clone();
            if let Some(listener) = listener {
                listener(change);
            }
        }

        pub fn is_left_out(&self, caller: &'static Location, place: Option<Place>) -> bool {
            let mut state = self.0.lock().unwrap();
            let site = (caller.file(), caller.line(), place);
            if !state.sites.contains(&site) {
                state.sites.push(site);
            }
            state.left_out == Some(site)
        }
    }
}
