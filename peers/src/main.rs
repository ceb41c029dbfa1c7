//! Measurements of public libraries beside this repository's, one subcommand each; results are JSON lines.
#![forbid(unsafe_code)]

mod measure;
mod ntt;
#[cfg(feature = "poulpy")]
mod poulpy;
mod table;

use std::process::ExitCode;

const USAGE: &str = "usage: undertone-peers ntt [ROUNDS]
       undertone-peers poulpy [RUNS] [BOOTSTRAPS]
       undertone-peers table UNDERTONE_VERSION FILE...

`ntt` compares transforms of tfhe-ntt and undertone-ring in alternating rounds. `poulpy` measures Poulpy in a build with
`--features poulpy`, which run.sh sets up; with 0 BOOTSTRAPS none of the large keys is made. `table` turns JSON lines of
all benchmarks into a Markdown table.";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<(), String> {
    let (verb, rest) = arguments.split_first().ok_or(USAGE)?;
    match (verb.as_str(), rest) {
        ("ntt", [..]) if rest.len() <= 1 => ntt::run(count(rest.first(), 31, 1)?),
        ("poulpy", [..]) if rest.len() <= 2 => run_poulpy(count(rest.first(), 20, 1)?, count(rest.get(1), 3, 0)?),
        ("table", [version, files @ ..]) if !files.is_empty() => table::run(version, files),
        _ => Err(USAGE.to_owned()),
    }
}

/// A count that is not below `least`, or its default.
fn count(argument: Option<&String>, default: usize, least: usize) -> Result<usize, String> {
    let Some(text) = argument else { return Ok(default) };
    text.parse().ok().filter(|&count| count >= least).ok_or_else(|| format!("{text} is no count of runs\n{USAGE}"))
}

#[cfg(feature = "poulpy")]
fn run_poulpy(runs: usize, bootstraps: usize) -> Result<(), String> {
    poulpy::run(runs, bootstraps)
}

#[cfg(not(feature = "poulpy"))]
fn run_poulpy(_: usize, _: usize) -> Result<(), String> {
    Err("this build has no Poulpy; peers/README.md gives the command that builds it".to_owned())
}
