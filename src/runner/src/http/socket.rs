//! The unix socket's file: made so that at no moment somebody can connect whom its mode forbids, and a file left behind by a
//! daemon that was killed is replaced, while a socket that answers never is.

use super::peer::name_of;
use rustix::fs::{FileType, Mode};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// Longest path the kernel takes: `sun_path` less its closing NUL.
pub const SOCKET_PATH_BYTES_MAX: usize = 107;
/// Only root and the owner connect.
const MODE_OWNER: u32 = 0o600;
/// And the group.
const MODE_GROUP: u32 = 0o660;
/// Connections that wait to be accepted; the kernel cuts it to `somaxconn`.
const BACKLOG: i32 = 1_024;

/// Why the socket cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Longer than the kernel takes.
    #[error(
        "the socket path {path} has {bytes} bytes, at most {SOCKET_PATH_BYTES_MAX} are possible; \
         choose a shorter --runtime-dir or --socket"
    )]
    TooLong {
        /// Path.
        path: PathBuf,
        /// Its length.
        bytes: usize,
    },
    /// Somebody answers there. The daemon ends with exit code 2.
    #[error("the socket {path} is in use by another daemon; stop that one, or choose another --socket")]
    InUse {
        /// Path.
        path: PathBuf,
    },
    /// Something else has the name.
    #[error("{path} is there and is no socket; remove it, or choose another --socket")]
    NoSocket {
        /// Path.
        path: PathBuf,
    },
    /// The system said no.
    #[error("cannot {doing} the socket {path}")]
    Io {
        /// What we were doing.
        doing: &'static str,
        /// Path.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Makes the socket and listens: mode 0660 where the daemon's group is its own, that is, has the name of its user (`ci-runner`
/// as a service); 0600 where it is one that others are in for other reasons, such as `users`. To be called inside a runtime.
pub fn bind_unix(path: &Path) -> Result<tokio::net::UnixListener, BindError> {
    let failed = |source| BindError::Io { doing: "listen on", path: path.to_owned(), source };
    tokio::net::UnixListener::from_std(listen_on(path)?).map_err(failed)
}

/// As [`bind_unix`], for a thread.
pub fn listen_on(path: &Path) -> Result<UnixListener, BindError> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let mode = if is_own_group(uid, gid) { MODE_GROUP } else { MODE_OWNER };
    listen_unix(path, mode)
}

fn is_own_group(uid: u32, gid: u32) -> bool {
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let user = name_of(&users, uid);
    user.is_some() && user == name_of(&groups, gid)
}

/// The mode is set between `bind` and `listen`: a socket that does not listen yet refuses everybody.
fn listen_unix(path: &Path, mode: u32) -> Result<UnixListener, BindError> {
    let bytes = path.as_os_str().as_bytes().len();
    if bytes > SOCKET_PATH_BYTES_MAX {
        return Err(BindError::TooLong { path: path.to_owned(), bytes });
    }
    let failed = |doing| move |error: Errno| BindError::Io { doing, path: path.to_owned(), source: error.into() };
    let address = SocketAddrUnix::new(path).map_err(failed("name"))?;
    clear(path, &address)?;
    let socket = new_socket().map_err(failed("make"))?;
    bind(&socket, &address).map_err(failed("bind"))?;
    rustix::fs::chmod(path, Mode::from_raw_mode(mode)).map_err(failed("set the mode of"))?;
    listen(&socket, BACKLOG).map_err(failed("listen on"))?;
    Ok(UnixListener::from(socket))
}

fn new_socket() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

/// Removes a socket that nobody answers.
fn clear(path: &Path, address: &SocketAddrUnix) -> Result<(), BindError> {
    let failed = |doing, error: Errno| BindError::Io { doing, path: path.to_owned(), source: error.into() };
    match rustix::fs::lstat(path) {
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(failed("look at", error)),
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Socket => {}
        Ok(_) => return Err(BindError::NoSocket { path: path.to_owned() }),
    }
    let probe = new_socket().map_err(|error| failed("try", error))?;
    match connect(&probe, address) {
        Err(Errno::CONNREFUSED) => {}
        Err(Errno::NOENT) => return Ok(()),
        // A full queue of connections (EAGAIN) is an answer too.
        Ok(()) | Err(Errno::AGAIN | Errno::INPROGRESS) => return Err(BindError::InUse { path: path.to_owned() }),
        Err(error) => return Err(failed("try", error)),
    }
    match rustix::fs::unlink(path) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(failed("remove the old", error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_dead_socket_is_replaced_a_living_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.sock");
        let first = listen_unix(&path, MODE_OWNER).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let refused = listen_unix(&path, MODE_OWNER).unwrap_err();
        assert!(matches!(refused, BindError::InUse { .. }), "{refused}");
        UnixStream::connect(&path).expect("the first one goes on");
        drop(first);
        assert!(path.exists(), "the file stays, as after a kill");
        let _second = listen_unix(&path, MODE_GROUP).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        UnixStream::connect(&path).expect("the second one answers");
    }

    #[test]
    fn bad_paths_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let long = dir.path().join("x".repeat(120));
        let error = listen_unix(&long, MODE_OWNER).unwrap_err().to_string();
        assert!(error.contains("at most 107") && error.contains("--runtime-dir"), "{error}");
        let file = dir.path().join("file");
        std::fs::write(&file, "precious").unwrap();
        assert!(matches!(listen_unix(&file, MODE_OWNER), Err(BindError::NoSocket { .. })));
        assert_eq!(std::fs::read(&file).unwrap(), b"precious");
        let absent = dir.path().join("no/such/api.sock");
        assert!(matches!(listen_unix(&absent, MODE_OWNER), Err(BindError::Io { .. })));
    }
}
