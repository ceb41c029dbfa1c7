//! Peak memory of processes, from the operating system.

use std::path::Path;

/// Most memory this process has held at once, in bytes; 0 where the system does not say.
pub fn peak_rss_bytes() -> u64 {
    peak_of(Path::new("/proc/self/status"))
}

/// The same for another process, as long as it runs.
pub fn peak_rss_bytes_of(process: u32) -> u64 {
    peak_of(Path::new(&format!("/proc/{process}/status")))
}

fn peak_of(status: &Path) -> u64 {
    std::fs::read_to_string(status).ok().and_then(|text| parse(&text)).unwrap_or(0)
}

fn parse(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_high_water_mark_is_read() {
        assert_eq!(parse("Name:\tx\nVmPeak:\t 9 kB\nVmHWM:\t  2048 kB\n"), Some(2048 * 1024));
        assert_eq!(parse("Name:\tx\n"), None);
        if cfg!(target_os = "linux") {
            assert!(peak_rss_bytes() > 0 && peak_rss_bytes_of(std::process::id()) > 0);
        }
        assert_eq!(peak_rss_bytes_of(u32::MAX), 0);
    }
}
