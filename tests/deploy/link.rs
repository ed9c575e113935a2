//! The order of functions: the list, the script that `build.rs` makes of it, and what linkers make of the script.

#[path = "../../deploy/link/script.rs"]
mod script;

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::tools::{installed, root, succeed};

fn list() -> String {
    fs::read_to_string(root().join("deploy/link/order.txt")).unwrap()
}

/// Each part's name, and its lines.
fn parts(list: &str) -> Vec<(&str, Vec<&str>)> {
    let mut parts = Vec::new();
    for line in list.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match line.strip_prefix('[') {
            Some(name) => parts.push((name.strip_suffix(']').unwrap(), Vec::new())),
            None => parts.last_mut().expect("a part before its first name").1.push(line),
        }
    }
    parts
}

#[test]
fn the_list_is_sorted_and_small() {
    let list = list();
    let parts = parts(&list);
    let names: Vec<&str> = parts.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["first", "further", "never"]);
    for (part, lines) in parts {
        assert!(lines.len() > 100, "{part}: {} names", lines.len());
        assert!(lines.is_sorted_by(|a, b| a < b), "{part} is sorted, and no name is there twice");
        for line in lines {
            assert!(!line.contains("**"), "{part}: {line}");
            let hash = line.split("17h").nth(1).is_some_and(|rest| {
                rest.len() > 16 && rest.bytes().take(16).all(|byte| byte.is_ascii_hexdigit())
            });
            assert!(!hash, "{part}: the next compiler has another hash than {line}");
        }
    }
    assert!(list.len() < 100_000, "{} bytes", list.len());
}

#[test]
fn the_script_has_each_name_once() {
    let list = list();
    let script = script::script(&list).unwrap();
    for (part, lines) in parts(&list) {
        let section =
            script.split(&format!("  .text.{part} : {{\n")).nth(1).unwrap().split("  }\n").next().unwrap();
        let found: Vec<&str> = section.lines().collect();
        assert_eq!(found.len(), lines.len());
        for (rule, name) in found.iter().zip(lines) {
            assert!(rule.starts_with(&format!("    *(.text.{name}")) && rule.ends_with(')'), "{rule}");
        }
    }
    assert!(script.ends_with("} INSERT BEFORE .text;\n"));
}

#[test]
fn what_a_linker_would_take_for_something_else_is_refused() {
    for (list, error) in [
        ("[first]\na b\n", "line 2: \"a b\" is not the name of a function"),
        ("[first]\n\n# c\na)}\n", "line 4: \"a)}\" is not the name of a function"),
        ("[first]\n*\n", "line 2: \"*\" is not the name of a function"),
        ("main\n", "line 1: \"main\" is in no part"),
        ("[]\n", "line 1: \"[]\" is not the name of a part"),
        ("[a b]\n", "line 1: \"[a b]\" is not the name of a part"),
    ] {
        assert_eq!(script::script(list).unwrap_err(), error);
    }
}

#[test]
fn other_linkers_get_no_script() {
    let flags = |flags: &[&str]| flags.join("\u{1f}");
    for good in [
        flags(&[]),
        flags(&["-Ctarget-cpu=native", "-C", "linker-plugin-lto", "--cfg", "x"]),
        flags(&["-C", "linker=clang-19"]),
        flags(&["-Clinker=/usr/bin/x86_64-linux-gnu-gcc-12", "-Clink-arg=-fuse-ld=lld"]),
        flags(&["-C", "link-arg=-fuse-ld=bfd"]),
        flags(&["-Clink-args=-O2 -Wl,--gc-sections"]),
    ] {
        assert!(script::reads_scripts(&good, None), "{good}");
    }
    for bad in [
        flags(&["-C", "link-arg=-fuse-ld=mold"]),
        flags(&["-Clink-args=-O2 -fuse-ld=gold"]),
        flags(&["-Clink-arg=--ld-path=/opt/bin/wild"]),
        flags(&["-Clinker=mold"]),
        flags(&["-Clinker-flavor=wasm-ld"]),
    ] {
        assert!(!script::reads_scripts(&bad, None), "{bad}");
    }
    for (linker, good) in
        [("cc", true), ("/usr/bin/clang", true), ("/usr/bin/mold", false), ("wrapper.sh", false)]
    {
        assert_eq!(script::reads_scripts("", Some(linker)), good, "{linker}");
    }
}

/// A panic goes through a function that stays and through two that were moved, to different parts. Whether there is one must not
/// be plain, or the compiler takes all three for unlikely.
const PROGRAM: &str = r#"
#[unsafe(no_mangle)] #[inline(never)] extern "C-unwind" fn moved_first(n: usize) { moved_never(n); std::hint::black_box(n); }
#[unsafe(no_mangle)] #[inline(never)] extern "C-unwind" fn moved_never(n: usize) { if n > 0 { stays(n) } }
#[unsafe(no_mangle)] #[inline(never)] extern "C-unwind" fn stays(n: usize) { if std::hint::black_box(n) > 0 { panic!("{n}") } }
fn main() {
    std::panic::set_hook(Box::new(|_| {}));
    let said = std::panic::catch_unwind(|| moved_first(std::env::args().count())).unwrap_err();
    println!("{}", said.downcast_ref::<String>().unwrap());
}
"#;

/// With the compiler's own linker and with GNU's: functions are where the script says, what is code stays what is executable
/// and nothing that is executable can be written to, and a panic finds its way.
#[test]
#[cfg(all(target_os = "linux", target_env = "gnu", target_arch = "x86_64"))]
fn linkers_take_the_script_and_panics_are_caught() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("link");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("program.rs"), PROGRAM).unwrap();
    let list =
        list().replace("[further]", "moved_first\nno_function_has_this_name*\n[further]") + "moved_nev*\n";
    fs::write(folder.join("order.ld"), script::script(&list).unwrap()).unwrap();
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    for (name, linker) in [("default", None), ("gnu", Some("-Clink-arg=-fuse-ld=bfd"))] {
        succeed(
            Command::new(&rustc)
                .args(["--edition=2024", "-Copt-level=3", "program.rs", "-Clink-arg=-Torder.ld", "-o", name])
                .args(linker)
                .current_dir(&folder),
        );
        let program = folder.join(name);
        assert_eq!(succeed(&mut Command::new(&program)).stdout, b"1\n", "{name}");

        let readelf = |option: &str| {
            let output =
                succeed(Command::new(installed("readelf", "binutils")).args([option, "-W"]).arg(&program));
            String::from_utf8(output.stdout).unwrap()
        };
        let (sections, symbols, segments) = (readelf("-S"), readelf("-s"), readelf("-l"));
        let section_of = |function: &str| {
            let symbol = symbols.lines().find(|line| line.ends_with(&format!(" {function}"))).unwrap();
            let number = symbol.split_whitespace().nth(6).unwrap();
            let line = sections
                .lines()
                .find(|line| line.trim_start().starts_with(&format!("[{number:>2}]")))
                .unwrap();
            line.split(']').nth(1).unwrap().split_whitespace().next().unwrap().to_owned()
        };
        assert_eq!(section_of("moved_first"), ".text.first", "{name}");
        assert_eq!(section_of("moved_never"), ".text.never", "{name}");
        assert_eq!(section_of("stays"), ".text", "{name}");
        let loads: Vec<&str> =
            segments.lines().filter(|line| line.trim_start().starts_with("LOAD")).collect();
        assert_eq!(loads.iter().filter(|line| line.contains(" R E ")).count(), 1, "{name}: {segments}");
        assert!(!loads.iter().any(|line| line.contains("WE")), "{name}: {segments}");
        assert!(
            segments.contains("GNU_RELRO") && segments.contains("(Position-Independent"),
            "{name}: {segments}"
        );
    }
}
