use capi_contract::{Bootstrap, Format};

/// First lines by which cloud-init tells what user data is.
///
/// Source: cloud-init documentation, "User data formats".
const HEADERS: [&str; 9] = [
    "#cloud-config",
    "## template: jinja",
    "#!",
    "#include",
    "#cloud-boothook",
    "#part-handler",
    "#upstart-job",
    "Content-Type:",
    "MIME-Version:",
];

/// The line after `## template: jinja` says what the rendered text is.
const JINJA: &str = "## template: jinja";

/// First bytes of a gzip stream, which cloud-init unpacks before it looks at the headers.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Why bootstrap data cannot be used. No message shows any of it, since it holds join tokens and
/// keys.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum UserDataError {
    /// A format that is not supported.
    #[error(
        "read bootstrap data: this provider knows cloud-config and ignition; set one of them as \
         the format in the bootstrap configuration"
    )]
    UnsupportedFormat,
    /// There is nothing.
    #[error("read bootstrap data: it is empty; the bootstrap provider has to fill its Secret")]
    Empty,
    /// cloud-init would ignore it, and the machine would never become a node.
    #[error(
        "read bootstrap data: cloud-init would ignore it, because its first line is none of those \
         it knows (#cloud-config, ## template: jinja, #!, #include, Content-Type: and others)"
    )]
    UnknownHeader,
    /// A template of nothing that cloud-init knows.
    #[error(
        "read bootstrap data: it begins with ## template: jinja, and the line after it must be \
         #cloud-config or another header that cloud-init knows"
    )]
    UnknownTemplate,
}

/// Checks that there is bootstrap data, and that cloud-init would run it if it is for cloud-init.
///
/// Only the header is looked at. The rest is for cloud-init, whose YAML is not quite ours.
///
/// # Errors
///
/// If it would not.
pub fn check(bootstrap: &Bootstrap) -> Result<(), UserDataError> {
    let bytes = bootstrap.bytes();
    if bytes.trim_ascii().is_empty() {
        return Err(UserDataError::Empty);
    }
    match bootstrap.format {
        Format::CloudConfig => check_header(bytes),
        Format::Ignition => Ok(()),
        _ => Err(UserDataError::UnsupportedFormat),
    }
}

fn check_header(bytes: &[u8]) -> Result<(), UserDataError> {
    if bytes.starts_with(&GZIP) {
        return Ok(());
    }
    let mut lines = bytes.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let first = lines.next().unwrap_or_default();
    if !is_header(first) {
        return Err(UserDataError::UnknownHeader);
    }
    let is_template = first.starts_with(JINJA.as_bytes());
    let rendered = lines.next().unwrap_or_default();
    if is_template && (rendered.starts_with(JINJA.as_bytes()) || !is_header(rendered)) {
        return Err(UserDataError::UnknownTemplate);
    }
    Ok(())
}

fn is_header(line: &[u8]) -> bool {
    let starts = |header: &str| {
        let head = line.get(..header.len());
        head.is_some_and(|head| head.eq_ignore_ascii_case(header.as_bytes()))
    };
    HEADERS.iter().any(|header| starts(header))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::cloud_config(b"#cloud-config\nruncmd: []\n", Ok(()))]
    #[case::kubeadm(b"## template: jinja\n#cloud-config\n\nwrite_files: []\n", Ok(()))]
    #[case::carriage_returns(b"## template: jinja\r\n#cloud-config\r\n", Ok(()))]
    #[case::script(b"#!/bin/sh\ntrue\n", Ok(()))]
    #[case::mime(b"Content-Type: multipart/mixed; boundary=\"x\"\nMIME-Version: 1.0\n", Ok(()))]
    #[case::gzip(&[0x1f, 0x8b, 8, 0], Ok(()))]
    #[case::empty(b"", Err(UserDataError::Empty))]
    #[case::blank(b" \n\n", Err(UserDataError::Empty))]
    #[case::yaml_without_header(b"runcmd: []\n", Err(UserDataError::UnknownHeader))]
    #[case::header_in_second_line(b"\n#cloud-config\n", Err(UserDataError::UnknownHeader))]
    #[case::ignition(b"{\"ignition\":{}}", Err(UserDataError::UnknownHeader))]
    #[case::template_of_nothing(b"## template: jinja\n", Err(UserDataError::UnknownTemplate))]
    #[case::template_of_yaml(b"## template: jinja\na: b\n", Err(UserDataError::UnknownTemplate))]
    #[case::binary(&[0xff, 0xfe, 0], Err(UserDataError::UnknownHeader))]
    fn headers_are_told_apart(#[case] bytes: &[u8], #[case] expected: Result<(), UserDataError>) {
        assert_eq!(check(&Bootstrap::new(Format::CloudConfig, bytes)), expected);
    }

    #[test]
    fn an_ignition_document_has_no_header() {
        assert_eq!(check(&Bootstrap::new(Format::Ignition, *b"{}")), Ok(()));
        let empty = Bootstrap::new(Format::Ignition, *b"\n");
        assert_eq!(check(&empty), Err(UserDataError::Empty));
    }
}
