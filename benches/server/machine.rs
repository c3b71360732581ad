//! What the kernel says about a process, and simple statistics.

use std::fs::read_to_string;

/// Milliseconds of CPU (user and system, all threads, living and ended) of a process. Kept in ticks of 10 ms.
pub(crate) fn process_cpu(process: u32) -> f64 {
    let stat = read_to_string(format!("/proc/{process}/stat")).unwrap();
    // After the command in parentheses; utime and stime are fields 14 and 15 (proc_pid_stat(5)).
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let ticks = fields.split_whitespace().skip(11).take(2);
    ticks
        .map(|ticks| ticks.parse::<f64>().unwrap() * 10.0)
        .sum()
}

/// Milliseconds this thread has spent on a CPU. The kernel brings the figure up to date when the thread yields.
pub(crate) fn thread_cpu() -> f64 {
    std::thread::yield_now();
    let schedstat = read_to_string("/proc/thread-self/schedstat").unwrap();
    let nanoseconds = schedstat.split_whitespace().next().unwrap();
    nanoseconds.parse::<f64>().unwrap() / 1e6
}

/// Resident memory of a process in KiB.
pub(crate) fn rss(process: u32) -> f64 {
    let status = read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.unwrap().trim().strip_suffix(" kB").unwrap();
    kib.parse().unwrap()
}

/// Processors, and the load while measuring: what wall times have to be read against.
pub(crate) fn describe() -> String {
    let load = read_to_string("/proc/loadavg").unwrap();
    let load = load.split_whitespace().next().unwrap();
    let cpus = std::thread::available_parallelism().unwrap();
    format!("{cpus} CPUs, load average {load}")
}

pub(crate) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

pub(crate) fn median(values: &mut [f64]) -> f64 {
    percentile(values, 50)
}

pub(crate) fn percentile(values: &mut [f64], percent: usize) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[(values.len() - 1) * percent / 100]
}
