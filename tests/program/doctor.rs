//! What the doctor finds, on a machine that is made up.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::support::data;
use crate::support::service::{build_demo, jetspool, process_demo};
use serde_json::Value;

/// Runs the doctor; returns the exit code and the findings.
fn doctor(folder: &Path) -> (i32, Vec<Value>) {
    let mut command = jetspool(&["doctor", "--json", "--config"]);
    command.arg(folder.join("jetspool.toml")).arg("--system-root").arg(folder.join("root"));
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let findings = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    (output.status.code().unwrap(), findings)
}

/// Verdict and words of the worst finding of a topic.
fn of<'a>(findings: &'a [Value], topic: &str) -> (&'a str, String) {
    let rank =
        |finding: &&Value| ["problem", "note", "ok"].iter().position(|word| finding["verdict"] == *word);
    let worst = findings.iter().filter(|finding| finding["topic"] == topic).min_by_key(rank);
    let worst = worst.unwrap_or_else(|| panic!("nothing about {topic}"));
    let fix =
        ["command", "advice"].into_iter().find_map(|kind| worst["fix"][kind].as_str()).unwrap_or_default();
    (worst["verdict"].as_str().unwrap(), format!("{}; {fix}", worst["found"].as_str().unwrap()))
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// A Jetson on which everything is as it should be.
fn healthy(folder: &Path) {
    let root = folder.join("root");
    write(&root.join("proc/device-tree/model"), "NVIDIA Jetson Orin Nano Developer Kit\0");
    write(&root.join("proc/pressure/memory"), "some avg10=0.00\n");
    write(&root.join("sys/fs/cgroup/cgroup.controllers"), "cpu memory pids\n");
    write(&root.join("usr/lib/aarch64-linux-gnu/nvidia/libcuda.so.1"), "");
    write(&root.join("dev/nvmap"), "");
    fs::set_permissions(root.join("dev/nvmap"), fs::Permissions::from_mode(0o660)).unwrap();
    write(&root.join("etc/group"), "video:x:44:ubuntu,jetspool\nrender:x:104:jetspool\n");
    write(&root.join("usr/lib/systemd/system/jetspool.service"), "");
    fs::create_dir_all(root.join("run/systemd/system")).unwrap();
    build_demo(&folder.join("engine"), "int8", &[]);
    process_demo("french", &folder.join("adapters/french"));
    configure(folder, "");
    let open = ["out", "done", "failed", "hold"].map(|place| (place, 0o750));
    for (place, mode) in [("new", 0o3770), ("work", 0o700), ("tmp", 0o700)].into_iter().chain(open) {
        let path = folder.join("spool").join(place);
        fs::create_dir_all(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
}

fn configure(folder: &Path, line: &str) {
    let text = ["engine", "spool", "adapters"].map(|key| format!("{key} = {:?}\n", folder.join(key)));
    fs::write(folder.join("jetspool.toml"), text.concat() + line).unwrap();
}

#[test]
fn a_healthy_machine_needs_nothing_and_each_fault_is_named_with_its_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    healthy(folder);
    let (code, findings) = doctor(folder);
    // Whether the clock is synchronised is the machine's own matter.
    let is_bad = |finding: &&Value| finding["verdict"] != "ok" && finding["topic"] != "clock";
    let bad: Vec<&Value> = findings.iter().filter(is_bad).collect();
    assert!(code == 0 && bad.is_empty(), "{code} {bad:?}");
    // The digest is that of another program.
    let sum = std::process::Command::new("sha256sum").arg(folder.join("engine/llm.engine")).output().unwrap();
    let sum = String::from_utf8(sum.stdout).unwrap();
    let sums = findings.iter().filter(|finding| finding["topic"] == "engine");
    assert!(
        sums.into_iter().any(|found| found["found"].to_string().contains(&sum[..32])),
        "{sum} {findings:?}"
    );

    struct Case {
        topic: &'static str,
        verdict: &'static str,
        words: [&'static str; 2],
        spoil: fn(&Path),
    }
    let cases = [
        Case {
            topic: "devices",
            verdict: "note",
            words: ["1 of 1 device for", "usermod -aG render jetspool"],
            spoil: |folder| write(&folder.join("root/etc/group"), "video:x:44:jetspool\nrender:x:104:\n"),
        },
        Case {
            topic: "cgroup",
            verdict: "note",
            words: ["without the memory controller", "cgroup_enable=memory"],
            spoil: |folder| write(&folder.join("root/sys/fs/cgroup/cgroup.controllers"), "cpu pids\n"),
        },
        Case {
            topic: "pressure",
            verdict: "note",
            words: ["does not tell", "psi=1"],
            spoil: |folder| fs::remove_file(folder.join("root/proc/pressure/memory")).unwrap(),
        },
        Case {
            topic: "systemd",
            verdict: "note",
            words: ["not installed", "install the package"],
            spoil: |folder| {
                fs::remove_file(folder.join("root/usr/lib/systemd/system/jetspool.service")).unwrap()
            },
        },
        Case {
            topic: "memory",
            verdict: "problem",
            words: ["memory_mib of the configuration leaves", "sed -i 's/^memory_mib"],
            spoil: |folder| configure(folder, "memory_mib = 1\n"),
        },
        Case {
            topic: "bridge",
            verdict: "problem",
            words: ["fetched lie outside allowed_roots", "systemctl reload"],
            spoil: |folder| {
                write(&folder.join("fetched/5f0c/config.json"), "{}");
                configure(folder, &format!("[bridge]\nadapters = {:?}\n", folder.join("fetched")));
            },
        },
        Case {
            topic: "spool",
            verdict: "note",
            words: ["mode 750, wanted 3770: producers", "chmod 3770"],
            spoil: |folder| {
                configure(folder, "");
                fs::set_permissions(folder.join("spool/new"), fs::Permissions::from_mode(0o750)).unwrap();
            },
        },
        Case {
            topic: "jobs",
            verdict: "problem",
            words: ["no daemon runs; 1 job waiting", "systemctl start"],
            spoil: |folder| write(&folder.join("spool/new/x.json"), "{}"),
        },
        Case {
            topic: "adapters",
            verdict: "problem",
            words: ["raw is not processed", "process-lora --input_dir"],
            spoil: |folder| {
                write(&folder.join("adapters/raw/adapter_model.safetensors"), "");
            },
        },
        Case {
            topic: "adapters",
            verdict: "problem",
            words: ["adapter \"wide\"", "--maxLoraRank"],
            spoil: |folder| {
                fs::remove_dir_all(folder.join("adapters/raw")).unwrap();
                let wide = data("references/process/qwen2/all_r8.safetensors");
                fs::copy(wide, folder.join("adapters/wide.safetensors")).unwrap();
            },
        },
        Case {
            topic: "engine",
            verdict: "problem",
            words: ["damaged since it was built: llm.engine", "jetspool build"],
            spoil: |folder| {
                let path = folder.join("engine/llm.engine");
                let mut bytes = fs::read(&path).unwrap();
                // Some weight: opening and a token do not tell.
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
                fs::write(&path, bytes).unwrap();
            },
        },
        Case {
            topic: "engine",
            verdict: "problem",
            words: ["tokenizer.json (missing)", "jetspool build"],
            spoil: |folder| fs::remove_file(folder.join("engine/tokenizer.json")).unwrap(),
        },
        Case {
            topic: "spool",
            verdict: "problem",
            words: ["out is no directory", "mv "],
            spoil: |folder| {
                fs::remove_dir(folder.join("spool/out")).unwrap();
                write(&folder.join("spool/out"), "");
            },
        },
        Case {
            topic: "config",
            verdict: "problem",
            words: ["line 1: unknown key engin", "correct the file"],
            spoil: |folder| write(&folder.join("jetspool.toml"), "engin = 1"),
        },
    ];
    for Case { topic, verdict, words, spoil } in cases {
        spoil(folder);
        let (code, findings) = doctor(folder);
        let (found, text) = of(&findings, topic);
        assert_eq!(found, verdict, "{topic}: {text}");
        assert!(words.iter().all(|word| text.contains(word)), "{topic}: wanted {words:?} in {text:?}");
        // Its remedy starts the service, which may need every other one.
        let jobs = findings.iter().position(|finding| finding["topic"] == "jobs");
        assert!(jobs.is_none_or(|place| place + 1 == findings.len()), "{topic}: {findings:?}");
        let has_problem = findings.iter().any(|finding| finding["verdict"] == "problem");
        assert_eq!(code, if has_problem { 69 } else { 0 }, "{topic}");
    }
}
