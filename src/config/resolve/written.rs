//! Paths that bearerd writes. None of them may be one that the config reads, or that bearerd writes for another key.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::listener::Listeners;
use crate::config::document::{self, Place};
use crate::config::environment;
use crate::config::files::{self, Real};
use crate::config::model::{
    Address, Admin, ForProgram, StoreConfig, StoreHost, StorePlace, WebhookConfig, Written, WrittenPath,
    bundle_files,
};
use crate::config::report::{KeyPlace, Report, Severity};

/// The tables that name such paths. What has errors is missing.
pub(super) struct Tables<'a> {
    pub admin: Option<&'a Admin>,
    pub listeners: &'a Listeners,
    pub webhooks: &'a [Arc<WebhookConfig>],
    pub store: Option<&'a StoreConfig>,
    pub program: Option<&'a ForProgram>,
}

/// A key and the paths that bearerd writes for it. The first is what the key names, and the others are beside it.
struct Writer<'t> {
    at: Place<'t>,
    kind: Written,
    paths: Vec<PathBuf>,
}

/// Refuses a path that is the config file or an included one, or belongs to another key. Returns what bearerd writes.
pub(super) fn check<'t>(
    top: &Place<'t>,
    files: &[(PathBuf, PathBuf)],
    tables: &Tables<'_>,
    report: &mut Report,
) -> Vec<WrittenPath> {
    let writers = writers(top, tables);
    let log_file = tables.program.and_then(|program| program.log_file.as_deref());
    if !writers.is_empty() || log_file.is_some() {
        let mut known = Known::read(top, files, tables, report);
        writers.iter().for_each(|writer| known.refuse(writer, report));
        log_file.into_iter().for_each(|path| known.refuse_log_file(path, report));
    }
    let written = writers.into_iter().filter_map(|writer| {
        let Writer { at, kind, paths } = writer;
        Some(WrittenPath { path: paths.into_iter().next()?, kind, place: KeyPlace::of(&at) })
    });
    written.collect()
}

fn writers<'t>(top: &Place<'t>, tables: &Tables<'_>) -> Vec<Writer<'t>> {
    let mut writers = Vec::new();
    let mut add = |at: Place<'t>, kind, paths| writers.push(Writer { at, kind, paths });
    let socket = |address: &Address| match address {
        Address::Unix(path) => Some(vec![path.clone()]),
        Address::Tcp(_) => None,
    };
    if let Some(paths) = tables.admin.and_then(|admin| socket(&admin.address)) {
        add(top.key("admin").key("address"), Written::Socket, paths);
    }
    for config in tables.listeners.configs.iter().flatten() {
        let at = top.key("listener").key(&config.name);
        if let Some(paths) = socket(&config.address) {
            add(at.key("address"), Written::Socket, paths);
        }
        let bundle_at = at.key("forward").key("ca_bundle");
        let bundle = config.forward().and_then(|forward| forward.ca_bundle.as_deref());
        // The one of a program is in a folder of its own.
        if let Some(bundle) = bundle.filter(|_| bundle_at.is_written()) {
            add(bundle_at, Written::Bundle, bundle_files(bundle).to_vec());
        }
    }
    for webhook in tables.webhooks {
        let at = top.key("webhook").key(&webhook.name);
        if let Some(paths) = socket(&webhook.address) {
            add(at.key("address"), Written::Socket, paths);
        }
        add(at.key("store"), Written::Learned, vec![webhook.store.clone()]);
    }
    if let Some(StorePlace::Folder(folder)) = tables.store.map(|store| &store.place) {
        add(top.key("store").key("path"), Written::Tokens, vec![folder.clone()]);
    }
    writers
}

/// Whose a path is.
struct Owner {
    what: String,
    place: KeyPlace,
    is_socket: bool,
    /// It names this path among the system's roots.
    variable: Option<&'static str>,
}

/// The paths of the config, with links followed.
#[derive(Default)]
struct Known<'t> {
    owners: Vec<Owner>,
    paths: BTreeMap<PathBuf, usize>,
    /// By device and inode: two names of one file.
    files: BTreeMap<(u64, u64), usize>,
    /// Folders of which every file is read.
    folders: BTreeMap<PathBuf, usize>,
    include: Option<Place<'t>>,
}

impl<'t> Known<'t> {
    /// What the config reads.
    fn read(top: &Place<'t>, files: &[(PathBuf, PathBuf)], tables: &Tables<'_>, report: &Report) -> Self {
        let mut known = Self { include: Some(top.key("include")), ..Self::default() };
        for (display, absolute) in files {
            let place = KeyPlace { file: display.clone(), line: 0, column: 0, key: String::new() };
            known.add_path(absolute, format!("the config file {}", display.display()), place);
        }
        for used in &report.references {
            if let Some(path) = used.source.named_file() {
                let place = used.place();
                let what = format!("the file of `{}` ({}:{})", place.key, place.file.display(), place.line);
                known.add_path(&path, what, place);
            }
        }
        if let Some(StorePlace::Redis(redis)) = tables.store.map(|store| &store.place) {
            for host in &redis.hosts {
                if let StoreHost::Unix(path) = host {
                    let at = KeyPlace::of(&top.key("store").key("url"));
                    known.add_path(path, "the socket of `store.url`".to_owned(), at);
                }
            }
        }
        for (variable, path) in environment::roots_and_variables() {
            known.add_roots(variable, &path, KeyPlace::of(top));
        }
        known
    }

    fn add_roots(&mut self, variable: Option<&'static str>, path: &Path, place: KeyPlace) {
        let by = variable.map(|name| format!(", which {name} names")).unwrap_or_default();
        let real = files::real(path);
        if real.is_folder() {
            self.folders.insert(real.path, self.owners.len());
            self.add_owner(format!("a file among the system's roots{by}"), place, false);
        } else {
            self.add(real, format!("the file of the system's roots{by}"), place, false);
        }
        if let Some(owner) = self.owners.last_mut() {
            owner.variable = variable;
        }
    }

    fn add_owner(&mut self, what: String, place: KeyPlace, is_socket: bool) {
        self.owners.push(Owner { what, place, is_socket, variable: None });
    }

    fn add_path(&mut self, path: &Path, what: String, place: KeyPlace) {
        self.add(files::real(path), what, place, false);
    }

    /// The first owner of a path stays its owner.
    fn add(&mut self, real: Real, what: String, place: KeyPlace, is_socket: bool) {
        let owner = self.owners.len();
        if let Some(id) = real.id() {
            self.files.entry(id).or_insert(owner);
        }
        self.paths.entry(real.path).or_insert(owner);
        self.add_owner(what, place, is_socket);
    }

    fn owner(&self, real: &Real) -> Option<&Owner> {
        let same = || self.paths.get(&real.path).copied();
        let file = real.id().and_then(|id| self.files.get(&id).copied());
        let beside = || self.folders.get(real.path.parent()?).copied();
        self.owners.get(file.or_else(same).or_else(beside)?)
    }

    /// Reports the first fault, and keeps the paths for the next writers.
    fn refuse(&mut self, writer: &Writer<'_>, report: &mut Report) {
        let Writer { at, kind, paths } = writer;
        let reals: Vec<Real> = paths.iter().map(|path| files::real(path)).collect();
        let fault = reals.iter().enumerate().find_map(|(index, real)| {
            let why = self.fault(real, *kind)?;
            let message = match (index, paths.get(index)) {
                (1.., Some(path)) => format!("bearerd writes {} too, which {why}", path.display()),
                _ => why,
            };
            Some((message, self.owner(real).and_then(|owner| owner.variable)))
        });
        match fault {
            // Programs that use bearerd need exactly this, and so does a shell from which bearerd's other commands are started.
            Some((message, Some(variable))) if *kind == Written::Bundle => {
                let hint =
                    format!("start `bearerd run` without {variable}: it is for programs that use bearerd");
                report.warning(at, message, hint);
            }
            Some((message, _)) => {
                report.error(at, message, "bearerd writes there: name another path, which nothing else uses");
            }
            None => {}
        }
        for real in reals {
            let what = format!("the path of `{}`", at.path);
            self.add(real, what, KeyPlace::of(at), *kind == Written::Socket);
        }
    }

    fn fault(&self, real: &Real, kind: Written) -> Option<String> {
        if let Some(owner) = self.owner(real) {
            // Two equal addresses are reported as such.
            return (!owner.is_socket || kind != Written::Socket).then(|| format!("is {}", owner.what));
        }
        let include = self.include.as_ref().filter(|include| document::would_include(include, &real.path));
        if include.is_some() {
            return Some("is a file that `include` would read as a part of the config".to_owned());
        }
        let needs_file = matches!(kind, Written::Bundle | Written::Learned);
        real.not_a_file().filter(|_| needs_file).map(|what| format!("is {what}, not a file"))
    }

    /// The option is not in the config, so the error is at the other place.
    fn refuse_log_file(&self, path: &Path, report: &mut Report) {
        let real = files::real(path);
        if let Some(owner) = self.owner(&real) {
            let message = format!("--log-file names the same path: {}", owner.what);
            let hint = "give --log-file a file that nothing else uses".to_owned();
            report.problems.push(owner.place.problem(Severity::Error, message, Some(hint)));
        }
    }
}
