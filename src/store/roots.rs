//! Which paths a request may name: those that, links followed, lie inside the allowed directories.

use std::fs;
use std::path::{Path, PathBuf};

use super::StoreError;
use crate::format::checkpoint::shards::is_plain_name;

/// The allowed directories of the configuration.
#[derive(Debug, Clone)]
pub struct AllowedRoots {
    roots: Vec<PathBuf>,
}

impl AllowedRoots {
    /// Directories that do not exist yet may be named; they allow nothing until they do.
    pub fn new(roots: Vec<PathBuf>) -> Self {
        Self { roots }
    }

    /// The real path, free of links, if it lies in one of the roots.
    ///
    /// # Errors
    /// [`StoreError::OutsideRoots`] names the roots; [`StoreError::Io`] when a path inside them is not there.
    pub fn resolve(&self, path: &Path) -> Result<PathBuf, StoreError> {
        let outside = || StoreError::OutsideRoots { path: path.to_owned(), roots: self.to_string() };
        let inside = |real: &Path| {
            let mut roots = self.roots.iter().filter_map(|root| fs::canonicalize(root).ok());
            roots.any(|root| real != root && real.starts_with(root))
        };
        match fs::canonicalize(path) {
            Ok(real) if inside(&real) => Ok(real),
            Ok(_) => Err(outside()),
            // What is outside is not told to exist or not.
            Err(source) => match path.ancestors().skip(1).find_map(real_directory) {
                Some(parent) if inside(&parent.join("x")) => Err(StoreError::io(path, "open")(source)),
                _ => Err(outside()),
            },
        }
    }
}

/// Free of links; that of the empty path is the current directory.
fn real_directory(path: &Path) -> Option<PathBuf> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    fs::canonicalize(path).ok()
}

impl std::fmt::Display for AllowedRoots {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<String> = self.roots.iter().map(|root| root.display().to_string()).collect();
        f.write_str(&if names.is_empty() { "none are configured".to_owned() } else { names.join(", ") })
    }
}

/// A name that is used as one component of a path.
///
/// # Errors
/// [`StoreError::NotPlainName`] for an empty one, `.`, `..`, and any with a slash, backslash or NUL.
///
/// ```
/// use jetspool::store::roots::plain_name;
///
/// assert!(plain_name("french").is_ok());
/// assert!(plain_name("../french").is_err());
/// ```
pub fn plain_name(name: &str) -> Result<&str, StoreError> {
    if is_plain_name(name) { Ok(name) } else { Err(StoreError::NotPlainName { path: name.into() }) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_and_dots_do_not_lead_out() {
        let dir = tempfile::tempdir().unwrap();
        let base = fs::canonicalize(dir.path()).unwrap();
        for name in ["in", "in/sub", "out", "inner"] {
            fs::create_dir(base.join(name)).unwrap();
        }
        for name in ["in/a", "in/sub/b", "out/c", "inner/d"] {
            fs::write(base.join(name), b"x").unwrap();
        }
        symlink(base.join("out/c"), base.join("in/link_out")).unwrap();
        symlink(base.join("out"), base.join("in/dir_out")).unwrap();
        symlink(base.join("in/a"), base.join("out/link_in")).unwrap();
        let roots = AllowedRoots::new(vec![base.join("in"), base.join("nothing")]);
        for good in ["in/a", "in/sub/b", "in/sub/../a", "out/link_in"] {
            assert!(roots.resolve(&base.join(good)).is_ok(), "{good}");
        }
        for bad in [
            "out/c",
            "inner/d",
            "in/link_out",
            "in/dir_out/c",
            "in/../out/c",
            "in",
            "out/none",
            "in/dir_out/none",
        ] {
            let error = roots.resolve(&base.join(bad)).unwrap_err();
            assert!(matches!(error, StoreError::OutsideRoots { .. }), "{bad}: {error}");
            assert!(error.to_string().contains(&base.join("in").display().to_string()));
        }
        assert!(roots.resolve(&base.join("in/none")).unwrap_err().is_not_found());
        assert!(AllowedRoots::new(vec![]).resolve(&base.join("in/a")).is_err());
    }

    #[test]
    fn names_are_not_paths() {
        for bad in ["", ".", "..", "a/b", "/a", "../a", "a\\b", "a\0"] {
            assert!(plain_name(bad).is_err(), "{bad:?}");
        }
        for good in ["a", "french", ".hidden", "a..b"] {
            assert!(plain_name(good).is_ok(), "{good}");
        }
    }
}
