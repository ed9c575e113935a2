//! Two routes of equal rank that can both match one request are an error: which one would serve it is nobody's guess.

use std::collections::BTreeMap;
use std::collections::hash_map::{Entry, HashMap};

use http::Method;

use super::super::document::Place;
use super::super::model::{HostPattern, PathPattern};
use super::super::read::elsewhere;
use super::super::report::Report;
use super::matching::Matching;

pub(super) struct Candidate<'t> {
    pub place: Place<'t>,
    pub name: String,
    pub matching: Matching,
}

/// More than this tells nothing new.
const MOST_REPORTED: usize = 20;

/// What must be equal for two routes to rank equally and to meet: two different listeners never share a request.
type Rank<'a> = (Option<&'a HostPattern>, &'a PathPattern, Option<usize>, bool, usize);

/// Reports every route that ties with an earlier one (in the order of the files), up to a bound.
/// Near linear in the number of routes: candidates are looked up by what they match, not compared pair by pair.
pub(super) fn check(routes: &[Candidate<'_>], report: &mut Report) {
    let mut groups: HashMap<Rank<'_>, Vec<usize>> = HashMap::new();
    for (index, Candidate { matching, .. }) in routes.iter().enumerate() {
        let rank = (
            matching.host.as_ref(),
            &matching.path,
            matching.listener,
            matching.methods.is_some(),
            matching.headers.len(),
        );
        groups.entry(rank).or_default().push(index);
    }
    let mut ties = Vec::new();
    for group in groups.values().filter(|group| group.len() > 1) {
        ties_of_group(routes, group, &mut ties);
    }
    ties.sort_unstable();
    ties.dedup_by_key(|(later, _)| *later);
    for (later, earlier) in ties.into_iter().take(MOST_REPORTED) {
        if let (Some(later), Some(earlier)) = (routes.get(later), routes.get(earlier)) {
            tell(later, earlier, report);
        }
    }
}

fn tell(later: &Candidate<'_>, earlier: &Candidate<'_>, report: &mut Report) {
    let name = |route: &Candidate<'_>| {
        if route.name.is_empty() { route.place.path.to_string() } else { format!("`{}`", route.name) }
    };
    report.error(
        &later.place,
        format!(
            "route {} ties with route {} ({}): one request can match both",
            name(later),
            name(earlier),
            elsewhere(&earlier.place)
        ),
        "tell them apart by host, path, listener, methods or match_headers; the order never decides",
    );
}

/// A table from values and method to the route that has them.
type Taken<'a> = HashMap<(Vec<&'a str>, Option<&'a Method>), usize>;

/// All routes here have the same rank. Those with the same header names meet where the values are equal; those with
/// other names meet where the values of the names that both have are equal.
fn ties_of_group(routes: &[Candidate<'_>], group: &[usize], ties: &mut Vec<(usize, usize)>) {
    let mut by_names: BTreeMap<Vec<&str>, Vec<usize>> = BTreeMap::new();
    for &index in group {
        let Some(route) = routes.get(index) else { continue };
        let names = route.matching.headers.iter().map(|(name, _)| name.as_str()).collect();
        by_names.entry(names).or_default().push(index);
    }
    let sets: Vec<(Vec<&str>, Vec<usize>)> = by_names.into_iter().collect();
    for (position, (names, members)) in sets.iter().enumerate() {
        let mut taken = Taken::new();
        meet(routes, members, names, &mut taken, ties);
        for (other_names, others) in sets.iter().skip(position + 1) {
            if ties.len() >= MOST_REPORTED * MOST_REPORTED {
                return;
            }
            let shared: Vec<&str> = names.iter().filter(|name| other_names.contains(name)).copied().collect();
            let mut taken = Taken::new();
            let mut own = Vec::new();
            meet(routes, members, &shared, &mut taken, &mut own);
            look_up(routes, others, &shared, &taken, ties);
        }
    }
}

/// Enters each route under its values of `names` and each of its methods; one that finds its place taken ties.
fn meet<'a>(
    routes: &'a [Candidate<'_>],
    members: &[usize],
    names: &[&str],
    taken: &mut Taken<'a>,
    ties: &mut Vec<(usize, usize)>,
) {
    for &index in members {
        for key in keys(routes, index, names) {
            match taken.entry(key) {
                Entry::Occupied(first) => ties.push((index.max(*first.get()), index.min(*first.get()))),
                Entry::Vacant(free) => {
                    free.insert(index);
                }
            }
        }
    }
}

fn look_up(
    routes: &[Candidate<'_>],
    members: &[usize],
    names: &[&str],
    taken: &Taken<'_>,
    ties: &mut Vec<(usize, usize)>,
) {
    for &index in members {
        for key in keys(routes, index, names) {
            if let Some(&first) = taken.get(&key) {
                ties.push((index.max(first), index.min(first)));
            }
        }
    }
}

fn keys<'a>(
    routes: &'a [Candidate<'_>],
    index: usize,
    names: &[&str],
) -> Vec<(Vec<&'a str>, Option<&'a Method>)> {
    let Some(Candidate { matching, .. }) = routes.get(index) else { return Vec::new() };
    let values: Vec<&str> = matching
        .headers
        .iter()
        .filter(|(name, _)| names.contains(&name.as_str()))
        .map(|(_, value)| value.as_str())
        .collect();
    match &matching.methods {
        None => vec![(values, None)],
        Some(methods) => methods.iter().map(|method| (values.clone(), Some(method))).collect(),
    }
}
