//! `bearerd store ls` shows what the store of the config holds, and `bearerd store drop` removes the tokens of an issuer.
//! Neither shows a token.

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::json;
use tokio::runtime::Handle;

use crate::cli::args::{Common, Output};
use crate::cli::online::{Wanted, wanted_credentials};
use crate::cli::{Exit, Failure, issuer, load, output, runtime};
use crate::clock::{SystemClock, millis, rfc3339};
use crate::config::{Config, IssuerConfig, StoreConfig, counted};
use crate::issuer::Issuer;
use crate::store::{Entry, Listed, Store, StoreError};
use crate::token::balance_in_store;

/// What the store holds, as `--output json` shows it (docs/store.md).
#[derive(Debug, Serialize)]
struct Contents {
    /// Where the store is.
    store: String,
    tokens: Vec<Token>,
    budgets: Vec<Budget>,
    /// Issuers of the config whose tokens are never stored.
    not_shared: Vec<String>,
    /// Entries of another config, key, or version.
    other_entries: usize,
}

/// What all replicas together have left of an issuer's `budget`.
#[derive(Debug, Serialize)]
struct Budget {
    issuer: String,
    /// As in the config.
    requests: u32,
    /// The span of `requests`, in seconds.
    per: u64,
    remaining: u32,
    /// Seconds until one more request is possible. 0: now.
    next_in: u64,
}

/// One token that the config can use.
#[derive(Debug, Serialize)]
struct Token {
    issuer: String,
    /// Empty if no route uses it: it has the issuer's own scopes.
    routes: Vec<String>,
    scopes: Vec<String>,
    subject: Option<String>,
    /// There is an entry.
    stored: bool,
    /// There is an entry, and a key of `keys` decrypts it.
    readable: bool,
    /// The index of that key in `keys`. 0: the one that encrypts.
    key: Option<usize>,
    generation: Option<u64>,
    /// Seconds.
    expires_in: Option<u64>,
    /// When it was requested, by the clock of the host that requested it.
    requested_at: Option<String>,
    /// The host whose bearerd requested it.
    by: Option<String>,
    /// It was requested because an upstream refused its predecessor.
    forced: Option<bool>,
    /// For how many milliseconds a bearerd has the right to fetch the next one.
    leased_for_ms: Option<u64>,
}

pub(super) fn list(common: &Common, format: Output) -> Result<Exit, Failure> {
    let config = load(common)?;
    let contents = with_store(&config, async |store| contents(&config, store).await)?;
    match format {
        Output::Json => output::answer_json(&json!(contents)),
        Output::Text => {
            let mut text = String::new();
            // Writing to a String cannot fail.
            let _ = write(&mut text, &contents);
            output::answer_people(&output::harmless(&text));
        }
    }
    Ok(Exit::Fine)
}

pub(super) fn forget(common: &Common, name: &str, format: Output) -> Result<Exit, Failure> {
    let config = load(common)?;
    let issuer = issuer(&config, name)?;
    let (place, removed) = with_store(&config, async |store| {
        let mut removed = 0;
        for wanted in wanted_credentials(&config, issuer) {
            removed += store.forget(&names(store, issuer, &wanted)?).await?;
        }
        Ok((store.place(), removed))
    })?;
    match format {
        Output::Json => output::answer_json(&json!({ "store": place, "issuer": name, "removed": removed })),
        Output::Text => output::answer_people(&output::harmless(&forgotten(name, &place, removed))),
    }
    Ok(Exit::Fine)
}

fn forgotten(issuer: &str, place: &str, removed: u64) -> String {
    let next = "A running bearerd keeps the token that it holds until the token is due for renewal, expires, or is refused by an \
                upstream. The first bearerd that needs a token then requests a new one for all.";
    match removed {
        0 => format!("no token of issuer {issuer} was in {place}\n"),
        1 => format!("removed 1 token of issuer {issuer} from {place}\n{next}\n"),
        more => format!("removed {more} tokens of issuer {issuer} from {place}\n{next}\n"),
    }
}

/// Does `work` with the store of the config.
fn with_store<T>(
    config: &Config,
    work: impl AsyncFnOnce(&Store) -> Result<T, StoreError>,
) -> Result<T, Failure> {
    let store = config.store.as_ref().ok_or_else(|| {
        let message = format!(
            "{} has no [store], so tokens are only in the memory of each process; see [store] in config.example.toml",
            config.path.display()
        );
        Failure::new(Exit::Config, message)
    })?;
    let runtime = runtime()?;
    let outcome = runtime.block_on(async { work(&open(store)).await });
    // A connection attempt that nobody waits for must not delay the exit.
    runtime.shutdown_background();
    outcome.map_err(|gone| Failure::new(Exit::No, output::harmless(&gone.detail)))
}

/// The store, for one run. Call it within a runtime.
pub(super) fn open(config: &Arc<StoreConfig>) -> Store {
    Store::new(Arc::clone(config), &Handle::current(), Arc::new(SystemClock), Arc::default())
}

fn names(
    store: &Store,
    issuer: &Arc<IssuerConfig>,
    wanted: &Wanted,
) -> Result<crate::store::Names, StoreError> {
    let source = Issuer::new(Arc::clone(issuer), Arc::new(SystemClock));
    store.token_names(&source.token_identity(&wanted.key))
}

async fn contents(config: &Config, store: &Store) -> Result<Contents, StoreError> {
    let mut listed = store.list().await?;
    let (mut tokens, mut budgets, mut not_shared) = (Vec::new(), Vec::new(), Vec::new());
    let mut known = BTreeSet::new();
    for issuer in config.issuers.values() {
        budgets.extend(budget(store, issuer).await?);
        if !issuer.shares_tokens() {
            not_shared.push(issuer.name.to_string());
            continue;
        }
        for wanted in wanted_credentials(config, issuer) {
            let names = names(store, issuer, &wanted)?;
            let entry = store.look(&names).await?.into_iter().next();
            let lease = listed.iter().find(|listed| names.ids().first() == Some(&listed.id));
            known.extend(names.ids().iter().cloned());
            if wanted.needed || entry.is_some() {
                tokens.push(token(issuer, wanted, entry.as_ref(), lease));
            }
        }
    }
    listed.retain(|listed| listed.generation.is_some() && !known.contains(&listed.id));
    Ok(Contents { store: store.place(), tokens, budgets, not_shared, other_entries: listed.len() })
}

async fn budget(store: &Store, issuer: &IssuerConfig) -> Result<Option<Budget>, StoreError> {
    let Some(budget) = issuer.budget.filter(|_| issuer.shared) else { return Ok(None) };
    let balance = balance_in_store(store, issuer, budget).await?;
    Ok(Some(Budget {
        issuer: issuer.name.to_string(),
        requests: budget.requests,
        per: budget.per.as_secs(),
        remaining: balance.remaining,
        next_in: whole_seconds(balance.next),
    }))
}

fn token(issuer: &IssuerConfig, wanted: Wanted, entry: Option<&Entry>, lease: Option<&Listed>) -> Token {
    let found = entry.and_then(|entry| entry.found.as_ref());
    Token {
        issuer: issuer.name.to_string(),
        routes: wanted.routes,
        scopes: wanted.key.scopes.to_vec(),
        subject: wanted.key.subject,
        stored: entry.is_some(),
        readable: found.is_some(),
        key: found.and(entry).map(|entry| entry.key),
        generation: found.map(|found| found.generation),
        expires_in: found.map(|found| found.left.as_secs()),
        requested_at: found.map(|found| rfc3339(found.stored.asked)),
        by: found.map(|found| found.stored.by.clone()),
        forced: found.map(|found| found.stored.forced),
        leased_for_ms: lease.and_then(|lease| lease.leased_for).map(millis),
    }
}

fn write(out: &mut String, contents: &Contents) -> fmt::Result {
    for shown in &contents.tokens {
        write_token(out, shown)?;
    }
    for shown in &contents.budgets {
        write_budget(out, shown)?;
    }
    for issuer in &contents.not_shared {
        writeln!(
            out,
            "issuer {issuer}: its tokens are never stored (`shared = false`, or they are bound to a key)\n"
        )?;
    }
    let stored = contents.tokens.iter().filter(|token| token.stored).count();
    write!(out, "{}: {} of this config", contents.store, counted(stored, "token"))?;
    match contents.other_entries {
        0 => writeln!(out),
        1 => writeln!(out, ", and 1 entry that belongs to another config, key, or version"),
        more => writeln!(out, ", and {more} entries that belong to another config, key, or version"),
    }
}

fn write_token(out: &mut String, token: &Token) -> fmt::Result {
    let routes = match token.routes.as_slice() {
        [] => "no route".to_owned(),
        [one] => format!("route {one}"),
        more => format!("routes {}", more.join(", ")),
    };
    writeln!(out, "token of issuer {} for {routes}: {}", token.issuer, state(token))?;
    let mut line = |label: &str, text: &str| writeln!(out, "  {label:<12} {text}");
    if !token.scopes.is_empty() {
        line("scopes", &token.scopes.join(" "))?;
    }
    if let Some(subject) = &token.subject {
        line("subject", subject)?;
    }
    if let Some(generation) = token.generation {
        line("generation", &generation.to_string())?;
    }
    if let Some(left) = token.expires_in {
        line("expires", &format!("in {}", humantime::format_duration(Duration::from_secs(left))))?;
    }
    if let (Some(at), Some(by)) = (&token.requested_at, &token.by) {
        let why =
            if token.forced == Some(true) { ", because an upstream refused the previous one" } else { "" };
        line("requested", &format!("at {at} by {by}{why}"))?;
    }
    if let Some(key @ 1..) = token.key {
        line("key", &format!("keys[{key}]; a bearerd that needs a token writes it anew under keys[0]"))?;
    }
    if let Some(leased) = token.leased_for_ms {
        line("leased", &format!("a bearerd is fetching the next one; its lease lasts for {leased} ms"))?;
    }
    writeln!(out)
}

/// Rounded up.
fn whole_seconds(span: Duration) -> u64 {
    span.as_secs() + u64::from(span.subsec_nanos() > 0)
}

fn write_budget(out: &mut String, budget: &Budget) -> fmt::Result {
    let Budget { issuer, requests, per, remaining, next_in } = budget;
    let per = humantime::format_duration(Duration::from_secs(*per));
    write!(out, "budget of issuer {issuer}: {remaining} of {requests} token requests per {per} are left")?;
    if *remaining == 0 {
        let next = humantime::format_duration(Duration::from_secs(*next_in));
        write!(out, "; the next one is possible in {next}")?;
    }
    writeln!(out, "\n")
}

fn state(token: &Token) -> &'static str {
    match (token.stored, token.readable) {
        (true, true) => "stored",
        (true, false) => "stored, but ignored: no key of `keys` decrypts it, or it has expired",
        (false, _) => "none",
    }
}
