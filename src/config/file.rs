//! The daemon's configuration, read and checked once.
//!
//! Every key has a default, an unknown key is an error, and an error names file, key, wanted and found.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use toml::{Table, Value};

/// Where `serve` looks without `--config`.
pub const DEFAULT_FILE: &str = "/etc/jetspool/jetspool.toml";
/// Where the spool is without a configuration.
pub const DEFAULT_SPOOL: &str = "/var/spool/jetspool";
/// Threads of one process; more than any machine this is for.
pub const MAX_THREADS: usize = 1024;

/// Limits of the keys for sizes and ages: 1 PiB and 100 years.
const MAX_MIB: usize = 1 << 30;
const MAX_DAYS: usize = 36_500;
/// A larger file is no configuration.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// What the daemon is told. Paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The engine directory.
    pub engine: PathBuf,
    /// The directory with `new/`, `out/` and the others.
    pub spool: PathBuf,
    /// Adapters that requests name without a path.
    pub adapters: Option<PathBuf>,
    /// Adapter paths of requests must lie in one of these; none means that no path is taken.
    pub allowed_roots: Vec<PathBuf>,
    /// 0 means one per processor.
    pub threads: usize,
    /// Tokens that one step computes at most.
    pub max_step_rows: usize,
    /// How long a file that was not renamed in must have been left alone.
    pub settle_ms: usize,
    /// Largest request file.
    pub max_file_mib: usize,
    /// Whether answers and journals are synced to the disk before they count.
    pub fsync: bool,
    /// How long SIGTERM lets requests finish.
    pub drain_seconds: usize,
    /// How often the spool is scanned, whatever the watch says.
    pub scan_seconds: usize,
    /// Starts of a job before it is given up.
    pub max_attempts: usize,
    /// How long the daemon is idle before it gives the weights' memory back; 0 keeps it.
    pub idle_unload_seconds: usize,
    /// The file for node_exporter's textfile collector.
    pub metrics_file: Option<PathBuf>,
    /// Memory that the daemon may plan with; 0 means what the machine has.
    pub memory_mib: usize,
    /// Space that must be free before a file is taken.
    pub min_free_mib: usize,
    /// Limits of age and size of `out/`, `done/` and `failed/`; 0 sets none.
    pub out_max_days: usize,
    pub out_max_mib: usize,
    pub done_max_days: usize,
    pub done_max_mib: usize,
    pub failed_max_days: usize,
    pub failed_max_mib: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            engine: "/var/lib/jetspool/engine".into(),
            spool: DEFAULT_SPOOL.into(),
            adapters: None,
            allowed_roots: Vec::new(),
            threads: 0,
            max_step_rows: 128,
            settle_ms: 1000,
            max_file_mib: 64,
            fsync: true,
            drain_seconds: 30,
            scan_seconds: 10,
            max_attempts: 3,
            idle_unload_seconds: 300,
            metrics_file: None,
            memory_mib: 0,
            min_free_mib: 64,
            out_max_days: 0,
            out_max_mib: 0,
            done_max_days: 30,
            done_max_mib: 1024,
            failed_max_days: 30,
            failed_max_mib: 1024,
        }
    }
}

/// Why there is no configuration. Exit code 78.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read {}: {source}; name the configuration with --config FILE", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{}, line {line}: {message}", path.display())]
    Syntax { path: PathBuf, line: usize, message: String },
    #[error("{}: unknown key {key}; known are {}", path.display(), known.join(", "))]
    UnknownKey { path: PathBuf, key: String, known: &'static [&'static str] },
    #[error("{}: {key}: wanted {wanted}, found {found}", path.display())]
    Value { path: PathBuf, key: &'static str, wanted: String, found: String },
    #[error("environment: {key}: wanted {wanted}, found {found:?}")]
    Environment { key: &'static str, wanted: &'static str, found: String },
}

impl ConfigError {
    /// The exit code of sysexits.h.
    pub fn exit_code(&self) -> u8 {
        78
    }
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`ConfigError`] with the first key that is wrong.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        Self::parse(path, &read_text(path).map_err(|source| ConfigError::Read { path: path.into(), source })?)
    }

    /// Checks the text of a file; `path` is for the messages.
    ///
    /// # Errors
    /// [`ConfigError`] with the first key that is wrong.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let table: Table = text.parse().map_err(|error: toml::de::Error| {
            let start = error.span().map_or(0, |span| span.start);
            let line = 1 + text.as_bytes().iter().take(start).filter(|&&byte| byte == b'\n').count();
            ConfigError::Syntax { path: path.into(), line, message: error.message().replace('\n', ", ") }
        })?;
        let keys = Keys { path, table };
        keys.check_names()?;
        let default = Self::default();
        let adapters = keys.path("adapters")?;
        Ok(Self {
            engine: keys.path("engine")?.unwrap_or(default.engine),
            spool: keys.path("spool")?.unwrap_or(default.spool),
            allowed_roots: match keys.paths("allowed_roots")? {
                Some(roots) => roots,
                None => adapters.iter().cloned().collect(),
            },
            adapters,
            threads: keys.count("threads", [0, MAX_THREADS])?.unwrap_or(default.threads),
            max_step_rows: keys.count("max_step_rows", [1, 65_536])?.unwrap_or(default.max_step_rows),
            settle_ms: keys.count("settle_ms", [0, 3_600_000])?.unwrap_or(default.settle_ms),
            max_file_mib: keys.count("max_file_mib", [1, 4096])?.unwrap_or(default.max_file_mib),
            fsync: keys.switch("fsync")?.unwrap_or(default.fsync),
            drain_seconds: keys.count("drain_seconds", [0, 86_400])?.unwrap_or(default.drain_seconds),
            scan_seconds: keys.count("scan_seconds", [1, 86_400])?.unwrap_or(default.scan_seconds),
            max_attempts: keys.count("max_attempts", [1, 1000])?.unwrap_or(default.max_attempts),
            idle_unload_seconds: keys
                .count("idle_unload_seconds", [0, 31_536_000])?
                .unwrap_or(default.idle_unload_seconds),
            metrics_file: keys.path("metrics_file")?,
            memory_mib: keys.count("memory_mib", [0, 1 << 24])?.unwrap_or(default.memory_mib),
            min_free_mib: keys.count("min_free_mib", [0, MAX_MIB])?.unwrap_or(default.min_free_mib),
            out_max_days: keys.count("out_max_days", [0, MAX_DAYS])?.unwrap_or(default.out_max_days),
            out_max_mib: keys.count("out_max_mib", [0, MAX_MIB])?.unwrap_or(default.out_max_mib),
            done_max_days: keys.count("done_max_days", [0, MAX_DAYS])?.unwrap_or(default.done_max_days),
            done_max_mib: keys.count("done_max_mib", [0, MAX_MIB])?.unwrap_or(default.done_max_mib),
            failed_max_days: keys.count("failed_max_days", [0, MAX_DAYS])?.unwrap_or(default.failed_max_days),
            failed_max_mib: keys.count("failed_max_mib", [0, MAX_MIB])?.unwrap_or(default.failed_max_mib),
        })
    }
}

fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("more than {MAX_FILE_BYTES} bytes")));
    }
    Ok(text)
}

/// Every key, in the order of the default file.
const KNOWN: [&str; 22] = [
    "engine",
    "spool",
    "adapters",
    "allowed_roots",
    "threads",
    "max_step_rows",
    "settle_ms",
    "max_file_mib",
    "fsync",
    "drain_seconds",
    "scan_seconds",
    "max_attempts",
    "idle_unload_seconds",
    "metrics_file",
    "memory_mib",
    "min_free_mib",
    "out_max_days",
    "out_max_mib",
    "done_max_days",
    "done_max_mib",
    "failed_max_days",
    "failed_max_mib",
];

/// The keys of a file, each asked for with what it must be.
struct Keys<'a> {
    path: &'a Path,
    table: Table,
}

impl Keys<'_> {
    fn check_names(&self) -> Result<(), ConfigError> {
        match self.table.keys().find(|key| !KNOWN.contains(&key.as_str())) {
            None => Ok(()),
            Some(key) => {
                let (path, key) = (self.path.into(), key.clone());
                Err(ConfigError::UnknownKey { path, key, known: &KNOWN })
            }
        }
    }

    fn path(&self, key: &'static str) -> Result<Option<PathBuf>, ConfigError> {
        let Some(value) = self.table.get(key) else { return Ok(None) };
        absolute(value).map(Some).ok_or_else(|| self.wrong(key, "an absolute path in quotes", value))
    }

    fn paths(&self, key: &'static str) -> Result<Option<Vec<PathBuf>>, ConfigError> {
        let Some(value) = self.table.get(key) else { return Ok(None) };
        let wanted = "a list of absolute paths in quotes";
        let list = value.as_array().ok_or_else(|| self.wrong(key, wanted, value))?;
        let paths = list.iter().map(|item| absolute(item).ok_or_else(|| self.wrong(key, wanted, item)));
        paths.collect::<Result<_, _>>().map(Some)
    }

    fn count(&self, key: &'static str, [min, max]: [usize; 2]) -> Result<Option<usize>, ConfigError> {
        let Some(value) = self.table.get(key) else { return Ok(None) };
        let number = value.as_integer().and_then(|number| usize::try_from(number).ok());
        match number.filter(|number| (min..=max).contains(number)) {
            Some(number) => Ok(Some(number)),
            None => Err(self.wrong(key, &format!("a whole number from {min} to {max}"), value)),
        }
    }

    fn switch(&self, key: &'static str) -> Result<Option<bool>, ConfigError> {
        let Some(value) = self.table.get(key) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| self.wrong(key, "true or false", value))
    }

    fn wrong(&self, key: &'static str, wanted: &str, found: &Value) -> ConfigError {
        let mut found = found.to_string().replace('\n', " ");
        if found.chars().count() > 80 {
            found = found.chars().take(80).chain("...".chars()).collect();
        }
        ConfigError::Value { path: self.path.into(), key, wanted: wanted.to_owned(), found }
    }
}

fn absolute(value: &Value) -> Option<PathBuf> {
    let text = value.as_str().filter(|text| !text.contains('\0'))?;
    Some(PathBuf::from(text)).filter(|path| path.is_absolute())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULT_TEXT: &str = include_str!("../../systemd/jetspool.toml");

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(Path::new(DEFAULT_FILE), text).map_err(|error| error.to_string())
    }

    #[test]
    fn the_default_file_says_the_defaults() {
        assert_eq!(parse(DEFAULT_TEXT), Ok(Config::default()));
        assert_eq!(parse(""), Ok(Config::default()));
        for key in KNOWN {
            let is_named = DEFAULT_TEXT.lines().any(|line| line.starts_with(&format!("{key} = ")));
            let is_optional = DEFAULT_TEXT.lines().any(|line| line.starts_with(&format!("#{key} = ")));
            assert!(is_named || is_optional, "{key} is missing in systemd/jetspool.toml");
        }
        let all: String = DEFAULT_TEXT.lines().map(|line| format!("{}\n", uncommented(line))).collect();
        let adapters = PathBuf::from("/var/lib/jetspool/adapters");
        let wanted = Config {
            adapters: Some(adapters.clone()),
            allowed_roots: vec![adapters],
            metrics_file: Some("/var/lib/prometheus/node-exporter/jetspool.prom".into()),
            ..Config::default()
        };
        assert_eq!(parse(&all), Ok(wanted));
    }

    /// `#key = value` becomes `key = value`; prose begins with a blank.
    fn uncommented(line: &str) -> &str {
        line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line)
    }

    #[test]
    fn values_are_taken() {
        let config =
            parse("engine = '/e'\nadapters = '/a'\nthreads = 3\nfsync = false\nsettle_ms = 0").unwrap();
        assert_eq!(config.engine, Path::new("/e"));
        assert_eq!(config.allowed_roots, [Path::new("/a")], "the adapters directory is the default root");
        assert_eq!((config.threads, config.fsync, config.settle_ms), (3, false, 0));
        let config = parse("adapters = '/a'\nallowed_roots = []").unwrap();
        assert!(config.allowed_roots.is_empty(), "an empty list closes every path");
    }

    #[test]
    fn every_error_names_key_wanted_and_found() {
        struct Case {
            text: &'static str,
            message: &'static str,
        }
        let cases = [
            Case { text: "engin = '/e'", message: "unknown key engin; known are engine, spool" },
            Case {
                text: "[engine]\npath = '/e'",
                message: "engine: wanted an absolute path in quotes, found {",
            },
            Case { text: "spool = 'spool'", message: "wanted an absolute path in quotes, found \"spool\"" },
            Case { text: "allowed_roots = '/a'", message: "wanted a list of absolute paths in quotes" },
            Case { text: "allowed_roots = ['/a', 'b']", message: "quotes, found \"b\"" },
            Case { text: "threads = -1", message: "threads: wanted a whole number from 0 to 1024, found -1" },
            Case { text: "threads = 1025", message: "from 0 to 1024, found 1025" },
            Case { text: "max_step_rows = 0", message: "wanted a whole number from 1 to 65536, found 0" },
            Case { text: "max_step_rows = 1.5", message: "found 1.5" },
            Case { text: "fsync = 'yes'", message: "fsync: wanted true or false, found \"yes\"" },
            Case { text: "fsync = true\nfsync = true", message: "line 2: duplicate key" },
            Case { text: "threads =\n", message: "line 1: " },
        ];
        for Case { text, message } in cases {
            let error = parse(text).expect_err(text);
            assert!(error.starts_with(DEFAULT_FILE), "{text}: {error}");
            assert!(error.contains(message), "{text}: wanted {message:?} in {error:?}");
            assert!(!error.contains('\n'), "{error:?}");
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Config::read(Path::new("/nowhere/jetspool.toml")).expect_err("there is none");
        assert!(error.to_string().starts_with("cannot read /nowhere/jetspool.toml: No such file"), "{error}");
        assert_eq!(error.exit_code(), 78);
        assert!(Config::read(Path::new("/dev/zero")).is_err(), "an endless file ends");
    }
}
