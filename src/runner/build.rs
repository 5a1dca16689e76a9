//! Makes the lists of the files that `ci-runner install` carries: everything below `nix/rendered/install`,
//! `nix/rendered/install-slots` and `nix/rendered/install-both`, which `scripts/check-nix --write` renders from the NixOS module. A new unit of the module is in
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

/// Whether the C library of this machine, on which the programs will run, loads the packed form (`DT_RELR`, glibc from 2.36): an older one
/// refuses to start them.
fn loads_packed_relocations() -> bool {
    let variable = |name| std::env::var(name).unwrap_or_default();
    if variable("HOST") != variable("TARGET") || variable("CARGO_CFG_TARGET_ENV") != "gnu" {
        return false;
    }
    let Ok(told) = std::process::Command::new("getconf").arg("GNU_LIBC_VERSION").output() else { return false };
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    let minor = told.trim().strip_prefix("glibc 2.").and_then(|minor| minor.split('.').next()?.parse::<u32>().ok());
    minor.is_some_and(|minor| minor >= 36)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Tens of thousands of relative relocations in the packed form: two thirds of a megabyte less to read in each start. A
    // linker that does not know the word warns and writes the long form.
    if loads_packed_relocations() {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
    list("install", "templates.rs")?;
    list("install-slots", "templates-slots.rs")?;
    list("install-both", "templates-both.rs")
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
