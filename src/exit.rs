//! The program's exit codes, by the names of sysexits.h. The help of every command says what each means.

/// Wrong usage.
pub const USAGE: u8 = 64;
/// Wrong data in a file, or some requests failed.
pub const DATA: u8 = 65;
/// No such input.
pub const NO_INPUT: u8 = 66;
/// Something that is needed is not available.
pub const UNAVAILABLE: u8 = 69;
/// A fault of the program.
pub const SOFTWARE: u8 = 70;
/// The system refused.
pub const SYSTEM: u8 = 71;
/// The output cannot be created.
pub const CANNOT_CREATE: u8 = 73;
/// A file cannot be read or written.
pub const IO: u8 = 74;
/// It may go better later.
pub const TRY_AGAIN: u8 = 75;
/// Not allowed.
pub const NOT_ALLOWED: u8 = 77;
/// Wrong configuration.
pub const CONFIGURATION: u8 = 78;
