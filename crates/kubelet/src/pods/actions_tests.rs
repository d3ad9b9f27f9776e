use cri::v1;
use serde_json::json;

use super::*;
use crate::probes::results::ProbeKind;
use crate::runtime::status::container_status;

/// `name:state[=code]` of each container, newest last; ids are `<name><position>`.
fn status(pod: &Pod, sandbox: &str, containers: &str) -> PodStatus {
    let sandboxes = match sandbox {
        "none" => vec![],
        state => vec![v1::PodSandboxStatus {
            id: "s0".into(),
            state: if state == "ready" { 0 } else { 1 },
            network: Some(v1::PodSandboxNetworkStatus {
                ip: "10.0.0.2".into(),
                additional_ips: vec![],
            }),
            metadata: Some(v1::PodSandboxMetadata {
                attempt: 0,
                ..Default::default()
            }),
            ..Default::default()
        }],
    };
    let containers = containers
        .split_whitespace()
        .enumerate()
        .map(|(i, text)| {
            let (name, state) = text.split_once(':').unwrap();
            let (state, code) = state.split_once('=').unwrap_or((state, "0"));
            let (changed, state) = (state.ends_with('!'), state.trim_end_matches('!'));
            let state = match state {
                "created" => v1::ContainerState::ContainerCreated,
                "running" => v1::ContainerState::ContainerRunning,
                "exited" => v1::ContainerState::ContainerExited,
                "unknown" => v1::ContainerState::ContainerUnknown,
                other => panic!("{other}"),
            };
            let mut container = pod.find_container(name).unwrap().1.into_owned();
            if changed {
                container.image = Some("another".into());
            }
            container_status(
                v1::ContainerStatus {
                    id: format!("{name}{i}"),
                    state: state as i32,
                    created_at: i as i64 + 1,
                    exit_code: code.parse().unwrap(),
                    labels: labels::container_labels(pod, &container),
                    annotations: labels::container_annotations(pod, &container, 0),
                    ..Default::default()
                },
                "s0",
            )
        })
        .collect();
    PodStatus::new("u", "p", "n").assemble(sandboxes, containers)
}

/// `policy [init...] | regular...`; a name with `+` is a sidecar, with `?` has probes.
fn pod(text: &str) -> Pod {
    let mut words = text.split_whitespace();
    let policy = words.next().unwrap();
    let mut init = Vec::new();
    let mut regular = Vec::new();
    let mut past = false;
    for word in words {
        if word == "|" {
            past = true;
            continue;
        }
        let name = word.trim_end_matches(['+', '?']);
        let mut container = json!({"name": name, "image": "i"});
        if word.contains('+') {
            container["restartPolicy"] = json!("Always");
        }
        if word.contains('?') {
            container["startupProbe"] = json!({"tcpSocket": {"port": 1}});
            container["livenessProbe"] = json!({"tcpSocket": {"port": 1}});
        }
        if past {
            regular.push(container)
        } else {
            init.push(container)
        }
    }
    serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "n", "uid": "u"},
        "spec": {"restartPolicy": policy, "initContainers": init, "containers": regular}
    }))
    .unwrap()
}

/// The actions in one line.
fn line(actions: &Actions) -> String {
    let mut words = Vec::new();
    if actions.kill_pod {
        words.push("kill-pod".to_owned());
    }
    if actions.create_sandbox {
        words.push(format!("sandbox#{}", actions.attempt));
    }
    words.extend(
        actions
            .to_kill
            .iter()
            .map(|k| format!("kill {} ({})", k.id, k.message)),
    );
    words.extend(actions.to_reset.iter().map(|r| format!("reset {}", r.id)));
    words.extend(actions.init_to_start.iter().map(|i| format!("init {i}")));
    words.extend(actions.to_start.iter().map(|i| format!("start {i}")));
    words.join(", ")
}

#[test]
fn decisions() {
    // pod, sandbox, containers (oldest first), expected
    let cases = [
        (
            "Always | a b",
            "none",
            "",
            "kill-pod, sandbox#0, start 0, start 1",
        ),
        ("Always i | a", "none", "", "kill-pod, sandbox#0, init 0"),
        ("Always | a b", "ready", "", "start 0, start 1"),
        ("Always | a b", "ready", "a:running b:running", ""),
        ("Always | a b", "ready", "a:running b:exited=1", "start 1"),
        ("Always | a b", "ready", "a:running b:exited=0", "start 1"),
        ("OnFailure | a b", "ready", "a:running b:exited=0", ""),
        ("OnFailure | a b", "ready", "a:exited=1 b:exited=0", "start 0"),
        ("OnFailure | a b", "ready", "a:exited=0 b:exited=0", "kill-pod"),
        ("Never | a b", "ready", "a:exited=1 b:running", ""),
        ("Never | a b", "ready", "a:exited=1 b:exited=0", "kill-pod"),
        ("Always | a", "ready", "a:created", "start 0"),
        ("Always | a", "ready", "a:exited=1 a:running", ""),
        (
            "Always | a",
            "ready",
            "a:running!",
            "kill a0 (Container a definition changed, will be restarted), start 0",
        ),
        (
            "Always | a",
            "ready",
            "a:unknown",
            "kill a0 (Container is in \"unknown\" state, try killing it before restart), start 0",
        ),
        // The sandbox died.
        (
            "Always | a b",
            "gone",
            "a:exited=1 b:exited=1",
            "kill-pod, sandbox#1, start 0, start 1",
        ),
        (
            "OnFailure | a b",
            "gone",
            "a:exited=0 b:exited=1",
            "kill-pod, sandbox#1, start 1",
        ),
        ("OnFailure | a", "gone", "a:exited=0", "kill-pod"),
        ("Never | a", "gone", "a:exited=1", "kill-pod"),
        (
            "Always i | a",
            "gone",
            "i:exited=0 a:exited=1",
            "kill-pod, sandbox#1, init 0",
        ),
        // Init containers, one after another.
        ("Always i j | a", "ready", "", "init 0"),
        ("Always i j | a", "ready", "i:running", ""),
        ("Always i j | a", "ready", "i:exited=0", "init 1"),
        ("Always i j | a", "ready", "i:exited=0 j:exited=0", "start 0"),
        ("Always i j | a", "ready", "i:exited=1", "init 0"),
        ("OnFailure i j | a", "ready", "i:exited=1", "init 0"),
        ("Never i j | a", "ready", "i:exited=1", "kill-pod"),
        ("Always i j | a", "ready", "i:created", "init 0"),
        ("Always i j | a", "ready", "a:running", ""),
        // Sidecars stay, and the next begins once they have started.
        ("Always s+ j | a", "ready", "s:running", "init 1"),
        ("Always s+ j | a", "ready", "s:running j:exited=0", "start 0"),
        (
            "Always s+ j | a",
            "ready",
            "s:exited=1 j:exited=0",
            "init 0, start 0",
        ),
        ("Always s+ | a", "ready", "s:running a:running", ""),
        ("Always s+ | a", "ready", "s:exited=0 a:running", "init 0"),
        ("Never s+ | a", "ready", "s:exited=0 a:running", "init 0"),
        ("Never s+ | a", "ready", "s:running a:exited=0", "kill-pod"),
        ("Always s+? j | a", "ready", "s:running", ""),
    ];
    for (spec, sandbox, containers, expected) in cases {
        let pod = pod(spec);
        let status = status(&pod, sandbox, containers);
        let actions = compute(&pod, &status, &Snapshot::default(), false, &HashMap::new());
        assert_eq!(line(&actions), expected, "{spec} / {sandbox} / {containers}");
    }
}

#[test]
fn probes_decide() {
    use Outcome::{Failure, Success};
    use ProbeKind::{Liveness, Startup};
    let cases = [
        (
            "Always | a?",
            "a:running",
            Liveness,
            "a0",
            Failure,
            "kill a0 (Container a failed liveness probe, will be restarted), start 0",
        ),
        (
            "Never | a? b",
            "a:running b:running",
            Startup,
            "a0",
            Failure,
            "kill a0 (Container a failed startup probe)",
        ),
        ("Always s+? | a", "s:running", Startup, "s0", Success, "start 0"),
        (
            "Always s+? | a",
            "s:running",
            Startup,
            "s0",
            Failure,
            "kill s0 (Init container s failed startup probe), init 0",
        ),
    ];
    for (spec, containers, kind, id, outcome, expected) in cases {
        let pod = pod(spec);
        let status = status(&pod, "ready", containers);
        let probes = Snapshot::default().with(kind, id, outcome);
        assert_eq!(
            line(&compute(&pod, &status, &probes, false, &HashMap::new())),
            expected,
            "{spec} / {containers}"
        );
    }
}

#[test]
fn a_deleting_pod_starts_nothing() {
    let mut pod = pod("Always | a");
    pod.metadata.deletion_timestamp = Some(jiff::Timestamp::UNIX_EPOCH.into());
    let status = status(&pod, "ready", "a:exited=1");
    assert_eq!(
        line(&compute(
            &pod,
            &status,
            &Snapshot::default(),
            false,
            &HashMap::new()
        )),
        "kill-pod"
    );
}
