//! Sealed memory files: how specifications and secrets travel. Once sealed nobody can change them, sender included.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{MemfdFlags, SealFlags};

/// Without these three the content could change under its reader.
fn seals() -> SealFlags {
    SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW
}

/// A sealed memory file with this content.
pub(crate) fn sealed(name: &str, content: &[u8]) -> io::Result<OwnedFd> {
    let fd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut rest = content;
    while !rest.is_empty() {
        match rustix::io::write(&fd, rest) {
            Ok(written) => rest = &rest[written..],
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    rustix::fs::fcntl_add_seals(&fd, seals())?;
    Ok(fd)
}

/// Says what is wrong with a memory file that was received; `what` names it.
pub(crate) fn check(fd: impl AsFd, what: &str, bytes_max: usize) -> Result<(), String> {
    match rustix::fs::fcntl_get_seals(&fd) {
        Ok(has) if has.contains(seals()) => {}
        Ok(_) => return Err(format!("the {what} is not sealed against writing, shrinking and growing")),
        Err(_) => return Err(format!("the {what} is not a memory file")),
    }
    match rustix::fs::fstat(&fd) {
        Ok(stat) if stat.st_size as u64 <= bytes_max as u64 => Ok(()),
        Ok(stat) => Err(format!("the {what} has {} bytes, the limit is {bytes_max}", stat.st_size)),
        Err(error) => Err(format!("the {what} cannot be looked at: {error}")),
    }
}

/// The whole content of a checked memory file.
pub(crate) fn read(fd: impl AsFd) -> io::Result<Vec<u8>> {
    let size = usize::try_from(rustix::fs::fstat(&fd)?.st_size).unwrap_or(0);
    let mut content = vec![0; size];
    let mut got = 0;
    while got < size {
        match rustix::io::pread(&fd, &mut content[got..], got as u64) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(more) => got += more,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sealed_memory_of_bounded_size_passes() {
        let good = sealed("x", b"hello").expect("made");
        assert_eq!(check(&good, "x", 5), Ok(()));
        assert_eq!(read(&good).expect("read"), b"hello");
        assert!(check(&good, "x", 4).is_err_and(|why| why.contains("5 bytes") && why.contains("limit is 4")));
        assert!(rustix::io::pwrite(&good, b"j", 0).is_err());
        let open = rustix::fs::memfd_create("x", MemfdFlags::ALLOW_SEALING).expect("made");
        assert!(check(&open, "x", 5).is_err_and(|why| why.contains("not sealed")));
        let file = std::fs::File::open("/proc/self/exe").expect("opens");
        assert!(check(&file, "x", 5).is_err_and(|why| why.contains("not a memory file")));
    }
}
