//! The program's variables: where its proxy is, what to trust, and nothing that the config keeps secret.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::super::trust;
use super::direct::Direct;
use crate::config::files::{self, Contents};
use crate::secret::Secret;

/// What leads some programs to their proxy before `HTTPS_PROXY` does. Where the user has one, it would lead past bearerd.
const OTHER_PROXIES: [&str; 15] = [
    "ALL_PROXY",
    "all_proxy",
    "wss_proxy",
    "WSS_PROXY",
    "grpc_proxy",
    "npm_config_proxy",
    "npm_config_https_proxy",
    "NPM_CONFIG_PROXY",
    "NPM_CONFIG_HTTPS_PROXY",
    "YARN_HTTP_PROXY",
    "YARN_HTTPS_PROXY",
    "PIP_PROXY",
    "CARGO_HTTP_PROXY",
    "GLOBAL_AGENT_HTTP_PROXY",
    "GLOBAL_AGENT_HTTPS_PROXY",
];
/// The same for `NO_PROXY`.
const OTHER_EXEMPTIONS: [&str; 4] =
    ["no_grpc_proxy", "npm_config_noproxy", "NPM_CONFIG_NOPROXY", "GLOBAL_AGENT_NO_PROXY"];
/// What says in parts where the proxy of gcloud is. Without them, it obeys `HTTPS_PROXY`.
const PARTS_OF_PROXIES: [&str; 5] = [
    "CLOUDSDK_PROXY_ADDRESS",
    "CLOUDSDK_PROXY_PORT",
    "CLOUDSDK_PROXY_TYPE",
    "CLOUDSDK_PROXY_USERNAME",
    "CLOUDSDK_PROXY_PASSWORD",
];
/// Files that replace the bundle for some programs.
const OTHER_BUNDLES: [&str; 3] = ["NPM_CONFIG_CAFILE", "YARN_HTTPS_CA_FILE_PATH", "BUNDLE_SSL_CA_CERT"];
/// Options of Java. The later ones override the earlier.
const JAVA: [&str; 3] = ["JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS"];

/// The files with what the program would trust without bearerd, each with its variable.
pub(super) fn trusted() -> Vec<(&'static str, PathBuf)> {
    let names = trust::VARIABLES.iter().map(|variable| variable.name).chain(OTHER_BUNDLES);
    let files = names.filter_map(|name| Some((name, std::env::var_os(name)?)));
    files.filter(|(_, file)| !file.is_empty()).map(|(name, file)| (name, file.into())).collect()
}

/// What differs from bearerd's own environment. `None`: the variable is not there.
#[derive(Default)]
pub(super) struct Environment(BTreeMap<String, Option<OsString>>);

impl Environment {
    pub(super) fn apply(&self, command: &mut Command) {
        for (name, value) in &self.0 {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
    }

    /// Takes away the variables that the config reads, and the one that names it.
    pub(super) fn remove<'a>(&mut self, names: impl Iterator<Item = &'a str>) {
        self.0.extend(names.chain(["BEARERD_CONFIG"]).map(|name| (name.to_owned(), None)));
    }

    /// `userinfo`: as in a URL. `hosts`: those that routes name.
    pub(super) fn set(&mut self, userinfo: Option<&Secret>, address: &str, bundle: &Path, hosts: &[String]) {
        let proxy = Zeroizing::new(match userinfo.and_then(Secret::expose_str) {
            Some(userinfo) => format!("http://{userinfo}@{address}"),
            None => format!("http://{address}"),
        });
        let own = ["no_proxy", "NO_PROXY"].map(|name| text(name).unwrap_or_default());
        let direct = Direct::new(&own.join(","), hosts);
        for name in ["HTTP_PROXY", "HTTPS_PROXY"] {
            self.both_cases(name, &proxy);
        }
        self.both_cases("NO_PROXY", &direct.no_proxy());
        let there = |name: &&str| std::env::var_os(name).is_some();
        OTHER_PROXIES.into_iter().filter(there).for_each(|name| self.insert(name, proxy.as_str()));
        OTHER_EXEMPTIONS.into_iter().filter(there).for_each(|name| self.insert(name, direct.no_proxy()));
        self.0.extend(PARTS_OF_PROXIES.into_iter().filter(there).map(|name| (name.to_owned(), None)));
        OTHER_BUNDLES.into_iter().filter(there).for_each(|name| self.insert(name, bundle));
        for variable in &trust::VARIABLES {
            self.insert(variable.name, bundle);
        }
        self.insert("NODE_USE_ENV_PROXY", "1");
        self.set_git_proxy(&proxy);
        for name in JAVA.into_iter().filter(|name| *name == JAVA[0] || there(name)) {
            self.insert(name, java_options(std::env::var_os(name), address, bundle, &direct));
        }
    }

    /// git obeys `http.proxy` of its files before the variables of a proxy, and these variables of its own before its files.
    fn set_git_proxy(&mut self, proxy: &str) {
        let count = text("GIT_CONFIG_COUNT").filter(|count| !count.is_empty());
        // git refuses any other.
        let Ok(count) = count.as_deref().unwrap_or("0").parse::<u16>() else { return };
        self.insert(&format!("GIT_CONFIG_KEY_{count}"), "http.proxy");
        self.insert(&format!("GIT_CONFIG_VALUE_{count}"), proxy);
        self.insert("GIT_CONFIG_COUNT", (u32::from(count) + 1).to_string());
    }

    /// wget with GnuTLS, as Debian builds it, reads no variable for what it trusts, but the name of its own file. It obeys a proxy
    /// in that file, or in the system's, before the variables. The last line about something counts.
    pub(super) fn set_wgetrc(
        &mut self,
        folder: &Path,
        userinfo: Option<&Secret>,
        bundle: &Path,
    ) -> io::Result<()> {
        let path = folder.join("wgetrc");
        // It holds passwords.
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        if let Some(own) = own_wgetrc() {
            file.write_all(&own.bytes)?;
        }
        let [proxy, direct] = ["HTTPS_PROXY", "NO_PROXY"].map(|name| self.value(name));
        // The line without a value removes what is there.
        write!(
            file,
            "\nuse_proxy = on\nhttp_proxy = {proxy}\nhttps_proxy = {proxy}\nno_proxy =\nno_proxy = {direct}\n"
        )?;
        // They go before those in the URL.
        if let Some((user, password)) =
            userinfo.and_then(Secret::expose_str).and_then(|text| text.split_once(':'))
        {
            let [user, password] =
                [user, password].map(|text| percent_encoding::percent_decode_str(text).decode_utf8_lossy());
            write!(file, "proxy_user = {user}\nproxy_password = {password}\n")?;
        }
        writeln!(file, "ca_certificate = {}", bundle.display())?;
        self.insert(WGETRC, path);
        Ok(())
    }

    fn value(&self, name: &str) -> String {
        let value = self.0.get(name).cloned().flatten().unwrap_or_default();
        value.to_string_lossy().into_owned()
    }

    fn both_cases(&mut self, name: &str, value: &str) {
        self.insert(name, value);
        self.insert(&name.to_ascii_lowercase(), value);
    }

    fn insert(&mut self, name: &str, value: impl Into<OsString>) {
        self.0.insert(name.to_owned(), Some(value.into()));
    }
}

fn text(name: &str) -> Option<String> {
    std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}

const WGETRC: &str = "WGETRC";

fn own_wgetrc() -> Option<Arc<Contents>> {
    let named = std::env::var_os(WGETRC).filter(|path| !path.is_empty());
    let (variable, path) = match named {
        Some(path) => (WGETRC, PathBuf::from(path)),
        None => ("HOME", Path::new(&std::env::var_os("HOME")?).join(".wgetrc")),
    };
    // Most users have none.
    if variable == "HOME" && files::state(&path).is_err() {
        return None;
    }
    let read = files::read(&path, files::LARGEST_CONFIG);
    read.inspect_err(|error| files::left_out(variable, &path, error)).ok()
}

/// After the options that are there already. Java shows them on stderr, so they hold no secret: the listener knows the program
/// by its user.
fn java_options(before: Option<OsString>, address: &str, bundle: &Path, direct: &Direct) -> OsString {
    let mut options = before.filter(|before| !before.is_empty()).unwrap_or_default();
    if !options.is_empty() {
        options.push(" ");
    }
    let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
    for scheme in ["http", "https"] {
        options.push(format!("-D{scheme}.proxyHost={host} -D{scheme}.proxyPort={port} "));
    }
    options.push(format!("-Dhttp.nonProxyHosts={} ", direct.java()));
    options.push(trust::java_options(bundle));
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_that_routes_name_go_through_the_proxy() {
        let mut environment = Environment::default();
        environment.remove(["SECRET"].into_iter());
        let hosts = ["localhost".to_owned(), "[::1]".to_owned(), ".example.com".to_owned()];
        environment.set(Some(&Secret::from("u:p")), "127.0.0.1:3128", Path::new("/tmp/x/ca.pem"), &hosts);
        assert_eq!(environment.value("NO_PROXY"), "127.0.0.1");
        assert_eq!(environment.value("https_proxy"), "http://u:p@127.0.0.1:3128");
        assert!(environment.0["SECRET"].is_none() && environment.0["BEARERD_CONFIG"].is_none());
    }

    /// The JVM ends a word at a blank outside of quotes, and a quote at the next one of its kind.
    #[test]
    fn a_path_in_the_options_of_java_is_one_word() {
        for (path, quoted) in
            [("/a b/ca", "'/a b/ca.p12'"), ("/it's/ca", "\"/it's/ca.p12\""), ("/\"/ca", "'/\"/ca.p12'")]
        {
            let options = trust::java_options(Path::new(&format!("{path}.pem")));
            assert!(options.starts_with(&format!("-Djavax.net.ssl.trustStore={quoted} ")), "{options}");
        }
    }

    #[test]
    fn options_of_java_are_added_to_those_that_are_there() {
        let options =
            java_options(Some("-Xmx1g".into()), "127.0.0.1:1", Path::new("/x/ca.pem"), &Direct::new("", &[]));
        assert_eq!(
            options.into_string().unwrap(),
            "-Xmx1g -Dhttp.proxyHost=127.0.0.1 -Dhttp.proxyPort=1 -Dhttps.proxyHost=127.0.0.1 -Dhttps.proxyPort=1 \
             -Dhttp.nonProxyHosts=localhost|127.0.0.1|[::1] -Djavax.net.ssl.trustStore=/x/ca.p12 \
             -Djavax.net.ssl.trustStoreType=PKCS12 -Djavax.net.ssl.trustStorePassword=changeit"
        );
    }
}
