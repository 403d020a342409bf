//! Uploads: `multipart/form-data` with a part named `filename`.

use bytes::Bytes;
use http::Request;

use crate::api::form::content_type;
use crate::api::reply::Refusal;
use crate::api::schema::Params;

/// The fields beside the file are small; the real server reads them into a fixed buffer.
const FIELD_MAX: usize = 64 << 10;

/// How many parts a form may have; the call has five parameters.
const PARTS_MAX: usize = 16;

/// The file of an upload.
#[derive(Clone)]
pub(crate) struct Upload {
    pub(crate) file_name: String,
    pub(crate) bytes: Bytes,
}

// Uploads hold bootstrap data, so only the size is shown.
impl std::fmt::Debug for Upload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Upload({:?}, {} bytes)",
            self.file_name,
            self.bytes.len()
        )
    }
}

struct Part {
    name: String,
    file_name: Option<String>,
    bytes: Bytes,
}

impl Upload {
    /// Reads the fields and the file.
    pub(crate) fn read(request: &Request<Bytes>) -> Result<(Params, Self), Refusal> {
        let kind = content_type(request);
        let boundary = boundary(kind).ok_or_else(|| {
            Refusal::bare(
                506,
                format!("upload 'Content-Type '{kind}' not implemented"),
            )
        })?;
        let parts = split(request.body(), &boundary)
            .ok_or_else(|| Refusal::bare(501, "unable to parse multipart form data"))?;
        let mut params = Params::default();
        let mut file = None;
        for part in parts {
            match part.file_name {
                Some(file_name) if part.name == "filename" => {
                    file = Some(Self {
                        file_name,
                        bytes: part.bytes,
                    });
                }
                Some(_) => {
                    return Err(Refusal::bare(
                        501,
                        "multipart: file part is not named 'filename'",
                    ));
                }
                None if part.bytes.len() > FIELD_MAX => {
                    return Err(Refusal::bare(501, "for data too large"));
                }
                None => params.push(part.name, String::from_utf8_lossy(&part.bytes).into_owned()),
            }
        }
        match file {
            Some(file) => Ok((params, file)),
            None => Err(Refusal::bare(
                501,
                "unable to parse multipart form data: no file part",
            )),
        }
    }

    /// Adds the file's name to the parameters, where a field of that name mustn't be.
    pub(crate) fn add_to(&self, params: &mut Params) -> Result<(), Refusal> {
        if params.contains("filename") {
            return Err(Refusal::parameter(
                "filename",
                "duplicate parameter (already defined by the uploaded file)",
            ));
        }
        params.push("filename", self.file_name.clone());
        Ok(())
    }
}

fn boundary(kind: &str) -> Option<String> {
    let rest = kind.strip_prefix("multipart/form-data")?;
    let value = rest
        .split(';')
        .find_map(|part| part.trim().strip_prefix("boundary="))?;
    let value = value.trim().trim_matches('"');
    (!value.is_empty()).then(|| value.to_owned())
}

/// The parts between the boundaries, or `None` where the form is malformed.
fn split(body: &Bytes, boundary: &str) -> Option<Vec<Part>> {
    let first = format!("--{boundary}");
    let next = format!("\r\n--{boundary}");
    let mut at = find(body, first.as_bytes(), 0)? + first.len();
    let mut parts = Vec::new();
    loop {
        if body.get(at..at + 2) == Some(b"--".as_slice()) {
            return Some(parts);
        }
        if body.get(at..at + 2) != Some(b"\r\n".as_slice()) || parts.len() == PARTS_MAX {
            return None;
        }
        at += 2;
        let head_end = find(body, b"\r\n\r\n", at)?;
        let end = find(body, next.as_bytes(), head_end)?;
        let head = std::str::from_utf8(body.get(at..head_end)?).ok()?;
        let bytes = body.slice(head_end + 4..end.max(head_end + 4));
        parts.push(part(head, bytes)?);
        at = end + next.len();
    }
}

fn part(head: &str, bytes: Bytes) -> Option<Part> {
    let disposition = head.lines().find(|line| {
        line.split(':')
            .next()
            .is_some_and(|name| name.eq_ignore_ascii_case("content-disposition"))
    })?;
    let attribute = |name: &str| {
        let prefix = format!("{name}=");
        let parts = disposition.split(';').map(str::trim);
        let value = parts
            .filter_map(|part| part.strip_prefix(prefix.as_str()))
            .next()?;
        Some(value.trim_matches('"').to_owned())
    };
    Some(Part {
        name: attribute("name")?,
        file_name: attribute("filename"),
        bytes,
    })
}

/// Where a pattern begins at or after a position. Looks for its first byte first, as uploads are
/// some hundred kilobytes long.
fn find(body: &[u8], pattern: &[u8], from: usize) -> Option<usize> {
    let first = *pattern.first()?;
    let mut at = from;
    loop {
        at += body.get(at..)?.iter().position(|byte| *byte == first)?;
        if body[at..].starts_with(pattern) {
            return Some(at);
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(body: &str) -> Request<Bytes> {
        Request::builder()
            .header("content-type", "multipart/form-data; boundary=xX")
            .body(Bytes::from(body.to_owned()))
            .unwrap()
    }

    #[test]
    fn a_form_is_taken_apart() {
        let body = "--xX\r\nContent-Disposition: form-data; name=\"content\"\r\n\r\niso\r\n\
                    --xX\r\nContent-Disposition: form-data; name=\"filename\"; filename=\"a b.iso\"\r\n\
                    Content-Type: application/octet-stream\r\n\r\n\0\r\n--x\r\n--xX--\r\n";
        let (params, upload) = Upload::read(&request(body)).unwrap();
        assert_eq!(params.get("content"), Some("iso"));
        assert_eq!(upload.file_name, "a b.iso");
        assert_eq!(upload.bytes.as_ref(), b"\0\r\n--x");
    }

    #[test]
    fn a_file_under_another_name_is_refused() {
        let body = "--xX\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.iso\"\r\n\r\n\
                    x\r\n--xX--\r\n";
        assert_eq!(Upload::read(&request(body)).unwrap_err().status, 501);
    }

    #[test]
    fn what_is_cut_off_is_refused() {
        let body = "--xX\r\nContent-Disposition: form-data; name=\"content\"\r\n\r\niso";
        assert_eq!(Upload::read(&request(body)).unwrap_err().status, 501);
    }
}
