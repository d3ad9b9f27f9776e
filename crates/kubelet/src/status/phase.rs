//! The phase of a pod from its containers' statuses. Follows upstream's `getPhase`.

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod};

use super::containers::{is_running, last_terminated, terminated};
use crate::pod::{PodExt, container_status, is_sidecar, should_restart};

const RESTARTING_ALL: &str = "RestartingAllContainers";

/// `terminal`: nothing of the pod runs any more and nothing will. `initialized`: a regular container of the
/// present sandbox has been made.
pub fn phase(pod: &Pod, statuses: &[ContainerStatus], terminal: bool, initialized: bool) -> &'static str {
    let restartable = |container: &Container, code: i32, reason: Option<&str>| {
        should_restart(container, pod.restart_policy(), code) || reason == Some(RESTARTING_ALL)
    };
    let mut pending_init = 0;
    let mut pending_sidecars = 0;
    let mut failed_for_good = 0;
    let (mut unknown, mut running, mut waiting) = (0, 0, 0);

    for container in pod.init_containers() {
        let status = container_status(statuses, &container.name);
        if is_sidecar(container) {
            match status {
                None => unknown += 1,
                Some(status) if is_running(status) => {
                    running += 1;
                    pending_sidecars += i32::from(status.started != Some(true));
                }
                Some(status) if terminated(status).is_some() => {}
                Some(status) if is_waiting(status) => {
                    if last_terminated(status).is_none() {
                        pending_sidecars += 1;
                        waiting += 1;
                    }
                }
                Some(_) => {
                    pending_sidecars += 1;
                    unknown += 1;
                }
            }
            continue;
        }
        let end = status.and_then(|s| terminated(s).or_else(|| last_terminated(s).filter(|_| is_waiting(s))));
        match end {
            None => pending_init += 1,
            Some(end)
                if end.exit_code != 0 && !restartable(container, end.exit_code, end.reason.as_deref()) =>
            {
                failed_for_good += 1;
            }
            Some(_) => {}
        }
    }

    let (mut stopped, mut stopped_for_good, mut succeeded) = (0, 0, 0);
    for container in pod.containers() {
        let Some(status) = container_status(statuses, &container.name) else {
            unknown += 1;
            continue;
        };
        if is_running(status) {
            running += 1;
        } else if let Some(end) = terminated(status) {
            stopped += 1;
            stopped_for_good += i32::from(!restartable(container, end.exit_code, end.reason.as_deref()));
            succeeded += i32::from(end.exit_code == 0);
        } else if is_waiting(status) {
            match last_terminated(status) {
                Some(end) => {
                    stopped += 1;
                    stopped_for_good +=
                        i32::from(!restartable(container, end.exit_code, end.reason.as_deref()));
                }
                None => waiting += 1,
            }
        } else {
            unknown += 1;
        }
    }

    if failed_for_good > 0 {
        return "Failed";
    }
    if pending_init > 0 || (pending_sidecars > 0 && !initialized) || waiting > 0 {
        return "Pending";
    }
    if running > 0 && unknown == 0 {
        return "Running";
    }
    if running == 0 && stopped > 0 && unknown == 0 {
        let over = if stopped == succeeded {
            "Succeeded"
        } else {
            "Failed"
        };
        if terminal && !pod.is_static() {
            return over;
        }
        return if stopped != stopped_for_good {
            "Running"
        } else {
            over
        };
    }
    "Pending"
}

fn is_waiting(status: &ContainerStatus) -> bool {
    status.state.as_ref().is_some_and(|s| s.waiting.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn statuses(text: &str) -> Vec<ContainerStatus> {
        text.split_whitespace()
            .map(|word| {
                let (name, state) = word.split_once(':').unwrap();
                let (state, last): (Value, Value) = match state {
                    "running" => (json!({"running": {}}), json!({})),
                    "waiting" => (json!({"waiting": {}}), json!({})),
                    "crash" => (json!({"waiting": {}}), json!({"terminated": {"exitCode": 1}})),
                    code => (
                        json!({"terminated": {"exitCode": code.parse::<i32>().unwrap()}}),
                        json!({}),
                    ),
                };
                serde_json::from_value(json!({
                    "name": name, "image": "", "imageID": "", "ready": false, "restartCount": 0,
                    "state": state, "lastState": last, "started": true
                }))
                .unwrap()
            })
            .collect()
    }

    #[test]
    fn phases() {
        // policy, init containers, containers, statuses, terminal, expected
        let cases = [
            ("Always", "", "a b", "", false, "Pending"),
            ("Always", "", "a b", "a:waiting b:running", false, "Pending"),
            ("Always", "", "a b", "a:running b:running", false, "Running"),
            ("Always", "", "a b", "a:running b:1", false, "Running"),
            ("Always", "", "a b", "a:0 b:0", false, "Running"),
            ("Always", "", "a b", "a:0 b:0", true, "Succeeded"),
            ("Always", "", "a b", "a:0 b:1", true, "Failed"),
            ("Always", "", "a", "a:crash", false, "Running"),
            ("OnFailure", "", "a b", "a:0 b:0", false, "Succeeded"),
            ("OnFailure", "", "a b", "a:0 b:1", false, "Running"),
            ("Never", "", "a b", "a:0 b:1", false, "Failed"),
            ("Never", "", "a b", "a:0 b:running", false, "Running"),
            ("Never", "", "a b", "a:0", false, "Pending"),
            ("Always", "i", "a", "i:running a:waiting", false, "Pending"),
            ("Always", "i", "a", "i:1 a:waiting", false, "Pending"),
            ("Never", "i", "a", "i:1 a:waiting", false, "Failed"),
            ("Always", "i", "a", "i:0 a:running", false, "Running"),
            ("Never", "s+", "a", "s:running a:0", false, "Running"),
            ("Never", "s+", "a", "s:137 a:0", true, "Succeeded"),
        ];
        for (policy, init, regular, text, terminal, expected) in cases {
            let list = |names: &str| -> Vec<Value> {
                names
                    .split_whitespace()
                    .map(|n| match n.strip_suffix('+') {
                        Some(n) => json!({"name": n, "restartPolicy": "Always"}),
                        None => json!({"name": n}),
                    })
                    .collect()
            };
            let pod: Pod = serde_json::from_value(json!({"spec": {
                "restartPolicy": policy, "initContainers": list(init), "containers": list(regular)
            }}))
            .unwrap();
            assert_eq!(
                phase(&pod, &statuses(text), terminal, true),
                expected,
                "{policy} {init}|{regular} {text}"
            );
        }
    }
}
