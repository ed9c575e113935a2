//! Secrets in a program's arguments: `--token=V`, `--token V`, `TOKEN=V`, `X-Api-Key: V`, and the password of a URL.

use crate::config::schema::is_secret_literal;

/// Options whose value only names a secret.
const NAMES_OF_SECRETS: [(&str, &str); 2] = [("aws", "--secret-id"), ("gcloud", "--secret")];

/// How names end whose value is hardly anything but a secret.
const SURE_ENDS: [&str; 7] =
    ["password", "passwd", "passphrase", "apikey", "token", "clientsecret", "authorization"];

/// The values that may be secret.
pub(super) fn secrets(command: &[String]) -> impl Iterator<Item = &str> {
    let tool = command.first().and_then(|path| path.rsplit('/').next()).unwrap_or_default();
    let pairs = command.iter().zip(command.iter().skip(1));
    pairs.filter_map(move |(before, argument)| {
        let after_option = || before.starts_with('-') && !before.contains('=') && !argument.starts_with('-');
        let apart = || after_option().then_some((before.as_str(), argument.as_str()));
        let named = named(argument).or_else(|| apart().filter(|(name, value)| is_secret(name, value)));
        let named = named.filter(|(name, _)| !NAMES_OF_SECRETS.contains(&(tool, name)));
        named.map(|(_, value)| value).or_else(|| password_of_url(argument))
    })
}

/// The index of the first argument that certainly contains a secret.
pub(in crate::config) fn first_sure_secret(command: &[String]) -> Option<usize> {
    let is_sure = |argument: &String| {
        let named = named(argument).is_some_and(|(name, value)| {
            let plain: String = name.chars().filter(|c| c.is_alphanumeric()).collect();
            let plain = plain.to_lowercase();
            SURE_ENDS.iter().any(|end| plain.ends_with(end)) && !leads_elsewhere(value)
        });
        named || password_of_url(argument).is_some()
    };
    command.iter().skip(1).position(is_sure).map(|index| index + 1)
}

/// The first name within this argument whose value may be a secret, and the value.
fn named(argument: &str) -> Option<(&str, &str)> {
    let mut rest = argument;
    while let Some((name, value)) = rest.split_once(['=', ':']) {
        // Anything else is a script, a URL, or a sentence.
        if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')) {
            return None;
        }
        let value = value.trim_start();
        if is_secret(name, value) {
            return Some((name, value));
        }
        rest = value;
    }
    None
}

fn is_secret(name: &str, value: &str) -> bool {
    // A script computes the rest.
    let is_computed = value.trim_start_matches('"').starts_with(['$', '`']);
    !value.is_empty() && !is_computed && is_secret_literal(name.trim_start_matches('-'), value.as_bytes())
}

/// The value names a file or a variable, or is a switch.
fn leads_elsewhere(value: &str) -> bool {
    let names_another = ["env:", "file:", "pass:"].iter().any(|start| value.starts_with(start));
    names_another || matches!(value, "true" | "false") || !value.starts_with(char::is_alphanumeric)
}

fn password_of_url(argument: &str) -> Option<&str> {
    let (_, rest) = argument.split_once("://")?;
    let (userinfo, _) = rest.split(['/', '?', '#']).next()?.rsplit_once('@')?;
    let (_, password) = userinfo.split_once(':')?;
    Some(password).filter(|password| !password.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn a_name_says_which_argument_is_secret() {
        for (words, secret, sure) in [
            (&["p", "--token=V", "x"][..], "V", Some(1)),
            (&["p", "x", "--client-secret", "V"], "V", None),
            (&["p", "-Dvault.token=V"], "V", Some(1)),
            (&["env", "API_KEY=V", "p"], "V", Some(1)),
            (&["curl", "-H", "X-Vault-Token: V"], "V", Some(2)),
            (&["curl", "--header=Authorization: Bearer V"], "Bearer V", Some(1)),
            (&["vault", "write", "auth/approle/login", "secret_id=V"], "V", None),
            (&["p", "--secret", "V"], "V", None),
            (&["p", "--password", "V"], "V", None),
            (&["p", "--password=/run/secrets/p"], "/run/secrets/p", None),
            (&["p", "--password=env:P"], "env:P", None),
            (&["git", "ls-remote", "https://u:V@host/x"], "V", Some(2)),
        ] {
            let command = command(words);
            assert_eq!(secrets(&command).collect::<Vec<_>>(), [secret], "{words:?}");
            assert_eq!(first_sure_secret(&command), sure, "{words:?}");
        }
    }

    #[test]
    fn what_the_recipes_pass_is_no_secret() {
        for words in [
            &["vault", "kv", "get", "-field=client_secret", "secret/bearerd"][..],
            &["op", "read", "op://bearerd/corp/password"],
            &["pass", "show", "bearerd/corp"],
            &["gcloud", "auth", "print-identity-token", "--audiences=https://api.example"],
            &["gcloud", "secrets", "versions", "access", "latest", "--secret=corp"],
            &["az", "account", "get-access-token", "--scope", "api://AzureADTokenExchange/.default"],
            &["kubectl", "create", "token", "billing", "--audience=https://idp.example", "--duration=10m"],
            &["kubectl", "get", "secret", "corp", "-o", "jsonpath={.data.password}"],
            &["/usr/bin/aws", "secretsmanager", "get-secret-value", "--secret-id", "bearerd"],
            &["p", "--token-file", "token", "--password-file=p", "--token="],
            &["sh", "-c", "TOKEN=$(cat token); curl -H \"X-Token: $TOKEN\" https://vault.internal"],
            &["git", "ls-remote", "ssh://git@host:22/x"],
            &["p"],
            &[],
        ] {
            let command = command(words);
            assert_eq!(secrets(&command).collect::<Vec<_>>(), [""; 0], "{words:?}");
            assert_eq!(first_sure_secret(&command), None, "{words:?}");
        }
    }
}
