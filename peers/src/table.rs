//! JSON lines of all benchmarks as one Markdown table.

use serde_json::Value;

/// Reads the files and prints the table; lines without a library are those of `undertone bench`.
pub fn run(undertone_version: &str, files: &[String]) -> Result<(), String> {
    println!(
        "| Operation | Library | Parameters | Precision, bits (worst slot, mean) | Median ms | Least ms | Most ms | Runs \
         | Peak memory GB |"
    );
    println!("| --- | --- | --- | --- | --: | --: | --: | --: | --: |");
    let mut rows = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(file).map_err(|error| format!("{file} cannot be read: {error}"))?;
        for line in text.lines().filter(|line| line.starts_with('{')) {
            let line: Value = serde_json::from_str(line).map_err(|error| format!("{file} holds no JSON: {error}"))?;
            rows.push(line);
        }
    }
    // Stable, so libraries keep the order of the files within an operation.
    rows.sort_by_key(|row| rank(operation(row)));
    rows.iter().for_each(|row| println!("{}", markdown(row, undertone_version)));
    Ok(())
}

fn operation(row: &Value) -> &str {
    row["operation"].as_str().or(row["name"].as_str()).unwrap_or("unnamed")
}

fn rank(operation: &str) -> usize {
    const ORDER: &[&str] = &["ntt", "intt", "rotate", "multiply", "bootstrap"];
    ORDER.iter().position(|&name| name == operation).unwrap_or(ORDER.len())
}

fn markdown(row: &Value, undertone_version: &str) -> String {
    let library = match (row["library"].as_str(), row["version"].as_str()) {
        (Some(library), version) => format!("{library} {}", version.unwrap_or_default()),
        (None, _) => format!("undertone {undertone_version}"),
    };
    let precision = match (row["worst_slot_bits"].as_f64(), row["mean_slot_bits"].as_f64()) {
        (Some(worst), Some(mean)) => format!("{worst:.2}, {mean:.2}"),
        _ => "–".to_owned(),
    };
    let memory = row["peak_rss_bytes"].as_f64().map_or("–".to_owned(), |bytes| format!("{:.2}", bytes / 1e9));
    let ms = |name: &str| row[name].as_f64().map_or("–".to_owned(), |ms| format!("{ms:.*}", decimals(ms)));
    format!(
        "| {} | {} | {} | {precision} | {} | {} | {} | {} | {memory} |",
        operation(row),
        library.trim(),
        parameters(row),
        ms("median_ms"),
        ms("min_ms"),
        ms("max_ms"),
        row["runs"],
    )
}

fn decimals(ms: f64) -> usize {
    match ms {
        ms if ms < 1.0 => 4,
        ms if ms < 1000.0 => 1,
        _ => 0,
    }
}

/// What is known of the parameters, in words.
fn parameters(row: &Value) -> String {
    let number = |name: &str, before: &str, after: &str| {
        row[name].as_f64().map(|value| format!("{before}{}{after}", (value * 10.0).round() / 10.0))
    };
    let text = |name: &str| row[name].as_str().map(str::to_owned);
    let parts = [
        number("log_n", "N = 2^", ""),
        number("log_q", "log Q ", ""),
        number("log_qp", "log QP ", ""),
        number("limbs", "", " limbs"),
        number("slots", "", " slots"),
        number("levels_left", "", " levels left"),
        number("scale_log2", "scale 2^", ""),
        text("preset"),
        text("code").or(text("backend")),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}
