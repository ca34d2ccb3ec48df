//! The daemon's configuration, read and checked once. It is the one place that knows the defaults.
//!
//! Every key has a default, an unknown key is an error, and an error names file, line, key, wanted and found.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::bridge::BridgeConfig;
use super::value::{
    known_keys, names, number, one_of, path, path_or_none, paths, resembling, switch, within,
};
use crate::exit;
use crate::numbers::{DeviceChoice, KvCacheDtype};

/// Where `serve` looks without `--config`.
pub const DEFAULT_FILE: &str = "/etc/jetspool/jetspool.toml";
/// Where the spool is without a configuration.
pub const DEFAULT_SPOOL: &str = "/var/spool/jetspool";
/// Threads of one process; more than any machine this is for.
pub const MAX_THREADS: usize = 1024;

const DEFAULT_ENGINE: &str = "/var/lib/jetspool/engine";
const DEFAULT_ADAPTERS: &str = "/var/lib/jetspool/adapters";
/// Limits of the keys for sizes and ages: 1 PiB and 100 years.
const MAX_MIB: usize = 1 << 30;
const MAX_DAYS: usize = 36_500;
/// 16 TiB.
const MAX_MEMORY_MIB: usize = 1 << 24;
/// A larger file is no configuration.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// Characters of a wrong value that a message shows.
const SHOWN_CHARS: usize = 80;

/// What the daemon is told. Paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The engine directory.
    #[serde(default = "engine", deserialize_with = "path")]
    pub engine: PathBuf,
    /// The directory with `new/`, `out/` and the others.
    #[serde(default = "spool", deserialize_with = "path")]
    pub spool: PathBuf,
    /// Adapters that requests name without a path.
    #[serde(default = "adapters", deserialize_with = "path_or_none")]
    pub adapters: Option<PathBuf>,
    /// Adapter paths of requests must lie in one of these; none means that no path is taken. Not given, it is the
    /// adapters directory.
    #[serde(default, deserialize_with = "paths")]
    pub allowed_roots: Vec<PathBuf>,
    /// What batch files may call the model, beside the name of its directory.
    #[serde(default, deserialize_with = "names")]
    pub served_model_names: Vec<String>,
    /// 0 means one per processor.
    #[serde(default, deserialize_with = "within::<0, MAX_THREADS, _>")]
    pub threads: usize,
    /// Tokens that one step computes at most.
    #[serde(default = "number::<128>", deserialize_with = "within::<1, 65_536, _>")]
    pub max_step_rows: usize,
    /// How long a file that was not renamed in must have been left alone.
    #[serde(default = "number::<1000>", deserialize_with = "within::<0, 3_600_000, _>")]
    pub settle_ms: usize,
    /// Largest request file.
    #[serde(default = "number::<64>", deserialize_with = "within::<1, 4096, _>")]
    pub max_file_mib: usize,
    /// Whether answers and journals are synced to the disk before they count.
    #[serde(default = "yes", deserialize_with = "switch")]
    pub fsync: bool,
    /// How long SIGTERM lets requests finish.
    #[serde(default = "number::<30>", deserialize_with = "within::<0, 86_400, _>")]
    pub drain_seconds: usize,
    /// How often the spool is scanned, whatever the watch says.
    #[serde(default = "number::<10>", deserialize_with = "within::<1, 86_400, _>")]
    pub scan_seconds: usize,
    /// Starts of a job before it is given up.
    #[serde(default = "number::<3>", deserialize_with = "within::<1, 1000, _>")]
    pub max_attempts: usize,
    /// How long the daemon is idle before it gives the weights' memory back; 0 keeps it.
    #[serde(default = "number::<300>", deserialize_with = "within::<0, 31_536_000, _>")]
    pub idle_unload_seconds: usize,
    /// The file for node_exporter's textfile collector.
    #[serde(default, deserialize_with = "path_or_none")]
    pub metrics_file: Option<PathBuf>,
    /// Memory that the daemon may plan with; 0 means what the machine has.
    #[serde(default, deserialize_with = "within::<0, MAX_MEMORY_MIB, _>")]
    pub memory_mib: usize,
    /// Memory that keys and values of answered requests may keep, for requests that begin with the same tokens; 0
    /// shares none.
    #[serde(default = "number::<256>", deserialize_with = "within::<0, MAX_MEMORY_MIB, _>")]
    pub prefix_cache_mib: usize,
    /// Where the engine is run.
    #[serde(default, deserialize_with = "device")]
    pub device: DeviceChoice,
    /// What keys and values are kept as.
    #[serde(default, deserialize_with = "kv_cache_dtype")]
    pub kv_cache_dtype: KvCacheDtype,
    /// Space that must be free before a file is taken.
    #[serde(default = "number::<64>", deserialize_with = "within::<0, MAX_MIB, _>")]
    pub min_free_mib: usize,
    /// Limits of age and size of `out/`, `done/` and `failed/`; 0 sets none.
    #[serde(default, deserialize_with = "within::<0, MAX_DAYS, _>")]
    pub out_max_days: usize,
    #[serde(default, deserialize_with = "within::<0, MAX_MIB, _>")]
    pub out_max_mib: usize,
    #[serde(default = "number::<30>", deserialize_with = "within::<0, MAX_DAYS, _>")]
    pub done_max_days: usize,
    #[serde(default = "number::<1024>", deserialize_with = "within::<0, MAX_MIB, _>")]
    pub done_max_mib: usize,
    #[serde(default = "number::<30>", deserialize_with = "within::<0, MAX_DAYS, _>")]
    pub failed_max_days: usize,
    #[serde(default = "number::<1024>", deserialize_with = "within::<0, MAX_MIB, _>")]
    pub failed_max_mib: usize,
    /// The daemon checks it and has no use for it.
    #[serde(default)]
    pub bridge: BridgeConfig,
}

/// The key whose value is a table of keys.
const BRIDGE: &str = "bridge";

fn device<'de, D: Deserializer<'de>>(value: D) -> Result<DeviceChoice, D::Error> {
    one_of(value, &DeviceChoice::ALL.map(|choice| (choice.name(), choice)))
}

fn kv_cache_dtype<'de, D: Deserializer<'de>>(value: D) -> Result<KvCacheDtype, D::Error> {
    one_of(value, &KvCacheDtype::ALL.map(|dtype| (dtype.name(), dtype)))
}

fn engine() -> PathBuf {
    DEFAULT_ENGINE.into()
}

fn spool() -> PathBuf {
    DEFAULT_SPOOL.into()
}

fn adapters() -> Option<PathBuf> {
    Some(DEFAULT_ADAPTERS.into())
}

const fn yes() -> bool {
    true
}

impl Default for Config {
    /// What an empty file says.
    fn default() -> Self {
        Self::parse(Path::new(DEFAULT_FILE), "").expect("every key has a default")
    }
}

/// Why there is no configuration. Exit code 78.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read {}: {source}; name the configuration with --config FILE", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{}, line {line}: {message}", path.display())]
    Syntax { path: PathBuf, line: usize, message: String },
    #[error("{}, line {line}: unknown key {key}; {advice}", path.display())]
    UnknownKey { path: PathBuf, line: usize, key: String, advice: String },
    #[error("{}, line {line}: {key}: wanted {wanted}, found {found}", path.display())]
    Value { path: PathBuf, line: usize, key: String, wanted: String, found: String },
    #[error("environment: {key}: wanted {wanted}, found {found:?}")]
    Environment { key: &'static str, wanted: &'static str, found: String },
}

impl ConfigError {
    /// The exit code of sysexits.h.
    pub fn exit_code(&self) -> u8 {
        exit::CONFIGURATION
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

    /// The file that is named, or else the default one if there is one.
    ///
    /// # Errors
    /// As [`Config::read`].
    pub fn find(path: Option<&Path>) -> Result<Option<Self>, ConfigError> {
        match (path, Self::read(path.unwrap_or(Path::new(DEFAULT_FILE)))) {
            (None, Err(ConfigError::Read { source, .. })) if source.kind() == io::ErrorKind::NotFound => {
                Ok(None)
            }
            (_, read) => read.map(Some),
        }
    }

    /// Checks the text of a file; `path` is for the messages.
    ///
    /// # Errors
    /// [`ConfigError`] with the first key that is wrong.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let file = File { path, text };
        let table = DeTable::parse(text).map_err(|error| file.syntax(&error))?;
        file.check_names(table.get_ref(), known_keys::<Self>(), "")?;
        if let Some(bridge) = table.get_ref().get(BRIDGE).and_then(|value| value.get_ref().as_table()) {
            file.check_names(bridge, known_keys::<BridgeConfig>(), "bridge.")?;
        }
        let has_roots = table.get_ref().contains_key("allowed_roots");
        let mut config = Self::deserialize(toml::Deserializer::from(table.clone()))
            .map_err(|error| file.value(table.get_ref(), &error))?;
        if !has_roots {
            config.allowed_roots.extend(config.adapters.clone());
        }
        Ok(config)
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

/// A file's text, to say where in it something is wrong.
#[derive(Clone, Copy)]
struct File<'a> {
    path: &'a Path,
    text: &'a str,
}

impl File<'_> {
    fn line(self, at: usize) -> usize {
        1 + self.text.bytes().take(at).filter(|&byte| byte == b'\n').count()
    }

    fn syntax(self, error: &toml::de::Error) -> ConfigError {
        let line = self.line(error.span().map_or(0, |span| span.start));
        ConfigError::Syntax { path: self.path.into(), line, message: error.message().replace('\n', ", ") }
    }

    /// `inside` stands before the keys' names in messages.
    fn check_names(
        self,
        table: &DeTable,
        known: &[&'static str],
        inside: &'static str,
    ) -> Result<(), ConfigError> {
        let unknown = table.keys().filter(|key| !known.contains(&key.get_ref().as_ref()));
        let Some(key) = unknown.min_by_key(|key| key.span().start) else { return Ok(()) };
        let advice = match resembling(key.get_ref(), known) {
            Some(name) => format!("did you mean {name}?"),
            None => format!("known are {}", known.join(", ")),
        };
        let (path, line) = (self.path.into(), self.line(key.span().start));
        Err(ConfigError::UnknownKey { path, line, key: format!("{inside}{}", key.get_ref()), advice })
    }

    /// The message of the error is what was wanted; its place tells the key and what was found.
    fn value(self, table: &DeTable, error: &toml::de::Error) -> ConfigError {
        let span = error.span().unwrap_or_default();
        let holds =
            |value: &Spanned<DeValue>| value.span().start <= span.start && span.end <= value.span().end;
        let key_in = |table: &DeTable| {
            table.iter().find(|(_, value)| holds(value)).map(|(key, _)| key.get_ref().to_string())
        };
        let inner = table.get(BRIDGE).and_then(|value| value.get_ref().as_table()).and_then(key_in);
        let key = inner.map(|key| format!("{BRIDGE}.{key}")).or_else(|| key_in(table));
        let found = self.text.get(span.clone()).unwrap_or_default().split_whitespace();
        let mut found = found.collect::<Vec<_>>().join(" ");
        if let Some((end, _)) = found.char_indices().nth(SHOWN_CHARS) {
            found.truncate(end);
            found.push_str("...");
        }
        ConfigError::Value {
            path: self.path.into(),
            line: self.line(span.start),
            key: key.unwrap_or_default(),
            wanted: error.message().to_owned(),
            found,
        }
    }
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
        for key in known_keys::<Config>() {
            let is_named = DEFAULT_TEXT
                .lines()
                .any(|line| line.starts_with(&format!("{key} = ")) || line == format!("[{key}]"));
            // The one that is off.
            assert!(is_named || *key == "metrics_file", "{key} is missing in systemd/jetspool.toml");
        }
        for key in known_keys::<BridgeConfig>() {
            let (_, bridge) = DEFAULT_TEXT.split_once("\n[bridge]\n").unwrap();
            let is_named = bridge.lines().any(|line| uncommented(line).starts_with(&format!("{key} = ")));
            assert!(is_named, "bridge.{key} is missing in systemd/jetspool.toml");
        }
        let all: String = DEFAULT_TEXT.lines().map(|line| format!("{}\n", uncommented(line))).collect();
        let metrics_file = Some("/var/lib/prometheus/node-exporter/jetspool.prom".into());
        let bridge = BridgeConfig {
            credentials: Some("/etc/jetspool/bridge.creds".into()),
            tls_ca: Some("/etc/jetspool/ca.pem".into()),
            tls_cert: Some("/etc/jetspool/bridge.pem".into()),
            tls_key: Some("/etc/jetspool/bridge.key".into()),
            metrics_file: Some("/var/lib/prometheus/node-exporter/jetspool-bridge.prom".into()),
            ..BridgeConfig::default()
        };
        assert_eq!(parse(&all), Ok(Config { metrics_file, bridge, ..Config::default() }));
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
        let config = parse("adapters = ''").unwrap();
        assert_eq!((config.adapters, config.allowed_roots), (None, vec![]));
    }

    #[test]
    fn every_error_names_line_key_wanted_and_found() {
        struct Case {
            text: &'static str,
            message: &'static str,
        }
        let cases = [
            Case { text: "\nengin = '/e'", message: "line 2: unknown key engin; did you mean engine?" },
            Case {
                text: "max_file_mb = 1\nfsink = 1",
                message: "key max_file_mb; did you mean max_file_mib?",
            },
            Case { text: "nonsense = 1", message: "unknown key nonsense; known are engine, spool" },
            Case {
                text: "[engine]\npath = '/e'",
                message: "line 1: engine: wanted an absolute path in quotes, found [engine]",
            },
            Case { text: "\n\nspool = 'spool'", message: "line 3: spool: wanted an absolute path in quotes" },
            Case { text: "adapters = 'a'", message: "adapters: wanted an absolute path in quotes, or \"\"" },
            Case { text: "allowed_roots = '/a'", message: "wanted a list of absolute paths in quotes" },
            Case { text: "allowed_roots = ['/a',\n 'b']", message: "in quotes, found ['/a', 'b']" },
            Case {
                text: "threads = -1",
                message: "line 1: threads: wanted a whole number from 0 to 1024, found -1",
            },
            Case { text: "threads = 1025", message: "from 0 to 1024, found 1025" },
            Case { text: "max_step_rows = 0", message: "wanted a whole number from 1 to 65536, found 0" },
            Case { text: "max_step_rows = 1.5", message: "found 1.5" },
            Case { text: "fsync = 'yes'", message: "fsync: wanted true or false, found 'yes'" },
            Case { text: "fsync = true\nfsync = true", message: "line 2: duplicate key" },
            Case {
                text: "kv_cache_dtype = 'int4'",
                message: "kv_cache_dtype: wanted \"auto\", \"f32\", \"f16\" or \"int8\", found 'int4'",
            },
            Case { text: "threads =\n", message: "line 1: " },
            Case {
                text: "[bridge]\nahaed = 1",
                message: "line 2: unknown key bridge.ahaed; did you mean ahead?",
            },
            Case {
                text: "threads = 1\n[bridge]\nahead = 0",
                message: "line 3: bridge.ahead: wanted a whole number from 1 to 256, found 0",
            },
            Case {
                text: "[bridge]\nmodel = 'a b'",
                message: "bridge.model: wanted up to 48 letters, digits",
            },
            Case {
                text: "[bridge]\nservers = ['http://x']",
                message: "bridge.servers: wanted a list of addresses",
            },
            Case { text: "[bridge]\nservers = []", message: "bridge.servers: wanted a list of addresses" },
            Case { text: "bridge = 1", message: "line 1: bridge: " },
        ];
        for Case { text, message } in cases {
            let error = parse(text).expect_err(text);
            assert!(error.starts_with(DEFAULT_FILE), "{text}: {error}");
            assert!(error.contains(message), "{text}: wanted {message:?} in {error:?}");
            assert!(!error.contains('\n'), "{error:?}");
        }
        let long = format!("spool = '{}'", "x".repeat(500));
        assert!(parse(&long).expect_err("no path").len() < 200);
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Config::read(Path::new("/nowhere/jetspool.toml")).expect_err("there is none");
        assert!(error.to_string().starts_with("cannot read /nowhere/jetspool.toml: No such file"), "{error}");
        assert_eq!(error.exit_code(), 78);
        assert!(Config::read(Path::new("/dev/zero")).is_err(), "an endless file ends");
    }
}
