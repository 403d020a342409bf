//! Request bodies in Kubernetes' protobuf encoding, for the few kinds that `kubectl` sends so:
//! what `kubectl create` makes from its arguments, `auth can-i`, and delete options.
//!
//! Other kinds are refused with 415, as by a server that does not know the encoding. Field numbers
//! are those of the `generated.proto` files of `k8s.io/api`.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::status::StatusError;

pub(crate) const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// Comes before the envelope.
const MAGIC: &[u8] = b"k8s\0";

/// How a field is read.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Text,
    /// Shown in base64.
    Bytes,
    Flag,
    Number,
    Time,
    Message(Message),
    /// A map from texts.
    Texts(&'static Kind),
    List(&'static Kind),
}

/// Number, name and kind of each field.
type Message = &'static [(u64, &'static str, Kind)];

const TEXT_MAP: Kind = Kind::Texts(&Kind::Text);
const TEXT_LIST: Kind = Kind::List(&Kind::Text);

const OWNER: Message = &[
    (1, "kind", Kind::Text),
    (3, "name", Kind::Text),
    (4, "uid", Kind::Text),
    (5, "apiVersion", Kind::Text),
    (6, "controller", Kind::Flag),
    (7, "blockOwnerDeletion", Kind::Flag),
];

const METADATA: Message = &[
    (1, "name", Kind::Text),
    (2, "generateName", Kind::Text),
    (3, "namespace", Kind::Text),
    (5, "uid", Kind::Text),
    (6, "resourceVersion", Kind::Text),
    (8, "creationTimestamp", Kind::Time),
    (11, "labels", TEXT_MAP),
    (12, "annotations", TEXT_MAP),
    (13, "ownerReferences", Kind::List(&Kind::Message(OWNER))),
    (14, "finalizers", TEXT_LIST),
];

const META: (u64, &str, Kind) = (1, "metadata", Kind::Message(METADATA));
const NAMED: Message = &[(1, "name", Kind::Text)];
const REFERENCE: Message = &[
    (1, "kind", Kind::Text),
    (2, "namespace", Kind::Text),
    (3, "name", Kind::Text),
    (4, "uid", Kind::Text),
];

const ATTRIBUTES: Message = &[
    (1, "namespace", Kind::Text),
    (2, "verb", Kind::Text),
    (3, "group", Kind::Text),
    (4, "version", Kind::Text),
    (5, "resource", Kind::Text),
    (6, "subresource", Kind::Text),
    (7, "name", Kind::Text),
];
const PATH_ATTRIBUTES: Message = &[(1, "path", Kind::Text), (2, "verb", Kind::Text)];
const REVIEW_SPEC: Message = &[
    (1, "resourceAttributes", Kind::Message(ATTRIBUTES)),
    (2, "nonResourceAttributes", Kind::Message(PATH_ATTRIBUTES)),
];

/// Reviews are sent with an empty status; it is answered anew.
const ACCESS_STATUS: Message = &[
    (1, "allowed", Kind::Flag),
    (2, "reason", Kind::Text),
    (3, "evaluationError", Kind::Text),
    (4, "denied", Kind::Flag),
];
const USER: Message = &[
    (1, "username", Kind::Text),
    (2, "uid", Kind::Text),
    (3, "groups", TEXT_LIST),
];
const TOKEN_SPEC: Message = &[
    (1, "audiences", TEXT_LIST),
    (3, "boundObjectRef", Kind::Message(BOUND)),
    (4, "expirationSeconds", Kind::Number),
];
const BOUND: Message = &[
    (1, "kind", Kind::Text),
    (2, "apiVersion", Kind::Text),
    (3, "name", Kind::Text),
    (4, "uid", Kind::Text),
];
/// Sent empty, and answered anew.
const TOKEN_STATUS: Message = &[
    (1, "token", Kind::Text),
    (2, "expirationTimestamp", Kind::Time),
];
const RULES_STATUS: Message = &[
    (3, "incomplete", Kind::Flag),
    (4, "evaluationError", Kind::Text),
];
const SELF_STATUS: Message = &[(1, "userInfo", Kind::Message(USER))];

const RULE: Message = &[
    (1, "verbs", TEXT_LIST),
    (2, "apiGroups", TEXT_LIST),
    (3, "resources", TEXT_LIST),
    (4, "resourceNames", TEXT_LIST),
    (5, "nonResourceURLs", TEXT_LIST),
];
const RULES: (u64, &str, Kind) = (2, "rules", Kind::List(&Kind::Message(RULE)));
const EXPRESSION: Message = &[
    (1, "key", Kind::Text),
    (2, "operator", Kind::Text),
    (3, "values", TEXT_LIST),
];
const LABEL_SELECTOR: Message = &[
    (1, "matchLabels", TEXT_MAP),
    (
        2,
        "matchExpressions",
        Kind::List(&Kind::Message(EXPRESSION)),
    ),
];
const AGGREGATION: Message = &[(
    1,
    "clusterRoleSelectors",
    Kind::List(&Kind::Message(LABEL_SELECTOR)),
)];
const SUBJECT: Message = &[
    (1, "kind", Kind::Text),
    (2, "apiGroup", Kind::Text),
    (3, "name", Kind::Text),
    (4, "namespace", Kind::Text),
];
const ROLE_REFERENCE: Message = &[
    (1, "apiGroup", Kind::Text),
    (2, "kind", Kind::Text),
    (3, "name", Kind::Text),
];
const ROLE: Message = &[META, RULES];
const BINDING: Message = &[
    META,
    (2, "subjects", Kind::List(&Kind::Message(SUBJECT))),
    (3, "roleRef", Kind::Message(ROLE_REFERENCE)),
];

const MESSAGES: &[(&str, Message)] = &[
    (
        "ConfigMap",
        &[
            META,
            (2, "data", TEXT_MAP),
            (3, "binaryData", Kind::Texts(&Kind::Bytes)),
            (4, "immutable", Kind::Flag),
        ],
    ),
    (
        "Secret",
        &[
            META,
            (2, "data", Kind::Texts(&Kind::Bytes)),
            (3, "type", Kind::Text),
            (4, "stringData", TEXT_MAP),
            (5, "immutable", Kind::Flag),
        ],
    ),
    (
        "Namespace",
        &[
            META,
            (2, "spec", Kind::Message(&[(1, "finalizers", TEXT_LIST)])),
            (3, "status", Kind::Message(&[(1, "phase", Kind::Text)])),
        ],
    ),
    (
        "ServiceAccount",
        &[
            META,
            (2, "secrets", Kind::List(&Kind::Message(REFERENCE))),
            (3, "imagePullSecrets", Kind::List(&Kind::Message(NAMED))),
            (4, "automountServiceAccountToken", Kind::Flag),
        ],
    ),
    (
        "SelfSubjectAccessReview",
        &[
            META,
            (2, "spec", Kind::Message(REVIEW_SPEC)),
            (3, "status", Kind::Message(ACCESS_STATUS)),
        ],
    ),
    (
        "SelfSubjectRulesReview",
        &[
            META,
            (2, "spec", Kind::Message(&[(1, "namespace", Kind::Text)])),
            (3, "status", Kind::Message(RULES_STATUS)),
        ],
    ),
    ("Role", ROLE),
    (
        "ClusterRole",
        &[
            META,
            RULES,
            (3, "aggregationRule", Kind::Message(AGGREGATION)),
        ],
    ),
    ("RoleBinding", BINDING),
    ("ClusterRoleBinding", BINDING),
    (
        "TokenRequest",
        &[
            META,
            (2, "spec", Kind::Message(TOKEN_SPEC)),
            (3, "status", Kind::Message(TOKEN_STATUS)),
        ],
    ),
    (
        "SelfSubjectReview",
        &[META, (2, "status", Kind::Message(SELF_STATUS))],
    ),
    (
        "DeleteOptions",
        &[
            (1, "gracePeriodSeconds", Kind::Number),
            (
                2,
                "preconditions",
                Kind::Message(&[(1, "uid", Kind::Text), (2, "resourceVersion", Kind::Text)]),
            ),
            (3, "orphanDependents", Kind::Flag),
            (4, "propagationPolicy", Kind::Text),
            (5, "dryRun", TEXT_LIST),
        ],
    ),
];

const TYPE: Message = &[(1, "apiVersion", Kind::Text), (2, "kind", Kind::Text)];

/// The object in a body, which must be of `kind`.
pub(crate) fn decode(kind: &str, body: &[u8]) -> Result<Value, StatusError> {
    let message = MESSAGES
        .iter()
        .find(|(name, _)| *name == kind)
        .map(|(_, message)| *message);
    let message = message
        .ok_or_else(|| StatusError::unsupported_media_type("application/json, application/yaml"))?;
    read_envelope(body, message).ok_or_else(|| {
        StatusError::bad_request(format!("couldn't decode the protobuf body of a {kind}"))
    })
}

fn read_envelope(body: &[u8], message: Message) -> Option<Value> {
    let envelope = body.strip_prefix(MAGIC)?;
    let (mut types, mut raw) = (Map::new(), &[][..]);
    for field in Fields(envelope) {
        match field? {
            (1, Wire::Bytes(bytes)) => types = read(bytes, TYPE)?,
            (2, Wire::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let mut object = read(raw, message)?;
    object.append(&mut types);
    Some(Value::Object(object))
}

/// Reads one message; `None` if it has a field that is not in the table, which would be lost.
fn read(bytes: &[u8], message: Message) -> Option<Map<String, Value>> {
    let mut object = Map::new();
    for field in Fields(bytes) {
        let (number, wire) = field?;
        let known = message.iter().find(|(known, _, _)| *known == number);
        let Some((_, name, kind)) = known else {
            // Go writes empty messages and empty texts for what is unset.
            if wire.is_empty() {
                continue;
            } else {
                return None;
            }
        };
        match kind {
            Kind::List(inner) => {
                let entry = object
                    .entry(*name)
                    .or_insert_with(|| Value::Array(Vec::new()));
                entry.as_array_mut()?.push(value(wire, inner)?);
            }
            Kind::Texts(inner) => {
                let entry = object
                    .entry(*name)
                    .or_insert_with(|| Value::Object(Map::new()));
                let (key, value) = pair(wire, inner)?;
                entry.as_object_mut()?.insert(key, value);
            }
            Kind::Text if wire.is_empty() => {}
            Kind::Text
            | Kind::Bytes
            | Kind::Flag
            | Kind::Number
            | Kind::Time
            | Kind::Message(_) => {
                object.insert((*name).to_owned(), value(wire, kind)?);
            }
        }
    }
    Some(object)
}

fn value(wire: Wire<'_>, kind: &Kind) -> Option<Value> {
    match (kind, wire) {
        (Kind::Text, Wire::Bytes(bytes)) => Some(std::str::from_utf8(bytes).ok()?.into()),
        (Kind::Bytes, Wire::Bytes(bytes)) => Some(STANDARD.encode(bytes).into()),
        (Kind::Flag, Wire::Number(number)) => Some((number != 0).into()),
        // Two's complement, as protobuf has it.
        (Kind::Number, Wire::Number(number)) => Some(number.cast_signed().into()),
        (Kind::Time, Wire::Bytes(bytes)) => time(bytes),
        (Kind::Message(message), Wire::Bytes(bytes)) => read(bytes, message).map(Value::Object),
        _ => None,
    }
}

fn time(bytes: &[u8]) -> Option<Value> {
    let mut seconds = None;
    for field in Fields(bytes) {
        if let (1, Wire::Number(number)) = field? {
            seconds = Some(number.cast_signed());
        }
    }
    match seconds {
        None => Some(Value::Null),
        Some(seconds) => Some(Timestamp::from_second(seconds).ok()?.to_string().into()),
    }
}

fn pair(wire: Wire<'_>, kind: &Kind) -> Option<(String, Value)> {
    let Wire::Bytes(bytes) = wire else {
        return None;
    };
    let (mut key, mut found) = (String::new(), value(Wire::Bytes(&[]), kind)?);
    for field in Fields(bytes) {
        match field? {
            (1, Wire::Bytes(bytes)) => key = std::str::from_utf8(bytes).ok()?.to_owned(),
            (2, wire) => found = value(wire, kind)?,
            _ => return None,
        }
    }
    Some((key, found))
}

/// A field as it lies on the wire.
#[derive(Debug, Clone, Copy)]
enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl Wire<'_> {
    fn is_empty(&self) -> bool {
        match self {
            Self::Number(number) => *number == 0,
            Self::Bytes(bytes) => bytes.is_empty(),
        }
    }
}

/// The fields of a message; an item of `None` says that the rest is malformed, and is the last.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Option<(u64, Wire<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field)
    }
}

impl<'a> Fields<'a> {
    fn field(&mut self) -> Option<(u64, Wire<'a>)> {
        let tag = self.number()?;
        let wire = match tag & 7 {
            0 => Wire::Number(self.number()?),
            2 => {
                let length = usize::try_from(self.number()?).ok()?;
                let (bytes, rest) = self.0.split_at_checked(length)?;
                self.0 = rest;
                Wire::Bytes(bytes)
            }
            // Kubernetes' messages have neither fixed-width fields nor groups.
            _ => return None,
        };
        Some((tag >> 3, wire))
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            number |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        let length = u8::try_from(bytes.len()).unwrap();
        [&[number << 3 | 2, length], bytes].concat()
    }

    fn envelope(object: &[u8]) -> Vec<u8> {
        let types = [field(1, b"v1"), field(2, b"Secret")].concat();
        [
            MAGIC,
            &field(1, &types),
            &field(2, object),
            &field(3, b""),
            &field(4, b""),
        ]
        .concat()
    }

    #[test]
    fn a_secret_is_read_whole() {
        let labels = field(11, &[field(1, b"a"), field(2, b"b")].concat());
        let metadata = [field(1, b"s"), field(2, b""), field(8, b""), labels].concat();
        let data = field(2, &[field(1, b"k"), field(2, b"\xff")].concat());
        let immutable = vec![5 << 3, 1];
        let object = [field(1, &metadata), data, field(3, b"Opaque"), immutable].concat();
        assert_eq!(
            decode("Secret", &envelope(&object)).unwrap(),
            json!({
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": "s", "creationTimestamp": null, "labels": {"a": "b"}},
                "data": {"k": "/w=="},
                "type": "Opaque",
                "immutable": true,
            })
        );
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let unknown = field(1, &field(7, b"x"));
        assert_eq!(decode("Secret", &envelope(&unknown)).unwrap_err().code, 400);
        let cut = envelope(&field(1, b"\x0a\x7f"));
        assert_eq!(decode("Secret", &cut).unwrap_err().code, 400);
        assert_eq!(decode("Secret", b"{}").unwrap_err().code, 400);
        assert_eq!(decode("Deployment", &envelope(b"")).unwrap_err().code, 415);
    }
}
