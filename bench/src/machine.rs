//! What a figure was measured on: processor, memory, kernel, load; and what this process uses of it.
//!
//! Read from /proc. Where that is not there the answers are "unknown" and none, never a guess.

use std::fs;

use serde::Serialize;

use crate::engine::Process;

/// Vector instructions worth naming beside a figure.
const FEATURES: [&str; 14] = [
    "sse4_2",
    "avx",
    "f16c",
    "fma",
    "avx2",
    "avx512f",
    "avx512bw",
    "avx512_vnni",
    "avx512_vpopcntdq",
    "avx512_fp16",
    "amx_int8",
    "asimd",
    "asimdhp",
    "sve",
];

/// The machine at the start of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Model name of the processor.
    pub cpu: String,
    /// Logical processors this process may use.
    pub threads: usize,
    /// Vector instructions among those the engine and its peers have kernels for.
    pub features: Vec<String>,
    /// Installed memory in MiB; 0: unknown.
    pub memory_mb: u64,
    /// Operating system, architecture and kernel release.
    pub system: String,
    /// Load average over 1, 5 and 15 minutes when the run began. A busy machine makes figures worthless.
    pub load_average: Vec<f64>,
    /// `optimized`, or `with debug assertions`: figures of the latter are not comparable.
    pub build: &'static str,
}

impl Machine {
    /// Reads this machine.
    pub fn read() -> Self {
        let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let flags: Vec<&str> = line_value(&cpu, &["flags", "Features"]).unwrap_or("").split(' ').collect();
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let system = format!("{} {} {}", std::env::consts::OS, std::env::consts::ARCH, release.trim());
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        Self {
            cpu: line_value(&cpu, &["model name", "Model"]).unwrap_or("unknown").to_owned(),
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            features: FEATURES.iter().filter(|&name| flags.contains(name)).map(|&name| name.into()).collect(),
            memory_mb: kb_of("/proc/meminfo", "MemTotal").unwrap_or(0) / 1024,
            system: system.trim().to_owned(),
            load_average: load.split(' ').take(3).filter_map(|part| part.parse().ok()).collect(),
            build: if cfg!(debug_assertions) { "with debug assertions" } else { "optimized" },
        }
    }

    /// One line for people.
    pub fn line(&self) -> String {
        let load: Vec<String> = self.load_average.iter().map(|load| format!("{load:.2}")).collect();
        format!(
            "{}, {} threads, {}, {} MiB, {}, load {}, {}",
            self.cpu,
            self.threads,
            self.features.join(" "),
            self.memory_mb,
            self.system,
            load.join(" "),
            self.build
        )
    }
}

/// Resident memory of a process in MiB: now, and the most since it began or since [`reset_peak`].
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Memory {
    /// VmRSS.
    pub rss_mb: f64,
    /// VmHWM.
    pub peak_rss_mb: f64,
}

/// Memory of a process; none where it is unknown or /proc does not tell.
pub fn memory(process: Process) -> Option<Memory> {
    let path = proc_path(process, "status")?;
    let mb = |name| Some(kb_of(&path, name)? as f64 / 1024.0);
    Some(Memory { rss_mb: mb("VmRSS")?, peak_rss_mb: mb("VmHWM")? })
}

/// Makes [`Memory::peak_rss_mb`] of a process start again from now, where the kernel allows it.
pub fn reset_peak(process: Process) {
    if let Some(path) = proc_path(process, "clear_refs") {
        // Without it the peak is that of the whole run, which is what it is called then, too.
        let _ = fs::write(path, "5");
    }
}

/// Bytes a process has caused to be sent to disk so far; none where it is unknown or /proc does not tell.
pub fn written_bytes(process: Process) -> Option<u64> {
    let text = fs::read_to_string(proc_path(process, "io")?).ok()?;
    line_value(&text, &["write_bytes"])?.parse().ok()
}

fn proc_path(process: Process, file: &str) -> Option<String> {
    match process {
        Process::This => Some(format!("/proc/self/{file}")),
        Process::Other(pid) => Some(format!("/proc/{pid}/{file}")),
        Process::Unknown => None,
    }
}

/// The value of a `Name:   123 kB` line.
fn kb_of(path: &str, name: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    line_value(&text, &[name])?.split(' ').next()?.parse().ok()
}

/// The text after the colon of the first line whose name is one of `names`.
fn line_value<'a>(text: &'a str, names: &[&str]) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        names.contains(&name.trim()).then(|| value.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_named_line_only() {
        let text = "processor\t: 0\nmodel name\t: A B\nflags\t\t: fma avx2\n";
        assert_eq!(line_value(text, &["model name"]), Some("A B"));
        assert_eq!(line_value(text, &["flags", "Features"]), Some("fma avx2"));
        assert_eq!(line_value(text, &["model"]), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn reads_this_process() {
        let memory = memory(Process::This).unwrap();
        assert!(memory.rss_mb > 0.0 && memory.peak_rss_mb >= memory.rss_mb * 0.5);
        assert!(Machine::read().memory_mb > 0);
    }
}
