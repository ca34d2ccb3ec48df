//! Maps that break under their readers. A page of a mapped file that cannot be had any more (the file was cut
//! short, the disk failed) is SIGBUS to whoever touches it. The handler puts zeros in the place of the whole map
//! and marks it, so that the reader goes on and finds the mark afterwards, as systemd's journald does it.
//!
//! All that the handler knows is a table of the live maps, which only grows. It takes no lock and allocates
//! nothing: a slot that is being changed has an odd version and is passed over, for the map that broke is not
//! the one that is just being made or dropped.

use std::ffi::c_void;
use std::os::raw::c_int;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicUsize, Ordering, fence};
use std::sync::{Mutex, Once, PoisonError};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use super::StoreError;

/// Maps in one piece of the table.
const PIECE: usize = 64;

/// The handler's view of the process; the one global of the program, because a signal has no other way to it.
static TABLE: Piece = Piece::new();
/// Who registers and frees maps; not the handler.
static CHANGES: Mutex<()> = Mutex::new(());
static HANDLER: Once = Once::new();
/// Maps that broke so far.
static N_BROKEN: AtomicUsize = AtomicUsize::new(0);

/// What happened to a mapped file while it was in use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// Zeros were read where pages were missing.
    #[error("{} lost pages while it was in use: it was cut short, or the disk failed", path.display())]
    Lost { path: PathBuf },
    /// Old and new bytes may have been read together.
    #[error("{} was written into while it was in use", path.display())]
    Written { path: PathBuf },
}

/// A range of addresses whose loss is noticed, until it is dropped.
pub(super) struct Guarded {
    slot: &'static Slot,
}

/// How many maps of this process were broken at a moment: for commands that read many files and write one result.
#[derive(Debug, Clone, Copy)]
pub struct Losses(usize);

struct Piece {
    slots: [Slot; PIECE],
    next: AtomicPtr<Piece>,
}

struct Slot {
    /// Odd while the two below are changed.
    version: AtomicU32,
    start: AtomicUsize,
    /// 0 where the slot is free.
    len: AtomicUsize,
    is_broken: AtomicBool,
    /// Of the last map in this slot; not read by the handler.
    path: Mutex<PathBuf>,
}

impl Guarded {
    /// Guards a map, which the caller unmaps only after dropping this.
    pub fn new(map: &[u8], path: &Path) -> Self {
        HANDLER.call_once(install);
        let _changes = CHANGES.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = free_slot();
        slot.is_broken.store(false, Ordering::Relaxed);
        path.clone_into(&mut slot.path.lock().unwrap_or_else(PoisonError::into_inner));
        slot.set(map.as_ptr() as usize, map.len());
        Self { slot }
    }

    pub fn is_broken(&self) -> bool {
        self.slot.is_broken.load(Ordering::Acquire)
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        let _changes = CHANGES.lock().unwrap_or_else(PoisonError::into_inner);
        self.slot.set(0, 0);
    }
}

impl Losses {
    /// What was lost before counts no more.
    pub fn now() -> Self {
        Self(N_BROKEN.load(Ordering::Acquire))
    }

    /// To be asked before a result of mapped files is kept.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] when a map broke since.
    pub fn check(self) -> Result<(), StoreError> {
        if N_BROKEN.load(Ordering::Acquire) == self.0 {
            return Ok(());
        }
        let broken =
            pieces().flat_map(|piece| &piece.slots).find(|slot| slot.is_broken.load(Ordering::Acquire));
        let path = |slot: &Slot| slot.path.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Err(Damage::Lost { path: broken.map_or_else(|| "an input file".into(), path) }.into())
    }
}

impl Piece {
    const fn new() -> Self {
        Self { slots: [const { Slot::new() }; PIECE], next: AtomicPtr::new(std::ptr::null_mut()) }
    }

    fn next(&self) -> Option<&'static Piece> {
        // SAFETY: only pieces of Box::leak are stored here, and nobody frees them.
        unsafe { self.next.load(Ordering::Acquire).as_ref() }
    }
}

impl Slot {
    const fn new() -> Self {
        Self {
            version: AtomicU32::new(0),
            start: AtomicUsize::new(0),
            len: AtomicUsize::new(0),
            is_broken: AtomicBool::new(false),
            path: Mutex::new(PathBuf::new()),
        }
    }

    /// By one thread at a time.
    fn set(&self, start: usize, len: usize) {
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        self.start.store(start, Ordering::Relaxed);
        self.len.store(len, Ordering::Relaxed);
        self.version.store(version.wrapping_add(2), Ordering::Release);
    }

    /// The map in this slot, start and length, if the address lies in it.
    fn around(&self, address: usize) -> Option<(usize, usize)> {
        let version = self.version.load(Ordering::Acquire);
        let (start, len) = (self.start.load(Ordering::Relaxed), self.len.load(Ordering::Relaxed));
        fence(Ordering::Acquire);
        let is_whole = version.is_multiple_of(2) && self.version.load(Ordering::Relaxed) == version;
        (is_whole && address.wrapping_sub(start) < len).then_some((start, len))
    }
}

fn pieces() -> impl Iterator<Item = &'static Piece> {
    std::iter::successors(Some(&TABLE), |piece| piece.next())
}

/// The first free slot, in a new piece if need be. The caller holds [`CHANGES`].
fn free_slot() -> &'static Slot {
    let mut free =
        pieces().flat_map(|piece| &piece.slots).filter(|slot| slot.len.load(Ordering::Relaxed) == 0);
    if let Some(slot) = free.next() {
        return slot;
    }
    let piece: &'static Piece = Box::leak(Box::new(Piece::new()));
    let last = pieces().last().expect("the first piece is always there");
    last.next.store(std::ptr::from_ref(piece).cast_mut(), Ordering::Release);
    &piece.slots[0]
}

fn install() {
    let action = SigAction::new(
        SigHandler::SigAction(on_bus_error),
        SaFlags::SA_SIGINFO | SaFlags::SA_ONSTACK,
        SigSet::empty(),
    );
    // SAFETY: the handler only loads atomics and makes system calls that signal handlers may make.
    let installed = unsafe { sigaction(Signal::SIGBUS, &action) };
    installed.expect("SIGBUS may be caught, and the action is valid");
    let mut bus = SigSet::empty();
    bus.add(Signal::SIGBUS);
    // A program that starts this one may have it blocked, and then a broken map ends the process all the same.
    let _ = bus.thread_unblock();
}

/// Mends the map that broke; what lies in no map ends the process as it would have without a handler.
extern "C" fn on_bus_error(_: c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
    // SAFETY: the system passes what it knows of the signal, for SA_SIGINFO is set.
    let (address, code) = unsafe { ((*info).si_addr() as usize, (*info).si_code) };
    let errno = nix::errno::Errno::last_raw();
    // A process that sends the signal gives no address.
    let is_mended = code > 0 && mend(address);
    nix::errno::Errno::set_raw(errno);
    if is_mended {
        return;
    }
    // SAFETY: both calls are allowed in a handler. A fault repeats itself on return, a signal sent does not.
    unsafe {
        libc::signal(libc::SIGBUS, libc::SIG_DFL);
        if code <= 0 {
            libc::raise(libc::SIGBUS);
        }
    }
}

/// Zeros in the place of the map that the address lies in. Of the whole map, so that a long file does not fault
/// once for each of its pages.
fn mend(address: usize) -> bool {
    let mut slots = pieces().flat_map(|piece| &piece.slots);
    let Some((slot, (start, len))) = slots.find_map(|slot| Some((slot, slot.around(address)?))) else {
        return false;
    };
    // Before anybody can read a zero.
    if !slot.is_broken.swap(true, Ordering::AcqRel) {
        N_BROKEN.fetch_add(1, Ordering::AcqRel);
    }
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE;
    // SAFETY: the range is a live map of ours, read only, whose owner cannot unmap it while the thread that
    // faulted reads it; its bytes may change, for the owner looks for the mark before it believes them.
    let zeros = unsafe { libc::mmap(start as *mut c_void, len, libc::PROT_READ, flags, -1, 0) };
    zeros != libc::MAP_FAILED
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_grows_and_slots_are_used_again() {
        let bytes = vec![0_u8; 3 * PIECE];
        let guards: Vec<Guarded> =
            (0..3 * PIECE).map(|at| Guarded::new(&bytes[at..=at], Path::new("x"))).collect();
        let find = |at: usize| {
            let address = &raw const bytes[at] as usize;
            pieces().flat_map(|piece| &piece.slots).find(|slot| slot.around(address).is_some())
        };
        for (at, guard) in guards.iter().enumerate() {
            assert!(find(at).is_some_and(|slot| std::ptr::eq(slot, guard.slot)), "{at}");
        }
        let n_pieces = pieces().count();
        drop(guards);
        assert!((0..3 * PIECE).all(|at| find(at).is_none()));
        let again = Guarded::new(&bytes, Path::new("y"));
        assert!(find(17).is_some_and(|slot| std::ptr::eq(slot, again.slot)));
        assert!(pieces().count() == n_pieces && !again.is_broken());
    }
}
