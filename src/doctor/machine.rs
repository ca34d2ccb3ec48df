//! The machine: board, driver, device nodes, control groups, clock, service manager.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::finding::Finding;
use super::options::SERVICE_USER;
use crate::count::Count;
use crate::cuda::{self, Gpu};
use crate::store::engine::cubin_file;

/// Where the driver's library is, on JetPack 6, JetPack 7 and other systems.
const DRIVERS: [&str; 6] = [
    "usr/lib/aarch64-linux-gnu/nvidia/libcuda.so.1",
    "usr/lib/aarch64-linux-gnu/tegra/libcuda.so.1",
    "usr/lib/aarch64-linux-gnu/libcuda.so.1",
    "usr/lib/x86_64-linux-gnu/libcuda.so.1",
    "usr/lib64/libcuda.so.1",
    "usr/lib/libcuda.so.1",
];
/// Beginnings of the names of the devices that CUDA opens.
const NODES: [&str; 5] = ["nvmap", "nvhost", "nvgpu", "nvidia", "nvsciipc"];
/// 2024-01-01: this program is younger.
const EARLIEST: u64 = 1_704_067_200;

pub fn examine(root: &Path) -> Vec<Finding> {
    vec![board(root), driver(root), nodes(root), control_group(root), clock(), manager(root)]
}

fn board(root: &Path) -> Finding {
    let model = std::fs::read_to_string(root.join("proc/device-tree/model")).unwrap_or_default();
    let model = model.trim_end_matches(['\0', '\n']);
    let is_jetson = model.contains("Jetson") || root.join("etc/nv_tegra_release").exists();
    match (is_jetson, model.is_empty()) {
        (true, _) => Finding::ok("board", if model.is_empty() { "an NVIDIA Jetson" } else { model }),
        (false, true) => Finding::ok("board", format!("no Jetson; {}", std::env::consts::ARCH)),
        (false, false) => Finding::ok("board", format!("no Jetson but {model}")),
    }
}

fn driver(root: &Path) -> Finding {
    match DRIVERS.iter().find(|path| root.join(path).exists()) {
        Some(path) => Finding::ok("driver", format!("/{path}")),
        None => Finding::ok("driver", "no libcuda.so.1: jetspool computes on the processor"),
    }
}

/// What the driver says to this user, and whether the engine has kernels for the GPU.
pub fn gpu(engine: &Path) -> Finding {
    let driver = match cuda::look() {
        Ok(None) => return Finding::ok("gpu", "no driver of CUDA"),
        Ok(Some(driver)) => driver,
        Err(error) => {
            let advice = "nvidia-smi, or dmesg, may say more; jetspool computes on the processor meanwhile";
            return Finding::note("gpu", error.to_string()).advice(advice);
        }
    };
    let (major, minor) = driver.version;
    let gpus: Vec<String> = driver.gpus.iter().map(describe_gpu).collect();
    let gpus = if gpus.is_empty() { "no device".to_owned() } else { gpus.join("; ") };
    let found = format!("{gpus}; CUDA {major}.{minor}");
    let Some(architecture) = driver.gpus.first().map(Gpu::architecture) else {
        return Finding::ok("gpu", found);
    };
    let has_kernels = engine.join(cubin_file(&architecture.to_string())).exists();
    if has_kernels || !engine.is_dir() {
        return Finding::ok("gpu", found);
    }
    let advice =
        format!("build it with --target cuda:{architecture}; until then jetspool computes on the processor");
    Finding::note("gpu", format!("{found}; the engine has no kernels for it")).advice(advice)
}

fn describe_gpu(gpu: &Gpu) -> String {
    let (major, minor) = gpu.capability;
    let memory = gpu.memory >> 20;
    let whose = if gpu.is_integrated { "shared with the processor" } else { "its own" };
    let name = gpu.name.trim();
    format!("{name}: sm_{major}{minor}, {} multiprocessors, {memory} MiB, {whose}", gpu.n_multiprocessors)
}

fn nodes(root: &Path) -> Finding {
    let mut found = Vec::new();
    for directory in ["dev", "dev/dri"] {
        let entries = std::fs::read_dir(root.join(directory)).into_iter().flatten().flatten();
        found.extend(entries.map(|entry| entry.path()).filter(|path| is_device(path)));
    }
    found.sort();
    if found.is_empty() {
        return Finding::ok("devices", "no device of a GPU");
    }
    let groups: Vec<&str> = ["video", "render"].into_iter().filter(|name| !is_member(root, name)).collect();
    let closed: Vec<&PathBuf> = found.iter().filter(|path| needs_group(path)).collect();
    if closed.is_empty() || groups.is_empty() {
        return Finding::ok("devices", format!("{}, open to {SERVICE_USER}", Count(found.len(), "device")));
    }
    let what = format!("{} of {} for their group only", closed.len(), Count(found.len(), "device"));
    Finding::note("devices", what).command(format!("usermod -aG {} {SERVICE_USER}", groups.join(",")))
}

fn is_device(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    NODES.iter().any(|start| name.starts_with(start)) || name.starts_with("renderD")
}

fn needs_group(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| !found.is_dir() && found.mode() & 0o006 != 0o006)
}

/// Whether the service's user is named in a group of /etc/group.
fn is_member(root: &Path, group: &str) -> bool {
    let text = std::fs::read_to_string(root.join("etc/group")).unwrap_or_default();
    text.lines().any(|line| {
        let mut fields = line.split(':');
        fields.next() == Some(group)
            && fields.nth(2).is_some_and(|users| users.split(',').any(|u| u == SERVICE_USER))
    })
}

fn control_group(root: &Path) -> Finding {
    let controllers = std::fs::read_to_string(root.join("sys/fs/cgroup/cgroup.controllers"));
    match controllers {
        Ok(text) if text.split_whitespace().any(|name| name == "memory") => {
            Finding::ok("cgroup", "version 2 with the memory controller")
        }
        Ok(_) => {
            let what = "version 2 without the memory controller: MemoryHigh= and MemoryMax= do nothing";
            Finding::note("cgroup", what).advice("add cgroup_enable=memory to the kernel's command line")
        }
        Err(_) if root.join("sys/fs/cgroup/memory").is_dir() => {
            let advice =
                "add systemd.unified_cgroup_hierarchy=1 to the kernel's command line, or set memory_mib";
            Finding::note("cgroup", "version 1: MemoryHigh= does nothing").advice(advice)
        }
        Err(_) => Finding::note("cgroup", "no memory controller: limits of the unit do nothing")
            .advice("set memory_mib"),
    }
}

fn clock() -> Finding {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    if seconds < EARLIEST {
        let what = "the clock is years behind: ages of files and job ids mean nothing";
        return Finding::problem("clock", what).advice("timedatectl set-ntp true, or date --set");
    }
    if is_synchronised() {
        return Finding::ok("clock", "synchronised");
    }
    let what = "the clock is plausible, but nothing keeps it right: old files are not removed until it is";
    Finding::note("clock", what).advice("apt install systemd-timesyncd, then timedatectl set-ntp true")
}

/// Whether the kernel was told that its clock is right (adjtimex(2)).
fn is_synchronised() -> bool {
    // SAFETY: all of it is integers, for which zero is a value; modes = 0 asks and sets nothing.
    let mut clock: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes into the structure alone, which lives until it returns.
    let state = unsafe { libc::adjtimex(&raw mut clock) };
    state >= 0 && state != libc::TIME_ERROR && clock.status & libc::STA_UNSYNC == 0
}

fn manager(root: &Path) -> Finding {
    let units = ["usr/lib/systemd/system", "lib/systemd/system", "etc/systemd/system"];
    if !root.join("run/systemd/system").is_dir() {
        return Finding::note("systemd", "systemd does not run here")
            .advice("start `jetspool serve` by other means");
    }
    match units.iter().find(|directory| root.join(directory).join("jetspool.service").exists()) {
        Some(directory) => Finding::ok("systemd", format!("the unit is in /{directory}")),
        None => Finding::note("systemd", "jetspool.service is not installed").advice("install the package"),
    }
}
