//! What the machine can do and what it spends.

use std::fs::read_to_string;
use std::io::Write as _;
use std::time::Instant;

/// Milliseconds of CPU (user and system, all threads) of a process, of its children that ended too.
/// Kept in ticks of 10 ms.
pub(crate) fn process_cpu(process: u32) -> f64 {
    let Ok(stat) = read_to_string(format!("/proc/{process}/stat")) else {
        return 0.0;
    };
    // After the command in parentheses; utime, stime, cutime and cstime are fields 14 to 17 (proc_pid_stat(5)).
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let ticks = fields.split_whitespace().skip(11).take(4);
    ticks
        .map(|ticks| ticks.parse::<f64>().unwrap() * 10.0)
        .sum()
}

/// Processors, and the load while measuring: what rates have to be read against.
pub(crate) fn describe() -> String {
    let load = read_to_string("/proc/loadavg").unwrap();
    let load = load.split_whitespace().next().unwrap();
    let cpus = std::thread::available_parallelism().unwrap();
    let fsync = fsync();
    format!("{cpus} CPUs, load average {load}, fsync {fsync:.2} ms")
}

/// Milliseconds to make 8 KiB durable, the median of many.
fn fsync() -> f64 {
    let mut file = tempfile::tempfile().unwrap();
    let times = (0..50)
        .map(|_| {
            file.write_all(&[7; 8192]).unwrap();
            let started = Instant::now();
            file.sync_data().unwrap();
            started.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    median(times)
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap()
}
