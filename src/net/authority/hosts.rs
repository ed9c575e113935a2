//! The hosts that an authority may sign for, and its name constraints (RFC 5280 section 4.2.1.10).

use std::collections::BTreeSet;
use std::net::IpAddr;

use rcgen::{CidrSubnet, GeneralSubtree, NameConstraints};

use crate::config::HostPattern;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hosts {
    exact: BTreeSet<String>,
    /// With the dot at the beginning.
    suffixes: BTreeSet<String>,
    addresses: BTreeSet<IpAddr>,
}

impl Hosts {
    pub(super) fn of(patterns: &[HostPattern]) -> Self {
        let mut hosts =
            Self { exact: BTreeSet::new(), suffixes: BTreeSet::new(), addresses: BTreeSet::new() };
        for pattern in patterns {
            let host = pattern.without_port();
            match pattern {
                HostPattern::Wildcard(_) => {
                    hosts.suffixes.insert(host.to_owned());
                }
                HostPattern::Exact(_) => match host.trim_matches(['[', ']']).parse() {
                    Ok(address) => drop(hosts.addresses.insert(address)),
                    Err(_) => drop(hosts.exact.insert(host.to_owned())),
                },
            }
        }
        hosts
    }

    pub(super) fn include(&self, host: &str) -> bool {
        if let Ok(address) = host.parse::<IpAddr>() {
            return self.addresses.contains(&address);
        }
        self.exact.contains(host) || below(host).any(|suffix| self.suffixes.contains(suffix))
    }

    /// Whether constraints for these hosts permit all of `others`.
    pub(super) fn permit(&self, others: &Self) -> bool {
        let bases = self.bases();
        others.bases().into_iter().all(|name| is_below(&bases, name))
            && others.addresses.is_subset(&self.addresses)
    }

    /// Whether the constraints permit this host.
    pub(super) fn permit_host(&self, host: &str) -> bool {
        match host.parse::<IpAddr>() {
            Ok(address) => self.addresses.contains(&address),
            Err(_) => is_below(&self.bases(), host),
        }
    }

    /// A host of each pattern.
    pub(super) fn examples(&self) -> impl Iterator<Item = String> {
        let below = self.suffixes.iter().map(|suffix| format!("any{suffix}"));
        let addresses = self.addresses.iter().map(IpAddr::to_string);
        self.exact.iter().cloned().chain(below).chain(addresses)
    }

    fn bases(&self) -> BTreeSet<&str> {
        let exact = self.exact.iter().map(String::as_str);
        exact.chain(self.suffixes.iter().map(|suffix| plain(suffix))).collect()
    }

    /// `example.com` permits itself and all names below it. Names with a dot at the beginning would exclude itself, but Java
    /// refuses them.
    pub(super) fn constraints(&self) -> NameConstraints {
        let bases = self.bases();
        let covered = |base: &str| below(base).any(|suffix| bases.contains(plain(suffix)));
        let mut permitted: Vec<_> = bases.iter().filter(|base| !covered(base)).collect();
        if permitted.is_empty() {
            // Constraints apply only to the types of names that they mention. No name ends in this (RFC 2606).
            permitted.push(&"invalid");
        }
        let mut permitted_subtrees: Vec<_> =
            permitted.into_iter().map(|base| GeneralSubtree::DnsName((*base).to_owned())).collect();
        let address =
            |at: IpAddr, prefix| GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(at, prefix));
        permitted_subtrees
            .extend(self.addresses.iter().map(|at| address(*at, if at.is_ipv4() { 32 } else { 128 })));
        let excluded_subtrees = if self.addresses.is_empty() {
            vec![address(IpAddr::from([0; 4]), 0), address(IpAddr::from([0; 16]), 0)]
        } else {
            Vec::new()
        };
        NameConstraints { permitted_subtrees, excluded_subtrees }
    }
}

fn is_below(bases: &BTreeSet<&str>, name: &str) -> bool {
    bases.contains(name) || below(name).any(|suffix| bases.contains(plain(suffix)))
}

/// A suffix without its dot.
fn plain(suffix: &str) -> &str {
    suffix.strip_prefix('.').unwrap_or(suffix)
}

/// The names above a host, with the dot at the beginning: of `a.b.c`, `.b.c` and `.c`.
fn below(host: &str) -> impl Iterator<Item = &str> {
    host.match_indices('.').filter_map(|(at, _)| host.get(at..))
}
