//! The form of a transcript: what is typed, and what appears.
//!
//! ```text
//! ## A remark.
//! $ kubectl get machines demo
//! ! Error from server (NotFound): machines.cluster.x-k8s.io "demo" not found
//! [exit 1]
//! ```
//!
//! Lines that went to the standard error begin with `! `; exit codes are shown unless they are 0.
//! `$ … &` goes on in the background until `$ stop after N lines`.

/// A transcript as it is stored.
#[derive(Debug)]
pub(crate) struct Script {
    parts: Vec<Part>,
}

#[derive(Debug)]
enum Part {
    /// Remarks and blank lines, kept as they are.
    Remark(String),
    Command(Command),
}

/// One line that is typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Command {
    /// As it stands in the file.
    pub(crate) text: String,
    pub(crate) action: Action,
}

/// What a line does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Runs to its end, or goes on in the background.
    Run {
        variables: Vec<(String, String)>,
        arguments: Vec<String>,
        background: bool,
    },
    /// Ends what goes on in the background, once it has printed so many lines.
    Stop { lines: usize },
}

impl Script {
    /// Reads a transcript; what the commands printed is dropped, since it is made anew.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut in_output = false;
        for line in text.lines() {
            if let Some(typed) = line.strip_prefix("$ ") {
                parts.push(Part::Command(Command::parse(typed)?));
                in_output = true;
            } else if line.starts_with("##") {
                parts.push(Part::Remark(line.to_owned()));
                in_output = false;
            } else if !in_output && !line.is_empty() {
                return Err(format!("neither remark nor command: {line}"));
            }
        }
        Ok(Self { parts })
    }

    /// The transcript with what `run` says that each command prints.
    pub(crate) fn play(
        &self,
        mut run: impl FnMut(&Command) -> Result<String, String>,
    ) -> Result<String, String> {
        let mut text = String::new();
        let mut after_remark = true;
        for part in &self.parts {
            match part {
                Part::Remark(line) => {
                    if !after_remark {
                        text.push('\n');
                    }
                    text += line;
                    text.push('\n');
                    after_remark = true;
                }
                Part::Command(command) => {
                    text += &format!("$ {}\n", command.text);
                    text += &run(command)?;
                    after_remark = false;
                }
            }
        }
        Ok(text)
    }
}

impl Command {
    fn parse(text: &str) -> Result<Self, String> {
        let mut words = words(text)?;
        let action = if let ["stop", "after", lines, "lines"] =
            words.iter().map(String::as_str).collect::<Vec<_>>()[..]
        {
            let lines = lines
                .parse()
                .map_err(|_| format!("not a number: {lines}"))?;
            Action::Stop { lines }
        } else {
            let background = words.last().is_some_and(|word| word == "&");
            if background {
                words.pop();
            }
            let program = words.iter().position(|word| word == "kubectl");
            let program = program.ok_or_else(|| format!("only kubectl is run: {text}"))?;
            let arguments = words.split_off(program + 1);
            let variables = words[..program].iter().map(|word| {
                let (name, value) = word
                    .split_once('=')
                    .ok_or(format!("not NAME=value: {word}"))?;
                Ok((name.to_owned(), value.to_owned()))
            });
            Action::Run {
                variables: variables.collect::<Result<_, String>>()?,
                arguments,
                background,
            }
        };
        let text = text.to_owned();
        Ok(Self { text, action })
    }
}

/// The words of a line, as a shell without variables sees them.
fn words(text: &str) -> Result<Vec<String>, String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for character in text.chars() {
        match (quote, character) {
            (Some(open), _) if open == character => quote = None,
            (None, '\'' | '"') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (None, ' ') => words.extend(word.take()),
            (Some(_) | None, _) => word.get_or_insert_default().push(character),
        }
    }
    if quote.is_some() {
        return Err(format!("a quote is not closed: {text}"));
    }
    words.extend(word);
    Ok(words)
}
