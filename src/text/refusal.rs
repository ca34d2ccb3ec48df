//! What is not done for a template, and how wide it may write.

use minijinja::{Error, ErrorKind};

/// Widest text that padding makes, and widest field of `'{:20}'.format(…)` and `'%20s' % …`: what is written must stay
/// in proportion to the template.
pub(super) const MAX_WIDTH: usize = 1_000;

/// The error of a template that asks for it.
pub(super) fn refused(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, why.into())
}
