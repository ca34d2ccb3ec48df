//! Files that change under their readers: an adapter's is the error of the requests that use it, an engine's is
//! told to whoever runs it, and nothing ends the process.

use std::collections::BTreeMap;
use std::fs::{self, File, FileTimes};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Barrier, OnceLock};

use crate::support::data;
use crate::support::service::{build_demo, long_request, process_demo};
use jetspool::answer::{AdapterPlaces, EngineOptions, Engines, Ready, TextEngine, Ticket};
use jetspool::infer::PrefixCache;
use jetspool::numbers::KvCacheDtype;
use jetspool::spool::wire::{Answer, FaultCode, RequestFile};
use jetspool::store::{AllowedRoots, Damage, FileMap, Losses};
use serde_json::{Value, json};

const NAMES: [&str; 3] = ["french", "german", "medical"];

/// An engine and adapters to be copied, made once.
fn masters() -> &'static Path {
    static MASTERS: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = MASTERS.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        build_demo(&folder.path().join("engine"), "int8", &[]);
        for name in NAMES {
            let made = process_demo(name, &folder.path().join(name));
            fs::rename(made, folder.path().join(format!("{name}.safetensors"))).unwrap();
        }
        folder
    });
    folder.path()
}

/// Copies that a test may break.
struct Site {
    folder: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let site = Self { folder };
        for directory in ["engine", "adapters"] {
            fs::create_dir(site.path(directory)).unwrap();
        }
        for entry in fs::read_dir(masters().join("engine")).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), site.path("engine").join(entry.file_name())).unwrap();
        }
        NAMES.iter().for_each(|name| site.put(name));
        // Older than a tick of the clock.
        std::thread::sleep(std::time::Duration::from_millis(150));
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn adapter(&self, name: &str) -> PathBuf {
        self.path("adapters").join(format!("{name}.safetensors"))
    }

    fn put(&self, name: &str) {
        let new = self.path("new");
        fs::copy(masters().join(format!("{name}.safetensors")), &new).unwrap();
        fs::rename(new, self.adapter(name)).unwrap();
    }

    fn open(&self) -> Engines {
        let places = AdapterPlaces {
            roots: AllowedRoots::new(vec![self.folder.path().to_owned()]),
            directory: Some(self.path("adapters")),
        };
        let directory = self.path("engine");
        let options = EngineOptions {
            directory,
            n_threads: 3,
            max_step_rows: 64,
            max_memory: None,
            prefix_cache: PrefixCache::DEFAULT,
            kv_cache_dtype: KvCacheDtype::Auto,
            device: jetspool::numbers::DeviceChoice::Cpu,
            served_names: Vec::new(),
        };
        let mut engine = TextEngine::open_tried(&options, 0).unwrap();
        engine.open_prompter(&options.directory).unwrap();
        Engines::new(engine, places)
    }
}

/// Requests for each adapter and for none, twice.
fn requests() -> Arc<RequestFile> {
    let lora = ["french", "german", "medical", ""].map(|name| Some(name).filter(|name| !name.is_empty()));
    let requests: Vec<Value> = lora
        .into_iter()
        .cycle()
        .take(8)
        .enumerate()
        .map(|(i, name)| long_request(&format!("Translate to French: number {i}"), name, 30))
        .collect();
    parse(&requests)
}

fn parse(requests: &[Value]) -> Arc<RequestFile> {
    let text = json!({"temperature": 0, "requests": requests}).to_string();
    Arc::new(RequestFile::parse(text.into_bytes()).unwrap())
}

/// Computes all requests; `disturb` is called before each step. The answers are without what they cost.
fn run(
    engines: &mut Engines,
    file: &Arc<RequestFile>,
    mut disturb: impl FnMut(usize),
) -> BTreeMap<usize, Answer> {
    let mut answers = BTreeMap::new();
    for request_idx in 0..file.n_requests() {
        let ticket = Ticket { job: 0, request_idx };
        let executor = engines.current_mut();
        let guides = std::sync::Arc::clone(executor.engine().guides());
        let ready = Ready::new(file.request(request_idx), (file, request_idx), 0, &guides, |prompt| {
            executor.engine().prepare(prompt)
        });
        let answer = match ready {
            Ready::Run(runnable) => executor.add(ticket, *runnable),
            Ready::Answered(answer) => Some(*answer),
        };
        answers.extend(answer.map(|answer| (request_idx, answer)));
    }
    for step in 0.. {
        if engines.n_active() == 0 {
            break;
        }
        disturb(step);
        answers.extend(engines.step().into_iter().map(|(ticket, answer)| (ticket.request_idx, answer)));
        if engines.damage().is_some() {
            break;
        }
    }
    answers.values_mut().for_each(|answer| answer.usage.cached_tokens = 0);
    answers
}

fn one_of(engines: &mut Engines, name: &str) -> Answer {
    run(engines, &parse(&[long_request("Translate to French: number 1", Some(name), 30)]), |_| {})
        .remove(&0)
        .unwrap()
}

fn code(answer: &Answer) -> Option<FaultCode> {
    answer.error.as_ref().map(|fault| fault.code)
}

fn overwrite(path: &Path, bytes: &[u8]) {
    File::options().write(true).open(path).unwrap().write_all_at(bytes, 0).unwrap();
}

fn set_modified(path: &Path, time: std::time::SystemTime) {
    let file = File::options().append(true).open(path).unwrap();
    file.set_times(FileTimes::new().set_modified(time)).unwrap();
}

#[test]
fn a_changed_adapter_fails_its_own_requests_and_no_other() {
    struct Case {
        name: &'static str,
        change: fn(&Path, &[u8]),
        /// What the next request of the name gets.
        after: Option<FaultCode>,
    }
    let cases = [
        Case {
            name: "cut short",
            change: |path, _| File::options().write(true).open(path).unwrap().set_len(5000).unwrap(),
            after: Some(FaultCode::AdapterMismatch),
        },
        Case { name: "cp", change: |path, other| fs::write(path, other).unwrap(), after: None },
        Case { name: "written into", change: |path, other| overwrite(path, other), after: None },
        Case {
            name: "written into, with the time set back",
            change: |path, other| {
                let time = fs::metadata(path).unwrap().modified().unwrap();
                overwrite(path, other);
                set_modified(path, time);
            },
            after: None,
        },
    ];
    let site = Site::new();
    let file = requests();
    let mut engines = site.open();
    let wanted = run(&mut engines, &file, |_| {});
    assert!(wanted.len() == 8 && wanted.values().all(|answer| answer.error.is_none()));
    let medical = fs::read(site.adapter("medical")).unwrap();
    let medical_alone = one_of(&mut engines, "medical").token_ids;
    for Case { name, change, after } in cases {
        let found = run(&mut engines, &file, |step| {
            if step == 7 {
                change(&site.adapter("german"), &medical);
            }
        });
        for (index, answer) in &found {
            match index % 4 {
                1 => {
                    assert_eq!(code(answer), Some(FaultCode::AdapterChanged), "{name}: {:?}", answer.error);
                    let message = &answer.error.as_ref().unwrap().message;
                    assert!(
                        message.contains("german.safetensors") && message.contains("rename"),
                        "{message}"
                    );
                    assert!(answer.token_ids.len() < 10, "{name}");
                    assert!(wanted[index].token_ids.starts_with(&answer.token_ids), "{name}");
                }
                _ => assert_eq!(answer, &wanted[index], "{name}: request {index}"),
            }
        }
        assert_eq!(found.len(), 8, "{name}");
        let next = one_of(&mut engines, "german");
        assert_eq!(code(&next), after, "{name}: {:?}", next.error);
        assert!(after.is_some() || next.token_ids == medical_alone, "{name}: not the new file's tokens");
        site.put("german");
        let again = run(&mut engines, &file, |_| {});
        assert!(again == wanted, "{name}: after the repair");
    }
}

#[test]
fn an_adapter_with_a_value_that_is_no_number_is_refused_by_name() {
    let site = Site::new();
    let file = requests();
    let wanted = run(&mut site.open(), &file, |_| {});
    let tensors = crate::support::tensors(&site.adapter("german"));
    let names: Vec<&str> = tensors.names().collect();
    for (name, bits) in [(names[0], 0x7e00_u16), (names[7], 0xfc00), (names[names.len() - 1], 0x7c01)] {
        let mut bytes = tensors.as_bytes().to_vec();
        let data = tensors.get(name).unwrap();
        let end = data.data().as_ptr_range().end as usize - tensors.as_bytes().as_ptr() as usize;
        bytes[end - 2..end].copy_from_slice(&bits.to_le_bytes());
        fs::write(site.path("new"), &bytes).unwrap();
        fs::rename(site.path("new"), site.adapter("german")).unwrap();
        for (index, answer) in run(&mut site.open(), &file, |_| {}) {
            match index % 4 {
                1 => {
                    assert_eq!(code(&answer), Some(FaultCode::AdapterMismatch), "{:?}", answer.error);
                    let message = &answer.error.unwrap().message;
                    assert!(message.contains(name) && message.contains("finite"), "{message}");
                }
                _ => assert_eq!(answer, wanted[&index], "request {index}"),
            }
        }
    }
}

#[test]
fn a_new_file_by_rename_changes_nothing_for_who_has_begun() {
    let site = Site::new();
    let file = requests();
    let mut engines = site.open();
    let wanted = run(&mut engines, &file, |_| {});
    let found = run(&mut engines, &file, |step| match step {
        3 => fs::hard_link(site.adapter("french"), site.path("link")).unwrap(),
        5 => fs::rename(site.adapter("medical"), site.path("away")).unwrap(),
        8 => site.put("german"),
        12 => fs::remove_file(site.adapter("french")).unwrap(),
        _ => {}
    });
    assert!(found == wanted);
}

/// The first use of a file that was written in the same tick of the clock as its predecessor.
#[test]
fn the_same_size_and_time_is_no_excuse() {
    let site = Site::new();
    let mut engines = site.open();
    let medical_alone = one_of(&mut engines, "medical").token_ids;
    let medical = fs::read(site.adapter("medical")).unwrap();
    let time = fs::metadata(site.adapter("german")).unwrap().modified().unwrap();
    let file = parse(&[long_request("Translate to French: number 1", Some("german"), 30)]);
    // Fresh, so that it is not settled when it is loaded.
    site.put("german");
    set_modified(&site.adapter("german"), time);
    let found = run(&mut engines, &file, |step| {
        if step == 0 {
            overwrite(&site.adapter("german"), &medical);
            set_modified(&site.adapter("german"), time);
        }
    });
    assert_eq!(code(&found[&0]), Some(FaultCode::AdapterChanged), "{:?}", found[&0].error);
    assert_eq!(one_of(&mut engines, "german").token_ids, medical_alone);
}

#[test]
fn a_changed_engine_gives_no_answers_and_says_so() {
    type Change = fn(&Path);
    let cases: [(&str, Change, bool); 5] = [
        ("llm.engine", |path| File::options().write(true).open(path).unwrap().set_len(5000).unwrap(), true),
        ("llm.engine", |path| overwrite(path, &[0; 9]), true),
        (
            "tokenizer.table",
            |path| File::options().write(true).open(path).unwrap().set_len(100).unwrap(),
            true,
        ),
        ("llm.engine", |path| fs::remove_file(path).unwrap(), false),
        (
            "llm.engine",
            |path| {
                let new = path.with_extension("new");
                fs::copy(path, &new).unwrap();
                fs::rename(&new, path).unwrap();
            },
            false,
        ),
    ];
    let file = requests();
    let mut last = 0;
    let wanted = run(&mut Site::new().open(), &file, |step| last = step);
    for (name, change, is_damage) in cases {
        let site = Site::new();
        let mut engines = site.open();
        let found = run(&mut engines, &file, |step| {
            // The step that would finish the last answers.
            if step == last {
                change(&site.path("engine").join(name));
            }
        });
        if is_damage {
            assert!(found.iter().all(|(index, answer)| *answer == wanted[index]), "{name}");
            let damage = engines.damage().unwrap();
            assert!(damage.to_string().contains(name), "{damage}");
            assert!(found.len() < 8 && engines.n_active() == 8 - found.len(), "{name}: {}", found.len());
            assert!(engines.step().is_empty());
        } else {
            assert!(engines.damage().is_none() && found == wanted, "{name}");
        }
    }
}

#[test]
fn all_threads_survive_a_lost_map_and_others_are_whole() {
    const SIZE: usize = 4 << 20;
    let folder = tempfile::tempdir().unwrap();
    let (path, whole) = (folder.path().join("a"), folder.path().join("b"));
    fs::write(&whole, vec![1_u8; SIZE]).unwrap();
    let healthy = FileMap::open(&whole).unwrap();
    for round in 0..20 {
        fs::write(&path, vec![1_u8; SIZE]).unwrap();
        let losses = Losses::now();
        let map = FileMap::open(&path).unwrap();
        let barrier = Barrier::new(5);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    barrier.wait();
                    while !map.is_damaged() {
                        let sum: usize =
                            (*map).as_ref().iter().step_by(512).map(|&byte| usize::from(byte)).sum();
                        // Zeros are never seen without the mark.
                        assert!(sum == SIZE / 512 || map.is_damaged());
                        assert!((*healthy).as_ref().iter().step_by(512).all(|&byte| byte == 1));
                    }
                });
            }
            barrier.wait();
            if round % 2 == 0 {
                std::thread::sleep(std::time::Duration::from_millis(round));
            }
            File::options().write(true).open(&path).unwrap().set_len(4096).unwrap();
        });
        assert!(matches!(map.damage(), Some(Damage::Lost { .. })) && !healthy.is_damaged());
        assert!(losses.check().is_err_and(|error| error.to_string().contains("lost pages")));
        map.release();
        assert!((*map).as_ref().iter().all(|&byte| byte == 0));
        // Its addresses are free for the next one.
        drop(map);
    }
    assert!(Losses::now().check().is_ok());
}

/// Whatever is not ours ends the process by SIGBUS, as without a handler.
#[test]
fn foreign_bus_errors_still_end_the_process() {
    for child in ["damage::child_reads_a_map_of_its_own", "damage::child_is_sent_the_signal"] {
        let mut command = Command::new(std::env::current_exe().unwrap());
        if let Some(runner) = crate::support::service::runner() {
            let mut words = runner.split_whitespace();
            command = Command::new(words.next().unwrap());
            command.args(words).arg(std::env::current_exe().unwrap());
        }
        let output = command.args(["--ignored", "--exact", child]).output().unwrap();
        assert_eq!(output.status.signal(), Some(libc::SIGBUS), "{child}: {output:?}");
    }
}

#[test]
#[ignore = "foreign_bus_errors_still_end_the_process runs it"]
fn child_reads_a_map_of_its_own() {
    let guarded = FileMap::open(&data("demo/README.md")).unwrap();
    let file = tempfile::tempfile().unwrap();
    file.set_len(1 << 16).unwrap();
    // SAFETY: that it breaks is what is tried.
    let map = unsafe { memmap2::Mmap::map(&file) }.unwrap();
    file.set_len(0).unwrap();
    println!("{} {}", map[9000], guarded.is_damaged());
}

#[test]
#[ignore = "foreign_bus_errors_still_end_the_process runs it"]
fn child_is_sent_the_signal() {
    let _guarded = FileMap::open(&data("demo/README.md")).unwrap();
    nix::sys::signal::raise(nix::sys::signal::Signal::SIGBUS).unwrap();
}
