//! The linker script for `order.txt`, and with which linkers it is safe to use. A part of `build.rs`; tests use it as well.

/// What comes before the rest of the program's code: a section for each part of the list, in its order. The compiler gives each
/// function a section of its own, which is named after it; a name that no section has is passed over. Linkers keep their own
/// layout for all the rest, because of `INSERT`; it is `BEFORE`, because of two rules for a function GNU's takes the first.
///
/// # Errors
///
/// A line is no name, which the linker would take for something else.
pub(crate) fn script(list: &str) -> Result<String, String> {
    let mut script = String::from("SECTIONS {\n");
    let mut part = None;
    for (number, line) in list.lines().enumerate() {
        let wrong = |what| Err(format!("line {}: {line:?} {what}", number + 1));
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_lowercase()) {
                return wrong("is not the name of a part");
            }
            script.push_str(if part.is_some() { "  }\n" } else { "" });
            script.push_str(&format!("  .text.{name} : {{\n"));
            part = Some(name);
            continue;
        }
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"_.$*".contains(&byte);
        if !line.bytes().all(fits) || line.starts_with('*') {
            return wrong("is not the name of a function");
        }
        match part {
            None => return wrong("is in no part"),
            // It takes all that has the compiler's prefix for what seldom runs; the other parts take theirs first.
            Some("never") => script.push_str(&format!("    *(.text.{line})\n")),
            Some(_) => script.push_str(&format!("    *(.text.{line} .text.unlikely.{line})\n")),
        }
    }
    script.push_str(if part.is_some() { "  }\n" } else { "" });
    script.push_str("} INSERT BEFORE .text;\n");
    Ok(script)
}

/// Whether the linker is one that reads such scripts: the compiler's default, LLVM's or GNU's. `flags` is cargo's
/// `CARGO_ENCODED_RUSTFLAGS`, `linker` its `RUSTC_LINKER`. What is behind a name that says nothing is not known: then no.
pub(crate) fn reads_scripts(flags: &str, linker: Option<&str>) -> bool {
    linker.is_none_or(drives_a_known_linker) && flags.split('\u{1f}').all(harmless)
}

fn harmless(flag: &str) -> bool {
    let option = flag.trim_start_matches("-C").trim_start();
    match option.split_once('=') {
        Some(("linker", program)) => drives_a_known_linker(program),
        Some(("linker-flavor", _)) => false,
        Some(("link-arg" | "link-args", arguments)) => arguments.split([' ', ',']).all(|argument| {
            let linker = argument.strip_prefix("-fuse-ld=").or_else(|| argument.strip_prefix("--ld-path="));
            linker
                .is_none_or(|linker| matches!(name(linker), "lld" | "ld.lld" | "rust-lld" | "bfd" | "ld.bfd"))
        }),
        _ => true,
    }
}

/// A compiler, which links with what the system has or with what it is told to.
fn drives_a_known_linker(program: &str) -> bool {
    let name = name(program).trim_end_matches(|end: char| end.is_ascii_digit() || end == '-' || end == '.');
    matches!(name.rsplit('-').next(), Some("cc" | "gcc" | "clang"))
}

fn name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}
