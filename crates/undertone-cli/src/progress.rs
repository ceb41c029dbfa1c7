//! Progress on standard error: a bar with the time left on a terminal, JSON lines otherwise.
//!
//! A line is written when a stage begins, then at most once a second, and every ten seconds when nothing moves, so
//! that a long step never looks like a hang. Standard output is never touched.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

const LINE_INTERVAL: Duration = Duration::from_secs(1);
const HEARTBEAT: Duration = Duration::from_secs(10);

/// Where progress goes; cloning shares it.
#[derive(Clone)]
pub struct Progress(Sink);

#[derive(Clone)]
enum Sink {
    Bar(ProgressBar),
    Lines(Arc<Mutex<Lines>>),
}

struct Lines {
    stage: String,
    detail: String,
    done: u64,
    total: u64,
    began: Instant,
    written: Instant,
    active: bool,
}

impl Progress {
    /// A bar when standard error is a terminal, JSON lines when it is not.
    pub fn on_stderr() -> Self {
        if std::io::stderr().is_terminal() { Self::bar() } else { Self::lines() }
    }

    fn bar() -> Self {
        let bar = ProgressBar::with_draw_target(Some(1), ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{prefix:>18} {wide_bar} {pos}/{len} {elapsed} ~{eta} left {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.enable_steady_tick(Duration::from_millis(250));
        Self(Sink::Bar(bar))
    }

    fn lines() -> Self {
        let now = Instant::now();
        let lines = Lines {
            stage: String::new(),
            detail: String::new(),
            done: 0,
            total: 0,
            began: now,
            written: now,
            active: false,
        };
        let lines = Arc::new(Mutex::new(lines));
        heartbeat(Arc::downgrade(&lines));
        Self(Sink::Lines(lines))
    }

    /// Starts a stage of `total` steps; the estimate of the time left starts anew.
    pub fn begin(&self, stage: &str, total: u64) {
        match &self.0 {
            Sink::Bar(bar) => {
                bar.reset();
                bar.set_length(total.max(1));
                bar.set_prefix(stage.to_owned());
                bar.set_message("");
            }
            Sink::Lines(lines) => {
                let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
                lines.stage = stage.to_owned();
                lines.detail.clear();
                (lines.done, lines.total, lines.active) = (0, total, true);
                lines.began = Instant::now();
                lines.write();
            }
        }
    }

    /// Reports that `done` steps of the stage are finished; `detail` says what comes next.
    pub fn advance_to(&self, done: u64, detail: &str) {
        match &self.0 {
            Sink::Bar(bar) => {
                bar.set_position(done);
                bar.set_message(detail.to_owned());
            }
            Sink::Lines(lines) => {
                let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
                lines.done = done;
                lines.detail.clear();
                lines.detail.push_str(detail);
                if done == lines.total || lines.written.elapsed() >= LINE_INTERVAL {
                    lines.write();
                }
            }
        }
    }

    /// Writes a sentence above the bar; nothing when piped, where every line is an object.
    pub fn note(&self, sentence: &str) {
        match &self.0 {
            Sink::Bar(bar) => bar.suspend(|| eprintln!("{sentence}")),
            Sink::Lines(_) => write_line(&serde_json::json!({ "note": sentence })),
        }
    }

    /// Ends the display.
    pub fn finish(&self) {
        match &self.0 {
            Sink::Bar(bar) => bar.finish_and_clear(),
            Sink::Lines(lines) => lines.lock().unwrap_or_else(PoisonError::into_inner).active = false,
        }
    }
}

impl Lines {
    fn write(&mut self) {
        self.written = Instant::now();
        let elapsed = self.began.elapsed().as_secs_f64();
        let eta = (self.done > 0).then(|| elapsed / self.done as f64 * self.total.saturating_sub(self.done) as f64);
        write_line(&serde_json::json!({
            "stage": self.stage,
            "done": self.done,
            "total": self.total,
            "detail": self.detail,
            "elapsed_seconds": rounded(elapsed),
            "eta_seconds": eta.map(rounded),
        }));
    }
}

fn rounded(seconds: f64) -> f64 {
    (seconds * 10.0).round() / 10.0
}

fn write_line(line: &serde_json::Value) {
    // Progress that nobody reads any more is no reason to stop the work.
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Repeats the last line when nothing has moved for a while; ends with the display.
fn heartbeat(lines: Weak<Mutex<Lines>>) {
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(LINE_INTERVAL);
            let Some(lines) = lines.upgrade() else { return };
            let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
            if lines.active && lines.written.elapsed() >= HEARTBEAT {
                lines.write();
            }
        }
    });
}
