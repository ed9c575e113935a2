//! Presets: what vendors fix, as data.

use std::sync::LazyLock;

/// One preset.
#[derive(Debug)]
pub struct Preset {
    pub name: String,
    pub title: String,
    pub about: String,
    pub vars: Vec<PresetVar>,
    pub needs: Vec<PresetKey>,
    pub options: Vec<PresetKey>,
    pub extra: Option<String>,
}

/// A value that the operator fills in.
#[derive(Debug)]
pub struct PresetVar {
    pub name: String,
    pub about: String,
    pub example: String,
    pub default: Option<String>,
}

/// A key that the operator gives; `example` is TOML.
#[derive(Debug)]
pub struct PresetKey {
    pub key: String,
    pub about: String,
    pub example: String,
}

static ALL: LazyLock<Vec<Preset>> = LazyLock::new(|| {
    let var = |name: &str, about: &str, example: &str| PresetVar {
        name: name.to_owned(),
        about: about.to_owned(),
        example: example.to_owned(),
        default: None,
    };
    let key = |key: &str, about: &str, example: &str| PresetKey {
        key: key.to_owned(),
        about: about.to_owned(),
        example: example.to_owned(),
    };
    vec![Preset {
        name: "keycloak".to_owned(),
        title: "Keycloak, with a client secret".to_owned(),
        about: "The client has \"Client authentication\" and \"Service accounts roles\" switched on."
            .to_owned(),
        vars: vec![
            var(
                "base_url",
                "Keycloak's address; with /auth at its end where the server has it",
                "https://idp.example.com",
            ),
            var("realm", "Realm settings > General > Realm name", "acme"),
        ],
        needs: vec![
            key("client_id", "Clients > Client ID", "\"legacy-billing\""),
            key(
                "client_secret",
                "Clients > the client > Credentials > Client Secret",
                "{ file = \"/run/secrets/keycloak\" }",
            ),
        ],
        options: vec![key(
            "scopes",
            "Clients > the client > Client scopes, those marked Optional",
            "[\"billing.read\"]",
        )],
        extra: None,
    }]
});

pub fn presets() -> impl Iterator<Item = &'static Preset> {
    ALL.iter()
}

pub fn preset(name: &str) -> Option<&'static Preset> {
    ALL.iter().find(|preset| preset.name == name)
}
