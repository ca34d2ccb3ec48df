//! What the program says of a GPU, with a driver that stands in for one.

use crate::support::service::jetspool;
use crate::support::standin;

/// The doctor's words about the GPU, with the driver steered by these variables.
fn words(variables: &[(&str, &str)]) -> String {
    let empty = tempfile::tempdir().unwrap();
    std::fs::write(empty.path().join("jetspool.toml"), "").unwrap();
    let mut command = jetspool(&["doctor", "--json", "--as-service-user", &whoami(), "--config"]);
    command.arg(empty.path().join("jetspool.toml")).arg("--system-root").arg(empty.path());
    let output =
        command.env("LD_LIBRARY_PATH", standin::folder()).envs(variables.iter().copied()).output().unwrap();
    let findings: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
    let gpu = findings.iter().find(|finding| finding["topic"] == "gpu").unwrap();
    format!("{}: {}", gpu["verdict"].as_str().unwrap(), gpu["found"].as_str().unwrap())
}

fn whoami() -> String {
    nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().unwrap().name
}

#[test]
fn the_doctor_names_the_gpu_and_what_its_driver_refuses() {
    let found = words(&[("CUCPU_MEM", "8589934592")]);
    assert!(found.starts_with("ok: Orin (stand-in): sm_87, "), "{found}");
    assert!(found.contains(" 8192 MiB, shared with the processor; CUDA 12.6; "), "{found}");
    let found = words(&[("CUCPU_FAIL", "cuDeviceGetCount@1=803")]);
    assert_eq!(
        found,
        "note: cuDeviceGetCount: library and kernel module are of different versions (CUDA error 803)"
    );
    // A code that no header has.
    assert_eq!(
        words(&[("CUCPU_FAIL", "cuDeviceGetCount@1=4242")]),
        "note: cuDeviceGetCount: CUDA error 4242"
    );
}
