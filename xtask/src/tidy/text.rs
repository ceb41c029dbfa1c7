//! Checks on every tracked text file: nothing that is true on one machine only.

use super::Finding;

/// Starts of paths that exist on somebody's machine; split so that this file does not contain them.
const MACHINE_PATHS: &[&str] = &[
    concat!("/ho", "me/"),
    concat!("/ro", "ot/"),
    concat!("/Us", "ers/"),
    concat!("/wo", "rk/"),
    concat!("/t", "mp/"),
    concat!("C:", "\\"),
];

/// Findings of one file.
pub fn check(name: &str, content: &str) -> Vec<Finding> {
    let data =
        [".json", ".jsonl", ".lock"].iter().any(|ending| name.ends_with(ending)) || name.starts_with("fuzz/corpus/");
    if data {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for (number, line) in content.lines().enumerate() {
        for path in MACHINE_PATHS.iter().filter(|path| starts_somewhere(line, path)) {
            let place = format!("{name}:{}", number + 1);
            findings.push(Finding::new(place, format!("names a path of one machine ({path}…); make it relative")));
        }
    }
    findings
}

/// Whether `path` occurs at the start of a path rather than inside one.
fn starts_somewhere(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        before.is_none_or(|c| !(c.is_alphanumeric() || "._-/}*".contains(c)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_paths_are_found() {
        let line = format!("see {}someone/notes", MACHINE_PATHS[0]);
        assert_eq!(check("docs/a.md", &line).len(), 1);
        assert_eq!(check("docs/a.md", &format!("cd {}x", MACHINE_PATHS[4])).len(), 1);
    }

    #[test]
    fn relative_paths_and_data_are_left_alone() {
        let inner = format!("models{}x", MACHINE_PATHS[3]);
        assert_eq!(check("docs/a.md", &inner), vec![]);
        assert_eq!(check("models/a.json", &format!("\"{}\"", MACHINE_PATHS[0])), vec![]);
    }
}
