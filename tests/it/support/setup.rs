//! The usual scene: one scripted issuer, one scripted upstream, the proxy between them.

use std::ops::Deref;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;

use super::{Bearerd, Scripted};

/// The secret in the scene's `secret` file.
pub const SECRET: &str = "s3cr3t-of-the-scene";

/// A scene before the curtain: each part of the config can be added to, and a key given here goes before the scene's.
pub struct Setup {
    pub issuer: Scripted,
    pub upstream: Scripted,
    folder: Arc<TempDir>,
    parts: Vec<(Part, String)>,
    whole: Option<String>,
    env: Vec<(String, String)>,
}

#[derive(PartialEq, Clone, Copy)]
enum Part {
    Top,
    Admin,
    Log,
    Limits,
    Listener,
    Issuer,
    Route,
    More,
}

/// Keys that replace each other: if one is given, the other's line is left out.
const INSTEAD: [(&str, &str); 2] = [("token_url", "issuer_url"), ("issuer", "anonymous")];

const SCENE: [(Part, &str, &[&str]); 5] = [
    (Part::Admin, "[admin]", &["address = \"127.0.0.1:0\""]),
    (Part::Log, "[log]", &["format = \"json\"", "level = \"debug\""]),
    (Part::Listener, "[listener.main]", &["address = \"127.0.0.1:0\""]),
    (
        Part::Issuer,
        "[issuer.corp]",
        &[
            "token_url = \"{issuer}/token\"",
            "client_id = \"client-1\"",
            "client_secret = { file = \"secret\" }",
        ],
    ),
    (Part::Route, "[[route]]", &["name = \"api\"", "upstream = \"{upstream}\"", "issuer = \"corp\""]),
];

impl Setup {
    pub async fn new() -> Self {
        Self::with(Scripted::issuer().await, Scripted::upstream().await)
    }

    pub fn with(issuer: Scripted, upstream: Scripted) -> Self {
        let folder = Arc::new(tempfile::Builder::new().prefix("bearerd-").tempdir().unwrap());
        let this = Self { issuer, upstream, folder, parts: Vec::new(), whole: None, env: Vec::new() };
        this.file("secret", SECRET);
        this
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn shared_folder(&self) -> Arc<TempDir> {
        Arc::clone(&self.folder)
    }

    /// Writes a file beside the config.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    }

    fn part(mut self, part: Part, text: &str) -> Self {
        self.parts.push((part, text.to_owned()));
        self
    }

    pub fn top(self, text: &str) -> Self {
        self.part(Part::Top, text)
    }

    pub fn admin(self, text: &str) -> Self {
        self.part(Part::Admin, text)
    }

    pub fn log(self, text: &str) -> Self {
        self.part(Part::Log, text)
    }

    pub fn limits(self, text: &str) -> Self {
        self.part(Part::Limits, text)
    }

    /// Keys of the listener `main`.
    pub fn listener(self, text: &str) -> Self {
        self.part(Part::Listener, text)
    }

    /// Keys of the issuer `corp`.
    pub fn issuer(self, text: &str) -> Self {
        self.part(Part::Issuer, text)
    }

    /// Keys of the route `api`.
    pub fn route(self, text: &str) -> Self {
        self.part(Part::Route, text)
    }

    /// Whole tables after the scene's.
    pub fn more(self, text: &str) -> Self {
        self.part(Part::More, text)
    }

    /// Stands instead of the whole scene; `{issuer}`, `{upstream}` and `{folder}` are filled in.
    pub fn whole(mut self, text: &str) -> Self {
        self.whole = Some(text.to_owned());
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    fn given(&self, part: Part) -> String {
        let texts = self.parts.iter().filter(|(of, _)| *of == part).map(|(_, text)| text.as_str());
        texts.collect::<Vec<_>>().join("\n")
    }

    /// The file as it will be written.
    pub fn config(&self) -> String {
        let text = match &self.whole {
            Some(whole) => whole.clone(),
            None => self.scene(),
        };
        text.replace("{issuer}", &self.issuer.url)
            .replace("{upstream}", &self.upstream.url)
            .replace("{folder}", &self.folder.path().display().to_string())
    }

    fn scene(&self) -> String {
        let mut text = self.given(Part::Top);
        let limits = self.given(Part::Limits);
        if !limits.is_empty() {
            text = format!("{text}\n[limits]\n{limits}");
        }
        for (part, table, lines) in SCENE {
            let given = self.given(part);
            text = format!("{text}\n{table}\n");
            for line in lines.iter().filter(|line| !overridden(&given, line)) {
                text = format!("{text}{line}\n");
            }
            text.push_str(&given);
        }
        format!("{text}\n{}\n", self.given(Part::More))
    }

    /// Writes the config without starting anything.
    pub fn write(&self) -> PathBuf {
        let path = self.file("bearerd.toml", self.config());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    pub async fn start(self) -> World {
        self.write();
        let env: Vec<(&str, &str)> =
            self.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let proxy = Bearerd::start(Arc::clone(&self.folder), &env).await;
        World { proxy, setup: self }
    }
}

/// A commented key counts too: `# client_secret` leaves the scene's line out.
fn key_of(line: &str) -> &str {
    line.split('=').next().unwrap_or_default().trim_matches(|char: char| char == '#' || char.is_whitespace())
}

fn overridden(given: &str, line: &str) -> bool {
    let key = key_of(line);
    let instead = INSTEAD.iter().find(|(of, _)| *of == key).map(|(_, other)| *other);
    given.lines().map(key_of).any(|found| found == key || Some(found) == instead)
}

/// The scene with another upstream, and these keys of its route.
pub async fn to(upstream: &str, route: &str) -> World {
    Setup::new().await.route(&format!("upstream = \"{upstream}\"\n{route}")).start().await
}

/// The scene, running. Requests go to the proxy.
pub struct World {
    pub proxy: Bearerd,
    setup: Setup,
}

impl World {
    /// For a program that the test started itself.
    pub fn new(proxy: Bearerd, setup: Setup) -> Self {
        Self { proxy, setup }
    }

    pub fn issuer(&self) -> &Scripted {
        &self.setup.issuer
    }

    pub fn upstream(&self) -> &Scripted {
        &self.setup.upstream
    }

    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        self.setup.file(name, content)
    }

    /// The current config.
    pub fn config(&self) -> String {
        self.setup.config()
    }

    /// The same with other or more keys; not written yet.
    pub fn change(&mut self, change: impl FnOnce(String) -> String) {
        let text = change(self.setup.config());
        self.setup.whole = Some(text);
        self.setup.write();
    }
}

impl Deref for World {
    type Target = Bearerd;

    fn deref(&self) -> &Bearerd {
        &self.proxy
    }
}
