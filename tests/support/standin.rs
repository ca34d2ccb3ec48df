//! A driver of CUDA that computes on the processor, built by the system's C++ compiler once for each content: see
//! tests/standin/libcuda.cpp.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

const FLAGS: [&str; 8] = [
    "-std=c++17",
    "-O2",
    "-g",
    "-fPIC",
    "-shared",
    "-fvisibility=hidden",
    "-Wl,-soname,libcuda.so",
    "-Wno-parentheses",
];
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The folder to put into `LD_LIBRARY_PATH`. The library has the name that is asked for first, so that a real driver
/// never gets its turn.
pub fn folder() -> PathBuf {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/standin");
    let mut hasher = DefaultHasher::new();
    for name in ["libcuda.cpp", "module.h"] {
        std::fs::read(sources.join(name)).unwrap().hash(&mut hasher);
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("standin-{:016x}", hasher.finish()));
    let library = folder.join("libcuda.so");
    let _turn = ONE_AT_A_TIME.lock();
    if !library.exists() {
        std::fs::create_dir_all(&folder).unwrap();
        // Another process may do the same.
        let mine = folder.join(format!("libcuda.so.{}", std::process::id()));
        let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
        let mut command = Command::new(&compiler);
        command.args(FLAGS).arg("-o").arg(&mine).arg(sources.join("libcuda.cpp")).arg("-ldl");
        let output = command.output().unwrap_or_else(|error| panic!("{compiler}: {error}; apt install g++"));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        std::fs::rename(&mine, &library).unwrap();
    }
    folder
}
