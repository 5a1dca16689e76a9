//! Which groups the process has that is at the other end of a unix socket: `SO_PEERGROUPS`, which rustix does not wrap.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Most groups of a process (`NGROUPS_MAX` of the kernel).
const GROUPS_MAX: usize = 65_536;
/// Enough for nearly everybody at the first try.
const GROUPS_USUAL: usize = 64;

/// The supplementary groups that the peer of a connected unix socket had when it connected: the kernel noted them then, so a
/// process id that was used again cannot lend others. Linux 4.13 and later; elsewhere `ENOPROTOOPT`.
pub fn peer_groups(socket: impl AsFd) -> io::Result<Vec<u32>> {
    let mut groups = vec![0_u32; GROUPS_USUAL];
    loop {
        let mut bytes = libc::socklen_t::try_from(size_of_val(groups.as_slice())).map_err(io::Error::other)?;
        // SAFETY: the buffer is as long as `bytes` says and outlives the call, which writes no more than that into it; every
        // pattern of bits is a u32.
        let done = unsafe {
            libc::getsockopt(
                socket.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &mut bytes,
            )
        };
        let count = bytes as usize / size_of::<u32>();
        if done == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        // The kernel says how long the buffer must be.
        if error.raw_os_error() != Some(libc::ERANGE) || count <= groups.len() || count > GROUPS_MAX {
            return Err(error);
        }
        groups.resize(count, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_the_groups_of_who_connected() {
        let (ours, _theirs) = std::os::unix::net::UnixStream::pair().expect("a pair");
        let mut told = peer_groups(&ours).expect("Linux 4.13 or later");
        let mut own: Vec<u32> = rustix::process::getgroups().expect("groups").iter().map(|gid| gid.as_raw()).collect();
        told.sort_unstable();
        own.sort_unstable();
        assert_eq!(told, own);
    }

    #[test]
    fn what_is_no_unix_socket_has_none() {
        assert!(peer_groups(std::fs::File::open("/dev/null").expect("it is there")).is_err());
    }
}
