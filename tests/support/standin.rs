//! A driver of CUDA that computes on the processor, and kernels for it, built by the system's C++ compiler once for each
//! content: see tests/standin/libcuda.cpp and cucpu.h.

use std::ffi::CString;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, Once};

const FLAGS: [&str; 10] = [
    "-std=c++17",
    // As the kernels are compiled for a device: products are fused where they say so.
    "-ffp-contract=off",
    "-O2",
    "-g",
    "-fPIC",
    "-shared",
    "-fvisibility=hidden",
    "-fno-gnu-unique",
    "-Wno-psabi",
    "-Wno-parentheses",
];
/// Of kernels where [`SANITIZER`] says so. Shared memory is a section of its own, whose variables have margins too.
const SANITIZED: [&str; 3] =
    ["-fsanitize=address,alignment", "-fsanitize-sections=cucpu_shared", "-fno-sanitize-recover=alignment"];
/// A variable: `address` has the kernels watched by AddressSanitizer, whose library must then be preloaded (scripts/check).
const SANITIZER: &str = "JETSPOOL_TEST_SANITIZER";
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/standin")
}

/// What the compiler makes of a text that includes these files; in a folder that is named after all of it.
fn build(name: &str, text: &str, files: &[PathBuf], flags: &[&str]) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    (text, flags).hash(&mut hasher);
    files.iter().for_each(|file| std::fs::read(file).unwrap().hash(&mut hasher));
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("standin-{:016x}", hasher.finish()));
    let library = folder.join(name);
    let _turn = ONE_AT_A_TIME.lock();
    if !library.exists() {
        std::fs::create_dir_all(&folder).unwrap();
        // Another process may do the same.
        let mine = folder.join(format!("{name}.{}", std::process::id()));
        let source = mine.with_extension("cpp");
        std::fs::write(&source, text).unwrap();
        let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
        let mut command = Command::new(&compiler);
        command.args(FLAGS).args(flags).arg(format!("-I{}", sources().display()));
        command.arg("-o").arg(&mine).arg(&source).arg("-ldl");
        let output = command.output().unwrap_or_else(|error| panic!("{compiler}: {error}; apt install g++"));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        std::fs::rename(&mine, &library).unwrap();
    }
    library
}

/// The driver. Its name is the one that is asked for first, so that a real one never gets its turn.
fn driver() -> PathBuf {
    let files = ["libcuda.cpp", "module.h"].map(|name| sources().join(name));
    let text = "#include \"libcuda.cpp\"\n";
    build("libcuda.so", text, &files, &["-Wl,-soname,libcuda.so"])
}

/// The folder of the driver, for `LD_LIBRARY_PATH`.
pub fn folder() -> PathBuf {
    driver().parent().unwrap().to_owned()
}

/// Brings the driver into this process, where it is then found by its name.
pub fn load() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let path = CString::new(driver().to_str().unwrap()).unwrap();
        // SAFETY: a library that is never unloaded.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
        assert!(!handle.is_null(), "{path:?} cannot be loaded");
    });
}

/// A .cu file as the driver takes it.
pub fn module(path: &Path) -> Vec<u8> {
    module_of(&std::fs::read_to_string(path).unwrap())
}

/// The same of a text.
pub fn module_of(text: &str) -> Vec<u8> {
    std::fs::read(module_file(text)).unwrap()
}

/// A file with it. Its kernels are found by their declarations, with their bounds of threads.
pub fn module_file(text: &str) -> PathBuf {
    let kernels: Vec<String> = text.split("extern \"C\" __global__ void").skip(1).map(kernel).collect();
    let main = format!("{text}\nCUCPU_MODULE({})\n", kernels.join(" "));
    let headers = ["gpu.h", "cucpu.h", "module.h"].map(|name| sources().join(name));
    let mut flags = vec!["-march=native", "-Wl,-z,start-stop-visibility=hidden"];
    if std::env::var(SANITIZER).is_ok_and(|name| name == "address") {
        flags.extend(SANITIZED);
    }
    build("module.so", &main, &headers, &flags)
}

/// A compiler of kernels whose cubin is the file that the variable `CUCPU_CUBIN` names.
pub fn compiler() -> PathBuf {
    build("libnvrtc.so", "#include \"libnvrtc.cpp\"\n", &[sources().join("libnvrtc.cpp")], &[])
}

/// A kernel's line in the table of its module: `declaration` is what follows `void`.
fn kernel(declaration: &str) -> String {
    let bounds = declaration.trim_start().strip_prefix("__launch_bounds__(");
    let (bound, rest) = bounds.map_or(("0", declaration), |rest| rest.split_once(')').unwrap());
    let name = rest.split('(').next().unwrap().trim();
    format!("CUCPU_KERNEL({name}, {})", bound.split(',').next().unwrap())
}
