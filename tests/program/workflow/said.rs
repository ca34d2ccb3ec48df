//! The sentences of docs/workflow.md by their beginnings, each with what holds it.

use super::checks;
use super::proof::{
    Proof,
    Proof::{Check, Measured, NoClaim, Run, Tests},
    Row, row,
};

pub const PAGE: &[&[Row]] = &[STATIC, DYNAMIC, ELSEWHERE, QUESTION, TEMPLATE, GGUF, DIFFERENT, COMMANDS];

const MERGE: &str = "tests/library/merge.rs";
const STATIC_WAY: &str = "tests/library/static_way.rs";
const WAYS_OUT: &str = "tests/library/ways_out.rs";
const TOOLS: &str = "tests/library/tools.rs";
const ASK: &str = "tests/program/ask.rs";
const CHAT: &str = "tests/program/chat.rs";
const PLACES: &str = "tests/library/template_places.rs";
const INTERRUPTION: &str = "tests/program/interruption.rs";
const OF_GGUF: &str = "tests/library/gguf.rs";
const ONNX: &str = "tests/library/onnx.rs";

const STATIC: &[Row] = &[
    row("The two ways of TensorRT Edge-LLM", &[Run]),
    row("Everything below runs on the demo model", &[Run]),
    row("The package installs the workflow's names", &[Check(checks::names_are_links_of_the_package)]),
    row("Without it:", &[Run]),
    row(
        "The adapter becomes part of the weights.",
        &[
            Run,
            Tests(MERGE, &["merged_tensors_equal_peft", "merged_models_compute_what_peft_computes_unmerged"]),
        ],
    ),
    row("The engine knows one task", &[Check(checks::a_merged_engine_is_as_small_as_the_base)]),
    row(
        "This is also the way for adapters that cannot",
        &[Tests(MERGE, &["merged_tensors_equal_peft"]), Tests(WAYS_OUT, &["the_tools_agree_on_the_way_out"])],
    ),
    row(
        "The same four commands take Phi-4-multimodal",
        &[Tests(STATIC_WAY, &["phi_4_multimodal_merged_quantized_exported_and_built"])],
    ),
    row(
        "Fused and nested names, Gemma 3",
        &[Tests(
            STATIC_WAY,
            &[
                "names_of_a_backbone_go_through_every_method",
                "gemma_3_goes_through_every_method",
                "gemma_3_with_images_goes_through_every_method",
                "mixtures_go_through_every_method",
            ],
        )],
    ),
    row("An engine of it may have room", &[Tests(STATIC_WAY, &["an_adapter_runs_on_each_quantized_form"])]),
    row("Without `merge-lora` Phi-4", &[Tests(STATIC_WAY, &["adapters_inside_the_checkpoint_are_told"])]),
    row("Leave `quantize-llm` out for an f16 engine", &[Check(checks::quantize_llm_may_be_left_out)]),
    row("`export-llm` may be left out too", &[Check(checks::export_llm_may_be_left_out)]),
];

const DYNAMIC: &[Row] = &[
    row("The graph gets inputs for adapters", &[Run, Check(checks::the_engine_has_room_for_adapters)]),
    row(
        "`insert-lora` writes `lora_model.onnx`",
        &[
            Check(checks::insert_lora_adds_one_file),
            Tests(ONNX, &["adapter_inputs_are_named_after_modules_and_every_reader_keeps_its_order"]),
        ],
    ),
    row(
        "Requests of one file may name different adapters",
        &[Run, Tests("tests/program/service.rs", &["a_mixed_batch_gives_the_answers_of_single_runs"])],
    ),
    row(
        "Both ways go together",
        &[
            Run,
            Tests(ONNX, &["quantized_checkpoints_export_and_build_the_same_engine"]),
            Tests(STATIC_WAY, &["an_adapter_runs_on_each_quantized_form"]),
        ],
    ),
];

const ELSEWHERE: &[Row] = &[
    row(
        "`process-lora` writes the bytes of the workflow's own tool",
        &[Tests(TOOLS, &["processed_adapters_equal_the_references_byte_for_byte"])],
    ),
    row(
        "It departs from them on purpose where the adapter is bf16",
        &[Tests(TOOLS, &["processed_adapters_equal_the_references_byte_for_byte"])],
    ),
    row("Names that torch's wrappers leave", &[Tests(WAYS_OUT, &["wrappers_of_training_are_taken_off"])]),
    row("`bias: all` without a bias", &[Tests(WAYS_OUT, &["keys_without_tensors_are_nothing"])]),
    row(
        "Tensors of norms, the head and value heads",
        &[Tests(WAYS_OUT, &["unsupported_tensors_are_left_out_when_asked"])],
    ),
    row("What cannot be applied at run time", &[Tests(WAYS_OUT, &["the_tools_agree_on_the_way_out"])]),
    row("DoRA, biases, `modules_to_save`", &[Tests(WAYS_OUT, &["the_tools_agree_on_the_way_out"])]),
    row("tables of a resized vocabulary |", &[Tests(WAYS_OUT, &["the_tools_agree_on_the_way_out"])]),
    row("PiSSA, OLoRA, CorDA, LoRA-GA |", &[Tests(WAYS_OUT, &["the_tools_agree_on_the_way_out"])]),
    row("LoftQ, `target_parameters`", &[Tests(WAYS_OUT, &["the_tools_agree_on_the_way_out"])]),
    row("Arrow |", &[Tests(WAYS_OUT, &["the_tools_agree_on_the_way_out"])]),
    row("`layer_replication` |", &[Tests(WAYS_OUT, &["the_tools_agree_on_the_way_out"])]),
    row("QALoRA, aLoRA |", &[Tests(WAYS_OUT, &["the_tools_agree_on_the_way_out"])]),
    row("value heads |", &[Tests(WAYS_OUT, &["the_tools_agree_on_the_way_out"])]),
    row("The config.json that `process-lora` writes", &[Check(checks::a_processed_adapter_says_who_made_it)]),
    row(
        "Files without it, of the workflow's tool",
        &[Tests(WAYS_OUT, &["foreign_files_are_used_only_where_they_are_right"])],
    ),
    row(
        "Such a file is refused with the reason",
        &[Tests("tests/program/foreign.rs", &["a_risky_file_without_our_mark_is_refused_everywhere"])],
    ),
    row("Where a file lies without its config.json", &[Check(checks::a_file_alone_is_used)]),
    row(
        "`merge-lora` treats a full `embed_tokens.weight`",
        &[Tests(
            MERGE,
            &[
                "tied_tables_that_are_both_replaced_stay_tied",
                "a_table_that_is_the_base_s_leaves_the_head_tied",
            ],
        )],
    ),
];

const QUESTION: &[Row] = &[
    row("One question needs no request file.", &[Run]),
    row(
        "The answer is written as it comes",
        &[Tests(ASK, &["the_answer_comes_token_by_token_and_ctrl_c_ends_it", "the_answer_is_that_of_run"])],
    ),
    row("It is what `llm_inference` answers", &[Tests(ASK, &["the_answer_is_that_of_run"])]),
    row(
        "Without a question it is read from standard input",
        &[Tests(ASK, &["a_question_comes_through_a_pipe"])],
    ),
    row(
        "Where that is a terminal a chat begins",
        &[Tests(CHAT, &["each_question_is_asked_with_all_that_was_said"])],
    ),
    row(
        "Ctrl-C ends an answer and not the chat",
        &[Tests(
            CHAT,
            &[
                "ctrl_c_ends_the_answer_and_the_history_keeps_what_was_said",
                "each_question_is_asked_with_all_that_was_said",
            ],
        )],
    ),
    row(
        "When question, history and a quarter",
        &[Tests(CHAT, &["a_chat_that_is_too_long_forgets_its_beginning"])],
    ),
    row(
        "On a machine with a configuration",
        &[Tests(ASK, &["engine_and_adapter_come_from_the_configuration"])],
    ),
    row(
        "`list` shows what is at hand",
        &[Run, Tests("tests/program/list.rs", &["engines_and_adapters_are_listed_with_what_fits"])],
    ),
    row(
        "`served` and `in use` are",
        &[Run, Tests("tests/program/list.rs", &["engines_and_adapters_are_listed_with_what_fits"])],
    ),
    row(
        "`last use` is when",
        &[Tests("tests/program/list.rs", &["engines_and_adapters_are_listed_with_what_fits"])],
    ),
    row(
        "`--json` is for programs.",
        &[Tests("tests/program/list.rs", &["engines_and_adapters_are_listed_with_what_fits"])],
    ),
    row(
        "Ctrl-C (or SIGTERM) ends `llm_inference`",
        &[Tests(INTERRUPTION, &["an_interrupted_run_goes_on_to_the_same_bytes"])],
    ),
    row(
        "The same command with `--resume`",
        &[Tests(INTERRUPTION, &["an_interrupted_run_goes_on_to_the_same_bytes"])],
    ),
    row(
        "It must be the same request file",
        &[Tests(INTERRUPTION, &["a_run_goes_on_with_its_own_output_only"])],
    ),
    row(
        "The tools (`llm_build` and",
        &[Tests(
            INTERRUPTION,
            &[
                "tools_leave_nothing_half_written_whenever_they_are_interrupted",
                "what_is_half_written_goes_away",
            ],
        )],
    ),
];

const TEMPLATE: &[Row] = &[
    row(
        "`build` and `export-llm` take the one",
        &[Tests(PLACES, &["engines_have_the_template_that_transformers_takes", "exports_keep_the_template"])],
    ),
    row("1. `chat_template.jinja`", &[Tests(PLACES, &["engines_have_the_template_that_transformers_takes"])]),
    row(
        "Where any of these files is there",
        &[Tests(PLACES, &["engines_have_the_template_that_transformers_takes"])],
    ),
    row("2. `chat_template` of", &[Tests(PLACES, &["engines_have_the_template_that_transformers_takes"])]),
    row("3. `chat_template.json`", &[Tests(PLACES, &["engines_have_the_template_that_transformers_takes"])]),
    row(
        "A `processed_chat_template.json`",
        &[
            Tests("tests/library/text.rs", &["processed_templates_render_as_documented"]),
            Tests(PLACES, &["exports_keep_the_template"]),
        ],
    ),
    row(
        "Where several stand, `build` says",
        &[
            Tests(PLACES, &["engines_have_the_template_that_transformers_takes"]),
            Tests(ASK, &["what_is_wrong_is_said_with_its_exit_code"]),
        ],
    ),
    row(
        "Requests with tools have the template",
        &[Tests(PLACES, &["engines_have_the_template_that_transformers_takes", "exports_keep_the_template"])],
    ),
];

const GGUF: &[Row] = &[
    row("What llama.cpp and Ollama run", &[Tests(OF_GGUF, &["an_engine_has_the_texts_of_its_file"])]),
    row("(Ollama keeps the file", &[NoClaim]),
    row("Files: GGUF 2 and 3", &[Tests(OF_GGUF, &["what_is_not_read_is_named"])]),
    row("Architectures: llama", &[Tests(OF_GGUF, &["engines_are_those_of_the_checkpoints"])]),
    row("Another one, a mixture of experts", &[Tests(OF_GGUF, &["what_is_not_read_is_named"])]),
    row("Weights: F32", &[Tests(OF_GGUF, &["blocks_decode_to_the_bits_of_the_package"])]),
    row("Rotary frequencies may be stretched", &[Tests(OF_GGUF, &["yarn_is_that_of_the_checkpoint"])]),
    row(
        "Without `--precision` every block",
        &[
            Tests(OF_GGUF, &["blocks_are_kept"]),
            Tests("tests/library/gpu_decoder.rs", &["blocks_of_gguf_files_give_the_processors_bits"]),
        ],
    ),
    row("The engine has the file's size but for scales", &[Tests(OF_GGUF, &["blocks_are_kept"])]),
    row("SmolLM2-135M of a Q4_K_M file", &[Measured("scripts/bench-quality")]),
    row("With `--precision` the weights", &[Tests(OF_GGUF, &["engines_are_those_of_the_checkpoints"])]),
    row(
        "Text: vocabularies of byte pairs",
        &[Tests(
            OF_GGUF,
            &["token_ids_are_the_librarys", "pieces_are_those_of_sentencepiece", "what_is_not_read_is_named"],
        )],
    ),
    row(
        "Token ids are those",
        &[Tests(OF_GGUF, &["token_ids_are_the_librarys", "pieces_are_those_of_sentencepiece"])],
    ),
    row("An answer ends at the ids", &[Tests(OF_GGUF, &["an_engine_has_the_texts_of_its_file"])]),
    row("Adapters are PEFT's", &[Tests(OF_GGUF, &["adapters_are_those_of_peft"])]),
    row("Build with `--maxLoraRank`.", &[NoClaim]),
];

const DIFFERENT: &[Row] = &[
    row(
        "Of memory each tool takes",
        &[
            Tests("tests/process_memory.rs", &["one_tensor_is_in_memory_at_a_time"]),
            Measured("scripts/bench-tools"),
        ],
    ),
    row("`scripts/bench-tools` measures", &[Measured("scripts/bench-tools")]),
    row("`merge-lora` | holds", &[Measured("scripts/bench-merge")]),
    row(
        "`process-lora` | wrong for rsLoRA",
        &[Tests(TOOLS, &["processed_adapters_equal_the_references_byte_for_byte"])],
    ),
    row(
        "`quantize-llm` | needs a GPU",
        &[Run, Tests("tests/library/quantize_llm.rs", &["scales_of_the_text_beat_plain_rounding"])],
    ),
    row("`export-llm` | a graph with", &[Check(checks::graphs_are_of_the_standard)]),
    row(
        "`insert-lora` | breaks some graphs",
        &[Tests(ONNX, &["adapter_inputs_are_named_after_modules_and_every_reader_keeps_its_order"])],
    ),
    row(
        "`llm_build` | TensorRT",
        &[
            Tests(
                ONNX,
                &[
                    "directories_of_the_workflow_build_the_checkpoints_engine",
                    "exported_directories_build_the_checkpoints_engine",
                ],
            ),
            Tests(
                "tests/program/refusals.rs",
                &["an_engine_without_a_tokenizer_is_made_when_it_is_asked_for"],
            ),
        ],
    ),
    row(
        "`llm_inference` | one adapter per batch",
        &[Run, Tests("tests/program/service.rs", &["a_bad_request_fails_alone"])],
    ),
    row(
        "ONNX directories of the workflow's own tools",
        &[
            Tests(
                ONNX,
                &[
                    "directories_of_the_workflow_build_the_checkpoints_engine",
                    "quantized_layouts_give_the_logits_of_transformers",
                ],
            ),
            Tests(QUANTIZED, &["logits_equal_those_of_the_dequantized_weights"]),
        ],
    ),
    row("What `quantize-llm` of 0.5 leaves", &[Check(checks::ranges_alone_are_refused)]),
    row("Quantize the original again.", &[NoClaim]),
];

const QUANTIZED: &str = "tests/library/quantized/numbers.rs";

const MANUAL: &[Proof] =
    &[Tests("tests/documents/manual.rs", &["pages_have_the_flags_of_the_help", "pages_have_their_sections"])];

/// What each command does is the matter of its own tests; that it is there under these names is that of its page.
const COMMANDS: &[Row] = &[
    row("`serve` |", MANUAL),
    row("`run` |", MANUAL),
    row("`ask` |", MANUAL),
    row("`list` |", MANUAL),
    row("`build` |", MANUAL),
    row("`process-lora` | `tensorrt", MANUAL),
    row("`quantize-llm` | `tensorrt", MANUAL),
    row("`merge-lora` | `tensorrt", MANUAL),
    row("`export-llm` | `tensorrt", MANUAL),
    row("`insert-lora` | `tensorrt", MANUAL),
    row("`submit`, `status`", MANUAL),
    row("`hold`, `release`", MANUAL),
    row("`bridge`, `fleet`", MANUAL),
    row("`doctor` |", MANUAL),
    row("`inspect` |", MANUAL),
    row("`logits` |", MANUAL),
    row("`bench` |", MANUAL),
    row("`tune` |", MANUAL),
    row("`jetspool COMMAND --help`", MANUAL),
];
