//! Shows what a doctor found.

use std::fmt::Write;

use capi_contract::checkup::{Checkup, Health};

/// Widest line, in characters.
const WIDTH: usize = 100;

/// Lines for a terminal: one finding each, with the way to change it below.
pub(super) fn render(checkup: &Checkup) -> String {
    let widest = checkup.findings.iter().map(|f| f.subject.chars().count());
    let column = widest.max().unwrap_or_default();
    let mut text = String::new();
    for finding in &checkup.findings {
        let word = match finding.health {
            Health::Good => "ok",
            Health::Unknown => "--",
            Health::Doubtful => "warn",
            Health::Bad => "FAIL",
        };
        let head = format!("{word:<5} {:<column$}  ", finding.subject);
        paragraph(&mut text, &head, &finding.detail, "");
        if let Some(fix) = &finding.fix {
            let head = format!("{:<5} {:<column$}  ", "", "");
            // A command that goes on in the next line can be pasted as it stands.
            paragraph(&mut text, &format!("{head}> "), fix, " \\");
        }
    }
    let bad = checkup.findings.iter().filter(|f| f.health == Health::Bad);
    let end = match bad.count() {
        0 => "Everything that is needed is there.".to_owned(),
        1 => "1 thing has to be changed.".to_owned(),
        more => format!("{more} things have to be changed."),
    };
    // Writing to a String cannot fail.
    let _ = writeln!(text, "\n{end}");
    text
}

/// Breaks at spaces; a word that is longer than a line stays whole.
fn paragraph(text: &mut String, head: &str, body: &str, joint: &str) {
    let indent = head.chars().count();
    let room = WIDTH.saturating_sub(indent + joint.len());
    let mut lines: Vec<String> = vec![String::new()];
    for word in body.split_whitespace() {
        let is_first = lines.last().is_none_or(String::is_empty);
        let used = lines.last().map_or(0, |line| line.chars().count());
        if !is_first && used + 1 + word.chars().count() > room {
            lines.push(word.to_owned());
        } else if let Some(line) = lines.last_mut() {
            if !is_first {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    let last = lines.len() - 1;
    for (number, line) in lines.iter().enumerate() {
        let head = if number == 0 {
            head.to_owned()
        } else {
            " ".repeat(indent)
        };
        let joint = if number < last { joint } else { "" };
        let _ = writeln!(text, "{}", format!("{head}{line}{joint}").trim_end());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_stay_within_the_terminal_and_commands_can_be_pasted() {
        let mut checkup = Checkup::new();
        checkup.good("reachable", "https://rack.example.com answers");
        let command = "rackadm grant --path /storage/local --token 'capi!provider' --privileges \
                       Datastore.Allocate,Datastore.Audit";
        checkup.bad("privileges", "a word ".repeat(30), command);
        let text = render(&checkup);
        assert!(
            text.lines().all(|line| line.chars().count() <= WIDTH),
            "{text}"
        );
        let (_, pasted) = text.split_once("> ").unwrap();
        let pasted = pasted.split("\n\n").next().unwrap().replace("\\\n", " ");
        let words: Vec<_> = pasted.split_whitespace().collect();
        assert_eq!(words.join(" "), command);
        assert!(text.ends_with("\n1 thing has to be changed.\n"), "{text}");
    }

    #[test]
    fn a_healthy_platform_says_so() {
        let mut checkup = Checkup::new();
        checkup.unknown("storage", "not named");
        assert_eq!(
            render(&checkup),
            "--    storage  not named\n\nEverything that is needed is there.\n"
        );
    }
}
