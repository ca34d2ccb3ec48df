//! AMX where the processor has none: a handler of SIGILL does what each of the instructions that the kernels use would
//! do (Intel, Software Developer's Manual, volume 2). What the processor would refuse ends the program with a message.

pub mod decode;
mod tiles;

use std::cell::RefCell;
use std::sync::Once;

use jetspool::kernels::Kernels;
use jetspool::kernels::x86_64::{Amx, Avx512};

use decode::{RIP, decode};
pub use tiles::Tiles;

thread_local! {
    /// Made without an allocation and left without a destructor: a handler may use it.
    static TILES: RefCell<Tiles> = const { RefCell::new(Tiles::RELEASED) };
}

/// The table of AMX by the emulator. None where the processor has AMX itself, or not even AVX-512.
pub fn emulated() -> Option<Kernels> {
    static INSTALLED: Once = Once::new();
    Avx512::new().filter(|_| Amx::new().is_none())?;
    INSTALLED.call_once(|| {
        // SAFETY: the handler returns to where the processor stopped, or leaves the signal to the system.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handle as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO;
            assert_eq!(libc::sigaction(libc::SIGILL, &raw const action, std::ptr::null_mut()), 0);
        }
    });
    // SAFETY: the processor has AVX-512, and the handler does what the other instructions would.
    Some(Kernels::by_amx(unsafe { Amx::assume() }))
}

extern "C" fn handle(_signal: libc::c_int, _info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the system gives such a context to a handler with SA_SIGINFO.
    let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    // SAFETY: the instruction pointer points at an instruction.
    match unsafe { decode(registers[RIP] as *const u8, registers) } {
        Some((instruction, next)) => {
            // SAFETY: the program gave these addresses to the instruction.
            if let Err(reason) = TILES.with_borrow_mut(|tiles| unsafe { tiles.run(instruction) }) {
                end(reason);
            }
            registers[RIP] = next;
        }
        // Whoever stopped there stops again, without a handler.
        None => unsafe {
            libc::signal(libc::SIGILL, libc::SIG_DFL);
        },
    }
}

/// Ends the program from within a handler.
fn end(reason: &str) -> ! {
    for part in [reason, "\n"] {
        // SAFETY: the bytes are there.
        unsafe { libc::write(libc::STDERR_FILENO, part.as_ptr().cast(), part.len()) };
    }
    std::process::abort()
}
