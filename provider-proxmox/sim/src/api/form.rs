//! Reading a request: path, query, form, JSON.

use bytes::Bytes;
use http::{Method, Request, header};
use serde_json::Value;

use crate::api::reply::Refusal;
use crate::api::schema::Params;

/// The decoded parts of a path.
pub(crate) fn segments(path: &str) -> Vec<String> {
    path.split('/')
        .filter(|part| !part.is_empty())
        .map(percent_decode)
        .collect()
}

fn percent_decode(text: &str) -> String {
    if !text.contains('%') {
        return text.to_owned();
    }
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escape = text.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        match escape.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                decoded.push(byte);
                at += 3;
            }
            None => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// The parameters of a call that is no upload.
pub(crate) fn read_parameters(request: &Request<Bytes>) -> Result<Params, Refusal> {
    let mut params = Params::default();
    if matches!(*request.method(), Method::GET | Method::DELETE) {
        read_form(
            request.uri().query().unwrap_or_default().as_bytes(),
            &mut params,
        );
        return Ok(params);
    }
    let kind = content_type(request);
    match kind.split(';').next().unwrap_or_default().trim() {
        "" | "application/x-www-form-urlencoded" => read_form(request.body(), &mut params),
        "application/json" => read_json(request.body(), &mut params)?,
        _ => {
            let reason = format!("upload 'Content-Type '{kind}' not implemented");
            return Err(Refusal::bare(506, reason));
        }
    }
    Ok(params)
}

pub(crate) fn content_type(request: &Request<Bytes>) -> &str {
    let value = request.headers().get(header::CONTENT_TYPE);
    value
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}

fn read_form(text: &[u8], params: &mut Params) {
    for (name, value) in url::form_urlencoded::parse(text) {
        params.push(name, value);
    }
}

fn read_json(text: &[u8], params: &mut Params) -> Result<(), Refusal> {
    if text.is_empty() {
        return Ok(());
    }
    let wrong = |reason: String| Refusal::new(400, format!("cannot read JSON: {reason}"));
    let value: Value = serde_json::from_slice(text).map_err(|error| wrong(error.to_string()))?;
    let Value::Object(object) = value else {
        return Err(wrong("not an object".into()));
    };
    for (name, value) in object {
        match value {
            Value::Array(items) => {
                for item in items {
                    params.push(name.clone(), scalar(&name, item)?);
                }
            }
            value => params.push(name.clone(), scalar(&name, value)?),
        }
    }
    Ok(())
}

fn scalar(name: &str, value: Value) -> Result<String, Refusal> {
    match value {
        Value::String(text) => Ok(text),
        Value::Bool(flag) => Ok(u8::from(flag).to_string()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Null => Ok(String::new()),
        Value::Array(_) => Err(Refusal::parameter(
            name,
            "type check ('string') failed - got ARRAY",
        )),
        Value::Object(_) => Err(Refusal::parameter(
            name,
            "type check ('string') failed - got HASH",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_decoded_part_by_part() {
        assert_eq!(
            segments("/a/local%3Aiso%2Fx.iso/b"),
            ["a", "local:iso/x.iso", "b"]
        );
        assert_eq!(segments("/100%/%zz"), ["100%", "%zz"]);
    }

    #[test]
    fn json_becomes_parameters() {
        let body = r#"{"command":["a","b"],"full":true,"cores":2,"name":"x"}"#;
        let mut params = Params::default();
        read_json(body.as_bytes(), &mut params).unwrap();
        assert_eq!(params.all("command"), ["a", "b"]);
        assert_eq!(
            (params.get("full"), params.get("cores")),
            (Some("1"), Some("2"))
        );
        let refusal = read_json(br#"{"a":{"b":1}}"#, &mut params).unwrap_err();
        assert_eq!(refusal.status, 400);
    }
}
