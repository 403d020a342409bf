//! The known field that an unknown one was probably meant to be.

use super::node::Node;

/// Most edits between a name and the one meant, for short and for long names. Beyond a third of the
/// letters a suggestion is a guess.
const EDITS_SHARE: usize = 3;

/// The known sibling nearest to the last field of `path`, which is a path as [`super::Schema::prune`]
/// gives it.
pub(crate) fn sibling<'a>(root: &'a Node, path: &str) -> Option<&'a str> {
    let (parents, unknown) = path.rsplit_once('.').unwrap_or(("", path));
    let mut node = root;
    for segment in parents.split('.').filter(|segment| !segment.is_empty()) {
        let (name, indices) = match segment.split_once('[') {
            Some((name, _)) => (name, segment.matches('[').count()),
            None => (segment, 0),
        };
        node = node.child(name)?;
        for _ in 0..indices {
            node = node.items.as_deref()?;
        }
    }
    let allowed = (unknown.chars().count() / EDITS_SHARE).max(1);
    node.properties
        .keys()
        .map(|known| (edits(&unknown.to_lowercase(), &known.to_lowercase()), known))
        .filter(|(edits, _)| *edits <= allowed)
        .min()
        .map(|(_, known)| known.as_str())
}

/// Insertions, deletions, replacements and swaps of neighbours that lead from one word to the other.
fn edits(from: &str, to: &str) -> usize {
    let from: Vec<char> = from.chars().collect();
    let to: Vec<char> = to.chars().collect();
    let mut rows = vec![(0..=to.len()).collect::<Vec<usize>>()];
    for i in 1..=from.len() {
        let mut row = vec![i];
        for j in 1..=to.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(from[i - 1] != to[j - 1]);
            let mut least = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[from.len()][to.len()]
}

#[cfg(test)]
mod tests {
    use crate::{crds, schema::Schema};

    #[test]
    fn slips_of_the_pen_are_understood_and_wild_guesses_are_not_made() {
        let crd = crds::named("machinedeployments.cluster.x-k8s.io").unwrap();
        let schema =
            Schema::compile(&crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]).unwrap();
        let cases = [
            ("spce", Some("spec")),
            ("spec.clustername", Some("clusterName")),
            ("spec.replica", Some("replicas")),
            (
                "spec.template.spec.infrastructureReff",
                Some("infrastructureRef"),
            ),
            (
                "spec.template.spec.readinessGates[0].conditiontype",
                Some("conditionType"),
            ),
            ("spec.colour", None),
            ("spec.nowhere.at.all", None),
        ];
        for (unknown, expected) in cases {
            assert_eq!(schema.nearest_field(unknown), expected, "{unknown}");
        }
    }
}
