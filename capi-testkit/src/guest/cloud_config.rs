//! User-data: what cloud-init is told to do.

use base64::Engine as _;
use bytes::Bytes;
use serde_json::{Map, Value};

use crate::guest::jinja;
use crate::guest::seed::brief;

/// Parts of a MIME message.
const PARTS_MAX: usize = 64;

/// Top-level keys that are read or that change nothing a controller could see. Anything else is
/// warned about, as cloud-init's schema check does.
const KNOWN_KEYS: [&str; 30] = [
    "apt",
    "bootcmd",
    "ca_certs",
    "chpasswd",
    "disable_root",
    "disk_setup",
    "final_message",
    "fqdn",
    "fs_setup",
    "groups",
    "growpart",
    "hostname",
    "locale",
    "manage_etc_hosts",
    "merge_how",
    "mounts",
    "ntp",
    "package_update",
    "package_upgrade",
    "packages",
    "password",
    "preserve_hostname",
    "resize_rootfs",
    "runcmd",
    "ssh_authorized_keys",
    "ssh_pwauth",
    "timezone",
    "user",
    "users",
    "write_files",
];

/// A file to be written.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct WriteFile {
    pub(super) path: String,
    pub(super) content: Bytes,
    pub(super) permissions: u32,
    pub(super) append: bool,
}

/// All that one set of user-data asks for.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct CloudConfig {
    pub(super) hostname: Option<String>,
    pub(super) users: Vec<String>,
    pub(super) write_files: Vec<WriteFile>,
    /// Lines of a shell script, in order.
    pub(super) runcmd: Vec<String>,
    /// What cloud-init would warn about.
    pub(super) warnings: Vec<String>,
}

/// Reads user-data: a cloud-config, a shell script, or a MIME message of both.
pub(super) fn read_user_data(bytes: &[u8], data: &Value) -> Result<CloudConfig, String> {
    if bytes.starts_with(&[0x1f, 0x8b]) {
        return Err("the simulated guest does not unpack gzip user-data".to_owned());
    }
    let text = std::str::from_utf8(bytes).map_err(|_| "user-data is not UTF-8 text".to_owned())?;
    let mut config = CloudConfig::default();
    if is_mime(text) {
        for (kind, part) in mime_parts(text, 0)? {
            config.part(Some(&kind), &part, data)?;
        }
    } else {
        config.part(None, text, data)?;
    }
    Ok(config)
}

impl CloudConfig {
    fn part(&mut self, kind: Option<&str>, text: &str, data: &Value) -> Result<(), String> {
        let rendered;
        let text = if jinja::is_template(text) {
            rendered = jinja::render(text, data)
                .map_err(|error| format!("Failed to render user-data template: {error}"))?;
            rendered.as_str()
        } else {
            text
        };
        let first = text.lines().next().unwrap_or_default().trim_end();
        if first.starts_with("#!") {
            self.runcmd.extend(text.lines().skip(1).map(str::to_owned));
            return Ok(());
        }
        // A MIME type says what the header would; without either, cloud-init ignores the text.
        if first != "#cloud-config" && kind != Some("text/cloud-config") {
            if text.trim().is_empty() {
                return Ok(());
            }
            return Err(format!(
                "Unhandled non-multipart (text/x-not-multipart) userdata: its first line is not '#cloud-config' but {}",
                if first.starts_with('#') || first.len() < 40 {
                    format!("{first:?}")
                } else {
                    "text".to_owned()
                }
            ));
        }
        let value: Value = serde_saphyr::from_str(text)
            .map_err(|error| format!("Failed loading yaml blob: {}", brief(&error)))?;
        match value {
            Value::Object(map) => self.merge(&map),
            Value::Null => Ok(()),
            _ => Err("Failed loading yaml blob: cloud-config is not a mapping".to_owned()),
        }
    }

    /// Lists of later parts come after those of earlier ones.
    fn merge(&mut self, map: &Map<String, Value>) -> Result<(), String> {
        for key in map.keys().filter(|key| !KNOWN_KEYS.contains(&key.as_str())) {
            self.warnings.push(format!(
                "cloud-config schema errors: {key}: Additional properties are not allowed"
            ));
        }
        if let Some(hostname) = ["hostname", "fqdn"]
            .iter()
            .find_map(|key| map.get(*key)?.as_str())
        {
            self.hostname = Some(hostname.to_owned());
        }
        for user in items(map.get("users"), "users")? {
            self.users.extend(
                user.as_str()
                    .or_else(|| user["name"].as_str())
                    .map(str::to_owned),
            );
        }
        for file in items(map.get("write_files"), "write_files")? {
            let file = write_file(file)?;
            self.write_files.push(file);
        }
        for command in items(map.get("runcmd"), "runcmd")? {
            self.runcmd.push(script_line(command)?);
        }
        Ok(())
    }
}

fn items<'a>(value: Option<&'a Value>, key: &str) -> Result<&'a [Value], String> {
    match value {
        None | Some(Value::Null) => Ok(&[]),
        Some(Value::Array(items)) => Ok(items),
        Some(_) => Err(format!("Input to {key} must be a list")),
    }
}

fn write_file(file: &Value) -> Result<WriteFile, String> {
    let path = file["path"]
        .as_str()
        .filter(|path| path.starts_with('/'))
        .ok_or_else(|| "write_files: an entry has no absolute path".to_owned())?;
    let text = match &file["content"] {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    let encoding = file["encoding"].as_str().unwrap_or("text/plain");
    let content = match encoding {
        "text/plain" => text.into_bytes(),
        "b64" | "base64" => {
            let packed: String = text.split_whitespace().collect();
            base64::engine::general_purpose::STANDARD
                .decode(packed)
                .map_err(|_| format!("write_files: content of {path} is not base64"))?
        }
        other => {
            return Err(format!(
                "write_files: the simulated guest does not know encoding {other:?} of {path}"
            ));
        }
    };
    let permissions = match &file["permissions"] {
        Value::Null => 0o644,
        // YAML 1.2 reads an unquoted 0640 as six hundred and forty; cloud-init's YAML 1.1 as octal.
        Value::Number(number) => octal(&number.to_string(), path)?,
        Value::String(text) => octal(text, path)?,
        _ => return Err(format!("write_files: cannot read permissions of {path}")),
    };
    Ok(WriteFile {
        path: path.to_owned(),
        content: content.into(),
        permissions,
        append: file["append"].as_bool().unwrap_or(false),
    })
}

fn octal(text: &str, path: &str) -> Result<u32, String> {
    u32::from_str_radix(text.trim_start_matches("0o"), 8)
        .ok()
        .filter(|bits| *bits <= 0o7777)
        .ok_or_else(|| format!("write_files: cannot read permissions {text:?} of {path}"))
}

fn script_line(command: &Value) -> Result<String, String> {
    match command {
        Value::String(line) => Ok(line.clone()),
        Value::Array(words) => Ok(words
            .iter()
            .map(|word| word.as_str().map_or_else(|| word.to_string(), quoted))
            .collect::<Vec<_>>()
            .join(" ")),
        Value::Null => Ok(String::new()),
        _ => Err("runcmd: an entry is neither a string nor a list".to_owned()),
    }
}

fn quoted(word: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_./:=,@%+".contains(letter);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

fn is_mime(text: &str) -> bool {
    let head = text.get(..200).unwrap_or(text).to_ascii_lowercase();
    head.starts_with("content-type: multipart/") || head.starts_with("mime-version:")
}

/// The parts of a multipart message with their types, nested ones flattened.
fn mime_parts(text: &str, depth: usize) -> Result<Vec<(String, String)>, String> {
    /// Nested messages; cloud-init's own tools make one level.
    const DEPTH_MAX: usize = 4;
    if depth == DEPTH_MAX {
        return Err("MIME message is nested too deeply".to_owned());
    }
    let text = text.replace("\r\n", "\n");
    let (head, body) = text.split_once("\n\n").unwrap_or((&text, ""));
    let kind = header(head, "content-type").unwrap_or_else(|| "text/plain".to_owned());
    let bare = kind
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    if !bare.starts_with("multipart/") {
        let body = decoded(head, body)?;
        return Ok(vec![(bare, body)]);
    }
    let boundary = kind
        .split(';')
        .find_map(|piece| piece.trim().strip_prefix("boundary="))
        .map(|value| value.trim_matches('"'))
        .filter(|value| !value.is_empty())
        .ok_or_else(|| "MIME message has no boundary".to_owned())?;
    let marker = format!("--{boundary}");
    let mut parts = Vec::new();
    for piece in format!("\n{body}").split(&format!("\n{marker}")).skip(1) {
        if piece.starts_with("--") {
            break;
        }
        if parts.len() >= PARTS_MAX {
            return Err(format!("MIME message has more than {PARTS_MAX} parts"));
        }
        let piece = piece.split_once('\n').map_or("", |(_, rest)| rest);
        parts.extend(mime_parts(piece, depth + 1)?);
    }
    Ok(parts)
}

fn header(head: &str, name: &str) -> Option<String> {
    // A continued header starts with white space.
    let unfolded = head.replace("\n ", " ").replace("\n\t", " ");
    unfolded.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.trim()
            .eq_ignore_ascii_case(name)
            .then(|| value.trim().to_owned())
    })
}

fn decoded(head: &str, body: &str) -> Result<String, String> {
    let encoding = header(head, "content-transfer-encoding").unwrap_or_default();
    match encoding.to_ascii_lowercase().as_str() {
        "" | "7bit" | "8bit" | "binary" => Ok(body.to_owned()),
        "base64" => {
            let packed: String = body.split_whitespace().collect();
            base64::engine::general_purpose::STANDARD
                .decode(packed)
                .ok()
                .and_then(|bytes| String::from_utf8(bytes).ok())
                .ok_or_else(|| "MIME part is not base64 of text".to_owned())
        }
        other => Err(format!(
            "the simulated guest does not know MIME encoding {other:?}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn read(text: &str) -> Result<CloudConfig, String> {
        let data = serde_json::json!({"ds": {"meta_data": {"instance_id": "i-1"}}});
        read_user_data(text.as_bytes(), &data)
    }

    #[test]
    fn a_cloud_config_is_read_as_a_whole() {
        let config = read(
            "## template: jinja
#cloud-config
hostname: a
users:
- name: capi
- default
write_files:
- path: /etc/id
  permissions: '0600'
  content: '{{ ds.meta_data.instance_id }}'
- {path: /etc/b, encoding: b64, content: aGVs bG8=, append: true}
runcmd:
- kubeadm init
- [echo, 'two words', it's]
surprise: 1
",
        )
        .expect("is good");
        assert_eq!(config.hostname.as_deref(), Some("a"));
        assert_eq!(config.users, ["capi", "default"]);
        assert_eq!(config.write_files[0].content, "i-1");
        assert_eq!(config.write_files[0].permissions, 0o600);
        assert_eq!(config.write_files[1].content, "hello");
        assert_eq!(config.write_files[1].permissions, 0o644);
        assert!(config.write_files[1].append);
        assert_eq!(
            config.runcmd,
            ["kubeadm init", r"echo 'two words' 'it'\''s'"]
        );
        assert!(config.warnings[0].contains("surprise"));
    }

    #[test]
    fn a_mime_message_merges_its_parts() {
        let config = read(
            "Content-Type: multipart/mixed; boundary=\"==B==\"
MIME-Version: 1.0

--==B==
Content-Type: text/cloud-config

runcmd: [one]
--==B==
Content-Type: text/x-shellscript
Content-Transfer-Encoding: base64

IyEvYmluL3NoCnR3bwo=
--==B==
Content-Type: text/plain

#cloud-config
runcmd: [three]
--==B==--
",
        )
        .expect("is good");
        assert_eq!(config.runcmd, ["one", "two", "three"]);
    }

    #[rstest]
    #[case("write_files: []", "not '#cloud-config'")]
    #[case("#cloud-config\nruncmd: [a", "Failed loading yaml blob")]
    #[case("#cloud-config\n- a", "not a mapping")]
    #[case("#cloud-config\nruncmd: a", "runcmd must be a list")]
    #[case("#cloud-config\nwrite_files: [{content: a}]", "no absolute path")]
    #[case("#cloud-config\nwrite_files: [{path: /a, encoding: gz+b64}]", "gz+b64")]
    #[case(
        "#cloud-config\nwrite_files: [{path: /a, encoding: b64, content: '!'}]",
        "not base64"
    )]
    #[case(
        "#cloud-config\nwrite_files: [{path: /a, permissions: rw}]",
        "permissions"
    )]
    #[case("## template: jinja\n#cloud-config\n{{", "template")]
    #[case("Content-Type: multipart/mixed\n\n", "boundary")]
    fn says_what_is_wrong(#[case] text: &str, #[case] wanted: &str) {
        let Err(error) = read(text) else {
            panic!("{text:?} was read");
        };
        assert!(error.contains(wanted), "{error}");
    }

    #[test]
    fn a_yaml_error_does_not_quote_the_document() {
        let Err(error) = read("#cloud-config\nkey: [secret-token\nother: }") else {
            panic!("is bad");
        };
        assert!(!error.contains("secret-token"), "{error}");
    }
}
