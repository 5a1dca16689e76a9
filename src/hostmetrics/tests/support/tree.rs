//! Recorded trees: a text file that stands for a directory.
//!
//! `@ path` begins a file, `@> path target` is a symbolic link, `@/ path` an empty directory. `{rootfs}` in a text is the
//! place of the tree's `root`.

use std::fs;
use std::path::{Path, PathBuf};

/// Unpacks `tests/trees/<name>.tree` into `dir`.
pub fn unpack(name: &str, dir: &Path) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/trees").join(format!("{name}.tree"));
    let text = fs::read_to_string(&source).unwrap().replace("{rootfs}", dir.join("root").to_str().unwrap());
    let place = |path: &str| {
        let path = dir.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    };
    let mut open: Option<(PathBuf, String)> = None;
    let close =
        |open: Option<(PathBuf, String)>| open.into_iter().for_each(|(path, text)| fs::write(path, text).unwrap());
    for line in text.split_inclusive('\n') {
        let end = line.trim_end_matches('\n');
        if let Some(link) = end.strip_prefix("@> ") {
            close(open.take());
            let (path, target) = link.split_once(' ').unwrap();
            std::os::unix::fs::symlink(target, place(path)).unwrap();
        } else if let Some(path) = end.strip_prefix("@/ ") {
            close(open.take());
            fs::create_dir_all(place(path)).unwrap();
        } else if let Some(path) = end.strip_prefix("@ ") {
            close(open.replace((place(path), String::new())));
        } else if let Some((_, text)) = &mut open {
            text.push_str(line);
        }
    }
    close(open);
}
