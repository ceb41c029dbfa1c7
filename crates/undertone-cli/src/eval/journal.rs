//! The results of an evaluation as a file that grows by whole lines.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// What one prompt gave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Its number in the file, from 0.
    pub prompt: usize,
    /// Tokens generated.
    pub tokens: usize,
    /// Tokens on which private and clear model agree.
    pub agreeing: usize,
    /// Tokens on which the private run and its fixed-point twin agree, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub twin_agreeing: Option<usize>,
    /// KL(clear ‖ private) per token; of the twin, where there is one.
    pub kl: Vec<f64>,
    /// Whether the result had left the calibrated ranges.
    pub escaped: bool,
    /// Seconds for all tokens.
    pub seconds: f64,
}

/// The figures of a whole evaluation.
#[derive(Debug, PartialEq, Serialize)]
pub struct Summary {
    prompts: usize,
    tokens: usize,
    top1_agreement: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    twin_agreement: Option<f64>,
    mean_kl: Option<f64>,
    max_kl: Option<f64>,
    escapes: usize,
    seconds_per_token: Option<f64>,
    version: String,
    commit: String,
}

/// The first line of a file: what its results belong to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Head {
    evaluation: String,
    // Absent in files of programs that did not note them.
    #[serde(default)]
    version: String,
    #[serde(default)]
    commit: String,
}

impl Head {
    /// The digest of everything that a result depends on, with the program in readable form.
    pub fn new(evaluation: String, version: &str, commit: &str) -> Self {
        Self { evaluation, version: version.to_owned(), commit: commit.to_owned() }
    }

    /// Refuses to continue what another program or evaluation began.
    fn check(&self, held: &Self, path: &Path) -> Result<()> {
        if (&held.version, &held.commit) != (&self.version, &self.commit) {
            let noted = |text: &str| if text.is_empty() { "unknown".to_owned() } else { text.to_owned() };
            return Err(Error::Usage(format!(
                "{} was recorded with version {}, commit {}, and this is version {}, commit {}; results of different \
                 programs are not mixed, so choose another --out or build that commit",
                path.display(),
                noted(&held.version),
                noted(&held.commit),
                self.version,
                self.commit
            )));
        }
        if held.evaluation == self.evaluation { Ok(()) } else { Err(foreign(path)) }
    }
}

/// Finished prompts, in memory and in the `--out` file if there is one.
#[derive(Debug)]
pub struct Journal {
    head: Head,
    file: Option<(PathBuf, File)>,
    outcomes: Vec<Outcome>,
}

impl Journal {
    /// Opens or makes the file and reads what is finished.
    ///
    /// A last line without an end was broken off while it was written; it is dropped and its prompt runs again.
    ///
    /// # Errors
    /// `Usage` when the file belongs to another program or evaluation, `File` when it cannot be read or written.
    pub fn open(path: Option<&Path>, head: Head, prompts: usize) -> Result<Self> {
        let Some(path) = path else { return Ok(Self { head, file: None, outcomes: Vec::new() }) };
        let failed = |source| Error::file("opening", path, source);
        let held = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(failed(error)),
        };
        let whole = &held[..held.rfind('\n').map_or(0, |at| at + 1)];
        if whole.is_empty() && !line(path, &head)?.starts_with(&held) {
            return Err(foreign(path));
        }
        let outcomes = outcomes(path, whole, &head, prompts)?;
        // The file is only touched once it is known to be ours.
        let mut file = OpenOptions::new().append(true).create(true).open(path).map_err(failed)?;
        file.set_len(whole.len() as u64).map_err(failed)?;
        if whole.is_empty() {
            write_line(&mut file, path, &head)?;
        }
        Ok(Self { head, file: Some((path.to_path_buf(), file)), outcomes })
    }

    /// Finished prompts.
    pub fn done(&self) -> usize {
        self.outcomes.len()
    }

    /// Adds a finished prompt.
    ///
    /// # Errors
    /// `File` when the line cannot be written.
    pub fn append(&mut self, outcome: Outcome) -> Result<()> {
        if let Some((path, file)) = &mut self.file {
            write_line(file, path, &outcome)?;
        }
        self.outcomes.push(outcome);
        Ok(())
    }

    /// The figures so far.
    pub fn summary(&self) -> Summary {
        let outcomes = &self.outcomes;
        let tokens: usize = outcomes.iter().map(|outcome| outcome.tokens).sum();
        let kl: Vec<f64> = outcomes.iter().flat_map(|outcome| outcome.kl.iter().copied()).collect();
        let twin: Option<usize> = outcomes.iter().map(|outcome| outcome.twin_agreeing).sum();
        let per_token = |sum: f64| (tokens > 0).then(|| sum / tokens as f64);
        Summary {
            prompts: outcomes.len(),
            tokens,
            top1_agreement: per_token(outcomes.iter().map(|outcome| outcome.agreeing as f64).sum()),
            twin_agreement: twin.and_then(|agreeing| per_token(agreeing as f64)),
            mean_kl: (!kl.is_empty()).then(|| kl.iter().sum::<f64>() / kl.len() as f64),
            max_kl: kl.iter().copied().reduce(f64::max),
            escapes: outcomes.iter().filter(|outcome| outcome.escaped).count(),
            seconds_per_token: per_token(outcomes.iter().map(|outcome| outcome.seconds).sum()),
            version: self.head.version.clone(),
            commit: self.head.commit.clone(),
        }
    }
}

impl Summary {
    /// As a line for people.
    pub fn text(&self) -> String {
        let figure = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2e}"));
        let twin =
            self.twin_agreement.map_or_else(String::new, |part| format!(" ({:.2} % with the twin)", 100.0 * part));
        format!(
            "{} prompts, {} tokens: top-1 agreement {:.2} %{twin}, mean KL {}, largest KL {}, {} escapes, {:.1} s per token \
             (version {}, commit {})",
            self.prompts,
            self.tokens,
            100.0 * self.top1_agreement.unwrap_or(0.0),
            figure(self.mean_kl),
            figure(self.max_kl),
            self.escapes,
            self.seconds_per_token.unwrap_or(0.0),
            self.version,
            self.commit
        )
    }
}

fn foreign(path: &Path) -> Error {
    let file = path.display();
    Error::Usage(format!(
        "{file} holds results of another build, model, calibration or prompt file; choose another --out"
    ))
}

fn outcomes(path: &Path, text: &str, head: &Head, prompts: usize) -> Result<Vec<Outcome>> {
    let mut lines = text.lines();
    if let Some(first) = lines.next() {
        head.check(&serde_json::from_str(first).map_err(|_| foreign(path))?, path)?;
    }
    let outcomes: Vec<Outcome> =
        lines.map(|line| serde_json::from_str(line).map_err(|_| foreign(path))).collect::<Result<_>>()?;
    let in_order = outcomes.iter().enumerate().all(|(index, outcome)| outcome.prompt == index);
    // Fewer prompts than results means that --limit shrank; then the first ones count.
    if in_order { Ok(outcomes.into_iter().take(prompts).collect()) } else { Err(foreign(path)) }
}

fn line(path: &Path, value: &impl Serialize) -> Result<String> {
    let failed = |error| Error::file("writing", path, std::io::Error::other(error));
    Ok(serde_json::to_string(value).map_err(failed)? + "\n")
}

fn write_line(file: &mut File, path: &Path, value: &impl Serialize) -> Result<()> {
    let failed = |source| Error::file("writing", path, source);
    // One call, so that an interrupt leaves a whole line or a line without an end.
    file.write_all(line(path, value)?.as_bytes()).and_then(|()| file.sync_data()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cleanup::Cleanup;
    use crate::files::ScratchFolder;

    fn head(evaluation: &str) -> Head {
        Head::new(evaluation.to_owned(), "1.2.3", "0123456789ab")
    }

    fn outcome(prompt: usize, escaped: bool) -> Outcome {
        let kl = if escaped { vec![] } else { vec![0.25, 0.75] };
        Outcome { prompt, tokens: kl.len(), agreeing: kl.len() / 2, twin_agreeing: None, kl, escaped, seconds: 3.0 }
    }

    #[test]
    fn a_file_without_an_end_of_line_is_kept_unless_it_is_a_broken_off_head() {
        let folder = ScratchFolder::new(&Cleanup::default(), "test-journal-foreign").unwrap();
        let path = folder.path().join("note.json");
        std::fs::write(&path, "{\"mine\": 1}").unwrap();
        assert!(matches!(Journal::open(Some(&path), head("a"), 1), Err(Error::Usage(_))));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"mine\": 1}");
        std::fs::write(&path, "{\"evaluat").unwrap();
        assert_eq!(Journal::open(Some(&path), head("a"), 1).unwrap().done(), 0);
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "{\"evaluation\":\"a\",\"version\":\"1.2.3\",\"commit\":\"0123456789ab\"}\n"
        );
    }

    #[test]
    fn a_broken_off_evaluation_continues() {
        let folder = ScratchFolder::new(&Cleanup::default(), "test-journal").unwrap();
        let path = folder.path().join("results.jsonl");
        let mut journal = Journal::open(Some(&path), head("a"), 3).unwrap();
        journal.append(outcome(0, false)).unwrap();
        journal.append(outcome(1, true)).unwrap();
        drop(journal);
        let mut text = std::fs::read_to_string(&path).unwrap();
        text.push_str("{\"prompt\":2,\"tok");
        std::fs::write(&path, &text).unwrap();
        let mut journal = Journal::open(Some(&path), head("a"), 3).unwrap();
        assert_eq!(journal.done(), 2);
        journal.append(outcome(2, false)).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 4);
        let summary = journal.summary();
        assert_eq!((summary.prompts, summary.tokens, summary.escapes), (3, 4, 1));
        assert_eq!((summary.top1_agreement, summary.mean_kl, summary.max_kl), (Some(0.5), Some(0.5), Some(0.75)));
        assert_eq!(summary.seconds_per_token, Some(2.25));
    }

    #[test]
    fn results_of_another_evaluation_are_left_alone() {
        let folder = ScratchFolder::new(&Cleanup::default(), "test-foreign").unwrap();
        let path = folder.path().join("results.jsonl");
        Journal::open(Some(&path), head("a"), 1).unwrap().append(outcome(0, false)).unwrap();
        let before = std::fs::read(&path).unwrap();
        assert!(matches!(Journal::open(Some(&path), head("b"), 1), Err(Error::Usage(_))));
        assert_eq!(std::fs::read(&path).unwrap(), before);
        std::fs::write(&path, "a letter\n").unwrap();
        assert!(Journal::open(Some(&path), head("a"), 1).is_err());
    }

    #[test]
    fn results_of_another_commit_are_refused_by_name() {
        let folder = ScratchFolder::new(&Cleanup::default(), "test-commit").unwrap();
        let path = folder.path().join("results.jsonl");
        Journal::open(Some(&path), head("a"), 1).unwrap().append(outcome(0, false)).unwrap();
        let before = std::fs::read(&path).unwrap();
        let other = Head::new("a".to_owned(), "1.2.3", "ba9876543210");
        let said = Journal::open(Some(&path), other, 1).unwrap_err().to_string();
        assert!(said.contains("commit 0123456789ab") && said.contains("commit ba9876543210"), "{said}");
        assert_eq!(std::fs::read(&path).unwrap(), before);
        // A file of the time before commits were noted.
        std::fs::write(&path, "{\"evaluation\":\"a\"}\n").unwrap();
        let said = Journal::open(Some(&path), head("a"), 1).unwrap_err().to_string();
        assert!(said.contains("commit unknown"), "{said}");
    }

    #[test]
    fn figures_have_three_digits_for_people_and_all_of_them_in_json() {
        let mut journal = Journal::open(None, head("a"), 1).unwrap();
        let kl = vec![1.234_567_89e-7];
        let one = Outcome { prompt: 0, tokens: 1, agreeing: 1, twin_agreeing: None, kl, escaped: false, seconds: 2.0 };
        journal.append(one.clone()).unwrap();
        let summary = journal.summary();
        let text = summary.text();
        assert!(text.contains("mean KL 1.23e-7") && text.contains("commit 0123456789ab"), "{text}");
        let object = serde_json::to_value(&summary).unwrap();
        assert_eq!((&object["mean_kl"], &object["commit"]), (&1.234_567_89e-7.into(), &"0123456789ab".into()));
        assert!(object.get("twin_agreement").is_none() && !text.contains("twin"));
        // A twin is named where there was one.
        let mut journal = Journal::open(None, head("a"), 1).unwrap();
        journal.append(Outcome { tokens: 2, twin_agreeing: Some(1), ..one }).unwrap();
        assert_eq!(serde_json::to_value(journal.summary()).unwrap()["twin_agreement"], 0.5);
        assert!(journal.summary().text().contains("(50.00 % with the twin)"));
    }
}
