//! `bearerd exec`: run a program whose requests go through bearerd. Exit code, signals, terminal, and standard streams are the
//! program's own.

mod child;
mod direct;
mod environment;

use std::ffi::OsString;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rustix::fs::{OFlags, fcntl_setfl};
use zeroize::Zeroizing;

use self::environment::Environment;
use super::args::Common;
use super::healthcheck::reachable;
use super::{Exit, Failure, load_with, overrides, runtime, serve};
use crate::app::Options;
use crate::config::{self, Address, Config, ForProgram, ListenerConfig, Source, Unmatched};
use crate::secret::Secret;
use crate::telemetry::{self, Destination, LogControl, Overrides};

pub(super) use self::child::{IgnoredSignals, second_step};

pub(super) struct ExecOptions {
    pub(super) tunnel: bool,
    pub(super) log_file: Option<PathBuf>,
    pub(super) command: Vec<OsString>,
}

pub(super) fn exec(common: &Common, exec: &ExecOptions, refused: &[String]) -> Result<Exit, Failure> {
    runtime()?.block_on(serve_program(common, exec, refused))
}

async fn serve_program(common: &Common, exec: &ExecOptions, refused: &[String]) -> Result<Exit, Failure> {
    // Before anything is started that a signal must not leave behind.
    let mut signals = child::listen()?;
    let folder = Folder::new()?;
    let key = random_key()?;
    let unmatched = if exec.tunnel { Unmatched::Tunnel } else { Unmatched::Refuse };
    let made = ForProgram {
        key: Source::literal(basic(&key)),
        bundle: folder.0.join("ca.pem"),
        trusted: environment::trusted(),
        unmatched,
        log_file: exec.log_file.as_deref().and_then(|path| std::path::absolute(path).ok()),
    };
    let config = load_with(common, |path| config::load_for_program(path, made))?;
    let way = Way::through(&config, &key)?;
    let log = start_log(common, &config, exec.log_file.as_deref())?;
    let mut environment = Environment::default();
    environment.remove(config.references.iter().filter_map(|used| used.source.variable()));
    let options = Options { log: Some(log), ..Options::default() };
    let running = serve(config, options, refused, child::ended_early(&mut signals)).await?;
    let address = running.addresses().listeners.get(&way.listener).cloned().unwrap_or_default();
    let address = address.parse().map_or(address, |address| reachable(address).to_string());
    environment.set(way.userinfo.as_ref(), &address, &way.bundle, &way.hosts);
    let written = environment.set_wgetrc(&folder.0, way.userinfo.as_ref(), &way.bundle).map_err(|error| {
        no(format!(
            "cannot write a file for wget to {}: {error}; set TMPDIR to another folder",
            folder.0.display()
        ))
    });
    let ended = match written {
        Ok(()) => child::run(&exec.command, &environment, &mut signals).await,
        Err(failure) => Err(failure),
    };
    running.stop();
    running.join();
    config::end_programs();
    ended
}

fn no(message: String) -> Failure {
    Failure::new(Exit::No, message)
}

/// Only warnings, to stderr, so that the program's own lines stay readable. A file gets what the config says.
fn start_log(common: &Common, config: &Config, file: Option<&Path>) -> Result<LogControl, Failure> {
    let overrides = overrides(common)?;
    let (overrides, to) = match file {
        Some(path) => (overrides, Destination::File(log_file(path)?)),
        None => {
            let quiet = overrides.level.or_else(|| config::log_filter("warn").ok());
            (Overrides { level: quiet, ..overrides }, Destination::Stderr { prefix: "bearerd: " })
        }
    };
    telemetry::init_to(overrides, &config.log, to).map_err(no)
}

fn log_file(path: &Path) -> Result<File, Failure> {
    // A pipe that nobody reads is an error, and not waited for.
    let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).expect("open(2) takes its flags as an int");
    let mut options = OpenOptions::new();
    let opened = options.append(true).create(true).mode(0o600).custom_flags(nonblocking).open(path);
    let blocking = opened.and_then(|file| {
        fcntl_setfl(&file, OFlags::APPEND)?;
        Ok(file)
    });
    blocking.map_err(|error| no(format!("cannot write to --log-file {}: {error}", path.display())))
}

/// A folder that only this user may enter. It is removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self, Failure> {
        // An empty variable names no folder.
        let above = Some(std::env::temp_dir()).filter(|path| !path.as_os_str().is_empty());
        let above = above.unwrap_or_else(|| PathBuf::from("/tmp"));
        let made = Self::in_folder(&above);
        made.map_err(|error| {
            let above = above.display();
            no(format!(
                "cannot make a folder for the CA bundle in {above}: {error}; set TMPDIR to another folder"
            ))
        })
    }

    fn in_folder(above: &Path) -> io::Result<Self> {
        // The program may work in another folder.
        let folder = std::path::absolute(above)?.join(format!("bearerd-exec-{:016x}", fastrand::u64(..)));
        // Fails if the folder exists, so that nobody else's folder or link is used.
        DirBuilder::new().mode(0o700).create(&folder)?;
        Ok(Self(folder))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // The key in it is of no use any more.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A user and a password that nobody can guess.
pub(super) fn random_key() -> Result<Secret, Failure> {
    let mut bytes = Zeroizing::new([0_u8; 32]);
    aws_lc_rs::rand::fill(&mut *bytes).map_err(|_| no("the system returned no random numbers".to_owned()))?;
    let password = Zeroizing::new(URL_SAFE_NO_PAD.encode(*bytes));
    Ok(Secret::from(format!("bearerd:{}", *password)))
}

pub(super) fn basic(userinfo: &Secret) -> Secret {
    Secret::from(format!("Basic {}", *Zeroizing::new(STANDARD.encode(userinfo.expose()))))
}

/// How the program gets to bearerd.
struct Way {
    listener: String,
    /// As in a URL.
    userinfo: Option<Secret>,
    bundle: PathBuf,
    /// The hosts that routes name.
    hosts: Vec<String>,
}

impl Way {
    /// The made listener, or the first forward listener of the file that a program can use.
    fn through(config: &Config, key: &Secret) -> Result<Self, Failure> {
        let mut unfit = Vec::new();
        for (index, listener) in config.listeners.iter().enumerate() {
            let Some(bundle) = listener.forward().and_then(|forward| forward.ca_bundle.clone()) else {
                continue;
            };
            let userinfo = if listener.same_user { Ok(Some(key.clone())) } else { userinfo(listener) };
            match userinfo {
                Ok(userinfo) => {
                    let hosts = config.hosts_of(index);
                    return Ok(Self {
                        listener: listener.name.to_string(),
                        userinfo,
                        bundle,
                        hosts: hosts.iter().map(|host| host.without_port().to_owned()).collect(),
                    });
                }
                Err(why) => unfit.push(format!("listener.{}: {why}", listener.name)),
            }
        }
        let hint = "leave the forward listener out of the file, and `bearerd exec` makes one";
        Err(Failure::new(Exit::Config, format!("{}; {hint}", unfit.join("; "))))
    }
}

/// What a program needs to use a forward listener of the file.
fn userinfo(listener: &ListenerConfig) -> Result<Option<Secret>, String> {
    if matches!(listener.address, Address::Unix(_)) {
        return Err("programs cannot use a proxy on a Unix socket".to_owned());
    }
    if listener.tls.is_some() {
        return Err("few programs speak TLS to their proxy".to_owned());
    }
    let Some((name, value)) = &listener.require_header else { return Ok(None) };
    if name != http::header::PROXY_AUTHORIZATION {
        return Err(format!("programs do not send the header field {name} to their proxy"));
    }
    let (value, _) = value.read_or_last_good().map_err(|error| error.to_string())?;
    let encoded = value.expose_str().and_then(|value| value.strip_prefix("Basic "));
    let decoded = encoded.and_then(|encoded| STANDARD.decode(encoded.trim()).ok()).map(Secret::new);
    let text = decoded.as_ref().and_then(Secret::expose_str);
    let (user, password) = text.and_then(|text| text.split_once(':')).ok_or(
        "the value of require_header is not \"Basic \" and user:password in base64, which programs can send",
    )?;
    let encode = |text: &str| {
        Zeroizing::new(
            percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string(),
        )
    };
    Ok(Some(Secret::from(format!("{}:{}", *encode(user), *encode(password)))))
}
