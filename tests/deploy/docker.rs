//! `deploy/docker`: linted and read by the tools of their field; and the image's files are tried without an engine, by
//! entering a folder that has nothing else.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::SystemTime;

use serde_json::{Value, json};

use super::blocking::{nobody, wait_for};
use super::manifests::{check, documents, files_named, read, scratch, seconds_to_end};
use super::packages;
use super::tools::{installed, root, succeed};

const DOCKERFILE: &str = "deploy/docker/Dockerfile";

/// The words after an instruction of the last stage.
fn instruction(name: &str) -> String {
    let text = read(DOCKERFILE).replace("\\\n", " ");
    let last = text.rsplit("\nFROM ").next().unwrap().to_owned();
    let found: Vec<&str> = last.lines().filter_map(|line| line.strip_prefix(&format!("{name} "))).collect();
    assert_eq!(found.len(), 1, "{name}: {found:?}");
    found[0].trim().to_owned()
}

fn lint(file: &Path) -> Output {
    Command::new(packages::python("hadolint"))
        .args(["--no-color", "--failure-threshold", "style"])
        .arg(file)
        .output()
        .unwrap()
}

#[test]
#[ignore = "needs python3"]
fn the_dockerfile_is_without_reproach() {
    let output = lint(&root().join(DOCKERFILE));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let bad = scratch("hadolint").join("Dockerfile");
    fs::write(&bad, "FROM rust\nRUN cd /x && sudo make\n").unwrap();
    let output = lint(&bad);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).contains("DL3006"), "a base without a tag is refused");
}

#[test]
fn the_image_says_what_it_is_and_runs_as_nobody_else() {
    assert_eq!(instruction("USER"), "65532:65532");
    assert_eq!(instruction("STOPSIGNAL"), "SIGTERM");
    assert_eq!(instruction("ENTRYPOINT"), r#"["/usr/local/bin/bearerd"]"#);
    assert_eq!(instruction("CMD"), r#"["run"]"#);
    let health = instruction("HEALTHCHECK");
    assert!(health.ends_with(r#"CMD ["/usr/local/bin/bearerd", "healthcheck"]"#));
    assert!(!health.contains("--start-interval"), "Debian 12's buildah refuses it: {health}");
    let labels = instruction("LABEL");
    for (name, value) in [
        ("version", env!("CARGO_PKG_VERSION")),
        ("description", env!("CARGO_PKG_DESCRIPTION")),
        ("licenses", env!("CARGO_PKG_LICENSE")),
        ("source", env!("CARGO_PKG_REPOSITORY")),
    ] {
        assert!(labels.contains(&format!("org.opencontainers.image.{name}=\"{value}\"")), "{name}: {labels}");
    }
    let base = read(DOCKERFILE)
        .lines()
        .find_map(|line| line.strip_prefix("FROM --platform=$BUILDPLATFORM rust:").map(str::to_owned))
        .unwrap();
    let minor = |version: &str| version.split(['.', '-']).nth(1).unwrap().parse::<u32>().unwrap();
    assert!(minor(&base) >= minor(env!("CARGO_PKG_RUST_VERSION")), "{base} is too old");
}

/// buildah with what it keeps in a folder of the test, so that a second build finds nothing of the first: neither layers nor
/// the caches of compiled code. The base comes from buildah's own storage, or from its registry.
fn buildah(folder: &Path) -> Command {
    let mut command = Command::new(installed("buildah", "buildah"));
    command.env("TMPDIR", folder);
    command
}

/// The digest of what `Dockerfile` builds here, as an image named `name`.
fn build(name: &str) -> String {
    let folder = scratch(&format!("buildah-{name}"));
    let options = ["build", "--isolation", "chroot", "--no-cache", "--timestamp", "0", "--quiet"];
    let mut command = buildah(&folder);
    command.args(options).args(["--tag", name, "--file", DOCKERFILE, "."]).current_dir(root());
    let output = succeed(&mut command);
    fs::remove_dir_all(folder).unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// The Dockerfile builds, the image runs, and a second build has the same digest.
#[test]
#[ignore = "needs buildah"]
fn the_dockerfile_builds_the_same_image_twice() {
    let first = build("bearerd-test-first");
    let folder = scratch("buildah-run");
    // The image is mounted, so its program runs with its own libraries alone.
    let run = "set -e; container=$(buildah from --pull-never bearerd-test-first); root=$(buildah mount $container)\n\
               chroot --userspec=65532:65532 $root /usr/local/bin/bearerd --version\n\
               find $root -mindepth 1 -newermt 1970-01-02 >&2; buildah rm $container > /dev/null";
    let mut command = Command::new(installed("sh", "dash"));
    if !rustix::process::geteuid().is_root() {
        command = buildah(&folder);
        command.args(["unshare", "sh"]);
    }
    let output = succeed(command.args(["-c", run]));
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said.trim(), format!("bearerd {}", env!("CARGO_PKG_VERSION")));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "files that are newer than SOURCE_DATE_EPOCH");

    let inspected = succeed(buildah(&folder).args(["inspect", "--type", "image", "bearerd-test-first"]));
    let image: Value = serde_json::from_slice(&inspected.stdout).unwrap();
    let config = &image["OCIv1"]["config"];
    assert_eq!(config["User"].as_str(), Some(instruction("USER").as_str()));
    assert_eq!(config["Labels"]["org.opencontainers.image.version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(
        image["OCIv1"]["rootfs"]["diff_ids"].as_array().unwrap().len(),
        1,
        "FROM scratch, and one layer"
    );

    assert_eq!(build("bearerd-test-second"), first, "a second build is another image");
    succeed(buildah(&folder).args(["rmi", "bearerd-test-first", "bearerd-test-second"]));
}

/// A folder with what is sent to the engine.
fn context(test: &str) -> PathBuf {
    let context = scratch(test);
    let ignore = read("deploy/docker/Dockerfile.dockerignore");
    let mut lines = ignore.lines().filter(|line| !line.starts_with('#'));
    assert_eq!(lines.next(), Some("*"), "what is not named stays here");
    for path in lines.map(|line| line.strip_prefix('!').unwrap()) {
        let parent = context.join(path).parent().unwrap().to_owned();
        fs::create_dir_all(&parent).unwrap();
        let from = root().join(path);
        succeed(Command::new("sh").args(["-c", "cp -R $0 \"$1\""]).arg(from).arg(parent));
    }
    context
}

/// Cargo finds all that it builds from in what is sent to the engine, and nothing else is sent.
#[test]
fn the_context_has_what_the_build_reads_and_no_more() {
    let context = context("context");
    let output = succeed(
        Command::new(env!("CARGO"))
            .args(["metadata", "--locked", "--offline", "--no-deps", "--format-version", "1"])
            .current_dir(&context),
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let targets = metadata["packages"][0]["targets"].as_array().unwrap();
    assert!(targets.iter().any(|target| target["kind"] == json!(["bin"])), "{targets:?}");
    for read in ["build.rs", "src/config/presets"] {
        assert!(context.join(read).exists(), "{read}");
    }
    let script = context.join("deploy/docker/rootfs.sh");
    assert_eq!(fs::metadata(script).unwrap().permissions().mode() & 0o111, 0o111, "the build runs it");
}

/// The compiler finds each file that the program includes from outside `src`.
#[test]
fn the_context_has_what_the_source_includes() {
    let context = context("includes");
    let sources = files(&root().join("src")).into_iter().chain([root().join("build.rs")]);
    // Folders and files called `tests` are not part of the program.
    let sources = sources.filter(|path| {
        path.extension().is_some_and(|extension| extension == "rs")
            && !path.strip_prefix(root()).unwrap().iter().any(|part| part == "tests" || part == "tests.rs")
    });
    let mut outside = 0;
    for source in sources {
        for file in included(&source) {
            if !file.starts_with(root().join("src")) {
                outside += 1;
                let sent = context.join(file.strip_prefix(root()).unwrap());
                let (source, file) = (source.display(), file.display());
                assert!(sent.is_file(), "{source} includes {file}, which Dockerfile.dockerignore leaves out");
            }
        }
    }
    assert!(outside > 0, "not even the config's schema was found");
}

/// What `include!`, `include_str!`, `include_bytes!` and `#[path]` name in a source file, but for what only tests are.
fn included(source: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string(source).unwrap();
    let openings = ["include!(\"", "include_str!(\"", "include_bytes!(\"", "#[path = \""];
    let mut found = Vec::new();
    let mut above = "";
    for line in text.lines() {
        let names = openings.iter().flat_map(|opening| line.split(opening).skip(1));
        if !above.contains("cfg(test)") && !line.contains("cfg(test)") {
            let names = names.map(|rest| rest.split('"').next().unwrap());
            found.extend(names.map(|name| source.parent().unwrap().join(name).canonicalize().unwrap()));
        }
        above = line;
    }
    found
}

/// What the image has, from the binary under test.
fn image(test: &str) -> PathBuf {
    let folder = scratch(&format!("image-{test}"));
    succeed(
        Command::new(root().join("deploy/docker/rootfs.sh")).arg(env!("CARGO_BIN_EXE_bearerd")).arg(&folder),
    );
    folder
}

#[test]
#[ignore = "needs readelf, dpkg and tar"]
fn the_image_has_the_same_files_every_time() {
    let archive = |test: &str| {
        let folder = image(test);
        let mut command = Command::new(installed("tar", "tar"));
        command.args(["--create", "--sort=name", "--owner=0", "--group=0", "--numeric-owner", "."]);
        succeed(command.current_dir(folder)).stdout
    };
    let first = archive("same-first");
    // The clock goes on between the two; a file with its time would differ.
    let second = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let before = second();
    wait_for("another second", || second() > before);
    assert!(archive("same-second") == first, "two runs of rootfs.sh differ");
}

/// Inside, as the image's user where that is allowed.
fn enter(image: &Path) -> Command {
    let mut command = if rustix::process::geteuid().is_root() {
        let mut command = Command::new(installed("chroot", "coreutils"));
        command.arg("--userspec=65532:65532");
        command
    } else {
        let mut command = Command::new(installed("unshare", "util-linux"));
        command.args(["--map-root-user", "chroot"]);
        command
    };
    command.arg(image).arg("/usr/local/bin/bearerd").env_clear();
    command
}

#[test]
#[ignore = "needs chroot as root or unshare"]
fn every_library_of_the_image_is_needed_and_none_is_missing() {
    let image = image("libraries");
    succeed(enter(&image).arg("--version"));
    let (libraries, others): (Vec<PathBuf>, Vec<PathBuf>) =
        files(&image).into_iter().partition(|path| path.to_string_lossy().contains(".so"));
    assert!(libraries.len() >= 2, "{libraries:?}");
    for path in libraries {
        let aside = path.with_extension("aside");
        fs::rename(&path, &aside).unwrap();
        let output = enter(&image).arg("--version").output();
        assert!(!output.is_ok_and(|output| output.status.success()), "{} is not needed", path.display());
        fs::rename(&aside, &path).unwrap();
    }
    let inside = others.iter().map(|path| format!("/{}", path.strip_prefix(&image).unwrap().display()));
    let about = ["/var/lib/dpkg/status.d/", "/usr/share/doc/"];
    let mut rest: Vec<String> =
        inside.filter(|path| !about.iter().any(|folder| path.starts_with(folder))).collect();
    rest.sort();
    let wanted = [
        "/etc/group",
        "/etc/nsswitch.conf",
        "/etc/passwd",
        "/etc/ssl/certs/ca-certificates.crt",
        "/usr/local/bin/bearerd",
    ];
    assert_eq!(rest, wanted);
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}

/// Ends with the test, whatever becomes of it.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn get(port: u16, path: &str) -> String {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return String::new() };
    let mut response = String::new();
    let _ = write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
    let _ = stream.read_to_string(&mut response);
    response
}

/// An upstream that says hello, to whoever asks.
fn upstream() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let _ =
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello");
        }
    });
    port
}

#[test]
#[ignore = "needs chroot as root or unshare"]
fn bearerd_serves_in_the_image_with_nothing_else_there() {
    let image = image("serves");
    let (proxy, admin) = (nobody().port(), nobody().port());
    let config = format!(
        "[admin]\naddress = \"127.0.0.1:{admin}\"\n\
         [listener.main]\naddress = \"127.0.0.1:{proxy}\"\n\
         [[route]]\nname = \"local\"\npath_prefix = \"/local\"\nanonymous = true\n\
         upstream = \"http://upstream.localhost:{}\"\nplaintext = \"allow\"\n\
         [[route]]\nname = \"roots\"\npath_prefix = \"/roots\"\nanonymous = true\n\
         upstream = \"https://upstream.localhost\"\n",
        upstream()
    );
    fs::write(image.join("etc/bearerd/bearerd.toml"), config).unwrap();
    // The engine writes this one.
    fs::write(image.join("etc/hosts"), "127.0.0.1 upstream.localhost\n").unwrap();
    succeed(enter(&image).arg("check"));

    let log = fs::File::create(image.join("log")).unwrap();
    let mut running = Running(enter(&image).arg("run").stderr(log).stdin(Stdio::null()).spawn().unwrap());
    let said = || fs::read_to_string(image.join("log")).unwrap();
    wait_for("it is healthy", || enter(&image).arg("healthcheck").output().unwrap().status.success());
    let response = get(proxy, "/local/");
    assert!(response.starts_with("HTTP/1.") && response.ends_with("hello"), "{response}\n{}", said());

    let pid = rustix::process::Pid::from_child(&running.0);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(running.0.wait().unwrap().success(), "{}", said());
    assert!(!enter(&image).arg("healthcheck").output().unwrap().status.success(), "nobody is there any more");
}

/// With the bundle a TLS upstream is asked and only then refused; without it nobody could be.
#[test]
#[ignore = "needs chroot as root or unshare"]
fn the_image_has_roots_to_verify_with() {
    let image = image("roots");
    let config = "[issuer.a]\nclient_id = \"a\"\nclient_auth = \"none\"\ntoken_url = \"https://localhost:9/token\"\n\
                  [[route]]\nname = \"a\"\nissuer = \"a\"\nupstream = \"https://localhost:9\"\n";
    fs::write(image.join("etc/bearerd/bearerd.toml"), config).unwrap();
    fs::write(image.join("etc/hosts"), "127.0.0.1 localhost\n").unwrap();
    let refused = || {
        let output = enter(&image).args(["token", "a"]).output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let said = refused();
    assert!(said.contains("refused the connection"), "{said}");
    fs::remove_file(image.join("etc/ssl/certs/ca-certificates.crt")).unwrap();
    let said = refused();
    assert!(said.contains("no CA certificates"), "{said}");
}

#[test]
#[ignore = "needs go"]
fn the_compose_file_is_read_as_docker_reads_it() {
    let file = root().join("deploy/docker/compose.yaml");
    let output = succeed(Command::new(packages::compose()).arg(&file));
    let project: Value = serde_json::from_slice(&output.stdout).unwrap();
    let (bearerd, app) = (&project["services"]["bearerd"], &project["services"]["app"]);
    assert_eq!(app["network_mode"], "service:bearerd", "so that localhost is the same for both");
    assert_eq!(app["depends_on"]["bearerd"]["condition"], "service_healthy");
    assert_eq!(bearerd["image"], format!("bearerd:{}", env!("CARGO_PKG_VERSION")));
    assert_eq!(bearerd["user"].as_str(), Some(instruction("USER").as_str()));
    assert_eq!(bearerd["healthcheck"]["test"], json!(["CMD", "/usr/local/bin/bearerd", "healthcheck"]));
    assert_eq!(bearerd["read_only"], true);
    assert_eq!(bearerd["cap_drop"], json!(["ALL"]));
    assert_eq!(bearerd["security_opt"], json!(["no-new-privileges:true"]));

    let volume = &bearerd["volumes"][0];
    assert_eq!(volume["target"], "/etc/bearerd");
    assert_eq!(volume["read_only"], true);
    let config = root().join("deploy/docker").join(volume["source"].as_str().unwrap()).join("bearerd.toml");
    check(&config);
    let config: toml::Table = fs::read_to_string(config).unwrap().parse().unwrap();
    let secret = bearerd["secrets"][0]["target"].as_str().unwrap();
    assert_eq!(files_named(&toml::Value::Table(config.clone())), [secret]);
    let grace = bearerd["stop_grace_period"].as_str().unwrap().trim_end_matches('s').parse::<u64>().unwrap();
    assert!(grace > seconds_to_end(&config), "killed after {grace} s");
}

#[test]
#[ignore = "needs go and python3"]
fn a_compose_file_with_an_error_is_refused() {
    let good = read("deploy/docker/compose.yaml");
    assert_eq!(documents("compose", &good).len(), 1);
    let folder = scratch("compose");
    for (right, wrong) in
        [("healthcheck:", "healthchek:"), ("- corp", "- other"), ("service:bearerd", "service:nobody")]
    {
        assert!(good.contains(right));
        let file = folder.join("compose.yaml");
        fs::write(&file, good.replacen(right, wrong, 1)).unwrap();
        let output = Command::new(packages::compose()).arg(&file).output().unwrap();
        assert!(!output.status.success(), "{wrong} was taken");
    }
}
