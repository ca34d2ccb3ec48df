//! argv to a command.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use clap::{CommandFactory, FromArgMatches};

use super::args::{Cli, Command, EXIT_CODES, Invocation};
use super::{spelling, stop::Stop, workflow};

/// Names of the workflow's programs, for links to this binary, and the commands that they mean.
const PROGRAMS: [(&str, &str); 10] = [
    ("llm_build", "build"),
    ("llm_inference", "run"),
    ("llm_bench", "bench"),
    ("tensorrt-edgellm-process-lora", "process-lora"),
    ("tensorrt-edgellm-merge-lora", "merge-lora"),
    ("tensorrt-edgellm-export-llm", "export-llm"),
    ("tensorrt-edgellm-export", "export-llm"),
    ("tensorrt-edgellm-insert-lora", "insert-lora"),
    ("tensorrt-edgellm-quantize-llm", "quantize-llm"),
    (QUANTIZE, "quantize-llm"),
];
/// Its first word says what is quantized: `tensorrt-edgellm-quantize llm --flag`.
const QUANTIZE: &str = "tensorrt-edgellm-quantize";
/// What the daemon starts this program with; not in the help.
const TEXT_WORKER: &str = "text-worker";

/// Understands a command line.
///
/// # Errors
/// [`Stop`] with what is wrong, or with the help that was asked for.
pub fn parse(argv: impl Iterator<Item = OsString>) -> Result<Invocation, Stop> {
    let words = with_program_name(argv);
    if words[1..] == [TEXT_WORKER] {
        return Ok(Invocation { command: Command::TextWorker, is_debug: false, notes: Vec::new() });
    }
    let matches = command().try_get_matches_from(words).map_err(Stop::of_usage)?;
    let cli = Cli::from_arg_matches(&matches).map_err(Stop::of_usage)?;
    let notes = matches.subcommand().map_or_else(Vec::new, |(name, matches)| workflow::notes(name, matches));
    Ok(Invocation { command: cli.command, is_debug: cli.debug, notes })
}

/// The whole command line as clap knows it.
fn command() -> clap::Command {
    let command = Cli::command().mut_subcommands(workflow::add_flags).mut_subcommands(with_exit_codes);
    spelling::add_spellings(with_exit_codes(command))
}

/// The command line as pages and completions show it: one spelling of each flag, and none that does nothing.
pub fn documented_command() -> clap::Command {
    with_exit_codes(Cli::command().mut_subcommands(with_exit_codes))
}

/// Names for links to the program and the commands that they mean; "" where the first word is the command.
pub fn program_commands() -> impl Iterator<Item = (&'static str, &'static str)> {
    PROGRAMS.into_iter().chain([("trtedge", "")])
}

fn with_exit_codes(command: clap::Command) -> clap::Command {
    let start = command.get_after_help().map(|help| format!("{help}\n\n")).unwrap_or_default();
    command.after_help(format!("{start}{EXIT_CODES}"))
}

/// `llm_build --flag` becomes `jetspool build --flag`, `llm_build --version` is that of the program, and `jetspool help
/// build` is `jetspool build --help`.
fn with_program_name(mut argv: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let program = argv.next().unwrap_or_default();
    let name = Path::new(&program).file_name().and_then(OsStr::to_str).unwrap_or_default();
    let mut words = vec![OsString::from("jetspool")];
    words.extend(PROGRAMS.iter().find(|(known, _)| *known == name).map(|(_, command)| command.into()));
    let mut argv = argv.peekable();
    if name == QUANTIZE {
        argv.next_if(|word| word == "llm");
    }
    words.extend(argv);
    if words.get(1).is_some_and(|word| word == "help") {
        words.remove(1);
        words.push("--help".into());
    }
    if words.len() == 3 && matches!(words[2].to_str(), Some("--version" | "-V")) {
        words.remove(1);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::ProcessInput;

    fn parse_words(line: &str) -> Result<Invocation, Stop> {
        parse(line.split(' ').map(OsString::from))
    }

    #[test]
    fn clap_finds_no_fault_in_the_definition() {
        command().debug_assert();
    }

    #[test]
    fn every_spelling_and_program_name_is_taken() {
        let cases = [
            "jetspool build --modelDir m --engineDir e --maxKVCacheCapacity 77 --maxInputLen 5",
            "jetspool build --model-dir m --engine-dir e --max-kv-cache-capacity 77 --max-input-len 5",
            "jetspool build --model_dir=m --engine_dir=e --max_kv_cache_capacity=77 --max_input_len=5",
            "/usr/bin/llm_build --modelDir m --engineDir e --maxKVCacheCapacity 77 --maxInputLen 5",
            "llm_build --modelDir m --engineDir e --maxKvCacheCapacity 77 --maxInputLen 5 --debug",
        ];
        for line in cases {
            let invocation = parse_words(line).expect(line);
            let Command::Build(args) = invocation.command else { panic!("{line}: not build") };
            let options = args.options();
            assert_eq!(
                (options.limits.max_kv_cache_capacity, options.limits.max_input_len),
                (77, 5),
                "{line}"
            );
            assert_eq!(options.engine_dir, Path::new("e"), "{line}");
            assert_eq!(invocation.is_debug, line.ends_with("--debug"), "{line}");
        }
        for line in [
            "tensorrt-edgellm-process-lora --input_dir a --output_dir b",
            "jetspool process-lora --inputDir a --output-dir b",
        ] {
            let Command::ProcessLora(args) = parse_words(line).expect(line).command else { panic!("{line}") };
            let ProcessInput::Peft(input_dir) = args.options().input else { panic!("{line}") };
            assert_eq!(input_dir, Path::new("a"));
        }
    }

    #[test]
    fn help_and_version_are_found_under_every_name() {
        for line in ["jetspool help", "jetspool --help", "trtedge help"] {
            let stop = parse_words(line).expect_err(line);
            assert!(stop.text().contains("Commands:"), "{line}: {}", stop.text());
        }
        for line in ["jetspool help build", "llm_build --help", "jetspool build -h"] {
            let stop = parse_words(line).expect_err(line);
            assert!(stop.text().contains("--modelDir <DIR>"), "{line}: {}", stop.text());
        }
        for line in ["jetspool --version", "llm_inference --version", "jetspool run -V", "trtedge --version"]
        {
            let stop = parse_words(line).expect_err(line);
            assert_eq!(stop.text().trim(), concat!("jetspool ", env!("CARGO_PKG_VERSION")), "{line}");
        }
    }

    #[test]
    fn no_line_of_an_example_is_broken() {
        let commands = documented_command();
        let helps =
            commands.get_subcommands().chain([&commands]).filter_map(|command| command.get_after_help());
        for help in helps.map(|help| help.to_string()) {
            let examples = help.split_once("Examples:\n").and_then(|(_, rest)| rest.split_once("\n\n"));
            let Some((examples, _)) = examples else { panic!("no examples in {help}") };
            for line in examples.lines() {
                assert!(line.len() < 80 && line.starts_with("  "), "{line}");
            }
        }
    }

    #[test]
    fn the_onnx_tools_are_spelled_as_in_the_workflow() {
        let line = "tensorrt-edgellm-export-llm --model_dir m --output_dir o --dtype fp16";
        let Command::ExportLlm(args) = parse_words(line).expect(line).command else { panic!("{line}") };
        assert_eq!(args.options().precision, crate::numbers::Precision::F16);
        let line = "tensorrt-edgellm-export --dtype fp16 m o --device cuda";
        let Command::ExportLlm(args) = parse_words(line).expect(line).command else { panic!("{line}") };
        let options = args.options();
        assert_eq!(
            (options.model_dir.as_path(), options.output_dir.as_path()),
            (Path::new("m"), Path::new("o/llm"))
        );
        for line in ["tensorrt-edgellm-insert-lora --onnx_dir o", "trtedge insert-lora --onnx-dir o"] {
            let Command::InsertLora(args) = parse_words(line).expect(line).command else { panic!("{line}") };
            assert_eq!(args.options().onnx_dir, Path::new("o"));
        }
        for line in [
            "tensorrt-edgellm-quantize-llm --model_dir m --output_dir o --quantization nvfp4",
            "tensorrt-edgellm-quantize llm --model_dir m --output_dir o --quantization nvfp4 --device cuda",
            "jetspool quantize-llm --model-dir m --output-dir o --quantization nvfp4 --dtype fp16",
        ] {
            let Command::QuantizeLlm(args) = parse_words(line).expect(line).command else { panic!("{line}") };
            assert_eq!(args.options().method, crate::compress::Method::Nvfp4, "{line}");
        }
        let line = "llm_build --onnxDir o --engineDir e";
        let Command::Build(args) = parse_words(line).expect(line).command else { panic!("{line}") };
        assert!(args.is_onnx() && args.options().model_dir == Path::new("o"));
        for flag in ["--ggufFile", "--gguf-file", "--gguf_file"] {
            let line = format!("jetspool build {flag} m.gguf --engineDir e");
            let Command::Build(args) = parse_words(&line).expect(&line).command else { panic!("{line}") };
            assert!(args.is_gguf() && !args.is_onnx() && args.options().model_dir == Path::new("m.gguf"));
        }
    }

    #[test]
    fn a_question_and_a_list_take_every_spelling() {
        for line in [
            "jetspool ask Hello --engineDir e --lora french --loraScale 0.5 --maxGenerateLength 7 --topP 0.25 --topK 3",
            "jetspool ask --engine-dir e --lora french --lora-scale 0.5 --max-generate-length 7 --top-p 0.25 --top-k 3 Hello",
            "jetspool ask --engine_dir=e --lora=french --lora_scale=.5 --max_generate_length=7 --top_p=0.25 --top_k=3 Hello",
        ] {
            let Command::Ask(args) = parse_words(line).expect(line).command else { panic!("{line}") };
            let options = args.options();
            assert_eq!(options.question.as_deref(), Some("Hello"), "{line}");
            assert_eq!(
                (options.engine_dir, options.lora),
                (Some("e".into()), Some("french".into())),
                "{line}"
            );
            let sampling = options.sampling;
            assert_eq!(
                (options.lora_scale, sampling.top_p, sampling.top_k),
                (0.5, Some(0.25), Some(3)),
                "{line}"
            );
            assert_eq!((sampling.max_generate_length, sampling.temperature), (Some(7), None), "{line}");
        }
        for line in [
            "jetspool list --engineDir a b --lora-dir c",
            "jetspool list --engine_dir a --engine-dir b --loraDir c",
        ] {
            let Command::List(args) = parse_words(line).expect(line).command else { panic!("{line}") };
            let options = args.options(None, |_| Ok(None)).expect(line);
            assert_eq!(
                (options.named, options.adapters),
                (vec!["a".into(), "b".into()], Some("c".into())),
                "{line}"
            );
        }
        let Command::List(args) = parse_words("jetspool list").expect("no flags").command else {
            panic!("not list")
        };
        let stop = args.options(None, |_| Ok(None)).expect_err("nothing is named");
        assert_eq!(stop.code(), 64);
    }

    #[test]
    fn merging_is_spelled_as_in_the_workflow() {
        use crate::tools::MergeType;
        let cases = [
            ("tensorrt-edgellm-merge-lora --model_dir m --lora_dir l --output_dir o", MergeType::F16, 0),
            (
                "jetspool merge-lora --model-dir m --lora-dir l --output-dir o --torch-dtype fp16",
                MergeType::F16,
                0,
            ),
            (
                "jetspool merge-lora --modelDir m --loraDir l --outputDir o --torch_dtype bf16",
                MergeType::Bf16,
                0,
            ),
            (
                "tensorrt-edgellm-merge-lora --model_dir m --lora_dir l --output_dir o --device cuda --torchDtype auto",
                MergeType::Auto,
                1,
            ),
            (
                "jetspool merge-lora --model_dir m --lora_dir l --output_dir o --torch-dtype float32",
                MergeType::F32,
                0,
            ),
        ];
        for (line, element, n_notes) in cases {
            let Invocation { command: Command::MergeLora(args), notes, .. } = parse_words(line).expect(line)
            else {
                panic!("{line}")
            };
            let options = args.options();
            assert_eq!((options.element, notes.len()), (element, n_notes), "{line}");
            assert_eq!((options.model_dir, options.lora_dir), ("m".into(), "l".into()), "{line}");
        }
    }

    #[test]
    fn defaults_are_the_workflows() {
        let line = "llm_build --modelDir m --engineDir e";
        let Command::Build(args) = parse_words(line).expect(line).command else { panic!("not build") };
        assert_eq!(args.options().limits, crate::format::Limits::default());
        let line = "llm_inference --engineDir e --inputFile i --outputFile o";
        let Command::Run(args) = parse_words(line).expect(line).command else { panic!("not run") };
        let options = args.options();
        assert_eq!(
            (options.batch_size, options.max_generate_length, options.num_logprobs),
            (None, None, None)
        );
        assert_eq!((options.warmup, options.dump_profile, options.dump_output), (0, false, false));
    }

    #[test]
    fn wrong_usage_is_refused_with_what_is_wanted() {
        struct Case {
            line: &'static str,
            said: &'static str,
        }
        let cases = [
            Case { line: "jetspool", said: "Usage: jetspool" },
            Case { line: "jetspool buidl", said: "'build'" },
            Case { line: "jetspool build --engineDir e", said: "--modelDir" },
            Case { line: "llm_build --modelDir m --engineDir e --maxBatchSiz 3", said: "--maxBatchSize" },
            Case { line: "llm_build --modelDir m --engineDir e --maxBatchSize -3", said: "from 1 to 4096" },
            Case { line: "llm_build --modelDir m --engineDir e --maxBatchSize 0", said: "from 1 to 4096" },
            Case { line: "llm_build --modelDir m --engineDir e --maxLoraRank 1e9", said: "from 0 to 4096" },
            Case { line: "llm_build --modelDir m --engineDir e --precision int3", said: "int4" },
            Case {
                line: "llm_build --modelDir m --engineDir e --maxInputLen 99999999999999999999999",
                said: "from 1 to",
            },
            Case { line: "llm_build --onnxDir o --modelDir m --engineDir e", said: "cannot be used with" },
            Case {
                line: "jetspool build --ggufFile g --modelDir m --engineDir e",
                said: "cannot be used with",
            },
            Case {
                line: "jetspool build --ggufFile g --onnxDir o --engineDir e",
                said: "cannot be used with",
            },
            Case { line: "jetspool build --ggufFile g --engineDir e --calib t", said: "cannot be used with" },
            Case {
                line: "tensorrt-edgellm-export-llm --model_dir m --output_dir o --dtype int4",
                said: "f16, f32",
            },
            Case { line: "tensorrt-edgellm-export m", said: "<OUT>" },
            Case { line: "tensorrt-edgellm-export m o --model_dir m", said: "cannot be used with" },
            Case { line: "tensorrt-edgellm-export m o --fp8-kv-cache", said: "leave --fp8KvCache out" },
            Case { line: "llm_build --modelDir m --engineDir e --eagle-base", said: "leave --eagleBase out" },
            Case {
                line: "tensorrt-edgellm-quantize-llm --model_dir m --output_dir o --quantization int4",
                said: "int4_awq",
            },
            Case {
                line: "jetspool quantize-llm --quantization fp8 --lm_head_quantization int4_awq",
                said: "fp8, nvfp4, mxfp8",
            },
            Case { line: "llm_build --specDraft", said: "leave --specDraft out" },
            Case { line: "llm_inference --engineDir e --specDecode", said: "leave --specDecode out" },
            Case { line: "llm_inference --multimodalEngineDir e", said: "leave --multimodalEngineDir out" },
            Case { line: "llm_inference --batchSize 17", said: "from 1 to 16" },
            Case { line: "llm_inference --numLogprobs 51", said: "from 0 to 50" },
            Case { line: "jetspool logits --engineDir e --outputFile o --tokens 1,x", said: "from 0 to" },
            Case { line: "jetspool submit f --timeout 3", said: "--wait" },
        ];
        for Case { line, said } in cases {
            let stop = parse_words(line).expect_err(line);
            assert_eq!(stop.code(), 64, "{line}");
            assert!(stop.text().contains(said), "{line}: wanted {said:?} in {:?}", stop.text());
            assert!(!stop.text().starts_with("error"), "{line}: {:?}", stop.text());
        }
    }

    #[test]
    fn help_ends_well_and_shows_examples_in_the_workflows_spelling() {
        for subcommand in command().get_subcommands() {
            let line = format!("jetspool {} --help", subcommand.get_name());
            let stop = parse_words(&line).expect_err("help stops");
            assert_eq!(stop.code(), 0, "{line}");
            for said in ["Examples:", "Exit codes", "Usage: jetspool "] {
                assert!(stop.text().contains(said), "{line}: no {said:?}");
            }
        }
        let stop = parse_words("llm_build --help").expect_err("help stops");
        assert!(stop.text().contains("--maxKVCacheCapacity"));
        assert!(!stop.text().contains("max-kv") && !stop.text().contains("--eagleBase"), "hidden ones show");
        assert_eq!(parse_words("jetspool --version").expect_err("version stops").code(), 0);
    }

    #[test]
    fn flags_without_effect_are_noted() {
        let line = "llm_inference --engineDir e --inputFile i --outputFile o \
                    --enableContextReuse --context-cache-max-records 9 --specDraftTopK 3 \
                    --context-cache-recurrent-snapshot-pool-bytes 7";
        let notes = parse_words(line).expect(line).notes;
        assert_eq!(notes.len(), 2, "{notes:?}");
        let is_noted = |flag: &str| notes.iter().any(|note| note.contains(flag));
        assert!(is_noted("--contextCacheRecurrentSnapshotPoolBytes") && !is_noted("MaxRecords"), "{notes:?}");
        let line = "llm_inference --engineDir e --inputFile i --outputFile o";
        assert!(parse_words(line).expect(line).notes.is_empty());
    }
}
