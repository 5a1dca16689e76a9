//! Where an export goes: a new file, or standard output.
//!
//! A file has no name until it is whole and on disk, so that an export that fails, or is killed, leaves nothing; and nothing that
//! is there is ever written over. Where the file system has no files without a name, `FILE.part` stands beside it meanwhile.

use super::super::super::fail::Failure;
use flate2::Compression;
use flate2::write::GzEncoder;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal as _, Stdout, Write};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Logs may hold what is nobody else's business.
const MODE: u32 = 0o600;
/// As zstd's own.
const ZSTD_LEVEL: i32 = 3;
/// Stands for standard output.
const STDOUT: &str = "-";

/// A target that takes bytes, packed or not.
pub struct Target {
    name: String,
    sink: Sink,
}

enum Sink {
    Plain(Bottom),
    Gzip(GzEncoder<Bottom>),
    Zstd(zstd::Encoder<'static, Bottom>),
}

enum Bottom {
    Stdout(Stdout),
    File(NewFile),
}

/// A file that gets its name at the end.
struct NewFile {
    file: File,
    path: PathBuf,
    /// Its name until then, if it must have one.
    part: Option<PathBuf>,
}

#[derive(Clone, Copy)]
enum Packing {
    None,
    Gzip,
    Zstd,
}

impl Target {
    /// Opens it; nothing is to be seen of it yet.
    ///
    /// # Errors
    /// It exists, cannot be made, or its name does not say what it is.
    pub fn open(name: &str) -> Result<Self, Failure> {
        let name = name.to_owned();
        if name == STDOUT {
            if io::stdout().is_terminal() {
                let why = "a tar archive is not for a terminal: give a file, or put a program behind it (| tar -tv)";
                return Err(Failure::Usage(why.to_owned()));
            }
            return Ok(Self { name, sink: Sink::Plain(Bottom::Stdout(io::stdout())) });
        }
        let packing = packing(&name)
            .ok_or_else(|| Failure::Usage(format!("{name}: a name ends with .tar, .tar.gz or .tar.zst, or is -")))?;
        let file = NewFile::open(Path::new(&name)).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => exists(&name),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => no_room(&name),
            _ => Failure::Usage(format!("cannot make {name}: {error}")),
        })?;
        let bottom = Bottom::File(file);
        let sink = match packing {
            Packing::None => Sink::Plain(bottom),
            Packing::Gzip => Sink::Gzip(GzEncoder::new(bottom, Compression::default())),
            Packing::Zstd => {
                let mut encoder = zstd::Encoder::new(bottom, ZSTD_LEVEL).map_err(|error| fault(&name, &error))?;
                encoder.include_checksum(true).map_err(|error| fault(&name, &error))?;
                Sink::Zstd(encoder)
            }
        };
        Ok(Self { name, sink })
    }

    /// As it was given; None: standard output.
    pub fn name(&self) -> Option<&str> {
        Some(self.name.as_str()).filter(|name| *name != STDOUT)
    }

    /// Where files that are needed meanwhile have room.
    pub fn directory(&self) -> PathBuf {
        self.name().map_or_else(std::env::temp_dir, |name| directory(Path::new(name)).to_owned())
    }

    /// What an error of writing means.
    pub fn fault(&self, error: &io::Error) -> Failure {
        fault(&self.name, error)
    }

    /// All is written: on disk, and under its name.
    ///
    /// # Errors
    /// It could not be; then it is not there.
    pub fn settle(self) -> Result<(), Failure> {
        let name = self.name;
        let settle = || match self.sink {
            Sink::Plain(bottom) => bottom.settle(),
            Sink::Gzip(encoder) => encoder.finish()?.settle(),
            Sink::Zstd(encoder) => encoder.finish()?.settle(),
        };
        settle().map_err(|error| fault(&name, &error))
    }
}

impl Write for Target {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.sink {
            Sink::Plain(bottom) => bottom.write(bytes),
            Sink::Gzip(encoder) => encoder.write(bytes),
            Sink::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.sink {
            Sink::Plain(bottom) => bottom.flush(),
            Sink::Gzip(encoder) => encoder.flush(),
            Sink::Zstd(encoder) => encoder.flush(),
        }
    }
}

impl Bottom {
    fn settle(self) -> io::Result<()> {
        match self {
            Self::Stdout(mut out) => out.flush(),
            Self::File(file) => file.settle(),
        }
    }
}

impl Write for Bottom {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stdout(out) => out.write(bytes),
            Self::File(file) => file.file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Stdout(out) => out.flush(),
            Self::File(file) => file.file.flush(),
        }
    }
}

/// How a directory says that it cannot be flushed by us.
const UNFLUSHED: [io::ErrorKind; 3] =
    [io::ErrorKind::PermissionDenied, io::ErrorKind::InvalidInput, io::ErrorKind::Unsupported];

impl NewFile {
    fn open(path: &Path) -> io::Result<Self> {
        // Before hours of work; at the end it is looked at again.
        if path.symlink_metadata().is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        match rustix::fs::open(directory(path), flags, Mode::from_raw_mode(MODE)) {
            Ok(file) => Ok(Self { file: file.into(), path: path.to_owned(), part: None }),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT | Errno::INVAL) => Self::named(path),
            Err(error) => Err(error.into()),
        }
    }

    fn named(path: &Path) -> io::Result<Self> {
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        let file =
            OpenOptions::new().write(true).create_new(true).mode(MODE).open(&part).map_err(|error| {
                match error.kind() {
                    io::ErrorKind::AlreadyExists => {
                        io::Error::other(format!("{} is there, of an export that runs or broke off", part.display()))
                    }
                    _ => error,
                }
            })?;
        Ok(Self { file, path: path.to_owned(), part: Some(part) })
    }

    fn settle(mut self) -> io::Result<()> {
        self.file.sync_all()?;
        match &self.part {
            None => {
                let own = format!("/proc/self/fd/{}", self.file.as_raw_fd());
                rustix::fs::linkat(CWD, own, CWD, &self.path, AtFlags::SYMLINK_FOLLOW)?;
            }
            Some(part) => match rustix::fs::renameat_with(CWD, part, CWD, &self.path, RenameFlags::NOREPLACE) {
                Ok(()) => self.part = None,
                // NFS, for one, cannot; but it has links.
                Err(Errno::INVAL | Errno::NOSYS) => std::fs::hard_link(part, &self.path)?,
                Err(error) => return Err(error.into()),
            },
        }
        // The archive is there and whole. A directory that may be written but not read cannot be flushed, some file systems flush none.
        match File::open(directory(&self.path)).and_then(|directory| directory.sync_all()) {
            Err(error) if !UNFLUSHED.contains(&error.kind()) => {
                drop(std::fs::remove_file(&self.path));
                Err(error)
            }
            _ => Ok(()),
        }
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if let Some(part) = &self.part {
            drop(std::fs::remove_file(part));
        }
    }
}

fn packing(name: &str) -> Option<Packing> {
    let endings =
        [(".tar", Packing::None), (".tar.gz", Packing::Gzip), (".tgz", Packing::Gzip), (".tar.zst", Packing::Zstd)];
    endings.into_iter().find(|(ending, _)| name.ends_with(ending)).map(|(_, packing)| packing)
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn exists(name: &str) -> Failure {
    Failure::Usage(format!("{name} exists, and is not written over: give another name, or remove it"))
}

fn no_room(name: &str) -> Failure {
    Failure::Temporary(format!("there is no room for {name}; nothing was left of it. Export less, or elsewhere"))
}

fn fault(name: &str, error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::AlreadyExists => exists(name),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge if name != STDOUT => {
            no_room(name)
        }
        // Of other output the beginning is of use.
        io::ErrorKind::BrokenPipe => {
            Failure::Error("whoever reads the archive went away before its end: it is not whole".to_owned())
        }
        _ if name == STDOUT => Failure::Error(format!("cannot write the archive: {error}; it is not whole")),
        _ => Failure::Error(format!("cannot write {name}: {error}; nothing was left of it")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(dir).unwrap().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn a_file_is_there_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.tar");
        for named in [false, true] {
            let open = || if named { NewFile::named(&path) } else { NewFile::open(&path) };
            let mut file = open().unwrap();
            file.file.write_all(b"half").unwrap();
            drop(file);
            assert!(names(dir.path()).is_empty(), "named: {named}");
            let mut file = open().unwrap();
            file.file.write_all(b"whole").unwrap();
            file.settle().unwrap();
            assert_eq!((names(dir.path()), std::fs::read(&path).unwrap()), (vec!["a.tar".to_owned()], b"whole".into()));
            std::fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn nothing_is_written_over_not_even_at_the_last_moment() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.tar");
        for named in [false, true] {
            let file = if named { NewFile::named(&path) } else { NewFile::open(&path) };
            std::fs::write(&path, "somebody else's").unwrap();
            assert_eq!(file.unwrap().settle().unwrap_err().kind(), io::ErrorKind::AlreadyExists, "named: {named}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), "somebody else's");
            assert_eq!(names(dir.path()), ["a.tar"]);
            std::fs::remove_file(&path).unwrap();
        }
        std::os::unix::fs::symlink("nowhere", &path).unwrap();
        assert_eq!(NewFile::open(&path).err().unwrap().kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn a_name_says_how_it_is_packed() {
        for (name, known) in
            [("a.tar", true), ("a.tar.gz", true), ("a.tgz", true), ("a.tar.zst", true), ("a.zip", false)]
        {
            assert_eq!(packing(name).is_some(), known, "{name}");
        }
    }
}
