//! Times of repeated work, and how a result is printed.

use serde_json::{Map, Value, json};

/// Times of the runs of one benchmark in milliseconds; there is at least one.
pub struct Times(Vec<f64>);

impl Times {
    /// Takes measured times.
    pub fn from_ms(mut times: Vec<f64>) -> Self {
        times.sort_by(f64::total_cmp);
        Self(times)
    }

    /// Runs `work` once to warm up and then `runs` times.
    #[cfg(feature = "poulpy")]
    pub fn measure(runs: usize, mut work: impl FnMut()) -> Self {
        work();
        let one = |_| {
            let start = std::time::Instant::now();
            work();
            start.elapsed().as_secs_f64() * 1e3
        };
        Self::from_ms((0..runs).map(one).collect())
    }

    /// The middle, the mean of both middles when there are two.
    pub fn median(&self) -> f64 {
        let (lower, upper) = ((self.0.len() - 1) / 2, self.0.len() / 2);
        (self.0[lower] + self.0[upper]) / 2.0
    }

    /// The fields of a result.
    pub fn fields(&self) -> Value {
        json!({
            "runs": self.0.len(),
            "median_ms": self.median(),
            "min_ms": self.0.first(),
            "max_ms": self.0.last(),
        })
    }
}

/// Prints the fields of several objects as one JSON line.
pub fn print(parts: impl IntoIterator<Item = Value>) {
    let mut line = Map::new();
    for part in parts {
        if let Value::Object(fields) = part {
            line.extend(fields);
        }
    }
    println!("{}", Value::Object(line));
}

/// The largest resident memory of this process so far in bytes, where the system tells it.
#[cfg(feature = "poulpy")]
pub fn peak_rss_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}
