//! NVRTC: the compiler of kernels, a library that only whoever builds engines needs. It is loaded when asked for.

use std::ffi::{CStr, CString, OsString, c_char, c_int, c_void};
use std::fmt;
use std::path::{Path, PathBuf};
use std::ptr;
use std::str::FromStr;

use libloading::Library;

/// A generation of devices, as compilers name it: `sm_87`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Architecture(pub u32);

/// The loaded library.
pub struct Compiler {
    library: Library,
    /// What the library loads by itself, brought in from beside it.
    _builtins: Vec<Library>,
    path: PathBuf,
}

/// Why there are no cubins.
#[derive(Debug, thiserror::Error)]
pub enum CompilerError {
    #[error("{} is not a library of NVRTC: {why}", path.display())]
    Library { path: PathBuf, why: String },
    #[error("{} knows no {wanted}; it compiles for {known}", path.display())]
    Architecture { path: PathBuf, wanted: Architecture, known: String },
    #[error("NVRTC: {call} failed with {code}\n{log}")]
    Compile { call: &'static str, code: c_int, log: String },
}

/// Where the library is, if nobody says: a CUDA toolkit's and the system's places.
const NAMES: [&str; 5] = [
    "libnvrtc.so",
    "libnvrtc.so.13",
    "libnvrtc.so.12",
    "/usr/local/cuda/lib64/libnvrtc.so",
    "/usr/local/cuda/targets/aarch64-linux/lib/libnvrtc.so",
];

/// `nvrtcProgram`
type Program = *mut c_void;

impl Compiler {
    /// Loads the library at that path, or the first that is found where toolkits put it; none where there is none.
    ///
    /// # Errors
    /// [`CompilerError::Library`] when the file that is named cannot be loaded.
    pub fn open(path: Option<&Path>) -> Result<Option<Self>, CompilerError> {
        match path {
            Some(path) => Self::load(path).map(Some),
            None => Ok(NAMES.iter().find_map(|name| Self::load(Path::new(name)).ok())),
        }
    }

    fn load(path: &Path) -> Result<Self, CompilerError> {
        let builtins = path.parent().map(builtins_beside).unwrap_or_default();
        // SAFETY: loading a library runs its initializers; who names it, or installed it, wants that.
        let loaded: Result<Vec<Library>, _> =
            builtins.iter().map(|path| unsafe { Library::new(path) }).collect();
        let wrong =
            |why: libloading::Error| CompilerError::Library { path: path.to_owned(), why: why.to_string() };
        let (builtins, library) =
            loaded.and_then(|builtins| Ok((builtins, unsafe { Library::new(path)? }))).map_err(wrong)?;
        let compiler = Self { library, _builtins: builtins, path: path.to_owned() };
        compiler
            .symbol::<unsafe extern "C" fn(*mut c_int) -> c_int>("nvrtcGetNumSupportedArchs")
            .map_err(wrong)?;
        Ok(compiler)
    }

    /// # Errors
    /// When the library has no function of that name.
    fn symbol<T>(&self, name: &'static str) -> Result<libloading::Symbol<'_, T>, libloading::Error> {
        // SAFETY: whoever calls it names the type of nvrtc.h.
        unsafe { self.library.get(name.as_bytes()) }
    }

    fn call<T>(
        &self,
        name: &'static str,
        call: impl FnOnce(libloading::Symbol<'_, T>) -> c_int,
    ) -> Result<(), CompilerError> {
        let symbol = self
            .symbol(name)
            .map_err(|why| CompilerError::Library { path: self.path.clone(), why: why.to_string() })?;
        match call(symbol) {
            0 => Ok(()),
            code => Err(CompilerError::Compile { call: name, code, log: String::new() }),
        }
    }

    /// What it compiles for, rising.
    ///
    /// # Errors
    /// [`CompilerError`]
    pub fn architectures(&self) -> Result<Vec<Architecture>, CompilerError> {
        type Ask = unsafe extern "C" fn(*mut c_int) -> c_int;
        let mut n = 0;
        // SAFETY: the pointer is to a variable that lives until the call returns.
        self.call::<Ask>("nvrtcGetNumSupportedArchs", |ask| unsafe { ask(&raw mut n) })?;
        let mut numbers = vec![0; usize::try_from(n).unwrap_or(0)];
        // SAFETY: there is room for as many as it said.
        self.call::<Ask>("nvrtcGetSupportedArchs", |ask| unsafe { ask(numbers.as_mut_ptr()) })?;
        Ok(numbers.into_iter().filter_map(|number| u32::try_from(number).ok().map(Architecture)).collect())
    }

    /// The cubin of a text, which may include `header` (name, text). Products are fused where the text says so and
    /// nowhere else.
    ///
    /// # Errors
    /// [`CompilerError`], with what the compiler says of the text.
    pub fn cubin(
        &self,
        source: &str,
        header: (&str, &str),
        architecture: Architecture,
    ) -> Result<Vec<u8>, CompilerError> {
        type Create = unsafe extern "C" fn(
            *mut Program,
            *const c_char,
            *const c_char,
            c_int,
            *const *const c_char,
            *const *const c_char,
        ) -> c_int;
        type Compile = unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int;
        type Destroy = unsafe extern "C" fn(*mut Program) -> c_int;
        let known = self.architectures()?;
        if !known.contains(&architecture) {
            let known = known.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
            return Err(CompilerError::Architecture { path: self.path.clone(), wanted: architecture, known });
        }
        let text = |text: &str| CString::new(text).unwrap_or_default();
        let (source, name, file, header) =
            (text(source), text("jetspool.cu"), text(header.0), text(header.1));
        let options = [
            format!("-arch={architecture}"),
            "--std=c++17".into(),
            "-default-device".into(),
            "--fmad=false".into(),
        ]
        .map(|option| text(&option));
        let mut program = ptr::null_mut();
        // SAFETY: all texts live until the call returns; it copies them.
        self.call::<Create>("nvrtcCreateProgram", |create| unsafe {
            let (headers, files) = ([header.as_ptr()], [file.as_ptr()]);
            create(&raw mut program, source.as_ptr(), name.as_ptr(), 1, headers.as_ptr(), files.as_ptr())
        })?;
        let options = options.each_ref().map(|option| option.as_ptr());
        let n_options = c_int::try_from(options.len()).expect("they stand above");
        // SAFETY: as above.
        let compiled = self.call::<Compile>("nvrtcCompileProgram", |compile| unsafe {
            compile(program, n_options, options.as_ptr())
        });
        let cubin = match compiled {
            Ok(()) => self.bytes_of(program, "nvrtcGetCUBINSize", "nvrtcGetCUBIN"),
            Err(CompilerError::Compile { call, code, .. }) => {
                let log = self.bytes_of(program, "nvrtcGetProgramLogSize", "nvrtcGetProgramLog")?;
                let log = CStr::from_bytes_until_nul(&log).unwrap_or_default().to_string_lossy().into_owned();
                Err(CompilerError::Compile { call, code, log })
            }
            Err(error) => Err(error),
        };
        // SAFETY: made above, and not used any more.
        self.call::<Destroy>("nvrtcDestroyProgram", |destroy| unsafe { destroy(&raw mut program) })?;
        cubin
    }

    /// What a program has, by the functions that tell how much and what.
    fn bytes_of(
        &self,
        program: Program,
        size: &'static str,
        get: &'static str,
    ) -> Result<Vec<u8>, CompilerError> {
        type Size = unsafe extern "C" fn(Program, *mut usize) -> c_int;
        type Get = unsafe extern "C" fn(Program, *mut c_char) -> c_int;
        let mut n = 0;
        // SAFETY: the pointer is to a variable that lives until the call returns.
        self.call::<Size>(size, |size| unsafe { size(program, &raw mut n) })?;
        let mut bytes = vec![0_u8; n];
        // SAFETY: there is room for as many as it said.
        self.call::<Get>(get, |get| unsafe { get(program, bytes.as_mut_ptr().cast()) })?;
        Ok(bytes)
    }
}

impl FromStr for Architecture {
    type Err = UnknownArchitecture;

    fn from_str(text: &str) -> Result<Self, UnknownArchitecture> {
        let number = text.strip_prefix("sm_").and_then(|number| number.parse().ok());
        number.map(Self).ok_or_else(|| UnknownArchitecture(text.to_owned()))
    }
}

/// Not the name of an architecture.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no architecture; wanted one like sm_87 (Orin) or sm_110 (Thor)")]
pub struct UnknownArchitecture(String);

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sm_{}", self.0)
    }
}

/// Libraries that NVRTC of CUDA 13 does not find by itself.
fn builtins_beside(folder: &Path) -> Vec<PathBuf> {
    let is_builtins = |name: &OsString| {
        let name = name.to_string_lossy();
        name.starts_with("libnvrtc-builtins.so") && !name.contains(".alt.")
    };
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter(|entry| is_builtins(&entry.file_name())).map(|entry| entry.path()).collect()
}
