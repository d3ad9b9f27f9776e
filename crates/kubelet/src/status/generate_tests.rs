use cri::v1;
use serde_json::{Value, json};

use super::*;
use crate::runtime::labels;
use crate::runtime::status::container_status;

struct Case {
    pod: Pod,
    runtime: PodStatus,
    probes: Snapshot,
    reasons: HashMap<String, (String, String)>,
    old: Option<ApiStatus>,
    terminal: bool,
}

fn case(spec: Value) -> Case {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "n", "uid": "u", "generation": 3},
        "spec": spec
    }))
    .unwrap();
    Case {
        pod,
        runtime: PodStatus::new("u", "p", "n"),
        probes: Snapshot::default(),
        reasons: HashMap::new(),
        old: None,
        terminal: false,
    }
}

impl Case {
    fn runtime(mut self, containers: &[(&str, &str, i32, i32)]) -> Self {
        let containers = containers
            .iter()
            .enumerate()
            .map(|(i, (name, state, exit_code, restarts))| {
                let container = self.pod.find_container(name).unwrap().1.into_owned();
                let state = match *state {
                    "running" => v1::ContainerState::ContainerRunning,
                    "exited" => v1::ContainerState::ContainerExited,
                    _ => v1::ContainerState::ContainerCreated,
                };
                let reason = match (*exit_code, state) {
                    (0, v1::ContainerState::ContainerExited) => "Completed",
                    (_, v1::ContainerState::ContainerExited) => "Error",
                    _ => "",
                };
                container_status(
                    v1::ContainerStatus {
                        id: format!("{name}{i}"),
                        state: state as i32,
                        created_at: i as i64 + 1,
                        exit_code: *exit_code,
                        reason: reason.into(),
                        labels: labels::container_labels(&self.pod, &container),
                        annotations: labels::container_annotations(&self.pod, &container, *restarts),
                        ..Default::default()
                    },
                    "s",
                )
            })
            .collect();
        let sandbox = v1::PodSandboxStatus {
            id: "s".into(),
            network: Some(v1::PodSandboxNetworkStatus {
                ip: "10.1.0.9".into(),
                additional_ips: vec![],
            }),
            metadata: Some(v1::PodSandboxMetadata::default()),
            ..Default::default()
        };
        self.runtime = self.runtime.assemble(vec![sandbox], containers);
        self
    }

    fn reason(mut self, name: &str, reason: &str, message: &str) -> Self {
        self.reasons.insert(name.into(), (reason.into(), message.into()));
        self
    }

    fn status(&self) -> ApiStatus {
        let old = self.old.clone().unwrap_or_default();
        generate(&Inputs {
            pod: &self.pod,
            runtime: &self.runtime,
            runtime_name: "kijabi",
            probes: &self.probes,
            old: &old,
            reasons: &self.reasons,
            host_ips: &["192.0.2.1".to_owned()],
            failed: None,
            disrupted: false,
            terminal: self.terminal,
            kubelet_started: Timestamp::UNIX_EPOCH,
            actuated: &HashMap::new(),
            resizes: Vec::new(),
        })
    }
}

/// `phase; name=state(reason) xRestarts ready…; Condition=Status(reason)…`
fn line(status: &ApiStatus) -> String {
    let mut parts = vec![status.phase.clone().unwrap()];
    let lists = [&status.init_container_statuses, &status.container_statuses];
    for s in lists.into_iter().flatten().flatten() {
        let show = |state: &Option<k8s_openapi::api::core::v1::ContainerState>| {
            let state = state.clone().unwrap_or_default();
            if state.running.is_some() {
                "running".to_owned()
            } else if let Some(t) = state.terminated {
                format!("terminated({} {})", t.reason.unwrap_or_default(), t.exit_code)
            } else if let Some(w) = state.waiting {
                format!("waiting({})", w.reason.unwrap_or_default())
            } else {
                String::new()
            }
        };
        let mut text = format!("{}={}", s.name, show(&s.state));
        let last = show(&s.last_state);
        if !last.is_empty() {
            text += &format!(" last {last}");
        }
        if s.restart_count > 0 {
            text += &format!(" x{}", s.restart_count);
        }
        if s.ready {
            text += " ready";
        }
        parts.push(text);
    }
    parts.push(
        status
            .conditions
            .iter()
            .flatten()
            .map(|c| {
                format!(
                    "{}={}{}",
                    c.type_,
                    c.status,
                    c.reason.as_ref().map(|r| format!("({r})")).unwrap_or_default()
                )
            })
            .collect::<Vec<_>>()
            .join(" "),
    );
    parts.join("; ")
}

#[test]
fn the_life_of_a_pod() {
    let one = || json!({"containers": [{"name": "a", "image": "i"}]});
    let with_init = || json!({"initContainers": [{"name": "i", "image": "i"}], "containers": [{"name": "a", "image": "i"}]});
    let probed =
        || json!({"containers": [{"name": "a", "image": "i", "readinessProbe": {"tcpSocket": {"port": 1}}}]});
    let ready =
        "PodReadyToStartContainers=True Initialized=True Ready=True ContainersReady=True PodScheduled=True";
    let unready = "PodReadyToStartContainers=True Initialized=True Ready=False(ContainersNotReady) \
                   ContainersReady=False(ContainersNotReady) PodScheduled=True";
    let cases = [
        (
            case(one()),
            "Pending; a=waiting(ContainerCreating); PodReadyToStartContainers=False Initialized=True \
             Ready=False(ContainersNotReady) ContainersReady=False(ContainersNotReady) PodScheduled=True"
                .to_owned(),
        ),
        (
            case(with_init()),
            "Pending; i=waiting(PodInitializing); a=waiting(PodInitializing); PodReadyToStartContainers=False \
             Initialized=False(ContainersNotInitialized) Ready=False(ContainersNotReady) \
             ContainersReady=False(ContainersNotReady) PodScheduled=True"
                .to_owned(),
        ),
        (case(one()).runtime(&[("a", "running", 0, 0)]), format!("Running; a=running ready; {ready}")),
        (case(probed()).runtime(&[("a", "running", 0, 0)]), format!("Running; a=running; {unready}")),
        (
            case(one())
                .runtime(&[("a", "exited", 1, 1)])
                .reason("a", "CrashLoopBackOff", "back-off 10s restarting failed container=a pod=p_n(u)"),
            format!("Running; a=waiting(CrashLoopBackOff) last terminated(Error 1) x1; {unready}"),
        ),
        (
            case(one()).runtime(&[("a", "exited", 1, 0), ("a", "running", 0, 1)]),
            format!("Running; a=running last terminated(Error 1) x1 ready; {ready}"),
        ),
        (
            case(one()).runtime(&[]).reason("a", "ImagePullBackOff", "Back-off pulling image \"i\""),
            format!("Pending; a=waiting(ImagePullBackOff); {unready}"),
        ),
        (
            case(with_init()).runtime(&[("i", "exited", 0, 0), ("a", "running", 0, 0)]),
            format!("Running; i=terminated(Completed 0) ready; a=running ready; {ready}"),
        ),
        (
            case(with_init()).runtime(&[("a", "running", 0, 0)]),
            format!("Running; i=terminated(Completed 0) ready; a=running ready; {ready}"),
        ),
    ];
    for (case, expected) in cases {
        assert_eq!(line(&case.status()), expected);
    }
}

#[test]
fn an_ended_pod_stays_ended_and_shows_addresses() {
    let mut case = case(json!({"restartPolicy": "Never", "containers": [{"name": "a", "image": "i"}]}))
        .runtime(&[("a", "exited", 0, 0)]);
    let status = case.status();
    assert_eq!(status.phase.as_deref(), Some("Succeeded"));
    assert_eq!(status.pod_ip.as_deref(), Some("10.1.0.9"));
    assert_eq!(status.host_ip.as_deref(), Some("192.0.2.1"));
    assert_eq!(status.observed_generation, Some(3));
    assert_eq!(status.qos_class.as_deref(), Some("BestEffort"));
    // The runtime forgets; the status does not.
    case.old = Some(status);
    case.runtime = PodStatus::new("u", "p", "n");
    let status = case.status();
    assert_eq!(status.phase.as_deref(), Some("Succeeded"));
    assert!(
        line(&status).contains("a=terminated(Completed 0)"),
        "{}",
        line(&status)
    );
}
