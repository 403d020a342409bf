//! Variables of a manifest, read as `clusterctl generate` reads them: pure.
//!
//! For tests of a provider's templates, and for programs that take such templates without clusterctl.
//!
//! ```
//! use std::collections::BTreeMap;
//!
//! use capi_testkit::substitute::{substitute, variables};
//!
//! let text = "replicas: ${WORKER_MACHINE_COUNT}\nnodes: ${ALLOWED_NODES:=[]}\n";
//! let set = BTreeMap::from([("WORKER_MACHINE_COUNT".to_owned(), "3".to_owned())]);
//! let done = substitute("cluster-template.yaml", text, &set, |_| None)?;
//! assert_eq!(done.text, "replicas: 3\nnodes: []\n");
//!
//! let known = variables("cluster-template.yaml", text)?;
//! assert_eq!(known["WORKER_MACHINE_COUNT"], None);
//! assert_eq!(known["ALLOWED_NODES"].as_deref(), Some("[]"));
//! # Ok::<(), capi_testkit::substitute::Error>(())
//! ```
//!
//! | written | becomes |
//! |---|---|
//! | `${VAR}`, `${ VAR }` | the value; a mistake without one |
//! | `${VAR=x}`, `${VAR:=x}`, `${VAR:-x}` | the value, or `x` where it is unset or empty |
//! | `${VAR^}`, `${VAR^^}`, `${VAR,}`, `${VAR,,}` | the value in another case |
//! | `${#VAR}` | the length of the value in bytes |
//! | `$${VAR}` | the text `${VAR}` |
//!
//! A default may hold variables, `${A:=${B}-x}`. `$VAR` and `$(command)` are no variables. What else
//! clusterctl's library knows (parts of values, patterns, replacements) no published template uses;
//! it is refused by name, since a manifest that is silently read otherwise is worse than none.
//!
//! As there, the first use of a variable decides whether it must have a value, `${VAR:=}` counts as
//! having no default, and variables inside defaults may be empty. Where that leaves nothing,
//! [`Substituted::blanks`] says so.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// How deep defaults may be nested. Published templates go two deep.
const DEPTH_MAX: usize = 8;
/// The longest text that may come out, in bytes: some hundred times a cluster's manifest.
const RESULT_MAX: usize = 16 * 1024 * 1024;
/// How different a known name may be from an unknown one to be named as its correction.
const TYPO_DISTANCE_MAX: usize = 3;

/// What is wrong with variables; nothing is substituted then.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Variables without default that nobody gave a value.
    #[error(
        "these variables have no value:\n{}\nwhere ${{NAME}} itself is meant, write $${{NAME}}",
        lines(.0)
    )]
    Missing(Vec<Use>),
    /// Something that is no variable, or a form that is not understood.
    #[error("{at}: {why}")]
    Bad {
        /// Where it stands.
        at: Place,
        /// What is wrong, and what to write instead.
        why: String,
    },
    /// A value for a variable that the text does not have.
    #[error("{name} is given, but {source_name} has no such variable{}", correction(.nearest.as_deref()))]
    Unused {
        /// The variable.
        name: String,
        /// What was read.
        source_name: String,
        /// The variable that was probably meant.
        nearest: Option<String>,
    },
    /// Values that are far too long.
    #[error("{0} has more than {RESULT_MAX} bytes with its variables filled in")]
    TooLarge(String),
}

/// A line of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Name of the file.
    pub source: String,
    /// Number of the line, from 1 on.
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.source, self.line)
    }
}

/// Where a variable is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Use {
    /// The variable.
    pub name: String,
    /// Name of the file.
    pub source: String,
    /// Numbers of its lines, from 1 on.
    pub lines: Vec<usize>,
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<_> = self.lines.iter().map(ToString::to_string).collect();
        write!(f, "  {}  {}:{}", self.name, self.source, all.join(","))
    }
}

fn lines(uses: &[Use]) -> String {
    let all: Vec<_> = uses.iter().map(ToString::to_string).collect();
    all.join("\n")
}

fn correction(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |name| format!("; did you mean {name}?"))
}

/// A text with its variables filled in.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Substituted {
    /// The text.
    pub text: String,
    /// Variables that became nothing though nobody set them to nothing, as clusterctl has it.
    pub blanks: Vec<Use>,
}

/// Fills in the variables of `text`. Values come from `set`, and else from `environment`; `source` is
/// what errors call the text.
///
/// # Errors
///
/// [`Error`]; nothing is substituted then.
pub fn substitute(
    source: &str,
    text: &str,
    set: &BTreeMap<String, String>,
    environment: impl Fn(&str) -> Option<String>,
) -> Result<Substituted, Error> {
    let text = without_spaces(text);
    let parts = Parser::new(source, &text).parts()?;
    let mut names = BTreeSet::new();
    collect(&parts, &mut names);
    let value = |name: &str| set.get(name).cloned().or_else(|| environment(name));
    let missing = missing(source, &parts, &value);
    let unused = set.keys().find(|name| !names.contains(name.as_str()));
    // A mistyped --set is the likely cause of a missing variable, but all that is missing helps more.
    if !missing.is_empty() {
        return Err(Error::Missing(missing));
    }
    if let Some(name) = unused {
        return Err(Error::Unused {
            name: name.clone(),
            source_name: source.to_owned(),
            nearest: nearest(name, &names),
        });
    }
    let mut out = Substituted::default();
    fill(&parts, &value, source, &mut out)?;
    Ok(out)
}

/// The variables of `text` and the defaults as they are written; `None` for those that need a value.
///
/// As clusterctl lists them: variables inside defaults are left out, and the first use decides.
///
/// # Errors
///
/// [`Error::Bad`].
pub fn variables(source: &str, text: &str) -> Result<BTreeMap<String, Option<String>>, Error> {
    let text = without_spaces(text);
    let mut known = BTreeMap::new();
    for part in Parser::new(source, &text).parts()? {
        if let Part::Variable { name, form, .. } = part {
            let default = match form {
                Form::Default(inner) if !inner.is_empty() => {
                    Some(inner.iter().map(written).collect())
                }
                _ => None,
            };
            known.entry(name).or_insert(default);
        }
    }
    Ok(known)
}

/// A part of a default, as it stands in the text.
fn written(part: &Part) -> String {
    let all = |inner: &[Part]| inner.iter().map(written).collect::<String>();
    let (name, form) = match part {
        Part::Text(text) => return text.clone(),
        Part::Variable { name, form, .. } => (name, form),
    };
    match form {
        Form::Plain => format!("${{{name}}}"),
        Form::Default(inner) => format!("${{{name}:={}}}", all(inner)),
        Form::UpperFirst => format!("${{{name}^}}"),
        Form::Upper => format!("${{{name}^^}}"),
        Form::LowerFirst => format!("${{{name},}}"),
        Form::Lower => format!("${{{name},,}}"),
        Form::Length => format!("${{#{name}}}"),
    }
}

/// A piece of a text.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Variable {
        name: String,
        form: Form,
        line: usize,
    },
}

#[derive(Debug, PartialEq, Eq)]
enum Form {
    Plain,
    Default(Vec<Part>),
    UpperFirst,
    Upper,
    LowerFirst,
    Lower,
    Length,
}

/// Reads `${ VAR }` as `${VAR}`: what clusterctl did before it had defaults, and still does.
fn without_spaces(text: &str) -> String {
    let is_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == '$';
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        out.push_str(&rest[..at + 2]);
        rest = &rest[at + 2..];
        let Some(end) = rest.find('}') else { break };
        let inner = &rest[..end];
        let name = inner.trim_matches([' ', '\t', '\n', '\r', '\x0c']);
        if !name.is_empty() && name.chars().all(is_name) {
            out.push_str(name);
            rest = &rest[end..];
        }
    }
    out.push_str(rest);
    out
}

struct Parser<'a> {
    source: &'a str,
    text: &'a str,
    at: usize,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn new(source: &'a str, text: &'a str) -> Self {
        Self {
            source,
            text,
            at: 0,
            depth: 0,
        }
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn eat(&mut self, word: &str) -> bool {
        let is_there = self.rest().starts_with(word);
        if is_there {
            self.at += word.len();
        }
        is_there
    }

    fn line(&self) -> usize {
        self.text[..self.at].matches('\n').count() + 1
    }

    fn bad(&self, why: String) -> Error {
        let at = Place {
            source: self.source.to_owned(),
            line: self.line(),
        };
        Error::Bad { at, why }
    }

    fn parts(mut self) -> Result<Vec<Part>, Error> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        while let Some(dollar) = self.rest().find('$') {
            literal.push_str(&self.rest()[..dollar]);
            self.at += dollar;
            if self.eat("${") {
                flush(&mut literal, &mut parts);
                parts.push(self.variable()?);
            } else {
                // Two make one, and one is one.
                self.at += if self.rest().starts_with("$$") { 2 } else { 1 };
                literal.push('$');
            }
        }
        literal.push_str(self.rest());
        flush(&mut literal, &mut parts);
        Ok(parts)
    }

    /// After `${`.
    fn variable(&mut self) -> Result<Part, Error> {
        let line = self.line();
        if self.depth == DEPTH_MAX {
            return Err(self.bad(format!("defaults are nested more than {DEPTH_MAX} deep")));
        }
        let is_length = self.eat("#");
        let is_name = |letter: char| letter.is_alphanumeric() || letter == '_';
        let name: String = self.rest().chars().take_while(|it| is_name(*it)).collect();
        self.at += name.len();
        if name.is_empty() {
            return Err(self.bad(format!(
                "${{ is not followed by the name of a variable; {ESCAPE}"
            )));
        }
        let form = if is_length {
            Form::Length
        } else {
            self.form(&name)?
        };
        if self.eat("}") {
            return Ok(Part::Variable { name, form, line });
        }
        Err(self.bad(format!("${{{name} is not closed by }}; {ESCAPE}")))
    }

    fn form(&mut self, name: &str) -> Result<Form, Error> {
        // The longer ones first.
        for word in [":=", ":-", "="] {
            if self.eat(word) {
                return self.default();
            }
        }
        for (word, form) in [
            ("^^", Form::Upper),
            ("^", Form::UpperFirst),
            (",,", Form::Lower),
            (",", Form::LowerFirst),
        ] {
            if self.eat(word) {
                return Ok(form);
            }
        }
        let refused = [":?", ":+", ":", "##", "#", "%%", "%", "//", "/"];
        let refused = refused
            .into_iter()
            .find(|word| self.rest().starts_with(word));
        match refused {
            None => Ok(Form::Plain),
            Some(word) => Err(self.bad(format!(
                "${{{name}{word}...}} is not understood here: only the value, its case, its length \
                 and the defaults =, := and :- are; {ESCAPE}"
            ))),
        }
    }

    /// Up to the closing brace, which is left; the only escape in here is none.
    fn default(&mut self) -> Result<Form, Error> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        while let Some(letter) = self.rest().chars().next() {
            if letter == '}' {
                break;
            }
            if self.eat("${") {
                flush(&mut literal, &mut parts);
                self.depth += 1;
                parts.push(self.variable()?);
                self.depth -= 1;
            } else {
                self.at += letter.len_utf8();
                literal.push(letter);
            }
        }
        flush(&mut literal, &mut parts);
        Ok(Form::Default(parts))
    }
}

/// What every mistake ends with.
const ESCAPE: &str = "where the text itself is meant, write $${";

fn flush(literal: &mut String, parts: &mut Vec<Part>) {
    if !literal.is_empty() {
        parts.push(Part::Text(std::mem::take(literal)));
    }
}

fn collect<'a>(parts: &'a [Part], names: &mut BTreeSet<&'a str>) {
    for part in parts {
        if let Part::Variable { name, form, .. } = part {
            names.insert(name);
            if let Form::Default(inner) = form {
                collect(inner, names);
            }
        }
    }
}

/// The variables that need a value and have none, by name. Variables inside defaults are not asked
/// for.
fn missing(source: &str, parts: &[Part], value: &impl Fn(&str) -> Option<String>) -> Vec<Use> {
    let mut needed: BTreeMap<&str, (bool, Vec<usize>)> = BTreeMap::new();
    for part in parts {
        if let Part::Variable { name, form, line } = part {
            let has_default = matches!(form, Form::Default(inner) if !inner.is_empty());
            let entry = needed.entry(name).or_insert((!has_default, Vec::new()));
            if entry.1.last() != Some(line) {
                entry.1.push(*line);
            }
        }
    }
    let missing = needed
        .into_iter()
        .filter(|(name, (is_needed, _))| *is_needed && value(name).is_none());
    missing
        .map(|(name, (_, lines))| Use {
            name: name.to_owned(),
            source: source.to_owned(),
            lines,
        })
        .collect()
}

fn nearest(name: &str, names: &BTreeSet<&str>) -> Option<String> {
    let distance = |known: &str| strsim::damerau_levenshtein(name, known);
    let nearest = names.iter().map(|known| (distance(known), known)).min();
    // Of a short name a few letters are all there is.
    let limit = TYPO_DISTANCE_MAX.min(name.len() / 2);
    let nearest = nearest.filter(|(distance, _)| *distance <= limit);
    nearest.map(|(_, known)| (*known).to_owned())
}

fn fill(
    parts: &[Part],
    value: &impl Fn(&str) -> Option<String>,
    source: &str,
    out: &mut Substituted,
) -> Result<(), Error> {
    for part in parts {
        match part {
            Part::Text(text) => out.text.push_str(text),
            Part::Variable { name, form, line } => {
                let held = value(name);
                let is_blank = held.is_none();
                let held = held.unwrap_or_default();
                match form {
                    Form::Default(inner) if held.is_empty() => fill(inner, value, source, out)?,
                    Form::Plain if is_blank => out.blanks.push(Use {
                        name: name.clone(),
                        source: source.to_owned(),
                        lines: vec![*line],
                    }),
                    form => out.text.push_str(&formed(form, &held)),
                }
            }
        }
        if out.text.len() > RESULT_MAX {
            return Err(Error::TooLarge(source.to_owned()));
        }
    }
    Ok(())
}

fn formed(form: &Form, value: &str) -> String {
    let first = |change: fn(&str) -> String| {
        let end = value.chars().next().map_or(0, char::len_utf8);
        format!("{}{}", change(&value[..end]), &value[end..])
    };
    match form {
        Form::Plain | Form::Default(_) => value.to_owned(),
        Form::UpperFirst => first(str::to_uppercase),
        Form::Upper => value.to_uppercase(),
        Form::LowerFirst => first(str::to_lowercase),
        Form::Lower => value.to_lowercase(),
        Form::Length => value.len().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENVIRONMENT: [(&str, &str); 4] =
        [("A", "abC"), ("B", "b$r"), ("EMPTY", ""), ("A_1", "x")];

    fn with(set: &[(&str, &str)], text: &str) -> Result<Substituted, Error> {
        let set = set.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        let environment = |name: &str| {
            let held = ENVIRONMENT.iter().find(|(known, _)| *known == name)?;
            Some(held.1.to_owned())
        };
        substitute("m.yaml", text, &set.collect(), environment)
    }

    fn text(text: &str) -> String {
        match with(&[], text) {
            Ok(done) => done.text,
            Err(error) => format!("error: {error}"),
        }
    }

    /// Each row was given to the library that clusterctl 1.14 uses, with the same result.
    #[test]
    fn ctl_06_values_and_defaults_are_those_of_clusterctl() {
        for (given, wanted) in [
            ("no variables", "no variables"),
            ("x: ${A}", "x: abC"),
            ("${A}${B}", "abCb$r"),
            ("${ A } ${A } ${ A}", "abC abC abC"),
            ("${\n A\n}", "abC"),
            ("${A_1}", "x"),
            ("${A:=x} ${A=x} ${A:-x}", "abC abC abC"),
            ("${U:=x} ${U=y} ${U:-z}", "x y z"),
            ("${EMPTY:=x} ${EMPTY=y} ${EMPTY:-z} <${EMPTY}>", "x y z <>"),
            ("${U:=\"\"}", "\"\""),
            ("${U:=a b: [c, d]}", "a b: [c, d]"),
            ("${U:=two\nlines}", "two\nlines"),
            ("${U:=${A}}", "abC"),
            ("${U:=pre-${A}-${B}.post}", "pre-abC-b$r.post"),
            ("${U:=${V:=${W:=deep}}}", "deep"),
            ("${U:=$$ $x}", "$$ $x"),
            ("$${A}", "${A}"),
            ("$$${A}", "$abC"),
            ("$$$$", "$$"),
            ("cost: $5 $A $(date) $", "cost: $5 $A $(date) $"),
            ("$${ A }", "${A}"),
            (r"\\.\pipe \/ ${A}", r"\\.\pipe \/ abC"),
            ("${A^} ${A^^} ${A,} ${A,,}", "AbC ABC abC abc"),
            ("${#A} ${#EMPTY}", "3 0"),
            ("ü${U:=ß}", "üß"),
        ] {
            assert_eq!(text(given), wanted, "{given}");
        }
    }

    #[test]
    fn values_given_on_the_command_line_win() {
        let done = with(&[("A", "set"), ("U", "${A}")], "${A} ${U}").unwrap();
        assert_eq!(done.text, "set ${A}", "values are not read again");
        assert_eq!(with(&[("A", "")], "<${A}>").unwrap().text, "<>");
    }

    #[test]
    fn ctl_06_all_missing_variables_are_named_with_their_lines() {
        let error = with(&[], "a: ${U}\nb: ${A}\nc: ${T} ${U} ${U}\nd: ${V:=}\n").unwrap_err();
        assert_eq!(
            error.to_string(),
            "these variables have no value:\n  T  m.yaml:3\n  U  m.yaml:1,3\n  V  m.yaml:4\n\
             where ${NAME} itself is meant, write $${NAME}"
        );
    }

    #[test]
    fn ctl_06_variables_are_listed_as_clusterctl_lists_them() {
        let text = "${B} ${A:=x-${C^}} ${B:=late} ${E:=} $${N} ${ S }";
        let known = variables("m.yaml", text).unwrap();
        let known: Vec<_> = known
            .iter()
            .map(|(k, v)| (k.as_str(), v.as_deref()))
            .collect();
        let wanted = [
            ("A", Some("x-${C^}")),
            ("B", None),
            ("E", None),
            ("S", None),
        ];
        assert_eq!(known, wanted);
    }

    #[test]
    fn what_became_nothing_is_said() {
        for (given, wanted, blank) in [("${U:=x} ${U}", "x ", "U"), ("${U:=${V}}", "", "V")] {
            let done = with(&[], given).unwrap();
            assert_eq!(done.text, wanted, "{given}");
            assert_eq!(done.blanks.len(), 1, "{given}");
            assert_eq!(done.blanks[0].name, blank, "{given}");
        }
    }

    #[test]
    fn what_is_not_understood_is_refused_with_its_line() {
        for (given, part) in [
            ("\n\n${A/b/c}", "m.yaml:3: ${A/...}"),
            ("${A:1}", "${A:...}"),
            ("${A:?no}", "${A:?...}"),
            ("${A:+yes}", "${A:+...}"),
            ("${A##b}", "${A##...}"),
            ("${A%b}", "${A%...}"),
            ("${}", "not followed by the name"),
            ("${A$B}", "${A is not closed"),
            ("${A-x}", "${A is not closed"),
            ("${A", "${A is not closed"),
            ("${A:=x", "${A is not closed"),
        ] {
            let error = with(&[], given).unwrap_err().to_string();
            assert!(error.contains(part), "{given}: {error}");
            assert!(error.ends_with(ESCAPE), "{given}: {error}");
        }
        let deep = format!("{}x{}", "${U:=".repeat(20), "}".repeat(20));
        let error = with(&[], &deep).unwrap_err().to_string();
        assert!(error.contains("nested"), "{error}");
    }

    #[test]
    fn a_value_that_nothing_asks_for_is_a_typo() {
        let error = with(&[("CLUSTER_NAM", "x")], "${CLUSTER_NAME:=c}").unwrap_err();
        assert_eq!(
            error.to_string(),
            "CLUSTER_NAM is given, but m.yaml has no such variable; did you mean CLUSTER_NAME?"
        );
        let error = with(&[("OTHER", "x")], "${A}").unwrap_err();
        assert_eq!(
            error.to_string(),
            "OTHER is given, but m.yaml has no such variable"
        );
    }
}
