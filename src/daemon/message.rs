//! What a line of the log is about, for those who search the journal: `journalctl MESSAGE_ID=...` (see
//! docs/install.md). An id stays the same whatever the words say.

/// The spool is recovered and the engine tried.
pub const READY: &str = "37d2504eb7504d28a0507657d7f58095";
/// The configuration was read again.
pub const RELOADED: &str = "79c3f8d252204348a9988830e439497a";
/// The configuration could not be read again; the old one stays.
pub const RELOAD_REFUSED: &str = "b7488e2ab600445fac05dc1d94d3b1dc";
/// The daemon was told to end and has done so.
pub const ENDED: &str = "db70c89e71744046a88b8747929ba941";
/// An answer is in out/, with an entry for each request.
pub const JOB_ANSWERED: &str = "6de916697a934bf8b8a36605edc2554b";
/// A file was rejected as a whole; its answer says why.
pub const JOB_REJECTED: &str = "e986bca0364f4169a295c9c2cf06bc89";
/// A request is answered (level debug).
pub const REQUEST_ANSWERED: &str = "352b9d6f6d8b46a3bfa5cef676be7e4e";
/// A request failed; its entry says why.
pub const REQUEST_FAILED: &str = "d09cd2fbedfb40b2a9ea9fc0fe65b625";
/// The disk refuses something; jobs are kept and it is tried again.
pub const SPOOL_TROUBLE: &str = "9231abadc21f4888990e4329de5c46e2";
/// The trouble with the disk is over.
pub const SPOOL_WELL: &str = "06d215900586491b86e262b287ce8706";
