//! The service as systemd knows it, drop-ins included: its user, its limits, and what it may see of the disk.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::finding::{Finding, word};
use crate::config::{Config, DEFAULT_FILE};

const PROPERTIES: &str = "--property=LoadState,User,MemoryMax,MemoryHigh,MemoryPressureWatch,ReadWritePaths,ProtectHome,PrivateTmp";
/// What `ProtectHome=` hides, and `PrivateTmp=`.
const HOMES: [&str; 3] = ["/home", "/root", "/run/user"];
const TEMPORARY: [&str; 2] = ["/tmp", "/var/tmp"];

/// What `systemctl show` says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unit {
    /// `jetspool.service`, or an instance.
    pub name: String,
    pub user: Option<String>,
    /// Property and bytes.
    pub memory_limits: Vec<(&'static str, u64)>,
    /// Whether systemd hands the service a pressure file of its control group (254 and newer).
    pub has_pressure_file: bool,
    writable: Vec<PathBuf>,
    /// With the property that hides it.
    hidden: Vec<(PathBuf, &'static str)>,
}

impl Unit {
    /// The installed unit that reads this configuration; none where systemd does not run.
    pub fn of(config: &Path) -> Option<Self> {
        let name = name(config)?;
        let mut command = Command::new("systemctl");
        command.args(["show", PROPERTIES, &name]).stdin(Stdio::null()).stderr(Stdio::null());
        let output = command.output().ok().filter(|output| output.status.success())?;
        Self::parse(name, &String::from_utf8_lossy(&output.stdout))
    }

    fn parse(name: String, text: &str) -> Option<Self> {
        let value = |key: &str| {
            let found = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            found.filter(|value| !value.is_empty())
        };
        if value("LoadState") != Some("loaded") {
            return None;
        }
        let bytes = |key: &'static str| Some((key, value(key)?.parse().ok().filter(|n| *n < u64::MAX)?));
        let is_on = |key: &str| value(key).is_some_and(|value| value != "no");
        let mut hidden = Vec::new();
        for (key, paths) in [("ProtectHome", &HOMES[..]), ("PrivateTmp", &TEMPORARY)] {
            hidden.extend(paths.iter().filter(|_| is_on(key)).map(|path| (PathBuf::from(path), key)));
        }
        let writable = value("ReadWritePaths").unwrap_or_default().split_whitespace();
        Some(Self {
            name,
            user: value("User").map(str::to_owned),
            memory_limits: ["MemoryMax", "MemoryHigh"].into_iter().filter_map(bytes).collect(),
            has_pressure_file: is_on("MemoryPressureWatch") && value("MemoryPressureWatch") != Some("off"),
            writable: writable.map(|path| PathBuf::from(path.trim_start_matches(['-', '+']))).collect(),
            hidden,
        })
    }

    fn hides(&self, path: &Path) -> Option<&'static str> {
        self.hidden.iter().find(|(hidden, _)| path.starts_with(hidden)).map(|(_, key)| *key)
    }

    fn may_write(&self, path: &Path) -> bool {
        self.writable.iter().any(|writable| path.starts_with(writable))
    }
}

/// The unit that the package makes for a configuration.
fn name(config: &Path) -> Option<String> {
    if config == Path::new(DEFAULT_FILE) {
        return Some("jetspool.service".to_owned());
    }
    let is_beside = config.parent() == Path::new(DEFAULT_FILE).parent() && config.extension()? == "toml";
    is_beside
        .then(|| format!("jetspool@{}.service", config.file_stem().unwrap_or_default().to_string_lossy()))
}

/// What the unit's sandbox keeps from the daemon, although the rights would allow it.
pub fn examine(unit: &Unit, config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    let read = [("engine", Some(&config.engine)), ("adapters", config.adapters.as_ref())];
    for (key, path) in read {
        let Some((path, property)) = path.and_then(|path| Some((path, unit.hides(path)?))) else { continue };
        let what = format!("{} cannot see {key} = {} ({property}=)", unit.name, path.display());
        findings.push(Finding::problem("unit", what).advice("keep it in /var/lib/jetspool"));
    }
    let metrics = config.metrics_file.as_ref().and_then(|file| file.parent());
    for (key, path) in [("spool", Some(config.spool.as_path())), ("metrics", metrics)] {
        let Some(path) = path.filter(|path| !unit.may_write(path)) else { continue };
        let what = format!("{} may not write to {} (ReadWritePaths=)", unit.name, path.display());
        let folder = format!("/etc/systemd/system/{}.d", unit.name);
        findings.push(Finding::problem("unit", what).command(format!(
            "mkdir -p {folder} && printf '[Service]\\nReadWritePaths=\"%s\"\\n' {} >{folder}/{key}.conf && \
             systemctl daemon-reload",
            word(path)
        )));
    }
    if findings.is_empty() {
        findings.push(Finding::ok("unit", format!("{} may see and write what it needs", unit.name)));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHOWN: &str = "User=jetspool\nMemoryMax=infinity\nMemoryHigh=1048576\nLoadState=loaded\n\
        ReadWritePaths=/var/spool/jetspool -/srv/x\nProtectHome=yes\nPrivateTmp=no\nMemoryPressureWatch=auto\n";

    #[test]
    fn reads_what_systemctl_shows() {
        let unit = Unit::parse("jetspool.service".into(), SHOWN).unwrap();
        assert_eq!(unit.user.as_deref(), Some("jetspool"));
        assert_eq!(unit.memory_limits, [("MemoryHigh", 1 << 20)]);
        assert!(unit.has_pressure_file);
        assert!(unit.may_write(Path::new("/srv/x/spool")) && !unit.may_write(Path::new("/srv")));
        assert_eq!(unit.hides(Path::new("/home/x/engine")), Some("ProtectHome"));
        assert_eq!(unit.hides(Path::new("/tmp/engine")), None);
        assert_eq!(Unit::parse("x".into(), "LoadState=not-found\nUser=\n"), None);
    }

    #[test]
    fn the_unit_of_a_configuration() {
        let of = |path: &str| name(Path::new(path));
        assert_eq!(of(DEFAULT_FILE).as_deref(), Some("jetspool.service"));
        assert_eq!(of("/etc/jetspool/small.toml").as_deref(), Some("jetspool@small.service"));
        assert_eq!(of("/home/x/jetspool.toml"), None);
    }

    #[test]
    fn what_the_sandbox_hides_is_a_problem() {
        let unit = Unit::parse("jetspool.service".into(), SHOWN).unwrap();
        let topics =
            |config: &Config| examine(&unit, config).into_iter().map(|f| f.verdict).collect::<Vec<_>>();
        assert_eq!(topics(&Config::default()), [super::super::Verdict::Ok]);
        let config = Config {
            engine: "/home/x/engine".into(),
            spool: "/data/spool".into(),
            metrics_file: Some("/var/lib/node/jetspool.prom".into()),
            ..Config::default()
        };
        assert_eq!(topics(&config).len(), 3);
    }
}
