//! Tokens of other issuers: links each reference to its issuer after all issuers are read, and refuses circles.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::config::document::{KeyPath, PathStep, Place};
use crate::config::model::{Carrier, IssuerConfig};
use crate::config::reference::{Chained, Source};
use crate::config::report::{Report, did_you_mean};
use crate::config::resolve::value::refuse_tables;
use crate::config::resolve::{Issuers, Known, digest, needs};
use crate::config::types::quoted;

/// The most issuers in a chain, so that no config exhausts the stack.
const MOST_LEGS: usize = 16;

/// Links the references of all issuers. `written`: the issuers before linking; `None` for one with errors.
pub(super) fn link(
    written: BTreeMap<String, Option<IssuerConfig>>,
    places: &BTreeMap<String, Place<'_>>,
    report: &mut Report,
) -> (Issuers, Chains) {
    let mut uses: BTreeMap<String, Vec<Use>> = BTreeMap::new();
    for (path, source) in std::mem::take(&mut report.chained) {
        if let Some(PathStep::Key(outer)) = path.get(1) {
            let steps = path.iter().skip(2).cloned().collect();
            uses.entry(outer.clone()).or_default().push(Use { steps, source });
        }
    }
    let names: Vec<String> = written.keys().cloned().collect();
    let (linked, chains) = (BTreeMap::new(), Chains::default());
    let mut linker = Linker { written, uses, places, linked, chains, path: Vec::new() };
    names.iter().for_each(|name| linker.visit(name, report));
    (linker.linked, linker.chains)
}

/// Links the references in `params` of a route, whose place is `route`, and returns the digest of `outer`, its issuer, with
/// those of the other issuers. `None` after an error was reported.
pub(super) fn link_route(
    route: &Place<'_>,
    outer: (&str, Option<&IssuerConfig>),
    known: &Known,
    report: &mut Report,
) -> Option<[u8; 32]> {
    let (name, outer) = outer;
    let mut digest = outer.map(|outer| outer.digest);
    for (path, source) in std::mem::take(&mut report.chained) {
        let place = Place { document: route.document, path: KeyPath(path) };
        let inner = source.chained().and_then(|chained| {
            let begin = [name.to_owned()];
            known.chains.check(
                &place.key("issuer"),
                &begin,
                &chained.issuer,
                known.issuers.keys(),
                report,
            )?;
            let inner = known.issuers.get(&chained.issuer)?.as_ref()?;
            connect(&place, chained, inner, report)?;
            Some(inner)
        });
        digest = digest.zip(inner).map(|(digest, inner)| digest::of_chain(digest, inner.digest));
    }
    digest
}

/// A reference in the table of an issuer.
struct Use {
    /// Relative to the table.
    steps: Vec<PathStep>,
    source: Source,
}

/// Which issuers the tables of issuers name.
#[derive(Default)]
pub(crate) struct Chains {
    inner: BTreeMap<String, BTreeSet<String>>,
    /// How many issuers are in the longest chain that begins at an issuer, if not 1.
    legs: BTreeMap<String, usize>,
}

impl Chains {
    /// Refuses a reference at `at` from the last issuer of `path` to `inner` if that makes a circle, or a chain that is too long,
    /// or if there is no such issuer.
    fn check<'n>(
        &self,
        at: &Place<'_>,
        path: &[String],
        inner: &str,
        names: impl Iterator<Item = &'n String> + Clone,
        report: &mut Report,
    ) -> Option<()> {
        if let Some(circle) = self.circle(path, inner) {
            let message = format!("is a circle: {}", circle.join(" -> "));
            report.error(at, message, "give one of these issuers another credential");
            return None;
        }
        if !names.clone().any(|name| name == inner) {
            if !report.incomplete {
                let names = names.map(String::as_str);
                let hint = did_you_mean(inner, names, "add its table, or correct the name");
                report.error(at, format!("there is no issuer {}", quoted(inner)), hint);
            }
            return None;
        }
        if path.len() + self.legs_from(inner) > MOST_LEGS {
            let message = format!("makes a chain of more than {MOST_LEGS} issuers");
            report.error(at, message, "let fewer issuers depend on each other");
            return None;
        }
        Some(())
    }

    /// The way from an issuer of `path` over `next` back to it.
    fn circle(&self, path: &[String], next: &str) -> Option<Vec<String>> {
        let way = self.way(next, path, &mut BTreeSet::new())?;
        let start = path.iter().position(|name| Some(name) == way.last())?;
        Some(path.iter().skip(start).cloned().chain(way).collect())
    }

    /// The way from an issuer to one of `to`.
    fn way<'a>(&'a self, from: &'a str, to: &[String], seen: &mut BTreeSet<&'a str>) -> Option<Vec<String>> {
        if to.iter().any(|name| name == from) {
            return Some(vec![from.to_owned()]);
        }
        if !seen.insert(from) {
            return None;
        }
        let further = self.inner.get(from)?.iter().find_map(|inner| self.way(inner, to, seen))?;
        Some([from.to_owned()].into_iter().chain(further).collect())
    }

    /// How many issuers are in the longest chain that begins here.
    fn legs_from(&self, issuer: &str) -> usize {
        self.legs.get(issuer).copied().unwrap_or(1)
    }

    /// The table of `outer` names `inner`.
    fn add(&mut self, outer: &str, inner: &str) {
        let legs = self.legs_from(outer).max(1 + self.legs_from(inner));
        self.legs.insert(outer.to_owned(), legs);
        self.inner.entry(outer.to_owned()).or_default().insert(inner.to_owned());
    }
}

struct Linker<'a, 't> {
    written: BTreeMap<String, Option<IssuerConfig>>,
    uses: BTreeMap<String, Vec<Use>>,
    places: &'a BTreeMap<String, Place<'t>>,
    linked: Issuers,
    chains: Chains,
    /// The chain from the first visited issuer to the current one.
    path: Vec<String>,
}

impl Linker<'_, '_> {
    fn visit(&mut self, name: &str, report: &mut Report) {
        let Some(mut issuer) = self.written.remove(name) else { return };
        self.path.push(name.to_owned());
        for used in self.uses.remove(name).into_iter().flatten() {
            let inner = self.inner(name, &used, report);
            if let Some(inner) = &inner {
                self.chains.add(name, &inner.name);
            }
            issuer = issuer.zip(inner).map(|(issuer, inner)| {
                let digest = digest::of_chain(issuer.digest, inner.digest);
                IssuerConfig { digest, ..issuer }
            });
        }
        self.path.pop();
        self.linked.insert(name.to_owned(), issuer.map(Arc::new));
    }

    /// The issuer that a reference of `outer` names, after the reference was linked to it.
    fn inner(&mut self, outer: &str, used: &Use, report: &mut Report) -> Option<Arc<IssuerConfig>> {
        let chained = used.source.chained()?;
        let place = self.places.get(outer)?.join(&used.steps);
        let at = place.key("issuer");
        self.chains.check(&at, &self.path, &chained.issuer, self.places.keys(), report)?;
        self.visit(&chained.issuer, report);
        let inner = self.linked.get(&chained.issuer)?.clone()?;
        connect(&place, chained, &inner, report)?;
        Some(inner)
    }
}

/// Links the reference at `place` to its issuer, if that fits.
fn connect(
    place: &Place<'_>,
    chained: &Chained,
    inner: &Arc<IssuerConfig>,
    report: &mut Report,
) -> Option<()> {
    fits(place, chained, inner, report)?;
    chained.link(inner);
    report.chained_issuers.insert(inner.name.to_string());
    needs::check_chained(place, inner, chained.token().1, report);
    Some(())
}

fn fits(place: &Place<'_>, chained: &Chained, inner: &IssuerConfig, report: &mut Report) -> Option<()> {
    if inner.dpop.is_some() {
        report.error(
            &place.key("issuer"),
            format!(
                "tokens of issuer `{}` are bound to its DPoP key, so they cannot be used as a value",
                inner.name
            ),
            "name an issuer without `dpop`",
        );
        return None;
    }
    if inner.carrier != Carrier::Json {
        refuse_tables(&place.key("params"), &chained.params, report);
    }
    Some(())
}
