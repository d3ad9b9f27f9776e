//! The machine: processors, memory, disk, names. Read once, but for what can change.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::config::Settings;

#[derive(Clone, Debug, Default)]
pub struct Machine {
    pub cpus: i64,
    pub memory: i64,
    pub disk: i64,
    pub machine_id: String,
    pub system_uuid: String,
    pub boot_id: String,
    pub kernel: String,
    pub os_image: String,
    pub arch: &'static str,
    /// By resource; thousandths for CPU.
    pub capacity: BTreeMap<String, i64>,
    pub allocatable: BTreeMap<String, i64>,
}

impl Machine {
    /// Reads this machine. What cannot be read is empty, as upstream shows it.
    pub fn read(settings: &Settings) -> Self {
        let text = |path: &str| {
            fs::read_to_string(path)
                .map(|t| t.trim().to_owned())
                .unwrap_or_else(|_| String::new())
        };
        let cpus = std::thread::available_parallelism().map_or(1, |n| i64::try_from(n.get()).unwrap_or(1));
        let memory = memory_total(&text("/proc/meminfo"));
        let machine_id = match text("/etc/machine-id") {
            id if id.is_empty() => text("/proc/sys/kernel/random/boot_id").replace('-', ""),
            id => id,
        };
        let system_uuid = match text("/sys/class/dmi/id/product_uuid") {
            id if id.is_empty() => machine_id.clone(),
            id => id,
        };
        Self {
            cpus,
            memory,
            disk: disk_size(&settings.data_dir),
            machine_id,
            system_uuid,
            boot_id: text("/proc/sys/kernel/random/boot_id"),
            kernel: text("/proc/sys/kernel/osrelease"),
            os_image: os_name(&text("/etc/os-release")),
            arch: arch(),
            ..Self::default()
        }
        .with_resources(settings)
    }

    /// Capacity from the figures, allocatable after what is reserved.
    pub fn with_resources(mut self, settings: &Settings) -> Self {
        self.capacity = BTreeMap::from([
            ("cpu".to_owned(), self.cpus * 1000),
            ("memory".to_owned(), self.memory),
            ("ephemeral-storage".to_owned(), self.disk),
            ("pods".to_owned(), settings.max_pods),
            ("hugepages-1Gi".to_owned(), 0),
            ("hugepages-2Mi".to_owned(), 0),
        ]);
        self.allocatable = self
            .capacity
            .iter()
            .map(|(name, value)| {
                let reserved = settings.reserved.get(name).copied().unwrap_or(0);
                (name.clone(), (value - reserved).max(0))
            })
            .collect();
        self
    }
}

fn memory_total(meminfo: &str) -> i64 {
    let line = meminfo.lines().find_map(|l| l.strip_prefix("MemTotal:"));
    let kib: i64 = line
        .and_then(|l| l.split_whitespace().next())
        .and_then(|n| n.parse().ok())
        .unwrap_or(0);
    kib * 1024
}

fn os_name(release: &str) -> String {
    let value = release.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="));
    value.map_or_else(|| "Linux".to_owned(), |v| v.trim_matches('"').to_owned())
}

fn disk_size(path: &Path) -> i64 {
    linux::filesystem::usage(path).map_or(0, |usage| i64::try_from(usage.total).unwrap_or(i64::MAX))
}

/// As Go names architectures.
fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "arm" => "arm",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files() {
        assert_eq!(
            memory_total("MemTotal:       16000 kB\nMemFree: 1 kB\n"),
            16000 * 1024
        );
        assert_eq!(
            os_name("NAME=\"x\"\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n"),
            "Debian GNU/Linux 12 (bookworm)"
        );
    }
}
