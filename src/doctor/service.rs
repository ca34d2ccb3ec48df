//! Whose eyes look: the service's user where that is possible, so that what it may not do is found.

use std::ffi::CString;
use std::io;
use std::process::{Command, Stdio};

use nix::unistd::{Uid, User, geteuid, initgroups, setgid, setuid};

use super::finding::Finding;
use super::options::{DoctorOptions, SERVICE_USER};
use super::unit::Unit;

/// Who runs the doctor.
pub enum Viewer {
    /// Root, who can become the service's user.
    Root { user: User },
    /// Root, but the service's user is not there.
    NoUser { name: String },
    /// The service's user itself, or a machine that is made up.
    Service,
    /// Somebody whose rights are not the service's.
    Other { name: String, service: String },
}

impl Viewer {
    pub fn of(options: &DoctorOptions, unit: Option<&Unit>) -> Self {
        if !options.is_real() {
            return Self::Service;
        }
        let name = unit.and_then(|unit| unit.user.clone()).unwrap_or_else(|| SERVICE_USER.to_owned());
        let user = User::from_name(&name).ok().flatten();
        let me = geteuid();
        match user {
            Some(user) if user.uid == me => Self::Service,
            Some(user) if me.is_root() => Self::Root { user },
            None if me.is_root() => Self::NoUser { name },
            _ => Self::Other { name: name_of(me), service: name },
        }
    }

    /// The service's user, where it is known.
    pub fn service_user(&self) -> Option<&User> {
        match self {
            Self::Root { user } => Some(user),
            _ => None,
        }
    }

    /// What cannot be seen.
    pub fn finding(&self) -> Option<Finding> {
        match self {
            Self::Root { .. } | Self::Service => None,
            Self::NoUser { name } => Some(
                Finding::problem("user", format!("there is no user {name}: nobody can be the service"))
                    .command("systemd-sysusers jetspool.conf"),
            ),
            Self::Other { name, service } => Some(
                Finding::note(
                    "user",
                    format!(
                        "seen as {name}: not known is whether {service} may write to the spool, lock it, read \
                         the engine and the adapters, and watch memory pressure, nor what {name} may not read"
                    ),
                )
                .command("jetspool doctor"),
            ),
        }
    }
}

fn name_of(uid: Uid) -> String {
    User::from_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name)
}

/// Gives root's rights away for good, as the service manager does.
pub fn become_user(name: &str) -> io::Result<()> {
    let user = User::from_name(name)?;
    let user = user.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "there is no such user"))?;
    initgroups(&CString::new(name)?, user.gid)?;
    setgid(user.gid)?;
    Ok(setuid(user.uid)?)
}

/// What a doctor finds that is the service's user.
pub fn ask(options: &DoctorOptions, user: &User) -> Vec<Finding> {
    let mut command = Command::new("/proc/self/exe");
    command.args(["doctor", "--json", "--as-service-user", &user.name, "--config"]).arg(&options.config);
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let findings = output.and_then(|output| {
        serde_json::from_slice::<Vec<Finding>>(&output.stdout)
            .map_err(|error| io::Error::other(format!("{error}; it ended with {}", output.status)))
    });
    findings.unwrap_or_else(|error| {
        let what = format!("a doctor as {} cannot be heard: {error}", user.name);
        vec![Finding::problem("user", what).advice(format!("runuser -u {} -- jetspool doctor", user.name))]
    })
}
