//! Runs a program and stops at each system call of its main thread: to look, to kill, or to let the call fail
//! without being made. ptrace(2) for x86-64 and aarch64; it does not work on an emulated processor.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::io;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::ptr::null_mut;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

/// A program that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Go,
    /// The program is killed and the call is not made.
    Kill,
    /// The call is not made and returns this errno.
    Fail(i32),
}

/// How the program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Exited(i32),
    Killed,
}

/// A system call that is about to be made.
pub struct Call {
    pub number: i64,
    pub args: [u64; 6],
    pid: Pid,
}

impl Call {
    /// Where a descriptor leads.
    pub fn fd(&self, arg_idx: usize) -> Option<PathBuf> {
        std::fs::read_link(self.fd_link(arg_idx)).ok()
    }

    /// The path in `/proc` that opens the same file as a descriptor.
    pub fn fd_link(&self, arg_idx: usize) -> PathBuf {
        format!("/proc/{}/fd/{}", self.pid, self.args[arg_idx] as i32).into()
    }

    /// The text that an argument points to.
    pub fn text(&self, arg_idx: usize) -> Option<Vec<u8>> {
        let memory = std::fs::File::open(format!("/proc/{}/mem", self.pid)).ok()?;
        let mut bytes = [0; 512];
        let n = memory.read_at(&mut bytes, self.args[arg_idx]).ok()?;
        let end = bytes[..n].iter().position(|&byte| byte == 0)?;
        Some(bytes[..end].to_vec())
    }
}

/// Runs the program and asks about every call of its main thread.
#[allow(clippy::zombie_processes, reason = "`follow` waits for it by its id")]
pub fn trace(command: &mut Command, mut on_call: impl FnMut(&Call) -> Verdict) -> End {
    // SAFETY: between fork and exec, one call that is safe there.
    unsafe {
        command.pre_exec(|| match libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
    let child = command.spawn().unwrap();
    let pid = Pid::from_raw(child.id() as i32);
    let (over, watched) = channel::<()>();
    let watchdog = std::thread::spawn(move || {
        let hangs = watched.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout);
        if hangs {
            let _ = kill(pid, Signal::SIGKILL);
        }
        hangs
    });
    let end = follow(pid, &mut on_call);
    drop(over);
    assert!(!watchdog.join().unwrap(), "the program hangs");
    end
}

fn follow(pid: Pid, on_call: &mut impl FnMut(&Call) -> Verdict) -> End {
    let first = waitpid(pid, None).unwrap();
    assert!(matches!(first, WaitStatus::Stopped(_, Signal::SIGTRAP)), "{first:?}");
    let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_EXITKILL;
    request(libc::PTRACE_SETOPTIONS, pid, options as usize);
    let (mut is_entry, mut failure, mut signal) = (true, None, 0);
    loop {
        request(libc::PTRACE_SYSCALL, pid, signal as usize);
        signal = 0;
        match waitpid(pid, None).unwrap() {
            WaitStatus::Exited(_, code) => return End::Exited(code),
            WaitStatus::Signaled(..) => return End::Killed,
            WaitStatus::PtraceSyscall(_) => {}
            WaitStatus::Stopped(_, other) => {
                signal = other as i32;
                continue;
            }
            other => panic!("{other:?}"),
        }
        if is_entry {
            match on_call(&entered(pid)) {
                Verdict::Go => {}
                Verdict::Fail(errno) => {
                    machine::skip_call(pid);
                    failure = Some(errno);
                }
                Verdict::Kill => {
                    kill(pid, Signal::SIGKILL).unwrap();
                    waitpid(pid, None).unwrap();
                    return End::Killed;
                }
            }
        } else if let Some(errno) = failure.take() {
            machine::set_result(pid, -i64::from(errno));
        }
        is_entry = !is_entry;
    }
}

fn entered(pid: Pid) -> Call {
    // SAFETY: plain numbers; all zero is a value.
    let mut info: libc::ptrace_syscall_info = unsafe { std::mem::zeroed() };
    let size = size_of_val(&info);
    // SAFETY: the kernel writes at most `size` bytes to `info`.
    let n = unsafe { libc::ptrace(libc::PTRACE_GET_SYSCALL_INFO, pid.as_raw(), size, &raw mut info) };
    assert!(n > 0, "{}", io::Error::last_os_error());
    assert_eq!(info.op, libc::PTRACE_SYSCALL_INFO_ENTRY);
    // SAFETY: `op` says that it is this member.
    let entry = unsafe { info.u.entry };
    Call { number: entry.nr as i64, args: entry.args, pid }
}

fn request(what: libc::c_uint, pid: Pid, data: usize) {
    // SAFETY: requests that take a number and touch no memory of ours.
    let result = unsafe { libc::ptrace(what, pid.as_raw(), null_mut::<libc::c_void>(), data) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
}

#[cfg(target_arch = "x86_64")]
mod machine {
    use std::mem::offset_of;

    use super::*;

    pub fn skip_call(pid: Pid) {
        set_register(pid, offset_of!(libc::user_regs_struct, orig_rax), -1);
    }

    pub fn set_result(pid: Pid, value: i64) {
        set_register(pid, offset_of!(libc::user_regs_struct, rax), value);
    }

    fn set_register(pid: Pid, offset: usize, value: i64) {
        // SAFETY: changes a register of the stopped program, no memory of ours.
        let result = unsafe { libc::ptrace(libc::PTRACE_POKEUSER, pid.as_raw(), offset, value) };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
    }
}

#[cfg(target_arch = "aarch64")]
mod machine {
    use super::*;

    const NT_PRSTATUS: usize = 1;
    const NT_ARM_SYSTEM_CALL: usize = 0x404;

    pub fn skip_call(pid: Pid) {
        registers(libc::PTRACE_SETREGSET, pid, NT_ARM_SYSTEM_CALL, &mut -1_i32);
    }

    pub fn set_result(pid: Pid, value: i64) {
        // SAFETY: plain numbers; all zero is a value.
        let mut all: libc::user_regs_struct = unsafe { std::mem::zeroed() };
        registers(libc::PTRACE_GETREGSET, pid, NT_PRSTATUS, &mut all);
        all.regs[0] = value as u64;
        registers(libc::PTRACE_SETREGSET, pid, NT_PRSTATUS, &mut all);
    }

    fn registers<T>(what: libc::c_uint, pid: Pid, set: usize, value: &mut T) {
        let mut place = libc::iovec { iov_base: std::ptr::from_mut(value).cast(), iov_len: size_of::<T>() };
        // SAFETY: `place` says how many bytes of `value` may be used.
        let result = unsafe { libc::ptrace(what, pid.as_raw(), set, &raw mut place) };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
    }
}
