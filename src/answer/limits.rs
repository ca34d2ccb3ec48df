//! Who limits the memory of this process, and to how much: the machine, its control group, resource limits
//! and the configuration.
//!
//! Clean pages of files are not counted as used anywhere: the system takes them back when it needs them.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::resource::{Resource, getrlimit};

use super::usage::Usage;

/// Larger limits are none: v1 control groups say "no limit" by a number.
const NO_LIMIT: u64 = 1 << 60;

/// One limit and what it leaves to this process from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bound {
    /// Who sets it, for a message: "memory.max of /system.slice".
    pub name: String,
    /// Bytes.
    pub room: u64,
    pub covers: Covers,
    /// Whether it stays the same until somebody changes a setting.
    pub is_setting: bool,
}

/// Which memory counts against a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Covers {
    /// Private memory and the pages of mapped files in use.
    Everything,
    /// Private memory only, or mapped files are counted in its room already.
    Private,
}

/// Where the system says its limits.
pub struct Sources {
    pub proc: PathBuf,
    pub cgroup: PathBuf,
}

impl Default for Sources {
    fn default() -> Self {
        Self { proc: "/proc".into(), cgroup: "/sys/fs/cgroup".into() }
    }
}

impl Sources {
    /// Every limit that can be read. `configured` is the configuration's own, in bytes.
    pub fn bounds(&self, configured: Option<u64>) -> Vec<Bound> {
        let mut bounds: Vec<Bound> = self.machine().into_iter().collect();
        bounds.extend(self.control_groups());
        bounds.extend(self.resource_limits());
        if let Some(limit) = configured {
            let used = Usage::read().map_or(0, |usage| usage.anonymous);
            bounds.push(Bound {
                name: "memory_mib of the configuration".into(),
                room: limit.saturating_sub(used),
                covers: Covers::Everything,
                is_setting: true,
            });
        }
        bounds
    }

    fn machine(&self) -> Option<Bound> {
        let text = fs::read_to_string(self.proc.join("meminfo")).ok()?;
        let room = kib(&text, "MemAvailable:")?;
        let name = "the machine's available memory (MemAvailable)".into();
        Some(Bound { name, room, covers: Covers::Everything, is_setting: false })
    }

    fn control_groups(&self) -> Vec<Bound> {
        let text = fs::read_to_string(self.proc.join("self/cgroup")).unwrap_or_default();
        let mut bounds = Vec::new();
        for line in text.lines() {
            // proc(5), cgroups(7): hierarchy id, controllers, path.
            let mut parts = line.splitn(3, ':');
            let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
                continue;
            };
            let path = Path::new(path.trim_start_matches('/'));
            if controllers.is_empty() {
                bounds.extend(group_bounds(&self.cgroup, path, &["memory.max", "memory.high"], &VERSION_2));
            } else if controllers.split(',').any(|name| name == "memory") {
                let mount = self.cgroup.join("memory");
                bounds.extend(group_bounds(&mount, path, &["memory.limit_in_bytes"], &VERSION_1));
            }
        }
        bounds
    }

    fn resource_limits(&self) -> Vec<Bound> {
        let status = fs::read_to_string(self.proc.join("self/status")).unwrap_or_default();
        let limits = [
            (Resource::RLIMIT_AS, "VmSize:", "the address space limit (RLIMIT_AS)"),
            (Resource::RLIMIT_DATA, "VmData:", "the data limit (RLIMIT_DATA)"),
        ];
        let bound = |(resource, key, name): (Resource, &str, &str)| {
            let (limit, _) = getrlimit(resource).ok().filter(|(soft, _)| *soft < NO_LIMIT)?;
            let room = limit.saturating_sub(kib(&status, key)?);
            // The weights are mapped already when this is asked.
            Some(Bound { name: name.into(), room, covers: Covers::Private, is_setting: true })
        };
        limits.into_iter().filter_map(bound).collect()
    }
}

/// File names and keys of one version of control groups.
struct Version {
    usage: &'static str,
    /// Keys of memory.stat whose pages can be taken back.
    reclaimable: [&'static str; 2],
}

const VERSION_1: Version =
    Version { usage: "memory.usage_in_bytes", reclaimable: ["total_active_file ", "total_inactive_file "] };
const VERSION_2: Version =
    Version { usage: "memory.current", reclaimable: ["active_file ", "inactive_file "] };

/// The limits of a group and of those that it lies in. A container may not see its own group under `mount`;
/// then the groups that it does see count.
fn group_bounds(mount: &Path, path: &Path, limits: &[&str], version: &Version) -> Vec<Bound> {
    let mut bounds = Vec::new();
    for ancestor in path.ancestors() {
        let group = mount.join(ancestor);
        for limit_file in limits {
            let Some(limit) = number(&group.join(limit_file)).filter(|limit| *limit < NO_LIMIT) else {
                continue;
            };
            let stat = fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
            let used = number(&group.join(version.usage)).unwrap_or(0);
            let reclaimable: u64 = version.reclaimable.iter().filter_map(|key| value(&stat, key)).sum();
            bounds.push(Bound {
                name: format!("{limit_file} of the control group /{}", ancestor.display()),
                room: limit.saturating_sub(used.saturating_sub(reclaimable)),
                covers: Covers::Everything,
                is_setting: true,
            });
        }
    }
    bounds
}

/// The number that a file holds; "max" is none.
fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The number after a key at the start of a line.
fn value(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key))?.split_whitespace().next()?.parse().ok()
}

/// The same, in KiB, as bytes.
fn kib(text: &str, key: &str) -> Option<u64> {
    value(text, key)?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder that says what these files say.
    fn sources(files: &[(&str, &str)]) -> (tempfile::TempDir, Sources) {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let sources = Sources { proc: folder.path().join("proc"), cgroup: folder.path().join("cgroup") };
        (folder, sources)
    }

    fn rooms(bounds: &[Bound]) -> Vec<(&str, u64)> {
        bounds.iter().map(|bound| (bound.name.as_str(), bound.room)).collect()
    }

    #[test]
    fn version_2_takes_the_group_and_its_parents() {
        let (_folder, sources) = sources(&[
            ("proc/meminfo", "MemTotal: 9000 kB\nMemFree: 100 kB\nMemAvailable:    5000 kB\n"),
            ("proc/self/cgroup", "0::/a.slice/b.service\n"),
            ("cgroup/a.slice/memory.max", "max\n"),
            ("cgroup/a.slice/memory.high", "9000\n"),
            ("cgroup/a.slice/memory.current", "5000\n"),
            ("cgroup/a.slice/memory.stat", "anon 1\nfile 3000\ninactive_file 2000\nactive_file 500\n"),
            ("cgroup/a.slice/b.service/memory.max", "4000\n"),
            ("cgroup/a.slice/b.service/memory.high", "max\n"),
            ("cgroup/a.slice/b.service/memory.current", "1000\n"),
            ("cgroup/a.slice/b.service/memory.stat", "inactive_file 900\nactive_file 0\n"),
        ]);
        let bounds = sources.bounds(None);
        let wanted = [
            ("the machine's available memory (MemAvailable)", 5000 << 10),
            ("memory.max of the control group /a.slice/b.service", 4000 - 100),
            ("memory.high of the control group /a.slice", 9000 - 2500),
        ];
        assert_eq!(rooms(&bounds), wanted);
        assert_eq!(bounds.iter().map(|bound| bound.is_setting).collect::<Vec<_>>(), [false, true, true]);
    }

    #[test]
    fn version_1_in_a_container_that_sees_only_its_own_root() {
        let (_folder, sources) = sources(&[
            ("proc/self/cgroup", "4:memory:/docker/0123\n3:cpu,cpuacct:/docker/0123\n0::/\n"),
            ("cgroup/memory/memory.limit_in_bytes", "7000\n"),
            ("cgroup/memory/memory.usage_in_bytes", "6000\n"),
            ("cgroup/memory/memory.stat", "cache 9\ntotal_inactive_file 1000\ntotal_active_file 2000\n"),
        ]);
        let wanted = [("memory.limit_in_bytes of the control group /", 4000)];
        assert_eq!(rooms(&sources.bounds(None)), wanted);
    }

    #[test]
    fn no_limit_and_no_file_bound_nothing() {
        let (_folder, sources) = sources(&[
            ("proc/self/cgroup", "4:memory:/a\n"),
            ("cgroup/memory/a/memory.limit_in_bytes", "9223372036854771712\n"),
            ("cgroup/memory/a/memory.usage_in_bytes", "6000\n"),
        ]);
        assert_eq!(sources.bounds(None), []);
        let configured = sources.bounds(Some(1 << 40));
        assert_eq!(configured.len(), 1);
        assert!(configured[0].room < 1 << 40 && configured[0].room > 1 << 39, "{configured:?}");
    }
}
