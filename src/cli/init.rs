//! `bearerd init`: the list of presets, and a config to start from: a preset's, one made from an issuer's discovery document, or one
//! for any issuer. Comments say where each value is found.

use std::fmt::Write;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::cli::args::Output;
use crate::cli::{Exit, Failure, output};
use crate::clock::SystemClock;
use crate::config::client_auth::{METHODS, Method, Proof};
use crate::config::{self, IssuerConfig, Preset, PresetKey, PresetVar};
use crate::issuer::{Issuer, Metadata};

/// The text after the list.
const GO_ON: &str = "\
bearerd init NAME > bearerd.toml  writes a config for NAME, with comments
bearerd check --online            then says what is still wrong with it

For an issuer that is not in the list:
bearerd init --issuer-url URL     reads its discovery document
bearerd init generic              writes a config for any issuer
config.example.toml shows every key. `bearerd schema` is for editors.";

/// Stands for any issuer, as if it were a preset.
const GENERIC: &str = "generic";

pub(super) fn init(name: Option<&str>, issuer_url: Option<&str>, format: Output) -> Result<Exit, Failure> {
    if let Some(url) = issuer_url {
        print(GENERIC, &discovered(url)?, format);
        return Ok(Exit::Fine);
    }
    match (name, format) {
        (Some(GENERIC), format) => print(GENERIC, &template(), format),
        (None, Output::Text) => output::answer_people(&list(config::presets())),
        (None, Output::Json) => output::answer_json(&json!({
            "presets": config::presets().map(described).collect::<Vec<_>>(),
        })),
        (Some(name), format) => {
            let preset = config::preset(name).ok_or_else(|| unknown(name))?;
            print(name, &preset_config(preset), format);
        }
    }
    Ok(Exit::Fine)
}

fn print(name: &str, text: &str, format: Output) {
    match format {
        Output::Text => output::answer(text),
        Output::Json => output::answer_json(&json!({ "preset": name, "config": text })),
    }
}

fn unknown(name: &str) -> Failure {
    let hint = match config::nearest_preset(name) {
        Some(meant) => format!("did you mean `{meant}`? `bearerd init` lists them all"),
        None => "`bearerd init` lists them; `bearerd init generic` fits any issuer".to_owned(),
    };
    Failure::new(Exit::Usage, format!("no preset `{name}`; {hint}"))
}

/// Every preset on a line of its own, with its vars in brackets.
fn list<'a>(presets: impl Iterator<Item = &'a Preset>) -> String {
    let mut presets: Vec<&Preset> = presets.collect();
    presets.sort_by_key(|preset| preset.name);
    let name = presets.iter().map(|preset| preset.name.len()).max().unwrap_or_default();
    let mut text = format!("{:name$}  FOR [VARS]\n", "PRESET");
    for preset in presets {
        let vars: Vec<&str> = preset.vars.iter().map(|var| &*var.name).collect();
        let vars = if vars.is_empty() { String::new() } else { format!(" [{}]", vars.join(", ")) };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{:name$}  {}{vars}", preset.name, preset.title);
    }
    format!("{text}\n{GO_ON}")
}

fn described(preset: &Preset) -> Value {
    let keys = |keys: &[PresetKey]| -> Vec<Value> {
        keys.iter().map(|key| json!({ "key": key.key, "about": key.about, "example": key.example })).collect()
    };
    json!({
        "name": preset.name,
        "title": preset.title,
        "about": preset.about,
        "vars": preset.vars.iter().map(|var| json!({
            "name": var.name,
            "about": var.about,
            "example": var.example,
            "default": var.default,
            "env": var.env,
        })).collect::<Vec<_>>(),
        "needs": keys(&preset.needs),
        "options": keys(&preset.options),
    })
}

/// The longest line of a comment, in characters.
const WIDTH: usize = 100;

/// The whole file.
fn preset_config(preset: &Preset) -> String {
    let mut text = String::new();
    comment(&mut text, &format!("{}.", preset.title.trim_end_matches('.')));
    if !preset.about.trim().is_empty() {
        text.push_str("#\n");
        comment(&mut text, &preset.about);
    }
    how_to_go_on(&mut text);
    listener(&mut text);
    issuer(&mut text, preset);
    route(&mut text, preset.name);
    if !preset.extra.trim().is_empty() {
        // Writing to a String cannot fail.
        let _ = write!(text, "\n{}\n", preset.extra.trim());
    }
    text
}

fn how_to_go_on(text: &mut String) {
    text.push_str("#\n");
    comment(
        text,
        "Put your values in the place of the examples. Then: bearerd check, bearerd check --online, bearerd run.",
    );
}

fn listener(text: &mut String) {
    text.push_str(
        "\n[listener.main]\naddress = \"127.0.0.1:8080\"              # where your program sends its requests, over plain http\n",
    );
}

fn issuer(text: &mut String, preset: &Preset) {
    // Writing to a String cannot fail.
    let _ = write!(text, "\n[issuer.{0}]\npreset = \"{0}\"\n", preset.name);
    vars(text, &preset.vars);
    for key in &preset.needs {
        text.push('\n');
        comment(text, &key.about);
        let _ = writeln!(text, "{} = {}", key.key, key.example.trim());
    }
    for key in &preset.options {
        text.push('\n');
        option(text, key);
    }
}

/// Vars that may be left out are explained in a comment and left out.
fn vars(text: &mut String, vars: &[PresetVar]) {
    if vars.is_empty() {
        return;
    }
    text.push('\n');
    for var in vars {
        let variable = var.env.iter().map(|name| format!("the environment variable {name}"));
        let default = var.default.iter().filter(|default| !default.is_empty()).cloned();
        let otherwise = variable.chain(default).collect::<Vec<_>>().join(", else ");
        let default = match otherwise.as_str() {
            _ if var.is_needed() => String::new(),
            "" => ". Optional".to_owned(),
            otherwise => format!(". Optional: {otherwise} where it is left out"),
        };
        comment(text, &format!("{}: {}{default}", var.name, var.about));
    }
    let given = |wanted: bool| -> Vec<String> {
        let of = vars.iter().filter(|var| var.is_needed() == wanted);
        of.map(|var| format!("{} = {}", var.name, quoted(&var.example))).collect()
    };
    let (needed, optional) = (given(true), given(false));
    let _ = match needed.as_slice() {
        [] => writeln!(text, "# vars = {{ {} }}", optional.join(", ")),
        needed => writeln!(text, "vars = {{ {} }}", needed.join(", ")),
    };
}

/// Every line is commented out.
fn option(text: &mut String, key: &PresetKey) {
    comment(text, &format!("Optional. {}", key.about));
    let written = format!("{} = {}", key.key, key.example.trim());
    for line in written.lines() {
        let _ = writeln!(text, "# {line}");
    }
}

fn route(text: &mut String, issuer: &str) {
    let _ = write!(
        text,
        "\n# One for each API that this token is for.\n[[route]]\nname = \"api\"\npath_prefix = \"/api\"                    # http://127.0.0.1:8080/api/x goes to\nupstream = \"https://api.example.com\"    # https://api.example.com/x\nissuer = \"{issuer}\"\n"
    );
}

/// Writes text as comment lines of at most [`WIDTH`] characters. An empty line separates paragraphs.
fn comment(text: &mut String, words: &str) {
    for (index, paragraph) in words.trim().split("\n\n").enumerate() {
        if index > 0 {
            text.push_str("#\n");
        }
        let mut line = String::from("#");
        for word in paragraph.split_whitespace() {
            if line.chars().count() + 1 + word.chars().count() > WIDTH && line.len() > 1 {
                text.push_str(&line);
                text.push('\n');
                line = String::from("#");
            }
            line.push(' ');
            line.push_str(word);
        }
        text.push_str(&line);
        text.push('\n');
    }
}

/// A TOML basic string.
fn quoted(value: &str) -> String {
    let mut quoted = String::from("\"");
    for character in value.chars() {
        match character {
            '"' | '\\' => {
                quoted.push('\\');
                quoted.push(character);
            }
            control if control.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(control));
            }
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

/// The issuer's name in the config.
const NAME: &str = "corp";
/// The largest number of scopes that the config lists.
const SCOPES: usize = 20;

/// A config for any issuer, with the questions for the people who run it.
fn template() -> String {
    let mut text = String::new();
    comment(
        &mut text,
        "Any issuer of OAuth 2.0 tokens. Ask the people who run it for four things: its address, how clients \
         authenticate, your client id with its secret or key, and the scopes or audience of the API.",
    );
    how_to_go_on(&mut text);
    listener(&mut text);
    let _ = write!(text, "\n[issuer.{NAME}]\n");
    comment(
        &mut text,
        "The issuer's identifier, whose discovery document names the token endpoint. `bearerd init --issuer-url URL` \
         reads that document and writes a config that fits. Where the issuer has none: token_url = \"https://…/token\"",
    );
    text.push_str("issuer_url = \"https://idp.example.com\"\n");
    methods(&mut text, offered(), None);
    scopes(&mut text, None);
    route(&mut text, NAME);
    text
}

/// A config made from the issuer's discovery document.
fn discovered(url: &str) -> Result<String, Failure> {
    let metadata = read_metadata(probe(url)?)?;
    Ok(discovered_config(url, &metadata))
}

/// A client that only reads this issuer's document.
fn probe(url: &str) -> Result<Arc<IssuerConfig>, Failure> {
    let text = format!(
        "[issuer.{NAME}]\nissuer_url = {}\nclient_id = \"bearerd\"\nclient_auth = \"none\"\nproxy = \"env\"\n\
         [[route]]\nname = \"api\"\nupstream = \"https://api.example.com\"\nissuer = \"{NAME}\"\n",
        quoted(url)
    );
    let config = config::load_text(&text).map_err(|problems| {
        let mut errors = problems.errors().filter(|problem| problem.key.ends_with("issuer_url"));
        let why = errors.next().map_or_else(
            || "it is not a URL".to_owned(),
            |problem| match &problem.hint {
                Some(hint) => format!("{}: {hint}", problem.message),
                None => problem.message.clone(),
            },
        );
        Failure::new(Exit::Usage, format!("--issuer-url: {why}"))
    })?;
    config
        .issuers
        .get(NAME)
        .cloned()
        .ok_or_else(|| Failure::new(Exit::Usage, "--issuer-url: this URL makes no issuer"))
}

fn read_metadata(config: Arc<IssuerConfig>) -> Result<Metadata, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(|error| Failure::new(Exit::No, format!("cannot start a runtime: {error}")))?;
    let issuer = Issuer::new(config, Arc::new(SystemClock));
    let asked = runtime.block_on(issuer.metadata());
    // A pending name look-up must not delay the exit.
    runtime.shutdown_background();
    let metadata = asked.map_err(|error| {
        let what = error.detail.replacen(&format!("issuer {NAME}: "), "", 1);
        let no_document = "where this issuer has no discovery document, start with `bearerd init generic`";
        Failure::new(Exit::No, format!("{what}; {no_document}"))
    })?;
    Ok(metadata.expect("an issuer of an issuer_url has a document or an error"))
}

fn discovered_config(url: &str, metadata: &Metadata) -> String {
    let mut text = String::new();
    comment(&mut text, &format!("Made from the discovery document of {url}."));
    how_to_go_on(&mut text);
    listener(&mut text);
    let _ = write!(text, "\n[issuer.{NAME}]\nissuer_url = {}\n", quoted(url));
    comment(&mut text, &format!("Its token endpoint is {}", metadata.token_endpoint.text));
    if metadata.grant_types_supported.as_ref().is_some_and(|grants| !has(grants, "client_credentials")) {
        text.push('\n');
        comment(
            &mut text,
            "The document does not list the grant `client_credentials`, which bearerd uses: ask whether it is open to \
             your client.",
        );
    }
    // RFC 8414 section 2: without a list it is client_secret_basic.
    let basic = ["client_secret_basic".to_owned()];
    let listed = metadata.token_endpoint_auth_methods_supported.as_deref().unwrap_or(&basic);
    let is_taken = |method: &&dyn Method| listed.iter().any(|name| method.is_advertised_as(name));
    let mut taken: Vec<&dyn Method> = offered().filter(is_taken).collect();
    if taken.is_empty() {
        text.push('\n');
        comment(
            &mut text,
            &format!(
                "The document lists only methods of client authentication that are not offered here: {}.",
                listed.join(", ")
            ),
        );
        taken.extend(offered());
    }
    let algs = metadata.token_endpoint_auth_signing_alg_values_supported.as_deref();
    methods(&mut text, taken, algs);
    if let Some(algs) = &metadata.dpop_signing_alg_values_supported {
        text.push('\n');
        comment(
            &mut text,
            &format!("Optional. The issuer can bind tokens to a key (DPoP, with {}).", algs.join(", ")),
        );
        text.push_str("# dpop = { private_key = { file = \"dpop.pem\" } }\n");
    }
    scopes(&mut text, metadata.scopes_supported.as_deref());
    route(&mut text, NAME);
    text
}

fn has(list: &[String], name: &str) -> bool {
    list.iter().any(|listed| listed == name)
}

/// The methods that suit any issuer, the most common first.
fn offered() -> impl Iterator<Item = &'static dyn Method> {
    METHODS.into_iter().filter(|method| !method.example().is_empty())
}

/// The first method, and the others commented out.
fn methods(
    text: &mut String,
    methods: impl IntoIterator<Item = &'static dyn Method>,
    algs: Option<&[String]>,
) {
    text.push_str("\nclient_id = \"legacy-billing\"\n");
    for (index, method) in methods.into_iter().enumerate() {
        let off = if index == 0 { "" } else { "# " };
        if index == 1 {
            comment(text, "Or, in the place of these lines, one of:");
        }
        let _ = writeln!(text, "{off}client_auth = \"{}\"\n{off}{}", method.name(), method.example());
        if let (Proof::SignedByKey, Some(algs)) = (method.proof(), algs) {
            comment(
                text,
                &format!("The issuer takes signatures by {}: jwt = {{ alg = \"…\" }}", algs.join(", ")),
            );
        }
    }
}

fn scopes(text: &mut String, listed: Option<&[String]>) {
    text.push('\n');
    match listed {
        Some(scopes) if !scopes.is_empty() => {
            let shown: Vec<&str> = scopes.iter().take(SCOPES).map(String::as_str).collect();
            let more = if scopes.len() > SCOPES { ", …" } else { "" };
            comment(text, &format!("The issuer lists these scopes: {}{more}.", shown.join(", ")));
        }
        _ => comment(
            text,
            "What the API requires; some issuers need an audience or a resource instead of scopes.",
        ),
    }
    text.push_str("# scopes = [\"billing.read\"]\n# params = { audience = \"https://api.example.com\" }\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_has_each_preset_with_its_vars_in_columns() {
        let text = list(config::presets());
        let starts: Vec<usize> = config::presets()
            .map(|preset| {
                let begins = format!("{} ", preset.name);
                let line = text.lines().find(|line| line.starts_with(&begins)).unwrap();
                assert!(preset.vars.iter().all(|var| line.contains(&*var.name)), "{line}");
                // A title may be the name once more.
                let after = preset.name.len();
                line[after..].find(&*preset.title).map(|at| line[..after + at].chars().count()).unwrap()
            })
            .collect();
        assert!(starts.windows(2).all(|pair| pair[0] == pair[1]), "{text}");
        assert!(text.contains("bearerd init NAME") && text.contains("config.example.toml"), "{text}");
    }

    #[test]
    fn an_unknown_name_is_bad_usage_with_the_nearest() {
        let failure = init(Some("keyclock"), None, Output::Text).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        assert!(failure.message.contains("did you mean `keycloak`?"), "{}", failure.message);
        let failure = init(Some("zzzzzzzzzz"), None, Output::Text).unwrap_err();
        assert!(failure.message.contains("`bearerd init` lists them"), "{}", failure.message);
    }

    #[test]
    fn comments_are_wrapped_and_paragraphs_stay() {
        let mut text = String::new();
        comment(&mut text, &format!("{}\nb\n\nnext", "a ".repeat(60)));
        assert!(text.lines().all(|line| line.starts_with('#') && line.chars().count() <= WIDTH), "{text}");
        assert!(text.ends_with("a b\n#\n# next\n"), "{text}");
    }

    #[test]
    fn examples_are_quoted() {
        assert_eq!(quoted("a\"b\\c\n"), "\"a\\\"b\\\\c\\u000A\"");
    }

    #[test]
    fn every_preset_is_toml_with_its_keys() {
        for preset in config::presets() {
            let text = preset_config(preset);
            let table: toml::Table = text.parse().unwrap_or_else(|error| panic!("{}: {error}", preset.name));
            let issuer = table["issuer"][preset.name].as_table().unwrap();
            assert_eq!(issuer["preset"].as_str(), Some(preset.name));
            for var in &preset.vars {
                let given = issuer.get("vars").is_some_and(|vars| vars.get(&var.name).is_some());
                assert_eq!(given, var.is_needed(), "{}: {text}", var.name);
            }
            for option in &preset.options {
                assert!(text.contains(&format!("\n# {} = ", option.key)), "{text}");
            }
        }
    }

    #[test]
    fn the_template_is_a_config() {
        config::load_text(&template()).unwrap();
    }

    #[test]
    fn each_method_with_its_keys_is_a_config() {
        for one in offered() {
            let mut text = format!("[issuer.{NAME}]\nissuer_url = \"https://idp.example.com\"\n");
            methods(&mut text, [one], None);
            route(&mut text, NAME);
            config::load_text(&text).unwrap_or_else(|problems| panic!("{problems}\n{text}"));
        }
    }

    #[test]
    fn an_invalid_url_is_reported_with_its_reason() {
        for (url, why) in [("idp", "URL"), ("http://idp.example", "http://"), ("https://a/?q", "query")] {
            let failure = probe(url).unwrap_err();
            assert!(
                failure.message.starts_with("--issuer-url: ") && failure.message.contains(why),
                "{}",
                failure.message
            );
            assert_eq!(failure.exit, Exit::Usage);
        }
    }
}
