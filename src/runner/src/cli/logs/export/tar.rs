//! Writes a tar archive: the POSIX format `ustar`, regular files only (IEEE Std 1003.1, "pax", "ustar Interchange Format").
//!
//! Names are short and ours. The two empty blocks at the end are written by [`Archive::finish`] and by nothing else, so that an
//! archive that broke off is seen to be none.

use std::io::{self, Write};

/// Everything comes in blocks of this size.
const BLOCK: usize = 512;
/// A name, without the prefix that `ustar` knows.
const NAME_BYTES_MAX: usize = 100;
/// Eleven octal digits; a larger size is written as a number of base 256, as GNU tar, libarchive and Python read it.
const OCTAL_SIZE_MAX: u64 = 0o777_7777_7777;

/// An archive that is being written.
pub struct Archive<W> {
    out: W,
}

/// A file in it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its path, at most 100 bytes.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// When it was changed last, seconds after 1970.
    pub modified_s: u64,
}

impl<W: Write> Archive<W> {
    /// Nothing is written yet.
    pub fn new(out: W) -> Self {
        Self { out }
    }

    /// Begins a file; exactly its size must follow, then [`Archive::end`].
    pub fn begin(&mut self, entry: &Entry) -> io::Result<()> {
        self.out.write_all(&header(entry)?)
    }

    /// Bytes of the file that was begun.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)
    }

    /// The file is at its end.
    pub fn end(&mut self, entry: &Entry) -> io::Result<()> {
        let rest = usize::try_from(entry.size % BLOCK as u64).unwrap_or(0);
        self.out.write_all(&[0; BLOCK][..(BLOCK - rest) % BLOCK])
    }

    /// Where it goes.
    pub fn target(&self) -> &W {
        &self.out
    }

    /// The end of the archive.
    pub fn finish(&mut self) -> io::Result<()> {
        self.out.write_all(&[0; 2 * BLOCK])
    }

    /// What it was written to.
    pub fn into_target(self) -> W {
        self.out
    }
}

fn header(entry: &Entry) -> io::Result<[u8; BLOCK]> {
    let name = entry.name.as_bytes();
    if name.len() > NAME_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("the name {} is too long", entry.name)));
    }
    let mut block = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name);
    put(100, b"0000640\0");
    // Whoever unpacks it owns it; root gets what root owns.
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    if entry.size <= OCTAL_SIZE_MAX {
        put(124, format!("{:011o}\0", entry.size).as_bytes());
    } else {
        put(124, &[0x80, 0, 0, 0]);
        put(128, &entry.size.to_be_bytes());
    }
    put(136, format!("{:011o}\0", entry.modified_s.min(OCTAL_SIZE_MAX)).as_bytes());
    // The sum is made as if blanks stood in its place.
    put(148, b"        ");
    put(156, b"0");
    put(257, b"ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Ok(block)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut archive = Archive::new(Vec::new());
        for (name, content) in files {
            let entry = Entry { name: (*name).to_owned(), size: content.len() as u64, modified_s: 1_000_000_000 };
            archive.begin(&entry).unwrap();
            archive.write(content).unwrap();
            archive.end(&entry).unwrap();
        }
        archive.finish().unwrap();
        archive.into_target()
    }

    #[test]
    fn the_system_s_tar_reads_it() {
        let long = vec![0xff; 1_537];
        let files: [(&str, &[u8]); 4] =
            [("a/empty", b""), ("a/one", b"x"), ("a/block", &long[..512]), ("a/long", &long[..])];
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.tar");
        std::fs::write(&file, archive(&files)).unwrap();
        let done = Command::new("tar").arg("-xf").arg(&file).arg("-C").arg(dir.path()).output().unwrap();
        assert!(done.status.success() && done.stderr.is_empty(), "{done:?}");
        for (name, content) in files {
            assert_eq!(std::fs::read(dir.path().join(name)).unwrap(), content, "{name}");
        }
        let listed = Command::new("tar").args(["--utc", "-tvf"]).arg(&file).stdout(Stdio::piped()).output().unwrap();
        let listed = String::from_utf8(listed.stdout).unwrap();
        assert!(listed.starts_with("-rw-r-----") && listed.contains("2001-09-09 01:46"), "{listed}");
    }

    #[test]
    fn sizes_of_any_length_are_told() {
        // What follows is missing, which `tar` says after it has told of the header.
        let size_of = |size: u64| {
            let entry = Entry { name: "a".to_owned(), size, modified_s: u64::MAX };
            let mut command = Command::new("tar");
            command.args(["-tvf", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
            let mut tar = command.spawn().unwrap();
            tar.stdin.take().unwrap().write_all(&header(&entry).unwrap()).unwrap();
            let told = String::from_utf8(tar.wait_with_output().unwrap().stdout).unwrap();
            told.split_whitespace().nth(2).unwrap_or_else(|| panic!("{told}")).parse::<u64>().unwrap()
        };
        for size in [0, 1, OCTAL_SIZE_MAX, OCTAL_SIZE_MAX + 1, 1 << 50] {
            assert_eq!(size_of(size), size);
        }
        assert!(header(&Entry { name: "x".repeat(101), size: 0, modified_s: 0 }).is_err());
    }
}
