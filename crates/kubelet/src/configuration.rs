//! A `KubeletConfiguration` (kubelet.config.k8s.io/v1beta1), taken over into [`Settings`].
//!
//! One row a field: its name and what it sets. **Invariant:** a field that this kubelet knows and does not follow is
//! told of when it is given another value than the default's; one that nobody knows is an error, as upstream.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use cri::v1::security_profile::ProfileType;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::config::Settings;
use crate::eviction::signals::Signal;
use crate::eviction::thresholds::{Amount, Threshold};
use crate::quantity::{milli, value};

const API_VERSION: &str = "kubelet.config.k8s.io/v1beta1";
const KIND: &str = "KubeletConfiguration";

type Set = fn(&mut Settings, Value) -> Result<(), String>;

/// Fields that are followed, sorted. Those that eviction is made of come together, in [`eviction`].
const FIELDS: &[(&str, Set)] = &[
    ("allowedUnsafeSysctls", |s, v| put(&mut s.allowed_sysctls, v)),
    ("clusterDNS", |s, v| put(&mut s.cluster_dns, v)),
    ("clusterDomain", |s, v| put(&mut s.cluster_domain, v)),
    ("containerLogMaxFiles", |s, v| put(&mut s.logs.max_files, v)),
    ("containerLogMaxSize", |s, v| {
        s.logs.max_bytes = unsigned(bytes(v)?)?;
        Ok(())
    }),
    ("crashLoopBackOff", |s, v| {
        let inner: BTreeMap<String, Value> = read(v)?;
        for (name, v) in inner {
            match name.as_str() {
                "maxContainerRestartPeriod" => s.max_restart_period = duration(v)?,
                other => return Err(format!("unknown field {other:?}")),
            }
        }
        Ok(())
    }),
    ("imageGCHighThresholdPercent", |s, v| {
        put(&mut s.image_gc.high_percent, v)
    }),
    ("imageGCLowThresholdPercent", |s, v| {
        put(&mut s.image_gc.low_percent, v)
    }),
    ("imageMinimumGCAge", |s, v| {
        put_duration(&mut s.image_gc.min_age, v)
    }),
    ("kubeReserved", |s, v| reserve(s, v)),
    ("maxPods", |s, v| put(&mut s.max_pods, v)),
    ("nodeLeaseDurationSeconds", |s, v| {
        s.lease_duration = Duration::from_secs(read(v)?);
        Ok(())
    }),
    ("nodeStatusMaxImages", |s, v| {
        let most: i64 = read(v)?;
        s.max_images = usize::try_from(most).unwrap_or(usize::MAX);
        Ok(())
    }),
    ("nodeStatusReportFrequency", |s, v| {
        put_duration(&mut s.status_report_frequency, v)
    }),
    ("nodeStatusUpdateFrequency", |s, v| {
        put_duration(&mut s.status_update_frequency, v)
    }),
    ("podPidsLimit", |s, v| {
        let limit: i64 = read(v)?;
        s.pod_pids_limit = (limit > 0).then_some(limit);
        Ok(())
    }),
    ("registerWithTaints", |s, v| put(&mut s.taints, v)),
    ("resolvConf", |s, v| put(&mut s.resolv_conf, v)),
    ("seccompDefault", |s, v| {
        s.seccomp_default = match read(v)? {
            true => ProfileType::RuntimeDefault,
            false => ProfileType::Unconfined,
        };
        Ok(())
    }),
    ("staticPodPath", |s, v| {
        let path: String = read(v)?;
        s.static_pods = (!path.is_empty()).then(|| PathBuf::from(path));
        Ok(())
    }),
    ("systemReserved", |s, v| reserve(s, v)),
];

/// Fields of upstream's that are not followed here, sorted: most concern what `kijabi` decides itself.
const UNFOLLOWED: &[&str] = &[
    "address",
    "authentication",
    "authorization",
    "cgroupDriver",
    "cgroupRoot",
    "cgroupsPerQOS",
    "configMapAndSecretChangeDetectionStrategy",
    "containerLogMaxWorkers",
    "containerLogMonitorInterval",
    "containerRuntimeEndpoint",
    "contentType",
    "cpuCFSQuota",
    "cpuCFSQuotaPeriod",
    "cpuManagerPolicy",
    "cpuManagerPolicyOptions",
    "cpuManagerReconcilePeriod",
    "enableContentionProfiling",
    "enableControllerAttachDetach",
    "enableDebugFlagsHandler",
    "enableDebuggingHandlers",
    "enableProfilingHandler",
    "enableServer",
    "enableSystemLogHandler",
    "enableSystemLogQuery",
    "enforceNodeAllocatable",
    "eventBurst",
    "eventRecordQPS",
    "failCgroupV1",
    "failSwapOn",
    "featureGates",
    "fileCheckFrequency",
    "hairpinMode",
    "healthzBindAddress",
    "healthzPort",
    "httpCheckFrequency",
    "imageMaximumGCAge",
    "imagePullCredentialsVerificationPolicy",
    "imageServiceEndpoint",
    "iptablesDropBit",
    "iptablesMasqueradeBit",
    "kernelMemcgNotification",
    "kubeAPIBurst",
    "kubeAPIQPS",
    "kubeReservedCgroup",
    "kubeletCgroups",
    "localStorageCapacityIsolation",
    "logging",
    "makeIPTablesUtilChains",
    "maxOpenFiles",
    "maxParallelImagePulls",
    "memoryManagerPolicy",
    "memorySwap",
    "memoryThrottlingFactor",
    "oomScoreAdj",
    "podCIDR",
    "podLogsDir",
    "podsPerCore",
    "port",
    "preloadedImagesVerificationAllowlist",
    "protectKernelDefaults",
    "providerID",
    "qosReserved",
    "readOnlyPort",
    "registerNode",
    "registryBurst",
    "registryPullQPS",
    "reservedMemory",
    "reservedSystemCPUs",
    "rotateCertificates",
    "runOnce",
    "runtimeRequestTimeout",
    "serializeImagePulls",
    "serverTLSBootstrap",
    "showHiddenMetricsForVersion",
    "shutdownGracePeriod",
    "shutdownGracePeriodByPodPriority",
    "shutdownGracePeriodCriticalPods",
    "singleProcessOOMKill",
    "staticPodURL",
    "staticPodURLHeader",
    "streamingConnectionIdleTimeout",
    "syncFrequency",
    "systemCgroups",
    "systemReservedCgroup",
    "tlsCertFile",
    "tlsCipherSuites",
    "tlsCurvePreferences",
    "tlsMinVersion",
    "tlsPrivateKeyFile",
    "topologyManagerPolicy",
    "topologyManagerPolicyOptions",
    "topologyManagerScope",
    "tracing",
    "userNamespaces",
    "volumePluginDir",
    "volumeStatsAggPeriod",
];

/// What eviction is made of.
#[derive(Default)]
struct Eviction {
    hard: Option<BTreeMap<String, String>>,
    soft: BTreeMap<String, String>,
    grace: BTreeMap<String, String>,
    reclaim: BTreeMap<String, String>,
    merge_defaults: bool,
}

/// Takes a configuration over; returns the names of the fields it gives that are not followed.
pub fn apply(settings: &mut Settings, configuration: Value) -> Result<Vec<&'static str>, String> {
    let fields: BTreeMap<String, Value> = read(configuration)?;
    let is = |name: &str, wanted: &str| fields.get(name).and_then(Value::as_str) == Some(wanted);
    if !is("apiVersion", API_VERSION) || !is("kind", KIND) {
        return Err(format!("it is no {KIND} of {API_VERSION}"));
    }
    let mut eviction = Eviction::default();
    let mut unfollowed = Vec::new();
    // What it says of reservations takes the place of what was there.
    if fields.contains_key("kubeReserved") || fields.contains_key("systemReserved") {
        settings.reserved.clear();
    }
    for (name, value) in fields {
        let at = |problem: String| format!("{name}: {problem}");
        match name.as_str() {
            "apiVersion" | "kind" => {}
            _ if value.is_null() => {}
            "evictionHard" => eviction.hard = Some(read(value).map_err(at)?),
            "evictionSoft" => eviction.soft = read(value).map_err(at)?,
            "evictionSoftGracePeriod" => eviction.grace = read(value).map_err(at)?,
            "evictionMinimumReclaim" => eviction.reclaim = read(value).map_err(at)?,
            "mergeDefaultEvictionSettings" => eviction.merge_defaults = read(value).map_err(at)?,
            "evictionPressureTransitionPeriod" => {
                settings.eviction.transition = duration(value).map_err(at)?
            }
            "evictionMaxPodGracePeriod" => settings.eviction.max_pod_grace = read(value).map_err(at)?,
            known => {
                if let Ok(index) = FIELDS.binary_search_by_key(&known, |(field, _)| field) {
                    FIELDS[index].1(settings, value).map_err(at)?;
                } else if let Ok(index) = UNFOLLOWED.binary_search(&known) {
                    unfollowed.push(UNFOLLOWED[index]);
                } else {
                    return Err(format!("strict decoding error: unknown field {known:?}"));
                }
            }
        }
    }
    eviction.apply(settings)?;
    Ok(unfollowed)
}

impl Eviction {
    fn apply(self, settings: &mut Settings) -> Result<(), String> {
        let defaults = std::mem::take(&mut settings.eviction.thresholds);
        let mut thresholds = Vec::new();
        match self.hard {
            None => thresholds.extend(defaults),
            Some(hard) => {
                let given = hard
                    .iter()
                    .map(|(name, text)| Ok((signal(name)?, amount(text)?)))
                    .collect::<Result<BTreeMap<Signal, Amount>, String>>()?;
                let kept = defaults
                    .into_iter()
                    .filter(|t| self.merge_defaults && !given.contains_key(&t.signal));
                thresholds.extend(kept);
                thresholds.extend(
                    given
                        .into_iter()
                        .map(|(signal, least)| Threshold::hard(signal, least)),
                );
            }
        }
        for (name, text) in &self.soft {
            let grace = self.grace.get(name).ok_or_else(|| {
                format!("grace period must be specified for the soft eviction threshold {name}")
            })?;
            thresholds.push(Threshold {
                signal: signal(name)?,
                least: amount(text)?,
                grace: Some(go_duration(grace)?),
            });
        }
        // A threshold of nothing is none.
        thresholds.retain(|t| {
            !matches!(t.least, Amount::Bytes(0)) && !matches!(t.least, Amount::Percent(p) if p <= 0.0)
        });
        settings.eviction.thresholds = thresholds;
        let reclaim = self
            .reclaim
            .iter()
            .map(|(name, text)| Ok((signal(name)?, amount(text)?)));
        settings.eviction.minimum_reclaim = reclaim.collect::<Result<_, String>>()?;
        Ok(())
    }
}

fn read<T: DeserializeOwned>(value: Value) -> Result<T, String> {
    serde_json::from_value(value).map_err(|e| e.to_string())
}

fn put<T: DeserializeOwned>(place: &mut T, v: Value) -> Result<(), String> {
    *place = read(v)?;
    Ok(())
}

fn put_duration(place: &mut Duration, v: Value) -> Result<(), String> {
    *place = duration(v)?;
    Ok(())
}

fn unsigned(value: i64) -> Result<u64, String> {
    u64::try_from(value).map_err(|_| format!("{value} is less than nothing"))
}

fn bytes(v: Value) -> Result<i64, String> {
    Ok(value(&Quantity(read(v)?)))
}

fn duration(v: Value) -> Result<Duration, String> {
    go_duration(&read::<String>(v)?)
}

/// `1h30m`, `10s`, `100ms`.
pub(crate) fn go_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("invalid duration {text:?}");
    let mut rest = text.trim();
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(wrong)?;
        let number: f64 = rest[..digits].parse().map_err(|_| wrong())?;
        rest = &rest[digits..];
        let end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let unit = match &rest[..end] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return Err(wrong()),
        };
        rest = &rest[end..];
        total += number * unit;
    }
    match text.trim().is_empty() {
        false => Ok(Duration::from_secs_f64(total)),
        true => Err(wrong()),
    }
}

fn signal(name: &str) -> Result<Signal, String> {
    const ALL: [Signal; 6] = [
        Signal::MemoryAvailable,
        Signal::NodeFsAvailable,
        Signal::NodeFsInodesFree,
        Signal::ImageFsAvailable,
        Signal::ImageFsInodesFree,
        Signal::PidAvailable,
    ];
    ALL.into_iter()
        .find(|s| s.name() == name)
        .ok_or_else(|| format!("unsupported eviction signal {name}"))
}

/// `100Mi`, `5%`.
fn amount(text: &str) -> Result<Amount, String> {
    match text.strip_suffix('%') {
        Some(number) => match number.parse::<f64>() {
            Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(Amount::Percent(percent)),
            _ => Err(format!("eviction percentage must be between 0 and 100: {text}")),
        },
        None => Ok(Amount::Bytes(unsigned(bytes(Value::String(text.to_owned()))?)?)),
    }
}

/// Kept from pods; both lists add up.
fn reserve(settings: &mut Settings, v: Value) -> Result<(), String> {
    let list: BTreeMap<String, String> = read(v)?;
    for (name, text) in list {
        let quantity = Quantity(text);
        let amount = match name.as_str() {
            "cpu" => milli(&quantity),
            "memory" | "ephemeral-storage" | "pid" => value(&quantity),
            other => return Err(format!("cannot reserve {other:?} resource")),
        };
        *settings.reserved.entry(name).or_default() += amount;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn applied(mut fields: Value) -> Result<(Settings, Vec<&'static str>), String> {
        let mut settings = Settings::new("n", "/d", "/s");
        fields["apiVersion"] = json!(API_VERSION);
        fields["kind"] = json!(KIND);
        let unfollowed = apply(&mut settings, fields)?;
        Ok((settings, unfollowed))
    }

    #[test]
    fn fields_are_sorted() {
        assert!(FIELDS.is_sorted_by_key(|(name, _)| name) && UNFOLLOWED.is_sorted());
    }

    #[test]
    fn what_is_said_is_set() {
        let (settings, unfollowed) = applied(json!({
            "maxPods": 250, "podPidsLimit": 100, "containerLogMaxSize": "1Mi",
            "nodeStatusUpdateFrequency": "1m30s", "crashLoopBackOff": {"maxContainerRestartPeriod": "30s"},
            "kubeReserved": {"cpu": "100m", "memory": "1Gi"}, "systemReserved": {"memory": "1Gi"},
            "registerWithTaints": [{"key": "k", "effect": "NoSchedule"}],
            "evictionHard": {"memory.available": "10%", "pid.available": "0%"},
            "evictionSoft": {"nodefs.available": "20Gi"}, "evictionSoftGracePeriod": {"nodefs.available": "2m"},
            "evictionMinimumReclaim": {"nodefs.available": "1Gi"}, "tlsMinVersion": "VersionTLS12",
            "seccompDefault": true,
        }))
        .unwrap();
        assert_eq!(unfollowed, ["tlsMinVersion"]);
        assert_eq!(settings.seccomp_default, ProfileType::RuntimeDefault);
        assert_eq!(
            (
                settings.max_pods,
                settings.pod_pids_limit,
                settings.logs.max_bytes
            ),
            (250, Some(100), 1 << 20)
        );
        assert_eq!(
            (
                settings.status_update_frequency.as_secs(),
                settings.max_restart_period.as_secs()
            ),
            (90, 30)
        );
        assert_eq!(
            settings.reserved,
            BTreeMap::from([("cpu".to_owned(), 100), ("memory".to_owned(), 2 << 30)])
        );
        assert_eq!(settings.taints[0].key, "k");
        let soft = Threshold {
            signal: Signal::NodeFsAvailable,
            least: Amount::Bytes(20 << 30),
            grace: Some(Duration::from_secs(120)),
        };
        let hard = Threshold::hard(Signal::MemoryAvailable, Amount::Percent(10.0));
        assert_eq!(settings.eviction.thresholds, [hard, soft]);
        assert_eq!(
            settings.eviction.minimum_reclaim,
            [(Signal::NodeFsAvailable, Amount::Bytes(1 << 30))]
        );
    }

    #[test]
    fn defaults_can_stay() {
        let plain = Settings::new("n", "/d", "/s").eviction.thresholds;
        let (settings, _) = applied(
            json!({"mergeDefaultEvictionSettings": true, "evictionHard": {"memory.available": "1Gi"}}),
        )
        .unwrap();
        assert_eq!(settings.eviction.thresholds.len(), plain.len());
        assert_eq!(applied(json!({})).unwrap().0.eviction.thresholds, plain);
    }

    #[test]
    fn what_cannot_be_is_told() {
        for (fields, part) in [
            (json!({"maxPodz": 1}), "unknown field \"maxPodz\""),
            (json!({"maxPods": "x"}), "maxPods: "),
            (
                json!({"evictionHard": {"disk": "1"}}),
                "unsupported eviction signal disk",
            ),
            (
                json!({"evictionSoft": {"memory.available": "1Gi"}}),
                "grace period must be specified",
            ),
            (
                json!({"evictionHard": {"memory.available": "101%"}}),
                "between 0 and 100",
            ),
            (json!({"nodeStatusUpdateFrequency": "soon"}), "invalid duration"),
            (json!({"kubeReserved": {"gpu": "1"}}), "cannot reserve"),
        ] {
            let problem = applied(fields.clone()).err().unwrap();
            assert!(problem.contains(part), "{fields}: {problem}");
        }
        let mut settings = Settings::new("n", "/d", "/s");
        assert!(apply(&mut settings, json!({"kind": "Pod"})).is_err());
    }
}
