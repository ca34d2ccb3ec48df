//! What a command prints when it is done.

use std::fmt::Display;
use std::io::{self, Write};

use super::Stop;
use super::bench::BenchArgs;
use crate::compress::QuantizeReport;
use crate::count::Count;
use crate::probe::BenchReport;
use crate::tools::{BuildReport, ExportReport, InsertReport, MergeReport, ProcessReport};

/// Prints a text and a line end.
///
/// # Errors
/// [`Stop`] when stdout cannot be written; a closed pipe is none.
pub fn show(text: &dyn Display) -> Result<(), Stop> {
    let text = text.to_string();
    let mut out = io::stdout().lock();
    Stop::of_output(writeln!(out, "{}", text.trim_end_matches('\n')).and_then(|()| out.flush()))
}

/// Prints what `build` made.
///
/// # Errors
/// As [`show`].
pub fn show_build(report: &BuildReport) -> Result<(), Stop> {
    for warning in &report.warnings {
        tracing::warn!("{warning}");
    }
    let config = &report.config;
    show(&format_args!(
        "{}: {} engine, {} ({}), {:.1} MB, {}, adapters up to rank {}",
        report.engine_dir.display(),
        config.architecture.family.name(),
        config.precision,
        report.kinds,
        report.n_bytes as f64 / 1e6,
        Count(report.n_tensors, "tensor"),
        config.limits.max_lora_rank
    ))
}

/// Prints what `process-lora` made.
///
/// # Errors
/// As [`show`].
pub fn show_process(report: &ProcessReport) -> Result<(), Stop> {
    let ProcessReport { path, n_pairs, max_rank, dropped, notes } = report;
    for note in notes {
        tracing::warn!("{note}");
    }
    for name in dropped {
        tracing::warn!("left out: {name}");
    }
    show(&format_args!("{}: {n_pairs} adapted projections, rank up to {max_rank}", path.display()))
}

/// Prints what `merge-lora` made.
///
/// # Errors
/// As [`show`].
pub fn show_merge(report: &MergeReport) -> Result<(), Stop> {
    for warning in &report.warnings {
        tracing::warn!("{warning}");
    }
    let MergeReport { output_dir, n_merged, n_replaced, n_tensors, dtype, n_bytes, .. } = report;
    let replaced = if *n_replaced > 0 { format!(", {n_replaced} replaced") } else { String::new() };
    show(&format_args!(
        "{}: {n_merged} matrices merged{replaced}, {}, {dtype}, {:.1} MB",
        output_dir.display(),
        Count(*n_tensors, "tensor"),
        *n_bytes as f64 / 1e6
    ))
}

/// Prints what `export-llm` made.
///
/// # Errors
/// As [`show`].
pub fn show_export(report: &ExportReport) -> Result<(), Stop> {
    for warning in &report.warnings {
        tracing::warn!("{warning}");
    }
    let ExportReport { output_dir, n_layers, n_bytes, .. } = report;
    let megabytes = *n_bytes as f64 / 1e6;
    show(&format_args!(
        "{}: model.onnx, {n_layers} layers, {megabytes:.1} MB of weights",
        output_dir.display()
    ))
}

/// Prints what `insert-lora` made.
///
/// # Errors
/// As [`show`].
pub fn show_insert(report: &InsertReport) -> Result<(), Stop> {
    let InsertReport { path, n_pairs, n_layers } = report;
    show(&format_args!("{}: inputs for {n_pairs} adapted projections in {n_layers} layers", path.display()))
}

/// Prints what `quantize-llm` made and what it cost.
///
/// # Errors
/// As [`show`].
pub fn show_quantize(report: &QuantizeReport) -> Result<(), Stop> {
    for warning in &report.warnings {
        tracing::warn!("{warning}");
    }
    show(report)
}

/// Prints what `bench` measured.
///
/// # Errors
/// As [`show`].
pub fn show_bench(args: &BenchArgs, report: &BenchReport) -> Result<(), Stop> {
    if args.json { show(&report.to_json()) } else { show(report) }
}
