//! One of the client's two credentials: the one of the issuer's table, or `standby`.

use std::fmt;

use crate::config::{IssuerConfig, Source};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    Current,
    Standby,
}

impl Which {
    pub(super) fn other(self) -> Self {
        match self {
            Self::Current => Self::Standby,
            Self::Standby => Self::Current,
        }
    }
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Current => "the current credential",
            Self::Standby => "the standby credential",
        })
    }
}

/// Where a credential is read from. What `standby` does not give is as in the issuer's table.
#[derive(Clone, Copy)]
pub(super) struct Client<'a> {
    pub(super) which: Which,
    pub(super) id: Option<&'a Source>,
    pub(super) secret: Option<&'a Source>,
    pub(super) private_key: Option<&'a Source>,
    pub(super) certificate: Option<&'a Source>,
    /// `jwt.key_id`.
    pub(super) key_id: Option<&'a Source>,
    /// What another key of `standby` is given where neither it nor its file says: the issuer's.
    inherited_certificate: Option<&'a Source>,
    pub(super) inherited_key_id: Option<&'a Source>,
}

impl<'a> Client<'a> {
    /// `None`: there is no such credential.
    pub(super) fn of(config: &'a IssuerConfig, which: Which) -> Option<Self> {
        let current = Self {
            which,
            id: config.client_id.as_ref(),
            secret: config.client_auth.secret(),
            private_key: config.private_key.as_ref(),
            certificate: config.certificate.as_ref(),
            key_id: config.jwt.as_ref().and_then(|jwt| jwt.key_id.as_ref()),
            inherited_certificate: None,
            inherited_key_id: None,
        };
        if which == Which::Current {
            return Some(current);
        }
        let standby = config.standby.as_ref()?;
        let shares_key = standby.private_key.is_none();
        Some(Self {
            which,
            id: standby.client_id.as_ref().or(current.id),
            secret: current.secret.map(|current| standby.client_secret.as_ref().unwrap_or(current)),
            private_key: standby.private_key.as_ref().or(current.private_key),
            certificate: standby.certificate.as_ref().or_else(|| current.certificate.filter(|_| shares_key)),
            key_id: standby.key_id.as_ref().or_else(|| current.key_id.filter(|_| shares_key)),
            inherited_certificate: current.certificate,
            inherited_key_id: current.key_id,
        })
    }

    /// Where the certificate of a JWT's header stands, when it is not in the file of the key.
    pub(super) fn certificate_elsewhere(&self) -> Option<&'a Source> {
        self.certificate.or(self.inherited_certificate)
    }

    /// A key of the config, as this credential has it.
    pub(super) fn key(&self, name: &'static str) -> &'static str {
        match (self.which, name) {
            (Which::Current, name) => name,
            (Which::Standby, "private_key") => "standby.private_key",
            (Which::Standby, "certificate") => "standby.certificate",
            (Which::Standby, other) => other,
        }
    }
}
