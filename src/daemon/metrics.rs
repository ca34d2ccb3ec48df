//! The report as metrics for node_exporter's textfile collector (Prometheus text exposition format 0.0.4).

use std::fmt::Write;

use crate::spool::report::{Report, State};

/// One metric without labels.
struct Metric {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    value: f64,
}

/// The text of the metrics file. `spool` tells the instances of a machine apart.
pub fn text(report: &Report, spool: &str) -> String {
    let mut text = String::new();
    let label = escaped(spool);
    for Metric { name, kind, help, value } in metrics(report) {
        // Writing to a string does not fail.
        let _ = write!(
            text,
            "# HELP jetspool_{name} {help}\n# TYPE jetspool_{name} {kind}\njetspool_{name}{{spool=\"{label}\"}} {value}\n"
        );
    }
    text
}

fn metrics(report: &Report) -> Vec<Metric> {
    let counter = |name, help, value: u64| Metric { name, kind: "counter", help, value: value as f64 };
    let gauge = |name, help, value: f64| Metric { name, kind: "gauge", help, value };
    let (totals, memory, queue) = (&report.totals, &report.memory, &report.queue);
    vec![
        gauge("up", "1 until the daemon begins to end.", f64::from(report.state != State::Stopping)),
        gauge("ready_timestamp_seconds", "When the daemon was ready.", report.started),
        gauge("written_timestamp_seconds", "When this was written.", report.written),
        gauge("trouble", "1 while the disk refuses something.", f64::from(report.trouble.is_some())),
        counter(
            "files_answered_total",
            "Request files with an answer to each request.",
            totals.files_answered,
        ),
        counter(
            "files_rejected_total",
            "Request files that were rejected as a whole.",
            totals.files_rejected,
        ),
        counter("requests_answered_total", "Requests with an answer.", totals.requests_answered),
        counter("requests_failed_total", "Requests with an error for an answer.", totals.requests_failed),
        counter("prompt_tokens_total", "Tokens of prompts that were read.", totals.prompt_tokens),
        counter(
            "cached_tokens_total",
            "Tokens of prompts that another request had begun with.",
            totals.cached_tokens,
        ),
        counter("generated_tokens_total", "Tokens that were generated.", totals.generated_tokens),
        counter("errors_total", "Errors of the daemon itself.", totals.errors),
        gauge("files_waiting", "Request files that wait.", queue.n_waiting as f64),
        gauge("files_open", "Request files under way.", queue.n_open as f64),
        gauge("files_partial", "Files in new/ that are not whole yet.", queue.n_partial as f64),
        gauge("requests_running", "Requests under way.", queue.n_running as f64),
        gauge("adapters_mapped", "Adapter files that are mapped.", report.n_adapters_mapped as f64),
        gauge("memory_file_backed_bytes", "Resident pages of files.", memory.file_backed as f64),
        gauge("memory_anonymous_bytes", "Resident private pages.", memory.anonymous as f64),
        gauge("memory_swap_bytes", "Pages in swap.", memory.swap as f64),
        gauge("kv_in_use_bytes", "Keys and values of requests under way.", memory.kv_in_use as f64),
        gauge("kv_cached_bytes", "Keys and values kept for requests to come.", memory.kv_cached as f64),
        gauge("kv_capacity_bytes", "What keys and values may take.", memory.kv_capacity as f64),
    ]
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
