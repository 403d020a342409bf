//! The cloud-config of a machine, as the kubeadm bootstrap provider writes it: pure.
//!
//! It is a jinja template, so text is written as block scalars wherever quoting could come between the
//! braces and the template engine.

use serde_json::{Map, Value, json};

/// Where kubeadm's success is noted (IM-28).
const SENTINEL: &str = "/run/cluster-api/bootstrap-success.complete";
/// Where `kubeadm init` reads its configuration.
pub(super) const INIT_FILE: &str = "/run/kubeadm/kubeadm.yaml";
/// Where `kubeadm join` reads it.
pub(super) const JOIN_FILE: &str = "/run/kubeadm/kubeadm-join-config.yaml";

/// A file of `write_files`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::core) struct File {
    pub(in crate::core) path: String,
    pub(super) owner: Option<String>,
    pub(super) permissions: Option<String>,
    pub(super) encoding: Option<String>,
    pub(super) is_appended: bool,
    pub(super) content: String,
}

impl File {
    /// A file of root's.
    pub(in crate::core) fn of_root(path: &str, permissions: &str, content: String) -> Self {
        Self {
            path: path.to_owned(),
            owner: Some("root:root".to_owned()),
            permissions: Some(permissions.to_owned()),
            content,
            ..Self::default()
        }
    }
}

/// What kubeadm is called for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Init,
    Join,
}

/// The user data of a machine. `spec` is that of its KubeadmConfig with all secrets resolved; `files`
/// are all files in their order.
pub(super) fn render(spec: &Value, files: &[File], command: Command) -> String {
    let mut text = "## template: jinja\n#cloud-config\n\n".to_owned();
    commands(&mut text, "bootcmd", &strings(&spec["bootCommands"]));
    if !files.is_empty() {
        text.push_str("write_files:\n");
    }
    for file in files {
        write_file(&mut text, file);
    }
    let mut run = strings(&spec["preKubeadmCommands"]);
    run.push(kubeadm(spec, command));
    run.extend(strings(&spec["postKubeadmCommands"]));
    commands(&mut text, "runcmd", &run);
    let rest = rest(spec);
    if rest.as_object().is_some_and(|rest| !rest.is_empty()) {
        text.push_str(&yaml(&rest));
    }
    text
}

/// A value as YAML. JSON values have no part that YAML lacks.
pub(in crate::core) fn yaml(value: &Value) -> String {
    serde_saphyr::to_string(value).unwrap_or_else(|_| format!("{value}\n"))
}

fn kubeadm(spec: &Value, command: Command) -> String {
    let (word, file) = match command {
        Command::Init => ("init", INIT_FILE),
        Command::Join => ("join", JOIN_FILE),
    };
    let verbosity = spec["verbosity"]
        .as_u64()
        .map_or(String::new(), |level| format!(" --v {level}"));
    format!("kubeadm {word} --config {file}{verbosity} && echo success > {SENTINEL}")
}

fn strings(list: &Value) -> Vec<String> {
    let list = list.as_array().into_iter().flatten();
    list.filter_map(|it| it.as_str().map(str::to_owned))
        .collect()
}

fn commands(text: &mut String, section: &str, commands: &[String]) {
    if commands.is_empty() {
        return;
    }
    text.push_str(section);
    text.push_str(":\n");
    for command in commands {
        text.push_str("  - ");
        scalar(text, command, "    ");
    }
}

fn write_file(text: &mut String, file: &File) {
    text.push_str("- path: ");
    scalar(text, &file.path, "    ");
    for (key, value) in [
        ("encoding", &file.encoding),
        ("owner", &file.owner),
        ("permissions", &file.permissions),
    ] {
        if let Some(value) = value {
            text.push_str("  ");
            text.push_str(key);
            text.push_str(": ");
            scalar(text, value, "    ");
        }
    }
    if file.is_appended {
        text.push_str("  append: true\n");
    }
    text.push_str("  content: ");
    scalar(text, &file.content, "    ");
}

/// Writes a scalar and ends the line. What has only plain letters is quoted, the rest is a block.
fn scalar(text: &mut String, value: &str, indent: &str) {
    let is_plain = !value.contains(['"', '\\', '\n', '\'']);
    let fits_block = value
        .chars()
        .all(|letter| letter == '\n' || letter == '\t' || !letter.is_control())
        && !value.trim_matches('\n').is_empty()
        && !value.contains(['\u{feff}', '\u{2028}', '\u{2029}', '\u{85}']);
    if is_plain || !fits_block {
        // JSON strings are YAML strings.
        text.push_str(&json!(value).to_string());
        text.push('\n');
        return;
    }
    let body = value.trim_end_matches('\n');
    let chomping = match value.len() - body.len() {
        0 => "-",
        1 => "",
        _ => "+",
    };
    // A first line that begins with a space, or is empty, would be taken for deeper indentation.
    let indicator = if body.starts_with([' ', '\n', '\t']) {
        "2"
    } else {
        ""
    };
    text.push('|');
    text.push_str(indicator);
    text.push_str(chomping);
    text.push('\n');
    let outer = &indent[..indent.len() - 2];
    for line in value.strip_suffix('\n').unwrap_or(value).split('\n') {
        if !line.is_empty() {
            text.push_str(outer);
            text.push_str("  ");
            text.push_str(line);
        }
        text.push('\n');
    }
}

/// The sections that need no care with braces.
fn rest(spec: &Value) -> Value {
    let mut all = Map::new();
    let is_full = |value: &Value| value.as_array().is_some_and(|list| !list.is_empty());
    if spec["ntp"].is_object() {
        let mut ntp = spec["ntp"].clone();
        if ntp.get("enabled").is_none() {
            ntp["enabled"] = json!(true);
        }
        all.insert("ntp".to_owned(), ntp);
    }
    if is_full(&spec["users"]) {
        let users = spec["users"].as_array().into_iter().flatten().map(user);
        all.insert("users".to_owned(), Value::Array(users.collect()));
    }
    if is_full(&spec["mounts"]) {
        all.insert("mounts".to_owned(), spec["mounts"].clone());
    }
    let setup = &spec["diskSetup"];
    if is_full(&setup["partitions"]) {
        all.insert("disk_setup".to_owned(), partitions(&setup["partitions"]));
    }
    if is_full(&setup["filesystems"]) {
        let list = setup["filesystems"].as_array().into_iter().flatten();
        let list = list.map(|it| {
            renamed(
                it,
                &[("replaceFS", "replace_fs"), ("extraOpts", "extra_opts")],
            )
        });
        all.insert("fs_setup".to_owned(), Value::Array(list.collect()));
    }
    Value::Object(all)
}

fn user(user: &Value) -> Value {
    renamed(
        user,
        &[
            ("homeDir", "homedir"),
            ("lockPassword", "lock_passwd"),
            ("primaryGroup", "primary_group"),
            ("sshAuthorizedKeys", "ssh_authorized_keys"),
        ],
    )
}

fn renamed(value: &Value, names: &[(&str, &str)]) -> Value {
    let fields = value.as_object().into_iter().flatten().map(|(key, value)| {
        let new = names.iter().find(|(old, _)| old == key);
        (
            new.map_or(key.as_str(), |(_, new)| new).to_owned(),
            value.clone(),
        )
    });
    Value::Object(fields.collect())
}

fn partitions(list: &Value) -> Value {
    let entries = list
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|partition| {
            let device = partition["device"].as_str()?.to_owned();
            let mut entry = json!({"layout": partition["layout"]});
            if let Some(layout) = partition["diskLayout"].as_array() {
                let parts = layout
                    .iter()
                    .map(|part| match part["partitionType"].as_str() {
                        Some(kind) => json!([part["percentage"], kind]),
                        None => part["percentage"].clone(),
                    });
                entry["layout"] = Value::Array(parts.collect());
            }
            for (key, name) in [("tableType", "table_type"), ("overwrite", "overwrite")] {
                if let Some(value) = partition.get(key) {
                    entry[name] = value.clone();
                }
            }
            Some((device, entry))
        });
    Value::Object(entries.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Value {
        serde_saphyr::from_str(text).unwrap_or_else(|fault| panic!("{fault}\n{text}"))
    }

    #[test]
    fn s_10_any_text_comes_back_as_it_was() {
        for content in [
            "",
            "\n",
            "plain",
            "a: b\n",
            "two\nlines",
            "two\nlines\n",
            "more\n\n\n",
            "  leads\nx\n",
            "\n\nleads\n",
            "\ttab\n",
            "quote \" and ' and \\\n",
            "a\r\nb\n",
            "{{ ds.x[\"y\"] }}\n",
            "trailing space \nx \n",
            "# comment\n",
            "- |\n  nested\n",
            "\u{1}control\n",
            "é\n",
        ] {
            let file = File::of_root("/x", "0640", content.to_owned());
            let text = render(&json!({}), &[file], Command::Init);
            assert_eq!(read(&text)["write_files"][0]["content"], content, "{text}");
            let run = json!({"preKubeadmCommands": [content]});
            let text = render(&run, &[], Command::Init);
            assert_eq!(read(&text)["runcmd"][0], content, "{text}");
        }
    }

    #[test]
    fn s_10_braces_are_not_escaped() {
        let content = "provider-id: \"proxmox://{{ ds.meta_data[\"instance_id\"] }}\"\n";
        let file = File::of_root("/x", "0640", content.to_owned());
        let text = render(&json!({}), &[file], Command::Init);
        assert!(
            text.starts_with("## template: jinja\n#cloud-config\n"),
            "{text}"
        );
        assert!(text.contains(content.trim_end()), "{text}");
    }

    #[test]
    fn s_10_sections_and_their_order() {
        let spec = json!({
            "preKubeadmCommands": ["first"], "postKubeadmCommands": ["last"], "verbosity": 5,
            "bootCommands": ["early"],
            "ntp": {"servers": ["10.0.0.1"]},
            "users": [{"name": "ops", "sshAuthorizedKeys": ["ssh-ed25519 A"], "lockPassword": true}],
            "mounts": [["LABEL=data", "/data"]],
            "diskSetup": {
                "partitions": [{"device": "/dev/sdb", "layout": true, "tableType": "gpt"}],
                "filesystems": [{"device": "/dev/sdb1", "filesystem": "ext4", "label": "data",
                    "extraOpts": ["-F"]}],
            },
        });
        let file = File {
            path: "/etc/x".to_owned(),
            encoding: Some("base64".to_owned()),
            is_appended: true,
            content: "eA==".to_owned(),
            ..File::default()
        };
        let seen = read(&render(&spec, &[file], Command::Join));
        let wanted = json!({
            "bootcmd": ["early"],
            "write_files": [{"path": "/etc/x", "encoding": "base64", "append": true, "content": "eA=="}],
            "runcmd": ["first",
                "kubeadm join --config /run/kubeadm/kubeadm-join-config.yaml --v 5 && echo success > /run/cluster-api/bootstrap-success.complete",
                "last"],
            "ntp": {"servers": ["10.0.0.1"], "enabled": true},
            "users": [{"name": "ops", "ssh_authorized_keys": ["ssh-ed25519 A"], "lock_passwd": true}],
            "mounts": [["LABEL=data", "/data"]],
            "disk_setup": {"/dev/sdb": {"layout": true, "table_type": "gpt"}},
            "fs_setup": [{"device": "/dev/sdb1", "filesystem": "ext4", "label": "data",
                "extra_opts": ["-F"]}],
        });
        assert_eq!(seen, wanted);
    }
}
