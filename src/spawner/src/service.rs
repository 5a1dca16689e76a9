//! `--policy FILE`: a spawner as a service of root, of the kind that the file says. It stays in the foreground, jobs outlive
//! it, SIGTERM ends it at once and SIGHUP makes it execute the program that its policy names, in the same process.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use rustix::net::SocketFlags;
use serde::Deserialize;

use crate::notes::Notes;
use crate::{policy_file, server, unit};

/// Why a service's loop ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// It was asked to.
    End,
    /// It is to execute its program anew.
    Upgrade,
}

/// As much as says who reads the rest.
#[derive(Deserialize)]
struct Kind {
    kind: String,
}

/// Everything from the file to the end; the process' exit code.
pub(crate) fn main(words: &[OsString]) -> i32 {
    let [_, path] = words else {
        eprintln!("ci-runner-spawner: --policy takes one file and no other option");
        return 3;
    };
    if let Err(why) = crate::failpoint::arm_from_environment() {
        eprintln!("ci-runner-spawner: {why}");
        return 3;
    }
    let path = Path::new(path);
    let served = policy_file::read(path).and_then(|text| {
        let kind: Kind = serde_json::from_str(&text).map_err(|error| format!("does not parse: {error}"))?;
        let notes = settle();
        match kind.kind.as_str() {
            unit::KIND => unit::serve(&text, words, notes),
            server::service::KIND => server::service::serve(&text, words, notes),
            other => Err(format!("kind is {other:?}; this version knows \"systemd\" and \"native\"")),
        }
    });
    served.unwrap_or_else(|why| {
        eprintln!("ci-runner-spawner: policy {}: {why}", path.display());
        3
    })
}

/// What the program before us in this process left.
fn settle() -> Option<Notes> {
    let notes = Notes::left();
    crate::sys::own_signals();
    let _ = rustix::process::chdir("/");
    // Logs are for the group too; everything else has its mode named.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o007));
    notes
}

/// Executes the program that the policy names now: a new package writes a new policy, and only then asks for a reload. It
/// gets the pipe that `notes` is the end of. None: it cannot be, which was said, and the loop goes on; else the exit code.
pub(crate) fn upgrade(
    words: &[OsString],
    notes: &OwnedFd,
    program_of: impl Fn(&str) -> Result<PathBuf, String>,
) -> Option<i32> {
    let path = words.last().map(Path::new).ok_or("there is no policy".to_owned());
    let program = path.and_then(policy_file::read).and_then(|text| program_of(&text)).and_then(|program| {
        rustix::fs::access(&program, rustix::fs::Access::EXEC_OK)
            .map_err(|error| format!("{} cannot be executed: {error}", program.display()))?;
        Ok(program)
    });
    match program {
        Err(why) => {
            say!("asked to upgrade, and goes on as it is: {why}");
            None
        }
        Ok(program) => {
            say!("asked to upgrade: executing {}", program.display());
            // It finds the limit that we found, and jobs of both get the same.
            crate::cores::give_back();
            let mut command = std::process::Command::new(&program);
            crate::notes::leave(notes, &mut command);
            let error = command.args(words).exec();
            // Signals are at their defaults and some limits are given back by now: no way back.
            say!("cannot execute {}: {error}", program.display());
            Some(1)
        }
    }
}

/// Tells the service manager, where there is one, that the socket listens.
pub(crate) fn notify_ready() {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let send = || -> rustix::io::Result<()> {
        let flags = SocketFlags::CLOEXEC;
        let socket =
            rustix::net::socket_with(rustix::net::AddressFamily::UNIX, rustix::net::SocketType::DGRAM, flags, None)?;
        let address = match path.as_encoded_bytes().strip_prefix(b"@") {
            Some(name) => rustix::net::SocketAddrUnix::new_abstract_name(name)?,
            None => rustix::net::SocketAddrUnix::new(&path)?,
        };
        rustix::net::sendto(&socket, b"READY=1", rustix::net::SendFlags::NOSIGNAL, &address)?;
        Ok(())
    };
    if let Err(error) = send() {
        say!("cannot tell the service manager that the socket listens: {error}");
    }
}
