//! Bearer tokens: those of the TLS face, and those that the subresource `token` of a service account
//! issues.

use std::collections::HashMap;

use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{
    ApiServer, User, decode,
    metadata::invalid,
    protobuf,
    serve::{Answer, Ask, Caller},
    status::{StatusError, Subject},
    store::Key,
};

/// Life of a token that does not ask for one, in seconds, as in a real server.
const LIFE_DEFAULT: i64 = 60 * 60;
/// Shortest and longest life of a token, in seconds, as in a real server.
const LIFE_MIN: i64 = 10 * 60;
const LIFE_MAX: i64 = 1 << 32;

/// Everyone who has a token. Held are digests, so that the server knows no token itself. A test hands
/// out some dozens; expired ones are dropped when another is issued.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    issued: Mutex<HashMap<[u8; 32], Holder>>,
}

/// Whose a token is.
#[derive(Debug, Clone)]
struct Holder {
    user: User,
    account: Option<Account>,
}

/// What a service account's token depends on.
#[derive(Debug, Clone)]
struct Account {
    key: Key,
    uid: String,
    expires: Timestamp,
}

impl Tokens {
    /// A new token for a user, without an end.
    pub(crate) fn admit(&self, user: &User) -> String {
        self.issue(Holder {
            user: user.clone(),
            account: None,
        })
    }

    fn issue(&self, holder: Holder) -> String {
        let random = || uuid::Uuid::new_v4().simple();
        let token = format!("{}{}", random(), random());
        let digest = Sha256::digest(&token).into();
        self.issued.lock().insert(digest, holder);
        token
    }

    fn holder(&self, token: &str) -> Option<Holder> {
        let digest: [u8; 32] = Sha256::digest(token).into();
        self.issued.lock().get(&digest).cloned()
    }

    fn drop_expired(&self, now: Timestamp) {
        let expired = |account: &Account| account.expires <= now;
        let mut issued = self.issued.lock();
        issued.retain(|_, holder| !holder.account.as_ref().is_some_and(expired));
    }
}

impl ApiServer {
    /// Whom a token names; tokens of service accounts end with their time and with the account.
    pub(super) fn by_token(&self, token: &str) -> Option<Caller> {
        let holder = self.inner.tokens.holder(token)?;
        if let Some(account) = &holder.account {
            let live = self.inner.store.get("serviceaccounts", &account.key)?;
            if live.uid() != account.uid || account.expires <= self.inner.clock.now() {
                return None;
            }
        }
        Some(holder.user.caller(holder.user.name()))
    }

    /// `serviceaccounts/{name}/token`: the token is opaque, not a JWT.
    pub(super) fn create_token(&self, ask: &Ask) -> Result<Answer, StatusError> {
        let account = self.stored(ask)?;
        let mut request = token_request(ask)?;
        let life = request["spec"]["expirationSeconds"]
            .as_i64()
            .unwrap_or(LIFE_DEFAULT);
        check_request(&request, life)?;
        let now = self.inner.clock.now();
        let end = now
            .checked_add(SignedDuration::from_secs(life))
            .unwrap_or(Timestamp::MAX);
        let expires = Timestamp::from_second(end.as_second()).unwrap_or(end);
        let target = &ask.target;
        request["kind"] = "TokenRequest".into();
        request["apiVersion"] = "authentication.k8s.io/v1".into();
        request["metadata"] = json!({
            "name": target.name, "namespace": target.namespace, "creationTimestamp": self.inner.clock.time(),
        });
        request["spec"]["expirationSeconds"] = life.into();
        let token = if ask.dry_run {
            String::new()
        } else {
            self.inner.tokens.drop_expired(now);
            self.inner.tokens.issue(Holder {
                user: User::service_account(&target.namespace, &target.name),
                account: Some(Account {
                    key: ask.key(),
                    uid: account.uid().to_owned(),
                    expires,
                }),
            })
        };
        request["status"] = json!({"token": token, "expirationTimestamp": expires.to_string()});
        Ok(Answer {
            code: StatusCode::CREATED,
            ..Answer::json(ask.shape.encode(&request)?).of_type(ask.shape.content_type())
        })
    }
}

fn token_request(ask: &Ask) -> Result<Value, StatusError> {
    if ask.content_type.starts_with(protobuf::MEDIA_TYPE) {
        return protobuf::decode("TokenRequest", &ask.body);
    }
    if ask.body.is_empty() {
        return Ok(json!({}));
    }
    Ok(decode::body(ask)?.value)
}

fn check_request(request: &Value, life: i64) -> Result<(), StatusError> {
    let spec = &request["spec"];
    if spec["boundObjectRef"].is_object() {
        return Err(StatusError::not_implemented(
            "tokens that are bound to an object",
        ));
    }
    if spec["audiences"]
        .as_array()
        .is_some_and(|audiences| !audiences.is_empty())
    {
        return Err(StatusError::not_implemented(
            "tokens for other audiences than this server",
        ));
    }
    let detail = match life {
        ..LIFE_MIN => "may not specify a duration less than 10 minutes",
        LIFE_MIN..=LIFE_MAX => return Ok(()),
        _ => "may not specify a duration larger than 2^32 seconds",
    };
    let error = invalid("spec.expirationSeconds", &life.into(), detail);
    let subject = Subject {
        group: "authentication.k8s.io",
        resource: "TokenRequest",
        name: "",
    };
    Err(StatusError::invalid(subject, &[error]))
}
