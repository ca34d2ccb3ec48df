//! What the program says of a GPU, with a driver that stands in for one.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use jetspool::device::cuda::SOURCE;
use jetspool::format::{GpuTuning, TuningFile};
use jetspool::store::write_tuning;
use serde_json::{Value, json};

use crate::support::cost::without_cost;
use crate::support::service::{build_demo_with, jetspool};
use crate::support::serving::{Bench, Running, demo, folder, job};
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
    assert!(found.contains(" 8192 MiB, shared with the processor; CUDA 12.6"), "{found}");
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

/// An engine of the demo model with kernels for the stand-in.
fn engine() -> &'static Path {
    static ENGINE: OnceLock<PathBuf> = OnceLock::new();
    ENGINE.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap().keep();
        let nvrtc = standin::compiler();
        let sizes = ["--maxBatchSize", "8", "--maxInputLen", "256", "--maxKVCacheCapacity", "512"];
        let gpu = ["--target", "cuda:sm_87", "--nvrtc", nvrtc.to_str().unwrap()];
        let engine = folder.join("engine");
        build_demo_with(&engine, "int8", &[&sizes[..], &gpu].concat(), |command| {
            command.env("CUCPU_CUBIN", standin::module_file(SOURCE));
        });
        engine
    })
}

/// The driver's folder and these variables.
fn on_standin<'a>(command: &'a mut Command, variables: &[(&str, &str)]) -> &'a mut Command {
    command.env("LD_LIBRARY_PATH", standin::folder()).envs(variables.iter().copied())
}

/// Of the driver's objects none is left whenever its context was given back, and none at the end of any process.
fn assert_nothing_is_left(file: &Path, n_processes: usize, when: &str) {
    let left = std::fs::read_to_string(file).unwrap();
    assert!(left.lines().all(|line| line.ends_with(": nothing left")), "{when}: {left}");
    assert_eq!(left.lines().filter(|line| line.starts_with("end:")).count(), n_processes, "{when}: {left}");
}

/// What `run` answers to a job, without its cost, and what it logs.
fn run(device: &str, variables: &[(&str, &str)], job: &Value) -> (Option<i32>, String, String) {
    run_on(engine(), device, variables, job)
}

/// The same with another engine.
fn run_on(
    engine: &Path,
    device: &str,
    variables: &[(&str, &str)],
    job: &Value,
) -> (Option<i32>, String, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = |name| demo().join("adapters").join(name).join("processed_adapter_model.safetensors");
    let mut job = job.clone();
    job["available_lora_weights"] = ["french", "german", "medical"]
        .map(|name| (name, file(name).to_str().unwrap().to_owned()))
        .into_iter()
        .collect();
    let [input, output] = ["in.json", "out.json"].map(|name| folder.path().join(name));
    std::fs::write(&input, job.to_string()).unwrap();
    let mut command = jetspool(&["run", "--device", device, "--engineDir"]);
    command.arg(engine).arg("--inputFile").arg(input).arg("--outputFile").arg(&output);
    let left = folder.path().join("left");
    let done = on_standin(&mut command, variables).env("CUCPU_LEFT", &left).output().unwrap();
    if device != "cpu" {
        assert_nothing_is_left(&left, 1, &format!("{variables:?}"));
    }
    let answers = std::fs::read_to_string(output).unwrap_or_default();
    let answers = answers.replace(folder.path().to_str().unwrap(), "FOLDER");
    (done.status.code(), without_cost(&answers), String::from_utf8(done.stderr).unwrap())
}

#[test]
fn the_gpu_and_the_processor_write_the_same_answers() {
    let mut job = job(7, 12);
    job["requests"][1]["guided_decoding"] = json!({ "regex": "[a-z]{3,9}" });
    let (_, wanted, log) = run("cpu", &[], &job);
    assert!(wanted.contains("output_text"), "{log}");
    for (device, order) in [("cuda", "eager"), ("auto", "lazy"), ("auto", "random:7")] {
        let (_, found, log) = run(device, &[("CUCPU_ORDER", order)], &job);
        assert_eq!(found, wanted, "{device} {order}: {log}");
    }
    // A device that reads mapped files needs no memory for the weights.
    let (job, little) = (crate::support::serving::job(1, 6), ("CUCPU_MEM", "7500000"));
    let (code, _, log) = run("cuda", &[little], &job);
    assert_eq!(code, Some(65), "{log}");
    let (_, found, log) = run("cuda", &[little, ("CUCPU_ATTR", "113=1")], &job);
    assert_eq!(found, run("cpu", &[], &job).1, "{log}");
}

#[test]
fn what_keeps_a_gpu_from_being_used_is_said() {
    let job = job(1, 2);
    let (code, answers, log) = run("cuda", &[("CUCPU_ATTR", "75=8;76=6")], &job);
    assert_eq!((code, answers.as_str()), (Some(71), ""), "{log}");
    assert!(
        log.contains(
            "the engine has no kernels for Orin (stand-in) (sm_86); build it with --target cuda:sm_86"
        ),
        "{log}"
    );
    let (code, _, log) = run("auto", &[("CUCPU_ATTR", "75=8;76=6")], &job);
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("computing on the processor: the engine has no kernels"), "{log}");
    let (code, _, log) = run("cuda", &[("CUCPU_MEM", "100000")], &job);
    assert_eq!(code, Some(65), "{log}");
    assert!(log.contains("out of memory"), "{log}");
}

/// A daemon on the stand-in, which leaves what is left of its objects in `left`.
fn start(bench: &Bench, variables: &[(&str, &str)]) -> Running {
    let mut command = bench.serve("log");
    on_standin(&mut command, variables).env("CUCPU_LEFT", bench.root.join("left"));
    Running(command.spawn().unwrap())
}

/// Ends a daemon as systemd does.
fn stop(mut daemon: Running) {
    let pid = nix::unistd::Pid::from_raw(daemon.0.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert!(daemon.0.wait().unwrap().success());
}

/// What a daemon on the processor answers to the job.
fn answered(job: &Value) -> std::collections::BTreeMap<String, String> {
    let folder = folder();
    let bench = Bench::with_engine(folder.path(), engine(), "device = 'cpu'\n");
    let _daemon = start(&bench, &[]);
    bench.drop_in("a.json", &job.to_string());
    bench.wait_for("the answer", || bench.n_files("out") == 1);
    bench.files("out")
}

#[test]
fn a_daemon_whose_gpu_fails_goes_on_with_the_processor_and_loses_nothing() {
    let job = job(9, 10);
    let wanted = answered(&job);
    // The self-test takes some kernels too.
    for failure in ["kernel@150=700", "kernel@450=719", "cuStreamSynchronize@6=702", "cuLaunchKernel@300=1"] {
        let folder = folder();
        let bench = Bench::with_engine(folder.path(), engine(), "device = 'auto'\n");
        let daemon = start(&bench, &[("CUCPU_FAIL", failure)]);
        bench.wait_for("a ready daemon", || bench.log("log").contains("ready: "));
        bench.drop_in("a.json", &job.to_string());
        bench.wait_for("the answer", || bench.n_files("out") == 1);
        assert_eq!(bench.files("out"), wanted, "{failure}");
        let log = bench.log("log");
        assert!(log.contains("cuda: Orin (stand-in), sm_87 kernels"), "{failure}: {log}");
        assert!(log.contains("the device failed: "), "{failure}: {log}");
        stop(daemon);
        assert_nothing_is_left(&bench.root.join("left"), 1, failure);
    }
}

#[test]
fn a_daemon_that_wants_a_gpu_ends_when_it_fails_and_the_next_one_goes_on() {
    let job = job(9, 10);
    let wanted = answered(&job);
    let folder = folder();
    let bench = Bench::with_engine(folder.path(), engine(), "device = 'cuda'\n");
    bench.drop_in("a.json", &job.to_string());
    for failure in ["kernel@200=700", "kernel@300=719", "cuLaunchKernel@200=1", "cuStreamSynchronize@6=702"] {
        let mut daemon = start(&bench, &[("CUCPU_FAIL", failure)]);
        bench.wait_for(&format!("end by {failure}"), || daemon.0.try_wait().unwrap().is_some());
        assert_eq!(daemon.0.wait().unwrap().code(), Some(71), "{failure}: {}", bench.log("log"));
    }
    let daemon = start(&bench, &[]);
    bench.wait_for("the answer", || bench.n_files("out") == 1);
    assert_eq!(bench.files("out"), wanted);
    stop(daemon);
    assert_nothing_is_left(&bench.root.join("left"), 5, "all");
}

#[test]
fn an_idle_gpu_is_given_back_and_taken_again() {
    let job = job(5, 8);
    let wanted = answered(&job);
    let folder = folder();
    let bench = Bench::with_engine(folder.path(), engine(), "device = 'cuda'\nidle_unload_seconds = 1\n");
    let daemon = start(&bench, &[]);
    let gpu = || {
        let status = jetspool(&["status", "--json", "--spool"]).arg(bench.place("")).output().unwrap().stdout;
        let status: Value = serde_json::from_slice(&status).unwrap_or_default();
        let report = &status["report"];
        (report["engine"]["device"].clone(), report["memory"]["gpu"]["weights"].as_u64())
    };
    for name in ["a.json", "b.json"] {
        bench.wait_for("a daemon without the GPU's memory", || gpu() == (Value::from("cpu"), None));
        bench.drop_in(name, &job.to_string());
        bench.wait_for("an answer", || bench.has("out", name.as_bytes()));
        bench.wait_for("a daemon with the GPU", || gpu().0 == "cuda" && gpu().1 > Some(500_000));
    }
    let answers = bench.files("out");
    for name in ["a.json", "b.json"] {
        assert_eq!(answers[name].replace("b.json", "a.json"), wanted["a.json"]);
    }
    stop(daemon);
    let left = bench.root.join("left");
    assert_nothing_is_left(&left, 1, "idle");
    assert!(
        std::fs::read_to_string(left).unwrap().lines().filter(|line| line.starts_with("context:")).count()
            > 1
    );
}

/// The kernels of the last step that decodes, and the driver's calls of it.
fn last_step(lora: Option<&str>) -> (Vec<String>, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("trace");
    let mut command = jetspool(&["bench", "--mode", "decode", "--iterations", "3", "--pastKVLen", "7"]);
    command.args(["--noReadRate", "--device", "cuda", "--engineDir"]).arg(engine());
    if let Some(name) = lora {
        command
            .arg("--lora")
            .arg(demo().join("adapters").join(name).join("processed_adapter_model.safetensors"));
    }
    let done = on_standin(&mut command, &[("CUCPU_TRACE", trace.to_str().unwrap())]).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let trace = std::fs::read_to_string(trace).unwrap();
    let lines: Vec<&str> = trace.lines().collect();
    let first = lines.iter().rposition(|line| *line == "cuGraphLaunch").unwrap();
    let end = first + lines[first..].iter().position(|line| *line == "cuStreamSynchronize").unwrap() + 1;
    let is_kernel = |line: &&str| line.starts_with("  ");
    // The stand-in computes when it is waited for.
    let end = end + lines[end..].iter().take_while(|line| is_kernel(line)).count();
    let (kernels, calls): (Vec<&str>, Vec<&str>) = lines[first..end].iter().partition(|line| is_kernel(line));
    let owned = |lines: Vec<&str>| lines.iter().map(|line| line.trim().to_owned()).collect();
    (owned(kernels), owned(calls))
}

/// What docs/gpu.md says of a layer, and what a step has beyond its layers.
#[test]
fn a_layer_of_a_step_that_decodes_is_nine_kernels() {
    const N_LAYERS: usize = 4;
    let (kernels, calls) = last_step(None);
    let attention = ["rms_norm", "matmul_int8", "prepare_heads", "attend", "matmul_int8"];
    let mlp = ["rms_norm", "matmul_int8", "silu_mul", "matmul_int8"];
    let layer = [&attention[..], &mlp].concat();
    assert_eq!(layer.len(), 9);
    let wanted =
        [&["embed"][..], &layer.repeat(N_LAYERS), &["add", "gather", "rms_norm", "matmul_int8"]].concat();
    assert_eq!(kernels, wanted);
    assert_eq!(calls, ["cuGraphLaunch", "cuStreamSynchronize"]);
    // Adapters add two to each product, and keep no others apart.
    let (kernels, calls) = last_step(Some("french"));
    let of_adapters = kernels.iter().filter(|kernel| kernel.starts_with("lora_")).count();
    assert_eq!((kernels.len(), of_adapters), (wanted.len() + of_adapters, N_LAYERS * 4 * 2));
    assert_eq!(calls, ["cuGraphLaunch", "cuStreamSynchronize"]);
}

/// A copy of the engine that may be changed.
fn own_engine(engine_dir: PathBuf) -> PathBuf {
    std::fs::create_dir(&engine_dir).unwrap();
    for entry in std::fs::read_dir(engine()).unwrap() {
        let entry = entry.unwrap();
        if entry.path().is_file() {
            std::fs::copy(entry.path(), engine_dir.join(entry.file_name())).unwrap();
        }
    }
    engine_dir
}

#[test]
fn what_tune_has_chosen_is_used_where_it_fits() {
    const USED: &str = "products are launched as `tune` has chosen";
    const NOT_USED: &str = "products are launched as on any GPU: ";
    let folder = tempfile::tempdir().unwrap();
    let [engine_dir, small] = ["engine", "small"].map(|name| own_engine(folder.path().join(name)));
    let [file, made] = [&engine_dir, &small].map(|engine_dir| engine_dir.join("tuning.sm_87.json"));
    // Inputs of eight tokens at most: fewer steps are timed.
    let config = std::fs::read_to_string(small.join("config.json")).unwrap();
    let (wide, narrow) = ("\"max_input_len\": 256", "\"max_input_len\": 8");
    assert!(config.contains(wide), "{config}");
    std::fs::write(small.join("config.json"), config.replace(wide, narrow)).unwrap();
    let left = folder.path().join("left");
    let tune = |more: &[&str]| {
        let mut command = jetspool(&["tune"]);
        command.arg(&small).args(more).env("CUCPU_LEFT", &left);
        let done = on_standin(&mut command, &[]).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap()
    };
    assert!(tune(&["--dryRun"]).contains("nothing was written") && !made.exists());
    let said = tune(&[]);
    assert!(said.contains("Orin (stand-in), sm_87") && said.contains("tuning.sm_87.json"), "{said}");
    // q, k and v; o; gate and up; down; the head.
    assert_eq!(said.matches("matmul_int8").count(), 5, "{said}");
    assert_nothing_is_left(&left, 2, "tune");
    std::fs::rename(made, &file).unwrap();
    let job = job(3, 4);
    let wanted = run("cpu", &[], &job).1;
    let assert_said = |what: &str| {
        let (_, found, log) = run_on(&engine_dir, "cuda", &[], &job);
        assert!(
            found == wanted && log.matches("products are launched").count() == 1 && log.contains(what),
            "{log}"
        );
    };
    assert_said(USED);
    // Of another device, of other kernels, damaged, with threads that there are none of.
    let text = std::fs::read_to_string(&file).unwrap();
    let TuningFile { tuning, .. } = TuningFile::from_json(text.as_bytes()).unwrap();
    let rewrite = |change: fn(&mut GpuTuning)| {
        let mut tuning = tuning.clone();
        change(&mut tuning);
        write_tuning(&engine_dir, tuning).unwrap();
    };
    rewrite(|tuning| tuning.device = "Thor".into());
    assert_said(&format!("{NOT_USED}the tuning is of Thor, and this is Orin (stand-in)"));
    rewrite(|tuning| tuning.kernels = "0".repeat(64));
    assert_said(&format!("{NOT_USED}the tuning is of other kernels"));
    rewrite(|tuning| tuning.products[0].threads = [64; 4]);
    assert_said(&format!("{NOT_USED}matmul_int8 cannot have threads of"));
    std::fs::write(&file, text.replacen("128", "256", 1).replacen("64", "256", 1)).unwrap();
    assert_said(&format!("{NOT_USED}the tuning is not what `tune` wrote"));
    std::fs::write(&file, &text[..text.len() / 2]).unwrap();
    assert_said(NOT_USED);
    std::fs::write(&file, text).unwrap();
    assert_said(USED);
}

#[test]
fn nothing_is_tuned_without_a_gpu() {
    let done = jetspool(&["tune"]).arg(demo().join("engine")).output().unwrap();
    let said = String::from_utf8(done.stderr).unwrap();
    assert_eq!(done.status.code(), Some(69), "{said}");
    assert!(said.contains("nothing can be tuned: the GPU cannot be used: there is no driver"), "{said}");
    // With one, but without kernels for it.
    let mut command = jetspool(&["tune"]);
    let done = on_standin(command.arg(demo().join("engine")), &[]).output().unwrap();
    let said = String::from_utf8(done.stderr).unwrap();
    assert_eq!(done.status.code(), Some(69), "{said}");
    assert!(said.contains("build it with --target cuda:sm_87"), "{said}");
}

/// Fails each `step`-th call of the driver in turn, until none is left that is made.
fn fail_in_turn(step: usize) {
    let job = job(2, 3);
    let wanted = run("cpu", &[], &job).1;
    let mut n_failed = 0;
    for call in (1..).step_by(step) {
        let failure = format!("call@{call}={}", [1, 2, 700, 999][call / step % 4]);
        let (code, found, log) = run("cuda", &[("CUCPU_FAIL", &failure)], &job);
        match code {
            // Calls that free memory or ask for a property may fail without harm.
            Some(0 | 65) if found == wanted => {}
            Some(65 | 71) => {
                assert!(log.contains("CUDA error") || found.contains("CUDA error"), "{failure}: {log}")
            }
            _ => panic!("{failure}: {code:?} {log}"),
        }
        n_failed += usize::from(found != wanted);
        if found == wanted && call > 200 {
            break;
        }
    }
    assert!(n_failed > 3, "{n_failed}");
}

#[test]
fn a_call_that_fails_is_told_and_gives_no_wrong_answer() {
    fail_in_turn(61);
}

#[test]
#[ignore = "starts the program some hundred times"]
fn any_call_that_fails_is_told_and_gives_no_wrong_answer() {
    fail_in_turn(1);
}
