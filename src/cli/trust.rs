//! How programs are told to trust a forward listener's CA: for `ca`, which shows it, and for `exec`, which does it.

use std::path::Path;

use crate::config::bundle_files;
use crate::net::authority::bundle;

/// A variable that names a PEM file, and who reads it.
pub(super) struct Variable {
    pub(super) name: &'static str,
    pub(super) readers: &'static str,
}

const fn variable(name: &'static str, readers: &'static str) -> Variable {
    Variable { name, readers }
}

/// The file replaces the program's roots, or adds to them. A bundle with the system's roots does for both.
pub(super) const VARIABLES: [Variable; 15] = [
    variable("SSL_CERT_FILE", "OpenSSL, and so Python, Ruby, PHP, .NET, curl, wget; Go; rustls"),
    variable("CURL_CA_BUNDLE", "curl"),
    variable("REQUESTS_CA_BUNDLE", "Python requests"),
    variable("NODE_EXTRA_CA_CERTS", "Node.js"),
    variable("GIT_SSL_CAINFO", "git"),
    variable("AWS_CA_BUNDLE", "the AWS CLI and SDKs"),
    variable("DENO_CERT", "Deno"),
    variable("PIP_CERT", "pip"),
    variable("npm_config_cafile", "npm, pnpm, and Yarn 1"),
    variable("CARGO_HTTP_CAINFO", "cargo"),
    variable("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", "gRPC for Python, Ruby, PHP, and C++"),
    variable("NIX_SSL_CERT_FILE", "programs from Nix"),
    variable("PERL_LWP_SSL_CA_FILE", "Perl (LWP)"),
    variable("HTTPLIB2_CA_CERTS", "Python httplib2"),
    variable("CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE", "gcloud"),
];

/// The options that make Java trust a bundle.
pub(super) fn java_options(path: &Path) -> String {
    let [_, pkcs12, _] = bundle_files(path);
    let path = pkcs12.display().to_string();
    // In this variable, quotes of either kind hide blanks and quotes of the other kind.
    let quote = match (path.contains(char::is_whitespace), path.contains('\''), path.contains('"')) {
        (false, false, false) => "",
        (_, true, _) => "\"",
        _ => "'",
    };
    format!(
        "-Djavax.net.ssl.trustStore={quote}{path}{quote} -Djavax.net.ssl.trustStoreType=PKCS12 -Djavax.net.ssl.trustStorePassword={}",
        bundle::PASSWORD
    )
}

/// How a whole system is told.
pub(super) const SYSTEMS: [(&str, &str); 3] = [
    (
        "Debian, Ubuntu, Alpine",
        "cp ca.pem /usr/local/share/ca-certificates/bearerd.crt && update-ca-certificates",
    ),
    ("Fedora, RHEL", "cp ca.pem /etc/pki/ca-trust/source/anchors/bearerd.pem && update-ca-trust"),
    ("macOS", "security add-trusted-cert -d -r trustRoot -k /Library/Keychains/System.keychain ca.pem"),
];
