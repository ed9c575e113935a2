//! Embeds every vendor preset, so that `src/config/presets/NAME.toml` is all that a new one takes; and tells the linker which
//! functions of a release belong together.

#![expect(clippy::disallowed_methods, reason = "a build script reads what cargo puts into the environment")]

use std::fmt::Write;
use std::path::Path;
use std::{env, fs, io};

#[path = "deploy/link/script.rs"]
mod link;

fn main() -> io::Result<()> {
    let root = variable("CARGO_MANIFEST_DIR")?;
    let out = variable("OUT_DIR")?;
    presets(Path::new(&root), Path::new(&out))?;
    order(Path::new(&root), Path::new(&out))
}

fn variable(name: &str) -> io::Result<String> {
    env::var(name).map_err(|error| io::Error::other(format!("{name}: {error}")))
}

fn presets(root: &Path, out: &Path) -> io::Result<()> {
    let folder = root.join("src/config/presets");
    println!("cargo:rerun-if-changed={}", folder.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(&folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            files.push(path);
        }
    }
    files.sort();
    let mut list = String::from("[\n");
    for path in files {
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        // Writing to a String cannot fail.
        let _ = writeln!(list, "    ({name:?}, include_str!({:?})),", path.display().to_string());
    }
    list.push_str("]\n");
    fs::write(out.join("presets.rs"), list)
}

/// Only where it was tried: another system's linker may not read scripts, and other builds are not measured by their memory.
fn order(root: &Path, out: &Path) -> io::Result<()> {
    let list = root.join("deploy/link/order.txt");
    println!("cargo:rerun-if-changed={}", list.display());
    for name in ["BEARERD_LINK_ORDER", "CARGO_ENCODED_RUSTFLAGS", "RUSTFLAGS", "RUSTC_LINKER"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    let is = |name: &str, value: &str| env::var(name).is_ok_and(|found| found == value);
    let tried = is("PROFILE", "release")
        && is("CARGO_CFG_TARGET_OS", "linux")
        && is("CARGO_CFG_TARGET_ENV", "gnu")
        && is("CARGO_CFG_TARGET_ARCH", "x86_64");
    let flags = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    let linker = env::var("RUSTC_LINKER").ok();
    if is("BEARERD_LINK_ORDER", "off") || !tried || !link::reads_scripts(&flags, linker.as_deref()) {
        return Ok(());
    }
    let text = fs::read_to_string(&list)
        .map_err(|error| io::Error::other(format!("{}: {error}", list.display())))?;
    let script =
        link::script(&text).map_err(|error| io::Error::other(format!("{}: {error}", list.display())))?;
    let path = out.join("order.ld");
    fs::write(&path, script)?;
    println!("cargo:rustc-link-arg-bins=-T{}", path.display());
    Ok(())
}
