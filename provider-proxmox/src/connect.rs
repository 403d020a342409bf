//! From credentials to a session.

use std::fmt;
use std::sync::Arc;

use capi_contract::{Class, Classify, Connect, Credentials, Identity};
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use crate::pve::{Client, Fingerprint, FingerprintError, Https, Transport, Trust, TrustError};
use crate::session::Session;

/// Makes sessions from credentials Secrets, and one from the process's environment.
///
/// # The Secret
///
/// | key | meaning |
/// |---|---|
/// | `url` | address of any node, such as `https://pve.example.com:8006` |
/// | `token` | `user@realm!name` |
/// | `secret` | the token's uuid |
/// | `root_ca` | optional: PEM of the authority, beside the system's roots |
/// | `fingerprint` | optional: SHA-256 of the server's certificate, which then is all that counts |
/// | `insecure` | optional: `1`, `on`, `true`, `yes` or `y` turn verification off |
///
/// The certificate is verified unless `insecure` says otherwise. The Go provider verifies only if
/// `insecure` is there and false: where its Secrets have no `insecure` and no `root_ca`, one of
/// `root_ca`, `fingerprint` and `insecure` has to be added.
///
/// Without a Secret the environment counts: `PROXMOX_URL`, `PROXMOX_TOKEN`, `PROXMOX_SECRET`,
/// `PROXMOX_ROOT_CA`, `PROXMOX_FINGERPRINT`, `PROXMOX_INSECURE`.
#[derive(Clone, Default)]
pub struct Connector {
    own: Option<Arc<Settings>>,
    through: Option<Arc<dyn Transport>>,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector")
            .field("own", &self.own.is_some())
            .finish_non_exhaustive()
    }
}

/// Address and credentials of an endpoint.
#[derive(Clone, Debug)]
pub struct Settings {
    url: Url,
    token: String,
    secret: SecretString,
    trust: Trust,
}

/// Why credentials cannot be used. The text names the key and what to put there, never a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// Neither a Secret nor the environment holds credentials.
    #[error(
        "no credentials for Proxmox VE: set spec.credentialsRef of the ProxmoxCluster, or \
         PROXMOX_URL, PROXMOX_TOKEN and PROXMOX_SECRET for the provider"
    )]
    None,
    /// A key is missing or empty.
    #[error("{place} has no {key}: set it to {meaning}")]
    Missing {
        /// The Secret, or the environment.
        place: String,
        /// The key.
        key: &'static str,
        /// What belongs there.
        meaning: &'static str,
    },
    /// The address is not one.
    #[error("{place}: {key} must be an https address such as https://pve.example.com:8006")]
    Url {
        /// The Secret, or the environment.
        place: String,
        /// The key.
        key: &'static str,
    },
    /// The token id is not one.
    #[error("{place}: {key} must be the token's id, user@realm!name, without its secret")]
    Token {
        /// The Secret, or the environment.
        place: String,
        /// The key.
        key: &'static str,
    },
    /// The fingerprint is not one.
    #[error("{place}: {key}: {fault}")]
    Fingerprint {
        /// The Secret, or the environment.
        place: String,
        /// The key.
        key: &'static str,
        /// What is wrong.
        fault: FingerprintError,
    },
    /// The authority is not one.
    #[error("{place}: {key}: {fault}")]
    Trust {
        /// The Secret, or the environment.
        place: String,
        /// The key.
        key: &'static str,
        /// What is wrong.
        fault: TrustError,
    },
    /// `insecure` and `fingerprint` together.
    #[error("{place}: fingerprint and insecure exclude each other: remove one of them")]
    Contradiction {
        /// The Secret, or the environment.
        place: String,
    },
}

impl Classify for ConnectError {
    fn class(&self) -> Class {
        Class::Credentials
    }
}

/// Names of the settings, in a Secret or in the environment.
struct Keys {
    url: &'static str,
    token: &'static str,
    secret: &'static str,
    insecure: &'static str,
    root_ca: &'static str,
    fingerprint: &'static str,
}

const IN_SECRET: Keys = Keys {
    url: "url",
    token: "token",
    secret: "secret",
    insecure: "insecure",
    root_ca: "root_ca",
    fingerprint: "fingerprint",
};

const IN_ENVIRONMENT: Keys = Keys {
    url: "PROXMOX_URL",
    token: "PROXMOX_TOKEN",
    secret: "PROXMOX_SECRET",
    insecure: "PROXMOX_INSECURE",
    root_ca: "PROXMOX_ROOT_CA",
    fingerprint: "PROXMOX_FINGERPRINT",
};

/// Where settings are read from, and what to call it.
struct Source<'a> {
    place: String,
    keys: &'a Keys,
    values: &'a Credentials,
}

impl Source<'_> {
    /// A value; one of spaces is none, as in manifests whose variables were left unset.
    fn text(&self, key: &str) -> Option<&str> {
        let text = self.values.text(key)?.trim();
        (!text.is_empty()).then_some(text)
    }

    fn required(&self, key: &'static str, meaning: &'static str) -> Result<&str, ConnectError> {
        let missing = || ConnectError::Missing {
            place: self.place.clone(),
            key,
            meaning,
        };
        self.text(key).ok_or_else(missing)
    }

    fn settings(&self) -> Result<Settings, ConnectError> {
        let place = || self.place.clone();
        let key = self.keys.url;
        let url = self.required(key, "the address of a node, https://pve.example.com:8006")?;
        let url = address(url).ok_or_else(|| ConnectError::Url {
            place: place(),
            key,
        })?;
        let key = self.keys.token;
        let token = self.required(key, "the token's id, user@realm!name")?;
        if !is_token_id(token) {
            return Err(ConnectError::Token {
                place: place(),
                key,
            });
        }
        let secret = self.required(self.keys.secret, "the token's secret, a uuid")?;
        Ok(Settings {
            url,
            token: token.to_owned(),
            secret: secret.to_owned().into(),
            trust: self.trust()?,
        })
    }

    fn trust(&self) -> Result<Trust, ConnectError> {
        let insecure = self.text(self.keys.insecure).is_some_and(is_true);
        match self.text(self.keys.fingerprint) {
            Some(_) if insecure => Err(ConnectError::Contradiction {
                place: self.place.clone(),
            }),
            Some(text) => text
                .parse::<Fingerprint>()
                .map(Trust::Pinned)
                .map_err(|fault| {
                    let key = self.keys.fingerprint;
                    ConnectError::Fingerprint {
                        place: self.place.clone(),
                        key,
                        fault,
                    }
                }),
            None if insecure => Ok(Trust::Insecure),
            None => {
                let pem = self.text(self.keys.root_ca).unwrap_or_default();
                Trust::roots(pem).map_err(|fault| {
                    let key = self.keys.root_ca;
                    ConnectError::Trust {
                        place: self.place.clone(),
                        key,
                        fault,
                    }
                })
            }
        }
    }
}

/// An https address. One that ends with the API's own path is understood as well, since the Go
/// provider's documentation shows both.
fn address(text: &str) -> Option<Url> {
    let mut url: Url = text.parse().ok()?;
    if url.scheme() != "https" || url.host_str().is_none() {
        return None;
    }
    let path = url.path().trim_end_matches('/');
    let path = path.strip_suffix("/api2/json").unwrap_or(path).to_owned();
    url.set_path(&path);
    url.set_query(None);
    Some(url)
}

fn is_token_id(text: &str) -> bool {
    let parts = text
        .split_once('!')
        .map(|(user, name)| (user.split_once('@'), name));
    match parts {
        Some((Some((user, realm)), name)) => {
            !user.is_empty() && !realm.is_empty() && !name.is_empty() && !name.contains('=')
        }
        _ => false,
    }
}

/// What the Go provider takes for true.
fn is_true(text: &str) -> bool {
    ["1", "on", "true", "yes", "y"]
        .iter()
        .any(|word| text.eq_ignore_ascii_case(word))
}

impl Settings {
    /// Reads the data of a credentials Secret; `place` is what messages call it.
    ///
    /// # Errors
    ///
    /// If a key is missing or malformed.
    pub fn of_secret(place: &str, data: &Credentials) -> Result<Self, ConnectError> {
        Source {
            place: place.to_owned(),
            keys: &IN_SECRET,
            values: data,
        }
        .settings()
    }

    /// The token's id, which is no secret.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Whether the server's certificate is looked at.
    pub fn is_verified(&self) -> bool {
        !matches!(self.trust, Trust::Insecure)
    }

    /// A client over HTTPS; `place` is what messages call these settings.
    ///
    /// # Errors
    ///
    /// If the authority cannot be used.
    pub fn client(&self, place: &str) -> Result<Client, ConnectError> {
        let https = Https::new(self.url.clone(), &self.trust);
        let https = https.map_err(|fault| ConnectError::Trust {
            place: place.to_owned(),
            key: "root_ca",
            fault,
        })?;
        Ok(self.client_through(Arc::new(https)))
    }

    fn client_through(&self, transport: Arc<dyn Transport>) -> Client {
        let secret = self.secret.expose_secret().to_owned().into();
        Client::new(transport, &self.token, &secret)
    }

    /// Reads the process's environment; `None` if it names no address.
    ///
    /// # Errors
    ///
    /// If a variable is missing or malformed.
    pub fn of_environment(
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Option<Self>, ConnectError> {
        let proxmox = variables
            .into_iter()
            .filter(|(name, _)| name.starts_with("PROXMOX_"));
        let values = Credentials::new(proxmox.map(|(name, value)| (name, value.into_bytes())));
        let place = "the provider's environment".to_owned();
        let source = Source {
            place,
            keys: &IN_ENVIRONMENT,
            values: &values,
        };
        match source.text(source.keys.url) {
            None => Ok(None),
            Some(_) => source.settings().map(Some),
        }
    }
}

impl Connector {
    /// Without a Secret, nothing can be reached.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets what counts for clusters without a Secret.
    #[must_use]
    pub fn with_own(mut self, own: Settings) -> Self {
        self.own = Some(Arc::new(own));
        self
    }

    /// Speaks through this transport whatever the address: for tests and for simulators in the same
    /// process. Token and secret are sent as ever.
    #[must_use]
    pub fn through(mut self, transport: Arc<dyn Transport>) -> Self {
        self.through = Some(transport);
        self
    }

    fn session(&self, place: &str, settings: &Settings) -> Result<Session, ConnectError> {
        let client = match &self.through {
            Some(transport) => settings.client_through(transport.clone()),
            None => settings.client(place)?,
        };
        Ok(Session::new(client))
    }
}

impl Connect for Connector {
    type Session = Session;
    type Error = ConnectError;

    async fn connect(
        &self,
        identity: Option<&Identity>,
        credentials: Option<&Credentials>,
    ) -> Result<Session, ConnectError> {
        match (identity, credentials) {
            (Some(identity), Some(data)) => {
                let place = format!("Secret {}", identity.secret);
                self.session(&place, &Settings::of_secret(&place, data)?)
            }
            _ => {
                let own = self.own.as_ref().ok_or(ConnectError::None)?;
                self.session("the provider's environment", own)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const GOOD: [(&str, &str); 3] = [
        ("url", "https://pve:8006"),
        ("token", "capi@pve!provider"),
        ("secret", "5ecre7-uuid"),
    ];

    fn settings(more: &[(&str, &str)]) -> Result<Settings, ConnectError> {
        let all = GOOD.iter().chain(more);
        let data = all.map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec()));
        Settings::of_secret("Secret ns/pve", &Credentials::new(data))
    }

    #[test]
    fn defect_10_certificates_are_verified_unless_insecure_is_asked_for() {
        assert_eq!(
            settings(&[]).unwrap().trust,
            Trust::Roots { pem: Vec::new() }
        );
        for word in ["1", "on", "true", "YES", "y"] {
            assert_eq!(
                settings(&[("insecure", word)]).unwrap().trust,
                Trust::Insecure,
                "{word}"
            );
        }
        for word in ["0", "false", "no", ""] {
            assert_ne!(
                settings(&[("insecure", word)]).unwrap().trust,
                Trust::Insecure,
                "{word}"
            );
        }
        let print = Fingerprint::of(b"x");
        let trust = settings(&[("fingerprint", &print.to_string())])
            .unwrap()
            .trust;
        assert_eq!(trust, Trust::Pinned(print));
    }

    #[rstest]
    #[case(&[("url", "")], "has no url")]
    #[case(&[("url", "http://pve:8006")], "url must be an https address")]
    #[case(&[("url", "pve:8006")], "url must be an https address")]
    #[case(&[("token", "capi@pve")], "token must be the token's id")]
    #[case(&[("token", "capi@pve!t=uuid")], "token must be the token's id")]
    #[case(&[("secret", " ")], "has no secret")]
    #[case(&[("root_ca", "nonsense")], "root_ca: not a PEM certificate")]
    #[case(&[("fingerprint", "AB:CD")], "fingerprint: a SHA-256 fingerprint")]
    #[case(&[("fingerprint", "AB:CD"), ("insecure", "1")], "exclude each other")]
    fn bad_credentials_name_the_secret_and_the_key(
        #[case] more: &[(&str, &str)],
        #[case] expected: &str,
    ) {
        let error = settings(more).unwrap_err();
        let message = error.to_string();
        assert!(message.starts_with("Secret ns/pve"), "{message}");
        assert!(message.contains(expected), "{message}");
        assert_eq!(error.class(), Class::Credentials);
        assert!(!message.contains("5ecre7"));
    }

    #[rstest]
    #[case("https://pve:8006", "https://pve:8006/")]
    #[case("https://pve:8006/api2/json", "https://pve:8006/")]
    #[case("https://pve:8006/api2/json/", "https://pve:8006/")]
    #[case("https://proxy/pve/", "https://proxy/pve")]
    fn the_apis_own_path_may_be_part_of_the_address(#[case] text: &str, #[case] expected: &str) {
        assert_eq!(address(text).unwrap().as_str(), expected);
    }

    #[test]
    fn the_environment_counts_if_it_names_an_address() {
        let none = Settings::of_environment([("PATH".to_owned(), "/bin".to_owned())]);
        assert!(none.unwrap().is_none());
        let variables = [
            ("PROXMOX_URL", "https://pve:8006"),
            ("PROXMOX_TOKEN", "a@pve!b"),
        ];
        let error = Settings::of_environment(variables.map(|(k, v)| (k.into(), v.into())));
        let message = error.unwrap_err().to_string();
        assert!(
            message.contains("environment has no PROXMOX_SECRET"),
            "{message}"
        );
    }

    #[tokio::test]
    async fn without_credentials_the_message_says_where_they_belong() {
        let error = Connector::new().connect(None, None).await.unwrap_err();
        assert!(error.to_string().contains("credentialsRef"), "{error}");
        assert_eq!(error.class(), Class::Credentials);
    }

    #[test]
    fn r15_no_debug_output_shows_the_secret() {
        let settings = settings(&[]).unwrap();
        let connector = Connector::new().with_own(settings.clone());
        assert!(!format!("{settings:?} {connector:?}").contains("5ecre7"));
    }
}
