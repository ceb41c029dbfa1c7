//! The result of `bench precision`, as one JSON object and as a table.

use super::families::Family;
use super::statistics::{Summary, bits, heading};
use super::{Confirmed, Measured, Report};
use crate::memory::peak_rss_bytes;
use serde_json::{Value, json};

/// Errors of the input that the search found, divided by those of families.
struct Ratios {
    worst_over_uniform: f64,
    tail_over_uniform: f64,
    /// About 1 where the search gained nothing over the family that it started from.
    tail_over_start: f64,
}

impl Report<'_> {
    /// The object of `--json`; fields are described in docs/numerics.md.
    pub(super) fn object(&self) -> Value {
        let parameters = &self.setup.parameters;
        let chain = parameters.chain();
        let families: Vec<Value> = self.families.iter().map(family_object).collect();
        json!({
            "name": "precision",
            "preset": parameters.name(),
            "security_bits": parameters.security_bits(),
            "log_n": chain.log_n,
            "slots": chain.slot_count(),
            "scale_log2": parameters.scale(chain.top_level).log2(),
            "threads": rayon::current_num_threads(),
            "seed": self.arguments.seed,
            "runs": self.runs,
            "families": families,
            "search": self.confirmed.as_ref().map(|confirmed| self.search_object(confirmed)),
            "key_bytes": self.setup.key_bytes,
            "peak_rss_bytes": peak_rss_bytes(),
        })
    }

    /// The table for people.
    pub(super) fn text(&self) -> String {
        let parameters = &self.setup.parameters;
        let mut lines = vec![
            format!(
                "precision of the half-bootstrap, {}, {} bits of security",
                parameters.name(),
                parameters.security_bits()
            ),
            format!(
                "2 x {} slots, {} threads, seed {}, {} runs of each family; errors in bits, bias as a number",
                parameters.chain().slot_count(),
                rayon::current_num_threads(),
                self.arguments.seed,
                self.runs
            ),
            heading(),
        ];
        lines.extend(self.families.iter().map(|measured| measured.summary.row(measured.family.name())));
        if let Some(confirmed) = &self.confirmed {
            lines.push(confirmed.summary.row("found"));
            lines.push(self.search_text(confirmed));
        }
        let ranges: Vec<String> = self.families.iter().map(range_of_runs).collect();
        lines.push(format!("worst slot by run: {}", ranges.join(", ")));
        lines.join("\n")
    }

    /// What the found input's errors are divided by: those of a family, over as many runs.
    fn ratios(&self, confirmed: &Confirmed) -> Ratios {
        let of = |family: Family| self.families.iter().find(|measured| measured.family == family);
        let ratio = |family, pick: fn(&Summary) -> f64| {
            of(family).map_or(f64::NAN, |measured| pick(&confirmed.summary) / pick(&measured.summary))
        };
        Ratios {
            worst_over_uniform: ratio(Family::Uniform, |summary| summary.worst),
            tail_over_uniform: ratio(Family::Uniform, |summary| summary.tail),
            tail_over_start: ratio(confirmed.start, |summary| summary.tail),
        }
    }

    fn search_object(&self, confirmed: &Confirmed) -> Value {
        let ratios = self.ratios(confirmed);
        let mut object = confirmed.summary.object();
        let more = [
            ("evaluations", confirmed.found.evaluations.into()),
            ("start_family", confirmed.start.name().into()),
            ("second_family", confirmed.second.name().into()),
            ("mutations_tried", confirmed.found.tried.into()),
            ("mutations_refuted", confirmed.found.refuted.into()),
            ("mutations", confirmed.found.kept.clone().into()),
            ("worst_error_over_uniform", ratios.worst_over_uniform.into()),
            ("tail_mean_over_uniform", ratios.tail_over_uniform.into()),
            ("tail_mean_over_start_family", ratios.tail_over_start.into()),
        ];
        object.extend(more.map(|(name, value): (&str, Value)| (name.to_owned(), value)));
        object.into()
    }

    fn search_text(&self, confirmed: &Confirmed) -> String {
        let ratios = self.ratios(confirmed);
        let found = &confirmed.found;
        let kept = if found.kept.is_empty() { "none".to_owned() } else { found.kept.join("; ") };
        format!(
            "search from {} mixing with {}: {} mutations tried, {} refuted by a second encryption, kept: {kept}\n\
             its worst error is {:.2} times that of uniform inputs; the mean of its largest 0.1 % of errors is {:.2} times \
             that of uniform inputs and {:.2} times that of the family it started from",
            confirmed.start.name(),
            confirmed.second.name(),
            found.tried,
            found.refuted,
            ratios.worst_over_uniform,
            ratios.tail_over_uniform,
            ratios.tail_over_start,
        )
    }
}

fn family_object(measured: &Measured) -> Value {
    let mut object = measured.summary.object();
    object.insert("family".to_owned(), measured.family.name().into());
    object.into()
}

/// The least and the most worst-slot bits of the runs of a family.
fn range_of_runs(measured: &Measured) -> String {
    let runs = measured.summary.worst_by_run.iter().copied().map(bits);
    let (least, most) = runs.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), x| (a.min(x), b.max(x)));
    format!("{} {least:.2} to {most:.2}", measured.family.name())
}
