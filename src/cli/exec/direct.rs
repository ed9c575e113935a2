//! The hosts that a program reaches without its proxy: this machine, and those of the user's own `NO_PROXY`. Never a host that a
//! route names, because its requests would go out without their token.

use std::net::IpAddr;

use ipnet::IpNet;

const THIS_MACHINE: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

pub(super) struct Direct(Vec<String>);

impl Direct {
    /// `own`: the user's `NO_PROXY`. `hosts`: those that routes name, a wildcard with its dot at the beginning.
    pub(super) fn new(own: &str, hosts: &[String]) -> Self {
        let own =
            own.split(|char: char| char == ',' || char.is_whitespace()).filter(|entry| !entry.is_empty());
        let mut entries: Vec<String> = Vec::new();
        for entry in THIS_MACHINE.into_iter().chain(own) {
            let known = entries.iter().any(|known| known.eq_ignore_ascii_case(entry));
            if !known && !hosts.iter().any(|host| may_be_for(entry, host)) {
                entries.push(entry.to_owned());
            }
        }
        Self(entries)
    }

    pub(super) fn no_proxy(&self) -> String {
        self.0.join(",")
    }

    /// As `http.nonProxyHosts`, which has no networks and no ports.
    pub(super) fn java(&self) -> String {
        let entries = self.0.iter().filter_map(|entry| {
            let host = without_port(entry);
            if host != entry.trim_matches(['[', ']']) || host.contains('/') {
                return None;
            }
            let name = host.trim_start_matches('*');
            Some(match host.parse::<IpAddr>() {
                Ok(IpAddr::V6(address)) => format!("[{address}]"),
                Ok(address) => address.to_string(),
                Err(_) if name.starts_with('.') => format!("*{name}"),
                Err(_) if host == "localhost" => host.to_owned(),
                Err(_) => format!("{host}|*.{host}"),
            })
        });
        entries.collect::<Vec<_>>().join("|")
    }
}

/// Whether some program takes the entry for this host. Programs differ: some compare only the ends of names, and many ignore the
/// port, a scheme, and a dot at the end.
fn may_be_for(entry: &str, host: &str) -> bool {
    let entry = entry.to_ascii_lowercase();
    let entry = match entry.split_once("://") {
        Some((_, rest)) => rest.split('/').next().unwrap_or(rest),
        None => &entry,
    };
    let entry = without_port(entry);
    let name = entry.strip_prefix('*').unwrap_or(entry).trim_matches('.');
    if name.contains('*') || name.is_empty() {
        return true;
    }
    if let Some(address) = address(host.trim_matches(['[', ']'])) {
        return network_has(name, address)
            || range_has(name, address)
            // "10." and "10.0", and by programs that compare the ends of all hosts, "2.3"
            || address.to_string().starts_with(name)
            || address.to_string().ends_with(name);
    }
    let is_below = host.starts_with('.') && name.ends_with(host);
    is_below || host.ends_with(name)
}

/// An IPv4 address that is mapped into IPv6 (`::ffff:10.1.2.3`) is that IPv4 address.
fn address(text: &str) -> Option<IpAddr> {
    text.parse().ok().map(|address: IpAddr| address.to_canonical())
}

fn network_has(name: &str, address: IpAddr) -> bool {
    let mapped = match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().into(),
        IpAddr::V6(_) => address,
    };
    let network = name.parse().or_else(|_| name.parse::<IpAddr>().map(IpNet::from));
    network.is_ok_and(|network: IpNet| network.contains(&address) || network.contains(&mapped))
}

/// Node's ranges: `10.1.2.1-10.1.2.9`.
fn range_has(name: &str, host: IpAddr) -> bool {
    let range = name.split_once('-').and_then(|(first, last)| Some(address(first)?..=address(last)?));
    range.is_some_and(|range| range.contains(&host))
}

/// An IPv6 address without its brackets.
fn without_port(entry: &str) -> &str {
    let host = match entry.rsplit_once(':') {
        Some((host, _)) if !host.contains(':') || host.ends_with(']') => host,
        _ => entry,
    };
    host.trim_matches(['[', ']'])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn direct(own: &str, hosts: &[&str]) -> String {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        Direct::new(own, &hosts).no_proxy()
    }

    #[test]
    fn the_users_own_entries_stay() {
        let own = ".corp.example, *.lan 10.0.0.0/8,LOCALHOST,[2001:db8::1]:8080,host:8443,10.1.2.1-10.1.2.9,http://corp.example.";
        let kept = "localhost,127.0.0.1,::1,.corp.example,*.lan,10.0.0.0/8,[2001:db8::1]:8080,host:8443,10.1.2.1-10.1.2.9,http://corp.example.";
        assert_eq!(direct(own, &["api.example.com", ".wild.example", "192.0.2.1"]), kept);
    }

    #[test]
    fn no_entry_leads_past_a_route() {
        for (entry, host) in [
            ("*", "api.example.com"),
            (".", "api.example.com"),
            ("api.example.com", "api.example.com"),
            ("API.example.com:443", "api.example.com"),
            (".example.com", "api.example.com"),
            ("*.example.com", "api.example.com"),
            ("com", "api.example.com"),
            // wget compares only the ends.
            ("i.example.com", "api.example.com"),
            ("api.*", "api.example.com"),
            ("wild.example", ".wild.example"),
            (".wild.example", ".wild.example"),
            ("a.wild.example", ".wild.example"),
            ("example", ".wild.example"),
            ("10.1.2.3", "10.1.2.3"),
            ("10.0.0.0/8", "10.1.2.3"),
            ("10.*", "10.1.2.3"),
            ("10.1", "10.1.2.3"),
            ("2.3", "10.1.2.3"),
            (".3", "10.1.2.3"),
            ("::5", "[2001:db8::5]"),
            ("2001:db8::/32", "[2001:db8::5]"),
            ("[2001:DB8:0::5]:443", "[2001:db8::5]"),
            ("localhost", "localhost"),
            ("127.0.0.0/8", "127.0.0.1"),
            ("api.example.com.", "api.example.com"),
            (".example.com.", "api.example.com"),
            ("api.example.com.:443", "api.example.com"),
            ("https://api.example.com", "api.example.com"),
            ("HTTPS://api.example.com:443/v1", "api.example.com"),
            ("https://", "api.example.com"),
            (".wild.example.", ".wild.example"),
            ("::ffff:10.1.2.3", "10.1.2.3"),
            ("[::FFFF:10.1.2.3]:443", "10.1.2.3"),
            ("::ffff:10.0.0.0/104", "10.1.2.3"),
            ("10.1.2.3", "[::ffff:10.1.2.3]"),
            ("10.1.2.1-10.1.2.9", "10.1.2.3"),
            ("10.1.2.3-10.1.2.3", "10.1.2.3"),
        ] {
            let left = direct(entry, &[host]);
            assert!(!left.split(',').any(|kept| kept == entry), "{entry} {host}: {left}");
        }
    }

    #[test]
    fn java_has_patterns() {
        let own = ".corp.example,*.lan,host,10.0.0.0/8,10.1.2.3,2001:db8::1,host:8443";
        let java = "localhost|127.0.0.1|[::1]|*.corp.example|*.lan|host|*.host|10.1.2.3|[2001:db8::1]";
        assert_eq!(Direct::new(own, &[]).java(), java);
    }
}
