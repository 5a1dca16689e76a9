//! Reading of small kernel files, with the path in every error.

use crate::error::CollectError;
use std::path::{Path, PathBuf};

/// A kernel file above this size is not one (procfs knows no sizes beforehand): 16 MiB, a thousand times the largest seen.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// The text of a file; bytes that are not UTF-8 are replaced.
pub(crate) fn read(path: &Path) -> Result<String, CollectError> {
    let bytes = read_bytes(path)?;
    Ok(String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
}

/// The bytes of a file; one that is too large is an error, not cut off.
pub(crate) fn read_bytes(path: &Path) -> Result<Vec<u8>, CollectError> {
    use std::io::Read as _;
    let fail = |source| CollectError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::with_capacity(4096);
    let file = std::fs::File::open(path).map_err(fail)?;
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(fail)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(CollectError::Malformed { path: path.to_owned(), detail: "larger than 16 MiB".to_owned() });
    }
    Ok(bytes)
}

/// As [`read`]; `None` where the file does not exist.
pub(crate) fn read_if_there(path: &Path) -> Result<Option<String>, CollectError> {
    match read(path) {
        Ok(text) => Ok(Some(text)),
        Err(CollectError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// A file of one value without the white space around it; `None` when it cannot be read for whatever reason, as sysfs
/// answers EINVAL, EIO or ENODATA where a device has no such value.
pub(crate) fn value(path: &Path) -> Option<String> {
    read(path).ok().map(|text| text.trim().to_owned())
}

/// A whole file as one number.
pub(crate) fn number(path: &Path) -> Result<f64, CollectError> {
    let text = read(path)?;
    parse(text.trim(), path)
}

/// A word as a number.
pub(crate) fn parse(word: &str, path: &Path) -> Result<f64, CollectError> {
    word.parse().map_err(|_| malformed(path, word))
}

/// An error that shows the start of what was not understood.
pub(crate) fn malformed(path: &Path, what: &str) -> CollectError {
    CollectError::Malformed {
        path: path.to_owned(),
        detail: format!("'{}'", what.chars().take(60).collect::<String>()),
    }
}

/// Sorted names in a directory.
pub(crate) fn names(dir: &Path) -> Result<Vec<String>, CollectError> {
    let fail = |source| CollectError::Read { path: dir.to_owned(), source };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(fail)? {
        names.push(entry.map_err(fail)?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// Entries of `dir` called `prefix` and a number, as (number, path), sorted by name; nothing where there is no `dir`.
pub(crate) fn numbered(dir: &Path, prefix: &str) -> Vec<(String, PathBuf)> {
    let found = names(dir).unwrap_or_default().into_iter().filter_map(|name| {
        let number = name.strip_prefix(prefix)?;
        number.starts_with(|first: char| first.is_ascii_digit()).then(|| (number.to_owned(), dir.join(&name)))
    });
    found.collect()
}
