//! Files with sections, as systemd and NetworkManager have them.

/// Sections of one file; a real one has a dozen.
const SECTIONS_MAX: usize = 4_096;

/// One section with its assignments, in order; a name may come again.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Section<'a> {
    pub(super) name: &'a str,
    pub(super) lines: Vec<(&'a str, &'a str)>,
}

impl<'a> Section<'a> {
    /// The last value of a key.
    pub(super) fn get(&self, key: &str) -> Option<&'a str> {
        let lines = self.lines.iter().rev();
        lines
            .clone()
            .find(|(name, _)| *name == key)
            .map(|(_, value)| *value)
    }
}

/// Reads a file. What is no assignment is left out, as both programs do.
pub(super) fn sections(text: &str) -> Vec<Section<'_>> {
    let mut sections: Vec<Section<'_>> = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.starts_with(['#', ';']) {
            continue;
        }
        let head = line
            .strip_prefix('[')
            .and_then(|line| line.strip_suffix(']'));
        if let Some(name) = head {
            if sections.len() < SECTIONS_MAX {
                let lines = Vec::new();
                sections.push(Section { name, lines });
            }
        } else if let (Some((key, value)), Some(section)) =
            (line.split_once('='), sections.last_mut())
        {
            section.lines.push((key.trim(), value.trim()));
        }
    }
    sections
}
