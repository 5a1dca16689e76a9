//! Makes the lists of the files that `ci-runner install` carries: everything below `nix/rendered/install` and
//! `nix/rendered/install-slots`, which `scripts/check-nix --write` renders from the NixOS module. A new unit of the module is in
//! the list by being there. And says how the programs are linked.

use std::path::{Path, PathBuf};

fn files(dir: &Path, into: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        match path.is_dir() {
            true => files(&path, into)?,
            false => into.push(path),
        }
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Tens of thousands of relative relocations in the packed form (RELR: `ld` from 2.38, glibc from 2.36): two thirds of a
    // megabyte less to read in each start. A linker that does not know the word warns and writes the long form.
    println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    list("install", "templates.rs")?;
    list("install-slots", "templates-slots.rs")
}

fn list(rendered: &str, to: &str) -> Result<(), Box<dyn std::error::Error>> {
    let base = Path::new(&std::env::var("CARGO_MANIFEST_DIR")?).join("../../nix/rendered").join(rendered);
    println!("cargo::rerun-if-changed={}", base.display());
    let base = base.canonicalize().map_err(|error| format!("{}: {error}", base.display()))?;
    let mut found = Vec::new();
    files(&base, &mut found)?;
    found.sort();
    let mut list = String::from("&[\n");
    for path in &found {
        let name = path.strip_prefix(&base)?;
        list.push_str(&format!("    (\"/{}\", include_str!({:?})),\n", name.display(), path.display()));
    }
    list.push_str("]\n");
    std::fs::write(Path::new(&std::env::var("OUT_DIR")?).join(to), list)?;
    Ok(())
}
