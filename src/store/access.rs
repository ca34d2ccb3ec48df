//! What this user may reach, and which group to join for what he may not.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::{AccessFlags, Gid, Group, Uid, User, access, geteuid};

/// Something that is closed to this user: itself, or a directory above it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// With owner, group and mode.
    pub found: String,
    pub wanted: String,
    /// The group to join, or whom to ask.
    pub advice: String,
}

/// Why this user has not the rights `need` to `path`; none if he has them, or if that is not the reason.
pub fn closed(path: &Path, need: AccessFlags) -> Option<Closed> {
    let (place, need) = match closed_ancestor(path) {
        Some(above) => (above, AccessFlags::X_OK),
        None if access(path, need) == Err(Errno::EACCES) => (path.to_owned(), need),
        None => return None,
    };
    let metadata = std::fs::metadata(&place).ok()?;
    let user = user_name(geteuid());
    let owner = user_name(Uid::from_raw(metadata.uid()));
    let group = group_name(Gid::from_raw(metadata.gid()));
    let is_itself = place == path;
    let what = if is_itself { "it".to_owned() } else { place.display().to_string() };
    let found = format!(
        "closed to {user}: {what} belongs to {owner}:{group} with mode {:o}",
        metadata.mode() & 0o7777
    );
    let advice = match is_open_to_group(&metadata, need) {
        true => format!("join the group: sudo usermod -aG {group} {user}, then log in again"),
        false if need.contains(AccessFlags::W_OK) => {
            "choose another place, or run the command with sudo".to_owned()
        }
        false if metadata.uid() == 0 => {
            format!("let it be read: sudo chmod -R a+rX {}", place.display())
        }
        false => format!("run the command as its owner: sudo -u {owner}, or as root"),
    };
    Some(Closed { found, wanted: format!("one that {user} may {}", verb(need, is_itself)), advice })
}

/// The first directory above that this user may not pass through.
pub fn closed_ancestor(path: &Path) -> Option<PathBuf> {
    let mut above: Vec<&Path> =
        path.ancestors().skip(1).filter(|path| !path.as_os_str().is_empty()).collect();
    above.reverse();
    let closed = above.into_iter().find(|path| access(*path, AccessFlags::X_OK) == Err(Errno::EACCES));
    closed.map(Path::to_owned)
}

/// The name of a user, or his number.
pub fn user_name(uid: Uid) -> String {
    User::from_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name)
}

fn group_name(gid: Gid) -> String {
    Group::from_gid(gid).ok().flatten().map_or_else(|| gid.to_string(), |group| group.name)
}

fn is_open_to_group(metadata: &Metadata, need: AccessFlags) -> bool {
    let bits = [(AccessFlags::R_OK, 0o040), (AccessFlags::W_OK, 0o020), (AccessFlags::X_OK, 0o010)];
    bits.into_iter().all(|(flag, bit)| !need.contains(flag) || metadata.mode() & bit != 0)
}

fn verb(need: AccessFlags, is_itself: bool) -> &'static str {
    match need {
        _ if !is_itself => "reach",
        need if need.contains(AccessFlags::W_OK) => "write to",
        _ => "read",
    }
}
