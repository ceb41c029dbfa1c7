//! Dependency direction: which crate of the workspace may use which.

use super::Finding;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Crates of the workspace and what each may depend on directly, from `ARCHITECTURE.md`.
const ALLOWED: &[(&str, &[&str])] = &[
    ("undertone-ring", &[]),
    ("undertone-model", &[]),
    ("undertone-cuda", &["undertone-ring"]),
    ("undertone-he", &["undertone-ring"]),
    ("undertone-shares", &["undertone-ring", "undertone-model"]),
    ("undertone-secret", &["undertone-ring", "undertone-he"]),
    ("undertone-infer", &["undertone-he", "undertone-model"]),
    ("undertone-protocol", &["undertone-he", "undertone-infer", "undertone-model", "undertone-shares"]),
    ("undertone-net", &[]),
    (
        "undertone-client",
        &[
            "undertone-ring",
            "undertone-protocol",
            "undertone-net",
            "undertone-secret",
            "undertone-he",
            "undertone-infer",
            "undertone-model",
            "undertone-shares",
        ],
    ),
    (
        "undertone-server",
        &[
            "undertone-ring",
            "undertone-protocol",
            "undertone-net",
            "undertone-infer",
            "undertone-he",
            "undertone-model",
            "undertone-shares",
            "undertone-cuda",
        ],
    ),
    (
        "undertone-dealer",
        &["undertone-ring", "undertone-shares", "undertone-protocol", "undertone-net", "undertone-server"],
    ),
    (
        "undertone-cli",
        &[
            "undertone-dealer",
            "undertone-ring",
            "undertone-model",
            "undertone-he",
            "undertone-shares",
            "undertone-secret",
            "undertone-infer",
            "undertone-protocol",
            "undertone-net",
            "undertone-client",
            "undertone-server",
        ],
    ),
    ("xtask", &["undertone-ring", "undertone-he"]),
];

/// The crate that must never reach the one with secret keys.
const SERVER: &str = "undertone-server";
const SECRET: &str = "undertone-secret";

/// Normal and build dependencies (not those of tests) between packages, by name.
#[derive(Debug, Default)]
pub struct Graph {
    members: BTreeSet<String>,
    edges: BTreeMap<String, BTreeSet<String>>,
}

impl Graph {
    /// Reads the output of `cargo metadata`.
    pub fn from_metadata(metadata: &Value) -> Result<Self, String> {
        let missing = |what: &str| format!("cargo metadata has no {what}");
        let mut names = BTreeMap::new();
        for package in metadata["packages"].as_array().ok_or_else(|| missing("packages"))? {
            let id = package["id"].as_str().ok_or_else(|| missing("package id"))?;
            names.insert(id, package["name"].as_str().ok_or_else(|| missing("package name"))?);
        }
        let mut graph = Self::default();
        for id in metadata["workspace_members"].as_array().ok_or_else(|| missing("workspace members"))? {
            let id = id.as_str().unwrap_or_default();
            graph.members.insert(names.get(id).ok_or_else(|| missing("workspace member"))?.to_string());
        }
        for node in metadata["resolve"]["nodes"].as_array().ok_or_else(|| missing("resolved graph"))? {
            let from = names.get(node["id"].as_str().unwrap_or_default()).ok_or_else(|| missing("node"))?;
            let targets = graph.edges.entry(from.to_string()).or_default();
            for dependency in node["deps"].as_array().into_iter().flatten() {
                let kinds = dependency["dep_kinds"].as_array();
                let only_tests = kinds.is_some_and(|kinds| kinds.iter().all(|kind| kind["kind"] == "dev"));
                if let (false, Some(name)) = (only_tests, dependency["pkg"].as_str().and_then(|id| names.get(id))) {
                    targets.insert(name.to_string());
                }
            }
        }
        Ok(graph)
    }

    fn direct(&self, from: &str) -> impl Iterator<Item = &String> {
        self.edges.get(from).into_iter().flatten()
    }

    /// A shortest dependency path, for the error message.
    fn path(&self, from: &str, to: &str) -> Option<Vec<String>> {
        let mut queue = std::collections::VecDeque::from([vec![from.to_owned()]]);
        let mut seen = BTreeSet::from([from.to_owned()]);
        while let Some(path) = queue.pop_front() {
            let last = path.last()?;
            if last == to {
                return Some(path);
            }
            for next in self.direct(last) {
                if seen.insert(next.clone()) {
                    queue.push_back(path.iter().chain([next]).cloned().collect());
                }
            }
        }
        None
    }
}

/// Direction of dependencies, and no secret keys behind the server.
pub fn check(graph: &Graph) -> Vec<Finding> {
    let mut findings = Vec::new();
    for member in &graph.members {
        let Some((_, allowed)) = ALLOWED.iter().find(|(name, _)| name == member) else {
            findings.push(Finding::new(member, "is not in the table of crates; add it to ARCHITECTURE.md and to tidy"));
            continue;
        };
        for dependency in graph.direct(member).filter(|name| graph.members.contains(*name)) {
            if !allowed.contains(&dependency.as_str()) {
                findings.push(Finding::new(member, format!("may not depend on {dependency} (dependency direction)")));
            }
        }
    }
    if let Some(path) = graph.path(SERVER, SECRET) {
        findings.push(Finding::new(SERVER, format!("reaches secret keys: {}", path.join(" -> "))));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn graph(edges: &[(&str, &str, Option<&str>)]) -> Graph {
        let mut names: BTreeSet<&str> = BTreeSet::new();
        for (from, to, _) in edges {
            names.extend([*from, *to]);
        }
        let packages: Vec<Value> = names.iter().map(|name| json!({"id": name, "name": name})).collect();
        let nodes: Vec<Value> = names
            .iter()
            .map(|name| {
                let deps: Vec<Value> = edges
                    .iter()
                    .filter(|(from, _, _)| from == name)
                    .map(|(_, to, kind)| json!({"name": to, "pkg": to, "dep_kinds": [{"kind": kind}]}))
                    .collect();
                json!({"id": name, "deps": deps})
            })
            .collect();
        let members: Vec<&&str> =
            names.iter().filter(|name| name.starts_with("undertone") || **name == "xtask").collect();
        Graph::from_metadata(&json!({"packages": packages, "workspace_members": members, "resolve": {"nodes": nodes}}))
            .expect("well formed")
    }

    #[test]
    fn allowed_edges_pass() {
        let graph = graph(&[
            ("undertone-he", "undertone-ring", None),
            ("undertone-server", "undertone-he", None),
            ("undertone-cli", "undertone-server", None),
            ("undertone-cli", "undertone-secret", None),
        ]);
        assert_eq!(check(&graph), vec![]);
    }

    #[test]
    fn upward_edges_are_found() {
        let findings = check(&graph(&[("undertone-ring", "undertone-he", None)]));
        assert_eq!(findings.len(), 1);
        assert!(findings[0].message.contains("may not depend on undertone-he"));
    }

    #[test]
    fn unknown_crates_are_found() {
        let findings = check(&graph(&[("undertone-extras", "serde", None)]));
        assert!(findings[0].message.contains("not in the table"));
    }

    #[test]
    fn a_server_that_reaches_secret_keys_is_found_even_through_others() {
        let graph = graph(&[("undertone-server", "helpful", None), ("helpful", "undertone-secret", Some("build"))]);
        let findings = check(&graph);
        assert_eq!(findings.len(), 1);
        assert!(findings[0].message.contains("undertone-server -> helpful -> undertone-secret"));
    }

    #[test]
    fn test_dependencies_do_not_count() {
        assert_eq!(check(&graph(&[("undertone-server", "undertone-secret", Some("dev"))])), vec![]);
    }
}
