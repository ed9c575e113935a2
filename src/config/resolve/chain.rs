//! Tokens of other issuers: links each reference to its issuer after all issuers are read, and refuses circles.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::document::{PathStep, Place};
use crate::config::model::{Carrier, IssuerConfig};
use crate::config::reference::{Chained, Source};
use crate::config::report::{Report, did_you_mean};
use crate::config::resolve::value::refuse_tables;
use crate::config::resolve::{Issuers, digest, needs};
use crate::config::types::quoted;

/// The most issuers in a chain, so that no config exhausts the stack.
const MOST_LEGS: usize = 16;

/// Links the references of all issuers. `written`: the issuers before linking; `None` for one with errors.
pub(super) fn link(
    written: BTreeMap<String, Option<IssuerConfig>>,
    places: &BTreeMap<String, Place<'_>>,
    report: &mut Report,
) -> Issuers {
    let mut uses: BTreeMap<String, Vec<Use>> = BTreeMap::new();
    for (path, source) in std::mem::take(&mut report.chained) {
        if let Some(PathStep::Key(outer)) = path.get(1) {
            let steps = path.iter().skip(2).cloned().collect();
            uses.entry(outer.clone()).or_default().push(Use { steps, source });
        }
    }
    let names: Vec<String> = written.keys().cloned().collect();
    let (linked, legs) = (BTreeMap::new(), BTreeMap::new());
    let mut linker = Linker { written, uses, places, linked, legs, path: Vec::new() };
    names.iter().for_each(|name| linker.visit(name, report));
    linker.linked
}

/// A reference in the table of an issuer.
struct Use {
    /// Relative to the table.
    steps: Vec<PathStep>,
    source: Source,
}

struct Linker<'a, 't> {
    written: BTreeMap<String, Option<IssuerConfig>>,
    uses: BTreeMap<String, Vec<Use>>,
    places: &'a BTreeMap<String, Place<'t>>,
    linked: Issuers,
    /// For each visited issuer, how many issuers are in the longest chain that begins there.
    legs: BTreeMap<String, usize>,
    /// The chain from the first visited issuer to the current one.
    path: Vec<String>,
}

impl Linker<'_, '_> {
    fn visit(&mut self, name: &str, report: &mut Report) {
        let Some(mut issuer) = self.written.remove(name) else { return };
        self.path.push(name.to_owned());
        let mut legs = 1;
        for used in self.uses.remove(name).into_iter().flatten() {
            let inner = self.inner(name, &used, report);
            legs = legs.max(1 + inner.as_ref().map_or(0, |inner| self.legs_from(&inner.name)));
            issuer = issuer.zip(inner).map(|(issuer, inner)| {
                let digest = digest::of_chain(issuer.digest, inner.digest);
                IssuerConfig { digest, ..issuer }
            });
        }
        self.path.pop();
        self.legs.insert(name.to_owned(), legs);
        self.linked.insert(name.to_owned(), issuer.map(Arc::new));
    }

    fn legs_from(&self, issuer: &str) -> usize {
        self.legs.get(issuer).copied().unwrap_or(1)
    }

    /// The issuer that a reference of `outer` names, after the reference was linked to it.
    fn inner(&mut self, outer: &str, used: &Use, report: &mut Report) -> Option<Arc<IssuerConfig>> {
        let chained = used.source.chained()?;
        let place = self.places.get(outer)?.join(&used.steps);
        let at = place.key("issuer");
        if let Some(start) = self.path.iter().position(|name| *name == chained.issuer) {
            let circle = self.path.iter().skip(start).chain([&chained.issuer]);
            let circle = circle.map(String::as_str).collect::<Vec<_>>().join(" -> ");
            report.error(
                &at,
                format!("is a circle: {circle}"),
                "give one of these issuers another credential",
            );
            return None;
        }
        if !self.places.contains_key(&chained.issuer) {
            if !report.incomplete {
                let names = self.places.keys().map(String::as_str);
                let hint = did_you_mean(&chained.issuer, names, "add its table, or correct the name");
                report.error(&at, format!("there is no issuer {}", quoted(&chained.issuer)), hint);
            }
            return None;
        }
        if self.path.len() + self.legs_from(&chained.issuer) > MOST_LEGS {
            report.error(
                &at,
                format!("makes a chain of more than {MOST_LEGS} issuers"),
                "let fewer issuers depend on each other",
            );
            return None;
        }
        self.visit(&chained.issuer, report);
        let inner = self.linked.get(&chained.issuer)?.clone()?;
        fits(&place, chained, &inner, report)?;
        chained.link(&inner);
        report.chained_issuers.insert(inner.name.to_string());
        needs::check_chained(&place, &inner, chained.token().1, report);
        Some(inner)
    }
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
