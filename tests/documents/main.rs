//! The documents, and what the package holds beside the program, against the program itself.

// A request with every field is one macro.
#![recursion_limit = "256"]

#[path = "../support/mod.rs"]
mod support;

// What writes the package's files; examples/package_files/main.rs has them by their own names.
#[cfg(not(emulated))]
#[path = "../../examples/package_files/completions.rs"]
mod completion_scripts;
#[cfg(not(emulated))]
#[path = "../../examples/package_files/man.rs"]
mod man;
#[cfg(not(emulated))]
#[path = "../../examples/package_files/markdown.rs"]
mod markdown;
#[cfg(not(emulated))]
#[path = "../../examples/package_files/roff.rs"]
mod roff;

// The same on every processor: scripts/check leaves them out where it emulates one.
#[cfg(not(emulated))]
mod blocks;
#[cfg(not(emulated))]
mod completions;
#[cfg(not(emulated))]
mod dashboard;
#[cfg(not(emulated))]
mod examples;
#[cfg(not(emulated))]
mod licences;
#[cfg(not(emulated))]
mod links;
#[cfg(not(emulated))]
mod manual;
#[cfg(not(emulated))]
mod producers;
#[cfg(not(emulated))]
mod request_schema;
