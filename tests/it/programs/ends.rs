//! How programs end: by themselves, at `timeout`, and with bearerd.

use std::path::Path;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};

use super::{SECRET, detail, scene, secrets};
use crate::support::bearerd::Bearerd;
use crate::support::{cli, eventually, within};

#[tokio::test]
async fn a_program_that_hangs_is_killed_with_its_children() {
    let keys = "client_secret = { exec = [\"./program\"], timeout = \"3s\" }";
    // The child holds the output open, and ignores polite signals.
    let body = "trap '' TERM HUP INT\nsh -c 'trap \"\" TERM HUP INT; echo $$ > child; sleep 600' &\n. ./others\nwait";
    let setup = scene(body, keys).await;
    setup.file("others", IN_SESSIONS_OF_THEIR_OWN);
    let world = setup.start().await;
    let detail = detail(&world).await;
    assert!(
        detail.contains("did not end within 3s, and was killed with its children: raise `timeout`"),
        "{detail}"
    );
    for name in ["child", "session", "deeper", "orphan"] {
        let pid = pid_in(world.folder(), name).await;
        eventually(&format!("{name} to be gone"), || async { is_gone(&pid).then_some(()) }).await;
    }
}

/// Children that left the program's process group: in a session of their own, below that one, and one whose parent has ended.
const IN_SESSIONS_OF_THEIR_OWN: &str = "setsid sh -c '
    echo $$ > session
    setsid sh -c \"echo \\$\\$ > deeper; exec sleep 600\" &
    sh -c \"sleep 600 & echo \\$! > orphan\"
    wait' &";

async fn pid_in(folder: &Path, name: &str) -> String {
    let text = || std::fs::read_to_string(folder.join(name)).ok().filter(|text| text.ends_with('\n'));
    eventually(name, || async { text() }).await.trim().to_owned()
}

/// A zombie waits for its parent, which is not bearerd.
fn is_gone(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.map_or(true, |stat| stat.contains(") Z "))
}

#[tokio::test]
async fn a_child_that_is_left_does_not_hold_up_the_value() {
    let world = scene("sleep 600 & echo $! > child; echo value", SECRET).await.start().await;
    world.get("/").await.expect_status(200);
    assert_eq!(secrets(&world), ["value"]);
}

#[tokio::test]
async fn no_program_outlives_bearerd() {
    let keys = "client_secret = { exec = [\"./program\"], timeout = \"5m\" }";
    let setup = scene(". ./others\necho $$ > pid; exec sleep 600", keys).await;
    setup.file("others", IN_SESSIONS_OF_THEIR_OWN);
    let mut world = setup.start().await;
    let names = ["pid", "session", "deeper", "orphan"];
    let mut pids = Vec::new();
    for name in names {
        pids.push(pid_in(world.folder(), name).await);
    }
    world.proxy.stop().await;
    for pid in pids {
        eventually(&format!("{pid} to be gone"), || async { is_gone(&pid).then_some(()) }).await;
    }
}

/// A start waits for the first output of a program outside of token requests.
#[tokio::test]
async fn a_signal_during_the_start_ends_bearerd_and_its_programs() {
    let exec = "{ exec = [\"./program\"], keep = \"1m\", timeout = \"1m\" }";
    let keys = format!("require_header = {{ name = \"x-key\", value = {exec} }}");
    for (args, code) in [(&["run"][..], 0), (&["exec", "--", "true"], 143)] {
        let setup = scene("echo $$ > pid; exec sleep 600", "").await.listener(&keys);
        setup.write();
        let mut command = cli::command(setup.folder(), args);
        let mut child = command.env("TMPDIR", setup.folder()).spawn().unwrap();
        let pid = pid_in(setup.folder(), "pid").await;
        let own = Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
        kill_process(own, Signal::TERM).unwrap();
        let status = within("the end of bearerd", child.wait()).await.unwrap();
        assert_eq!(status.code(), Some(code), "{args:?}");
        eventually("the program to be gone", || async { is_gone(&pid).then_some(()) }).await;
        let left = std::fs::read_dir(setup.folder()).unwrap().map(|it| it.unwrap().file_name());
        let left: Vec<_> = left.filter(|name| name.to_string_lossy().starts_with("bearerd-exec")).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

/// The program does not get the signals of the terminal, so nothing else would end it.
#[tokio::test]
async fn a_signal_to_a_verb_ends_its_programs() {
    for args in [&["token", "corp"][..], &["check", "--online"]] {
        for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
            let keys = "client_secret = { exec = [\"./program\"], timeout = \"1m\" }";
            let setup = scene("echo $$ > pid; exec sleep 600", keys).await;
            setup.write();
            let mut command = tokio::process::Command::new("env");
            command.args(["--default-signal=INT,TERM,HUP", env!("CARGO_BIN_EXE_bearerd")]).args(args);
            command
                .current_dir(setup.folder())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .kill_on_drop(true);
            let mut child = command.spawn().unwrap();
            let pid = pid_in(setup.folder(), "pid").await;
            let own = Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
            kill_process(own, signal).unwrap();
            let status = within("the end of bearerd", child.wait()).await.unwrap();
            assert_eq!(status.code(), Some(code), "{args:?}");
            eventually("the program to be gone", || async { is_gone(&pid).then_some(()) }).await;
        }
    }
}

/// Nothing ties it to bearerd then but its parent.
#[tokio::test]
#[ignore = "needs python3"]
async fn a_program_that_left_its_group_is_killed_with_its_children() {
    let keys = "client_secret = { exec = [\"./program\"], timeout = \"3s\" }";
    let setup = scene("echo $$ > pid; exec python3 leave.py", keys).await;
    let leave = "import os, subprocess
os.setpgid(0, os.getpgid(os.getppid()))
child = subprocess.Popen(['sleep', '600'])
open('child', 'w').write(f'{child.pid}\\n')
child.wait()";
    setup.file("leave.py", leave);
    let world = setup.start().await;
    let detail = detail(&world).await;
    assert!(detail.contains("was killed with its children"), "{detail}");
    assert!(world.folder().join("child").exists(), "this test needs python3: install it");
    for name in ["pid", "child"] {
        let pid = pid_in(world.folder(), name).await;
        eventually(&format!("{name} to be gone"), || async { is_gone(&pid).then_some(()) }).await;
    }
}

/// As in a container without an init, whose session began outside of it.
#[tokio::test]
#[ignore = "needs unshare"]
async fn as_process_1_it_waits_for_what_programs_leave() {
    let body = "[ ! -e hang ] || { . ./others; sleep 600; }\nsleep 0.1 >/dev/null 2>&1 &\necho value";
    let setup = scene(body, "client_secret = { exec = [\"./program\"], timeout = \"2s\" }").await;
    setup.file("others", IN_SESSIONS_OF_THEIR_OWN);
    let hang = setup.file("hang", "");
    setup.write();
    let mut command = tokio::process::Command::new("unshare");
    command
        .args(["--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .args([env!("CARGO_BIN_EXE_bearerd"), "run"])
        .current_dir(setup.folder())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let proxy = Bearerd::spawn(setup.shared_folder(), command).await;
    let first = children(&proxy.pid().as_raw_nonzero().to_string());
    let [(bearerd, _)] = first.as_slice() else { panic!("one child of unshare: {first:?}") };
    let zombies = || children(bearerd).into_iter().filter(|(_, state)| state == "Z").count();

    let said = proxy.get("/").await.text();
    assert!(said.contains("did not end within 2s, and was killed with its children"), "{said}");
    std::fs::remove_file(hang).unwrap();
    eventually("a token", || async { (proxy.get("/").await.status == 200).then_some(()) }).await;
    eventually("an orphan", || async { (zombies() > 0).then_some(()) }).await;
    eventually("no orphan", || async { children(bearerd).is_empty().then_some(()) }).await;
    assert!(!proxy.log().text().contains("a bug in bearerd"), "{}", proxy.log().text());
}

/// Their process IDs and states.
fn children(parent: &str) -> Vec<(String, String)> {
    let stats = std::fs::read_dir("/proc").unwrap().flatten();
    let stats = stats.filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok());
    let child = |stat: String| {
        let (pid, rest) = (stat.split(' ').next()?, stat.rsplit(") ").next()?);
        let mut fields = rest.split(' ');
        let (state, of) = (fields.next()?, fields.next()?);
        (of == parent).then(|| (pid.to_owned(), state.to_owned()))
    };
    stats.filter_map(child).collect()
}
