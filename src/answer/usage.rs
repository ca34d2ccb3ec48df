//! What this process uses of the machine's memory, as the system counts it (proc(5), smaps_rollup).

use std::io;

const FILE: &str = "/proc/self/smaps_rollup";

/// Memory of this process, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// All pages that are mapped in.
    pub rss: u64,
    /// Of them, pages of files and shared memory: weights, adapters. The system takes clean ones back by itself.
    pub file_backed: u64,
    /// Of them, pages that only this process has: keys and values, activations, the heap.
    pub anonymous: u64,
    /// Private pages that were moved to swap.
    pub swap: u64,
}

impl Usage {
    /// Asks the system; it walks all page tables, which takes some milliseconds for a large engine.
    ///
    /// # Errors
    /// The system's, and one of kind `InvalidData` when the file does not say all figures.
    pub fn read() -> io::Result<Self> {
        let text = std::fs::read_to_string(FILE)?;
        Self::parse(&text).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("{FILE} lacks Rss, Anonymous or Swap"))
        })
    }

    /// The figures for a log.
    pub fn in_words(&self) -> String {
        let [file_backed, anonymous] = [self.file_backed, self.anonymous].map(mib);
        format!("{file_backed} of files, {anonymous} private")
    }

    fn parse(text: &str) -> Option<Self> {
        let bytes = |key: &str| {
            let rest = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
            rest.trim().strip_suffix("kB")?.trim_end().parse::<u64>().ok()?.checked_mul(1024)
        };
        let (rss, anonymous) = (bytes("Rss")?, bytes("Anonymous")?);
        Some(Self { rss, file_backed: rss.saturating_sub(anonymous), anonymous, swap: bytes("Swap")? })
    }
}

/// Gives the heap's free pages back to the system.
pub fn give_back_heap() {
    // Other C libraries have no such call, and keep less.
    #[cfg(target_env = "gnu")]
    // SAFETY: the allocator takes its own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Bytes for a person.
pub fn mib(n_bytes: u64) -> String {
    format!("{:.1} MiB", n_bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_rollup() {
        let text = "55d0-7ffd ---p 00000000 00:00 0    [rollup]\nRss:     9000 kB\nPss:   8000 kB\n\
                    AnonHugePages:      0 kB\nAnonymous:       1000 kB\nSwap:         24 kB\nSwapPss:   7 kB\n";
        let wanted =
            Usage { rss: 9000 << 10, file_backed: 8000 << 10, anonymous: 1000 << 10, swap: 24 << 10 };
        assert_eq!(Usage::parse(text), Some(wanted));
        assert_eq!(Usage::parse("Rss: 1 kB\nAnonymous: 1 kB\n"), None);
        assert_eq!(Usage::parse("Rss: many kB\nAnonymous: 1 kB\nSwap: 0 kB\n"), None);
    }

    #[test]
    fn sees_private_and_file_pages_apart() {
        const SIZE: usize = 32 << 20;
        let before = Usage::read().unwrap();
        let private = vec![1u8; SIZE];
        let with_private = Usage::read().unwrap();
        let file = tempfile::tempfile().unwrap();
        file.set_len(SIZE as u64).unwrap();
        // SAFETY: nobody else knows the file.
        let map = unsafe { memmap2::Mmap::map(&file) }.unwrap();
        let sum: usize =
            map.iter().step_by(4096).chain(private.iter().step_by(4096)).map(|&b| b as usize).sum();
        let with_file = Usage::read().unwrap();
        assert_eq!(sum, SIZE / 4096);
        // Other tests of this program come and go meanwhile: half of the size is enough to tell.
        let half = (SIZE / 2) as u64;
        assert!(with_private.anonymous > before.anonymous + half, "{before:?} {with_private:?}");
        assert!(with_file.file_backed > with_private.file_backed + half, "{with_private:?} {with_file:?}");
    }
}
