//! What the workflow's documents and our page on it say, sentence by sentence, each held by a check or by a test.

mod checks;
mod documented;
mod page;
mod proof;
mod said;
mod sentences;
