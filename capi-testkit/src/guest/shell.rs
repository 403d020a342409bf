//! The few shell commands that have an effect in a simulated guest.

/// Words of one line; a real one has a few dozen.
const WORDS_MAX: usize = 4096;

/// When a command runs, after the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    Anything,
    Success,
    Failure,
}

/// One simple command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Command {
    pub(super) after: After,
    pub(super) action: Action,
}

/// What a command does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    /// `kubeadm init` or `kubeadm join` with its configuration.
    Kubeadm { init: bool, config: String },
    /// Text that goes to a file.
    Write {
        path: String,
        text: String,
        append: bool,
    },
    /// Sets the environment to what these files say.
    Environment(Vec<String>),
    /// Writes the environment to a file.
    DumpEnvironment(String),
    /// Writes a file to another, with the environment's values for their names.
    Substitute { from: String, to: String },
    /// Copies a file, or moves it.
    Copy {
        from: String,
        to: String,
        keep: bool,
    },
    /// Removes a file.
    Remove(String),
    /// Ends with this code.
    Exit(u8),
    /// Anything else, by its first word; succeeds.
    Other(String),
}

/// The commands of a script; after `set -e` a failure ends it.
pub(super) fn script(text: &str) -> Vec<Command> {
    let (mut all, mut strict) = (Vec::new(), false);
    for line in text.lines() {
        let mut line_commands = commands(&[line.to_owned()]);
        if let (true, Some(first)) = (strict, line_commands.first_mut()) {
            first.after = After::Success;
        }
        strict |= line.trim().starts_with("set -e");
        all.extend(line_commands);
    }
    all
}

/// The words of a line.
pub(super) fn words(line: &str) -> Vec<String> {
    let words = tokens(line).into_iter().filter_map(|token| match token {
        Token::Word(word) => Some(word),
        Token::Operator(_) => None,
    });
    words.collect()
}

/// Splits the lines of a script into commands. Nothing is expanded.
pub(super) fn commands(lines: &[String]) -> Vec<Command> {
    let mut all = Vec::new();
    for line in lines.iter().flat_map(|line| line.lines()) {
        let mut after = After::Anything;
        let mut words = Vec::new();
        for token in tokens(line) {
            let next = match token {
                Token::Word(word) => {
                    words.push(word);
                    continue;
                }
                Token::Operator("&&") => After::Success,
                Token::Operator("||") => After::Failure,
                Token::Operator(";") => After::Anything,
                Token::Operator(redirect) => {
                    words.push(redirect.to_owned());
                    continue;
                }
            };
            finish(&mut all, after, &mut words);
            after = next;
        }
        finish(&mut all, after, &mut words);
    }
    all
}

fn finish(all: &mut Vec<Command>, after: After, words: &mut Vec<String>) {
    if !words.is_empty() {
        let action = action(words);
        all.push(Command { after, action });
        words.clear();
    }
}

fn action(words: &[String]) -> Action {
    let words: Vec<&str> = words
        .iter()
        .map(String::as_str)
        .skip_while(|word| *word == "sudo" || *word == "exec")
        .collect();
    match words.as_slice() {
        ["kubeadm", verb @ ("init" | "join"), options @ ..] => Action::Kubeadm {
            init: *verb == "init",
            config: option(options, "--config").unwrap_or_default(),
        },
        ["touch", path] => Action::Write {
            path: (*path).to_owned(),
            text: String::new(),
            append: true,
        },
        ["echo" | "printf", text @ .., redirect @ (">" | ">>"), path] => Action::Write {
            path: (*path).to_owned(),
            text: format!("{}\n", text.join(" ")),
            append: *redirect == ">>",
        },
        ["env", ">", path] => Action::DumpEnvironment((*path).to_owned()),
        ["envsubst", "<", from, ">", to] => Action::Substitute {
            from: (*from).to_owned(),
            to: (*to).to_owned(),
        },
        [verb @ ("cp" | "mv"), from, to] => Action::Copy {
            from: (*from).to_owned(),
            to: match to.strip_suffix('/') {
                Some(folder) => {
                    format!("{folder}/{}", from.rsplit('/').next().unwrap_or_default())
                }
                None => (*to).to_owned(),
            },
            keep: *verb == "cp",
        },
        ["rm", path] | ["rm", "-f", path] => Action::Remove((*path).to_owned()),
        ["false"] => Action::Exit(1),
        ["exit", code] => Action::Exit(code.parse().unwrap_or(2)),
        words => Action::Other(words.first().copied().unwrap_or_default().to_owned()),
    }
}

fn option(options: &[&str], name: &str) -> Option<String> {
    let mut options = options.iter();
    while let Some(word) = options.next() {
        if *word == name {
            return options.next().map(|value| (*value).to_owned());
        }
        if let Some(value) = word
            .strip_prefix(name)
            .and_then(|rest| rest.strip_prefix('='))
        {
            return Some(value.to_owned());
        }
    }
    None
}

enum Token {
    Word(String),
    Operator(&'static str),
}

fn tokens(line: &str) -> Vec<Token> {
    let mut all = Vec::new();
    let mut word: Option<String> = None;
    let mut letters = line.chars().peekable();
    while let Some(letter) = letters.next() {
        if all.len() >= WORDS_MAX {
            break;
        }
        let operator = match letter {
            '\'' | '"' => {
                let word = word.get_or_insert_default();
                while let Some(inner) = letters.next() {
                    match inner {
                        _ if inner == letter => break,
                        '\\' if letter == '"' => word.extend(letters.next()),
                        _ => word.push(inner),
                    }
                }
                continue;
            }
            '\\' => {
                word.get_or_insert_default().extend(letters.next());
                continue;
            }
            '#' if word.is_none() => break,
            ' ' | '\t' => None,
            ';' => Some(";"),
            '&' if letters.next_if_eq(&'&').is_some() => Some("&&"),
            '|' if letters.next_if_eq(&'|').is_some() => Some("||"),
            '>' if letters.next_if_eq(&'>').is_some() => Some(">>"),
            '>' => Some(">"),
            _ => {
                word.get_or_insert_default().push(letter);
                continue;
            }
        };
        all.extend(word.take().map(Token::Word));
        all.extend(operator.map(Token::Operator));
    }
    all.extend(word.map(Token::Word));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn actions(line: &str) -> Vec<(After, Action)> {
        commands(&[line.to_owned()])
            .into_iter()
            .map(|command| (command.after, command.action))
            .collect()
    }

    #[test]
    fn the_line_of_cluster_api_is_understood() {
        let line = "kubeadm init --config /run/kubeadm/kubeadm.yaml -v 5 && echo success > /run/cluster-api/x";
        assert_eq!(
            actions(line),
            [
                (
                    After::Anything,
                    Action::Kubeadm {
                        init: true,
                        config: "/run/kubeadm/kubeadm.yaml".to_owned()
                    }
                ),
                (
                    After::Success,
                    Action::Write {
                        path: "/run/cluster-api/x".to_owned(),
                        text: "success\n".to_owned(),
                        append: false
                    }
                ),
            ]
        );
    }

    #[test]
    fn quotes_comments_and_connectors_are_kept_apart() {
        assert_eq!(
            actions("'sed' -i 's;a && b;c;' \"x y\" || exit 3; false # ; exit 9"),
            [
                (After::Anything, Action::Other("sed".to_owned())),
                (After::Failure, Action::Exit(3)),
                (After::Anything, Action::Exit(1)),
            ]
        );
        assert_eq!(
            actions("sudo kubeadm join --config=/a >> /dev/null"),
            [(
                After::Anything,
                Action::Kubeadm {
                    init: false,
                    config: "/a".to_owned()
                }
            )]
        );
        assert_eq!(actions("  # only a comment"), []);
    }
}
